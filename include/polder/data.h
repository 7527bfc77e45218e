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
    /** llm.c token files: 256 little-endian int32 of header (magic 20240520 and version 1, or
     *  20240801 and 7; then the number of tokens), then the tokens as u16 or u32. */
    PLD_DATA_LLMC = 1
} pld_data_format;

/** In which order samples come. */
typedef enum {
    /** Sample g is a window of length+1 tokens within one file, its start drawn from (seed, g)
     *  evenly over all such windows of all files. */
    PLD_DATA_SHUFFLED = 0,
    /** File by file, in blocks of batch*length tokens, a block being the next `batch` samples:
     *  sample g of a file begins at its token g*length.  What is left of a file when it is too
     *  short for a block and the one target after it is left out; after the last file
     *  the first follows.  With `batch` = the sequences of the global batch, step s is what
     *  llm.c's data loader, not shuffling, reads in its step s.  (llm.c refuses a file
     *  without any block; here it is passed over.) */
    PLD_DATA_SEQUENTIAL = 1
} pld_data_order;

/** What to open. */
typedef struct {
    size_t struct_size; /**< sizeof(pld_data_opts); required */
    /** [path_count] files, glob patterns, or directories (all regular files below; hidden ones
     *  left out, links to directories not followed).  Read in the order given, those of one
     *  pattern or directory in the order of their names as bytes; a file named twice is read
     *  twice.  A name that exists is never taken for a pattern.  Copied. */
    const char *const *paths;
    size_t path_count; /**< >= 1 */
    uint64_t seed;
    int64_t length; /**< tokens per sample, >= 1; one more is returned, see pld_data_sample() */
    int64_t batch;  /**< sequential order: samples per block, see there.  0: 1 */
    pld_data_format format;
    pld_data_order order;
} pld_data_opts;

/**
 * Open and check the files; they must stay as they are while the source is
 * open.  Collective over `group`, all ranks with equal options (but paths may
 * differ, as on node-local disks, if the files do not).
 *
 * @return 0; PLD_ERR_NOTFOUND (no such file, no match, no file in a directory);
 *         PLD_ERR_IO (no permission); PLD_ERR_CORRUPT (bad magic, or truncated:
 *         file, bytes expected and found); PLD_ERR_ARG (also: no file is long
 *         enough for one sample or block); PLD_ERR_MISMATCH (ranks pass different
 *         options, or see files that differ in name, size or first 4 KiB: the first
 *         one that does is named); PLD_ERR_NOMEM; PLD_ERR_PEER, PLD_ERR_TRANSPORT
 */
PLD_API int pld_data_open(pld_group *group, const pld_data_opts *opts, pld_data **out);

/** Tokens in all files.  Local, never fails. */
PLD_API int64_t pld_data_tokens(const pld_data *data);

/** Samples per pass over the files: sequential order, exactly; shuffled, tokens/length.
 *  Local, never fails. */
PLD_API int64_t pld_data_epoch(const pld_data *data);

/** Files that are read.  Local, never fails. */
PLD_API size_t pld_data_files(const pld_data *data);

/**
 * Tokens of a sample: inputs out[0..length-1], targets out[1..length].
 * Local; any number of threads may call it at once.
 *
 * @param sample  >= 0
 * @param out     [length+1]; undefined after an error
 * @return 0; PLD_ERR_ARG; PLD_ERR_IO (the file cannot be read any more);
 *         PLD_ERR_CORRUPT (it has changed its size, or a token is 2^31 or more)
 */
PLD_API int pld_data_sample(const pld_data *data, int64_t sample, int32_t *out);

/** Local. */
PLD_API void pld_data_close(pld_data **data);

PLD_END_DECLS

#endif /* POLDER_DATA_H */
