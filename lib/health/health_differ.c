/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Where ranks went apart, found in recorders that this process has mapped. */

#include <stdio.h>
#include <string.h>

#include "base/base_mem.h"
#include "health/health_impl.h"

enum { WINDOW = 256 };

/* The group's last collective operations that ended before `end`, by number. */
static void collect(const struct pldi_ring *ring, uint64_t group, uint64_t end,
                    pld_trace_record *out)
{
    pld_trace_record r;

    for (size_t slot = 0; slot < PLDI_RING_RECORDS; slot++) {
        pld_trace_record *at;

        if (!pldi_ring_read(ring, slot, &r) || r.group != group || r.peer >= 0 ||
            r.sequence >= end || r.sequence + WINDOW < end)
            continue;
        at = &out[r.sequence % WINDOW];
        if (at->number < r.number)
            *at = r;
    }
}

/* How many elements each rank sends is its own affair in alltoall_v alone. */
static int same(const pld_trace_record *a, const pld_trace_record *b)
{
    return a->root == b->root && strcmp(a->kind, b->kind) == 0 && strcmp(a->dtype, b->dtype) == 0 &&
           strcmp(a->reduce, b->reduce) == 0 &&
           (a->count == b->count || strcmp(a->kind, "alltoall_v") == 0);
}

/* The first of them that differs: its index, or -1. */
static int compare(const pld_trace_record *mine, const pld_trace_record *theirs, uint64_t end)
{
    for (uint64_t sequence = end > WINDOW ? end - WINDOW : 0; sequence < end; sequence++) {
        const pld_trace_record *a = &mine[sequence % WINDOW];
        const pld_trace_record *b = &theirs[sequence % WINDOW];

        if (a->number != 0 && b->number != 0 && a->sequence == b->sequence && !same(a, b))
            return (int)(sequence % WINDOW);
    }
    return -1;
}

static void describe(const pld_trace_record *mine, int me, const pld_trace_record *theirs,
                     int other, char *text, size_t bytes)
{
    char left[256], right[256];

    pldi_ring_describe(mine, left, sizeof(left));
    pldi_ring_describe(theirs, right, sizeof(right));
    (void)snprintf(text, bytes, "rank %d: %s; rank %d: %s", me, left, other, right);
}

void pldi_health_differ(const struct pldi_health_group *group, char *text, size_t bytes)
{
    const struct pldi_health *h = group != NULL ? group->health : NULL;
    const uint64_t end = group != NULL ? group->entry->called : 0;
    pld_trace_record *all = pldi_alloc(2 * WINDOW, sizeof(*all), "records");
    int me = 0;

    text[0] = '\0';
    while (h != NULL && group->members[me] != h->rank)
        me++;
    if (h != NULL && all != NULL)
        collect(h->ring, group->id, end, all);
    for (int r = 0; h != NULL && all != NULL && text[0] == '\0' && r < group->size; r++) {
        const struct pldi_ring *ring = h->peers[group->members[r]].ring;
        int at;

        if (ring == NULL || r == me)
            continue;
        memset(all + WINDOW, 0, WINDOW * sizeof(*all));
        collect(ring, group->id, end, all + WINDOW);
        at = compare(all, all + WINDOW, end);
        if (at >= 0)
            describe(&all[at], me, &all[WINDOW + at], r, text, bytes);
    }
    pldi_free(all);
}
