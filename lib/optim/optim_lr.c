/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/optim.h>

#include <math.h>

#include "base/base_err.h"
#include "base/base_opts.h"

/* What a caller built against 0.1 passes.  Stays when the struct grows. */
enum { LR_SIZE_0_1 = 48 };
_Static_assert(sizeof(pld_lr_opts) == LR_SIZE_0_1, "padding, or ABI");

static int check(const pld_lr_opts *o)
{
    if (!(o->lr >= 0) || !isfinite(o->lr))
        return pldi_fail(PLD_ERR_ARG, "lr is %g, need 0 or more", o->lr);
    if (!(o->final >= 0 && o->final <= 1))
        return pldi_fail(PLD_ERR_ARG, "final is %g, need 0..1: a share of lr", o->final);
    if (o->warmup < 0)
        return pldi_fail(PLD_ERR_ARG, "warmup is %lld, need 0 or more", (long long)o->warmup);
    if (o->decay != PLD_LR_CONSTANT && o->decay != PLD_LR_LINEAR && o->decay != PLD_LR_COSINE)
        return pldi_fail(PLD_ERR_ARG, "unknown learning-rate decay %d", (int)o->decay);
    if (o->steps < (o->decay == PLD_LR_CONSTANT ? 0 : 1))
        return pldi_fail(PLD_ERR_ARG, "steps is %lld, need the length of the run",
                         (long long)o->steps);
    if (o->reserved != 0)
        return pldi_fail(PLD_ERR_ARG, "reserved is %d, need 0", o->reserved);
    return PLD_OK;
}

/* How much of the way from lr to lr*final is left at a share of the decay's steps. */
static double left_at(pld_lr_decay decay, double share)
{
    if (decay == PLD_LR_CONSTANT)
        return 1;
    return decay == PLD_LR_LINEAR ? 1 - share : (1 + cos(acos(-1) * share)) / 2;
}

int pld_lr_at(const pld_lr_opts *opts, int64_t step, double *out)
{
    pld_lr_opts o;
    double share;

    PLDI_CHECK_ARG(opts != NULL && out != NULL && step >= 0);
    PLDI_TRY(pldi_opts_copy(&o, sizeof(o), opts, LR_SIZE_0_1));
    PLDI_TRY(check(&o));
    if (step < o.warmup) {
        *out = o.lr * (double)(step + 1) / (double)o.warmup;
        return PLD_OK;
    }
    share = step >= o.steps ? 1 : (double)(step - o.warmup) / (double)(o.steps - o.warmup);
    *out = o.lr * (o.final + (1 - o.final) * left_at(o.decay, share));
    return PLD_OK;
}
