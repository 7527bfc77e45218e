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
#ifdef __F16C__
#include <immintrin.h>
#endif

enum { REDUCE_BLOCK = 512 };

static inline float float_of_bits(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline uint32_t bits_of_float(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

static inline float float_of_bf16(uint16_t h)
{
    return float_of_bits((uint32_t)h << 16);
}

/* To nearest, ties to even; a NaN is made quiet, for rounding could make it infinite. */
static inline uint16_t bf16_of_float(float f)
{
    const uint32_t u = bits_of_float(f);
    const uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1)) >> 16;
    const uint32_t quiet = u >> 16 | 0x40u;

    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

#ifndef __F16C__
/* The same bits as the processor's own conversion, which makes NaN quiet. */
static inline float float_of_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t rest = h & 0x7fffu;
    const uint32_t normal = (rest << 13) + (112u << 23);
    const uint32_t special = rest << 13 | 0x7f800000u | (rest > 0x7c00u ? 0x400000u : 0);
    const uint32_t tiny = bits_of_float((float)rest * 0x1p-24f);

    return float_of_bits(sign | (rest < 0x400u ? tiny : rest < 0x7c00u ? normal : special));
}

static inline uint16_t f16_of_float(float f)
{
    const uint32_t u = bits_of_float(f);
    const uint32_t sign = u >> 16 & 0x8000u;
    const uint32_t rest = u & 0x7fffffffu;
    const uint32_t normal = (rest - (112u << 23) + 0xfffu + (rest >> 13 & 1)) >> 13;
    /* Adding 0.5 puts the bits of a denormal at the low end, rounded by the addition. */
    const uint32_t tiny = bits_of_float(float_of_bits(rest) + 0.5f) - 0x3f000000u;
    const uint32_t nan = 0x7e00u | (rest >> 13 & 0x3ffu);
    uint32_t h = rest < 0x38800000u ? tiny : normal;

    h = rest >= 0x477ff000u ? 0x7c00u : h;
    return (uint16_t)(sign | (rest > 0x7f800000u ? nan : h));
}
#endif

static void widen_f16(float *to, const uint16_t *from, size_t n)
{
    size_t i = 0;

#ifdef __F16C__
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
    for (; i < n; i++)
        to[i] = _cvtsh_ss(from[i]);
#else
    for (; i < n; i++)
        to[i] = float_of_f16(from[i]);
#endif
}

static void narrow_f16(uint16_t *to, const float *from, size_t n)
{
    size_t i = 0;

#ifdef __F16C__
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(to + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++)
        to[i] = (uint16_t)_cvtss_sh(from[i], _MM_FROUND_TO_NEAREST_INT);
#else
    for (; i < n; i++)
        to[i] = f16_of_float(from[i]);
#endif
}

static void widen_bf16(float *to, const uint16_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = float_of_bf16(from[i]);
}

static void narrow_bf16(uint16_t *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = bf16_of_float(from[i]);
}

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

/* Half types, which are added as float. */
#define DEFINE_REDUCE_HALF(name)                                                                   \
    static void reduce_##name(uint16_t *dst, const void *const *srcs, int n_srcs, size_t start,    \
                              size_t n, pld_op op, double scale)                                   \
    {                                                                                              \
        float acc[REDUCE_BLOCK], x[REDUCE_BLOCK];                                                  \
                                                                                                   \
        widen_##name(acc, (const uint16_t *)srcs[0] + start, n);                                   \
        for (int s = 1; s < n_srcs; s++) {                                                         \
            widen_##name(x, (const uint16_t *)srcs[s] + start, n);                                 \
            fold_float(acc, x, n, op);                                                             \
        }                                                                                          \
        scale_float(acc, n, scale);                                                                \
        narrow_##name(dst + start, acc, n);                                                        \
    }

DEFINE_REDUCE_HALF(f16)
DEFINE_REDUCE_HALF(bf16)

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
            CASE(PLD_F16, f16)
            CASE(PLD_BF16, bf16)
            CASE(PLD_I64, i64)
            CASE(PLD_I32, i32)
            CASE(PLD_U32, u32)
            CASE(PLD_I8, i8)
            CASE(PLD_U8, u8)
        }
    }
#undef CASE
}
