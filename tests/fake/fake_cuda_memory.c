/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory of the device and page-locked memory of the host.  Each allocation ends at a
 * page without access; what is freed stays without access for ever.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fake_cuda_impl.h"

enum { PAGE = 4096, ALIGN = 256, FRESH = 0xff, BEHIND = 0xa5 };

struct region {
    struct region *next;
    unsigned char *base;
    size_t bytes;
    enum fake_place place;
    struct CUctx_st *ctx;
    unsigned char *map; /* whole of it, guard pages included; NULL: registered */
    size_t map_bytes;
};

static struct region *regions;
static int opened; /* works that touch device memory now */

static int guarded(void)
{
    static int known = -1;

    if (known < 0)
        known = fake_env_number("FAKE_CUDA_GUARD", 0) != 0;
    return known;
}

static void protect(const struct region *r, int access)
{
    if (r->place == FAKE_DEVICE &&
        mprotect(r->map + PAGE, r->map_bytes - 2 * (size_t)PAGE, access) != 0)
        fake_die("mprotect of device memory failed");
}

static void protect_all(int access)
{
    for (const struct region *r = regions; r != NULL; r = r->next)
        protect(r, access);
}

void fake_guard_open(void)
{
    fake_lock();
    if (guarded() && opened++ == 0)
        protect_all(PROT_READ | PROT_WRITE);
    fake_unlock();
}

void fake_guard_close(void)
{
    fake_lock();
    if (guarded() && --opened == 0)
        protect_all(PROT_NONE);
    fake_unlock();
}

static struct region *find(const void *address)
{
    const uintptr_t a = (uintptr_t)address;

    for (struct region *r = regions; r != NULL; r = r->next)
        if (a >= (uintptr_t)r->base && a < (uintptr_t)r->base + r->bytes)
            return r;
    return NULL;
}

enum fake_place fake_place_of(const void *address, size_t *left)
{
    const struct region *r = find(address);

    *left = r == NULL ? SIZE_MAX : r->bytes - (size_t)((const unsigned char *)address - r->base);
    return r == NULL ? FAKE_PAGEABLE : r->place;
}

static size_t slack(size_t bytes)
{
    return (ALIGN - bytes % ALIGN) % ALIGN;
}

static struct region *add(struct CUctx_st *ctx, size_t bytes, enum fake_place place)
{
    const size_t room = bytes + slack(bytes);
    const size_t inner = (room + PAGE - 1) / PAGE * PAGE;
    struct region *r = fake_alloc(1, sizeof(*r));

    *r = (struct region){.bytes = bytes, .place = place, .ctx = ctx};
    r->map_bytes = inner + 2 * (size_t)PAGE;
    r->map = mmap(NULL, r->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->map == MAP_FAILED) {
        free(r);
        return NULL;
    }
    if (mprotect(r->map + PAGE, inner, PROT_READ | PROT_WRITE) != 0)
        fake_die("mprotect of new memory failed");
    r->base = r->map + PAGE + inner - room;
    memset(r->base, FRESH, bytes);
    memset(r->base + bytes, BEHIND, slack(bytes));
    if (guarded() && opened == 0)
        protect(r, PROT_NONE);
    r->next = regions;
    regions = r;
    return r;
}

static void take_out(struct region *r)
{
    struct region **at = &regions;

    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
}

static void drop(struct region *r)
{
    if (guarded())
        protect(r, PROT_READ);
    for (size_t i = 0; i < slack(r->bytes); i++)
        if (r->base[r->bytes + i] != BEHIND)
            fake_die("byte %zu of an allocation of %zu was written", r->bytes + i, r->bytes);
    /* Pages go back, addresses stay taken. */
    if (mmap(r->map, r->map_bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
        fake_die("mmap over freed memory failed");
    take_out(r);
    free(r);
}

/* Common begin of calls that CUDA makes wait and that spoil a capture. */
static int enter(struct CUctx_st **ctx)
{
    int rc;

    fake_lock();
    rc = fake_current(ctx);
    return rc != PLDI_CU_SUCCESS ? rc : fake_capture_unsafe();
}

static void wait_if_asked(const struct CUctx_st *ctx)
{
    if (fake_env_number("FAKE_CUDA_ALLOC_WAITS", 0) != 0)
        fake_wait_device(ctx);
}

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuMemGetInfo_v2);
    fake_lock();
    rc = fake_current(&c);
    if (rc == PLDI_CU_SUCCESS) {
        *total = c->memory;
        *free_bytes = c->memory - c->used;
    }
    fake_unlock();
    return rc;
}

static int alloc_device(struct CUctx_st *c, pldi_cu_pointer *pointer, size_t bytes)
{
    const int fault = fake_call_fault("alloc", PLDI_CU_OUT_OF_MEMORY);
    struct region *r;

    if (fault != PLDI_CU_SUCCESS)
        return fault;
    if (bytes == 0)
        return PLDI_CU_INVALID_VALUE;
    wait_if_asked(c);
    if (bytes > c->memory - c->used)
        return PLDI_CU_OUT_OF_MEMORY;
    r = add(c, bytes, FAKE_DEVICE);
    if (r == NULL)
        return PLDI_CU_OUT_OF_MEMORY;
    c->used += bytes;
    *pointer = (pldi_cu_pointer)(uintptr_t)r->base;
    return PLDI_CU_SUCCESS;
}

int cuMemAlloc_v2(pldi_cu_pointer *pointer, size_t bytes)
{
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuMemAlloc_v2);
    rc = enter(&c);
    if (rc == PLDI_CU_SUCCESS)
        rc = alloc_device(c, pointer, bytes);
    fake_unlock();
    return rc;
}

/* The allocation that begins there. */
static struct region *whole(const void *base, enum fake_place place, bool registered)
{
    struct region *r = find(base);

    if (r == NULL || r->base != base || r->place != place || (r->map == NULL) != registered)
        return NULL;
    return r;
}

int cuMemFree_v2(pldi_cu_pointer pointer)
{
    const void *base = (const void *)(uintptr_t)pointer;
    struct CUctx_st *c;
    struct region *r;
    int rc;

    FAKE_COUNT(cuMemFree_v2);
    rc = enter(&c);
    if (rc == PLDI_CU_SUCCESS && base != NULL) {
        fake_wait_device(c);
        r = whole(base, FAKE_DEVICE, false);
        if (r == NULL)
            rc = PLDI_CU_INVALID_VALUE;
        else {
            r->ctx->used -= r->bytes;
            drop(r);
        }
    }
    fake_unlock();
    return rc;
}

int cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
    struct CUctx_st *c;
    struct region *r = NULL;
    int rc;

    FAKE_COUNT(cuMemHostAlloc);
    (void)flags;
    rc = enter(&c);
    if (rc == PLDI_CU_SUCCESS)
        rc = fake_call_fault("pinned", PLDI_CU_OUT_OF_MEMORY);
    if (rc == PLDI_CU_SUCCESS && bytes == 0)
        rc = PLDI_CU_INVALID_VALUE;
    if (rc == PLDI_CU_SUCCESS) {
        wait_if_asked(c);
        r = add(c, bytes, FAKE_PINNED);
        rc = r == NULL ? PLDI_CU_OUT_OF_MEMORY : PLDI_CU_SUCCESS;
    }
    if (rc == PLDI_CU_SUCCESS)
        *pointer = r->base;
    fake_unlock();
    return rc;
}

int cuMemFreeHost(void *pointer)
{
    struct CUctx_st *c;
    struct region *r;
    int rc;

    FAKE_COUNT(cuMemFreeHost);
    rc = enter(&c);
    if (rc == PLDI_CU_SUCCESS && pointer != NULL) {
        fake_wait_device(c);
        r = whole(pointer, FAKE_PINNED, false);
        if (r == NULL)
            rc = PLDI_CU_INVALID_VALUE;
        else
            drop(r);
    }
    fake_unlock();
    return rc;
}

static bool overlaps(const void *pointer, size_t bytes)
{
    const uintptr_t a = (uintptr_t)pointer;

    for (const struct region *r = regions; r != NULL; r = r->next)
        if (a < (uintptr_t)r->base + r->bytes && (uintptr_t)r->base < a + bytes)
            return true;
    return false;
}

int cuMemHostRegister_v2(void *pointer, size_t bytes, unsigned flags)
{
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuMemHostRegister_v2);
    (void)flags;
    rc = enter(&c);
    if (rc == PLDI_CU_SUCCESS)
        rc = fake_call_fault("register", PLDI_CU_OUT_OF_MEMORY);
    if (rc == PLDI_CU_SUCCESS && (pointer == NULL || bytes == 0))
        rc = PLDI_CU_INVALID_VALUE;
    if (rc == PLDI_CU_SUCCESS && overlaps(pointer, bytes))
        rc = FAKE_CU_ALREADY_REGISTERED;
    if (rc == PLDI_CU_SUCCESS) {
        struct region *r = fake_alloc(1, sizeof(*r));

        *r = (struct region){regions, pointer, bytes, FAKE_PINNED, c, NULL, 0};
        regions = r;
    }
    fake_unlock();
    return rc;
}

int cuMemHostUnregister(void *pointer)
{
    struct CUctx_st *c;
    struct region *r;
    int rc;

    FAKE_COUNT(cuMemHostUnregister);
    rc = enter(&c);
    if (rc == PLDI_CU_SUCCESS) {
        fake_wait_device(c);
        r = whole(pointer, FAKE_PINNED, true);
        if (r == NULL)
            rc = FAKE_CU_NOT_REGISTERED;
        else {
            take_out(r);
            free(r);
        }
    }
    fake_unlock();
    return rc;
}

static int attribute_of(const struct region *r, void *value, int attribute)
{
    const unsigned type = r->place == FAKE_DEVICE ? PLDI_CU_MEMORY_DEVICE : PLDI_CU_MEMORY_HOST;

    switch (attribute) {
    case PLDI_CU_PTR_MEMORY_TYPE:
        memcpy(value, &type, sizeof(type));
        return PLDI_CU_SUCCESS;
    case PLDI_CU_PTR_DEVICE_ORDINAL:
        memcpy(value, &r->ctx->ordinal, sizeof(int));
        return PLDI_CU_SUCCESS;
    default:
        return PLDI_CU_INVALID_VALUE;
    }
}

int cuPointerGetAttribute(void *value, int attribute, pldi_cu_pointer pointer)
{
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuPointerGetAttribute);
    fake_lock();
    rc = fake_current(&c);
    if (rc == PLDI_CU_SUCCESS) {
        const struct region *r = find((const void *)(uintptr_t)pointer);

        rc = r == NULL ? PLDI_CU_INVALID_VALUE : attribute_of(r, value, attribute);
    }
    fake_unlock();
    return rc;
}

int fake_cuda_reachable(const void *memory, size_t bytes)
{
    size_t left;
    int yes;

    fake_lock();
    yes = fake_place_of(memory, &left) != FAKE_PAGEABLE && bytes <= left;
    fake_unlock();
    return yes;
}

static unsigned long bytes_of(enum fake_place place)
{
    unsigned long sum = 0;

    for (const struct region *r = regions; r != NULL; r = r->next)
        if (r->place == place)
            sum += r->bytes;
    return sum;
}

unsigned long fake_pinned_bytes(void)
{
    return bytes_of(FAKE_PINNED);
}

unsigned long fake_device_bytes(void)
{
    return bytes_of(FAKE_DEVICE);
}
