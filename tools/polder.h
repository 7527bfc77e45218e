/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder.h
 * The command `polder`: what its subcommands share.  Each one is a file,
 * polder_NAME.c, that defines a struct command and stands in the table of polder.c.
 */
#ifndef TOOLS_POLDER_H
#define TOOLS_POLDER_H

#include <stddef.h>
#include <stdint.h>

/** Exit statuses; part of the interface, see polder(1). */
enum {
    STATUS_OK = 0,
    STATUS_BAD = 1,  /**< what was looked at is damaged, incomplete, or cannot be read */
    STATUS_USAGE = 2 /**< the command line makes no sense */
};

/** A subcommand. */
struct command {
    const char *name;
    const char *summary; /**< one line for polder --help */
    const char *help;    /**< what polder help NAME prints */
    /** @param argv  what follows the name, NULL at the end.  @return exit status */
    int (*run)(char **argv);
};

extern const struct command command_inspect, command_trace, command_bench, command_doctor;

/** Say on stderr, in one line "polder: ...", what is wrong, and return `status`. */
int complain(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** Buffer for format_size(). */
enum { SIZE_TEXT = 24 };

/** "17 B", "1.5 KiB", "43.5 MiB", ...: at most 10 characters. */
const char *format_size(uint64_t bytes, char text[SIZE_TEXT]);

/** Print text from a file with everything replaced that could move a terminal's cursor. */
void print_clean(const char *text);

/** As above, then spaces until at least `columns` were printed. */
void print_padded(const char *text, int columns);

/** Looks for people; nothing is sent unless stdout is a terminal and NO_COLOR is unset. */
enum style { STYLE_PLAIN, STYLE_HEADING, STYLE_GOOD, STYLE_BAD };
void set_style(enum style style);

/** Columns that a text takes on a terminal: characters of UTF-8 count as one. */
int text_columns(const char *text);

#endif /* TOOLS_POLDER_H */
