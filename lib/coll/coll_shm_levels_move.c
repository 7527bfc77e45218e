/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Large operations in two levels.  Slices and chunks are those of coll_shm_move.c; of
 * an operation that reduces nothing a slice is what one rank gives, or, of a broadcast,
 * an equal part.  A piece of a slice takes up to five stages:
 *
 *   in      the rank that gives copies it into its slot
 *   mid     in each group its worker adds up what the members have, unrounded
 *   across  the rank whose slice it is adds up the sums of the groups, and rounds once
 *   back    in each group its worker fetches the result for all members
 *   out     the members copy it from the worker's slot
 *
 * So every byte of a result crosses from one group to another once, and once more as a
 * partial sum, where without levels it does so for every rank.  Buffers in shared memory
 * need neither in nor out.  What one worker reads of a buffer in mid it alone writes in
 * back: that makes in place safe.
 *
 * A rank waits for its own group, for the workers of its slice, and for the ranks it
 * works for, never for all; but the root of a broadcast, of whom all read.
 */

#include "coll/coll_shm_levels.h"

#include "base/base_err.h"
#include "coll/coll_shape.h"

enum { NEAR_BYTES = 8 << 10, SUM_BLOCK = 256, PIECE_ALIGN = 64 };

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int reduces(const pld_request *op)
{
    return pldi_shape(op->kind)->reduces;
}

static int is_broadcast(const pld_request *op)
{
    return op->kind == PLDI_BROADCAST;
}

/* Whether the sums go to ranks that did not form them. */
static int spreads(const pld_request *op)
{
    return pldi_shape(op->kind)->cut[PLDI_RECEIVED] == PLDI_EVEN;
}

/* --- what a slice is --- */

static size_t slice_bytes(const pld_request *op, int r)
{
    if (reduces(op))
        return pldi_slice(op, r);
    if (is_broadcast(op))
        return pldi_even_start(op, r + 1) - pldi_even_start(op, r);
    return pldi_flow(op, r, op->group->rank);
}

static size_t longest(const pld_request *op)
{
    size_t most = 0;

    for (int r = 0; r < op->group->size; r++)
        most = slice_bytes(op, r) > most ? slice_bytes(op, r) : most;
    return most;
}

/* Bytes of a slice that are in a chunk. */
static size_t part(const pld_request *op, int r, size_t chunk)
{
    const size_t bytes = slice_bytes(op, r);
    const size_t piece = op->group->team->piece;

    return min_size(bytes - min_size(bytes, chunk * piece), piece);
}

/* Where a slice is in the block of a side: a broadcast has one for all. */
static int block_of(const pld_request *op, int r)
{
    return is_broadcast(op) ? 0 : r;
}

static size_t offset_of(const pld_request *op, int r, size_t offset)
{
    return offset + (is_broadcast(op) ? pldi_even_start(op, r) : 0);
}

static struct pldi_spot locate(const pld_request *op, enum pldi_side side, int r, size_t offset)
{
    return pldi_locate(op, side, block_of(op, r), offset_of(op, r, offset));
}

/* The buffer of any rank there. */
static unsigned char *at_rank(const pld_request *op, int rank, enum pldi_side side,
                              struct pldi_spot spot)
{
    return rank == op->group->rank ? pldi_base(op, side, spot.item) + spot.offset
                                   : pldi_team_at_peer(op, rank, side, spot);
}

static int gets_it_back(const pld_request *op, int rank)
{
    return pldi_takes(op, rank) && !(is_broadcast(op) && rank == op->root);
}

/* --- slots: what is sent; behind each other a result, sums of the group, results for it --- */

static size_t sent_pieces(const pld_request *op)
{
    if (!op->group->team->takes_in)
        return 0;
    return reduces(op) || is_broadcast(op) ? (size_t)op->group->size : 1;
}

static size_t sum_pieces(const pld_request *op)
{
    const struct pldi_levels *l = op->group->team->levels;

    return reduces(op) ? 1 + (size_t)l->most * l->width : 0;
}

static size_t result_pieces(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;

    return sum_pieces(op) + (team->takes_out ? (size_t)team->levels->most : 0);
}

static unsigned char *sent_slot(const pld_request *op, int giver, int r, size_t chunk)
{
    const struct pldi_team *team = op->group->team;
    const size_t n = sent_pieces(op) > 1 ? (size_t)r : 0;

    return pldi_team_slot(team, giver, chunk, 0) + n * team->piece;
}

/* The rounded sum, of the rank whose slice it is. */
static unsigned char *final_slot(const struct pldi_team *team, int r, size_t chunk)
{
    return pldi_team_slot(team, r, chunk, 1);
}

static unsigned char *sum_slot(const struct pldi_team *team, int worker, int duty, size_t chunk)
{
    return pldi_team_slot(team, worker, chunk, 1) +
           team->piece * (1 + (size_t)duty * team->levels->width);
}

static unsigned char *result_slot(const pld_request *op, int worker, int duty, size_t chunk)
{
    const struct pldi_team *team = op->group->team;

    return pldi_team_slot(team, worker, chunk, 1) + team->piece * (sum_pieces(op) + (size_t)duty);
}

/* --- the plan --- */

int pldi_levels_carry(pld_request *op)
{
    const pld_group *g = op->group;
    const enum pldi_cut *cut = pldi_shape(op->kind)->cut;
    const struct pldi_tuning *tuning = g->tuning != NULL ? g->tuning : g->team->node->tuning;
    const enum pldi_side side = cut[PLDI_SENT] == PLDI_BLOCKS ? PLDI_SENT : PLDI_RECEIVED;
    uint64_t bytes = pldi_vector(op);
    struct pldi_facts facts;

    if (g->team->levels == NULL)
        return 0;
    if (cut[side] == PLDI_BLOCKS && op->starts[side] == NULL)
        bytes *= (uint64_t)g->size;
    facts = pldi_facts_of(g, (int)op->kind, op->dtype, bytes);
    facts.tree = op->tree;
    op->choice = pldi_choose(&facts, tuning);
    return op->choice.algorithm == PLDI_NUMA;
}

/* What each group says of its ranks' buffers; and where those are that this rank is at. */
static unsigned look_at_buffers(struct pldi_team *team, const pld_request *op)
{
    const struct pldi_levels *l = team->levels;
    const int set = (int)((team->begun - 1) % 2);
    unsigned direct = ~0U;

    for (int g = 0; g < l->map->n; g++)
        direct &= pldi_team_seat(team, l->map->by_node[l->map->starts[g]])->meetings[set].direct;
    for (int i = 0; i < l->n_members; i++)
        team->refs[l->members[i]] = pldi_team_seat(team, l->members[i])->arrivals[set].u.refs;
    for (int i = 0; i < l->n_duties; i++)
        team->refs[l->duties[i]] = pldi_team_seat(team, l->duties[i])->arrivals[set].u.refs;
    if (is_broadcast(op))
        team->refs[op->root] = pldi_team_seat(team, op->root)->arrivals[set].u.refs;
    return direct;
}

static void choose_way(const pld_request *op)
{
    struct pldi_team *team = op->group->team;
    struct pldi_levels *l = team->levels;
    const unsigned direct = look_at_buffers(team, op);

    team->send_direct = (direct >> PLDI_SENT & 1) != 0;
    team->takes_in = !team->send_direct;
    team->recv_direct = (direct >> PLDI_RECEIVED & 1) != 0 && (!reduces(op) || spreads(op));
    team->takes_out = !team->recv_direct && (!reduces(op) || spreads(op));
    l->works_back = !reduces(op) || spreads(op);
    if (reduces(op) && pldi_shape(op->kind)->to_root)
        l->works_back = l->map->node_of[op->root] == l->group;
    l->width = pld_dtype_bytes(pldi_sum_dtype(op->dtype)) / pld_dtype_bytes(op->dtype);
    l->readers = reduces(op) ? l->members : is_broadcast(op) ? l->map->by_node : l->workers;
    l->n_readers = reduces(op) ? l->n_members : is_broadcast(op) ? team->size : l->map->n;
}

static size_t piece_bytes(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const size_t sent = sent_pieces(op);
    const size_t results = result_pieces(op);
    const size_t most = sent > results ? sent : results;
    const size_t room = most > 0 ? team->slot_bytes / most : PLDI_TEAM_PIECE_DIRECT;
    const size_t piece = min_size(room, op->choice.chunk) / PIECE_ALIGN * PIECE_ALIGN;

    return piece > 0 ? piece : PIECE_ALIGN;
}

void pldi_levels_plan(pld_request *op)
{
    struct pldi_team *team = op->group->team;
    const int me = team->rank;

    choose_way(op);
    pldi_team_choose_stores(op);
    team->piece = piece_bytes(op);
    team->chunks = longest(op) / team->piece + (longest(op) % team->piece != 0);
    team->stages = PLDI_STAGES;
    for (int stage = 0; stage < PLDI_STAGES; stage++)
        team->done[stage] = 0;
    if (!team->takes_in || !pldi_gives(op, me))
        pldi_team_publish(team, PLDI_IN, team->chunks);
    if (!reduces(op)) {
        pldi_team_publish(team, PLDI_MID, team->chunks);
        pldi_team_publish(team, PLDI_ACROSS, team->chunks);
    }
    if (!team->levels->works_back)
        pldi_team_publish(team, PLDI_BACK, team->chunks);
    if (!team->takes_out || !gets_it_back(op, me))
        pldi_team_publish(team, PLDI_OUT, team->chunks);
}

/* --- the stages --- */

/* Who works for a rank's slice in this group. */
static int worker_here(const struct pldi_levels *l, int r)
{
    return l->members[l->map->index[r] % l->n_members];
}

static void stage_in(const pld_request *op, size_t chunk)
{
    const struct pldi_team *team = op->group->team;
    const int n = sent_pieces(op) > 1 ? team->size : 1;

    for (int i = 0; i < n; i++) {
        const int r = (team->rank + i) % team->size;

        if (reduces(op) && worker_here(team->levels, r) == team->rank)
            continue;
        pldi_team_put(op, block_of(op, r), offset_of(op, r, chunk * team->piece),
                      part(op, r, chunk), sent_slot(op, team->rank, r, chunk));
    }
}

/* The group's sum of a stretch of slice r. */
static void add_members(const pld_request *op, int duty, size_t chunk, size_t begin, size_t bytes,
                        struct pldi_spot spot)
{
    struct pldi_team *team = op->group->team;
    const struct pldi_levels *l = team->levels;
    struct pldi_sum sum = pldi_sum_of(op);
    void *target = sum_slot(team, team->rank, duty, chunk) + begin * l->width;

    sum.scale = 1;
    sum.wide = 1;
    for (int i = 0; i < l->n_members; i++) {
        const int m = l->members[i];

        team->sources[i] = team->send_direct || m == team->rank
                               ? at_rank(op, m, PLDI_SENT, spot)
                               : sent_slot(op, m, l->duties[duty], chunk) + begin;
    }
    pldi_sum_to(&sum, &target, 1, team->sources, l->n_members, bytes / pld_dtype_bytes(op->dtype),
                0);
}

static void stage_mid(const pld_request *op, size_t chunk)
{
    const struct pldi_team *team = op->group->team;

    for (int d = 0; d < team->levels->n_duties; d++) {
        const int r = team->levels->duties[d];
        const size_t bytes = part(op, r, chunk);
        size_t begin = 0;

        while (begin < bytes) {
            const struct pldi_spot spot = locate(op, PLDI_SENT, r, chunk * team->piece + begin);
            const size_t n = min_size(spot.run, bytes - begin);

            add_members(op, d, chunk, begin, n, spot);
            begin += n;
        }
    }
}

/* Sums of groups, to the result. */
static void add_groups(const pld_request *op, void *target, const void **sums, int n, size_t count)
{
    struct pldi_sum sum = pldi_sum_of(op);
    const struct pldi_sum result = sum;
    const pld_dtype dtype = pldi_sum_dtype(op->dtype);
    float block[SUM_BLOCK];
    void *at = target;

    sum.dtype = dtype;
    if (op->wide || dtype == op->dtype) {
        pldi_sum_to(&sum, &at, 1, sums, n, count, 0);
        return;
    }
    sum.scale = 1;
    at = block;
    for (size_t i = 0; i < count; i += SUM_BLOCK) {
        const size_t part_count = min_size(count - i, SUM_BLOCK);

        pldi_sum_to(&sum, &at, 1, sums, n, part_count, 0);
        pldi_sum_finish(&result, (unsigned char *)target + i * pld_dtype_bytes(op->dtype), block,
                        part_count);
        for (int s = 0; s < n; s++)
            sums[s] = (const float *)sums[s] + part_count;
    }
}

static void stage_across(const pld_request *op, size_t chunk)
{
    struct pldi_team *team = op->group->team;
    const struct pldi_levels *l = team->levels;
    const size_t bytes = part(op, team->rank, chunk);
    size_t begin = 0;

    while (begin < bytes) {
        void *target = final_slot(team, team->rank, chunk);
        size_t n = bytes;

        if (!spreads(op)) {
            const struct pldi_spot spot =
                locate(op, PLDI_RECEIVED, team->rank, chunk * team->piece + begin);

            n = min_size(spot.run, bytes - begin);
            target = pldi_sum_place(op, pldi_base(op, PLDI_RECEIVED, spot.item), spot.offset);
        }
        for (int g = 0; g < l->map->n; g++)
            team->sources[g] =
                sum_slot(team, l->workers[g], l->places[g], chunk) + begin * l->width;
        add_groups(op, target, team->sources, l->map->n, n / pld_dtype_bytes(op->dtype));
        begin += n;
    }
}

/* Where the result of slice r is, and how much of it in one piece. */
static const unsigned char *result_at(const pld_request *op, int r, size_t chunk, size_t begin,
                                      size_t *run)
{
    const struct pldi_team *team = op->group->team;
    const int giver = is_broadcast(op) ? op->root : r;
    struct pldi_spot spot;

    *run = SIZE_MAX;
    if (reduces(op))
        return final_slot(team, r, chunk) + begin;
    if (!team->send_direct && giver != team->rank)
        return sent_slot(op, giver, r, chunk) + begin;
    spot = locate(op, PLDI_SENT, r, chunk * team->piece + begin);
    *run = spot.run;
    return at_rank(op, giver, PLDI_SENT, spot);
}

/* A stretch of a slice to all members: fetched once, a little at a time. */
static void give(const pld_request *op, const unsigned char *from, struct pldi_spot spot,
                 unsigned char *slot, size_t bytes)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_levels *l = team->levels;

    for (size_t i = 0; i < bytes; i += NEAR_BYTES) {
        const size_t n = min_size(bytes - i, NEAR_BYTES);

        for (int k = 0; k < l->n_members; k++) {
            const int m = l->members[k];

            if (gets_it_back(op, m) && (team->recv_direct || m == team->rank))
                pldi_team_copy(team, at_rank(op, m, PLDI_RECEIVED, spot) + i, from + i, n,
                               team->stream);
        }
        if (team->takes_out)
            pldi_team_copy(team, slot + i, from + i, n, 0);
    }
}

static void stage_back(const pld_request *op, size_t chunk)
{
    const struct pldi_team *team = op->group->team;

    for (int d = 0; d < team->levels->n_duties; d++) {
        const int r = team->levels->duties[d];
        const size_t bytes = part(op, r, chunk);
        size_t begin = 0;

        while (begin < bytes) {
            const struct pldi_spot spot = locate(op, PLDI_RECEIVED, r, chunk * team->piece + begin);
            size_t n;
            const unsigned char *from = result_at(op, r, chunk, begin, &n);

            n = min_size(min_size(n, spot.run), bytes - begin);
            give(op, from, spot, result_slot(op, team->rank, d, chunk) + begin, n);
            begin += n;
        }
    }
}

static void stage_out(const pld_request *op, size_t chunk)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_levels *l = team->levels;

    for (int i = 0; i < team->size; i++) {
        const int r = (team->rank + i) % team->size;
        const int worker = worker_here(l, r);

        if (worker != team->rank)
            pldi_team_take(op, block_of(op, r), offset_of(op, r, chunk * team->piece),
                           part(op, r, chunk), result_slot(op, worker, l->slots[r], chunk));
    }
}

/* --- when they may run --- */

static int all_at(const struct pldi_team *team, const int *ranks, int n, enum pldi_stage stage,
                  uint64_t chunks)
{
    for (int i = 0; i < n; i++) {
        if (!pldi_team_at(team, ranks[i], stage, chunks))
            return 0;
    }
    return 1;
}

/* Whether those who read what a chunk's slot held are through with it. */
static int is_free(const struct pldi_team *team, const int *readers, int n, enum pldi_stage stage,
                   size_t chunk)
{
    return chunk < PLDI_TEAM_SLOTS ||
           all_at(team, readers, n, stage, (uint64_t)chunk + 1 - PLDI_TEAM_SLOTS);
}

static int can_in(const pld_request *op, size_t chunk)
{
    const struct pldi_team *team = op->group->team;

    return is_free(team, team->levels->readers, team->levels->n_readers,
                   reduces(op) ? PLDI_MID : PLDI_BACK, chunk);
}

static int can_mid(const pld_request *op, size_t chunk)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_levels *l = team->levels;

    return all_at(team, l->members, l->n_members, PLDI_IN, chunk + 1) &&
           is_free(team, l->duties, l->n_duties, PLDI_ACROSS, chunk);
}

static int can_across(const pld_request *op, size_t chunk)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_levels *l = team->levels;

    return all_at(team, l->workers, l->map->n, PLDI_MID, chunk + 1) &&
           is_free(team, l->workers, l->map->n, PLDI_BACK, chunk);
}

static int can_back(const pld_request *op, size_t chunk)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_levels *l = team->levels;
    const int *givers = is_broadcast(op) ? &op->root : l->duties;

    return all_at(team, givers, is_broadcast(op) ? 1 : l->n_duties,
                  reduces(op) ? PLDI_ACROSS : PLDI_IN, chunk + 1) &&
           is_free(team, l->members, l->n_members, PLDI_OUT, chunk);
}

static int can_out(const pld_request *op, size_t chunk)
{
    const struct pldi_team *team = op->group->team;

    return all_at(team, team->levels->members, team->levels->n_members, PLDI_BACK, chunk + 1);
}

/* The later a stage the sooner: its slots are waited for. */
static const struct {
    enum pldi_stage stage;
    int (*can)(const pld_request *op, size_t chunk);
    void (*run)(const pld_request *op, size_t chunk);
} stages[PLDI_STAGES] = {{PLDI_OUT, can_out, stage_out},
                         {PLDI_BACK, can_back, stage_back},
                         {PLDI_ACROSS, can_across, stage_across},
                         {PLDI_MID, can_mid, stage_mid},
                         {PLDI_IN, can_in, stage_in}};

int pldi_levels_advance(pld_request *op)
{
    struct pldi_team *team = op->group->team;

    for (int i = 0; i < PLDI_STAGES; i++) {
        const enum pldi_stage stage = stages[i].stage;
        const size_t chunk = team->done[stage];

        if (chunk == team->chunks || !stages[i].can(op, chunk))
            continue;
        stages[i].run(op, chunk);
        pldi_team_publish(team, stage, chunk + 1);
        return 1;
    }
    return 0;
}

int pldi_levels_done(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_levels *l = team->levels;

    for (int stage = 0; stage < PLDI_STAGES; stage++) {
        if (team->done[stage] < team->chunks)
            return 0;
    }
    /* Nobody may still be at this rank's own buffers. */
    if (team->recv_direct && !all_at(team, l->members, l->n_members, PLDI_BACK, team->chunks))
        return 0;
    return !team->send_direct || !pldi_gives(op, team->rank) ||
           all_at(team, l->readers, l->n_readers, reduces(op) ? PLDI_MID : PLDI_BACK, team->chunks);
}
