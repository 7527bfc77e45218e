/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reductions; included by device_kernels_isa.c alone.
 *
 * A block of elements at a time: widen the first source into an accumulator that
 * stays in cache, fold the others in, narrow it once into the destination.  All
 * sources of a block are read before it is written, so dst may be one of them.
 */

#include <stdint.h>
#include <string.h>

enum { REDUCE_BLOCK = 512 };

/* The factor comes last, in the precision of the sum. */
#define DEFINE_SCALE(type)                                                                         \
    static void scale_##type(type *acc, size_t n, double scale)                                    \
    {                                                                                              \
        const type factor = (type)scale;                                                           \
                                                                                                   \
        if (scale == 1)                                                                            \
            return;                                                                                \
        for (size_t i = 0; i < n; i++)                                                             \
            acc[i] *= factor;                                                                      \
    }
DEFINE_SCALE(float)
DEFINE_SCALE(double)

/* acc[i] = acc[i] op x[i].  `wide` is where sums and products wrap without overflow. */
#define DEFINE_FOLD(name, type, wide, max_of, min_of)                                              \
    static void fold_##name(type *acc, const type *x, size_t n, pld_op op)                         \
    {                                                                                              \
        if (op == PLD_MAX)                                                                         \
            for (size_t i = 0; i < n; i++)                                                         \
                acc[i] = max_of(acc[i], x[i]);                                                     \
        else if (op == PLD_MIN)                                                                    \
            for (size_t i = 0; i < n; i++)                                                         \
                acc[i] = min_of(acc[i], x[i]);                                                     \
        else if (op == PLD_PROD)                                                                   \
            for (size_t i = 0; i < n; i++)                                                         \
                acc[i] = (type)((wide)acc[i] * (wide)x[i]);                                        \
        else                                                                                       \
            for (size_t i = 0; i < n; i++)                                                         \
                acc[i] = (type)((wide)acc[i] + (wide)x[i]);                                        \
    }

#define INT_MAX_OF(a, b) ((a) > (b) ? (a) : (b))
#define INT_MIN_OF(a, b) ((a) < (b) ? (a) : (b))
/* A NaN on either side wins: on the left by itself, on the right by failing to compare. */
#define FLOAT_MAX_OF(a, b) ((a) > (b) || (a) != (a) ? (a) : (b))
#define FLOAT_MIN_OF(a, b) ((a) < (b) || (a) != (a) ? (a) : (b))

DEFINE_FOLD(float, float, float, FLOAT_MAX_OF, FLOAT_MIN_OF)
DEFINE_FOLD(double, double, double, FLOAT_MAX_OF, FLOAT_MIN_OF)
DEFINE_FOLD(i64, int64_t, uint64_t, INT_MAX_OF, INT_MIN_OF)
DEFINE_FOLD(i32, int32_t, uint32_t, INT_MAX_OF, INT_MIN_OF)
DEFINE_FOLD(u32, uint32_t, uint32_t, INT_MAX_OF, INT_MIN_OF)
DEFINE_FOLD(i8, int8_t, uint32_t, INT_MAX_OF, INT_MIN_OF)
DEFINE_FOLD(u8, uint8_t, uint32_t, INT_MAX_OF, INT_MIN_OF)

/* acc[i] = x[i] op y[i], so that the first source need not be copied before. */
#define DEFINE_START(name, type, wide, max_of, min_of)                                             \
    static void start_##name(type *restrict acc, const type *x, const type *y, size_t n,           \
                             pld_op op)                                                            \
    {                                                                                              \
        if (op == PLD_MAX)                                                                         \
            for (size_t i = 0; i < n; i++)                                                         \
                acc[i] = max_of(x[i], y[i]);                                                       \
        else if (op == PLD_MIN)                                                                    \
            for (size_t i = 0; i < n; i++)                                                         \
                acc[i] = min_of(x[i], y[i]);                                                       \
        else if (op == PLD_PROD)                                                                   \
            for (size_t i = 0; i < n; i++)                                                         \
                acc[i] = (type)((wide)x[i] * (wide)y[i]);                                          \
        else                                                                                       \
            for (size_t i = 0; i < n; i++)                                                         \
                acc[i] = (type)((wide)x[i] + (wide)y[i]);                                          \
    }
DEFINE_START(float, float, float, FLOAT_MAX_OF, FLOAT_MIN_OF)
DEFINE_START(double, double, double, FLOAT_MAX_OF, FLOAT_MIN_OF)
DEFINE_START(i64, int64_t, uint64_t, INT_MAX_OF, INT_MIN_OF)
DEFINE_START(i32, int32_t, uint32_t, INT_MAX_OF, INT_MIN_OF)
DEFINE_START(u32, uint32_t, uint32_t, INT_MAX_OF, INT_MIN_OF)
DEFINE_START(i8, int8_t, uint32_t, INT_MAX_OF, INT_MIN_OF)
DEFINE_START(u8, uint8_t, uint32_t, INT_MAX_OF, INT_MIN_OF)

/* The result of a block, before it goes where it belongs. */
union block {
    float f32[REDUCE_BLOCK];
    double f64[REDUCE_BLOCK];
    uint16_t half[REDUCE_BLOCK];
    int64_t i64[REDUCE_BLOCK];
    int32_t i32[REDUCE_BLOCK];
    uint32_t u32[REDUCE_BLOCK];
    int8_t i8[REDUCE_BLOCK];
    uint8_t u8[REDUCE_BLOCK];
};

/* What a block of a reduction needs, whatever its type. */
struct sources {
    const void *const *at;
    int n;
    pld_op op;
    double scale;
    pld_dtype dtype;
};

/* Types that are their own accumulator. */
#define DEFINE_REDUCE(name, type, scale_acc)                                                       \
    static void reduce_##name(type *acc, const struct sources *srcs, size_t start, size_t n)       \
    {                                                                                              \
        const type *first = (const type *)srcs->at[0] + start;                                     \
                                                                                                   \
        if (srcs->n == 1)                                                                          \
            memcpy(acc, first, n * sizeof(type));                                                  \
        else                                                                                       \
            start_##name(acc, first, (const type *)srcs->at[1] + start, n, srcs->op);              \
        for (int s = 2; s < srcs->n; s++)                                                          \
            fold_##name(acc, (const type *)srcs->at[s] + start, n, srcs->op);                      \
        scale_acc(acc, n, srcs->scale);                                                            \
    }
#define NO_SCALE(acc, n, scale) (void)(scale)

DEFINE_REDUCE(float, float, scale_float)
DEFINE_REDUCE(double, double, scale_double)
DEFINE_REDUCE(i64, int64_t, NO_SCALE)
DEFINE_REDUCE(i32, int32_t, NO_SCALE)
DEFINE_REDUCE(u32, uint32_t, NO_SCALE)
DEFINE_REDUCE(i8, int8_t, NO_SCALE)
DEFINE_REDUCE(u8, uint8_t, NO_SCALE)

/* Half types, which are added as float; widen() and narrow() are in device_optim.inl.h. */
static void reduce_half(uint16_t *out, const struct sources *srcs, size_t start, size_t n)
{
    float acc[REDUCE_BLOCK];
    float x[REDUCE_BLOCK];

    widen(acc, (const uint16_t *)srcs->at[0] + start, n, srcs->dtype);
    for (int s = 1; s < srcs->n; s++) {
        widen(x, (const uint16_t *)srcs->at[s] + start, n, srcs->dtype);
        fold_float(acc, x, n, srcs->op);
    }
    scale_float(acc, n, srcs->scale);
    narrow(out, acc, n, srcs->dtype);
}

static void reduce_block(union block *out, const struct sources *srcs, size_t start, size_t n)
{
#define CASE(constant, name, member)                                                               \
    case constant:                                                                                 \
        reduce_##name(out->member, srcs, start, n);                                                \
        break;
    switch (srcs->dtype) {
        CASE(PLD_F32, float, f32)
        CASE(PLD_F64, double, f64)
        CASE(PLD_F16, half, half)
        CASE(PLD_BF16, half, half)
        CASE(PLD_I64, i64, i64)
        CASE(PLD_I32, i32, i32)
        CASE(PLD_U32, u32, u32)
        CASE(PLD_I8, i8, i8)
        CASE(PLD_U8, u8, u8)
    }
#undef CASE
}

static void reduce_to(void *const *dsts, int n_dsts, const void *const *srcs, int n_srcs,
                      size_t count, pld_dtype dtype, pld_op op, double scale, int n_stream)
{
    const struct sources sources = {srcs, n_srcs, op, scale, dtype};
    const size_t bytes = pld_dtype_bytes(dtype);
    union block out __attribute__((aligned(64)));

    for (size_t start = 0; start < count; start += REDUCE_BLOCK) {
        const size_t n = count - start < REDUCE_BLOCK ? count - start : REDUCE_BLOCK;

        reduce_block(&out, &sources, start, n);
        for (int d = 0; d < n_dsts; d++) {
            unsigned char *to = (unsigned char *)dsts[d] + start * bytes;

            if (d < n_stream)
                stream_copy(to, (const unsigned char *)&out, n * bytes);
            else
                memcpy(to, &out, n * bytes);
        }
    }
    if (n_stream > 0)
        stream_fence();
}

static void reduce(void *dst, const void *const *srcs, int n_srcs, size_t count, pld_dtype dtype,
                   pld_op op, double scale)
{
    reduce_to(&dst, 1, srcs, n_srcs, count, dtype, op, scale, 0);
}
