/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A pretended machine, on which slots in the caches are quick or very slow: what the choice costs
 * beside always doing the better thing.  Times vary, and some operations are disturbed.
 */

#include <stdint.h>

#include "coll/coll_shm_stores.h"
#include "tap.h"

struct machine {
    double cached, past; /* us of an operation */
    double disturbed;    /* the part of operations that take twenty times as long */
};

static const struct machine near = {250, 345, 0}, far = {1300, 220, 0};

static double chance(void)
{
    static uint64_t state = 1;

    state = state * 6364136223846793005U + 1442695040888963407U;
    return (double)(state >> 11) / (double)(1ULL << 53);
}

/* Runs operations; returns the time of what was chosen by that of the better way, undisturbed. */
static double run(struct pldi_stores *s, const struct machine *m, size_t bytes, int operations)
{
    const double best = m->cached < m->past ? m->cached : m->past;
    double sum = 0;

    for (int i = 0; i < operations; i++) {
        const int way = pldi_stores_choose(s, PLDI_ALLREDUCE, bytes);
        const double us = way == PLDI_STORE_CACHED ? m->cached : m->past;
        const double took =
            us * (0.9 + 0.2 * chance()) * (chance() < m->disturbed ? 20 * chance() : 1);

        sum += us;
        pldi_stores_note(s, PLDI_ALLREDUCE, bytes, way, (uint64_t)(took * 1000));
    }
    return sum / (best * operations);
}

static void test_still(void)
{
    struct pldi_stores at_near = {0}, at_far = {0};
    const double costs[] = {run(&at_near, &near, 1 << 20, 2000), run(&at_far, &far, 1 << 20, 2000)};

    ok(costs[0] < 1.02, "caches are near: %.3f times the best", costs[0]);
    ok(costs[1] < 1.08, "far: %.3f times", costs[1]);
}

static void test_disturbed(void)
{
    struct machine m = near;
    double worst = 0;

    m.disturbed = 0.25;
    for (int i = 0; i < 20; i++) {
        struct pldi_stores s = {0};
        const double cost = run(&s, &m, 1 << 20, 1000);

        worst = cost > worst ? cost : worst;
    }
    ok(worst < 1.15, "a quarter of the operations are disturbed: at most %.3f times", worst);
}

static void test_moving(void)
{
    struct pldi_stores s = {0};
    double sum = 0, after;

    for (int i = 0; i < 20; i++)
        sum += run(&s, i % 2 == 0 ? &near : &far, 1 << 20, 1000) / 20;
    ok(sum < 1.1, "the processors move every 1000 operations: %.3f times", sum);
    after = run(&s, &near, 1 << 20, 256) + run(&s, &far, 1 << 20, 16);
    ok(after < 1 + 3, "and 16 operations after a move to far: %.3f times", after);
}

static void test_apart(void)
{
    struct pldi_stores s = {0};

    (void)run(&s, &far, 1 << 20, 20);
    (void)run(&s, &near, 64 << 10, 20);
    ok(pldi_stores_choose(&s, PLDI_ALLREDUCE, 1 << 20) == PLDI_STORE_PAST &&
           pldi_stores_choose(&s, PLDI_ALLREDUCE, 64 << 10) == PLDI_STORE_CACHED,
       "sizes are apart");
    ok(s.of[PLDI_BROADCAST][0].uses == 0, "and kinds");
    (void)run(&s, &near, SIZE_MAX, 1);
    (void)run(&s, &near, 1, 1);
    ok(s.of[PLDI_ALLREDUCE][PLDI_STORES_SIZES - 1].uses == 1 && s.of[PLDI_ALLREDUCE][0].uses == 1,
       "the largest and the smallest have a place");
}

int main(void)
{
    test_still();
    test_disturbed();
    test_moving();
    test_apart();
    return tap_done();
}
