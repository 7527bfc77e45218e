/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Messages between two ranks: around every size at which the way changes, with
 * buffers that are and are not in shared memory, in and out of order, many at once,
 * and with a peer that sends something else or leaves.
 */

#include <polder/polder.h>

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/base_err.h"
#include "coll/coll_shm_mail.h"
#include "inproc/inproc.h"
#include "tap.h"

static const size_t sizes[] = {0,
                               1,
                               PLDI_MAIL_INLINE - 1,
                               PLDI_MAIL_INLINE,
                               PLDI_MAIL_INLINE + 1,
                               PLDI_MAIL_EAGER - 1,
                               PLDI_MAIL_EAGER,
                               PLDI_MAIL_EAGER + 1,
                               PLDI_MAIL_SLOT - 1,
                               PLDI_MAIL_SLOT,
                               PLDI_MAIL_SLOT + 1,
                               PLDI_MAIL_SLOT *PLDI_MAIL_SLOTS,
                               PLDI_MAIL_SLOT *PLDI_MAIL_SLOTS + 1,
                               PLDI_MAIL_PIECE,
                               PLDI_MAIL_PIECE * 2 + 77};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]), BATCH = 3 * PLDI_MAIL_LETTERS };

static unsigned char byte_of(int from, int to, size_t message, size_t i)
{
    return (unsigned char)((size_t)from * 31 + (size_t)to * 17 + message * 7 + i + i / 251);
}

static void write_message(unsigned char *v, int from, int to, size_t message, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        v[i] = byte_of(from, to, message, i);
}

static int is_message(const unsigned char *v, int from, int to, size_t message, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (v[i] != byte_of(from, to, message, i))
            return 0;
    }
    return 1;
}

static unsigned char *get(pld_runtime *rt, size_t bytes, int shared)
{
    void *v = NULL;

    if (!shared)
        return malloc(bytes + 1);
    return pld_mem_alloc(rt, bytes + 1, &v) < 0 ? NULL : v;
}

static void put(pld_runtime *rt, void *v, int shared)
{
    if (shared)
        pld_mem_free(rt, v);
    else
        free(v);
}

/* There and back, for all sizes. */
static int there_and_back(pld_runtime *rt, void *context)
{
    const int *shared = context;
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_runtime_rank(rt);
    const size_t most = sizes[SIZES - 1];
    unsigned char *out = get(rt, most, shared[0]);
    unsigned char *in = get(rt, most, shared[1]);

    for (size_t i = 0; i < SIZES; i++) {
        const size_t n = sizes[i];

        write_message(out, rank, 1 - rank, i, n);
        memset(in, 0x5a, n + 1);
        if (rank == 0)
            CHECK(rt, pld_send(world, out, n, PLD_U8, 1, (int)i, NULL) == 0);
        CHECK(rt, pld_recv(world, in, n, PLD_U8, 1 - rank, (int)i, NULL) == 0);
        if (rank == 1)
            CHECK(rt, pld_send(world, out, n, PLD_U8, 0, (int)i, NULL) == 0);
        CHECK(rt, is_message(in, 1 - rank, rank, i, n) && in[n] == 0x5a);
    }
    put(rt, out, shared[0]);
    put(rt, in, shared[1]);
    return 0;
}

/* More messages than letters, to all and from all, received in reverse, each size in turn. */
static int many(pld_runtime *rt, void *context)
{
    const int shared = *(const int *)context;
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_runtime_rank(rt);
    const int p = pld_runtime_size(rt);
    const size_t n = (size_t)p * BATCH;
    pld_request **requests = calloc(2 * n, sizeof(pld_request *));
    unsigned char **buffers = calloc(2 * n, sizeof(unsigned char *));

    for (size_t i = 0; i < 2 * n; i++) {
        const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &requests[i]};
        const int receive = i >= n;
        const int peer = (int)(i % n) / BATCH;
        const size_t message = receive ? BATCH - 1 - i % BATCH : i % BATCH;
        const size_t bytes = sizes[message % 11];
        const int tag = (int)message;

        buffers[i] = get(rt, bytes, shared);
        if (!receive)
            write_message(buffers[i], rank, peer, message, bytes);
        if (receive)
            CHECK(rt, pld_recv(world, buffers[i], bytes, PLD_U8, peer, tag, &o) == 0);
        else
            CHECK(rt, pld_send(world, buffers[i], bytes, PLD_U8, peer, tag, &o) == 0);
    }
    CHECK(rt, pld_request_wait_all(2 * n, requests) == 0);
    for (size_t i = 0; i < 2 * n; i++) {
        const size_t message = i >= n ? BATCH - 1 - i % BATCH : i % BATCH;

        if (i >= n)
            CHECK(rt,
                  is_message(buffers[i], (int)(i % n) / BATCH, rank, message, sizes[message % 11]));
        put(rt, buffers[i], shared);
    }
    free(requests);
    free(buffers);
    return 0;
}

/* Messages of one tag arrive in order, short and long, however many are under way. */
static int order(pld_runtime *rt, void *context)
{
    enum { N = 2 * PLDI_MAIL_LETTERS + 5, LONG = 300 };
    pld_group *world = pld_runtime_world(rt);
    static int64_t out[N][LONG];
    int64_t in[LONG];
    pld_request *r[N + 1] = {NULL};

    (void)context;
    for (int64_t i = 0; pld_runtime_rank(rt) == 0 && i <= N; i++) {
        const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &r[i]};
        const size_t count = i % 2 ? LONG : 1;

        if (i < N)
            out[i][0] = out[i][count - 1] = i;
        /* The last has another tag, and is received first. */
        CHECK(rt, pld_send(world, out[i % N], i < N ? count : 1, PLD_I64, 1, i == N, &o) == 0);
    }
    if (pld_runtime_rank(rt) == 1) {
        CHECK(rt, pld_recv(world, in, 1, PLD_I64, 0, 1, NULL) == 0 && in[0] == 0);
        for (int i = 0; i < N; i++) {
            const size_t count = i % 2 ? LONG : 1;

            CHECK(rt, pld_recv(world, in, count, PLD_I64, 0, 0, NULL) == 0);
            CHECK(rt, in[0] == i && in[count - 1] == i);
        }
    }
    CHECK(rt, pld_request_wait_all(N + 1, r) == 0);
    return 0;
}

/* More is sent than there is room for, while the receiver looks elsewhere. */
static int full(pld_runtime *rt, void *context)
{
    static const struct timespec elsewhere = {0, 50000000};
    enum { N = PLDI_MAIL_LETTERS - 1, BYTES = PLDI_MAIL_EAGER - 100 };
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_runtime_rank(rt);
    unsigned char *v = malloc((size_t)N * BYTES);
    pld_request *r[N] = {NULL};

    (void)context;
    for (size_t i = 0; i < N && rank == 0; i++) {
        const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &r[i]};

        write_message(v + i * BYTES, 0, 1, i, BYTES);
        CHECK(rt, pld_send(world, v + i * BYTES, BYTES, PLD_U8, 1, 0, &o) == 0);
    }
    if (rank == 1)
        (void)nanosleep(&elsewhere, NULL);
    for (size_t i = 0; i < N && rank == 1; i++) {
        CHECK(rt, pld_recv(world, v, BYTES, PLD_U8, 0, 0, NULL) == 0);
        CHECK(rt, is_message(v, 0, 1, i, BYTES));
    }
    CHECK(rt, pld_request_wait_all(N, r) == 0);
    free(v);
    return 0;
}

/* Another size is an error of the receive alone; the next message is not touched by it. */
static int other_size(pld_runtime *rt, void *context)
{
    const size_t n = *(const size_t *)context;
    pld_group *world = pld_runtime_world(rt);
    unsigned char *v = calloc(n + 2, 1);
    int rc;

    if (pld_runtime_rank(rt) == 0) {
        CHECK(rt, pld_send(world, v, n, PLD_U8, 1, 5, NULL) == 0);
        v[n] = 42;
        CHECK(rt, pld_send(world, v, n + 1, PLD_U8, 1, 5, NULL) == 0);
    } else {
        rc = pld_recv(world, v, n + 1, PLD_U8, 0, 5, NULL);
        CHECK(rt, rc == PLD_ERR_MISMATCH && strstr(pld_last_error(), "with tag 5") != NULL);
        CHECK(rt, pld_recv(world, v, n + 1, PLD_U8, 0, 5, NULL) == 0 && v[n] == 42);
    }
    free(v);
    return 0;
}

/* Rank 1 leaves: what it sent before can be had, what it did not is an error, not a hang. */
static int leaves(pld_runtime *rt, void *context)
{
    const size_t n = *(const size_t *)context;
    pld_group *world = pld_runtime_world(rt);
    unsigned char *v = calloc(n + ((size_t)1 << 16), 1);
    int rc = 0;

    if (pld_runtime_rank(rt) == 1) {
        CHECK(rt, pld_send(world, v, n, PLD_U8, 2, 0, NULL) == 0);
    } else if (pld_runtime_rank(rt) == 2) {
        CHECK(rt, pld_recv(world, v, n, PLD_U8, 1, 0, NULL) == 0);
        rc = pld_recv(world, v, n, PLD_U8, 1, 0, NULL);
        CHECK(rt, rc == PLD_ERR_PEER && strstr(pld_last_error(), "rank 1 ") != NULL);
    } else {
        rc = pld_send(world, v, (size_t)1 << 16, PLD_U8, 1, 0, NULL);
        CHECK(rt, rc == PLD_ERR_PEER && strstr(pld_last_error(), "rank 1 ") != NULL);
    }
    free(v);
    return 0;
}

/* ---- Without memory ---- */

static _Thread_local int allocations = -1; /* until one fails */

void *__real_pldi_alloc(size_t count, size_t bytes, const char *what);
void *__wrap_pldi_alloc(size_t count, size_t bytes, const char *what);

void *__wrap_pldi_alloc(size_t count, size_t bytes, const char *what)
{
    if (allocations < 0 || allocations-- > 0)
        return __real_pldi_alloc(count, bytes, what);
    allocations = 0;
    (void)pldi_fail(PLD_ERR_NOMEM, "no memory for %s", what);
    return NULL;
}

/* There is none for what came early: a send, which has nothing to do with it, may fail, but then
 * those after it do not, and what came is still there. */
static int no_memory(pld_runtime *rt, void *context)
{
    enum { N = 20 };
    static _Atomic int sent;
    pld_group *world = pld_runtime_world(rt);
    int64_t x[N] = {0};
    pld_request *r = NULL;
    const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &r};

    (void)context;
    if (pld_runtime_rank(rt) == 1) {
        CHECK(rt, pld_send(world, x, 1, PLD_I64, 0, 7, NULL) == 0);
        sent = 1;
        for (int i = 0; i < N; i++)
            CHECK(rt, pld_recv(world, x, 1, PLD_I64, 0, 0, NULL) == 0 && x[0] == i);
        return 0;
    }
    while (!sent)
        (void)sched_yield();
    sent = 0;
    allocations = 0;
    CHECK(rt, pld_send(world, x, 1, PLD_I64, 1, 0, &o) == PLD_ERR_NOMEM && r == NULL);
    CHECK(rt, pld_recv(world, x, 1, PLD_I64, 1, 0, &o) == PLD_ERR_NOMEM && r == NULL);
    CHECK(rt, pld_send(world, x, 1, PLD_I64, 1, 5, NULL) == PLD_ERR_NOMEM);
    allocations = -1;
    for (int64_t i = 0; i < N; i++)
        CHECK(rt, pld_send(world, &i, 1, PLD_I64, 1, 0, NULL) == 0);
    CHECK(rt, pld_recv(world, x, 1, PLD_I64, 1, 7, NULL) == 0);
    return 0;
}

enum way { SHARED, SLOTS, ONE_NODE, TRANSPORT };
static const char *const ways[] = {"shared memory", "slots", "shared memory of one of two nodes",
                                   "transport"};
static int (*acts)(pld_runtime *, void *);
static int actors; /* the ranks from there on are only there */

static int act(pld_runtime *rt, void *context)
{
    return pld_runtime_rank(rt) < actors ? acts(rt, context) : 0;
}

/* All that act are on the first node of two, if it is to be that. */
static int run(enum way way, int ranks, int (*body)(pld_runtime *, void *), void *context)
{
    acts = body;
    actors = ranks;
    return inproc_run(way == ONE_NODE ? 2 * ranks : ranks, act, context);
}

/* Between rank 0 and each rank up to the last. */
static int goes_by(pld_runtime *rt, void *context)
{
    const enum way way = *(const enum way *)context;
    pld_request op = {.group = pld_runtime_world(rt)};

    for (op.peer = 0; op.peer < pld_runtime_size(rt); op.peer++) {
        const int same = op.peer / 3 == pld_runtime_rank(rt) / 3;

        CHECK(rt, pldi_mail_carries(&op) == (way <= SLOTS || (way == ONE_NODE && same)));
    }
    return 0;
}

static void test_way(enum way mail)
{
    static const size_t lengths[] = {8, PLDI_MAIL_EAGER - 1, 100000};
    const char *way = ways[mail];

    ok(inproc_run(mail <= SLOTS ? 3 : 6, goes_by, &mail) == 0, "messages go by %s", way);
    for (int n = 0; n < 4; n++) {
        int shared[2] = {n % 2, n / 2};

        ok(run(mail, 2, there_and_back, shared) == 0, "every size, %s to %s, %s",
           n % 2 ? "shared" : "ordinary", n / 2 ? "shared" : "ordinary", way);
    }
    for (int shared = 0; shared < 2; shared++)
        ok(inproc_run(4, many, &shared) == 0, "many at once, %s",
           shared ? "shared buffers" : "ordinary buffers");
    ok(run(mail, 2, full, NULL) == 0, "more than there is room for, %s", way);
    if (mail != TRANSPORT)
        ok(run(mail, 2, no_memory, NULL) == 0, "no memory for what comes early, %s", way);
    ok(run(mail, 2, order, NULL) == 0, "one tag in order, another out of it, %s", way);
    for (int i = 0; i < 3; i++) {
        size_t n = lengths[i];

        ok(run(mail, 2, other_size, &n) == 0, "%zu bytes where another size is expected, %s", n,
           way);
    }
    for (int i = 0; i < 3; i++) {
        size_t n = lengths[i];

        ok(run(mail, 3, leaves, &n) == 0, "who leaves after %zu bytes is reported, %s", n, way);
    }
}

int main(void)
{
    test_way(SHARED);
    (void)setenv("POLDER_SHM", "copy", 1);
    test_way(SLOTS);
    (void)unsetenv("POLDER_SHM");
    (void)setenv("POLDER_FAKE_NODES", "2", 1);
    test_way(ONE_NODE);
    (void)unsetenv("POLDER_FAKE_NODES");
    (void)setenv("POLDER_SHM", "0", 1);
    test_way(TRANSPORT);
    return tap_done();
}
