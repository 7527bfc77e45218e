/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The watchdog makes no call of a transport.  It sleeps in the descriptors of the
 * side channel, and looks around a few times a second.
 *
 * Time in which this process itself did not run (the job was suspended) does not
 * count as waiting: a tick that comes far too late starts the deadline anew.
 */

#include <string.h>

#include "base/base_mem.h"
#include "health/health_impl.h"

static const int64_t LATE = 2000000000;

/* Of this node.  One that left may end as it likes. */
static int has_ended(const struct pldi_health *h, int rank)
{
    const struct pldi_other *p = &h->peers[rank];

    return p->ring != NULL && rank != h->rank && p->card.pid != h->peers[h->rank].card.pid &&
           p->ring->u.head.left == 0 && pldi_shm_ended(p->card.pid, p->watch) &&
           p->ring->u.head.left == 0;
}

static int is_here(const struct pldi_health *h, int rank)
{
    const struct pldi_other *p = &h->peers[rank];

    return p->gone == PLDI_HERE && !(p->ring != NULL && p->ring->u.head.left != 0) &&
           !has_ended(h, rank);
}

static void tell_gone(struct pldi_health *h, int rank)
{
    struct pldi_ask *asks;
    int n = 0;

    if (h->nodes < 2)
        return;
    /* The first that lives speaks for the node. */
    for (int r = 0; r < h->rank; r++) {
        if (h->peers[r].node == h->peers[h->rank].node && is_here(h, r))
            return;
    }
    asks = pldi_alloc((size_t)h->nodes, sizeof(*asks), "a message");
    for (int r = 0; asks != NULL && r < h->size; r++) {
        if (h->peers[r].node == r && r != h->peers[h->rank].node)
            asks[n++] = (struct pldi_ask){.rank = r, .type = PLDI_ASK_GONE, .arg = rank};
    }
    if (n > 0)
        pldi_net_ask_nodes(h, asks, n, NULL, NULL);
    pldi_free(asks);
}

static void gone(struct pldi_health *h, int rank, enum pldi_gone how)
{
    struct pldi_other *p = &h->peers[rank];

    if ((int)how <= p->gone || rank == h->rank)
        return;
    p->gone_at = pldi_health_now();
    p->gone = how;
    atomic_store(&h->trouble, 1);
}

void pldi_watch_heard(struct pldi_health *h, int rank)
{
    for (int r = 0; r < h->size; r++) {
        struct pldi_ring_head *head =
            r == h->rank ? &h->ring->u.head : (void *)h->peers[r].shm.data;
        uint64_t at;

        if (head == NULL)
            continue;
        at = atomic_fetch_add(&head->heard, 1);
        atomic_store(&head->ended[at % PLDI_RING_HEARD], (uint64_t)(uint32_t)rank + 1);
    }
}

static void listen_to_others(struct pldi_health *h)
{
    const struct pldi_ring_head *head = &h->ring->u.head;

    while (h->heard < head->heard) {
        const uint64_t rank = head->ended[h->heard % PLDI_RING_HEARD];

        if (rank == 0) /* counted, and not yet written */
            return;
        if (rank <= (uint64_t)h->size)
            gone(h, (int)rank - 1, PLDI_ENDED);
        h->heard++;
    }
}

/* Until its process ends, what it sent may be on its way. */
static void look_at_left(struct pldi_health *h, int rank)
{
    struct pldi_other *p = &h->peers[rank];

    gone(h, rank, PLDI_LEFT);
    if (p->over_at == 0 && p->watch >= 0 && pldi_shm_ended(p->card.pid, p->watch))
        p->over_at = pldi_health_now();
}

static void look_at_peers(struct pldi_health *h)
{
    for (int r = 0; r < h->size; r++) {
        const struct pldi_other *p = &h->peers[r];

        if (p->ring == NULL || r == h->rank || p->gone == PLDI_ENDED)
            continue;
        if (p->ring->u.head.left != 0)
            look_at_left(h, r);
        if (p->gone == PLDI_HERE && has_ended(h, r)) {
            gone(h, r, PLDI_ENDED);
            tell_gone(h, r);
        }
    }
}

int pldi_watch_ended(struct pldi_health *h)
{
    int ended = h->ring->u.head.heard != 0;

    for (int r = 0; r < h->size; r++) {
        if (!has_ended(h, r))
            continue;
        ended = 1;
        gone(h, r, PLDI_ENDED);
        tell_gone(h, r);
    }
    return ended;
}

/* Since when an operation waits: one of a group's row, since that before it ended. */
static int64_t waits_since(const struct pldi_health *h, const pld_trace_record *op)
{
    const struct pldi_ring_group *group = pldi_ring_group_of(h->ring, op->group);
    const int64_t before = group == NULL ? 0 : pldi_ring_time(h->ring, group->ended_at);
    int64_t since = op->called > h->awake_from ? op->called : h->awake_from;

    if (op->peer < 0 && before > since)
        since = before;
    return since;
}

static void look_at_self(struct pldi_health *h)
{
    const int64_t timeout = atomic_load(&h->timeout);
    pld_trace_record oldest;

    if (timeout <= 0 || h->ring->u.head.alarm != 0 || !pldi_ring_oldest(h->ring, &oldest))
        return;
    if (pldi_health_now() - waits_since(h, &oldest) >= timeout)
        pldi_report_incident(h, &oldest);
}

static void call_watch(struct pldi_health *h)
{
    (void)pthread_mutex_lock(&h->watching);
    if (h->watch.tick != NULL)
        h->watch.tick(h->watch.context);
    (void)pthread_mutex_unlock(&h->watching);
}

void pldi_health_set_watch(struct pldi_health *h, void (*tick)(void *context),
                           void (*alarm)(void *context), void *context)
{
    (void)pthread_mutex_lock(&h->watching);
    (void)pthread_mutex_lock(&h->hook);
    h->watch.tick = tick;
    h->watch.alarm = alarm;
    h->watch.context = context;
    (void)pthread_mutex_unlock(&h->hook);
    (void)pthread_mutex_unlock(&h->watching);
}

void *pldi_watch_thread(void *health)
{
    struct pldi_health *h = health;
    int64_t before = pldi_health_now();

    while (!atomic_load(&h->stop)) {
        const int64_t tick = atomic_load(&h->tick);
        int64_t now;

        pldi_net_serve(h, tick);
        pldi_health_tell_scale(h);
        now = pldi_health_now();
        if (now - before > tick + LATE)
            h->awake_from = now;
        look_at_peers(h);
        listen_to_others(h);
        call_watch(h);
        look_at_self(h);
        if (h->ring->u.head.alarm != 0)
            (void)pldi_health_alarm(h);
        before = pldi_health_now();
    }
    return NULL;
}
