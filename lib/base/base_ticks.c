/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "base/base_ticks.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

enum { TRIES = 5, FIRST_NS = 100000, SURE_NS = 50000000, ONE_PER_MILLE = 1000 };

__extension__ typedef __int128 wide_int;

int pldi_ticks_counted;

static int has_steady_counter(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;

    return __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d >> 8 & 1) != 0;
#elif defined(__aarch64__)
    return 1;
#else
    return 0;
#endif
}

int pldi_ticks_usable(const char *clocksource)
{
    static const char *const made_of_it[] = {"tsc", "kvm-clock", "arch_sys_counter"};
    char name[64] = "";
    FILE *file = fopen(clocksource, "re");

    if (file == NULL)
        return 0;
    if (fgets(name, sizeof(name), file) == NULL)
        name[0] = '\0';
    (void)fclose(file);
    name[strcspn(name, "\n")] = '\0';
    for (size_t i = 0; i < sizeof(made_of_it) / sizeof(made_of_it[0]); i++) {
        if (strcmp(name, made_of_it[i]) == 0)
            return has_steady_counter();
    }
    return 0;
}

static const char *source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

static void choose(void)
{
    pldi_ticks_counted = pldi_ticks_usable(source);
}

void pldi_ticks_choose(const char *clocksource)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    if (clocksource != NULL)
        source = clocksource;
    (void)pthread_once(&once, choose);
}

/* Both clocks at one moment, as near as the best of some tries comes. */
static struct pldi_ticks_scale compare(void)
{
    struct pldi_ticks_scale best = {0};
    uint64_t least = UINT64_MAX;

    for (int i = 0; i < TRIES; i++) {
        const uint64_t before = pldi_ticks();
        const int64_t ns = pldi_clock_ns();
        const uint64_t took = pldi_ticks() - before;

        if (took >= least)
            continue;
        least = took;
        best.zero = before + took / 2;
        best.base = ns;
    }
    return best;
}

static uint64_t rate_between(const struct pldi_ticks_scale *a, const struct pldi_ticks_scale *b)
{
    const uint64_t ticks = b->zero - a->zero;

    if (b->zero <= a->zero || b->base <= a->base)
        return 0;
    return (uint64_t)(((wide_int)(b->base - a->base) << 32) / ticks);
}

/* After a sleep of the whole machine the counter has gone another way than the clock. */
static int has_jumped(const struct pldi_ticks_gauge *g, const struct pldi_ticks_scale *now)
{
    const uint64_t recent = rate_between(&g->last, now);
    const uint64_t apart = recent > g->last.rate ? recent - g->last.rate : g->last.rate - recent;

    return now->zero < g->last.zero ||
           (now->base - g->last.base > SURE_NS && apart > g->last.rate / ONE_PER_MILLE);
}

struct pldi_ticks_scale pldi_ticks_measure(struct pldi_ticks_gauge *g)
{
    struct pldi_ticks_scale now;

    if (!pldi_ticks_counted)
        return (struct pldi_ticks_scale){0, (uint64_t)1 << 32, 0};
    if (g->last.rate == 0) {
        g->first = compare();
        do
            now = compare();
        while (now.base - g->first.base < FIRST_NS);
    } else {
        now = compare();
        if (has_jumped(g, &now))
            g->first = now;
    }
    now.rate = rate_between(&g->first, &now);
    if (now.rate == 0)
        now.rate = g->last.rate;
    g->last = now;
    return now;
}

int64_t pldi_ticks_ns(const struct pldi_ticks_scale *scale, uint64_t stamp)
{
    const wide_int ticks = (int64_t)(stamp - scale->zero);

    return scale->base + (int64_t)((ticks * (wide_int)scale->rate) >> 32);
}
