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

/* Wait for what a call started, or for nothing if it waited itself. */
static int finish(int rc, pld_request **request)
{
    return rc < 0 ? rc : pld_request_wait(request);
}

static pld_coll_opts options(const struct bench_call *c, pld_request **request)
{
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .request = c->blocking ? NULL : request};

    return opts;
}

static int run_allreduce(const struct bench_call *c)
{
    pld_request *request = NULL;
    const pld_coll_opts opts = options(c, &request);

    return finish(pld_allreduce(c->world, c->send, c->recv, c->count, c->dtype, c->redop, &opts),
                  &request);
}

static int run_reduce(const struct bench_call *c)
{
    pld_request *request = NULL;
    const pld_coll_opts opts = options(c, &request);

    return finish(
        pld_reduce(c->world, c->send, c->recv, c->count, c->dtype, c->redop, c->root, &opts),
        &request);
}

static int run_reduce_scatter(const struct bench_call *c)
{
    pld_request *request = NULL;
    const pld_coll_opts opts = options(c, &request);

    return finish(
        pld_reduce_scatter(c->world, c->send, c->recv, c->count, c->dtype, c->redop, &opts),
        &request);
}

static int run_allgather(const struct bench_call *c)
{
    pld_request *request = NULL;
    const pld_coll_opts opts = options(c, &request);

    return finish(pld_allgather(c->world, c->send, c->recv, c->count, c->dtype, &opts), &request);
}

static int run_broadcast(const struct bench_call *c)
{
    pld_request *request = NULL;
    const pld_coll_opts opts = options(c, &request);

    return finish(pld_broadcast(c->world, c->recv, c->count, c->dtype, c->root, &opts), &request);
}

static int run_alltoall(const struct bench_call *c)
{
    pld_request *request = NULL;
    const pld_coll_opts opts = options(c, &request);

    return finish(pld_alltoall(c->world, c->send, c->recv, c->count, c->dtype, &opts), &request);
}

static int run_gather(const struct bench_call *c)
{
    pld_request *request = NULL;
    const pld_coll_opts opts = options(c, &request);

    return finish(pld_gather(c->world, c->send, c->recv, c->count, c->dtype, c->root, &opts),
                  &request);
}

static int run_scatter(const struct bench_call *c)
{
    pld_request *request = NULL;
    const pld_coll_opts opts = options(c, &request);

    return finish(pld_scatter(c->world, c->send, c->recv, c->count, c->dtype, c->root, &opts),
                  &request);
}

/* To the next rank and from the previous one, at once: one of the two must not wait. */
static int run_sendrecv(const struct bench_call *c)
{
    pld_request *requests[2] = {NULL, NULL};
    const pld_coll_opts receiving = {PLD_OPTS(pld_coll_opts), .request = &requests[0]};
    const pld_coll_opts sending = {PLD_OPTS(pld_coll_opts), .request = &requests[1]};
    const int next = (c->rank + 1) % c->size;
    const int previous = (c->rank + c->size - 1) % c->size;
    int rc = pld_recv(c->world, c->recv, c->count, c->dtype, previous, TAG, &receiving);

    if (rc == 0)
        rc = pld_send(c->world, c->send, c->count, c->dtype, next, TAG, &sending);
    return rc < 0 ? rc : pld_request_wait_all(2, requests);
}

static int run_barrier(const struct bench_call *c)
{
    pld_request *request = NULL;
    const pld_coll_opts opts = options(c, &request);

    return finish(pld_barrier(c->world, &opts), &request);
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
