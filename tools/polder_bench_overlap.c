/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What the processor does while a call is under way: arithmetic in its first cache. */

#include "polder_bench.h"

#include <time.h>

enum { NUMBERS = 256, TRIES = 5 };

static const double LONG_ENOUGH = 2e-4;

void bench_compute(size_t turns)
{
    static float x[NUMBERS];

    for (size_t t = 0; t < turns; t++) {
        for (int i = 0; i < NUMBERS; i++)
            x[i] = x[i] * 0.5F + 1.0F;
        /* For all that the compiler knows, somebody reads them. */
        __asm__ volatile("" : : "r"(x) : "memory");
    }
}

static double time_of(size_t turns)
{
    struct timespec start, end;

    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    bench_compute(turns);
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    return (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9;
}

/* Of one turn; the least of several, for whatever else happens adds to it. */
static double turn_seconds(void)
{
    size_t turns = 64;
    double least = time_of(turns);

    while (least < LONG_ENOUGH) {
        turns *= 2;
        least = time_of(turns);
    }
    for (int i = 0; i < TRIES; i++) {
        const double again = time_of(turns);

        least = again < least ? again : least;
    }
    return least / (double)turns;
}

size_t bench_compute_turns(double seconds)
{
    const double turns = seconds / turn_seconds();

    return turns > 1 ? (size_t)turns : 1;
}
