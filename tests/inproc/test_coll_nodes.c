/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Operations between pretended nodes, by every algorithm.  Contributions are small
 * integers, so that every sum is exact in every dtype whatever its order.
 */

#include <polder/polder.h>

#include <stdlib.h>
#include <unistd.h>

#include "base/base_err.h"
#include "coll/coll.h"
#include "coll_pattern.h"
#include "inproc/inproc.h"
#include "tap.h"

enum { SOME = 20011, MANY = 24023, DTYPES = 4, SIZES = 4 };

static const pld_dtype dtypes[DTYPES] = {PLD_BF16, PLD_F32, PLD_I64, PLD_U8};

struct job {
    const char *rule; /* of the tuning; NULL: the defaults */
    int shuffled;     /* a group whose ranks alternate between nodes */
    int dtypes;       /* so many of them */
};

struct test {
    pld_runtime *rt;
    pld_group *group;
    int rank, size;
    pld_dtype dtype;
    size_t bytes, count;
    char *send, *recv;
    size_t counts[INPROC_MAX_RANKS];
};

/* Values repeat: what an element is depends on this alone. */
static size_t residue(size_t i)
{
    return (i * 3 + i / 577) % 5;
}

/* What a rank gives, or with rank -1 the sum, by residue. */
static void make_table(const struct test *t, int rank, char table[5][8])
{
    for (size_t k = 0; k < 5; k++) {
        size_t v = 0;

        for (int r = rank < 0 ? 0 : rank; r < (rank < 0 ? t->size : rank + 1); r++)
            v += (k + (size_t)r * 7) % 5;
        pattern_store(t->dtype, table[k], (double)v);
    }
}

static void put(const struct test *t, char *to, size_t count, int rank, size_t first)
{
    char table[5][8];

    make_table(t, rank, table);
    for (size_t i = 0; i < count; i++)
        memcpy(to + i * t->bytes, table[residue(first + i)], t->bytes);
}

static int holds(const struct test *t, const char *at, size_t count, int rank, size_t first)
{
    char table[5][8];

    make_table(t, rank, table);
    for (size_t i = 0; i < count; i++) {
        if (memcmp(at + i * t->bytes, table[residue(first + i)], t->bytes) != 0) {
            printf("# element %zu of %zu, dtype %s\n", i, count, pld_dtype_name(t->dtype));
            return 0;
        }
    }
    return 1;
}

static int check_vectors(const struct test *t)
{
    const int root = t->size - 1;
    const size_t n = t->count;

    put(t, t->send, n, t->rank, 0);
    CHECK(t->rt, pld_allreduce(t->group, t->send, t->recv, n, t->dtype, PLD_SUM, NULL) == 0);
    CHECK(t->rt, holds(t, t->recv, n, -1, 0));
    CHECK(t->rt, pld_allreduce(t->group, t->send, t->send, n, t->dtype, PLD_SUM, NULL) == 0);
    CHECK(t->rt, holds(t, t->send, n, -1, 0));
    put(t, t->send, n, t->rank, 0);
    memset(t->recv, 0, n * t->bytes);
    CHECK(t->rt, pld_reduce(t->group, t->send, t->recv, n, t->dtype, PLD_SUM, root, NULL) == 0);
    CHECK(t->rt, t->rank != root || holds(t, t->recv, n, -1, 0));
    CHECK(t->rt, holds(t, t->send, n, t->rank, 0));
    put(t, t->recv, n, t->rank, 0);
    CHECK(t->rt, pld_broadcast(t->group, t->recv, n, t->dtype, root, NULL) == 0);
    CHECK(t->rt, holds(t, t->recv, n, root, 0));
    CHECK(t->rt, pld_broadcast(t->group, t->send, n, t->dtype, 0, NULL) == 0);
    CHECK(t->rt, holds(t, t->send, n, 0, 0));
    return 0;
}

static int check_blocks(const struct test *t)
{
    const size_t each = t->count / (size_t)t->size;
    const size_t all = each * (size_t)t->size;
    const size_t mine = each * (size_t)t->rank;

    put(t, t->send, all, t->rank, 0);
    CHECK(t->rt,
          pld_reduce_scatter(t->group, t->send, t->recv, each, t->dtype, PLD_SUM, NULL) == 0);
    CHECK(t->rt, holds(t, t->recv, each, -1, mine));
    CHECK(t->rt, pld_reduce_scatter(t->group, t->send, t->send + mine * t->bytes, each, t->dtype,
                                    PLD_SUM, NULL) == 0);
    CHECK(t->rt, holds(t, t->send + mine * t->bytes, each, -1, mine));
    put(t, t->recv + mine * t->bytes, each, t->rank, 0);
    CHECK(t->rt,
          pld_allgather(t->group, t->recv + mine * t->bytes, t->recv, each, t->dtype, NULL) == 0);
    for (int r = 0; r < t->size; r++)
        CHECK(t->rt, holds(t, t->recv + (size_t)r * each * t->bytes, each, r, 0));
    return 0;
}

static int check_blocks_v(struct test *t)
{
    size_t all = 0;
    size_t mine = 0;

    for (int r = 0; r < t->size; r++) {
        t->counts[r] = r % 3 == 1 ? 0 : t->count / (size_t)t->size / (size_t)(1 + r % 2);
        mine += r < t->rank ? t->counts[r] : 0;
        all += t->counts[r];
    }
    put(t, t->send, all, t->rank, 0);
    CHECK(t->rt, pld_reduce_scatter_v(t->group, t->send, t->recv, t->counts, t->dtype, PLD_SUM,
                                      NULL) == 0);
    CHECK(t->rt, holds(t, t->recv, t->counts[t->rank], -1, mine));
    put(t, t->send, t->counts[t->rank], t->rank, 0);
    CHECK(t->rt, pld_allgather_v(t->group, t->send, t->recv, t->counts, t->dtype, NULL) == 0);
    for (int r = 0; r < t->size; r++) {
        CHECK(t->rt, holds(t, t->recv, t->counts[r], r, 0));
        t->recv += t->counts[r] * t->bytes;
    }
    t->recv -= all * t->bytes;
    return 0;
}

/* A list of tensors of which segments begin and end in the middle. */
static int check_list(const struct test *t)
{
    pld_coll_item items[3];
    const size_t n[3] = {t->count / 3, 5, t->count / 2};
    size_t at = 0;

    for (int i = 0; i < 3; i++) {
        items[i] = (pld_coll_item){t->send + at * t->bytes, t->recv + at * t->bytes, n[i]};
        put(t, t->send + at * t->bytes, n[i], t->rank, at);
        at += n[i];
    }
    CHECK(t->rt, pld_allreduce_list(t->group, items, 3, t->dtype, PLD_SUM, NULL) == 0);
    CHECK(t->rt, holds(t, t->recv, at, -1, 0));
    put(t, t->recv, at, t->rank, 0);
    CHECK(t->rt, pld_broadcast_list(t->group, items, 3, t->dtype, t->size / 2, NULL) == 0);
    CHECK(t->rt, holds(t, t->recv, at, t->size / 2, 0));
    return 0;
}

static int check_all(struct test *t)
{
    int rc = check_vectors(t);

    rc = rc == 0 ? check_blocks(t) : rc;
    rc = rc == 0 ? check_blocks_v(t) : rc;
    rc = rc == 0 ? check_list(t) : rc;
    CHECK(t->rt, pld_barrier(t->group, NULL) == 0);
    return rc;
}

static int run_group(struct test *t, const struct job *job)
{
    const size_t sizes[SIZES] = {0, 1, SOME, MANY};
    int rc = 0;

    for (int d = 0; rc == 0 && d < job->dtypes; d++) {
        t->dtype = dtypes[d];
        t->bytes = pld_dtype_bytes(t->dtype);
        for (int s = 0; rc == 0 && s < SIZES - (job->rule == NULL || SLOW); s++) {
            t->count = sizes[s];
            rc = check_all(t);
        }
    }
    return rc;
}

static int body(pld_runtime *rt, void *context)
{
    const struct job *job = context;
    struct test t = {.rt = rt, .group = pld_runtime_world(rt)};
    pld_group *other = NULL;
    int rc;

    if (job->shuffled) {
        CHECK(rt, pld_group_split(t.group, 0, pld_runtime_rank(rt) * 5 % 7, &other) == 0);
        t.group = other;
    }
    CHECK(rt, pld_group_set_tuning(t.group, job->rule) == 0);
    t.rank = pld_group_rank(t.group);
    t.size = pld_group_size(t.group);
    t.send = malloc(MANY * sizeof(double));
    t.recv = malloc(MANY * sizeof(double));
    rc = run_group(&t, job);
    free(t.send);
    free(t.recv);
    pld_group_destroy(&other);
    return rc;
}

static int run(int ranks, int nodes, const char *rule, int shuffled)
{
    struct job job = {rule, shuffled, SLOW || rule != NULL ? 1 : ranks % 2 ? 2 : DTYPES};
    char text[16];

    (void)snprintf(text, sizeof(text), "%d", nodes);
    (void)setenv("POLDER_FAKE_NODES", text, 1);
    return inproc_run(ranks, body, &job);
}

static void test_maps(void)
{
    for (int nodes = 1; nodes <= 5; nodes++) {
        int bad = 0;

        for (int ranks = nodes; ranks <= 9; ranks += SLOW ? 4 : 1 + (nodes != 2 && nodes != 3))
            bad += run(ranks, nodes, NULL, ranks % 2) != 0;
        ok(bad == 0, "%d nodes, up to 9 ranks: every operation is right", nodes);
    }
    ok(run(12, 3, NULL, 0) == 0, "12 ranks on 3 nodes");
    ok(run(16, 5, NULL, 1) == 0, "16 ranks on 5 nodes, out of order");
    ok(run(19, 9, NULL, 1) == 0, "19 ranks on 9 nodes, out of order");
}

static void test_algorithms(void)
{
    static const char *const rules[] = {"* * * * 0 * -> ring 4K",
                                        "* * * * 0 * -> halving 4K",
                                        "* * * * 0 * -> doubling 8K",
                                        "* * * * 0 * -> flat 4K",
                                        "* * * 2+ 0 * -> nodes 4K\n* * * 1 0 * -> ring 4K",
                                        "* * * 2+ 0 * -> nodes 4K\n* * * 1 0 * -> halving 4K",
                                        "* * * 2+ 0 * -> nodes 4K\n* * * 1 0 * -> doubling 8K"};

    static const char *const names[] = {
        "ring",           "halving",           "doubling",          "flat",
        "nodes and ring", "nodes and halving", "nodes and doubling"};

    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        ok(run(5, 2, rules[i], 1) == 0 && run(7, 7, rules[i], 0) == 0 &&
               (SLOW || (run(3, 3, rules[i], 0) == 0 && run(9, 3, rules[i], 0) == 0)),
           "small chunks by %s", names[i]);
    }
}

/* One rank counts differently, on its own node or on another: all are told so. */
static int mismatch(pld_runtime *rt, void *context)
{
    const int odd = *(const int *)context;
    pld_group *world = pld_runtime_world(rt);
    float x[3] = {0};
    float *big = calloc(50000, sizeof(*big));
    const size_t n = 49999 + (size_t)(pld_runtime_rank(rt) == odd);
    char who[32];

    (void)snprintf(who, sizeof(who), "rank %d: allreduce", odd == 0 ? 0 : odd);
    CHECK(rt, pld_allreduce(world, big, big, n, PLD_F32, PLD_SUM, NULL) == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), who) != NULL && strstr(pld_last_error(), "[50000]") != NULL);
    free(big);
    CHECK(rt, pld_allreduce(world, x, x, 3, PLD_F32, PLD_SUM, NULL) == 0);
    return 0;
}

/* A rank leaves; those that wait for it, inside its node or not, are told so. */
static int leave(pld_runtime *rt, void *context)
{
    const int leaver = *(const int *)context;
    pld_group *world = pld_runtime_world(rt);
    float *big = calloc(50000, sizeof(*big));
    int rc;

    CHECK(rt, pld_allreduce(world, big, big, 50000, PLD_F32, PLD_SUM, NULL) == 0);
    if (pld_runtime_rank(rt) != leaver) {
        const int half = pld_runtime_size(rt) / 2;
        char who[64];

        rc = pld_allreduce(world, big, big, 50000, PLD_F32, PLD_SUM, NULL);
        CHECK(rt, rc == PLD_ERR_PEER);
        (void)snprintf(who, sizeof(who), "rank %d (process %lld) ended before it finished allred",
                       leaver, (long long)getpid());
        CHECK(rt, leaver / half != pld_runtime_rank(rt) / half ||
                      strstr(pld_last_error(), who) == pld_last_error());
        CHECK(rt, pld_barrier(world, NULL) == PLD_ERR_PEER);
    }
    free(big);
    return 0;
}

static void test_faults(void)
{
    static const int who[] = {0, 2, 5};

    (void)setenv("POLDER_FAKE_NODES", "2", 1);
    for (int i = 0; i < 3; i++) {
        int rank = who[i];

        ok(inproc_run(6, mismatch, &rank) == 0, "rank %d of 2 x 3 counts differently", rank);
        ok(inproc_run(10, mismatch, &rank) == 0, "rank %d of 2 x 5 counts differently", rank);
        ok(inproc_run(6, leave, &rank) == 0, "rank %d of 2 x 3 leaves", rank);
        ok(inproc_run(10, leave, &rank) == 0, "rank %d of 2 x 5 leaves", rank);
    }
}

/* What one allreduce sends between nodes, and one of the other operations, by rule. */
struct crossing {
    const char *rule;
    uint64_t bytes[5]; /* by operation, of all ranks; added by each under no lock: atomically */
};

static const char *const crossed_names[5] = {"allreduce", "reduce", "broadcast", "reduce_scatter",
                                             "allgather"};

static int do_one(pld_group *g, int which, float *a, float *b, size_t n)
{
    const size_t each = n / (size_t)pld_group_size(g);

    switch (which) {
    case 0:
        return pld_allreduce(g, a, b, n, PLD_F32, PLD_SUM, NULL);
    case 1:
        return pld_reduce(g, a, b, n, PLD_F32, PLD_SUM, 0, NULL);
    case 2:
        return pld_broadcast(g, a, n, PLD_F32, 0, NULL);
    case 3:
        return pld_reduce_scatter(g, a, b, each, PLD_F32, PLD_SUM, NULL);
    default:
        return pld_allgather(g, a, b, each, PLD_F32, NULL);
    }
}

static int cross(pld_runtime *rt, void *context)
{
    struct crossing *c = context;
    pld_group *world = pld_runtime_world(rt);
    const size_t n = 1 << 18;
    float *a = calloc(n, sizeof(*a));
    float *b = calloc(n, sizeof(*b));

    CHECK(rt, pld_group_set_tuning(world, c->rule) == 0);
    for (int i = 0; i < 5; i++) {
        const uint64_t before = world->crossed;

        CHECK(rt, do_one(world, i, a, b, n) == 0);
        (void)__atomic_fetch_add(&c->bytes[i], world->crossed - before, __ATOMIC_SEQ_CST);
    }
    free(a);
    free(b);
    return 0;
}

static void test_crossing(void)
{
    struct crossing flat = {.rule = "* * * * 0 * -> flat 128K"};
    struct crossing ring = {.rule = "* * * * 0 * -> ring 128K"};
    struct crossing nodes = {.rule = "* * * 2+ 0 * -> nodes 128K"};

    (void)setenv("POLDER_FAKE_NODES", "2", 1);
    ok(inproc_run(8, cross, &flat) == 0 && inproc_run(8, cross, &ring) == 0 &&
           inproc_run(8, cross, &nodes) == 0,
       "2 nodes x 4 ranks, 1 MiB of f32");
    for (int i = 0; i < 5; i++)
        ok(nodes.bytes[i] < flat.bytes[i] || (i == 2 && nodes.bytes[i] < flat.bytes[i] + 65536),
           "%s sends %llu bytes between nodes, flat %llu, ring %llu", crossed_names[i],
           (unsigned long long)nodes.bytes[i], (unsigned long long)flat.bytes[i],
           (unsigned long long)ring.bytes[i]);
}

/* Messages between nodes of a barrier and of a small sum, of all ranks. */
struct meeting {
    uint64_t messages[2], bytes[2];
};

static int meet(pld_runtime *rt, void *context)
{
    struct meeting *m = context;
    pld_group *world = pld_runtime_world(rt);
    float x[256] = {1};

    for (int i = 0; i < 2; i++) {
        const uint64_t messages = world->crossings;
        const uint64_t bytes = world->crossed;

        CHECK(rt, (i == 0 ? pld_barrier(world, NULL)
                          : pld_allreduce(world, x, x, 256, PLD_F32, PLD_SUM, NULL)) == 0);
        (void)__atomic_fetch_add(&m->messages[i], world->crossings - messages, __ATOMIC_SEQ_CST);
        (void)__atomic_fetch_add(&m->bytes[i], world->crossed - bytes, __ATOMIC_SEQ_CST);
    }
    CHECK(rt, (int)x[0] == pld_group_size(world));
    return 0;
}

static void test_meeting(void)
{
    static const struct {
        int ranks, nodes, barrier, sum;
    } cases[] = {{4, 2, 2, 2},  {8, 2, 2, 2},  {8, 4, 12, 12},          {7, 7, 42, 42},
                 {12, 3, 6, 6}, {40, 2, 2, 2}, {18, 9, 36, 36 + 2 * 26}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]) - SLOW; i++) {
        struct meeting m = {{0}, {0}};
        char nodes[16];
        int rc;

        (void)snprintf(nodes, sizeof(nodes), "%d", cases[i].nodes);
        (void)setenv("POLDER_FAKE_NODES", nodes, 1);
        rc = inproc_run(cases[i].ranks, meet, &m);
        ok(rc == 0 && (int)m.messages[0] == cases[i].barrier && (int)m.messages[1] == cases[i].sum,
           "%d ranks on %s nodes: a barrier is %llu messages between them (%llu bytes), a sum of "
           "1 KiB %llu (%llu bytes)",
           cases[i].ranks, nodes, (unsigned long long)m.messages[0], (unsigned long long)m.bytes[0],
           (unsigned long long)m.messages[1], (unsigned long long)m.bytes[1]);
    }
}

/* What ranks say that cannot agree, and the sentence that all of them get. */
struct dispute {
    int ranks, nodes, odd;
};

static int dispute(pld_runtime *rt, void *context)
{
    const struct dispute *d = context;
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_runtime_rank(rt);
    const int odd = rank == d->odd;
    size_t sends[INPROC_MAX_RANKS], takes[INPROC_MAX_RANKS];
    float x[INPROC_MAX_RANKS] = {0}, y[INPROC_MAX_RANKS];
    char who[80];

    CHECK(rt, pld_broadcast(world, x, 2, PLD_F32, odd ? 1 : 0, NULL) == PLD_ERR_MISMATCH);
    (void)snprintf(who, sizeof(who), "rank %d: broadcast", d->odd);
    CHECK(rt, strstr(pld_last_error(), who) != NULL);
    CHECK(rt, strstr(pld_last_error(), "from rank 1") != NULL);
    CHECK(rt, strstr(pld_last_error(), "from rank 0") != NULL);
    CHECK(rt, pld_barrier(world, NULL) == 0);
    (void)pldi_fail(PLD_ERR_IO, "no room for %d", rank);
    CHECK(rt, pld_agree(world, rank >= d->odd ? PLD_ERR_IO : 0) == PLD_ERR_IO);
    (void)snprintf(who, sizeof(who), "rank %d: no room for %d", d->odd, d->odd);
    CHECK(rt, strcmp(pld_last_error(), who) == 0);
    for (int r = 0; r < d->ranks; r++)
        sends[r] = takes[r] = 1;
    sends[1] += (size_t)odd;
    CHECK(rt, pld_alltoall_v(world, x, sends, y, takes, PLD_F32, NULL) == PLD_ERR_MISMATCH);
    (void)snprintf(who, sizeof(who), "rank %d sends 2 elements to rank 1, which expects 1", d->odd);
    CHECK(rt, strstr(pld_last_error(), who) != NULL);
    sends[1] = 1;
    CHECK(rt, pld_alltoall_v(world, x, sends, y, takes, PLD_F32, NULL) == 0);
    takes[rank] += (size_t)(rank == 0);
    CHECK(rt, pld_allgather_v(world, x, y, takes, PLD_F32, NULL) ==
                  (d->ranks > 1 ? PLD_ERR_MISMATCH : 0));
    CHECK(rt, strstr(pld_last_error(), "count 0 is ") != NULL);
    return 0;
}

static void test_disputes(void)
{
    static const struct dispute cases[] = {{4, 2, 1}, {4, 2, 3},  {6, 3, 2},
                                           {5, 2, 4}, {12, 2, 7}, {18, 9, 17}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct dispute d = cases[i];
        char nodes[16];

        (void)snprintf(nodes, sizeof(nodes), "%d", d.nodes);
        (void)setenv("POLDER_FAKE_NODES", nodes, 1);
        ok(inproc_run(d.ranks, dispute, &d) == 0,
           "rank %d of %d on %d nodes does something else: all are told what", d.odd, d.ranks,
           d.nodes);
    }
}

/* Rules that are wrong are so for all, and the sentence says what would be done. */
static int explain(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    char text[256];

    (void)context;
    CHECK(rt, pld_group_set_tuning(world, "allreduce * * * 0 * -> rong 1K") == PLD_ERR_ARG);
    CHECK(rt, strstr(pld_last_error(), "rank 0: rules:1: \"rong\"") != NULL);
    CHECK(rt, pld_coll_explain(world, "allreduce", 1 << 22, PLD_F32, text, sizeof(text)) == 0);
    CHECK(rt, strstr(text, "nodes: shared memory inside, flat between 2 nodes, 3 ranks") == text);
    CHECK(rt, pld_group_set_tuning(world, "* * * * 0 * -> ring 32K") == 0);
    CHECK(rt, pld_coll_explain(world, "allreduce", 1 << 22, PLD_F32, text, sizeof(text)) == 0);
    CHECK(rt, strcmp(text, "ring, 6 ranks, chunks of 32768 bytes") == 0);
    CHECK(rt, pld_group_set_tuning(world, NULL) == 0);
    CHECK(rt, pld_coll_explain(world, "allreduce", 8, PLD_F32, text, sizeof(text)) == 0);
    CHECK(rt, strcmp(text, "with the openings, 6 ranks") == 0);
    CHECK(rt, pld_coll_explain(world, "allreduced", 8, PLD_F32, text, 8) == PLD_ERR_ARG);
    return 0;
}

int main(void)
{
    test_maps();
    test_algorithms();
    test_faults();
    test_crossing();
    test_meeting();
    test_disputes();
    (void)setenv("POLDER_FAKE_NODES", "2", 1);
    ok(inproc_run(6, explain, NULL) == 0, "what would be done is said, and wrong rules refused");
    return tap_done();
}
