/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/ckpt.h
 * Checkpoints: sharded HDF5 files that any layout of ranks can load.
 *
 * A run directory holds one directory per save, step-00000012, with
 *   s-<uuid>-<rank>.h5  shards: the tensors of one writing rank, plain HDF5
 *   index.h5            every tensor as one virtual data set over the shards
 *   manifest.pldm       what must be there, with hashes; what polder itself reads
 *   manifest.json       the same for people
 * and LATEST, a text naming the newest save.  doc/checkpoint-format.md is normative.
 *
 * A save is written to a hidden directory, flushed, and renamed: a kill at any
 * instant leaves the old or the new one, never half of one.  Values, optimizer
 * state and whatever was added with pld_ckpt_add_state() come back on any
 * dp x pp (x tp) layout that registers the same tensor names.
 */
#ifndef POLDER_CKPT_H
#define POLDER_CKPT_H

#include <stddef.h>
#include <stdint.h>

#include <polder/export.h>
#include <polder/mesh.h>
#include <polder/params.h>
#include <polder/site.h>

PLD_BEGIN_DECLS

/** Saving to and loading from one run directory. */
typedef struct pld_ckpt pld_ckpt;

/** How shards store tensors. */
typedef enum {
    PLD_CKPT_RAW = 0, /**< contiguous; fastest to write and to read in part */
    PLD_CKPT_ZSTD = 1 /**< chunked, byte shuffle + zstd (registered HDF5 filter 32015) */
} pld_ckpt_codec;

/** NULL or all zero: the defaults. */
typedef struct {
    size_t struct_size; /**< sizeof(pld_ckpt_opts); required */
    pld_ckpt_codec codec;
    /** Newest complete saves to keep; older ones are removed after a save.  Newest is what was
     *  saved last, whatever its step.  0: all. */
    int keep;
    /** 1: pld_ckpt_save() returns once it is clear what is saved, and a thread copies and writes
     *  it; see there.  0: it returns when everything is on the disk. */
    int async;
    /** Of pinned memory, through which tensors of a GPU pass: its pieces and their size.
     *  0: 4 pieces of 32 MiB. */
    int ring_segments;
    size_t ring_bytes;
} pld_ckpt_opts;

/**
 * Open a run directory, creating it if needed.  Collective over the mesh.
 * PLD_ERR_IO (cannot create or write it), PLD_ERR_ARG, PLD_ERR_NOMEM.
 *
 * Remains of interrupted saves are removed, unless some job is saving to the
 * directory at this moment (a lock file tells, where files can be locked; where
 * not, remains stay).  A save that was written and flushed whole, but not yet
 * renamed when its job died, is put in place instead.
 *
 * @param directory  the same path on all ranks, on a file system that all see; copied
 */
PLD_API int pld_ckpt_open(pld_mesh *mesh, const char *directory, const pld_ckpt_opts *opts,
                          pld_ckpt **out);

/**
 * Save and load the values of committed params and all the optimizer state that
 * they have at that time.  Local.  PLD_ERR_STATE: not committed, or this checkpoint
 * has params already; PLD_ERR_ARG.
 */
PLD_API int pld_ckpt_add_params(pld_ckpt *ckpt, pld_params *params);

/**
 * Save and load a few bytes that are the same on all ranks: counters, seeds,
 * data position.  Local; PLD_ERR_ARG (also: key taken), PLD_ERR_NOMEM.
 *
 * @param key    unique; see PLD_MAX_NAME
 * @param value  [bytes]; read at save, written at load; must outlive `ckpt`
 * @param bytes  1 .. 2^20
 */
PLD_API int pld_ckpt_add_state(pld_ckpt *ckpt, const char *key, void *value, size_t bytes);

/** A number that later saves record for people and tools, e.g. "loss"; that of rank 0 is
 *  saved.  Local; PLD_ERR_ARG (also: the key of a text), PLD_ERR_NOMEM. */
PLD_API int pld_ckpt_set_number(pld_ckpt *ckpt, const char *key, double value);

/** The same for a text, e.g. "model" or a git revision; fewer than 2^15 bytes.  Local;
 *  PLD_ERR_ARG (also: the key of a number), PLD_ERR_NOMEM. */
PLD_API int pld_ckpt_set_text(pld_ckpt *ckpt, const char *key, const char *value);

/**
 * Save as `step`.  A save of the same step that is already complete is replaced.
 *
 * - Collective over the mesh.  Returns when everything is on the disk, unless `async`.
 * - Ranks that hold the same tensors divide the writing; every byte is stored once.
 * - HDF5 is called by one thread at a time, with `async` by another than the caller's; a
 *   program whose libhdf5 is not thread safe must not use it meanwhile.
 * - Tensors of a GPU are read after the work that is in the stream of pld_params_set_stream(),
 *   on a stream beside it, through a ring of pinned memory into host memory as large as this
 *   rank's share (kept for the next save), and written from there.  The call waits for the
 *   last pld_optim_step() on the device, whose number is saved.
 * - With `async` the tensors are first copied to host memory, on a GPU as above.  Meanwhile they
 *   must not be changed but by polder: pld_optim_step(), pld_params_sync(), pld_optim_destroy()
 *   and a pld_ckpt_load() through another pld_ckpt wait for the copy,
 *   on a GPU by their stream, and the host until the last copy is in its stream.  States, numbers
 *   and texts are those of the call.  The save becomes visible, its errors are told, and older
 *   ones are removed when next one of pld_ckpt_wait(), pld_ckpt_test(), pld_ckpt_save() and
 *   pld_ckpt_load() is called.  A save that finds the one before it failed returns its error
 *   and begins nothing.
 * - Errors: PLD_ERR_IO (full disk, no permission, failed flush: file and reason
 *   named), PLD_ERR_MISMATCH (ranks pass different steps or codecs, a state is not
 *   the same on all ranks, replicas have different optimizer state, or the boxes
 *   of a tensor overlap or leave some of it out), PLD_ERR_STATE (the params' stream is
 *   recorded into a CUDA graph on a rank), PLD_ERR_ARG, PLD_ERR_NOMEM,
 *   PLD_ERR_TRANSPORT.  Older saves are untouched.  The new one is gone, unless only
 *   the last flush or the text LATEST failed.
 *
 * @param step  >= 0
 */
PLD_API int pld_ckpt_save(pld_ckpt *ckpt, int64_t step);

/** Wait for the save that is under way, if any, and put it in place.  Collective over the mesh;
 *  errors as pld_ckpt_save(). */
PLD_API int pld_ckpt_wait(pld_ckpt *ckpt);

/** As pld_ckpt_wait() if all ranks have written what they save (*done = 1); else *done = 0 and 0
 *  is returned.  Without a save under way *done = 1.  Collective over the mesh. */
PLD_API int pld_ckpt_test(pld_ckpt *ckpt, int *done);

/**
 * Load values, optimizer state and state entries.
 *
 * - Collective over the mesh.
 * - On a GPU all of this rank's tensors pass through host memory at once; they are in place when
 *   the call returns.
 * - Every byte that is used is checked against the manifest's hashes.
 * - Tensors, slots and states of the checkpoint and of the program must be the
 *   same ones, with one exception: if the params have no optimizer state at all,
 *   the checkpoint's is passed over and the weights alone are loaded.
 * - Errors: PLD_ERR_NOTFOUND (no such checkpoint; with "latest" in a directory
 *   without any complete one: 0 is returned, *out_step = -1 and nothing changes),
 *   PLD_ERR_CORRUPT (which file is missing, short or altered),
 *   PLD_ERR_MISMATCH (a tensor is missing, left over, or has another shape or
 *   dtype: the checkpoint is of another model), PLD_ERR_IO (also, with "latest": a save cannot be
 *   read now that may be the newest), PLD_ERR_STATE as above.  After an error while tensors are
 *   read, values are undefined.
 *
 * @param which     "latest": the newest complete save of the directory, that is, the one saved
 *                  last; else the path of a checkpoint (RUN/step-00000012) or of a run directory
 *                  (its newest); rank 0's counts
 * @param out_step  receives the step it was saved as; may be NULL
 */
PLD_API int pld_ckpt_load(pld_ckpt *ckpt, const char *which, int64_t *out_step);

/** Local.  A save that is under way is lost: pld_ckpt_wait() comes first; and the params later. */
PLD_API void pld_ckpt_destroy(pld_ckpt **ckpt);

PLD_END_DECLS

/* The calls note where they are made; see <polder/site.h>. */
#ifndef PLD_NO_SITES
#define pld_ckpt_open(first, ...) pld_ckpt_open(PLD_HERE(first), __VA_ARGS__)
#define pld_ckpt_save(first, ...) pld_ckpt_save(PLD_HERE(first), __VA_ARGS__)
#define pld_ckpt_wait(...) pld_ckpt_wait(PLD_HERE(__VA_ARGS__))
#define pld_ckpt_test(first, ...) pld_ckpt_test(PLD_HERE(first), __VA_ARGS__)
#define pld_ckpt_load(first, ...) pld_ckpt_load(PLD_HERE(first), __VA_ARGS__)
#endif

#endif /* POLDER_CKPT_H */
