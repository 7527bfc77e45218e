/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A record becomes one line of JSON.  Numbers take the fewest digits that read
 * back as the same double, and always a point or an exponent, so that a reader
 * that tells integers from numbers sees the type that was meant.  printf's
 * decimal point follows the caller's locale; JSON's does not.
 */

#include "meter/meter.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"

/* Bytes of the character at `text` if its lead byte says so, and the lead's share of the code. */
static size_t utf8_lead(unsigned char lead, uint32_t *bits)
{
    if (lead < 0x80) {
        *bits = lead;
        return 1;
    }
    if (lead >= 0xC2 && lead < 0xE0) {
        *bits = lead & 0x1Fu;
        return 2;
    }
    if (lead >= 0xE0 && lead < 0xF0) {
        *bits = lead & 0x0Fu;
        return 3;
    }
    if (lead >= 0xF0 && lead < 0xF5) {
        *bits = lead & 0x07u;
        return 4;
    }
    return 0;
}

size_t pldi_utf8_next(const char *text, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t bits = 0;
    const size_t length = utf8_lead((unsigned char)text[0], &bits);

    for (size_t i = 1; i < length; i++) {
        const unsigned char next = (unsigned char)text[i];

        if ((next & 0xC0) != 0x80)
            return 0;
        bits = bits << 6 | (next & 0x3Fu);
    }
    if (bits < least[length] || bits > 0x10FFFF || (bits >= 0xD800 && bits < 0xE000))
        return 0;
    *code = bits;
    return length;
}

void pldi_meter_number(double number, char out[PLDI_NUMBER_BYTES])
{
    char text[PLDI_NUMBER_BYTES] = "null";
    char *point;

    for (int digits = 15; digits <= 17 && isfinite(number); digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, number);
        if (strtod(text, NULL) == number)
            break;
    }
    point = text + strspn(text, "-0123456789");
    if (*point == '\0') {
        memcpy(point, ".0", sizeof(".0"));
    } else if (isfinite(number) && *point != 'e') {
        const size_t foreign = strcspn(point, "0123456789");

        *point = '.';
        memmove(point + 1, point + foreign, strlen(point + foreign) + 1);
    }
    memcpy(out, text, sizeof(text));
}

/* Write `name` in quotes and move *end behind it; 0 if it is no UTF-8. */
static int put_string(char **end, const char *name)
{
    static const char hex[] = "0123456789abcdef";
    char *out = *end;

    *out++ = '"';
    while (*name != '\0') {
        uint32_t code;
        const size_t length = pldi_utf8_next(name, &code);

        if (length == 0)
            return 0;
        if (code < 0x20) {
            out = stpcpy(out, "\\u00");
            *out++ = hex[code >> 4];
            *out++ = hex[code & 15];
        } else {
            if (code == '"' || code == '\\')
                *out++ = '\\';
            memcpy(out, name, length);
            out += length;
        }
        name += length;
    }
    *out++ = '"';
    *end = out;
    return 1;
}

static int check_names(const pld_metric *metrics, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (metrics[i].name == NULL || metrics[i].name[0] == '\0')
            return pldi_fail(PLD_ERR_ARG, "metric %zu has no name", i);
        for (size_t j = 0; j < i; j++) {
            if (strcmp(metrics[i].name, metrics[j].name) == 0)
                return pldi_fail(PLD_ERR_ARG, "metrics %zu and %zu are both called '%s'", j, i,
                                 metrics[i].name);
        }
    }
    return PLD_OK;
}

int pldi_meter_json(const pld_metric *metrics, size_t count, char **out)
{
    enum { ESCAPED = 6, AROUND = 8 };
    size_t bytes = AROUND;
    char number[PLDI_NUMBER_BYTES];
    char *line, *end;

    PLDI_TRY(check_names(metrics, count));
    for (size_t i = 0; i < count; i++)
        bytes += strlen(metrics[i].name) * ESCAPED + PLDI_NUMBER_BYTES + AROUND;
    line = pldi_alloc(bytes, 1, "a metrics record");
    if (line == NULL)
        return PLD_ERR_NOMEM;
    end = line;
    *end++ = '{';
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            end = stpcpy(end, ", ");
        if (!put_string(&end, metrics[i].name)) {
            pldi_free(line);
            return pldi_fail(PLD_ERR_ARG, "the name of metric %zu is not UTF-8", i);
        }
        end = stpcpy(end, ": ");
        if (metrics[i].is_integer)
            (void)snprintf(number, sizeof(number), "%" PRId64, metrics[i].integer);
        else
            pldi_meter_number(metrics[i].number, number);
        end = stpcpy(end, number);
    }
    memcpy(end, "}\n", sizeof("}\n"));
    *out = line;
    return PLD_OK;
}
