/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One step of an operation, and what the steps share.
 *
 * A failure on the way (a peer that left, a transport error, a message of the
 * wrong size) leaves the group's ranks at different places: what is under way is
 * given up, and every later operation of the group fails with the same code.
 * A verdict of the opening leaves them all at the same place, and the group
 * remains usable.
 */

#include "base/base_err.h"
#include "base/base_hash.h"
#include "coll/coll.h"
#include "coll/coll_break.h"
#include "coll/coll_check.h"
#include "coll/coll_device.h"
#include "coll/coll_hall.h"
#include "coll/coll_health.h"
#include "coll/coll_leaves.h"
#include "coll/coll_nodes.h"
#include "coll/coll_route.h"
#include "coll/coll_shape.h"
#include "coll/coll_shm.h"
#include "coll/coll_shm_mail.h"

#include <stdio.h>

int pldi_xfers_test(pld_group *group, struct pldi_xfer *xfers, const size_t *wants, int n,
                    int *moved)
{
    struct pldi_transport *t = group->transport;
    int active = 0;

    for (int i = 0; i < n; i++) {
        int done = 0;

        if (!xfers[i].active)
            continue;
        PLDI_TRY(t->ops->test(t, &xfers[i], &done));
        active += !done;
        if (!done)
            continue;
        *moved = 1;
        if (wants != NULL && xfers[i].bytes != wants[i])
            return pldi_fail(PLD_ERR_MISMATCH, "rank %d sent %zu bytes, %zu expected", i,
                             xfers[i].bytes, wants[i]);
    }
    return active == 0;
}

int pldi_work_test(pld_group *group, int n, int *moved)
{
    const int received = pldi_xfers_test(group, group->work.recvs, NULL, n, moved);
    int sent;

    PLDI_TRY(received);
    sent = pldi_xfers_test(group, group->work.sends, NULL, n, moved);
    PLDI_TRY(sent);
    return received && sent;
}

int pldi_send_part(pld_group *group, const void *buf, size_t bytes, int peer, int tag,
                   struct pldi_xfer *x)
{
    const struct pldi_nodes *n = group->nodes;

    if (n != NULL && n->node_of[peer] != n->node_of[group->rank]) {
        group->crossed += bytes;
        group->crossings++;
    }
    return group->transport->ops->isend(group->transport, buf, bytes, peer, tag, x);
}

static void cancel_all(pld_group *group, struct pldi_xfer *xfers, int n)
{
    struct pldi_transport *t = group->transport;

    for (int i = 0; i < n && xfers != NULL; i++) {
        if (xfers[i].active)
            t->ops->cancel(t, &xfers[i]);
    }
}

void pldi_work_cancel(pld_group *group)
{
    struct pldi_work *w = &group->work;

    cancel_all(group, w->sends, group->size);
    cancel_all(group, w->recvs, group->size);
    for (int i = 0; i < PLDI_LANES; i++) {
        cancel_all(group, w->lanes[i].sends, group->size);
        cancel_all(group, w->lanes[i].recvs, group->size);
    }
}

static int break_group(pld_group *group, int code)
{
    pld_group *local = group->nodes != NULL ? group->nodes->local : NULL;

    if (group->nodes != NULL && group->nodes->hall != NULL)
        pldi_hall_break(group->nodes->hall, code);
    pldi_work_cancel(group);
    pldi_route_cancel(group);
    if (group->broken == 0)
        (void)snprintf(group->why, sizeof(group->why), "%s", pld_last_error());
    group->broken = code;
    if (group->team != NULL)
        pldi_team_break(group->team, code);
    if (local != NULL && local->team != NULL)
        pldi_team_break(local->team, code);
    if (group->transport->ops->revoke != NULL)
        group->transport->ops->revoke(group->transport);
    return code;
}

void pldi_group_break(pld_group *group, int code)
{
    pldi_engine_enter(group->engine);
    (void)break_group(group, code);
    pldi_engine_leave(group->engine);
}

int pldi_group_failed(const pld_request *op)
{
    return pldi_fail(op->group->broken, "%s on a group whose communication failed before: %s",
                     pldi_kind_name(op->kind), op->group->why);
}

static void choose(pld_request *op)
{
    const pld_group *g = op->group;
    const enum pldi_cut *cut = pldi_shape(op->kind)->cut;
    const int blocks = cut[PLDI_SENT] == PLDI_BLOCKS || cut[PLDI_RECEIVED] == PLDI_BLOCKS;
    const int by_rank = op->starts[PLDI_SENT] != NULL || op->starts[PLDI_RECEIVED] != NULL;
    struct pldi_facts facts;

    op->choice.algorithm = PLDI_FLAT;
    if (g->nodes == NULL)
        return;
    facts = pldi_facts_of(g, (int)op->kind, op->dtype,
                          pldi_vector(op) * (uint64_t)(blocks && !by_rank ? g->size : 1));
    facts.tree = op->tree;
    op->choice = pldi_choose(&facts, g->tuning);
}

/* What one rank must prepare before it says that it takes part. */
static void prepare(pld_request *op)
{
    int rc;

    if (op->group->size == 1)
        return;
    choose(op);
    if (op->code < 0)
        return;
    rc = pldi_route_carries(op) ? pldi_route_plan(op) : pldi_lane_plan(op);
    if (rc == PLD_OK)
        return;
    op->code = rc;
    (void)snprintf(op->text, sizeof(op->text), "%s", pld_last_error());
}

/* 1: all ranks agree, 0: not all are here yet; an error is everybody's. */
static int open_group(pld_request *op, int *moved)
{
    int rc;

    if (op->group->size == 1)
        return op->code < 0 ? pldi_fail(op->code, "rank 0: %s", op->text) : 1;
    rc = pldi_open_step(op, moved);
    return rc < 0 && op->state != PLDI_OPENED ? break_group(op->group, rc) : rc;
}

/* All ranks are known to do the same. */
static int step_data(pld_request *op, int *moved)
{
    if (pldi_route_carries(op))
        return pldi_route_step(op, moved);
    if (op->state == PLDI_OPENED && op->group->small_bytes > 0)
        pldi_small_finish(op);
    return op->chunks == 0 ? 1 : pldi_lane_step(op, moved);
}

static void set_tree(pld_request *op)
{
    op->tree |= op->group->reproducible && pldi_shape(op->kind)->reduces;
}

static int step_collective(pld_request *op, int *moved)
{
    pld_group *g = op->group;
    int rc;

    if (g->broken != 0)
        return pldi_group_failed(op);
    if (op->state == PLDI_NEW)
        set_tree(op);
    if (g->team != NULL) {
        rc = pldi_team_step(op, moved);
        return rc < 0 && op->state != PLDI_OPENED ? break_group(g, rc) : rc;
    }
    if (op->state == PLDI_NEW)
        prepare(op);
    if (op->state < PLDI_OPENED) {
        rc = open_group(op, moved);
        if (rc <= 0)
            return rc;
        op->state = PLDI_OPENED;
    }
    if (g->size == 1) {
        pldi_lane_alone(op);
        return 1;
    }
    rc = step_data(op, moved);
    return rc < 0 ? break_group(g, rc) : rc;
}

static int post_p2p(pld_request *op, size_t bytes)
{
    struct pldi_transport *t = op->group->transport;
    const int tag = PLDI_TAG_P2P + op->tag;

    op->state = PLDI_MOVING;
    if (op->kind == PLDI_SEND)
        return t->ops->isend(t, op->send, bytes, op->peer, tag, &op->xfer);
    return t->ops->irecv(t, op->recv, bytes, op->peer, tag, &op->xfer);
}

/* What the peer sent before it left counts: its end is found out first. */
static int test_p2p(pld_request *op, int *done)
{
    pld_group *g = op->group;
    const int lost = g->team != NULL ? pldi_team_lost(op, op->peer) : PLD_OK;
    char text[PLDI_TEXT_BYTES];

    if (lost < 0)
        (void)snprintf(text, sizeof(text), "%s", pld_last_error());
    PLDI_TRY(g->transport->ops->test(g->transport, &op->xfer, done));
    if (lost == PLD_OK || *done)
        return PLD_OK;
    g->transport->ops->cancel(g->transport, &op->xfer);
    return pldi_fail(lost, "%s", text);
}

static int step_p2p(pld_request *op)
{
    pld_group *g = op->group;
    const size_t bytes = op->count * pld_dtype_bytes(op->dtype);
    int done = 0;

    if (g->broken != 0) {
        if (op->xfer.active)
            g->transport->ops->cancel(g->transport, &op->xfer);
        return pldi_group_failed(op);
    }
    if (op->state == PLDI_NEW)
        PLDI_TRY(post_p2p(op, bytes));
    PLDI_TRY(test_p2p(op, &done));
    if (done && op->kind == PLDI_RECV && op->xfer.bytes != bytes)
        return pldi_fail(PLD_ERR_MISMATCH,
                         "rank %d sent %zu bytes with tag %d, %zu (%s[%zu]) expected", op->peer,
                         op->xfer.bytes, op->tag, bytes, pld_dtype_name(op->dtype), op->count);
    return done;
}

static int step_message(pld_request *op, int *moved)
{
    return pldi_mail_carries(op) ? pldi_mail_step(op, moved) : step_p2p(op);
}

int pldi_op_give_up(pld_request *op, int code)
{
    struct pldi_transport *t = op->group->transport;

    if (op->staged != NULL)
        pldi_staged_cancel(op);
    pldi_leaves_end(op);
    if (op->kind != PLDI_SEND && op->kind != PLDI_RECV)
        return break_group(op->group, code);
    if (op->staged != NULL)
        return code;
    if (pldi_mail_carries(op))
        pldi_mail_cancel(op);
    else if (op->xfer.active)
        t->ops->cancel(t, &op->xfer);
    return code;
}

void pldi_op_number(pld_request *op, uint64_t number)
{
    op->print.sequence = number;
    op->hash = pldi_hash64(&op->print, sizeof(op->print));
}

void pldi_op_hasten(pld_request *op)
{
    const pld_group *g = op->group;

    if (op->kind == PLDI_SEND || op->kind == PLDI_RECV || op->kind == PLDI_LEAVES ||
        op->staged != NULL || g->team == NULL || g->broken != 0)
        return;
    set_tree(op);
    pldi_team_hasten(op);
}

int pldi_op_part(pld_request *op, int *moved)
{
    if (op->staged != NULL && op->kind != PLDI_LEAVES)
        return pldi_staged_step(op, moved);
    if (op->kind == PLDI_SEND || op->kind == PLDI_RECV)
        return step_message(op, moved);
    return step_collective(op, moved);
}

int pldi_op_step(pld_request *op, int *moved)
{
    const int message = op->kind == PLDI_SEND || op->kind == PLDI_RECV;
    int rc = 1;

    if (message && op->state == PLDI_NEW && op->group->check && op->group->broken == 0)
        rc = pldi_check_step(op, moved);
    if (rc > 0 && op->kind == PLDI_LEAVES)
        rc = pldi_leaves_step(op, moved);
    else if (rc > 0)
        rc = pldi_op_part(op, moved);
    return pldi_coll_stepped(op, rc, *moved);
}
