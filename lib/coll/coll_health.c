/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "coll/coll_health.h"

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_ticks.h"
#include "coll/coll_check.h"
#include "coll/coll_engine.h"
#include "coll/coll_shape.h"
#include "coll/coll_shm.h"
#include "health/health_ring.h"

/* Two exchanges: of where rings are, and of where to ask those that cannot be mapped. */
static int introduce(pld_group *world, struct pldi_health *h, struct pldi_health_card *cards,
                     unsigned char *met)
{
    struct pldi_health_card *mine = &cards[world->rank];

    PLDI_TRY(pld_allgather(world, mine, cards, sizeof(*cards), PLD_U8, NULL));
    met[world->rank] = (unsigned char)pldi_health_meet(h, cards);
    PLDI_TRY(pld_allgather(world, &met[world->rank], met, 1, PLD_U8, NULL));
    PLDI_TRY(pld_agree(world, pldi_health_listen(h, met, mine)));
    PLDI_TRY(pld_allgather(world, mine, cards, sizeof(*cards), PLD_U8, NULL));
    PLDI_TRY(pld_agree(world, pldi_health_start(h, cards)));
    pldi_health_set_clock(h);
    return PLD_OK;
}

int pldi_coll_open_health(pld_group *world, const struct pldi_health_opts *opts,
                          struct pldi_health **out)
{
    const size_t n = (size_t)world->size;
    struct pldi_health_card *cards = pldi_alloc(n, sizeof(*cards), "the recorder");
    unsigned char *met = pldi_alloc(n, 1, "the recorder");
    struct pldi_health *h = NULL;
    int rc = cards == NULL || met == NULL ? PLD_ERR_NOMEM : PLD_OK;

    if (rc == PLD_OK)
        rc = pldi_health_create(world->rank, world->size, opts, &h, &cards[world->rank]);
    rc = pld_agree(world, rc);
    if (rc == PLD_OK)
        rc = introduce(world, h, cards, met);
    if (rc == PLD_OK)
        rc = pldi_health_group_create(h, NULL, 0, 0, NULL, world->size, &world->health);
    if (rc == PLD_OK)
        pldi_engine_set_door(world->engine, pldi_health_group_door(world->health, world->rank));
    rc = pld_agree(world, rc);
    pldi_free(cards);
    pldi_free(met);
    *out = h;
    return rc;
}

int pldi_coll_part_health(pld_group *parent, pld_group *part, int color, const int *members)
{
    part->check = parent->check;
    if (parent->health == NULL)
        return PLD_OK;
    return pldi_health_group_create(pldi_health_group_owner(parent->health), parent->health,
                                    parent->splits, color, members, part->size, &part->health);
}

static int is_message(const pld_request *op)
{
    return op->kind == PLDI_SEND || op->kind == PLDI_RECV;
}

static unsigned flags_of(const pld_request *op)
{
    const struct pldi_shape *shape = pldi_shape(op->kind);
    unsigned flags = shape->cut[PLDI_RECEIVED] != PLDI_NOTHING ? PLDI_REC_DATA : 0;

    if (is_message(op))
        return PLDI_REC_DATA | PLDI_REC_MESSAGE;
    if (shape->reduces)
        flags |= PLDI_REC_REDUCES;
    return shape->from_root || shape->to_root ? flags | PLDI_REC_ROOT : flags;
}

int pldi_coll_may(const pld_request *op)
{
    return op->group->health != NULL ? pldi_health_group_alarm(op->group->health) : PLD_OK;
}

void pldi_coll_called(pld_request *op, uint64_t stamp)
{
    struct pldi_health_call call = {
        .kind = (unsigned)op->kind,
        .dtype = (unsigned)op->dtype,
        .op = (unsigned)op->op,
        .flags = flags_of(op),
        .count = op->count,
        .sequence = op->print.sequence,
        .print = op->hash,
        .stamp = stamp,
        .name = op->name,
    };

    if (op->group->health == NULL)
        return;
    call.peer = call.flags & PLDI_REC_MESSAGE ? op->peer : op->root;
    call.tag = op->tag;
    pldi_health_called(op->group->health, op->ticket, &call);
}

int pldi_coll_record(pld_request *op)
{
    PLDI_TRY(pldi_coll_may(op));
    op->ticket = pldi_health_ticket(op->group->health);
    pldi_coll_called(op, pldi_ticks());
    return PLD_OK;
}

/* A rank of the group from which nothing has come; -1: not known. */
static int find_missing(const pld_group *g)
{
    if (g->team != NULL)
        return g->team->levels == NULL && g->team->seen < g->team->size ? g->team->seen : -1;
    for (int r = 0; g->work.recvs != NULL && r < g->size; r++) {
        if (g->work.recvs[r].active)
            return r;
    }
    return -1;
}

/* While the runtime opens there is no watchdog yet. */
static int check_opening(const pld_request *op)
{
    const double limit = pldi_engine_late(op->group->engine);
    const int missing = limit > 0 ? find_missing(op->group) : -1;

    if (limit <= 0)
        return PLD_OK;
    if (missing < 0)
        return pldi_fail(PLD_ERR_TIMEOUT, "pld_runtime_open: no end within %.1f s", limit);
    return pldi_fail(PLD_ERR_TIMEOUT, "pld_runtime_open: nothing came from rank %d within %.1f s",
                     op->group->world[missing], limit);
}

int pldi_coll_stepped(pld_request *op, int rc, int moved)
{
    const struct pldi_health_group *health = op->group->health;

    if (rc == 0 && !op->started && op->state >= PLDI_OPENED && !is_message(op)) {
        op->started = 1;
        pldi_health_started(health, op->ticket);
    }
    if (rc == 0 && !moved) {
        rc = health == NULL ? check_opening(op)
                            : pldi_health_check(health, op->ticket, op->print.sequence,
                                                is_message(op) ? op->peer : -1);
        if (rc < 0)
            rc = pldi_op_give_up(op, rc);
    }
    /* A rank that gave up for the job's sake looks like one that failed by itself. */
    if (rc < 0 && rc != PLD_ERR_TIMEOUT && pldi_health_node_alarm(health))
        rc = pldi_health_group_alarm(health);
    if (rc < 0)
        pldi_check_cancel(op);
    if (rc != 0)
        pldi_health_ended(health, op->ticket, rc < 0 ? rc : PLD_OK);
    return rc;
}
