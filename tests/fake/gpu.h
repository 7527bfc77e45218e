/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file gpu.h  What tests of the fakes do again and again with a GPU. */
#ifndef GPU_H
#define GPU_H

#include <stdatomic.h>
#include <stdint.h>

#include "child.h"
#include "fake_cuda.h"
#include "fake_kernels.h"

/** Open device `ordinal` and make it current for this thread. */
static inline int gpu_open(int ordinal)
{
    pldi_cu_context context;
    int rc = cuInit(0);

    if (rc == 0)
        rc = cuDevicePrimaryCtxRetain(&context, ordinal);
    return rc == 0 ? cuCtxSetCurrent(context) : rc;
}

static inline void *gpu_pointer(pldi_cu_pointer p)
{
    return (void *)(uintptr_t)p;
}

static inline pldi_cu_pointer gpu_address(const void *p)
{
    return (pldi_cu_pointer)(uintptr_t)p;
}

/** Device memory with these bytes; NULL: as it comes. */
static inline void *gpu_new(const void *data, size_t bytes)
{
    pldi_cu_pointer p = 0;

    if (cuMemAlloc_v2(&p, bytes) != 0)
        return NULL;
    if (data != NULL)
        (void)cuMemcpyAsync(p, gpu_address(data), bytes, NULL);
    if (data != NULL)
        (void)cuStreamSynchronize(NULL);
    return gpu_pointer(p);
}

static inline int gpu_free(void *p)
{
    return cuMemFree_v2(gpu_address(p));
}

/** Into the host's memory, when all that is in the stream is done. */
static inline int gpu_read(void *host, const void *device, size_t bytes, pldi_cu_stream stream)
{
    const int rc = cuMemcpyAsync(gpu_address(host), gpu_address(device), bytes, stream);

    return rc == 0 ? cuStreamSynchronize(stream) : rc;
}

static inline pldi_cu_stream gpu_stream(unsigned flags)
{
    pldi_cu_stream s = NULL;

    return cuStreamCreateWithPriority(&s, flags, 0) == 0 ? s : NULL;
}

static inline pldi_cu_event gpu_event(unsigned flags)
{
    pldi_cu_event e = NULL;

    return cuEventCreate(&e, flags) == 0 ? e : NULL;
}

/** Work that waits in its stream until the gate is opened. */
static inline int gpu_gate_step(void *context)
{
    return atomic_load((atomic_int *)context) != 0;
}

static inline int gpu_gate(pldi_cu_stream stream, atomic_int *gate)
{
    return fake_cuda_enqueue(stream, gpu_gate_step, gate);
}

static inline void gpu_nap(double seconds)
{
    const struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};

    nanosleep(&t, NULL);
}

#endif /* GPU_H */
