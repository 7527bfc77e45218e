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
    const char *name;
    double number; /**< printed so that it reads back exactly; NaN and infinities as null */
    int64_t integer;
    int is_integer;
    int reserved;
} pld_metric;

/** Where to. */
typedef struct {
    size_t struct_size; /**< sizeof(pld_meter_opts); required */
    const char *path;   /**< JSON-lines file, or NULL; copied */
    int progress_fd;    /**< file descriptor for the progress line plus 1; 0: none */
    int append;         /**< 1: keep what the file has; 0: start it anew */
    double
        min_interval; /**< least seconds between progress updates; 0: 0.1 on a terminal, 5 else */
} pld_meter_opts;

/** PLD_ERR_IO, PLD_ERR_NOMEM, PLD_ERR_ARG. */
PLD_API int pld_meter_open(const pld_meter_opts *opts, pld_meter **out);

/** Write one JSON object on one line and hand it to the system.  PLD_ERR_IO (full disk). */
PLD_API int pld_meter_log(pld_meter *meter, const pld_metric *metrics, size_t count);

/**
 * Show progress: on a terminal the last line is redrawn with a bar and the time
 * left, else a plain line is written, at most every `min_interval`.  The first and
 * the last (done == total) are always shown.
 *
 * @param text  what else to show, e.g. "loss 2.31  1210 tok/s"; one line
 */
PLD_API int pld_meter_progress(pld_meter *meter, int64_t done, int64_t total, const char *text);

/** Ends a progress line with a newline.  Local. */
PLD_API void pld_meter_close(pld_meter **meter);

/** Seconds on a clock that never jumps; for measuring.  Never fails. */
PLD_API double pld_clock(void);

PLD_END_DECLS

#endif /* POLDER_METER_H */
