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
                           const void *x, void *out)
{
    for (int l = 0; l < s->layer_count; l++) {
        const struct gpt_saved *saved = slot != NULL ? &slot->layers[l] : &s->scratch.layer;
        void *to = out;

        if (l + 1 < s->layer_count)
            to = slot != NULL ? slot->layers[l + 1].x : s->scratch.layer.x;
        gpt_layer_forward(s, l, rows, saved, x, to);
        x = to;
    }
}

/* What the first layer reads. */
static const void *input(struct gpt_stage *s, struct gpt_rows rows, const struct gpt_slot *slot,
                         const int32_t *tokens, const void *in)
{
    void *x = slot != NULL ? slot->layers[0].x : s->scratch.layer.x;

    if (!s->first)
        return in;
    tokens = s->backend->tokens(s, slot != NULL ? slot->tokens : s->scratch.tokens, tokens,
                                rows.count, slot != NULL);
    s->backend->embed(s, rows, tokens, x);
    return x;
}

/* Values change between steps alone, so that those that a step began with last until its end. */
static void refresh(struct gpt_stage *s)
{
    if (!s->fresh)
        s->backend->refresh(s);
    s->fresh = 1;
}

void gpt_stage_changed(struct gpt_stage *s)
{
    s->fresh = 0;
}

static int check_tokens(const struct gpt_stage *s, const char *what, const int32_t *tokens,
                        int count)
{
    for (int i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= s->config.vocab)
            return gpt_fail(PLD_ERR_ARG, "%s %d is %d; the vocabulary is 0 to %d", what, i,
                            (int)tokens[i], s->config.vocab - 1);
    return 0;
}

static int check_forward(struct gpt_stage *s, int microbatch, const int32_t *tokens,
                         const int32_t *targets, int saves)
{
    int rc = gpt_tensors_bind(s);

    if (rc == 0 && microbatch < 0)
        rc = gpt_fail(PLD_ERR_ARG, "microbatch %d; it must not be negative", microbatch);
    if (rc == 0 && s->first)
        rc = check_tokens(s, "token", tokens, s->rows.count);
    if (rc == 0 && s->last)
        rc = check_tokens(s, "target", targets, s->rows.count);
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
                      const int32_t *targets, float grad_scale, const void *in, void *out)
{
    struct gpt_slot *slot = NULL;
    const void *x;
    int rc = check_forward(s, microbatch, tokens, targets, grad_scale != 0);

    if (rc != 0)
        return rc;
    gpt_lap(s, GPT_CLASSES);
    refresh(s);
    if (grad_scale != 0) {
        slot = slot_of(s, -1);
        slot->microbatch = microbatch;
    }
    x = input(s, s->rows, slot, tokens, in);
    layers_forward(s, s->rows, slot, x, s->last ? s->scratch.final : out);
    if (s->last)
        gpt_head(s, s->layer_count > 0 ? s->scratch.final : x,
                 s->backend->tokens(s, s->scratch.targets, targets, s->rows.count, 0), grad_scale,
                 slot != NULL ? slot->dx : NULL);
    return s->broken;
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

static int layers_backward(struct gpt_stage *s, const struct gpt_slot *slot, const void *in,
                           void *dx)
{
    int rc = 0;

    for (int l = s->layer_count - 1; l >= 0 && rc == 0; l--)
        rc = gpt_layer_backward(s, l, s->rows, &slot->layers[l],
                                l > 0 || s->first ? slot->layers[l].x : in, dx);
    return rc;
}

int gpt_stage_backward(struct gpt_stage *s, int microbatch, const void *in, const void *grad_out,
                       void *grad_in)
{
    const size_t bytes = (size_t)s->rows.count * (size_t)s->config.channels * s->element;
    struct gpt_slot *slot = microbatch >= 0 ? slot_of(s, microbatch) : NULL;
    void *dx;
    int rc;

    if (slot == NULL)
        return gpt_fail(PLD_ERR_STATE, "backward of microbatch %d, which has had no forward",
                        microbatch);
    slot->microbatch = -1;
    s->final = ++s->backwards == s->opts.microbatches;
    if (s->final) {
        s->backwards = 0;
        s->fresh = 0;
    }
    gpt_lap(s, GPT_CLASSES);
    dx = s->last ? slot->dx : s->scratch.dx;
    if (!s->last)
        s->backend->copy(s, dx, grad_out, bytes);
    rc = head_ready(s);
    if (rc == 0)
        rc = layers_backward(s, slot, in, dx);
    if (rc != 0)
        return rc;
    if (!s->first) {
        s->backend->copy(s, grad_in, dx, bytes);
        return s->broken;
    }
    s->backend->embed_backward(s, s->rows, slot->tokens, dx);
    return embed_ready(s);
}

int gpt_stage_logits(struct gpt_stage *s, int count, const int32_t *tokens, const void *in,
                     void *out, float *logits)
{
    const struct gpt_rows rows = {1, count, count};
    const size_t row_bytes = (size_t)s->config.channels * s->element;
    const void *x;
    int rc = gpt_tensors_bind(s);

    if (rc == 0 && (count < 1 || count > s->rows.seq))
        rc = gpt_fail(PLD_ERR_ARG, "a sequence of %d tokens; it must be 1 to %d", count,
                      s->rows.seq);
    if (rc == 0 && s->first)
        rc = check_tokens(s, "token", tokens, count);
    if (rc != 0)
        return rc;
    gpt_lap(s, GPT_CLASSES);
    refresh(s);
    x = input(s, rows, NULL, tokens, in);
    layers_forward(s, rows, NULL, x, s->last ? s->scratch.final : out);
    if (!s->last)
        return s->broken;
    x = s->layer_count > 0 ? s->scratch.final : x;
    return gpt_head_logits(s, (const char *)x + (size_t)(count - 1) * row_bytes, logits);
}
