/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * polder's collectives beside MPI's, over the same ranks with the same data.  Values are
 * small integers, so that every reduction is exact in every type and in any order; f16 and
 * bf16, which MPI has not, are reduced by MPI as doubles.
 */

#include <polder/interop_mpi.h>
#include <stdlib.h>
#include <string.h>

#include "mpi_tap.h"
#include "numbers.h"

enum { DTYPES = 7, SIZES = 8, OPS = 5, MOST_RANKS = 5, PARTS = 12 };

static const pld_dtype dtypes[DTYPES] = {PLD_F32, PLD_F64, PLD_F16, PLD_BF16,
                                         PLD_I32, PLD_I64, PLD_U8};
static const size_t sizes[SIZES] = {0, 1, 3, 63, 64, 65, 1000, 70000};

/* A group, the communicator of the same ranks, and memory for the largest operation. */
struct team {
    pld_runtime *rt;
    pld_group *group;
    MPI_Comm comm;
    int rank, size;
    char *send, *recv;    /* polder's */
    double *mine, *whole; /* MPI's: contribution, result */
};

/* One combination; `shift` makes data of consecutive operations differ. */
struct run {
    pld_dtype dtype;
    size_t count;
    pld_op op;
    int in_place;
    int shift;
};

static double draw(const struct run *r, int rank, size_t i)
{
    const unsigned x =
        ((unsigned)i * 2654435761U + (unsigned)(rank * 977 + r->shift) * 40503U) >> 9;

    if (r->op == PLD_PROD)
        return (double)(1 + x % 2) * (r->dtype != PLD_U8 && (x >> 7 & 1) ? -1 : 1);
    return (double)(x % 12) - (r->dtype == PLD_U8 ? 0 : 4);
}

static char *at(char *base, const struct run *r, size_t i)
{
    return base + i * pld_dtype_bytes(r->dtype);
}

/* The contribution of this rank, to MPI and to polder. */
static void give(const struct team *t, const struct run *r, char *to, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        t->mine[i] = draw(r, t->rank, i);
        number_put(at(to, r, i), r->dtype, t->mine[i]);
    }
}

static MPI_Op mpi_op(pld_op op)
{
    if (op == PLD_MAX)
        return MPI_MAX;
    if (op == PLD_MIN)
        return MPI_MIN;
    return op == PLD_PROD ? MPI_PROD : MPI_SUM;
}

/* Where sizes are no powers of two an average is rounded: then to the nearest but one. */
static int equals(const struct team *t, const struct run *r, char *got, size_t count)
{
    const double digits = r->dtype == PLD_F64    ? 0x1p-52
                          : r->dtype == PLD_F32  ? 0x1p-23
                          : r->dtype == PLD_F16  ? 0x1p-10
                          : r->dtype == PLD_BF16 ? 0x1p-7
                                                 : 0;
    const int exact = r->op != PLD_AVG || (t->size & (t->size - 1)) == 0;

    for (size_t i = 0; i < count; i++) {
        const double want = r->op == PLD_AVG ? t->whole[i] / t->size : t->whole[i];
        const double error = fabs(number_get(at(got, r, i), r->dtype) - want);

        if (!(error <= (exact ? 0 : fabs(want) * digits)))
            return 0;
    }
    return 1;
}

static int test_allreduce(struct team *t, const struct run *r)
{
    char *send = r->in_place ? t->recv : t->send;

    give(t, r, send, r->count);
    NEED(MPI_Allreduce(t->mine, t->whole, (int)r->count, MPI_DOUBLE, mpi_op(r->op), t->comm) == 0);
    NEED(pld_allreduce(t->group, send, t->recv, r->count, r->dtype, r->op, NULL) == 0);
    NEED(equals(t, r, t->recv, r->count));
    return 0;
}

static int test_reduce_scatter(struct team *t, const struct run *r)
{
    const size_t all = r->count * (size_t)t->size;
    char *recv = r->in_place ? at(t->send, r, r->count * (size_t)t->rank) : t->recv;

    give(t, r, t->send, all);
    NEED(MPI_Reduce_scatter_block(t->mine, t->whole, (int)r->count, MPI_DOUBLE, mpi_op(r->op),
                                  t->comm) == 0);
    NEED(pld_reduce_scatter(t->group, t->send, recv, r->count, r->dtype, r->op, NULL) == 0);
    NEED(equals(t, r, recv, r->count));
    return 0;
}

static int test_allgather(struct team *t, const struct run *r)
{
    char *send = r->in_place ? at(t->recv, r, r->count * (size_t)t->rank) : t->send;

    give(t, r, send, r->count);
    NEED(MPI_Allgather(t->mine, (int)r->count, MPI_DOUBLE, t->whole, (int)r->count, MPI_DOUBLE,
                       t->comm) == 0);
    NEED(pld_allgather(t->group, send, t->recv, r->count, r->dtype, NULL) == 0);
    NEED(equals(t, r, t->recv, r->count * (size_t)t->size));
    return 0;
}

static int test_broadcast(struct team *t, const struct run *r)
{
    for (int root = r->count > 1000 ? t->size - 1 : 0; root < t->size; root++) {
        give(t, r, t->recv, r->count);
        memcpy(t->whole, t->mine, r->count * sizeof(double));
        NEED(MPI_Bcast(t->whole, (int)r->count, MPI_DOUBLE, root, t->comm) == 0);
        NEED(pld_broadcast(t->group, t->recv, r->count, r->dtype, root, NULL) == 0);
        NEED(equals(t, r, t->recv, r->count));
    }
    return 0;
}

static int test_reduce(struct team *t, const struct run *r)
{
    const int root = r->shift % t->size;
    char *recv = r->in_place ? t->send : t->recv;

    give(t, r, t->send, r->count);
    NEED(MPI_Reduce(t->mine, t->whole, (int)r->count, MPI_DOUBLE, mpi_op(r->op), root, t->comm) ==
         0);
    NEED(pld_reduce(t->group, t->send, recv, r->count, r->dtype, r->op, root, NULL) == 0);
    NEED(t->rank != root || equals(t, r, recv, r->count));
    return 0;
}

/* Counts by rank, for both, and what comes before each block. */
struct blocks {
    size_t ours[MOST_RANKS];
    int theirs[MOST_RANKS], before[MOST_RANKS];
    size_t all;
};

static void set_block(struct blocks *b, int rank, size_t count)
{
    b->ours[rank] = count;
    b->theirs[rank] = (int)count;
    b->before[rank] = (int)b->all;
    b->all += count;
}

static struct blocks vary(const struct team *t, size_t count)
{
    struct blocks b = {.all = 0};

    for (int i = 0; i < t->size; i++)
        set_block(&b, i, i % 3 == 1 ? 0 : count - count / 7 * (size_t)i);
    return b;
}

static int test_reduce_scatter_v(struct team *t, const struct run *r)
{
    const struct blocks b = vary(t, r->count);
    char *recv = r->in_place ? at(t->send, r, (size_t)b.before[t->rank]) : t->recv;

    give(t, r, t->send, b.all);
    NEED(MPI_Reduce_scatter(t->mine, t->whole, b.theirs, MPI_DOUBLE, mpi_op(r->op), t->comm) == 0);
    NEED(pld_reduce_scatter_v(t->group, t->send, recv, b.ours, r->dtype, r->op, NULL) == 0);
    NEED(equals(t, r, recv, b.ours[t->rank]));
    return 0;
}

static int test_gather_v(struct team *t, const struct run *r)
{
    const struct blocks b = vary(t, r->count);
    const int root = r->shift % t->size;
    const size_t mine = b.ours[t->rank];

    give(t, r, t->send, mine);
    NEED(MPI_Allgatherv(t->mine, (int)mine, MPI_DOUBLE, t->whole, b.theirs, b.before, MPI_DOUBLE,
                        t->comm) == 0);
    NEED(pld_allgather_v(t->group, t->send, t->recv, b.ours, r->dtype, NULL) == 0);
    NEED(equals(t, r, t->recv, b.all));
    memset(t->recv, 0, b.all * pld_dtype_bytes(r->dtype));
    NEED(pld_gather_v(t->group, t->send, t->recv, b.ours, r->dtype, root, NULL) == 0);
    NEED(t->rank != root || equals(t, r, t->recv, b.all));
    return 0;
}

static int test_scatter_v(struct team *t, const struct run *r)
{
    const struct blocks b = vary(t, r->count);
    const int root = r->shift % t->size;
    const size_t mine = b.ours[t->rank];

    give(t, r, t->send, b.all);
    NEED(MPI_Scatterv(t->mine, b.theirs, b.before, MPI_DOUBLE, t->whole, (int)mine, MPI_DOUBLE,
                      root, t->comm) == 0);
    NEED(pld_scatter_v(t->group, t->send, t->recv, b.ours, r->dtype, root, NULL) == 0);
    NEED(equals(t, r, t->recv, mine));
    return 0;
}

static size_t pair_count(const struct run *r, int s, int d)
{
    return (s + 2 * d) % 4 == 1 ? 0 : r->count - r->count / 9 * (size_t)((s + d) % 3);
}

static int test_alltoall(struct team *t, const struct run *r)
{
    const size_t all = r->count * (size_t)t->size;
    char *recv = r->in_place ? t->send : t->recv;
    struct blocks out = {.all = 0};
    struct blocks in = {.all = 0};

    for (int i = 0; i < t->size; i++) {
        set_block(&out, i, pair_count(r, t->rank, i));
        set_block(&in, i, pair_count(r, i, t->rank));
    }
    give(t, r, t->send, out.all);
    NEED(MPI_Alltoallv(t->mine, out.theirs, out.before, MPI_DOUBLE, t->whole, in.theirs, in.before,
                       MPI_DOUBLE, t->comm) == 0);
    NEED(pld_alltoall_v(t->group, t->send, out.ours, t->recv, in.ours, r->dtype, NULL) == 0);
    NEED(equals(t, r, t->recv, in.all));
    give(t, r, t->send, all);
    NEED(MPI_Alltoall(t->mine, (int)r->count, MPI_DOUBLE, t->whole, (int)r->count, MPI_DOUBLE,
                      t->comm) == 0);
    NEED(pld_alltoall(t->group, t->send, recv, r->count, r->dtype, NULL) == 0);
    NEED(equals(t, r, recv, all));
    return 0;
}

/* What the others of a ring sent, by requests that are waited for in another order. */
static int test_messages(struct team *t, const struct run *r)
{
    const int next = (t->rank + 1) % t->size;
    const int previous = (t->rank + t->size - 1) % t->size;
    const size_t half = r->count / 2;
    pld_request *requests[4] = {NULL};
    pld_coll_opts opts[4];
    int done = 0;

    for (int i = 0; i < 4; i++)
        opts[i] = (pld_coll_opts){PLD_OPTS(pld_coll_opts), .request = &requests[i]};
    give(t, r, t->send, r->count);
    NEED(MPI_Sendrecv(t->mine, (int)r->count, MPI_DOUBLE, next, 5, t->whole, (int)r->count,
                      MPI_DOUBLE, previous, 5, t->comm, MPI_STATUS_IGNORE) == 0);
    NEED(pld_recv(t->group, at(t->recv, r, half), r->count - half, r->dtype, previous, 9,
                  &opts[0]) == 0);
    NEED(pld_send(t->group, t->send, half, r->dtype, next, 3, &opts[1]) == 0);
    NEED(pld_send(t->group, at(t->send, r, half), r->count - half, r->dtype, next, 9, &opts[2]) ==
         0);
    NEED(pld_recv(t->group, t->recv, half, r->dtype, previous, 3, &opts[3]) == 0);
    while (!done)
        NEED(pld_request_test(&requests[3], &done) == 0);
    NEED(requests[3] == NULL && pld_request_wait(&requests[0]) == 0);
    NEED(pld_request_wait_all(4, requests) == 0);
    NEED(equals(t, r, t->recv, r->count));
    return 0;
}

/* Ordinary memory, or such that ranks of the node reach; both work, and mix. */
static int take_memory(struct team *t, int shared)
{
    const size_t most = sizes[SIZES - 1] * MOST_RANKS * sizeof(double);

    t->mine = malloc(most);
    t->whole = malloc(most);
    NEED(t->mine != NULL && t->whole != NULL);
    if (shared)
        return pld_mem_alloc(t->rt, most, (void **)&t->send) |
               pld_mem_alloc(t->rt, most, (void **)&t->recv);
    t->send = malloc(most);
    t->recv = malloc(most);
    NEED(t->send != NULL && t->recv != NULL);
    return 0;
}

static void give_memory(struct team *t, int shared)
{
    free(t->mine);
    free(t->whole);
    if (shared) {
        pld_mem_free(t->rt, t->send);
        pld_mem_free(t->rt, t->recv);
    } else {
        free(t->send);
        free(t->recv);
    }
}

/* One group sees all that is small and a fifth of the large; others a third of the small. */
static int skips(const struct run *r, int all)
{
    const int is_float =
        r->dtype == PLD_F32 || r->dtype == PLD_F64 || r->dtype == PLD_F16 || r->dtype == PLD_BF16;

    if (r->op == PLD_AVG && !is_float)
        return 1;
    if (r->count > 1000)
        return !all || (r->shift + (int)r->dtype) % 5 != 0;
    return !all && r->shift % 3 != 0;
}

/* In place and not, in turn: there is an odd number of reductions of each size and dtype. */
static int test_reductions(struct team *t, int all)
{
    struct run r = {.shift = 1};
    int bad = 0;

    for (int s = 0; s < SIZES; s++)
        for (int d = 0; d < DTYPES; d++)
            for (int op = 0; op < OPS; op++) {
                r.dtype = dtypes[d];
                r.count = sizes[s];
                r.op = (pld_op)op;
                r.in_place = r.shift++ % 2;
                if (!skips(&r, all))
                    bad += test_allreduce(t, &r);
                r.in_place ^= s % 2;
                if (!skips(&r, all))
                    bad += test_reduce_scatter(t, &r);
                if (!skips(&r, all))
                    bad += test_reduce(t, &r) + test_reduce_scatter_v(t, &r);
            }
    return bad;
}

static int test_moves(struct team *t, int all)
{
    struct run r = {.shift = 1, .op = PLD_SUM};
    int bad = 0;

    for (int s = 0; s < SIZES; s++)
        for (int d = 0; d < DTYPES; d++) {
            r.dtype = dtypes[d];
            r.count = sizes[s];
            r.in_place = r.shift++ % 2;
            if (!skips(&r, all))
                bad += test_allgather(t, &r) + test_messages(t, &r) + test_broadcast(t, &r);
            if (!skips(&r, all))
                bad += test_gather_v(t, &r) + test_scatter_v(t, &r) + test_alltoall(t, &r);
        }
    return bad;
}

/* Any set of ranks fails, each with a code of its own: all get the lowest one's. */
static int test_agree(struct team *t)
{
    for (int set = 0; set < 1 << t->size; set++) {
        int codes[MOST_RANKS];
        int mine = set >> t->rank & 1 ? PLD_ERR_ARG - t->rank : 0;
        int lowest = 0;

        NEED(MPI_Allgather(&mine, 1, MPI_INT, codes, 1, MPI_INT, t->comm) == 0);
        for (int r = t->size - 1; r >= 0; r--)
            lowest = codes[r] < 0 ? codes[r] : lowest;
        NEED(pld_agree(t->group, mine) == lowest);
        NEED(pld_barrier(t->group, NULL) == 0);
    }
    return 0;
}

/* The group of a color, beside MPI's; -1: this rank is in none. */
static void test_group(pld_runtime *rt, int color, int key, int shared, const char *what)
{
    struct team t = {.rt = rt, .comm = MPI_COMM_NULL};
    const int mpi_color = color < 0 ? MPI_UNDEFINED : color;
    int bad[3] = {0, 0, 0};

    (void)MPI_Comm_split(MPI_COMM_WORLD, mpi_color, key, &t.comm);
    bad[0] = pld_group_split(pld_runtime_world(rt), color, key, &t.group) != 0 ||
             (t.group == NULL) != (t.comm == MPI_COMM_NULL);
    if (t.comm != MPI_COMM_NULL && bad[0] == 0) {
        (void)MPI_Comm_rank(t.comm, &t.rank);
        (void)MPI_Comm_size(t.comm, &t.size);
        bad[0] = pld_group_rank(t.group) != t.rank || pld_group_size(t.group) != t.size ||
                 take_memory(&t, shared) != 0;
        bad[1] = bad[0] != 0 ? 1 : test_reductions(&t, shared);
        bad[2] = bad[0] != 0 ? 1 : test_moves(&t, shared) + test_agree(&t);
        give_memory(&t, shared);
    }
    all_ok(bad[0], "%s: ranks as MPI has them", what);
    all_ok(bad[1], "%s: reductions as MPI's", what);
    all_ok(bad[2], "%s: moves, messages and agreement as MPI's", what);
    pld_group_destroy(&t.group);
    if (t.comm != MPI_COMM_NULL)
        (void)MPI_Comm_free(&t.comm);
}

/* Of a ring; messages of equal ranks and tag differ by their group alone. */
static int pass_on(pld_group *g, int32_t value, pld_request **sent)
{
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .request = sent};
    static int32_t values[PARTS];

    values[value] = value;
    return pld_send(g, &values[value], 1, PLD_I32, (pld_group_rank(g) + 1) % pld_group_size(g), 0,
                    &opts);
}

static int take_in(pld_group *g, int32_t value)
{
    const int size = pld_group_size(g);
    int32_t got = -1;

    NEED(pld_recv(g, &got, 1, PLD_I32, (pld_group_rank(g) + size - 1) % size, 0, NULL) == 0);
    NEED(got == value);
    got = 1;
    NEED(pld_allreduce(g, &got, &got, 1, PLD_I32, PLD_SUM, NULL) == 0);
    NEED(got == size);
    return 0;
}

/* Each is a part of the one before it, more than there are communicators in store. */
static int test_parts(pld_runtime *rt, int rank)
{
    pld_group *parts[PARTS] = {NULL};
    pld_request *sent[PARTS] = {NULL};
    int bad = pld_group_split(pld_runtime_world(rt), rank == 0, rank, &parts[0]);

    for (int i = 1; i < PARTS && bad == 0; i++)
        bad = pld_group_split(parts[i - 1], 0, i % 2 ? -rank : rank, &parts[i]);
    for (int i = 0; i < PARTS && bad == 0; i++)
        bad = pass_on(parts[i], i, &sent[i]);
    for (int i = PARTS - 1; i >= 0 && bad == 0; i--)
        bad = take_in(parts[i], i);
    bad |= pld_request_wait_all(PARTS, sent);
    for (int i = 0; i < PARTS; i++)
        pld_group_destroy(&parts[i]);
    return bad;
}

static void test_runtime(int rank, int size)
{
    pld_runtime *rt = NULL;
    int rc = pld_runtime_open_mpi(MPI_COMM_WORLD, &rt);

    all_ok(rc != 0, "%d ranks join, POLDER_SHM=%s", size, getenv("POLDER_SHM"));
    if (rc != 0)
        return;
    test_group(rt, 0, rank, 1, "all");
    test_group(rt, 0, -rank, 0, "all, in reverse");
    test_group(rt, rank % 3 == 1, rank, 0, "every third, and the rest");
    test_group(rt, rank == 0 ? -1 : rank == size - 1, -rank, 0,
               "none, the last, and the rest in reverse");
    all_ok(test_parts(rt, rank), "parts of parts");
    rc = pld_runtime_close(&rt);
    all_ok(rc != 0, "and leave");
}

int main(int argc, char **argv)
{
    int level = 0;
    int rank, size, rc;

    (void)alarm(WATCHDOG_S);
    (void)MPI_Init_thread(&argc, &argv, argc > 1 ? MPI_THREAD_MULTIPLE : MPI_THREAD_FUNNELED,
                          &level);
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int shm = 1; shm >= 0; shm--) {
        (void)setenv("POLDER_SHM", shm ? "1" : "0", 1);
        test_runtime(rank, size);
    }
    rc = all_done(rank);
    (void)MPI_Finalize();
    return rc;
}
