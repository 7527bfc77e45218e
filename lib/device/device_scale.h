/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file device_scale.h
 * The scale of the loss: how it goes on from step to step, on the host and on a GPU.
 *
 * It is always a number of f32, for the caller's kernels read it as one, and between limits
 * within which the factor that takes it out again is a normal number of f32, too.
 */
#ifndef PLDI_DEVICE_SCALE_H
#define PLDI_DEVICE_SCALE_H

#include <stdint.h>

#ifdef __CUDACC__
#define PLDI_ON_BOTH __host__ __device__
#else
#define PLDI_ON_BOTH
#endif

#define PLDI_SCALE_LEAST 0x1p-126
#define PLDI_SCALE_MOST 0x1p126

/** Saved with the params as it is. */
struct pldi_loss_scale {
    double scale;  /**< of the next step's loss; 1 without loss scaling */
    int64_t grown; /**< steps since it last changed or one was skipped */
    int64_t skips; /**< steps skipped so far */
};

struct pldi_scale_rule {
    double growth_factor, backoff_factor;
    int64_t growth_interval; /**< 0: the scale stays as it is */
};

/** After a step.  skip: 1 if it was skipped, else 0. */
static PLDI_ON_BOTH inline void pldi_loss_scale_next(struct pldi_loss_scale *s,
                                                     const struct pldi_scale_rule *rule, int skip)
{
    double next = s->scale;

    s->skips += skip;
    if (rule->growth_interval == 0)
        return;
    s->grown = skip ? 0 : s->grown + 1;
    if (skip) {
        next *= rule->backoff_factor;
    } else if (s->grown >= rule->growth_interval) {
        next *= rule->growth_factor;
        s->grown = 0;
    }
    next = (double)(float)next;
    if (next >= PLDI_SCALE_LEAST && next <= PLDI_SCALE_MOST)
        s->scale = next;
}

#endif /* PLDI_DEVICE_SCALE_H */
