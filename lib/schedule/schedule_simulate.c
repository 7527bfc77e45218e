/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Timing.  The lists fix the order on each rank and the needs fix the order
 * between ranks, so every begin and end is determined whatever order the ranks
 * are visited in: a stack holds the ranks that may have become able to go on,
 * each runs until it has to wait, and whoever finishes something wakes the
 * owners of the neighbouring stages.  That is linear in the number of actions.
 *
 * A message leaves when its SEND is reached.  RECV is the permission to
 * receive: it costs and delays nothing, its consumer waits for the arrival.
 */

#include "schedule/schedule.h"

#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_opts.h"

#include <math.h>

enum { COSTS_SIZE_0_1 = 32 };
_Static_assert(sizeof(pld_schedule_costs) == COSTS_SIZE_0_1, "padding, or ABI");

int pldi_action_needs(const pld_schedule *schedule, const pld_action *action,
                      pld_action needs[PLDI_MAX_NEEDS])
{
    const struct pldi_action_info *info = pldi_action_info(action->kind);
    const int forward = action->kind == PLD_ACTION_F;
    const int from = action->stage + (forward ? -1 : 1);
    const int m = action->microbatch;
    int count = 0;

    if (info->is_message) {
        if (info->is_send)
            needs[count++] = (pld_action){info->compute, action->stage, m};
        return count;
    }
    if (!forward)
        needs[count++] = (pld_action){PLD_ACTION_F, action->stage, m};
    if (from < 0 || from >= schedule->stages)
        return count;
    needs[count] = (pld_action){action->kind, from, m};
    if (schedule->has_messages && pldi_schedule_is_edge(schedule, action->stage, from))
        needs[count].kind = forward ? PLD_ACTION_SEND_F : PLD_ACTION_SEND_B;
    return count + 1;
}

struct state {
    const pld_schedule *schedule;
    const struct pldi_index *index;
    const pld_schedule_costs *costs;
    struct pldi_run *run;
    double *clock; /* [ranks] when the rank is free */
    int *stack;    /* [ranks] ranks to visit */
    char *stacked; /* [ranks] */
    int depth;
};

static void wake(struct state *st, int stage)
{
    int rank;

    if (stage < 0 || stage >= st->schedule->stages)
        return;
    rank = st->schedule->rank_of[stage];
    if (rank < 0 || st->stacked[rank])
        return;
    st->stacked[rank] = 1;
    st->stack[st->depth++] = rank;
}

static double duration(const pld_schedule_costs *costs, pld_action_kind kind)
{
    if (pldi_action_info(kind)->is_message)
        return 0.0;
    return kind == PLD_ACTION_F ? costs->forward : costs->backward;
}

/* Earliest time at which all that an action needs is there; negative: not known yet. */
static double ready_at(const struct state *st, const pld_action *action)
{
    pld_action needs[PLDI_MAX_NEEDS];
    const int count = pldi_action_needs(st->schedule, action, needs);
    double ready = 0.0;

    for (int i = 0; i < count; i++) {
        const size_t slot =
            *pldi_index_slot(st->index, needs[i].kind, needs[i].stage, needs[i].microbatch);
        double at = slot == 0 ? -1.0 : st->run->end[slot - 1];

        if (at < 0.0)
            return -1.0;
        if (pldi_schedule_is_edge(st->schedule, action->stage, needs[i].stage))
            at += st->costs->message;
        ready = at > ready ? at : ready;
    }
    return ready;
}

static void advance(struct state *st, int rank)
{
    const pld_schedule *s = st->schedule;
    size_t *next = &st->run->next[rank];

    for (; *next < s->start[rank + 1]; ++*next) {
        const pld_action *a = &s->actions[*next];
        const double ready = ready_at(st, a);

        if (ready < 0.0)
            return;
        st->run->begin[*next] = ready > st->clock[rank] ? ready : st->clock[rank];
        st->clock[rank] = st->run->begin[*next] + duration(st->costs, a->kind);
        st->run->end[*next] = st->clock[rank];
        wake(st, a->stage - 1);
        wake(st, a->stage + 1);
    }
}

static void execute(struct state *st)
{
    const pld_schedule *s = st->schedule;

    for (size_t i = 0; i < s->start[s->ranks]; i++)
        st->run->end[i] = -1.0;
    for (int rank = 0; rank < s->ranks; rank++)
        st->run->next[rank] = s->start[rank];
    for (int stage = s->stages - 1; stage >= 0; stage--)
        wake(st, stage);
    while (st->depth > 0) {
        const int rank = st->stack[--st->depth];

        st->stacked[rank] = 0;
        advance(st, rank);
    }
}

int pldi_run_open(const pld_schedule *schedule, const struct pldi_index *index,
                  const pld_schedule_costs *costs, struct pldi_run *out)
{
    const size_t ranks = (size_t)schedule->ranks;
    const size_t total = schedule->start[ranks];
    struct pldi_run run = {
        .begin = pldi_alloc(total, sizeof(double), "a simulation"),
        .end = pldi_alloc(total, sizeof(double), "a simulation"),
        .next = pldi_alloc(ranks, sizeof(size_t), "a simulation"),
    };
    struct state st = {
        .schedule = schedule,
        .index = index,
        .costs = costs,
        .run = &run,
        .clock = pldi_alloc(ranks, sizeof(double), "a simulation"),
        .stack = pldi_alloc(ranks, sizeof(int), "a simulation"),
        .stacked = pldi_alloc(ranks, 1, "a simulation"),
    };
    int rc = PLD_ERR_NOMEM;

    if (run.begin != NULL && run.end != NULL && run.next != NULL && st.clock != NULL &&
        st.stack != NULL && st.stacked != NULL) {
        execute(&st);
        *out = run;
        rc = PLD_OK;
    } else {
        pldi_run_close(&run);
    }
    pldi_free(st.clock);
    pldi_free(st.stack);
    pldi_free(st.stacked);
    return rc;
}

void pldi_run_close(struct pldi_run *run)
{
    pldi_free(run->begin);
    pldi_free(run->end);
    pldi_free(run->next);
    *run = (struct pldi_run){0};
}

static void summarise(const pld_schedule *s, const struct pldi_run *run,
                      const pld_schedule_costs *costs, pld_schedule_report *out)
{
    pld_schedule_report r = {0};
    double least_busy = INFINITY;

    for (int rank = 0; rank < s->ranks; rank++) {
        const int live = pld_schedule_peak_live(s, rank);
        double busy = 0.0;

        for (size_t i = s->start[rank]; i < s->start[rank + 1]; i++) {
            busy += duration(costs, s->actions[i].kind);
            r.makespan = fmax(r.makespan, run->end[i]);
        }
        least_busy = fmin(least_busy, busy);
        r.peak_live = live > r.peak_live ? live : r.peak_live;
    }
    r.bubble = r.makespan - least_busy;
    r.bubble_share = r.bubble / r.makespan;
    *out = r;
}

static int check_costs(const pld_schedule_costs *c)
{
    if (!(c->forward > 0.0 && isfinite(c->forward)))
        return pldi_fail(PLD_ERR_ARG, "forward takes %g s, need more than 0", c->forward);
    if (!(c->backward > 0.0 && isfinite(c->backward)))
        return pldi_fail(PLD_ERR_ARG, "backward takes %g s, need more than 0", c->backward);
    if (!(c->message >= 0.0 && isfinite(c->message)))
        return pldi_fail(PLD_ERR_ARG, "a message takes %g s, need 0 or more", c->message);
    return PLD_OK;
}

int pld_schedule_simulate(const pld_schedule *schedule, const pld_schedule_costs *costs,
                          pld_schedule_report *out)
{
    pld_schedule_costs c;
    struct pldi_index index;
    struct pldi_run run;
    int rc;

    PLDI_CHECK_ARG(schedule != NULL && costs != NULL && out != NULL);
    PLDI_TRY(pldi_opts_copy(&c, sizeof(c), costs, COSTS_SIZE_0_1));
    PLDI_TRY(check_costs(&c));
    PLDI_TRY(pldi_index_open(schedule, &index));
    pldi_index_fill(schedule, &index);
    rc = pldi_run_open(schedule, &index, &c, &run);
    pldi_index_close(&index);
    if (rc < 0)
        return rc;
    summarise(schedule, &run, &c, out);
    pldi_run_close(&run);
    return PLD_OK;
}
