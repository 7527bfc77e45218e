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
} pld_runtime_opts;

/**
 * Join the job.  MPI is initialised (MPI_Init_thread, MPI_THREAD_SERIALIZED
 * wanted) only if nobody did so before; only then will close finalise it.
 *
 * - Collective over the communicator.
 * - Non-blocking operations are moved on by a thread of the library's own where
 *   that is allowed: MPI was initialised here and is MPI_THREAD_SERIALIZED, or
 *   is MPI_THREAD_MULTIPLE.  In the first case the program must not call MPI
 *   itself while requests are open.  Elsewhere, and with environment
 *   POLDER_COMM_THREAD=0, they move on inside calls of this library alone.
 * - Errors: PLD_ERR_ARG, PLD_ERR_UNSUPPORTED (unknown or not built transport),
 *   PLD_ERR_STATE (a runtime is already open, or MPI is finalised),
 *   PLD_ERR_TRANSPORT, PLD_ERR_NOMEM.
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

PLD_END_DECLS

#endif /* POLDER_RUNTIME_H */
