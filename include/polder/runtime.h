/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/runtime.h
 * Joining a process to the job, and leaving it.
 *
 * Words
 * - *rank*: one process of the job, numbered from 0 (with the "inproc"
 *   transport of the tests: one thread).
 * - *local*: the call concerns this rank alone.
 * - *collective over X*: every rank of X makes the call, in the same order
 *   relative to the other collective calls over X; all get the same code.
 *
 * Rules for every header of polder
 * - Errors: 0, or a negative PLD_ERR_* code; then outputs are unchanged and
 *   pld_last_error() has one sentence of detail.  PLD_ERR_ARG always means a
 *   null pointer or a value outside its documented range.
 * - The library never prints, exits or aborts.
 * - Threads: a handle is used by one thread at a time.
 * - Destroy functions take the address of the handle, set it to NULL, accept
 *   NULL, are local and cannot fail.
 */
#ifndef POLDER_RUNTIME_H
#define POLDER_RUNTIME_H

#include <stddef.h>

#include <polder/coll.h>
#include <polder/device.h>
#include <polder/export.h>

PLD_BEGIN_DECLS

/** This process's membership of the job.  At most one may be open. */
typedef struct pld_runtime pld_runtime;

/** How to join.  NULL or all zero: MPI_COMM_WORLD. */
typedef struct {
    size_t struct_size; /**< sizeof(pld_runtime_opts); required */
    /** "mpi" (also when started without mpirun: one rank) or "self" (one rank, MPI is never
     *  touched).  NULL: environment POLDER_TRANSPORT, else "mpi". */
    const char *transport;
    /** Fortran handle of the communicator to join (MPI_Comm_c2f(), or what a Fortran program
     *  has); read if `use_comm` is 1.  It is duplicated; the caller's stays the caller's.
     *  <polder/interop_mpi.h> fills both fields from an MPI_Comm. */
    int comm;
    int use_comm; /**< 0: MPI_COMM_WORLD; 1: `comm` */
    /** What to do when a deadline has passed, see below: PLD_TIMEOUT_DEFAULT (environment
     *  POLDER_ON_TIMEOUT=return|abort, else return), _RETURN or _ABORT. */
    int on_timeout;
    int check; /**< 1: as POLDER_CHECK=sync, see below; 0: as the environment says */
    /** Seconds from the call of an operation to its end, more than the longest that a rank
     *  lets others wait.  0: environment POLDER_TIMEOUT (where 0 is none), else 300; negative:
     *  none.  See pld_runtime_set_timeout(). */
    double timeout;
    /** Folder for the recorder's files (see <polder/trace.h>), made if it is not there.  NULL:
     *  environment POLDER_TRACE_DIR, else none. */
    const char *trace_dir;
    /** Called once per job, on one rank, with the report of a deadline that passed, before any
     *  rank gets an error; and on every rank, once, when it gives the job up, before it gets
     *  the error or is killed.  Both may be called by a thread of the library, also while
     *  pld_runtime_close() waits for other ranks, and must not call it.  NULL: not called. */
    void (*report)(const char *text, void *context);
    void (*give_up)(int code, void *context);
    void *context; /**< passed to both */
    /** Where tensors are: "cpu"; "cuda": this rank's GPU, or it is an error; "auto": the GPU,
     *  or the host if any rank has none, see pld_runtime_device_note().  "cuda:PCI-ID" asks for
     *  a certain one.  NULL: environment POLDER_DEVICE, else "cpu".  But for "cpu", variables
     *  of NCCL are set that the environment has not (doc/cuda.md): as always with setenv(), no
     *  other thread may read the environment meanwhile. */
    const char *device;
} pld_runtime_opts;

/** What becomes of a process whose job is given up. */
enum {
    PLD_TIMEOUT_DEFAULT = 0,
    PLD_TIMEOUT_RETURN = 1, /**< calls return PLD_ERR_TIMEOUT */
    PLD_TIMEOUT_ABORT = 2   /**< it ends itself by SIGKILL, so that mpirun or srun ends the job */
};

/**
 * Join the job.  MPI is initialised (MPI_Init_thread, MPI_THREAD_SERIALIZED
 * wanted) only if nobody did so before; only then will close finalise it.
 *
 * - Collective over the communicator.  Waits for the other ranks until the deadline, see below.
 * - Non-blocking operations are moved on by a thread of the library's own where
 *   that is allowed: MPI was initialised here and is MPI_THREAD_SERIALIZED, or
 *   is MPI_THREAD_MULTIPLE.  In the first case the program must not call MPI
 *   itself while requests are open.  Elsewhere, and with environment
 *   POLDER_COMM_THREAD=0, they move on inside calls of this library alone.
 * - Nothing hangs: an operation that another rank does not come to ends with an
 *   error.  A rank that ended, or closed its runtime, is noticed within a second by
 *   the ranks of its node, whose operations with it are PLD_ERR_PEER.  Otherwise,
 *   when an operation has not ended within the deadline, one rank makes a report: who
 *   waits where, who is elsewhere, who never came and what that process is doing.
 *   Then every operation of every rank, under way or to come, is PLD_ERR_TIMEOUT,
 *   with the beginning of the report in pld_last_error(), all of it in
 *   pld_runtime_report() and in report.txt of the trace folder.  Time during which
 *   the whole process was stopped does not count.
 * - POLDER_CHECK=sync: pld_send() and pld_recv() tell each other first what they are
 *   about to do; a difference in count or type is PLD_ERR_MISMATCH on both.  For
 *   finding errors: it costs a message time, and counts if any rank has it set.
 *   Collective operations always do so.
 * - Errors: PLD_ERR_ARG, PLD_ERR_IO (trace folder), PLD_ERR_UNSUPPORTED (unknown or not built
 *   transport; "cuda" without plugin, driver or GPU; POLDER_DEVICE_PATH=nccl without NCCL),
 *   PLD_ERR_DEVICE, PLD_ERR_DEVMEM, PLD_ERR_STATE (a runtime is already open, or MPI is
 *   finalised), PLD_ERR_TRANSPORT, PLD_ERR_NOMEM, PLD_ERR_PEER and PLD_ERR_TIMEOUT (ranks did
 *   not come, or ended on the way; MPI is then not finalised).
 *
 * @param opts  may be NULL; not kept
 * @param out   receives the runtime; give it back to pld_runtime_close()
 */
PLD_API int pld_runtime_open(const pld_runtime_opts *opts, pld_runtime **out);

/**
 * Leave the job and set `*runtime` to NULL.  Every object made from it must
 * have been destroyed.  Collective.
 *
 * - PLD_ERR_STATE: operations are under way (nothing happened, *runtime stays),
 *   or MPI was finalised before (*runtime is closed all the same).
 * - PLD_ERR_TRANSPORT: closed, but MPI reported an error.
 * - PLD_ERR_PEER: closed; but as ranks are gone, or the job was given up, and MPI was
 *   initialised here, it is not finalised, for that would wait for them.
 */
PLD_API int pld_runtime_close(pld_runtime **runtime);

/** This process's rank, 0 .. size-1.  Local, never fails. */
PLD_API int pld_runtime_rank(const pld_runtime *runtime);

/** Ranks in the job.  Local, never fails. */
PLD_API int pld_runtime_size(const pld_runtime *runtime);

/** Rank among the ranks of this node, and how many those are.  Local, never fails. */
PLD_API int pld_runtime_local_rank(const pld_runtime *runtime);
PLD_API int pld_runtime_local_size(const pld_runtime *runtime);

/** The group of all ranks; owned by the runtime.  Local, never fails. */
PLD_API pld_group *pld_runtime_world(pld_runtime *runtime);

/**
 * The GPU of this rank, or NULL: none was asked for, or "auto" found that a rank has none.
 * The ranks of a node are dealt out to the GPUs that they see, in turn, each to one near
 * its processors.  Owned by the runtime.  Local, never fails.
 */
PLD_API pld_device *pld_runtime_device(pld_runtime *runtime);

/**
 * Why "auto" has taken the host, one sentence that names the lowest rank without a GPU; or
 * "".  With a GPU: why device memory goes through pinned memory of the host instead of NCCL, or
 * "".  Belongs to the runtime.  Local, never fails.
 */
PLD_API const char *pld_runtime_device_note(const pld_runtime *runtime);

/**
 * The report of a deadline that passed, or "".  Belongs to the runtime.  Local, never fails.
 */
PLD_API const char *pld_runtime_report(const pld_runtime *runtime);

/**
 * Another deadline from here on, also for operations under way: a long one while programs
 * load data and compile, a short one once all ranks are in step.  Local; all ranks should
 * call it, with the same value, for the first rank whose deadline passes gives up the job.
 *
 * @param timeout  seconds, as in pld_runtime_opts
 * @return PLD_ERR_ARG: no such time
 */
PLD_API int pld_runtime_set_timeout(pld_runtime *runtime, double timeout);

PLD_END_DECLS

#endif /* POLDER_RUNTIME_H */
