/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One layer: x + attention(norm(x)), then that + mlp(norm(that)).
 *
 * Bias and residual go into a product's result before it, which then adds to
 * them.  The results of norm and GELU are not saved: their backward needs what
 * they were made of anyway, and gives them once more for the products.
 */

#include "gemm.h"
#include "stage.h"

/* A layer at work. */
struct work {
    struct gpt_stage *s;
    const struct gpt_tensor *of;
    const struct gpt_kernels *k;
    int rows, c;
    size_t n, channels; /* the same as rows and c */
};

static struct work work_on(struct gpt_stage *s, int layer, struct gpt_rows rows)
{
    return (struct work){
        .s = s,
        .of = s->layers[layer].of,
        .k = s->kernels,
        .rows = rows.count,
        .c = s->config.channels,
        .n = (size_t)rows.count,
        .channels = (size_t)s->config.channels,
    };
}

/* y[rows][out] = residual + bias + x[rows][in] W' */
static void linear(const struct work *w, enum gpt_kind weight, int out, int in, const float *x,
                   const float *residual, float *y)
{
    w->k->fill(y, residual, w->of[weight + 1].value, w->n, (size_t)out);
    gpt_lap(w->s, GPT_REST);
    linear_forward(w->rows, out, in, x, w->of[weight].value, y);
    gpt_lap(w->s, GPT_GEMM);
}

/* Gradients of the input, and of the bias. */
static void linear_back(const struct work *w, enum gpt_kind weight, int out, int in,
                        const float *dy, float *dx)
{
    w->k->column_sum(w->of[weight + 1].grad, dy, w->n, (size_t)out);
    gpt_lap(w->s, GPT_REST);
    linear_input(w->rows, out, in, dy, w->of[weight].value, dx);
    gpt_lap(w->s, GPT_GEMM);
}

/* Gradient of the weight, after which both tensors are complete. */
static int linear_finish(const struct work *w, enum gpt_kind weight, int out, int in,
                         const float *dy, const float *x)
{
    int rc;

    linear_weight(w->rows, out, in, dy, x, w->of[weight].grad);
    gpt_lap(w->s, GPT_GEMM);
    rc = gpt_ready(w->s, &w->of[weight + 1]);
    return rc == 0 ? gpt_ready(w->s, &w->of[weight]) : rc;
}

static struct gpt_norm norm_of(const struct work *w, enum gpt_kind weight, float *mean, float *rstd)
{
    return (struct gpt_norm){w->of[weight].value, w->of[weight + 1].value, mean, rstd};
}

static void norm(const struct work *w, const struct gpt_norm *norm, const float *x, float *out)
{
    w->k->norm(out, norm, x, w->n, w->channels);
    gpt_lap(w->s, GPT_NORM);
}

static int norm_back(const struct work *w, enum gpt_kind weight, const struct gpt_norm *norm,
                     const float *x, float *dx, float *d)
{
    int rc;

    w->k->norm_backward(dx, d, w->of[weight].grad, w->of[weight + 1].grad, norm, x, w->n,
                        w->channels);
    gpt_lap(w->s, GPT_NORM);
    rc = gpt_ready(w->s, &w->of[weight + 1]);
    return rc == 0 ? gpt_ready(w->s, &w->of[weight]) : rc;
}

void gpt_layer_forward(struct gpt_stage *s, int layer, struct gpt_rows rows,
                       const struct gpt_saved *saved, const float *x, float *out)
{
    const struct work w = work_on(s, layer, rows);
    const struct gpt_norm norm1 = norm_of(&w, GPT_LN1W, saved->mean1, saved->rstd1);
    const struct gpt_norm norm2 = norm_of(&w, GPT_LN2W, saved->mean2, saved->rstd2);
    float *hidden = s->scratch.norm, *wide = s->scratch.wide;

    norm(&w, &norm1, x, hidden);
    linear(&w, GPT_QKVW, 3 * w.c, w.c, hidden, NULL, saved->qkv);
    gpt_attention(s, rows, saved);
    gpt_lap(s, GPT_ATTENTION);
    linear(&w, GPT_PROJW, w.c, w.c, saved->attention, x, saved->middle);
    norm(&w, &norm2, saved->middle, hidden);
    linear(&w, GPT_FCW, 4 * w.c, w.c, hidden, NULL, saved->fc);
    w.k->gelu(wide, saved->fc, 4 * w.n * w.channels);
    gpt_lap(s, GPT_GELU);
    linear(&w, GPT_FCPROJW, w.c, 4 * w.c, wide, saved->middle, out);
}

static int mlp_backward(const struct work *w, const struct gpt_saved *saved, float *dx)
{
    const struct gpt_norm norm2 = norm_of(w, GPT_LN2W, saved->mean2, saved->rstd2);
    float *hidden = w->s->scratch.norm, *dfc = w->s->scratch.wide, *act = w->s->scratch.wide2;
    const int c = w->c;
    int rc;

    linear_back(w, GPT_FCPROJW, c, 4 * c, dx, dfc);
    w->k->gelu_backward(dfc, act, saved->fc, 4 * w->n * w->channels);
    gpt_lap(w->s, GPT_GELU);
    rc = linear_finish(w, GPT_FCPROJW, c, 4 * c, dx, act);
    if (rc != 0)
        return rc;
    linear_back(w, GPT_FCW, 4 * c, c, dfc, hidden);
    rc = norm_back(w, GPT_LN2W, &norm2, saved->middle, dx, hidden);
    return rc == 0 ? linear_finish(w, GPT_FCW, 4 * c, c, dfc, hidden) : rc;
}

static int attention_backward(const struct work *w, struct gpt_rows rows,
                              const struct gpt_saved *saved, const float *x, float *dx)
{
    const struct gpt_norm norm1 = norm_of(w, GPT_LN1W, saved->mean1, saved->rstd1);
    float *hidden = w->s->scratch.norm, *dqkv = w->s->scratch.wide;
    const int c = w->c;
    int rc;

    linear_back(w, GPT_PROJW, c, c, dx, hidden);
    rc = linear_finish(w, GPT_PROJW, c, c, dx, saved->attention);
    if (rc != 0)
        return rc;
    gpt_attention_backward(w->s, rows, saved, hidden, dqkv);
    gpt_lap(w->s, GPT_ATTENTION);
    linear_back(w, GPT_QKVW, 3 * c, c, dqkv, hidden);
    rc = norm_back(w, GPT_LN1W, &norm1, x, dx, hidden);
    return rc == 0 ? linear_finish(w, GPT_QKVW, 3 * c, c, dqkv, hidden) : rc;
}

int gpt_layer_backward(struct gpt_stage *s, int layer, struct gpt_rows rows,
                       const struct gpt_saved *saved, const float *x, float *dx)
{
    const struct work w = work_on(s, layer, rows);
    int rc = mlp_backward(&w, saved, dx);

    return rc == 0 ? attention_backward(&w, rows, saved, x, dx) : rc;
}
