/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Whether results are right.  Elements are small whole numbers that depend on the rank
 * and on the place, with a prime period, so that a piece that was shifted, doubled or
 * left out shows; reductions of them are exact in every type.  What must come out is
 * computed from the formula of the numbers, not from data that travelled.
 */

#include "polder_bench.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { PERIOD = 1009, WIDEST = 8, LEFT_ALONE = 0x5a };

/* A number twice: integers wrap as the element type does, floating ones never need to. */
struct number {
    uint64_t wide;
    double real;
};

static int is_signed(pld_dtype dtype)
{
    return dtype != PLD_U8 && dtype != PLD_U32;
}

/* Element `i` of what a rank sends. */
static struct number sent(const struct bench_call *c, const struct bench_op *op, int rank,
                          size_t place)
{
    const long i = (long)(place % PERIOD);
    const long most = op->from != BENCH_ALL_RANKS ? 126 : c->size < 127 ? 127 / c->size : 1;
    long value = (i * 7 + rank * 13L + i / 32) % (most + 1);

    if (op->from == BENCH_ALL_RANKS && c->redop == PLD_PROD)
        value = 1 + ((i + rank) % 8 == 0);
    else if (is_signed(c->dtype))
        value -= most / 2;
    return (struct number){(uint64_t)value, (double)value};
}

static struct number combine(struct number a, struct number b, pld_op redop)
{
    switch (redop) {
    case PLD_MIN:
        return a.real < b.real ? a : b;
    case PLD_MAX:
        return a.real > b.real ? a : b;
    case PLD_PROD:
        return (struct number){a.wide * b.wide, a.real * b.real};
    case PLD_SUM:
    case PLD_AVG:
    default:
        return (struct number){a.wide + b.wide, a.real + b.real};
    }
}

static uint16_t to_f16(double x)
{
    int exponent;
    const double mantissa = frexp(fabs(x), &exponent); /* 0.5 <= mantissa < 1 */
    const unsigned sign = x < 0 ? 0x8000U : 0;
    unsigned bits;

    if (x == 0)
        return 0;
    bits = (unsigned)((exponent + 13) << 10) + (unsigned)nearbyint(mantissa * 2048) - 0U;
    /* The leading one of the mantissa counts as one exponent, which 13 leaves room for. */
    return (uint16_t)(sign | (exponent > 16 || bits > 0x7c00U ? 0x7c00U : bits));
}

static uint16_t to_bf16(double x)
{
    const float f = (float)x;
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return (uint16_t)((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

static void encode(struct number n, pld_dtype dtype, void *to)
{
    const float f32 = (float)n.real;
    uint16_t half;

    if (dtype == PLD_F64)
        memcpy(to, &n.real, sizeof(n.real));
    else if (dtype == PLD_F32)
        memcpy(to, &f32, sizeof(f32));
    else if (dtype == PLD_F16 || dtype == PLD_BF16) {
        half = dtype == PLD_F16 ? to_f16(n.real) : to_bf16(n.real);
        memcpy(to, &half, sizeof(half));
    } else {
        /* The low bytes of a little-endian number, or the last ones of a big-endian one. */
        const uint16_t probe = 1;
        const size_t bytes = pld_dtype_bytes(dtype);
        const size_t skip = *(const char *)&probe == 1 ? 0 : sizeof(n.wide) - bytes;

        memcpy(to, (const char *)&n.wide + skip, bytes);
    }
}

static double decode(const void *from, pld_dtype dtype)
{
    double f64;
    float f32;
    uint16_t half;

    if (dtype == PLD_F64) {
        memcpy(&f64, from, sizeof(f64));
        return f64;
    }
    if (dtype == PLD_F32) {
        memcpy(&f32, from, sizeof(f32));
        return (double)f32;
    }
    memcpy(&half, from, sizeof(half));
    if (dtype == PLD_BF16) {
        const uint32_t bits = (uint32_t)half << 16;

        memcpy(&f32, &bits, sizeof(f32));
        return (double)f32;
    }
    f64 = half & 0x7c00U ? ldexp(1024 + (half & 0x3ffU), (half >> 10 & 31) - 25)
                         : ldexp(half & 0x3ffU, -24);
    return half & 0x8000U ? -f64 : f64;
}

/* Two neighbours of a type are this far apart at most, relative to their size. */
static double spacing(pld_dtype dtype)
{
    return dtype == PLD_F64   ? 0x1p-52
           : dtype == PLD_F32 ? 0x1p-23
           : dtype == PLD_F16 ? 0x1p-10
                              : 0x1p-7;
}

/* A period of what a rank sends, or (rank < 0) of the reduction over all. */
static void make_period(const struct bench_call *c, const struct bench_op *op, int rank, char *to)
{
    const size_t bytes = pld_dtype_bytes(c->dtype);

    for (size_t i = 0; i < PERIOD; i++) {
        struct number n = sent(c, op, rank < 0 ? 0 : rank, i);

        for (int r = 1; rank < 0 && r < c->size; r++)
            n = combine(n, sent(c, op, r, i), c->redop);
        if (rank < 0 && c->redop == PLD_AVG)
            n.real /= c->size;
        encode(n, c->dtype, to + i * bytes);
    }
}

void bench_check_fill(const struct bench_call *c, const struct bench_op *op)
{
    const size_t bytes = pld_dtype_bytes(c->dtype);
    const size_t parts = op->send_parts ? (size_t)c->size : 1;
    const size_t received = (op->recv_parts ? (size_t)c->size : 1) * c->count * bytes;
    char period[PERIOD * WIDEST];

    if (op->from == BENCH_NOTHING)
        return;
    memset(c->recv, LEFT_ALONE, received);
    if (op->from == BENCH_ROOT && c->in_place && c->rank != c->root && !op->send_parts)
        return;
    make_period(c, op, c->rank, period);
    for (size_t i = 0; i < parts * c->count; i += PERIOD) {
        const size_t n = parts * c->count - i < PERIOD ? parts * c->count - i : PERIOD;

        memcpy((char *)c->send + i * bytes, period, n * bytes);
    }
}

static int agrees(const struct bench_call *c, const char *got, const char *wanted, int rounded)
{
    const double x = decode(wanted, c->dtype);

    if (memcmp(got, wanted, pld_dtype_bytes(c->dtype)) == 0)
        return 1;
    return rounded && fabs(decode(got, c->dtype) - x) <= fabs(x) * spacing(c->dtype);
}

/* Elements that differ from the period, of which the first is at `place`. */
static long long count_wrong(const struct bench_call *c, const char *got, size_t place,
                             const char *period, int rounded)
{
    const size_t bytes = pld_dtype_bytes(c->dtype);
    long long wrong = 0;
    size_t n;

    for (size_t i = 0; i < c->count; i += n) {
        const size_t at = (place + i) % PERIOD;

        n = PERIOD - at < c->count - i ? PERIOD - at : c->count - i;
        if (memcmp(got + i * bytes, period + at * bytes, n * bytes) == 0)
            continue;
        for (size_t k = 0; k < n; k++)
            wrong += !agrees(c, got + (i + k) * bytes, period + (at + k) * bytes, rounded);
    }
    return wrong;
}

static int source_of(const struct bench_call *c, const struct bench_op *op, int part)
{
    if (op->from == BENCH_ALL_RANKS)
        return -1;
    if (op->from == BENCH_ROOT)
        return c->root;
    return op->from == BENCH_EACH_RANK ? part : (c->rank + c->size - 1) % c->size;
}

/* `before`: elements that this rank sends before these. */
static long long count_call(const struct bench_call *c, const struct bench_op *op, size_t before)
{
    const int rounded = op->from == BENCH_ALL_RANKS && c->redop == PLD_AVG;
    const size_t bytes = pld_dtype_bytes(c->dtype);
    const int sent_parts = op->send_parts ? c->size : 1;
    char period[PERIOD * WIDEST];
    long long wrong = 0;

    for (int part = 0; part < (op->recv_parts ? c->size : 1); part++) {
        if (op->root_receives && c->rank != c->root)
            break;
        make_period(c, op, source_of(c, op, part), period);
        wrong += count_wrong(c, (const char *)c->recv + (size_t)part * c->count * bytes,
                             before + (op->from_own_part ? (size_t)c->rank * c->count : 0), period,
                             rounded);
    }
    make_period(c, op, c->rank, period);
    /* What was sent is still there. */
    for (int part = 0; part < sent_parts && !c->in_place; part++)
        wrong += count_wrong(c, (const char *)c->send + (size_t)part * c->count * bytes,
                             before + (size_t)part * c->count, period, 0);
    return wrong;
}

long long bench_check_count(const struct bench_call *c, const struct bench_op *op)
{
    long long wrong = 0;

    if (op->from == BENCH_NOTHING)
        return 0;
    if (!op->items)
        return count_call(c, op, 0);
    for (int i = 0; i < BENCH_ITEMS; i++) {
        const struct bench_piece p = bench_piece_of(c, op->send_parts, op->recv_parts, i);

        wrong += count_call(&p.call, op, p.before);
    }
    return wrong;
}
