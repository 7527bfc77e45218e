/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How operations are called: lists of tensors, requests, arguments that are wrong,
 * ranks that disagree, and counts beyond 2^31.
 */

#include <polder/polder.h>

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "coll/coll_shm.h"
#include "coll_pattern.h"
#include "inproc/inproc.h"
#include "tap.h"

enum { ITEMS = 9, MANY_ITEMS = PLDI_TEAM_ITEMS + 3 };
static const size_t item_counts[ITEMS] = {1, 0, 1000, 3, 70000, 64, 0, 20001, 5};

struct list {
    int shared, in_place, messages;
    size_t n;
};

/* A list whose items are memory of their own, with room for a block per rank. */
static int get_list(pld_runtime *rt, const struct list *list, pld_coll_item *items)
{
    const size_t p = (size_t)pld_runtime_size(rt);

    for (size_t i = 0; i < list->n; i++) {
        const size_t count = list->n > ITEMS ? 1 + i % 90 : item_counts[i];
        void *memory[2];

        for (int side = 0; side < 2; side++) {
            memory[side] = malloc((count * p + 1) * sizeof(int32_t));
            if (list->shared) {
                free(memory[side]);
                CHECK(rt, pld_mem_alloc(rt, (count * p + 1) * sizeof(int32_t), &memory[side]) == 0);
            }
        }
        items[i] = (pld_coll_item){memory[0], memory[1], count};
    }
    return 0;
}

static void free_list(pld_runtime *rt, const struct list *list, const pld_coll_item *items)
{
    for (size_t i = 0; i < list->n; i++) {
        for (int side = 0; side < 2; side++) {
            void *memory = side == 0 ? (void *)(uintptr_t)items[i].send : items[i].recv;

            if (list->shared)
                pld_mem_free(rt, memory);
            else
                free(memory);
        }
    }
}

/* Element e of item i on a rank; blocks of an item lie one behind the other. */
static int32_t element(size_t item, size_t e, int rank)
{
    return (int32_t)(item * 1000003 + e * 7 + (size_t)rank * 13);
}

static int32_t *sent(const pld_coll_item *item)
{
    return (int32_t *)(uintptr_t)item->send;
}

static int lists_reduce(pld_runtime *rt, const struct list *list, const pld_coll_item *items,
                        int scatter)
{
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_runtime_rank(rt);
    const int p = pld_runtime_size(rt);
    const size_t blocks = scatter ? (size_t)p : 1;
    pld_coll_item call[MANY_ITEMS];

    for (size_t i = 0; i < list->n; i++) {
        call[i] = items[i];
        for (size_t e = 0; e < items[i].count * blocks; e++)
            sent(&items[i])[e] = element(i, e, rank);
        if (list->in_place)
            call[i].recv = sent(&items[i]) + (scatter ? items[i].count * (size_t)rank : 0);
    }
    if (scatter)
        CHECK(rt, pld_reduce_scatter_list(world, call, list->n, PLD_I32, PLD_SUM, NULL) == 0);
    else
        CHECK(rt, pld_allreduce_list(world, call, list->n, PLD_I32, PLD_SUM, NULL) == 0);
    for (size_t i = 0; i < list->n; i++) {
        const size_t skip = scatter ? items[i].count * (size_t)rank : 0;

        for (size_t e = 0; e < items[i].count; e++)
            CHECK(rt, ((int32_t *)call[i].recv)[e] ==
                          p * element(i, e + skip, 0) + 13 * p * (p - 1) / 2);
    }
    return 0;
}

static int lists_gather(pld_runtime *rt, const struct list *list, const pld_coll_item *items)
{
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_runtime_rank(rt);
    const int p = pld_runtime_size(rt);
    pld_coll_item call[MANY_ITEMS];

    for (size_t i = 0; i < list->n; i++) {
        call[i] = items[i];
        if (list->in_place)
            call[i].send = (int32_t *)items[i].recv + items[i].count * (size_t)rank;
        for (size_t e = 0; e < items[i].count; e++)
            sent(&call[i])[e] = element(i, e, rank);
    }
    CHECK(rt, pld_allgather_list(world, call, list->n, PLD_I32, NULL) == 0);
    for (size_t i = 0; i < list->n; i++) {
        for (size_t e = 0; e < items[i].count * (size_t)p; e++)
            CHECK(rt, ((int32_t *)items[i].recv)[e] ==
                          element(i, e % items[i].count, (int)(e / items[i].count)));
    }
    return 0;
}

static int lists_broadcast(pld_runtime *rt, const struct list *list, const pld_coll_item *items,
                           int root)
{
    pld_group *world = pld_runtime_world(rt);

    for (size_t i = 0; i < list->n; i++) {
        for (size_t e = 0; e < items[i].count; e++)
            ((int32_t *)items[i].recv)[e] = pld_runtime_rank(rt) == root ? element(i, e, root) : -1;
    }
    CHECK(rt, pld_broadcast_list(world, items, list->n, PLD_I32, root, NULL) == 0);
    for (size_t i = 0; i < list->n; i++) {
        for (size_t e = 0; e < items[i].count; e++)
            CHECK(rt, ((int32_t *)items[i].recv)[e] == element(i, e, root));
    }
    return 0;
}

static int lists(pld_runtime *rt, void *context)
{
    const struct list *list = context;
    pld_coll_item items[MANY_ITEMS];
    const uint64_t sequence = pld_runtime_world(rt)->sequence;

    CHECK(rt, get_list(rt, list, items) == 0);
    CHECK(rt, lists_reduce(rt, list, items, 0) == 0);
    CHECK(rt, lists_reduce(rt, list, items, 1) == 0);
    CHECK(rt, lists_gather(rt, list, items) == 0);
    CHECK(rt, lists_broadcast(rt, list, items, pld_runtime_size(rt) - 1) == 0);
    /* Each list was one operation. */
    CHECK(rt, pld_runtime_world(rt)->sequence == sequence + 4);
    free_list(rt, list, items);
    CHECK(rt, pld_allreduce_list(pld_runtime_world(rt), NULL, 0, PLD_F32, PLD_SUM, NULL) == 0);
    return 0;
}

static void test_lists(void)
{
    static const size_t lengths[] = {1, 4, ITEMS, MANY_ITEMS};

    for (int n = 0; n < 4 * 6; n++) {
        struct list list = {.n = lengths[n % 4], .in_place = n / 4 % 2, .shared = n / 8 == 0};

        list.messages = n / 8 == 2;
        if (list.messages)
            (void)setenv("POLDER_SHM", "0", 1);
        for (int ranks = 1; ranks <= (n % 4 == 2 ? 9 : 3); ranks += 2)
            ok(inproc_run(ranks, lists, &list) == 0, "%d ranks, list of %zu, %s, %s", ranks, list.n,
               list.in_place ? "in place" : "out of place",
               list.messages ? "messages"
               : list.shared ? "shared"
                             : "slots");
        (void)unsetenv("POLDER_SHM");
    }
}

/* All operations under way at once; arrays of counts are the caller's again at once. */
static int requests(pld_runtime *rt, void *context)
{
    enum { OPS = 9, N = 9000 };
    pld_group *world = pld_runtime_world(rt);
    const size_t p = (size_t)pld_runtime_size(rt);
    const int rank = pld_runtime_rank(rt);
    int64_t *send = malloc(p * N * sizeof(*send));
    int64_t *recv[OPS] = {NULL};
    pld_request *r[OPS] = {NULL};
    pld_coll_opts o[OPS];
    size_t *counts = malloc(p * sizeof(*counts));
    pld_coll_item item;

    (void)context;
    for (size_t i = 0; i < p * N; i++)
        send[i] = (int64_t)i + rank;
    for (int i = 0; i < OPS; i++) {
        recv[i] = calloc(p * N, sizeof(*recv[i]));
        o[i] = (pld_coll_opts){PLD_OPTS(pld_coll_opts), .request = &r[i]};
    }
    for (size_t i = 0; i < p; i++)
        counts[i] = N;
    item = (pld_coll_item){send, recv[8], N};
    CHECK(rt, pld_reduce(world, send, recv[0], N, PLD_I64, PLD_SUM, 0, &o[0]) == 0);
    CHECK(rt, pld_reduce_scatter_v(world, send, recv[1], counts, PLD_I64, PLD_MAX, &o[1]) == 0);
    CHECK(rt, pld_allgather_v(world, send, recv[2], counts, PLD_I64, &o[2]) == 0);
    CHECK(rt, pld_alltoall(world, send, recv[3], N, PLD_I64, &o[3]) == 0);
    CHECK(rt, pld_alltoall_v(world, send, counts, recv[4], counts, PLD_I64, &o[4]) == 0);
    CHECK(rt, pld_gather_v(world, send, recv[5], counts, PLD_I64, 1, &o[5]) == 0);
    CHECK(rt, pld_scatter_v(world, send, recv[6], counts, PLD_I64, 1, &o[6]) == 0);
    CHECK(rt, pld_scatter(world, send, recv[7], 3, PLD_I64, 0, &o[7]) == 0);
    CHECK(rt, pld_allreduce_list(world, &item, 1, PLD_I64, PLD_SUM, &o[8]) == 0);
    memset(counts, 0xff, p * sizeof(*counts));
    memset(&item, 0xff, sizeof(item));
    CHECK(rt, pld_request_wait(&r[6]) == 0);
    CHECK(rt, pld_request_wait_all(OPS, r) == 0);
    for (int64_t i = 0; i < N; i++) {
        const int64_t sum = (int64_t)p * i + (int64_t)(p * (p - 1) / 2);

        CHECK(rt, recv[0][i] == (rank == 0 ? sum : 0) && recv[8][i] == sum);
        CHECK(rt, recv[1][i] == (int64_t)rank * N + i + (int64_t)p - 1);
        CHECK(rt, recv[2][N + i] == i + 1);
        CHECK(rt, recv[3][N + i] == (int64_t)rank * N + i + 1 && recv[4][N + i] == recv[3][N + i]);
        CHECK(rt, recv[5][N + i] == (rank == 1 ? i + 1 : 0));
        CHECK(rt, recv[6][i] == (int64_t)rank * N + i + 1);
        CHECK(rt, recv[7][i] == (i < 3 ? (int64_t)rank * 3 + i : 0));
    }
    for (int i = 0; i < OPS; i++)
        free(recv[i]);
    free(send);
    free(counts);
    return 0;
}

/* The last rank has other counts; all are told which, and go on. */
static int differ(pld_runtime *rt, void *context)
{
    const int *what = context;
    pld_group *world = pld_runtime_world(rt);
    const int p = pld_runtime_size(rt);
    const int odd = pld_runtime_rank(rt) == p - 1;
    size_t counts[16], others[16];
    pld_coll_item items[3];
    int64_t *v = calloc(40000, sizeof(*v));
    int64_t *w = calloc(40000, sizeof(*w));
    char wanted[64];
    int rc = 0;

    for (int i = 0; i < 16; i++)
        counts[i] = others[i] = what[1] ? 2500 : 2;
    for (int i = 0; i < 3; i++)
        items[i] = (pld_coll_item){v + i * 3000, w + i * 3000, counts[i]};
    (void)snprintf(wanted, sizeof(wanted), "count 1 is %zu on rank 0, %zu on rank %d", counts[1],
                   counts[1] + 1, p - 1);
    if (odd) {
        counts[1]++;
        counts[2]--;
        items[1].count++;
    }
    switch (what[0]) {
    case 0:
        rc = pld_reduce_scatter_v(world, v, w, counts, PLD_I64, PLD_SUM, NULL);
        break;
    case 1:
        rc = pld_allgather_v(world, v, w, counts, PLD_I64, NULL);
        break;
    case 2:
        rc = pld_gather_v(world, v, w, counts, PLD_I64, 0, NULL);
        break;
    case 3:
        rc = pld_scatter_v(world, v, w, counts, PLD_I64, p - 1, NULL);
        break;
    case 4:
        rc = pld_allreduce_list(world, items, 3, PLD_I64, PLD_SUM, NULL);
        break;
    case 5:
        (void)snprintf(wanted, sizeof(wanted), "rank 0 has 3 counts, rank %d has 2", p - 1);
        items[1].count = others[1];
        rc = pld_broadcast_list(world, items, odd ? 2 : 3, PLD_I64, 0, NULL);
        break;
    default:
        (void)snprintf(wanted, sizeof(wanted), "rank %d sends %zu elements to rank 1, which", p - 1,
                       others[1] + 1);
        rc = pld_alltoall_v(world, v, counts, w, others, PLD_I64, NULL);
        break;
    }
    CHECK(rt, rc == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), wanted) != NULL);
    CHECK(rt, pld_alltoall_v(world, v, others, w, others, PLD_I64, NULL) == 0);
    CHECK(rt, pld_allgather_v(world, v, w, others, PLD_I64, NULL) == 0);
    for (int i = 0; i < 40000; i++)
        CHECK(rt, w[i] == 0);
    free(v);
    free(w);
    return 0;
}

static void test_differ(void)
{
    static const char *const what[] = {"reduce_scatter_v", "allgather_v", "gather_v",
                                       "scatter_v",        "a list",      "a shorter list",
                                       "alltoall_v"};

    for (int n = 0; n < 7 * 2 * 3; n++) {
        int args[2] = {n % 7, n / 7 % 2};
        const int ranks = n / 14 == 2 ? 10 : 3;

        if (n / 14 > 0)
            (void)setenv("POLDER_SHM", "0", 1);
        ok(inproc_run(ranks, differ, args) == 0, "other counts of %s, %s, %d ranks, %s",
           what[args[0]], args[1] ? "large" : "small", ranks, n / 14 > 0 ? "messages" : "shared");
        (void)unsetenv("POLDER_SHM");
    }
}

#define REFUSED(call, word)                                                                        \
    CHECK(rt, (call) == PLD_ERR_ARG && strstr(pld_last_error(), word) != NULL)

static int arguments(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    const size_t huge[3] = {SIZE_MAX / 2, SIZE_MAX / 2, 3};
    const size_t counts[3] = {1, 2, 3};
    float v[64] = {0};
    float w[64];
    pld_coll_item items[2] = {{v, w, 3}, {v, NULL, 3}};

    (void)context;
    REFUSED(pld_reduce(NULL, v, w, 1, PLD_F32, PLD_SUM, 0, NULL), "pld_reduce: need group");
    REFUSED(pld_reduce(world, v, w, 1, PLD_F32, PLD_SUM, 3, NULL), "root 3 is not one");
    REFUSED(pld_gather(world, v, w, 1, PLD_F32, -1, NULL), "root -1 is not one");
    REFUSED(pld_reduce(world, NULL, w, 1, PLD_F32, PLD_SUM, 0, NULL), "send is NULL");
    REFUSED(pld_reduce(world, v, w, 1, PLD_I8, PLD_AVG, 0, NULL), "average of i8");
    REFUSED(pld_alltoall(world, v, w, SIZE_MAX / 9, PLD_F32, NULL), "more than memory");
    REFUSED(pld_alltoall(world, v, v + 1, 2, PLD_F32, NULL), "overlap");
    REFUSED(pld_alltoall_v(world, v, counts, v, counts, PLD_F32, NULL), "overlap");
    REFUSED(pld_alltoall_v(world, v, counts, w, NULL, PLD_F32, NULL), "recv_counts is NULL");
    REFUSED(pld_allgather_v(world, v, w, NULL, PLD_F32, NULL), "counts is NULL");
    REFUSED(pld_allgather_v(world, v, w, huge, PLD_F32, NULL), "more than memory");
    REFUSED(pld_reduce_scatter_v(world, v, v, counts, (pld_dtype)9, PLD_SUM, NULL), "9 is no dty");
    REFUSED(pld_scatter_v(world, v, (char *)w + 2, counts, PLD_F32, 0, NULL), "recv is not align");
    REFUSED(pld_allreduce_list(world, items, 2, PLD_F32, PLD_SUM, NULL), "recv is NULL");
    REFUSED(pld_allreduce_list(world, NULL, 2, PLD_F32, PLD_SUM, NULL), "items is NULL");
    /* Nothing of that was sent. */
    CHECK(rt, pld_barrier(world, NULL) == 0);
    return 0;
}

enum { STRIPE = 2 << 20, STRIPES = 1025 };
static const size_t beyond = ((size_t)1 << 31) + 17;

/* So many bytes of addresses, all of which are the same few pages. */
static unsigned char *map_stripes(int value)
{
    const int fd = memfd_create("stripes", 0);
    const size_t all = (size_t)STRIPES * STRIPE;
    unsigned char *v = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (fd < 0 || v == MAP_FAILED || ftruncate(fd, STRIPE) != 0)
        return NULL;
    for (size_t i = 0; i < STRIPES; i++) {
        if (mmap(v + i * STRIPE, STRIPE, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0) == MAP_FAILED)
            return NULL;
    }
    (void)close(fd);
    for (size_t i = 0; i < STRIPE; i++)
        v[i] = (unsigned char)(value == 0 ? 0 : i / 512 + i + (size_t)value);
    return v;
}

/* Every byte of a stripe was there, and nothing behind the last. */
static int huge_counts(pld_runtime *rt, void *context)
{
    const size_t counts[2] = {beyond, 0};
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_runtime_rank(rt);
    const int odd = rank == 1;
    const size_t none[2] = {0, 0};
    unsigned char *v = map_stripes(odd);
    int same = 1;

    (void)context;
    CHECK(rt, v != NULL);
    CHECK(rt, pld_alltoall_v(world, odd ? v : NULL, odd ? counts : none, odd ? NULL : v,
                             odd ? none : (const size_t[]){0, beyond}, PLD_U8, NULL) == 0);
    for (size_t i = 0; i < STRIPE; i++)
        same &= v[i] == (unsigned char)(i / 512 + i + 1);
    CHECK(rt, same);
    (void)munmap(v, (size_t)STRIPES * STRIPE);
    return 0;
}

static void test_huge(void)
{
    for (int messages = 0; messages < 2; messages++) {
        if (messages)
            (void)setenv("POLDER_SHM", "0", 1);
        if (SLOW)
            ok(1, "# SKIP 2^31+17 elements under a sanitizer");
        else
            ok(inproc_run(2, huge_counts, NULL) == 0, "2^31+17 elements are moved by %s",
               messages ? "messages" : "slots");
        (void)unsetenv("POLDER_SHM");
    }
}

int main(void)
{
    test_lists();
    ok(inproc_run(3, requests, NULL) == 0, "requests of all operations, shared memory");
    (void)setenv("POLDER_SHM", "0", 1);
    ok(inproc_run(3, requests, NULL) == 0, "requests of all operations, messages");
    ok(inproc_run(10, requests, NULL) == 0, "requests of all operations, many ranks, messages");
    (void)unsetenv("POLDER_SHM");
    test_differ();
    ok(inproc_run(3, arguments, NULL) == 0, "what is wrong with the arguments is said");
    test_huge();
    return tap_done();
}
