/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A run that goes on from a checkpoint ends with the bits of one that was not interrupted,
 * wherever the one and the other had their tensors, and while the save was being written.
 */

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inproc/train.h"
#include "tap.h"

enum { HALF = TRAIN_STEPS / 2 };

/* Trains from a checkpoint if `load`, else from the beginning and saves half way. */
struct trial {
    struct train t;
    const char *directory;
    int load, async, test;
    size_t ring;
    pld_ckpt_codec codec;
};

static int open_ckpt(struct train_rank *r, const struct trial *c)
{
    const pld_ckpt_opts opts = {PLD_OPTS(pld_ckpt_opts), .codec = c->codec, .async = c->async,
                                .ring_segments = 2, .ring_bytes = c->ring};

    TRAIN_TRY(pld_ckpt_open(r->mesh, c->directory, &opts, &r->ckpt));
    return pld_ckpt_add_params(r->ckpt, r->params);
}

/* What is saved is what was there at the call, work in the stream included. */
static int half_way(pld_runtime *rt, struct train_rank *r, int64_t *position)
{
    const float *w = train_f32(r, r->w, 0);

    for (int i = 0; i < 20; i++)
        CHECK(rt, train_sum(r, train_f32(r, r->w, 0), &w, 1, 0.5, r->stream) == 0);
    CHECK(rt, pld_ckpt_save(r->ckpt, HALF) == 0);
    *position = -1;
    CHECK(rt, pld_ckpt_set_text(r->ckpt, "note", "later") == 0);
    return 0;
}

static int finish(pld_runtime *rt, struct train_rank *r, int test)
{
    int done = 0;

    while (test && !done)
        CHECK(rt, pld_ckpt_test(r->ckpt, &done) == 0);
    CHECK(rt, pld_ckpt_wait(r->ckpt) == 0);
    CHECK(rt, pld_ckpt_test(r->ckpt, &done) == 0 && done == 1);
    return 0;
}

static int body(pld_runtime *rt, void *context)
{
    struct trial *c = context;
    int64_t position = 17;
    int64_t step = 0;
    struct train_rank r;

    CHECK(rt, train_begin(rt, &c->t, &r) == 0 && open_ckpt(&r, c) == 0);
    CHECK(rt, pld_ckpt_add_state(r.ckpt, "position", &position, sizeof(position)) == 0);
    if (c->load) {
        position = 0;
        CHECK(rt, pld_ckpt_load(r.ckpt, "latest", &step) == 0);
        CHECK(rt, step == HALF && position == 17 && pld_optim_steps(r.optim) == HALF);
    }
    for (; step < TRAIN_STEPS; step++) {
        if (step == HALF && !c->load)
            CHECK(rt, half_way(rt, &r, &position) == 0);
        if (step == HALF) /* at once; decay alone changes the values */
            CHECK(rt, pld_optim_step(r.optim, 0.5, NULL) == 0);
        CHECK(rt, train_step(&r, (int)step) == 0);
    }
    CHECK(rt, pld_optim_steps(r.optim) == TRAIN_STEPS + 1);
    CHECK(rt, finish(rt, &r, c->test) == 0);
    CHECK(rt, train_results(&r) == 0);
    train_close(&r);
    return 0;
}

static int run(struct trial *c, int on_device)
{
    memset(c->t.value, 0, sizeof(c->t.value));
    return train_run(&c->t, on_device, body, c);
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about, (void)kind, (void)where;
    return remove(path);
}

static void compare(const char *mesh, int ranks, int saved_on_device, int async, size_t ring)
{
    static const char *const places[] = {"host", "GPU"};
    char directory[] = "/tmp/polder-train-XXXXXX";
    struct trial *whole = calloc(1, sizeof(*whole));
    struct trial *rest = calloc(1, sizeof(*rest));

    if (whole == NULL || rest == NULL || mkdtemp(directory) == NULL)
        abort();
    *whole = (struct trial){.t = {.mesh = mesh, .ranks = ranks, .microbatches = 2},
                            .directory = directory,
                            .async = async,
                            .test = async,
                            .ring = ring,
                            .codec = async ? PLD_CKPT_RAW : PLD_CKPT_ZSTD};
    *rest = *whole;
    rest->load = 1;
    ok(run(whole, saved_on_device) == 0, "%s: %s save on the %s", mesh,
       async ? "asynchronous" : "synchronous", places[saved_on_device]);
    for (int on_device = 0; on_device < 2; on_device++) {
        ok(run(rest, on_device) == 0, "%s: it loads on the %s", mesh, places[on_device]);
        ok(memcmp(rest->t.value, whole->t.value, sizeof(whole->t.value)) == 0,
           "%s: trained on, the bits of the run that went on", mesh);
    }
    (void)nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(whole);
    free(rest);
}

/* A save that nobody waits for is lost when the handle goes; the one before it is not. */
static int leave(pld_runtime *rt, void *context)
{
    struct trial *c = context;
    char path[200];
    struct train_rank r;

    CHECK(rt, train_begin(rt, &c->t, &r) == 0 && open_ckpt(&r, c) == 0);
    CHECK(rt, pld_ckpt_save(r.ckpt, 1) == 0 && train_step(&r, 0) == 0);
    CHECK(rt, pld_ckpt_save(r.ckpt, 2) == 0 && train_step(&r, 1) == 0);
    pld_ckpt_destroy(&r.ckpt);
    CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
    (void)snprintf(path, sizeof(path), "%s/step-%08d", c->directory, 1);
    CHECK(rt, access(path, F_OK) == 0);
    (void)snprintf(path, sizeof(path), "%s/step-%08d", c->directory, 2);
    CHECK(rt, access(path, F_OK) != 0);
    train_close(&r);
    return 0;
}

static void test_leave(void)
{
    char directory[] = "/tmp/polder-train-XXXXXX";
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .timeout = 60, .device = "cuda"};
    struct trial *c = calloc(1, sizeof(*c));

    if (c == NULL || mkdtemp(directory) == NULL)
        abort();
    *c = (struct trial){.t = {.mesh = "dp=2", .ranks = 2, .microbatches = 2, .on_device = 1},
                        .directory = directory,
                        .async = 1,
                        .ring = 4000};
    ok(inproc_run_with(2, leave, c, &opts) == 0, "a save that nobody waits for is lost, no other");
    (void)nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(c);
}

int main(void)
{
    (void)setenv("FAKE_CUDA_DEVICES", "4", 0);
    /* Whoever does not wait for a copy is there before it. */
    (void)setenv("FAKE_CUDA_FAULT", "slow:copy:100us", 0);
    compare("dp=1", 1, 1, 1, 1 << 20);
    compare("dp=2", 2, 1, 0, 4000);
    compare("dp=2", 2, 0, 1, 4000);
    compare("dp=2", 2, 1, 1, 1 << 20);
    compare("dp=2,pp=2", 4, 1, 1, 4000);
    test_leave();
    return tap_done();
}
