/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file fake_cuda.h
 * A CUDA driver without a GPU: libcuda.so.1 with every function of cuda/cuda_api.h.
 *
 * Device memory is host memory; streams are queues that one thread of the process works
 * off, never inside the call that filled them, and in an order as unfriendly as their
 * promises allow, so that a missing event shows as wrong data.
 *
 * Environment
 *   FAKE_CUDA_DEVICES=n       GPUs of the node, default 2; CUDA_VISIBLE_DEVICES is respected
 *   FAKE_CUDA_PCI=id,id       their PCI ids; default 0000:1B:00.0, 0000:2B:00.0 ...
 *   FAKE_CUDA_MEMORY=bytes    of each, default 1G; K, M, G
 *   FAKE_CUDA_CAPABILITY=90   FAKE_CUDA_DRIVER=12040
 *   FAKE_CUDA_KERNELS=a.so:b.so   where the kernels are, see fake_kernels.h
 *   FAKE_CUDA_SEED=n          of everything random, default 1; the process's rank is added, so
 *                             that ranks do not agree by chance
 *   FAKE_CUDA_POLICY=p        which stream goes on: random, newest (that was created last),
 *                             oldest, latest (whose next work was enqueued last); default: by
 *                             the seed, modulo 4 in this order, so that four seeds have all.
 *                             Work that waits for other work is tried again after the rest
 *   FAKE_CUDA_DELAY=us        longest pause before work begins, default 200; a host that
 *                             waits ends it.  0: work begins at once
 *   FAKE_CUDA_GUARD=1         device memory can be touched by work in a stream alone; the
 *                             host's first access is SIGSEGV
 *   FAKE_CUDA_ALLOC_WAITS=1   cuMemAlloc and cuMemHostAlloc wait for the device, as they may
 *   FAKE_CUDA_COUNTS=file     write "function calls" lines at exit; %p in it is the process id
 *   FAKE_CUDA_FAULT=list      see fake_fault.h.  Call faults: the n-th such call returns CODE:
 *                               init:CODE            e.g. init:100 (no device), init:803
 *                               alloc:N (2)          cuMemAlloc
 *                               pinned:N (2)         cuMemHostAlloc
 *                               register:N (2)       cuMemHostRegister
 *                               stream:N (2) event:N (2) record:N (400)
 *                               module:N (209)       cuModuleLoadData
 *                               instantiate:N (2)    cuGraphInstantiateWithFlags
 *                             Faults of the device: when the n-th such piece of work has its
 *                             turn, the device is lost and every later call fails with CODE:
 *                               launch:N (700) copy:N (700) fill:N (700)
 *                             Slowness:
 *                               slow:launch:TIME slow:copy:TIME slow:fill:TIME, before each
 *
 * What is caught
 * - Out of bounds by a kernel or copy: pages without access around each allocation, and a
 *   pattern behind its last byte that is compared when it is freed.
 * - Use after free: the addresses of freed memory are never used again.
 * - New memory is full of 0xff, which is NaN in every floating type.
 * - Wrong handles, no current context, and calls that a stream capture forbids, as CUDA does.
 * - cuMemFree and cuMemFreeHost wait for the device, which can deadlock, as CUDA's can.
 *
 * Under capture, streams that join by events are recorded and replayed with their own
 * order; copies that touch pageable memory, and work of other libraries that cannot be done
 * again (collective operations), are refused.
 */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stdbool.h>
#include <stddef.h>

#include "cuda/cuda_api.h"

#define FAKE_EXPORT __attribute__((visibility("default")))

#define FAKE_CUDA_DECLARE(name, symbol, arguments) FAKE_EXPORT int symbol arguments;
PLDI_CU_FUNCTIONS(FAKE_CUDA_DECLARE)
#undef FAKE_CUDA_DECLARE

/** Not called by polder; here so that a test can say so. */
FAKE_EXPORT int cuCtxSynchronize(void);

/**
 * Put work of another library into a stream.
 * @param step     called in the driver's thread, again and again, until it does not return
 *                 0 (not yet) or 2 (not yet, but it got on).  1: done.  < 0: minus the CUresult
 *                 with which the device is lost.  Holds up its own stream alone.
 * @param context  not called for any more once the device is lost; the caller frees it
 * @return a CUresult
 */
FAKE_EXPORT int fake_cuda_enqueue(pldi_cu_stream stream, int (*step)(void *), void *context);

/**
 * The same for work that a capture may note: step() is called once for each launch of its graph,
 * with what the context held when it was put there.
 * @param give_back  called with the context when neither a stream nor a graph has it any more, also
 *                 if the call fails
 */
FAKE_EXPORT int fake_cuda_enqueue_again(pldi_cu_stream stream, int (*step)(void *), void *context,
                                        void (*give_back)(void *));

/** That of fake_cuda_enqueue(), on the device of that ordinal whatever the thread's current one is.
 */
FAKE_EXPORT int fake_cuda_enqueue_on(int device, pldi_cu_stream stream, int (*step)(void *),
                                     void *context);

/** Ordinal of the calling thread's current device; -1 without. */
FAKE_EXPORT int fake_cuda_current(void);

/** PCI id of the device of that ordinal. */
FAKE_EXPORT void fake_cuda_pci(int device, char id[16]);

/** 1: all of it is in one allocation that a device can reach. */
FAKE_EXPORT int fake_cuda_reachable(const void *memory, size_t bytes);

/** Calls of that function so far; ULONG_MAX for one that is not here. */
FAKE_EXPORT unsigned long fake_cuda_calls(const char *symbol);

/** How many there are now: "streams", "events", "modules", "graphs", "device bytes",
 *  "pinned bytes"; what was not given back is a leak. */
FAKE_EXPORT unsigned long fake_cuda_live(const char *what);

/** Instead of FAKE_CUDA_FAULT, counting from here. */
FAKE_EXPORT void fake_cuda_fault(const char *list);

/** Rank of the calling thread, for @rank in faults where ranks are threads. */
FAKE_EXPORT void fake_set_rank(int rank);
FAKE_EXPORT int fake_get_rank(void);

#endif /* FAKE_CUDA_H */
