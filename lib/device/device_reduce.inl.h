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

/* Bytes of a source: short enough that the sources of a block, its sum and what the processor
 * fetches ahead stay near, long enough that a stream is a stream. */
enum { BLOCK_BYTES = 1024, BLOCK_HALVES = BLOCK_BYTES / 2 };

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
    float f32[BLOCK_BYTES / 4];
    double f64[BLOCK_BYTES / 8];
    uint16_t half[BLOCK_HALVES];
    int64_t i64[BLOCK_BYTES / 8];
    int32_t i32[BLOCK_BYTES / 4];
    uint32_t u32[BLOCK_BYTES / 4];
    int8_t i8[BLOCK_BYTES];
    uint8_t u8[BLOCK_BYTES];
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

/*
 * bf16 is worked on in pairs, as it lies in 32-bit words: the upper one is a float once
 * the lower is masked away, the lower one once it is shifted up.  No lane changes its
 * width, which is what conversions cost most for.
 */
typedef uint32_t pair __attribute__((may_alias, aligned(2)));

static inline float lower(uint32_t word)
{
    return as_float(word << 16);
}

static inline float upper(uint32_t word)
{
    return as_float(word & 0xffff0000U);
}

/* Rounded to bf16 in the upper half of a word, as narrow_bf16() does; the rest is noise. */
static inline uint32_t rounded(float value)
{
    const uint32_t bits = as_bits(value);
    const uint32_t even = bits + 0x7fffU + (bits >> 16 & 1U);

    return (bits & 0x7fffffffU) > 0x7f800000U ? bits | 0x400000U : even;
}

static inline uint32_t join(float low, float high)
{
    return rounded(low) >> 16 | (rounded(high) & 0xffff0000U);
}

/* All lower ones, then all upper ones, then what has no partner. */
static void split_bf16(float *restrict acc, const uint16_t *src, size_t n)
{
    const pair *words = (const void *)src;
    const size_t half = n / 2;

    for (size_t i = 0; i < half; i++) {
        acc[i] = lower(words[i]);
        acc[half + i] = upper(words[i]);
    }
    if (n % 2 != 0)
        acc[n - 1] = wide_bf16(src[n - 1]);
}

static void join_bf16(uint16_t *restrict out, const float *restrict acc, size_t n)
{
    pair *words = (void *)out;
    const size_t half = n / 2;

    for (size_t i = 0; i < half; i++)
        words[i] = join(acc[i], acc[half + i]);
    if (n % 2 != 0)
        out[n - 1] = narrow_bf16(acc[n - 1]);
}

/* The sum of two, which is most of what is ever reduced, without a stop in memory. */
static void add_two_bf16(uint16_t *restrict out, const uint16_t *x, const uint16_t *y, size_t n)
{
    pair *words = (void *)out;
    const pair *xs = (const void *)x;
    const pair *ys = (const void *)y;

    for (size_t i = 0; i < n / 2; i++)
        words[i] = join(lower(xs[i]) + lower(ys[i]), upper(xs[i]) + upper(ys[i]));
    if (n % 2 != 0)
        out[n - 1] = narrow_bf16(wide_bf16(x[n - 1]) + wide_bf16(y[n - 1]));
}

static void reduce_bf16(uint16_t *out, const struct sources *srcs, size_t start, size_t n)
{
    const uint16_t *first = (const uint16_t *)srcs->at[0] + start;
    float acc[BLOCK_HALVES];
    float x[BLOCK_HALVES];

    if (srcs->n == 1 && srcs->scale == 1) {
        memcpy(out, first, n * sizeof(*out));
        return;
    }
    if (srcs->n == 2 && srcs->op == PLD_SUM && srcs->scale == 1) {
        add_two_bf16(out, first, (const uint16_t *)srcs->at[1] + start, n);
        return;
    }
    split_bf16(acc, first, n);
    for (int s = 1; s < srcs->n; s++) {
        split_bf16(x, (const uint16_t *)srcs->at[s] + start, n);
        fold_float(acc, x, n, srcs->op);
    }
    scale_float(acc, n, srcs->scale);
    join_bf16(out, acc, n);
}

/* Added as float; widen() and narrow() are in device_optim.inl.h. */
static void reduce_f16(uint16_t *out, const struct sources *srcs, size_t start, size_t n)
{
    float acc[BLOCK_HALVES];
    float x[BLOCK_HALVES];

    widen(acc, (const uint16_t *)srcs->at[0] + start, n, PLD_F16);
    for (int s = 1; s < srcs->n; s++) {
        widen(x, (const uint16_t *)srcs->at[s] + start, n, PLD_F16);
        fold_float(acc, x, n, srcs->op);
    }
    scale_float(acc, n, srcs->scale);
    narrow(out, acc, n, PLD_F16);
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
        CASE(PLD_F16, f16, half)
        CASE(PLD_BF16, bf16, half)
        CASE(PLD_I64, i64, i64)
        CASE(PLD_I32, i32, i32)
        CASE(PLD_U32, u32, u32)
        CASE(PLD_I8, i8, i8)
        CASE(PLD_U8, u8, u8)
    }
#undef CASE
}

/*
 * The next block of all sources.  While stores go past the caches nothing is read, and
 * what the processor fetches ahead by itself ends with the page: without this a third of
 * the bandwidth is lost.
 */
static void fetch_next(const struct sources *srcs, size_t start, size_t count, size_t bytes)
{
    const size_t block = BLOCK_BYTES / bytes;
    const size_t n = count - start < block ? count - start : block;

    for (int s = 0; s < srcs->n; s++)
        fetch_ahead((const unsigned char *)srcs->at[s] + start * bytes, n * bytes);
}

static void reduce_to(void *const *dsts, int n_dsts, const void *const *srcs, int n_srcs,
                      size_t count, pld_dtype dtype, pld_op op, double scale, int n_stream)
{
    const struct sources sources = {srcs, n_srcs, op, scale, dtype};
    const size_t bytes = pld_dtype_bytes(dtype);
    const size_t block = BLOCK_BYTES / bytes;
    union block out __attribute__((aligned(64)));

    if (n_srcs == 1 && n_dsts == 1 && scale == 1) {
        if (dsts[0] != srcs[0])
            copy(dsts[0], srcs[0], count * bytes, n_stream);
        return;
    }
    for (size_t start = 0; start < count; start += block) {
        const size_t n = count - start < block ? count - start : block;

        reduce_block(&out, &sources, start, n);
        fetch_next(&sources, start + n, count, bytes);
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
