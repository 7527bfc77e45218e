/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Large operations.  Blocks (coll_shape.h) are rows of chunks, and a chunk goes
 * through two stages:
 *
 *   gather  every rank gets the peers' parts of its own slice and adds them up
 *   spread  what flows from rank to rank is sent and received
 *
 * reduce_scatter is the first stage, what does not reduce the second, allreduce
 * both: each byte leaves and enters a rank 2(p-1)/p times, the least there is,
 * and each sum is formed once, by one rank, over all contributions in rank order.
 * reduce is both, too: no rank takes in more than the vector twice.
 *
 * Broadcast is a tree: the first stage takes a chunk from the parent, the second
 * passes it to the children.
 *
 * The lanes take chunks in turn.  Each has tags of its own, because how two of
 * them interleave differs from rank to rank, while within one the order is fixed.
 * Two ranks need to agree only on what passes between them, so blocks of a few
 * ranks may have ended while others go on.
 *
 * A part that lies in several items of a list is packed into scratch; what comes
 * for such a part, or for a place that is still being sent from, waits there.
 */

#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll.h"
#include "coll/coll_route.h"
#include "coll/coll_shape.h"
#include "device/device_kernels.h"

enum { START, GATHER, SPREAD, END };

enum { CHAIN_CHUNKS = 8 /* chunks per rank from which a chain beats a binomial tree */ };

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int reduces(const pld_request *op)
{
    return pldi_shape(op->kind)->reduces;
}

/* What so few bytes are travels with the opening. */
static int is_small(const pld_request *op, size_t bytes)
{
    return !pldi_route_carries(op) && bytes <= op->group->small_bytes;
}

static int is_even(const pld_request *op)
{
    return pldi_shape(op->kind)->cut[PLDI_SENT] == PLDI_EVEN;
}

size_t pldi_small_bytes(const pld_request *op, int s, int d)
{
    size_t bytes = pldi_flow(op, s, d);

    if (reduces(op))
        bytes = !is_even(op) ? pldi_slice(op, d) : pldi_takes(op, d) ? pldi_vector(op) : 0;
    return is_small(op, bytes) ? bytes : 0;
}

/* What the lanes reduce on rank r, and move from s to d. */
static size_t lane_slice(const pld_request *op, int r)
{
    return is_small(op, is_even(op) ? pldi_vector(op) : pldi_slice(op, r)) ? 0 : pldi_slice(op, r);
}

static size_t lane_flow(const pld_request *op, int s, int d)
{
    const size_t bytes = pldi_flow(op, s, d);

    if (reduces(op))
        return lane_slice(op, s) > 0 ? bytes : 0;
    return is_small(op, bytes) ? 0 : bytes;
}

/* The part of so many bytes that is in a chunk. */
static size_t part(const pld_request *op, size_t bytes, size_t chunk)
{
    return min_size(bytes - min_size(bytes, chunk * op->chunk_bytes), op->chunk_bytes);
}

static size_t gather_part(const pld_request *op, const struct pldi_lane *lane, int r)
{
    return part(op, lane_slice(op, r), lane->chunk);
}

static size_t spread_part(const pld_request *op, const struct pldi_lane *lane, int s, int d)
{
    return part(op, lane_flow(op, s, d), lane->chunk);
}

/* Bytes of the longest row of chunks that this rank has to do with. */
static size_t longest(const pld_request *op)
{
    const int me = op->group->rank;
    size_t most = 0;

    for (int r = 0; r < op->group->size; r++) {
        const size_t slice = reduces(op) ? lane_slice(op, r) : 0;
        const size_t out = lane_flow(op, me, r);
        const size_t in = lane_flow(op, r, me);

        most = slice > most ? slice : most;
        most = out > most ? out : most;
        most = in > most ? in : most;
    }
    return most;
}

/* Received parts go to scratch first: they are not in one piece, or still being sent from. */
static int bounces(const pld_request *op)
{
    return op->items != NULL || (op->kind == PLDI_ALLTOALL && op->send == op->recv);
}

static int is_tree(const pld_request *op)
{
    return op->kind == PLDI_BROADCAST;
}

int pldi_lane_plan(pld_request *op)
{
    const size_t p = (size_t)op->group->size;
    const size_t chunk = op->group->chunk_bytes;
    size_t bytes;

    op->chunk_bytes = chunk;
    bytes = !is_tree(op) ? longest(op) : is_small(op, pldi_vector(op)) ? 0 : pldi_vector(op);
    op->chunks = bytes / chunk + (bytes % chunk != 0);
    if (op->chunks == 0 || !(reduces(op) || bounces(op)))
        return PLD_OK;
    return pldi_work_reserve(op->group, (bounces(op) ? 2 : 1) * p * chunk);
}

static unsigned char *scratch(const pld_request *op, const struct pldi_lane *lane, int r)
{
    return lane->scratch + (size_t)r * op->chunk_bytes;
}

static int lane_tag(const pld_request *op, const struct pldi_lane *lane, int stage)
{
    return PLDI_TAG_LANE + 2 * (int)(lane - op->group->work.lanes) + (stage == SPREAD);
}

static int send_part(const pld_request *op, struct pldi_lane *lane, int stage, int peer,
                     const void *from, size_t bytes)
{
    if (bytes == 0)
        return PLD_OK;
    return pldi_send_part(op->group, from, bytes, peer, lane_tag(op, lane, stage),
                          &lane->sends[peer]);
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

/* A part of a block of the sending side in one piece, in that part of scratch if need be. */
static const unsigned char *outgoing(const pld_request *op, const struct pldi_lane *lane, int block,
                                     size_t bytes, int spare)
{
    const size_t offset = lane->chunk * op->chunk_bytes;
    unsigned char *piece;

    if (bytes == 0)
        return NULL;
    piece = pldi_piece(op, PLDI_SENT, block, offset, bytes);
    if (piece == NULL) {
        piece = scratch(op, lane, spare);
        pldi_pack(op, block, offset, bytes, piece);
    }
    return piece;
}

static int post_gather(const pld_request *op, struct pldi_lane *lane)
{
    const pld_group *g = op->group;
    size_t bytes = gather_part(op, lane, g->rank);

    for (int n = 1; n < g->size; n++) {
        const int peer = nth_peer(g, g->size - n);

        PLDI_TRY(recv_part(op, lane, GATHER, peer, scratch(op, lane, peer), bytes));
    }
    for (int n = 1; n < g->size; n++) {
        const int peer = nth_peer(g, n);

        bytes = gather_part(op, lane, peer);
        PLDI_TRY(send_part(op, lane, GATHER, peer, outgoing(op, lane, peer, bytes, g->size + peer),
                           bytes));
    }
    return PLD_OK;
}

static void reduce_own(const pld_request *op, struct pldi_lane *lane)
{
    const pld_group *g = op->group;
    const size_t offset = lane->chunk * op->chunk_bytes;
    const size_t bytes = gather_part(op, lane, g->rank);
    const int takes = pldi_takes(op, g->rank);
    const struct pldi_sum sum = pldi_sum_of(op);
    void *target;

    if (bytes == 0)
        return;
    for (int r = 0; r < g->size; r++)
        g->work.sources[r] = scratch(op, lane, r);
    g->work.sources[g->rank] = outgoing(op, lane, g->rank, bytes, g->rank);
    lane->result = takes ? pldi_piece(op, PLDI_RECEIVED, g->rank, offset, bytes) : NULL;
    if (lane->result == NULL)
        lane->result = scratch(op, lane, g->rank);
    target = lane->result;
    pldi_sum_to(&sum, &target, 1, g->work.sources, g->size, bytes / pld_dtype_bytes(op->dtype), 0);
    if (takes && lane->result == scratch(op, lane, g->rank))
        pldi_unpack(op, g->rank, offset, bytes, lane->result);
}

/* What this rank has for itself. */
static void move_own(const pld_request *op, const struct pldi_lane *lane)
{
    const int me = op->group->rank;
    size_t offset = lane->chunk * op->chunk_bytes;
    size_t bytes = spread_part(op, lane, me, me);

    while (bytes > 0) {
        const struct pldi_spot from = pldi_locate(op, PLDI_SENT, me, offset);
        const struct pldi_spot to = pldi_locate(op, PLDI_RECEIVED, me, offset);
        const size_t n = min_size(bytes, min_size(from.run, to.run));
        const unsigned char *source = pldi_base(op, PLDI_SENT, from.item) + from.offset;
        unsigned char *target = pldi_base(op, PLDI_RECEIVED, to.item) + to.offset;

        if (source != target)
            memcpy(target, source, n);
        offset += n;
        bytes -= n;
    }
}

static int receive_flows(const pld_request *op, struct pldi_lane *lane)
{
    const pld_group *g = op->group;
    const size_t offset = lane->chunk * op->chunk_bytes;

    for (int n = 1; n < g->size; n++) {
        const int peer = nth_peer(g, g->size - n);
        const size_t bytes = spread_part(op, lane, peer, g->rank);
        unsigned char *to = NULL;

        if (bytes > 0)
            to = bounces(op) ? scratch(op, lane, peer)
                             : pldi_piece(op, PLDI_RECEIVED, peer, offset, bytes);
        PLDI_TRY(recv_part(op, lane, SPREAD, peer, to, bytes));
    }
    return PLD_OK;
}

static int post_spread(const pld_request *op, struct pldi_lane *lane)
{
    const pld_group *g = op->group;
    const int whole = pldi_shape(op->kind)->cut[PLDI_SENT] == PLDI_WHOLE;
    const unsigned char *from = lane->result;

    PLDI_TRY(receive_flows(op, lane));
    if (!reduces(op))
        move_own(op, lane);
    if (whole) /* the same for all: packed once */
        from = outgoing(op, lane, 0, part(op, pldi_extent(op, PLDI_SENT), lane->chunk), g->size);
    for (int n = 1; n < g->size; n++) {
        const int peer = nth_peer(g, n);
        const size_t bytes = spread_part(op, lane, g->rank, peer);

        if (!whole && !reduces(op))
            from = outgoing(op, lane, peer, bytes, g->size + peer);
        PLDI_TRY(send_part(op, lane, SPREAD, peer, from, bytes));
    }
    return PLD_OK;
}

/* What came to scratch is put where it belongs. */
static void settle(const pld_request *op, const struct pldi_lane *lane)
{
    const int me = op->group->rank;

    for (int s = 0; s < op->group->size && bounces(op); s++) {
        const size_t bytes = s == me ? 0 : spread_part(op, lane, s, me);

        pldi_unpack(op, s, lane->chunk * op->chunk_bytes, bytes, scratch(op, lane, s));
    }
}

/* The tree in ranks relative to the root: parent, and children rank + 2^k for k below `bits`. */
static int is_chain(const pld_request *op)
{
    return op->chunks >= CHAIN_CHUNKS * (size_t)op->group->size;
}

static int relative(const pld_request *op)
{
    return (op->group->rank - op->root + op->group->size) % op->group->size;
}

static int post_from_parent(const pld_request *op, struct pldi_lane *lane)
{
    const int p = op->group->size;
    const int me = relative(op);
    const int parent = is_chain(op) ? me - 1 : me & (me - 1);
    const size_t bytes = part(op, pldi_vector(op), lane->chunk);
    unsigned char *to;

    if (me == 0)
        return PLD_OK;
    to = bounces(op) ? scratch(op, lane, 0)
                     : pldi_piece(op, PLDI_RECEIVED, 0, lane->chunk * op->chunk_bytes, bytes);
    return recv_part(op, lane, GATHER, (parent + op->root) % p, to, bytes);
}

static int post_to_children(const pld_request *op, struct pldi_lane *lane)
{
    const int p = op->group->size;
    const int me = relative(op);
    const int below = is_chain(op) ? 2 : me == 0 ? p : me & -me;
    const size_t bytes = part(op, pldi_vector(op), lane->chunk);
    const unsigned char *from;

    if (bounces(op) && me != 0) {
        from = scratch(op, lane, 0);
        pldi_unpack(op, 0, lane->chunk * op->chunk_bytes, bytes, from);
    } else {
        from = outgoing(op, lane, 0, bytes, 0);
    }
    for (int step = 1; step < below && step < p - me; step *= 2)
        PLDI_TRY(send_part(op, lane, GATHER, (me + step + op->root) % p, from, bytes));
    return PLD_OK;
}

static int post_stage(const pld_request *op, struct pldi_lane *lane)
{
    if (is_tree(op))
        return lane->state == GATHER ? post_from_parent(op, lane) : post_to_children(op, lane);
    if (lane->state == GATHER)
        return reduces(op) ? post_gather(op, lane) : PLD_OK;
    return post_spread(op, lane);
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

static void end_stage(const pld_request *op, struct pldi_lane *lane)
{
    if (lane->state == GATHER && reduces(op))
        reduce_own(op, lane);
    else if (lane->state == SPREAD && !is_tree(op))
        settle(op, lane);
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
        end_stage(op, lane);
    }
    if (lane->state == GATHER) {
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

void pldi_small_put(const pld_request *op, int d, unsigned char *to)
{
    pldi_pack(op, is_even(op) ? 0 : d, 0, pldi_small_bytes(op, op->group->rank, d), to);
}

void pldi_small_finish(pld_request *op)
{
    const pld_group *g = op->group;
    const size_t bytes = reduces(op) ? pldi_small_bytes(op, g->rank, g->rank) : 0;

    for (int s = 0; s < g->size && !reduces(op); s++)
        pldi_unpack(op, s, 0, pldi_small_bytes(op, s, g->rank), pldi_open_data(g, s));
    if (bytes == 0)
        return;
    for (int r = 0; r < g->size; r++)
        g->work.sources[r] = pldi_open_data(g, r);
    pldi_reduce_to(op, is_even(op) ? 0 : g->rank, 0, bytes, g->work.sources, g->size);
}

void pldi_lane_alone(const pld_request *op)
{
    size_t bytes = pldi_extent(op, PLDI_RECEIVED);
    size_t offset = 0;

    while (bytes > 0) {
        const struct pldi_spot from = pldi_locate(op, PLDI_SENT, 0, offset);
        const struct pldi_spot to = pldi_locate(op, PLDI_RECEIVED, 0, offset);
        const size_t n = min_size(bytes, from.run);
        const void *source = pldi_base(op, PLDI_SENT, from.item) + from.offset;
        unsigned char *target = pldi_base(op, PLDI_RECEIVED, to.item) + to.offset;

        if (reduces(op))
            op->group->kernels->reduce(target, &source, 1, n / pld_dtype_bytes(op->dtype),
                                       op->dtype, pldi_kernel_op(op), op->scale);
        else if (source != target)
            memcpy(target, source, n);
        offset += n;
        bytes -= n;
    }
}
