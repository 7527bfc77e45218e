/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>

#include <stdint.h>

#include "cuda/cuda_device.h"

static pldi_cu_pointer address(const void *pointer)
{
    return (pldi_cu_pointer)(uintptr_t)pointer;
}

static int alloc_device(const struct pldi_cuda *d, size_t bytes, void **out)
{
    pldi_cu_pointer pointer = 0;
    size_t available = 0;
    size_t total = 0;
    const int code = d->cu.alloc(&pointer, bytes);

    if (code == PLDI_CU_SUCCESS) {
        *out = (void *)(uintptr_t)pointer;
        return PLD_OK;
    }
    (void)d->cu.memory_info(&available, &total);
    return pldi_cuda_fail(d, code, "%zu bytes of device memory (%zu of %zu are free)", bytes,
                          available, total);
}

static int alloc_pinned(const struct pldi_cuda *d, size_t bytes, void **out)
{
    void *memory = NULL;
    const int code = d->cu.alloc_host(&memory, bytes, PLDI_CU_HOST_PORTABLE);

    if (code == PLDI_CU_OUT_OF_MEMORY)
        return d->host->fail(PLD_ERR_NOMEM,
                             "cannot pin %zu bytes of host memory; raise 'ulimit -l', or use less",
                             bytes);
    PLDI_CUDA_TRY(d, code, "%zu bytes of pinned memory", bytes);
    *out = memory;
    return PLD_OK;
}

int pldi_cuda_alloc(pld_device *device, size_t bytes, pld_mem_kind kind, void **out)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const size_t some = bytes > 0 ? bytes : 1; /* CUDA refuses none */
    const int rc = kind == PLD_MEM_DEVICE ? alloc_device(d, some, out) : alloc_pinned(d, some, out);

    pldi_cuda_leave(&visit);
    return rc;
}

/* NCCL's kind of memory can be reached by NVLink's multicast and by other processes. */
static int alloc_by_nccl(struct pldi_cuda *d, size_t bytes, void **out)
{
    struct pldi_cuda_arena *arena = d->host->alloc(1, sizeof(*arena), "an arena");
    int code;

    if (arena == NULL)
        return PLD_ERR_NOMEM;
    code = d->nccl.mem_alloc(&arena->memory, bytes);
    if (code != PLDI_NCCL_SUCCESS) {
        d->host->free(arena);
        return PLD_ERR_DEVMEM;
    }
    *out = arena->memory;
    (void)pthread_mutex_lock(&d->lock);
    arena->next = d->arenas;
    d->arenas = arena;
    (void)pthread_mutex_unlock(&d->lock);
    return PLD_OK;
}

int pldi_cuda_alloc_arena(pld_device *device, size_t bytes, void **out)
{
    struct pldi_cuda *d = pldi_cuda_of(device);
    struct pldi_cuda_visit visit;
    int rc;

    if (d->nccl.mem_alloc == NULL || d->nccl.mem_free == NULL || bytes == 0)
        return pldi_cuda_alloc(device, bytes, PLD_MEM_DEVICE, out);
    visit = pldi_cuda_enter(d);
    rc = alloc_by_nccl(d, bytes, out);
    /* Why not is better told by the driver. */
    if (rc < 0)
        rc = alloc_device(d, bytes, out);
    pldi_cuda_leave(&visit);
    return rc;
}

/* 1: it was NCCL's. */
static int free_by_nccl(struct pldi_cuda *d, void *memory)
{
    struct pldi_cuda_arena **at = &d->arenas;
    struct pldi_cuda_arena *arena;

    (void)pthread_mutex_lock(&d->lock);
    while (*at != NULL && (*at)->memory != memory)
        at = &(*at)->next;
    arena = *at;
    if (arena != NULL)
        *at = arena->next;
    (void)pthread_mutex_unlock(&d->lock);
    if (arena == NULL)
        return 0;
    (void)d->nccl.mem_free(memory);
    d->host->free(arena);
    return 1;
}

/* Returns the driver's type of memory, 0 for what it does not know. */
static int type_of(const struct pldi_cuda *d, const void *memory)
{
    int type = 0;

    if (d->cu.pointer_attribute(&type, PLDI_CU_PTR_MEMORY_TYPE, address(memory)) != PLDI_CU_SUCCESS)
        return 0;
    return type;
}

void pldi_cuda_free(pld_device *device, void *memory)
{
    struct pldi_cuda *d = pldi_cuda_of(device);
    struct pldi_cuda_visit visit;

    if (memory == NULL)
        return;
    visit = pldi_cuda_enter(d);
    if (free_by_nccl(d, memory))
        ; /* not the driver's */
    else if (type_of(d, memory) == PLDI_CU_MEMORY_HOST)
        (void)d->cu.free_host(memory);
    else
        (void)d->cu.free(address(memory));
    pldi_cuda_leave(&visit);
}

pld_mem_kind pldi_cuda_where(pld_device *device, const void *memory)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int type = type_of(d, memory);

    pldi_cuda_leave(&visit);
    if (type == PLDI_CU_MEMORY_DEVICE)
        return PLD_MEM_DEVICE;
    return type == PLDI_CU_MEMORY_HOST ? PLD_MEM_PINNED : PLD_MEM_HOST;
}

int pldi_cuda_free_bytes(pld_device *device, uint64_t *out)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    size_t available = 0;
    size_t total = 0;
    const int code = d->cu.memory_info(&available, &total);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "asking for free memory");
    *out = available;
    return PLD_OK;
}

int pldi_cuda_pin(pld_device *device, void *memory, size_t bytes)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int code = d->cu.host_register(memory, bytes, PLDI_CU_HOST_PORTABLE);

    pldi_cuda_leave(&visit);
    if (code == PLDI_CU_OUT_OF_MEMORY)
        return d->host->fail(PLD_ERR_NOMEM,
                             "cannot pin %zu bytes of host memory; raise 'ulimit -l', or use less",
                             bytes);
    PLDI_CUDA_TRY(d, code, "pinning %zu bytes", bytes);
    return PLD_OK;
}

void pldi_cuda_unpin(pld_device *device, void *memory)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);

    (void)d->cu.host_unregister(memory);
    pldi_cuda_leave(&visit);
}

int pldi_cuda_copy(pld_device *device, void *dst, const void *src, size_t bytes, pld_stream stream)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int code =
        bytes == 0 ? PLDI_CU_SUCCESS : d->cu.copy(address(dst), address(src), bytes, stream);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "a copy of %zu bytes", bytes);
    return PLD_OK;
}

int pldi_cuda_fill(pld_device *device, void *dst, int byte, size_t bytes, pld_stream stream)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int code =
        bytes == 0 ? PLDI_CU_SUCCESS : d->cu.fill(address(dst), (unsigned char)byte, bytes, stream);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "filling %zu bytes", bytes);
    return PLD_OK;
}
