/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file tensors.h  The tensors of a model: names, shapes, initial values. */
#ifndef GPT_TENSORS_H
#define GPT_TENSORS_H

#include "model.h"

/** In the order of llm.c's model files; LN1W .. FCPROJB exist once per layer. */
enum gpt_kind {
    GPT_WTE,
    GPT_WPE,
    GPT_LN1W,
    GPT_LN1B,
    GPT_QKVW,
    GPT_QKVB,
    GPT_PROJW,
    GPT_PROJB,
    GPT_LN2W,
    GPT_LN2B,
    GPT_FCW,
    GPT_FCB,
    GPT_FCPROJW,
    GPT_FCPROJB,
    GPT_LNFW,
    GPT_LNFB,
    GPT_KINDS
};

/** One tensor; rows x cols, or a vector of `cols` if ndim is 1. */
struct gpt_tensor_info {
    char name[64]; /**< "wte.weight", "h.3.attn.c_attn.bias", ... as in nanoGPT */
    int ndim;
    int64_t rows, cols, count;
};

int gpt_kind_in_layer(enum gpt_kind kind);

void gpt_tensor_describe(const struct gpt_config *config, enum gpt_kind kind, int layer,
                         struct gpt_tensor_info *out);

/**
 * Elements first .. first+count-1 of GPT-2's initial values: norms 1, biases 0,
 * else normal with deviation 0.02, divided by sqrt(2 layers) where a matrix adds
 * to the residual stream; padding 0.
 */
void gpt_tensor_initial(const struct gpt_config *config, enum gpt_kind kind, int layer,
                        uint64_t seed, int64_t first, int64_t count, float *out);

#endif /* GPT_TENSORS_H */
