/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The validator: named checks, each of which may rely on those before it.
 *
 *     range       stages, microbatches and kinds are in range
 *     placement   each stage is on one rank
 *     once        each (kind, stage, microbatch) at most once, each F and B once
 *     messages    one SEND and one RECV wherever data change rank, none elsewhere
 *     order       a SEND after its producer, a RECV before its consumer
 *     progress    no cycle of waiting even if every message is buffered
 *     fifo        both ends of a channel have its messages in the same order
 *     rendezvous  no cycle of waiting if sends and receives block until they meet
 *
 * Nothing is allocated in proportion to stages x microbatches before it is known
 * that the lists are that long, so a few characters of text cannot claim memory.
 */

#include "schedule/schedule.h"

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"

/* "rank 2, action 5 (2F1)" */
enum { PLACE_TEXT = 80 };

static int rank_at(const pld_schedule *s, size_t position)
{
    int low = 0;
    int high = s->ranks;

    while (high - low > 1) {
        const int middle = low + (high - low) / 2;

        if (s->start[middle] <= position)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static const char *place_text(const pld_schedule *s, size_t position, char text[PLACE_TEXT])
{
    const int rank = rank_at(s, position);
    char action[PLDI_ACTION_TEXT];

    (void)snprintf(text, PLACE_TEXT, "rank %d, action %zu (%s)", rank, position - s->start[rank],
                   pldi_action_text(&s->actions[position], action));
    return text;
}

static int check_range(const pld_schedule *s)
{
    for (size_t i = 0; i < s->start[s->ranks]; i++) {
        const pld_action *a = &s->actions[i];

        if ((unsigned)a->kind >= PLDI_ACTION_KINDS || a->stage < 0 || a->stage >= s->stages ||
            a->microbatch < 0 || a->microbatch >= s->microbatches)
            return pldi_fail(PLD_ERR_ARG,
                             "range: action %zu of rank %d has kind %d, stage %d of %d, "
                             "microbatch %d of %d",
                             i - s->start[rank_at(s, i)], rank_at(s, i), (int)a->kind, a->stage,
                             s->stages, a->microbatch, s->microbatches);
    }
    return PLD_OK;
}

static size_t first_of_stage(const pld_schedule *s, int stage)
{
    size_t i = s->start[s->rank_of[stage]];

    while (s->actions[i].stage != stage)
        i++;
    return i;
}

static int check_placement(const pld_schedule *s)
{
    char here[PLACE_TEXT], there[PLACE_TEXT];

    for (int stage = 0; stage < s->stages; stage++) {
        if (s->rank_of[stage] < 0)
            return pldi_fail(PLD_ERR_ARG, "placement: stage %d is on no rank; stages are 0 to %d",
                             stage, s->stages - 1);
    }
    for (size_t i = 0; i < s->start[s->ranks]; i++) {
        const int stage = s->actions[i].stage;

        if (rank_at(s, i) != s->rank_of[stage])
            return pldi_fail(PLD_ERR_ARG, "placement: %s: stage %d is on another rank: %s",
                             place_text(s, i, here), stage,
                             place_text(s, first_of_stage(s, stage), there));
    }
    return PLD_OK;
}

/* Name a microbatch of which a stage has no action of a kind. */
static int report_missing(const pld_schedule *s, pld_action_kind kind, int stage)
{
    const int rank = s->rank_of[stage];
    char *seen = pldi_alloc((size_t)s->microbatches, 1, "validation");
    int mb = 0;

    if (seen == NULL)
        return PLD_ERR_NOMEM;
    for (size_t i = s->start[rank]; i < s->start[rank + 1]; i++) {
        if (s->actions[i].kind == kind && s->actions[i].stage == stage)
            seen[s->actions[i].microbatch] = 1;
    }
    while (seen[mb])
        mb++;
    pldi_free(seen);
    return pldi_fail(PLD_ERR_ARG,
                     "once: rank %d has no %d%s%d; each stage needs F and B of %d "
                     "microbatches",
                     rank, stage, pldi_action_info(kind)->name, mb, s->microbatches);
}

static int compare_counts(const pld_schedule *s, size_t *counts)
{
    for (size_t i = 0; i < s->start[s->ranks]; i++) {
        const pld_action *a = &s->actions[i];

        if (!pldi_action_info(a->kind)->is_message)
            counts[(size_t)a->kind * (size_t)s->stages + (size_t)a->stage]++;
    }
    for (int kind = 0; kind < PLDI_COMPUTE_KINDS; kind++) {
        for (int stage = 0; stage < s->stages; stage++) {
            if (counts[(size_t)kind * (size_t)s->stages + (size_t)stage] < (size_t)s->microbatches)
                return report_missing(s, (pld_action_kind)kind, stage);
        }
    }
    return PLD_OK;
}

/* After this the lists are at least 2 x stages x microbatches long. */
static int check_counts(const pld_schedule *s)
{
    size_t *counts =
        pldi_alloc(PLDI_COMPUTE_KINDS * (size_t)s->stages, sizeof(*counts), "validation");
    const int rc = counts == NULL ? PLD_ERR_NOMEM : compare_counts(s, counts);

    pldi_free(counts);
    return rc;
}

/* Fills the index. */
static int check_once(const pld_schedule *s, const struct pldi_index *index)
{
    char here[PLACE_TEXT], there[PLACE_TEXT];

    for (size_t i = 0; i < s->start[s->ranks]; i++) {
        const pld_action *a = &s->actions[i];
        size_t *slot = pldi_index_slot(index, a->kind, a->stage, a->microbatch);

        if (*slot != 0)
            return pldi_fail(PLD_ERR_ARG, "once: %s repeats %s", place_text(s, i, here),
                             place_text(s, *slot - 1, there));
        *slot = i + 1;
    }
    return PLD_OK;
}

static size_t partner_of(const pld_schedule *s, const struct pldi_index *index, size_t position)
{
    const pld_action *a = &s->actions[position];
    const struct pldi_action_info *info = pldi_action_info(a->kind);

    return *pldi_index_slot(index, info->partner, a->stage + info->peer, a->microbatch);
}

/* Each SEND and RECV is allowed and has its other end. */
static int check_ends(const pld_schedule *s, const struct pldi_index *index)
{
    char here[PLACE_TEXT];

    for (size_t i = 0; i < s->start[s->ranks]; i++) {
        const pld_action *a = &s->actions[i];
        const struct pldi_action_info *info = pldi_action_info(a->kind);
        const int other = a->stage + info->peer;

        if (!info->is_message)
            continue;
        if (other < 0 || other >= s->stages)
            return pldi_fail(PLD_ERR_ARG, "messages: %s: there is no stage %d",
                             place_text(s, i, here), other);
        if (s->rank_of[other] == s->rank_of[a->stage])
            return pldi_fail(PLD_ERR_ARG, "messages: %s: stages %d and %d are on the same rank",
                             place_text(s, i, here), a->stage, other);
        if (partner_of(s, index, i) == 0)
            return pldi_fail(PLD_ERR_ARG, "messages: %s has no %d%s%d on rank %d",
                             place_text(s, i, here), other, pldi_action_info(info->partner)->name,
                             a->microbatch, s->rank_of[other]);
    }
    return PLD_OK;
}

/* Each computation has what must arrive; with check_ends, what must leave, too. */
static int check_arrivals(const pld_schedule *s, const struct pldi_index *index)
{
    char here[PLACE_TEXT];

    for (size_t i = 0; i < s->start[s->ranks]; i++) {
        const pld_action *a = &s->actions[i];
        const int forward = a->kind == PLD_ACTION_F;
        const pld_action_kind receive = forward ? PLD_ACTION_RECV_F : PLD_ACTION_RECV_B;
        const int from = a->stage + (forward ? -1 : 1);

        if (pldi_action_info(a->kind)->is_message || !pldi_schedule_is_edge(s, a->stage, from))
            continue;
        if (*pldi_index_slot(index, receive, a->stage, a->microbatch) == 0)
            return pldi_fail(PLD_ERR_ARG,
                             "messages: %s needs what stage %d computes, but rank %d "
                             "has no %d%s%d",
                             place_text(s, i, here), from, rank_at(s, i), a->stage,
                             pldi_action_info(receive)->name, a->microbatch);
    }
    return PLD_OK;
}

static int check_order(const pld_schedule *s, const struct pldi_index *index)
{
    char here[PLACE_TEXT], there[PLACE_TEXT];

    for (size_t i = 0; i < s->start[s->ranks]; i++) {
        const pld_action *a = &s->actions[i];
        const struct pldi_action_info *info = pldi_action_info(a->kind);
        size_t compute;

        if (!info->is_message)
            continue;
        compute = *pldi_index_slot(index, info->compute, a->stage, a->microbatch) - 1;
        if (info->is_send ? i < compute : i > compute)
            return pldi_fail(PLD_ERR_ARG, "order: %s comes %s %s", place_text(s, i, here),
                             info->is_send ? "before its producer" : "after its consumer",
                             place_text(s, compute, there));
    }
    return PLD_OK;
}

/* What the rank that stopped at `position` waits for.  run: NULL if messages block. */
static pld_action awaited(const pld_schedule *s, const struct pldi_index *index,
                          const struct pldi_run *run, size_t position)
{
    const pld_action *a = &s->actions[position];
    pld_action needs[PLDI_MAX_NEEDS];
    int i = 0;

    if (run == NULL)
        return s->actions[partner_of(s, index, position) - 1];
    (void)pldi_action_needs(s, a, needs);
    while (
        run->end[*pldi_index_slot(index, needs[i].kind, needs[i].stage, needs[i].microbatch) - 1] >=
        0.0)
        i++;
    return needs[i];
}

/* Follow who waits for whom from the first stuck rank; in a few steps that closes a cycle. */
static int report_cycle(const char *check, const pld_schedule *s, const struct pldi_index *index,
                        const struct pldi_run *run, const size_t *next)
{
    enum { HOPS = 6 };
    char text[HOPS * 128] = "";
    char here[PLACE_TEXT], action[PLDI_ACTION_TEXT];
    size_t used = 0;
    int rank = 0;
    int first;

    while (next[rank] == s->start[rank + 1])
        rank++;
    first = rank;
    for (int hop = 0; hop < HOPS && (hop == 0 || rank != first); hop++) {
        const pld_action need = awaited(s, index, run, next[rank]);

        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s waits for %s of rank %d",
                                 hop > 0 ? "; " : "", place_text(s, next[rank], here),
                                 pldi_action_text(&need, action), s->rank_of[need.stage]);
        rank = s->rank_of[need.stage];
    }
    return pldi_fail(PLD_ERR_ARG, "%s: nothing can go on: %s%s", check, text,
                     rank == first ? "" : "; and so on");
}

static int check_progress(const pld_schedule *s, const struct pldi_index *index)
{
    static const pld_schedule_costs costs = {
        .struct_size = sizeof(costs), .forward = 1.0, .backward = 1.0};
    struct pldi_run run;
    int rc = PLD_OK;

    PLDI_TRY(pldi_run_open(s, index, &costs, &run));
    for (int rank = 0; rank < s->ranks && rc == PLD_OK; rank++) {
        if (run.next[rank] < s->start[rank + 1])
            rc = report_cycle("progress", s, index, &run, run.next);
    }
    pldi_run_close(&run);
    return rc;
}

/* Seen from the receiver: the matching sends of one source must ascend. */
static int check_channels_into(const pld_schedule *s, const struct pldi_index *index, int rank,
                               size_t *last)
{
    char here[PLACE_TEXT], there[PLACE_TEXT], before[PLACE_TEXT];

    for (size_t i = s->start[rank]; i < s->start[rank + 1]; i++) {
        const struct pldi_action_info *info = pldi_action_info(s->actions[i].kind);
        size_t send;
        int source;

        if (!info->is_message || info->is_send)
            continue;
        send = partner_of(s, index, i); /* position + 1, as last[] */
        source = s->rank_of[s->actions[send - 1].stage];
        if (send < last[source])
            return pldi_fail(PLD_ERR_ARG,
                             "fifo: %s is received after what %s sends, but %s comes "
                             "earlier",
                             place_text(s, i, here), place_text(s, last[source] - 1, before),
                             place_text(s, send - 1, there));
        last[source] = send;
    }
    return PLD_OK;
}

static int check_fifo(const pld_schedule *s, const struct pldi_index *index)
{
    size_t *last = pldi_alloc((size_t)s->ranks, sizeof(*last), "validation");
    int rc = last == NULL ? PLD_ERR_NOMEM : PLD_OK;

    for (int rank = 0; rank < s->ranks && rc == PLD_OK; rank++) {
        memset(last, 0, (size_t)s->ranks * sizeof(*last));
        rc = check_channels_into(s, index, rank, last);
    }
    pldi_free(last);
    return rc;
}

static void skip_computations(const pld_schedule *s, size_t *next, int rank)
{
    while (next[rank] < s->start[rank + 1] &&
           !pldi_action_info(s->actions[next[rank]].kind)->is_message)
        next[rank]++;
}

/*
 * Let messages meet, beginning with the one that `rank` stands at, and go on along
 * whoever has been set free.  Computations need nothing that messages before
 * them in their own list have not brought; `order` and `progress` saw to that.
 */
static int meet(const pld_schedule *s, const struct pldi_index *index, size_t *next, int rank)
{
    int met = 0;

    for (;;) {
        size_t other;
        int peer;

        skip_computations(s, next, rank);
        if (next[rank] == s->start[rank + 1])
            return met;
        other = partner_of(s, index, next[rank]) - 1;
        peer = s->rank_of[s->actions[other].stage];
        skip_computations(s, next, peer);
        if (next[peer] != other)
            return met;
        next[rank]++;
        next[peer]++;
        met = 1;
    }
}

static int check_rendezvous(const pld_schedule *s, const struct pldi_index *index)
{
    size_t *next = pldi_alloc((size_t)s->ranks, sizeof(*next), "validation");
    int met = 1;
    int rc = PLD_OK;

    if (next == NULL)
        return PLD_ERR_NOMEM;
    memcpy(next, s->start, (size_t)s->ranks * sizeof(*next));
    while (met) {
        met = 0;
        for (int rank = 0; rank < s->ranks; rank++)
            met |= meet(s, index, next, rank);
    }
    for (int rank = 0; rank < s->ranks && rc == PLD_OK; rank++) {
        if (next[rank] < s->start[rank + 1])
            rc = report_cycle("rendezvous", s, index, NULL, next);
    }
    pldi_free(next);
    return rc;
}

static int check_indexed(const pld_schedule *s, const struct pldi_index *index)
{
    PLDI_TRY(check_once(s, index));
    if (s->has_messages) {
        PLDI_TRY(check_ends(s, index));
        PLDI_TRY(check_arrivals(s, index));
        PLDI_TRY(check_order(s, index));
    }
    PLDI_TRY(check_progress(s, index));
    if (s->has_messages) {
        PLDI_TRY(check_fifo(s, index));
        PLDI_TRY(check_rendezvous(s, index));
    }
    return PLD_OK;
}

int pld_schedule_validate(const pld_schedule *schedule)
{
    struct pldi_index index;
    int rc;

    PLDI_CHECK_ARG(schedule != NULL);
    PLDI_TRY(check_range(schedule));
    PLDI_TRY(check_placement(schedule));
    PLDI_TRY(check_counts(schedule));
    PLDI_TRY(pldi_index_open(schedule, &index));
    rc = check_indexed(schedule, &index);
    pldi_index_close(&index);
    return rc;
}
