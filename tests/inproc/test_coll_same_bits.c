/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reproducible sums.  What they must be is the tree of pld_group_set_reproducible(),
 * written down as the recursion that it is; contributions are such that any other
 * order gives other bits, which is tested, too.
 */

#include <polder/polder.h>

#include <sched.h>
#include <stdlib.h>

#include "base/base_err.h"
#include "coll_pattern.h"
#include "inproc/inproc.h"
#include "tap.h"

enum { COUNT = 9001, LEAVES_MOST = 24 };

struct job {
    pld_dtype dtype;
    const char *rule;
    int leaves; /* of all ranks; 0: sums over ranks */
    int dealt;  /* leaves are dealt out in turn, not cut into runs */
    size_t count;
};

/* Numbers of very different size and both signs, with few bits, so that bf16 holds them. */
static float value(int who, size_t i)
{
    const uint32_t x = ((uint32_t)i * 2654435761U) ^ ((uint32_t)who * 40503U + 977U);
    const uint32_t y = (x ^ x >> 15) * 2246822519U;
    const float m = (float)(128 + (y >> 8 & 127));

    return (y & 1 ? -m : m) * (float)(1ULL << (y >> 16 & 31));
}

/* The definition: of [first, first + 2^k), as far as there is anything. */
static float tree(int first, int span, int n, size_t i)
{
    const int half = span / 2;

    if (span == 1)
        return value(first, i);
    if (first + half >= n)
        return tree(first, half, n, i);
    return tree(first, half, n, i) + tree(first + half, half, n, i);
}

static float in_order(int n, size_t i)
{
    float sum = value(0, i);

    for (int r = 1; r < n; r++)
        sum += value(r, i);
    return sum;
}

static void store(pld_dtype dtype, void *to, size_t i, float v)
{
    uint32_t bits;
    uint16_t half;

    memcpy(&bits, &v, 4);
    half = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    if (dtype == PLD_F32)
        memcpy((char *)to + 4 * i, &v, 4);
    else
        memcpy((char *)to + 2 * i, &half, 2);
}

static void fill(const struct job *job, void *to, int who)
{
    for (size_t i = 0; i < job->count; i++)
        store(job->dtype, to, i, value(who, i));
}

static int is_tree(const struct job *job, const void *at, int n, size_t first, size_t count)
{
    const size_t bytes = pld_dtype_bytes(job->dtype);
    char expected[4];

    for (size_t i = 0; i < count; i++) {
        store(job->dtype, expected, 0, tree(0, 32, n, first + i));
        if (memcmp((const char *)at + i * bytes, expected, bytes) != 0) {
            printf("# element %zu of %d contributions differs\n", first + i, n);
            return 0;
        }
    }
    return 1;
}

static int sums(pld_runtime *rt, const struct job *job, char *send, char *recv)
{
    pld_group *world = pld_runtime_world(rt);
    const int n = pld_group_size(world);
    const size_t each = job->count / (size_t)n;

    CHECK(rt, pld_group_set_reproducible(world, 1) == 0);
    CHECK(rt, pld_group_reproducible(world) == 1);
    fill(job, send, pld_group_rank(world));
    CHECK(rt, pld_allreduce(world, send, recv, job->count, job->dtype, PLD_SUM, NULL) == 0);
    CHECK(rt, is_tree(job, recv, n, 0, job->count));
    memset(recv, 0, job->count);
    CHECK(rt, pld_reduce(world, send, recv, job->count, job->dtype, PLD_SUM, 0, NULL) == 0);
    CHECK(rt, pld_group_rank(world) != 0 || is_tree(job, recv, n, 0, job->count));
    CHECK(rt, pld_reduce_scatter(world, send, recv, each, job->dtype, PLD_SUM, NULL) == 0);
    CHECK(rt, is_tree(job, recv, n, each * (size_t)pld_group_rank(world), each));
    return 0;
}

static int leaf_sums(pld_runtime *rt, const struct job *job, char *send, char *recv)
{
    pld_group *world = pld_runtime_world(rt);
    const int p = pld_group_size(world);
    const size_t bytes = job->count * pld_dtype_bytes(job->dtype);
    pld_leaf mine[LEAVES_MOST];
    size_t n = 0;

    for (int i = job->leaves - 1; i >= 0; i--) {
        const int rank = job->dealt ? i % p : (int)((long)i * p / job->leaves);

        if (rank != pld_group_rank(world))
            continue;
        fill(job, send + n * bytes, i);
        mine[n] = (pld_leaf){send + n * bytes, (uint64_t)i};
        n++;
    }
    CHECK(rt, pld_allreduce_leaves(world, mine, n, (uint64_t)job->leaves, recv, job->count,
                                   job->dtype, PLD_SUM, NULL) == 0);
    CHECK(rt, is_tree(job, recv, job->leaves, 0, job->count));
    /* One too few, and one twice. */
    CHECK(rt, pld_allreduce_leaves(world, mine, n, (uint64_t)job->leaves + 1, recv, job->count,
                                   job->dtype, PLD_SUM, NULL) == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), "no rank gives leaf") != NULL);
    for (size_t i = 0; i < n; i++)
        mine[i].leaf = 0;
    CHECK(rt, job->leaves == 1 ||
                  pld_allreduce_leaves(world, mine, n, (uint64_t)job->leaves, recv, job->count,
                                       job->dtype, PLD_SUM, NULL) == PLD_ERR_MISMATCH);
    CHECK(rt, job->leaves == 1 || strstr(pld_last_error(), "leaf 0 is given by") != NULL);
    return 0;
}

static int body(pld_runtime *rt, void *context)
{
    const struct job *job = context;
    pld_group *world = pld_runtime_world(rt);
    char *send = malloc((size_t)(job->leaves + 1) * job->count * 4);
    char *recv = malloc(job->count * 4);
    int rc;

    CHECK(rt, pld_group_set_tuning(world, job->rule) == 0);
    rc = job->leaves > 0 ? leaf_sums(rt, job, send, recv) : sums(rt, job, send, recv);
    free(send);
    free(recv);
    return rc;
}

static int run(int ranks, int nodes, struct job *job)
{
    char text[16];

    (void)snprintf(text, sizeof(text), "%d", nodes);
    (void)setenv("POLDER_FAKE_NODES", text, 1);
    return inproc_run(ranks, body, job);
}

static void test_ranks(const char *shm)
{
    (void)setenv("POLDER_SHM", shm, 1);
    for (int ranks = 2; ranks <= 10; ranks += ranks < 5 ? 1 : 1 + SLOW) {
        struct job job = {.dtype = ranks % 3 ? PLD_F32 : PLD_BF16, .count = COUNT};
        int bad = 0;

        for (int nodes = 1; nodes <= 5 && nodes <= ranks; nodes++) {
            job.count = nodes % 2 ? 1000 : COUNT;
            job.rule = nodes % 2 ? NULL : "* * * 1 0 * -> halving 1K\n* * * 2+ 0 * -> nodes 1K";
            bad += run(ranks, nodes, &job) != 0;
        }
        ok(bad == 0, "POLDER_SHM=%s, %d ranks: the tree's bits on 1 to 5 nodes", shm, ranks);
    }
    (void)unsetenv("POLDER_SHM");
}

/* In two levels of shared memory: where groups are subtrees, and where they are not. */
static void test_levels(void)
{
    static const int cases[][2] = {{8, 2}, {10, 3}, {12, 3}, {16, 2}};

    for (int i = 0; i < 4; i++) {
        const int ranks = cases[i][0];
        struct job job = {.dtype = i % 2 ? PLD_BF16 : PLD_F32, .count = COUNT};
        char text[16];
        int bad = 0;

        (void)snprintf(text, sizeof(text), "%d", cases[i][1]);
        (void)setenv("POLDER_FAKE_NUMA", text, 1);
        job.rule = "* * 1 * 0 * -> numa 1K";
        bad = run(ranks, 1, &job) != 0;
        ok(bad == 0, "%d ranks, %d NUMA nodes: the tree's bits", ranks, cases[i][1]);
    }
    (void)unsetenv("POLDER_FAKE_NUMA");
}

static void test_leaves(void)
{
    static const int leaves[] = {1, 5, 8, 24};

    for (int i = 0; i < 4; i++) {
        struct job job = {.dtype = i % 2 ? PLD_BF16 : PLD_F32, .leaves = leaves[i], .count = 777};
        int bad = 0;

        for (int ranks = 1; ranks <= 8; ranks += ranks == 4 ? 4 : 1) {
            job.dealt = ranks == 3;
            bad += run(ranks, ranks > 2 ? 2 : 1, &job) != 0;
        }
        ok(bad == 0, "%d leaves on 1, 2, 3, 4 and 8 ranks: the tree's bits", leaves[i]);
    }
}

/* Sums over leaves under way while others are posted, asked for and waited for. */
static int requests(pld_runtime *rt, void *context)
{
    enum { SEVERAL = 450000 /* segments of two ranks */, LEAVES = 20, SMALL = 100 };
    pld_group *world = pld_runtime_world(rt);
    const int p = pld_group_size(world);
    const uint64_t rank = (uint64_t)pld_group_rank(world);
    const size_t many = p == 2 ? SEVERAL : 5000;
    pld_leaf mine[LEAVES];
    pld_request *r[4] = {NULL};
    float *data = malloc(many * sizeof(*data));
    float *sum = malloc(many * sizeof(*sum));
    float x[SMALL], y[SMALL];
    size_t n = 0;
    int done = 0;

    (void)context;
    for (size_t i = 0; i < many; i++)
        data[i] = (float)(i % 7);
    for (size_t i = 0; i < SMALL; i++)
        x[i] = 1;
    for (uint64_t i = rank; i < LEAVES; i += (uint64_t)p)
        mine[n++] = (pld_leaf){data, i};
    for (int i = 0; i < 4; i++) {
        const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &r[i], .scale = 0.5};

        /* What is wrong with the third it learns from the others' numbers, long after posting. */
        if (i == 1)
            CHECK(rt, pld_allreduce(world, x, x, SMALL, PLD_F32, PLD_SUM, &o) == 0);
        else
            CHECK(rt, pld_allreduce_leaves(world, mine, n, LEAVES + (uint64_t)(i == 2),
                                           i == 0 ? sum : y, i == 0 ? many : SMALL, PLD_F32,
                                           PLD_AVG, &o) == 0);
    }
    memset(mine, 0, sizeof(mine));
    while (!done) {
        CHECK(rt, pld_request_test(&r[0], &done) == 0);
        (void)sched_yield();
    }
    CHECK(rt, r[0] == NULL);
    for (size_t i = 0; i < many; i++)
        CHECK(rt, sum[i] == 0.5F * (float)(i % 7));
    CHECK(rt, pld_request_wait(&r[2]) == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), "no rank gives leaf 20 of 21") != NULL);
    CHECK(rt, pld_request_wait_all(4, r) == 0);
    CHECK(rt, x[SMALL - 1] == 0.5F * (float)p && y[SMALL - 1] == 0.5F * (float)((SMALL - 1) % 7));
    free(data);
    free(sum);
    return 0;
}

/* The last rank gives another count, number of leaves, or another operation altogether. */
static int other_calls(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    const int last = pld_group_rank(world) == pld_group_size(world) - 1;
    float x[8] = {1};
    const pld_leaf leaf = {x, (uint64_t)pld_group_rank(world)};
    const uint64_t total = (uint64_t)pld_group_size(world);
    pld_request *r = NULL;
    const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &r};

    (void)context;
    CHECK(rt,
          pld_allreduce_leaves(world, &leaf, 1, total, x, last ? 8 : 7, PLD_F32, PLD_SUM, &o) == 0);
    CHECK(rt, pld_request_wait(&r) == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), "f32[7] sum at ") != NULL);
    CHECK(rt, strstr(pld_last_error(), "f32[8] sum at ") != NULL);
    CHECK(rt, pld_allreduce_leaves(world, &leaf, 1, total + (uint64_t)last, x, 8, PLD_F32, PLD_SUM,
                                   NULL) == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), " leaves on rank ") != NULL);
    if (last)
        CHECK(rt, pld_barrier(world, NULL) == PLD_ERR_MISMATCH);
    else
        CHECK(rt, pld_allreduce_leaves(world, &leaf, 1, total, x, 8, PLD_F32, PLD_SUM, NULL) ==
                      PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), ": barrier #") != NULL);
    CHECK(rt, strstr(pld_last_error(), ": allreduce_leaves #") != NULL);
    CHECK(rt, pld_allreduce_leaves(world, &leaf, 1, total, x, 8, PLD_F32, PLD_SUM, NULL) == 0);
    CHECK(rt, (uint64_t)x[0] == total);
    return 0;
}

static _Thread_local int allocations = -1; /* until one fails */

void *__real_pldi_alloc(size_t count, size_t bytes, const char *what);
void *__wrap_pldi_alloc(size_t count, size_t bytes, const char *what);

void *__wrap_pldi_alloc(size_t count, size_t bytes, const char *what)
{
    if (allocations < 0 || allocations-- > 0)
        return __real_pldi_alloc(count, bytes, what);
    (void)pldi_fail(PLD_ERR_NOMEM, "no memory for %s", what);
    return NULL;
}

/* One rank's n-th allocation fails, for all n: all are told so, and can go on. */
static int no_memory(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    const int p = pld_group_size(world);
    const int rank = pld_group_rank(world);
    float x[8] = {1};
    const pld_leaf leaf = {x, (uint64_t)rank};
    int failed = PLD_ERR_NOMEM;
    int n = 0;

    (void)context;
    for (; failed != 0 && n < 100 * p; n++) {
        int32_t all;

        allocations = rank == n % p ? n / p : -1;
        failed = pld_allreduce_leaves(world, &leaf, 1, (uint64_t)p, x, 8, PLD_F32, PLD_MAX, NULL);
        allocations = -1;
        CHECK(rt, failed == 0 || (failed == PLD_ERR_NOMEM &&
                                  strstr(pld_last_error(), "no memory for ") != NULL));
        all = failed;
        CHECK(rt, pld_allreduce(world, &all, &all, 1, PLD_I32, PLD_MAX, NULL) == 0);
        CHECK(rt, all == failed);
    }
    CHECK(rt, n > 10 * p && failed == 0 && x[0] == 1);
    return 0;
}

static void test_requests(void)
{
    for (int ranks = 1 + SLOW; ranks <= (SLOW ? 3 : 10); ranks += ranks < 3 ? 1 : 7) {
        for (int nodes = 1; nodes <= 2 && nodes <= ranks; nodes++) {
            struct job job = {0};
            char text[16];

            (void)snprintf(text, sizeof(text), "%d", nodes);
            (void)setenv("POLDER_FAKE_NODES", text, 1);
            ok(inproc_run(ranks, requests, &job) == 0 && inproc_run(ranks, no_memory, &job) == 0 &&
                   (ranks == 1 || inproc_run(ranks, other_calls, &job) == 0),
               "sums over leaves with requests, %d ranks on %d nodes", ranks, nodes);
        }
    }
}

/* 256 + 1 is 256 in bf16: rounded inside a node, the sum would be less. */
static int partial(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_group_rank(world);
    const struct job *job = context;
    uint16_t *x = malloc(job->count * 2);
    char expected[2];

    store(PLD_BF16, expected, 0, 258);
    for (size_t i = 0; i < job->count; i++)
        store(PLD_BF16, x, i, rank == 0 ? 256 : rank < 3 ? 1 : 0);
    CHECK(rt, pld_allreduce(world, x, x, job->count, PLD_BF16, PLD_SUM, NULL) == 0);
    for (size_t i = 0; i < job->count; i++)
        CHECK(rt, memcmp(&x[i], expected, 2) == 0);
    free(x);
    return 0;
}

static void test_rounding(void)
{
    struct job job = {.count = 30000};

    (void)setenv("POLDER_FAKE_NODES", "2", 1);
    ok(inproc_run(4, partial, &job) == 0, "bf16 partial sums of nodes are not rounded");
    (void)setenv("POLDER_FAKE_NODES", "1", 1);
    (void)setenv("POLDER_FAKE_NUMA", "2", 1);
    job.count = 300000;
    ok(inproc_run(4, partial, &job) == 0, "nor are those of NUMA nodes");
    (void)unsetenv("POLDER_FAKE_NUMA");
    job.count = 30000;
    (void)setenv("POLDER_FAKE_NODES", "12", 1);
    ok(inproc_run(12, partial, &job) == 0, "nor are those of a halving");
    job.count = 700000;
    ok(inproc_run(12, partial, &job) == 0, "nor those of a ring");
}

int main(void)
{
    int differ = 0;

    for (size_t i = 0; i < COUNT; i++)
        differ += tree(0, 32, 7, i) != in_order(7, i);
    ok(differ > COUNT / 10, "%d of %d sums depend on the order", differ, COUNT);
    test_ranks("1");
    test_ranks("0");
    test_levels();
    test_leaves();
    test_requests();
    test_rounding();
    return tap_done();
}
