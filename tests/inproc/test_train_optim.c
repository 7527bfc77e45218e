/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The optimizer on a GPU against the host's, in all dtypes: the same bits and the same reports,
 * clipped, skipped or refused, and with a scaled loss the same as without.  Gradients are small
 * integers, so that norms are exact.
 */

#include <math.h>

#include "inproc/train.h"
#include "numbers.h"
#include "tap.h"

enum { DTYPES = 4, COUNT = 1111, STEPS = 6, SLOT_BYTES = COUNT * 8, INFINITE = 3, REFUSED = 4 };

struct run {
    pld_optim_opts opts;
    int on_device;
    unsigned char memory[2][DTYPES][4][SLOT_BYTES]; /* value and slots of each rank at the end */
    pld_step_report report[2][STEPS];
};

static int set(struct train_rank *r, void *to, pld_dtype dtype, int salt, int step, float scale)
{
    unsigned char host[SLOT_BYTES];

    for (int i = 0; i < COUNT; i++)
        number_put(host + (size_t)i * pld_dtype_bytes(dtype), dtype,
                   ((i * 7 + salt * 3) % 9 - 4) * (double)scale);
    if (step == INFINITE && dtype == PLD_BF16 && r->dp_rank == 1)
        number_put(host + 10 * pld_dtype_bytes(dtype), dtype, INFINITY);
    return train_put(r, to, host, COUNT * pld_dtype_bytes(dtype));
}

static int add_all(struct train_rank *r)
{
    TRAIN_TRY(pld_params_create(r->mesh, &r->params));
    TRAIN_TRY(pld_params_set_stream(r->params, r->stream));
    for (int d = 0; d < DTYPES; d++) {
        char name[8];
        const pld_param p = {PLD_OPTS(pld_param), .name = name,          .ndim = 1,
                             .shape = {COUNT},    .dtype = (pld_dtype)d, .decay = d % 2};

        (void)snprintf(name, sizeof(name), "t%d", d);
        TRAIN_TRY(pld_params_add(r->params, &p, NULL));
    }
    TRAIN_TRY(pld_params_commit(r->params));
    for (int d = 0; d < DTYPES; d++)
        TRAIN_TRY(set(r, pld_params_value(r->params, d), (pld_dtype)d, 1 + d, 0, 1));
    TRAIN_TRY(pld_dp_create(r->params, NULL, &r->dp));
    return 0;
}

static int get(struct train_rank *r, unsigned char out[4][SLOT_BYTES], int d)
{
    TRAIN_TRY(train_put(r, out[0], pld_params_value(r->params, d),
                        COUNT * pld_dtype_bytes((pld_dtype)d)));
    for (int s = 0; s < pldi_params_slots(r->params, d); s++) {
        const struct pldi_slot *slot = pldi_params_slot(r->params, d, s);

        TRAIN_TRY(train_put(r, out[1 + s], slot->value, COUNT * pld_dtype_bytes(slot->dtype)));
    }
    return 0;
}

static int step(pld_runtime *rt, struct train_rank *r, struct run *c, int n)
{
    pld_step_report *report = &c->report[r->dp_rank][n];
    double lr = 0.1 / (1 + n);
    float scale = 0;

    CHECK(rt, train_put(r, &scale, pld_optim_loss_scale(r->optim), sizeof(scale)) == 0);
    for (int d = 0; d < DTYPES; d++)
        CHECK(rt, set(r, pld_params_grad(r->params, d), (pld_dtype)d, 5 + d + n, n, scale) == 0);
    for (int d = DTYPES - 1; d >= 0; d--)
        CHECK(rt, pld_dp_ready(r->dp, d, r->stream) == 0);
    if (n == REFUSED) {
        lr += r->dp_rank;
        CHECK(rt, pld_optim_step(r->optim, lr, NULL) == PLD_ERR_MISMATCH);
        CHECK(rt, strstr(pld_last_error(), "different learning rates") != NULL);
        CHECK(rt, pld_params_zero_grad(r->params) == 0);
        return 0;
    }
    CHECK(rt, pld_dp_wait(r->dp) == 0);
    CHECK(rt, pld_optim_step(r->optim, lr, n == 1 ? NULL : report) == 0);
    CHECK(rt, pld_optim_steps(r->optim) == n + (n < INFINITE) - (n > REFUSED));
    CHECK(rt, pld_optim_report(r->optim, report) == 0);
    return 0;
}

/* What a GPU refuses, and the host. */
static int arguments(pld_runtime *rt, struct train_rank *r)
{
    float host[2][4];
    const pld_param p = {PLD_OPTS(pld_param), .name = "x",      .ndim = 1,
                         .shape = {4},        .value = host[0], .grad = host[1]};
    pld_params *params = NULL;

    CHECK(rt, pld_params_create(r->mesh, &params) == 0);
    if (r->gpu != NULL) {
        CHECK(rt, pld_params_add(params, &p, NULL) == PLD_ERR_ARG);
        CHECK(rt, strstr(pld_last_error(), "tensor 'x': value is not in device") != NULL);
    } else {
        CHECK(rt, pld_params_set_stream(params, host) == PLD_ERR_ARG);
        CHECK(rt, pld_dp_ready(r->dp, 0, host) == PLD_ERR_ARG);
        CHECK(rt, strstr(pld_last_error(), "'t0' is in host memory") != NULL);
    }
    pld_params_destroy(&params);
    return 0;
}

static int body(pld_runtime *rt, void *context)
{
    struct run *c = context;
    struct train t = {.own_stream = c->on_device};
    struct train_rank r = {.t = &t, .rt = rt, .gpu = pld_runtime_device(rt)};
    pld_step_report first;

    CHECK(rt, pld_mesh_create(rt, "dp=2", &r.mesh) == 0 && train_streams(&r) == 0);
    r.dp_rank = pld_runtime_rank(rt);
    CHECK(rt, add_all(&r) == 0 && arguments(rt, &r) == 0);
    CHECK(rt, pld_optim_create(r.params, &c->opts, &r.optim) == 0);
    CHECK(rt, pld_optim_report(r.optim, &first) == 0 && first.step == 0 && first.factor == 1);
    for (int n = 0; n < STEPS; n++)
        CHECK(rt, step(rt, &r, c, n) == 0);
    for (int d = 0; d < DTYPES; d++)
        CHECK(rt, get(&r, c->memory[r.dp_rank][d], d) == 0);
    train_close(&r);
    return 0;
}

/* Returns the host's run, to be freed. */
static struct run *compare(const char *what, const pld_optim_opts *opts)
{
    struct run *run[2] = {calloc(1, sizeof(struct run)), calloc(1, sizeof(struct run))};

    if (run[0] == NULL || run[1] == NULL)
        abort();
    for (int d = 0; d < 2; d++) {
        const pld_runtime_opts rt = {PLD_OPTS(pld_runtime_opts), .timeout = 60,
                                     .device = d ? "cuda" : NULL};

        run[d]->opts = *opts;
        run[d]->on_device = d;
        ok(inproc_run_with(2, body, run[d], &rt) == 0, "%s on the %s", what, d ? "GPU" : "host");
    }
    ok(memcmp(run[0]->memory, run[1]->memory, sizeof(run[0]->memory)) == 0,
       "%s: the same values and state, all dtypes", what);
    ok(memcmp(run[1]->memory[0], run[1]->memory[1], sizeof(run[1]->memory[0])) == 0,
       "%s: replicas are equal", what);
    for (int n = 0; n < STEPS; n++) {
        const pld_step_report *h = &run[0]->report[0][n];
        const pld_step_report *g = &run[1]->report[0][n];

        ok(n == REFUSED ||
               (h->step == g->step && h->skipped == g->skipped && h->skipped == (n == INFINITE) &&
                h->skips == (n >= INFINITE) && h->skips == g->skips &&
                memcmp(&h->loss_scale, &g->loss_scale, sizeof(double)) == 0 &&
                memcmp(&h->factor, &g->factor, sizeof(double)) == 0 &&
                (h->skipped ? !isfinite(g->grad_norm)
                            : memcmp(&h->grad_norm, &g->grad_norm, sizeof(double)) == 0)),
           "%s, step %d: norm %g, factor %g, %d updates", what, n, g->grad_norm, g->factor,
           (int)g->step);
    }
    free(run[1]);
    return run[0];
}

/* Powers of two: the same values and state as without; and what others come to. */
static void scaled(void)
{
    pld_optim_opts opts = {PLD_OPTS(pld_optim_opts), .weight_decay = 0.1, .clip = 1};
    struct run *plain = compare("AdamW", &opts);
    struct run *run;

    opts.scaling = PLD_SCALING_STATIC;
    opts.init_scale = 64;
    run = compare("AdamW, scaled by 64", &opts);
    ok(memcmp(run->memory, plain->memory, sizeof(run->memory)) == 0, "64: as without");
    free(run);
    opts.scaling = PLD_SCALING_DYNAMIC;
    opts.growth_interval = 2;
    run = compare("AdamW, scaled by 64, 128, 64", &opts);
    ok(memcmp(run->memory, plain->memory, sizeof(run->memory)) == 0, "dynamic: as without");
    ok(run->report[0][0].loss_scale == 64 && run->report[0][2].loss_scale == 128 &&
           run->report[1][INFINITE].loss_scale == 64 && run->report[0][STEPS - 1].loss_scale == 64,
       "64, twice that, and back after the step that is not finite");
    free(run);
    opts.growth_factor = 1.5;
    opts.backoff_factor = 0.3;
    run = compare("AdamW, scaled by what is rounded", &opts);
    ok(run->report[0][2].loss_scale == 96 &&
           run->report[0][INFINITE].loss_scale == (double)(float)(96 * 0.3),
       "scales are numbers of f32: %.9g", run->report[0][INFINITE].loss_scale);
    free(run);
    free(plain);
}

int main(void)
{
    (void)setenv("FAKE_CUDA_DEVICES", "4", 0);
    scaled();
    free(compare("SGD with momentum", &(pld_optim_opts){PLD_OPTS(pld_optim_opts), .kind = PLD_SGD,
                                                        .momentum = 0.9, .clip = 2}));
    free(compare("SGD", &(pld_optim_opts){PLD_OPTS(pld_optim_opts), .kind = PLD_SGD}));
    return tap_done();
}
