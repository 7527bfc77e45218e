/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Calls whose stream is recorded into a CUDA graph: each says so, on all ranks that record and
 * on those that meet them; the recording is not spoiled, and training goes on as if they had not
 * been made.
 */

#include <ftw.h>
#include <unistd.h>

#include "inproc/device_support.h"
#include "inproc/train.h"
#include "tap.h"

struct trial {
    struct train t;
    const char *directory;
    int records;
};

#define REFUSED(call)                                                                              \
    do {                                                                                           \
        CHECK(rt, (call) == PLD_ERR_STATE);                                                        \
        CHECK(rt, strstr(pld_last_error(), "is being recorded into a CUDA graph") != NULL);        \
    } while (0)

static int refused_operations(pld_runtime *rt, struct train_rank *r)
{
    pld_group *world = pld_runtime_world(rt);
    const uint64_t ranks = (uint64_t)pld_group_size(world);
    const pld_leaf leaf = {r->input, (uint64_t)pld_group_rank(world)};
    pld_request *request = NULL;
    pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .stream = r->stream};
    int64_t word = 1;

    REFUSED(pld_allreduce(world, r->scratch, r->scratch, 8, PLD_F32, PLD_SUM, &opts));
    REFUSED(pld_allreduce_leaves(world, &leaf, 1, ranks, r->scratch, 8, PLD_F32, PLD_SUM, &opts));
    opts.request = &request;
    (void)pld_allreduce(world, r->scratch, r->scratch, 8, PLD_F32, PLD_SUM, &opts);
    if (request != NULL) /* it met the others, and tells of it here */
        REFUSED(pld_request_wait(&request));
    CHECK(rt, pld_allreduce(world, &word, &word, 1, PLD_I64, PLD_SUM, NULL) == 0);
    CHECK(rt, word == (int64_t)ranks);
    return 0;
}

static int refused_steps(pld_runtime *rt, struct train_rank *r)
{
    REFUSED(pld_dp_ready(r->dp, r->w, r->stream));
    REFUSED(pld_dp_wait(r->dp));
    REFUSED(pld_optim_step(r->optim, 0.5, NULL));
    REFUSED(pld_pipe_step(r->pipe));
    REFUSED(pld_ckpt_save(r->ckpt, 7));
    REFUSED(pld_ckpt_load(r->ckpt, "latest", NULL));
    return 0;
}

/* What is recorded is one fill, which is all that the graph does. */
static int record(pld_runtime *rt, struct train_rank *r)
{
    pld_graph *graph = NULL;

    CHECK(rt, pld_graph_begin(r->gpu, r->stream) == 0);
    CHECK(rt, pld_device_fill(r->gpu, r->scratch, 0, sizeof(float), r->stream) == 0);
    CHECK(rt, refused_operations(rt, r) == 0 && refused_steps(rt, r) == 0);
    CHECK(rt, pld_graph_end(r->gpu, r->stream, &graph) == 0);
    CHECK(rt, pld_graph_launch(graph, r->stream) == 0);
    CHECK(rt, pld_stream_wait(r->gpu, r->stream) == 0);
    pld_graph_destroy(&graph);
    return 0;
}

static int body(pld_runtime *rt, void *context)
{
    struct trial *c = context;
    struct train_rank r;

    CHECK(rt, train_begin(rt, &c->t, &r) == 0);
    CHECK(rt, pld_ckpt_open(r.mesh, c->directory, NULL, &r.ckpt) == 0);
    CHECK(rt, pld_ckpt_add_params(r.ckpt, r.params) == 0 && pld_ckpt_save(r.ckpt, 0) == 0);
    for (int step = 0; step < TRAIN_STEPS; step++) {
        CHECK(rt, train_step(&r, step) == 0);
        if (c->records && step % 2 == 0)
            CHECK(rt, record(rt, &r) == 0);
    }
    CHECK(rt, train_results(&r) == 0);
    train_close(&r);
    return 0;
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about, (void)kind, (void)where;
    return remove(path);
}

static void test_training(const char *path)
{
    char directory[] = "/tmp/polder-capture-XXXXXX";
    struct trial *c[2] = {calloc(1, sizeof(struct trial)), calloc(1, sizeof(struct trial))};

    if (c[0] == NULL || c[1] == NULL || mkdtemp(directory) == NULL)
        abort();
    for (int i = 0; i < 2; i++) {
        *c[i] = (struct trial){.t = {.mesh = "dp=2,pp=2",
                                     .ranks = 4,
                                     .microbatches = 2,
                                     .on_device = 1,
                                     .own_stream = 1},
                               .directory = directory,
                               .records = i};
        ok(device_run(4, path, 60, body, c[i]) == 0, "%s: training %s recordings", path,
           i ? "with" : "without");
    }
    ok(memcmp(c[0]->t.value, c[1]->t.value, sizeof(c[0]->t.value)) == 0, "%s: the same bits", path);
    (void)nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(c[0]);
    free(c[1]);
}

/* Rank 0 alone records: where hosts meet, all hear of it; else the others' operation waits. */
static int alone(pld_runtime *rt, void *context)
{
    pld_group *g = pld_runtime_world(rt);
    pld_device *device = pld_runtime_device(rt);
    const int staged = context != NULL;
    const int me = pld_group_rank(g);
    pld_coll_opts opts = {PLD_OPTS(pld_coll_opts)};
    float one = 1, sum = 0;
    void *data = NULL;
    pld_graph *graph = NULL;

    CHECK(rt, pld_stream_create(device, 0, &opts.stream) == 0 && pld_group_connect(g) == 0);
    CHECK(rt, pld_device_alloc(device, sizeof(one), PLD_MEM_DEVICE, &data) == 0);
    CHECK(rt, pld_device_copy(device, data, &one, sizeof(one), opts.stream) == 0);
    CHECK(rt, pld_stream_wait(device, opts.stream) == 0);
    if (me == 0)
        CHECK(rt, pld_graph_begin(device, opts.stream) == 0);
    if (me == 0 || staged)
        REFUSED(pld_allreduce(g, data, data, 1, PLD_F32, PLD_SUM, &opts));
    if (me == 0)
        CHECK(rt, pld_graph_end(device, opts.stream, &graph) == 0);
    pld_graph_destroy(&graph);
    CHECK(rt, pld_allreduce(g, data, data, 1, PLD_F32, PLD_SUM, &opts) == 0);
    CHECK(rt, pld_device_copy(device, &sum, data, sizeof(sum), opts.stream) == 0);
    CHECK(rt, pld_stream_wait(device, opts.stream) == 0 && sum == 2);
    pld_device_free(device, data);
    pld_stream_destroy(device, &opts.stream);
    return 0;
}

int main(void)
{
    int staged = 1;

    test_training("nccl");
    test_training("staged");
    ok(device_run(2, "nccl", 60, alone, NULL) == 0, "NCCL: the rank that records alone is told");
    ok(device_run(2, "staged", 60, alone, &staged) == 0,
       "pinned memory: all ranks are told of the one that records");
    return tap_done();
}
