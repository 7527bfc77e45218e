/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "chain.h"

#include <stdlib.h>
#include <string.h>

static size_t boundary_size(const struct chain *c)
{
    return (size_t)c->batch * (size_t)c->seq * (size_t)c->config.channels;
}

static int open_stage(struct chain *c, const struct chain_opts *o, int i)
{
    const struct gpt_stage_opts opts = {.config = o->config,
                                        .stage = i,
                                        .stages = o->stages,
                                        .batch = o->batch,
                                        .seq = o->seq,
                                        .live = o->live,
                                        .microbatches = o->microbatches};
    int rc = pld_params_create(c->mesh, &c->params[i]);

    if (rc == 0)
        rc = gpt_stage_create(&opts, c->params[i], &c->stage[i]);
    if (rc == 0)
        rc = pld_params_commit(c->params[i]);
    c->boundary[i] = calloc((size_t)o->live * boundary_size(c), sizeof(float));
    return rc;
}

int chain_open(const struct chain_opts *o, struct chain *c)
{
    const pld_runtime_opts self = {.struct_size = sizeof(self), .transport = "self"};
    int rc;

    *c = (struct chain){.config = o->config,
                        .stages = o->stages,
                        .batch = o->batch,
                        .seq = o->seq,
                        .live = o->live};
    rc = pld_runtime_open(&self, &c->runtime);
    if (rc == 0)
        rc = pld_mesh_create(c->runtime, NULL, &c->mesh);
    c->slope = calloc(boundary_size(c), sizeof(float));
    for (int i = 0; i < o->stages && rc == 0; i++)
        rc = open_stage(c, o, i);
    return rc;
}

void chain_close(struct chain *c)
{
    for (int i = 0; i < c->stages; i++) {
        gpt_stage_destroy(&c->stage[i]);
        pld_params_destroy(&c->params[i]);
        free(c->boundary[i]);
    }
    free(c->slope);
    pld_mesh_destroy(&c->mesh);
    if (c->runtime != NULL)
        (void)pld_runtime_close(&c->runtime);
}

int chain_load(struct chain *c, const char *path)
{
    int rc = 0;

    for (int i = 0; i < c->stages && rc == 0; i++)
        rc = gpt_llmc_load(c->stage[i], path);
    return rc;
}

int chain_init(struct chain *c, uint64_t seed)
{
    int rc = 0;

    for (int i = 0; i < c->stages && rc == 0; i++)
        rc = gpt_stage_init(c->stage[i], seed);
    return rc;
}

/* What comes into stage i and goes out of it. */
static float *before(const struct chain *c, int slot, int i)
{
    return i > 0 ? c->boundary[i - 1] + (size_t)slot * boundary_size(c) : NULL;
}

static float *after(const struct chain *c, int slot, int i)
{
    return i < c->stages - 1 ? before(c, slot, i + 1) : NULL;
}

int chain_forward(struct chain *c, int microbatch, int slot, const int32_t *tokens,
                  const int32_t *targets, float scale, double *loss)
{
    const int last = c->stages - 1;
    int rc = 0;

    for (int i = 0; i <= last && rc == 0; i++)
        rc = gpt_stage_forward(c->stage[i], microbatch, i == 0 ? tokens : NULL,
                               i == last ? targets : NULL, scale, before(c, slot, i),
                               after(c, slot, i));
    return rc == 0 && loss != NULL ? gpt_stage_loss(c->stage[last], loss) : rc;
}

int chain_backward(struct chain *c, int microbatch, int slot)
{
    int rc = 0;

    /* The gradient of a stage's input may replace that of its output. */
    for (int i = c->stages - 1; i >= 0 && rc == 0; i--)
        rc = gpt_stage_backward(c->stage[i], microbatch, before(c, slot, i),
                                i < c->stages - 1 ? c->slope : NULL, i > 0 ? c->slope : NULL);
    return rc;
}

int chain_logits(struct chain *c, int count, const int32_t *tokens, float *logits)
{
    const int last = c->stages - 1;
    int rc = 0;

    for (int i = 0; i <= last && rc == 0; i++)
        rc = gpt_stage_logits(c->stage[i], count, i == 0 ? tokens : NULL, before(c, 0, i),
                              after(c, 0, i), i == last ? logits : NULL);
    return rc;
}

static int gather(const struct chain *c, const char *name, size_t count, int gradient, float *out)
{
    int found = 0;

    memset(out, 0, count * sizeof(*out));
    for (int i = 0; i < c->stages && (gradient || !found); i++) {
        pld_param_info info;
        const float *from;
        int id;

        if (pld_params_find(c->params[i], name, &id) != 0)
            continue;
        if (pld_params_info(c->params[i], id, &info) != 0 || info.count != count)
            return PLD_ERR_NOTFOUND;
        found = 1;
        from = gradient ? info.grad : info.value;
        for (size_t k = 0; k < count; k++)
            out[k] += from[k];
    }
    return found ? 0 : PLD_ERR_NOTFOUND;
}

int chain_gradient(const struct chain *c, const char *name, size_t count, float *out)
{
    return gather(c, name, count, 1, out);
}

int chain_value(const struct chain *c, const char *name, size_t count, float *out)
{
    return gather(c, name, count, 0, out);
}
