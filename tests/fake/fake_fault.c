/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "fake_fault.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fake_die(const char *format, ...)
{
    va_list ap;

    fputs("fake: ", stderr);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}

/* A number of microseconds, or of anything, at *at; leaves *at behind it. */
static long number(const char **at)
{
    static const struct {
        const char *unit;
        long factor;
    } units[] = {{"us", 1}, {"ms", 1000}, {"s", 1000000}};
    char *end;
    long value = strtol(*at, &end, 10);

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        const size_t length = strlen(units[i].unit);

        if (strncmp(end, units[i].unit, length) == 0) {
            value *= units[i].factor;
            end += length;
            break;
        }
    }
    *at = end;
    return value;
}

static void word(const char **at, char out[FAKE_MAX_WORD])
{
    size_t n = 0;

    for (; isalnum((unsigned char)**at) || **at == '_'; (*at)++) {
        if (n == FAKE_MAX_WORD - 1)
            fake_die("a word of a fault is too long at \"%s\"", *at);
        out[n++] = **at;
    }
    out[n] = '\0';
}

static void parse(struct fake_fault *f, const char **at)
{
    *f = (struct fake_fault){.rank = -1};
    word(at, f->what);
    if (**at == ':' && isalpha((unsigned char)(*at)[1])) {
        (*at)++;
        word(at, f->word);
    }
    if (**at == ':') {
        (*at)++;
        f->n = number(at);
    }
    if (**at == '+') {
        (*at)++;
        f->onwards = true;
    }
    if (**at == ':') {
        (*at)++;
        f->code = (int)number(at);
    }
    if (**at == '@') {
        (*at)++;
        f->rank = (int)number(at);
    }
}

void fake_faults_parse(struct fake_faults *out, const char *text)
{
    const char *at = text;

    out->n = 0;
    while (at != NULL && *at != '\0') {
        if (out->n == FAKE_MAX_FAULTS)
            fake_die("more than %d faults: \"%s\"", FAKE_MAX_FAULTS, text);
        parse(&out->item[out->n++], &at);
        if (*at == ',')
            at++;
        else if (*at != '\0')
            fake_die("cannot read a fault at \"%s\" in \"%s\"", at, text);
    }
}

static bool of_rank(const struct fake_fault *f, int rank)
{
    return f->rank < 0 || f->rank == rank;
}

const struct fake_fault *fake_fault_hit(const struct fake_faults *faults, const char *what,
                                        long count, int rank)
{
    for (size_t i = 0; i < faults->n; i++) {
        const struct fake_fault *f = &faults->item[i];
        const bool now = count == f->n || (f->onwards && count > f->n);

        if (strcmp(f->what, what) == 0 && of_rank(f, rank) && now)
            return f;
    }
    return NULL;
}

const struct fake_fault *fake_fault_find(const struct fake_faults *faults, const char *what,
                                         const char *word_wanted, int rank)
{
    for (size_t i = 0; i < faults->n; i++) {
        const struct fake_fault *f = &faults->item[i];
        const bool same = strcmp(f->what, what) == 0 &&
                          (word_wanted == NULL || strcmp(f->word, word_wanted) == 0);

        if (same && of_rank(f, rank))
            return f;
    }
    return NULL;
}

long fake_env_number(const char *name, long otherwise)
{
    const char *text = getenv(name);
    char *end;
    long value;

    if (text == NULL || text[0] == '\0')
        return otherwise;
    value = strtol(text, &end, 10);
    if (*end != '\0' && strchr("KMG", *end) != NULL) {
        value <<= *end == 'K' ? 10 : *end == 'M' ? 20 : 30;
        end++;
    }
    if (*end != '\0')
        fake_die("%s=%s is not a number", name, text);
    return value;
}
