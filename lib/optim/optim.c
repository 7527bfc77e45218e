/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * State mirrors the arenas: one block per slot and dtype in which a tensor has the
 * offset that it has in its arena (those in the caller's memory follow).  So a run of
 * neighbouring tensors is one sweep over four plain ranges.
 *
 * A step makes one small all-reduce over the mesh.  It carries the square of the norm,
 * to which every tensor of the model contributes once, and the votes: a rank that
 * failed, or has met a number that is not finite, or is about to take another step than
 * the rest, is heard by all, and all do the same.
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
_Static_assert(sizeof(pld_optim_opts) == OPTS_SIZE_0_1, "padding, or ABI");

#define STEP_KEY "optim/step"

struct pld_optim {
    pld_params *params;
    const struct pldi_kernels *kernels;
    pld_optim_opts opts;
    int64_t step; /* saved with the params under STEP_KEY */
    struct optim_run *runs;
    int run_count;
    void *memory[PLDI_PARAM_DTYPES][SLOTS];
    int attached; /* slots and state are known to the params */
};

/* lr and step, in pieces whose squares sum exactly over 2^21 ranks. */
enum { PIECE_BITS = 16, LR_PIECES = 4, PIECES = 8 };

/* What one rank tells all; sums over the mesh.  All f64. */
struct vote {
    double square; /* of the norm */
    double infinite;
    double failed;
    double plan[PIECES]; /* lr and step, and squares of the pieces: see same_pieces() */
    double plan_square[PIECES];
};

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
    if (o->reserved != 0)
        return pldi_fail(PLD_ERR_ARG, "reserved is %d, need 0", o->reserved);
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
        *block = pldi_alloc(count[d], pld_dtype_bytes(slot_dtype(d)), "optimizer state");
        if (*block == NULL)
            return PLD_ERR_NOMEM;
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
    if (o->runs == NULL)
        return PLD_ERR_NOMEM;
    PLDI_TRY(alloc_slots(o));
    o->attached = 1;
    PLDI_TRY(pldi_params_add_state(o->params, STEP_KEY, &o->step, sizeof(o->step)));
    return lay_out(o);
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
    for (int s = 0; s < SLOTS && o->attached; s++)
        pldi_params_remove_slots(o->params, slot_name(o, s));
    if (o->attached)
        pldi_params_remove_state(o->params, STEP_KEY);
    for (int at = 0; at < PLDI_PARAM_DTYPES * SLOTS; at++)
        pldi_free(o->memory[at / SLOTS][at % SLOTS]);
    pldi_free(o->runs);
    pldi_free(o);
    *optim = NULL;
}

int64_t pld_optim_steps(const pld_optim *optim)
{
    return optim->step;
}

/*
 * Elements [*begin, *end) of the model's tensors on this rank whose squares it adds up.
 * Replicas whose gradients a reducer has made equal share the work; without one every
 * rank looks at all it has, and the first replica's sum counts.
 */
static void norm_share(const pld_optim *o, size_t total, size_t *begin, size_t *end)
{
    const pld_mesh *mesh = pldi_params_mesh(o->params);
    const size_t size = (size_t)pld_mesh_size(mesh, PLD_AXIS_DP);
    const size_t coord = (size_t)pld_mesh_coord(mesh, PLD_AXIS_DP);
    const size_t piece = pldi_params_padded((total + size - 1) / size);

    *begin = 0;
    *end = total;
    if (pldi_params_reducer(o->params) == NULL)
        return;
    *begin = coord * piece < total ? coord * piece : total;
    *end = total - *begin < piece ? total : *begin + piece;
}

/* The tensors that count here one after the other, as if they were one vector. */
static double sum_squares(const pld_optim *o)
{
    const int n = pld_params_count(o->params);
    size_t total = 0;
    size_t at = 0;
    size_t begin;
    size_t end;
    double sum = 0;
    pld_param_info info;

    for (int i = 0; i < n; i++)
        if (pldi_params_counted(o->params, i) && info_of(o, i, &info) == PLD_OK)
            total += info.count;
    norm_share(o, total, &begin, &end);
    for (int i = 0; i < n; i++) {
        size_t from;
        size_t to;

        if (!pldi_params_counted(o->params, i) || info_of(o, i, &info) < 0)
            continue;
        from = at > begin ? 0 : begin - at;
        to = end < at ? 0 : end - at;
        to = to < info.count ? to : info.count;
        at += info.count;
        if (from < to)
            sum += o->kernels->sum_squares((const char *)info.grad +
                                               from * pld_dtype_bytes(info.dtype),
                                           to - from, info.dtype);
    }
    return sum;
}

/* Which replica's sum counts: all of them if they share the work. */
static int speaks_for_model(const pld_optim *o)
{
    const pld_mesh *mesh = pldi_params_mesh(o->params);

    return (pldi_params_reducer(o->params) != NULL || pld_mesh_coord(mesh, PLD_AXIS_DP) == 0) &&
           pld_mesh_coord(mesh, PLD_AXIS_CP) == 0 && pld_mesh_coord(mesh, PLD_AXIS_EP) == 0;
}

/* Equal numbers have equal bits: -0 becomes 0. */
static void set_plan(struct vote *v, double lr, int64_t step)
{
    const double plain = lr + 0.0;
    uint64_t words[PIECES / LR_PIECES] = {0, (uint64_t)step};

    memcpy(&words[0], &plain, sizeof(words[0]));
    for (int i = 0; i < PIECES; i++) {
        const uint64_t word = words[i / LR_PIECES] >> (i % LR_PIECES * PIECE_BITS);
        const double piece = (double)(word & ((1U << PIECE_BITS) - 1));

        v->plan[i] = piece;
        v->plan_square[i] = piece * piece;
    }
}

static struct vote local_vote(const pld_optim *o, int rc, double lr)
{
    const double square = rc < 0 ? 0 : sum_squares(o);
    struct vote v = {.failed = rc < 0};

    set_plan(&v, lr, o->step);
    v.infinite = !isfinite(square);
    v.square = speaks_for_model(o) ? square : 0;
    return v;
}

/* All ranks' pieces are equal if and only if their variance is 0.  Every rank sees it. */
static int same_pieces(const struct vote *v, int begin, int end, int ranks)
{
    for (int i = begin; i < end; i++) {
        const uint64_t sum = (uint64_t)v->plan[i];
        const uint64_t mean = sum / (uint64_t)ranks;

        if (mean * (uint64_t)ranks != sum ||
            mean * mean * (uint64_t)ranks != (uint64_t)v->plan_square[i])
            return 0;
    }
    return 1;
}

static int check_plan(const pld_optim *o, const struct vote *v, double lr)
{
    const int ranks = pld_group_size(pld_mesh_world(pldi_params_mesh(o->params)));

    if (!same_pieces(v, LR_PIECES, PIECES, ranks))
        return pldi_fail(PLD_ERR_MISMATCH,
                         "ranks take different steps: this one has made %lld so far",
                         (long long)o->step);
    if (!same_pieces(v, 0, LR_PIECES, ranks))
        return pldi_fail(PLD_ERR_MISMATCH, "ranks pass different learning rates: this one %.17g",
                         lr);
    return PLD_OK;
}

static void update(pld_optim *o, double lr, double factor)
{
    const struct optim_rule rule = {.kind = o->opts.kind,
                                    .lr = lr,
                                    .beta1 = o->opts.beta1,
                                    .beta2 = o->opts.beta2,
                                    .eps = o->opts.eps,
                                    .momentum = o->opts.momentum,
                                    .weight_decay = o->opts.weight_decay,
                                    .factor = factor,
                                    .t = o->step + 1};

    for (int r = 0; r < o->run_count; r++)
        pldi_optim_update(o->kernels, &rule, &o->runs[r]);
    o->step++;
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
    const int rc = pldi_params_finish_gradients(o->params);

    return rc < 0 ? rc : check_lr(lr);
}

int pld_optim_step(pld_optim *optim, double lr, pld_step_report *out)
{
    PLDI_ENTER();
    pld_step_report report = {.factor = 1};
    pld_group *world;
    struct vote v;
    int rc;

    PLDI_CHECK_ARG(optim != NULL);
    world = pld_mesh_world(pldi_params_mesh(optim->params));
    rc = finish_gradients(optim, lr);
    v = local_vote(optim, rc, lr);
    PLDI_TRY(pld_allreduce(world, &v, &v, sizeof(v) / sizeof(double), PLD_F64, PLD_SUM, NULL));
    if (v.failed > 0)
        return pld_agree(world, rc);
    PLDI_TRY(check_plan(optim, &v, lr));
    report.grad_norm = v.infinite > 0 && isfinite(v.square) ? NAN : sqrt(v.square);
    report.skipped = !isfinite(report.grad_norm);
    if (!report.skipped && optim->opts.clip > 0)
        report.factor = fmin(1, optim->opts.clip / (report.grad_norm + 1e-6));
    if (report.skipped)
        PLDI_TRY(pld_params_zero_grad(optim->params));
    else
        update(optim, lr, report.factor);
    report.step = optim->step;
    if (out != NULL)
        *out = report;
    return PLD_OK;
}
