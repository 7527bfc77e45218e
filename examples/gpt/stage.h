/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file stage.h  What a stage holds, for the files that make it up. */
#ifndef GPT_STAGE_H
#define GPT_STAGE_H

#include "kernels.h"
#include "model.h"
#include "tensors.h"

/** Most rows that the head treats at once (more reuse of the embedding matrix, more memory for
 *  logits), and logits of each that are one block. */
enum { GPT_HEAD_ROWS = 512, GPT_HEAD_COLS = 2048 };

/** Queries that attention treats at once. */
enum { GPT_QUERIES = 64 };

struct gpt_tensor {
    int id; /**< in the params; -1: not on this stage */
    float *value, *grad;
};

/** Tensors by kind: those of a layer, or those outside the layers. */
struct gpt_tensors {
    struct gpt_tensor of[GPT_KINDS];
};

/** Rows at hand: those of a microbatch, or of one sequence. */
struct gpt_rows {
    int batch, seq, count; /**< count = batch * seq */
};

/** What the backward of a layer needs of its forward: 10 floats per row and channel. */
struct gpt_saved {
    float *x;             /**< [rows][C] its input, unless that is the caller's */
    float *mean1, *rstd1; /**< [rows] */
    float *qkv;           /**< [rows][3C] */
    float *lse;           /**< [batch][heads][seq] log of the sums of attention */
    float *attention;     /**< [rows][C] */
    float *middle;        /**< [rows][C] residual stream between the halves */
    float *mean2, *rstd2; /**< [rows] */
    float *fc;            /**< [rows][4C] before GELU */
};

/** One live microbatch. */
struct gpt_slot {
    int microbatch; /**< -1: free */
    struct gpt_saved *layers;
    float *dx;       /**< last stage: [rows][C], the gradient that the head has found */
    int32_t *tokens; /**< first stage: [rows] */
};

/** What is used within one call only. */
struct gpt_scratch {
    struct gpt_saved layer;  /**< of a forward without backward */
    float *norm;             /**< [rows][C] */
    float *wide, *wide2;     /**< [rows][4C] */
    float *dx;               /**< [rows][C] */
    float *scores, *dscores; /**< [GPT_QUERIES][seq] */
    float *delta;            /**< [seq] */
    /* last stage alone */
    float *final, *mean, *rstd; /**< [rows][C], [rows]: what the head reads */
    float *logits;              /**< blocks of [head rows][GPT_HEAD_COLS] */
    float *maximum, *sum;       /**< [head rows] */
};

struct gpt_stage {
    struct gpt_stage_opts opts;
    struct gpt_config config;
    int first_layer, layer_count;
    int first, last; /**< 1: has the embedding, has the head */
    int head_rows;
    struct gpt_rows rows;
    const struct gpt_kernels *kernels;

    pld_params *params;
    int bound; /**< 1: addresses of tensors are known */
    struct gpt_tensors own, *layers;

    struct gpt_slot *slots;
    struct gpt_scratch scratch;
    void *memory;

    int (*ready)(void *context, int id);
    void *ready_context;
    int backwards; /**< of this step */
    int final;     /**< 1: the one under way is the last of the step */

    int measuring;
    double lap; /**< when the last piece of work ended */
    double seconds[GPT_CLASSES];
};

/** Add the tensors to the params. */
int gpt_tensors_add(struct gpt_stage *stage);

/** Learn addresses, once the params are committed.  PLD_ERR_STATE. */
int gpt_tensors_bind(struct gpt_stage *stage);

/** The time since the last call belongs to `class`; GPT_CLASSES: to nothing. */
void gpt_lap(struct gpt_stage *stage, enum gpt_class class);

/** PLD_ERR_ARG if one of the tokens is outside the vocabulary. */
int gpt_tokens_check(const struct gpt_stage *stage, const char *what, const int32_t *tokens,
                     int count);

/** Out is [rows][C]. */
void gpt_embed(struct gpt_stage *stage, struct gpt_rows rows, const int32_t *tokens, float *out);
void gpt_embed_backward(struct gpt_stage *stage, struct gpt_rows rows, const int32_t *tokens,
                        const float *dx);

/** One layer; out may be x. */
void gpt_layer_forward(struct gpt_stage *stage, int layer, struct gpt_rows rows,
                       const struct gpt_saved *saved, const float *x, float *out);

/** dx: in the gradient of the layer's output, out that of its input.  What ready() says. */
int gpt_layer_backward(struct gpt_stage *stage, int layer, struct gpt_rows rows,
                       const struct gpt_saved *saved, const float *x, float *dx);

/** The gradient of a tensor is complete if this is the step's last backward. */
int gpt_ready(struct gpt_stage *stage, const struct gpt_tensor *tensor);

/** qkv [rows][3C] -> saved->attention, saved->lse */
void gpt_attention(struct gpt_stage *stage, struct gpt_rows rows, const struct gpt_saved *saved);

/** dout [rows][C] -> dqkv [rows][3C] */
void gpt_attention_backward(struct gpt_stage *stage, struct gpt_rows rows,
                            const struct gpt_saved *saved, const float *dout, float *dqkv);

/**
 * Final norm, logits, loss, and with a scale other than 0 their gradients.
 * @param x   [rows][C]
 * @param dx  as x, receives its gradient; not touched with scale 0
 * @return sum of losses
 */
double gpt_head(struct gpt_stage *stage, const float *x, const int32_t *targets, float scale,
                float *dx);

/** Logits [vocab] of one row. */
void gpt_head_logits(struct gpt_stage *stage, const float *x, float *logits);

#endif /* GPT_STAGE_H */
