/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Every collective operation over the world and over split groups; every element of
 * every result is compared.  verbs_test.py runs it over InfiniBand verbs.  An argument says how
 * many of the sizes it goes through, from the smallest; without, all.
 *
 * Rank 0 says at the end how many operations that were, and two numbers that hold
 * whatever the algorithms: how many bytes the ranks must have received from others at
 * least, and how many of these from ranks of another half of the job.
 */

#include <polder/polder.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Values repeat after PERIOD elements, a prime: no slice begins where another does. */
enum { PERIOD = 251, SIZES = 5, BLOCKS_MOST = 16, REDUCED = -1 };
static const size_t counts[SIZES] = {0, 1, 65, 4097, 100003};
static int sizes = SIZES;
enum { FOR_ALL = 2 }; /* of these elements every type and operator; else sums of two types */

enum places { OUT = 1, IN = 2, BOTH = 3 };

struct call {
    pld_group *group;
    int me, n, root, salt;
    const void *send;
    void *recv;
    size_t count;
    size_t counts[BLOCKS_MOST]; /* all of them `count` */
    pld_dtype dtype;
    pld_op op;
    const pld_coll_opts *opts;
};

static int ring(const struct call *c)
{
    pld_request *request = NULL;
    const pld_coll_opts later = {PLD_OPTS(pld_coll_opts), .request = &request};
    const int right = (c->me + 1) % c->n, left = (c->me + c->n - 1) % c->n;
    int rc = pld_send(c->group, c->send, c->count, c->dtype, right, c->salt, &later);

    if (rc < 0)
        return rc;
    rc = pld_recv(c->group, c->recv, c->count, c->dtype, left, c->salt, NULL);
    return pld_request_wait(&request) < 0 ? PLD_ERR_TRANSPORT : rc;
}

/* Two items, which are the two blocks that a rank gives. */
static int list(const struct call *c)
{
    const size_t block = c->count * pld_dtype_bytes(c->dtype);
    const pld_coll_item items[] = {{.send = c->send, .recv = c->recv, .count = c->count},
                                   {.send = (const char *)c->send + block,
                                    .recv = (char *)c->recv + block,
                                    .count = c->count}};

    return pld_allreduce_list(c->group, items, 2, c->dtype, c->op, c->opts);
}

/*
 * The operations, a line each: name; blocks of `count` elements that a rank gives and
 * gets; the rank and the block of that rank from which block b of the result comes
 * (REDUCED: it is the reduction of that block over all ranks); where the result may
 * lie; the call.  n ranks, of which this is number c->me.
 */
#define AT_ROOT(blocks) (c->me == c->root ? (blocks) : 0)
#define OPERATIONS(X)                                                                              \
    X(allreduce, 1, 1, REDUCED, 0, BOTH,                                                           \
      pld_allreduce(c->group, c->send, c->recv, c->count, c->dtype, c->op, c->opts))               \
    X(reduce_scatter, c->n, 1, REDUCED, c->me, BOTH,                                               \
      pld_reduce_scatter(c->group, c->send, c->recv, c->count, c->dtype, c->op, c->opts))          \
    X(allgather, 1, c->n, b, 0, BOTH,                                                              \
      pld_allgather(c->group, c->send, c->recv, c->count, c->dtype, c->opts))                      \
    X(broadcast, 1, 1, c->root, 0, IN,                                                             \
      pld_broadcast(c->group, c->recv, c->count, c->dtype, c->root, c->opts))                      \
    X(send_recv, 1, 1, (c->me + c->n - 1) % c->n, 0, OUT, ring(c))                                 \
    X(reduce, 1, c->me == c->root, REDUCED, 0, BOTH,                                               \
      pld_reduce(c->group, c->send, c->recv, c->count, c->dtype, c->op, c->root, c->opts))         \
    X(alltoall, c->n, c->n, b, c->me, BOTH,                                                        \
      pld_alltoall(c->group, c->send, c->recv, c->count, c->dtype, c->opts))                       \
    X(gather, 1, AT_ROOT(c->n), b, 0, BOTH,                                                        \
      pld_gather(c->group, c->send, c->recv, c->count, c->dtype, c->root, c->opts))                \
    X(scatter, AT_ROOT(c->n), 1, c->root, c->me, BOTH,                                             \
      pld_scatter(c->group, c->send, c->recv, c->count, c->dtype, c->root, c->opts))               \
    X(allreduce_list, 2, 2, REDUCED, b, BOTH, list(c))                                             \
    X(reduce_scatter_v, c->n, 1, REDUCED, c->me, BOTH,                                             \
      pld_reduce_scatter_v(c->group, c->send, c->recv, c->counts, c->dtype, c->op, c->opts))       \
    X(allgather_v, 1, c->n, b, 0, BOTH,                                                            \
      pld_allgather_v(c->group, c->send, c->recv, c->counts, c->dtype, c->opts))                   \
    X(alltoall_v, c->n, c->n, b, c->me, OUT,                                                       \
      pld_alltoall_v(c->group, c->send, c->counts, c->recv, c->counts, c->dtype, c->opts))         \
    X(gather_v, 1, AT_ROOT(c->n), b, 0, BOTH,                                                      \
      pld_gather_v(c->group, c->send, c->recv, c->counts, c->dtype, c->root, c->opts))             \
    X(scatter_v, AT_ROOT(c->n), 1, c->root, c->me, BOTH,                                           \
      pld_scatter_v(c->group, c->send, c->recv, c->counts, c->dtype, c->root, c->opts))            \
    X(barrier, 0, 0, b, 0, OUT, pld_barrier(c->group, c->opts))

struct operation {
    const char *name;
    int (*run)(const struct call *);
    int (*gives)(const struct call *);
    int (*gets)(const struct call *);
    int (*from_rank)(const struct call *, int b);
    int (*from_block)(const struct call *, int b);
    enum places places;
};

/* Not every operation needs every argument. */
#define USE(c, b) (void)(c), (void)(b)
#define DEFINE(name, in, out, rank, block, places, how)                                            \
    static int run_##name(const struct call *c)                                                    \
    {                                                                                              \
        return how;                                                                                \
    }                                                                                              \
    static int gives_##name(const struct call *c)                                                  \
    {                                                                                              \
        return USE(c, 0), in;                                                                      \
    }                                                                                              \
    static int gets_##name(const struct call *c)                                                   \
    {                                                                                              \
        return USE(c, 0), out;                                                                     \
    }                                                                                              \
    static int rank_##name(const struct call *c, int b)                                            \
    {                                                                                              \
        return USE(c, b), rank;                                                                    \
    }                                                                                              \
    static int block_##name(const struct call *c, int b)                                           \
    {                                                                                              \
        return USE(c, b), block;                                                                   \
    }
OPERATIONS(DEFINE)

#define ROW(name, in, out, rank, block, places, how)                                               \
    {#name, run_##name, gives_##name, gets_##name, rank_##name, block_##name, places},
static const struct operation operations[] = {OPERATIONS(ROW)};

/* What this rank did. */
static struct {
    int64_t calls, received, crossing, wrong;
} total;

/* Small and whole: sums, products and quarters of them are exact in every type. */
static double value(const struct call *c, int rank, int block, int i)
{
    const int v = (3 * i + 7 * rank + 5 * block + 11 * c->salt) % 29;

    return c->op == PLD_PROD ? 1 + v % 3 : v;
}

static double reduced(const struct call *c, int block, int i)
{
    double r = value(c, 0, block, i);

    for (int rank = 1; rank < c->n; rank++) {
        const double v = value(c, rank, block, i);

        if (c->op == PLD_MAX || c->op == PLD_MIN)
            r = (v > r) == (c->op == PLD_MAX) ? v : r;
        else
            r = c->op == PLD_PROD ? r * v : r + v;
    }
    return c->op == PLD_AVG ? r / c->n : r;
}

/* A number that f16 has exactly, as its bits. */
static uint16_t half_bits(double v)
{
    int exponent = 14;

    if (v == 0)
        return 0;
    for (; v >= 2; v /= 2)
        exponent++;
    for (; v < 1; v *= 2)
        exponent--;
    return (uint16_t)((exponent + 1) << 10 | (int)((v - 1) * 1024));
}

static void encode(pld_dtype dtype, double v, void *out)
{
    const float f32 = (float)v;
    const int64_t whole = (int64_t)v; /* little-endian: its first bytes are a shorter whole */
    const uint16_t f16 = half_bits(v);
    const char *source = (const char *)&whole;

    if (dtype == PLD_F64)
        source = (const char *)&v;
    else if (dtype == PLD_F32)
        source = (const char *)&f32;
    else if (dtype == PLD_BF16)
        source = (const char *)&f32 + 2;
    else if (dtype == PLD_F16)
        source = (const char *)&f16;
    memcpy(out, source, pld_dtype_bytes(dtype));
}

static int is_float(pld_dtype dtype)
{
    return dtype == PLD_F64 || dtype == PLD_F32 || dtype == PLD_F16 || dtype == PLD_BF16;
}

/* One period of a block: rank's own, or reduced. */
static void make_period(const struct call *c, int rank, int block, char *out)
{
    const size_t width = pld_dtype_bytes(c->dtype);

    for (int i = 0; i < PERIOD; i++)
        encode(c->dtype, rank == REDUCED ? reduced(c, block, i) : value(c, rank, block, i),
               out + (size_t)i * width);
}

static void fill(const struct call *c, int block, char *out)
{
    const size_t bytes = c->count * pld_dtype_bytes(c->dtype);
    const size_t step = PERIOD * pld_dtype_bytes(c->dtype);
    char period[PERIOD * 8];

    make_period(c, c->me, block, period);
    for (size_t at = 0; at < bytes; at += step)
        memcpy(out + at, period, bytes - at < step ? bytes - at : step);
}

static int differs(const struct call *c, const struct operation *o, int block, const char *got)
{
    const size_t bytes = c->count * pld_dtype_bytes(c->dtype);
    const size_t step = PERIOD * pld_dtype_bytes(c->dtype);
    char period[PERIOD * 8];

    make_period(c, o->from_rank(c, block), o->from_block(c, block), period);
    for (size_t at = 0; at < bytes; at += step) {
        if (memcmp(got + at, period, bytes - at < step ? bytes - at : step) != 0)
            return 1;
    }
    return 0;
}

/* What this rank cannot have got without receiving. */
static void account(const struct call *c, const struct operation *o)
{
    const int64_t bytes = (int64_t)(c->count * pld_dtype_bytes(c->dtype));
    int64_t received = 0;

    for (int b = 0; b < o->gets(c); b++)
        received += c->n > 1 && o->from_rank(c, b) != c->me ? bytes : 0;
    total.received += received;
    /* Of the n-1 others at least one is elsewhere, and what it has must come once. */
    total.crossing += c->n > 1 ? received / (c->n - 1) : 0;
    total.calls++;
}

static int finish(const struct operation *o, const struct call *c, int later)
{
    pld_request *request = NULL;
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .request = later ? &request : NULL,
                                .tag = o->name};
    struct call call = *c;
    int rc;

    call.opts = &opts;
    rc = o->run(&call);
    return rc < 0 ? rc : pld_request_wait(&request);
}

/* One operation: inputs written, run, every block of the result compared. */
static int check(const struct operation *o, struct call c, int in_place, char *memory)
{
    const size_t block = c.count * pld_dtype_bytes(c.dtype);
    const int gives = o->gives(&c), gets = o->gets(&c);
    char *send = memory, *recv = memory + (size_t)BLOCKS_MOST * block;
    int rc;

    /* In place, one block of a longer buffer is this rank's own. */
    if (in_place) {
        recv = gives > gets ? send + (size_t)c.me * block : send;
        send = gets > gives ? recv + (size_t)c.me * block : send;
    } else {
        memset(recv, 0xa5, (size_t)gets * block);
    }
    for (int b = 0; b < gives; b++)
        fill(&c, b, send + (size_t)b * block);
    c.send = send;
    c.recv = recv;
    rc = finish(o, &c, total.calls % 2 != 0);
    if (rc < 0) {
        (void)fprintf(stderr, "verbs_coll: %s: %s\n", o->name, pld_last_error());
        return rc;
    }
    account(&c, o);
    for (int b = 0; b < gets; b++) {
        if (!differs(&c, o, b, recv + (size_t)b * block))
            continue;
        total.wrong++;
        (void)fprintf(stderr,
                      "verbs_coll: %s: %zu %s, operator %d, %s place, rank %d of %d: wrong\n",
                      o->name, c.count, pld_dtype_name(c.dtype), (int)c.op,
                      in_place ? "in" : "out of", c.me, c.n);
    }
    return 0;
}

/* Whether the operation is to be done with these; the same on all ranks. */
static int wanted(const struct operation *o, const struct call *c, int size, int in_place)
{
    const int moves = o->gives(c) + o->gets(c) > 0;

    if ((o->places & (in_place ? IN : OUT)) == 0 || (c->op == PLD_AVG && !is_float(c->dtype)))
        return 0;
    if (c->op != PLD_SUM)
        return o->from_rank(c, 0) == REDUCED && size == FOR_ALL && !in_place;
    if (moves && size == FOR_ALL)
        return 1;
    return c->dtype == PLD_F32 || (moves && c->dtype == PLD_BF16);
}

static int check_operation(const struct operation *o, struct call c, char *memory)
{
    int rc = 0;

    for (int n = 0; n < sizes * 9 * 5 * 2 && rc == 0; n++) {
        const int size = n / 90, in_place = n % 2;

        c.count = counts[size];
        for (int r = 0; r < c.n; r++)
            c.counts[r] = c.count;
        c.dtype = (pld_dtype)(n / 10 % 9);
        c.op = (pld_op)(n / 2 % 5);
        c.root = n / 10 % c.n;
        if (wanted(o, &c, size, in_place))
            rc = check(o, c, in_place, memory);
    }
    return rc;
}

static int check_group(pld_group *group, int salt, char *memory)
{
    const struct call c = {
        .group = group, .me = pld_group_rank(group), .n = pld_group_size(group), .salt = salt};
    int rc = 0;

    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]) && rc == 0; i++)
        rc = check_operation(&operations[i], c, memory);
    return rc;
}

static int check_all(pld_runtime *rt)
{
    pld_group *world = pld_runtime_world(rt), *half = NULL;
    const int color = pld_runtime_size(rt) > 2 ? pld_runtime_rank(rt) % 2 : 0;
    const size_t bytes = 2 * BLOCKS_MOST * counts[SIZES - 1] * 8;
    char *memory = malloc(bytes);
    int rc = memory == NULL ? PLD_ERR_NOMEM : check_group(world, 0, memory);

    if (rc == 0)
        rc = pld_group_split(world, color, -pld_runtime_rank(rt), &half);
    if (rc == 0)
        rc = check_group(half, 1 + color, memory);
    pld_group_destroy(&half);
    free(memory);
    if (rc == 0)
        rc = pld_allreduce(world, &total, &total, sizeof(total) / sizeof(int64_t), PLD_I64, PLD_SUM,
                           NULL);
    return rc;
}

int main(int argc, char **argv)
{
    pld_runtime *rt = NULL;
    int rc = pld_runtime_open(NULL, &rt);

    if (argc > 1 && atoi(argv[1]) >= 1 && atoi(argv[1]) <= SIZES)
        sizes = atoi(argv[1]);
    if (rc == 0 && pld_runtime_size(rt) > BLOCKS_MOST)
        rc = PLD_ERR_ARG;
    if (rc == 0)
        rc = check_all(rt);
    if (rc < 0)
        (void)fprintf(stderr, "verbs_coll: %s: %s\n", pld_error_name(rc), pld_last_error());
    else if (pld_runtime_rank(rt) == 0)
        (void)printf("ranks %d calls %lld received %lld crossing %lld wrong %lld\n",
                     pld_runtime_size(rt), (long long)total.calls, (long long)total.received,
                     (long long)total.crossing, (long long)total.wrong);
    if (rc < 0)
        return 1;
    return pld_runtime_close(&rt) < 0 || total.wrong != 0;
}
