/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file transport_shm.h
 * Memory that the processes of one node share, and whether they are still there.
 *
 * A segment has no name: it is gone with the last process that has it, however
 * that one ends.  Another process finds it through the descriptor of its owner
 * (/proc/PID/fd/N), which the kernel grants to processes of the same user that
 * see each other.  Where it does not, mapping fails, and the ranks send messages.
 */
#ifndef PLDI_TRANSPORT_SHM_H
#define PLDI_TRANSPORT_SHM_H

#include <stddef.h>
#include <stdint.h>

/** Where a segment is to be found; plain bytes that one rank sends to another. */
struct pldi_shm_place {
    uint64_t nonce;   /**< also the first word of the segment; 0: there is none */
    uint64_t ns;      /**< PID namespace that `pid` is a number of */
    uint64_t address; /**< in the process `pid` */
    uint64_t bytes;
    int64_t pid, fd;
};

/** A segment as this rank has it. */
struct pldi_shm {
    unsigned char *data; /**< [bytes], zero when new; NULL: none */
    size_t bytes;
    int fd; /**< of the owner, until pldi_shm_seal(); else -1 */
    int counted;
};

/** New memory, of which pages come into being when first touched. */
int pldi_shm_create(size_t bytes, const char *what, struct pldi_shm *out);

/** The same in a file that is made new, with its room reserved; it stays. */
int pldi_shm_create_file(const char *path, size_t bytes, struct pldi_shm *out);

/** A random number, never 0. */
uint64_t pldi_shm_random(void);

/** How others find it. */
void pldi_shm_describe(const struct pldi_shm *shm, struct pldi_shm_place *out);

/** Another rank's segment.  Ranks that are threads of one process get the same addresses. */
int pldi_shm_map(const struct pldi_shm_place *place, struct pldi_shm *out);

/** No other process can map it any more. */
void pldi_shm_seal(struct pldi_shm *shm);

void pldi_shm_unmap(struct pldi_shm *shm);

/** Give the pages of a range back to the system; they read as zero from here on. */
void pldi_shm_discard(const struct pldi_shm *shm, size_t offset, size_t bytes);

/** A descriptor that tells of the end of a process, -1: there is none. */
int pldi_shm_watch(int64_t pid);
void pldi_shm_unwatch(int watch);

/** Whether the process has ended. */
int pldi_shm_ended(int64_t pid, int watch);

/** Segment out of which memory for buffers is given. */
struct pldi_heap;

int pldi_heap_create(size_t bytes, struct pldi_heap **out);
void pldi_heap_destroy(struct pldi_heap **heap);

/** Zeroed, page-aligned; NULL: no room (no sentence is set). */
void *pldi_heap_alloc(struct pldi_heap *heap, size_t bytes);

/** 1: it was of this heap, and is free now. */
int pldi_heap_free(struct pldi_heap *heap, void *memory);

/** As pldi_shm_seal(). */
void pldi_heap_seal(struct pldi_heap *heap);

const struct pldi_shm *pldi_heap_segment(const struct pldi_heap *heap);

/** Where [memory, memory + bytes) begins in the heap; SIZE_MAX: it is not inside. */
size_t pldi_heap_offset(const struct pldi_heap *heap, const void *memory, size_t bytes);

#endif /* PLDI_TRANSPORT_SHM_H */
