/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How the ranks of a node meet, and operations so small that meeting is all.
 *
 * Each rank has a seat, which it alone writes.  It arrives by storing the number of the
 * operation with release; the others load it with acquire.  One line carries the
 * number, a hash of what the rank is about to do, and its data if they are few, or else
 * where its buffers are.  Where the hashes differ all ranks see that, and then each
 * writes a record of what it is about to do, for the sentence that all make of them.
 *
 * Two sets in turn suffice.  A rank that arrives at operation n has finished n-1,
 * so all have arrived at n-1, so all have finished n-2: nobody reads that set any
 * more.  Thus one exchange is all a small operation needs.
 */

#include <stdio.h>
#include <string.h>

#include "base/base_clock.h"
#include "base/base_cpu.h"
#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_hall.h"
#include "coll/coll_nodes.h"
#include "coll/coll_shape.h"
#include "coll/coll_shm.h"
#include "coll/coll_shm_levels.h"
#include "coll/coll_shm_mail.h"
#include "coll/coll_shm_stores.h"

enum { CLOCK_EVERY = 64, PAGE = 4096, SPINS = 1000, FETCH_MOST = 1024 };
static const double LOOK_SECONDS = 0.1;

/* What a rank says when a team is made. */
struct card {
    struct pldi_shm_place place; /* rank 0: of the segment */
    struct pldi_mail_probe probe;
    int32_t world, able;
};

struct pldi_seat *pldi_team_seat(const struct pldi_team *team, int rank)
{
    return (void *)(team->shm.data + (size_t)rank * team->seat_bytes);
}

struct pldi_notes *pldi_team_notes(const struct pldi_team *team, int rank)
{
    unsigned char *seat = (void *)pldi_team_seat(team, rank);

    return (void *)(seat + sizeof(struct pldi_seat) +
                    (size_t)((team->begun - 1) % 2) * team->notes_bytes);
}

void pldi_team_detach(struct pldi_team **team)
{
    struct pldi_team *t = *team;

    if (t == NULL)
        return;
    pldi_shm_unmap(&t->shm);
    pldi_mail_destroy(&t->peers, t->size);
    pldi_levels_destroy(&t->levels);
    pldi_free(t->stores);
    pldi_free(t->world);
    pldi_free(t->refs);
    pldi_free(t->words);
    pldi_free(t->offsets);
    pldi_free(t->sources);
    pldi_free(t->targets);
    pldi_free(t->doors);
    pldi_free(t);
    *team = NULL;
}

static size_t pages(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

static struct pldi_team *make(const pld_group *group, struct pldi_node_shm *node)
{
    const size_t n = (size_t)group->size;
    struct pldi_team *t = pldi_alloc(1, sizeof(*t), "a team");

    if (t == NULL)
        return NULL;
    t->node = node;
    t->rank = group->rank;
    t->size = group->size;
    t->shm.fd = -1;
    t->slot_bytes = n * PLDI_TEAM_PIECE_MIN;
    if (t->slot_bytes < PLDI_TEAM_SLOT)
        t->slot_bytes = PLDI_TEAM_SLOT;
    t->notes_bytes =
        sizeof(struct pldi_notes) + sizeof(uint64_t) * (2 * n > PLDI_COUNTS ? 2 * n : PLDI_COUNTS);
    t->notes_bytes = (t->notes_bytes + 127) / 128 * 128;
    t->seat_bytes =
        pages(sizeof(struct pldi_seat) + 2 * t->notes_bytes) + 2 * PLDI_TEAM_SLOTS * t->slot_bytes;
    t->world = pldi_alloc(n, sizeof(t->world[0]), "a team");
    t->refs = pldi_alloc(n, sizeof(t->refs[0]), "a team");
    t->sources = pldi_alloc(n, sizeof(t->sources[0]), "a team");
    t->words = pldi_alloc(n, sizeof(t->words[0]), "a team");
    t->offsets = pldi_alloc(n, sizeof(t->offsets[0]), "a team");
    t->targets = pldi_alloc(n + 1, sizeof(t->targets[0]), "a team");
    t->doors = pldi_alloc(n, sizeof(t->doors[0]), "a team");
    t->stores = pldi_alloc(1, sizeof(t->stores[0]), "a team");
    if (t->world == NULL || t->refs == NULL || t->sources == NULL || t->targets == NULL ||
        t->words == NULL || t->offsets == NULL || t->doors == NULL || t->stores == NULL)
        pldi_team_detach(&t);
    else if (t->rank == 0)
        (void)pldi_shm_create(n * t->seat_bytes + pldi_mail_bytes(t->size), "a team", &t->shm);
    return t;
}

static int make_levels(struct pldi_team *t)
{
    int *numas = pldi_alloc((size_t)t->size, sizeof(*numas), "a team");
    int rc = numas == NULL ? PLD_ERR_NOMEM : PLD_OK;

    for (int r = 0; r < t->size && rc == PLD_OK; r++)
        numas[r] = t->node->numas[t->world[r]];
    if (rc == PLD_OK)
        t->levels = pldi_levels_make(numas, t->size, t->rank, &rc);
    pldi_free(numas);
    return rc;
}

/* 1: this rank can take part, 3: and use the others' buffers, 0: not. */
static int seat_all(struct pldi_team *t, const struct card *cards)
{
    const struct pldi_node_shm *node = t->node;
    int direct = 2;

    for (int r = 0; r < t->size; r++) {
        const struct pldi_neighbour *n = &node->ranks[cards[r].world];

        t->world[r] = cards[r].world;
        if (!cards[r].able || !n->here)
            return 0;
        if (r != t->rank && n->heap.data == NULL)
            direct = 0;
    }
    if (t->rank != 0 && pldi_shm_map(&cards[0].place, &t->shm) < 0)
        return 0;
    if (t->shm.data == NULL)
        return 0;
    if (make_levels(t) < 0)
        return 0;
    /* The pages of a seat belong where its rank runs. */
    memset(pldi_team_seat(t, t->rank), 0, sizeof(struct pldi_seat) + 2 * t->notes_bytes);
    if (pldi_mail_bytes(t->size) > 0) {
        t->peers = pldi_mail_create(t, t->shm.data + (size_t)t->size * t->seat_bytes);
        if (t->peers == NULL)
            return 0;
        for (int r = 0; r < t->size; r++)
            pldi_mail_try(t, r, &cards[r].probe);
    }
    return 1 | direct;
}

static int introduce(pld_group *group, struct pldi_team **team, struct card *cards)
{
    struct card *mine = &cards[group->rank];
    int32_t able = 0;

    PLDI_TRY(pld_agree(group, cards == NULL ? PLD_ERR_NOMEM : PLD_OK));
    memset(mine, 0, sizeof(*mine));
    mine->world = group->node->rank;
    mine->able = *team != NULL;
    mine->probe = pldi_mail_probe();
    if (*team != NULL)
        pldi_shm_describe(&(*team)->shm, &mine->place);
    PLDI_TRY(pld_allgather(group, mine, cards, sizeof(*cards), PLD_U8, NULL));
    if (*team != NULL)
        able = seat_all(*team, cards);
    PLDI_TRY(pld_allreduce(group, &able, &able, 1, PLD_I32, PLD_MIN, NULL));
    if (able == 0) {
        pldi_team_detach(team);
        return PLD_OK;
    }
    (*team)->direct = able == 3;
    pldi_shm_seal(&(*team)->shm);
    return PLD_OK;
}

int pldi_team_attach(pld_group *group, struct pldi_node_shm *node)
{
    struct pldi_team *team = NULL;
    struct card *cards;
    int rc;

    group->node = node;
    if (group->size == 1 || node == NULL)
        return PLD_OK;
    if (node->enabled)
        team = make(group, node);
    cards = pldi_alloc((size_t)group->size, sizeof(*cards), "a team");
    rc = introduce(group, &team, cards);
    pldi_free(cards);
    if (rc < 0)
        pldi_team_detach(&team);
    group->team = team;
    return rc;
}

void pldi_team_ring(const struct pldi_team *team)
{
    for (int r = 0; r < team->size; r++)
        pldi_door_ring(team->doors[r]);
}

/* The recorder, which has them, may come after the team. */
void pldi_team_find_doors(pld_group *group)
{
    struct pldi_team *team = group->team;

    if (team->has_doors || group->health == NULL)
        return;
    for (int r = 0; r < team->size; r++)
        team->doors[r] = r != team->rank ? pldi_health_group_door(group->health, r) : NULL;
    team->has_doors = 1;
}

void pldi_team_break(struct pldi_team *team, int code)
{
    atomic_store(&pldi_team_seat(team, team->rank)->progress.broken, code);
    pldi_team_ring(team);
}

static const struct pldi_arrival *arrival(const struct pldi_team *team, int rank)
{
    return &pldi_team_seat(team, rank)->arrivals[(team->begun - 1) % 2];
}

static int has_arrived(const struct pldi_team *team, int rank)
{
    return atomic_load_explicit(&arrival(team, rank)->seq, memory_order_acquire) == team->begun;
}

static int has_told(const struct pldi_team *team, int rank)
{
    const struct pldi_seat *seat = pldi_team_seat(team, rank);

    return atomic_load_explicit(&seat->progress.said, memory_order_acquire) >= team->begun;
}

/* Whether a rank has done all that others may wait for in this operation. */
static int has_done(const pld_request *op, int rank)
{
    const struct pldi_team *team = op->group->team;

    if (op->state != PLDI_MOVING)
        return (rank < team->seen || has_arrived(team, rank)) &&
               (team->levels == NULL || pldi_levels_told(team, rank)) &&
               (!team->telling || has_told(team, rank));
    for (int stage = PLDI_IN; stage < team->stages; stage++) {
        if (!pldi_team_at(team, rank, (enum pldi_stage)stage, team->chunks))
            return 0;
    }
    return 1;
}

const pld_group *pldi_team_group(const pld_group *group)
{
    return group->team == NULL && group->nodes != NULL ? group->nodes->local : group;
}

/* Who that rank of the team is in the group of the call that op is, or is a part of. */
static int rank_in_call(const pld_group *caller, const pld_group *team, int rank)
{
    const struct pldi_nodes *n = caller->nodes;

    return caller == team ? rank : n->by_node[n->starts[n->node_of[caller->rank]] + rank];
}

int pldi_team_look(const pld_request *op, int rank)
{
    const pld_request *call = op;
    const pld_group *group = pldi_team_group(op->group);
    const struct pldi_team *team = group->team;
    const struct pldi_neighbour *n = &team->node->ranks[team->world[rank]];
    struct pldi_transport *t = group->transport;
    const int broken = atomic_load(&pldi_team_seat(team, rank)->progress.broken);
    const int gone =
        t->ops->gone != NULL ? t->ops->gone(t, rank) : pldi_shm_ended(n->pid, n->watch);
    char before[64] = "its message";
    char last[320];

    if (!broken && !gone)
        return PLD_OK;
    while (call->whole != NULL)
        call = call->whole;
    if (call->group->nodes != NULL && call->group->nodes->hall != NULL)
        PLDI_TRY(pldi_hall_broken(call->group->nodes->hall, rank));
    if (call->kind != PLDI_SEND && call->kind != PLDI_RECV)
        (void)snprintf(before, sizeof(before), "it finished %s #%llu", pldi_kind_name(call->kind),
                       (unsigned long long)call->print.sequence);
    rank = rank_in_call(call->group, group, rank);
    pldi_health_last(call->group->health, rank, last, sizeof(last));
    if (gone)
        return pldi_fail(PLD_ERR_PEER, "rank %d (process %lld) ended before %s%s", rank,
                         (long long)n->pid, before, last);
    return pldi_fail(PLD_ERR_PEER, "rank %d gave up (%s) before %s", rank, pld_error_name(broken),
                     before);
}

/* By the clock, for a fruitless step takes from a nanosecond to a turn of the scheduler. */
int pldi_team_should_look(pld_request *op)
{
    double now;

    if (++op->waits % CLOCK_EVERY != 0)
        return 0;
    now = pldi_now();
    if (now - op->looked < LOOK_SECONDS)
        return 0;
    op->looked = now;
    return 1;
}

int pldi_team_lost(pld_request *op, int rank)
{
    const struct pldi_team *team = pldi_team_group(op->group)->team;

    return rank == team->rank || !pldi_team_should_look(op) ? PLD_OK : pldi_team_look(op, rank);
}

int pldi_team_gave_up(const struct pldi_team *team, int rank)
{
    return atomic_load(&pldi_team_seat(team, rank)->progress.broken) != 0;
}

/*
 * What a rank did before it left counts: its end is found out first, its work looked at then.
 * Who was lost is told of before those who gave up for it.
 */
int pldi_team_waits(pld_request *op)
{
    struct pldi_team *team = op->group->team;

    if (!pldi_team_should_look(op))
        return PLD_OK;
    for (int gave_up = 0; gave_up <= 1; gave_up++) {
        for (int r = 0; r < team->size; r++) {
            const int theirs = r != team->rank && pldi_team_gave_up(team, r) == gave_up;
            const int rc = theirs ? pldi_team_look(op, r) : PLD_OK;

            if (rc < 0 && !has_done(op, r))
                return rc;
        }
    }
    return PLD_OK;
}

/*
 * Whether what the ranks send arrives with them: what is agreed decides, so that all
 * ranks say the same.  What others send by alltoall_v is not known before they come.
 */
static int is_small(const pld_request *op)
{
    const enum pldi_cut *cut = pldi_shape(op->kind)->cut;
    const size_t p = (size_t)op->group->size;
    size_t most = pldi_vector(op);

    if (op->kind == PLDI_ALLTOALL_V)
        return 0;
    /* By rank the vector is all blocks together. */
    if (cut[PLDI_SENT] == PLDI_BLOCKS && op->starts[PLDI_SENT] == NULL)
        most *= p;
    return most <= PLDI_TEAM_SMALL;
}

static struct pldi_refs find_item(const pld_request *op, size_t item)
{
    const struct pldi_heap *heap = op->group->team->node->heap;
    struct pldi_refs refs;

    for (int side = PLDI_SENT; side <= PLDI_RECEIVED; side++) {
        size_t bytes = pldi_extent(op, (enum pldi_side)side);

        if (op->items != NULL && bytes > 0)
            bytes = op->items[item].bytes * (bytes / pldi_vector(op));
        refs.at[side] = pldi_heap_offset(heap, pldi_base(op, (enum pldi_side)side, item), bytes);
    }
    return refs;
}

/* Where the buffers are; of a list in the notes, and in short whether all of them are there. */
static struct pldi_refs find_buffers(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    struct pldi_refs refs = {{SIZE_MAX, SIZE_MAX}};
    struct pldi_refs *noted = pldi_team_notes(team, team->rank)->refs;

    if (!team->direct || team->node->heap == NULL || op->n_items > PLDI_TEAM_ITEMS)
        return refs;
    /* The places where blocks arrive are being sent from. */
    if (op->kind == PLDI_ALLTOALL && op->send == op->recv && op->items == NULL)
        return refs;
    if (op->items == NULL)
        return find_item(op, 0);
    refs = (struct pldi_refs){{0, 0}};
    for (size_t i = 0; i < op->n_items; i++) {
        noted[i] = find_item(op, i);
        for (int side = PLDI_SENT; side <= PLDI_RECEIVED; side++) {
            if (noted[i].at[side] == SIZE_MAX)
                refs.at[side] = SIZE_MAX;
        }
    }
    return refs;
}

/* An allreduce of one vector, summed in the order of ranks: what most calls are. */
static int is_plain(const pld_request *op)
{
    return op->kind == PLDI_ALLREDUCE && op->items == NULL && !op->tree && !op->wide;
}

/* Everything that this rank sends, in one piece. */
static void bring(const pld_request *op, unsigned char *to)
{
    const int blocks = pldi_shape(op->kind)->cut[PLDI_SENT] == PLDI_BLOCKS ? op->group->size : 1;
    const size_t all = is_plain(op) ? pldi_vector(op) : pldi_extent(op, PLDI_SENT);
    size_t at = 0;

    if (op->items == NULL && all > 0)
        memcpy(to, op->send, all);
    for (int b = 0; b < blocks && op->items != NULL && all > 0; b++) {
        pldi_pack(op, b, 0, all / (size_t)blocks, to + at);
        at += all / (size_t)blocks;
    }
}

/* Whether it fits beside the arrival flag, on all ranks alike. */
static int is_inline(const pld_request *op)
{
    const int blocks =
        pldi_shape(op->kind)->cut[PLDI_SENT] == PLDI_BLOCKS && op->starts[PLDI_SENT] == NULL;

    return pldi_vector(op) * (blocks ? (size_t)op->group->size : 1) <= PLDI_TEAM_INLINE;
}

/* Bit per side: others can be at it, or have no need to. */
static uint32_t direct_sides(const pld_request *op, struct pldi_refs refs)
{
    const int rank = op->group->rank;
    const int sent = refs.at[PLDI_SENT] != SIZE_MAX || !pldi_gives(op, rank);
    const int received = refs.at[PLDI_RECEIVED] != SIZE_MAX || !pldi_takes(op, rank);

    return (uint32_t)sent << PLDI_SENT | (uint32_t)received << PLDI_RECEIVED;
}

/* What a rank is about to do, in full. */
static void tell(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    struct pldi_seat *seat = pldi_team_seat(team, team->rank);
    const int set = (int)((team->begun - 1) % 2);
    size_t counts;

    seat->records[set].opening = pldi_open_make(op);
    counts = op->kind == PLDI_ALLTOALL_V ? op->n_counts : seat->records[set].opening.n_counts;
    if (counts > 0)
        memcpy(pldi_team_notes(team, team->rank)->counts, op->counts, counts * sizeof(uint64_t));
    if (op->code < 0)
        memcpy(seat->records[set].text, op->text, PLDI_TEXT_BYTES);
    atomic_store_explicit(&seat->progress.said, team->begun, memory_order_release);
    pldi_team_ring(team);
}

/* Where it will be read whatever the others do. */
static int tells_at_once(const pld_request *op)
{
    return op->code < 0 || op->kind == PLDI_ALLTOALL_V;
}

static void arrive(pld_request *op)
{
    struct pldi_team *team = op->group->team;
    struct pldi_seat *seat = pldi_team_seat(team, team->rank);
    const int set = (int)(team->begun % 2);
    struct pldi_arrival *a = &seat->arrivals[set];

    team->begun++;
    team->telling = tells_at_once(op);
    if (team->telling)
        tell(op);
    a->print = op->code < 0 ? 0 : op->hash | 1;
    team->reads_all = op->kind != PLDI_BARRIER && op->kind != PLDI_AGREE && is_small(op);
    if (team->levels != NULL)
        pldi_levels_arrive(team->levels);
    if (op->code >= 0 && !is_small(op)) {
        a->u.refs = find_buffers(op);
        a->direct = direct_sides(op, a->u.refs);
        a->stores = (uint32_t)pldi_stores_choose(team->stores, op->kind, pldi_vector(op));
    } else if (op->code >= 0) {
        bring(op, is_inline(op) ? a->u.data : seat->small[set]);
    }
    team->seen = 0;
    atomic_store_explicit(&a->seq, team->begun, memory_order_release);
    pldi_team_find_doors(op->group);
    pldi_team_ring(team);
}

static int all_here(struct pldi_team *team)
{
    if (team->levels != NULL)
        return pldi_levels_met(team);
    while (team->seen < team->size && has_arrived(team, team->seen))
        team->seen++;
    return team->seen == team->size;
}

/* Whether all ranks say the same, and none an error. */
static int all_agree(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const uint64_t print = arrival(team, team->rank)->print;
    int same = print != 0 && op->kind != PLDI_ALLTOALL_V;

    if (team->levels != NULL)
        same = same && pldi_levels_agree(team, print);
    for (int r = 0; r < team->size && team->levels == NULL; r++)
        same &= arrival(team, r)->print == print;
    return same;
}

/* 1: all have told what they are about to do. */
static int all_told(const pld_request *op)
{
    struct pldi_team *team = op->group->team;
    int told = 0;

    if (!team->telling)
        tell(op);
    team->telling = 1;
    while (told < team->size && has_told(team, told))
        told++;
    return told == team->size;
}

/* 1; or the sentence, the same on all. */
static int judge(const pld_request *op)
{
    struct pldi_team *team = op->group->team;
    const int set = (int)((team->begun - 1) % 2);

    for (int r = 0; r < team->size; r++) {
        struct pldi_seat *seat = pldi_team_seat(team, r);

        team->words[r] = (struct pldi_word){
            &seat->records[set].opening, pldi_team_notes(team, r)->counts, seat->records[set].text};
    }
    return pldi_open_judge(op->group, team->words);
}

/* What a rank brought for this one. */
static const unsigned char *brought(const pld_request *op, int rank, int in_line)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_seat *seat = pldi_team_seat(team, rank);
    const int set = (int)((team->begun - 1) % 2);
    const unsigned char *data = in_line ? seat->arrivals[set].u.data : seat->small[set];

    if (pldi_shape(op->kind)->cut[PLDI_SENT] != PLDI_BLOCKS)
        return data;
    if (op->starts[PLDI_SENT] != NULL)
        return data + op->starts[PLDI_SENT][team->rank];
    return data + (size_t)team->rank * pldi_vector(op);
}

static void finish_plain(pld_request *op, int in_line)
{
    struct pldi_team *team = op->group->team;
    const int set = (int)((team->begun - 1) % 2);

    for (int r = 0; r < team->size; r++) {
        const struct pldi_seat *seat = pldi_team_seat(team, r);

        team->sources[r] = in_line ? seat->arrivals[set].u.data : seat->small[set];
    }
    op->group->kernels->reduce_to(&op->recv, 1, team->sources, team->size, op->count, op->dtype,
                                  pldi_kernel_op(op), op->scale, 0);
}

static void finish_small(pld_request *op)
{
    struct pldi_team *team = op->group->team;
    const struct pldi_shape *shape = pldi_shape(op->kind);
    const int even = shape->cut[PLDI_RECEIVED] == PLDI_EVEN;
    const int in_line = is_inline(op);

    if (is_plain(op)) {
        finish_plain(op, in_line);
        return;
    }
    for (int r = 0; r < team->size; r++) {
        team->sources[r] = brought(op, r, in_line);
        if (!shape->reduces && pldi_flow(op, r, team->rank) > 0 &&
            !(shape->from_root && shape->cut[PLDI_SENT] == PLDI_WHOLE && r == team->rank))
            pldi_unpack(op, r, 0, pldi_flow(op, r, team->rank), team->sources[r]);
    }
    if (shape->reduces && pldi_takes(op, team->rank))
        pldi_reduce_to(op, even ? 0 : team->rank, 0, pldi_extent(op, PLDI_RECEIVED), team->sources,
                       team->size);
}

/* 1: done, 0: not yet. */
static int open_team(pld_request *op, int *moved)
{
    struct pldi_team *team = op->group->team;
    int agree;

    if (op->state == PLDI_NEW) {
        arrive(op);
        op->state = PLDI_OPENING;
        *moved = 1;
    }
    if (!all_here(team))
        return pldi_team_waits(op);
    agree = all_agree(op);
    if (!agree && !all_told(op))
        return pldi_team_waits(op);
    op->state = PLDI_OPENED;
    *moved = 1;
    if (!agree)
        PLDI_TRY(judge(op));
    if (is_small(op)) {
        finish_small(op);
        return 1;
    }
    pldi_team_plan(op);
    op->state = PLDI_MOVING;
    return 0;
}

/*
 * Nobody reads the other set any more: its lines are taken back from those who did now, when
 * there is nothing else to do, and not when they are next written.
 */
static void fetch_next(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_seat *seat = pldi_team_seat(team, team->rank);
    const unsigned char *small = seat->small[team->begun % 2];
    const size_t bytes = is_small(op) && !is_inline(op) ? pldi_vector(op) : 0;

    pldi_fetch_to_write(&seat->arrivals[team->begun % 2]);
    for (size_t at = 0; at < bytes && at < FETCH_MOST; at += 64)
        pldi_fetch_to_write(small + at);
}

void pldi_team_hasten(pld_request *op)
{
    if (op->state != PLDI_NEW || tells_at_once(op)) /* with the site, from the recorder */
        return;
    arrive(op);
    fetch_next(op);
    op->state = PLDI_OPENING;
}

void pldi_team_spin(const pld_request *op)
{
    struct pldi_team *team = op->group->team;

    for (int i = 0; i < SPINS && op->state == PLDI_OPENING && !all_here(team); i++)
        pldi_pause();
}

int pldi_team_step(pld_request *op, int *moved)
{
    int rc = 0;

    if (op->state != PLDI_MOVING)
        rc = open_team(op, moved);
    return op->state == PLDI_MOVING && rc == 0 ? pldi_team_move(op, moved) : rc;
}
