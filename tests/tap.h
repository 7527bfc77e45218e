/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file tap.h  The whole unit-test framework: TAP on stdout. */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdio.h>

static int tap_count, tap_failed;

/** One test point; the text says what holds, with the values involved. */
static inline int ok(int cond, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static inline int ok(int cond, const char *fmt, ...)
{
    va_list ap;

    tap_failed += !cond;
    printf("%sok %d - ", cond ? "" : "not ", ++tap_count);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout); /* a later crash must not eat this line */
    return cond;
}

static inline int tap_done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed != 0;
}

#endif /* TAP_H */
