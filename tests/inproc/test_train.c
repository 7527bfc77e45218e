/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Training on a GPU against training on the host: the same program, the same bits, for any
 * layout, whatever streams the gradients come from, and whichever way messages go.
 */

#include <math.h>

#include "inproc/train.h"
#include "tap.h"

static int body(pld_runtime *rt, void *context)
{
    struct train *t = context;
    struct train_rank r;

    CHECK(rt, train_begin(rt, t, &r) == 0);
    for (int step = 0; step < TRAIN_STEPS; step++)
        CHECK(rt, train_step(&r, step) == 0);
    CHECK(rt, pld_optim_steps(r.optim) == TRAIN_STEPS);
    CHECK(rt, pld_optim_report(r.optim, &t->report[pld_runtime_rank(rt)]) == 0);
    CHECK(rt, train_results(&r) == 0);
    train_close(&r);
    return 0;
}

static int run(struct train *t, int on_device)
{
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .timeout = 60,
                                   .device = on_device ? "cuda" : NULL};

    t->on_device = on_device;
    return inproc_run_with(t->ranks, body, t, &opts);
}

static void compare(const char *what, const struct train *how)
{
    struct train *host = calloc(1, sizeof(*host));
    struct train *gpu = calloc(1, sizeof(*gpu));
    int rc;

    if (host == NULL || gpu == NULL)
        abort();
    *host = *gpu = *how;
    host->own_stream = host->side = 0;
    rc = run(host, 0);
    rc = rc != 0 ? rc : run(gpu, 1);
    ok(rc == 0, "%s trains on both", what);
    ok(memcmp(host->value, gpu->value, sizeof(host->value)) == 0, "%s: the same bits", what);
    ok(memcmp(&host->report[0].step, &gpu->report[0].step, sizeof(int64_t)) == 0 &&
           fabs(host->report[0].grad_norm - gpu->report[0].grad_norm) <=
               1e-12 * host->report[0].grad_norm &&
           host->report[0].grad_norm > 0,
       "%s: the norm is %.9g on both", what, gpu->report[0].grad_norm);
    free(host);
    free(gpu);
}

/* A callback that fails is everybody's error at the end of the step, and nobody hangs. */
static int failing(pld_runtime *rt, void *context)
{
    struct train *t = context;
    struct train_rank r;

    CHECK(rt, train_begin(rt, t, &r) == 0);
    CHECK(rt, pld_pipe_step(r.pipe) == PLD_ERR_IO);
    CHECK(rt, strstr(pld_last_error(), "forward of microbatch 2 in stage 1 returned") != NULL);
    CHECK(rt, pld_pipe_step(r.pipe) == PLD_ERR_STATE);
    train_close(&r);
    return 0;
}

static void test_failing(void)
{
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .timeout = 60, .device = "cuda"};
    struct train *t = calloc(1, sizeof(*t));

    if (t == NULL)
        abort();
    *t = (struct train){
        .mesh = "pp=3", .ranks = 3, .microbatches = 5, .on_device = 1, .own_stream = 1, .fails = 3};
    ok(inproc_run_with(3, failing, t, &opts) == 0, "a callback fails: one sentence on all stages");
    free(t);
}

int main(void)
{
    static const struct train runs[] = {
        {.mesh = "dp=1", .ranks = 1, .microbatches = 2},
        {.mesh = "dp=1", .ranks = 1, .microbatches = 2, .own_stream = 1, .side = 1},
        {.mesh = "dp=2", .ranks = 2, .microbatches = 2, .own_stream = 1},
        {.mesh = "dp=2", .ranks = 2, .microbatches = 2, .own_stream = 1, .side = 1, .watched = 1},
        {.mesh = "dp=2", .ranks = 2, .microbatches = 1, .own_stream = 1, .side = 1, .outside = 1},
        {.mesh = "pp=2", .ranks = 2, .microbatches = 4, .own_stream = 1},
        {.mesh = "pp=2", .ranks = 2, .microbatches = 5},
        {.mesh = "dp=2,pp=2", .ranks = 4, .microbatches = 4, .own_stream = 1, .side = 1},
    };
    static const char *const names[] = {"one rank",
                                        "one rank, two streams",
                                        "dp=2",
                                        "dp=2, two streams, every report",
                                        "dp=2, two streams, memory of the caller's",
                                        "pp=2",
                                        "pp=2 in the default stream",
                                        "dp=2 x pp=2"};

    (void)setenv("FAKE_CUDA_DEVICES", "4", 0);
    for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
        compare(names[i], &runs[i]);
    test_failing();
    return tap_done();
}
