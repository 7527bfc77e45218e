/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Groups that are split off where the parent has a communicator of NCCL: by ncclCommSplit
 * where the library has it, by an id of their own elsewhere, with the same sums; and what
 * goes wrong in a split.
 */

#include "device_support.h"
#include "tap.h"

#include <stdatomic.h>

enum { COUNT = 500 };

static unsigned long nccl_calls(const char *symbol)
{
    unsigned long (*calls)(const char *);
    void *function = device_fake("libnccl.so.2", "fake_nccl_calls");

    memcpy(&calls, &function, sizeof(calls));
    return calls(symbol);
}

/* Of one run: calls of NCCL by all ranks together. */
struct used {
    unsigned long ids, inits, splits;
};

static struct used used_so_far(void)
{
    return (struct used){nccl_calls("ncclGetUniqueId"), nccl_calls("ncclCommInitRankConfig"),
                         nccl_calls("ncclCommSplit")};
}

static int has(const char *text, const char *part)
{
    if (strstr(text, part) != NULL)
        return 1;
    printf("# no \"%s\" in: %s\n", part, text);
    return 0;
}

/* The sum of world ranks over a group, and the world rank of the group's first, on the device; a
 * communicator that is aborted leaves what it wants: nothing is wanted of it. */
static int try_group(pld_runtime *rt, pld_group *g, double want, float first)
{
    pld_device *device = pld_runtime_device(rt);
    const float mine = (float)pld_runtime_rank(rt);
    pld_stream stream = NULL;
    float *host = NULL;
    void *data = NULL;
    pld_coll_opts opts = {PLD_OPTS(pld_coll_opts)};
    int right = 1;
    int rc;

    CHECK(rt, pld_stream_create(device, 0, &stream) == 0);
    CHECK(rt, pld_device_alloc(device, 2 * COUNT * 4, PLD_MEM_PINNED, (void **)&host) == 0);
    CHECK(rt, pld_device_alloc(device, 2 * COUNT * 4, PLD_MEM_DEVICE, &data) == 0);
    for (int i = 0; i < 2 * COUNT; i++)
        host[i] = mine;
    opts.stream = stream;
    CHECK(rt, pld_device_copy(device, data, host, 2 * COUNT * 4, stream) == 0);
    rc = pld_allreduce(g, data, data, COUNT, PLD_F32, PLD_SUM, &opts);
    if (rc == 0)
        rc = pld_broadcast(g, (float *)data + COUNT, COUNT, PLD_F32, 0, &opts);
    if (rc == 0)
        rc = pld_device_copy(device, host, data, 2 * COUNT * 4, stream);
    CHECK(rt, pld_stream_wait(device, stream) == 0);
    for (int i = 0; i < COUNT; i++)
        right &= host[i] == (float)want && host[COUNT + i] == first;
    pld_device_free(device, host);
    pld_device_free(device, data);
    pld_stream_destroy(device, &stream);
    CHECK(rt, rc < 0 || right || want < 0);
    return rc;
}

/* ---- Meshes ---- */

static int body_mesh(pld_runtime *rt, void *context)
{
    const int rank = pld_runtime_rank(rt);
    pld_mesh *mesh = NULL;

    (void)context;
    CHECK(rt, pld_mesh_create(rt, "dp=2,pp=2", &mesh) == 0);
    for (int axis = 0; axis < PLD_AXES; axis++) {
        pld_group *g = pld_mesh_group(mesh, (pld_axis)axis);
        int coords[PLD_AXES];
        double sum = 0;
        int first = -1;

        for (int i = 0; i < PLD_AXES; i++)
            coords[i] = pld_mesh_coord(mesh, (pld_axis)i);
        for (int i = 0; i < pld_group_size(g); i++) {
            coords[axis] = i;
            first = i == 0 ? pld_mesh_rank_at(mesh, coords) : first;
            sum += pld_mesh_rank_at(mesh, coords);
        }
        CHECK(rt, try_group(rt, g, sum, (float)first) == 0);
    }
    CHECK(rt, try_group(rt, pld_runtime_world(rt), 6, 0) == 0);
    CHECK(rt, rank < 4);
    pld_mesh_destroy(&mesh);
    return 0;
}

static void test_mesh(const char *how, int splits)
{
    const struct used before = used_so_far();
    const int rc = device_run(4, "nccl", 60, body_mesh, NULL);
    const struct used now = used_so_far();
    const unsigned long n_splits = now.splits - before.splits;
    const unsigned long n_ids = now.ids - before.ids;
    const unsigned long n_inits = now.inits - before.inits;

    ok(rc == 0, "%s: all axes of a mesh, and the world, give the right sums", how);
    ok(splits ? n_splits == 2 * 4 && n_ids == 1 && n_inits == 4
              : n_splits == 0 && n_ids == 5 && n_inits == 12,
       "%s: %lu calls of ncclCommSplit, %lu ids, %lu joins by id", how, n_splits, n_ids, n_inits);
    ok(device_live_comms() == 0, "%s: no communicator is left", how);
}

/* ---- Any split ---- */

/* Ranks 2, 1, 0 form a group, in that order; the last rank is in none. */
static int body_color(pld_runtime *rt, void *context)
{
    const int rank = pld_runtime_rank(rt);
    pld_group *world = pld_runtime_world(rt);
    pld_group *part = NULL;
    const int *connect = context;

    if (*connect)
        CHECK(rt, pld_group_connect(world) == 0);
    CHECK(rt, pld_group_split(world, rank == 3 ? -1 : 5, -rank, &part) == 0);
    CHECK(rt, (part == NULL) == (rank == 3));
    if (part != NULL)
        CHECK(rt, try_group(rt, part, 3, 2) == 0);
    CHECK(rt, try_group(rt, world, 6, 0) == 0);
    pld_group_destroy(&part);
    /* Nothing but groups of one rank: there is nothing to make. */
    CHECK(rt, pld_group_split(world, rank, 0, &part) == 0);
    CHECK(rt, try_group(rt, part, rank, (float)rank) == 0);
    pld_group_destroy(&part);
    return 0;
}

static void test_color(void)
{
    struct used before = used_so_far();
    int connect = 1;

    ok(device_run(4, "nccl", 60, body_color, &connect) == 0 &&
           used_so_far().splits - before.splits == 4 && used_so_far().ids - before.ids == 1,
       "keys order the part, and a rank that is in none takes part");
    before = used_so_far();
    connect = 0;
    ok(device_run(4, "nccl", 60, body_color, &connect) == 0 &&
           used_so_far().splits == before.splits && used_so_far().ids - before.ids == 2,
       "a parent without a communicator is not given one");
    connect = 1;
    before = used_so_far();
    ok(device_run(4, "staged", 60, body_color, &connect) == 0 &&
           used_so_far().splits == before.splits && used_so_far().ids == before.ids,
       "nor where memory of the host carries");
}

/* ---- Faults ---- */

struct job {
    const char *fault;
    double timeout; /* seconds, from then on */
    int codes[DEVICE_RANKS];
    char text[DEVICE_RANKS][1024];
    char report[4096];
    int after; /* the world's next operations end so */
};

static int body_fault(pld_runtime *rt, void *context)
{
    const int rank = pld_runtime_rank(rt);
    pld_group *world = pld_runtime_world(rt);
    pld_group *part = NULL;
    struct job *job = context;
    int rc;

    device_rank(rank);
    CHECK(rt, pld_group_connect(world) == 0);
    CHECK(rt, pld_barrier(world, NULL) == 0);
    if (rank == 0)
        device_faults("", job->fault);
    CHECK(rt, pld_barrier(world, NULL) == 0);
    CHECK(rt, pld_runtime_set_timeout(rt, job->timeout) == 0);
    rc = pld_group_split(world, rank == 3 ? -1 : 0, 0, &part);
    job->codes[rank] = rc;
    (void)snprintf(job->text[rank], sizeof(job->text[rank]), "%s", rc < 0 ? pld_last_error() : "");
    CHECK(rt, rc == 0 || part == NULL);
    if (rank == 0)
        (void)snprintf(job->report, sizeof(job->report), "%s", pld_runtime_report(rt));
    if (rc == PLD_ERR_TIMEOUT)
        return 0;
    CHECK(rt, pld_barrier(world, NULL) == 0);
    if (rank == 0)
        device_faults("", "");
    CHECK(rt, pld_barrier(world, NULL) == 0);
    if (part != NULL)
        CHECK(rt, try_group(rt, part, 3, 0) == 0);
    rc = try_group(rt, world, 6, 0);
    job->after = rank == 0 ? rc : job->after;
    pld_group_destroy(&part);
    return 0;
}

static int run_fault(struct job *job, double timeout)
{
    int rc;

    job->timeout = timeout;
    rc = device_run(4, "nccl", 60, body_fault, job);
    device_faults("", "");
    return rc;
}

/* All ranks got the code, and the same sentence. */
static int alike(const struct job *job, int code)
{
    int same = 1;

    for (int r = 0; r < 4; r++) {
        same &= job->codes[r] == code && strcmp(job->text[r], job->text[0]) == 0;
        if (job->codes[r] != code || strcmp(job->text[r], job->text[0]) != 0)
            printf("# rank %d: %s: %s\n", r, pld_error_name(job->codes[r]), job->text[r]);
    }
    return same;
}

/* NCCL keeps one sentence for a process, and ranks are threads here: it is the failed one's
 * own, or that of one that met the failure. */
static int tells_split(const char *text, int rank)
{
    char met[32];

    (void)snprintf(met, sizeof(met), "rank %d has failed", rank);
    return has(text, "NCCL 2.") && (has(text, "split_error") || has(text, met));
}

static void test_faults(void)
{
    struct job job = {.fault = "progress:7"};

    ok(run_fault(&job, 60) == 0 && alike(&job, 0) && job.after == 0,
       "a split that is in progress for a while is waited for");
    for (int rank = 1; rank <= 3; rank += 2) {
        char fault[32];

        (void)snprintf(fault, sizeof(fault), "split_error:3@%d", rank);
        job = (struct job){.fault = fault};
        ok(run_fault(&job, 20) == 0 && alike(&job, PLD_ERR_TRANSPORT) &&
               tells_split(job.text[0], rank),
           "a split that fails on rank %d fails on all, with one sentence: %s", rank, job.text[0]);
        ok(job.after == 0, "and the parent makes itself another communicator");
    }
    job = (struct job){.fault = "split_error:5@2"};
    ok(run_fault(&job, 20) == 0 && alike(&job, 0) && job.after == 0,
       "where NCCL refuses to split, both make one by an id");
    job = (struct job){.fault = "split_hang"};
    ok(run_fault(&job, 1) == 0 && has(job.report, "connect") && job.codes[0] == PLD_ERR_TIMEOUT &&
           job.codes[3] == PLD_ERR_TIMEOUT,
       "a split that never ends is reported and aborted");
    job = (struct job){.fault = "split_hang@1"};
    ok(run_fault(&job, 1) == 0 && job.codes[0] == PLD_ERR_TIMEOUT &&
           job.codes[1] == PLD_ERR_TIMEOUT && job.codes[3] == PLD_ERR_TIMEOUT,
       "also on one rank");
    ok(device_live_comms() == 0, "no communicator is left");
}

/* ---- Shared resources ---- */

struct family {
    int part, world; /* what operations end with after another part was lost */
    char text[1024];
};

static int body_family(pld_runtime *rt, void *context)
{
    const int rank = pld_runtime_rank(rt);
    pld_group *world = pld_runtime_world(rt);
    pld_group *one = NULL, *two = NULL;
    struct family *f = context;
    int rc = 0;

    device_rank(rank);
    CHECK(rt, pld_group_connect(world) == 0);
    CHECK(rt, pld_group_split(world, 0, 0, &one) == 0);
    CHECK(rt, pld_group_split(world, 0, 0, &two) == 0);
    CHECK(rt, pld_barrier(world, NULL) == 0);
    if (rank == 0)
        device_faults("", "async:1:3@1");
    CHECK(rt, pld_barrier(world, NULL) == 0);
    for (int i = 0; i < 200 && rc == 0; i++)
        rc = try_group(rt, one, -1, 0);
    CHECK(rt, rc < 0);
    if (rank == 0)
        device_faults("", "");
    if (rank == 0)
        f->part = rc;
    rc = 0;
    for (int i = 0; i < 200 && rc == 0; i++)
        rc = try_group(rt, two, -1, 0);
    if (rank == 0) {
        f->world = rc;
        (void)snprintf(f->text, sizeof(f->text), "%s", pld_last_error());
    }
    pld_group_destroy(&one);
    pld_group_destroy(&two);
    return 0;
}

static void test_family(void)
{
    struct family f = {0};

    (void)setenv("POLDER_NCCL_SHARE", "1", 1);
    test_mesh("shared resources", 1);
    ok(device_run(2, "nccl", 20, body_family, &f) == 0 && f.part < 0 && f.world < 0,
       "with a part that is lost go those that share its resources: %s", f.text);
    (void)setenv("POLDER_NCCL_SHARE", "maybe", 1);
    ok(device_run(2, "nccl", 20, body_mesh, NULL) == PLD_ERR_ARG, "POLDER_NCCL_SHARE is 0 or 1");
    (void)unsetenv("POLDER_NCCL_SHARE");
    ok(device_live_comms() == 0, "no communicator is left");
}

int main(int argc, char **argv)
{
    const int bare = device_bare(argc, argv);

    if (bare != 0) {
        ok(bare > 0, "the library has no ncclCommSplit");
        test_mesh("without ncclCommSplit", 0);
        return tap_done();
    }
    test_mesh("split", 1);
    (void)setenv("POLDER_NCCL_SPLIT", "0", 1);
    test_mesh("POLDER_NCCL_SPLIT=0", 0);
    (void)unsetenv("POLDER_NCCL_SPLIT");
    test_color();
    test_faults();
    test_family();
    return tap_done();
}
