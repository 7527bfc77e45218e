/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "dp/dp_plan.h"

#include "base/base_err.h"
#include "base/base_mem.h"

/* The plan in the making: buckets in the order of opening. */
struct maker {
    struct pldi_dp_plan plan;
    int open[PLDI_PARAM_DTYPES][2]; /* bucket that takes the next tensor; -1: none */
    int any_full;
};

static int is_outside(const struct pldi_dp_tensor *t)
{
    return t->offset == PLDI_OUTSIDE;
}

static int open_bucket(struct maker *m, const struct pldi_dp_tensor *t)
{
    struct pldi_dp_bucket *b = &m->plan.buckets[m->plan.count];

    b->dtype = t->dtype;
    b->outside = is_outside(t);
    b->offset = b->outside ? m->plan.scratch[t->dtype] : t->offset;
    return m->plan.count++;
}

/* In the arena a bucket grows downwards, towards the tensors added first. */
static void put(struct maker *m, int bucket, const struct pldi_dp_tensor *t, int id)
{
    struct pldi_dp_bucket *b = &m->plan.buckets[bucket];
    const size_t padded = pldi_params_padded(t->count);

    if (b->outside) {
        m->plan.place[id] = m->plan.scratch[t->dtype];
        m->plan.scratch[t->dtype] += padded;
    } else {
        m->plan.place[id] = t->offset;
        b->offset = t->offset;
    }
    b->count += padded;
    b->tensors++;
    b->last = id;
    m->plan.bucket_of[id] = bucket;
}

static void take(struct maker *m, const struct pldi_dp_tensor *t, int id, size_t first_bytes,
                 size_t cap_bytes)
{
    int *open = &m->open[t->dtype][is_outside(t)];
    const struct pldi_dp_bucket *b;

    if (t->shared) {
        *open = -1;
        put(m, open_bucket(m, t), t, id);
        return;
    }
    if (*open < 0)
        *open = open_bucket(m, t);
    put(m, *open, t, id);
    b = &m->plan.buckets[*open];
    if (b->count * pld_dtype_bytes(b->dtype) < (m->any_full ? cap_bytes : first_bytes))
        return;
    m->any_full = 1;
    *open = -1;
}

/* A tensor's bucket leaves after those whose last tensor has a higher number. */
static void put_in_order(struct pldi_dp_plan *plan, int n, struct pldi_dp_bucket *sorted,
                         int *rank_of)
{
    int rank = 0;

    for (int id = n - 1; id >= 0; id--) {
        const int bucket = plan->bucket_of[id];

        if (plan->buckets[bucket].last != id)
            continue;
        rank_of[bucket] = rank;
        sorted[rank++] = plan->buckets[bucket];
    }
    for (int id = 0; id < n; id++)
        plan->bucket_of[id] = rank_of[plan->bucket_of[id]];
}

int pldi_dp_plan_make(const struct pldi_dp_tensor *tensors, int n, size_t first_bytes,
                      size_t cap_bytes, struct pldi_dp_plan *out)
{
    const size_t count = (size_t)n;
    struct maker m = {.open = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}}};
    struct pldi_dp_bucket *sorted = pldi_alloc(count, sizeof(*sorted), "the bucket plan");
    int *rank_of = pldi_alloc(count, sizeof(*rank_of), "the bucket plan");

    m.plan.buckets = pldi_alloc(count, sizeof(*m.plan.buckets), "the bucket plan");
    m.plan.bucket_of = pldi_alloc(count, sizeof(*m.plan.bucket_of), "the bucket plan");
    m.plan.place = pldi_alloc(count, sizeof(*m.plan.place), "the bucket plan");
    if (sorted == NULL || rank_of == NULL || m.plan.buckets == NULL || m.plan.bucket_of == NULL ||
        m.plan.place == NULL) {
        pldi_free(sorted);
        pldi_free(rank_of);
        pldi_dp_plan_free(&m.plan);
        return PLD_ERR_NOMEM;
    }
    for (int id = n - 1; id >= 0; id--)
        take(&m, &tensors[id], id, first_bytes, cap_bytes);
    put_in_order(&m.plan, n, sorted, rank_of);
    pldi_free(rank_of);
    pldi_free(m.plan.buckets);
    m.plan.buckets = sorted;
    *out = m.plan;
    return PLD_OK;
}

void pldi_dp_plan_free(struct pldi_dp_plan *plan)
{
    pldi_free(plan->buckets);
    pldi_free(plan->bucket_of);
    pldi_free(plan->place);
    *plan = (struct pldi_dp_plan){0};
}
