/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Large operations between ranks of a node.  The vector is one slice per rank,
 * a slice is a row of pieces, chunk k is the k-th piece of every slice, and each
 * chunk takes up to three stages on a rank:
 *
 *   in    copy the pieces that others will reduce into this rank's slot
 *   mid   reduce (or fetch, or give) the piece of the own slice, for all
 *   out   copy the pieces that the others made from their slots
 *
 * A buffer in the shared heap needs no slot.  If all ranks' send buffers are there,
 * mid reads them and there is no in; if all their receive buffers are, mid writes
 * them and there is no out.  An allreduce of two such buffers ("push") reads every
 * contribution once and writes every result once, which is the least there is.
 * Every rank knows from the arrivals which it will be.
 *
 * Three counters per rank, of chunks of all operations so far, order it all: a
 * stage runs when the others' counters say that what it reads is there and what it
 * overwrites was read.  Slots are used in turn, so that the ranks need not keep step;
 * they stay in cache, so that the copies cost little memory traffic.
 *
 * A piece is read from all before it is written to any, by the one rank whose slice
 * it is: that makes in place safe, and the sum the same on all ranks.
 */

#include <string.h>

#include "base/base_err.h"
#include "coll/coll_shm.h"

enum { SLICE_ALIGN = 64, STAGES_PER_STEP = 4, CACHE_SHARE = 8 };

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int reduces(const pld_request *op)
{
    return op->kind == PLDI_ALLREDUCE || op->kind == PLDI_REDUCE_SCATTER;
}

static size_t vector_bytes(const pld_request *op)
{
    return op->count * pld_dtype_bytes(op->dtype);
}

static size_t slice_bytes(const pld_request *op)
{
    const size_t p = (size_t)op->group->size;
    size_t each;

    if (op->kind != PLDI_ALLREDUCE)
        return vector_bytes(op);
    each = op->count / p + (op->count % p != 0);
    return (each + SLICE_ALIGN - 1) / SLICE_ALIGN * SLICE_ALIGN * pld_dtype_bytes(op->dtype);
}

static int all_direct(const struct pldi_team *team, int recv)
{
    for (int r = 0; r < team->size; r++) {
        if ((recv ? team->refs[r].recv : team->refs[r].send) == SIZE_MAX)
            return 0;
    }
    return 1;
}

static size_t piece_bytes(const struct pldi_team *team)
{
    if (team->takes_in)
        return team->slot_bytes / (size_t)team->size / PLDI_TEAM_PIECE_MIN * PLDI_TEAM_PIECE_MIN;
    return team->takes_out ? team->slot_bytes : PLDI_TEAM_PIECE_DIRECT;
}

static void publish(struct pldi_team *team, enum pldi_stage stage, size_t chunks)
{
    struct pldi_progress *mine = &pldi_team_seat(team, team->rank)->progress;

    team->done[stage] = chunks;
    atomic_store_explicit(&mine->done[stage], team->chunks_before + chunks, memory_order_release);
}

void pldi_team_plan(pld_request *op)
{
    struct pldi_team *team = op->group->team;
    const int root = op->kind == PLDI_BROADCAST && op->root == team->rank;
    const size_t touched = 2 * vector_bytes(op) * (size_t)team->size;

    team->send_direct =
        op->kind == PLDI_BROADCAST ? team->refs[op->root].recv != SIZE_MAX : all_direct(team, 0);
    team->recv_direct = op->kind == PLDI_ALLREDUCE && all_direct(team, 1);
    team->takes_in = reduces(op) && !team->send_direct;
    team->takes_out =
        op->kind == PLDI_ALLREDUCE ? !team->recv_direct : !reduces(op) && !team->send_direct;
    team->stream = op->send != op->recv && touched > team->node->cache_bytes / CACHE_SHARE;
    team->stream_peers = !team->recv_direct || op->send != op->recv;
    team->slice = slice_bytes(op);
    team->piece = piece_bytes(team);
    team->chunks = team->slice / team->piece + (team->slice % team->piece != 0);
    memset(team->done, 0, sizeof(team->done));
    if (!team->takes_in)
        publish(team, PLDI_IN, team->chunks);
    if (!team->takes_out || root) /* the root of a broadcast has the result */
        publish(team, PLDI_OUT, team->chunks);
}

/* The part of a rank's slice that is in a chunk: where in the vector, and its bytes. */
static size_t part(const pld_request *op, int rank, size_t chunk, size_t *start)
{
    const struct pldi_team *team = op->group->team;
    const size_t begin = chunk * team->piece;
    const size_t slice = (size_t)rank * team->slice;
    size_t bytes;

    if (op->kind == PLDI_BROADCAST) {
        *start = begin;
        return min_size(team->piece, team->slice - begin);
    }
    *start = slice + begin;
    bytes = min_size(team->piece, team->slice - begin);
    if (op->kind != PLDI_ALLREDUCE)
        return bytes;
    *start = min_size(*start, vector_bytes(op));
    return min_size(bytes, vector_bytes(op) - *start);
}

static unsigned char *slot(const struct pldi_team *team, int rank, size_t chunk, int result)
{
    const size_t turn = (size_t)((team->chunks_before + chunk) % PLDI_TEAM_SLOTS);
    unsigned char *seat = (void *)pldi_team_seat(team, rank);

    return seat + team->seat_bytes -
           (2 * PLDI_TEAM_SLOTS - 2 * turn - (size_t)result) * team->slot_bytes;
}

static unsigned char *in_heap(const struct pldi_team *team, int rank, size_t offset)
{
    const struct pldi_node_shm *node = team->node;
    const struct pldi_shm *shm =
        rank == team->rank ? pldi_heap_segment(node->heap) : &node->ranks[team->world[rank]].heap;

    return shm->data + offset;
}

int pldi_team_at(const struct pldi_team *team, int rank, enum pldi_stage stage, uint64_t chunks)
{
    struct pldi_progress *p = &pldi_team_seat(team, rank)->progress;

    return atomic_load_explicit(&p->done[stage], memory_order_acquire) >=
           team->chunks_before + chunks;
}

static int others_at(const struct pldi_team *team, enum pldi_stage stage, uint64_t chunks)
{
    for (int r = 0; r < team->size; r++) {
        if (r != team->rank && !pldi_team_at(team, r, stage, chunks))
            return 0;
    }
    return 1;
}

/* Whether all others are through with what the chunk's slot held; the first ones held nothing. */
static int slot_free(const struct pldi_team *team, enum pldi_stage stage, size_t chunk)
{
    if (team->chunks_before + chunk < PLDI_TEAM_SLOTS)
        return 1;
    return others_at(team, stage, (uint64_t)chunk + 1 - PLDI_TEAM_SLOTS);
}

static void copy(const struct pldi_team *team, void *to, const void *from, size_t bytes)
{
    if (bytes > 0 && to != from)
        team->node->kernels->copy(to, from, bytes, team->stream);
}

static void stage_in(const pld_request *op)
{
    struct pldi_team *team = op->group->team;
    unsigned char *to = slot(team, team->rank, team->done[PLDI_IN], 0);

    for (int n = 1; n < team->size; n++) {
        const int r = (team->rank + n) % team->size;
        size_t start;
        const size_t bytes = part(op, r, team->done[PLDI_IN], &start);

        if (bytes > 0)
            team->node->kernels->copy(to + (size_t)r * team->piece, (const char *)op->send + start,
                                      bytes, 1);
    }
}

static void reduce_piece(const pld_request *op)
{
    struct pldi_team *team = op->group->team;
    size_t start;
    const size_t bytes = part(op, team->rank, team->done[PLDI_MID], &start);
    int targets = 0;
    int streams;

    for (int r = 0; r < team->size; r++) {
        if (r == team->rank)
            team->sources[r] = (const char *)op->send + start;
        else if (team->send_direct)
            team->sources[r] = in_heap(team, r, team->refs[r].send + start);
        else
            team->sources[r] =
                slot(team, r, team->done[PLDI_MID], 0) + (size_t)team->rank * team->piece;
    }
    for (int r = 0; r < team->size && team->recv_direct; r++) {
        if (r != team->rank)
            team->targets[targets++] = in_heap(team, r, team->refs[r].recv + start);
    }
    if (team->takes_out)
        team->targets[targets++] = slot(team, team->rank, team->done[PLDI_MID], 1);
    streams = (team->stream_peers ? targets : 0) + team->stream;
    if (op->kind == PLDI_REDUCE_SCATTER)
        start -= (size_t)team->rank * team->slice;
    team->targets[targets++] = (char *)op->recv + start;
    if (bytes > 0)
        team->node->kernels->reduce_to(team->targets, targets, team->sources, team->size,
                                       bytes / pld_dtype_bytes(op->dtype), op->dtype,
                                       op->op == PLD_AVG ? PLD_SUM : op->op, op->scale, streams);
}

/* Allgather: the own contribution to its place, and where the others get it, or theirs here. */
static void gather_piece(const pld_request *op)
{
    struct pldi_team *team = op->group->team;
    const size_t begin = team->done[PLDI_MID] * team->piece;

    for (int n = 0; n < team->size; n++) {
        const int r = (team->rank + n) % team->size;
        size_t start;
        const size_t bytes = part(op, r, team->done[PLDI_MID], &start);

        if (r == team->rank)
            copy(team, (char *)op->recv + start, (const char *)op->send + begin, bytes);
        else if (team->send_direct)
            copy(team, (char *)op->recv + start, in_heap(team, r, team->refs[r].send + begin),
                 bytes);
        if (r == team->rank && !team->send_direct)
            team->node->kernels->copy(slot(team, r, team->done[PLDI_MID], 1),
                                      (const char *)op->send + begin, bytes, 1);
    }
}

static void give_piece(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    size_t start;
    const size_t bytes = part(op, op->root, team->done[PLDI_MID], &start);

    if (op->root == team->rank && !team->send_direct)
        team->node->kernels->copy(slot(team, team->rank, team->done[PLDI_MID], 1),
                                  (const char *)op->recv + start, bytes, 1);
    if (op->root != team->rank && team->send_direct)
        copy(team, (char *)op->recv + start,
             in_heap(team, op->root, team->refs[op->root].recv + start), bytes);
}

static void stage_mid(const pld_request *op)
{
    if (reduces(op))
        reduce_piece(op);
    else if (op->kind == PLDI_ALLGATHER)
        gather_piece(op);
    else
        give_piece(op);
}

static void stage_out(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;

    for (int n = 1; n < team->size; n++) {
        const int r = (team->rank + n) % team->size;
        size_t start;
        const size_t bytes = part(op, r, team->done[PLDI_OUT], &start);

        if (op->kind != PLDI_BROADCAST || r == op->root)
            copy(team, (char *)op->recv + start, slot(team, r, team->done[PLDI_OUT], 1), bytes);
    }
}

static int can_out(const struct pldi_team *team)
{
    return team->done[PLDI_OUT] < team->done[PLDI_MID] &&
           others_at(team, PLDI_MID, team->done[PLDI_OUT] + 1);
}

static int can_mid(const struct pldi_team *team)
{
    const size_t chunk = team->done[PLDI_MID];

    return chunk < team->chunks && (!team->takes_in || others_at(team, PLDI_IN, chunk + 1)) &&
           (!team->takes_out || slot_free(team, PLDI_OUT, chunk));
}

static int can_in(const struct pldi_team *team)
{
    return team->done[PLDI_IN] < team->chunks && slot_free(team, PLDI_MID, team->done[PLDI_IN]);
}

/* One stage of one chunk: 1, or 0 if none can run. */
static int advance(const pld_request *op)
{
    struct pldi_team *team = op->group->team;
    enum pldi_stage stage;

    if (can_out(team)) {
        stage = PLDI_OUT;
        stage_out(op);
    } else if (can_mid(team)) {
        stage = PLDI_MID;
        stage_mid(op);
    } else if (can_in(team)) {
        stage = PLDI_IN;
        stage_in(op);
    } else {
        return 0;
    }
    publish(team, stage, team->done[stage] + 1);
    return 1;
}

static int is_done(const struct pldi_team *team)
{
    for (int stage = PLDI_IN; stage <= PLDI_OUT; stage++) {
        if (team->done[stage] < team->chunks)
            return 0;
    }
    /* Nobody may still be at this rank's own buffers. */
    return !(team->send_direct || team->recv_direct) || others_at(team, PLDI_MID, team->chunks);
}

int pldi_team_move(pld_request *op, int *moved)
{
    struct pldi_team *team = op->group->team;
    int n = 0;

    while (n < STAGES_PER_STEP && advance(op))
        n++;
    *moved |= n > 0;
    if (is_done(team)) {
        team->chunks_before += team->chunks;
        return 1;
    }
    return n > 0 ? 0 : pldi_team_waits(op);
}
