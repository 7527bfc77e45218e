/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/mem.h
 * Buffers that the ranks of a node share, so that collectives reach them directly.
 *
 * A collective operation over ranks of one node whose buffers all come from here
 * (or are tensors and gradients of polder's arenas) reads and writes them in place,
 * instead of copying through buffers of its own: several times faster for large
 * ones.  Any other buffer works, too, and mixtures do.
 */
#ifndef POLDER_MEM_H
#define POLDER_MEM_H

#include <stddef.h>

#include <polder/export.h>
#include <polder/runtime.h>

PLD_BEGIN_DECLS

/**
 * Memory for buffers: zeroed, aligned to 64 bytes, valid until pld_mem_free() or the
 * close of the runtime.  Where sharing is not possible (POLDER_SHM=0, or the system
 * does not allow it) this is ordinary memory.
 *
 * Local.  PLD_ERR_ARG, PLD_ERR_NOMEM.
 *
 * @param bytes  any number, 0 included
 * @param out    receives the address
 */
PLD_API int pld_mem_alloc(pld_runtime *runtime, size_t bytes, void **out);

/** Give it back; NULL is fine.  No operation may use it.  Local. */
PLD_API void pld_mem_free(pld_runtime *runtime, void *memory);

PLD_END_DECLS

#endif /* POLDER_MEM_H */
