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

/** The rank's GPU; NULL: its tensors are in the host's memory. */
pld_device *pldi_mem_device(const pld_group *group);

#endif /* PLDI_COLL_MEM_H */
