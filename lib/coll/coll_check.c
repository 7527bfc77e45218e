/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Announcements have tags of their own, one for senders and one for receivers, so that
 * a send and a receive with equal peer and tag do not get each other's.  Messages of
 * equal peer and tag must still be posted in the order of their calls: each waits
 * until those before it have been.
 */

#include "coll/coll_check.h"

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_shape.h"

enum { TAG_CHECK = PLDI_TAG_P2P + (1 << 20) };

struct pldi_check {
    pld_request *op;
    struct pldi_opening mine, theirs;
    struct pldi_xfer send, recv;
    struct pldi_check *next; /* in the group, newest last */
};

static int check_tag(int tag, int sends)
{
    return TAG_CHECK + 2 * tag + sends;
}

static int announce(pld_request *op)
{
    struct pldi_transport *t = op->group->transport;
    const int sends = op->kind == PLDI_SEND;
    struct pldi_check *c = pldi_alloc(1, sizeof(*c), "a check");
    struct pldi_check **list = &op->group->checks;

    if (c == NULL)
        return PLD_ERR_NOMEM;
    while (*list != NULL)
        list = &(*list)->next;
    *list = op->check = c;
    c->op = op;
    c->mine = pldi_open_make(op);
    PLDI_TRY(t->ops->irecv(t, &c->theirs, sizeof(c->theirs), op->peer, check_tag(op->tag, !sends),
                           &c->recv));
    return t->ops->isend(t, &c->mine, sizeof(c->mine), op->peer, check_tag(op->tag, sends),
                         &c->send);
}

static int is_first(const pld_request *op)
{
    const struct pldi_check *c = op->group->checks;

    while (c->op->kind != op->kind || c->op->peer != op->peer || c->op->tag != op->tag)
        c = c->next;
    return c->op == op;
}

static void describe(const struct pldi_opening *o, char *text, size_t bytes)
{
    (void)snprintf(text, bytes, "rank %d: %s %s[%llu] at %.*s%s%.*s%s", o->rank,
                   pldi_kind_name(o->print.kind), pld_dtype_name((pld_dtype)o->print.dtype),
                   (unsigned long long)o->print.count, PLDI_SITE_BYTES, o->site,
                   o->tag[0] != '\0' ? " (" : "", PLDI_TAG_BYTES, o->tag,
                   o->tag[0] != '\0' ? ")" : "");
}

static int judge(const pld_request *op)
{
    const struct pldi_opening *mine = &op->check->mine;
    const struct pldi_opening *theirs = &op->check->theirs;
    char sender[320], receiver[320];

    if (mine->print.dtype == theirs->print.dtype && mine->print.count == theirs->print.count)
        return 1;
    describe(op->kind == PLDI_SEND ? mine : theirs, sender, sizeof(sender));
    describe(op->kind == PLDI_SEND ? theirs : mine, receiver, sizeof(receiver));
    return pldi_fail(PLD_ERR_MISMATCH, "ranks of %s differ in a message with tag %d: %s; %s",
                     pldi_health_group_text(op->group->health), op->tag, sender, receiver);
}

void pldi_check_cancel(pld_request *op)
{
    struct pldi_transport *t = op->group->transport;
    struct pldi_check **list = &op->group->checks;
    struct pldi_check *c = op->check;

    if (c == NULL)
        return;
    while (*list != c)
        list = &(*list)->next;
    *list = c->next;
    if (c->send.active)
        t->ops->cancel(t, &c->send);
    if (c->recv.active)
        t->ops->cancel(t, &c->recv);
    pldi_free(c);
    op->check = NULL;
}

int pldi_check_step(pld_request *op, int *moved)
{
    int rc = PLD_OK;

    if (check_tag(op->tag, 1) > op->group->transport->max_tag)
        return 1; /* on both ranks */
    if (op->check == NULL) {
        rc = announce(op);
        *moved = 1;
    }
    if (rc == PLD_OK)
        rc = pldi_xfers_test(op->group, &op->check->send, NULL, 1, moved);
    if (rc > 0)
        rc = pldi_xfers_test(op->group, &op->check->recv, NULL, 1, moved);
    if (rc > 0)
        rc = is_first(op) ? judge(op) : 0;
    if (rc != 0)
        pldi_check_cancel(op);
    return rc;
}
