/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The tensors of a stage in its params. */

#include "stage.h"

#include <polder/error.h>

#include <stdlib.h>

static int add(struct gpt_stage *s, enum gpt_kind kind, int layer, struct gpt_tensor *out)
{
    struct gpt_tensor_info info;
    pld_param param = {.struct_size = sizeof(param), .dtype = PLD_F32};
    int rc;

    gpt_tensor_describe(&s->config, kind, layer, &info);
    param.name = info.name;
    param.ndim = info.ndim;
    param.shape[0] = info.ndim == 2 ? info.rows : info.cols;
    param.shape[1] = info.ndim == 2 ? info.cols : 0;
    param.decay = info.ndim == 2;
    param.shared = kind == GPT_WTE && s->opts.stages > 1;
    out->count = (size_t)info.count;
    rc = pld_params_add(s->params, &param, &out->id);
    return rc == 0 ? 0 : gpt_fail(rc, "%s", pld_last_error());
}

static void clear(struct gpt_tensors *set)
{
    for (int k = 0; k < GPT_KINDS; k++)
        set->of[k].id = -1;
}

static int add_layer(struct gpt_stage *s, int layer)
{
    int rc = 0;

    clear(&s->layers[layer]);
    for (enum gpt_kind k = GPT_LN1W; k <= GPT_FCPROJB && rc == 0; k++)
        rc = add(s, k, s->first_layer + layer, &s->layers[layer].of[k]);
    return rc;
}

/* In the opposite order of that in which gradients become final, which buckets follow: the
 * embedding of the last stage first of all, that of the first stage last. */
int gpt_tensors_add(struct gpt_stage *s)
{
    int rc = 0;

    clear(&s->own);
    if (s->first)
        rc = add(s, GPT_WTE, 0, &s->own.of[GPT_WTE]);
    if (rc == 0 && s->first)
        rc = add(s, GPT_WPE, 0, &s->own.of[GPT_WPE]);
    for (int l = 0; l < s->layer_count && rc == 0; l++)
        rc = add_layer(s, l);
    for (enum gpt_kind k = GPT_LNFW; k <= GPT_LNFB && rc == 0 && s->last; k++)
        rc = add(s, k, 0, &s->own.of[k]);
    if (rc == 0 && s->last && !s->first)
        rc = add(s, GPT_WTE, 0, &s->own.of[GPT_WTE]);
    return rc;
}

static int bind_set(const struct gpt_stage *s, struct gpt_tensors *set)
{
    for (int k = 0; k < GPT_KINDS; k++) {
        struct gpt_tensor *t = &set->of[k];

        if (t->id < 0)
            continue;
        t->value = pld_params_value(s->params, t->id);
        t->grad = pld_params_grad(s->params, t->id);
        if (t->value == NULL)
            return gpt_fail(PLD_ERR_STATE, "the params of a stage are not committed yet");
        t->factor = t->value;
    }
    return 0;
}

int gpt_tensors_bind(struct gpt_stage *s)
{
    int rc;

    if (s->bound)
        return 0;
    rc = bind_set(s, &s->own);
    for (int l = 0; l < s->layer_count && rc == 0; l++)
        rc = bind_set(s, &s->layers[l]);
    s->bound = rc == 0;
    return rc;
}

/* As many values at a time as the processor's cache holds. */
enum { PIECE = 1 << 16 };

static int initial(struct gpt_stage *s, const struct gpt_tensors *set, int layer, uint64_t seed,
                   float *piece)
{
    for (enum gpt_kind k = 0; k < GPT_KINDS; k++) {
        const struct gpt_tensor *t = &set->of[k];
        const int64_t all = t->id >= 0 ? (int64_t)t->count : 0;

        for (int64_t first = 0; first < all; first += PIECE) {
            const int64_t count = all - first < PIECE ? all - first : PIECE;
            int rc;

            gpt_tensor_initial(&s->config, k, layer, seed, first, count, piece);
            rc = s->backend->put(s, t->value + first, piece, (size_t)count * sizeof(*piece));
            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

int gpt_stage_init(struct gpt_stage *s, uint64_t seed)
{
    int rc = gpt_tensors_bind(s);
    float *piece;

    if (rc != 0)
        return rc;
    piece = malloc(PIECE * sizeof(*piece));
    if (piece == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for initial values");
    rc = initial(s, &s->own, 0, seed, piece);
    for (int l = 0; l < s->layer_count && rc == 0; l++)
        rc = initial(s, &s->layers[l], s->first_layer + l, seed, piece);
    free(piece);
    gpt_stage_changed(s);
    return rc;
}

int gpt_ready(struct gpt_stage *s, const struct gpt_tensor *tensor)
{
    if (s->broken != 0 || !s->final || tensor->id < 0)
        return s->broken;
    return gpt_graphs_ready(s, tensor->id) ? 0 : gpt_tell_ready(s, tensor->id);
}

int gpt_tell_ready(struct gpt_stage *s, int id)
{
    int rc;

    if (s->ready == NULL)
        return 0;
    rc = s->ready(s->ready_context, id);
    gpt_lap(s, GPT_CLASSES); /* what the caller does then is not the model's time */
    return rc < 0 ? gpt_fail(rc, "%s", pld_last_error()) : 0;
}
