/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Records of one collective operation have the same group and sequence number.  Sorted
 * by these, they stand side by side, and every question is one pass.
 */

#include "polder.h"
#include "polder_trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    const pld_trace_record *record;
    size_t ring;
};

/* The entries of one operation. */
struct row {
    const struct entry *entries;
    size_t n;
};

static int compare(const void *a, const void *b)
{
    const struct entry *x = a;
    const struct entry *y = b;

    if (x->record->group != y->record->group)
        return x->record->group < y->record->group ? -1 : 1;
    if (x->record->sequence != y->record->sequence)
        return x->record->sequence < y->record->sequence ? -1 : 1;
    return (x->ring > y->ring) - (x->ring < y->ring);
}

/* How many elements each rank sends is its own affair in alltoall_v alone. */
static int same_call(const pld_trace_record *a, const pld_trace_record *b)
{
    return strcmp(a->kind, b->kind) == 0 && strcmp(a->dtype, b->dtype) == 0 &&
           strcmp(a->reduce, b->reduce) == 0 && a->root == b->root &&
           (a->count == b->count || strcmp(a->kind, "alltoall_v") == 0);
}

static const pld_trace_record *last_of(const struct ring *ring, uint64_t group)
{
    for (size_t i = ring->count; i > 0; i--)
        if (ring->records[i - 1].group == group && ring->records[i - 1].peer < 0)
            return &ring->records[i - 1];
    return NULL;
}

static int64_t first_call(const struct row *row)
{
    int64_t first = INT64_MAX;

    for (size_t i = 0; i < row->n; i++)
        if (row->entries[i].record->called < first)
            first = row->entries[i].record->called;
    return first;
}

/* What most ranks did; the earliest of them if two are as many. */
static const pld_trace_record *usual(const struct row *row)
{
    const pld_trace_record *best = NULL;
    size_t most = 0;

    for (size_t i = 0; i < row->n; i++) {
        size_t same = 0;

        for (size_t k = 0; k < row->n; k++)
            same += (size_t)same_call(row->entries[i].record, row->entries[k].record);
        if (same > most) {
            most = same;
            best = row->entries[i].record;
        }
    }
    return best;
}

/* 1: the ring has had this operation, and has overwritten it. */
static int is_forgotten(const struct ring *ring, const struct row *row)
{
    const pld_trace_record *last = last_of(ring, row->entries[0].record->group);

    return last != NULL && last->sequence > row->entries[0].record->sequence;
}

/* What every ring has of an operation; 1 if that is a divergence. */
static int look(const struct job *job, const struct row *row, struct part *parts)
{
    const pld_trace_record *model = usual(row);
    int diverges = 0;
    size_t at = 0;

    for (size_t r = 0; r < job->count; r++) {
        const struct ring *ring = &job->rings[r];
        const pld_trace_record *mine =
            at < row->n && row->entries[at].ring == r ? row->entries[at++].record : NULL;

        parts[r].record = mine != NULL ? mine : last_of(ring, model->group);
        if (mine != NULL)
            parts[r].kind = !same_call(mine, model)       ? PART_OTHER
                            : mine->chain != model->chain ? PART_EARLIER
                            : mine->ended == 0            ? PART_UNENDED
                                                          : PART_SAME;
        else if (parts[r].record == NULL || is_forgotten(ring, row))
            parts[r].kind = PART_NONE;
        else
            parts[r].kind = PART_ABSENT;
        diverges |= parts[r].kind == PART_OTHER || parts[r].kind == PART_ABSENT ||
                    parts[r].kind == PART_EARLIER;
    }
    return diverges;
}

/* Keep it if it is the first in time. */
static void find_divergence(struct job *job, const struct row *row, struct part *parts)
{
    struct divergence *d = &job->divergence;
    const pld_trace_record *record = row->entries[0].record;

    if (!look(job, row, parts) || (d->found && d->called <= first_call(row)))
        return;
    d->found = 1;
    d->called = first_call(row);
    d->group = record->group;
    d->sequence = record->sequence;
    memcpy(d->group_name, record->group_name, sizeof(d->group_name));
    memcpy(d->parts, parts, job->count * sizeof(*parts));
}

/* Who came last to an operation to which all ranks came. */
static void find_last(struct job *job, const struct row *row)
{
    const struct entry *last = &row->entries[0];
    int64_t second = INT64_MIN;
    struct straggler *s;
    double seconds;

    if (row->n < 2 || (int)row->n != last->record->group_size)
        return;
    job->compared++;
    for (size_t i = 1; i < row->n; i++) {
        const struct entry *e = &row->entries[i];

        if (e->record->called > last->record->called) {
            second = last->record->called;
            last = e;
        } else if (e->record->called > second) {
            second = e->record->called;
        }
    }
    s = &job->stragglers[last->ring];
    seconds = 1e-9 * (double)(last->record->called - second);
    s->last++;
    s->seconds += seconds;
    if (s->worst_at == NULL || seconds > s->worst) {
        s->worst = seconds;
        s->worst_at = last->record;
    }
}

static int by_seconds(const void *a, const void *b)
{
    const struct straggler *x = a;
    const struct straggler *y = b;

    return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

static size_t gather(const struct job *job, struct entry *entries)
{
    size_t n = 0;

    for (size_t r = 0; r < job->count; r++) {
        for (size_t i = 0; i < job->rings[r].count; i++)
            if (job->rings[r].records[i].peer < 0)
                entries[n++] = (struct entry){&job->rings[r].records[i], r};
    }
    qsort(entries, n, sizeof(*entries), compare);
    return n;
}

int trace_analyse(struct job *job)
{
    struct part *parts = calloc(job->count, sizeof(*parts));
    struct entry *entries;
    size_t total = 1, n = 0;

    for (size_t r = 0; r < job->count; r++)
        total += job->rings[r].count;
    entries = calloc(total, sizeof(*entries));
    job->divergence.parts = calloc(job->count, sizeof(*parts));
    job->stragglers = calloc(job->count, sizeof(*job->stragglers));
    if (parts != NULL && entries != NULL && job->divergence.parts != NULL &&
        job->stragglers != NULL)
        n = gather(job, entries);
    for (size_t r = 0; job->stragglers != NULL && r < job->count; r++)
        job->stragglers[r].rank_index = r;
    for (size_t i = 0, next; i < n; i = next) {
        struct row row = {entries + i, 0};

        for (next = i; next < n && entries[next].record->group == entries[i].record->group &&
                       entries[next].record->sequence == entries[i].record->sequence;)
            next++;
        row.n = next - i;
        find_divergence(job, &row, parts);
        find_last(job, &row);
    }
    if (job->stragglers != NULL)
        qsort(job->stragglers, job->count, sizeof(*job->stragglers), by_seconds);
    n = parts != NULL && entries != NULL && job->divergence.parts != NULL;
    free(parts);
    free(entries);
    return n != 0 && job->stragglers != NULL;
}
