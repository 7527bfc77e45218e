/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Conversions of half types over all their values, and reductions of them: every table of
 * this processor against the scalar one, bit for bit; and the scalar one against the exact
 * result, within the rounding that was promised.
 */

#include "device/device_kernels.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tap.h"

enum { MOST = 2100, SOURCES = 5, GUARD = 40, HALVES = 1 << 16, FLOATS = 1 << 20 };

static const char *const tables[] = {"scalar", "avx2", "avx512"};
static const pld_dtype half_types[] = {PLD_F16, PLD_BF16};

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525U + 1013904223U;
    return *state ^ *state >> 15;
}

static int same(const void *a, const void *b, size_t n)
{
    return memcmp(a, b, n) == 0;
}

/* The value of a half by its definition. */
static double value_of(uint16_t half, pld_dtype dtype)
{
    const int bits = dtype == PLD_F16 ? 10 : 7;
    const int bias = dtype == PLD_F16 ? 15 : 127;
    const int exponent = (half & 0x7fff) >> bits;
    const int mantissa = half & ((1 << bits) - 1);
    double value = exponent == 0 ? ldexp(mantissa, 1 - bias - bits)
                                 : ldexp(mantissa + (1 << bits), exponent - bias - bits);

    if (exponent == 2 * bias + 1)
        value = mantissa == 0 ? INFINITY : NAN;
    return half & 0x8000 ? -value : value;
}

static int widens(const struct pldi_kernels *k, const struct pldi_kernels *scalar, pld_dtype dtype)
{
    static uint16_t halves[HALVES];
    static float wide[HALVES];
    static float wanted[HALVES];
    int wrong = 0;

    for (int i = 0; i < HALVES; i++)
        halves[i] = (uint16_t)i;
    k->widen(wide, halves, HALVES, dtype);
    scalar->widen(wanted, halves, HALVES, dtype);
    for (int i = 0; i < HALVES; i++) {
        const double value = value_of((uint16_t)i, dtype);

        wrong += isnan(value) ? !isnan(wide[i]) : (double)wide[i] != value;
    }
    return wrong == 0 && same(wide, wanted, sizeof(wide));
}

/* Of the neighbours of a float none is nearer, and at the same distance none is even. */
static int is_nearest(float x, uint16_t half, pld_dtype dtype)
{
    const double value = value_of(half, dtype);
    const double distance = fabs((double)x - value);
    const double most = dtype == PLD_F16 ? 65504 : (double)3.3895314e38F;

    if (isnan(x))
        return isnan(value);
    if (isinf(value)) /* from half a step above the largest on */
        return isinf(x) || fabs((double)x) >= most + (dtype == PLD_F16 ? 16 : 0x1p119);
    for (int step = -1; step <= 1; step += 2) {
        const uint16_t other = (uint16_t)(half + step);
        const double away = fabs((double)x - value_of(other, dtype));

        if (((half ^ other) & 0x8000) == 0 && (away < distance || (away == distance && half & 1)))
            return 0;
    }
    return !signbit(x) == !signbit(value);
}

static int narrows(const struct pldi_kernels *k, const struct pldi_kernels *scalar, pld_dtype dtype)
{
    static float floats[FLOATS];
    static uint16_t narrow[FLOATS];
    static uint16_t wanted[FLOATS];
    int wrong = 0;

    for (uint32_t i = 0; i < FLOATS; i++) {
        /* Every 4093rd float; every other one moved onto a tie. */
        const uint32_t bits = i * 4093U;
        const uint32_t tie =
            dtype == PLD_F16 ? (bits & ~0x1fffU) | 0x1000U : (bits & ~0xffffU) | 0x8000U;

        memcpy(&floats[i], i % 2 ? &tie : &bits, sizeof(bits));
    }
    k->narrow(narrow, floats, FLOATS, dtype);
    scalar->narrow(wanted, floats, FLOATS, dtype);
    for (int i = 0; i < FLOATS; i++)
        wrong += !is_nearest(floats[i], narrow[i], dtype);
    return wrong == 0 && same(narrow, wanted, sizeof(narrow));
}

static uint16_t data[SOURCES][GUARD + MOST + GUARD];

static void fill(uint32_t seed)
{
    for (int s = 0; s < SOURCES; s++) {
        for (int i = 0; i < GUARD + MOST + GUARD; i++)
            data[s][i] = (uint16_t)next(&seed);
    }
}

static double fold(double x, double y, pld_op op)
{
    return op == PLD_MAX    ? (isnan(x) || x > y ? x : y)
           : op == PLD_MIN  ? (isnan(x) || x < y ? x : y)
           : op == PLD_PROD ? x * y
                            : x + y;
}

/* Within what one rounding to the type and n roundings to f32 may do. */
static int is_close(uint16_t got, const void *const *srcs, int n, size_t i, pld_dtype dtype,
                    pld_op op, double scale)
{
    const double unit = dtype == PLD_F16 ? 0x1p-11 : 0x1p-8;
    const double tiny = dtype == PLD_F16 ? 0x1p-25 : 0x1p-134;
    const double most = dtype == PLD_F16 ? 65504 : 3.38e38;
    double exact = value_of(((const uint16_t *)srcs[0])[i], dtype);
    double size = fabs(exact);
    const double result = value_of(got, dtype);
    double slack;
    int strays = 0; /* a product leaves the range of f32 on the way */

    for (int s = 1; s < n; s++) {
        const double x = value_of(((const uint16_t *)srcs[s])[i], dtype);

        exact = fold(exact, x, op);
        size = op == PLD_PROD ? fabs(exact) : size + fabs(x);
        strays |= op == PLD_PROD && (!(fabs(exact) < 0x1p120) || fabs(exact) < 0x1p-120);
    }
    exact *= scale;
    size *= fabs(scale);
    if (strays)
        return 1;
    if (isnan(exact))
        return isnan(result);
    if (size > most || !(fabs(exact) < most)) /* so may a sum */
        return 1;
    slack = fabs(exact) * unit + size * n * 0x1p-23 + tiny + 0x1p-149 * n;
    return fabs(result - exact) <= slack;
}

struct trial {
    pld_dtype dtype;
    pld_op op;
    int n, at;
    size_t count;
    double scale;
};

static int reduces(const struct pldi_kernels *k, const struct pldi_kernels *scalar,
                   const struct trial *t)
{
    uint16_t out[2][GUARD + MOST + GUARD];
    uint16_t wanted[GUARD + MOST + GUARD];
    const void *srcs[SOURCES];
    void *dsts[2] = {out[0] + t->at, out[1] + t->at + 1};
    int good;

    memset(out, 0x77, sizeof(out));
    memset(wanted, 0x77, sizeof(wanted));
    for (int s = 0; s < t->n; s++)
        srcs[s] = data[s] + t->at + s % 3;
    k->reduce_to(dsts, 2, srcs, t->n, t->count, t->dtype, t->op, t->scale, 1);
    scalar->reduce(wanted + t->at, srcs, t->n, t->count, t->dtype, t->op, t->scale);
    good = same(out[0], wanted, sizeof(wanted)) && same(out[1] + 1, wanted, sizeof(wanted) - 2) &&
           out[1][0] == 0x7777;
    for (size_t i = 0; i < t->count && good; i++) {
        const uint16_t got = out[0][(size_t)t->at + i];

        good = is_close(got, srcs, t->n, i, t->dtype, t->op, t->scale);
    }
    if (!good)
        printf("# %s op %d, %d sources, %zu elements at %d, scale %g\n", pld_dtype_name(t->dtype),
               (int)t->op, t->n, t->count, t->at, t->scale);
    return good;
}

/* NaNs carry bits that depend on the order of operands; one kind of them is left. */
static void keep_one_nan(pld_dtype dtype)
{
    for (int s = 0; s < SOURCES; s++) {
        for (int i = 0; i < GUARD + MOST + GUARD; i++) {
            if (isnan(value_of(data[s][i], dtype)))
                data[s][i] = dtype == PLD_F16 ? 0x7e00 : 0x7fc0;
        }
    }
}

static int all_reductions(const struct pldi_kernels *k, const struct pldi_kernels *scalar,
                          pld_dtype dtype)
{
    static const size_t counts[] = {0,  1,  2,  3,   15,  16,  17,   31,
                                    32, 33, 63, 511, 512, 513, 2047, MOST};
    static const pld_op ops[] = {PLD_SUM, PLD_MAX, PLD_MIN, PLD_PROD};
    int good = 1;

    fill(7);
    keep_one_nan(dtype);
    for (int n = 1; n <= SOURCES; n++) {
        for (size_t c = 0; c < sizeof(counts) / sizeof(*counts) * 4; c++) {
            const struct trial t = {dtype,
                                    ops[c % 4],
                                    n,
                                    (int)(c * 7 % 33),
                                    counts[c / 4],
                                    (c + (size_t)n) % 3 == 0 ? 0.3 : 1};

            good &= reduces(k, scalar, &t);
        }
    }
    return good;
}

int main(void)
{
    const struct pldi_kernels *scalar = pldi_kernels_find("scalar");

    for (size_t i = 0; i < 6; i++) {
        const struct pldi_kernels *k = pldi_kernels_find(tables[i / 2]);
        const pld_dtype dtype = half_types[i % 2];

        if (k == NULL)
            continue;
        ok(widens(k, scalar, dtype), "%s widens every %s", k->name, pld_dtype_name(dtype));
        ok(narrows(k, scalar, dtype), "%s narrows to %s", k->name, pld_dtype_name(dtype));
        ok(all_reductions(k, scalar, dtype), "%s reduces %s", k->name, pld_dtype_name(dtype));
    }
    return tap_done();
}
