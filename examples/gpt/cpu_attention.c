/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Causal attention of one head at a time, for GPT_QUERIES queries at once and the
 * keys that the last of them sees: only that strip of the scores ever exists.  The
 * backward computes it again from the logarithms of its row sums.
 */

#include "gemm.h"
#include "stage.h"

#include <math.h>

/* One head of one sequence: where its parts begin, and the distances of rows. */
struct head {
    const float *q, *k, *v;
    float *lse;
    size_t qkv, out; /* offsets of its first row in qkv and attention */
    int size;        /* of a head */
    int stride3, stride1;
    float scale;
};

static struct head head_of(const struct gpt_stage *s, struct gpt_rows rows,
                           const struct gpt_saved *saved, int b, int h)
{
    const int c = s->config.channels, size = c / s->config.heads;
    const size_t row = (size_t)b * (size_t)rows.seq, column = (size_t)h * (size_t)size;
    const size_t first = row * 3 * (size_t)c + column;
    const float *qkv = saved->qkv;

    return (struct head){
        .q = qkv + first,
        .k = qkv + first + c,
        .v = qkv + first + 2 * (size_t)c,
        .lse = saved->lse + ((size_t)b * (size_t)s->config.heads + (size_t)h) * (size_t)rows.seq,
        .qkv = first,
        .out = row * (size_t)c + column,
        .size = size,
        .stride3 = 3 * c,
        .stride1 = c,
        .scale = 1.0F / sqrtf((float)size),
    };
}

static void scores(const struct head *h, int first, int queries, float *out)
{
    gemm_nt(queries, first + queries, h->size, h->scale, h->q + (size_t)first * (size_t)h->stride3,
            h->stride3, h->k, h->stride3, 0.0F, out, first + queries);
}

static void head_forward(struct gpt_stage *s, const struct head *h, int seq, float *out)
{
    float *p = s->scratch.scores;

    for (int first = 0; first < seq; first += GPT_QUERIES) {
        const int queries = seq - first < GPT_QUERIES ? seq - first : GPT_QUERIES;
        const int keys = first + queries;

        scores(h, first, queries, p);
        s->kernels->softmax(p, h->lse + first, (size_t)first, (size_t)queries, (size_t)keys);
        gemm_nn(queries, h->size, keys, p, keys, h->v, h->stride3, 0.0F,
                out + (size_t)first * (size_t)h->stride1, h->stride1);
    }
}

void gpt_cpu_attention(struct gpt_stage *s, struct gpt_rows rows, const struct gpt_saved *saved)
{
    float *out = saved->attention;

    for (int b = 0; b < rows.batch; b++) {
        for (int h = 0; h < s->config.heads; h++) {
            const struct head head = head_of(s, rows, saved, b, h);

            head_forward(s, &head, rows.seq, out + head.out);
        }
    }
    gpt_lap(s, GPT_ATTENTION);
}

/* One strip: p and ds from the gradient of the output, then what they give to q, k and v.  The
 * strip that sees all keys comes first and sets what the others add to. */
static void strip_backward(struct gpt_stage *s, const struct head *h, int first, int queries,
                           float beta, const float *dout, float *dq)
{
    float *p = s->scratch.scores, *ds = s->scratch.dscores;
    const float *delta = s->scratch.delta + first;
    const int keys = first + queries, c = h->stride1, c3 = h->stride3;
    const size_t row = (size_t)first * (size_t)c3;

    dout += (size_t)first * (size_t)c;
    scores(h, first, queries, p);
    gemm_nt(queries, keys, h->size, 1.0F, dout, c, h->v, c3, 0.0F, ds, keys);
    s->kernels->softmax_backward(p, ds, h->lse + first, delta, h->scale, (size_t)first,
                                 (size_t)queries, (size_t)keys);
    gemm_tn(keys, h->size, queries, p, keys, dout, c, beta, dq + 2 * (size_t)c, c3);
    gemm_tn(keys, h->size, queries, ds, keys, h->q + row, c3, beta, dq + c, c3);
    gemm_nn(queries, h->size, keys, ds, keys, h->k, c3, 0.0F, dq + row, c3);
}

static void head_backward(struct gpt_stage *s, const struct head *h, int seq, const float *out,
                          const float *dout, float *dq)
{
    const size_t c = (size_t)h->stride1;

    s->kernels->row_dots(s->scratch.delta, out, c, dout, c, (size_t)seq, (size_t)h->size);
    for (int first = (seq - 1) / GPT_QUERIES * GPT_QUERIES; first >= 0; first -= GPT_QUERIES) {
        const int left = seq - first;

        strip_backward(s, h, first, left < GPT_QUERIES ? left : GPT_QUERIES,
                       left <= GPT_QUERIES ? 0.0F : 1.0F, dout, dq);
    }
}

void gpt_cpu_attention_backward(struct gpt_stage *s, struct gpt_rows rows,
                                const struct gpt_saved *saved, const void *dout, void *dqkv)
{
    const float *out = saved->attention, *slope = dout;
    float *result = dqkv;

    for (int b = 0; b < rows.batch; b++) {
        for (int h = 0; h < s->config.heads; h++) {
            const struct head head = head_of(s, rows, saved, b, h);

            head_backward(s, &head, rows.seq, out + head.out, slope + head.out, result + head.qkv);
        }
    }
    gpt_lap(s, GPT_ATTENTION);
}
