/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file ckpt_hdf5.h
 * All that polder asks of libhdf5: files for other programs to read.  polder
 * itself reads by the manifest.
 *
 * libhdf5 builds them in memory (a memfd, `memory` below) and never meets a disk:
 * after a failed write it neither closes its file nor ends quietly.  Data are not
 * in memory; they are holes there, and polder writes them to the file itself.
 * `path` is for sentences.
 *
 * libhdf5 may have been built without locks, and its error printing is a setting
 * of the whole thread or process.  So every function here takes one lock of the
 * process (ranks may be threads), keeps libhdf5 quiet, and gives the setting back.
 * They are called by the thread that called polder, never by one of polder's.
 */
#ifndef PLDI_CKPT_HDF5_H
#define PLDI_CKPT_HDF5_H

#include "ckpt/ckpt_manifest.h"

/** A compressed shard being written. */
struct ckpt_h5;

/**
 * Make a shard whose data sets are contiguous and not yet written, and note in
 * part->blocks where the bytes of each block go.  IO, NOMEM.
 */
int pldi_ckpt_h5_layout(int memory, const char *path, struct ckpt_manifest *part);

/** Make a shard of chunked data sets; `part` must outlive it.  IO, NOMEM. */
int pldi_ckpt_h5_begin(int memory, const char *path, struct ckpt_manifest *part,
                       struct ckpt_h5 **out);

/**
 * Find a chunk its place and note it in its block, which has bytes and form
 * already.  What is written is a hole again when this returns.  IO.
 */
int pldi_ckpt_h5_chunk(struct ckpt_h5 *h, const struct ckpt_box *box, uint64_t index,
                       const void *data);

/** Close, also after an error, which is `code`.  Returns code, or IO. */
int pldi_ckpt_h5_end(struct ckpt_h5 **h, int code);

/** Make the index: every tensor as a virtual data set over the shards.  IO, NOMEM. */
int pldi_ckpt_h5_index(int memory, const char *path, const struct ckpt_manifest *m);

#endif /* PLDI_CKPT_HDF5_H */
