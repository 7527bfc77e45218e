/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/trace.h
 * Reading what the recorder wrote.
 *
 * Every process of a job notes its last 4096 operations in a ring of fixed-size
 * records.  With POLDER_TRACE_DIR (or pld_runtime_opts.trace_dir) the ring of rank 3
 * is DIR/rank-00003.trace, mapped: what was written is there after any end of the
 * process, kill -9 included.  A directory is for one job: files of an earlier one
 * are replaced.  Without, the ring is memory that the node's other ranks can read,
 * and is gone with the last of them.
 *
 * All functions are local and need no runtime.  `polder trace` is made of them.
 */
#ifndef POLDER_TRACE_H
#define POLDER_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include <polder/export.h>

PLD_BEGIN_DECLS

/** A ring, as it was when it was read. */
typedef struct pld_trace pld_trace;

/** Whose ring it is. */
typedef struct {
    int rank, size;
    int64_t pid;
    char host[72];
    uint64_t job;         /**< the same number in all files of a job */
    int64_t clock_offset; /**< ns to add to this file's times to get rank 0's clock */
    int64_t wall_offset;  /**< ns to add to rank 0's clock to get Unix time */
    uint64_t recorded;    /**< operations so far, those no longer in the ring included */
    int64_t left;         /**< ns when it called pld_runtime_close(); 0: never */
} pld_trace_info;

/** One operation. */
typedef struct {
    uint64_t number;   /**< of this record in its ring, from 1 */
    int64_t called;    /**< ns on the clock of the file */
    int64_t started;   /**< all ranks had come; 0: not yet */
    int64_t ended;     /**< 0: not yet */
    uint64_t sequence; /**< of collective operations in their group, from 0 */
    uint64_t count;
    uint64_t chain; /**< hash of all collective operations of the group up to this one */
    uint64_t group; /**< the same number on all ranks of a group */
    int group_size;
    int root; /**< -1: has none */
    int peer; /**< of a message; -1: it is none */
    int tag;  /**< of a message */
    int code; /**< with which it ended */
    int thread;
    char group_name[24];
    char kind[24];  /**< "allreduce" */
    char dtype[8];  /**< "" if it has no data */
    char reduce[8]; /**< "sum"; "" if it does not reduce */
    char site[64];  /**< "train.c:231" */
    char name[48];  /**< the caller's tag */
} pld_trace_record;

/**
 * Read a file.  PLD_ERR_IO, PLD_ERR_CORRUPT (no trace, or cut short),
 * PLD_ERR_UNSUPPORTED (of another version), PLD_ERR_NOMEM.
 * @param out  give it back to pld_trace_destroy()
 */
PLD_API int pld_trace_open(const char *path, pld_trace **out);

/** Never fails. */
PLD_API void pld_trace_get_info(const pld_trace *trace, pld_trace_info *out);

/** Records in the ring.  Never fails. */
PLD_API size_t pld_trace_count(const pld_trace *trace);

/** Record i, oldest first; PLD_ERR_ARG. */
PLD_API int pld_trace_get(const pld_trace *trace, size_t i, pld_trace_record *out);

PLD_API void pld_trace_destroy(pld_trace **trace);

PLD_END_DECLS

#endif /* POLDER_TRACE_H */
