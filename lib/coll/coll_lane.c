/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Large operations.  The vector is seen as one slice per rank, each slice as a
 * row of chunks, and a chunk goes through two stages:
 *
 *   gather  every rank gets the peers' parts of its own slice and adds them up
 *   spread  every rank sends its slice to the peers
 *
 * reduce_scatter is the first stage, allgather the second, allreduce both: each
 * byte leaves and enters a rank 2(p-1)/p times, the least there is, and each sum
 * is formed once, by one rank, over all contributions in rank order.
 *
 * Broadcast is a tree: the first stage takes a chunk from the parent, the second
 * passes it to the children.
 *
 * The lanes take chunks in turn.  Each has tags of its own, because how two of
 * them interleave differs from rank to rank, while within one the order is fixed.
 */

#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll.h"
#include "device/device_kernels.h"

enum { START, GATHER, SPREAD, END };

enum {
    SLICE_ALIGN = 64, /* elements */
    MAX_CHUNK = 512 << 10,
    MIN_CHUNK = 32 << 10,
    ALL_CHUNKS = 1 << 20, /* of the peers of one lane together */
    CHAIN_CHUNKS = 8      /* chunks per rank from which a chain beats a binomial tree */
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t slice_elements(const pld_request *op)
{
    const size_t p = (size_t)op->group->size;
    size_t each;

    if (op->kind == PLDI_BROADCAST || op->kind != PLDI_ALLREDUCE)
        return op->count;
    each = op->count / p + (op->count % p != 0);
    return (each + SLICE_ALIGN - 1) / SLICE_ALIGN * SLICE_ALIGN;
}

/* First element of a rank's slice within the whole vector. */
static size_t slice_start(const pld_request *op, int rank)
{
    const size_t start = (size_t)rank * slice_elements(op);

    return op->kind == PLDI_ALLREDUCE ? min_size(start, op->count) : start;
}

/* The part of a rank's slice that is in a chunk: its first byte in the vector, and its bytes. */
static size_t part(const pld_request *op, int rank, size_t chunk, size_t *start)
{
    const size_t bytes = pld_dtype_bytes(op->dtype);
    const size_t each = op->chunk_bytes / bytes;
    const size_t first = slice_start(op, rank);
    size_t length = slice_elements(op);

    if (op->kind == PLDI_ALLREDUCE)
        length = min_size(length, op->count - first);
    *start = (first + min_size(chunk * each, length)) * bytes;
    return (length - min_size(chunk * each, length) < each ? length - min_size(chunk * each, length)
                                                           : each) *
           bytes;
}

int pldi_lane_plan(pld_request *op)
{
    const size_t bytes = slice_elements(op) * pld_dtype_bytes(op->dtype);
    size_t chunk = ALL_CHUNKS / (size_t)op->group->size / 64 * 64;

    chunk = chunk > MAX_CHUNK ? MAX_CHUNK : chunk < MIN_CHUNK ? MIN_CHUNK : chunk;
    op->chunk_bytes = chunk;
    op->chunks = bytes / chunk + (bytes % chunk != 0);
    if (op->kind == PLDI_ALLGATHER || op->kind == PLDI_BROADCAST)
        return PLD_OK;
    return pldi_work_reserve(op->group, chunk);
}

static int lane_tag(const pld_request *op, const struct pldi_lane *lane, int stage)
{
    return PLDI_TAG_LANE + 2 * (int)(lane - op->group->work.lanes) + (stage == SPREAD);
}

static int send_part(const pld_request *op, struct pldi_lane *lane, int stage, int peer,
                     const void *from, size_t bytes)
{
    struct pldi_transport *t = op->group->transport;

    if (bytes == 0)
        return PLD_OK;
    return t->ops->isend(t, from, bytes, peer, lane_tag(op, lane, stage), &lane->sends[peer]);
}

static int recv_part(const pld_request *op, struct pldi_lane *lane, int stage, int peer, void *to,
                     size_t bytes)
{
    struct pldi_transport *t = op->group->transport;

    if (bytes == 0)
        return PLD_OK;
    lane->wants[peer] = bytes;
    return t->ops->irecv(t, to, bytes, peer, lane_tag(op, lane, stage), &lane->recvs[peer]);
}

/* Peers in an order that starts behind this rank, so that not all turn to rank 0 first. */
static int nth_peer(const pld_group *g, int n)
{
    return (g->rank + n) % g->size;
}

static int post_gather(const pld_request *op, struct pldi_lane *lane)
{
    const pld_group *g = op->group;
    size_t start;
    size_t bytes = part(op, g->rank, lane->chunk, &start);

    for (int n = 1; n < g->size; n++) {
        const int peer = nth_peer(g, g->size - n);
        unsigned char *to = lane->scratch + (size_t)peer * op->chunk_bytes;

        PLDI_TRY(recv_part(op, lane, GATHER, peer, to, bytes));
    }
    for (int n = 1; n < g->size; n++) {
        const int peer = nth_peer(g, n);

        bytes = part(op, peer, lane->chunk, &start);
        PLDI_TRY(send_part(op, lane, GATHER, peer, (const char *)op->send + start, bytes));
    }
    return PLD_OK;
}

/* Where this rank's own slice is, or comes to be. */
static unsigned char *own_place(const pld_request *op, size_t start)
{
    if (op->kind == PLDI_REDUCE_SCATTER)
        start -= slice_start(op, op->group->rank) * pld_dtype_bytes(op->dtype);
    return (unsigned char *)op->recv + start;
}

static void reduce_own(const pld_request *op, const struct pldi_lane *lane)
{
    const pld_group *g = op->group;
    const pld_op sum = op->op == PLD_AVG ? PLD_SUM : op->op;
    size_t start;
    const size_t bytes = part(op, g->rank, lane->chunk, &start);

    if (bytes == 0)
        return;
    for (int r = 0; r < g->size; r++)
        g->work.sources[r] = lane->scratch + (size_t)r * op->chunk_bytes;
    g->work.sources[g->rank] = (const char *)op->send + start;
    pldi_kernels()->reduce(own_place(op, start), g->work.sources, g->size,
                           bytes / pld_dtype_bytes(op->dtype), op->dtype, sum, op->scale);
}

static int post_spread(const pld_request *op, struct pldi_lane *lane)
{
    const pld_group *g = op->group;
    size_t start;
    size_t bytes;
    unsigned char *own;

    for (int n = 1; n < g->size; n++) {
        const int peer = nth_peer(g, g->size - n);

        bytes = part(op, peer, lane->chunk, &start);
        PLDI_TRY(recv_part(op, lane, SPREAD, peer, (char *)op->recv + start, bytes));
    }
    bytes = part(op, g->rank, lane->chunk, &start);
    own = own_place(op, start);
    if (op->kind == PLDI_ALLGATHER) {
        const size_t base = slice_start(op, g->rank) * pld_dtype_bytes(op->dtype);
        const unsigned char *from = (const unsigned char *)op->send + (start - base);

        if (from != own && bytes > 0)
            memcpy(own, from, bytes);
    }
    for (int n = 1; n < g->size; n++)
        PLDI_TRY(send_part(op, lane, SPREAD, nth_peer(g, n), own, bytes));
    return PLD_OK;
}

/* The tree in ranks relative to the root: parent, and children rank + 2^k for k below `bits`. */
static int is_chain(const pld_request *op)
{
    return op->chunks >= CHAIN_CHUNKS * (size_t)op->group->size;
}

static int post_from_parent(const pld_request *op, struct pldi_lane *lane)
{
    const int p = op->group->size;
    const int me = (op->group->rank - op->root + p) % p;
    const int parent = is_chain(op) ? me - 1 : me & (me - 1);
    size_t start = lane->chunk * op->chunk_bytes;
    const size_t total = op->count * pld_dtype_bytes(op->dtype);

    if (me == 0)
        return PLD_OK;
    return recv_part(op, lane, GATHER, (parent + op->root) % p, (char *)op->recv + start,
                     min_size(op->chunk_bytes, total - start));
}

static int post_to_children(const pld_request *op, struct pldi_lane *lane)
{
    const int p = op->group->size;
    const int me = (op->group->rank - op->root + p) % p;
    const int below = is_chain(op) ? 2 : me == 0 ? p : me & -me;
    const size_t start = lane->chunk * op->chunk_bytes;
    const size_t total = op->count * pld_dtype_bytes(op->dtype);

    for (int step = 1; step < below && step < p - me; step *= 2)
        PLDI_TRY(send_part(op, lane, GATHER, (me + step + op->root) % p,
                           (const char *)op->recv + start,
                           min_size(op->chunk_bytes, total - start)));
    return PLD_OK;
}

static int post_stage(const pld_request *op, struct pldi_lane *lane)
{
    if (op->kind == PLDI_BROADCAST)
        return lane->state == GATHER ? post_from_parent(op, lane) : post_to_children(op, lane);
    if (lane->state == GATHER)
        return op->kind == PLDI_ALLGATHER ? PLD_OK : post_gather(op, lane);
    return op->kind == PLDI_REDUCE_SCATTER ? PLD_OK : post_spread(op, lane);
}

static int lane_done(pld_request *op, struct pldi_lane *lane, int *moved)
{
    const int n = op->group->size;
    const int received = pldi_xfers_test(op->group, lane->recvs, lane->wants, n, moved);
    int sent;

    PLDI_TRY(received);
    sent = pldi_xfers_test(op->group, lane->sends, NULL, n, moved);
    PLDI_TRY(sent);
    return received && sent;
}

/* One stage further: 1 if the lane moved, 0 if it waits or has ended. */
static int advance(pld_request *op, struct pldi_lane *lane, int *moved)
{
    int rc;

    if (lane->state == END)
        return 0;
    if (lane->state != START) {
        rc = lane_done(op, lane, moved);
        if (rc <= 0)
            return rc;
    }
    if (lane->state == GATHER) {
        if (op->kind == PLDI_ALLREDUCE || op->kind == PLDI_REDUCE_SCATTER)
            reduce_own(op, lane);
        lane->state = SPREAD;
    } else {
        lane->chunk += lane->state == SPREAD ? PLDI_LANES : 0;
        lane->state = lane->chunk < op->chunks ? GATHER : END;
    }
    *moved = 1;
    if (lane->state == END)
        return 1;
    rc = post_stage(op, lane);
    return rc < 0 ? rc : 1;
}

int pldi_lane_step(pld_request *op, int *moved)
{
    struct pldi_lane *lanes = op->group->work.lanes;
    int ended = 0;

    if (op->state == PLDI_OPENED) {
        for (int i = 0; i < PLDI_LANES; i++) {
            lanes[i].state = START;
            lanes[i].chunk = (size_t)i;
        }
        op->state = PLDI_MOVING;
    }
    for (int i = 0; i < PLDI_LANES; i++) {
        int rc;

        do
            rc = advance(op, &lanes[i], moved);
        while (rc > 0);
        PLDI_TRY(rc);
        ended += lanes[i].state == END;
    }
    return ended == PLDI_LANES;
}

size_t pldi_small_bytes(const pld_request *op)
{
    const size_t bytes = op->count * pld_dtype_bytes(op->dtype);

    if (op->kind == PLDI_BARRIER || op->kind == PLDI_AGREE || bytes == 0)
        return 0;
    if (op->group->size == 1)
        return bytes;
    return op->group->size <= PLDI_DIRECT_RANKS && bytes <= PLDI_SMALL_BYTES ? bytes : SIZE_MAX;
}

const void *pldi_small_source(const pld_request *op, int peer)
{
    if (op->kind == PLDI_REDUCE_SCATTER)
        return (const char *)op->send + (size_t)peer * op->count * pld_dtype_bytes(op->dtype);
    if (op->kind == PLDI_BROADCAST)
        return op->group->rank == op->root ? op->recv : NULL;
    return op->send;
}

static const void *arrived(const pld_request *op, int rank)
{
    const size_t slot = sizeof(struct pldi_opening) + PLDI_SMALL_BYTES;

    if (rank == op->group->rank)
        return pldi_small_source(op, rank);
    return op->group->work.in + (size_t)rank * slot + sizeof(struct pldi_opening);
}

void pldi_small_finish(pld_request *op)
{
    const pld_group *g = op->group;
    const size_t bytes = pldi_small_bytes(op);

    if (bytes == 0)
        return;
    if (op->kind == PLDI_BROADCAST) {
        if (g->rank != op->root)
            memcpy(op->recv, arrived(op, op->root), bytes);
        return;
    }
    for (int r = 0; r < g->size; r++) {
        g->work.sources[r] = arrived(op, r);
        if (op->kind == PLDI_ALLGATHER)
            memmove((char *)op->recv + (size_t)r * bytes, g->work.sources[r], bytes);
    }
    if (op->kind != PLDI_ALLGATHER)
        pldi_kernels()->reduce(op->recv, g->work.sources, g->size, op->count, op->dtype,
                               op->op == PLD_AVG ? PLD_SUM : op->op, op->scale);
}
