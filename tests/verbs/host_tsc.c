/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Prints how many thousand times a second this processor's time stamp counter ticks.
 * An emulated processor has the counter of the real one, and a kernel that measures it
 * on a busy host can be wrong by factors: then its clock is, and all time limits.
 */

#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

struct moment {
    double seconds;
    unsigned long long ticks;
};

/* Both clocks at once: of several tries, that in which least came between. */
static struct moment now(void)
{
    struct moment best = {0, 0};
    unsigned long long least = ~0ULL;

    for (int i = 0; i < 100; i++) {
        struct timespec t;
        const unsigned long long before = __rdtsc();

        (void)clock_gettime(CLOCK_MONOTONIC_RAW, &t);
        const unsigned long long between = __rdtsc() - before;
        if (between < least) {
            least = between;
            best.seconds = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
            best.ticks = before + between / 2;
        }
    }
    return best;
}

int main(void)
{
    const struct timespec pause = {0, 200000000};
    const struct moment begin = now();

    (void)nanosleep(&pause, NULL);
    const struct moment end = now();
    (void)printf("%.0f\n",
                 (double)(end.ticks - begin.ticks) / (end.seconds - begin.seconds) / 1000);
    return 0;
}
