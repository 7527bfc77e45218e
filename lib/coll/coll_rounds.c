/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The order in which contributions are added, which polder/coll.h promises:
 *
 *   flat      by member
 *   ring      block b: b+1, b+2, ... around to b
 *   halving   the distance doubles while the vector halves, so that after k steps
 *             a member has the sum over 2^k aligned neighbours: the canonical
 *             binary tree of coll_sum.h.  Members beyond the largest power of two
 *             q are added to member - q first, and get the result from there.
 *   doubling  the same tree, on the whole vector
 *
 * Where two partial sums meet, that of the lower member is the left operand on
 * both sides: all members get the same bits.
 */

#include "coll/coll_rounds.h"

const char *pldi_algorithm_name(unsigned algorithm)
{
    static const char *const names[PLDI_ALGORITHMS] = {
        [PLDI_FLAT] = "flat",         [PLDI_RING] = "ring", [PLDI_HALVING] = "halving",
        [PLDI_DOUBLING] = "doubling", [PLDI_TREE] = "tree", [PLDI_NODES] = "nodes",
        [PLDI_NUMA] = "numa",         [PLDI_NCCL] = "nccl"};

    return algorithm < PLDI_ALGORITHMS ? names[algorithm] : "?";
}

/* The largest power of two that is not above n, and its logarithm. */
static int core(const struct pldi_members *m, int *steps)
{
    int q = 1;

    for (*steps = 0; 2 * q <= m->n; ++*steps)
        q *= 2;
    return q;
}

int pldi_rounds_blocks(const struct pldi_members *m)
{
    int steps;

    if (m->goal == PLDI_GOAL_SPREAD || m->algorithm == PLDI_DOUBLING)
        return 1;
    return m->algorithm == PLDI_HALVING ? core(m, &steps) : m->n;
}

int pldi_rounds_owner(const struct pldi_members *m, int block)
{
    int owner = 0;
    int steps;

    if (m->algorithm != PLDI_HALVING)
        return block;
    (void)core(m, &steps);
    for (int k = 0; k < steps; k++)
        owner |= (block >> k & 1) << (steps - 1 - k);
    return owner;
}

static int finish(int first, int end, struct pldi_round *out)
{
    out->kind = PLDI_ROUND_FINISH;
    out->received = (struct pldi_blocks){first, end};
    return 1;
}

/* What follows the sum of the own block: to all, to the root, or nothing. */
static int hand_out(const struct pldi_members *m, struct pldi_round *out)
{
    if (m->goal == PLDI_GOAL_SCATTER)
        return 0;
    out->kind = m->goal == PLDI_GOAL_ROOT ? PLDI_ROUND_COLLECT : PLDI_ROUND_SHARE;
    return 1;
}

static int flat_round(const struct pldi_members *m, int i, struct pldi_round *out)
{
    if (m->goal == PLDI_GOAL_GATHER)
        i += 2;
    if (i == 0)
        out->kind = PLDI_ROUND_EXCHANGE;
    if (i == 1)
        return finish(m->me, m->me + 1, out);
    return i == 0 ? 1 : i == 2 ? hand_out(m, out) : 0;
}

/* Step t of n - 1: a block to the next member, and the one before it from the previous. */
static int ring_step(const struct pldi_members *m, int sent, struct pldi_round *out)
{
    const int received = (sent - 1 + m->n) % m->n;

    out->to = (m->me + 1) % m->n;
    out->from = (m->me - 1 + m->n) % m->n;
    out->sent = (struct pldi_blocks){sent, sent + 1};
    out->received = (struct pldi_blocks){received, received + 1};
    return 1;
}

static int ring_round(const struct pldi_members *m, int i, struct pldi_round *out)
{
    const int steps = m->n - 1;

    if (m->goal == PLDI_GOAL_GATHER)
        i += steps + 1;
    if (i < steps) {
        out->take = PLDI_TAKE_BEFORE;
        return ring_step(m, (m->me - 1 - i + 2 * m->n) % m->n, out);
    }
    if (i == steps)
        return finish(m->me, m->me + 1, out);
    i -= steps + 1;
    if (m->goal == PLDI_GOAL_SCATTER || m->goal == PLDI_GOAL_ROOT)
        return i == 0 ? hand_out(m, out) : 0;
    out->sends_result = 1;
    return i < steps ? ring_step(m, (m->me - i + m->n) % m->n, out) : 0;
}

/* Blocks that member `me` still adds up after k exchanges. */
static struct pldi_blocks range(int me, int q, int k)
{
    struct pldi_blocks b = {0, q};

    for (int i = 0; i < k; i++) {
        const int middle = b.first + (b.end - b.first) / 2;

        if (me >> i & 1)
            b.first = middle;
        else
            b.end = middle;
    }
    return b;
}

/* Members beyond the core: what they have goes to member - q, and the result comes back. */
static int outside(const struct pldi_members *m, int i, int q, int blocks, struct pldi_round *out)
{
    const struct pldi_blocks all = {0, blocks};

    if (i == 0) {
        out->to = m->me - q;
        out->sent = all;
        return 1;
    }
    if (i == 1 && m->goal == PLDI_GOAL_ROOT) {
        out->kind = PLDI_ROUND_COLLECT;
        return 1;
    }
    out->from = m->me - q;
    out->received = all;
    return i == 1;
}

static int exchange(const struct pldi_members *m, int k, int q, struct pldi_round *out)
{
    out->to = out->from = m->me ^ 1 << k;
    out->take = m->me >> k & 1 ? PLDI_TAKE_BEFORE : PLDI_TAKE_AFTER;
    if (m->algorithm == PLDI_DOUBLING) {
        out->sent = out->received = (struct pldi_blocks){0, 1};
        return 1;
    }
    out->received = range(m->me, q, k + 1);
    out->sent = range(out->to, q, k + 1);
    return 1;
}

/* The exchanges backwards, with the result; and then to the member outside. */
static int return_round(const struct pldi_members *m, int i, int steps, int q,
                        struct pldi_round *out)
{
    const int outer = m->me + q < m->n;
    const int back = m->algorithm == PLDI_HALVING ? steps : 0;

    out->sends_result = 1;
    if (i < back) {
        const int k = steps - 1 - i;

        out->to = out->from = m->me ^ 1 << k;
        out->sent = range(m->me, q, k + 1);
        out->received = range(out->to, q, k + 1);
        return 1;
    }
    out->to = m->me + q;
    out->sent = (struct pldi_blocks){0, pldi_rounds_blocks(m)};
    return i == back && outer;
}

static int core_round(const struct pldi_members *m, int i, struct pldi_round *out)
{
    const int blocks = pldi_rounds_blocks(m);
    int steps;
    const int q = core(m, &steps);
    struct pldi_blocks own;

    if (m->me >= q)
        return outside(m, i, q, blocks, out);
    if (m->me + q < m->n && i-- == 0) {
        out->from = m->me + q;
        out->take = PLDI_TAKE_AFTER;
        out->received = (struct pldi_blocks){0, blocks};
        return 1;
    }
    if (i < steps)
        return exchange(m, i, q, out);
    own = m->algorithm == PLDI_HALVING ? range(m->me, q, steps) : (struct pldi_blocks){0, 1};
    if (i == steps)
        return finish(own.first, own.end, out);
    i -= steps + 1;
    if (m->goal == PLDI_GOAL_ROOT)
        return i == 0 ? hand_out(m, out) : 0;
    return return_round(m, i, steps, q, out);
}

static int relative(const struct pldi_members *m)
{
    return (m->me - m->root + m->n) % m->n;
}

int pldi_rounds_child(const struct pldi_members *m, int n)
{
    const int me = relative(m);
    const int below = me == 0 ? m->n : me & -me;
    const int step = n < 30 ? 1 << n : m->n;

    return step < below && step < m->n - me ? (me + step + m->root) % m->n : -1;
}

static int tree_round(const struct pldi_members *m, int i, struct pldi_round *out)
{
    const int me = relative(m);

    if (me != 0 && i == 0) {
        out->from = ((me & (me - 1)) + m->root) % m->n;
        out->received = (struct pldi_blocks){0, 1};
        return 1;
    }
    out->kind = PLDI_ROUND_CHILDREN;
    return i == (me != 0) && pldi_rounds_child(m, 0) >= 0;
}

int pldi_rounds_get(const struct pldi_members *m, int i, struct pldi_round *out)
{
    *out = (struct pldi_round){.kind = PLDI_ROUND_PAIR, .to = -1, .from = -1};
    if (m->goal == PLDI_GOAL_SPREAD)
        return tree_round(m, i, out);
    if (m->algorithm == PLDI_RING)
        return ring_round(m, i, out);
    if (m->algorithm == PLDI_HALVING || m->algorithm == PLDI_DOUBLING)
        return core_round(m, i, out);
    return flat_round(m, i, out);
}

static int count_children(const struct pldi_members *m)
{
    int n = 0;

    while (pldi_rounds_child(m, n) >= 0)
        n++;
    return n;
}

static int owns(const struct pldi_members *m)
{
    for (int b = 0; b < pldi_rounds_blocks(m); b++) {
        if (pldi_rounds_owner(m, b) == m->me)
            return 1;
    }
    return 0;
}

int pldi_rounds_sent(const struct pldi_members *m, int *result)
{
    struct pldi_round r;
    int all = 0;

    *result = 0;
    for (int i = 0; pldi_rounds_get(m, i, &r); i++) {
        const int pair = r.kind == PLDI_ROUND_PAIR && r.to >= 0 ? r.sent.end - r.sent.first : 0;
        int of_result = r.sends_result ? pair : 0;

        if (r.kind == PLDI_ROUND_SHARE)
            of_result = m->n - 1;
        else if (r.kind == PLDI_ROUND_CHILDREN)
            of_result = count_children(m);
        else if (r.kind == PLDI_ROUND_COLLECT && m->me != m->root)
            of_result = owns(m);
        else if (r.kind == PLDI_ROUND_EXCHANGE)
            all += m->n - 1;
        all += r.kind == PLDI_ROUND_PAIR && !r.sends_result ? pair : of_result;
        *result += of_result;
    }
    return all;
}
