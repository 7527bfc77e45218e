/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Optimizer sweeps and norms; included by device_kernels_isa.c alone.
 *
 * Element i of a sum of squares always goes to lane i % NORM_LANES, and lanes are
 * added pairwise at the end: the order depends on the count alone, not on how many
 * lanes a register has.  Sweeps are element by element; products and sums are kept
 * apart (no contraction), square root and division are correctly rounded everywhere.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

enum { NORM_LANES = 32 };

static inline float as_float(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline uint32_t as_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float wide_bf16(uint16_t half)
{
    return as_float((uint32_t)half << 16);
}

/* Shifting the 15 bits into place gives the value times 2^-112, subnormals included.  NaN
 * becomes quiet, as in the processor's own conversion. */
static inline float wide_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000U) << 16;
    const uint32_t body = (uint32_t)(half & 0x7fffU) << 13;
    uint32_t bits = as_bits(as_float(body) * 0x1p112F);

    bits = (half & 0x7c00U) == 0x7c00U ? body | 0x7f800000U : bits;
    bits = bits > 0x7f800000U ? bits | 0x400000U : bits;
    return as_float(bits | sign);
}

static double add_lanes(double lanes[NORM_LANES])
{
    for (int width = NORM_LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            lanes[l] += lanes[l + width];
    return lanes[0];
}

/* One function per dtype: blocks of NORM_LANES elements, then the rest. */
#define SUM_SQUARES(name, type, wide)                                                              \
    static double name(const void *src, size_t count)                                              \
    {                                                                                              \
        const type *x = src;                                                                       \
        double lanes[NORM_LANES] = {0};                                                            \
        size_t i = 0;                                                                              \
                                                                                                   \
        for (; i + NORM_LANES <= count; i += NORM_LANES)                                           \
            for (int l = 0; l < NORM_LANES; l++) {                                                 \
                const double v = (double)wide(x[i + (size_t)l]);                                   \
                lanes[l] += v * v;                                                                 \
            }                                                                                      \
        for (int l = 0; i < count; i++, l++) {                                                     \
            const double v = (double)wide(x[i]);                                                   \
            lanes[l] += v * v;                                                                     \
        }                                                                                          \
        return add_lanes(lanes);                                                                   \
    }

SUM_SQUARES(sum_squares_f32, float, )
SUM_SQUARES(sum_squares_f64, double, )
SUM_SQUARES(sum_squares_f16, uint16_t, wide_f16)
SUM_SQUARES(sum_squares_bf16, uint16_t, wide_bf16)

static double sum_squares(const void *src, size_t count, pld_dtype dtype)
{
    if (dtype == PLD_F32)
        return sum_squares_f32(src, count);
    if (dtype == PLD_F64)
        return sum_squares_f64(src, count);
    if (dtype == PLD_F16)
        return sum_squares_f16(src, count);
    return dtype == PLD_BF16 ? sum_squares_bf16(src, count) : 0;
}

static void adamw(float *restrict w, float *restrict g, float *restrict m, float *restrict v,
                  size_t count, const struct pldi_adamw *args)
{
    const struct pldi_adamw a = *args;

    for (size_t i = 0; i < count; i++) {
        const float grad = g[i] * a.grad_factor;
        const float first = a.beta1 * m[i] + a.rest1 * grad;
        const float second = a.beta2 * v[i] + a.rest2 * (grad * grad);
        const float root = sqrtf(second) * a.sqrt_factor + a.eps;

        w[i] = w[i] * a.decay_factor - a.step_size * (first / root);
        m[i] = first;
        v[i] = second;
        g[i] = 0;
    }
}

static void sgd_plain(float *restrict w, float *restrict g, size_t count, const struct pldi_sgd *a)
{
    const float lr = a->lr;
    const float factor = a->grad_factor;
    const float decay = a->decay_factor;

    for (size_t i = 0; i < count; i++) {
        w[i] = w[i] * decay - lr * (g[i] * factor);
        g[i] = 0;
    }
}

static void sgd_momentum(float *restrict w, float *restrict g, float *restrict b, size_t count,
                         const struct pldi_sgd *args)
{
    const struct pldi_sgd a = *args;

    for (size_t i = 0; i < count; i++) {
        const float next = a.momentum * b[i] + g[i] * a.grad_factor;

        w[i] = w[i] * a.decay_factor - a.lr * next;
        b[i] = next;
        g[i] = 0;
    }
}

static void sgd(float *w, float *g, float *momentum, size_t count, const struct pldi_sgd *args)
{
    if (momentum == NULL)
        sgd_plain(w, g, count, args);
    else
        sgd_momentum(w, g, momentum, count, args);
}

/* Nearest even; NaN stays NaN, quiet. */
static inline uint16_t narrow_bf16(float value)
{
    const uint32_t bits = as_bits(value);

    if ((bits & 0x7fffffffU) > 0x7f800000U)
        return (uint16_t)(bits >> 16 | 0x40U);
    return (uint16_t)((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

/*
 * Below the smallest normal number the addition of 1/2 shifts the bits to be kept to the
 * bottom of the sum and rounds them; above, exponent and rounding are done in integers.
 */
static inline uint16_t narrow_f16(float value)
{
    const uint32_t sign = as_bits(value) >> 16 & 0x8000U;
    const uint32_t bits = as_bits(value) & 0x7fffffffU;
    const uint32_t tiny = as_bits(as_float(bits) + 0.5F) - 0x3f000000U;
    uint32_t out;

    out = (bits - 0x38000000U + 0xfffU + (bits >> 13 & 1U)) >> 13;
    out = bits < 0x38800000U ? tiny : out;
    out = bits >= 0x477ff000U ? 0x7c00U : out;
    out = bits > 0x7f800000U ? 0x7e00U | (bits >> 13 & 0x1ffU) : out;
    return (uint16_t)(out | sign);
}

/* As many f16 as the processor converts at once: how many elements that does. */
static size_t widen_most_f16(float *dst, const uint16_t *src, size_t count)
{
    size_t i = 0;

#ifdef __AVX512F__
    for (; i + 16 <= count; i += 16)
        _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(src + i))));
#elif defined(__F16C__)
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(src + i))));
#else
    (void)dst, (void)src, (void)count;
#endif
    return i;
}

static size_t narrow_most_f16(uint16_t *dst, const float *src, size_t count)
{
    size_t i = 0;

#ifdef __AVX512F__
    for (; i + 16 <= count; i += 16)
        _mm256_storeu_si256((void *)(dst + i), _mm512_cvtps_ph(_mm512_loadu_ps(src + i), 0));
#elif defined(__F16C__)
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((void *)(dst + i), _mm256_cvtps_ph(_mm256_loadu_ps(src + i), 0));
#else
    (void)dst, (void)src, (void)count;
#endif
    return i;
}

#define NO_MOST(dst, src, count) 0

#define CONVERT(dtype_name, widen_most, narrow_most)                                               \
    static void widen_all_##dtype_name(float *restrict dst, const uint16_t *restrict src,          \
                                       size_t count)                                               \
    {                                                                                              \
        for (size_t i = widen_most(dst, src, count); i < count; i++)                               \
            dst[i] = wide_##dtype_name(src[i]);                                                    \
    }                                                                                              \
    static void narrow_all_##dtype_name(uint16_t *restrict dst, const float *restrict src,         \
                                        size_t count)                                              \
    {                                                                                              \
        for (size_t i = narrow_most(dst, src, count); i < count; i++)                              \
            dst[i] = narrow_##dtype_name(src[i]);                                                  \
    }

CONVERT(f16, widen_most_f16, narrow_most_f16)
CONVERT(bf16, NO_MOST, NO_MOST)

static void widen(float *dst, const void *src, size_t count, pld_dtype dtype)
{
    if (dtype == PLD_F16)
        widen_all_f16(dst, src, count);
    else
        widen_all_bf16(dst, src, count);
}

static void narrow(void *dst, const float *src, size_t count, pld_dtype dtype)
{
    if (dtype == PLD_F16)
        narrow_all_f16(dst, src, count);
    else
        narrow_all_bf16(dst, src, count);
}
