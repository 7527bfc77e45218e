/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file schedule.h  The table behind polder/schedule.h and what its parts share. */
#ifndef PLDI_SCHEDULE_H
#define PLDI_SCHEDULE_H

#include <stddef.h>
#include <stdint.h>

#include <polder/schedule.h>

enum {
    PLDI_MAX_STAGES = 4096, /* also the most ranks */
    PLDI_MAX_MICROBATCHES = 1 << 20,
    PLDI_ACTION_KINDS = 6,
    PLDI_COMPUTE_KINDS = 2,
    PLDI_ACTION_TEXT = 32 /* bytes that hold any action's text */
};

/** All lists in one array: rank r has actions[start[r]] up to actions[start[r + 1]]. */
struct pld_schedule {
    int ranks;
    int stages;
    int microbatches;
    int has_messages;
    size_t *start;       /* [ranks + 1] */
    pld_action *actions; /* [start[ranks]]; an index into it is called a position */
    int *rank_of;        /* [stages] */
};

/** What the parts need to know about a kind; a new kind is a new row of the table. */
struct pldi_action_info {
    const char *name;
    int is_message;
    int is_send;
    int peer;                /* messages: the other stage minus this one */
    pld_action_kind partner; /* messages: what the other end does */
    pld_action_kind compute; /* messages: who produces or consumes it on this stage */
    int live;                /* change of the number of live microbatches */
};

/** `kind` must be one of the PLD_ACTION_* constants. */
const struct pldi_action_info *pldi_action_info(pld_action_kind kind);

/** The action's text form, written to and returned as `text`. */
const char *pldi_action_text(const pld_action *action, char text[PLDI_ACTION_TEXT]);

/** Empty lists for `total` actions; the caller fills start and actions, then calls seal. */
int pldi_schedule_new(int ranks, int stages, int microbatches, size_t total, pld_schedule **out);

/** Derive rank_of (a stage without action gets -1) and has_messages from the lists. */
void pldi_schedule_seal(pld_schedule *schedule);

/** Whether the data between two neighbouring stages has to travel. */
int pldi_schedule_is_edge(const pld_schedule *schedule, int stage, int other);

/** Fingerprint of everything that pld_schedule_format() shows. */
uint64_t pldi_schedule_hash(const pld_schedule *schedule);

/** Where each (kind, stage, microbatch) is. */
struct pldi_index {
    int stages;
    int microbatches;
    size_t *at; /* position + 1; 0: nowhere */
};

/** Size for all kinds the schedule uses, all "nowhere". */
int pldi_index_open(const pld_schedule *schedule, struct pldi_index *out);
void pldi_index_close(struct pldi_index *index);
size_t *pldi_index_slot(const struct pldi_index *index, pld_action_kind kind, int stage, int mb);
/** Enter all actions.  Each (kind, stage, microbatch) must be in range; the last one wins. */
void pldi_index_fill(const pld_schedule *schedule, struct pldi_index *index);

/** An execution in which messages overlap with computation and are never refused. */
struct pldi_run {
    double *begin; /* [positions] */
    double *end;   /* [positions]; negative: never reached */
    size_t *next;  /* [ranks] position at which the rank stopped; start[rank + 1]: at its end */
};

/**
 * Execute.  The index must be complete: every F and B, and with messages both ends of each.
 * A schedule that cannot finish is no error here: see next.
 */
int pldi_run_open(const pld_schedule *schedule, const struct pldi_index *index,
                  const pld_schedule_costs *costs, struct pldi_run *out);
void pldi_run_close(struct pldi_run *run);

/** Most that an action can wait for. */
enum { PLDI_MAX_NEEDS = 2 };

/** What must have ended before `action` can begin, besides what its own list puts before it. */
int pldi_action_needs(const pld_schedule *schedule, const pld_action *action,
                      pld_action needs[PLDI_MAX_NEEDS]);

/** Text to a table that has not been validated. */
int pldi_schedule_read(const char *text, pld_schedule **out);

#endif /* PLDI_SCHEDULE_H */
