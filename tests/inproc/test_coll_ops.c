/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Every operation, operator and dtype, in and out of place, around every size at
 * which something changes, by all ways: buffers in shared memory, slots, messages.
 * Chunks are made small, so that a few of them are little data.
 */

#include <polder/polder.h>

#include <stdlib.h>

#include "coll/coll_shm_levels.h"
#include "coll_pattern.h"
#include "inproc/inproc.h"
#include "tap.h"

/* By messages, or which ranks have their buffers in shared memory. */
enum way { DIRECT, SLOTS, MESSAGES, NODES, SEND_ONLY, RECV_ONLY, FIRST_ONLY, ALL_BUT_LAST, WAYS };
static const char *const ways[] = {"shared buffers",
                                   "slots",
                                   "messages",
                                   "two nodes",
                                   "only send buffers shared",
                                   "only receive buffers",
                                   "only rank 0's buffers",
                                   "all but the last rank's"};

enum { PIECE = 20 << 10, EDGE = 64, OPERATORS = 6, SIZES = 12, EXACT_RANKS = 5, MAX_RANKS = 16 };
_Static_assert((int)PIECE > (int)PLDI_SMALL_BYTES && (int)PIECE > (int)PLDI_TEAM_SMALL,
               "a chunk is larger than what is small");

/* The last is a sum with a factor. */
static const pld_op operators[OPERATORS] = {PLD_SUM, PLD_AVG, PLD_MAX, PLD_MIN, PLD_PROD, PLD_SUM};
static const char *const op_names[OPERATORS] = {"sum", "avg", "max", "min", "prod", "scaled sum"};

struct job {
    enum way way;
    int ranks;
    int numas; /* in two levels of shared memory, of so many NUMA nodes; 0: as it comes */
    /* Made by the main thread for all ranks. */
    char *pattern[9];
    char *reduced[9][OPERATORS];
};

/* One case of a rank. */
struct test {
    pld_runtime *rt;
    pld_group *world;
    const struct job *job;
    char *send, *recv;
    char *bases[2];
    size_t room;
    int rank, size;
    size_t counts[MAX_RANKS], counts_in[MAX_RANKS];

    pld_dtype dtype;
    size_t bytes; /* of an element */
    int op;       /* index of operators */
    int in_place;
    size_t count;
    const pld_coll_opts *opts;
};

static size_t max_elements(const struct job *job, pld_dtype dtype)
{
    return (size_t)job->ranks * (3 * PIECE / pld_dtype_bytes(dtype) + 64);
}

static double factor(int op, int ranks)
{
    return op == 1 ? 2 : op == 5 ? 0.5 : 1 + 0 * ranks;
}

static int is_floating(pld_dtype dtype)
{
    return dtype == PLD_F64 || dtype == PLD_F32 || dtype == PLD_F16 || dtype == PLD_BF16;
}

static void make_job(struct job *job)
{
    for (int d = 0; d < 9; d++) {
        const pld_dtype dtype = (pld_dtype)d;
        const size_t bytes = pld_dtype_bytes(dtype);
        const size_t n = max_elements(job, dtype);

        job->pattern[d] = malloc((n + PATTERN_SPARE) * bytes);
        pattern_fill(dtype, job->pattern[d], n);
        for (int o = 0; o < OPERATORS; o++) {
            job->reduced[d][o] = malloc(n * bytes);
            for (size_t i = 0; i < n; i++)
                pattern_store(dtype, job->reduced[d][o] + i * bytes,
                              pattern_reduced(operators[o], job->ranks, i, factor(o, job->ranks)));
        }
    }
}

static void free_job(struct job *job)
{
    for (int d = 0; d < 9; d++) {
        free(job->pattern[d]);
        for (int o = 0; o < OPERATORS; o++)
            free(job->reduced[d][o]);
    }
}

static int in_shared(const struct test *t, int side)
{
    switch (t->job->way) {
    case SLOTS:
    case MESSAGES:
        return 0;
    case SEND_ONLY:
        return side == 0;
    case RECV_ONLY:
        return side == 1;
    case FIRST_ONLY:
        return t->rank == 0;
    case ALL_BUT_LAST:
        return t->rank != t->size - 1;
    case DIRECT:
    case NODES:
    case WAYS:
        break;
    }
    return 1;
}

static int open_test(pld_runtime *rt, const struct job *job, struct test *t)
{
    memset(t, 0, sizeof(*t));
    t->rt = rt;
    t->job = job;
    t->world = pld_runtime_world(rt);
    t->rank = pld_runtime_rank(rt);
    t->size = pld_runtime_size(rt);
    t->room = max_elements(job, PLD_U8) + 8 * 64 * (size_t)t->size;
    for (int i = 0; i < 2; i++) {
        void *base = NULL;

        if (in_shared(t, i))
            CHECK(rt, pld_mem_alloc(rt, t->room + 2 * EDGE, &base) == 0);
        else
            base = malloc(t->room + 2 * EDGE);
        memset(base, 0x5a, t->room + 2 * EDGE);
        t->bases[i] = base;
    }
    CHECK(rt,
          (t->world->team != NULL) == (job->way != MESSAGES && job->way != NODES && t->size > 1));
    /* Nothing is under way: all ranks may change what they agree on. */
    CHECK(rt, pld_barrier(t->world, NULL) == 0);
    t->world->chunk_bytes = PIECE;
    if (t->world->team != NULL && (size_t)t->size * PIECE < t->world->team->slot_bytes)
        t->world->team->slot_bytes = (size_t)t->size * PIECE;
    if (job->numas > 0 && t->world->team != NULL) {
        CHECK(rt, t->world->team->levels->map->n >= job->numas);
        CHECK(rt, pld_group_set_tuning(t->world, "* * 1 * 0 * -> numa 16K") == 0);
    }
    return 0;
}

static int close_test(struct test *t)
{
    for (int i = 0; i < 2; i++) {
        for (int e = 0; e < EDGE; e++)
            CHECK(t->rt, t->bases[i][e] == 0x5a && t->bases[i][EDGE + t->room + (size_t)e] == 0x5a);
        if (in_shared(t, i))
            pld_mem_free(t->rt, t->bases[i]);
        else
            free(t->bases[i]);
    }
    return 0;
}

static int report(const struct test *t, const char *what, int rc)
{
    if (rc != 0)
        printf("# rank %d of %d: %s %s[%zu] %s, %s, %s: %s\n", t->rank, t->size, what,
               pld_dtype_name(t->dtype), t->count, op_names[t->op],
               t->in_place ? "in place" : "out of place", ways[t->job->way],
               rc < 0 ? pld_last_error() : "wrong result");
    return rc != 0 ? -1 : 0;
}

/* What rank s has for rank d; of reductions its vector. */
static const char *block(const struct test *t, int s, int d)
{
    const size_t first = (size_t)s * PATTERN_BY_SENDER + (size_t)d * PATTERN_BY_TAKER;

    return t->job->pattern[t->dtype] + first * t->bytes;
}

static const char *sums(const struct test *t, size_t first)
{
    return t->job->reduced[t->dtype][t->op] + first * t->bytes;
}

/* Buffers are as large as they must be to the byte: what is behind them must stay. */
static int behind(const char *buffer, size_t bytes)
{
    for (size_t i = 0; i < 16; i++) {
        if (buffer[bytes + i] != 0x11)
            return 1;
    }
    return 0;
}

static void clear(const struct test *t, size_t elements)
{
    memset(t->send, 0x11, elements * t->bytes + 16);
    memset(t->recv, 0x11, elements * t->bytes + 16);
}

static int test_allreduce(struct test *t)
{
    char *recv = t->in_place ? t->send : t->recv;
    const size_t n = t->count * t->bytes;
    int rc;

    clear(t, t->count);
    memcpy(t->send, block(t, t->rank, 0), n);
    rc = pld_allreduce(t->world, t->send, recv, t->count, t->dtype, operators[t->op], t->opts);
    if (rc == 0)
        rc = memcmp(recv, sums(t, 0), n) != 0 || behind(recv, n);
    return report(t, "allreduce", rc);
}

static int test_reduce(struct test *t)
{
    const int root = (int)(t->count + (size_t)t->op) % t->size;
    const size_t n = t->count * t->bytes;
    char *recv = t->in_place ? t->send : t->recv;
    int rc;

    clear(t, t->count);
    memcpy(t->send, block(t, t->rank, 0), n);
    rc = pld_reduce(t->world, t->send, t->rank == root ? recv : NULL, t->count, t->dtype,
                    operators[t->op], root, t->opts);
    if (rc == 0 && t->rank == root)
        rc = memcmp(recv, sums(t, 0), n) != 0 || behind(recv, n);
    if (rc == 0 && t->rank != root)
        rc = memcmp(t->send, block(t, t->rank, 0), n) != 0 || behind(t->recv, 0);
    return report(t, "reduce", rc);
}

/* Blocks of different length, some of them empty. */
static void vary_counts(struct test *t)
{
    for (int r = 0; r < t->size; r++)
        t->counts[r] = r % 3 == 1 ? 0 : t->count + (size_t)r;
}

static size_t before(const size_t *counts, int rank)
{
    size_t n = 0;

    for (int r = 0; r < rank; r++)
        n += counts[r];
    return n;
}

static int test_reduce_scatter(struct test *t, int by_rank)
{
    size_t first, all, n;
    char *recv;
    int rc;

    for (int r = 0; r < t->size; r++)
        t->counts[r] = t->count;
    if (by_rank)
        vary_counts(t);
    first = before(t->counts, t->rank);
    all = before(t->counts, t->size);
    n = t->counts[t->rank] * t->bytes;
    recv = t->in_place ? t->send + first * t->bytes : t->recv;
    clear(t, all);
    memcpy(t->send, block(t, t->rank, 0), all * t->bytes);
    if (by_rank)
        rc = pld_reduce_scatter_v(t->world, t->send, recv, t->counts, t->dtype, operators[t->op],
                                  t->opts);
    else
        rc = pld_reduce_scatter(t->world, t->send, recv, t->count, t->dtype, operators[t->op],
                                t->opts);
    if (rc == 0)
        rc = memcmp(recv, sums(t, first), n) != 0 || (!t->in_place && behind(recv, n));
    return report(t, by_rank ? "reduce_scatter_v" : "reduce_scatter", rc);
}

/* The concatenation of what ranks have for one. */
static int is_gathered(const struct test *t, const char *recv, const size_t *counts, int taker)
{
    size_t at = 0;

    for (int s = 0; s < t->size; s++) {
        if (memcmp(recv + at, block(t, s, taker), counts[s] * t->bytes) != 0)
            return 0;
        at += counts[s] * t->bytes;
    }
    return !behind(recv, at);
}

static int test_allgather(struct test *t, int by_rank)
{
    size_t first;
    char *send;
    int rc;

    for (int r = 0; r < t->size; r++)
        t->counts[r] = t->count;
    if (by_rank)
        vary_counts(t);
    first = before(t->counts, t->rank) * t->bytes;
    send = t->in_place ? t->recv + first : t->send;
    clear(t, before(t->counts, t->size));
    memcpy(send, block(t, t->rank, 0), t->counts[t->rank] * t->bytes);
    if (by_rank)
        rc = pld_allgather_v(t->world, send, t->recv, t->counts, t->dtype, t->opts);
    else
        rc = pld_allgather(t->world, send, t->recv, t->count, t->dtype, t->opts);
    if (rc == 0)
        rc = !is_gathered(t, t->recv, t->counts, 0);
    return report(t, by_rank ? "allgather_v" : "allgather", rc);
}

static int test_gather(struct test *t, int by_rank)
{
    const int root = (int)(t->count + (size_t)t->dtype) % t->size;
    size_t first;
    char *send, *recv;
    int rc;

    for (int r = 0; r < t->size; r++)
        t->counts[r] = t->count;
    if (by_rank)
        vary_counts(t);
    first = before(t->counts, t->rank) * t->bytes;
    send = t->in_place && t->rank == root ? t->recv + first : t->send;
    recv = t->rank == root ? t->recv : NULL;
    clear(t, before(t->counts, t->size));
    memcpy(send, block(t, t->rank, root), t->counts[t->rank] * t->bytes);
    if (by_rank)
        rc = pld_gather_v(t->world, send, recv, t->counts, t->dtype, root, t->opts);
    else
        rc = pld_gather(t->world, send, recv, t->count, t->dtype, root, t->opts);
    if (rc == 0)
        rc = t->rank == root ? !is_gathered(t, t->recv, t->counts, root) : behind(t->recv, 0);
    return report(t, by_rank ? "gather_v" : "gather", rc);
}

static int test_scatter(struct test *t, int by_rank)
{
    const int root = (int)(t->count + (size_t)t->dtype) % t->size;
    char *recv = t->recv;
    size_t at = 0;
    size_t n;
    int rc;

    for (int r = 0; r < t->size; r++)
        t->counts[r] = t->count;
    if (by_rank)
        vary_counts(t);
    n = t->counts[t->rank] * t->bytes;
    clear(t, before(t->counts, t->size));
    for (int d = 0; d < t->size && t->rank == root; d++) {
        memcpy(t->send + at, block(t, root, d), t->counts[d] * t->bytes);
        if (t->in_place && d == root)
            recv = t->send + at;
        at += t->counts[d] * t->bytes;
    }
    if (by_rank)
        rc = pld_scatter_v(t->world, t->rank == root ? t->send : NULL, recv, t->counts, t->dtype,
                           root, t->opts);
    else
        rc = pld_scatter(t->world, t->rank == root ? t->send : NULL, recv, t->count, t->dtype, root,
                         t->opts);
    if (rc == 0)
        rc = memcmp(recv, block(t, root, t->rank), n) != 0 || (recv == t->recv && behind(recv, n));
    return report(t, by_rank ? "scatter_v" : "scatter", rc);
}

static size_t pair_count(const struct test *t, int s, int d)
{
    return (s + 2 * d) % 4 == 1 ? 0 : t->count + (size_t)(3 * s + d);
}

static int test_alltoall(struct test *t, int by_rank)
{
    char *recv = t->in_place ? t->send : t->recv;
    size_t at = 0;
    int rc;

    for (int r = 0; r < t->size; r++) {
        t->counts[r] = by_rank ? pair_count(t, t->rank, r) : t->count;
        t->counts_in[r] = by_rank ? pair_count(t, r, t->rank) : t->count;
    }
    clear(t, before(t->counts_in, t->size));
    for (int d = 0; d < t->size; d++) {
        memcpy(t->send + at, block(t, t->rank, d), t->counts[d] * t->bytes);
        at += t->counts[d] * t->bytes;
    }
    if (by_rank)
        rc = pld_alltoall_v(t->world, t->send, t->counts, recv, t->counts_in, t->dtype, t->opts);
    else
        rc = pld_alltoall(t->world, t->send, recv, t->count, t->dtype, t->opts);
    if (rc == 0)
        rc = !is_gathered(t, recv, t->counts_in, t->rank);
    return report(t, by_rank ? "alltoall_v" : "alltoall", rc);
}

static int test_broadcast(struct test *t)
{
    const int root = (int)(t->count + (size_t)t->dtype) % t->size;
    const size_t n = t->count * t->bytes;
    int rc;

    clear(t, t->count);
    if (t->rank == root)
        memcpy(t->recv, block(t, root, 0), n);
    rc = pld_broadcast(t->world, t->recv, t->count, t->dtype, root, t->opts);
    if (rc == 0)
        rc = memcmp(t->recv, block(t, root, 0), n) != 0 || behind(t->recv, n);
    return report(t, "broadcast", rc);
}

static int reductions(struct test *t, size_t vector, size_t slice)
{
    const pld_coll_opts average = {PLD_OPTS(pld_coll_opts), .scale = 2.0 * t->size};
    const pld_coll_opts half = {PLD_OPTS(pld_coll_opts), .scale = 0.5};
    int rc;

    t->opts = t->op == 1 ? &average : t->op == 5 ? &half : NULL;
    t->count = vector;
    rc = test_allreduce(t) | test_reduce(t);
    t->count = slice;
    rc |= test_reduce_scatter(t, 0) | test_reduce_scatter(t, 1);
    t->opts = NULL;
    return rc;
}

static int movements(struct test *t, size_t vector, size_t slice)
{
    int rc = 0;

    t->count = vector;
    rc |= t->in_place ? test_broadcast(t) : 0;
    t->count = slice;
    for (int by_rank = 0; by_rank < 2; by_rank++) {
        rc |= test_allgather(t, by_rank) | test_gather(t, by_rank) | test_scatter(t, by_rank);
        rc |= t->in_place && by_rank ? 0 : test_alltoall(t, by_rank);
    }
    return rc;
}

static int everything(struct test *t, size_t i)
{
    const size_t chunk = PIECE / t->bytes;
    const size_t small = PLDI_SMALL_BYTES / t->bytes;
    const size_t p = (size_t)t->size;
    const size_t slices[SIZES] = {0,     1,         3,         63,    64,        65,
                                  small, small + 1, chunk - 1, chunk, chunk + 1, 3 * chunk + 5};
    const size_t vectors[SIZES] = {0,
                                   1,
                                   3,
                                   63,
                                   64,
                                   65,
                                   small,
                                   small + 1,
                                   p * chunk - 1,
                                   p * chunk,
                                   p * chunk + 1,
                                   3 * p * chunk + 5};
    int rc = 0;

    for (t->in_place = 0; t->in_place < 2; t->in_place++) {
        t->op = 0;
        rc |= movements(t, vectors[i], slices[i]);
        for (t->op = 0; t->op < OPERATORS; t->op++) {
            if ((t->op == 1 || t->op == 5) && !is_floating(t->dtype))
                continue;
            /* Each way has each operator and dtype, all together have them with every size. */
            if (((size_t)t->op + i + (size_t)t->job->way) % 3 != 0)
                continue;
            /* A product of more is not exact in half precision. */
            if (operators[t->op] == PLD_PROD && t->size > EXACT_RANKS)
                continue;
            rc |= reductions(t, vectors[i], slices[i]);
        }
    }
    return rc;
}

/* Many ranks try every path, but not with every dtype; few of two levels the longest size with
 * all of them. */
static int is_tried(const struct job *job, size_t size, size_t dtype)
{
    const int all = job->ranks <= EXACT_RANKS && job->numas == 0;

    if (job->numas > 0 && size == SIZES - 1 && job->ranks < 10)
        return 1;
    return (all && !SLOW) || dtype == (size + (size_t)job->ranks) % 9;
}

static int every_case(pld_runtime *rt, void *context)
{
    const struct job *job = context;
    struct test t;

    CHECK(rt, open_test(rt, job, &t) == 0);
    for (size_t n = 0; n < 9 * SIZES; n++) {
        if (!is_tried(job, n / 9, n % 9))
            continue;
        t.dtype = (pld_dtype)(n % 9);
        t.bytes = pld_dtype_bytes(t.dtype);
        /* Not always at the beginning of a line. */
        t.send = t.bases[0] + EDGE + n / 9 % 3 * t.bytes;
        t.recv = t.bases[1] + EDGE + n / 9 % 2 * t.bytes;
        CHECK(rt, everything(&t, n / 9) == 0);
    }
    return close_test(&t);
}

static void set_way(enum way way)
{
    (void)(way == MESSAGES ? setenv("POLDER_SHM", "0", 1) : unsetenv("POLDER_SHM"));
    (void)(way == NODES ? setenv("POLDER_FAKE_NODES", "2", 1) : unsetenv("POLDER_FAKE_NODES"));
}

static void run_ways(struct job *job, int end)
{
    for (int way = 0; way < end; way++) {
        job->way = (enum way)way;
        if ((job->numas > 0 && way == MESSAGES) || (way == NODES && job->ranks < 3))
            continue;
        set_way(job->way);
        ok(inproc_run(job->ranks, every_case, job) == 0,
           "every operation, operator, dtype and size: %d ranks, %s, NUMA nodes: %d", job->ranks,
           ways[way], job->numas);
    }
}

/* Groups of equal size and not, of NUMA nodes and of parts of one. */
static void test_levels(void)
{
    static const int cases[][2] = {{4, 2}, {9, 2}, {12, 3}, {16, 2}};
    char text[16];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct job job = {.ranks = cases[i][0], .numas = cases[i][1]};

        (void)snprintf(text, sizeof(text), "%d", job.numas);
        (void)setenv("POLDER_FAKE_NUMA", text, 1);
        make_job(&job);
        run_ways(&job, job.ranks == 9 ? WAYS : MESSAGES);
        free_job(&job);
    }
    (void)unsetenv("POLDER_FAKE_NUMA");
}

static void test_flat(void)
{
    static const int ranks_of[] = {1, 2, 3, 4, 5, 10};

    for (size_t i = 0; i < sizeof(ranks_of) / sizeof(ranks_of[0]); i++) {
        const int ranks = ranks_of[i];
        struct job job = {.ranks = ranks};
        const int few = ranks == 1 || ranks > EXACT_RANKS || (SLOW && ranks != 3);

        if (SLOW && ranks == 4)
            continue;
        make_job(&job);
        run_ways(&job, few ? NODES + 1 : WAYS);
        free_job(&job);
    }
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[2], "levels") == 0)
        test_levels();
    else
        test_flat();
    return tap_done();
}
