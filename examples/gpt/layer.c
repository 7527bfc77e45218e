/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One layer: x + attention(norm(x)), then that + mlp(norm(that)).
 *
 * The results of norm are not saved: its backward needs what they were made of
 * anyway, and gives them once more for the products.  Those of GELU are saved where
 * the backend makes them in a product.
 */

#include "stage.h"

/* A layer at work. */
struct work {
    struct gpt_stage *s;
    const struct gpt_backend *b;
    const struct gpt_tensor *of;
    int rows, c;
};

static struct work work_on(struct gpt_stage *s, int layer, struct gpt_rows rows)
{
    return (struct work){
        .s = s,
        .b = s->backend,
        .of = s->layers[layer].of,
        .rows = rows.count,
        .c = s->config.channels,
    };
}

static struct gpt_linear linear_of(const struct work *w, enum gpt_kind weight, int out, int in)
{
    return (struct gpt_linear){&w->of[weight], &w->of[weight + 1], w->rows, out, in};
}

static struct gpt_layer_norm norm_of(const struct work *w, enum gpt_kind weight, float *mean,
                                     float *rstd)
{
    return (struct gpt_layer_norm){&w->of[weight], &w->of[weight + 1], mean, rstd, w->rows};
}

/* The gradients of a weight and the bias or norm that follows it are complete. */
static int pair_ready(const struct work *w, enum gpt_kind weight)
{
    const int rc = gpt_ready(w->s, &w->of[weight + 1]);

    return rc == 0 ? gpt_ready(w->s, &w->of[weight]) : rc;
}

static int linear_finish(const struct work *w, enum gpt_kind weight, const struct gpt_linear *l,
                         const void *dy, const void *x)
{
    w->b->linear_weight(w->s, l, dy, x);
    return pair_ready(w, weight);
}

static int norm_back(const struct work *w, enum gpt_kind weight, const struct gpt_layer_norm *norm,
                     const void *x, void *dx, void *d)
{
    w->b->norm_backward(w->s, norm, x, dx, d, 0);
    return pair_ready(w, weight);
}

void gpt_layer_forward(struct gpt_stage *s, int layer, struct gpt_rows rows,
                       const struct gpt_saved *saved, const void *x, void *out)
{
    const struct work w = work_on(s, layer, rows);
    const struct gpt_layer_norm norm1 = norm_of(&w, GPT_LN1W, saved->mean1, saved->rstd1);
    const struct gpt_layer_norm norm2 = norm_of(&w, GPT_LN2W, saved->mean2, saved->rstd2);
    const struct gpt_linear qkv = linear_of(&w, GPT_QKVW, 3 * w.c, w.c);
    const struct gpt_linear proj = linear_of(&w, GPT_PROJW, w.c, w.c);
    const struct gpt_linear fc = linear_of(&w, GPT_FCW, 4 * w.c, w.c);
    const struct gpt_linear fcproj = linear_of(&w, GPT_FCPROJW, w.c, 4 * w.c);
    void *hidden = s->scratch.norm, *act = saved->act != NULL ? saved->act : s->scratch.wide;

    w.b->norm(s, &norm1, x, hidden);
    w.b->linear(s, &qkv, hidden, NULL, saved->qkv);
    w.b->attention(s, rows, saved);
    w.b->linear(s, &proj, saved->attention, x, saved->middle);
    w.b->norm(s, &norm2, saved->middle, hidden);
    w.b->linear_gelu(s, &fc, hidden, saved->fc, act);
    w.b->linear(s, &fcproj, act, saved->middle, out);
}

static int mlp_backward(const struct work *w, const struct gpt_saved *saved, void *dx)
{
    const struct gpt_layer_norm norm2 = norm_of(w, GPT_LN2W, saved->mean2, saved->rstd2);
    const struct gpt_linear fc = linear_of(w, GPT_FCW, 4 * w->c, w->c);
    const struct gpt_linear fcproj = linear_of(w, GPT_FCPROJW, w->c, 4 * w->c);
    void *hidden = w->s->scratch.norm, *dfc = w->s->scratch.wide;
    void *act = saved->act != NULL ? saved->act : w->s->scratch.wide2;
    int rc;

    w->b->linear_back_gelu(w->s, &fcproj, dx, saved->fc, dfc, act);
    rc = linear_finish(w, GPT_FCPROJW, &fcproj, dx, act);
    if (rc != 0)
        return rc;
    w->b->linear_back(w->s, &fc, dfc, hidden);
    rc = norm_back(w, GPT_LN2W, &norm2, saved->middle, dx, hidden);
    return rc == 0 ? linear_finish(w, GPT_FCW, &fc, dfc, hidden) : rc;
}

static int attention_backward(const struct work *w, struct gpt_rows rows,
                              const struct gpt_saved *saved, const void *x, void *dx)
{
    const struct gpt_layer_norm norm1 = norm_of(w, GPT_LN1W, saved->mean1, saved->rstd1);
    const struct gpt_linear qkv = linear_of(w, GPT_QKVW, 3 * w->c, w->c);
    const struct gpt_linear proj = linear_of(w, GPT_PROJW, w->c, w->c);
    void *hidden = w->s->scratch.norm, *dqkv = w->s->scratch.wide;
    int rc;

    w->b->linear_back(w->s, &proj, dx, hidden);
    rc = linear_finish(w, GPT_PROJW, &proj, dx, saved->attention);
    if (rc != 0)
        return rc;
    w->b->attention_backward(w->s, rows, saved, hidden, dqkv);
    w->b->linear_back(w->s, &qkv, dqkv, hidden);
    rc = norm_back(w, GPT_LN1W, &norm1, x, dx, hidden);
    return rc == 0 ? linear_finish(w, GPT_QKVW, &qkv, dqkv, hidden) : rc;
}

int gpt_layer_backward(struct gpt_stage *s, int layer, struct gpt_rows rows,
                       const struct gpt_saved *saved, const void *x, void *dx)
{
    const struct work w = work_on(s, layer, rows);
    int rc = mlp_backward(&w, saved, dx);

    return rc == 0 ? attention_backward(&w, rows, saved, x, dx) : rc;
}
