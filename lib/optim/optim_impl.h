/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file optim_impl.h  What the files of lib/optim share. */
#ifndef PLDI_OPTIM_IMPL_H
#define PLDI_OPTIM_IMPL_H

#include <polder/optim.h>

#include "device/device.h"
#include "device/device_kernels.h"
#include "params/params.h"

/** State per element: first and second moment (or momentum), f32 master of f16 and bf16. */
enum { SLOT_FIRST, SLOT_SECOND, SLOT_MASTER, SLOTS };

/** Neighbouring tensors of one dtype and one decay flag: one sweep. */
struct optim_run {
    void *value;
    void *grad;
    void *slots[SLOTS]; /**< NULL: not kept */
    size_t count;
    pld_dtype dtype;
    int decay;
};

/** One update, all of it in f64. */
struct optim_rule {
    pld_optim_kind kind;
    double lr;
    double beta1, beta2;
    double eps;
    double momentum;
    double weight_decay;
    double factor; /**< gradients are multiplied by it: clipping and unscaling */
    int64_t t;     /**< 1, 2, ... */
};

struct optim_device;

struct pld_optim {
    pld_params *params;
    const struct pldi_kernels *kernels;
    pld_optim_opts opts;
    int64_t step;                   /* saved with the params; on a device: as far as it is known */
    struct pldi_loss_scale scaling; /* as step */
    float loss_scale;               /* scaling.scale, for the caller; not on a device */
    pld_step_report report;
    struct optim_run *runs;
    int run_count;
    struct pldi_range *ranges; /* room for those of the norm */
    void *memory[PLDI_PARAM_DTYPES][SLOTS];
    int attached;                /* slots and state are known to the params */
    struct optim_device *device; /* NULL: the host */
};

/** lr and step, in pieces whose squares sum exactly over 2^21 ranks. */
enum { OPTIM_PIECE_BITS = 16, OPTIM_LR_PIECES = 4, OPTIM_PIECES = 8 };

/** What one rank tells all; sums over the mesh.  All f64. */
struct optim_vote {
    double square; /**< of the norm */
    double infinite;
    double failed;
    double plan[OPTIM_PIECES]; /**< lr and step, and squares of the pieces */
    double plan_square[OPTIM_PIECES];
};

/** What a rank is about to do. */
struct optim_plan {
    int code; /**< it failed with this */
    double lr;
    int64_t step; /**< made so far */
};

/** Check the options of loss scaling and fill in the defaults. */
int pldi_optim_scale_opts(pld_optim_opts *opts);

/** Begin with the scale of the options; it is saved and loaded with the params. */
int pldi_optim_scale_open(pld_optim *o);
void pldi_optim_scale_close(pld_optim *o);

struct pldi_scale_rule pldi_optim_scale_rule(const pld_optim *o);

/** Step and scale have been loaded: the host's part of taking that over. */
void pldi_optim_loaded(pld_optim *o);

/** The gradients whose squares this rank adds up: as many of o->ranges as are returned. */
size_t pldi_optim_ranges(pld_optim *o);

/** Is this rank's sum one of those that make up the model's?  All are if they share the work. */
int pldi_optim_speaks(const pld_optim *o);

/** All ranks' words and squares; PLD_OK if all are about to do the same.  Collective. */
int pldi_optim_vote(const pld_optim *o, const struct optim_plan *plan, double square,
                    struct optim_vote *out);

/** lr * weight_decay taken from 1, for a run that decays. */
double pldi_optim_decay(const struct optim_rule *rule, int decay);

/** Memory on the device, and what the params must know.  DEVMEM, NOMEM, DEVICE. */
int pldi_optim_device_open(pld_optim *o);
void pldi_optim_device_close(pld_optim *o);

/** Steps put into the stream, whatever became of them. */
int64_t pldi_optim_device_planned(const pld_optim *o);

/** Put a step into the stream.  Collective: the same code on all ranks. */
int pldi_optim_device_step(pld_optim *o, const struct optim_rule *rule, double clip);

/** Take in the numbers that have come, or wait for those of the last step. */
int pldi_optim_device_look(pld_optim *o);
int pldi_optim_device_wait(pld_optim *o);

/** Where the device keeps the scale. */
const float *pldi_optim_device_loss_scale(const pld_optim *o);

/** Update one run and set its gradients to zero. */
void pldi_optim_update(const struct pldi_kernels *kernels, const struct optim_rule *rule,
                       const struct optim_run *run);

#endif /* PLDI_OPTIM_IMPL_H */
