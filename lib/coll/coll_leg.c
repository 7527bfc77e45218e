/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Messages between two ranks follow each other in the order of the rounds on both,
 * so one tag is enough for all rounds.  Those that would be empty are not sent.
 */

#include "coll/coll_leg.h"

#include <string.h>

#include "base/base_err.h"
#include "coll/coll.h"
#include "device/device_kernels.h"

void pldi_leg_start(struct pldi_leg *leg)
{
    leg->at = 0;
    leg->posted = 0;
}

size_t pldi_leg_temp(const struct pldi_members *m, size_t vector, size_t block)
{
    if (m->goal == PLDI_GOAL_GATHER || m->goal == PLDI_GOAL_SPREAD)
        return 0;
    if (m->algorithm == PLDI_FLAT)
        return (size_t)m->n * block;
    return m->algorithm == PLDI_RING ? block : vector;
}

static size_t sum_bytes(const struct pldi_leg *leg)
{
    return pld_dtype_bytes(pldi_sum_dtype(leg->sum->dtype));
}

static size_t result_bytes(const struct pldi_leg *leg)
{
    return pld_dtype_bytes(leg->sum->dtype);
}

static size_t elements(const struct pldi_leg *leg, struct pldi_blocks b)
{
    return leg->starts[b.end] - leg->starts[b.first];
}

static unsigned char *in_sum(const struct pldi_leg *leg, int block)
{
    return leg->acc + leg->starts[block] * sum_bytes(leg);
}

static unsigned char *in_result(const struct pldi_leg *leg, int block)
{
    return leg->out + leg->starts[block] * result_bytes(leg);
}

static int send(struct pldi_leg *leg, pld_group *g, int member, const void *from, size_t bytes)
{
    if (bytes == 0)
        return PLD_OK;
    return pldi_send_part(g, from, bytes, leg->ranks[member], leg->tag,
                          &leg->sends[leg->n_sends++]);
}

static int receive(struct pldi_leg *leg, pld_group *g, int member, void *to, size_t bytes)
{
    struct pldi_transport *t = g->transport;

    if (bytes == 0)
        return PLD_OK;
    leg->wants[leg->n_recvs] = bytes;
    return t->ops->irecv(t, to, bytes, leg->ranks[member], leg->tag, &leg->recvs[leg->n_recvs++]);
}

static int post_pair(struct pldi_leg *leg, pld_group *g)
{
    const struct pldi_round *r = &leg->round;
    const size_t in = elements(leg, r->received);
    const size_t out = elements(leg, r->sent);

    if (r->from >= 0 && r->take == PLDI_TAKE_RESULT)
        PLDI_TRY(
            receive(leg, g, r->from, in_result(leg, r->received.first), in * result_bytes(leg)));
    else if (r->from >= 0)
        PLDI_TRY(receive(leg, g, r->from, leg->temp, in * sum_bytes(leg)));
    if (r->to < 0)
        return PLD_OK;
    if (r->sends_result)
        return send(leg, g, r->to, in_result(leg, r->sent.first), out * result_bytes(leg));
    return send(leg, g, r->to, in_sum(leg, r->sent.first), out * sum_bytes(leg));
}

/* Where the contribution of a member to the own block comes to. */
static unsigned char *arrival(const struct pldi_leg *leg, int member)
{
    const int me = leg->members.me;
    const struct pldi_blocks own = {me, me + 1};

    return leg->temp + (size_t)member * elements(leg, own) * sum_bytes(leg);
}

static int post_exchange(struct pldi_leg *leg, pld_group *g)
{
    const int n = leg->members.n;
    const int me = leg->members.me;
    const struct pldi_blocks own = {me, me + 1};

    for (int i = 1; i < n; i++) {
        const int from = (me - i + n) % n;

        PLDI_TRY(receive(leg, g, from, arrival(leg, from), elements(leg, own) * sum_bytes(leg)));
    }
    for (int i = 1; i < n; i++) {
        const int to = (me + i) % n;
        const struct pldi_blocks theirs = {to, to + 1};

        PLDI_TRY(send(leg, g, to, in_sum(leg, to), elements(leg, theirs) * sum_bytes(leg)));
    }
    return PLD_OK;
}

static int post_share(struct pldi_leg *leg, pld_group *g)
{
    const int n = leg->members.n;
    const int me = leg->members.me;
    const struct pldi_blocks own = {me, me + 1};

    for (int i = 1; i < n; i++) {
        const int from = (me - i + n) % n;
        const struct pldi_blocks theirs = {from, from + 1};

        PLDI_TRY(
            receive(leg, g, from, in_result(leg, from), elements(leg, theirs) * result_bytes(leg)));
    }
    for (int i = 1; i < n; i++)
        PLDI_TRY(
            send(leg, g, (me + i) % n, in_result(leg, me), elements(leg, own) * result_bytes(leg)));
    return PLD_OK;
}

static int post_collect(struct pldi_leg *leg, pld_group *g)
{
    const struct pldi_members *m = &leg->members;

    for (int b = 0; b < pldi_rounds_blocks(m); b++) {
        const struct pldi_blocks one = {b, b + 1};
        const size_t bytes = elements(leg, one) * result_bytes(leg);
        const int owner = pldi_rounds_owner(m, b);

        if (owner != m->me && m->me == m->root)
            PLDI_TRY(receive(leg, g, owner, in_result(leg, b), bytes));
        else if (owner == m->me && m->me != m->root)
            PLDI_TRY(send(leg, g, m->root, in_result(leg, b), bytes));
    }
    return PLD_OK;
}

static int post_children(struct pldi_leg *leg, pld_group *g)
{
    const struct pldi_blocks all = {0, 1};
    int child;

    for (int i = 0; (child = pldi_rounds_child(&leg->members, i)) >= 0; i++)
        PLDI_TRY(send(leg, g, child, leg->out, elements(leg, all) * result_bytes(leg)));
    return PLD_OK;
}

static int post(struct pldi_leg *leg, pld_group *g)
{
    leg->n_sends = leg->n_recvs = 0;
    switch (leg->round.kind) {
    case PLDI_ROUND_PAIR:
        return post_pair(leg, g);
    case PLDI_ROUND_EXCHANGE:
        return post_exchange(leg, g);
    case PLDI_ROUND_SHARE:
        return post_share(leg, g);
    case PLDI_ROUND_COLLECT:
        return post_collect(leg, g);
    case PLDI_ROUND_CHILDREN:
        return post_children(leg, g);
    case PLDI_ROUND_FINISH:
        break;
    }
    return PLD_OK;
}

static void add_pair(const struct pldi_leg *leg)
{
    const struct pldi_round *r = &leg->round;
    unsigned char *sum = in_sum(leg, r->received.first);
    const void *both[2] = {sum, leg->temp};

    if (r->take == PLDI_TAKE_BEFORE) {
        both[0] = leg->temp;
        both[1] = sum;
    }
    leg->sum->kernels->reduce(sum, both, 2, elements(leg, r->received),
                              pldi_sum_dtype(leg->sum->dtype),
                              leg->sum->op == PLD_AVG ? PLD_SUM : leg->sum->op, 1);
}

static void add_all(const struct pldi_leg *leg)
{
    struct pldi_sum sum = *leg->sum;
    const int me = leg->members.me;
    const struct pldi_blocks own = {me, me + 1};
    void *target = in_sum(leg, me);

    for (int i = 0; i < leg->members.n; i++)
        leg->sources[i] = arrival(leg, i);
    leg->sources[me] = target;
    sum.dtype = pldi_sum_dtype(sum.dtype);
    sum.wide = 1;
    pldi_sum_to(&sum, &target, 1, leg->sources, leg->members.n, elements(leg, own), 0);
}

static void take(const struct pldi_leg *leg)
{
    const struct pldi_round *r = &leg->round;

    if (r->kind == PLDI_ROUND_PAIR && r->from >= 0 && r->take != PLDI_TAKE_RESULT)
        add_pair(leg);
    else if (r->kind == PLDI_ROUND_EXCHANGE)
        add_all(leg);
    else if (r->kind == PLDI_ROUND_FINISH)
        pldi_sum_finish(leg->sum, in_result(leg, r->received.first), in_sum(leg, r->received.first),
                        elements(leg, r->received));
}

static int messages_done(struct pldi_leg *leg, pld_group *g, int *moved)
{
    const int received = pldi_xfers_test(g, leg->recvs, leg->wants, leg->n_recvs, moved);
    int sent;

    PLDI_TRY(received);
    sent = pldi_xfers_test(g, leg->sends, NULL, leg->n_sends, moved);
    PLDI_TRY(sent);
    return received && sent;
}

int pldi_leg_step(struct pldi_leg *leg, pld_group *group, int *moved)
{
    int rc;

    for (;;) {
        if (!leg->posted && !pldi_rounds_get(&leg->members, leg->at, &leg->round))
            return 1;
        if (!leg->posted) {
            PLDI_TRY(post(leg, group));
            leg->posted = 1;
        }
        rc = messages_done(leg, group, moved);
        if (rc <= 0)
            return rc;
        take(leg);
        *moved = 1;
        leg->posted = 0;
        leg->at++;
    }
}
