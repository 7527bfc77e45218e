/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file base_ticks.h
 * Stamps that cost less than reading the clock, turned into times by who reads them.
 *
 * A stamp is the processor's counter where the kernel's own clock is made of it, which says
 * that it has one rate and agrees between processors; else ns of CLOCK_MONOTONIC.
 */
#ifndef PLDI_BASE_TICKS_H
#define PLDI_BASE_TICKS_H

#include <stdint.h>
#include <time.h>

/** 1: stamps are the processor's counter; set by pldi_ticks_choose(). */
extern int pldi_ticks_counted;

/**
 * Choose where stamps come from, once; every later call is ignored.  Before the first stamp.
 * @param clocksource  a file that names the kernel's, NULL: where Linux has it
 */
void pldi_ticks_choose(const char *clocksource);

/** Whether such a file, and this processor, allow for the counter. */
int pldi_ticks_usable(const char *clocksource);

/** ns, CLOCK_MONOTONIC. */
static inline int64_t pldi_clock_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline uint64_t pldi_ticks_counter(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t t;

    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(t));
    return t;
#else
    return 0;
#endif
}

static inline uint64_t pldi_ticks(void)
{
    return pldi_ticks_counted ? pldi_ticks_counter() : (uint64_t)pldi_clock_ns();
}

/** How stamps become times: ns = base + (stamp - zero) * rate / 2^32. */
struct pldi_ticks_scale {
    uint64_t zero, rate;
    int64_t base;
};

/** What a scale is made from, again and again: the longer ago `first`, the better the rate. */
struct pldi_ticks_gauge {
    struct pldi_ticks_scale first, last;
};

/** Compare the two clocks: the first time for 0.1 ms, and later as long as it was used. */
struct pldi_ticks_scale pldi_ticks_measure(struct pldi_ticks_gauge *gauge);

int64_t pldi_ticks_ns(const struct pldi_ticks_scale *scale, uint64_t stamp);

#endif /* PLDI_BASE_TICKS_H */
