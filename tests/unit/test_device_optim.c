/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Every table of this processor against the scalar one, bit for bit, at all
 * misalignments and tails; and the scalar one against the formulas in double.
 */

#include "device/device_kernels.h"

#include <polder/random.h>

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tap.h"

enum { MOST = 700, GUARD = 64, ARRAYS = 4 };

static const char *const tables[] = {"scalar", "avx2", "avx512"};
enum { TABLES = 3 };

struct arrays {
    float data[ARRAYS][GUARD + MOST + GUARD];
};

static void fill(struct arrays *a, uint64_t seed)
{
    for (int k = 0; k < ARRAYS; k++)
        pld_random_normal(seed, (uint64_t)k, 0, GUARD + MOST + GUARD, a->data[k]);
    for (int i = 0; i < GUARD + MOST + GUARD; i++)
        a->data[3][i] = fabsf(a->data[3][i]) * 1e-3F;
}

static const struct pldi_adamw adamw_args = {.beta1 = 0.9F,
                                             .beta2 = 0.999F,
                                             .rest1 = 0.1F,
                                             .rest2 = 0.001F,
                                             .grad_factor = 0.37F,
                                             .step_size = 3e-3F,
                                             .sqrt_factor = 5.5F,
                                             .eps = 1e-8F,
                                             .decay_factor = 0.9997F};
static const struct pldi_sgd sgd_args = {
    .lr = 0.03F, .momentum = 0.9F, .grad_factor = 0.37F, .decay_factor = 0.9997F};

static void sweep(const struct pldi_kernels *k, int which, struct arrays *a, int at, size_t n)
{
    float *w = a->data[0] + at;
    float *g = a->data[1] + at + (at & 3);
    float *m = a->data[2] + at + (at & 1);
    float *v = a->data[3] + at;

    if (which == 0)
        k->adamw(w, g, m, v, n, &adamw_args);
    else
        k->sgd(w, g, which == 1 ? m : NULL, n, &sgd_args);
}

static void test_sweeps_equal(const struct pldi_kernels *k, const struct pldi_kernels *scalar)
{
    static struct arrays ours, theirs;
    int differ = 0;
    int runs = 0;

    for (int which = 0; which < 3; which++)
        for (int at = GUARD - 17; at < GUARD; at += 1)
            for (size_t n = 0; n < MOST; n += n < 80 ? 1 : 61) {
                fill(&ours, 7 + n);
                theirs = ours;
                sweep(k, which, &ours, at, n);
                sweep(scalar, which, &theirs, at, n);
                differ += memcmp(&ours, &theirs, sizeof(ours)) != 0;
                runs++;
            }
    ok(differ == 0, "%s: %d of %d sweeps differ from scalar in a bit, or beyond their range",
       k->name, differ, runs);
}

static uint16_t half_bits(uint64_t index)
{
    return (uint16_t)(pld_random_u64(3, 9, index) & 0xbbffU); /* no infinity, no NaN */
}

static void test_sums_equal(const struct pldi_kernels *k, const struct pldi_kernels *scalar)
{
    static const pld_dtype dtypes[] = {PLD_F32, PLD_F64, PLD_F16, PLD_BF16};
    static union {
        float f32[MOST + GUARD];
        double f64[MOST + GUARD];
        uint16_t half[MOST + GUARD];
    } x;
    int differ = 0;

    for (int d = 0; d < 4; d++) {
        for (uint64_t i = 0; i < MOST + GUARD; i++) {
            float f;

            pld_random_normal(5, 1, i, 1, &f);
            if (dtypes[d] == PLD_F32)
                x.f32[i] = f;
            else if (dtypes[d] == PLD_F64)
                x.f64[i] = (double)f / 3;
            else
                x.half[i] = half_bits(i);
        }
        for (size_t at = 0; at < 17; at++)
            for (size_t n = 0; n < MOST; n += n < 70 ? 1 : 53) {
                const char *src = (const char *)&x + at * pld_dtype_bytes(dtypes[d]);
                const double ours = k->sum_squares(src, n, dtypes[d]);
                const double theirs = scalar->sum_squares(src, n, dtypes[d]);

                differ += memcmp(&ours, &theirs, sizeof(ours)) != 0;
            }
    }
    ok(differ == 0, "%s: %d sums of squares differ from scalar in a bit", k->name, differ);
}

static void test_sum_values(const struct pldi_kernels *k)
{
    static float x[100001];
    float hot[40];
    long double want = 0;
    double got;

    pld_random_normal(1, 2, 0, 100001, x);
    for (int i = 0; i < 100001; i++)
        want += (long double)x[i] * (long double)x[i];
    got = k->sum_squares(x, 100001, PLD_F32);
    ok(fabs(got / (double)want - 1) < 1e-14, "%s: sum of squares %.17g, wanted %.17g", k->name, got,
       (double)want);
    for (int bad = 0; bad < 40; bad++) {
        memset(hot, 0, sizeof(hot));
        hot[bad] = bad % 2 ? NAN : -INFINITY;
        if (isfinite(k->sum_squares(hot, 40, PLD_F32)))
            break;
        hot[bad] = 3e38F;
        if (!isfinite(k->sum_squares(hot, 40, PLD_F32)) || bad == 39) {
            ok(bad == 39, "%s: not finite if and only if an element is not", k->name);
            return;
        }
    }
    ok(0, "%s: an element that is not finite goes unseen", k->name);
}

/* The update of one element, in double, straight from the paper. */
static void test_adamw_formula(const struct pldi_kernels *k)
{
    static struct arrays a, before;
    double worst = 0;
    int zeroed = 1;

    fill(&a, 11);
    before = a;
    k->adamw(a.data[0], a.data[1], a.data[2], a.data[3], MOST, &adamw_args);
    for (int i = 0; i < MOST; i++) {
        const double g = (double)before.data[1][i] * 0.37;
        const double m = 0.9 * (double)before.data[2][i] + 0.1 * g;
        const double v = 0.999 * (double)before.data[3][i] + 0.001 * g * g;
        const double w = 0.9997 * (double)before.data[0][i] - 3e-3 * m / (sqrt(v) * 5.5 + 1e-8);

        worst = fmax(worst, fabs(w - (double)a.data[0][i]) / (1e-3 + fabs(w)));
        worst = fmax(worst, fabs(m - (double)a.data[2][i]) / (1e-3 + fabs(m)));
        worst = fmax(worst, fabs(v - (double)a.data[3][i]) / (1e-6 + fabs(v)));
        zeroed &= a.data[1][i] == 0;
    }
    ok(worst < 3e-6, "%s: adamw within %.1e of the formula", k->name, worst);
    ok(zeroed, "%s: adamw leaves the gradient zero", k->name);
}

/* Every bit pattern of a half, by the definition of the format. */
static double half_value(uint16_t bits, int exponent_bits)
{
    const int mantissa_bits = 15 - exponent_bits;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = (bits & 0x7fff) >> mantissa_bits;
    const double mantissa = bits & ((1 << mantissa_bits) - 1);
    const double sign = bits & 0x8000 ? -1 : 1;

    if (exponent == (1 << exponent_bits) - 1)
        return mantissa != 0 ? NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp(ldexp(1, mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

static void test_widen(const struct pldi_kernels *k, pld_dtype dtype, int exponent_bits)
{
    static uint16_t half[65536], back[65536];
    static float wide[65536];
    int wrong = 0;
    int changed = 0;

    for (int i = 0; i < 65536; i++)
        half[i] = (uint16_t)i;
    k->widen(wide, half, 65536, dtype);
    k->narrow(back, wide, 65536, dtype);
    for (int i = 0; i < 65536; i++) {
        const double want = half_value(half[i], exponent_bits);

        wrong += isnan(want) ? !isnan(wide[i])
                             : (double)wide[i] != want || !signbit(wide[i]) != !signbit(want);
        changed += isnan(want) ? !isnan(half_value(back[i], exponent_bits)) : back[i] != half[i];
    }
    ok(wrong == 0, "%s: widening %s: %d of 65536 wrong", k->name, pld_dtype_name(dtype), wrong);
    ok(changed == 0, "%s: narrowing back %s: %d of 65536 changed", k->name, pld_dtype_name(dtype),
       changed);
}

/* Between two neighbours: the nearer; in the middle: the even one. */
static void test_narrow(const struct pldi_kernels *k, pld_dtype dtype, int exponent_bits)
{
    const uint16_t infinite = (uint16_t)(((1 << exponent_bits) - 1) << (15 - exponent_bits));
    int wrong = 0;

    for (uint16_t low = 0; low + 1 < infinite; low++) {
        const float a = (float)half_value(low, exponent_bits);
        const float b = (float)half_value((uint16_t)(low + 1), exponent_bits);
        const float middle = a + (b - a) / 2;
        const float in[4] = {nextafterf(middle, a), middle, nextafterf(middle, b), -middle};
        const uint16_t even = (uint16_t)(low + (low & 1));
        const uint16_t want[4] = {low, even, (uint16_t)(low + 1), (uint16_t)(even | 0x8000)};
        uint16_t got[4];

        k->narrow(got, in, 4, dtype);
        wrong += memcmp(got, want, sizeof(got)) != 0;
    }
    ok(wrong == 0, "%s: rounding to %s: wrong in %d intervals", k->name, pld_dtype_name(dtype),
       wrong);
}

static void test_narrow_ends(const struct pldi_kernels *k)
{
    const float in[6] = {65519.0F, 65520.0F, -1e30F, 0x1p-25F, 0x1.000002p-25F, -INFINITY};
    const uint16_t want[6] = {0x7bff, 0x7c00, 0xfc00, 0, 1, 0xfc00};
    const float huge[2] = {0x1.fffffep127F, -INFINITY};
    const float nan = NAN;
    uint16_t got[6];

    k->narrow(got, in, 6, PLD_F16);
    ok(memcmp(got, want, sizeof(want)) == 0, "%s: f16 ends: %04x %04x %04x %04x %04x %04x", k->name,
       got[0], got[1], got[2], got[3], got[4], got[5]);
    k->narrow(got, huge, 2, PLD_BF16);
    ok(got[0] == 0x7f80 && got[1] == 0xff80, "%s: bf16 ends: %04x %04x", k->name, got[0], got[1]);
    k->narrow(got, &nan, 1, PLD_F16);
    k->narrow(got + 1, &nan, 1, PLD_BF16);
    ok((got[0] & 0x7fff) > 0x7c00 && (got[1] & 0x7fff) > 0x7f80, "%s: NaN stays NaN: %04x %04x",
       k->name, got[0], got[1]);
}

int main(void)
{
    const struct pldi_kernels *scalar = pldi_kernels_find("scalar");

    for (int t = 0; t < TABLES; t++) {
        const struct pldi_kernels *k = pldi_kernels_find(tables[t]);

        if (k == NULL) {
            ok(1, "%s # SKIP not on this processor", tables[t]);
            continue;
        }
        test_sweeps_equal(k, scalar);
        test_sums_equal(k, scalar);
        test_sum_values(k);
        test_adamw_formula(k);
        test_widen(k, PLD_F16, 5);
        test_widen(k, PLD_BF16, 8);
        test_narrow(k, PLD_F16, 5);
        test_narrow(k, PLD_BF16, 8);
        test_narrow_ends(k);
    }
    return tap_done();
}
