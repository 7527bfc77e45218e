/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file backend.h
 * The arithmetic of the model: one table between the layers and whatever computes.
 *
 * Layers, stages and the order of all work are the same for every backend; what
 * differs is in these tables.  Activations are arrays of the stage's dtype (`void *`
 * here), row-major and dense; parameters, their gradients, and statistics of rows are
 * f32.  A backend of a GPU puts its work into the stage's stream and does not wait.
 *
 * Everything between tokens(), head_begin() and head_done() may be recorded and replayed as a CUDA
 * graph.  So its arguments are addresses and sizes that stay, and what changes from one
 * microbatch to the next is read from memory.
 *
 * Operations do not return codes.  The first that fails leaves its code and sentence by
 * gpt_broken(); the stage asks for it before it promises anything to others.
 */
#ifndef GPT_BACKEND_H
#define GPT_BACKEND_H

#include <polder/device.h>

#include <stddef.h>
#include <stdint.h>

struct gpt_cut;
struct gpt_rows;
struct gpt_saved;
struct gpt_stage;
struct gpt_tensor;

/** y = x W' + b: W [out][in], x [rows][in], y [rows][out]. */
struct gpt_linear {
    const struct gpt_tensor *weight, *bias;
    int rows, out, in;
};

/** LayerNorm of [rows][C], and what its forward has found out about each row. */
struct gpt_layer_norm {
    const struct gpt_tensor *weight, *bias;
    float *mean, *rstd; /**< [rows] */
    int rows;
};

/** Some rows at the model's end. */
struct gpt_part {
    int rows;
    const void *hidden;     /**< [rows][C] after the final norm */
    const int32_t *targets; /**< [rows], where the backend reads tokens */
    float scale;            /**< of the gradients; 0: none are wanted */
    const float *times;     /**< where the backend computes: they are multiplied by that, too, as
                                 it is when they are; NULL: they are not */
};

struct gpt_backend {
    const char *name;

    /** Reach the device, and leave it; s->own_state is the backend's.  Close accepts what a
     *  failed open has left. */
    int (*open)(struct gpt_stage *s);
    void (*close)(struct gpt_stage *s);

    /** Memory for activations. */
    int (*alloc)(struct gpt_stage *s, size_t bytes, void **out);
    void (*free)(struct gpt_stage *s, void *memory);

    /** Rows that the head treats at once, at most. */
    int (*head_rows)(const struct gpt_stage *s);

    /** Take what the backend needs in s->scratch for itself. */
    void (*scratch)(struct gpt_cut *cut, struct gpt_stage *s);

    /** Values of a tensor from the host, and whatever else to the host; these wait. */
    int (*put)(struct gpt_stage *s, void *to, const void *from, size_t bytes);
    int (*get)(struct gpt_stage *s, void *to, const void *from, size_t bytes);

    /** Tokens from the caller's memory to where the backend reads them.  Returns that place:
     *  `to`, or `from` if the backend reads it in place and `keep` is 0. */
    const int32_t *(*tokens)(struct gpt_stage *s, int32_t *to, const int32_t *from, int count,
                             int keep);

    /** Values have changed since the last call: make what is computed with from them. */
    void (*refresh)(struct gpt_stage *s);

    void (*copy)(struct gpt_stage *s, void *to, const void *from, size_t bytes);

    void (*embed)(struct gpt_stage *s, struct gpt_rows rows, const int32_t *tokens, void *out);
    void (*embed_backward)(struct gpt_stage *s, struct gpt_rows rows, const int32_t *tokens,
                           const void *dx);

    void (*norm)(struct gpt_stage *s, const struct gpt_layer_norm *n, const void *x, void *out);

    /**
     * @param x    what the forward read
     * @param dx   receives the gradient of x: in addition, or with `fresh` in place of what was
     *             there
     * @param out  in: the gradient of the result; out: the result once more, in place
     */
    void (*norm_backward)(struct gpt_stage *s, const struct gpt_layer_norm *n, const void *x,
                          void *dx, void *out, int fresh);

    /** y = residual + b + x W'; residual NULL: 0 */
    void (*linear)(struct gpt_stage *s, const struct gpt_linear *l, const void *x,
                   const void *residual, void *y);

    /** y as above, act = gelu(y) */
    void (*linear_gelu)(struct gpt_stage *s, const struct gpt_linear *l, const void *x, void *y,
                        void *act);

    /** The gradient of the bias, in addition; dx = dy W */
    void (*linear_back)(struct gpt_stage *s, const struct gpt_linear *l, const void *dy, void *dx);

    /**
     * The same where x was gelu(y).
     * @param dy_in  receives the gradient of y
     * @param act    in: gelu(y), if the stage saves it; out: gelu(y)
     */
    void (*linear_back_gelu)(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                             const void *y, void *dy_in, void *act);

    /** The gradient of W, in addition: dy' x */
    void (*linear_weight)(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                          const void *x);

    /** saved->qkv [rows][3C] -> saved->attention [rows][C], saved->lse */
    void (*attention)(struct gpt_stage *s, struct gpt_rows rows, const struct gpt_saved *saved);

    /** dout [rows][C] -> dqkv [rows][3C] */
    void (*attention_backward)(struct gpt_stage *s, struct gpt_rows rows,
                               const struct gpt_saved *saved, const void *dout, void *dqkv);

    /** Add the losses of a part to those of the stage, and, if wanted, the gradient of the
     *  embedding matrix; dhidden [rows][C] receives that of `hidden`. */
    void (*head)(struct gpt_stage *s, const struct gpt_part *part, void *dhidden);

    /** Before the first head of a forward, and after its last.  Not part of the work that is
     *  recorded as a graph: what they do depends on the forwards before. */
    void (*head_begin)(struct gpt_stage *s);
    void (*head_done)(struct gpt_stage *s);

    /** Logits [vocab] of one row, for the host; waits. */
    int (*logits)(struct gpt_stage *s, const void *hidden, float *out);

    /** The sum of the losses of all heads since the last call; waits for them. */
    int (*loss)(struct gpt_stage *s, double *out);

    /** Wait until the tokens of all calls so far have been read. */
    int (*settle)(struct gpt_stage *s);
};

/** The processor: CBLAS and the loops of kernels.h. */
extern const struct gpt_backend gpt_cpu;

/** A GPU: cuBLASLt and the kernels of cuda/. */
extern const struct gpt_backend gpt_cuda;

/** Note that an operation has failed; the sentence is gpt_last_error()'s. */
void gpt_broken(struct gpt_stage *s, int code);

#endif /* GPT_BACKEND_H */
