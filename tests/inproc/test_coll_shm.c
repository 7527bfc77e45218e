/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Ranks that share memory: that they do if they are to, several groups, requests, ranks
 * that differ or leave, and the memory itself.  Results are test_coll_ops.c's.
 */

#include <polder/polder.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "coll/coll_shm_levels.h"
#include "inproc/inproc.h"
#include "tap.h"

/* The path is the one that it should be: the team knows. */
static int paths(pld_runtime *rt, void *context)
{
    const char *wanted = context;
    pld_group *world = pld_runtime_world(rt);
    enum { COUNT = 100000 };
    void *shared = NULL;
    int own = 0;

    CHECK(rt, pld_mem_alloc(rt, COUNT * sizeof(float), &shared) == 0);
    CHECK(rt, (uintptr_t)shared % 64 == 0);
    for (size_t i = 0; i < COUNT; i++)
        CHECK(rt, ((float *)shared)[i] == 0);
    CHECK(rt, (world->team != NULL) == (strcmp(wanted, "0") != 0));
    CHECK(rt, pld_allreduce(world, shared, shared, COUNT, PLD_F32, PLD_SUM, NULL) == 0);
    if (world->team != NULL) {
        CHECK(rt, world->team->send_direct == (strcmp(wanted, "1") == 0));
        CHECK(rt, world->team->recv_direct == (strcmp(wanted, "1") == 0));
        CHECK(rt, pld_allreduce(world, &own, &own, 1, PLD_I32, PLD_SUM, NULL) == 0);
    }
    pld_mem_free(rt, shared);
    pld_mem_free(rt, NULL);
    return 0;
}

static void test_paths(void)
{
    static const char *const settings[] = {"0", "copy", "1"};

    for (int i = 0; i < 3; i++) {
        (void)setenv("POLDER_SHM", settings[i], 1);
        ok(inproc_run(3, paths, (void *)(uintptr_t)settings[i]) == 0,
           "POLDER_SHM is obeyed: setting %d", i);
    }
    (void)unsetenv("POLDER_SHM");
}

/* Ranks of two groups, used in turn; a group that is given up while another goes on. */
static int groups(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_runtime_rank(rt);
    pld_group *half = NULL;
    int *v = calloc(20000, sizeof(*v));

    (void)context;
    for (int round = 0; round < 20; round++) {
        CHECK(rt, pld_group_split(world, rank % 2, -rank, &half) == 0);
        CHECK(rt, half->team != NULL);
        for (int i = 0; i < 20000; i++)
            v[i] = rank;
        CHECK(rt, pld_allreduce(half, v, v, 20000, PLD_I32, PLD_SUM, NULL) == 0);
        for (int i = 0; i < 20000; i++)
            CHECK(rt, v[i] == (rank % 2 == 0 ? 0 + 2 + 4 : 1 + 3));
        CHECK(rt, pld_allreduce(world, v, v, 20000, PLD_I32, PLD_SUM, NULL) == 0);
        CHECK(rt, v[19999] == 3 * 6 + 2 * 4);
        pld_group_destroy(&half);
    }
    free(v);
    return 0;
}

/* Requests of two groups, completed out of order while others are made. */
static int requests(pld_runtime *rt, void *context)
{
    enum { N = 30000, OPS = 6 };
    pld_group *world = pld_runtime_world(rt);
    pld_request *r[OPS] = {NULL};
    pld_group *other = NULL;
    int64_t *v[OPS];

    (void)context;
    CHECK(rt, pld_group_split(world, 0, 0, &other) == 0);
    for (int i = 0; i < OPS; i++) {
        const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &r[i]};

        v[i] = calloc(N, sizeof(*v[i]));
        for (int e = 0; e < N; e++)
            v[i][e] = e + i;
        CHECK(rt, pld_allreduce(i % 2 ? world : other, v[i], v[i], N >> (i * 2), PLD_I64, PLD_SUM,
                                &o) == 0);
    }
    for (int i = OPS - 1; i >= 0; i--) {
        CHECK(rt, pld_request_wait(&r[i]) == 0);
        for (int e = 0; e < N >> (i * 2); e++)
            CHECK(rt, v[i][e] == (int64_t)(e + i) * pld_runtime_size(rt));
        free(v[i]);
    }
    pld_group_destroy(&other);
    return 0;
}

/* The last rank does something else; all are told, both sides are named, and go on. */
static int differ(pld_runtime *rt, void *context)
{
    const int what = *(const int *)context;
    pld_group *world = pld_runtime_world(rt);
    const int odd = pld_runtime_rank(rt) == pld_runtime_size(rt) - 1;
    pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .tag = odd ? "odd bucket" : "even bucket"};
    static const size_t counts[] = {4, 100000};
    float *v = calloc(100001, sizeof(*v));
    int rc = 0;

    for (int c = 0; c < 2; c++) {
        const size_t n = counts[c];
        const pld_dtype dtype = odd && what == 1 ? PLD_I32 : PLD_F32;
        const pld_op op = odd && what == 2 ? PLD_MAX : PLD_SUM;

        o.scale = odd && what == 3 ? 0.5 : 0;
        if (what == 4 && odd)
            rc = pld_barrier(world, &o);
        else if (what == 5)
            rc = pld_broadcast(world, v, n, dtype, odd, &o);
        else
            rc = pld_allreduce(world, v, v, n + (odd && what == 0), dtype, op, &o);
        CHECK(rt, rc == PLD_ERR_MISMATCH);
        CHECK(rt, strstr(pld_last_error(), "rank 0: ") != NULL);
        CHECK(rt, strstr(pld_last_error(), odd ? "odd bucket" : "even bucket") != NULL);
        CHECK(rt, pld_agree(world, odd ? PLD_ERR_IO : 0) == PLD_ERR_IO);
        CHECK(rt, pld_allreduce(world, v, v, n, PLD_F32, PLD_SUM, NULL) == 0);
    }
    free(v);
    return 0;
}

static void test_differ(void)
{
    static const char *const what[] = {"count", "dtype", "operator", "scale", "operation", "root"};

    for (int i = 0; i < 6; i++)
        ok(inproc_run(3, differ, &i) == 0, "another %s is refused everywhere, and harmless",
           what[i]);
}

struct leaving {
    size_t count;
    int rank;
};

/* A rank leaves after some operations; the others finish those, and then hear of it. */
static int leaves(pld_runtime *rt, void *context)
{
    const struct leaving *job = context;
    const size_t count = job->count;
    pld_group *world = pld_runtime_world(rt);
    int *v = calloc(count, sizeof(*v));
    struct timespec before, after;
    int rc;

    CHECK(rt, pld_group_set_tuning(world, "* * 1 9+ 0 * -> numa 16K") == 0);
    for (int i = 0; i < 3; i++)
        CHECK(rt, pld_broadcast(world, v, count, PLD_I32, job->rank, NULL) == 0);
    if (pld_runtime_rank(rt) != job->rank) {
        (void)clock_gettime(CLOCK_MONOTONIC, &before);
        rc = pld_allreduce(world, v, v, count, PLD_I32, PLD_SUM, NULL);
        (void)clock_gettime(CLOCK_MONOTONIC, &after);
        CHECK(rt, rc == PLD_ERR_PEER);
        CHECK(rt, strstr(pld_last_error(), "rank ") != NULL);
        CHECK(rt, after.tv_sec - before.tv_sec < 20);
        CHECK(rt, pld_barrier(world, NULL) == PLD_ERR_PEER);
    }
    free(v);
    return 0;
}

/* Where ranks see of each other's groups only whether they are complete: one that such a
 * message comes from, one of which it does not, and one of another group. */
static void test_leaves_levels(void)
{
    static const int who[] = {0, 1, 4, 11};

    (void)setenv("POLDER_FAKE_NUMA", "3", 1);
    for (int i = 0; i < 4; i++) {
        struct leaving few = {3, who[i]};
        struct leaving many = {300000, who[i]};

        ok(inproc_run(12, leaves, &few) == 0 && inproc_run(12, leaves, &many) == 0,
           "three NUMA nodes: rank %d of 12 leaves, and is reported", who[i]);
    }
    (void)unsetenv("POLDER_FAKE_NUMA");
}

/* A barrier that one rank does not come to is none; what is said differently is refused. */
static int levels(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_runtime_rank(rt);
    static _Atomic int behind[12];
    char text[200];

    (void)context;
    CHECK(rt, world->team->levels != NULL);
    for (int i = 1; i <= 50; i++) {
        atomic_store(&behind[rank], i);
        CHECK(rt, pld_barrier(world, NULL) == 0);
        for (int r = 0; r < 12; r++)
            CHECK(rt, atomic_load(&behind[r]) >= i);
        CHECK(rt, pld_agree(world, rank == i % 12 ? PLD_ERR_IO : 0) == PLD_ERR_IO);
    }
    CHECK(rt, pld_group_set_tuning(world, "allreduce * 1 9+ 64K * -> numa 128K") == 0);
    CHECK(rt, pld_coll_explain(world, "allreduce", 1 << 20, PLD_F32, text, sizeof(text)) == 0);
    CHECK(rt, strncmp(text, "numa: ", 6) == 0 && strstr(text, "in 3 groups") != NULL);
    CHECK(rt, pld_coll_explain(world, "allreduce", 1 << 10, PLD_F32, text, sizeof(text)) == 0);
    CHECK(rt, strncmp(text, "flat: ", 6) == 0);
    CHECK(rt, pld_group_set_tuning(world, "allreduce * 1 9+ 0 * -> flat 128K") == 0);
    CHECK(rt, pld_coll_explain(world, "allreduce", 1 << 20, PLD_F32, text, sizeof(text)) == 0);
    CHECK(rt, strncmp(text, "flat: ", 6) == 0);
    return 0;
}

static void test_levels(void)
{
    (void)setenv("POLDER_FAKE_NUMA", "3", 1);
    ok(inproc_run(12, levels, NULL) == 0, "12 ranks of three NUMA nodes meet, and choose");
    for (int i = 0; i < 6; i += 5)
        ok(inproc_run(12, differ, &i) == 0, "what one of 12 says differently is refused: %d", i);
    (void)unsetenv("POLDER_FAKE_NUMA");
}

/* Memory that is given back is had again, and is zero again. */
static int memory(pld_runtime *rt, void *context)
{
    enum { BYTES = 1 << 20 };
    void *a[8];
    void *again = NULL;

    (void)context;
    for (int i = 0; i < 8; i++) {
        CHECK(rt, pld_mem_alloc(rt, BYTES, &a[i]) == 0);
        memset(a[i], i + 1, BYTES);
    }
    for (int i = 0; i < 8; i++)
        CHECK(rt,
              ((unsigned char *)a[i])[0] == i + 1 && ((unsigned char *)a[i])[BYTES - 1] == i + 1);
    pld_mem_free(rt, a[2]);
    pld_mem_free(rt, a[4]);
    pld_mem_free(rt, a[3]);
    CHECK(rt, pld_mem_alloc(rt, (size_t)3 * BYTES, &again) == 0);
    CHECK(rt, again == a[2]);
    for (size_t i = 0; i < (size_t)3 * BYTES; i++)
        CHECK(rt, ((unsigned char *)again)[i] == 0);
    CHECK(rt, ((unsigned char *)a[5])[0] == 6 && ((unsigned char *)a[1])[BYTES - 1] == 2);
    a[2] = a[3] = a[4] = NULL;
    for (int i = 0; i < 8; i++)
        pld_mem_free(rt, a[i]);
    pld_mem_free(rt, again);
    CHECK(rt, pld_mem_alloc(rt, SIZE_MAX, &again) == PLD_ERR_NOMEM);
    CHECK(rt, pld_mem_alloc(NULL, 1, &again) == PLD_ERR_ARG);
    CHECK(rt, pld_mem_alloc(rt, 1, NULL) == PLD_ERR_ARG);
    CHECK(rt, pld_mem_alloc(rt, 0, &again) == 0);
    pld_mem_free(rt, again);
    return 0;
}

/* Who waits for long sleeps, until it is rung for: seldom woken, and not by a clock. */
static int sleeps(pld_runtime *rt, void *context)
{
    static const struct timespec late = {0, 700000000};
    const int message = *(const int *)context;
    pld_group *world = pld_runtime_world(rt);
    struct rusage before, after;
    int x = 0;

    CHECK(rt, pld_barrier(world, NULL) == 0);
    (void)getrusage(RUSAGE_THREAD, &before);
    if (pld_runtime_rank(rt) == 1)
        (void)nanosleep(&late, NULL);
    if (!message)
        CHECK(rt, pld_barrier(world, NULL) == 0);
    else if (pld_runtime_rank(rt) == 1)
        CHECK(rt, pld_send(world, &x, 1, PLD_I32, 0, 0, NULL) == 0);
    else
        CHECK(rt, pld_recv(world, &x, 1, PLD_I32, 1, 0, NULL) == 0);
    (void)getrusage(RUSAGE_THREAD, &after);
    /* 0.7 s are 175 sleeps of the longest, and thousands of naps. */
    CHECK(rt, after.ru_nvcsw - before.ru_nvcsw < 1000);
    return 0;
}

int main(void)
{
    struct leaving few = {3, 1};
    struct leaving many = {300000, 1};
    int no = 0;
    int yes = 1;

    test_paths();
    ok(inproc_run(5, groups, NULL) == 0, "groups made and given up, in turn with the world");
    ok(inproc_run(3, requests, NULL) == 0, "requests of two groups, in any order");
    test_differ();
    ok(inproc_run(4, leaves, &few) == 0, "who leaves after a small operation is reported");
    ok(inproc_run(4, leaves, &many) == 0, "who leaves after a large operation is reported");
    test_levels();
    test_leaves_levels();
    ok(inproc_run(2, memory, NULL) == 0, "buffers come and go");
    ok(inproc_run(2, sleeps, &no) == 0, "who waits long for another rank sleeps");
    ok(inproc_run(2, sleeps, &yes) == 0, "and who waits for a message");
    return tap_done();
}
