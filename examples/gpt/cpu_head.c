/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The head's part on the processor: logits, cross-entropy, and at once their gradients.
 *
 * The logits of `head_rows` rows exist at a time, as blocks of GPT_HEAD_COLS
 * columns that are one dense matrix each: while a block is in cache it enters the
 * sums of exponentials, and later becomes its gradient and meets its part of the
 * embedding matrix and of that one's gradient.
 */

#include "gemm.h"
#include "stage.h"

#include <math.h>

static int width(const struct gpt_stage *s, int first)
{
    const int left = s->config.vocab - first;

    return left < GPT_HEAD_COLS ? left : GPT_HEAD_COLS;
}

static float *block(const struct gpt_stage *s, int first)
{
    float *logits = s->scratch.logits;

    return logits + (size_t)first * (size_t)s->head_rows;
}

static const float *embedding(const struct gpt_stage *s, int first)
{
    return s->own.of[GPT_WTE].value + (size_t)first * (size_t)s->config.channels;
}

/* Logits, and per row the logarithm of the sum of their exponentials in place of the maximum. */
static void logits(struct gpt_stage *s, const struct gpt_part *part)
{
    const int c = s->config.channels;
    float *maximum = s->scratch.maximum, *sum = s->scratch.sum;

    for (int i = 0; i < part->rows; i++) {
        maximum[i] = -INFINITY;
        sum[i] = 0;
    }
    for (int first = 0; first < s->config.vocab; first += GPT_HEAD_COLS) {
        const int n = width(s, first);

        gemm_nt(part->rows, n, c, 1.0F, part->hidden, c, embedding(s, first), c, 0.0F,
                block(s, first), n);
        gpt_lap(s, GPT_HEAD);
        s->kernels->logsumexp(maximum, sum, block(s, first), (size_t)part->rows, (size_t)n);
        gpt_lap(s, GPT_LOSS);
    }
    for (int i = 0; i < part->rows; i++)
        maximum[i] += logf(sum[i]);
}

static float *target_logit(const struct gpt_stage *s, int row, int target)
{
    const int first = target / GPT_HEAD_COLS * GPT_HEAD_COLS;

    return block(s, first) + (size_t)row * (size_t)width(s, first) + (target - first);
}

static double losses(const struct gpt_stage *s, const struct gpt_part *part)
{
    double sum = 0;

    for (int i = 0; i < part->rows; i++)
        sum += (double)s->scratch.maximum[i] - (double)*target_logit(s, i, part->targets[i]);
    return sum;
}

/* The gradient of the logits in their place; its products with both factors. */
static void gradients(struct gpt_stage *s, const struct gpt_part *part, float *dhidden)
{
    const int c = s->config.channels;
    const float scale = part->scale * (part->times != NULL ? *part->times : 1);
    float *dweight = s->own.of[GPT_WTE].grad;

    for (int first = 0; first < s->config.vocab; first += GPT_HEAD_COLS) {
        const int n = width(s, first);
        float *d = block(s, first);

        s->kernels->probabilities(d, s->scratch.maximum, scale, (size_t)part->rows, (size_t)n);
        for (int i = 0; i < part->rows; i++)
            if (part->targets[i] >= first && part->targets[i] < first + n)
                *target_logit(s, i, part->targets[i]) -= scale;
        gpt_lap(s, GPT_LOSS);
        gemm_nn(part->rows, c, n, d, n, embedding(s, first), c, first == 0 ? 0.0F : 1.0F, dhidden,
                c);
        gemm_tn(n, c, part->rows, d, n, part->hidden, c, 1.0F, dweight + (size_t)first * (size_t)c,
                c);
        gpt_lap(s, GPT_HEAD);
    }
}

void gpt_cpu_head(struct gpt_stage *s, const struct gpt_part *part, void *dhidden)
{
    logits(s, part);
    s->loss += losses(s, part);
    if (part->scale != 0)
        gradients(s, part, dhidden);
}

int gpt_cpu_logits(struct gpt_stage *s, const void *hidden, float *out)
{
    const int c = s->config.channels;

    cblas_sgemv(CblasRowMajor, CblasNoTrans, s->config.vocab, c, 1.0F, embedding(s, 0), c, hidden,
                1, 0.0F, out, 1);
    gpt_lap(s, GPT_HEAD);
    return 0;
}
