/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An optimizer over a mesh: one norm for the whole model, in which every tensor counts
 * once; steps that all ranks skip together; steps that all refuse together.  Gradients
 * are small integers, so that the norm's square is exact.
 */

#include "inproc/inproc.h"
#include "numbers.h"
#include "params/params.h"
#include "tap.h"

enum { MOST_TENSORS = 5, OUT = 6 };

/* A model on a mesh, and whether a pld_dp makes replicas equal. */
struct model {
    const char *mesh;
    int ranks, reduced;
};

struct rank {
    pld_mesh *mesh;
    pld_params *params;
    pld_dp *dp;
    pld_optim *optim;
    int stage, stages, dp_rank, dp_size, tp, tps, reduced;
    double outside[2][OUT];
};

/* Per stage "own", "col" in tensor-parallel boxes, "out" in the caller's memory; "wte" on
 * the first and last, if these are two. */
static int add_tensors(struct rank *r)
{
    char own[16], col[16], out[16];
    pld_param tensors[MOST_TENSORS] = {
        {PLD_OPTS(pld_param), .name = own, .ndim = 1, .shape = {6}},
        {PLD_OPTS(pld_param), .name = col, .dtype = PLD_BF16, .ndim = 2, .shape = {2, 4 * r->tps},
         .offset = {0, 4 * r->tp}, .extent = {2, 4}},
        {PLD_OPTS(pld_param), .name = out, .dtype = PLD_F64, .ndim = 1, .shape = {OUT},
         .value = r->outside[0], .grad = r->outside[1]},
        {PLD_OPTS(pld_param), .name = "wte", .ndim = 1, .shape = {5}, .shared = 1},
    };
    const int shares = r->stages > 1 && (r->stage == 0 || r->stage == r->stages - 1);

    (void)snprintf(own, sizeof(own), "own%d", r->stage);
    (void)snprintf(col, sizeof(col), "col%d", r->stage);
    (void)snprintf(out, sizeof(out), "out%d", r->stage);
    for (int i = 0; i < 3 + shares; i++)
        if (pld_params_add(r->params, &tensors[i], NULL) < 0)
            return -1;
    return pld_params_commit(r->params);
}

static int open_rank(pld_runtime *rt, struct rank *r, const struct model *m,
                     const pld_optim_opts *opts)
{
    memset(r, 0, sizeof(*r));
    CHECK(rt, pld_mesh_create(rt, m->mesh, &r->mesh) == 0);
    r->stage = pld_mesh_coord(r->mesh, PLD_AXIS_PP);
    r->stages = pld_mesh_size(r->mesh, PLD_AXIS_PP);
    r->dp_rank = pld_mesh_coord(r->mesh, PLD_AXIS_DP);
    r->dp_size = pld_mesh_size(r->mesh, PLD_AXIS_DP);
    r->tp = pld_mesh_coord(r->mesh, PLD_AXIS_TP);
    r->tps = pld_mesh_size(r->mesh, PLD_AXIS_TP);
    r->reduced = m->reduced;
    CHECK(rt, pld_params_create(r->mesh, &r->params) == 0 && add_tensors(r) == 0);
    CHECK(rt, !m->reduced || pld_dp_create(r->params, NULL, &r->dp) == 0);
    CHECK(rt, opts == NULL || pld_optim_create(r->params, opts, &r->optim) == 0);
    return 0;
}

static void close_rank(struct rank *r)
{
    pld_optim_destroy(&r->optim);
    pld_optim_destroy(&r->optim);
    pld_dp_destroy(&r->dp);
    pld_params_destroy(&r->params);
    pld_mesh_destroy(&r->mesh);
}

/* Gradient of element i of a tensor of the model: what the update shall see. */
static double gradient(char tensor, int stage, int i)
{
    return (double)((tensor * 3 + stage * 5 + i * 7) % 9 - 4) * 2;
}

/* Element e of this rank's box in the whole tensor. */
static int whole_index(const struct rank *r, char tensor, int e)
{
    return tensor == 'c' ? e / 4 * 4 * r->tps + 4 * r->tp + e % 4 : e;
}

/* With a reducer the replicas' contributions average to the gradient, and those of the
 * holders of "wte" add up to it. */
static void fill(const struct rank *r)
{
    for (int id = 0; id < pld_params_count(r->params); id++) {
        pld_param_info info;
        double factor = r->reduced ? 1 + (2 * r->dp_rank - (r->dp_size - 1)) / 4.0 : 1;

        (void)pld_params_info(r->params, id, &info);
        factor /= r->reduced && info.name[0] == 'w' ? 2 : 1;
        for (int e = 0; e < (int)info.count; e++)
            number_put((char *)info.grad + (size_t)e * pld_dtype_bytes(info.dtype), info.dtype,
                       factor * gradient(info.name[0], info.name[0] == 'w' ? 0 : r->stage,
                                         whole_index(r, info.name[0], e)));
    }
}

static double model_square(int stages, int tps)
{
    static const char names[] = {'o', 'c', 'O'};
    const int counts[] = {6, 8 * tps, OUT};
    double sum = 0;

    for (int s = 0; s < stages; s++)
        for (int t = 0; t < 3; t++)
            for (int i = 0; i < counts[t]; i++)
                sum += pow(gradient(names[t] == 'O' ? 'o' : names[t], s, i), 2);
    for (int i = 0; i < 5 && stages > 1; i++)
        sum += pow(gradient('w', 0, i), 2);
    return sum;
}

static int same_report(pld_runtime *rt, const pld_step_report *mine)
{
    pld_step_report first = *mine;

    CHECK(rt, pld_broadcast(pld_runtime_world(rt), &first, sizeof(first), PLD_U8, 0, NULL) == 0);
    CHECK(rt, memcmp(&first, mine, sizeof(first)) == 0);
    return 0;
}

/* Two steps of SGD with clip 1: norms are the model's, and so are the values. */
static int norm(pld_runtime *rt, void *context)
{
    const struct model *m = context;
    const pld_optim_opts opts = {PLD_OPTS(pld_optim_opts), .kind = PLD_SGD, .clip = 1};
    pld_step_report report;
    struct rank r;
    double want;

    CHECK(rt, open_rank(rt, &r, m, &opts) == 0);
    want = sqrt(model_square(r.stages, r.tps));
    for (int step = 1; step <= 2; step++) {
        fill(&r);
        memset(&report, 0, sizeof(report));
        CHECK(rt, pld_optim_step(r.optim, 0.5, &report) == 0);
        CHECK(rt, report.grad_norm == want && report.step == step && report.skipped == 0);
        CHECK(rt, fabs(report.factor - 1 / (want + 1e-6)) < 1e-15);
        CHECK(rt, same_report(rt, &report) == 0);
        for (int i = 0; i < OUT; i++)
            CHECK(rt, fabs(r.outside[0][i] + step * 0.5 * gradient('o', r.stage, i) / want) < 1e-6);
    }
    close_rank(&r);
    return 0;
}

static void test_norm(void)
{
    static const struct model models[] = {
        {"dp=0", 1, 0},
        {"dp=0", 1, 1},
        {"dp=0", 3, 0},
        {"dp=0", 3, 1},
        {"tp=0", 2, 0},
        {"pp=0", 3, 1},
        {"dp=3,pp=2,tp=2", 12, 0},
        {"dp=3,pp=2,tp=2", 12, 1},
        {"dp=1,pp=3,tp=3", 9, 1},
        {"dp=1,cp=2,ep=2", 4, 0},
    };

    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++)
        ok(inproc_run(models[i].ranks, norm, (void *)(uintptr_t)&models[i]) == 0,
           "%s on %d ranks%s: every tensor counts once", models[i].mesh, models[i].ranks,
           models[i].reduced ? ", reduced" : "");
}

/* Every byte that a step may change, but for gradients. */
struct memory {
    unsigned char bytes[2048];
    size_t used;
};

static void copy_in(struct memory *m, const void *from, size_t bytes)
{
    memcpy(m->bytes + m->used, from, bytes);
    m->used += bytes;
}

static void remember(const struct rank *r, struct memory *m)
{
    m->used = 0;
    for (int id = 0; id < pld_params_count(r->params); id++) {
        pld_param_info info;

        (void)pld_params_info(r->params, id, &info);
        copy_in(m, info.value, info.count * pld_dtype_bytes(info.dtype));
        for (int s = 0; s < pldi_params_slots(r->params, id); s++) {
            const struct pldi_slot *slot = pldi_params_slot(r->params, id, s);

            copy_in(m, slot->value, info.count * pld_dtype_bytes(slot->dtype));
        }
    }
}

static int unchanged(const struct rank *r, const struct memory *before)
{
    struct memory now;

    remember(r, &now);
    return now.used == before->used && memcmp(now.bytes, before->bytes, now.used) == 0;
}

static int gradients_are_zero(const struct rank *r)
{
    for (int id = 0; id < pld_params_count(r->params); id++) {
        pld_param_info info;

        (void)pld_params_info(r->params, id, &info);
        for (size_t e = 0; e < info.count; e++)
            if (number_get((char *)info.grad + e * pld_dtype_bytes(info.dtype), info.dtype) != 0)
                return 0;
    }
    return 1;
}

/* A number that is none, on one rank, in one tensor. */
struct poison {
    struct model model;
    int rank, tensor;
    double value;
};

static int skip(pld_runtime *rt, void *context)
{
    const struct poison *p = context;
    const pld_optim_opts opts = {PLD_OPTS(pld_optim_opts), .clip = 1, .weight_decay = 0.1};
    pld_step_report report;
    struct memory before;
    struct rank r;
    pld_param_info info;

    CHECK(rt, open_rank(rt, &r, &p->model, &opts) == 0);
    fill(&r);
    CHECK(rt, pld_optim_step(r.optim, 0.5, NULL) == 0);
    remember(&r, &before);
    fill(&r);
    CHECK(rt, pld_params_info(r.params, p->tensor, &info) == 0);
    if (pld_runtime_rank(rt) == p->rank)
        number_put(info.grad, info.dtype, p->value);
    memset(&report, 0, sizeof(report));
    CHECK(rt, pld_optim_step(r.optim, 0.5, &report) == 0);
    CHECK(rt, report.skipped == 1 && !isfinite(report.grad_norm) && report.factor == 1);
    CHECK(rt, report.step == 1 && pld_optim_steps(r.optim) == 1);
    CHECK(rt, unchanged(&r, &before) && gradients_are_zero(&r));
    fill(&r);
    CHECK(rt, pld_optim_step(r.optim, 0.5, &report) == 0);
    CHECK(rt, report.skipped == 0 && report.step == 2 && !unchanged(&r, &before));
    CHECK(rt, report.grad_norm == sqrt(model_square(r.stages, r.tps)));
    close_rank(&r);
    return 0;
}

static void test_skip(void)
{
    static const struct poison all[] = {
        {{"dp=2,pp=2", 4, 0}, 3, 0, INFINITY}, {{"dp=2,pp=2", 4, 1}, 3, 1, INFINITY},
        {{"dp=2,pp=2", 4, 1}, 2, 3, NAN},      {{"dp=2,pp=2", 4, 0}, 1, 2, NAN},
        {{"tp=2", 2, 0}, 1, 1, -INFINITY},     {{"dp=0", 1, 0}, 0, 2, INFINITY},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        ok(inproc_run(all[i].model.ranks, skip, (void *)(uintptr_t)&all[i]) == 0,
           "%s%s: %g on rank %d skips the step everywhere", all[i].model.mesh,
           all[i].model.reduced ? ", reduced" : "", all[i].value, all[i].rank);
}

/* What the highest rank does differently in a step. */
struct refusal {
    struct model model;
    double lr;       /* instead of 0.5 */
    int64_t step_by; /* its counter is ahead */
    int code;
    const char *words;
};

static int refuse(pld_runtime *rt, void *context)
{
    const struct refusal *f = context;
    const pld_optim_opts opts = {PLD_OPTS(pld_optim_opts)};
    const int odd = pld_runtime_rank(rt) == f->model.ranks - 1;
    struct memory before;
    struct rank r;
    int64_t *counter;

    CHECK(rt, open_rank(rt, &r, &f->model, &opts) == 0);
    counter = pldi_params_state(r.params, 0)->value;
    fill(&r);
    CHECK(rt, pld_optim_step(r.optim, 0.5, NULL) == 0 && *counter == 1);
    remember(&r, &before);
    fill(&r);
    *counter += odd ? f->step_by : 0;
    CHECK(rt, pld_optim_step(r.optim, odd ? f->lr : 0.5, NULL) == f->code);
    CHECK(rt, strstr(pld_last_error(), f->words) != NULL);
    *counter -= odd ? f->step_by : 0;
    CHECK(rt, unchanged(&r, &before) && pld_optim_steps(r.optim) == 1);
    fill(&r);
    CHECK(rt, pld_optim_step(r.optim, 0.5, NULL) == 0 && *counter == 2);
    close_rank(&r);
    return 0;
}

/* Ranks apart by one in any bit of lr or of the counter, their mean being that of one of them. */
static int apart(pld_runtime *rt, void *context)
{
    const struct model m = {"dp=3", 3, 0};
    const int by = pld_runtime_rank(rt) - 1;
    const pld_optim_opts opts = {PLD_OPTS(pld_optim_opts)};
    int64_t *counter;
    struct rank r;

    (void)context;
    CHECK(rt, open_rank(rt, &r, &m, &opts) == 0);
    counter = pldi_params_state(r.params, 0)->value;
    for (int bit = 0; bit < 62; bit++) {
        const int64_t at = INT64_C(1) << 62, other = at + by * (INT64_C(1) << bit);
        double lr = 0.5;
        uint64_t bits;

        *counter = other;
        CHECK(rt, pld_optim_step(r.optim, 0.5, NULL) == PLD_ERR_MISMATCH);
        *counter = at;
        memcpy(&bits, &lr, sizeof(bits));
        bits += (uint64_t)by << (bit % 52);
        memcpy(&lr, &bits, sizeof(bits));
        CHECK(rt, pld_optim_step(r.optim, lr, NULL) == PLD_ERR_MISMATCH);
    }
    *counter = 0;
    CHECK(rt, pld_optim_step(r.optim, by == 0 ? -0.0 : 0.0, NULL) == 0);
    close_rank(&r);
    return 0;
}

static void test_refuse(void)
{
    static const struct refusal all[] = {
        {{"dp=2,pp=2", 4, 1}, -1, 0, PLD_ERR_ARG, "rank 3: lr is -1"},
        {{"dp=2,pp=2", 4, 0}, NAN, 0, PLD_ERR_ARG, "rank 3: lr is"},
        {{"dp=0", 2, 1}, INFINITY, 0, PLD_ERR_ARG, "rank 1: lr is inf"},
        {{"dp=2,pp=2", 4, 1}, 0.25, 0, PLD_ERR_MISMATCH, "learning rates"},
        {{"tp=3", 3, 0}, 0.5 + 1e-15, 0, PLD_ERR_MISMATCH, "learning rates"},
        {{"dp=2", 2, 0}, 0x1.0000000013e4ap-1, 0, PLD_ERR_MISMATCH, "learning rates"},
        {{"dp=2,pp=2", 4, 0}, 0.5, 1, PLD_ERR_MISMATCH, "ranks take different steps"},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        ok(inproc_run(all[i].model.ranks, refuse, (void *)(uintptr_t)&all[i]) == 0,
           "%s: lr %g, step %+lld on a rank is %s everywhere", all[i].model.mesh, all[i].lr,
           (long long)all[i].step_by, pld_error_name(all[i].code));
    ok(inproc_run(3, apart, NULL) == 0, "no difference in lr or in steps is too small to be seen");
}

/* Options of the highest rank, against none on the others. */
struct wrong {
    pld_optim_opts opts;
    int code;
    const char *words;
};

static int create(pld_runtime *rt, void *context)
{
    const struct wrong *w = context;
    const struct model m = {"dp=2,pp=2", 4, 0};
    pld_optim *optim = NULL;
    struct rank r;

    CHECK(rt, open_rank(rt, &r, &m, NULL) == 0);
    CHECK(rt, pld_optim_create(r.params, pld_runtime_rank(rt) == 3 ? &w->opts : NULL, &optim) ==
                  w->code);
    CHECK(rt, (optim == NULL) == (w->code < 0));
    CHECK(rt, w->code == 0 || strstr(pld_last_error(), w->words) != NULL);
    pld_optim_destroy(&optim);
    CHECK(rt, pld_optim_create(r.params, NULL, &optim) == 0);
    pld_optim_destroy(&optim);
    close_rank(&r);
    return 0;
}

#define OPTS PLD_OPTS(pld_optim_opts)
#define STATIC .scaling = PLD_SCALING_STATIC
#define DYNAMIC .scaling = PLD_SCALING_DYNAMIC

static void test_create(void)
{
    static const struct wrong all[] = {
        {{OPTS, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8}, 0, NULL},
        {{OPTS, .beta1 = 0.8}, PLD_ERR_MISMATCH, "pld_optim_opts"},
        {{OPTS, .beta2 = 0.99}, PLD_ERR_MISMATCH, "pld_optim_opts"},
        {{OPTS, .eps = 1e-7}, PLD_ERR_MISMATCH, "pld_optim_opts"},
        {{OPTS, .weight_decay = 0.1}, PLD_ERR_MISMATCH, "pld_optim_opts"},
        {{OPTS, .clip = 1}, PLD_ERR_MISMATCH, "pld_optim_opts"},
        {{OPTS, .kind = PLD_SGD}, PLD_ERR_MISMATCH, "pld_optim_opts"},
        {{OPTS, .kind = (pld_optim_kind)2}, PLD_ERR_ARG, "optimizer kind 2"},
        {{OPTS, .beta1 = 1}, PLD_ERR_ARG, "beta1 is 1"},
        {{OPTS, .beta2 = NAN}, PLD_ERR_ARG, "beta2"},
        {{OPTS, .eps = -1}, PLD_ERR_ARG, "eps is -1"},
        {{OPTS, .eps = 1e-60}, PLD_ERR_ARG, "eps is 1e-60"},
        {{OPTS, .weight_decay = -0.5}, PLD_ERR_ARG, "weight_decay is -0.5"},
        {{OPTS, .momentum = 1}, PLD_ERR_ARG, "momentum is 1"},
        {{OPTS, .clip = -2}, PLD_ERR_ARG, "clip is -2"},
        {{OPTS, .scaling = PLD_SCALING_STATIC}, PLD_ERR_MISMATCH, "pld_optim_opts"},
        {{OPTS, .scaling = PLD_SCALING_DYNAMIC}, PLD_ERR_MISMATCH, "pld_optim_opts"},
        {{OPTS, .scaling = (pld_loss_scaling)3}, PLD_ERR_ARG, "loss scaling 3"},
        {{OPTS, .init_scale = 8}, PLD_ERR_ARG, "init_scale is 8, but `scaling`"},
        {{OPTS, STATIC, .growth_interval = 8}, PLD_ERR_ARG, "growth_interval is set, but"},
        {{OPTS, STATIC, .init_scale = 1e-40}, PLD_ERR_ARG, "init_scale is 1e-40"},
        {{OPTS, STATIC, .init_scale = NAN}, PLD_ERR_ARG, "init_scale is"},
        {{OPTS, DYNAMIC, .growth_factor = 1}, PLD_ERR_ARG, "growth_factor is 1"},
        {{OPTS, DYNAMIC, .backoff_factor = 1}, PLD_ERR_ARG, "backoff_factor is 1"},
        {{OPTS, DYNAMIC, .backoff_factor = -0.5}, PLD_ERR_ARG, "backoff_factor is -0.5"},
        {{OPTS, DYNAMIC, .growth_interval = -1}, PLD_ERR_ARG, "growth_interval is -1"},
        {{.struct_size = 8}, PLD_ERR_ARG, "rank 3"},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        ok(inproc_run(4, create, (void *)(uintptr_t)&all[i]) == 0,
           "options %zu on a rank, none on others: %s everywhere", i,
           all[i].code == 0 ? "equal" : pld_error_name(all[i].code));
}

static int states(pld_runtime *rt, void *context)
{
    const struct model m = {"dp=0", 2, 0};
    const pld_optim_opts opts = {OPTS};
    const pld_param o = {PLD_OPTS(pld_param), .name = "t", .ndim = 1, .shape = {3}};
    pld_optim *second = NULL;
    pld_params *bare = NULL;
    struct rank r;

    (void)context;
    CHECK(rt, open_rank(rt, &r, &m, &opts) == 0);
    CHECK(rt, pld_optim_create(r.params, &opts, &second) == PLD_ERR_STATE && second == NULL);
    fill(&r);
    CHECK(rt, pld_optim_step(r.optim, 0, NULL) == 0 && pld_optim_steps(r.optim) == 1);
    CHECK(rt, pld_optim_step(NULL, 0, NULL) == PLD_ERR_ARG);
    CHECK(rt, pld_optim_create(NULL, NULL, &second) == PLD_ERR_ARG);
    CHECK(rt, pld_optim_create(r.params, NULL, NULL) == PLD_ERR_ARG);
    CHECK(rt, pld_params_create(r.mesh, &bare) == 0 && pld_params_add(bare, &o, NULL) == 0);
    CHECK(rt, pld_optim_create(bare, NULL, &second) == PLD_ERR_STATE);
    pld_params_destroy(&bare);
    close_rank(&r);
    return 0;
}

int main(void)
{
    test_norm();
    test_skip();
    test_refuse();
    test_create();
    ok(inproc_run(2, states, NULL) == 0, "calls out of order");
    return tap_done();
}
