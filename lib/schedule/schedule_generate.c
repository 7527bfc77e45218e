/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The generators.  Both kinds are the same three phases with a different
 * number w of warm-up forwards:
 *
 *     w forwards | (M - w) x (forward, backward) | w backwards
 *
 * GPipe is w = M.  1F1B takes the shortest w that never lets a stage wait for a
 * gradient it could have had: the distance to the last stage.  Backwards
 * ascend, as the bits of accumulated gradients depend on their order.
 */

#include "schedule/schedule.h"

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_opts.h"

/* What a caller built against 0.1 passes.  Stays 24 when the struct grows. */
enum { OPTS_SIZE_0_1 = 24 };
_Static_assert(sizeof(pld_schedule_opts) == OPTS_SIZE_0_1, "padding, or ABI");

static int warmup_1f1b(int to_last, int microbatches)
{
    return to_last < microbatches ? to_last : microbatches;
}

static int warmup_gpipe(int to_last, int microbatches)
{
    (void)to_last;
    return microbatches;
}

static const struct {
    const char *name;
    int (*warmup)(int to_last, int microbatches);
} kinds[] = {
    [PLD_SCHEDULE_1F1B] = {"1f1b", warmup_1f1b},
    [PLD_SCHEDULE_GPIPE] = {"gpipe", warmup_gpipe},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

const char *pld_schedule_kind_name(pld_schedule_kind kind)
{
    return (unsigned)kind < KINDS ? kinds[kind].name : "?";
}

int pld_schedule_kind_find(const char *name, pld_schedule_kind *out)
{
    char known[128] = "";

    PLDI_CHECK_ARG(name != NULL && out != NULL);
    for (int kind = 0; kind < KINDS; kind++) {
        const size_t used = strlen(known);

        if (strcmp(name, kinds[kind].name) == 0) {
            *out = (pld_schedule_kind)kind;
            return PLD_OK;
        }
        (void)snprintf(known + used, sizeof(known) - used, "%s%s", used > 0 ? ", " : "",
                       kinds[kind].name);
    }
    return pldi_fail(PLD_ERR_ARG, "unknown schedule \"%.40s\"; known are: %s", name, known);
}

static int check_opts(const pld_schedule_opts *o)
{
    if ((unsigned)o->kind >= KINDS)
        return pldi_fail(PLD_ERR_ARG, "unknown schedule kind %d", (int)o->kind);
    if (o->reserved != 0)
        return pldi_fail(PLD_ERR_ARG, "reserved is %d, need 0", o->reserved);
    if (o->ranks < 1 || o->ranks > PLDI_MAX_STAGES)
        return pldi_fail(PLD_ERR_ARG, "ranks is %d, need 1..%d", o->ranks, PLDI_MAX_STAGES);
    if (o->microbatches < 1 || o->microbatches > PLDI_MAX_MICROBATCHES)
        return pldi_fail(PLD_ERR_ARG, "microbatches is %d, need 1..%d", o->microbatches,
                         PLDI_MAX_MICROBATCHES);
    return PLD_OK;
}

static void fill(pld_action *action, int stage, int warmup, int microbatches)
{
    int forward = 0;
    int backward = 0;

    while (forward < warmup)
        *action++ = (pld_action){PLD_ACTION_F, stage, forward++};
    while (forward < microbatches) {
        *action++ = (pld_action){PLD_ACTION_F, stage, forward++};
        *action++ = (pld_action){PLD_ACTION_B, stage, backward++};
    }
    while (backward < microbatches)
        *action++ = (pld_action){PLD_ACTION_B, stage, backward++};
}

int pld_schedule_create(const pld_schedule_opts *opts, pld_schedule **out)
{
    pld_schedule_opts o;
    pld_schedule *s;
    size_t length;

    PLDI_CHECK_ARG(opts != NULL && out != NULL);
    PLDI_TRY(pldi_opts_copy(&o, sizeof(o), opts, OPTS_SIZE_0_1));
    PLDI_TRY(check_opts(&o));

    length = 2 * (size_t)o.microbatches;
    PLDI_TRY(pldi_schedule_new(o.ranks, o.ranks, o.microbatches, length * (size_t)o.ranks, &s));
    for (int rank = 0; rank < o.ranks; rank++) {
        s->start[rank + 1] = s->start[rank] + length;
        fill(s->actions + s->start[rank], rank,
             kinds[o.kind].warmup(o.ranks - 1 - rank, o.microbatches), o.microbatches);
    }
    pldi_schedule_seal(s);
    *out = s;
    return PLD_OK;
}
