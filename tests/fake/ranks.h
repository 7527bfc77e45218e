/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file ranks.h  Ranks of the fake NCCL, as threads or as processes, each with a device. */
#ifndef RANKS_H
#define RANKS_H

#include <pthread.h>
#include <sys/prctl.h>

#include "fake_nccl.h"
#include "gpu.h"

enum { MAX_TEST_RANKS = 4 };

struct rank {
    int rank, size, device, blocking;
    struct pldi_nccl_id ids[2]; /* for two communicators */
    int (*run)(struct rank *);
    pldi_nccl_comm comm;
    pldi_cu_stream stream;
};

/** A case: so many ranks do that. */
struct world {
    int size, threads, blocking, same_device, hosts;
    int (*run)(struct rank *);
};

static inline struct pldi_nccl_config rank_config(const struct rank *r)
{
    struct pldi_nccl_config c = PLDI_NCCL_CONFIG;

    c.blocking = r->blocking;
    return c;
}

/** Ask until the call is over; what became of it. */
static inline int rank_settle(pldi_nccl_comm comm, int rc)
{
    while (rc == PLDI_NCCL_IN_PROGRESS) {
        gpu_nap(50e-6);
        if (ncclCommGetAsyncError(comm, &rc) != 0)
            return PLDI_NCCL_INTERNAL_ERROR;
    }
    return rc;
}

static inline int rank_init(struct rank *r, int which, pldi_nccl_comm *comm)
{
    struct pldi_nccl_config c = rank_config(r);
    const int rc = ncclCommInitRankConfig(comm, r->size, r->ids[which], r->rank, &c);

    return *comm == NULL ? rc : rank_settle(*comm, rc);
}

/** A device, a stream and a communicator. */
static inline int rank_open(struct rank *r)
{
    HOLDS(gpu_open(r->device) == 0);
    r->stream = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    HOLDS(r->stream != NULL && rank_init(r, 0, &r->comm) == 0);
    return 0;
}

static inline int rank_close(struct rank *r)
{
    HOLDS(cuStreamSynchronize(r->stream) == 0);
    HOLDS(ncclCommDestroy(r->comm) == 0);
    HOLDS(cuStreamDestroy_v2(r->stream) == 0);
    return 0;
}

static inline void *rank_thread(void *context)
{
    struct rank *r = context;
    static int failed;

    fake_set_rank(r->rank);
    return r->run(r) == 0 ? NULL : &failed;
}

static inline int ranks_as_threads(struct rank *ranks)
{
    pthread_t threads[MAX_TEST_RANKS];
    int bad = 0;

    for (int i = 0; i < ranks->size; i++)
        pthread_create(&threads[i], NULL, rank_thread, &ranks[i]);
    for (int i = 0; i < ranks->size; i++) {
        void *result;

        pthread_join(threads[i], &result);
        bad |= result != NULL;
    }
    return bad;
}

static inline int rank_process(void *context)
{
    struct rank *r = context;

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a case that hangs leaves nobody behind */
    return r->run(r);
}

static inline int ranks_as_processes(struct rank *ranks, int hosts)
{
    pid_t pids[MAX_TEST_RANKS];
    int bad = 0;

    for (int i = 0; i < ranks->size; i++) {
        char environment[64];

        snprintf(environment, sizeof(environment), "FAKE_RANK=%d%s%d", i,
                 hosts ? " NCCL_HOSTID=host" : " UNUSED=", i);
        pids[i] = child_start(rank_process, &ranks[i], environment);
    }
    for (int i = 0; i < ranks->size; i++)
        bad |= child_end(pids[i], 60);
    return bad;
}

static inline int world_run(void *context)
{
    const struct world *w = context;
    struct rank ranks[MAX_TEST_RANKS] = {{0}};
    struct pldi_nccl_id ids[2];

    if (ncclGetUniqueId(&ids[0]) != 0 || ncclGetUniqueId(&ids[1]) != 0)
        return 1;
    for (int i = 0; i < w->size; i++)
        ranks[i] = (struct rank){.rank = i,
                                 .size = w->size,
                                 .device = w->same_device ? 0 : i,
                                 .blocking = w->blocking,
                                 .ids = {ids[0], ids[1]},
                                 .run = w->run};
    return w->threads ? ranks_as_threads(ranks) : ranks_as_processes(ranks, w->hosts);
}

/** One test point: the world ends with that code; CHILD_HUNG after `seconds`. */
static inline void world_case(const char *name, struct world w, const char *environment, int wanted,
                              double seconds)
{
    char all[256];
    int code;

    snprintf(all, sizeof(all), "FAKE_CUDA_DEVICES=4 %s", environment);
    code = child_run(world_run, &w, all, seconds);
    ok(code == wanted, "%s, %d %s%s%s%s: %d, want %d", name, w.size,
       w.threads ? "threads" : "processes", w.blocking ? "" : ", non-blocking",
       environment[0] != '\0' ? ", " : "", environment, code, wanted);
}

#endif /* RANKS_H */
