/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Operations of ranks that share memory: with every mixture of buffers that are and
 * are not in it, around every size at which something changes, and with ranks that
 * differ or leave.  Contributions are small integers, so that the expected results
 * are plain integer arithmetic whatever the dtype.
 */

#include <polder/polder.h>

#include <stdlib.h>
#include <time.h>

#include "coll/coll_shm.h"
#include "inproc/inproc.h"
#include "tap.h"

enum { PERIOD = 577, EDGE = 64 };

/* Which ranks have their buffers in shared memory. */
enum mixture { ALL, NONE, SEND_ONLY, RECV_ONLY, FIRST_ONLY, ALL_BUT_LAST, MIXTURES };
static const char *const mixtures[] = {"all",          "none",        "send only",
                                       "receive only", "rank 0 only", "all but the last"};

struct job {
    pld_dtype dtype;
    pld_op op;
    enum mixture mixture;
    size_t count;
    int shift; /* elements by which buffers are off the page */
};

struct buffers {
    pld_runtime *rt;
    char *send, *recv; /* [size * count] */
    char *bases[2];
    int shared[2];
};

/* 0..4, so that products of five stay below 2^11 where all are exact */
static int value(int rank, size_t i)
{
    return (int)((i * 3 + (size_t)rank * 7 + i / PERIOD) % 5);
}

static void store(pld_dtype dtype, char *at, int v)
{
    static const uint16_t f16[5] = {0, 0x3c00, 0x4000, 0x4200, 0x4400};
    static const uint16_t bf16[5] = {0, 0x3f80, 0x4000, 0x4040, 0x4080};
    const double f64 = v;
    const float f32 = (float)v;
    const int64_t i64 = v; /* little endian: the low bytes come first */

    if (dtype == PLD_F64)
        memcpy(at, &f64, 8);
    else if (dtype == PLD_F32)
        memcpy(at, &f32, 4);
    else if (dtype == PLD_F16)
        memcpy(at, &f16[v], 2);
    else if (dtype == PLD_BF16)
        memcpy(at, &bf16[v], 2);
    else
        memcpy(at, &i64, pld_dtype_bytes(dtype));
}

static double load(pld_dtype dtype, const char *at)
{
    uint16_t half = 0;
    float f32;
    double f64;
    int64_t i64 = 0;

    if (dtype == PLD_F64) {
        memcpy(&f64, at, 8);
        return f64;
    }
    if (dtype == PLD_F32 || dtype == PLD_BF16) {
        uint32_t bits = 0;

        memcpy((char *)&bits + (dtype == PLD_BF16 ? 2 : 0), at, pld_dtype_bytes(dtype));
        memcpy(&f32, &bits, 4);
        return (double)f32;
    }
    if (dtype == PLD_F16) {
        memcpy(&half, at, 2);
        return half == 0 ? 0 : (1 + (half & 1023) / 1024.0) * (double)(1 << (half >> 10)) / 32768;
    }
    memcpy(&i64, at, pld_dtype_bytes(dtype));
    return (double)i64;
}

static int expected(pld_op op, int size, size_t i)
{
    int acc = value(0, i);

    for (int r = 1; r < size; r++) {
        const int v = value(r, i);

        if (op == PLD_MAX)
            acc = v > acc ? v : acc;
        else if (op == PLD_MIN)
            acc = v < acc ? v : acc;
        else
            acc = op == PLD_PROD ? acc * v : acc + v;
    }
    return acc;
}

/* What a dtype makes of a sum or product of small integers. */
static double rounded(pld_dtype dtype, int v)
{
    int bits = 0;

    if (dtype == PLD_I8)
        return (int8_t)v;
    if (dtype == PLD_U8)
        return (uint8_t)v;
    while (dtype == PLD_BF16 && v >> bits >= 256)
        bits++;
    if (bits > 0) {
        const int rest = v & ((1 << bits) - 1);
        const int half = 1 << (bits - 1);

        v = v >> bits << bits;
        v += rest > half || (rest == half && v >> bits & 1) ? 1 << bits : 0;
    }
    return v;
}

static void fill(const struct job *job, char *to, size_t count, int rank, size_t first)
{
    const size_t bytes = pld_dtype_bytes(job->dtype);

    for (size_t i = 0; i < count; i++)
        store(job->dtype, to + i * bytes, value(rank, first + i));
}

static int check(const struct job *job, const char *what, const char *got, size_t count, int size,
                 size_t first)
{
    const size_t bytes = pld_dtype_bytes(job->dtype);

    for (size_t i = 0; i < count; i++) {
        const double want = rounded(job->dtype, expected(job->op, size, first + i));

        if (load(job->dtype, got + i * bytes) != want) {
            printf("# %s %s[%zu] op %d, %d ranks, %s: [%zu] is %g, not %g\n", what,
                   pld_dtype_name(job->dtype), job->count, (int)job->op, size,
                   mixtures[job->mixture], first + i, load(job->dtype, got + i * bytes), want);
            return -1;
        }
    }
    return 0;
}

static int in_shared(const struct job *job, int rank, int size, int recv)
{
    switch (job->mixture) {
    case NONE:
        return 0;
    case SEND_ONLY:
        return !recv;
    case RECV_ONLY:
        return recv;
    case FIRST_ONLY:
        return rank == 0;
    case ALL_BUT_LAST:
        return rank != size - 1;
    case ALL:
    case MIXTURES:
        break;
    }
    return 1;
}

/* Two buffers of the job, with bytes of 0x5a before and after each. */
static int get_buffers(pld_runtime *rt, const struct job *job, struct buffers *b)
{
    const int size = pld_runtime_size(rt);
    const size_t bytes = pld_dtype_bytes(job->dtype);
    const size_t n = (job->count * (size_t)size + (size_t)job->shift) * bytes + 2 * EDGE;

    b->rt = rt;
    for (int i = 0; i < 2; i++) {
        void *base = NULL;

        b->shared[i] = in_shared(job, pld_runtime_rank(rt), size, i);
        if (!b->shared[i])
            base = malloc(n);
        else if (pld_mem_alloc(rt, n, &base) < 0)
            return -1;
        memset(base, 0x5a, n);
        b->bases[i] = base;
        (i == 0 ? (b->send = b->bases[i]) : (b->recv = b->bases[i]));
    }
    b->send += EDGE + (size_t)job->shift * bytes;
    b->recv += EDGE + (size_t)job->shift * bytes;
    return 0;
}

static void free_buffers(struct buffers *b)
{
    for (int i = 0; i < 2; i++) {
        if (b->shared[i])
            pld_mem_free(b->rt, b->bases[i]);
        else
            free(b->bases[i]);
    }
}

static int edges_intact(const struct buffers *b, const struct job *job)
{
    const size_t n = job->count * (size_t)pld_runtime_size(b->rt) * pld_dtype_bytes(job->dtype);

    for (int i = 0; i < EDGE; i++) {
        if (b->send[-i - 1] != 0x5a || b->recv[-i - 1] != 0x5a || b->send[n + (size_t)i] != 0x5a ||
            b->recv[n + (size_t)i] != 0x5a)
            return 0;
    }
    return 1;
}

static int allreduce(const struct job *job, const struct buffers *b, char *recv)
{
    pld_group *world = pld_runtime_world(b->rt);

    fill(job, b->send, job->count, pld_runtime_rank(b->rt), 0);
    CHECK(b->rt, pld_allreduce(world, b->send, recv, job->count, job->dtype, job->op, NULL) == 0);
    return check(job, "allreduce", recv, job->count, pld_runtime_size(b->rt), 0);
}

static int reduce_scatter(const struct job *job, const struct buffers *b, int in_place)
{
    pld_group *world = pld_runtime_world(b->rt);
    const size_t rank = (size_t)pld_runtime_rank(b->rt);
    const size_t size = (size_t)pld_runtime_size(b->rt);
    char *recv = in_place ? b->send + rank * job->count * pld_dtype_bytes(job->dtype) : b->recv;

    fill(job, b->send, job->count * size, (int)rank, 0);
    CHECK(b->rt,
          pld_reduce_scatter(world, b->send, recv, job->count, job->dtype, job->op, NULL) == 0);
    return check(job, "reduce_scatter", recv, job->count, (int)size, rank * job->count);
}

/* Rank r contributes what rank 0 has at r*count. */
static int allgather(const struct job *job, const struct buffers *b, int in_place)
{
    pld_group *world = pld_runtime_world(b->rt);
    const size_t first = (size_t)pld_runtime_rank(b->rt) * job->count;
    const size_t size = (size_t)pld_runtime_size(b->rt);
    char *send = in_place ? b->recv + first * pld_dtype_bytes(job->dtype) : b->send;

    memset(b->recv, 0x11, size * job->count * pld_dtype_bytes(job->dtype));
    fill(job, send, job->count, 0, first);
    CHECK(b->rt, pld_allgather(world, send, b->recv, job->count, job->dtype, NULL) == 0);
    return check(job, "allgather", b->recv, job->count * size, 1, 0);
}

static int broadcast(const struct job *job, const struct buffers *b, int root)
{
    pld_group *world = pld_runtime_world(b->rt);

    memset(b->recv, 0x11, job->count * pld_dtype_bytes(job->dtype));
    if (pld_runtime_rank(b->rt) == root)
        fill(job, b->recv, job->count, 0, 0);
    CHECK(b->rt, pld_broadcast(world, b->recv, job->count, job->dtype, root, NULL) == 0);
    return check(job, "broadcast", b->recv, job->count, 1, 0);
}

static int operations(pld_runtime *rt, const struct job *job)
{
    struct buffers b = {0};
    int rc = get_buffers(rt, job, &b);

    rc = rc < 0 ? rc : allreduce(job, &b, b.recv);
    rc = rc < 0 ? rc : allreduce(job, &b, b.send);
    for (int in_place = 0; in_place < 2; in_place++) {
        rc = rc < 0 ? rc : reduce_scatter(job, &b, in_place);
        if (job->op == PLD_SUM)
            rc = rc < 0 ? rc : allgather(job, &b, in_place);
    }
    if (job->op == PLD_SUM) {
        rc = rc < 0 ? rc : broadcast(job, &b, 0);
        rc = rc < 0 ? rc : broadcast(job, &b, pld_runtime_size(rt) - 1);
    }
    if (rc == 0 && !edges_intact(&b, job)) {
        printf("# something wrote around a buffer of %zu elements\n", job->count);
        rc = -1;
    }
    free_buffers(&b);
    return rc;
}

/* Every operator and dtype, just above what arrives with the rank. */
static int every_type(pld_runtime *rt, void *context)
{
    struct job job = *(const struct job *)context;

    for (int n = 0; n < 9 * 5; n++) {
        job.dtype = (pld_dtype)(n % 9);
        job.op = (pld_op)(n / 9);
        job.count = PLDI_TEAM_SMALL / pld_dtype_bytes(job.dtype) + 65;
        if (job.op == PLD_AVG)
            continue;
        if (operations(rt, &job) != 0)
            return -1;
    }
    return 0;
}

static int every_size(pld_runtime *rt, void *context)
{
    struct job job = *(const struct job *)context;
    const size_t p = (size_t)pld_runtime_size(rt);
    const size_t bytes = pld_dtype_bytes(job.dtype);
    const size_t small = PLDI_TEAM_SMALL / bytes;
    const size_t piece = PLDI_TEAM_SLOT / p / PLDI_TEAM_PIECE_MIN * PLDI_TEAM_PIECE_MIN / bytes;
    const size_t counts[] = {0,
                             1,
                             3,
                             PLDI_TEAM_INLINE / bytes,
                             63,
                             64,
                             65,
                             PLDI_TEAM_INLINE / bytes + 1,
                             small - 1,
                             small,
                             small + 1,
                             small / p + 1,
                             piece - 1,
                             piece,
                             piece + 1,
                             piece * p,
                             piece * p + 1,
                             piece * 2 * p + 65,
                             PLDI_TEAM_SLOT / bytes * 4 + 3};

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        job.count = counts[i];
        job.shift = (int)(i % 3);
        if (operations(rt, &job) != 0)
            return -1;
    }
    return 0;
}

static void test_results(void)
{
    for (int m = 0; m < MIXTURES; m++) {
        struct job job = {.mixture = (enum mixture)m};

        ok(inproc_run(2 + m % 2, every_type, &job) == 0,
           "%d ranks, every dtype and operator; shared buffers: %s", 2 + m % 2, mixtures[m]);
    }
    for (int ranks = 1; ranks <= 5; ranks++) {
        for (int m = 0; m < MIXTURES; m++) {
            struct job job = {.mixture = (enum mixture)m, .op = PLD_SUM, .dtype = PLD_F32};

            if (ranks % 2 == 0 && ranks + m > 6)
                continue;
            job.dtype = (pld_dtype)((ranks + m) % 9);
            ok(inproc_run(ranks, every_size, &job) == 0, "%d ranks, %s, every size; shared: %s",
               ranks, pld_dtype_name(job.dtype), mixtures[m]);
        }
    }
}

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

/* Rank 1 leaves after some operations; the others finish those, and then hear of it. */
static int leaves(pld_runtime *rt, void *context)
{
    const size_t count = *(const size_t *)context;
    pld_group *world = pld_runtime_world(rt);
    int *v = calloc(count, sizeof(*v));
    struct timespec before, after;
    int rc;

    for (int i = 0; i < 3; i++)
        CHECK(rt, pld_broadcast(world, v, count, PLD_I32, 1, NULL) == 0);
    if (pld_runtime_rank(rt) != 1) {
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

int main(void)
{
    size_t few = 3;
    size_t many = 300000;

    test_paths();
    test_results();
    ok(inproc_run(5, groups, NULL) == 0, "groups made and given up, in turn with the world");
    ok(inproc_run(3, requests, NULL) == 0, "requests of two groups, in any order");
    test_differ();
    ok(inproc_run(4, leaves, &few) == 0, "who leaves after a small operation is reported");
    ok(inproc_run(4, leaves, &many) == 0, "who leaves after a large operation is reported");
    ok(inproc_run(2, memory, NULL) == 0, "buffers come and go");
    return tap_done();
}
