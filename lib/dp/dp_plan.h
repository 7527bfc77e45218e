/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file dp_plan.h
 * Which tensors go into which bucket.  Pure: the same tensors and sizes give the
 * same plan, so ranks that agree on the tensors need not talk about buckets.
 */
#ifndef PLDI_DP_PLAN_H
#define PLDI_DP_PLAN_H

#include "params/params.h"

/** What the plan depends on. */
struct pldi_dp_tensor {
    size_t count;
    size_t offset; /**< in the arena of its dtype; PLDI_OUTSIDE: goes through a scratch */
    pld_dtype dtype;
    int shared; /**< gets a bucket of its own */
};

/** A range of the gradient arena of `dtype`, or of its scratch. */
struct pldi_dp_bucket {
    size_t offset;
    size_t count; /**< elements, gaps included */
    pld_dtype dtype;
    int outside; /**< 1: the scratch */
    int tensors;
    int last; /**< the lowest tensor id in it: the one that backward completes last */
};

struct pldi_dp_plan {
    struct pldi_dp_bucket *buckets; /**< [count], in the order in which they leave */
    int count;
    int *bucket_of;                    /**< [n]: tensor -> bucket */
    size_t *place;                     /**< [n]: first element of tensor in arena or scratch */
    size_t scratch[PLDI_PARAM_DTYPES]; /**< elements of scratch per dtype */
};

/**
 * Walk the tensors from last to first.  Per dtype and kind of memory one bucket is
 * open; it is closed by the tensor that brings it to `cap_bytes` (`first_bytes` as
 * long as no bucket is full), by a shared tensor, or by the end.  Buckets are
 * numbered by their `last`, descending: the order in which backward completes them.
 * PLD_ERR_NOMEM.
 */
int pldi_dp_plan_make(const struct pldi_dp_tensor *tensors, int n, size_t first_bytes,
                      size_t cap_bytes, struct pldi_dp_plan *out);

void pldi_dp_plan_free(struct pldi_dp_plan *plan);

#endif /* PLDI_DP_PLAN_H */
