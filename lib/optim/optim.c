/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * State mirrors the arenas: one block per slot and dtype in which a tensor has the
 * offset that it has in its arena (those in the caller's memory follow).  So a run of
 * neighbouring tensors is one sweep over four plain ranges.
 *
 * What the ranks tell each other in a step is in optim_vote.c, what a step is on a GPU in
 * optim_device.c.
 */

#include "optim/optim_impl.h"

#include <math.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "health/health_site.h"
#include "params/params.h"

/* What a caller built against 0.1 passes.  Stays when the struct grows. */
enum { OPTS_SIZE_0_1 = 64 };
_Static_assert(offsetof(pld_optim_opts, init_scale) == OPTS_SIZE_0_1, "padding, or ABI");

#define STEP_KEY "optim/step"

static const char *slot_name(const pld_optim *o, int slot)
{
    if (slot == SLOT_MASTER)
        return "master";
    if (o->opts.kind == PLD_SGD)
        return "momentum";
    return slot == SLOT_FIRST ? "exp_avg" : "exp_avg_sq";
}

static int has_slot(const pld_optim *o, pld_dtype dtype, int slot)
{
    if (slot == SLOT_MASTER)
        return dtype == PLD_F16 || dtype == PLD_BF16;
    return o->opts.kind == PLD_ADAMW || (slot == SLOT_FIRST && o->opts.momentum > 0);
}

static pld_dtype slot_dtype(pld_dtype dtype)
{
    return dtype == PLD_F64 ? PLD_F64 : PLD_F32;
}

static int read_opts(const pld_optim_opts *opts, pld_optim_opts *o)
{
    *o = (pld_optim_opts){PLD_OPTS(pld_optim_opts)};
    if (opts != NULL)
        PLDI_TRY(pldi_opts_copy(o, sizeof(*o), opts, OPTS_SIZE_0_1));
    if (o->kind != PLD_ADAMW && o->kind != PLD_SGD)
        return pldi_fail(PLD_ERR_ARG, "unknown optimizer kind %d", (int)o->kind);
    if (!(o->beta1 < 1) || !(o->beta2 < 1))
        return pldi_fail(PLD_ERR_ARG, "beta1 is %g and beta2 %g, need less than 1", o->beta1,
                         o->beta2);
    if (!(o->eps >= 0 && o->eps < INFINITY) || (o->eps > 0 && (float)o->eps == 0))
        return pldi_fail(PLD_ERR_ARG, "eps is %g, need a positive number of f32, or 0 for 1e-8",
                         o->eps);
    if (!(o->weight_decay >= 0 && o->weight_decay < INFINITY))
        return pldi_fail(PLD_ERR_ARG, "weight_decay is %g, need 0 or more", o->weight_decay);
    if (!(o->momentum >= 0 && o->momentum < 1))
        return pldi_fail(PLD_ERR_ARG, "momentum is %g, need 0 or more and less than 1",
                         o->momentum);
    if (!(o->clip >= 0))
        return pldi_fail(PLD_ERR_ARG, "clip is %g, need a positive norm, or 0 for none", o->clip);
    PLDI_TRY(pldi_optim_scale_opts(o));
    o->struct_size = 0; /* the caller's, which may differ between equal options */
    o->beta1 = o->beta1 < 0 ? 0 : o->beta1 == 0 ? 0.9 : o->beta1;
    o->beta2 = o->beta2 < 0 ? 0 : o->beta2 == 0 ? 0.999 : o->beta2;
    o->eps = o->eps == 0 ? 1e-8 : o->eps;
    return PLD_OK;
}

static int info_of(const pld_optim *o, int id, pld_param_info *info)
{
    return pld_params_info(o->params, id, info);
}

static int alloc_block(const pld_optim *o, size_t count, pld_dtype dtype, void **out)
{
    static const char what[] = "optimizer state";

    if (pldi_params_device(o->params) != NULL)
        return pldi_params_alloc(o->params, count, pld_dtype_bytes(dtype), what, out);
    *out = pldi_alloc(count, pld_dtype_bytes(dtype), what);
    return *out == NULL ? PLD_ERR_NOMEM : PLD_OK;
}

static void free_block(const pld_optim *o, void *block)
{
    if (pldi_params_device(o->params) != NULL)
        pldi_params_free(o->params, block);
    else
        pldi_free(block);
}

/* Elements of a slot's block per dtype: the arena's, then the tensors outside. */
static int alloc_slots(pld_optim *o)
{
    size_t count[PLDI_PARAM_DTYPES];

    for (int d = 0; d < PLDI_PARAM_DTYPES; d++)
        count[d] = pldi_params_arena(o->params, (pld_dtype)d)->count;
    for (int i = 0; i < pld_params_count(o->params); i++) {
        pld_param_info info;

        PLDI_TRY(info_of(o, i, &info));
        if (pldi_params_offset(o->params, i) == PLDI_OUTSIDE)
            count[info.dtype] += pldi_params_padded(info.count);
    }
    for (int at = 0; at < PLDI_PARAM_DTYPES * SLOTS; at++) {
        const pld_dtype d = (pld_dtype)(at / SLOTS);
        void **block = &o->memory[d][at % SLOTS];

        if (count[d] == 0 || !has_slot(o, d, at % SLOTS))
            continue;
        PLDI_TRY(alloc_block(o, count[d], slot_dtype(d), block));
    }
    return PLD_OK;
}

static void *slot_at(const pld_optim *o, pld_dtype dtype, int slot, size_t offset)
{
    char *block = o->memory[dtype][slot];

    return block == NULL ? NULL : block + offset * pld_dtype_bytes(slot_dtype(dtype));
}

static int add_slots(pld_optim *o, int id, pld_dtype dtype, size_t offset)
{
    for (int s = 0; s < SLOTS; s++)
        if (o->memory[dtype][s] != NULL)
            PLDI_TRY(pldi_params_add_slot(o->params, id, slot_name(o, s), slot_dtype(dtype),
                                          slot_at(o, dtype, s, offset)));
    return PLD_OK;
}

static void add_run(pld_optim *o, const pld_param_info *info, size_t offset, int decay)
{
    struct optim_run *run = &o->runs[o->run_count++];

    *run = (struct optim_run){.value = info->value,
                              .grad = info->grad,
                              .count = info->count,
                              .dtype = info->dtype,
                              .decay = decay};
    for (int s = 0; s < SLOTS; s++)
        run->slots[s] = slot_at(o, info->dtype, s, offset);
}

/* Slots and runs in one walk; `last` is the run of a dtype's arena that may still grow. */
static int lay_out(pld_optim *o)
{
    const int n = pld_params_count(o->params);
    struct optim_run *last[PLDI_PARAM_DTYPES] = {NULL};
    size_t begin[PLDI_PARAM_DTYPES] = {0}; /* where that run begins */
    size_t next[PLDI_PARAM_DTYPES];        /* for the next tensor outside */

    for (int d = 0; d < PLDI_PARAM_DTYPES; d++)
        next[d] = pldi_params_arena(o->params, (pld_dtype)d)->count;
    for (int i = 0; i < n; i++) {
        pld_param_info info;
        size_t offset = pldi_params_offset(o->params, i);
        const int outside = offset == PLDI_OUTSIDE;
        int decay;

        PLDI_TRY(info_of(o, i, &info));
        decay = info.decay && o->opts.weight_decay > 0;
        if (outside) {
            offset = next[info.dtype];
            next[info.dtype] += pldi_params_padded(info.count);
        }
        PLDI_TRY(add_slots(o, i, info.dtype, offset));
        if (!outside && last[info.dtype] != NULL && last[info.dtype]->decay == decay) {
            last[info.dtype]->count = offset + info.count - begin[info.dtype];
            continue;
        }
        add_run(o, &info, offset, decay);
        if (outside)
            continue;
        last[info.dtype] = &o->runs[o->run_count - 1];
        begin[info.dtype] = offset;
    }
    return PLD_OK;
}

static int has_optimizer(const pld_params *params)
{
    for (int i = 0; i < pldi_params_states(params); i++)
        if (strcmp(pldi_params_state(params, i)->key, STEP_KEY) == 0)
            return 1;
    return 0;
}

/* All that this rank does alone. */
static int prepare(pld_optim *o, const pld_optim_opts *opts)
{
    PLDI_TRY(read_opts(opts, &o->opts));
    if (has_optimizer(o->params))
        return pldi_fail(PLD_ERR_STATE, "the params have an optimizer already");
    o->kernels = pldi_kernels();
    o->runs = pldi_alloc((size_t)pld_params_count(o->params), sizeof(*o->runs), "optimizer runs");
    o->ranges =
        pldi_alloc((size_t)pld_params_count(o->params), sizeof(*o->ranges), "optimizer runs");
    if (o->runs == NULL || o->ranges == NULL)
        return PLD_ERR_NOMEM;
    PLDI_TRY(alloc_slots(o));
    o->attached = 1;
    PLDI_TRY(pldi_params_add_state(o->params, STEP_KEY, &o->step, sizeof(o->step)));
    PLDI_TRY(pldi_optim_scale_open(o));
    PLDI_TRY(lay_out(o));
    return pldi_params_device(o->params) == NULL ? PLD_OK : pldi_optim_device_open(o);
}

int pld_optim_create(pld_params *params, const pld_optim_opts *opts, pld_optim **out)
{
    PLDI_ENTER();
    pld_optim *o;
    int rc;

    PLDI_CHECK_ARG(params != NULL && out != NULL);
    if (!pldi_params_committed(params))
        return pldi_fail(PLD_ERR_STATE, "pld_params_commit() comes before pld_optim_create()");
    o = pldi_alloc(1, sizeof(*o), "an optimizer");
    rc = o == NULL ? PLD_ERR_NOMEM : PLD_OK;
    if (rc == PLD_OK) {
        o->params = params;
        rc = prepare(o, opts);
    }
    rc = pldi_params_same(params, rc, rc < 0 ? 0 : pldi_hash64(&o->opts, sizeof(o->opts)),
                          "pld_optim_opts");
    if (rc < 0)
        pld_optim_destroy(&o);
    else
        *out = o;
    return rc;
}

void pld_optim_destroy(pld_optim **optim)
{
    pld_optim *o;

    if (optim == NULL || *optim == NULL)
        return;
    o = *optim;
    /* A save may be copying the state. */
    if (o->attached)
        (void)pldi_params_before_change(o->params);
    for (int s = 0; s < SLOTS && o->attached; s++)
        pldi_params_remove_slots(o->params, slot_name(o, s));
    if (o->attached) {
        pldi_params_remove_state(o->params, STEP_KEY);
        pldi_optim_scale_close(o);
    }
    for (int at = 0; at < PLDI_PARAM_DTYPES * SLOTS; at++)
        free_block(o, o->memory[at / SLOTS][at % SLOTS]);
    pldi_optim_device_close(o);
    pldi_free(o->runs);
    pldi_free(o->ranges);
    pldi_free(o);
    *optim = NULL;
}

int64_t pld_optim_steps(pld_optim *optim)
{
    if (optim->device != NULL)
        (void)pldi_optim_device_wait(optim);
    return optim->step;
}

int pld_optim_report(pld_optim *optim, pld_step_report *out)
{
    PLDI_CHECK_ARG(optim != NULL && out != NULL);
    if (optim->device != NULL)
        PLDI_TRY(pldi_optim_device_look(optim));
    *out = optim->report;
    out->step = optim->step;
    return PLD_OK;
}

/* The tensors that count here one after the other, as if they were one vector. */
static double sum_squares(pld_optim *o)
{
    const size_t n = pldi_optim_ranges(o);
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += o->kernels->sum_squares(o->ranges[i].data, o->ranges[i].count, o->ranges[i].dtype);
    return sum;
}

static struct optim_rule rule_of(const pld_optim *o, double lr)
{
    return (struct optim_rule){.kind = o->opts.kind,
                               .lr = lr,
                               .beta1 = o->opts.beta1,
                               .beta2 = o->opts.beta2,
                               .eps = o->opts.eps,
                               .momentum = o->opts.momentum,
                               .weight_decay = o->opts.weight_decay,
                               .factor = 1};
}

static int step_on_host(pld_optim *o, double lr, const struct optim_vote *v)
{
    const struct pldi_scale_rule scaling = pldi_optim_scale_rule(o);
    const double unscale = 1 / o->scaling.scale;
    pld_step_report report = {.factor = 1};
    struct optim_rule rule = rule_of(o, lr);

    report.grad_norm = v->infinite > 0 && isfinite(v->square) ? NAN : sqrt(v->square) * unscale;
    report.skipped = !isfinite(report.grad_norm);
    if (!report.skipped && o->opts.clip > 0)
        report.factor = fmin(1, o->opts.clip / (report.grad_norm + 1e-6));
    if (report.skipped) {
        PLDI_TRY(pld_params_zero_grad(o->params));
    } else {
        rule.factor = report.factor * unscale;
        rule.t = ++o->step;
        for (int r = 0; r < o->run_count; r++)
            pldi_optim_update(o->kernels, &rule, &o->runs[r]);
    }
    pldi_loss_scale_next(&o->scaling, &scaling, report.skipped);
    o->loss_scale = (float)o->scaling.scale;
    report.step = o->step;
    report.loss_scale = o->scaling.scale;
    report.skips = o->scaling.skips;
    o->report = report;
    return PLD_OK;
}

static int check_lr(double lr)
{
    if (!(lr >= 0) || !isfinite(lr))
        return pldi_fail(PLD_ERR_ARG, "lr is %g, need 0 or more", lr);
    return PLD_OK;
}

/* The reducer runs whatever the verdict on the arguments: the others wait in it. */
static int finish_gradients(pld_optim *o, double lr)
{
    int rc;

    /* All record alike, or those that do not miss the others in the reducer. */
    PLDI_TRY(pldi_params_check_stream(o->params, "pld_optim_step"));
    rc = pldi_params_finish_gradients(o->params);
    PLDI_TRY(rc);
    PLDI_TRY(pldi_params_before_change(o->params));
    return check_lr(lr);
}

int pld_optim_step(pld_optim *optim, double lr, pld_step_report *out)
{
    PLDI_ENTER();
    struct optim_plan plan = {.lr = lr};
    struct optim_vote vote;
    struct optim_rule rule;

    PLDI_CHECK_ARG(optim != NULL);
    plan.code = finish_gradients(optim, lr);
    if (optim->device == NULL) {
        plan.step = optim->step;
        PLDI_TRY(pldi_optim_vote(optim, &plan, plan.code < 0 ? 0 : sum_squares(optim), &vote));
        PLDI_TRY(step_on_host(optim, lr, &vote));
    } else {
        plan.step = pldi_optim_device_planned(optim);
        PLDI_TRY(pldi_optim_vote(optim, &plan, 0, &vote));
        rule = rule_of(optim, lr);
        PLDI_TRY(pldi_optim_device_step(optim, &rule, optim->opts.clip));
        if (out != NULL)
            PLDI_TRY(pldi_optim_device_wait(optim));
    }
    if (out != NULL)
        *out = optim->report;
    return PLD_OK;
}
