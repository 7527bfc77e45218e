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

/* Types that are their own accumulator. */
#define DEFINE_REDUCE(name, type, scale_acc)                                                       \
    static void reduce_##name(type *dst, const void *const *srcs, int n_srcs, size_t start,        \
                              size_t n, pld_op op, double scale)                                   \
    {                                                                                              \
        type acc[REDUCE_BLOCK];                                                                    \
                                                                                                   \
        memcpy(acc, (const type *)srcs[0] + start, n * sizeof(type));                              \
        for (int s = 1; s < n_srcs; s++)                                                           \
            fold_##name(acc, (const type *)srcs[s] + start, n, op);                                \
        scale_acc(acc, n, scale);                                                                  \
        memcpy(dst + start, acc, n * sizeof(type));                                                \
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
static void reduce_half(uint16_t *dst, const void *const *srcs, int n_srcs, size_t start, size_t n,
                        pld_op op, double scale, pld_dtype dtype)
{
    float acc[REDUCE_BLOCK];
    float x[REDUCE_BLOCK];

    widen(acc, (const uint16_t *)srcs[0] + start, n, dtype);
    for (int s = 1; s < n_srcs; s++) {
        widen(x, (const uint16_t *)srcs[s] + start, n, dtype);
        fold_float(acc, x, n, op);
    }
    scale_float(acc, n, scale);
    narrow(dst + start, acc, n, dtype);
}

static void reduce(void *dst, const void *const *srcs, int n_srcs, size_t count, pld_dtype dtype,
                   pld_op op, double scale)
{
#define CASE(constant, name)                                                                       \
    case constant:                                                                                 \
        reduce_##name(dst, srcs, n_srcs, start, n, op, scale);                                     \
        break;
    for (size_t start = 0; start < count; start += REDUCE_BLOCK) {
        const size_t n = count - start < REDUCE_BLOCK ? count - start : REDUCE_BLOCK;

        switch (dtype) {
            CASE(PLD_F32, float)
            CASE(PLD_F64, double)
        case PLD_F16:
        case PLD_BF16:
            reduce_half(dst, srcs, n_srcs, start, n, op, scale, dtype);
            break;
            CASE(PLD_I64, i64)
            CASE(PLD_I32, i32)
            CASE(PLD_U32, u32)
            CASE(PLD_I8, i8)
            CASE(PLD_U8, u8)
        }
    }
#undef CASE
}
