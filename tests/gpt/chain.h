/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file chain.h  All stages of a model in one process, called one after the other. */
#ifndef CHAIN_H
#define CHAIN_H

#include <model.h>
#include <polder/polder.h>

enum { CHAIN_STAGES = 16 };

struct chain {
    struct gpt_config config;
    int stages, batch, seq;
    pld_runtime *runtime;
    pld_mesh *mesh;
    pld_params *params[CHAIN_STAGES];
    struct gpt_stage *stage[CHAIN_STAGES];
    float *boundary[CHAIN_STAGES]; /**< [live][batch][seq][channels] between stage i and i + 1 */
    float *slope;                  /**< [batch][seq][channels], the gradient of one of them */
    int live;
};

/** What a chain is made of. */
struct chain_opts {
    struct gpt_config config;
    int stages, batch, seq, live, microbatches;
};

/** 0, or the first error; close it in any case. */
int chain_open(const struct chain_opts *opts, struct chain *chain);
void chain_close(struct chain *chain);

int chain_load(struct chain *chain, const char *path);
int chain_init(struct chain *chain, uint64_t seed);

/** Through all stages; `slot` < live names the boundaries used. */
int chain_forward(struct chain *chain, int microbatch, int slot, const int32_t *tokens,
                  const int32_t *targets, float scale, double *loss);
int chain_backward(struct chain *chain, int microbatch, int slot);

int chain_logits(struct chain *chain, int count, const int32_t *tokens, float *logits);

/** Sum over stages of the gradient of a tensor (value: its value on the first that has it):
 *  [count] must be its size.  0 or PLD_ERR_NOTFOUND. */
int chain_gradient(const struct chain *chain, const char *name, size_t count, float *out);
int chain_value(const struct chain *chain, const char *name, size_t count, float *out);

#endif /* CHAIN_H */
