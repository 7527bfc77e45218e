/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One segment as large as the machine's memory, of which others map all at once:
 * an address is then valid for every rank of the node as soon as it exists, and
 * an offset is all that must be said about it.  Pages that were never touched, or
 * were given back, cost nothing.
 *
 * Extents cover the segment, ordered, with no two free ones side by side; the
 * first that is large enough is taken.  Allocations are few and large.  Not only the program
 * makes them: pinned buffers are also made by the thread that moves operations on.
 */

#include <pthread.h>

#include "base/base_mem.h"
#include "transport/transport_shm.h"

#include <polder/error.h>

enum { PAGE = 4096 };

struct extent {
    size_t offset, bytes;
    int used;
    struct extent *next;
};

struct pldi_heap {
    struct pldi_shm shm;
    pthread_mutex_t lock; /* of the extents */
    struct extent *first;
};

int pldi_heap_create(size_t bytes, struct pldi_heap **out)
{
    struct pldi_heap *h = pldi_alloc(1, sizeof(*h), "a heap");
    int rc = PLD_ERR_NOMEM;

    if (h == NULL)
        return rc;
    bytes = bytes / PAGE * PAGE;
    (void)pthread_mutex_init(&h->lock, NULL);
    h->shm.fd = -1;
    h->first = pldi_alloc(1, sizeof(*h->first), "a heap");
    if (h->first != NULL)
        rc = pldi_shm_create(bytes, "buffers", &h->shm);
    if (rc < 0) {
        pldi_heap_destroy(&h);
        return rc;
    }
    h->first->bytes = bytes;
    *out = h;
    return PLD_OK;
}

void pldi_heap_destroy(struct pldi_heap **heap)
{
    struct pldi_heap *h = *heap;

    if (h == NULL)
        return;
    while (h->first != NULL) {
        struct extent *next = h->first->next;

        pldi_free(h->first);
        h->first = next;
    }
    pldi_shm_unmap(&h->shm);
    (void)pthread_mutex_destroy(&h->lock);
    pldi_free(h);
    *heap = NULL;
}

/* With the lock held: whole pages; or NULL. */
static struct extent *take(struct pldi_heap *heap, size_t bytes)
{
    struct extent *e = heap->first;
    struct extent *rest;

    while (e != NULL && (e->used || e->bytes < bytes))
        e = e->next;
    if (e == NULL)
        return NULL;
    if (e->bytes > bytes) {
        rest = pldi_alloc(1, sizeof(*rest), "a heap");
        if (rest == NULL)
            return NULL;
        *rest = (struct extent){e->offset + bytes, e->bytes - bytes, 0, e->next};
        e->next = rest;
        e->bytes = bytes;
    }
    e->used = 1;
    return e;
}

void *pldi_heap_alloc(struct pldi_heap *heap, size_t bytes)
{
    void *memory = NULL;
    const struct extent *e;

    if (bytes > heap->shm.bytes)
        return NULL;
    (void)pthread_mutex_lock(&heap->lock);
    e = take(heap, bytes == 0 ? PAGE : (bytes + PAGE - 1) / PAGE * PAGE);
    if (e != NULL)
        memory = heap->shm.data + e->offset;
    (void)pthread_mutex_unlock(&heap->lock);
    return memory;
}

static void join_next(struct extent *e)
{
    struct extent *next = e->next;

    if (e->used || next == NULL || next->used)
        return;
    e->bytes += next->bytes;
    e->next = next->next;
    pldi_free(next);
}

/* With the lock held. */
static int give_back(struct pldi_heap *heap, size_t offset)
{
    struct extent *before = NULL;
    struct extent *e = heap->first;

    for (; e->next != NULL && e->offset != offset; e = e->next)
        before = e;
    if (e->offset != offset || !e->used)
        return 0;
    pldi_shm_discard(&heap->shm, e->offset, e->bytes);
    e->used = 0;
    join_next(e);
    if (before != NULL)
        join_next(before);
    return 1;
}

int pldi_heap_free(struct pldi_heap *heap, void *memory)
{
    const size_t offset = pldi_heap_offset(heap, memory, 1);
    int ours;

    if (offset == SIZE_MAX)
        return 0;
    (void)pthread_mutex_lock(&heap->lock);
    ours = give_back(heap, offset);
    (void)pthread_mutex_unlock(&heap->lock);
    return ours;
}

void pldi_heap_seal(struct pldi_heap *heap)
{
    pldi_shm_seal(&heap->shm);
}

const struct pldi_shm *pldi_heap_segment(const struct pldi_heap *heap)
{
    return &heap->shm;
}

size_t pldi_heap_offset(const struct pldi_heap *heap, const void *memory, size_t bytes)
{
    const uintptr_t first = (uintptr_t)heap->shm.data;
    const uintptr_t at = (uintptr_t)memory;

    if (at < first || at - first >= heap->shm.bytes || heap->shm.bytes - (at - first) < bytes)
        return SIZE_MAX;
    return at - first;
}
