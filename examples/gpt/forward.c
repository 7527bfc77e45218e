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

/* Where the backend reads the tokens of these rows. */
static const int32_t *bring_tokens(struct gpt_stage *s, struct gpt_rows rows,
                                   const struct gpt_slot *slot, const int32_t *tokens)
{
    if (!s->first)
        return NULL;
    return s->backend->tokens(s, slot != NULL ? slot->tokens : s->scratch.tokens, tokens,
                              rows.count, slot != NULL);
}

/* What the first layer reads. */
static const void *input(struct gpt_stage *s, struct gpt_rows rows, const struct gpt_slot *slot,
                         const int32_t *tokens, const void *in)
{
    void *x = slot != NULL ? slot->layers[0].x : s->scratch.layer.x;

    if (!s->first)
        return in;
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

static int forward_work(struct gpt_stage *s, const struct gpt_call *c)
{
    const void *x = input(s, s->rows, c->slot, c->tokens, c->in);

    layers_forward(s, s->rows, c->slot, x, s->last ? s->scratch.final : c->out);
    if (s->last)
        gpt_head(s, s->layer_count > 0 ? s->scratch.final : x, c->targets, c->scale,
                 c->slot != NULL ? c->slot->dx : NULL);
    return s->broken;
}

int gpt_stage_forward(struct gpt_stage *s, int microbatch, const int32_t *tokens,
                      const int32_t *targets, float grad_scale, const void *in, void *out)
{
    struct gpt_call call = {.in = in, .out = out, .scale = grad_scale};
    struct gpt_slot *slot = NULL;
    int rc = check_forward(s, microbatch, tokens, targets, grad_scale != 0);

    if (rc != 0)
        return rc;
    gpt_lap(s, GPT_CLASSES);
    refresh(s);
    if (grad_scale != 0) {
        slot = slot_of(s, -1);
        slot->microbatch = microbatch;
    }
    call.slot = slot;
    call.tokens = bring_tokens(s, s->rows, slot, tokens);
    if (s->last) {
        call.targets = s->backend->tokens(s, s->scratch.targets, targets, s->rows.count, 0);
        s->backend->head_begin(s);
    }
    rc = s->broken != 0 ? s->broken : gpt_graphs_run(s, &call, forward_work);
    if (rc == 0 && s->last)
        s->backend->head_done(s);
    return rc != 0 ? rc : s->broken;
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

/* Whoever waits for gradients gets those of a layer when the next layer's work begins. */
static int layers_backward(struct gpt_stage *s, const struct gpt_call *c, void *dx)
{
    const struct gpt_saved *layers = c->slot->layers;
    int rc = 0;

    for (int l = s->layer_count - 1; l >= 0 && rc == 0; l--) {
        rc = gpt_layer_backward(s, l, s->rows, &layers[l], l > 0 || s->first ? layers[l].x : c->in,
                                dx);
        if (rc == 0 && l > 0 && c->final)
            rc = gpt_graphs_cut(s);
    }
    return rc;
}

static int backward_work(struct gpt_stage *s, const struct gpt_call *c)
{
    const size_t bytes = (size_t)s->rows.count * (size_t)s->config.channels * s->element;
    void *dx = s->last ? c->slot->dx : s->scratch.dx;
    int rc;

    if (!s->last)
        s->backend->copy(s, dx, c->grad_out, bytes);
    rc = layers_backward(s, c, dx);
    if (rc != 0)
        return rc;
    if (s->first)
        s->backend->embed_backward(s, s->rows, c->tokens, dx);
    else
        s->backend->copy(s, c->out, dx, bytes);
    return s->broken;
}

int gpt_stage_backward(struct gpt_stage *s, int microbatch, const void *in, const void *grad_out,
                       void *grad_in)
{
    struct gpt_slot *slot = microbatch >= 0 ? slot_of(s, microbatch) : NULL;
    struct gpt_call call = {
        .slot = slot, .in = in, .grad_out = grad_out, .out = grad_in, .backward = 1};
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
    call.final = s->final;
    call.tokens = slot->tokens;
    rc = head_ready(s);
    if (rc == 0)
        rc = gpt_graphs_run(s, &call, backward_work);
    if (rc == 0 && s->first)
        rc = embed_ready(s);
    s->warm |= rc == 0 && s->final;
    return rc;
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
    x = input(s, rows, NULL, bring_tokens(s, rows, NULL, tokens), in);
    layers_forward(s, rows, NULL, x, s->last ? s->scratch.final : out);
    if (!s->last)
        return s->broken;
    x = s->layer_count > 0 ? s->scratch.final : x;
    return gpt_head_logits(s, (const char *)x + (size_t)(count - 1) * row_bytes, logits);
}
