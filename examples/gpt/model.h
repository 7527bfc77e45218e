/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file model.h
 * GPT-2 on the processor or a GPU, cut into pipeline stages.
 *
 * The architecture is GPT-2 exactly (Radford et al., 2019): learned positions,
 * LayerNorm (eps 1e-5) before each block and at the end, causal attention scaled
 * by 1/sqrt(head size), GELU in its tanh form, biases everywhere, and one matrix
 * for input embedding and logits.  Matrices are stored [out][in].
 *
 * A stage holds a run of layers.  The first one also embeds, the last one also
 * computes the loss; the embedding matrix lives on both and is a `shared`
 * tensor.  What crosses a boundary is [batch][seq][channels] of the stage's dtype.
 *
 * Parameters and their gradients are f32.  With dtype bf16 activations are bf16, and
 * matrix products read a copy of the parameters that is rounded once a step.  On a GPU
 * everything but tokens is in its memory, and a stage's calls put work into a stream
 * and return; those that say so wait.
 *
 * Gradients are added to those of the params, in the order of the calls.  The
 * last stage computes the gradients of loss and logits in its *forward*, where
 * the logits are at hand, so that they are neither stored nor computed twice;
 * hence forward asks for the scale.
 *
 * Functions return 0 or a negative PLD_ERR_* code with one sentence in
 * gpt_last_error().  All are local; a stage is used by one thread at a time.
 */
#ifndef GPT_MODEL_H
#define GPT_MODEL_H

#include <polder/device.h>
#include <polder/params.h>

#include <stddef.h>
#include <stdint.h>

/** Sizes of a model. */
struct gpt_config {
    int max_seq;      /**< positions: the longest sequence */
    int vocab;        /**< tokens are 0 .. vocab-1 */
    int padded_vocab; /**< rows of the embedding matrix, >= vocab; the rest is zero and unused */
    int layers;
    int heads;
    int channels; /**< a multiple of heads */
};

/** One pipeline stage of a model with its parameters and saved activations. */
struct gpt_stage;

/** Where a stage's time goes. */
enum gpt_class {
    GPT_GEMM,      /**< matrix products of the layers */
    GPT_ATTENTION, /**< scores, softmax, weighted sums */
    GPT_GELU,
    GPT_NORM, /**< LayerNorm */
    GPT_HEAD, /**< matrix products with the logits */
    GPT_LOSS, /**< softmax and cross-entropy */
    GPT_REST, /**< embedding, biases, residuals */
    GPT_CLASSES
};

/** What one stage needs to know. */
struct gpt_stage_opts {
    struct gpt_config config;
    int stage, stages;  /**< 0 <= stage < stages <= layers + 1 */
    int batch;          /**< sequences of one microbatch */
    int seq;            /**< tokens of a sequence, <= max_seq */
    int live;           /**< most microbatches between forward and backward at once */
    int microbatches;   /**< of one step: after the last one's backward gradients are final */
    pld_dtype dtype;    /**< of activations: PLD_F32, or PLD_BF16 on a GPU */
    pld_device *device; /**< where to compute, and where the params are; NULL: the processor */
    int graphs;         /**< 1: on a GPU, the work of a microbatch is recorded after the first step
                             and replayed, see gpt_stage_backward() */
};

/** "One sentence" of this thread's latest failing gpt_ function. */
const char *gpt_last_error(void);

/** Record the sentence and return `code`. */
int gpt_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3), cold));

/** Sizes of "tiny" (0.9 million parameters, bytes), "small" (3.8 million, bytes) or "124M"
 *  (GPT-2's own).  PLD_ERR_ARG names those there are. */
int gpt_config_preset(const char *name, struct gpt_config *out);

/** PLD_ERR_ARG with the value that makes no model. */
int gpt_config_check(const struct gpt_config *config);

/** Parameters of the whole model, padding not counted. */
int64_t gpt_config_parameters(const struct gpt_config *config);

/**
 * Floating-point operations of one token's forward and backward in a sequence of
 * `seq`: 6 per weight of a matrix product, and causal attention (its
 * recomputation not counted).
 */
double gpt_config_flops(const struct gpt_config *config, int seq);

/**
 * The layers of a stage: the split whose slowest stage is fastest, counting the
 * head as what it costs.  Every stage but the last has at least one.  Pure.
 * @return 0 or PLD_ERR_ARG (more stages than layers + 1)
 */
int gpt_config_split(const struct gpt_config *config, int seq, int stage, int stages,
                     int *out_first, int *out_count);

/**
 * Add the tensors of a stage to `params`, which must not be committed yet and
 * are not to be destroyed while the stage is used, and allocate its activations.  Names are those
 * of nanoGPT ("wte.weight", "h.0.ln_1.weight", ...); weight decay is for matrices, not for biases
 * and norms, as in GPT-2's training and llm.c's on GPUs.
 * @return 0, PLD_ERR_ARG, PLD_ERR_NOMEM, or what pld_params_add() says
 */
int gpt_stage_create(const struct gpt_stage_opts *opts, pld_params *params, struct gpt_stage **out);

/** NULL is fine.  The params are left alone. */
void gpt_stage_destroy(struct gpt_stage **stage);

/** Shape of what comes in (ndim 0 on the first stage) and goes out (0 on the last):
 *  @param shape  [3], receives batch, seq, channels */
void gpt_stage_shape(const struct gpt_stage *stage, int64_t shape[3]);

/**
 * Call `ready(context, id)` as soon as the gradient of tensor `id` is final, that
 * is, within the backward of the last microbatch of a step; each tensor once a
 * step.  It fits pld_dp_ready() with `accumulate` 1 and no stream.  NULL: no calls.  A negative
 * return value ends the backward with that code.
 */
void gpt_stage_on_ready(struct gpt_stage *stage, int (*ready)(void *context, int id),
                        void *context);

/**
 * Multiply the gradients of the loss, on top of `grad_scale`, by the number that is in `scale` when
 * they are computed; it fits pld_optim_loss_scale().  Losses are told without it.
 * @param scale  in the memory of the stage's device, in the order of its stream; NULL: do not
 */
void gpt_stage_scale_loss(struct gpt_stage *stage, const float *scale);

/**
 * Fill the committed params with GPT-2's initial values: a pure function of seed
 * and tensor name, whatever the layout.
 */
int gpt_stage_init(struct gpt_stage *stage, uint64_t seed);

/** Values were changed by somebody else than the optimizer between two steps (a checkpoint was
 *  loaded), and are to be read again. */
void gpt_stage_changed(struct gpt_stage *stage);

/** On a GPU: the stream of the stage's work, until it is destroyed; else NULL. */
pld_stream gpt_stage_stream(const struct gpt_stage *stage);

/**
 * Forward of one microbatch.
 *
 * @param tokens      [batch][seq]; NULL unless first stage.  On a GPU pinned memory, which is
 *                    not to be changed before gpt_stage_settle()
 * @param targets     [batch][seq]; NULL unless last stage; as tokens
 * @param grad_scale  gradients are those of grad_scale times the sum of the losses of all
 *                    tokens; 0: evaluate only, no backward follows and no gradient is touched
 * @param in          [batch][seq][channels], valid until backward; NULL on the first stage
 * @param out         as in; NULL on the last stage
 * @return 0; PLD_ERR_ARG: a token or target outside the vocabulary; PLD_ERR_STATE: the params
 *         are not committed, the microbatch is live already, or `live` others are; PLD_ERR_DEVICE
 */
int gpt_stage_forward(struct gpt_stage *stage, int microbatch, const int32_t *tokens,
                      const int32_t *targets, float grad_scale, const void *in, void *out);

/**
 * Sum over the tokens of all forwards since the last call of -log p(target); 0 unless last
 * stage.  Waits for those forwards, not for what came after them.
 */
int gpt_stage_loss(struct gpt_stage *stage, double *out);

/** Wait until tokens and targets of all calls so far have been read. */
int gpt_stage_settle(struct gpt_stage *stage);

/**
 * Backward of one microbatch, whose forward had a grad_scale other than 0.
 * PLD_ERR_STATE: it had not; PLD_ERR_DEVICE; and what ready() of gpt_stage_on_ready() says.
 *
 * With `graphs` a forward and backward is recorded once for each set of buffers that it is called
 * with (at most 256 sets; beyond that work is launched as without), as one CUDA graph; the last
 * backward of a step as one for each layer, and ready() is called between them.
 *
 * @param grad_out  [batch][seq][channels]; NULL on the last stage
 * @param grad_in   as grad_out; NULL on the first stage
 */
int gpt_stage_backward(struct gpt_stage *stage, int microbatch, const void *in,
                       const void *grad_out, void *grad_in);

/**
 * Forward of a single sequence for sampling; no microbatch may be live.  Waits on the last stage.
 * @param count   tokens of the sequence, 1 .. seq
 * @param tokens  [count]; NULL unless first stage
 * @param in      [count][channels]; NULL on the first stage
 * @param out     as in; NULL on the last stage
 * @param logits  [vocab] in the host's memory, of what follows the last token; NULL unless last
 *                stage
 */
int gpt_stage_logits(struct gpt_stage *stage, int count, const int32_t *tokens, const void *in,
                     void *out, float *logits);

/** Measure (on != 0) or not; off at first.  Starts again from zero. */
void gpt_stage_measure(struct gpt_stage *stage, int on);

/** Seconds by class since gpt_stage_measure(). */
void gpt_stage_times(const struct gpt_stage *stage, double out[GPT_CLASSES]);

/** "gemm", "attention", ... */
const char *gpt_class_name(enum gpt_class class);

/* Model files of llm.c: 256 int32 (magic 20240326, version 3, max_seq, vocab, layers, heads,
 * channels, padded_vocab), then all tensors in f32. */

/** Sizes of the model in a file, whose length is checked, too.
 *  PLD_ERR_NOTFOUND, PLD_ERR_IO, PLD_ERR_CORRUPT with what was expected and found. */
int gpt_llmc_config(const char *path, struct gpt_config *out);

/** Fill the committed params of a stage from a file.  As above; PLD_ERR_MISMATCH: another
 *  model.  Reads the tensors of this stage only. */
int gpt_llmc_load(struct gpt_stage *stage, const char *path);

/** Write a file with the values that gpt_stage_init() gives.  PLD_ERR_IO. */
int gpt_llmc_create(const char *path, const struct gpt_config *config, uint64_t seed);

#endif /* GPT_MODEL_H */
