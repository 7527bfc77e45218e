/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file meter.h  What the parts of the meter share; see polder/meter.h. */
#ifndef PLDI_METER_H
#define PLDI_METER_H

#include <stddef.h>
#include <stdint.h>

#include <polder/meter.h>

/** What a progress line says. */
struct pldi_progress {
    int64_t done;
    int64_t total;
    double elapsed_s; /**< since the first call */
    double left_s;    /**< estimate; negative: unknown */
    const char *text;
};

/** Length of the UTF-8 character at `text`, 1 .. 4, and its code point; 0 if it is malformed. */
size_t pldi_utf8_next(const char *text, uint32_t *code);

/** The record as one line of JSON with its newline, in new memory.  PLD_ERR_ARG, PLD_ERR_NOMEM. */
int pldi_meter_json(const pld_metric *metrics, size_t count, char **out);

/** The shortest decimal that reads back as `number`, "null" if it is not finite. */
enum { PLDI_NUMBER_BYTES = 32 };
void pldi_meter_number(double number, char out[PLDI_NUMBER_BYTES]);

/**
 * A progress line in new memory.  NULL: no memory, sentence set.
 * @param columns  of the terminal; 0: a plain line that ends in a newline
 */
char *pldi_progress_line(const struct pldi_progress *progress, int columns);

#endif /* PLDI_METER_H */
