/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "coll/coll_digest.h"

#include <string.h>

#include "base/base_err.h"
#include "coll/coll_nodes.h"

enum { HEAD_BYTES = offsetof(struct pldi_digest, text) };

void pldi_digest_put(struct pldi_digest *d, const struct pldi_word *word)
{
    d->low = d->high = d->bad = *word->opening;
    if (d->low.print.kind == PLDI_ALLTOALL_V) /* every rank has others */
        d->low.n_counts = d->high.n_counts = 0;
    for (int i = 0; i < 2 && d->low.n_counts > 0; i++)
        memcpy(d->counts[i], word->counts, d->low.n_counts * sizeof(uint64_t));
    if (d->bad.code < 0)
        memcpy(d->text, word->text, d->bad.bytes);
    else
        d->bad.rank = INT32_MAX;
}

static int before(const struct pldi_opening *a, const struct pldi_opening *b)
{
    const int order = memcmp(&a->print, &b->print, sizeof(a->print));

    return order < 0 || (order == 0 && a->rank < b->rank);
}

void pldi_digest_merge(struct pldi_digest *mine, const struct pldi_digest *theirs)
{
    const int order = memcmp(&theirs->high.print, &mine->high.print, sizeof(mine->high.print));

    if (before(&theirs->low, &mine->low)) {
        mine->low = theirs->low;
        memcpy(mine->counts[0], theirs->counts[0], mine->low.n_counts * sizeof(uint64_t));
    }
    if (order > 0 || (order == 0 && theirs->high.rank < mine->high.rank)) {
        mine->high = theirs->high;
        memcpy(mine->counts[1], theirs->counts[1], mine->high.n_counts * sizeof(uint64_t));
    }
    if (theirs->bad.rank < mine->bad.rank) {
        mine->bad = theirs->bad;
        memcpy(mine->text, theirs->text, theirs->bad.bytes);
    }
}

static int has_hall(const pld_group *g)
{
    return g->nodes != NULL && g->nodes->hall != NULL;
}

static int n_members(const pld_group *g)
{
    return has_hall(g) ? g->nodes->n : g->size;
}

/* The member that comes so many behind this one, around. */
static int nth(const pld_group *g, int step)
{
    const int n = n_members(g);
    const int me = has_hall(g) ? g->nodes->node_of[g->rank] : g->rank;
    const int member = (int)((((long long)me + step) % n + n) % n);

    return has_hall(g) ? g->nodes->by_node[g->nodes->starts[member]] : member;
}

static int post_round(pld_group *g)
{
    struct pldi_transport *t = g->transport;
    struct pldi_digest *d = (void *)g->work.out;
    const int step = 1 << g->work.round;
    const size_t text = d->bad.rank == INT32_MAX ? 0 : d->bad.bytes;
    const size_t bytes = d->low.n_counts + d->high.n_counts > 0 ? sizeof(*d) : HEAD_BYTES + text;

    PLDI_TRY(
        t->ops->irecv(t, g->work.in, sizeof(*d), nth(g, -step), PLDI_TAG_OPEN, &g->work.recvs[0]));
    return pldi_send_part(g, d, bytes, nth(g, step), PLDI_TAG_OPEN, &g->work.sends[0]);
}

int pldi_digest_post(pld_group *group)
{
    group->work.round = 0;
    return post_round(group);
}

int pldi_digest_step(pld_group *group, int *moved)
{
    struct pldi_work *work = &group->work;
    int rc;

    for (;;) {
        rc = pldi_work_test(group, 1, moved);
        if (rc <= 0)
            return rc;
        pldi_digest_merge((void *)work->out, (const void *)work->in);
        work->round++;
        if (1LL << work->round >= n_members(group))
            return 1;
        PLDI_TRY(post_round(group));
    }
}
