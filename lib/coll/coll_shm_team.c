/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How the ranks of a node meet, and operations so small that meeting is all.
 *
 * Each rank has a seat, which it alone writes.  It arrives by filling in a record
 * and storing the number of the operation with release; the others load it with
 * acquire.  One line carries the number, a hash of what the rank is about to do,
 * and its data if they are few, or else where its buffers are.
 *
 * Two sets in turn suffice.  A rank that arrives at operation n has finished n-1,
 * so all have arrived at n-1, so all have finished n-2: nobody reads that set any
 * more.  Thus one exchange is all a small operation needs.
 */

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "coll/coll_shm.h"

enum { LOOK_EVERY = 1024, PAGE = 4096 };

/* What a rank says when a team is made. */
struct card {
    struct pldi_shm_place place; /* rank 0: of the segment */
    int32_t world, able;
};

struct pldi_seat *pldi_team_seat(const struct pldi_team *team, int rank)
{
    return (void *)(team->shm.data + (size_t)rank * team->seat_bytes);
}

void pldi_team_detach(struct pldi_team **team)
{
    struct pldi_team *t = *team;

    if (t == NULL)
        return;
    pldi_shm_unmap(&t->shm);
    pldi_free(t->world);
    pldi_free(t->refs);
    pldi_free(t->sources);
    pldi_free(t->targets);
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
    t->seat_bytes = pages(sizeof(struct pldi_seat)) + 2 * PLDI_TEAM_SLOTS * t->slot_bytes;
    t->world = pldi_alloc(n, sizeof(t->world[0]), "a team");
    t->refs = pldi_alloc(n, sizeof(t->refs[0]), "a team");
    t->sources = pldi_alloc(n, sizeof(t->sources[0]), "a team");
    t->targets = pldi_alloc(n, sizeof(t->targets[0]), "a team");
    if (t->world == NULL || t->refs == NULL || t->sources == NULL || t->targets == NULL)
        pldi_team_detach(&t);
    else if (t->rank == 0)
        (void)pldi_shm_create(n * t->seat_bytes, "a team", &t->shm);
    return t;
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
    /* The pages of a seat belong where its rank runs. */
    memset(pldi_team_seat(t, t->rank), 0, sizeof(struct pldi_seat));
    return t->shm.data == NULL ? 0 : 1 | direct;
}

static int introduce(pld_group *group, struct pldi_team **team, struct card *cards)
{
    struct card *mine = &cards[group->rank];
    int32_t able = 0;

    PLDI_TRY(pld_agree(group, cards == NULL ? PLD_ERR_NOMEM : PLD_OK));
    memset(mine, 0, sizeof(*mine));
    mine->world = group->node->rank;
    mine->able = *team != NULL;
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

void pldi_team_break(struct pldi_team *team, int code)
{
    atomic_store(&pldi_team_seat(team, team->rank)->progress.broken, code);
}

static const struct pldi_arrival *arrival(const struct pldi_team *team, int rank)
{
    return &pldi_team_seat(team, rank)->arrivals[(team->begun - 1) % 2];
}

static int has_arrived(const struct pldi_team *team, int rank)
{
    return atomic_load_explicit(&arrival(team, rank)->seq, memory_order_acquire) == team->begun;
}

/* Whether a rank has done all that others may wait for in this operation. */
static int has_done(const pld_request *op, int rank)
{
    const struct pldi_team *team = op->group->team;

    if (op->state != PLDI_MOVING)
        return rank < team->seen || has_arrived(team, rank);
    for (int stage = PLDI_IN; stage <= PLDI_OUT; stage++) {
        if (!pldi_team_at(team, rank, (enum pldi_stage)stage, team->chunks))
            return 0;
    }
    return 1;
}

static int is_gone(const struct pldi_team *team, struct pldi_transport *t, int rank)
{
    const struct pldi_neighbour *n = &team->node->ranks[team->world[rank]];

    return t->ops->gone != NULL ? t->ops->gone(t, rank) : pldi_shm_ended(n->pid, n->watch);
}

int pldi_team_lost(pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const int rank = op->peer;
    int broken;

    if (team == NULL || rank == team->rank || ++op->waits % LOOK_EVERY != 0)
        return PLD_OK;
    broken = atomic_load(&pldi_team_seat(team, rank)->progress.broken);
    if (broken < 0)
        return pldi_fail(PLD_ERR_PEER, "rank %d gave up (%s) before its message", rank,
                         pld_error_name(broken));
    if (is_gone(team, op->group->transport, rank))
        return pldi_fail(PLD_ERR_PEER, "rank %d (process %lld) ended before its message", rank,
                         (long long)team->node->ranks[team->world[rank]].pid);
    return PLD_OK;
}

/* What a rank did before it left counts: its end is found out first, its work looked at then. */
static int look_after(const pld_request *op, int rank)
{
    const struct pldi_team *team = op->group->team;
    const struct pldi_neighbour *n = &team->node->ranks[team->world[rank]];
    const int broken = atomic_load(&pldi_team_seat(team, rank)->progress.broken);
    const int gone = is_gone(team, op->group->transport, rank);

    if ((!broken && !gone) || has_done(op, rank))
        return PLD_OK;
    if (gone)
        return pldi_fail(PLD_ERR_PEER, "rank %d (process %lld) ended before it finished %s #%llu",
                         rank, (long long)n->pid, pldi_kind_name(op->kind),
                         (unsigned long long)op->print.sequence);
    return pldi_fail(PLD_ERR_PEER, "rank %d gave up (%s) before it finished %s #%llu", rank,
                     pld_error_name(broken), pldi_kind_name(op->kind),
                     (unsigned long long)op->print.sequence);
}

int pldi_team_waits(pld_request *op)
{
    struct pldi_team *team = op->group->team;

    if (++team->waits % LOOK_EVERY != 0)
        return PLD_OK;
    for (int r = 0; r < team->size; r++) {
        if (r != team->rank)
            PLDI_TRY(look_after(op, r));
    }
    return PLD_OK;
}

/* Bytes that a rank brings along, or SIZE_MAX: too many. */
static size_t payload(const pld_request *op)
{
    size_t bytes = op->count * pld_dtype_bytes(op->dtype);

    if (op->kind == PLDI_BARRIER || op->kind == PLDI_AGREE)
        return 0;
    if (op->kind == PLDI_REDUCE_SCATTER)
        bytes *= (size_t)op->group->size;
    return bytes <= PLDI_TEAM_SMALL ? bytes : SIZE_MAX;
}

static struct pldi_refs find_buffers(const pld_request *op)
{
    const struct pldi_team *team = op->group->team;
    const size_t once = op->count * pld_dtype_bytes(op->dtype);
    const size_t all = once * (size_t)team->size;
    struct pldi_refs refs = {SIZE_MAX, SIZE_MAX};

    if (!team->direct || team->node->heap == NULL)
        return refs;
    refs.send =
        pldi_heap_offset(team->node->heap, op->send, op->kind == PLDI_REDUCE_SCATTER ? all : once);
    refs.recv =
        pldi_heap_offset(team->node->heap, op->recv, op->kind == PLDI_ALLGATHER ? all : once);
    return refs;
}

static void arrive(pld_request *op)
{
    struct pldi_team *team = op->group->team;
    struct pldi_seat *seat = pldi_team_seat(team, team->rank);
    const int set = (int)(team->begun % 2);
    struct pldi_arrival *a = &seat->arrivals[set];
    const size_t bytes = payload(op);

    seat->records[set].opening = pldi_open_make(op);
    if (op->code < 0)
        memcpy(seat->records[set].text, op->text, PLDI_TEXT_BYTES);
    a->print = op->code < 0 ? 0 : pldi_hash64(&op->print, sizeof(op->print)) | 1;
    if (bytes == SIZE_MAX)
        a->u.refs = find_buffers(op);
    else if (bytes > 0 && (op->kind != PLDI_BROADCAST || op->root == team->rank))
        memcpy(bytes <= PLDI_TEAM_INLINE ? a->u.data : seat->small[set], op->send, bytes);
    team->begun++;
    team->seen = 0;
    atomic_store_explicit(&a->seq, team->begun, memory_order_release);
}

static int all_here(struct pldi_team *team)
{
    while (team->seen < team->size && has_arrived(team, team->seen))
        team->seen++;
    return team->seen == team->size;
}

/* All ranks say the same, and none an error: 1; or the sentence, the same on all. */
static int judge(pld_request *op)
{
    struct pldi_team *team = op->group->team;
    const uint64_t print = arrival(team, team->rank)->print;
    int same = print != 0;

    for (int r = 0; r < team->size; r++)
        same &= arrival(team, r)->print == print;
    if (same)
        return 1;
    for (int r = 0; r < team->size; r++)
        team->sources[r] = &pldi_team_seat(team, r)->records[(team->begun - 1) % 2].opening;
    return pldi_open_judge((const void *)team->sources, team->size);
}

static void finish_small(pld_request *op, size_t bytes)
{
    struct pldi_team *team = op->group->team;
    const size_t each = op->count * pld_dtype_bytes(op->dtype);
    const size_t skip = op->kind == PLDI_REDUCE_SCATTER ? each * (size_t)team->rank : 0;
    const int set = (int)((team->begun - 1) % 2);

    for (int r = 0; r < team->size; r++) {
        const struct pldi_seat *seat = pldi_team_seat(team, r);
        const unsigned char *data =
            bytes <= PLDI_TEAM_INLINE ? seat->arrivals[set].u.data : seat->small[set];

        team->sources[r] = data + skip;
        if (op->kind == PLDI_ALLGATHER)
            memcpy((char *)op->recv + (size_t)r * each, data, each);
        if (op->kind == PLDI_BROADCAST && r == op->root && r != team->rank)
            memcpy(op->recv, data, each);
    }
    if (op->kind == PLDI_ALLREDUCE || op->kind == PLDI_REDUCE_SCATTER)
        team->node->kernels->reduce(op->recv, team->sources, team->size, op->count, op->dtype,
                                    op->op == PLD_AVG ? PLD_SUM : op->op, op->scale);
}

/* 1: done, 0: not yet. */
static int open_team(pld_request *op, int *moved)
{
    struct pldi_team *team = op->group->team;
    size_t bytes;

    if (op->state == PLDI_NEW) {
        arrive(op);
        op->state = PLDI_OPENING;
        *moved = 1;
    }
    if (!all_here(team))
        return pldi_team_waits(op);
    op->state = PLDI_OPENED;
    *moved = 1;
    PLDI_TRY(judge(op));
    bytes = payload(op);
    if (bytes != SIZE_MAX) {
        if (bytes > 0)
            finish_small(op, bytes);
        return 1;
    }
    for (int r = 0; r < team->size; r++)
        team->refs[r] = arrival(team, r)->u.refs;
    pldi_team_plan(op);
    op->state = PLDI_MOVING;
    return 0;
}

int pldi_team_step(pld_request *op, int *moved)
{
    int rc = 0;

    if (op->state != PLDI_MOVING)
        rc = open_team(op, moved);
    return op->state == PLDI_MOVING && rc == 0 ? pldi_team_move(op, moved) : rc;
}
