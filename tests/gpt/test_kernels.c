/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The loops of every instruction set of this processor against their definitions in
 * double, at sizes around those of vectors, with guards behind what is written.
 */

#include <kernels.h>
#include <polder/random.h>

#include <math.h>
#include <string.h>

#include "tap.h"

enum { ROWS = 7, MOST = 131, GUARD = 16, SIZE = ROWS * MOST + GUARD };

static const float guard = 12345.0F;

/* Inputs, results, and how far the worst one is off. */
static float a[SIZE], b[SIZE], c[SIZE], weight[MOST], bias[MOST], d_weight[SIZE], d_bias[SIZE];
static float mean[ROWS], rstd[ROWS], row[ROWS + GUARD], row2[ROWS + GUARD];
static double worst;

static void off(double got, double wanted, double unit)
{
    const double error = fabs(got - wanted) / unit;

    if (!(error <= worst)) /* NaN counts */
        worst = error;
}

static void normal(uint64_t stream, size_t count, float scale, float *out)
{
    pld_random_normal(7, stream, 0, count, out);
    for (size_t i = 0; i < count; i++)
        out[i] *= scale;
}

static void fresh(size_t count, float scale)
{
    normal(1, count, scale, a);
    normal(2, count, 1, b);
    normal(3, count, 1, c);
    normal(4, MOST, 1, weight);
    normal(5, MOST, 1, bias);
    for (size_t i = count; i < SIZE; i++)
        a[i] = b[i] = c[i] = guard;
    for (size_t i = 0; i < ROWS + GUARD; i++)
        row[i] = row2[i] = guard;
    worst = 0;
}

static int guarded(size_t count)
{
    int whole = 1;

    for (size_t i = count; i < SIZE; i++)
        whole = whole && a[i] == guard && b[i] == guard && c[i] == guard;
    return whole;
}

static double gelu_of(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/* Relative to the value, down to where it is nothing beside 1; slope by differences. */
static void test_gelu(const struct gpt_kernels *k)
{
    static float x[4001], out[4001], again[4001], d[4001];
    const double h = 1e-5;
    double slope_error = 0;
    int same;

    worst = 0;
    for (int i = 0; i <= 4000; i++) {
        x[i] = (float)(i - 2000) / 160.0F;
        d[i] = 2.0F;
    }
    k->gelu(out, x, 4001);
    k->gelu_backward(d, again, x, 4001);
    same = 1;
    for (int i = 0; i <= 4000; i++) {
        const double v = (double)x[i], slope = (gelu_of(v + h) - gelu_of(v - h)) / (2 * h);

        off((double)out[i], gelu_of(v), fabs(gelu_of(v)) + 1e-7);
        slope_error = fmax(slope_error, fabs((double)d[i] - 2 * slope));
        same = same && fabsf(out[i] - again[i]) <= 4e-7F * fabsf(out[i]) + 1e-20F;
    }
    ok(worst < 2e-6 && same, "%s: gelu to %.1e", k->name, worst);
    ok(slope_error < 3e-6, "%s: slope of gelu to %.1e", k->name, slope_error);
}

static void test_plain(const struct gpt_kernels *k, size_t n)
{
    const size_t count = ROWS * n;

    fresh(count, 1);
    k->add(c, a, b, count);
    for (size_t i = 0; i < count; i++)
        off((double)c[i], (double)a[i] + (double)b[i], 1);
    k->fill(c, a, bias, ROWS, n);
    for (size_t i = 0; i < count; i++)
        off((double)c[i], (double)a[i] + (double)bias[i % n], 1);
    k->fill(c, NULL, bias, ROWS, n);
    for (size_t i = 0; i < count; i++)
        off((double)c[i], (double)bias[i % n], 1);
    k->column_sum(c, a, ROWS, n); /* its first row holds the bias */
    for (size_t j = 0; j < n; j++) {
        double sum = (double)bias[j];

        for (size_t i = 0; i < ROWS; i++)
            sum += (double)a[i * n + j];
        off((double)c[j], sum, 1);
    }
    k->row_dots(row, a, n, b, n, ROWS, n);
    for (size_t i = 0; i < ROWS; i++) {
        double sum = 0;

        for (size_t j = 0; j < n; j++)
            sum += (double)a[i * n + j] * (double)b[i * n + j];
        off((double)row[i], sum, sqrt((double)n));
    }
    ok(worst < 3e-6 && guarded(count), "%s: sums of %zu columns to %.1e", k->name, n, worst);
}

/* Mean and reciprocal deviation of a row of a. */
static void moments(size_t i, size_t n, double *m, double *r)
{
    double sum = 0, squares = 0;

    for (size_t j = 0; j < n; j++)
        sum += (double)a[i * n + j];
    *m = sum / (double)n;
    for (size_t j = 0; j < n; j++)
        squares += pow((double)a[i * n + j] - *m, 2);
    *r = 1 / sqrt(squares / (double)n + 1e-5);
}

static void check_norm_row(size_t i, size_t n, const float *dx, const float *out, const float *dy)
{
    double m, r, sum = 0, dot = 0;

    moments(i, n, &m, &r);
    for (size_t j = 0; j < n; j++) {
        const double g = (double)dy[i * n + j] * (double)weight[j];

        sum += g / (double)n;
        dot += g * ((double)a[i * n + j] - m) * r / (double)n;
    }
    for (size_t j = 0; j < n; j++) {
        const double h = ((double)a[i * n + j] - m) * r;
        const double g = (double)dy[i * n + j] * (double)weight[j];

        off((double)out[i * n + j], h * (double)weight[j] + (double)bias[j], 1 + fabs(h));
        off((double)dx[i * n + j], 1 + r * (g - sum - h * dot), 1 + r);
    }
}

static void test_norm(const struct gpt_kernels *k, size_t n)
{
    const size_t count = ROWS * n;
    const struct gpt_norm norm = {weight, bias, mean, rstd};
    static float dy[SIZE];

    fresh(count, 3);
    k->norm(c, &norm, a, ROWS, n);
    memcpy(dy, b, sizeof(dy));
    memset(d_weight, 0, sizeof(d_weight));
    memset(d_bias, 0, sizeof(d_bias));
    for (size_t i = 0; i < count; i++)
        c[i] = 1;
    k->norm_backward(c, b, d_weight, d_bias, &norm, a, ROWS, n);
    for (size_t i = 0; i < ROWS; i++)
        check_norm_row(i, n, c, b, dy);
    for (size_t j = 0; j < n; j++) {
        double dw = 0, db = 0, m, r;

        for (size_t i = 0; i < ROWS; i++) {
            moments(i, n, &m, &r);
            dw += (double)dy[i * n + j] * ((double)a[i * n + j] - m) * r;
            db += (double)dy[i * n + j];
        }
        off((double)d_weight[j], dw, ROWS);
        off((double)d_bias[j], db, ROWS);
    }
    ok(worst < 5e-6 && guarded(count), "%s: norm of %zu columns to %.1e", k->name, n, worst);
}

/* Rows n-ROWS .. n-1 of a causal matrix with n columns. */
static void test_softmax(const struct gpt_kernels *k, size_t n)
{
    const size_t count = ROWS * n, first = n - ROWS;
    static float s[SIZE], dp[SIZE];
    int zeros = 1;

    fresh(count, 5);
    memcpy(s, a, sizeof(s));
    memcpy(dp, b, sizeof(dp));
    memcpy(c, a, count * sizeof(*c));
    k->softmax(a, row, first, ROWS, n);
    for (size_t i = 0; i < ROWS; i++)
        row2[i] = 0.25F;
    k->softmax_backward(c, b, row, row2, 0.5F, first, ROWS, n);
    for (size_t i = 0; i < ROWS; i++) {
        double sum = 0;

        for (size_t j = 0; j <= first + i; j++)
            sum += exp((double)s[i * n + j]);
        off((double)row[i], log(sum), 10);
        for (size_t j = 0; j < n; j++) {
            const size_t at = i * n + j;
            const double p = exp((double)s[at]) / sum;

            zeros = zeros && (j <= first + i || (a[at] == 0 && b[at] == 0 && c[at] == 0));
            if (j > first + i)
                continue;
            off((double)a[at], p, p);
            off((double)c[at], p, p * 4);
            off((double)b[at], 0.5 * p * ((double)dp[at] - 0.25), p * 4);
        }
    }
    ok(worst < 2e-6 && zeros && guarded(count), "%s: softmax of %zu columns to %.1e", k->name, n,
       worst);
}

/* Logits in two parts, the second of which may have the maximum. */
static void test_logits(const struct gpt_kernels *k, size_t n)
{
    const size_t count = ROWS * n;
    static float first[SIZE], second[SIZE];

    fresh(count, 8);
    memcpy(first, a, sizeof(first));
    memcpy(second, b, sizeof(second));
    for (size_t i = 0; i < ROWS; i++) {
        row[i] = -INFINITY;
        row2[i] = 0;
    }
    k->logsumexp(row, row2, a, ROWS, n);
    k->logsumexp(row, row2, b, ROWS, n);
    for (size_t i = 0; i < ROWS; i++)
        row[i] += logf(row2[i]);
    k->probabilities(a, row, 0.125F, ROWS, n);
    for (size_t i = 0; i < ROWS; i++) {
        double sum = 0;

        for (size_t j = 0; j < n; j++)
            sum += exp((double)first[i * n + j]) + exp((double)second[i * n + j]);
        off((double)row[i], log(sum), 10);
        for (size_t j = 0; j < n; j++)
            off((double)a[i * n + j], 0.125 * exp((double)first[i * n + j]) / sum,
                0.25 * exp((double)first[i * n + j]) / sum);
    }
    ok(worst < 2e-6 && guarded(count), "%s: logits in %zu columns to %.1e", k->name, n, worst);
}

/* What is not a number must not become one. */
static void test_nan(const struct gpt_kernels *k)
{
    float x[3] = {1, NAN, 2}, out[3], lse[1], most = -INFINITY, sum = 0;

    k->gelu(out, x, 3);
    ok(isnan(out[1]) && !isnan(out[0]), "%s: gelu of NaN", k->name);
    k->logsumexp(&most, &sum, x, 1, 3);
    ok(isnan(most + logf(sum)), "%s: NaN among the logits", k->name);
    k->softmax(x, lse, 2, 1, 3);
    ok(isnan(x[0]) && isnan(lse[0]), "%s: NaN among the scores", k->name);
}

int main(void)
{
    static const char *const tables[] = {"scalar", "avx2", "avx512"};
    static const size_t sizes[] = {7, 8, 15, 16, 31, 33, 64, 100, MOST};

    for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++) {
        const struct gpt_kernels *k = gpt_kernels_find(tables[t]);

        if (k == NULL) {
            ok(t > 0, "%s # SKIP not on this processor", tables[t]);
            continue;
        }
        test_gelu(k);
        test_nan(k);
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            test_plain(k, sizes[i]);
            test_norm(k, sizes[i]);
            test_softmax(k, sizes[i]);
            test_logits(k, sizes[i]);
        }
    }
    ok(gpt_kernels_find("mmx") == NULL, "unknown instruction set");
    return tap_done();
}
