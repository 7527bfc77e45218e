/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The oracle is jansson, a JSON reader that is not ours, and strtod for exactness. */

#include <jansson.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <polder/error.h>
#include <polder/random.h>

#include "base/base_mem.h"
#include "meter/meter.h"
#include "tap.h"

static void check_number(double number, const char *expected)
{
    char text[PLDI_NUMBER_BYTES];

    pldi_meter_number(number, text);
    ok(strcmp(text, expected) == 0, "%.17g is written %s (expected %s)", number, text, expected);
}

/* Bit patterns of all exponents, read back by jansson. */
static void check_exact(void)
{
    int bad = 0, tried = 0;

    for (uint64_t i = 0; i < 20000; i++) {
        const uint64_t bits = pld_random_u64(7, 0, i);
        char text[PLDI_NUMBER_BYTES];
        double number;
        json_t *json;

        memcpy(&number, &bits, sizeof(number));
        if (!isfinite(number))
            continue;
        pldi_meter_number(number, text);
        json = json_loads(text, JSON_DECODE_ANY, NULL);
        bad += !json_is_real(json) || json_real_value(json) != number;
        tried++;
        json_decref(json);
    }
    ok(bad == 0 && tried > 19000, "%d of %d random doubles do not read back exactly", bad, tried);
}

static void check_record(void)
{
    const pld_metric metrics[] = {
        {.name = "step", .integer = INT64_MIN, .is_integer = 1},
        {.name = "most", .integer = INT64_MAX, .is_integer = 1},
        {.name = "loss", .number = 2.30258509299404568402},
        {.name = "whole", .number = 3},
        {.name = "bad", .number = NAN},
        {.name = "worse", .number = -INFINITY},
        {.name = "q\"b\\s/t\tn\n\x01", .number = 1},
        {.name = "\xc2\xb5s \xe2\x82\xac \xf0\x9f\x8c\x8a", .number = 2},
    };
    const size_t count = sizeof(metrics) / sizeof(metrics[0]);
    char *line = NULL;
    json_t *json;
    size_t seen = 0;
    const char *key;
    json_t *value;

    ok(pldi_meter_json(metrics, count, &line) == 0, "a record of all kinds");
    ok(strchr(line, '\n') == line + strlen(line) - 1, "one line: %.*s", (int)strcspn(line, "\n"),
       line);
    json = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    ok(json_object_size(json) == count, "it is JSON with %zu members", json_object_size(json));
    ok(json_integer_value(json_object_get(json, "step")) == INT64_MIN &&
           json_integer_value(json_object_get(json, "most")) == INT64_MAX,
       "64-bit integers are exact");
    ok(json_real_value(json_object_get(json, "loss")) == 2.30258509299404568402, "loss is exact");
    ok(json_is_real(json_object_get(json, "whole")), "a whole number stays a number");
    ok(json_is_null(json_object_get(json, "bad")) && json_is_null(json_object_get(json, "worse")),
       "NaN and infinities are null");
    json_object_foreach(json, key, value)
    {
        seen += strcmp(key, metrics[seen].name) == 0;
    }
    ok(seen == count, "names, strange ones too, come back in order: %zu", seen);
    json_decref(json);
    pldi_free(line);
    ok(pldi_meter_json(NULL, 0, &line) == 0 && strcmp(line, "{}\n") == 0, "an empty record");
    pldi_free(line);
}

static void check_refusals(void)
{
    static const char *const broken[] = {"\xff",         "a\x80",        "\xc3",
                                         "\xe2\x82",     "\xc0\xaf",     "\xe0\x80\xaf",
                                         "\xed\xa0\x80", "\xf0\x80\x80", "\xf4\x90\x80\x80"};
    pld_metric metrics[] = {{.name = "a"}, {.name = "b"}, {.name = "a"}};
    char *line = NULL;

    ok(pldi_meter_json(metrics, 3, &line) == PLD_ERR_ARG && strstr(pld_last_error(), "'a'") != NULL,
       "a repeated name: %s", pld_last_error());
    metrics[1].name = "";
    ok(pldi_meter_json(metrics, 2, &line) == PLD_ERR_ARG, "an empty name: %s", pld_last_error());
    metrics[1].name = NULL;
    ok(pldi_meter_json(metrics, 2, &line) == PLD_ERR_ARG, "no name: %s", pld_last_error());
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        metrics[1].name = broken[i];
        ok(pldi_meter_json(metrics, 2, &line) == PLD_ERR_ARG, "malformed UTF-8 %zu: %s", i,
           pld_last_error());
    }
    ok(line == NULL, "a refused record leaves the output alone");
}

/* A program that speaks German writes the same JSON. */
static void check_locale(void)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "nl_NL.UTF-8"};
    char text[PLDI_NUMBER_BYTES];
    const char *set = NULL;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && set == NULL; i++)
        set = setlocale(LC_ALL, names[i]);
    if (set == NULL) {
        ok(1, "# SKIP no locale with a decimal comma is installed");
        return;
    }
    pldi_meter_number(-12.5e-20, text);
    ok(strcmp(text, "-1.25e-19") == 0, "in %s: %s", set, text);
    (void)setlocale(LC_ALL, "C");
}

int main(void)
{
    check_number(0.1, "0.1");
    check_number(1.0 / 3, "0.3333333333333333");
    check_number(0.1 + 0.2, "0.30000000000000004");
    check_number(3, "3.0");
    check_number(-0.0, "-0.0");
    check_number(1e300, "1e+300");
    check_number(123456789012345680.0, "1.2345678901234568e+17");
    check_number(4.9406564584124654e-324, "4.94065645841247e-324");
    check_number(1.7976931348623157e308, "1.7976931348623157e+308");
    check_number(NAN, "null");
    check_exact();
    check_record();
    check_refusals();
    check_locale();
    return tap_done();
}
