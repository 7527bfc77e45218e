/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/schedule.h
 * Pipeline schedules: which microbatch each stage works on, in which order.
 *
 * A schedule is a table of actions, one list per pipeline rank, nothing more.
 * It holds no communicator, no device and no clock: everything here is local,
 * gives the same answer on every rank and may be used before MPI_Init().
 *
 * Words
 * - *stage*: a piece of the model; stage 0 holds its input.  Stage s is
 *   executed by one rank of the pipeline axis.
 * - *microbatch*: one slice of the global batch, numbered from 0.
 * - *live*: forwarded but not yet backwarded, hence its activations are kept.
 * - *bubble*: makespan minus the busy time of a rank.  Its share is bubble over
 *   makespan; some texts divide by the busy time instead.
 *
 * Text form: one line per rank, actions separated by commas, an action being
 * <stage><kind><microbatch>: "2F0", "2B0", "1SEND_F3", "2RECV_F3".  SEND_F of
 * stage s carries its output to stage s+1, where it is RECV_F; SEND_B of stage s
 * carries the gradient of its input to stage s-1, where it is RECV_B.  This is
 * the CSV language of torch.distributed.pipelining; files are exchangeable.
 *
 * Errors: as in polder/runtime.h.  A schedule never changes once created; any
 * number of threads may read it.
 */
#ifndef POLDER_SCHEDULE_H
#define POLDER_SCHEDULE_H

#include <stddef.h>
#include <stdint.h>

#include <polder/export.h>

PLD_BEGIN_DECLS

/** An immutable schedule. */
typedef struct pld_schedule pld_schedule;

/** Generators. */
typedef enum {
    PLD_SCHEDULE_1F1B = 0, /**< default; at most `ranks` microbatches live */
    PLD_SCHEDULE_GPIPE = 1 /**< all forwards, then all backwards; all live */
} pld_schedule_kind;

/** What an action does. */
typedef enum {
    PLD_ACTION_F = 0,      /**< forward */
    PLD_ACTION_B = 1,      /**< backward, gradients of input and weights */
    PLD_ACTION_SEND_F = 2, /**< send the output of F to the next stage */
    PLD_ACTION_RECV_F = 3, /**< receive the input of F from the previous stage */
    PLD_ACTION_SEND_B = 4, /**< send the input gradient of B to the previous stage */
    PLD_ACTION_RECV_B = 5  /**< receive the output gradient for B from the next stage */
} pld_action_kind;

/** One entry of a rank's list. */
typedef struct {
    pld_action_kind kind;
    int stage;
    int microbatch;
} pld_action;

/** What to generate. */
typedef struct {
    size_t struct_size;     /**< sizeof(pld_schedule_opts); required */
    pld_schedule_kind kind; /**< default PLD_SCHEDULE_1F1B */
    int ranks;              /**< pipeline ranks = stages, 1 .. 4096; required */
    int microbatches;       /**< per optimizer step, 1 .. 2^20; required */
    int reserved;           /**< leave 0 */
} pld_schedule_opts;

/** Durations for the simulator; seconds, >= 0, forward and backward > 0. */
typedef struct {
    size_t struct_size; /**< sizeof(pld_schedule_costs); required */
    double forward;     /**< one F */
    double backward;    /**< one B */
    double message;     /**< from the departure of a message until its consumer may start */
} pld_schedule_costs;

/** What the simulator saw. */
typedef struct {
    double makespan;     /**< start of the first to the end of the last action */
    double bubble;       /**< largest over ranks of makespan minus busy time */
    double bubble_share; /**< bubble / makespan */
    int peak_live;       /**< pld_schedule_peak_live(), largest over ranks */
    int reserved;
} pld_schedule_report;

/** "1f1b", "gpipe".  Local, never fails ("?" if unknown). */
PLD_API const char *pld_schedule_kind_name(pld_schedule_kind kind);

/** Kind by name.  PLD_ERR_ARG, and the sentence lists the known names. */
PLD_API int pld_schedule_kind_find(const char *name, pld_schedule_kind *out);

/**
 * Generate a compute-only schedule (F and B).  Time and memory
 * O(ranks * microbatches).  @return 0, PLD_ERR_ARG, PLD_ERR_NOMEM
 */
PLD_API int pld_schedule_create(const pld_schedule_opts *opts, pld_schedule **out);

/**
 * Read the text form; the inverse of pld_schedule_format().  Blank lines and
 * lines starting with '#' are skipped, lines may end in CR LF, and empty cells,
 * which stand for idle steps, are dropped.  Stages and microbatches are counted
 * from what is there.  The result has been validated.
 * @return 0; PLD_ERR_ARG, with line and action (from 1) named if the text is at fault, as from
 *         pld_schedule_validate() if its meaning is; PLD_ERR_NOMEM
 */
PLD_API int pld_schedule_parse(const char *text, pld_schedule **out);

/**
 * Add the messages: a schedule of F and B becomes one that also holds SEND and
 * RECV actions where neighbouring stages are on different ranks.  All lists are
 * projections of one global sequence of events, in the order of a simulation in
 * which a backward takes twice as long as a forward and messages take no time,
 * so they cannot deadlock even if sends and receives block and nothing is
 * buffered.
 * @return 0; PLD_ERR_ARG: has messages already; PLD_ERR_NOMEM
 */
PLD_API int pld_schedule_lower(const pld_schedule *schedule, pld_schedule **out);

/**
 * Check that the table can be executed and means what it should: stages in
 * range and each on one rank; each (stage, microbatch) exactly one F and one B;
 * dependencies can progress; with messages: each one sent and received exactly
 * once, between the right stages, in the same order at both ends of a channel,
 * and no deadlock when sends and receives block.  doc/schedules.md lists the
 * checks; the sentence begins with the name of the one that failed.
 * @return 0; PLD_ERR_ARG with rank, action number (from 0) and action; PLD_ERR_NOMEM
 */
PLD_API int pld_schedule_validate(const pld_schedule *schedule);

/**
 * Time the schedule: actions of a rank run in order, one at a time, each as soon
 * as its inputs are there; messages overlap with computation.  SEND and RECV
 * actions take no time of their own: a message leaves when its SEND is reached,
 * without SEND actions when its producer ends.
 * @return 0, PLD_ERR_ARG, PLD_ERR_NOMEM
 */
PLD_API int pld_schedule_simulate(const pld_schedule *schedule, const pld_schedule_costs *costs,
                                  pld_schedule_report *out);

/** Numbers of pipeline ranks, stages and microbatches.  Never fail. */
PLD_API int pld_schedule_ranks(const pld_schedule *schedule);
PLD_API int pld_schedule_stages(const pld_schedule *schedule);
PLD_API int pld_schedule_microbatches(const pld_schedule *schedule);

/** Rank that executes a stage; -1 if `stage` is out of range. */
PLD_API int pld_schedule_rank_of(const pld_schedule *schedule, int stage);

/** Actions in a rank's list; 0 if `rank` is out of range. */
PLD_API size_t pld_schedule_length(const pld_schedule *schedule, int rank);

/** A rank's actions in execution order, [length]; owned by the schedule; NULL if out of range. */
PLD_API const pld_action *pld_schedule_actions(const pld_schedule *schedule, int rank);

/** Most microbatches ever live at once on a rank, each counted once for every stage of the rank
 *  where it is live; -1 if out of range.  O(length). */
PLD_API int pld_schedule_peak_live(const pld_schedule *schedule, int rank);

/**
 * Write the text form.
 * @param out    [bytes], receives at most bytes-1 characters and a NUL; NULL if bytes is 0
 * @return       the length of the whole text, as snprintf does
 */
PLD_API size_t pld_schedule_format(const pld_schedule *schedule, char *out, size_t bytes);

/** Free `*schedule` and set it to NULL.  Does nothing if it already is NULL. */
PLD_API void pld_schedule_destroy(pld_schedule **schedule);

PLD_END_DECLS

#endif /* POLDER_SCHEDULE_H */
