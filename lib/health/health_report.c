/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One report per job.  Ranks whose deadlines pass at about the same time race for
 * it: on a node by a word in the ring of its first rank, between nodes by asking the
 * first node that answers for its word.  A loser waits for the winner's report, and
 * makes its own only if that does not come.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base_mem.h"
#include "health/health_impl.h"

static const int64_t PATIENCE = 15000000000; /* for the report of another rank */
static const int64_t ANSWER = 1000000000;

struct text {
    char *at;
    size_t room;
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(t->at, t->room, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    n = (size_t)n < t->room ? n : (int)t->room - 1;
    t->at += n;
    t->room -= (size_t)n;
}

static int same_call(const struct pldi_stand *a, const struct pldi_stand *b)
{
    const pld_trace_record *x = &a->record;
    const pld_trace_record *y = &b->record;

    return x->group == y->group && x->sequence == y->sequence && x->count == y->count &&
           x->root == y->root && x->peer == y->peer && x->tag == y->tag &&
           strcmp(x->kind, y->kind) == 0 && strcmp(x->dtype, y->dtype) == 0 &&
           strcmp(x->reduce, y->reduce) == 0 && strcmp(x->site, y->site) == 0 &&
           strcmp(x->name, y->name) == 0;
}

static int waits(const struct pldi_stand *s)
{
    return s->known && s->busy && !s->stopped && s->gone == PLDI_HERE;
}

/* "0-2,4,6" of those with the mark */
static void add_ranks(struct text *t, const unsigned char *marks, int size)
{
    const char *comma = "";

    for (int r = 0; r < size; r++) {
        int last = r;

        if (!marks[r])
            continue;
        while (last + 1 < size && marks[last + 1])
            last++;
        add(t, last > r ? "%s%d-%d" : "%s%d", comma, r, last);
        comma = ",";
        r = last;
    }
}

/* All that wait in the same call as `first`. */
static void add_waiters(struct text *t, const struct pldi_stand *all, int size, int first,
                        unsigned char *marks, unsigned char *told)
{
    const pld_trace_record *op = &all[first].record;
    char what[256];
    int n = 0;

    memset(marks, 0, (size_t)size);
    for (int r = first; r < size; r++) {
        if (!waits(&all[r]) || told[r] || !same_call(&all[first], &all[r]))
            continue;
        marks[r] = told[r] = 1;
        n++;
    }
    pldi_ring_describe(op, what, sizeof(what));
    if (n == 1) {
        add(t, "\n  rank %d waits in %s since %.1f s", first, what, 1e-9 * (double)all[first].age);
        return;
    }
    add(t, "\n  %d ranks wait in %s: ranks ", n, what);
    add_ranks(t, marks, size);
}

static void add_last(struct text *t, const struct pldi_stand *s)
{
    char what[256];

    if (!s->has_record) {
        add(t, "; it made no call yet");
        return;
    }
    pldi_ring_describe(&s->record, what, sizeof(what));
    add(t, "; %s %s, %s %.1f s ago", s->busy ? "it is in" : "its last call:", what,
        s->busy ? "called" : "done", 1e-9 * (double)s->age);
}

static void add_other(struct text *t, const struct pldi_stand *s, int member)
{
    add(t, "\n  rank %d (host %s, process %lld) ", s->rank, s->host, (long long)s->pid);
    if (!s->known) {
        add(t, "cannot be asked: its node does not answer");
        return;
    }
    if (s->gone == PLDI_ENDED)
        add(t, "ended");
    else if (s->gone == PLDI_LEFT)
        add(t, "left the job (pld_runtime_close), %s", s->state);
    else if (s->stopped)
        add(t, "is %s", s->state);
    else
        add(t, "%s: %s in the caller's code", member ? "never came" : "is in no operation",
            s->state);
    add_last(t, s);
}

/* The program may be making or destroying groups at this moment. */
static void find_members(struct pldi_health *h, const pld_trace_record *late,
                         unsigned char *members)
{
    memset(members, 0, (size_t)h->size);
    (void)pthread_mutex_lock(&h->lock);
    for (const struct pldi_health_group *g = h->groups; g != NULL; g = g->next) {
        if (g->id != late->group)
            continue;
        for (int r = 0; r < g->size; r++)
            members[g->members[r]] = late->peer < 0 || r == late->peer;
    }
    (void)pthread_mutex_unlock(&h->lock);
}

static void write_all(struct pldi_health *h, const pld_trace_record *late,
                      const struct pldi_stand *all, unsigned char *work, struct text *t)
{
    unsigned char *told = work;
    unsigned char *marks = work + h->size;
    unsigned char *members = work + 2 * (size_t)h->size;
    char what[256];

    memset(told, 0, (size_t)h->size);
    find_members(h, late, members);
    pldi_ring_describe(late, what, sizeof(what));
    add(t, "no end of %s within %.1f s, as rank %d of %d found:", what, 1e-9 * (double)h->timeout,
        h->rank, h->size);
    for (int r = 0; r < h->size; r++) {
        if (waits(&all[r]) && !told[r])
            add_waiters(t, all, h->size, r, marks, told);
    }
    for (int pass = 0; pass < 2; pass++) { /* those of the group first */
        for (int r = 0; r < h->size; r++) {
            if (!waits(&all[r]) && members[r] == !pass)
                add_other(t, &all[r], members[r]);
        }
    }
    if (h->trace_dir != NULL)
        add(t, "\n  traces: %s/rank-*.trace", h->trace_dir);
}

void pldi_report_write(struct pldi_health *h, const pld_trace_record *late,
                       const struct pldi_stand *all, char *text, size_t bytes)
{
    unsigned char *work = pldi_alloc((size_t)h->size, 3, "a report");
    struct text t = {text, bytes};
    char what[256];

    pldi_ring_describe(late, what, sizeof(what));
    if (work == NULL)
        add(&t, "no end of %s within %.1f s, and no memory for a report", what,
            1e-9 * (double)h->timeout);
    else
        write_all(h, late, all, work, &t);
    pldi_free(work);
}

static struct pldi_ring *ring_of(const struct pldi_health *h, int rank)
{
    return rank == h->rank ? h->ring : (void *)h->peers[rank].shm.data;
}

int pldi_report_claim(struct pldi_health *h, int rank)
{
    struct pldi_ring *first = ring_of(h, h->peers[h->rank].node);
    uint64_t none = 0;

    return atomic_compare_exchange_strong(&first->u.head.claim, &none, (uint64_t)rank + 1) ||
           none == (uint64_t)rank + 1;
}

/* Asks the members of a node, in order: 1: it is ours, 0: not, -1: nobody answers. */
static int claim_at(struct pldi_health *h, int node)
{
    for (int r = node; r < h->size; r++) {
        struct pldi_ask ask = {.rank = r, .type = PLDI_ASK_CLAIM};

        if (h->peers[r].node != node)
            continue;
        pldi_net_ask(h, &ask, 1, ANSWER);
        if (ask.result)
            return ask.value != 0;
    }
    return -1;
}

static int claim(struct pldi_health *h)
{
    const int mine = h->peers[h->rank].node;

    if (!pldi_report_claim(h, h->rank))
        return 0;
    for (int node = 0; node < mine; node++) {
        const int rc = h->peers[node].node == node ? claim_at(h, node) : -1;

        if (rc >= 0)
            return rc;
    }
    return 1;
}

static void save(const struct pldi_health *h, const char *text)
{
    char path[4200];
    FILE *file;

    if (h->trace_dir == NULL)
        return;
    (void)snprintf(path, sizeof(path), "%s/report.txt", h->trace_dir);
    file = fopen(path, "we");
    if (file == NULL)
        return; /* the report has other ways */
    (void)fprintf(file, "%s\n", text);
    (void)fclose(file);
}

void pldi_report_alarm(struct pldi_health *h, const char *text)
{
    pldi_ring_put_text(h->ring->report, PLDI_RING_REPORT / 8, text);
    for (int r = h->size - 1; r >= 0; r--) {
        struct pldi_ring *ring = h->peers[r].node == h->peers[h->rank].node ? ring_of(h, r) : NULL;
        uint64_t none = 0;

        if (ring != NULL && r != h->rank)
            (void)atomic_compare_exchange_strong(&ring->u.head.alarm, &none, (uint64_t)h->rank + 1);
    }
    /* The own one last: who sees this rank give up finds its own alarm set. */
    atomic_store(&h->ring->u.head.alarm, (uint64_t)h->rank + 1);
}

static void tell_nodes(struct pldi_health *h, const char *text)
{
    struct pldi_ask *asks = pldi_alloc((size_t)h->nodes, sizeof(*asks), "a report");
    int n = 0;

    for (int r = 0; asks != NULL && r < h->size; r++) {
        if (h->peers[r].node == r && r != h->peers[h->rank].node)
            asks[n++] = (struct pldi_ask){
                .rank = r, .type = PLDI_ASK_ALARM, .out = text, .out_bytes = strlen(text) + 1};
    }
    if (n > 0)
        pldi_net_ask_nodes(h, asks, n, NULL, NULL);
    pldi_free(asks);
}

void pldi_report_incident(struct pldi_health *h, const pld_trace_record *late)
{
    const int64_t now = pldi_health_now();
    struct pldi_stand *all;
    char *text;

    if (h->lost_claim_at != 0 && now - h->lost_claim_at < PATIENCE)
        return;
    if (h->lost_claim_at == 0 && !claim(h)) {
        h->lost_claim_at = now;
        return;
    }
    /* While others were asked, their report may have come, and this rank may have left. */
    if (h->ring->u.head.alarm != 0 || h->ring->u.head.left != 0)
        return;
    all = pldi_alloc((size_t)h->size, sizeof(*all), "a report");
    text = pldi_alloc(PLDI_RING_REPORT, 1, "a report");
    if (all != NULL && text != NULL) {
        pldi_stand_all(h, all);
        pldi_report_write(h, late, all, text, PLDI_RING_REPORT);
        save(h, text);
        if (h->opts.report != NULL)
            h->opts.report(text, h->opts.context);
        tell_nodes(h, text);
        pldi_report_alarm(h, text);
    } else {
        pldi_report_alarm(h, "the deadline passed, and there is no memory for a report");
    }
    pldi_free(all);
    pldi_free(text);
}
