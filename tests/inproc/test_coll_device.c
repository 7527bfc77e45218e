/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Every operation on device memory, over NCCL and through pinned memory, against the same
 * operation on host memory, bit for bit.  Data come and go by copies that are under way in
 * the caller's stream while the operation is called: a missing event is wrong data.
 */

#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#include "device_support.h"
#include "tap.h"

enum kind {
    ALLREDUCE,
    REDUCE,
    REDUCE_SCATTER,
    REDUCE_SCATTER_V,
    ALLGATHER,
    ALLGATHER_V,
    BROADCAST,
    ALLTOALL,
    ALLTOALL_V,
    GATHER,
    GATHER_V,
    SCATTER,
    SCATTER_V,
    ALLREDUCE_LIST,
    REDUCE_SCATTER_LIST,
    ALLGATHER_LIST,
    BROADCAST_LIST,
    KINDS
};

static const char *const names[KINDS] = {
    "allreduce",      "reduce",        "reduce_scatter", "reduce_scatter_v", "allgather",
    "allgather_v",    "broadcast",     "alltoall",       "alltoall_v",       "gather",
    "gather_v",       "scatter",       "scatter_v",      "allreduce_list",   "reduce_scatter_list",
    "allgather_list", "broadcast_list"};

/* How the end is waited for. */
enum mode { PLAIN, WAIT, TEST, AFTER, MODES };

enum { ITEMS = 3, MOST = DEVICE_RANKS * 5003, GUARD = 64 };

struct trial {
    enum kind kind;
    enum mode mode;
    pld_dtype dtype;
    pld_op op;
    size_t count;
    int in_place, root;
    double scale;
};

/* Buffers of a rank: a and b on the host, as they begin and as they must become, and on the
 * device. */
struct buffers {
    size_t bytes;
    char *init[2], *want[2], *got[2], *device[2];
    pld_stream stream;
};

struct setting {
    const char *path;
    int exact; /* 1: sums of f32 and f64 must be of small whole numbers */
    int reproducible;
    int all_dtypes;
};

static int reduces(enum kind k)
{
    return k <= REDUCE_SCATTER_V || k == ALLREDUCE_LIST || k == REDUCE_SCATTER_LIST;
}

static int is_list(enum kind k)
{
    return k >= ALLREDUCE_LIST;
}

/* Counts that differ by rank; some are 0. */
static size_t count_of(size_t count, int r)
{
    return r == 1 ? 0 : count / (size_t)(r + 1) + (size_t)r;
}

/* Of what s sends to d. */
static size_t count_between(size_t count, int s, int d)
{
    return (s + d) % 3 == 1 ? 0 : count_of(count, s) + (size_t)d;
}

static void *shifted(char *base, size_t elements, pld_dtype dtype)
{
    return base + elements * pld_dtype_bytes(dtype);
}

/* send and recv of a trial; `base` are two buffers. */
static void place(const struct trial *t, int rank, char *const base[2], void **send, void **recv)
{
    size_t before = 0;

    *send = base[0];
    *recv = base[t->in_place ? 0 : 1];
    if (!t->in_place)
        return;
    for (int r = 0; r < rank; r++)
        before += t->kind == ALLGATHER_V || t->kind == GATHER_V || t->kind == REDUCE_SCATTER_V ||
                          t->kind == SCATTER_V
                      ? count_of(t->count, r)
                      : t->count;
    if (t->kind == ALLGATHER || t->kind == ALLGATHER_V ||
        ((t->kind == GATHER || t->kind == GATHER_V) && rank == t->root))
        *send = shifted(base[0], before, t->dtype);
    if (t->kind == REDUCE_SCATTER || t->kind == REDUCE_SCATTER_V ||
        ((t->kind == SCATTER || t->kind == SCATTER_V) && rank == t->root))
        *recv = shifted(base[0], before, t->dtype);
}

static int call_list(pld_group *g, const struct trial *t, char *const base[2],
                     const pld_coll_opts *o)
{
    const size_t size = (size_t)pld_group_size(g);
    pld_coll_item items[ITEMS];
    size_t at = 0;

    for (int i = 0; i < ITEMS; i++) {
        const size_t n = i == 1 ? 0 : t->count / (size_t)(i + 2);
        const int in_place = t->in_place && t->kind == ALLREDUCE_LIST;

        items[i].count = n;
        items[i].send = shifted(base[0], at, t->dtype);
        items[i].recv = shifted(base[in_place ? 0 : 1], at, t->dtype);
        at += t->kind == ALLREDUCE_LIST || t->kind == BROADCAST_LIST ? n + 1 : size * n + 1;
    }
    if (t->kind == ALLREDUCE_LIST)
        return pld_allreduce_list(g, items, ITEMS, t->dtype, t->op, o);
    if (t->kind == REDUCE_SCATTER_LIST)
        return pld_reduce_scatter_list(g, items, ITEMS, t->dtype, t->op, o);
    if (t->kind == ALLGATHER_LIST)
        return pld_allgather_list(g, items, ITEMS, t->dtype, o);
    return pld_broadcast_list(g, items, ITEMS, t->dtype, t->root, o);
}

static int call_by_rank(pld_group *g, const struct trial *t, void *s, void *r,
                        const pld_coll_opts *o)
{
    size_t counts[DEVICE_RANKS], others[DEVICE_RANKS];
    const int me = pld_group_rank(g);

    for (int p = 0; p < DEVICE_RANKS; p++) {
        counts[p] = t->kind == ALLTOALL_V ? count_between(t->count, me, p) : count_of(t->count, p);
        others[p] = count_between(t->count, p, me);
    }
    switch ((int)t->kind) {
    case REDUCE_SCATTER_V:
        return pld_reduce_scatter_v(g, s, r, counts, t->dtype, t->op, o);
    case ALLGATHER_V:
        return pld_allgather_v(g, s, r, counts, t->dtype, o);
    case GATHER_V:
        return pld_gather_v(g, s, r, counts, t->dtype, t->root, o);
    case SCATTER_V:
        return pld_scatter_v(g, s, r, counts, t->dtype, t->root, o);
    default:
        return pld_alltoall_v(g, s, counts, r, others, t->dtype, o);
    }
}

static int call(pld_group *g, const struct trial *t, char *const base[2], const pld_coll_opts *o)
{
    void *s, *r;

    place(t, pld_group_rank(g), base, &s, &r);
    if (is_list(t->kind))
        return call_list(g, t, base, o);
    switch ((int)t->kind) {
    case ALLREDUCE:
        return pld_allreduce(g, s, r, t->count, t->dtype, t->op, o);
    case REDUCE:
        return pld_reduce(g, s, r, t->count, t->dtype, t->op, t->root, o);
    case REDUCE_SCATTER:
        return pld_reduce_scatter(g, s, r, t->count, t->dtype, t->op, o);
    case ALLGATHER:
        return pld_allgather(g, s, r, t->count, t->dtype, o);
    case BROADCAST:
        return pld_broadcast(g, s, t->count, t->dtype, t->root, o);
    case ALLTOALL:
        return pld_alltoall(g, s, r, t->count, t->dtype, o);
    case GATHER:
        return pld_gather(g, s, r, t->count, t->dtype, t->root, o);
    case SCATTER:
        return pld_scatter(g, s, r, t->count, t->dtype, t->root, o);
    default:
        return call_by_rank(g, t, s, r, o);
    }
}

/* Whole numbers from 0 to 4, or, where order and rounding are the host's, anything finite. */
static void fill(const struct trial *t, const struct setting *setting, int rank, char *to, size_t n)
{
    const int half = t->dtype == PLD_F16 || t->dtype == PLD_BF16;
    const int whole = t->dtype == PLD_I64 || t->dtype == PLD_I32 || t->dtype == PLD_U32 ||
                      t->dtype == PLD_I8 || t->dtype == PLD_U8 || (setting->exact && !half);
    unsigned state = (unsigned)rank * 7919 + 12345;

    for (size_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        pattern_store(t->dtype, to + i * pld_dtype_bytes(t->dtype),
                      whole ? (double)(state >> 20 & 3) + 1
                            : ((double)(state >> 8) / 16777216 - 0.5) * 4 + 0.0625);
    }
}

static int finish(const struct trial *t, pld_request *request, pld_stream s)
{
    int done = 0;
    int rc = 0;

    switch ((int)t->mode) {
    case WAIT:
        return pld_request_wait(&request);
    case TEST:
        while (!done && rc == 0)
            rc = pld_request_test(&request, &done);
        return rc;
    case AFTER:
        return pld_request_after(&request, s);
    default:
        return 0;
    }
}

/* NCCL multiplies by 1/3 before it adds. */
static int is_rounded(const struct trial *t, const struct setting *setting, int size)
{
    return setting->exact && t->op == PLD_AVG && size == 3 && reduces(t->kind) &&
           (t->dtype == PLD_F32 || t->dtype == PLD_F64);
}

static int is_equal(const struct trial *t, const char *got, const char *want, size_t bytes,
                    int rounded)
{
    const size_t n = bytes / pld_dtype_bytes(t->dtype);

    if (!rounded)
        return memcmp(got, want, bytes) == 0;
    for (size_t i = 0; i < n; i++) {
        const double x = t->dtype == PLD_F32 ? (double)((const float *)(const void *)got)[i]
                                             : ((const double *)(const void *)got)[i];
        const double y = t->dtype == PLD_F32 ? (double)((const float *)(const void *)want)[i]
                                             : ((const double *)(const void *)want)[i];

        if (!(x - y < 1e-5 && y - x < 1e-5))
            return 0;
    }
    return 1;
}

/* Fill the buffers, on the host and on the device; so many bytes of them are looked at. */
static int begin_trial(pld_runtime *rt, pld_group *g, const struct trial *t,
                       const struct setting *setting, struct buffers *b, size_t bytes)
{
    for (int i = 0; i < 2; i++) {
        fill(t, setting, pld_group_rank(g) + 10 * i, b->init[i], bytes / pld_dtype_bytes(t->dtype));
        memcpy(b->want[i], b->init[i], bytes);
        CHECK(rt, pld_device_copy(pld_runtime_device(rt), b->device[i], b->init[i], bytes,
                                  b->stream) == 0);
    }
    return 0;
}

static int run_trial(pld_runtime *rt, pld_group *g, const struct trial *t,
                     const struct setting *setting, struct buffers *b)
{
    const int size = pld_group_size(g);
    const size_t bytes = ((size_t)size * t->count + GUARD) * pld_dtype_bytes(t->dtype);
    pld_device *device = pld_runtime_device(rt);
    pld_request *request = NULL;
    pld_coll_opts plain = {PLD_OPTS(pld_coll_opts), .scale = t->scale};
    pld_coll_opts opts = plain;

    CHECK(rt, bytes <= b->bytes);
    CHECK(rt, begin_trial(rt, g, t, setting, b, bytes) == 0);
    CHECK(rt, call(g, t, b->want, &plain) == 0);
    opts.stream = b->stream;
    opts.request = t->mode == PLAIN ? NULL : &request;
    CHECK(rt, call(g, t, b->device, &opts) == 0);
    CHECK(rt, finish(t, request, b->stream) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(rt, pld_device_copy(device, b->got[i], b->device[i], bytes, b->stream) == 0);
    CHECK(rt, pld_stream_wait(device, b->stream) == 0);
    for (int i = 0; i < 2; i++) {
        const int equal = is_equal(t, b->got[i], b->want[i], bytes, is_rounded(t, setting, size));

        if (!equal)
            printf("# %s %s[%zu] %s op %d mode %d in_place %d root %d of %d ranks: buffer %d "
                   "differs\n",
                   setting->path, names[t->kind], t->count, pld_dtype_name(t->dtype), (int)t->op,
                   (int)t->mode, t->in_place, t->root, size, i);
        CHECK(rt, equal);
    }
    return 0;
}

static int has_in_place(enum kind k)
{
    return k != ALLTOALL_V && k != BROADCAST && k != REDUCE_SCATTER_LIST && k != ALLGATHER_LIST &&
           k != BROADCAST_LIST;
}

static int is_floating(pld_dtype d)
{
    return d == PLD_F32 || d == PLD_F64 || d == PLD_F16 || d == PLD_BF16;
}

/* One kind with one type: sizes, operators, in place and out of it, ways of waiting. */
static int run_kind(pld_runtime *rt, pld_group *g, enum kind k, pld_dtype dtype,
                    const struct setting *setting, struct buffers *b)
{
    static const size_t counts[] = {0, 1, 17, 577, 5003};
    const int size = pld_group_size(g);
    const int ops = !reduces(k) ? 1 : is_floating(dtype) ? 5 : 4;
    int turn = (int)k + (int)dtype;

    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        const int o = turn % ops;
        struct trial t = {.kind = k,
                          .mode = (enum mode)(turn % MODES),
                          .dtype = dtype,
                          .op = ops == 4 && o == 1 ? PLD_PROD : (pld_op)o,
                          .count = counts[c],
                          .in_place = has_in_place(k) && turn / 2 % 2,
                          .root = turn % size};

        if (reduces(k) && is_floating(dtype) && turn % 3 == 0)
            t.scale = 0.25;
        CHECK(rt, run_trial(rt, g, &t, setting, b) == 0);
        t.in_place = has_in_place(k) && !t.in_place;
        t.mode = (enum mode)((turn + 1) % MODES);
        CHECK(rt, run_trial(rt, g, &t, setting, b) == 0);
        turn++;
    }
    return 0;
}

static int open_buffers(pld_runtime *rt, struct buffers *b)
{
    pld_device *device = pld_runtime_device(rt);

    b->bytes = ((size_t)MOST + GUARD) * 8;
    CHECK(rt, pld_stream_create(device, 0, &b->stream) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(rt, pld_device_alloc(device, b->bytes, PLD_MEM_PINNED, (void **)&b->init[i]) == 0);
        CHECK(rt, pld_device_alloc(device, b->bytes, PLD_MEM_PINNED, (void **)&b->got[i]) == 0);
        CHECK(rt, pld_device_alloc(device, b->bytes, PLD_MEM_DEVICE, (void **)&b->device[i]) == 0);
        b->want[i] = calloc(1, b->bytes);
        CHECK(rt, b->want[i] != NULL);
    }
    return 0;
}

static void close_buffers(pld_runtime *rt, struct buffers *b)
{
    pld_device *device = pld_runtime_device(rt);

    for (int i = 0; i < 2; i++) {
        pld_device_free(device, b->init[i]);
        pld_device_free(device, b->got[i]);
        pld_device_free(device, b->device[i]);
        free(b->want[i]);
    }
    pld_stream_destroy(device, &b->stream);
}

static int body_kinds(pld_runtime *rt, void *context)
{
    static const pld_dtype all[] = {PLD_F32, PLD_BF16, PLD_I32, PLD_F64, PLD_F16,
                                    PLD_I64, PLD_U32,  PLD_I8,  PLD_U8};
    const struct setting *setting = context;
    const int dtypes = setting->all_dtypes && !SLOW ? 9 : 3;
    pld_group *world = pld_runtime_world(rt);
    struct buffers b = {0};
    int rc = open_buffers(rt, &b);

    if (rc == 0 && setting->reproducible)
        rc = pld_group_set_reproducible(world, 1);
    for (int k = 0; k < KINDS && rc == 0; k++) {
        for (int d = 0; d < dtypes && rc == 0; d++)
            rc = run_kind(rt, world, (enum kind)k, all[d], setting, &b);
    }
    close_buffers(rt, &b);
    return rc;
}

/* ---- Messages ---- */

static int send_around(pld_runtime *rt, struct buffers *b, size_t count, int rounds)
{
    pld_group *g = pld_runtime_world(rt);
    pld_device *device = pld_runtime_device(rt);
    const int size = pld_group_size(g);
    const int to = (pld_group_rank(g) + 1) % size;
    const int from = (pld_group_rank(g) + size - 1) % size;

    for (int i = 0; i < rounds; i++) {
        const struct trial t = {.dtype = PLD_F32};
        const struct setting s = {.exact = 1};
        pld_request *requests[2] = {NULL, NULL};
        pld_coll_opts opts[2] = {
            {PLD_OPTS(pld_coll_opts), .request = &requests[0], .stream = b->stream},
            {PLD_OPTS(pld_coll_opts), .request = &requests[1], .stream = b->stream}};
        const int first = pld_group_rank(g) % 2;

        fill(&t, &s, pld_group_rank(g) + i, b->init[0], count);
        fill(&t, &s, from + i, b->want[0], count);
        CHECK(rt, pld_device_copy(device, b->device[0], b->init[0], 4 * count, b->stream) == 0);
        for (int half = 0; half < 2; half++) {
            if (half == first)
                CHECK(rt, pld_send(g, b->device[0], count, PLD_F32, to, 3, &opts[0]) == 0);
            else
                CHECK(rt, pld_recv(g, b->device[1], count, PLD_F32, from, 3, &opts[1]) == 0);
        }
        CHECK(rt, pld_request_wait_all(1, requests) == 0);
        CHECK(rt, pld_request_after(&requests[1], b->stream) == 0);
        CHECK(rt, pld_device_copy(device, b->got[0], b->device[1], 4 * count, b->stream) == 0);
        CHECK(rt, pld_stream_wait(device, b->stream) == 0);
        CHECK(rt, memcmp(b->got[0], b->want[0], 4 * count) == 0);
    }
    return 0;
}

static int body_messages(pld_runtime *rt, void *context)
{
    struct buffers b = {0};
    int rc = open_buffers(rt, &b);

    (void)context;
    if (rc == 0)
        rc = pld_group_connect(pld_runtime_world(rt));
    if (rc == 0)
        rc = send_around(rt, &b, 17, 5);
    if (rc == 0)
        rc = send_around(rt, &b, 20011, 3);
    close_buffers(rt, &b);
    return rc;
}

/* ---- Streams ---- */

enum { STREAMS = 3, ROUNDS = 12, HALVES = 4096 };

/* Sums of one group in several streams at once share its scratch, and must not meet there. */
static int body_streams(pld_runtime *rt, void *context)
{
    pld_group *g = pld_runtime_world(rt);
    pld_device *device = pld_runtime_device(rt);
    const struct trial t = {.dtype = PLD_BF16, .op = PLD_SUM, .count = HALVES};
    const struct setting setting = {.path = "nccl"};
    struct buffers b[STREAMS] = {{0}};
    pld_request *request = NULL;

    (void)context;
    for (int i = 0; i < STREAMS; i++) {
        CHECK(rt, open_buffers(rt, &b[i]) == 0);
        fill(&t, &setting, pld_group_rank(g) + 10 * i, b[i].init[0], HALVES);
        CHECK(rt, pld_reduce_scatter(g, b[i].init[0], b[i].want[0], HALVES / 4, PLD_BF16, PLD_SUM,
                                     NULL) == 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < STREAMS; i++) {
            const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .stream = b[i].stream,
                                     .request = i == STREAMS - 1 ? &request : NULL};

            CHECK(rt, pld_device_copy(device, b[i].device[0], b[i].init[0], HALVES * 2,
                                      b[i].stream) == 0);
            CHECK(rt, pld_reduce_scatter(g, b[i].device[0], b[i].device[1], HALVES / 4, PLD_BF16,
                                         PLD_SUM, &o) == 0);
        }
        CHECK(rt, pld_request_after(&request, b[STREAMS - 1].stream) == 0);
        for (int i = 0; i < STREAMS; i++)
            CHECK(rt, pld_device_copy(device, b[i].got[0], b[i].device[1], HALVES / 2,
                                      b[i].stream) == 0);
        for (int i = 0; i < STREAMS; i++) {
            CHECK(rt, pld_stream_wait(device, b[i].stream) == 0);
            CHECK(rt, memcmp(b[i].got[0], b[i].want[0], HALVES / 2) == 0);
        }
    }
    for (int i = 0; i < STREAMS; i++)
        close_buffers(rt, &b[i]);
    return 0;
}

/* ---- Arguments ---- */

static int body_arguments(pld_runtime *rt, void *context)
{
    pld_group *g = pld_runtime_world(rt);
    pld_device *device = pld_runtime_device(rt);
    float host[4] = {1, 2, 3, 4};
    void *memory = NULL;
    char text[512];

    (void)context;
    CHECK(rt, pld_device_alloc(device, sizeof(host), PLD_MEM_DEVICE, &memory) == 0);
    CHECK(rt, pld_allreduce(g, memory, host, 4, PLD_F32, PLD_SUM, NULL) == PLD_ERR_ARG);
    CHECK(rt, strstr(pld_last_error(), "send is in device memory and recv in host memory") != NULL);
    CHECK(rt, pld_coll_explain(g, "allreduce", 1 << 20, PLD_BF16, text, sizeof(text)) == 0);
    CHECK(rt, strstr(text, "sums in f32 by all-to-all and a kernel") != NULL);
    CHECK(rt, pld_group_set_tuning(g, "allreduce bf16 * * 0 * -> nccl 64K") == 0);
    CHECK(rt, pld_coll_explain(g, "allreduce", 1 << 20, PLD_BF16, text, sizeof(text)) == 0);
    CHECK(rt, strstr(text, "sums rounded at each hop") != NULL);
    CHECK(rt, pld_allreduce(g, host, host, 4, PLD_F32, PLD_SUM, NULL) == 0);
    pld_device_free(device, memory);
    return 0;
}

/* ---- Threads ---- */

enum { FLIGHTS = 400, HELD = 8, LONG_SINCE = 20000000 /* ns */ };

/* One thread launches, another one waits. */
struct flights {
    pld_runtime *rt;
    pld_request *requests[HELD];
    _Atomic int launched, landed, failed;
};

static void *land_all(void *flights)
{
    struct flights *f = flights;

    device_rank(pld_runtime_rank(f->rt));
    for (int i = 0; i < FLIGHTS; i++) {
        while (atomic_load(&f->launched) == i && !atomic_load(&f->failed))
            (void)sched_yield();
        if (atomic_load(&f->failed) || pld_request_wait(&f->requests[i % HELD]) != 0)
            atomic_store(&f->failed, 1);
        atomic_fetch_add(&f->landed, 1);
    }
    return NULL;
}

/* Now and then a rank keeps the others waiting, long enough for them to look at agreements. */
static int launch_all(struct flights *f, int32_t *memory, pld_stream stream)
{
    static const struct timespec moment = {0, LONG_SINCE};
    pld_runtime *rt = f->rt;

    for (int i = 0; i < FLIGHTS; i++) {
        const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &f->requests[i % HELD],
                                 .stream = stream};

        while (i - atomic_load(&f->landed) >= HELD)
            (void)sched_yield();
        if (i % 20 == 0 && i / 20 % pld_runtime_size(rt) == pld_runtime_rank(rt))
            (void)nanosleep(&moment, NULL);
        CHECK(rt, pld_allreduce(pld_runtime_world(rt), &memory[i % HELD], &memory[i % HELD], 1,
                                PLD_I32, PLD_SUM, &o) == 0);
        atomic_fetch_add(&f->launched, 1);
    }
    return 0;
}

/* Two threads set out at once, each in a group of its own. */
struct first {
    pld_group *group;
    int32_t *memory;
    pld_stream stream;
    int code;
};

static void *sum_first(void *first)
{
    struct first *f = first;
    const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .stream = f->stream};

    f->code = pld_allreduce(f->group, f->memory, f->memory, 1, PLD_I32, PLD_SUM, &o);
    return NULL;
}

static int body_first(pld_runtime *rt, void *context)
{
    pld_device *device = pld_runtime_device(rt);
    struct first both[2] = {{.group = NULL}, {.group = NULL}};
    void *memory = NULL;
    pthread_t thread;

    (void)context;
    CHECK(rt, pld_device_alloc(device, 2 * sizeof(int32_t), PLD_MEM_DEVICE, &memory) == 0);
    for (int i = 0; i < 2; i++) {
        both[i].memory = (int32_t *)memory + i;
        CHECK(rt, pld_group_split(pld_runtime_world(rt), 0, 0, &both[i].group) == 0);
        CHECK(rt, pld_stream_create(device, 0, &both[i].stream) == 0);
    }
    CHECK(rt, pthread_create(&thread, NULL, sum_first, &both[1]) == 0);
    (void)sum_first(&both[0]);
    (void)pthread_join(thread, NULL);
    for (int i = 0; i < 2; i++) {
        CHECK(rt, both[i].code == 0);
        pld_group_destroy(&both[i].group);
        pld_stream_destroy(device, &both[i].stream);
    }
    pld_device_free(device, memory);
    return 0;
}

static int body_threads(pld_runtime *rt, void *context)
{
    pld_device *device = pld_runtime_device(rt);
    struct flights f = {.rt = rt};
    pld_stream stream = NULL;
    void *memory = NULL;
    pthread_t thread;

    (void)context;
    device_rank(pld_runtime_rank(rt));
    CHECK(rt, pld_stream_create(device, 0, &stream) == 0);
    CHECK(rt, pld_device_alloc(device, HELD * sizeof(int32_t), PLD_MEM_DEVICE, &memory) == 0);
    CHECK(rt, pthread_create(&thread, NULL, land_all, &f) == 0);
    if (launch_all(&f, memory, stream) != 0)
        atomic_store(&f.failed, 1);
    (void)pthread_join(thread, NULL);
    CHECK(rt, !atomic_load(&f.failed));
    pld_device_free(device, memory);
    pld_stream_destroy(device, &stream);
    return 0;
}

int main(void)
{
    const char *seed = getenv("FAKE_CUDA_SEED");
    const int whole = seed == NULL || strcmp(seed, "1") == 0; /* others: the orders of streams */
    struct setting nccl = {.path = "nccl", .exact = 1};
    struct setting tree = {.path = "nccl", .reproducible = 1};
    struct setting staged = {.path = "staged"};

    for (int ranks = 1; ranks <= (whole ? DEVICE_RANKS : 2); ranks++) {
        nccl.all_dtypes = staged.all_dtypes = ranks == 2;
        ok(device_run(ranks, "nccl", 60, body_kinds, &nccl) == 0,
           "NCCL: every operation gives the host's bits, %d ranks", ranks);
        ok(device_run(ranks, "staged", 60, body_kinds, &staged) == 0,
           "pinned memory: every operation gives the host's bits, %d ranks", ranks);
    }
    ok(device_run(3, "nccl", 60, body_kinds, &tree) == 0,
       "NCCL, reproducible: sums of any numbers have the host's bits");
    for (int ranks = 2; ranks <= DEVICE_RANKS; ranks++) {
        ok(device_run(ranks, "nccl", 60, body_messages, NULL) == 0, "NCCL: messages, %d ranks",
           ranks);
        ok(device_run(ranks, "staged", 60, body_messages, NULL) == 0,
           "pinned memory: messages, %d ranks", ranks);
    }
    ok(device_run(3, "nccl", 60, body_streams, NULL) == 0,
       "sums of a group in several streams do not disturb each other");
    ok(device_run(3, "nccl", 60, body_threads, NULL) == 0,
       "NCCL: one thread launches, another one waits");
    ok(device_run(3, "staged", 60, body_threads, NULL) == 0,
       "pinned memory: one thread posts, another one waits");
    ok(device_run(2, "staged", 60, body_first, NULL) == 0, "two threads set out at once");
    ok(device_run(2, "nccl", 60, body_arguments, NULL) == 0,
       "buffers of two kinds are refused; explain and tuning say which sums");
    ok(device_live_comms() == 0 && device_live("streams") == 0 && device_live("events") == 0 &&
           device_live("device bytes") == 0 && device_live("pinned bytes") == 0,
       "nothing is left: %lu communicators, %lu streams, %lu events, %lu and %lu bytes",
       device_live_comms(), device_live("streams"), device_live("events"),
       device_live("device bytes"), device_live("pinned bytes"));
    return tap_done();
}
