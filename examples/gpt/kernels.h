/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file kernels.h
 * What the model does beside matrix products: loops over rows, compiled once for
 * each instruction set.  Arrays are row-major and dense unless a leading dimension
 * is passed; those that are read and those that are written must not overlap,
 * except where a comment says "in place".
 */
#ifndef GPT_KERNELS_H
#define GPT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/** LayerNorm of one matrix: its weights and what its forward has found out about each row. */
struct gpt_norm {
    const float *weight, *bias; /**< [cols] */
    float *mean, *rstd;         /**< [rows] */
};

/** One table per instruction set. */
struct gpt_kernels {
    const char *name;

    /** out = a + b */
    void (*add)(float *out, const float *a, const float *b, size_t count);

    /** out[i][j] = base[i][j] + bias[j]; base NULL: 0 */
    void (*fill)(float *out, const float *base, const float *bias, size_t rows, size_t cols);

    /** sum[j] += the sum over i of a[i][j] */
    void (*column_sum)(float *sum, const float *a, size_t rows, size_t cols);

    void (*norm)(float *out, const struct gpt_norm *norm, const float *x, size_t rows, size_t cols);

    /**
     * @param dx   receives in addition the gradient of x
     * @param out  in: the gradient of norm's result; out: that result once more, in place
     * @param dweight,dbias  in addition
     */
    void (*norm_backward)(float *dx, float *out, float *dweight, float *dbias,
                          const struct gpt_norm *norm, const float *x, size_t rows, size_t cols);

    void (*gelu)(float *out, const float *x, size_t count);

    /** d: gradient of the result, becomes that of x, in place; out: the result once more */
    void (*gelu_backward)(float *d, float *out, const float *x, size_t count);

    /**
     * Causal softmax in place of rows first .. first+rows-1 of a matrix, of which row i has i+1
     * elements; zeros follow up to `cols`.
     * @param lse  [rows], receives the logarithm of the sum of exponentials
     */
    void (*softmax)(float *s, float *lse, size_t first, size_t rows, size_t cols);

    /**
     * @param s      in: as for softmax; out: its result once more, in place
     * @param d      in: the gradient of the result; out: scale times that of s, in place
     * @param delta  [rows], the sum over each row of result times gradient
     */
    void (*softmax_backward)(float *s, float *d, const float *lse, const float *delta, float scale,
                             size_t first, size_t rows, size_t cols);

    /** out[i] = the sum over j of a[i*lda+j] * b[i*ldb+j] */
    void (*row_dots)(float *out, const float *a, size_t lda, const float *b, size_t ldb,
                     size_t rows, size_t cols);

    /** Take `cols` more logits of each row into its running maximum and, relative to that, sum of
     *  exponentials.  Before the first: -INFINITY and 0. */
    void (*logsumexp)(float *maximum, float *sum, const float *logits, size_t rows, size_t cols);

    /** logits = scale * exp(logits - lse), in place */
    void (*probabilities)(float *logits, const float *lse, float scale, size_t rows, size_t cols);
};

/** The table of the best set that this processor has, or of that which environment POLDER_ISA
 *  (scalar, avx2, avx512) names.  Never NULL. */
const struct gpt_kernels *gpt_kernels(void);

/** By name; NULL: unknown or not of this processor. */
const struct gpt_kernels *gpt_kernels_find(const char *name);

#endif /* GPT_KERNELS_H */
