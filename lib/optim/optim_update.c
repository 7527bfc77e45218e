/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * f32 is the kernels' own.  f16 and bf16 keep an f32 master and pass through the same
 * kernels in pieces that stay in the first-level cache.  The value is always the rounded
 * master; where it is not, somebody else wrote it (first values, a broadcast), and the
 * master takes it over.  f64 stays f64.
 */

#include "optim/optim_impl.h"

#include <math.h>
#include <string.h>

enum { PIECE = 1024 };

double pldi_optim_decay(const struct optim_rule *rule, int decay)
{
    return 1 - (decay ? rule->lr * rule->weight_decay : 0);
}

static struct pldi_adamw adamw_args(const struct optim_rule *r, int decay)
{
    return (struct pldi_adamw){
        .beta1 = (float)r->beta1,
        .beta2 = (float)r->beta2,
        .rest1 = (float)(1 - r->beta1),
        .rest2 = (float)(1 - r->beta2),
        .grad_factor = (float)r->factor,
        .step_size = (float)(r->lr / (1 - pow(r->beta1, (double)r->t))),
        .sqrt_factor = (float)(1 / sqrt(1 - pow(r->beta2, (double)r->t))),
        .eps = (float)r->eps,
        .decay_factor = (float)pldi_optim_decay(r, decay),
    };
}

static struct pldi_sgd sgd_args(const struct optim_rule *r, int decay)
{
    return (struct pldi_sgd){
        .lr = (float)r->lr,
        .momentum = (float)r->momentum,
        .grad_factor = (float)r->factor,
        .decay_factor = (float)pldi_optim_decay(r, decay),
    };
}

static void sweep(const struct pldi_kernels *kernels, const struct optim_rule *rule, int decay,
                  float *w, float *g, float *first, float *second, size_t count)
{
    if (rule->kind == PLD_ADAMW) {
        const struct pldi_adamw args = adamw_args(rule, decay);

        kernels->adamw(w, g, first, second, count, &args);
    } else {
        const struct pldi_sgd args = sgd_args(rule, decay);

        kernels->sgd(w, g, first, count, &args);
    }
}

static void take_over_changed(const struct pldi_kernels *kernels, float *master,
                              const uint16_t *value, size_t count, pld_dtype dtype)
{
    uint16_t rounded[PIECE];
    float wide[PIECE];

    kernels->narrow(rounded, master, count, dtype);
    if (memcmp(rounded, value, count * sizeof(rounded[0])) == 0)
        return;
    kernels->widen(wide, value, count, dtype);
    for (size_t i = 0; i < count; i++)
        if (rounded[i] != value[i])
            master[i] = wide[i];
}

static void update_half(const struct pldi_kernels *kernels, const struct optim_rule *rule,
                        const struct optim_run *run)
{
    uint16_t *value = run->value;
    uint16_t *grad = run->grad;
    float *master = run->slots[SLOT_MASTER];
    float *first = run->slots[SLOT_FIRST];
    float *second = run->slots[SLOT_SECOND];
    float wide[PIECE];

    for (size_t at = 0; at < run->count; at += PIECE) {
        const size_t n = run->count - at < PIECE ? run->count - at : PIECE;

        take_over_changed(kernels, master + at, value + at, n, run->dtype);
        kernels->widen(wide, grad + at, n, run->dtype);
        sweep(kernels, rule, run->decay, master + at, wide, first == NULL ? NULL : first + at,
              second == NULL ? NULL : second + at, n);
        kernels->narrow(value + at, master + at, n, run->dtype);
        memset(grad + at, 0, n * sizeof(grad[0]));
    }
}

static void adamw_f64(const struct optim_rule *r, const struct optim_run *run)
{
    const double step_size = r->lr / (1 - pow(r->beta1, (double)r->t));
    const double sqrt_factor = 1 / sqrt(1 - pow(r->beta2, (double)r->t));
    const double decay = pldi_optim_decay(r, run->decay);
    double *w = run->value;
    double *g = run->grad;
    double *m = run->slots[SLOT_FIRST];
    double *v = run->slots[SLOT_SECOND];

    for (size_t i = 0; i < run->count; i++) {
        const double grad = g[i] * r->factor;

        m[i] = r->beta1 * m[i] + (1 - r->beta1) * grad;
        v[i] = r->beta2 * v[i] + (1 - r->beta2) * (grad * grad);
        w[i] = w[i] * decay - step_size * (m[i] / (sqrt(v[i]) * sqrt_factor + r->eps));
        g[i] = 0;
    }
}

static void sgd_f64(const struct optim_rule *r, const struct optim_run *run)
{
    const double decay = pldi_optim_decay(r, run->decay);
    double *w = run->value;
    double *g = run->grad;
    double *b = run->slots[SLOT_FIRST];

    for (size_t i = 0; i < run->count; i++) {
        const double next = (b == NULL ? 0 : r->momentum * b[i]) + g[i] * r->factor;

        w[i] = w[i] * decay - r->lr * next;
        g[i] = 0;
        if (b != NULL)
            b[i] = next;
    }
}

void pldi_optim_update(const struct pldi_kernels *kernels, const struct optim_rule *rule,
                       const struct optim_run *run)
{
    if (run->dtype == PLD_F32)
        sweep(kernels, rule, run->decay, run->value, run->grad, run->slots[SLOT_FIRST],
              run->slots[SLOT_SECOND], run->count);
    else if (run->dtype == PLD_F64 && rule->kind == PLD_ADAMW)
        adamw_f64(rule, run);
    else if (run->dtype == PLD_F64)
        sgd_f64(rule, run);
    else
        update_half(kernels, rule, run);
}
