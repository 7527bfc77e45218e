/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The processor as a backend: what layers ask for, by CBLAS and the loops of kernels.h. */

#include "gemm.h"
#include "stage.h"

#include <polder/error.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static int cpu_open(struct gpt_stage *s)
{
    if (s->opts.dtype != PLD_F32)
        return gpt_fail(PLD_ERR_ARG, "the model is computed in %s on a GPU alone; take f32",
                        pld_dtype_name(s->opts.dtype));
    s->kernels = gpt_kernels();
    return 0;
}

static void cpu_close(struct gpt_stage *s)
{
    (void)s;
}

/* Large pages, where the system has them, save the matrix products from missing the TLB. */
static int cpu_alloc(struct gpt_stage *s, size_t bytes, void **out)
{
    const size_t page = (size_t)2 << 20;

    (void)s;
    bytes = (bytes + page - 1) / page * page;
    *out = aligned_alloc(page, bytes);
    if (*out == NULL)
        return PLD_ERR_NOMEM;
    (void)madvise(*out, bytes, MADV_HUGEPAGE);
    return 0;
}

static void cpu_free(struct gpt_stage *s, void *memory)
{
    (void)s;
    free(memory);
}

static int cpu_head_rows(const struct gpt_stage *s)
{
    (void)s;
    return GPT_HEAD_ROWS;
}

static float *floats(struct gpt_cut *cut, size_t rows, size_t cols)
{
    return gpt_take(cut, rows * cols, sizeof(float));
}

static void cpu_scratch(struct gpt_cut *cut, struct gpt_stage *s)
{
    const size_t seq = (size_t)s->rows.seq, head = (size_t)s->head_rows;
    const size_t blocks = ((size_t)s->config.vocab + GPT_HEAD_COLS - 1) / GPT_HEAD_COLS;
    struct gpt_scratch *t = &s->scratch;

    t->scores = floats(cut, GPT_QUERIES, seq);
    t->dscores = floats(cut, GPT_QUERIES, seq);
    t->delta = floats(cut, seq, 1);
    if (!s->last)
        return;
    t->logits = floats(cut, blocks * head, GPT_HEAD_COLS);
    t->maximum = floats(cut, head, 1);
    t->sum = floats(cut, head, 1);
}

static int cpu_put(struct gpt_stage *s, void *to, const void *from, size_t bytes)
{
    (void)s;
    memcpy(to, from, bytes);
    return 0;
}

static const int32_t *cpu_tokens(struct gpt_stage *s, int32_t *to, const int32_t *from, int count,
                                 int keep)
{
    (void)s;
    if (!keep)
        return from;
    memcpy(to, from, (size_t)count * sizeof(*to));
    return to;
}

static void cpu_refresh(struct gpt_stage *s)
{
    (void)s;
}

static void cpu_copy(struct gpt_stage *s, void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    gpt_lap(s, GPT_REST);
}

static void cpu_embed(struct gpt_stage *s, struct gpt_rows rows, const int32_t *tokens, void *to)
{
    const size_t c = (size_t)s->config.channels;
    const float *wte = s->own.of[GPT_WTE].value, *wpe = s->own.of[GPT_WPE].value;
    float *out = to;

    for (int i = 0; i < rows.count; i++)
        s->kernels->add(out + (size_t)i * c, wte + (size_t)tokens[i] * c,
                        wpe + (size_t)(i % rows.seq) * c, c);
    gpt_lap(s, GPT_REST);
}

static void cpu_embed_backward(struct gpt_stage *s, struct gpt_rows rows, const int32_t *tokens,
                               const void *slope)
{
    const size_t c = (size_t)s->config.channels;
    float *wte = s->own.of[GPT_WTE].grad, *wpe = s->own.of[GPT_WPE].grad;
    const float *dx = slope;

    for (int i = 0; i < rows.count; i++) {
        s->kernels->column_sum(wte + (size_t)tokens[i] * c, dx + (size_t)i * c, 1, c);
        s->kernels->column_sum(wpe + (size_t)(i % rows.seq) * c, dx + (size_t)i * c, 1, c);
    }
    gpt_lap(s, GPT_REST);
}

static struct gpt_norm norm_of(const struct gpt_layer_norm *n)
{
    return (struct gpt_norm){n->weight->value, n->bias->value, n->mean, n->rstd};
}

static void cpu_norm(struct gpt_stage *s, const struct gpt_layer_norm *n, const void *x, void *out)
{
    const struct gpt_norm norm = norm_of(n);

    s->kernels->norm(out, &norm, x, (size_t)n->rows, (size_t)s->config.channels);
    gpt_lap(s, GPT_NORM);
}

static void cpu_norm_backward(struct gpt_stage *s, const struct gpt_layer_norm *n, const void *x,
                              void *dx, void *out, int fresh)
{
    const size_t rows = (size_t)n->rows, c = (size_t)s->config.channels;
    const struct gpt_norm norm = norm_of(n);

    if (fresh)
        memset(dx, 0, rows * c * sizeof(float));
    s->kernels->norm_backward(dx, out, n->weight->grad, n->bias->grad, &norm, x, rows, c);
    gpt_lap(s, GPT_NORM);
}

/* Bias and residual go into the result before the product, which adds to them. */
static void cpu_linear(struct gpt_stage *s, const struct gpt_linear *l, const void *x,
                       const void *residual, void *y)
{
    s->kernels->fill(y, residual, l->bias->value, (size_t)l->rows, (size_t)l->out);
    gpt_lap(s, GPT_REST);
    linear_forward(l->rows, l->out, l->in, x, l->weight->value, y);
    gpt_lap(s, GPT_GEMM);
}

static void cpu_linear_gelu(struct gpt_stage *s, const struct gpt_linear *l, const void *x, void *y,
                            void *act)
{
    cpu_linear(s, l, x, NULL, y);
    s->kernels->gelu(act, y, (size_t)l->rows * (size_t)l->out);
    gpt_lap(s, GPT_GELU);
}

static void cpu_linear_back(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                            void *dx)
{
    s->kernels->column_sum(l->bias->grad, dy, (size_t)l->rows, (size_t)l->out);
    gpt_lap(s, GPT_REST);
    linear_input(l->rows, l->out, l->in, dy, l->weight->value, dx);
    gpt_lap(s, GPT_GEMM);
}

static void cpu_linear_back_gelu(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                                 const void *y, void *dy_in, void *act)
{
    cpu_linear_back(s, l, dy, dy_in);
    s->kernels->gelu_backward(dy_in, act, y, (size_t)l->rows * (size_t)l->in);
    gpt_lap(s, GPT_GELU);
}

static void cpu_linear_weight(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                              const void *x)
{
    linear_weight(l->rows, l->out, l->in, dy, x, l->weight->grad);
    gpt_lap(s, GPT_GEMM);
}

static void cpu_head_edge(struct gpt_stage *s)
{
    (void)s;
}

static int cpu_loss(struct gpt_stage *s, double *out)
{
    *out = s->loss;
    s->loss = 0;
    return 0;
}

static int cpu_settle(struct gpt_stage *s)
{
    (void)s;
    return 0;
}

const struct gpt_backend gpt_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .head_rows = cpu_head_rows,
    .scratch = cpu_scratch,
    .put = cpu_put,
    .get = cpu_put,
    .tokens = cpu_tokens,
    .refresh = cpu_refresh,
    .copy = cpu_copy,
    .embed = cpu_embed,
    .embed_backward = cpu_embed_backward,
    .norm = cpu_norm,
    .norm_backward = cpu_norm_backward,
    .linear = cpu_linear,
    .linear_gelu = cpu_linear_gelu,
    .linear_back = cpu_linear_back,
    .linear_back_gelu = cpu_linear_back_gelu,
    .linear_weight = cpu_linear_weight,
    .attention = gpt_cpu_attention,
    .attention_backward = gpt_cpu_attention_backward,
    .head = gpt_cpu_head,
    .head_begin = cpu_head_edge,
    .head_done = cpu_head_edge,
    .logits = gpt_cpu_logits,
    .loss = cpu_loss,
    .settle = cpu_settle,
};
