/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/inspect.h
 * Looking into checkpoints without loading them and without MPI.
 *
 * Everything here is local to the calling process and reads files only.
 * Strings belong to the handle they came from.
 */
#ifndef POLDER_INSPECT_H
#define POLDER_INSPECT_H

#include <stddef.h>
#include <stdint.h>

#include <polder/dtype.h>
#include <polder/export.h>

PLD_BEGIN_DECLS

/** The saves of a run directory. */
typedef struct pld_run pld_run;

/** One save of a run. */
typedef struct {
    int64_t step;
    const char *path; /**< the checkpoint's directory */
    int complete;     /**< 1: manifest intact, all shards there with the right size */
    int reserved;
    uint64_t bytes;      /**< of all files */
    const char *problem; /**< one sentence if not complete, else "" */
} pld_run_entry;

/** List a run directory, by ascending step.  PLD_ERR_NOTFOUND, PLD_ERR_IO, PLD_ERR_NOMEM. */
PLD_API int pld_run_open(const char *directory, pld_run **out);
/** NULL for an index that is not below the count. */
PLD_API size_t pld_run_count(const pld_run *run);
PLD_API const pld_run_entry *pld_run_at(const pld_run *run, size_t index);
PLD_API void pld_run_close(pld_run **run);

/** One checkpoint, as its manifest describes it. */
typedef struct pld_snapshot pld_snapshot;

/** A tensor of a checkpoint. */
typedef struct {
    const char *name; /**< of the parameter */
    const char *slot; /**< "" for the value itself, else e.g. "exp_avg" */
    int64_t shape[PLD_MAX_DIMS];
    pld_dtype dtype;
    int ndim;
    int boxes; /**< pieces it is stored in */
    int reserved;
    uint64_t bytes;        /**< of the data */
    uint64_t stored_bytes; /**< on disk, after compression */
} pld_snapshot_tensor;

/** A shard file. */
typedef struct {
    const char *name; /**< file name within the checkpoint */
    const char *host; /**< where it was written */
    uint64_t bytes;
    int rank;    /**< that wrote it */
    int present; /**< 1: the file exists with that size */
} pld_snapshot_shard;

/** A state entry (the program's or the params'), number or text: kind 's' (bytes), 'n' (number)
 *  or 't' (text). */
typedef struct {
    const char *key;
    const char *text; /**< kind 't'; else "" */
    double number;    /**< kind 'n'; else 0 */
    uint64_t bytes;   /**< kind 's'; else 0 */
    int kind;
    int reserved;
} pld_snapshot_entry;

/** The save as a whole. */
typedef struct {
    int64_t step;
    int64_t time; /**< when it was saved, seconds since 1970 UTC */
    const char *path;
    const char *uuid;    /**< 32 hexadecimal digits */
    const char *mesh;    /**< e.g. "dp=2,pp=2" */
    const char *version; /**< of polder that wrote it */
    const char *codec;   /**< "raw" or "zstd" */
    uint64_t bytes;      /**< of all files */
    int ranks;
    int format; /**< version of the checkpoint format */
} pld_snapshot_info;

/**
 * Read the manifest of a checkpoint directory.
 * @return 0; PLD_ERR_NOTFOUND (no directory, no manifest), PLD_ERR_CORRUPT (manifest
 *         damaged), PLD_ERR_UNSUPPORTED (newer format), PLD_ERR_IO, PLD_ERR_NOMEM
 */
PLD_API int pld_snapshot_open(const char *path, pld_snapshot **out);
PLD_API void pld_snapshot_info_get(const pld_snapshot *snapshot, pld_snapshot_info *out);

/** Tables; NULL for an index that is not below the count.  Local, never fail. */
PLD_API size_t pld_snapshot_tensors(const pld_snapshot *snapshot);
PLD_API size_t pld_snapshot_shards(const pld_snapshot *snapshot);
PLD_API size_t pld_snapshot_entries(const pld_snapshot *snapshot);
PLD_API const pld_snapshot_tensor *pld_snapshot_tensor_at(const pld_snapshot *s, size_t index);
PLD_API const pld_snapshot_shard *pld_snapshot_shard_at(const pld_snapshot *s, size_t index);
PLD_API const pld_snapshot_entry *pld_snapshot_entry_at(const pld_snapshot *s, size_t index);

/**
 * Read every file whole and compare with the hashes of the manifest.
 * @return 0, or PLD_ERR_CORRUPT / PLD_ERR_IO with the first bad file and tensor named
 */
PLD_API int pld_snapshot_verify(const pld_snapshot *snapshot);

PLD_API void pld_snapshot_close(pld_snapshot **snapshot);

PLD_END_DECLS

#endif /* POLDER_INSPECT_H */
