/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/meter.h
 * Metrics as JSON lines, and a progress line for people.  Local; usually on
 * rank 0 alone.
 */
#ifndef POLDER_METER_H
#define POLDER_METER_H

#include <stddef.h>
#include <stdint.h>

#include <polder/export.h>

PLD_BEGIN_DECLS

/** A sink of metrics. */
typedef struct pld_meter pld_meter;

/** One value of a record: an integer if `is_integer`, else a number. */
typedef struct {
    const char *name; /**< UTF-8, not empty, unique within the record */
    double number;    /**< in the fewest digits that read back exactly; NaN, infinities as null */
    int64_t integer;
    int is_integer;
    int reserved;
} pld_metric;

/** Where to.  NULL or all zero: nowhere, for ranks that do not report. */
typedef struct {
    size_t struct_size;  /**< sizeof(pld_meter_opts); required */
    const char *path;    /**< JSON-lines file, created if needed, or NULL; copied */
    int progress_fd;     /**< file descriptor for the progress line plus 1; 0: none.  Not closed */
    int append;          /**< 1: keep what the file has; 0: start it anew */
    double min_interval; /**< least seconds between progress lines; 0: 0.1 on a terminal, 5 else */
} pld_meter_opts;

/**
 * Open the file and look at the descriptor.  Local; PLD_ERR_IO (file and reason
 * named), PLD_ERR_NOMEM, PLD_ERR_ARG.
 */
PLD_API int pld_meter_open(const pld_meter_opts *opts, pld_meter **out);

/**
 * Write one JSON object on one line and hand it to the system: a killed process
 * loses nothing.  Local.
 *
 * @param metrics  [count], in the order of the line
 * @return 0; PLD_ERR_ARG (a name is empty, used twice or no UTF-8); PLD_ERR_NOMEM;
 *         PLD_ERR_IO (e.g. full disk): of this line the file then holds nothing
 */
PLD_API int pld_meter_log(pld_meter *meter, const pld_metric *metrics, size_t count);

/**
 * Show progress: on a terminal the last line is redrawn with a bar and the time
 * left, never wider than the terminal is now; else a plain line is written; at most
 * every `min_interval`.  The first and the last (done == total) are always shown.
 * A terminal is a tty that has a size, with TERM set and not "dumb": under Open MPI's
 * mpirun that is so if mpirun itself writes to a terminal and not into a file.  Local.
 *
 * @param done   0 .. total; the time left follows from the pace since the first call
 * @param total  >= 1
 * @param text   what else to show, e.g. "loss 2.31  1210 tok/s"; one line of UTF-8, cut at the
 *               terminal's edge, control characters become spaces; may be NULL
 * @return 0, PLD_ERR_ARG, PLD_ERR_NOMEM, PLD_ERR_IO (the descriptor cannot be written)
 */
PLD_API int pld_meter_progress(pld_meter *meter, int64_t done, int64_t total, const char *text);

/** Ends a progress line with a newline, closes the file.  Local. */
PLD_API void pld_meter_close(pld_meter **meter);

/** Seconds on a clock that never jumps; for measuring.  Never fails. */
PLD_API double pld_clock(void);

PLD_END_DECLS

#endif /* POLDER_METER_H */
