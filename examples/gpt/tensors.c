/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "tensors.h"

#include <polder/random.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum values { NORMAL, RESIDUAL, ZERO, ONE };

/* Rows and columns in units of `channels`; rows 0: a vector. */
static const struct kind {
    const char *name;
    enum values values;
    int rows, cols;
} kinds[GPT_KINDS] = {
    [GPT_WTE] = {"wte.weight", NORMAL, 1, 1},
    [GPT_WPE] = {"wpe.weight", NORMAL, 1, 1},
    [GPT_LN1W] = {"ln_1.weight", ONE, 0, 1},
    [GPT_LN1B] = {"ln_1.bias", ZERO, 0, 1},
    [GPT_QKVW] = {"attn.c_attn.weight", NORMAL, 3, 1},
    [GPT_QKVB] = {"attn.c_attn.bias", ZERO, 0, 3},
    [GPT_PROJW] = {"attn.c_proj.weight", RESIDUAL, 1, 1},
    [GPT_PROJB] = {"attn.c_proj.bias", ZERO, 0, 1},
    [GPT_LN2W] = {"ln_2.weight", ONE, 0, 1},
    [GPT_LN2B] = {"ln_2.bias", ZERO, 0, 1},
    [GPT_FCW] = {"mlp.c_fc.weight", NORMAL, 4, 1},
    [GPT_FCB] = {"mlp.c_fc.bias", ZERO, 0, 4},
    [GPT_FCPROJW] = {"mlp.c_proj.weight", RESIDUAL, 1, 4},
    [GPT_FCPROJB] = {"mlp.c_proj.bias", ZERO, 0, 1},
    [GPT_LNFW] = {"ln_f.weight", ONE, 0, 1},
    [GPT_LNFB] = {"ln_f.bias", ZERO, 0, 1},
};

int gpt_kind_in_layer(enum gpt_kind kind)
{
    return kind >= GPT_LN1W && kind <= GPT_FCPROJB;
}

void gpt_tensor_describe(const struct gpt_config *config, enum gpt_kind kind, int layer,
                         struct gpt_tensor_info *out)
{
    const struct kind *k = &kinds[kind];

    if (gpt_kind_in_layer(kind))
        (void)snprintf(out->name, sizeof(out->name), "h.%d.%s", layer, k->name);
    else
        (void)snprintf(out->name, sizeof(out->name), "%s", k->name);
    out->ndim = k->rows > 0 ? 2 : 1;
    out->rows = k->rows > 0 ? (int64_t)k->rows * config->channels : 1;
    out->cols = (int64_t)k->cols * config->channels;
    if (kind == GPT_WTE)
        out->rows = config->padded_vocab;
    if (kind == GPT_WPE)
        out->rows = config->max_seq;
    out->count = out->rows * out->cols;
}

static void constant(float value, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = value;
}

void gpt_tensor_initial(const struct gpt_config *config, enum gpt_kind kind, int layer,
                        uint64_t seed, int64_t first, int64_t count, float *out)
{
    const enum values values = kinds[kind].values;
    float deviation = 0.02F;
    struct gpt_tensor_info info;
    int64_t random = count;

    if (values == ZERO || values == ONE) {
        constant(values == ONE ? 1.0F : 0.0F, count, out);
        return;
    }
    gpt_tensor_describe(config, kind, layer, &info);
    if (values == RESIDUAL)
        deviation /= sqrtf(2.0F * (float)config->layers);
    if (kind == GPT_WTE) {
        random = (int64_t)config->vocab * config->channels - first;
        random = random < 0 ? 0 : random < count ? random : count;
    }
    pld_random_normal(seed, pld_random_stream(info.name), (uint64_t)first, (size_t)random, out);
    for (int64_t i = 0; i < random; i++)
        out[i] *= deviation;
    constant(0, count - random, out + random);
}
