/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The kernel's clock is the oracle: a stamp taken between two readings becomes a time between. */

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/base_ticks.h"
#include "tap.h"

/* Of a rate found in 0.1 ms, over the few ms that pass here. */
static const int64_t SLACK = 200000;

static int is_between(struct pldi_ticks_gauge *gauge)
{
    struct pldi_ticks_scale scale = pldi_ticks_measure(gauge);
    const int64_t before = pldi_clock_ns();
    const uint64_t stamp = pldi_ticks();
    const int64_t after = pldi_clock_ns();
    int64_t ns = pldi_ticks_ns(&scale, stamp);
    int fits = ns > before - SLACK && ns < after + SLACK;

    /* And when it is long past. */
    (void)usleep(60000);
    scale = pldi_ticks_measure(gauge);
    ns = pldi_ticks_ns(&scale, stamp);
    if (ns < before - SLACK || ns > after + SLACK)
        fits = 0;
    if (!fits)
        printf("# %lld ns, not in %lld..%lld\n", (long long)ns, (long long)before,
               (long long)after);
    return fits;
}

static int usable(const char *name)
{
    char path[] = "/tmp/polder-ticks-XXXXXX";
    const int fd = mkstemp(path);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    int result;

    if (file == NULL)
        return -1;
    (void)fputs(name, file);
    (void)fclose(file);
    result = pldi_ticks_usable(path);
    (void)unlink(path);
    return result;
}

static void test_choice(void)
{
    ok(pldi_ticks_usable("/nowhere/at/all") == 0, "no counter where the kernel names no clock");
    ok(usable("hpet\n") == 0 && usable("acpi_pm\n") == 0 && usable("") == 0,
       "none where its clock is another");
    ok(usable("tsc2\n") == 0, "none where the name only begins alike");
}

static void test_jump(void)
{
    struct pldi_ticks_gauge gauge = {0};
    struct pldi_ticks_scale scale = pldi_ticks_measure(&gauge);
    const uint64_t rate = scale.rate;
    int64_t off;

    /* As if the machine had slept for a minute, in which the counter stood still. */
    gauge.first.base -= 60 * (int64_t)1000000000;
    gauge.last.base -= 60 * (int64_t)1000000000;
    scale = pldi_ticks_measure(&gauge);
    off = pldi_ticks_ns(&scale, pldi_ticks()) - pldi_clock_ns();
    ok(scale.rate > rate - rate / 100 && scale.rate < rate + rate / 100 && off > -SLACK &&
           off < SLACK,
       "a sleep of the machine changes no rate");
}

int main(void)
{
    struct pldi_ticks_gauge clock = {0}, counter = {0};

    ok(is_between(&clock), "stamps of the clock are times");
    test_choice();
    pldi_ticks_choose(NULL);
    printf("# stamps are %s\n", pldi_ticks_counted ? "of the counter" : "of the clock");
    ok(is_between(&counter), "stamps are times");
    test_jump();
    return tap_done();
}
