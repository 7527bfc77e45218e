/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What every rank is at.  A rank of this node is read from its ring and from /proc,
 * which needs nothing of it: it may be stopped, or no more.
 */

#include <stdio.h>
#include <string.h>

#include "base/base_mem.h"
#include "health/health_impl.h"

void pldi_stand_of(const struct pldi_health *h, int rank, struct pldi_stand *out)
{
    const struct pldi_other *p = &h->peers[rank];
    const struct pldi_ring *ring = p->ring;
    pld_trace_record newest;

    memset(out, 0, sizeof(*out));
    out->rank = rank;
    out->known = 1;
    out->gone = p->gone;
    out->pid = p->card.pid;
    (void)snprintf(out->host, sizeof(out->host), "%s", p->card.host);
    if (out->gone == PLDI_HERE && ring->u.head.left != 0)
        out->gone = PLDI_LEFT;
    out->busy = pldi_ring_oldest(ring, &out->record);
    out->has_record = out->busy || pldi_ring_newest(ring, &out->record);
    if (out->has_record)
        out->age = pldi_health_now() - (out->busy ? out->record.called : out->record.ended);
    if (out->gone == PLDI_ENDED)
        return;
    /* The thread of the newest call is the one that would make the next. */
    pldi_proc_state(out->pid, pldi_ring_newest(ring, &newest) ? newest.thread : 0, out->state,
                    sizeof(out->state), &out->stopped);
    if (strncmp(out->state, "ended", 5) != 0)
        return;
    if (p->watch >= 0 && pldi_shm_ended(out->pid, p->watch))
        out->gone = PLDI_ENDED;
    else /* that thread alone */
        pldi_proc_state(out->pid, 0, out->state, sizeof(out->state), &out->stopped);
}

#define CUT(text) ((text)[sizeof(text) - 1] = '\0')

/* What came over the net has its ends. */
static void cut_texts(struct pldi_stand *s)
{
    CUT(s->host);
    CUT(s->state);
    CUT(s->record.group_name);
    CUT(s->record.kind);
    CUT(s->record.dtype);
    CUT(s->record.reduce);
    CUT(s->record.site);
    CUT(s->record.name);
}

static void take(struct pldi_health *h, const struct pldi_ask *ask, void *to)
{
    struct pldi_stand *all = to;
    const struct pldi_stand *in = ask->in;

    for (size_t i = 0; i < ask->in_bytes / sizeof(*in); i++) {
        const int rank = in[i].rank;

        if (rank < 0 || rank >= h->size || in[i].known != 1)
            continue;
        all[rank] = in[i];
        cut_texts(&all[rank]);
    }
}

void pldi_stand_all(struct pldi_health *h, struct pldi_stand *all)
{
    struct pldi_ask *asks = pldi_alloc((size_t)h->nodes, sizeof(*asks), "a report");
    struct pldi_stand *in = pldi_alloc((size_t)h->size, sizeof(*in), "a report");
    size_t place = 0;
    int n = 0;

    for (int r = 0; r < h->size; r++) {
        all[r] = (struct pldi_stand){.rank = r, .pid = h->peers[r].card.pid};
        (void)snprintf(all[r].host, sizeof(all[r].host), "%s", h->peers[r].card.host);
        if (h->peers[r].ring != NULL)
            pldi_stand_of(h, r, &all[r]);
    }
    for (int r = 0; r < h->size && asks != NULL && in != NULL; r++) {
        size_t ranks = 0;

        if (h->peers[r].node != r || r == h->peers[h->rank].node)
            continue;
        for (int i = r; i < h->size; i++)
            ranks += h->peers[i].node == r;
        asks[n++] = (struct pldi_ask){
            .rank = r, .type = PLDI_ASK_STANDS, .in = in + place, .in_room = ranks * sizeof(*in)};
        place += ranks;
    }
    if (n > 0)
        pldi_net_ask_nodes(h, asks, n, take, all);
    pldi_free(asks);
    pldi_free(in);
}
