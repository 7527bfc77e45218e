/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A step on a GPU: kernels in the params' stream.  The squares of this rank's share go into a
 * vote, the vote through one small all-reduce, and from it the device makes the decision by
 * which the sweeps go.  The host only learns of it: each step's decision is copied into a ring
 * in pinned memory.  A slot is read when its event has come, at the latest before it is used
 * again; if the host is farther ahead than the ring is long, that step's numbers are passed over.
 */

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_break.h"
#include "optim/optim_impl.h"

enum { RING = 8 };

struct optim_device {
    pld_device *gpu;
    struct pldi_step_vote *vote;
    struct pldi_step_control *control;
    struct pldi_step_control *seen; /* [RING], pinned; step n, from 1, has slot n % RING */
    struct pldi_step_control *set;  /* pinned, for what is loaded */
    pld_event events[RING];
    int64_t launched; /* steps */
    int64_t known;    /* the step whose numbers the report has */
    int64_t planned;  /* as pld_optim_steps() if the device skips none: the same on all ranks */
};

static void take_in(pld_optim *o, int64_t n)
{
    const struct pldi_step_control *c = &o->device->seen[n % RING];

    o->device->known = n;
    o->step = c->t;
    o->scaling = c->scaling;
    o->report = (pld_step_report){.grad_norm = c->norm,
                                  .factor = c->skip ? 1 : c->clip,
                                  .step = c->t,
                                  .skipped = c->skip != 0,
                                  .loss_scale = c->scaling.scale,
                                  .skips = c->scaling.skips};
}

/* The numbers of step n, if they have come. */
static int look_at(pld_optim *o, int64_t n)
{
    struct optim_device *d = o->device;
    int done = 0;

    PLDI_TRY(d->gpu->ops->event_test(d->gpu, d->events[n % RING], &done));
    if (done)
        take_in(o, n);
    return PLD_OK;
}

int pldi_optim_device_look(pld_optim *o)
{
    const struct optim_device *d = o->device;

    for (int64_t n = d->launched; n > d->known && n > d->launched - RING; n--)
        PLDI_TRY(look_at(o, n));
    return PLD_OK;
}

int pldi_optim_device_wait(pld_optim *o)
{
    const struct optim_device *d = o->device;

    if (d->known == d->launched)
        return PLD_OK;
    pldi_group_quiet(pld_mesh_world(pldi_params_mesh(o->params)));
    PLDI_TRY(d->gpu->ops->event_wait(d->gpu, d->events[d->launched % RING]));
    take_in(o, d->launched);
    return PLD_OK;
}

const float *pldi_optim_device_loss_scale(const pld_optim *o)
{
    return &o->device->control->loss_scale;
}

int64_t pldi_optim_device_planned(const pld_optim *o)
{
    return o->device->planned;
}

static int pull(void *context)
{
    return pldi_optim_device_wait(context);
}

static int push(void *context)
{
    pld_optim *o = context;
    struct optim_device *d = o->device;

    pldi_optim_loaded(o);
    *d->set = (struct pldi_step_control){
        .t = o->step, .scaling = o->scaling, .loss_scale = (float)o->scaling.scale};
    d->planned = o->step;
    d->known = d->launched;
    PLDI_TRY(pldi_params_copy(o->params, d->control, d->set, sizeof(*d->set)));
    return d->gpu->ops->stream_wait(d->gpu, pldi_params_stream(o->params));
}

int pldi_optim_device_open(pld_optim *o)
{
    struct optim_device *d = pldi_alloc(1, sizeof(*d), "an optimizer");
    void *memory[2] = {NULL, NULL};
    void *pinned = NULL;
    int rc;

    if (d == NULL)
        return PLD_ERR_NOMEM;
    o->device = d;
    d->gpu = pldi_params_device(o->params);
    rc = pldi_params_alloc(o->params, 1, sizeof(*d->vote), "a step's vote", &memory[0]);
    d->vote = memory[0];
    if (rc == PLD_OK)
        rc = pldi_params_alloc(o->params, 1, sizeof(*d->control), "a step's numbers", &memory[1]);
    d->control = memory[1];
    if (rc == PLD_OK)
        rc = d->gpu->ops->alloc(d->gpu, (RING + 1) * sizeof(*d->seen), PLD_MEM_PINNED, &pinned);
    d->seen = pinned;
    for (int i = 0; rc == PLD_OK && i < RING; i++)
        rc = d->gpu->ops->event_create(d->gpu, 0, &d->events[i]);
    PLDI_TRY(rc);
    d->set = d->seen + RING;
    pldi_params_set_mirror(o->params, pull, push, o);
    return push(o);
}

void pldi_optim_device_close(pld_optim *o)
{
    struct optim_device *d = o->device;

    if (d == NULL)
        return;
    for (int i = 0; i < RING; i++)
        d->gpu->ops->event_destroy(d->gpu, &d->events[i]);
    d->gpu->ops->free(d->gpu, d->seen);
    d->gpu->ops->free(d->gpu, d->vote);
    d->gpu->ops->free(d->gpu, d->control);
    pldi_free(d);
    o->device = NULL;
}

static int vote(pld_optim *o, pld_stream stream)
{
    const struct optim_device *d = o->device;
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .tag = "gradient norm", .stream = stream};
    const size_t n = pldi_optim_ranges(o);

    PLDI_TRY(d->gpu->ops->sum_squares(d->gpu, o->ranges, n, d->vote, stream));
    if (!pldi_optim_speaks(o))
        PLDI_TRY(pldi_params_zero(o->params, &d->vote->square, sizeof(d->vote->square)));
    return pld_allreduce(pld_mesh_world(pldi_params_mesh(o->params)), d->vote, d->vote,
                         sizeof(*d->vote) / sizeof(double), PLD_F64, PLD_SUM, &opts);
}

static int sweep(const pld_optim *o, const struct optim_rule *rule, const struct optim_run *run,
                 pld_stream stream)
{
    const struct optim_device *d = o->device;
    const struct pldi_device_sweep args = {.value = run->value,
                                           .grad = run->grad,
                                           .master = run->slots[SLOT_MASTER],
                                           .first = run->slots[SLOT_FIRST],
                                           .second = run->slots[SLOT_SECOND],
                                           .count = run->count,
                                           .dtype = run->dtype,
                                           .grad_dtype = run->dtype,
                                           .beta1 = rule->beta1,
                                           .beta2 = rule->beta2,
                                           .eps = rule->eps,
                                           .lr = rule->lr,
                                           .momentum = rule->momentum,
                                           .decay_factor = pldi_optim_decay(rule, run->decay),
                                           .adamw = rule->kind == PLD_ADAMW};

    return d->gpu->ops->sweep(d->gpu, &args, d->control, stream);
}

/* The slot that comes next is read before it is written again. */
static int tell_host(pld_optim *o, pld_stream stream)
{
    struct optim_device *d = o->device;
    const int64_t n = d->launched + 1;

    if (n - RING > d->known)
        PLDI_TRY(look_at(o, n - RING));
    PLDI_TRY(pldi_params_copy(o->params, &d->seen[n % RING], d->control, sizeof(*d->control)));
    PLDI_TRY(d->gpu->ops->event_record(d->gpu, d->events[n % RING], stream));
    d->launched = n;
    return PLD_OK;
}

static int launch(pld_optim *o, const struct optim_rule *rule, double clip)
{
    const struct optim_device *d = o->device;
    const pld_stream stream = pldi_params_stream(o->params);
    const struct pldi_step_rule decision = {.lr = rule->lr,
                                            .beta1 = rule->beta1,
                                            .beta2 = rule->beta2,
                                            .clip = clip,
                                            .scaling = pldi_optim_scale_rule(o)};

    PLDI_TRY(vote(o, stream));
    PLDI_TRY(d->gpu->ops->step_decide(d->gpu, d->vote, &decision, d->control, stream));
    for (int r = 0; r < o->run_count; r++)
        PLDI_TRY(sweep(o, rule, &o->runs[r], stream));
    return tell_host(o, stream);
}

/* What one rank could not put into its stream the others' streams wait for. */
int pldi_optim_device_step(pld_optim *o, const struct optim_rule *rule, double clip)
{
    pld_group *world = pld_mesh_world(pldi_params_mesh(o->params));
    const int rc = pld_agree(world, launch(o, rule, clip));

    o->device->planned++;
    if (rc < 0)
        pldi_group_end(world, rc);
    return rc;
}
