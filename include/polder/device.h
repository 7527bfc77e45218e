/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/device.h
 * The GPU of a rank: its memory, streams, events, and kernels of the caller's own.
 *
 * A rank has at most one GPU; pld_runtime_open() binds it (see its option `device`).
 * polder reaches CUDA through libpolder-cuda.so, which it loads only then: a program that
 * uses this header links neither CUDA nor NCCL and runs on nodes without a GPU as well.
 *
 * Rules
 * - Streams, events and pointers are CUDA's own: a pld_stream is a cudaStream_t, and
 *   those of the runtime library can be passed here and the other way round, for polder
 *   works in the device's primary context.
 * - Calls may come from any thread and leave its current context as it was.
 * - Nothing here waits for the device but the functions whose name says so.
 * - Errors: PLD_ERR_ARG, PLD_ERR_DEVMEM, PLD_ERR_NOMEM (pinned memory), PLD_ERR_DEVICE with
 *   CUDA's own name for the error; one that an earlier kernel or copy caused may come from
 *   any later call, and the device cannot be used any more in this process.
 * - All of it is local.
 */
#ifndef POLDER_DEVICE_H
#define POLDER_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include <polder/export.h>

PLD_BEGIN_DECLS

/** A GPU. */
typedef struct pld_device pld_device;

/** A cudaStream_t (CUstream).  NULL: CUDA's legacy default stream. */
typedef void *pld_stream;

/** A cudaEvent_t (CUevent). */
typedef void *pld_event;

/** Kernels of one cubin, fatbin or PTX; and one of them. */
typedef struct pld_module pld_module;
typedef void *pld_kernel;

/** Work that was recorded once and is launched as a whole. */
typedef struct pld_graph pld_graph;

/** Where memory is. */
typedef enum {
    PLD_MEM_HOST = 0, /**< any other */
    PLD_MEM_DEVICE = 1,
    PLD_MEM_PINNED = 2 /**< of the host, page-locked: copies to and from it do not block */
} pld_mem_kind;

/** What is known of a GPU. */
typedef struct {
    char name[64];
    char pci[16];   /**< domain:bus:device.function, lower case: "0000:1b:00.0" */
    char uuid[48];  /**< as nvidia-smi shows it: "GPU-..." */
    uint64_t bytes; /**< of its memory */
    int ordinal;    /**< among those that CUDA_VISIBLE_DEVICES leaves */
    int capability; /**< 80 for 8.0, 90 for 9.0 */
    int multiprocessors;
    int driver;  /**< CUDA version of the driver, 12040 for 12.4 */
    int nccl;    /**< 22809 for 2.28.9; 0: no usable NCCL was found */
    int sharing; /**< ranks of this node that use the same GPU, this one included */
    char
        nic[24]; /**< nearest InfiniBand or RoCE device with a port that is up; "": none is known */
} pld_device_info;

PLD_API void pld_device_get_info(const pld_device *device, pld_device_info *out);

/**
 * Memory of the device, or pinned memory of the host; aligned to 256 bytes, not zeroed.
 * May wait for the device: allocate before the first step.
 */
PLD_API int pld_device_alloc(pld_device *device, size_t bytes, pld_mem_kind kind, void **out);

/** Accepts NULL.  May wait for the device. */
PLD_API void pld_device_free(pld_device *device, void *memory);

/** Where that address is; PLD_MEM_HOST for whatever CUDA does not know. */
PLD_API pld_mem_kind pld_device_where(pld_device *device, const void *memory);

/** Bytes of the device that are free now. */
PLD_API int pld_device_free_bytes(pld_device *device, uint64_t *out);

/**
 * In stream order.  Any combination of memory kinds; with PLD_MEM_HOST the call may wait
 * for the copy.
 */
PLD_API int pld_device_copy(pld_device *device, void *dst, const void *src, size_t bytes,
                            pld_stream stream);
PLD_API int pld_device_fill(pld_device *device, void *dst, int byte, size_t bytes,
                            pld_stream stream);

/**
 * A stream that does not wait for the default stream, nor makes it wait.
 * @param urgent  1: its work goes before that of others
 */
PLD_API int pld_stream_create(pld_device *device, int urgent, pld_stream *out);
PLD_API void pld_stream_destroy(pld_device *device, pld_stream *stream);

/** Wait until all work in the stream is done. */
PLD_API int pld_stream_wait(pld_device *device, pld_stream stream);

/**
 * @param timed  1: pld_event_seconds() can be asked, which makes recording slower
 */
PLD_API int pld_event_create(pld_device *device, int timed, pld_event *out);
PLD_API void pld_event_destroy(pld_device *device, pld_event *event);

/** The event comes when the work that is in the stream now is done. */
PLD_API int pld_event_record(pld_device *device, pld_event event, pld_stream stream);

/** Work put into the stream from now on begins after the event. */
PLD_API int pld_stream_after(pld_device *device, pld_stream stream, pld_event event);

/** *done: whether it has come; an event that was never recorded has. */
PLD_API int pld_event_test(pld_device *device, pld_event event, int *done);

/** Wait for it. */
PLD_API int pld_event_wait(pld_device *device, pld_event event);

/** Time between two events that have come. */
PLD_API int pld_event_seconds(pld_device *device, pld_event begin, pld_event end, double *out);

/**
 * Load kernels.
 * @param image  a cubin, a fatbin, or PTX text; not needed after the call.
 *               PLD_ERR_UNSUPPORTED: it holds nothing for this device
 */
PLD_API int pld_module_open(pld_device *device, const void *image, pld_module **out);
PLD_API void pld_module_close(pld_module **module);

/** A kernel by its name (extern "C").  PLD_ERR_NOTFOUND. */
PLD_API int pld_module_find(pld_module *module, const char *name, pld_kernel *out);

/** How a kernel is launched. */
typedef struct {
    unsigned grid[3];      /**< blocks; 0 counts as 1 */
    unsigned block[3];     /**< threads of a block; 0 counts as 1 */
    unsigned shared_bytes; /**< dynamic shared memory; above 48 KiB is asked for by itself */
} pld_launch;

/**
 * Put a kernel into the stream.
 * @param arguments  [number of its parameters], address of each argument; read before
 *                   the call returns
 */
PLD_API int pld_kernel_launch(pld_module *module, pld_kernel kernel, const pld_launch *launch,
                              pld_stream stream, void **arguments);

/**
 * Record: what is put into the stream between begin and end, by this thread, is not done
 * but noted, and becomes a graph.  A graph keeps the arguments that were recorded, not what
 * they point to.  Launches of one graph do not overlap.  Nothing in between may wait or
 * allocate, or ask an event.  What has a host's part, which a graph does not replay, is
 * PLD_ERR_STATE in a stream that is recorded, by these functions or by CUDA's own, changes
 * nothing, and does not spoil the recording: operations on device memory, pld_dp_ready(),
 * pld_dp_wait(), pld_optim_step(), pld_pipe_step(), pld_ckpt_save() and pld_ckpt_load().
 */
PLD_API int pld_graph_begin(pld_device *device, pld_stream stream);
PLD_API int pld_graph_end(pld_device *device, pld_stream stream, pld_graph **out);
PLD_API int pld_graph_launch(pld_graph *graph, pld_stream stream);
PLD_API void pld_graph_destroy(pld_graph **graph);

PLD_END_DECLS

#endif /* POLDER_DEVICE_H */
