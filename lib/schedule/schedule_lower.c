/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Message insertion.  All computations and all messages are put in one global
 * sequence, a message being a single event that concerns its two ranks; the
 * list of a rank is the part of the sequence that concerns it.  Such lists
 * cannot deadlock even if sends and receives block and nothing is buffered: the
 * first unfinished event of the sequence is at the head of the list of each
 * rank that takes part in it.  For the same reason both ends of a channel see
 * its messages in the same order.
 *
 * The sequence follows a simulated clock: a message stands where its producer
 * ends, a computation where it begins, messages first where both coincide (so
 * that a message precedes its consumer), lower source rank first among messages.
 * A sequence by time rather than by sweeping over the ranks matters: it keeps a
 * rank from blocking on a message that its partner will send late.
 */

#include "schedule/schedule.h"

#include <stdlib.h>

#include "base/base_err.h"
#include "base/base_mem.h"

/* A backward costs about two forwards.  Positive, so that producers precede consumers. */
static const pld_schedule_costs unit_costs = {
    .struct_size = sizeof(pld_schedule_costs), .forward = 1.0, .backward = 2.0};

struct event {
    double time;
    int is_compute; /* messages sort first */
    int rank;       /* of the producer, or of the computation */
    size_t position;
};

static int compare(const void *left, const void *right)
{
    const struct event *a = left;
    const struct event *b = right;

    if (a->time < b->time || a->time > b->time)
        return a->time < b->time ? -1 : 1;
    if (a->is_compute != b->is_compute)
        return a->is_compute - b->is_compute;
    return a->rank - b->rank;
}

/* The SEND that follows a computation.  Returns 0 if its result stays on the rank. */
static int message_of(const pld_schedule *s, const pld_action *compute, pld_action *send)
{
    const int forward = compute->kind == PLD_ACTION_F;

    *send = *compute;
    send->kind = forward ? PLD_ACTION_SEND_F : PLD_ACTION_SEND_B;
    return pldi_schedule_is_edge(s, compute->stage, compute->stage + (forward ? 1 : -1));
}

static pld_action other_end(const pld_action *send)
{
    const struct pldi_action_info *info = pldi_action_info(send->kind);

    return (pld_action){info->partner, send->stage + info->peer, send->microbatch};
}

static size_t list_events(const pld_schedule *s, const struct pldi_run *run, struct event *events)
{
    pld_action send;
    size_t count = 0;

    for (int rank = 0; rank < s->ranks; rank++) {
        for (size_t i = s->start[rank]; i < s->start[rank + 1]; i++) {
            events[count++] = (struct event){run->begin[i], 1, rank, i};
            if (message_of(s, &s->actions[i], &send))
                events[count++] = (struct event){run->end[i], 0, rank, i};
        }
    }
    return count;
}

static int collect(const pld_schedule *s, struct event *events, size_t *count)
{
    struct pldi_index index;
    struct pldi_run run;
    int rc;

    PLDI_TRY(pldi_index_open(s, &index));
    pldi_index_fill(s, &index);
    rc = pldi_run_open(s, &index, &unit_costs, &run);
    pldi_index_close(&index);
    if (rc < 0)
        return rc;
    *count = list_events(s, &run, events);
    pldi_run_close(&run);
    return PLD_OK;
}

/* How long each list becomes, as start[]. */
static void measure(const pld_schedule *s, size_t *start)
{
    pld_action send;

    for (int rank = 0; rank < s->ranks; rank++) {
        for (size_t i = s->start[rank]; i < s->start[rank + 1]; i++) {
            start[rank + 1]++;
            if (message_of(s, &s->actions[i], &send)) {
                start[rank + 1]++;
                start[s->rank_of[other_end(&send).stage] + 1]++;
            }
        }
    }
    for (int rank = 0; rank < s->ranks; rank++)
        start[rank + 1] += start[rank];
}

static void project(const pld_schedule *s, const struct event *events, size_t count, size_t *next,
                    pld_schedule *out)
{
    for (size_t i = 0; i < count; i++) {
        const pld_action *compute = &s->actions[events[i].position];
        pld_action send, receive;

        if (events[i].is_compute) {
            out->actions[next[events[i].rank]++] = *compute;
            continue;
        }
        (void)message_of(s, compute, &send);
        receive = other_end(&send);
        out->actions[next[events[i].rank]++] = send;
        out->actions[next[s->rank_of[receive.stage]]++] = receive;
    }
}

static int lower(const pld_schedule *s, struct event *events, size_t *next, pld_schedule **out)
{
    const size_t total = s->start[s->ranks];
    pld_schedule *lowered;
    size_t count;

    PLDI_TRY(collect(s, events, &count));
    qsort(events, count, sizeof(*events), compare);
    PLDI_TRY(pldi_schedule_new(s->ranks, s->stages, s->microbatches, 2 * count - total, &lowered));
    measure(s, lowered->start);
    for (int rank = 0; rank < s->ranks; rank++)
        next[rank] = lowered->start[rank];
    project(s, events, count, next, lowered);
    pldi_schedule_seal(lowered);
    *out = lowered;
    return PLD_OK;
}

int pld_schedule_lower(const pld_schedule *schedule, pld_schedule **out)
{
    struct event *events;
    size_t *next;
    int rc = PLD_ERR_NOMEM;

    PLDI_CHECK_ARG(schedule != NULL && out != NULL);
    if (schedule->has_messages)
        return pldi_fail(PLD_ERR_ARG, "the schedule already has SEND and RECV actions");
    events = pldi_alloc(2 * schedule->start[schedule->ranks], sizeof(*events), "lowering");
    next = pldi_alloc((size_t)schedule->ranks, sizeof(*next), "lowering");
    if (events != NULL && next != NULL)
        rc = lower(schedule, events, next, out);
    pldi_free(events);
    pldi_free(next);
    return rc;
}
