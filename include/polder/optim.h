/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/optim.h
 * Optimizers over a set of parameters, gradient clipping, loss scaling, learning rates.
 *
 * State ("slots") belongs to the params and is saved with them: `exp_avg` and
 * `exp_avg_sq` for AdamW, `momentum` for SGD if it is used; in f32, for f64 tensors
 * in f64.  f16 and bf16 tensors have a `master` in f32 as well, which is updated and
 * rounded into the value; a value that was written from outside is taken over by it.
 *
 * On a GPU the norm, the decision and the update are made on the device, in the stream of
 * pld_params_set_stream(): a step puts them there and returns.
 *
 * Loss scaling (Micikevicius et al., "Mixed precision training") keeps small gradients of f16
 * and bf16 from vanishing: the caller multiplies the loss by the scale, so that all gradients
 * carry it, through buckets and pipeline; pld_optim_step() takes it out again, before clipping.
 * If it is dynamic, a step whose gradients are not finite is skipped and the scale reduced, on
 * all ranks; after some steps without one it grows.  With powers of two nothing is rounded:
 * unless numbers leave the range of their dtype, f32 and f64 train with the same bits as without.
 */
#ifndef POLDER_OPTIM_H
#define POLDER_OPTIM_H

#include <stddef.h>
#include <stdint.h>

#include <polder/export.h>
#include <polder/params.h>
#include <polder/site.h>

PLD_BEGIN_DECLS

/** An optimizer and its state. */
typedef struct pld_optim pld_optim;

/** Update rule. */
typedef enum {
    PLD_ADAMW = 0, /**< Loshchilov & Hutter, "Decoupled weight decay regularization", alg. 2 */
    PLD_SGD = 1    /**< b = momentum*b + g; w -= lr*b */
} pld_optim_kind;

/** How the loss is scaled. */
typedef enum {
    PLD_SCALING_NONE = 0,
    PLD_SCALING_STATIC = 1, /**< by `init_scale` in all steps */
    PLD_SCALING_DYNAMIC = 2 /**< as torch.amp.GradScaler: from `init_scale` on, times
                                 `backoff_factor` after a step that was skipped, times
                                 `growth_factor` after `growth_interval` steps that were not */
} pld_loss_scaling;

/** Which optimizer.  Zero fields take the default in brackets. */
typedef struct {
    size_t struct_size;  /**< sizeof(pld_optim_opts); required */
    double beta1;        /**< AdamW [0.9]; in (0, 1), or negative for 0 */
    double beta2;        /**< AdamW [0.999]; in (0, 1), or negative for 0 */
    double eps;          /**< AdamW [1e-8]; added to sqrt of the corrected second moment */
    double weight_decay; /**< [0] for tensors with `decay`: w -= lr*weight_decay*w */
    double momentum;     /**< SGD [0]; in [0, 1) */
    double clip;         /**< [0: off] largest global gradient norm; see pld_optim_step() */
    pld_optim_kind kind;
    pld_loss_scaling scaling; /**< [PLD_SCALING_NONE] */
    double init_scale;        /**< with `scaling` [65536]; 2^-126 .. 2^126, rounded to f32 */
    double growth_factor;     /**< dynamic [2]; above 1 */
    double backoff_factor;    /**< dynamic [0.5]; in (0, 1) */
    int64_t growth_interval;  /**< dynamic [2000]; 1 step or more */
} pld_optim_opts;

/** What a step did; the same on all ranks. */
typedef struct {
    double grad_norm; /**< before clipping, without the scale of the loss: L2 over all tensors
                           of the model, each once */
    double factor;    /**< clipping's: min(1, clip/(grad_norm+1e-6)) or 1.  Gradients were
                           multiplied by it, and divided by the scale of the loss */
    int64_t step;     /**< updates made so far, this one included */
    int skipped;      /**< 1: the norm is not finite; gradients were set to zero, nothing else
                           was changed but for `loss_scale`, `step` did not advance */
    int reserved;
    double loss_scale; /**< of the next step: see pld_optim_loss_scale(); 1 without scaling */
    int64_t skips;     /**< steps skipped so far: restored by pld_ckpt_load() if the loss is
                            scaled, else since then or since pld_optim_create() */
} pld_step_report;

/**
 * Collective over the mesh of `params`, which must be committed; at most one
 * per params.  PLD_ERR_ARG (also: options of a scaling that `scaling` is not), PLD_ERR_STATE,
 * PLD_ERR_MISMATCH (ranks pass different options), PLD_ERR_NOMEM, PLD_ERR_DEVMEM,
 * PLD_ERR_TRANSPORT.
 *
 * With loss scaling, static or dynamic, scale and number of skipped steps are saved with the
 * params and loaded: checkpoints with and without do not fit each other.  A static scale is
 * that of the options whatever is loaded; a dynamic one goes on from what is loaded.
 */
PLD_API int pld_optim_create(pld_params *params, const pld_optim_opts *opts, pld_optim **out);

/**
 * Wait for the gradients (pld_dp_wait() if the params have a pld_dp and it was not
 * called), compute their global norm over all stages, clip, update the values, set
 * the gradients to zero.
 *
 * - Collective over the mesh.
 * - Without a pld_dp the caller sees to it that replicas have equal gradients; with
 *   one, still for boxes that several tensor-parallel ranks hold.
 * - Numerics: the norm is summed in f64 in a fixed order: same layout, same
 *   bits.  AdamW with bias correction, t = report->step.
 * - On a GPU the call waits for the device only if `out` is given, until its numbers are
 *   there; see pld_optim_report().  Ranks exchange a few words between hosts first, so what
 *   they disagree about, or one of them finds wrong, is an error of all of them in this call,
 *   and nothing was changed.  A norm that is not finite makes the device skip the step.  What
 *   fails later, on a device, is PLD_ERR_DEVICE on all ranks, and ends the mesh's world group.
 * - Errors: PLD_ERR_ARG (lr), PLD_ERR_MISMATCH (ranks pass different lr, or have
 *   made different numbers of steps), PLD_ERR_STATE (a rank's stream is recorded into a CUDA
 *   graph; all must record alike if there is a pld_dp), those of pld_dp_wait().  Values and state
 *   are unchanged then; gradients may have been reduced.
 *
 * @param lr   learning rate of this step, >= 0
 * @param out  may be NULL
 */
PLD_API int pld_optim_step(pld_optim *optim, double lr, pld_step_report *out);

/**
 * The report of the latest step whose numbers are known, without waiting: on a GPU an earlier one
 * than the last that was called, by as much as the host is ahead.  Before any: factor 1, the
 * number of updates and of skipped steps made before, the scale, the rest 0.  Local;
 * PLD_ERR_ARG, PLD_ERR_DEVICE.
 */
PLD_API int pld_optim_report(pld_optim *optim, pld_step_report *out);

/**
 * The number that the loss, or the gradient where backward begins, must be multiplied by: one
 * f32, 1 without loss scaling.  On a GPU it lies in device memory, and whoever reads it is in
 * the order of the params' stream, in which pld_optim_step() and pld_ckpt_load() change it: so a
 * kernel that reads it needs no word from the host.  All microbatches of a step have the same.
 * Valid until pld_optim_destroy().  Local, never fails.
 */
PLD_API const float *pld_optim_loss_scale(const pld_optim *optim);

/** Updates made so far (restored by pld_ckpt_load()).  On a GPU it waits for the last step, whose
 *  decision it is whether that was one; a loop that shall stay ahead of the device counts its own
 *  steps.  Local, never fails: of a device that is lost, the last number that was known. */
PLD_API int64_t pld_optim_steps(pld_optim *optim);

/** Local. */
PLD_API void pld_optim_destroy(pld_optim **optim);

/** How the learning rate falls after the warm-up. */
typedef enum {
    PLD_LR_CONSTANT = 0,
    PLD_LR_LINEAR = 1, /**< straight line to lr*final at step `steps` */
    PLD_LR_COSINE = 2  /**< half a cosine to lr*final at step `steps` */
} pld_lr_decay;

/** A learning-rate schedule. */
typedef struct {
    size_t struct_size; /**< sizeof(pld_lr_opts); required */
    double lr;          /**< highest rate, >= 0 */
    double final;       /**< [0] last rate as a share of lr, 0 .. 1 */
    int64_t warmup;     /**< [0] steps of linear warm-up: step s < warmup has lr*(s+1)/warmup */
    int64_t steps;      /**< steps of the whole run; needed unless constant */
    pld_lr_decay decay;
    int reserved; /**< leave 0 */
} pld_lr_opts;

/** Learning rate of step `step` (0, 1, ...).  Pure.  @return 0 or PLD_ERR_ARG */
PLD_API int pld_lr_at(const pld_lr_opts *opts, int64_t step, double *out);

PLD_END_DECLS

/* The calls note where they are made; see <polder/site.h>. */
#ifndef PLD_NO_SITES
#define pld_optim_create(first, ...) pld_optim_create(PLD_HERE(first), __VA_ARGS__)
#define pld_optim_step(first, ...) pld_optim_step(PLD_HERE(first), __VA_ARGS__)
#endif

#endif /* POLDER_OPTIM_H */
