/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file fake_nccl.h
 * NCCL without a GPU: libnccl.so.2 with every function of cuda/nccl_api.h, over the fake
 * CUDA driver.
 *
 * Ranks are processes or threads; they meet in a file in /dev/shm (or TMPDIR) that is
 * unlinked when all are there.  Operations are done in stream order by the driver's thread, with
 * the arithmetic of NCCL's rings: every addition is rounded to the data's type.
 *
 * Environment
 *   FAKE_NCCL_VERSION=22809   functions and rules go by it.  libnccl.so.2 in the folder old/
 *                             is one of 2.20.5, which lacks ncclCommRevoke; that in bare/ also
 *                             lacks ncclCommSplit, ncclCommRegister and ncclMemAlloc.
 *   FAKE_NCCL_SLOTS=n         operations that a device does at a time, default 1.  Which is next
 *                             is the host's order with NCCL_LAUNCH_ORDER_IMPLICIT=1 from 2.26
 *                             on; else whichever is ready first in its stream, so that
 *                             operations of several communicators which nothing orders deadlock.
 *   NCCL_HOSTID, NCCL_MULTI_RANK_GPU_ENABLE=1 (2.30.3): as NCCL, else two ranks on one GPU are a
 *                             "Duplicate GPU".
 *   FAKE_NCCL_FAULT=list      see fake_fault.h.  @RANK is the rank in the communicator, N counts
 *                             in each communicator from 1, CODE is a ncclResult_t:
 *     progress:N              a call of a non-blocking communicator is over at the N+1st question
 *                             with ncclCommGetAsyncError, and until then launches nothing; N is 1
 *                             by default, since NCCL launches from a thread of its own
 *     async:N[:CODE]          the N-th operation (a group is one) fails with CODE (2), which only
 *                             ncclCommGetAsyncError tells; other ranks: ncclRemoteError, later
 *     hang:N                  it never ends but by abort
 *     delay:TIME              every operation waits that long on the device
 *     init_hang, split_hang, finalize_hang     never done
 *     init_error[:CODE], split_error[:CODE]    fails after the call returned (5)
 *     id_error[:CODE]         ncclGetUniqueId (2)
 *     enqueue:N[:CODE]        the N-th operation's call fails at once (3)
 *     register:N[:CODE]       ncclCommRegister (2)
 *     abort_waits             ncclCommAbort waits for operations of other communicators that run
 *                             on the device and are not being aborted, as NCCL's may
 *     dwell:TIME              each call takes that long, for tests of threads that overlap
 *
 * Wrong use is ncclInvalidUsage with a sentence in ncclGetLastError(): two threads
 * in calls of one communicator, a call while the last one is in progress, abort while another
 * thread is in a call, destroy with work outstanding, more after finalize or revoke.
 * Memory that a device cannot reach is ncclInvalidArgument.
 * The handle of a part is written when the split is over, also of a rank without color.  With
 * splitShare, whoever shares resources with a communicator that is aborted is unusable.
 * A send is not over before its receive; counts that differ between ranks hang or mix up data.
 */
#ifndef FAKE_NCCL_H
#define FAKE_NCCL_H

#include "cuda/nccl_api.h"
#include "fake_cuda.h"

#define FAKE_NCCL_DECLARE(name, symbol, arguments) FAKE_EXPORT int symbol arguments;
PLDI_NCCL_FUNCTIONS(FAKE_NCCL_DECLARE)
PLDI_NCCL_OPTIONAL(FAKE_NCCL_DECLARE)
#undef FAKE_NCCL_DECLARE

FAKE_EXPORT const char *ncclGetErrorString(int code);
FAKE_EXPORT const char *ncclGetLastError(pldi_nccl_comm comm);

/** Calls of that function so far; ULONG_MAX for one that is not here. */
FAKE_EXPORT unsigned long fake_nccl_calls(const char *symbol);

/** Communicators that were neither destroyed nor aborted. */
FAKE_EXPORT unsigned long fake_nccl_live(void);

/**
 * Memory, in the process: "registered": buffers that are now; "dropped": that went with their
 * communicator, so far; "stale": that were freed before they were deregistered, so far;
 * "allocated": bytes of ncclMemAlloc() now.  ULONG_MAX for anything else.
 */
FAKE_EXPORT unsigned long fake_nccl_memory(const char *what);

/** Instead of FAKE_NCCL_FAULT; counts go on. */
FAKE_EXPORT void fake_nccl_fault(const char *list);

#endif /* FAKE_NCCL_H */
