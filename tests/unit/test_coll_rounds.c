/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The rounds of all members are played against each other on sets of contributions:
 * a sum must have each once, and every message must be expected as it is sent.
 */

#include <stdint.h>
#include <string.h>

#include "coll/coll_rounds.h"
#include "tap.h"

enum { MOST = 17, QUEUE = 64 };

struct message {
    int from, to, first, end;
    uint32_t sets[MOST];
};

struct player {
    struct pldi_members m;
    uint32_t sum[MOST], result[MOST];
    int at, sent, ended;
};

static struct message queue[QUEUE * MOST];
static int queued, wrong;
static struct player players[MOST];

static void post(int from, int to, struct pldi_blocks b, const uint32_t *sets)
{
    struct message *x = &queue[queued++];

    *x = (struct message){.from = from, .to = to, .first = b.first, .end = b.end};
    memcpy(x->sets, sets, sizeof(x->sets));
}

/* The oldest message from there, which must have those blocks: 0 if there is none. */
static int take(int from, int to, struct pldi_blocks b, struct message *out)
{
    for (int i = 0; i < queued; i++) {
        if (queue[i].from != from || queue[i].to != to)
            continue;
        *out = queue[i];
        wrong += out->first != b.first || out->end != b.end;
        memmove(&queue[i], &queue[i + 1], (size_t)(--queued - i) * sizeof(queue[0]));
        return 1;
    }
    return 0;
}

static void add(uint32_t *to, uint32_t from)
{
    wrong += (*to & from) != 0; /* a contribution twice */
    *to |= from;
}

static int waiting(int from, int to)
{
    for (int i = 0; i < queued; i++) {
        if (queue[i].from == from && queue[i].to == to)
            return 1;
    }
    return 0;
}

static int pair(struct player *p, const struct pldi_round *r)
{
    struct message x;

    if (!p->sent && r->to >= 0)
        post(p->m.me, r->to, r->sent, r->sends_result ? p->result : p->sum);
    p->sent = 1;
    if (r->from < 0)
        return 1;
    if (!take(r->from, p->m.me, r->received, &x))
        return 0;
    for (int b = x.first; b < x.end; b++) {
        if (r->take == PLDI_TAKE_RESULT)
            p->result[b] = x.sets[b];
        else
            add(&p->sum[b], x.sets[b]);
    }
    return 1;
}

/* Rounds with all others: block b is sent to, or comes from, its owner. */
static int all(struct player *p, enum pldi_round_kind kind)
{
    const int me = p->m.me;
    struct message x;

    for (int o = 0; o < p->m.n && !p->sent; o++) {
        const int b = kind == PLDI_ROUND_EXCHANGE ? o : me;

        if (o != me)
            post(me, o, (struct pldi_blocks){b, b + 1},
                 kind == PLDI_ROUND_EXCHANGE ? p->sum : p->result);
    }
    p->sent = 1;
    for (int o = 0; o < p->m.n; o++) {
        if (o != me && !waiting(o, me))
            return 0;
    }
    for (int o = 0; o < p->m.n; o++) {
        const int b = kind == PLDI_ROUND_EXCHANGE ? me : o;

        if (o == me || !take(o, me, (struct pldi_blocks){b, b + 1}, &x))
            continue;
        if (kind == PLDI_ROUND_EXCHANGE)
            add(&p->sum[b], x.sets[b]);
        else
            p->result[b] = x.sets[b];
    }
    return 1;
}

static int collect(struct player *p)
{
    const int me = p->m.me;
    struct message x;
    int missing = 0;

    for (int b = 0; b < pldi_rounds_blocks(&p->m); b++) {
        const int owner = pldi_rounds_owner(&p->m, b);

        if (owner == me && me != p->m.root)
            post(me, p->m.root, (struct pldi_blocks){b, b + 1}, p->result);
        missing += me == p->m.root && owner != me && !waiting(owner, me);
    }
    for (int b = 0; b < pldi_rounds_blocks(&p->m) && me == p->m.root && missing == 0; b++) {
        const int owner = pldi_rounds_owner(&p->m, b);

        if (owner != me && take(owner, me, (struct pldi_blocks){b, b + 1}, &x))
            p->result[b] = x.sets[b];
    }
    return missing == 0;
}

static int play(struct player *p)
{
    struct pldi_round r;
    int child;

    if (!pldi_rounds_get(&p->m, p->at, &r)) {
        p->ended = 1;
        return 0;
    }
    if (r.kind == PLDI_ROUND_PAIR)
        return pair(p, &r);
    if (r.kind == PLDI_ROUND_EXCHANGE || r.kind == PLDI_ROUND_SHARE)
        return all(p, r.kind);
    if (r.kind == PLDI_ROUND_COLLECT)
        return collect(p);
    for (int i = 0; r.kind == PLDI_ROUND_CHILDREN && (child = pldi_rounds_child(&p->m, i)) >= 0;
         i++)
        post(p->m.me, child, (struct pldi_blocks){0, 1}, p->result);
    for (int b = r.received.first; r.kind == PLDI_ROUND_FINISH && b < r.received.end; b++)
        p->result[b] = p->sum[b];
    return 1;
}

static void start(enum pldi_goal goal, enum pldi_algorithm algorithm, int n, int root)
{
    queued = wrong = 0;
    memset(players, 0, sizeof(players));
    for (int i = 0; i < n; i++) {
        players[i].m = (struct pldi_members){goal, algorithm, n, i, root};
        for (int b = 0; b < MOST; b++)
            players[i].sum[b] = 1U << i;
        if (goal == PLDI_GOAL_GATHER)
            players[i].result[i] = 1U << i;
        if (goal == PLDI_GOAL_SPREAD && i == root)
            players[i].result[0] = 1;
    }
}

static int ends_right(const struct player *p)
{
    const uint32_t full = (1U << p->m.n) - 1;

    for (int b = 0; b < pldi_rounds_blocks(&p->m); b++) {
        const int wanted = p->m.goal == PLDI_GOAL_ROOT      ? p->m.me == p->m.root
                           : p->m.goal == PLDI_GOAL_SCATTER ? b == p->m.me
                                                            : 1;
        const uint32_t right = p->m.goal == PLDI_GOAL_GATHER   ? 1U << b
                               : p->m.goal == PLDI_GOAL_SPREAD ? 1
                                                               : full;

        if (wanted && p->result[b] != right)
            return 0;
    }
    return p->ended;
}

static int game(enum pldi_goal goal, enum pldi_algorithm algorithm, int n, int root)
{
    int moves = 1;

    start(goal, algorithm, n, root);
    while (moves > 0) {
        moves = 0;
        for (int i = 0; i < n; i++) {
            const int moved = !players[i].ended && play(&players[i]);

            players[i].at += moved;
            players[i].sent = moved ? 0 : players[i].sent;
            moves += moved;
        }
    }
    for (int i = 0; i < n; i++)
        wrong += !ends_right(&players[i]);
    return wrong == 0 && queued == 0;
}

static void test_goal(enum pldi_goal goal, const char *name, const enum pldi_algorithm *how,
                      int n_how)
{
    for (int a = 0; a < n_how; a++) {
        int bad = 0;

        for (int n = 2; n <= MOST - 1; n++) {
            for (int root = 0; root<n; root += n> 4 ? n / 2 : 1)
                bad += !game(goal, how[a], n, root);
        }
        ok(bad == 0, "%s by %s, 2 to %d members", name, pldi_algorithm_name(how[a]), MOST - 1);
    }
}

/* Blocks that a member sends, of vectors of n blocks: the formulas of doc/collectives.md. */
static void test_bytes(void)
{
    const struct pldi_members ring = {PLDI_GOAL_ALL, PLDI_RING, 6, 2, 0};
    const struct pldi_members flat = {PLDI_GOAL_ALL, PLDI_FLAT, 6, 2, 0};
    const struct pldi_members halving = {PLDI_GOAL_ALL, PLDI_HALVING, 8, 5, 0};
    const struct pldi_members doubling = {PLDI_GOAL_ALL, PLDI_DOUBLING, 8, 5, 0};
    int result;

    ok(pldi_rounds_sent(&ring, &result) == 10 && result == 5, "ring: 2 (n-1) of n blocks");
    ok(pldi_rounds_sent(&flat, &result) == 10 && result == 5, "flat: as many");
    ok(pldi_rounds_sent(&halving, &result) == 14 && result == 7, "halving: as many");
    ok(pldi_rounds_sent(&doubling, &result) == 3 && result == 0, "doubling: log2(n) vectors");
}

int main(void)
{
    static const enum pldi_algorithm sums[] = {PLDI_FLAT, PLDI_RING, PLDI_HALVING, PLDI_DOUBLING};
    static const enum pldi_algorithm blocks[] = {PLDI_FLAT, PLDI_RING};
    static const enum pldi_algorithm spread[] = {PLDI_TREE};

    test_goal(PLDI_GOAL_ALL, "allreduce", sums, 4);
    test_goal(PLDI_GOAL_ROOT, "reduce", sums, 3);
    test_goal(PLDI_GOAL_SCATTER, "reduce_scatter", blocks, 2);
    test_goal(PLDI_GOAL_GATHER, "allgather", blocks, 2);
    test_goal(PLDI_GOAL_SPREAD, "broadcast", spread, 1);
    test_bytes();
    return tap_done();
}
