/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What becomes of an operation that has nothing to do, and of a job that was given up. */

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "health/health_impl.h"

static const int64_t GRACE = 300000000; /* what a rank sent before it ended may still arrive */

const char *pldi_health_report(struct pldi_health *h)
{
    const uint64_t alarm = h->ring->u.head.alarm;
    const struct pldi_ring *ring = NULL;

    if (alarm == 0)
        return "";
    (void)pthread_mutex_lock(&h->hook);
    if (!h->has_report && alarm <= (uint64_t)h->size)
        ring = h->peers[alarm - 1].ring;
    if (ring != NULL) {
        pldi_ring_get_text(ring->report, PLDI_RING_REPORT / 8, h->report);
        h->has_report = 1;
    }
    (void)pthread_mutex_unlock(&h->hook);
    return h->report;
}

static void give_up(struct pldi_health *h)
{
    (void)pldi_health_report(h);
    (void)pthread_mutex_lock(&h->hook);
    if (!h->gave_up) {
        h->gave_up = 1;
        if (h->watch.alarm != NULL)
            h->watch.alarm(h->watch.context);
        if (h->opts.give_up != NULL)
            h->opts.give_up(PLD_ERR_TIMEOUT, h->opts.context);
        if (h->opts.kill)
            (void)kill(getpid(), SIGKILL);
    }
    (void)pthread_mutex_unlock(&h->hook);
}

int pldi_health_alarm(struct pldi_health *h)
{
    if (h == NULL || atomic_load_explicit(&h->ring->u.head.alarm, memory_order_acquire) == 0)
        return PLD_OK;
    give_up(h);
    return pldi_fail(PLD_ERR_TIMEOUT, "%s", h->report);
}

int pldi_health_group_alarm(const struct pldi_health_group *group)
{
    return group == NULL ? PLD_OK : pldi_health_alarm(group->health);
}

int pldi_health_node_alarm(const struct pldi_health_group *group)
{
    struct pldi_health *h = group != NULL ? group->health : NULL;
    uint64_t none = 0;

    for (int r = 0; h != NULL && r < h->size; r++) {
        const uint64_t alarm = h->peers[r].ring != NULL ? h->peers[r].ring->u.head.alarm : 0;

        if (alarm == 0)
            continue;
        (void)atomic_compare_exchange_strong(&h->ring->u.head.alarm, &none, alarm);
        return 1;
    }
    return 0;
}

/* A rank that has left did so after its last operation: was this one of them? */
static int came(const struct pldi_health_group *g, int rank, uint64_t sequence)
{
    const struct pldi_ring *ring = g->health->peers[rank].ring;
    const struct pldi_ring_group *entry = ring != NULL ? pldi_ring_group_of(ring, g->id) : NULL;

    return entry == NULL || entry->called > sequence;
}

void pldi_health_last(const struct pldi_health_group *g, int rank, char *text, int bytes)
{
    struct pldi_stand s;
    char what[256];
    int at = 0;

    text[0] = '\0';
    if (g == NULL)
        return;
    if (g->members[rank] != rank)
        at = snprintf(text, (size_t)bytes, "; it is rank %d of the job", g->members[rank]);
    if (g->health->peers[g->members[rank]].ring == NULL || at >= bytes)
        return;
    pldi_stand_of(g->health, g->members[rank], &s);
    if (!s.has_record)
        return;
    pldi_ring_describe(&s.record, what, sizeof(what));
    (void)snprintf(text + at, (size_t)(bytes - at), "; its last call: %s, %s %.1f s ago", what,
                   s.busy ? "made" : "done", 1e-9 * (double)s.age);
}

static int lost(const struct pldi_health_group *g, int rank, const char *how,
                const pld_trace_record *op)
{
    const struct pldi_other *p = &g->health->peers[g->members[rank]];
    char last[320], what[256];

    pldi_health_last(g, rank, last, sizeof(last));
    pldi_ring_describe(op, what, sizeof(what));
    return pldi_fail(PLD_ERR_PEER, "rank %d (host %s, process %lld) %s before it finished %s%s",
                     rank, p->card.host, (long long)p->card.pid, how, what, last);
}

int pldi_health_is_over(const struct pldi_health_group *group)
{
    return group != NULL &&
           atomic_load_explicit(&group->health->ring->u.head.alarm, memory_order_acquire) != 0;
}

int pldi_health_check(const struct pldi_health_group *g, uint64_t ticket, uint64_t sequence,
                      int peer)
{
    PLDI_TRY(pldi_health_group_alarm(g));
    return pldi_health_look(g, ticket, sequence, peer);
}

/* Whether what a rank sent before that moment has arrived. */
static int is_past(int64_t moment, const pld_trace_record *op)
{
    const int64_t since = moment > op->called ? moment : op->called;

    return pldi_health_now() - since >= GRACE;
}

static int has_gone(const struct pldi_health *h, int rank, enum pldi_gone how,
                    const pld_trace_record *op)
{
    const struct pldi_other *p = &h->peers[rank];

    return p->gone == (int)how && is_past(p->gone_at, op);
}

int pldi_health_look(const struct pldi_health_group *g, uint64_t ticket, uint64_t sequence,
                     int peer)
{
    struct pldi_health *h = g != NULL ? g->health : NULL;
    const int first = peer < 0 ? 0 : peer;
    pld_trace_record op;
    int end;

    if (h == NULL)
        return PLD_OK;
    if (!atomic_load_explicit(&h->trouble, memory_order_relaxed) ||
        !pldi_ring_find(h->ring, ticket, &op))
        return PLD_OK;
    end = peer < 0 ? g->size : peer + 1;
    /* Those who left may have done so because another had ended. */
    for (int r = first; r < end; r++) {
        if (has_gone(h, g->members[r], PLDI_ENDED, &op))
            return lost(g, r, "ended", &op);
    }
    for (int r = first; r < end; r++) {
        const struct pldi_other *p = &h->peers[g->members[r]];

        if (!has_gone(h, g->members[r], PLDI_LEFT, &op))
            continue;
        if (peer < 0 ? !came(g, g->members[r], sequence) : p->over_at && is_past(p->over_at, &op))
            return lost(g, r, "left the job (pld_runtime_close)", &op);
    }
    return PLD_OK;
}

/* Whether all ranks of other nodes are still there. */
static int ask_others(struct pldi_health *h)
{
    struct pldi_stand *all = pldi_alloc((size_t)h->size, sizeof(*all), "the ranks");
    int lost = all == NULL;

    if (all != NULL)
        pldi_stand_all(h, all);
    for (int r = 0; !lost && r < h->size; r++)
        lost = !all[r].known || all[r].gone == PLDI_ENDED;
    pldi_free(all);
    return lost;
}

/* The watchdog looks a few times a second, and may not have done so since a rank ended. */
int pldi_health_is_lost(struct pldi_health *h)
{
    int lost = pldi_watch_ended(h) || h->ring->u.head.alarm != 0;

    for (int r = 0; r < h->size; r++)
        lost |= h->peers[r].gone == PLDI_ENDED;
    return lost || (h->nodes > 1 && h->failed && ask_others(h));
}
