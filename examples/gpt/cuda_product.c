/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What is made of matrix products.  cuBLASLt's matrices are by columns: one of ours, by rows, is
 * its transposed one to it.  So y = x W' is, for cuBLASLt, Y = W' X with W transposed, and
 * the bias has an element a row.
 */

#include "cuda_backend.h"

#include <polder/error.h>

#include <stdlib.h>

void gpt_gpu_multiply(struct gpt_stage *s, struct gpt_product p)
{
    int rc;

    if (s->broken != 0)
        return;
    p.type = s->opts.dtype == PLD_BF16 ? GPT_LT_R_16BF : GPT_LT_R_32F;
    if (p.epilogue == 0)
        p.epilogue = GPT_LT_DEFAULT;
    rc = gpt_lt_multiply(gpt_gpu_of(s)->lt, &p, s->stream);
    if (rc != 0)
        gpt_broken(s, rc);
}

static int own_type(const struct gpt_stage *s)
{
    return s->opts.dtype == PLD_BF16 ? GPT_LT_R_16BF : GPT_LT_R_32F;
}

/* y[rows][out] = x[rows][in] W' */
static struct gpt_product forward_of(const struct gpt_stage *s, const struct gpt_linear *l,
                                     const void *x, void *y)
{
    return (struct gpt_product){
        .trans_a = GPT_LT_T,
        .m = l->out,
        .n = l->rows,
        .k = l->in,
        .type_out = own_type(s),
        .lda = l->in,
        .ldb = l->in,
        .ldd = l->out,
        .a = l->weight->factor,
        .b = x,
        .d = y,
    };
}

/* dx[rows][in] = dy[rows][out] W */
static struct gpt_product input_of(const struct gpt_stage *s, const struct gpt_linear *l,
                                   const void *dy, void *dx)
{
    return (struct gpt_product){
        .m = l->in,
        .n = l->rows,
        .k = l->out,
        .type_out = own_type(s),
        .lda = l->in,
        .ldb = l->out,
        .ldd = l->in,
        .a = l->weight->factor,
        .b = dy,
        .d = dx,
    };
}

/* dW[out][in] += dy' x, in f32 */
static struct gpt_product weight_of(const struct gpt_linear *l, const void *dy, const void *x)
{
    return (struct gpt_product){
        .trans_b = GPT_LT_T,
        .m = l->in,
        .n = l->out,
        .k = l->rows,
        .type_out = GPT_LT_R_32F,
        .lda = l->in,
        .ldb = l->out,
        .ldd = l->in,
        .beta = 1,
        .a = x,
        .b = dy,
        .c = l->weight->grad,
        .d = l->weight->grad,
    };
}

/* The residual is what the product is added to, so that no kernel adds it. */
void gpt_gpu_linear(struct gpt_stage *s, const struct gpt_linear *l, const void *x,
                    const void *residual, void *y)
{
    struct gpt_product p = forward_of(s, l, x, y);

    p.epilogue = GPT_LT_BIAS;
    p.bias = l->bias->factor;
    p.c = residual;
    p.beta = residual != NULL;
    gpt_gpu_multiply(s, p);
}

void gpt_gpu_linear_gelu(struct gpt_stage *s, const struct gpt_linear *l, const void *x, void *y,
                         void *act)
{
    struct gpt_product p = forward_of(s, l, x, act);

    p.epilogue = GPT_LT_GELU_AUX_BIAS;
    p.bias = l->bias->factor;
    p.aux = y;
    gpt_gpu_multiply(s, p);
}

void gpt_gpu_linear_input(struct gpt_stage *s, const struct gpt_linear *l, const void *dy, void *dx)
{
    gpt_gpu_multiply(s, input_of(s, l, dy, dx));
}

void gpt_gpu_linear_input_gelu(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                               const void *y, void *dy_in)
{
    struct gpt_product p = input_of(s, l, dy, dy_in);

    p.epilogue = GPT_LT_DGELU;
    p.aux = (void *)(uintptr_t)y; /* which this epilogue only reads */
    gpt_gpu_multiply(s, p);
}

void gpt_gpu_linear_weight(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                           const void *x)
{
    gpt_gpu_multiply(s, weight_of(l, dy, x));
}

/* ---- the head ---- */

/* Threads of a block that has a row of logits; that adds up losses. */
enum { LOSS_THREADS = 512, SUM_THREADS = 256 };

/* The embedding matrix as a layer; its rows of logits are `stride` apart. */
static struct gpt_linear logits_of(const struct gpt_stage *s, int rows)
{
    return (struct gpt_linear){.weight = &s->own.of[GPT_WTE],
                               .rows = rows,
                               .out = s->config.padded_vocab,
                               .in = s->config.channels};
}

static void make_logits(struct gpt_stage *s, const struct gpt_linear *l, const void *hidden)
{
    struct gpt_product p = forward_of(s, l, hidden, s->scratch.logits);

    p.ldd = gpt_gpu_logit_stride(s);
    gpt_gpu_multiply(s, p);
}

void gpt_gpu_head_begin(struct gpt_stage *s)
{
    struct gpt_gpu *g = gpt_gpu_of(s);

    if (!g->begun)
        gpt_gpu_check(
            s, pld_device_fill(g->device, s->scratch.loss, 0, sizeof(*s->scratch.loss), s->stream));
    g->begun = 1;
}

void gpt_gpu_head(struct gpt_stage *s, const struct gpt_part *part, void *dhidden)
{
    const struct gpt_linear l = logits_of(s, part->rows);
    const struct gpt_launch each = {.x = (unsigned)part->rows, .threads = LOSS_THREADS};
    const struct gpt_launch one = {.threads = SUM_THREADS};
    struct gpt_part at = *part;
    struct gpt_product p;
    int vocab = s->config.vocab, stride = gpt_gpu_logit_stride(s);

    make_logits(s, &l, part->hidden);
    gpt_gpu_launch(s, GPT_KERNEL_cross_entropy, each,
                   GPT_ARGUMENTS(&s->scratch.logits, &s->scratch.losses, &at.targets, &vocab,
                                 &stride, &at.scale, &at.times));
    gpt_gpu_launch(s, GPT_KERNEL_loss_sum, one,
                   GPT_ARGUMENTS(&s->scratch.loss, &s->scratch.losses, &at.rows));
    if (part->scale == 0)
        return;
    p = input_of(s, &l, s->scratch.logits, dhidden);
    p.ldb = stride;
    gpt_gpu_multiply(s, p);
    p = weight_of(&l, s->scratch.logits, part->hidden);
    p.ldb = stride;
    gpt_gpu_multiply(s, p);
}

/* The sum goes to the host at once: who asks for it waits for this, not for the backward. */
void gpt_gpu_head_done(struct gpt_stage *s)
{
    struct gpt_gpu *g = gpt_gpu_of(s);

    gpt_gpu_check(
        s, pld_device_copy(g->device, g->loss, s->scratch.loss, sizeof(*g->loss), s->stream));
    gpt_gpu_check(s, pld_event_record(g->device, g->loss_known, s->stream));
    g->heads = 1;
}

int gpt_gpu_loss(struct gpt_stage *s, double *out)
{
    struct gpt_gpu *g = gpt_gpu_of(s);
    int rc;

    *out = 0;
    if (!g->heads || s->broken != 0)
        return s->broken;
    rc = pld_event_wait(g->device, g->loss_known);
    if (rc != 0)
        return gpt_fail(rc, "%s", pld_last_error());
    *out = *g->loss;
    g->begun = g->heads = 0;
    return 0;
}

static float value_of(const struct gpt_stage *s, const void *values, int i)
{
    const uint16_t *halves = values;
    const float *floats = values;
    union {
        uint32_t bits;
        float value;
    } wide;

    if (s->opts.dtype == PLD_F32)
        return floats[i];
    wide.bits = (uint32_t)halves[i] << 16;
    return wide.value;
}

int gpt_gpu_logits(struct gpt_stage *s, const void *hidden, float *out)
{
    const struct gpt_linear l = logits_of(s, 1);
    const size_t bytes = (size_t)s->config.vocab * s->element;
    void *values = malloc(bytes);
    int rc;

    if (values == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for %d logits", s->config.vocab);
    make_logits(s, &l, hidden);
    rc = s->broken != 0 ? s->broken : s->backend->get(s, values, s->scratch.logits, bytes);
    for (int i = 0; i < s->config.vocab && rc == 0; i++)
        out[i] = value_of(s, values, i);
    free(values);
    return rc;
}
