/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file optim_impl.h  What the files of lib/optim share. */
#ifndef PLDI_OPTIM_IMPL_H
#define PLDI_OPTIM_IMPL_H

#include <polder/optim.h>

#include "device/device_kernels.h"

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
    double factor; /**< gradients are multiplied by it */
    int64_t t;     /**< 1, 2, ... */
};

/** Update one run and set its gradients to zero. */
void pldi_optim_update(const struct pldi_kernels *kernels, const struct optim_rule *rule,
                       const struct optim_run *run);

#endif /* PLDI_OPTIM_IMPL_H */
