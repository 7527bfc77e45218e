/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file data.h  What the parts of a data source share; see polder/data.h. */
#ifndef PLDI_DATA_H
#define PLDI_DATA_H

#include <stddef.h>
#include <stdint.h>

#include <polder/data.h>

/** Growing list of file names. */
struct pldi_name_list {
    char **names;
    size_t *given_bytes; /**< of each name, how much the caller's path makes up */
    size_t count;
    size_t room;
};

/** All files that `path` stands for, in order, appended to the list.  Local. */
int pldi_data_expand(struct pldi_name_list *list, const char *path);
void pldi_data_free_names(struct pldi_name_list *list);

/** One file of tokens. */
struct pldi_data_file {
    const char *name;
    int64_t bytes;        /**< its size when it was opened */
    int64_t header_bytes; /**< before the first token */
    int64_t tokens;
    uint64_t print; /**< hash of its name below the caller's path and of its first bytes */
    int width;      /**< bytes of a token: 1, 2 or 4 */
};

/**
 * Look at a file: fill everything but `name`, which is set.
 * @param short_name  the name as other ranks may see it, too
 */
int pldi_data_check_file(struct pldi_data_file *file, const char *short_name,
                         pld_data_format format);

/** Keeps the files that were read last open; any thread. */
struct pldi_data_reader;
int pldi_data_reader_create(const struct pldi_data_file *files, struct pldi_data_reader **out);
void pldi_data_reader_destroy(struct pldi_data_reader **reader);

/** Tokens first .. first+count-1 of file `index`.  PLD_ERR_IO, PLD_ERR_CORRUPT. */
int pldi_data_read(struct pldi_data_reader *reader, size_t index, int64_t first, int64_t count,
                   int32_t *out);

struct pld_data {
    pld_data_opts opts; /**< without the paths; batch >= 1 */
    struct pldi_name_list names;
    struct pldi_data_file *files; /**< [count] */
    int64_t *first; /**< [count+1] number of the first place of each file, then of all places */
    size_t count;
    int64_t tokens;
    struct pldi_data_reader *reader;
};

/** pld_data_open() as far as it concerns this rank alone. */
int pldi_data_create(const pld_data_opts *opts, pld_data **out);

#endif /* PLDI_DATA_H */
