/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file coll_mem.h  Buffers that collective operations reach directly; see polder/mem.h. */
#ifndef PLDI_COLL_MEM_H
#define PLDI_COLL_MEM_H

#include <polder/coll.h>

/** As pldi_alloc(), of memory that the node's ranks share, if it can be had; for any group of
 *  the runtime. */
void *pldi_mem_alloc(const pld_group *group, size_t count, size_t bytes, const char *what);

/** NULL is fine. */
void pldi_mem_free(const pld_group *group, void *memory);

/** Memory of this rank's GPU. */
struct pldi_region {
    void *memory;
    size_t bytes;
};

/**
 * Device memory that operations of the group use again and again: it is registered with the
 * group's communicator, now or when it is made, on all ranks or on none.  That some rank cannot
 * is no error.  What goes into one operation is registered on all ranks, or on none: so only
 * memory is that nobody but the library passes to operations of the group, or everybody.
 * Collective; n may differ between ranks.
 */
int pldi_group_register(pld_group *group, const struct pldi_region *regions, size_t n);

/** Before it is freed; local; waits for what the group has in streams.  A group that is NULL,
 *  memory that is NULL or unknown is fine. */
void pldi_group_unregister(pld_group *group, const void *memory);

/** The rank's GPU; NULL: its tensors are in the host's memory. */
pld_device *pldi_mem_device(const pld_group *group);

#endif /* PLDI_COLL_MEM_H */
