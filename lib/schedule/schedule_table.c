/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The table and what can be read off it without looking at more than one list.
 * Everything that depends on what a kind of action means comes from one array
 * of descriptions, so that a further kind does not touch the other files.
 */

#include "schedule/schedule.h"

#include <stdio.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"

static const struct pldi_action_info infos[PLDI_ACTION_KINDS] = {
    [PLD_ACTION_F] = {.name = "F", .live = 1},
    [PLD_ACTION_B] = {.name = "B", .live = -1},
    [PLD_ACTION_SEND_F] = {"SEND_F", 1, 1, 1, PLD_ACTION_RECV_F, PLD_ACTION_F, 0},
    [PLD_ACTION_RECV_F] = {"RECV_F", 1, 0, -1, PLD_ACTION_SEND_F, PLD_ACTION_F, 0},
    [PLD_ACTION_SEND_B] = {"SEND_B", 1, 1, -1, PLD_ACTION_RECV_B, PLD_ACTION_B, 0},
    [PLD_ACTION_RECV_B] = {"RECV_B", 1, 0, 1, PLD_ACTION_SEND_B, PLD_ACTION_B, 0},
};

const struct pldi_action_info *pldi_action_info(pld_action_kind kind)
{
    return &infos[kind];
}

const char *pldi_action_text(const pld_action *action, char text[PLDI_ACTION_TEXT])
{
    (void)snprintf(text, PLDI_ACTION_TEXT, "%d%s%d", action->stage, infos[action->kind].name,
                   action->microbatch);
    return text;
}

int pldi_schedule_new(int ranks, int stages, int microbatches, size_t total, pld_schedule **out)
{
    pld_schedule *s = pldi_alloc(1, sizeof(*s), "a schedule");

    if (s == NULL)
        return PLD_ERR_NOMEM;
    s->ranks = ranks;
    s->stages = stages;
    s->microbatches = microbatches;
    s->start = pldi_alloc((size_t)ranks + 1, sizeof(*s->start), "the lists of a schedule");
    s->actions = pldi_alloc(total, sizeof(*s->actions), "the actions of a schedule");
    s->rank_of = pldi_alloc((size_t)stages, sizeof(*s->rank_of), "the stages of a schedule");
    if (s->start == NULL || s->actions == NULL || s->rank_of == NULL) {
        pld_schedule_destroy(&s);
        return PLD_ERR_NOMEM;
    }
    *out = s;
    return PLD_OK;
}

void pldi_schedule_seal(pld_schedule *schedule)
{
    for (int stage = 0; stage < schedule->stages; stage++)
        schedule->rank_of[stage] = -1;
    for (int rank = schedule->ranks - 1; rank >= 0; rank--) {
        for (size_t i = schedule->start[rank]; i < schedule->start[rank + 1]; i++) {
            schedule->rank_of[schedule->actions[i].stage] = rank;
            schedule->has_messages |= infos[schedule->actions[i].kind].is_message;
        }
    }
}

int pldi_schedule_is_edge(const pld_schedule *schedule, int stage, int other)
{
    return other >= 0 && other < schedule->stages &&
           schedule->rank_of[stage] != schedule->rank_of[other];
}

uint64_t pldi_schedule_hash(const pld_schedule *schedule)
{
    uint64_t hash = (uint64_t)schedule->ranks;

    for (int rank = 0; rank < schedule->ranks; rank++) {
        const size_t length = pld_schedule_length(schedule, rank);

        hash = pldi_hash64_chain(hash, &length, sizeof(length));
        hash = pldi_hash64_chain(hash, pld_schedule_actions(schedule, rank),
                                 length * sizeof(pld_action));
    }
    return hash;
}

int pldi_index_open(const pld_schedule *schedule, struct pldi_index *out)
{
    const size_t kinds = schedule->has_messages ? PLDI_ACTION_KINDS : PLDI_COMPUTE_KINDS;

    out->stages = schedule->stages;
    out->microbatches = schedule->microbatches;
    out->at = pldi_alloc(kinds * (size_t)schedule->stages * (size_t)schedule->microbatches,
                         sizeof(*out->at), "the index of a schedule");
    return out->at == NULL ? PLD_ERR_NOMEM : PLD_OK;
}

void pldi_index_close(struct pldi_index *index)
{
    pldi_free(index->at);
    index->at = NULL;
}

size_t *pldi_index_slot(const struct pldi_index *index, pld_action_kind kind, int stage, int mb)
{
    const size_t row = (size_t)kind * (size_t)index->stages + (size_t)stage;

    return &index->at[row * (size_t)index->microbatches + (size_t)mb];
}

void pldi_index_fill(const pld_schedule *schedule, struct pldi_index *index)
{
    for (size_t i = 0; i < schedule->start[schedule->ranks]; i++) {
        const pld_action *a = &schedule->actions[i];

        *pldi_index_slot(index, a->kind, a->stage, a->microbatch) = i + 1;
    }
}

int pld_schedule_ranks(const pld_schedule *schedule)
{
    return schedule->ranks;
}

int pld_schedule_stages(const pld_schedule *schedule)
{
    return schedule->stages;
}

int pld_schedule_microbatches(const pld_schedule *schedule)
{
    return schedule->microbatches;
}

int pld_schedule_rank_of(const pld_schedule *schedule, int stage)
{
    return stage >= 0 && stage < schedule->stages ? schedule->rank_of[stage] : -1;
}

size_t pld_schedule_length(const pld_schedule *schedule, int rank)
{
    if (rank < 0 || rank >= schedule->ranks)
        return 0;
    return schedule->start[rank + 1] - schedule->start[rank];
}

const pld_action *pld_schedule_actions(const pld_schedule *schedule, int rank)
{
    if (rank < 0 || rank >= schedule->ranks)
        return NULL;
    return schedule->actions + schedule->start[rank];
}

int pld_schedule_peak_live(const pld_schedule *schedule, int rank)
{
    const pld_action *actions = pld_schedule_actions(schedule, rank);
    const size_t length = pld_schedule_length(schedule, rank);
    int live = 0;
    int peak = 0;

    if (actions == NULL)
        return -1;
    for (size_t i = 0; i < length; i++) {
        live += infos[actions[i].kind].live;
        peak = live > peak ? live : peak;
    }
    return peak;
}

void pld_schedule_destroy(pld_schedule **schedule)
{
    if (schedule == NULL || *schedule == NULL)
        return;
    pldi_free((*schedule)->start);
    pldi_free((*schedule)->actions);
    pldi_free((*schedule)->rank_of);
    pldi_free(*schedule);
    *schedule = NULL;
}
