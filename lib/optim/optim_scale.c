/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The scale of the loss: options, what is saved of it, and where the caller reads it.  Whether a
 * step is skipped, which it follows, is agreed with the norm; so it is the same on all ranks.
 */

#include "optim/optim_impl.h"

#include <math.h>

#include "base/base_err.h"

#define SCALING_KEY "optim/scaling"

/* As torch.amp.GradScaler. */
static const double default_scale = 65536, default_growth = 2, default_backoff = 0.5;
enum { DEFAULT_INTERVAL = 2000 };

static int check_dynamic(const pld_optim_opts *o)
{
    if (!(o->growth_factor > 1 && o->growth_factor < INFINITY))
        return pldi_fail(PLD_ERR_ARG, "growth_factor is %g, need more than 1", o->growth_factor);
    if (!(o->backoff_factor > 0 && o->backoff_factor < 1))
        return pldi_fail(PLD_ERR_ARG, "backoff_factor is %g, need more than 0 and less than 1",
                         o->backoff_factor);
    if (o->growth_interval < 1)
        return pldi_fail(PLD_ERR_ARG, "growth_interval is %lld, need 1 step or more",
                         (long long)o->growth_interval);
    return PLD_OK;
}

/* What a kind does not use is an option that its caller believes in wrongly. */
static int check_unused(const pld_optim_opts *o)
{
    const char *name = o->growth_factor != 0    ? "growth_factor"
                       : o->backoff_factor != 0 ? "backoff_factor"
                                                : "growth_interval";

    if (o->scaling == PLD_SCALING_NONE && o->init_scale != 0)
        return pldi_fail(PLD_ERR_ARG, "init_scale is %g, but `scaling` is PLD_SCALING_NONE",
                         o->init_scale);
    if (o->growth_factor != 0 || o->backoff_factor != 0 || o->growth_interval != 0)
        return pldi_fail(PLD_ERR_ARG, "%s is set, but `scaling` is not PLD_SCALING_DYNAMIC", name);
    return PLD_OK;
}

int pldi_optim_scale_opts(pld_optim_opts *o)
{
    if (o->scaling != PLD_SCALING_NONE && o->scaling != PLD_SCALING_STATIC &&
        o->scaling != PLD_SCALING_DYNAMIC)
        return pldi_fail(PLD_ERR_ARG, "unknown loss scaling %d", (int)o->scaling);
    if (o->scaling == PLD_SCALING_DYNAMIC) {
        o->growth_factor = o->growth_factor == 0 ? default_growth : o->growth_factor;
        o->backoff_factor = o->backoff_factor == 0 ? default_backoff : o->backoff_factor;
        o->growth_interval = o->growth_interval == 0 ? DEFAULT_INTERVAL : o->growth_interval;
        PLDI_TRY(check_dynamic(o));
    } else {
        PLDI_TRY(check_unused(o));
    }
    if (o->scaling == PLD_SCALING_NONE)
        return PLD_OK;
    o->init_scale = o->init_scale == 0 ? default_scale : o->init_scale;
    if (!(o->init_scale >= PLDI_SCALE_LEAST && o->init_scale <= PLDI_SCALE_MOST))
        return pldi_fail(PLD_ERR_ARG, "init_scale is %g, need 2^-126 .. 2^126", o->init_scale);
    o->init_scale = (double)(float)o->init_scale;
    return PLD_OK;
}

static double first_scale(const pld_optim *o)
{
    return o->opts.scaling == PLD_SCALING_NONE ? 1 : o->opts.init_scale;
}

/* A static scale is the option's, whatever a checkpoint has; how many steps were skipped is
 * that of what was loaded. */
void pldi_optim_loaded(pld_optim *o)
{
    if (o->opts.scaling != PLD_SCALING_DYNAMIC)
        o->scaling = (struct pldi_loss_scale){.scale = first_scale(o), .skips = o->scaling.skips};
    if (o->opts.scaling == PLD_SCALING_NONE)
        o->scaling.skips = 0;
    o->loss_scale = (float)o->scaling.scale;
    o->report = (pld_step_report){
        .factor = 1, .step = o->step, .loss_scale = o->scaling.scale, .skips = o->scaling.skips};
}

static int loaded(void *context)
{
    pldi_optim_loaded(context);
    return PLD_OK;
}

int pldi_optim_scale_open(pld_optim *o)
{
    o->scaling.scale = first_scale(o);
    pldi_optim_loaded(o);
    pldi_params_set_mirror(o->params, NULL, loaded, o);
    if (o->opts.scaling == PLD_SCALING_NONE)
        return PLD_OK;
    return pldi_params_add_state(o->params, SCALING_KEY, &o->scaling, sizeof(o->scaling));
}

void pldi_optim_scale_close(pld_optim *o)
{
    pldi_params_set_mirror(o->params, NULL, NULL, NULL);
    pldi_params_remove_state(o->params, SCALING_KEY);
}

struct pldi_scale_rule pldi_optim_scale_rule(const pld_optim *o)
{
    return (struct pldi_scale_rule){.growth_factor = o->opts.growth_factor,
                                    .backoff_factor = o->opts.backoff_factor,
                                    .growth_interval = o->opts.growth_interval};
}

const float *pld_optim_loss_scale(const pld_optim *optim)
{
    return optim->device != NULL ? pldi_optim_device_loss_scale(optim) : &optim->loss_scale;
}
