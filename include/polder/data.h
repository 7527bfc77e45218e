/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/data.h
 * Training sequences from text or token files.
 *
 * Sample g of a source is a pure function of (files, seed, g): whichever rank
 * asks gets the same tokens, and a run continues on any layout from one
 * number, the samples consumed so far.  With a global batch of B sequences, step s
 * consists of samples s*B .. s*B+B-1.
 */
#ifndef POLDER_DATA_H
#define POLDER_DATA_H

#include <stddef.h>
#include <stdint.h>

#include <polder/coll.h>
#include <polder/export.h>

PLD_BEGIN_DECLS

/** An opened source. */
typedef struct pld_data pld_data;

/** What the files hold. */
typedef enum {
    PLD_DATA_TEXT = 0, /**< any files; a token is a byte */
    PLD_DATA_LLMC = 1  /**< llm.c token files: magic 20240520 (u16) or 20240801 (u32) */
} pld_data_format;

/** In which order samples come. */
typedef enum {
    /** Sample g is a window at a position drawn from (seed, g), within one file. */
    PLD_DATA_SHUFFLED = 0,
    /** Sample g begins at token g*length of the files in name order, as llm.c reads them; a
     *  file's tail that is too short is left out; after the last file the first follows. */
    PLD_DATA_SEQUENTIAL = 1
} pld_data_order;

/** What to open. */
typedef struct {
    size_t struct_size; /**< sizeof(pld_data_opts); required */
    /** [path_count] files, glob patterns, or directories (all regular files below, in name
     *  order; hidden ones left out). */
    const char *const *paths;
    size_t path_count; /**< >= 1 */
    uint64_t seed;
    int64_t length; /**< tokens per sample, >= 1; one more is returned, see pld_data_sample() */
    pld_data_format format;
    pld_data_order order;
} pld_data_opts;

/**
 * Open and check the files.  Collective over `group`; PLD_ERR_NOTFOUND,
 * PLD_ERR_IO, PLD_ERR_CORRUPT (bad magic, truncated: file, bytes expected and
 * found), PLD_ERR_ARG (no file holds length+1 tokens), PLD_ERR_MISMATCH (ranks see
 * different files), PLD_ERR_NOMEM.
 */
PLD_API int pld_data_open(pld_group *group, const pld_data_opts *opts, pld_data **out);

/** Tokens in all files.  Local, never fails. */
PLD_API int64_t pld_data_tokens(const pld_data *data);

/** Samples per pass over the files (sequential order), or tokens/length.  Local, never fails. */
PLD_API int64_t pld_data_epoch(const pld_data *data);

/** Files that are read.  Local, never fails. */
PLD_API size_t pld_data_files(const pld_data *data);

/**
 * Tokens of a sample: inputs out[0..length-1], targets out[1..length].
 * Local, any thread.
 *
 * @param sample  >= 0
 * @param out     [length+1]
 * @return 0 or PLD_ERR_ARG
 */
PLD_API int pld_data_sample(const pld_data *data, int64_t sample, int32_t *out);

/** Local. */
PLD_API void pld_data_close(pld_data **data);

PLD_END_DECLS

#endif /* POLDER_DATA_H */
