/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* A stage's forward and backward: which layer meets which memory. */

#include "stage.h"

#include <polder/error.h>

#include <string.h>

static struct gpt_slot *slot_of(struct gpt_stage *s, int microbatch)
{
    for (int i = 0; i < s->opts.live; i++)
        if (s->slots[i].microbatch == microbatch)
            return &s->slots[i];
    return NULL;
}

/* The layers of the stage, from x to out.  slot NULL: nothing is saved, and all layers work in
 * the same memory. */
static void layers_forward(struct gpt_stage *s, struct gpt_rows rows, const struct gpt_slot *slot,
                           const float *x, float *out)
{
    for (int l = 0; l < s->layer_count; l++) {
        const struct gpt_saved *saved = slot != NULL ? &slot->layers[l] : &s->scratch.layer;
        float *to = out;

        if (l + 1 < s->layer_count)
            to = slot != NULL ? slot->layers[l + 1].x : s->scratch.layer.x;
        gpt_layer_forward(s, l, rows, saved, x, to);
        x = to;
    }
}

/* What the first layer reads. */
static const float *input(struct gpt_stage *s, struct gpt_rows rows, const struct gpt_slot *slot,
                          const int32_t *tokens, const float *in)
{
    float *x = slot != NULL ? slot->layers[0].x : s->scratch.layer.x;

    if (!s->first)
        return in;
    gpt_embed(s, rows, tokens, x);
    return x;
}

static int check_forward(struct gpt_stage *s, int microbatch, const int32_t *tokens,
                         const int32_t *targets, int saves)
{
    int rc = gpt_tensors_bind(s);

    if (rc == 0 && microbatch < 0)
        rc = gpt_fail(PLD_ERR_ARG, "microbatch %d; it must not be negative", microbatch);
    if (rc == 0 && s->first)
        rc = gpt_tokens_check(s, "token", tokens, s->rows.count);
    if (rc == 0 && s->last)
        rc = gpt_tokens_check(s, "target", targets, s->rows.count);
    if (rc != 0 || !saves)
        return rc;
    if (slot_of(s, microbatch) != NULL)
        return gpt_fail(PLD_ERR_STATE, "microbatch %d has had its forward already", microbatch);
    if (slot_of(s, -1) == NULL)
        return gpt_fail(PLD_ERR_STATE, "microbatch %d is one more than the %d that may be live",
                        microbatch, s->opts.live);
    return 0;
}

int gpt_stage_forward(struct gpt_stage *s, int microbatch, const int32_t *tokens,
                      const int32_t *targets, float grad_scale, const float *in, float *out,
                      double *loss_sum)
{
    struct gpt_slot *slot = NULL;
    const float *x;
    double loss;
    int rc = check_forward(s, microbatch, tokens, targets, grad_scale != 0);

    if (rc != 0)
        return rc;
    gpt_lap(s, GPT_CLASSES);
    if (grad_scale != 0) {
        slot = slot_of(s, -1);
        slot->microbatch = microbatch;
        if (s->first)
            memcpy(slot->tokens, tokens, (size_t)s->rows.count * sizeof(*tokens));
    }
    x = input(s, s->rows, slot, tokens, in);
    layers_forward(s, s->rows, slot, x, s->last ? s->scratch.final : out);
    if (s->last) {
        loss = gpt_head(s, s->layer_count > 0 ? s->scratch.final : x, targets, grad_scale,
                        slot != NULL ? slot->dx : NULL);
        if (loss_sum != NULL)
            *loss_sum = loss;
    }
    return 0;
}

/* Tensors of the head got their gradients in the forward. */
static int head_ready(struct gpt_stage *s)
{
    int rc = 0;

    if (s->last)
        rc = gpt_ready(s, &s->own.of[GPT_LNFB]);
    if (rc == 0 && s->last)
        rc = gpt_ready(s, &s->own.of[GPT_LNFW]);
    if (rc == 0 && s->last && !s->first)
        rc = gpt_ready(s, &s->own.of[GPT_WTE]);
    return rc;
}

static int embed_ready(struct gpt_stage *s)
{
    int rc = gpt_ready(s, &s->own.of[GPT_WPE]);

    return rc == 0 ? gpt_ready(s, &s->own.of[GPT_WTE]) : rc;
}

static int layers_backward(struct gpt_stage *s, const struct gpt_slot *slot, const float *in,
                           float *dx)
{
    int rc = 0;

    for (int l = s->layer_count - 1; l >= 0 && rc == 0; l--)
        rc = gpt_layer_backward(s, l, s->rows, &slot->layers[l],
                                l > 0 || s->first ? slot->layers[l].x : in, dx);
    return rc;
}

int gpt_stage_backward(struct gpt_stage *s, int microbatch, const float *in, const float *grad_out,
                       float *grad_in)
{
    const size_t bytes = (size_t)s->rows.count * (size_t)s->config.channels * sizeof(float);
    struct gpt_slot *slot = microbatch >= 0 ? slot_of(s, microbatch) : NULL;
    float *dx;
    int rc;

    if (slot == NULL)
        return gpt_fail(PLD_ERR_STATE, "backward of microbatch %d, which has had no forward",
                        microbatch);
    slot->microbatch = -1;
    s->final = ++s->backwards == s->opts.microbatches;
    if (s->final)
        s->backwards = 0;
    gpt_lap(s, GPT_CLASSES);
    dx = s->last ? slot->dx : s->scratch.dx;
    if (!s->last)
        memcpy(dx, grad_out, bytes);
    rc = head_ready(s);
    if (rc == 0)
        rc = layers_backward(s, slot, in, dx);
    if (rc != 0)
        return rc;
    if (!s->first) {
        memcpy(grad_in, dx, bytes);
        gpt_lap(s, GPT_REST);
        return 0;
    }
    gpt_embed_backward(s, s->rows, slot->tokens, dx);
    return embed_ready(s);
}

int gpt_stage_logits(struct gpt_stage *s, int count, const int32_t *tokens, const float *in,
                     float *out, float *logits)
{
    const struct gpt_rows rows = {1, count, count};
    const float *x;
    int rc = gpt_tensors_bind(s);

    if (rc == 0 && (count < 1 || count > s->rows.seq))
        rc = gpt_fail(PLD_ERR_ARG, "a sequence of %d tokens; it must be 1 to %d", count,
                      s->rows.seq);
    if (rc == 0 && s->first)
        rc = gpt_tokens_check(s, "token", tokens, count);
    if (rc != 0)
        return rc;
    gpt_lap(s, GPT_CLASSES);
    x = input(s, rows, NULL, tokens, in);
    layers_forward(s, rows, NULL, x, s->last ? s->scratch.final : out);
    if (s->last) {
        x = s->layer_count > 0 ? s->scratch.final : x;
        gpt_head_logits(s, x + (size_t)(count - 1) * (size_t)s->config.channels, logits);
    }
    return 0;
}
