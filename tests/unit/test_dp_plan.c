/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Random lists of tensors; the plan is judged by what a plan must do, counted
 * element by element on a map of the arena.
 */

#include "dp/dp_plan.h"

#include <polder/random.h>

#include <stdlib.h>
#include <string.h>

#include "tap.h"

enum { MOST_TENSORS = 40, MOST_COUNT = 1500, MOST_ELEMENTS = 1 << 17, MAPS = PLDI_PARAM_DTYPES };

struct list {
    struct pldi_dp_tensor tensors[MOST_TENSORS];
    int n;
    size_t arena[MAPS];
};

static uint64_t draw(uint64_t seed, uint64_t index, uint64_t below)
{
    return pld_random_u64(seed, 1, index) % below;
}

/* As commit lays them out. */
static void make_list(struct list *list, uint64_t seed)
{
    memset(list, 0, sizeof(*list));
    list->n = (int)draw(seed, 0, MOST_TENSORS + 1);
    for (int i = 0; i < list->n; i++) {
        struct pldi_dp_tensor *t = &list->tensors[i];
        const uint64_t at = 10 * ((uint64_t)i + 1);

        t->dtype = (pld_dtype)(draw(seed, at, 3) == 0 ? draw(seed, at + 1, MAPS) : PLD_F32);
        t->count = 1 + (size_t)draw(seed, at + 2, MOST_COUNT);
        t->shared = draw(seed, at + 3, 8) == 0;
        t->offset = PLDI_OUTSIDE;
        if (draw(seed, at + 4, 5) == 0)
            continue;
        t->offset = list->arena[t->dtype];
        list->arena[t->dtype] += pldi_params_padded(t->count);
    }
}

/* Which bucket covers an element: +1, 0 none, -1 twice; [dtype][outside]. */
static int covered[MAPS][2][MOST_ELEMENTS];

static int paint(const struct pldi_dp_plan *plan)
{
    int twice = 0;

    memset(covered, 0, sizeof(covered));
    for (int b = 0; b < plan->count; b++) {
        const struct pldi_dp_bucket *bucket = &plan->buckets[b];
        int *map = covered[bucket->dtype][bucket->outside];

        for (size_t i = bucket->offset; i < bucket->offset + bucket->count; i++) {
            twice += map[i] != 0;
            map[i] = b + 1;
        }
    }
    return twice;
}

/* Tensors whose elements do not all lie in the bucket that the plan names. */
static int misplaced(const struct list *list, const struct pldi_dp_plan *plan)
{
    int wrong = 0;

    for (int i = 0; i < list->n; i++) {
        const struct pldi_dp_tensor *t = &list->tensors[i];
        const int outside = t->offset == PLDI_OUTSIDE;
        const int *map = covered[t->dtype][outside];

        wrong += !outside && plan->place[i] != t->offset;
        for (size_t e = plan->place[i]; e < plan->place[i] + t->count; e++)
            if (map[e] != plan->bucket_of[i] + 1)
                wrong++;
    }
    return wrong;
}

/* Two tensors in one place would be painted by one bucket: count elements, too. */
static int overlapping(const struct list *list, const struct pldi_dp_plan *plan)
{
    static unsigned char taken[MAPS][2][MOST_ELEMENTS];
    int twice = 0;

    memset(taken, 0, sizeof(taken));
    for (int i = 0; i < list->n; i++) {
        const struct pldi_dp_tensor *t = &list->tensors[i];

        for (size_t e = 0; e < t->count; e++)
            twice += taken[t->dtype][t->offset == PLDI_OUTSIDE][plan->place[i] + e]++;
    }
    return twice;
}

static int badly_ordered(const struct list *list, const struct pldi_dp_plan *plan)
{
    int wrong = 0;

    for (int b = 0; b < plan->count; b++) {
        int lowest = list->n;
        int members = 0;

        for (int i = list->n - 1; i >= 0; i--)
            if (plan->bucket_of[i] == b) {
                lowest = i;
                members++;
            }
        wrong += members == 0 || members != plan->buckets[b].tensors;
        wrong += lowest != plan->buckets[b].last;
        wrong += b > 0 && plan->buckets[b].last >= plan->buckets[b - 1].last;
    }
    return wrong;
}

static int shared_in_company(const struct list *list, const struct pldi_dp_plan *plan)
{
    int wrong = 0;

    for (int i = 0; i < list->n; i++)
        wrong += list->tensors[i].shared && plan->buckets[plan->bucket_of[i]].tensors != 1;
    return wrong;
}

/* Without its last tensor every bucket is below the cap. */
static int too_large(const struct list *list, const struct pldi_dp_plan *plan, size_t cap)
{
    int wrong = 0;

    for (int b = 0; b < plan->count; b++) {
        const struct pldi_dp_bucket *bucket = &plan->buckets[b];
        const size_t last = pldi_params_padded(list->tensors[bucket->last].count);

        wrong += (bucket->count - last) * pld_dtype_bytes(bucket->dtype) >= cap;
    }
    return wrong;
}

static void test_random(void)
{
    int twice = 0, wrong = 0, order = 0, company = 0, large = 0, lists = 300, failed = 0;
    int buckets = 0;

    for (int s = 0; s < lists; s++) {
        static struct list list;
        struct pldi_dp_plan plan = {0};
        const size_t cap = 256 + (size_t)draw((uint64_t)s, 5, 20000);
        const size_t first = 1 + (size_t)draw((uint64_t)s, 6, cap);

        make_list(&list, (uint64_t)s + 1000);
        failed += pldi_dp_plan_make(list.tensors, list.n, first, cap, &plan) < 0;
        twice += paint(&plan) + overlapping(&list, &plan);
        wrong += misplaced(&list, &plan);
        order += badly_ordered(&list, &plan);
        company += shared_in_company(&list, &plan);
        large += too_large(&list, &plan, cap);
        buckets += plan.count;
        pldi_dp_plan_free(&plan);
    }
    ok(failed == 0 && buckets > lists, "%d lists give %d buckets", lists, buckets);
    ok(twice == 0, "elements in two buckets: %d", twice);
    ok(wrong == 0, "elements outside their tensor's bucket: %d", wrong);
    ok(order == 0, "buckets not in the order in which backward completes them: %d", order);
    ok(company == 0, "shared tensors that share their bucket: %d", company);
    ok(large == 0, "buckets beyond the cap without their last tensor: %d", large);
}

/* 8 tensors of 64 floats, 256 bytes each: sizes counted by hand. */
static void test_caps(void)
{
    struct pldi_dp_tensor t[8];
    struct pldi_dp_plan plan;
    int sizes[8] = {0};

    for (int i = 0; i < 8; i++)
        t[i] = (struct pldi_dp_tensor){64, (size_t)i * 64, PLD_F32, 0};
    if (!ok(pldi_dp_plan_make(t, 8, 256, 3 * 256, &plan) == 0, "plan"))
        return;
    for (int b = 0; b < plan.count && b < 8; b++)
        sizes[b] = plan.buckets[b].tensors;
    ok(plan.count == 4 && sizes[0] == 1 && sizes[1] == 3 && sizes[2] == 3 && sizes[3] == 1,
       "first bucket small, then as many as fill the cap: %d %d %d %d", sizes[0], sizes[1],
       sizes[2], sizes[3]);
    ok(plan.buckets[0].offset == 7 * 64 && plan.buckets[1].offset == 4 * 64,
       "the tensor added last leaves first");
    pldi_dp_plan_free(&plan);
    ok(pldi_dp_plan_make(t, 8, 1 << 20, 1 << 20, &plan) == 0 && plan.count == 1 &&
           plan.buckets[0].count == 512,
       "all in one bucket if they fit");
    pldi_dp_plan_free(&plan);
    ok(pldi_dp_plan_make(t, 8, 1, 1, &plan) == 0 && plan.count == 8, "a cap below any tensor");
    pldi_dp_plan_free(&plan);
    ok(pldi_dp_plan_make(t, 0, 1, 1, &plan) == 0 && plan.count == 0, "no tensors, no buckets");
    pldi_dp_plan_free(&plan);
}

int main(void)
{
    test_random();
    test_caps();
    return tap_done();
}
