/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Compiled once per instruction set with GPT_ISA set to its name; the loops are
 * plain C that the compiler vectorises.  Sums say so to it (omp simd): a row is
 * added up in as many parts as a vector has lanes.
 */

#include "kernels.h"

#include <math.h>
#include <string.h>

/*
 * e^x to 2e-7 of itself for |x| <= 64 and constant beyond, which no sum with 1 can
 * tell, and which keeps denormal numbers out of the matrix products.  x = k ln 2 + r
 * with k read off the low bits of x/ln 2 + 1.5*2^23; polynomial of Cephes' expf.
 */
static inline float exponential(float x)
{
    const float shift = 12582912.0F;
    float k, r, p, power;
    uint32_t bits;

    x = x < -64.0F ? -64.0F : x;
    x = x > 64.0F ? 64.0F : x;
    k = x * 1.44269504F + shift;
    memcpy(&bits, &k, sizeof(bits));
    k -= shift;
    r = x - k * 0.693359375F;
    r = r + k * 2.12194440e-4F;
    p = 1.9875691500e-4F;
    p = p * r + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    p = p * (r * r) + r + 1.0F;
    bits = (bits << 23) + 0x3F800000U;
    memcpy(&power, &bits, sizeof(power));
    return p * power;
}

static void add(float *restrict out, const float *restrict a, const float *restrict b, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = a[i] + b[i];
}

static void fill(float *restrict out, const float *restrict base, const float *restrict bias,
                 size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++) {
        if (base == NULL)
            memcpy(out + i * cols, bias, cols * sizeof(*out));
        else
            add(out + i * cols, base + i * cols, bias, cols);
    }
}

/* Four rows at once: the sum is read and written a fourth as often. */
static void column_sum(float *restrict sum, const float *restrict a, size_t rows, size_t cols)
{
    size_t i = 0;

    for (; i + 4 <= rows; i += 4, a += 4 * cols)
        for (size_t j = 0; j < cols; j++)
            sum[j] += (a[j] + a[cols + j]) + (a[2 * cols + j] + a[3 * cols + j]);
    for (; i < rows; i++, a += cols)
        for (size_t j = 0; j < cols; j++)
            sum[j] += a[j];
}

static inline float row_sum(const float *x, size_t n)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < n; j++)
        sum += x[j];
    return sum;
}

static inline float row_dot(const float *a, const float *b, size_t n)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < n; j++)
        sum += a[j] * b[j];
    return sum;
}

static void row_dots(float *restrict out, const float *a, size_t lda, const float *b, size_t ldb,
                     size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++)
        out[i] = row_dot(a + i * lda, b + i * ldb, cols);
}

static inline float row_variance(const float *x, float mean, size_t n)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < n; j++)
        sum += (x[j] - mean) * (x[j] - mean);
    return sum / (float)n;
}

static void norm(float *restrict out, const struct gpt_norm *norm, const float *restrict x,
                 size_t rows, size_t cols)
{
    const float *restrict weight = norm->weight, *restrict bias = norm->bias;

    for (size_t i = 0; i < rows; i++, x += cols, out += cols) {
        const float mean = row_sum(x, cols) / (float)cols;
        const float rstd = 1.0F / sqrtf(row_variance(x, mean, cols) + 1e-5F);

        for (size_t j = 0; j < cols; j++)
            out[j] = (x[j] - mean) * rstd * weight[j] + bias[j];
        norm->mean[i] = mean;
        norm->rstd[i] = rstd;
    }
}

/* With h = (x - mean) * rstd and g = the gradient of h: dx = rstd * (g - mean(g) - h mean(g h)). */
static inline void norm_backward_row(float *restrict dx, float *restrict out,
                                     float *restrict dweight, float *restrict dbias,
                                     const float *restrict weight, const float *restrict bias,
                                     const float *restrict x, float mean, float rstd, size_t n)
{
    float sum = 0, dot = 0;

#pragma omp simd reduction(+ : sum, dot)
    for (size_t j = 0; j < n; j++) {
        const float g = out[j] * weight[j];

        sum += g;
        dot += g * ((x[j] - mean) * rstd);
    }
    sum /= (float)n;
    dot /= (float)n;
    for (size_t j = 0; j < n; j++) {
        const float h = (x[j] - mean) * rstd, d = out[j];

        dx[j] += rstd * (d * weight[j] - sum - h * dot);
        dweight[j] += d * h;
        dbias[j] += d;
        out[j] = h * weight[j] + bias[j];
    }
}

static void norm_backward(float *dx, float *out, float *dweight, float *dbias,
                          const struct gpt_norm *norm, const float *x, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++)
        norm_backward_row(dx + i * cols, out + i * cols, dweight, dbias, norm->weight, norm->bias,
                          x + i * cols, norm->mean[i], norm->rstd[i], cols);
}

/*
 * x/2 (1 + tanh u) with u = sqrt(2/pi) (x + 0.044715 x^3) is x s with s = 1/(1 + e^-2u):
 * one exponential, and no cancellation for negative x.
 */
#define TWO_U_1 1.5957691216F
#define TWO_U_3 (1.5957691216F * 0.044715F)

static void gelu(float *restrict out, const float *restrict x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const float v = x[i];
        const float two_u = v * (TWO_U_1 + TWO_U_3 * v * v);

        out[i] = v / (1.0F + exponential(-two_u));
    }
}

static void gelu_backward(float *restrict d, float *restrict out, const float *restrict x,
                          size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const float v = x[i];
        const float two_u = v * (TWO_U_1 + TWO_U_3 * v * v);
        const float e = exponential(-two_u);
        const float s = 1.0F / (1.0F + e);
        const float slope = v * (TWO_U_1 + 3.0F * TWO_U_3 * v * v);

        out[i] = v * s;
        d[i] *= s * (1.0F + slope * (e * s));
    }
}

/* Compilers do not agree on a reduction of maxima: the lanes are spelt out. */
static inline float row_maximum(const float *x, size_t n)
{
    enum { LANES = 16 };
    float lane[LANES], most = -INFINITY;
    size_t j = 0;

    for (int l = 0; l < LANES; l++)
        lane[l] = -INFINITY;
    for (; j + LANES <= n; j += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] = x[j + (size_t)l] > lane[l] ? x[j + (size_t)l] : lane[l];
    for (; j < n; j++)
        most = x[j] > most ? x[j] : most;
    for (int l = 0; l < LANES; l++)
        most = lane[l] > most ? lane[l] : most;
    return most;
}

static void softmax(float *s, float *lse, size_t first, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++, s += cols) {
        const size_t n = first + i + 1;
        const float most = row_maximum(s, n);
        float sum = 0, factor;

#pragma omp simd reduction(+ : sum)
        for (size_t j = 0; j < n; j++) {
            s[j] = exponential(s[j] - most);
            sum += s[j];
        }
        factor = 1.0F / sum;
        for (size_t j = 0; j < n; j++)
            s[j] *= factor;
        memset(s + n, 0, (cols - n) * sizeof(*s));
        lse[i] = most + logf(sum);
    }
}

static void softmax_backward(float *restrict s, float *restrict d, const float *lse,
                             const float *delta, float scale, size_t first, size_t rows,
                             size_t cols)
{
    for (size_t i = 0; i < rows; i++, s += cols, d += cols) {
        const size_t n = first + i + 1;
        const float base = lse[i], product = delta[i];

        for (size_t j = 0; j < n; j++) {
            s[j] = exponential(s[j] - base);
            d[j] = scale * s[j] * (d[j] - product);
        }
        memset(s + n, 0, (cols - n) * sizeof(*s));
        memset(d + n, 0, (cols - n) * sizeof(*d));
    }
}

static void logsumexp(float *maximum, float *sum, const float *logits, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++, logits += cols) {
        const float here = row_maximum(logits, cols);
        const float most = here > maximum[i] ? here : maximum[i];
        float more = 0;

#pragma omp simd reduction(+ : more)
        for (size_t j = 0; j < cols; j++)
            more += exponential(logits[j] - most);
        sum[i] = sum[i] * exponential(maximum[i] - most) + more;
        maximum[i] = most;
    }
}

static void probabilities(float *restrict logits, const float *restrict lse, float scale,
                          size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++, logits += cols) {
        const float base = lse[i];

        for (size_t j = 0; j < cols; j++)
            logits[j] = scale * exponential(logits[j] - base);
    }
}

#define JOIN(a, b) a##b
#define TABLE(isa) JOIN(gpt_kernels_, isa)
#define TEXT(x) #x
#define NAME(isa) TEXT(isa)

extern const struct gpt_kernels TABLE(GPT_ISA);
const struct gpt_kernels TABLE(GPT_ISA) = {
    .name = NAME(GPT_ISA),
    .add = add,
    .fill = fill,
    .column_sum = column_sum,
    .norm = norm,
    .norm_backward = norm_backward,
    .gelu = gelu,
    .gelu_backward = gelu_backward,
    .softmax = softmax,
    .softmax_backward = softmax_backward,
    .row_dots = row_dots,
    .logsumexp = logsumexp,
    .probabilities = probabilities,
};
