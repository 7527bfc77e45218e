/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Large operations between ranks of a node.  Chunk k is the k-th piece of every
 * slice and every flow (coll_shape.h), and takes up to three stages on a rank:
 *
 *   in    copy the pieces that others will reduce into this rank's slot
 *   mid   reduce the piece of the own slice, for all that take it;
 *         or put what others take from this rank into its slot, or fetch it from theirs
 *   out   copy the pieces for this rank from the others' slots
 *
 * A buffer in the shared heap needs no slot.  If all ranks' send buffers are there,
 * mid reads them and there is no in; if the receive buffers of all that take a sum
 * are, mid writes them and there is no out.  An allreduce of two such buffers
 * ("push") reads every contribution once and writes every result once, which is the
 * least there is.  Where nothing is reduced, who takes fetches, so that all work;
 * but to a root who gives brings.  Every rank knows from the arrivals which it is.
 *
 * Three counters per rank, of chunks of all operations so far, order it all: a
 * stage runs when the others' counters say that what it reads is there and what it
 * overwrites was read.  Slots are used in turn, so that the ranks need not keep step.
 * Whether they are written to stay in the caches is found out (coll_shm_stores.h).  A
 * rank with nothing to do in a stage says at once that it has done it.
 *
 * A piece is read from all before it is written to any, by the one rank whose slice
 * it is: that makes in place safe, and the sum the same on all ranks.
 */

#include <string.h>

#include "base/base_err.h"
#include "base/base_ticks.h"
#include "coll/coll_shape.h"
#include "coll/coll_shm.h"
#include "coll/coll_shm_levels.h"
#include "coll/coll_shm_stores.h"

/*
 * From which part of the last-level cache on, of all that the ranks touch, results go past
 * the caches.  Measured with cold and with hot buffers: a result in memory of its own is
 * never near, so that its lines would be fetched only to be overwritten.
 */
enum {
    STAGES_PER_STEP = 4,
    PIECES = 4,
    PIECE_LEAST = 16 << 10,
    CACHE_SHARE = 64,
    CACHE_SHARE_IN_PLACE = 16
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int reduces(const pld_request *op)
{
    return pldi_shape(op->kind)->reduces;
}

/* Whether all ranks that have a side have it in the heap. */
static int all_direct(const pld_request *op, enum pldi_side side)
{
    const struct pldi_team *team = op->group->team;

    for (int r = 0; r < team->size; r++) {
        const int has = side == PLDI_SENT ? pldi_gives(op, r) : pldi_takes(op, r);

        if (has && team->refs[r].at[side] == SIZE_MAX)
            return 0;
    }
    return 1;
}

/* Slots have a part for each rank that takes. */
static int slot_is_cut(const pld_request *op)
{
    return pldi_shape(op->kind)->cut[PLDI_SENT] == PLDI_BLOCKS || op->group->team->takes_in;
}

/* A slot's room for a piece; less of it where one rank fills what others empty, so that both have
 * something to do. */
static size_t piece_bytes(const pld_request *op, size_t longest)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_shape *shape = pldi_shape(op->kind);
    const size_t parts = slot_is_cut(op) ? (size_t)team->size : 1;
    const size_t room = team->slot_bytes / parts / PLDI_TEAM_PIECE_MIN * PLDI_TEAM_PIECE_MIN;
    const size_t share =
        (longest / PIECES + PLDI_TEAM_PIECE_MIN) / PLDI_TEAM_PIECE_MIN * PLDI_TEAM_PIECE_MIN;

    if (!team->takes_in && !team->takes_out)
        return PLDI_TEAM_PIECE_DIRECT;
    if (reduces(op) || !(shape->from_root || shape->to_root) || share > room)
        return room;
    return share > PIECE_LEAST ? share : min_size(PIECE_LEAST, room);
}

/* The longest of the flows between any two ranks: all must count the same chunks. */
static size_t flow_most(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const size_t n = (size_t)team->size;
    const size_t *starts = op->starts[op->starts[PLDI_SENT] != NULL ? PLDI_SENT : PLDI_RECEIVED];
    size_t most = 0;

    if (starts == NULL)
        return pldi_vector(op);
    for (size_t r = 0; r < n && op->kind != PLDI_ALLTOALL_V; r++)
        most = starts[r + 1] - starts[r] > most ? starts[r + 1] - starts[r] : most;
    for (size_t i = 0; i < n * n && op->kind == PLDI_ALLTOALL_V; i++) {
        const size_t count = pldi_team_notes(team, (int)(i / n))->counts[i % n];

        most = count > most ? count : most;
    }
    return op->kind == PLDI_ALLTOALL_V ? most * pld_dtype_bytes(op->dtype) : most;
}

/* Where this rank's block begins in what each of the others sends. */
static void find_offsets(const pld_request *op)
{
    struct pldi_team *team = op->group->team;

    for (int r = 0; r < team->size; r++) {
        const uint64_t *counts = pldi_team_notes(team, r)->counts;

        team->offsets[r] = 0;
        for (int d = 0; d < team->rank; d++)
            team->offsets[r] += counts[d] * pld_dtype_bytes(op->dtype);
    }
}

void pldi_team_publish(struct pldi_team *team, enum pldi_stage stage, size_t chunks)
{
    struct pldi_progress *mine = &pldi_team_seat(team, team->rank)->progress;

    team->done[stage] = chunks;
    atomic_store_explicit(&mine->done[stage], team->chunks_before + chunks, memory_order_release);
    pldi_team_ring(team);
}

static void choose_way(const pld_request *op)
{
    struct pldi_team *team = op->group->team;
    const struct pldi_shape *shape = pldi_shape(op->kind);
    const int spreads = shape->cut[PLDI_RECEIVED] == PLDI_EVEN;

    team->send_direct = all_direct(op, PLDI_SENT);
    if (shape->reduces) {
        team->recv_direct = spreads && all_direct(op, PLDI_RECEIVED);
        team->takes_in = !team->send_direct;
        team->takes_out = spreads && !team->recv_direct;
        return;
    }
    team->recv_direct = shape->to_root && all_direct(op, PLDI_RECEIVED);
    team->send_direct &= !team->recv_direct;
    team->takes_in = 0;
    team->takes_out = !team->send_direct && !team->recv_direct;
}

/* Whether there is anything for this rank in the others' slots. */
static int takes_from_slots(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const int only_giver = pldi_shape(op->kind)->from_root && op->root == team->rank;

    return team->takes_out && pldi_takes(op, team->rank) && !only_giver;
}

/* Whether it reduces, gives, or takes what nobody gives it. */
static int works_in_mid(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;

    return reduces(op) || team->send_direct || pldi_gives(op, team->rank);
}

static int is_in_place(const pld_request *op)
{
    const struct pldi_spot from = pldi_locate(op, PLDI_SENT, op->group->rank, 0);
    const struct pldi_spot to = pldi_locate(op, PLDI_RECEIVED, op->group->rank, 0);

    return pldi_base(op, PLDI_SENT, from.item) + from.offset ==
           pldi_base(op, PLDI_RECEIVED, to.item) + to.offset;
}

/* The rank whose time is the operation's: one that reads slots. */
static int measures(const pld_request *op)
{
    const struct pldi_shape *shape = pldi_shape(op->kind);

    if (shape->to_root)
        return op->root;
    return shape->from_root ? (op->root + 1) % op->group->size : 0;
}

void pldi_team_choose_stores(pld_request *op)
{
    struct pldi_team *team = op->group->team;
    const size_t touched = 2 * pldi_vector(op) * (size_t)team->size;
    const int set = (int)((team->begun - 1) % 2);

    /* Reduced in place, a line is in the cache when it is written. */
    team->stream =
        touched >= team->node->cache_bytes / (is_in_place(op) ? CACHE_SHARE_IN_PLACE : CACHE_SHARE);
    team->stream &= !reduces(op) || op->send != op->recv;
    team->stream_peers = op->send != op->recv;
    team->stream_slots = pldi_team_seat(team, measures(op))->arrivals[set].stores != 0;
}

/* Where all ranks' buffers are. */
static void read_refs(struct pldi_team *team)
{
    const int set = (int)((team->begun - 1) % 2);

    for (int r = 0; r < team->size; r++)
        team->refs[r] = pldi_team_seat(team, r)->arrivals[set].u.refs;
}

void pldi_team_plan(pld_request *op)
{
    struct pldi_team *team = op->group->team;
    const size_t longest = reduces(op) ? pldi_slice_most(op) : flow_most(op);

    team->planned = pldi_ticks();
    if (pldi_levels_carry(op)) {
        pldi_levels_plan(op);
        return;
    }
    read_refs(team);
    choose_way(op);
    if (op->kind == PLDI_ALLTOALL_V)
        find_offsets(op);
    pldi_team_choose_stores(op);
    team->stages = PLDI_OUT + 1;
    team->piece = piece_bytes(op, longest);
    team->chunks = longest / team->piece + (longest % team->piece != 0);
    memset(team->done, 0, sizeof(team->done));
    if (!team->takes_in)
        pldi_team_publish(team, PLDI_IN, team->chunks);
    if (!works_in_mid(op))
        pldi_team_publish(team, PLDI_MID, team->chunks);
    if (!takes_from_slots(op))
        pldi_team_publish(team, PLDI_OUT, team->chunks);
}

/* What a chunk has of so many bytes. */
static size_t part(const struct pldi_team *team, size_t bytes, size_t chunk)
{
    return min_size(bytes - min_size(bytes, chunk * team->piece), team->piece);
}

unsigned char *pldi_team_slot(const struct pldi_team *team, int rank, size_t chunk, int result)
{
    const size_t turn = (size_t)((team->chunks_before + chunk) % PLDI_TEAM_SLOTS);
    unsigned char *seat = (void *)pldi_team_seat(team, rank);

    return seat + team->seat_bytes -
           (2 * PLDI_TEAM_SLOTS - 2 * turn - (size_t)result) * team->slot_bytes;
}

unsigned char *pldi_team_heap(const struct pldi_team *team, int rank, size_t offset)
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

void pldi_team_copy(const struct pldi_team *team, void *to, const void *from, size_t bytes,
                    int stream)
{
    if (bytes > 0 && to != from)
        team->node->kernels->copy(to, from, bytes, stream);
}

void pldi_team_put(const pld_request *op, int block, size_t offset, size_t bytes, unsigned char *to)
{
    const struct pldi_team *team = op->group->team;

    while (bytes > 0) {
        const struct pldi_spot spot = pldi_locate(op, PLDI_SENT, block, offset);
        const size_t n = min_size(spot.run, bytes);

        pldi_team_copy(team, to, pldi_base(op, PLDI_SENT, spot.item) + spot.offset, n,
                       team->stream_slots);
        to += n;
        offset += n;
        bytes -= n;
    }
}

void pldi_team_take(const pld_request *op, int block, size_t offset, size_t bytes,
                    const unsigned char *from)
{
    const struct pldi_team *team = op->group->team;

    while (bytes > 0) {
        const struct pldi_spot spot = pldi_locate(op, PLDI_RECEIVED, block, offset);
        const size_t n = min_size(spot.run, bytes);

        pldi_team_copy(team, pldi_base(op, PLDI_RECEIVED, spot.item) + spot.offset, from, n,
                       team->stream);
        from += n;
        offset += n;
        bytes -= n;
    }
}

unsigned char *pldi_team_at_peer(const pld_request *op, int rank, enum pldi_side side,
                                 struct pldi_spot spot)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_refs *refs =
        op->items != NULL ? &pldi_team_notes(team, rank)->refs[spot.item] : &team->refs[rank];

    return pldi_team_heap(team, rank, refs->at[side] + spot.offset);
}

static void stage_in(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const size_t chunk = team->done[PLDI_IN];
    unsigned char *to = pldi_team_slot(team, team->rank, chunk, 0);

    for (int n = 1; n < team->size; n++) {
        const int r = (team->rank + n) % team->size;

        pldi_team_put(op, r, chunk * team->piece, part(team, pldi_slice(op, r), chunk),
                      to + (size_t)r * team->piece);
    }
}

/* Where a run of the piece is to go, in the order of what goes past the caches; of so many. */
static int find_targets(const pld_request *op, size_t begin, struct pldi_spot spot, int *streams)
{
    struct pldi_team *team = op->group->team;
    const size_t chunk = team->done[PLDI_MID];
    const int takes = pldi_takes(op, team->rank);
    void *own =
        takes ? pldi_sum_place(op, pldi_base(op, PLDI_RECEIVED, spot.item), spot.offset) : NULL;
    int n = 0;

    if (takes && team->stream)
        team->targets[n++] = own;
    *streams = n;
    for (int r = 0; r < team->size && team->recv_direct; r++) {
        if (r != team->rank && pldi_takes(op, r))
            team->targets[n++] = pldi_team_at_peer(op, r, PLDI_RECEIVED, spot);
    }
    if (team->takes_out)
        team->targets[n++] = pldi_team_slot(team, team->rank, chunk, 1) + begin;
    if (team->takes_out ? team->stream_slots : team->stream_peers)
        *streams = n;
    if (takes && !team->stream)
        team->targets[n++] = own;
    return n;
}

static void find_sources(const pld_request *op, size_t begin, struct pldi_spot spot)
{
    struct pldi_team *team = op->group->team;
    const size_t at = (size_t)team->rank * team->piece + begin;

    for (int r = 0; r < team->size; r++) {
        if (r == team->rank)
            team->sources[r] = pldi_base(op, PLDI_SENT, spot.item) + spot.offset;
        else if (team->send_direct)
            team->sources[r] = pldi_team_at_peer(op, r, PLDI_SENT, spot);
        else
            team->sources[r] = pldi_team_slot(team, r, team->done[PLDI_MID], 0) + at;
    }
}

/* One run of the piece, which begins at `spot` of what is sent. */
static void reduce_run(const pld_request *op, struct pldi_spot spot, size_t begin, size_t bytes)
{
    const struct pldi_team *team = op->group->team;
    const size_t offset = team->done[PLDI_MID] * team->piece + begin;
    const struct pldi_sum sum = pldi_sum_of(op);
    int targets, streams;

    find_sources(op, begin, spot);
    targets = find_targets(op, begin, pldi_locate(op, PLDI_RECEIVED, team->rank, offset), &streams);
    pldi_sum_to(&sum, team->targets, targets, team->sources, team->size,
                bytes / pld_dtype_bytes(op->dtype), streams);
}

static void reduce_piece(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const size_t offset = team->done[PLDI_MID] * team->piece;
    const size_t bytes = part(team, pldi_slice(op, team->rank), team->done[PLDI_MID]);
    size_t begin = 0;

    while (begin < bytes) {
        const struct pldi_spot spot = pldi_locate(op, PLDI_SENT, team->rank, offset + begin);
        const size_t n = min_size(spot.run, bytes - begin);

        reduce_run(op, spot, begin, n);
        begin += n;
    }
}

/* This rank's piece for rank d, from own buffer to own or d's, or d's piece from there. */
static void move_flow(const pld_request *op, int s, int d)
{
    const struct pldi_team *team = op->group->team;
    size_t offset = team->done[PLDI_MID] * team->piece;
    size_t bytes = part(team, pldi_flow(op, s, d), team->done[PLDI_MID]);

    while (bytes > 0) {
        struct pldi_spot from = pldi_locate(op, PLDI_SENT, d, offset);
        const struct pldi_spot to = pldi_locate(op, PLDI_RECEIVED, s, offset);
        const size_t n = min_size(bytes, min_size(from.run, to.run));

        if (s != team->rank && op->kind == PLDI_ALLTOALL_V)
            from.offset = team->offsets[s] + offset;
        pldi_team_copy(team,
                       d == team->rank ? pldi_base(op, PLDI_RECEIVED, to.item) + to.offset
                                       : pldi_team_at_peer(op, d, PLDI_RECEIVED, to),
                       s == team->rank ? pldi_base(op, PLDI_SENT, from.item) + from.offset
                                       : pldi_team_at_peer(op, s, PLDI_SENT, from),
                       n, team->stream);
        offset += n;
        bytes -= n;
    }
}

/* What others take from this rank's slot: for each, or one piece for all. */
static void fill_slot(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const size_t chunk = team->done[PLDI_MID];
    unsigned char *to = pldi_team_slot(team, team->rank, chunk, 1);

    if (!pldi_gives(op, team->rank))
        return;
    if (!slot_is_cut(op)) {
        pldi_team_put(op, 0, chunk * team->piece, part(team, pldi_extent(op, PLDI_SENT), chunk),
                      to);
        return;
    }
    for (int n = 1; n < team->size; n++) {
        const int d = (team->rank + n) % team->size;

        pldi_team_put(op, d, chunk * team->piece, part(team, pldi_flow(op, team->rank, d), chunk),
                      to + (size_t)d * team->piece);
    }
}

static void move_piece(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;

    move_flow(op, team->rank, team->rank);
    for (int n = 1; n < team->size; n++) {
        const int r = (team->rank + n) % team->size;

        if (team->send_direct)
            move_flow(op, r, team->rank);
        else if (team->recv_direct)
            move_flow(op, team->rank, r);
    }
    if (team->takes_out)
        fill_slot(op);
}

static void stage_mid(const pld_request *op)
{
    if (reduces(op))
        reduce_piece(op);
    else
        move_piece(op);
}

static void stage_out(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const size_t chunk = team->done[PLDI_OUT];
    const size_t mine = reduces(op) || !slot_is_cut(op) ? 0 : (size_t)team->rank * team->piece;

    for (int n = 1; n < team->size; n++) {
        const int r = (team->rank + n) % team->size;

        pldi_team_take(op, r, chunk * team->piece, part(team, pldi_flow(op, r, team->rank), chunk),
                       pldi_team_slot(team, r, chunk, 1) + mine);
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
static int advance(pld_request *op)
{
    struct pldi_team *team = op->group->team;
    enum pldi_stage stage;

    if (team->stages == PLDI_STAGES)
        return pldi_levels_advance(op);
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
    pldi_team_publish(team, stage, team->done[stage] + 1);
    return 1;
}

static int is_done(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;

    if (team->stages == PLDI_STAGES)
        return pldi_levels_done(op);
    for (int stage = PLDI_IN; stage <= PLDI_OUT; stage++) {
        if (team->done[stage] < team->chunks)
            return 0;
    }
    /* Nobody may still be at this rank's own buffers. */
    return !(team->send_direct || team->recv_direct) || others_at(team, PLDI_MID, team->chunks);
}

static void note_time(const pld_request *op)
{
    struct pldi_team *team = op->group->team;

    if (team->rank == measures(op) && (team->takes_in || team->takes_out))
        pldi_stores_note(team->stores, op->kind, pldi_vector(op), team->stream_slots,
                         pldi_ticks() - team->planned);
}

int pldi_team_move(pld_request *op, int *moved)
{
    struct pldi_team *team = op->group->team;
    int n = 0;

    while (n < STAGES_PER_STEP && advance(op))
        n++;
    *moved |= n > 0;
    if (is_done(op)) {
        note_time(op);
        team->chunks_before += team->chunks;
        return 1;
    }
    return n > 0 ? 0 : pldi_team_waits(op);
}
