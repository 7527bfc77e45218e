/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_sum.h
 * How contributions are added up: in order, or by the canonical tree.
 *
 * The canonical tree over n contributions adds neighbours 2i and 2i+1, then their
 * sums, and so on; one without a neighbour moves up as it is.  The sum of an
 * aligned run of 2^k contributions is a subtree, whoever forms it: that is what
 * makes results independent of where ranks are.
 */
#ifndef PLDI_COLL_SUM_H
#define PLDI_COLL_SUM_H

#include <stddef.h>

#include <polder/coll.h>

struct pldi_kernels;

struct pldi_sum {
    const struct pldi_kernels *kernels;
    pld_dtype dtype; /**< of the contributions */
    pld_op op;       /**< PLD_AVG is PLD_SUM with a scale */
    double scale;
    int tree;                    /**< 1: by the canonical tree; 0: in order */
    int wide;                    /**< 1: the result is of pldi_sum_dtype(), unrounded */
    const unsigned char *levels; /**< [n] contributions are subtrees of 2^level; NULL: all 0 */
};

/** The type that sums are formed in: f32 for f16 and bf16, else the type itself. */
pld_dtype pldi_sum_dtype(pld_dtype dtype);

/** As reduce_to of the kernels; each target may be one of the sources. */
void pldi_sum_to(const struct pldi_sum *sum, void *const *targets, int n_targets,
                 const void *const *sources, int n, size_t count, int n_stream);

/** sums[i] rounded to the dtype, times scale. */
void pldi_sum_finish(const struct pldi_sum *sum, void *target, const void *sums, size_t count);

/** Contributions as what sums are formed in. */
void pldi_sum_load(const struct pldi_sum *sum, void *target, const void *from, size_t count);

#endif /* PLDI_COLL_SUM_H */
