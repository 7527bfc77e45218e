/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file cuda_device.h  What the files of the plugin share. */
#ifndef PLDI_CUDA_DEVICE_H
#define PLDI_CUDA_DEVICE_H

#include <pthread.h>

#include "cuda/cuda_api.h"
#include "cuda/cuda_kernels.h"
#include "cuda/nccl_api.h"
#include "device/device.h"

/** Memory of ncclMemAlloc(), which only ncclMemFree() frees. */
struct pldi_cuda_arena {
    struct pldi_cuda_arena *next;
    void *memory;
};

/** The plugin's object. */
struct pldi_cuda {
    pld_device head;
    const struct pldi_plugin_host *host;
    struct pldi_cu cu;
    struct pldi_nccl nccl;
    char nccl_note[256]; /**< why there is no NCCL; or "" */
    pthread_mutex_t lock;
    struct pldi_cuda_arena *arenas; /**< guarded by that */
    pldi_cu_device device;
    pldi_cu_context context; /**< the primary one; NULL: not retained yet */
    pld_device_info info;
    int least_priority, greatest_priority;
    pld_module *module; /**< polder's own kernels */
    pld_kernel kernels[PLDI_CUDA_KERNELS];
    void *scratch; /**< [PLDI_CUDA_SCRATCH_BYTES], of the device */
};

struct pld_module {
    struct pldi_device_handle head;
    pldi_cu_module handle;
};

static inline struct pldi_cuda *pldi_cuda_of(const pld_device *device)
{
    return (struct pldi_cuda *)(void *)device;
}

/** Our context becomes this thread's current one, for pldi_cuda_leave() to take it back. */
struct pldi_cuda_visit {
    const struct pldi_cuda *device;
    int pushed;
};
struct pldi_cuda_visit pldi_cuda_enter(const struct pldi_cuda *device);
void pldi_cuda_leave(const struct pldi_cuda_visit *visit);

/** Set the sentence for a CUresult that is no success, and return polder's code for it. */
int pldi_cuda_fail(const struct pldi_cuda *device, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** Return from the caller with CUresult `call`'s code, unless it is a success. */
#define PLDI_CUDA_TRY(device, call, ...)                                                           \
    do {                                                                                           \
        const int pldi_cu_ = (call);                                                               \
        if (pldi_cu_ != PLDI_CU_SUCCESS)                                                           \
            return pldi_cuda_fail(device, pldi_cu_, __VA_ARGS__);                                  \
    } while (0)

/** Load libcuda.so.1.  PLD_ERR_UNSUPPORTED with the reason. */
int pldi_cuda_load(const struct pldi_plugin_host *host, struct pldi_cu *out);
/** Load libnccl.so.2, or say in nccl_note why not. */
void pldi_nccl_load(struct pldi_cuda *device);

/* The parts of pldi_device_ops. */
int pldi_cuda_alloc(pld_device *device, size_t bytes, pld_mem_kind kind, void **out);
int pldi_cuda_alloc_arena(pld_device *device, size_t bytes, void **out);
void pldi_cuda_free(pld_device *device, void *memory);
pld_mem_kind pldi_cuda_where(pld_device *device, const void *memory);
int pldi_cuda_free_bytes(pld_device *device, uint64_t *out);
int pldi_cuda_pin(pld_device *device, void *memory, size_t bytes);
void pldi_cuda_unpin(pld_device *device, void *memory);
int pldi_cuda_copy(pld_device *device, void *dst, const void *src, size_t bytes, pld_stream stream);
int pldi_cuda_fill(pld_device *device, void *dst, int byte, size_t bytes, pld_stream stream);
int pldi_cuda_stream_create(pld_device *device, int urgent, pld_stream *out);
void pldi_cuda_stream_destroy(pld_device *device, pld_stream *stream);
int pldi_cuda_stream_wait(pld_device *device, pld_stream stream);
int pldi_cuda_stream_records(pld_device *device, pld_stream stream, int *out);
int pldi_cuda_event_create(pld_device *device, int timed, pld_event *out);
void pldi_cuda_event_destroy(pld_device *device, pld_event *event);
int pldi_cuda_event_record(pld_device *device, pld_event event, pld_stream stream);
int pldi_cuda_stream_after(pld_device *device, pld_stream stream, pld_event event);
int pldi_cuda_event_test(pld_device *device, pld_event event, int *done);
int pldi_cuda_event_wait(pld_device *device, pld_event event);
int pldi_cuda_event_seconds(pld_device *device, pld_event begin, pld_event end, double *out);
int pldi_cuda_module_open(pld_device *device, const void *image, pld_module **out);
void pldi_cuda_module_close(pld_module **module);
int pldi_cuda_module_find(pld_module *module, const char *name, pld_kernel *out);
int pldi_cuda_kernel_launch(pld_module *module, pld_kernel kernel, const pld_launch *launch,
                            pld_stream stream, void **arguments);
int pldi_cuda_graph_begin(pld_device *device, pld_stream stream);
int pldi_cuda_graph_end(pld_device *device, pld_stream stream, pld_graph **out);
int pldi_cuda_graph_launch(pld_graph *graph, pld_stream stream);
void pldi_cuda_graph_destroy(pld_graph **graph);
const char *pldi_cuda_comm_note(const pld_device *device);

/** The table of cuda_plugin.c and of nccl_comm.c. */
extern const struct pldi_device_ops pldi_cuda_ops;
extern const struct pldi_comm_ops pldi_nccl_ops;

/* For cuda_ops.c, which launches polder's own kernels. */
int pldi_cuda_launch(pld_device *device, enum pldi_cuda_kernel kernel, unsigned grid,
                     unsigned block, unsigned shared_bytes, pld_stream stream, void **arguments);
int pldi_cuda_multiprocessors(const pld_device *device);
/** [PLDI_CUDA_SCRATCH_BYTES] of the device; cuda_kernels.h says who may use it when. */
void *pldi_cuda_scratch(pld_device *device);

#endif /* PLDI_CUDA_DEVICE_H */
