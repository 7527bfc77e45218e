/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file stage.h  What a stage holds, for the files that make it up. */
#ifndef GPT_STAGE_H
#define GPT_STAGE_H

#include "backend.h"
#include "kernels.h"
#include "model.h"
#include "tensors.h"

/** Most rows that the head treats at once (more reuse of the embedding matrix, more memory for
 *  logits), and logits of each that are one block. */
enum { GPT_HEAD_ROWS = 512, GPT_HEAD_COLS = 2048 };

/** Queries that attention treats at once. */
enum { GPT_QUERIES = 64 };

struct gpt_tensor {
    int id;             /**< in the params; -1: not on this stage */
    size_t count;       /**< elements */
    float *value;       /**< what is trained, saved and exchanged */
    float *grad;        /**< as value */
    const void *factor; /**< [count] of the stage's dtype: value itself, or rounded from it */
};

/** Tensors by kind: those of a layer, or those outside the layers. */
struct gpt_tensors {
    struct gpt_tensor of[GPT_KINDS];
};

/** Rows at hand: those of a microbatch, or of one sequence. */
struct gpt_rows {
    int batch, seq, count; /**< count = batch * seq */
};

/** What the backward of a layer needs of its forward: 10 elements per row and channel. */
struct gpt_saved {
    void *x;              /**< [rows][C] its input, unless that is the caller's */
    float *mean1, *rstd1; /**< [rows] */
    void *qkv;            /**< [rows][3C] */
    float *lse;           /**< [batch][heads][seq] log of the sums of attention */
    void *attention;      /**< [rows][C] */
    void *middle;         /**< [rows][C] residual stream between the halves */
    float *mean2, *rstd2; /**< [rows] */
    void *fc;             /**< [rows][4C] before GELU */
    void *act;            /**< [rows][4C] after it, if the stage keeps_act; else NULL */
};

/** One live microbatch. */
struct gpt_slot {
    int microbatch; /**< -1: free */
    struct gpt_saved *layers;
    void *dx;        /**< last stage: [rows][C], the gradient that the head has found */
    int32_t *tokens; /**< first stage: [rows] */
};

/** What is used within one call only. */
struct gpt_scratch {
    struct gpt_saved layer; /**< of a forward without backward */
    void *norm;             /**< [rows][C] */
    void *wide, *wide2;     /**< [rows][4C] */
    void *dx;               /**< [rows][C] */
    float *delta;           /**< [batch][heads][seq], of attention's backward */
    int32_t *tokens;        /**< first stage: [rows] of a forward without backward */
    /* last stage alone */
    void *final;        /**< [rows][C]: what the head reads */
    float *mean, *rstd; /**< [rows] */
    int32_t *targets;   /**< [rows] */
    void *logits;       /**< of [head rows] */
    /* processor alone */
    float *scores, *dscores; /**< [GPT_QUERIES][seq] */
    float *maximum, *sum;    /**< [head rows] */
    /* GPU alone */
    float *partial; /**< sums of some rows each */
    float *losses;  /**< [head rows] */
    double *loss;   /**< sum since it was last fetched */
};

/** Memory is cut twice: from NULL to learn its size, then from what was allocated. */
struct gpt_cut {
    char *base;
    size_t used;
};

/** The next `count` pieces of `size` bytes, aligned to 256 bytes. */
void *gpt_take(struct gpt_cut *cut, size_t count, size_t size);

/**
 * What a forward or backward works with beside the stage's own memory.  The arguments of all its
 * kernels and products follow from this, so that a graph of it can be replayed for an equal one.
 */
struct gpt_call {
    const struct gpt_slot *slot; /**< NULL: a forward that saves nothing */
    const int32_t *tokens;       /**< where the backend reads them; NULL but on the first stage */
    const int32_t *targets;      /**< of a forward on the last stage, as tokens */
    const void *in;              /**< the stage's input; NULL on the first stage */
    const void *grad_out;        /**< of a backward, NULL on the last stage */
    void *out;                   /**< the stage's output, or the gradient of its input */
    float scale;                 /**< of a forward's gradients */
    int backward;                /**< 1: it is one */
    int final;                   /**< 1: the last backward of a step */
};

struct gpt_graphs;

struct gpt_stage {
    struct gpt_stage_opts opts;
    struct gpt_config config;
    int first_layer, layer_count;
    int first, last; /**< 1: has the embedding, has the head */
    int head_rows;
    struct gpt_rows rows;
    const struct gpt_backend *backend;
    void *own_state; /**< the backend's */
    const struct gpt_kernels *kernels;
    pld_stream stream;
    size_t element; /**< bytes of an activation's */
    int keeps_act;  /**< 1: results of GELU are saved */
    int broken;     /**< code of the first operation that failed */

    pld_params *params;
    int bound; /**< 1: addresses of tensors are known */
    int fresh; /**< 1: factors are those of the values */
    struct gpt_tensors own, *layers;

    struct gpt_slot *slots;
    struct gpt_scratch scratch;
    void *memory;

    int (*ready)(void *context, int id);
    void *ready_context;
    const float *loss_scale;   /**< NULL: 1 */
    int backwards;             /**< of this step */
    int final;                 /**< 1: the one under way is the last of the step */
    int warm;                  /**< 1: there was a whole step, so that all kernels are loaded */
    struct gpt_graphs *graphs; /**< NULL: all work is launched by itself */
    double loss;               /**< processor: sum since it was last asked for */

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

/** One layer; out may be x. */
void gpt_layer_forward(struct gpt_stage *stage, int layer, struct gpt_rows rows,
                       const struct gpt_saved *saved, const void *x, void *out);

/** dx: in the gradient of the layer's output, out that of its input.  What ready() says. */
int gpt_layer_backward(struct gpt_stage *stage, int layer, struct gpt_rows rows,
                       const struct gpt_saved *saved, const void *x, void *dx);

/** The gradient of a tensor is complete if this is the step's last backward. */
int gpt_ready(struct gpt_stage *stage, const struct gpt_tensor *tensor);

/** Say so, whatever is being recorded. */
int gpt_tell_ready(struct gpt_stage *stage, int id);

/** If the stage is to have graphs.  PLD_ERR_NOMEM. */
int gpt_graphs_create(struct gpt_stage *stage);
void gpt_graphs_destroy(struct gpt_stage *stage);

/**
 * Do the work of a call: by the graphs of an equal call before, or by work(), which is recorded
 * once the stage is warm.
 */
int gpt_graphs_run(struct gpt_stage *stage, const struct gpt_call *call,
                   int (*work)(struct gpt_stage *stage, const struct gpt_call *call));

/** From here on another graph is recorded, if one is.  The one so far is launched, and what it
 *  completes is reported. */
int gpt_graphs_cut(struct gpt_stage *stage);

/** Note a tensor for the end of the graph that is being recorded.  0: none is. */
int gpt_graphs_ready(struct gpt_stage *stage, int id);

/**
 * Final norm, logits, loss, and with a scale other than 0 their gradients.
 * @param x   [rows][C]
 * @param dx  as x, receives its gradient; not touched with scale 0
 */
void gpt_head(struct gpt_stage *stage, const void *x, const int32_t *targets, float scale,
              void *dx);

/** Logits [vocab] of one row, for the host. */
int gpt_head_logits(struct gpt_stage *stage, const void *x, float *logits);

/* Of the processor's backend. */
void gpt_cpu_attention(struct gpt_stage *stage, struct gpt_rows rows,
                       const struct gpt_saved *saved);
void gpt_cpu_attention_backward(struct gpt_stage *stage, struct gpt_rows rows,
                                const struct gpt_saved *saved, const void *dout, void *dqkv);
void gpt_cpu_head(struct gpt_stage *stage, const struct gpt_part *part, void *dhidden);
int gpt_cpu_logits(struct gpt_stage *stage, const void *hidden, float *out);

#endif /* GPT_STAGE_H */
