/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* polder trace for people. */

#include "polder.h"
#include "polder_trace.h"

#include <stdio.h>

enum { WORST = 5 };

void trace_describe(const pld_trace_record *r, char *text, size_t bytes)
{
    char data[48] = "", root[24] = "";

    if (r->dtype[0] != '\0')
        snprintf(data, sizeof(data), " %s[%llu]%s%s", r->dtype, (unsigned long long)r->count,
                 r->reduce[0] != '\0' ? " " : "", r->reduce);
    if (r->root >= 0)
        snprintf(root, sizeof(root), " root %d", r->root);
    snprintf(text, bytes, "%s%s%s", r->kind, data, root);
}

static void print_call(const pld_trace_record *r)
{
    char what[96];

    trace_describe(r, what, sizeof(what));
    print_clean(what);
    if (r->peer >= 0)
        printf(" peer %d tag %d", r->peer, r->tag);
    else
        printf(" #%llu", (unsigned long long)r->sequence);
    printf(" of ");
    print_clean(r->group_name);
    printf(" at ");
    print_clean(r->site);
    if (r->name[0] != '\0') {
        printf(" (");
        print_clean(r->name);
        printf(")");
    }
}

static void print_rank(const struct ring *ring)
{
    printf("rank %d  host ", ring->info.rank);
    print_clean(ring->info.host);
    printf("  process %lld  %llu operations", (long long)ring->info.pid,
           (unsigned long long)ring->info.recorded);
    if (ring->info.left != 0)
        printf(", then it left");
    printf("\n");
    for (size_t i = 0; i < ring->count; i++) {
        if (ring->records[i].ended != 0)
            continue;
        printf("        in ");
        print_call(&ring->records[i]);
        printf("\n");
    }
    if (ring->count > 0 && ring->records[ring->count - 1].ended != 0) {
        const pld_trace_record *last = &ring->records[ring->count - 1];

        printf("        last call ");
        print_call(last);
        if (last->code < 0)
            printf(", which failed with %d", last->code);
        printf("\n");
    }
}

static void print_divergence(const struct job *job)
{
    static const char *const texts[] = {
        "",
        "did",
        "did",
        "did not come; its last call was",
        "is still in",
        "parted earlier, in calls that are overwritten; here it did"};
    const struct divergence *d = &job->divergence;

    if (!d->found) {
        printf("\nNo divergence.\n");
        return;
    }
    set_style(STYLE_BAD);
    printf("\nFirst divergence: operation #%llu of ", (unsigned long long)d->sequence);
    print_clean(d->group_name);
    set_style(STYLE_PLAIN);
    printf("\n");
    for (size_t r = 0; r < job->count; r++) {
        const struct part *p = &d->parts[r];

        if (p->kind == PART_NONE)
            continue;
        printf("  %s rank %d %s ", p->kind == PART_SAME || p->kind == PART_UNENDED ? "  " : "->",
               job->rings[r].info.rank, texts[p->kind]);
        print_call(p->record);
        printf("\n");
    }
}

static void print_stragglers(const struct job *job)
{
    printf("\nLast of all, in %llu operations to which all came:\n",
           (unsigned long long)job->compared);
    for (size_t i = 0; i < job->count && i < WORST; i++) {
        const struct straggler *s = &job->stragglers[i];

        if (s->last == 0)
            break;
        printf("  rank %d  %llu times, others waited %.6f s for it alone; most %.6f s in ",
               job->rings[s->rank_index].info.rank, (unsigned long long)s->last, s->seconds,
               s->worst);
        print_call(s->worst_at);
        printf("\n");
    }
}

void trace_print_text(const struct job *job)
{
    if ((int)job->count < job->rings[0].info.size)
        printf("%zu traces of a job of %d ranks\n", job->count, job->rings[0].info.size);
    for (size_t r = 0; r < job->count; r++)
        print_rank(&job->rings[r]);
    print_divergence(job);
    print_stragglers(job);
}
