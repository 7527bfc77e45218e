/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Operations as calls of NCCL.  Each operation is one group of calls; what NCCL has no
 * collective for goes as messages between all ranks.  A rank's own block is copied.
 *
 * After a group the communicator is settled before anything else is put into the stream:
 * until then a non-blocking one may not have launched.
 */

#include <string.h>

#include "base/base_err.h"
#include "coll/coll_device.h"
#include "coll/coll_shape.h"

int pldi_put_begin(struct pldi_put *put)
{
    put->rc = PLD_OK;
    PLDI_TRY(pldi_gpu_settle(put->g, put->op));
    return put->g->gpu->device->comm->group_begin(put->g->gpu->device);
}

void pldi_put_call(struct pldi_put *put, const struct pldi_comm_call *call)
{
    if (put->rc == PLD_OK)
        put->rc = put->g->gpu->device->comm->enqueue(put->g->comm, call, put->stream);
}

/* A group that was begun is ended whatever went wrong: it is the thread's. */
int pldi_put_end(struct pldi_put *put)
{
    const int rc = put->rc;
    const int ended = put->g->gpu->device->comm->group_end(put->g->gpu->device);

    PLDI_TRY(rc);
    PLDI_TRY(ended);
    return pldi_gpu_settle(put->g, put->op);
}

void pldi_put_runs(struct pldi_put *put, enum pldi_comm_kind kind, int peer, int side, int block,
                   size_t offset, size_t bytes, unsigned char *at)
{
    const pld_request *op = put->op;

    while (bytes > 0) {
        const struct pldi_spot spot = pldi_locate(op, (enum pldi_side)side, block, offset);
        const size_t run = spot.run < bytes ? spot.run : bytes;
        unsigned char *place =
            at != NULL ? at : pldi_base(op, (enum pldi_side)side, spot.item) + spot.offset;
        const struct pldi_comm_call call = {.kind = kind,
                                            .send = place,
                                            .recv = place,
                                            .count = run / pld_dtype_bytes(op->dtype),
                                            .dtype = op->dtype,
                                            .scale = 1,
                                            .peer = peer};

        pldi_put_call(put, &call);
        at = at != NULL ? at + run : NULL;
        offset += run;
        bytes -= run;
    }
}

static int copy(const struct pldi_put *put, void *to, const void *from, size_t bytes)
{
    pld_device *device = put->g->gpu->device;

    if (bytes == 0 || to == from)
        return PLD_OK;
    return device->ops->copy(device, to, from, bytes, put->stream);
}

/* A rank's block for itself, whose two sides have items of equal lengths. */
static int keep_own(const struct pldi_put *put)
{
    const pld_request *op = put->op;
    const int me = op->group->rank;
    size_t bytes = pldi_flow(op, me, me);
    size_t offset = 0;

    while (bytes > 0) {
        const struct pldi_spot from = pldi_locate(op, PLDI_SENT, me, offset);
        const struct pldi_spot to = pldi_locate(op, PLDI_RECEIVED, me, offset);
        const size_t run = from.run < bytes ? from.run : bytes;

        PLDI_TRY(copy(put, pldi_base(op, PLDI_RECEIVED, to.item) + to.offset,
                      pldi_base(op, PLDI_SENT, from.item) + from.offset, run));
        offset += run;
        bytes -= run;
    }
    return PLD_OK;
}

/* Messages for a stretch of all blocks; at: received pieces instead of the blocks' places. */
static int exchange(struct pldi_put *put, size_t offset, size_t most, unsigned char *at)
{
    const pld_request *op = put->op;
    const int me = op->group->rank;

    PLDI_TRY(pldi_put_begin(put));
    for (int r = 0; r < op->group->size; r++) {
        size_t out = pldi_flow(op, me, r);
        size_t in = pldi_flow(op, r, me);

        if (r == me)
            continue;
        out = out > offset ? out - offset : 0;
        in = in > offset ? in - offset : 0;
        pldi_put_runs(put, PLDI_COMM_SEND, r, PLDI_SENT, r, offset, out < most ? out : most, NULL);
        pldi_put_runs(put, PLDI_COMM_RECV, r, PLDI_RECEIVED, r, offset, in < most ? in : most,
                      at != NULL ? at + (size_t)r * most : NULL);
    }
    return pldi_put_end(put);
}

/* What is received would overwrite what is yet to be sent: by way of the scratch. */
static int alltoall_in_place(struct pldi_put *put)
{
    const pld_request *op = put->op;
    const size_t element = pld_dtype_bytes(op->dtype);
    const size_t p = (size_t)op->group->size;
    const size_t block = pldi_vector(op);
    const size_t most = put->g->scratch_bytes / p / element * element;
    unsigned char *scratch = put->g->scratch;

    for (size_t offset = 0; offset < block; offset += most) {
        const size_t n = block - offset < most ? block - offset : most;

        PLDI_TRY(exchange(put, offset, most, scratch));
        for (size_t r = 0; r < p; r++) {
            if ((int)r != op->group->rank)
                PLDI_TRY(copy(put, (unsigned char *)op->recv + r * block + offset,
                              scratch + r * most, n));
        }
    }
    return PLD_OK;
}

static int by_messages(struct pldi_put *put)
{
    if (put->op->kind == PLDI_ALLTOALL && put->op->send == put->op->recv)
        return alltoall_in_place(put);
    PLDI_TRY(keep_own(put));
    return exchange(put, 0, SIZE_MAX, NULL);
}

/* An average is NCCL's if no other factor comes with it. */
static struct pldi_comm_call call_of(const pld_request *op, enum pldi_comm_kind kind)
{
    const int plain = op->op != PLD_AVG || op->print.scale == 1;

    return (struct pldi_comm_call){.kind = kind,
                                   .dtype = op->dtype,
                                   .op = plain ? op->op : PLD_SUM,
                                   .scale = op->op == PLD_AVG && plain ? 1 : op->scale,
                                   .peer = op->root};
}

/* One call for each item: of the blocks of one side NCCL knows the length of one. */
static int by_items(struct pldi_put *put, enum pldi_comm_kind kind)
{
    const pld_request *op = put->op;
    const size_t n = op->items != NULL ? op->n_items : 1;
    struct pldi_comm_call call = call_of(op, kind);

    PLDI_TRY(pldi_put_begin(put));
    for (size_t i = 0; i < n; i++) {
        const size_t bytes = op->items != NULL ? op->items[i].bytes : pldi_vector(op);

        call.send = pldi_base(op, PLDI_SENT, i);
        call.recv = pldi_base(op, PLDI_RECEIVED, i);
        call.count = bytes / pld_dtype_bytes(op->dtype);
        if (bytes > 0)
            pldi_put_call(put, &call);
    }
    return pldi_put_end(put);
}

/* Blocks of different lengths: an operation with a root for each. */
static int by_roots(struct pldi_put *put, enum pldi_comm_kind kind, enum pldi_side side)
{
    const pld_request *op = put->op;
    const size_t *starts = op->starts[side];
    const unsigned char *send = op->send;
    unsigned char *recv = op->recv;
    struct pldi_comm_call call = call_of(op, kind);

    PLDI_TRY(pldi_put_begin(put));
    for (int r = 0; r < op->group->size; r++) {
        const int mine = r == op->group->rank;
        const size_t bytes = starts[r + 1] - starts[r];

        call.count = bytes / pld_dtype_bytes(op->dtype);
        call.peer = r;
        call.send = side == PLDI_SENT ? send + starts[r] : mine ? send : recv + starts[r];
        call.recv = side == PLDI_RECEIVED ? recv + starts[r] : mine ? recv : NULL;
        if (bytes > 0)
            pldi_put_call(put, &call);
    }
    return pldi_put_end(put);
}

static int message(struct pldi_put *put)
{
    const pld_request *op = put->op;
    const int sends = op->kind == PLDI_SEND;
    const struct pldi_comm_call call = {.kind = sends ? PLDI_COMM_SEND : PLDI_COMM_RECV,
                                        .send = op->send,
                                        .recv = op->recv,
                                        .count = op->count,
                                        .dtype = op->dtype,
                                        .scale = 1,
                                        .peer = op->peer};

    PLDI_TRY(pldi_put_begin(put));
    pldi_put_call(put, &call);
    return pldi_put_end(put);
}

/* One rank: what is sent is the result. */
static int alone(struct pldi_put *put)
{
    const pld_request *op = put->op;
    pld_device *device = put->g->gpu->device;
    const size_t n = op->items != NULL ? op->n_items : 1;
    const int scaled = pldi_shape(op->kind)->reduces && op->scale != 1;

    for (size_t i = 0; i < n; i++) {
        const size_t bytes = op->items != NULL ? op->items[i].bytes : pldi_extent(op, PLDI_SENT);
        void *to = pldi_base(op, PLDI_RECEIVED, i);
        const void *from = pldi_base(op, PLDI_SENT, i);

        if (scaled && bytes > 0)
            PLDI_TRY(device->ops->reduce(device, &to, 1, &from, 1,
                                         bytes / pld_dtype_bytes(op->dtype), op->dtype,
                                         pldi_kernel_op(op), op->scale, put->stream));
        else
            PLDI_TRY(copy(put, to, from, bytes));
    }
    return PLD_OK;
}

int pldi_put_operation(struct pldi_put *put)
{
    if (put->op->kind == PLDI_LEAVES)
        return pldi_put_leaves(put);
    if (put->op->group->size == 1)
        return alone(put);
    if (pldi_gpu_sums(put->op))
        return pldi_put_sums(put);
    switch (put->op->kind) {
    case PLDI_ALLREDUCE:
        return by_items(put, PLDI_COMM_ALLREDUCE);
    case PLDI_REDUCE:
        return by_items(put, PLDI_COMM_REDUCE);
    case PLDI_REDUCE_SCATTER:
        return by_items(put, PLDI_COMM_REDUCE_SCATTER);
    case PLDI_REDUCE_SCATTER_V:
        return by_roots(put, PLDI_COMM_REDUCE, PLDI_SENT);
    case PLDI_ALLGATHER:
        return by_items(put, PLDI_COMM_ALLGATHER);
    case PLDI_ALLGATHER_V:
        return by_roots(put, PLDI_COMM_BROADCAST, PLDI_RECEIVED);
    case PLDI_BROADCAST:
        return by_items(put, PLDI_COMM_BROADCAST);
    case PLDI_SEND:
    case PLDI_RECV:
        return message(put);
    case PLDI_ALLTOALL:
    case PLDI_ALLTOALL_V:
    case PLDI_GATHER:
    case PLDI_GATHER_V:
    case PLDI_SCATTER:
    case PLDI_SCATTER_V:
        return by_messages(put);
    case PLDI_BARRIER:
    case PLDI_AGREE:
    case PLDI_CONNECT:
    case PLDI_LEAVES:
    case PLDI_KINDS:
        break;
    }
    return pldi_fail(PLD_ERR_INTERNAL, "%s has no way on a device", pldi_kind_name(put->op->kind));
}
