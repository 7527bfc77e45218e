/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What the fake NCCL demands of its users, and what it can have go wrong. */

#include <dlfcn.h>

#include "ranks.h"

/* A rank's number, summed: n (n + 1) / 2. */
static int sum_up(struct rank *r, pldi_nccl_comm comm, float *x)
{
    return ncclAllReduce(x, x, 1, PLDI_NCCL_F32, PLDI_NCCL_SUM, comm, r->stream);
}

static float *number(const struct rank *r)
{
    const float mine = (float)(r->rank + 1);

    return gpu_new(&mine, sizeof(mine));
}

static int says(const char *what)
{
    return strstr(ncclGetLastError(NULL), what) != NULL;
}

/* ---- Non-blocking calls ---- */

/* The call is over, and its work in the stream, at the fourth question. */
static int progress(struct rank *r)
{
    float *x, got = 0, one = 1;
    int state = 0, op = 0;

    HOLDS(rank_open(r) == 0);
    x = number(r);
    HOLDS(ncclRedOpCreatePreMulSum(&op, &one, PLDI_NCCL_F32, 1, r->comm) == 0);
    HOLDS(ncclAllReduce(x, x, 1, PLDI_NCCL_F32, op, r->comm, r->stream) == PLDI_NCCL_IN_PROGRESS);
    HOLDS(ncclRedOpDestroy(op, r->comm) == 0);
    HOLDS(cuStreamQuery(r->stream) == 0); /* nothing is there yet */
    HOLDS(sum_up(r, r->comm, x) == PLDI_NCCL_INVALID_USAGE && says("before the previous"));
    for (int i = 0; i < 3; i++)
        HOLDS(ncclCommGetAsyncError(r->comm, &state) == 0 && state == PLDI_NCCL_IN_PROGRESS);
    HOLDS(gpu_read(&got, x, sizeof(got), r->stream) == 0 && got == (float)(r->rank + 1));
    HOLDS(ncclCommGetAsyncError(r->comm, &state) == 0 && state == 0);
    HOLDS(gpu_read(&got, x, sizeof(got), r->stream) == 0 && got == 3);
    HOLDS(ncclCommFinalize(r->comm) == PLDI_NCCL_IN_PROGRESS);
    /* No word about the texts: ranks that are threads have one, and go on by themselves now. */
    HOLDS(ncclCommDestroy(r->comm) == PLDI_NCCL_INVALID_USAGE);
    HOLDS(rank_settle(r->comm, PLDI_NCCL_IN_PROGRESS) == 0);
    HOLDS(sum_up(r, r->comm, x) == PLDI_NCCL_INVALID_USAGE);
    HOLDS(rank_close(r) == 0);
    HOLDS(ncclCommGetAsyncError(r->comm, &state) == PLDI_NCCL_INVALID_ARGUMENT);
    return 0;
}

/* ---- Rules ---- */

static int wrong_arguments(struct rank *r)
{
    struct pldi_nccl_config c = {0};
    struct pldi_nccl_id id = {{0}};
    pldi_nccl_comm comm = NULL;
    void *handle = NULL;
    float host = 0, *x;
    int version = 0;

    HOLDS(ncclGetVersion(&version) == 0 && version == 22809);
    HOLDS(ncclCommInitRankConfig(&comm, 1, r->ids[1], 0, NULL) == PLDI_NCCL_CUDA_ERROR);
    HOLDS(rank_open(r) == 0);
    x = number(r);
    HOLDS(ncclCommInitRankConfig(&comm, 1, id, 0, NULL) == PLDI_NCCL_INVALID_ARGUMENT);
    HOLDS(ncclCommInitRankConfig(&comm, 1, r->ids[1], 1, NULL) == PLDI_NCCL_INVALID_ARGUMENT);
    HOLDS(ncclCommInitRankConfig(&comm, 1, r->ids[1], 0, &c) == PLDI_NCCL_INVALID_ARGUMENT);
    HOLDS(sum_up(r, r->comm, &host) == PLDI_NCCL_INVALID_ARGUMENT && says("not a device's"));
    HOLDS(ncclAllGather(x, x, 2, PLDI_NCCL_F32, r->comm, r->stream) == PLDI_NCCL_INVALID_ARGUMENT);
    HOLDS(ncclBroadcast(x, x, 1, 99, 0, r->comm, r->stream) == PLDI_NCCL_INVALID_ARGUMENT);
    HOLDS(ncclBroadcast(x, x, 1, 0, 1, r->comm, r->stream) == PLDI_NCCL_INVALID_ARGUMENT);
    HOLDS(ncclAllReduce(x, x, 1, 0, 5, r->comm, r->stream) == PLDI_NCCL_INVALID_ARGUMENT);
    HOLDS(ncclCommRegister(r->comm, &host, 4, &handle) == PLDI_NCCL_INVALID_ARGUMENT);
    HOLDS(ncclCommRegister(r->comm, x, 4, &handle) == 0);
    HOLDS(ncclCommDeregister(r->comm, handle) == 0);
    HOLDS(ncclCommDeregister(r->comm, handle) == PLDI_NCCL_INVALID_ARGUMENT);
    HOLDS(ncclCommRegister(r->comm, x, 4, &handle) == 0); /* goes with the communicator */
    HOLDS(strcmp(ncclGetErrorString(7), "NCCL operation in progress") == 0);
    return rank_close(r);
}

static int destroy_early(struct rank *r)
{
    atomic_int gate = 0;
    float *x;

    HOLDS(rank_open(r) == 0);
    x = number(r);
    HOLDS(gpu_gate(r->stream, &gate) == 0 && sum_up(r, r->comm, x) == 0);
    HOLDS(ncclCommDestroy(r->comm) == PLDI_NCCL_INVALID_USAGE && says("not over"));
    atomic_store(&gate, 1);
    return rank_close(r);
}

static void *call_beside(void *context)
{
    struct rank *r = context;
    void *handle;
    static int bad;

    if (gpu_open(r->device) != 0)
        return &bad;
    return ncclCommRegister(r->comm, number(r), 4, &handle) == 0 ? NULL : &bad;
}

/* The other thread is in its call for 200 ms. */
static int two_threads(struct rank *r)
{
    pthread_t thread;
    float *x;
    void *result;

    HOLDS(rank_open(r) == 0);
    x = number(r);
    HOLDS(pthread_create(&thread, NULL, call_beside, r) == 0);
    gpu_nap(0.05);
    HOLDS(sum_up(r, r->comm, x) == PLDI_NCCL_INVALID_USAGE && says("two threads"));
    HOLDS(ncclCommAbort(r->comm) == PLDI_NCCL_INVALID_USAGE && says("another thread"));
    HOLDS(ncclCommDestroy(r->comm) == PLDI_NCCL_INVALID_USAGE);
    HOLDS(pthread_join(thread, &result) == 0 && result == NULL);
    HOLDS(sum_up(r, r->comm, x) == 0);
    return rank_close(r);
}

static int opened(struct rank *r)
{
    float *x, got = 0;

    HOLDS(rank_open(r) == 0);
    x = number(r);
    HOLDS(rank_settle(r->comm, sum_up(r, r->comm, x)) == 0);
    HOLDS(gpu_read(&got, x, 4, r->stream) == 0 && got == (float)(r->size * (r->size + 1) / 2));
    return rank_close(r);
}

static int duplicate(struct rank *r)
{
    HOLDS(gpu_open(r->device) == 0);
    HOLDS(rank_init(r, 0, &r->comm) == PLDI_NCCL_INVALID_USAGE);
    HOLDS(says("Duplicate GPU detected") && says("0000:1B:00.0"));
    return r->comm == NULL ? 0 : ncclCommAbort(r->comm);
}

static int old_version(void *path)
{
    void *library = dlopen(path, RTLD_NOW);
    int (*version)(int *), found = 0;
    int (*all_reduce)(void);

    HOLDS(library != NULL);
    *(void **)&version = dlsym(library, "ncclGetVersion");
    *(void **)&all_reduce = dlsym(library, "ncclAllReduce");
    HOLDS(version != NULL && all_reduce != NULL && version(&found) == 0 && found == 22005);
    return dlsym(library, "ncclCommRevoke") == NULL ? 0 : 1;
}

static void test_rules(const char *old)
{
    const char *several = "NCCL_MULTI_RANK_GPU_ENABLE=1 FAKE_NCCL_VERSION=23003";
    int code;

    world_case("progress", (struct world){2, 1, 0, 0, 0, progress}, "FAKE_NCCL_FAULT=progress:3", 0,
               60);
    world_case("wrong arguments", (struct world){1, 1, 1, 0, 0, wrong_arguments}, "", 0, 60);
    world_case("destroy early", (struct world){1, 1, 1, 0, 0, destroy_early}, "", 0, 60);
    world_case("two threads", (struct world){1, 1, 1, 0, 0, two_threads},
               "FAKE_NCCL_FAULT=dwell:200ms", 0, 60);
    for (int blocking = 0; blocking < 2; blocking++)
        world_case("duplicate GPU", (struct world){2, 0, blocking, 1, 0, duplicate}, "", 0, 60);
    world_case("other host ids", (struct world){2, 0, 0, 1, 1, opened}, "", 0, 60);
    world_case("several ranks on a GPU", (struct world){2, 0, 0, 1, 0, opened}, several, 0, 60);
    world_case("several, but an old NCCL", (struct world){2, 0, 1, 1, 0, duplicate},
               "NCCL_MULTI_RANK_GPU_ENABLE=1 FAKE_NCCL_VERSION=22907", 0, 60);
    code = child_run(old_version, (void *)(size_t)old, "", 60);
    ok(code == 0, "the old library: %d", code);
}

/* ---- Order of several communicators ---- */

enum { OPPOSITE = 1, TWO_STREAMS = 2 };

static int in_order(struct rank *r, int how)
{
    pldi_nccl_comm comms[2];
    pldi_cu_stream other = NULL;
    float *x, *y, got = 0;

    HOLDS(rank_open(r) == 0 && rank_init(r, 1, &comms[1]) == 0);
    comms[0] = r->comm;
    other = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    x = number(r);
    y = number(r);
    for (int i = 0; i < 2; i++) {
        const int which = how & OPPOSITE ? (i + r->rank) % 2 : i;
        pldi_cu_stream on = how & TWO_STREAMS && which == 1 ? other : r->stream;

        HOLDS(ncclAllReduce(which ? y : x, which ? y : x, 1, PLDI_NCCL_F32, PLDI_NCCL_SUM,
                            comms[which], on) == 0);
    }
    HOLDS(cuStreamSynchronize(r->stream) == 0 && cuStreamSynchronize(other) == 0);
    HOLDS(gpu_read(&got, y, sizeof(got), other) == 0 && got == 3);
    HOLDS(ncclCommDestroy(comms[1]) == 0);
    return rank_close(r);
}

static int same_order(struct rank *r)
{
    return in_order(r, 0);
}

static int opposite_order(struct rank *r)
{
    return in_order(r, OPPOSITE);
}

static int opposite_on_two(struct rank *r)
{
    return in_order(r, OPPOSITE | TWO_STREAMS);
}

static int two_streams(struct rank *r)
{
    return in_order(r, TWO_STREAMS);
}

static void test_orders(void)
{
    const struct world w = {2, 0, 1, 0, 0, two_streams};

    world_case("same order", (struct world){2, 0, 1, 0, 0, same_order}, "", 0, 60);
    world_case("opposite order", (struct world){2, 0, 1, 0, 0, opposite_order}, "", CHILD_HUNG,
               0.5);
    world_case("opposite order on two streams, with room",
               (struct world){2, 0, 1, 0, 0, opposite_on_two}, "FAKE_NCCL_SLOTS=2", 0, 60);
    world_case("opposite order on two streams, kept",
               (struct world){2, 0, 1, 0, 0, opposite_on_two}, "NCCL_LAUNCH_ORDER_IMPLICIT=1",
               CHILD_HUNG, 0.5);
    world_case("two streams in the host's order", w, "NCCL_LAUNCH_ORDER_IMPLICIT=1", 0, 60);
    /* Rank 0 prefers the newer stream, rank 1 the older one. */
    world_case("two streams that nothing orders", w, "FAKE_CUDA_SEED=1 FAKE_CUDA_DELAY=20000",
               CHILD_HUNG, 0.7);
}

/* ---- Faults ---- */

/* The second operation of rank 1 dies; the others are told later; abort ends it. */
static int async_error(struct rank *r)
{
    const int wanted = r->rank == 1 ? PLDI_NCCL_SYSTEM_ERROR : PLDI_NCCL_REMOTE_ERROR;
    float *x, got = 0;
    int state = 0;

    HOLDS(rank_open(r) == 0);
    x = number(r);
    HOLDS(rank_settle(r->comm, sum_up(r, r->comm, x)) == 0);
    HOLDS(gpu_read(&got, x, 4, r->stream) == 0 && got == 3);
    HOLDS(rank_settle(r->comm, sum_up(r, r->comm, x)) == 0);
    while (state == 0)
        HOLDS(ncclCommGetAsyncError(r->comm, &state) == 0);
    HOLDS(state == wanted && cuStreamQuery(r->stream) == PLDI_CU_NOT_READY);
    HOLDS(sum_up(r, r->comm, x) == wanted);
    HOLDS(ncclCommAbort(r->comm) == 0 && cuStreamSynchronize(r->stream) == 0);
    return 0;
}

/* Its first operation is never over on rank 1, nor so on rank 0, until they are aborted. */
static int hang(struct rank *r)
{
    float *x;
    int state = -1;

    HOLDS(rank_open(r) == 0);
    x = number(r);
    HOLDS(rank_settle(r->comm, sum_up(r, r->comm, x)) == 0);
    gpu_nap(0.05);
    HOLDS(cuStreamQuery(r->stream) == PLDI_CU_NOT_READY);
    HOLDS(ncclCommGetAsyncError(r->comm, &state) == 0 && state == 0);
    HOLDS(ncclCommAbort(r->comm) == 0 && cuStreamSynchronize(r->stream) == 0);
    HOLDS(fake_nccl_live() <= 1);
    return 0;
}

static int revoked(struct rank *r)
{
    float *x;

    HOLDS(rank_open(r) == 0);
    x = number(r);
    HOLDS(sum_up(r, r->comm, x) == 0);
    HOLDS(ncclCommRevoke(r->comm, 0) == 0 && cuStreamSynchronize(r->stream) == 0);
    HOLDS(sum_up(r, r->comm, x) == PLDI_NCCL_INVALID_USAGE && says("revoked"));
    return rank_close(r);
}

/* Nobody is done before rank 1 comes, and it never does. */
static int init_hang(struct rank *r)
{
    struct pldi_nccl_config c = rank_config(r);
    int state = 0;

    HOLDS(gpu_open(r->device) == 0);
    HOLDS(ncclCommInitRankConfig(&r->comm, r->size, r->ids[0], r->rank, &c) ==
          PLDI_NCCL_IN_PROGRESS);
    for (int i = 0; i < 50; i++) {
        HOLDS(ncclCommGetAsyncError(r->comm, &state) == 0 && state == PLDI_NCCL_IN_PROGRESS);
        gpu_nap(0.001);
    }
    return ncclCommAbort(r->comm);
}

static int init_error(struct rank *r)
{
    const int wanted = r->rank == 1 ? PLDI_NCCL_INTERNAL_ERROR : PLDI_NCCL_REMOTE_ERROR;

    HOLDS(gpu_open(r->device) == 0 && rank_init(r, 0, &r->comm) == wanted);
    return r->comm == NULL ? 0 : ncclCommAbort(r->comm);
}

static int split_error(struct rank *r)
{
    pldi_nccl_comm part = NULL;
    int rc;

    HOLDS(rank_open(r) == 0);
    rc = ncclCommSplit(r->comm, 0, 0, &part, NULL);
    rc = rank_settle(r->comm, rc);
    HOLDS(rc == (r->rank == 1 ? PLDI_NCCL_INVALID_USAGE : PLDI_NCCL_REMOTE_ERROR));
    HOLDS(part != NULL && ncclCommAbort(part) == 0);
    return ncclCommAbort(r->comm);
}

static int call_errors(struct rank *r)
{
    struct pldi_nccl_id id;
    void *handle;
    float *x;

    HOLDS(rank_open(r) == 0);
    x = number(r);
    HOLDS(ncclCommRegister(r->comm, x, 4, &handle) == 0);
    HOLDS(ncclCommRegister(r->comm, x, 4, &handle) == PLDI_NCCL_SYSTEM_ERROR);
    HOLDS(sum_up(r, r->comm, x) == PLDI_NCCL_INTERNAL_ERROR && says("call 1"));
    HOLDS(sum_up(r, r->comm, x) == 0);
    HOLDS(rank_close(r) == 0);
    fake_nccl_fault("id_error");
    HOLDS(ncclGetUniqueId(&id) == PLDI_NCCL_SYSTEM_ERROR);
    return 0;
}

static int delay(struct rank *r)
{
    float *x;

    HOLDS(rank_open(r) == 0);
    x = number(r);
    HOLDS(sum_up(r, r->comm, x) == 0);
    gpu_nap(0.02);
    HOLDS(cuStreamQuery(r->stream) == PLDI_CU_NOT_READY);
    return rank_close(r);
}

static int finalize_hang(struct rank *r)
{
    HOLDS(rank_open(r) == 0 && ncclCommFinalize(r->comm) == PLDI_NCCL_IN_PROGRESS);
    for (int i = 0, state; i < 20; i++)
        HOLDS(ncclCommGetAsyncError(r->comm, &state) == 0 && state == PLDI_NCCL_IN_PROGRESS);
    return ncclCommAbort(r->comm);
}

/* Two communicators with an operation that hangs in each: the one that runs holds up the
 * abort of the other. */
static void *abort_one(void *comm)
{
    static int bad;

    return ncclCommAbort(comm) == 0 ? NULL : &bad;
}

static int hang_twice(struct rank *r, pldi_nccl_comm *second)
{
    float *x;

    HOLDS(rank_open(r) == 0 && rank_init(r, 1, second) == 0);
    x = number(r);
    HOLDS(sum_up(r, r->comm, x) == 0);
    gpu_nap(0.02); /* runs now */
    HOLDS(sum_up(r, *second, x) == 0);
    return 0;
}

static int abort_serially(struct rank *r)
{
    pldi_nccl_comm second;

    HOLDS(hang_twice(r, &second) == 0);
    HOLDS(ncclCommAbort(second) == 0);
    return ncclCommAbort(r->comm);
}

static int abort_in_parallel(struct rank *r)
{
    pldi_nccl_comm second;
    pthread_t thread;
    void *result;

    HOLDS(hang_twice(r, &second) == 0);
    HOLDS(pthread_create(&thread, NULL, abort_one, second) == 0);
    HOLDS(ncclCommAbort(r->comm) == 0 && pthread_join(thread, &result) == 0 && result == NULL);
    return cuStreamSynchronize(r->stream);
}

static void test_faults(void)
{
    for (int threads = 0; threads < 2; threads++) {
        world_case("async error", (struct world){2, threads, 0, 0, 0, async_error},
                   "FAKE_NCCL_FAULT=async:2@1", 0, 60);
        world_case("hang", (struct world){2, threads, 0, 0, 0, hang}, "FAKE_NCCL_FAULT=hang:1@1", 0,
                   60);
        world_case("init error", (struct world){2, threads, threads, 0, 0, init_error},
                   "FAKE_NCCL_FAULT=init_error:3@1", 0, 60);
    }
    world_case("revoke", (struct world){1, 1, 1, 0, 0, revoked}, "FAKE_NCCL_FAULT=hang:1", 0, 60);
    world_case("init hangs", (struct world){2, 0, 0, 0, 0, init_hang},
               "FAKE_NCCL_FAULT=init_hang@1", 0, 60);
    world_case("split error", (struct world){2, 1, 0, 0, 0, split_error},
               "FAKE_NCCL_FAULT=split_error@1", 0, 60);
    world_case("errors of calls", (struct world){1, 1, 1, 0, 0, call_errors},
               "FAKE_NCCL_FAULT=register:2,enqueue:1", 0, 60);
    world_case("delay", (struct world){2, 0, 1, 0, 0, delay}, "FAKE_NCCL_FAULT=delay:200ms@1", 0,
               60);
    world_case("finalize hangs", (struct world){1, 1, 0, 0, 0, finalize_hang},
               "FAKE_NCCL_FAULT=finalize_hang", 0, 60);
    world_case("abort one by one", (struct world){1, 1, 1, 0, 0, abort_serially},
               "FAKE_NCCL_FAULT=hang:1,abort_waits", CHILD_HUNG, 0.5);
    world_case("abort in parallel", (struct world){1, 1, 1, 0, 0, abort_in_parallel},
               "FAKE_NCCL_FAULT=hang:1,abort_waits", 0, 60);
    world_case("a fault that is not one", (struct world){1, 1, 1, 0, 0, opened},
               "FAKE_NCCL_FAULT=hangs", CHILD_ABORTED, 60);
}

int main(int argc, char **argv)
{
    (void)argc;
    test_rules(argv[1]);
    test_orders();
    test_faults();
    return tap_done();
}
