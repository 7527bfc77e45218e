/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The tree is a binary counter: a contribution is put on a stack, and as long as
 * the two on top are subtrees of equal size they become one.  What is left at the
 * end is added from the top.  A block of elements at a time, so that the stack
 * stays in cache, and so that a target may be one of the sources.
 */

#include "coll/coll_sum.h"

#include <string.h>

#include "device/device_kernels.h"

enum { BLOCK = 128, LEVELS = 34, WIDEST = 8 };

struct stack {
    unsigned char sums[LEVELS][BLOCK * WIDEST] __attribute__((aligned(64)));
    int levels[LEVELS];
    int n;
};

static int is_half(pld_dtype dtype)
{
    return dtype == PLD_F16 || dtype == PLD_BF16;
}

pld_dtype pldi_sum_dtype(pld_dtype dtype)
{
    return is_half(dtype) ? PLD_F32 : dtype;
}

static pld_op kernel_op(const struct pldi_sum *sum)
{
    return sum->op == PLD_AVG ? PLD_SUM : sum->op;
}

void pldi_sum_load(const struct pldi_sum *sum, void *target, const void *from, size_t count)
{
    if (is_half(sum->dtype))
        sum->kernels->widen(target, from, count, sum->dtype);
    else if (target != from)
        memmove(target, from, count * pld_dtype_bytes(sum->dtype));
}

void pldi_sum_finish(const struct pldi_sum *sum, void *target, const void *sums, size_t count)
{
    const pld_dtype dtype = pldi_sum_dtype(sum->dtype);
    const size_t from = pld_dtype_bytes(dtype);
    const size_t to = pld_dtype_bytes(sum->dtype);
    float scaled[BLOCK];

    if (!is_half(sum->dtype)) {
        sum->kernels->reduce(target, &sums, 1, count, dtype, kernel_op(sum), sum->scale);
        return;
    }
    for (size_t i = 0; i < count; i += BLOCK) {
        const size_t n = count - i < BLOCK ? count - i : BLOCK;
        const void *part = (const unsigned char *)sums + i * from;

        sum->kernels->reduce(scaled, &part, 1, n, dtype, kernel_op(sum), sum->scale);
        sum->kernels->narrow((unsigned char *)target + i * to, scaled, n, sum->dtype);
    }
}

/* left = left op right */
static void join(const struct pldi_sum *sum, void *left, const void *right, size_t n)
{
    const void *both[2] = {left, right};

    sum->kernels->reduce(left, both, 2, n, pldi_sum_dtype(sum->dtype), kernel_op(sum), 1);
}

static void push(const struct pldi_sum *sum, struct stack *s, const void *from, int level, size_t n)
{
    pldi_sum_load(sum, s->sums[s->n], from, n);
    s->levels[s->n++] = level;
    while (s->n > 1 && s->levels[s->n - 1] == s->levels[s->n - 2]) {
        s->n--;
        join(sum, s->sums[s->n - 1], s->sums[s->n], n);
        s->levels[s->n - 1]++;
    }
}

/* The sum of n elements from there on, unrounded and unscaled, in s->sums[0]. */
static void add_block(const struct pldi_sum *sum, struct stack *s, const void *const *sources,
                      int n_sources, size_t start, size_t n)
{
    const size_t skip = start * pld_dtype_bytes(sum->dtype);

    s->n = 0;
    for (int i = 0; i < n_sources; i++) {
        const unsigned char *from = (const unsigned char *)sources[i] + skip;

        if (sum->tree || i == 0) {
            push(sum, s, from, sum->levels != NULL ? sum->levels[i] : 0, n);
            continue;
        }
        pldi_sum_load(sum, s->sums[1], from, n);
        join(sum, s->sums[0], s->sums[1], n);
    }
    for (; s->n > 1; s->n--)
        join(sum, s->sums[s->n - 2], s->sums[s->n - 1], n);
}

static void by_blocks(const struct pldi_sum *sum, void *const *targets, int n_targets,
                      const void *const *sources, int n, size_t count, int n_stream)
{
    const size_t to = pld_dtype_bytes(sum->wide ? pldi_sum_dtype(sum->dtype) : sum->dtype);
    struct stack s;

    for (size_t start = 0; start < count; start += BLOCK) {
        const size_t part = count - start < BLOCK ? count - start : BLOCK;
        const unsigned char *result = s.sums[0];

        add_block(sum, &s, sources, n, start, part);
        if (!sum->wide) {
            result = s.sums[1];
            pldi_sum_finish(sum, s.sums[1], s.sums[0], part);
        }
        for (int t = 0; t < n_targets; t++)
            sum->kernels->copy((unsigned char *)targets[t] + start * to, result, part * to,
                               t < n_stream);
    }
}

void pldi_sum_to(const struct pldi_sum *sum, void *const *targets, int n_targets,
                 const void *const *sources, int n, size_t count, int n_stream)
{
    if (sum->tree || (sum->wide && is_half(sum->dtype)))
        by_blocks(sum, targets, n_targets, sources, n, count, n_stream);
    else
        sum->kernels->reduce_to(targets, n_targets, sources, n, count, sum->dtype, kernel_op(sum),
                                sum->wide ? 1 : sum->scale, n_stream);
}
