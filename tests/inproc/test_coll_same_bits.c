/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reproducible sums.  What they must be is the tree of pld_group_set_reproducible(),
 * written down as the recursion that it is; contributions are such that any other
 * order gives other bits, which is tested, too.
 */

#include <polder/polder.h>

#include <stdlib.h>

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
    for (int ranks = 2; ranks <= 10; ranks += ranks < 5 ? 1 : 1 + PATTERN_SLOW) {
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
    test_leaves();
    test_rounding();
    return tap_done();
}
