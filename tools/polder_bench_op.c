/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The operations that `polder bench` knows, and how polder is asked for them. */

#include "polder_bench.h"

#include <string.h>

#ifdef POLDER_TOOL_MPI
#define MPI_CALL(function) function
#else
#define MPI_CALL(function) NULL
#endif

enum { TAG = 1 };

/* Compute if that is to be done at the same time, then wait for what a call started, or for
 * nothing if it waited itself. */
static int finish(const struct bench_call *c, int rc, pld_request **request)
{
    if (rc < 0)
        return rc;
    bench_compute(c->turns);
    return pld_request_wait(request);
}

static pld_coll_opts options(const struct bench_call *c, pld_request **request)
{
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .request = c->blocking ? NULL : request,
                                .stream = c->stream};

    return opts;
}

/* A function that makes one call of polder's, whose last argument is &opts. */
#define RUN(name, call)                                                                            \
    static int run_##name(const struct bench_call *c)                                              \
    {                                                                                              \
        pld_request *request = NULL;                                                               \
        const pld_coll_opts opts = options(c, &request);                                           \
                                                                                                   \
        return finish(c, call, &request);                                                          \
    }

RUN(allreduce, pld_allreduce(c->world, c->send, c->recv, c->count, c->dtype, c->redop, &opts))
RUN(reduce, pld_reduce(c->world, c->send, c->recv, c->count, c->dtype, c->redop, c->root, &opts))
RUN(reduce_scatter,
    pld_reduce_scatter(c->world, c->send, c->recv, c->count, c->dtype, c->redop, &opts))
RUN(reduce_scatter_v,
    pld_reduce_scatter_v(c->world, c->send, c->recv, c->counts, c->dtype, c->redop, &opts))
RUN(allgather, pld_allgather(c->world, c->send, c->recv, c->count, c->dtype, &opts))
RUN(allgather_v, pld_allgather_v(c->world, c->send, c->recv, c->counts, c->dtype, &opts))
RUN(broadcast, pld_broadcast(c->world, c->recv, c->count, c->dtype, c->root, &opts))
RUN(alltoall, pld_alltoall(c->world, c->send, c->recv, c->count, c->dtype, &opts))
RUN(alltoall_v, pld_alltoall_v(c->world, c->send, c->counts, c->recv, c->counts, c->dtype, &opts))
RUN(gather, pld_gather(c->world, c->send, c->recv, c->count, c->dtype, c->root, &opts))
RUN(gather_v, pld_gather_v(c->world, c->send, c->recv, c->counts, c->dtype, c->root, &opts))
RUN(scatter, pld_scatter(c->world, c->send, c->recv, c->count, c->dtype, c->root, &opts))
RUN(scatter_v, pld_scatter_v(c->world, c->send, c->recv, c->counts, c->dtype, c->root, &opts))
RUN(barrier, pld_barrier(c->world, &opts))

struct bench_piece bench_piece_of(const struct bench_call *c, int send_parts, int recv_parts, int i)
{
    const size_t first = c->count * (size_t)i / BENCH_ITEMS;
    const size_t end = c->count * ((size_t)i + 1) / BENCH_ITEMS;
    const size_t start = first * pld_dtype_bytes(c->dtype);
    struct bench_piece p = {*c, first * (size_t)(send_parts ? c->size : 1)};

    p.call.count = end - first;
    p.call.send = (char *)c->send + start * (size_t)(send_parts ? c->size : 1);
    p.call.recv = (char *)c->recv + start * (size_t)(recv_parts ? c->size : 1);
    return p;
}

static void make_items(const struct bench_call *c, int send_parts, int recv_parts,
                       pld_coll_item items[BENCH_ITEMS])
{
    for (int i = 0; i < BENCH_ITEMS; i++) {
        const struct bench_piece p = bench_piece_of(c, send_parts, recv_parts, i);

        items[i] = (pld_coll_item){p.call.send, p.call.recv, p.call.count};
    }
}

#define RUN_LIST(name, send_parts, recv_parts, call)                                               \
    static int run_##name(const struct bench_call *c)                                              \
    {                                                                                              \
        pld_request *request = NULL;                                                               \
        const pld_coll_opts opts = options(c, &request);                                           \
        pld_coll_item items[BENCH_ITEMS];                                                          \
                                                                                                   \
        make_items(c, send_parts, recv_parts, items);                                              \
        return finish(c, call, &request);                                                          \
    }

RUN_LIST(allreduce_list, 0, 0,
         pld_allreduce_list(c->world, items, BENCH_ITEMS, c->dtype, c->redop, &opts))
RUN_LIST(reduce_scatter_list, 1, 0,
         pld_reduce_scatter_list(c->world, items, BENCH_ITEMS, c->dtype, c->redop, &opts))
RUN_LIST(allgather_list, 0, 1, pld_allgather_list(c->world, items, BENCH_ITEMS, c->dtype, &opts))
RUN_LIST(broadcast_list, 0, 0,
         pld_broadcast_list(c->world, items, BENCH_ITEMS, c->dtype, c->root, &opts))

static int receive(const struct bench_call *c, const pld_coll_opts *opts)
{
    return pld_recv(c->world, c->recv, c->count, c->dtype, (c->rank + c->size - 1) % c->size, TAG,
                    opts);
}

static int send(const struct bench_call *c, const pld_coll_opts *opts)
{
    return pld_send(c->world, c->send, c->count, c->dtype, (c->rank + 1) % c->size, TAG, opts);
}

/*
 * To the next rank and from the previous one, at once: one of the two must not wait.  Of device
 * memory they come one after the other, so that neighbours begin with different ones.
 */
static int run_sendrecv(const struct bench_call *c)
{
    pld_request *requests[2] = {NULL, NULL};
    const pld_coll_opts first = {PLD_OPTS(pld_coll_opts), .request = &requests[0],
                                 .stream = c->stream};
    const pld_coll_opts second = {PLD_OPTS(pld_coll_opts), .request = &requests[1],
                                  .stream = c->stream};
    const int receives = c->rank % 2 == 0;
    int rc = receives ? receive(c, &first) : send(c, &first);

    if (rc == 0)
        rc = receives ? send(c, &second) : receive(c, &second);
    if (rc < 0)
        return rc;
    bench_compute(c->turns);
    return pld_request_wait_all(2, requests);
}

/* Factors of the bus bandwidth: nccl-tests, doc/PERFORMANCE.md. */
static const struct bench_op ops[] = {
    {.name = "allreduce",
     .title = "Allreduce",
     .places = BENCH_BOTH_PLACES,
     .from = BENCH_ALL_RANKS,
     .bus = {2, 1},
     .polder = run_allreduce,
     .mpi = MPI_CALL(bench_mpi_allreduce)},
    {.name = "reduce_scatter",
     .title = "Reduce_scatter",
     .send_parts = 1,
     .places = BENCH_BOTH_PLACES,
     .from = BENCH_ALL_RANKS,
     .from_own_part = 1,
     .bus = {1, 1},
     .polder = run_reduce_scatter,
     .mpi = MPI_CALL(bench_mpi_reduce_scatter)},
    {.name = "allgather",
     .title = "Allgather",
     .recv_parts = 1,
     .places = BENCH_BOTH_PLACES,
     .from = BENCH_EACH_RANK,
     .bus = {1, 1},
     .polder = run_allgather,
     .mpi = MPI_CALL(bench_mpi_allgather)},
    {.name = "broadcast",
     .title = "Broadcast",
     .places = BENCH_IN_PLACE,
     .rooted = 1,
     .from = BENCH_ROOT,
     .bus = {1, 0},
     .polder = run_broadcast,
     .mpi = MPI_CALL(bench_mpi_broadcast)},
    {.name = "reduce",
     .title = "Reduce",
     .places = BENCH_BOTH_PLACES,
     .rooted = 1,
     .root_receives = 1,
     .from = BENCH_ALL_RANKS,
     .bus = {1, 0},
     .polder = run_reduce,
     .mpi = MPI_CALL(bench_mpi_reduce)},
    {.name = "alltoall",
     .title = "Alltoall",
     .send_parts = 1,
     .recv_parts = 1,
     .places = BENCH_BOTH_PLACES,
     .from = BENCH_EACH_RANK,
     .from_own_part = 1,
     .bus = {1, 1},
     .polder = run_alltoall,
     .mpi = MPI_CALL(bench_mpi_alltoall)},
    {.name = "gather",
     .title = "Gather",
     .recv_parts = 1,
     .places = BENCH_BOTH_PLACES,
     .rooted = 1,
     .root_receives = 1,
     .from = BENCH_EACH_RANK,
     .bus = {1, 1},
     .polder = run_gather,
     .mpi = MPI_CALL(bench_mpi_gather)},
    {.name = "scatter",
     .title = "Scatter",
     .send_parts = 1,
     .places = BENCH_BOTH_PLACES,
     .rooted = 1,
     .from = BENCH_ROOT,
     .from_own_part = 1,
     .bus = {1, 1},
     .polder = run_scatter,
     .mpi = MPI_CALL(bench_mpi_scatter)},
    {.name = "reduce_scatter_v",
     .title = "Reduce_scatterv",
     .by_rank = 1,
     .send_parts = 1,
     .places = BENCH_BOTH_PLACES,
     .from = BENCH_ALL_RANKS,
     .from_own_part = 1,
     .bus = {1, 1},
     .polder = run_reduce_scatter_v,
     .mpi = MPI_CALL(bench_mpi_reduce_scatter_v)},
    {.name = "allgather_v",
     .title = "Allgatherv",
     .by_rank = 1,
     .recv_parts = 1,
     .places = BENCH_BOTH_PLACES,
     .from = BENCH_EACH_RANK,
     .bus = {1, 1},
     .polder = run_allgather_v,
     .mpi = MPI_CALL(bench_mpi_allgather_v)},
    {.name = "alltoall_v",
     .title = "Alltoallv",
     .by_rank = 1,
     .send_parts = 1,
     .recv_parts = 1,
     .places = BENCH_OUT_OF_PLACE,
     .from = BENCH_EACH_RANK,
     .from_own_part = 1,
     .bus = {1, 1},
     .polder = run_alltoall_v,
     .mpi = MPI_CALL(bench_mpi_alltoall_v)},
    {.name = "gather_v",
     .title = "Gatherv",
     .by_rank = 1,
     .recv_parts = 1,
     .places = BENCH_BOTH_PLACES,
     .rooted = 1,
     .root_receives = 1,
     .from = BENCH_EACH_RANK,
     .bus = {1, 1},
     .polder = run_gather_v,
     .mpi = MPI_CALL(bench_mpi_gather_v)},
    {.name = "scatter_v",
     .title = "Scatterv",
     .by_rank = 1,
     .send_parts = 1,
     .places = BENCH_BOTH_PLACES,
     .rooted = 1,
     .from = BENCH_ROOT,
     .from_own_part = 1,
     .bus = {1, 1},
     .polder = run_scatter_v,
     .mpi = MPI_CALL(bench_mpi_scatter_v)},
    {.name = "allreduce_list",
     .title = "Allreduce list",
     .items = 1,
     .places = BENCH_BOTH_PLACES,
     .from = BENCH_ALL_RANKS,
     .bus = {2, 1},
     .polder = run_allreduce_list,
     .mpi = MPI_CALL(bench_mpi_allreduce_list)},
    {.name = "reduce_scatter_list",
     .title = "Reduce_scatter list",
     .send_parts = 1,
     .items = 1,
     .places = BENCH_OUT_OF_PLACE,
     .from = BENCH_ALL_RANKS,
     .from_own_part = 1,
     .bus = {1, 1},
     .polder = run_reduce_scatter_list,
     .mpi = MPI_CALL(bench_mpi_reduce_scatter_list)},
    {.name = "allgather_list",
     .title = "Allgather list",
     .recv_parts = 1,
     .items = 1,
     .places = BENCH_OUT_OF_PLACE,
     .from = BENCH_EACH_RANK,
     .bus = {1, 1},
     .polder = run_allgather_list,
     .mpi = MPI_CALL(bench_mpi_allgather_list)},
    {.name = "broadcast_list",
     .title = "Broadcast list",
     .items = 1,
     .places = BENCH_IN_PLACE,
     .rooted = 1,
     .from = BENCH_ROOT,
     .bus = {1, 0},
     .polder = run_broadcast_list,
     .mpi = MPI_CALL(bench_mpi_broadcast_list)},
    {.name = "sendrecv",
     .title = "Sendrecv",
     .places = BENCH_OUT_OF_PLACE,
     .from = BENCH_PREVIOUS,
     .bus = {1, 0},
     .polder = run_sendrecv,
     .mpi = MPI_CALL(bench_mpi_sendrecv)},
    {.name = "barrier",
     .title = "Barrier",
     .places = BENCH_OUT_OF_PLACE,
     .from = BENCH_NOTHING,
     .polder = run_barrier,
     .mpi = MPI_CALL(bench_mpi_sync)},
};

const struct bench_op *bench_op_at(int i)
{
    return i >= 0 && (size_t)i < sizeof(ops) / sizeof(*ops) ? &ops[i] : NULL;
}

const struct bench_op *bench_op_find(const char *name)
{
    const struct bench_op *op;

    for (int i = 0; (op = bench_op_at(i)) != NULL; i++) {
        if (strcmp(op->name, name) == 0)
            return op;
    }
    return NULL;
}

double bench_bus_factor(const struct bench_op *op, int size)
{
    return op->bus[0] * (size - op->bus[1]) / size;
}

/* Memory that a rank must read and write if they share the work, in units of copying the
 * longer vector. */
double bench_copy_factor(const struct bench_op *op, int in_place, int size)
{
    const double part = 1.0 / size;

    if (op->from == BENCH_NOTHING)
        return 0;
    if (op->from == BENCH_ALL_RANKS) /* all is read; a part is written, unless all ranks get it */
        return op->send_parts || op->root_receives ? (1 + part) / 2 : 1;
    if (op->rooted && (op->send_parts || op->recv_parts))
        return part;
    return op->recv_parts && in_place ? 1 - part : 1;
}

const char *bench_redop_name(pld_op redop)
{
    static const char *const names[BENCH_REDOPS] = {"sum", "avg", "max", "min", "prod"};

    return (unsigned)redop < BENCH_REDOPS ? names[redop] : "?";
}

int bench_redop_takes(pld_op redop, pld_dtype dtype)
{
    return redop != PLD_AVG || dtype == PLD_F32 || dtype == PLD_F64 || dtype == PLD_F16 ||
           dtype == PLD_BF16;
}
