/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file device_kernels.h
 * Numeric kernels over host memory, one table per instruction set.  All tables
 * give the same bits.  Pointers need element alignment only; ranges either
 * coincide or do not overlap.
 */
#ifndef PLDI_DEVICE_KERNELS_H
#define PLDI_DEVICE_KERNELS_H

#include <polder/coll.h>
#include <polder/dtype.h>

#include <stddef.h>

/** What one AdamW sweep needs besides its arrays; all factors precomputed by the caller. */
struct pldi_adamw {
    float beta1, beta2;
    float rest1, rest2; /**< 1 - beta1, 1 - beta2, subtracted in f64 */
    float grad_factor;  /**< clipping: g is multiplied by it first */
    float step_size;    /**< lr / (1 - beta1^t) */
    float sqrt_factor;  /**< 1 / sqrt(1 - beta2^t) */
    float eps;
    float decay_factor; /**< w is multiplied by it first: 1 - lr * weight_decay, or 1 */
};

struct pldi_sgd {
    float lr;
    float momentum;
    float grad_factor;  /**< as in pldi_adamw */
    float decay_factor; /**< as in pldi_adamw */
};

struct pldi_kernels {
    const char *name;

    /**
     * dst[i] = scale * op over s of srcs[s][i], s ascending, as polder/coll.h says
     * of numerics.  AVG is SUM with the factor in `scale`.  dst may be one of srcs.
     */
    void (*reduce)(void *dst, const void *const *srcs, int n_srcs, size_t count, pld_dtype dtype,
                   pld_op op, double scale);

    /**
     * As reduce, into n_dsts places at once; each may be one of srcs.  To the first
     * n_stream of them the result goes past the caches: for what is not read soon, or
     * by another processor.
     */
    void (*reduce_to)(void *const *dsts, int n_dsts, const void *const *srcs, int n_srcs,
                      size_t count, pld_dtype dtype, pld_op op, double scale, int n_stream);

    /** memcpy(); stream: past the caches. */
    void (*copy)(void *dst, const void *src, size_t bytes, int stream);

    /** Sum of squares in f64, in an order that depends on count alone.  Floating dtypes. */
    double (*sum_squares)(const void *src, size_t count, pld_dtype dtype);

    /** One pass: read w g m v, write w m v, and g = 0.  28 bytes read and written, 4 zeroed. */
    void (*adamw)(float *w, float *g, float *m, float *v, size_t count,
                  const struct pldi_adamw *args);

    /** One pass: b = momentum*b + g; w -= lr*b; g = 0.  momentum may be NULL: b = g. */
    void (*sgd)(float *w, float *g, float *momentum, size_t count, const struct pldi_sgd *args);

    /** f16 or bf16 to f32 and back, to nearest even; NaN stays NaN. */
    void (*widen)(float *dst, const void *src, size_t count, pld_dtype dtype);
    void (*narrow)(void *dst, const float *src, size_t count, pld_dtype dtype);
};

/**
 * The table for this processor: the best supported, or the one named by
 * POLDER_ISA (scalar, avx2, avx512) if this processor has it.
 */
const struct pldi_kernels *pldi_kernels(void);

/** A table by name, NULL if unknown or not supported here; for tests. */
const struct pldi_kernels *pldi_kernels_find(const char *name);

#endif /* PLDI_DEVICE_KERNELS_H */
