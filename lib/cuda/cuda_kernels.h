/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file cuda_kernels.h
 * polder's own kernels: their names, and what each takes, by value, as its one parameter.
 *
 * Plain C for the side that launches, and read by the kernels themselves.  Counts are of
 * elements.  Numerics are those of device_kernels.h; the kernels are compiled without
 * contraction, so that element-wise ones give the bits of the host.
 */
#ifndef PLDI_CUDA_KERNELS_H
#define PLDI_CUDA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "device/device.h"

/* Dtypes that a kernel is there for once each, and pairs of them: X(suffix, dtype or dtypes). */
#define PLDI_CUDA_REDUCED(X)                                                                       \
    X(f32, PLD_F32)                                                                                \
    X(f64, PLD_F64)                                                                                \
    X(f16, PLD_F16)                                                                                \
    X(bf16, PLD_BF16)                                                                              \
    X(i64, PLD_I64)                                                                                \
    X(i32, PLD_I32)                                                                                \
    X(u32, PLD_U32)                                                                                \
    X(i8, PLD_I8)                                                                                  \
    X(u8, PLD_U8)
/* value, gradient */
#define PLDI_CUDA_SWEPT(X)                                                                         \
    X(f32, f32, PLD_F32, PLD_F32)                                                                  \
    X(f64, f64, PLD_F64, PLD_F64)                                                                  \
    X(f16, f16, PLD_F16, PLD_F16)                                                                  \
    X(f16, f32, PLD_F16, PLD_F32)                                                                  \
    X(bf16, bf16, PLD_BF16, PLD_BF16)                                                              \
    X(bf16, f32, PLD_BF16, PLD_F32)
/* to, from */
#define PLDI_CUDA_CASTS(X)                                                                         \
    X(f32, f64, PLD_F32, PLD_F64)                                                                  \
    X(f32, f16, PLD_F32, PLD_F16)                                                                  \
    X(f32, bf16, PLD_F32, PLD_BF16)                                                                \
    X(f64, f32, PLD_F64, PLD_F32)                                                                  \
    X(f64, f16, PLD_F64, PLD_F16)                                                                  \
    X(f64, bf16, PLD_F64, PLD_BF16)                                                                \
    X(f16, f32, PLD_F16, PLD_F32)                                                                  \
    X(f16, f64, PLD_F16, PLD_F64)                                                                  \
    X(f16, bf16, PLD_F16, PLD_BF16)                                                                \
    X(bf16, f32, PLD_BF16, PLD_F32)                                                                \
    X(bf16, f64, PLD_BF16, PLD_F64)                                                                \
    X(bf16, f16, PLD_BF16, PLD_F16)

/* All kernels: X(name); enum constant PLDI_CUDA_<name>, symbol pldi_cuda_kernel_<name>. */
#define PLDI_CUDA_REDUCE_NAME(type, dtype) PLDI_CUDA_X(reduce_##type)
#define PLDI_CUDA_ADAMW_NAME(value, grad, dtype, grad_dtype) PLDI_CUDA_X(adamw_##value##_##grad)
#define PLDI_CUDA_SGD_NAME(value, grad, dtype, grad_dtype) PLDI_CUDA_X(sgd_##value##_##grad)
#define PLDI_CUDA_CAST_NAME(to, from, to_dtype, from_dtype) PLDI_CUDA_X(cast_##to##_##from)
#define PLDI_CUDA_ALL_KERNELS                                                                      \
    PLDI_CUDA_REDUCED(PLDI_CUDA_REDUCE_NAME)                                                       \
    PLDI_CUDA_SWEPT(PLDI_CUDA_ADAMW_NAME)                                                          \
    PLDI_CUDA_SWEPT(PLDI_CUDA_SGD_NAME)                                                            \
    PLDI_CUDA_CASTS(PLDI_CUDA_CAST_NAME)                                                           \
    PLDI_CUDA_X(square_slices)                                                                     \
    PLDI_CUDA_X(square_total)                                                                      \
    PLDI_CUDA_X(step_decide)                                                                       \
    PLDI_CUDA_X(hash_begin)                                                                        \
    PLDI_CUDA_X(hash_words)                                                                        \
    PLDI_CUDA_X(shuffle)                                                                           \
    PLDI_CUDA_X(unshuffle)

enum pldi_cuda_kernel {
#define PLDI_CUDA_X(name) PLDI_CUDA_##name,
    PLDI_CUDA_ALL_KERNELS
#undef PLDI_CUDA_X
        PLDI_CUDA_KERNELS
};

/** Threads of a block, of all kernels but those that are said to have another number. */
enum { PLDI_CUDA_BLOCK = 256, PLDI_CUDA_TOTAL_BLOCK = 1024 };

/**
 * How a kernel walks over arrays that it reads and writes together: from element `head` on
 * all of them are aligned to 16 bytes, and `vectors` times as many elements as the kernel
 * takes at once follow.  The rest, before and after, is done one by one.
 */
struct pldi_cuda_span {
    uint64_t count, head, vectors;
};

enum { PLDI_CUDA_SOURCES = 64, PLDI_CUDA_TARGETS = 16 };

/**
 * reduce_*: as pldi_device_ops.reduce.  Sums of more sources than there is room for go on in
 * `sum`: [count] of f32 for f16 and bf16, else of the dtype.
 */
struct pldi_cuda_reduce {
    const void *srcs[PLDI_CUDA_SOURCES];
    void *dsts[PLDI_CUDA_TARGETS];
    void *sum;
    int begins;  /**< 1: `sum` is written instead of dsts */
    int goes_on; /**< 1: `sum` comes before the first source */
    int n_srcs, n_dsts;
    int op;
    struct pldi_cuda_span span;
    double scale;
};

enum { PLDI_CUDA_RANGES = 64 };

/**
 * square_slices: block b adds up the squares of one slice of one range into partials[b].
 * A slice has `slice` elements, a multiple of PLDI_CUDA_SLICE; the last of a range fewer.
 */
struct pldi_cuda_squares {
    struct {
        const void *data;
        uint64_t count;
        uint32_t first_block;
        int32_t dtype;
    } ranges[PLDI_CUDA_RANGES];
    double *partials;
    uint64_t slice;
    int n;
};

/** Elements of the shortest slice, and the largest number of slices. */
enum { PLDI_CUDA_SLICE = 16384, PLDI_CUDA_PARTIALS = 16384 };

/** square_total, one block of PLDI_CUDA_TOTAL_BLOCK: the partials into the vote. */
struct pldi_cuda_total {
    const double *partials;
    uint64_t n;
    struct pldi_step_vote *vote;
    int goes_on; /**< 1: add to what is there */
};

/** step_decide, one thread. */
struct pldi_cuda_decide {
    const struct pldi_step_vote *vote;
    struct pldi_step_control *control;
    struct pldi_step_rule rule;
};

/** adamw_*, sgd_* */
struct pldi_cuda_sweep {
    struct pldi_device_sweep sweep;
    struct pldi_cuda_span span;
    const struct pldi_step_control *control;
};

/** cast_* */
struct pldi_cuda_cast {
    void *dst;
    const void *src;
    struct pldi_cuda_span span;
};

/** hash_begin, one thread, which sets *out; then hash_words, which adds to it. */
struct pldi_cuda_hash {
    const void *data;
    uint64_t bytes;
    uint64_t *out;
};

/** shuffle, unshuffle: `eights` times 8 elements are moved as words of 16 and 8 bytes. */
struct pldi_cuda_shuffle {
    void *dst;
    const void *src;
    uint64_t count, width, eights;
};

/**
 * Device memory that kernels need between launches, from pldi_cuda_scratch(): first the
 * partials of sum_squares, then the sums of a reduce that has more than PLDI_CUDA_SOURCES
 * sources.  So neither of the two may be under way in two streams at once.
 */
enum {
    PLDI_CUDA_SUM_BYTES = 4 << 20,
    PLDI_CUDA_SCRATCH_BYTES = PLDI_CUDA_PARTIALS * 8 + PLDI_CUDA_SUM_BYTES
};

#ifndef __cplusplus
/** [PLDI_CUDA_KERNELS] symbols by which kernels are found in the image. */
extern const char *const pldi_cuda_kernel_names[];

/** The kernels as cuModuleLoadData() takes them; or, built without nvcc, a text that begins so. */
extern const unsigned char pldi_cuda_image[];
extern const size_t pldi_cuda_image_bytes;
#define PLDI_CUDA_NO_IMAGE "polder was built without nvcc"

/* The kernels' part of pldi_device_ops. */
int pldi_cuda_reduce(pld_device *device, void *const *dsts, int n_dsts, const void *const *srcs,
                     int n_srcs, size_t count, pld_dtype dtype, pld_op op, double scale,
                     pld_stream stream);
int pldi_cuda_sum_squares(pld_device *device, const struct pldi_range *ranges, size_t n,
                          struct pldi_step_vote *vote, pld_stream stream);
int pldi_cuda_step_decide(pld_device *device, const struct pldi_step_vote *vote,
                          const struct pldi_step_rule *rule, struct pldi_step_control *control,
                          pld_stream stream);
int pldi_cuda_sweep(pld_device *device, const struct pldi_device_sweep *sweep,
                    const struct pldi_step_control *control, pld_stream stream);
int pldi_cuda_cast(pld_device *device, void *dst, pld_dtype to, const void *src, pld_dtype from,
                   size_t count, pld_stream stream);
int pldi_cuda_hash(pld_device *device, const void *data, size_t bytes, uint64_t *out,
                   pld_stream stream);
int pldi_cuda_shuffle(pld_device *device, void *dst, const void *src, size_t count, size_t width,
                      pld_stream stream);
int pldi_cuda_unshuffle(pld_device *device, void *dst, const void *src, size_t count, size_t width,
                        pld_stream stream);
#endif

#endif /* PLDI_CUDA_KERNELS_H */
