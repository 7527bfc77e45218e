/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file ckpt_impl.h  The inside of pld_ckpt, for lib/ckpt alone. */
#ifndef PLDI_CKPT_IMPL_H
#define PLDI_CKPT_IMPL_H

#include <polder/ckpt.h>

#include "ckpt/ckpt_file.h"
#include "ckpt/ckpt_manifest.h"

#include "params/params.h"

enum {
    CKPT_MAX_THREADS = 16,
    CKPT_MAX_STATE = 1 << 20,
    CKPT_MAX_TEXT = 1 << 15,
    CKPT_MAX_SEGMENTS = 64
};

/** What the caller added: a state (value is the caller's), number or text (value is ours). */
struct ckpt_item {
    char key[PLD_MAX_NAME];
    int kind; /* as in the manifest */
    void *value;
    size_t bytes;
    double number;
};

struct pld_ckpt {
    pld_mesh *mesh;
    pld_group *world; /* of our own: its messages meet nobody else's */
    char *directory;
    pld_ckpt_opts opts;
    pld_params *params; /* NULL: none added */
    struct ckpt_item *items;
    int item_count, item_capacity;
    int threads;                    /* that this rank may use */
    struct ckpt_snapshot *snapshot; /* NULL: not needed so far */
    struct ckpt_save *running;      /* the same on all ranks: one is under way, or NULL */
    char host[72];
};

/** One stored tensor or part of one, before it is written. */
struct ckpt_piece {
    const char *name, *slot;
    pld_dtype dtype;
    const pld_param_info *info;
    struct pldi_box box;
    const void *data;
};

/** What this rank writes. */
struct ckpt_share {
    struct ckpt_manifest part;     /* one shard, or nothing at all */
    const void **data;             /* per box */
    char (*slots)[PLDI_SLOT_NAME]; /* per box: its own, for the optimizer may go meanwhile */
    pld_param_info *infos;         /* per tensor of the params */
    uint64_t print;                /* hash of all that the replicas must have in common */
};

/** Divide what this rank and its replicas hold, and take this rank's share.  NOMEM. */
int pldi_ckpt_share(const pld_ckpt *c, struct ckpt_share *out);
void pldi_ckpt_share_free(struct ckpt_share *share);

/**
 * A copy of a share in host memory.  open: what all saves need, once; reserve: memory for this
 * share, and the order after the params' stream.  From then on until release() whoever changes
 * the params waits for take(), which makes the copy, on any thread, and leads share->data there.
 * NOMEM, DEVMEM, DEVICE.
 */
int pldi_ckpt_snapshot_open(pld_ckpt *c);
void pldi_ckpt_snapshot_close(pld_ckpt *c);
int pldi_ckpt_snapshot_reserve(struct ckpt_snapshot *snapshot, const struct ckpt_share *share);
int pldi_ckpt_snapshot_take(struct ckpt_snapshot *snapshot, struct ckpt_share *share);
void pldi_ckpt_snapshot_release(struct ckpt_snapshot *snapshot);

/** Put the save that is under way in place.  Collective. */
int pldi_ckpt_complete(pld_ckpt *c);
/** Forget it, without a word to others. */
void pldi_ckpt_abandon(pld_ckpt *c);

/** The box of a rank's tensor. */
struct pldi_box pldi_ckpt_box_of(const pld_param_info *info);

/** Write this rank's shard and flush it; completes share->part.  IO, NOMEM. */
int pldi_ckpt_write_shard(const pld_ckpt *c, struct ckpt_share *share, const char *path);

/** One save, on the rank that commits it. */
struct ckpt_commit {
    const pld_ckpt *c;
    int64_t step;
    char *part, *final; /* directories */
    int lock;           /* descriptor; -1: none */
    int made;           /* the part directory is there */
    int placed;         /* it has become the final one */
};

/** Take the lock, choose uuid and time, and make the directory.  IO. */
int pldi_ckpt_commit_begin(const pld_ckpt *c, int64_t step, struct ckpt_manifest *out,
                           struct ckpt_commit *commit);

/** Write index, JSON and manifest, and put the save in place.  IO, NOMEM, CORRUPT. */
int pldi_ckpt_commit(struct ckpt_commit *commit, struct ckpt_manifest *m);

/** Give the lock back; a save that is not in place is removed. */
void pldi_ckpt_commit_end(struct ckpt_commit *commit);

/** Join the ranks' reports (their bytes; NULL: none) into *out.  MISMATCH, NOMEM. */
int pldi_ckpt_merge(struct ckpt_manifest *reports, int count, struct ckpt_manifest *out);

/** The text of manifest.json; free with pldi_free().  NULL: no memory, sentence set. */
char *pldi_ckpt_json(const struct ckpt_manifest *m);

/** Name of the directory of a save. */
void pldi_ckpt_step_name(int64_t step, char out[32]);

/** 32 hexadecimal digits. */
void pldi_ckpt_uuid_text(const unsigned char uuid[CKPT_UUID_BYTES], char out[33]);

/** A save in a run directory. */
struct ckpt_found {
    char *path;
    int64_t step;
    int64_t time; /* INT64_MIN: its manifest does not tell */
    int unread;   /* errno, if that is because it could not be read */
};

/** The saves of a run directory by ascending step.  NOTFOUND, IO, NOMEM. */
int pldi_ckpt_list(const char *directory, struct ckpt_found **out, size_t *count);
void pldi_ckpt_list_free(struct ckpt_found *found, size_t count);
/** Newest first, by time; those of unknown time last. */
void pldi_ckpt_list_by_time(struct ckpt_found *found, size_t count);

/** Read a checkpoint's manifest.  NOTFOUND, CORRUPT, UNSUPPORTED, IO, NOMEM. */
int pldi_ckpt_read_manifest(const char *path, struct ckpt_manifest *out);

/** Are all shards there with the right size?  CORRUPT names the first that is not. */
int pldi_ckpt_check_shards(const char *path, const struct ckpt_manifest *m);

/** Both: is the checkpoint complete, as far as can be told without reading its tensors? */
int pldi_ckpt_check(const char *path);

/** Which checkpoint is meant?  *out_path NULL (and 0): "latest", and there is none.
 *  NOTFOUND, CORRUPT, IO, NOMEM. */
int pldi_ckpt_resolve(const pld_ckpt *c, const char *which, char **out_path);

/** Remove or finish what interrupted saves left, unless somebody is saving. */
void pldi_ckpt_clean(const char *directory);

/** Open and lock the run's lock file: exclusively without waiting, or shared.  -1: not to be had.
 */
int pldi_ckpt_lock(const char *directory, int exclusive);

/** Remove the saves beyond the `keep` newest complete ones. */
void pldi_ckpt_retain(const char *directory, int keep);

/** Rename to a name that nobody looks for, then remove. */
void pldi_ckpt_discard(const char *directory, const char *path);

/**
 * Run work(context, 0) on this thread and 1 .. threads-1 on others, as many as
 * can be had.  The code and sentence of the lowest that failed.
 */
int pldi_ckpt_parallel(int threads, int (*work)(void *context, int thread), void *context);

/**
 * What is saved besides tensors: the states (the caller's, then the params'), and
 * behind them the numbers and texts.  Values belong to their owners.  NOMEM.
 *
 * @param states  receives how many are states
 */
int pldi_ckpt_entries(const pld_ckpt *c, struct ckpt_entry **out, uint32_t *states,
                      uint32_t *count);

/** The same with keys and values of their own; one block, free with pldi_free(). */
int pldi_ckpt_entries_copy(const pld_ckpt *c, struct ckpt_entry **out, uint32_t *states,
                           uint32_t *count);

#endif /* PLDI_CKPT_IMPL_H */
