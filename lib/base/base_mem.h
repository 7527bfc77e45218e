/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file base_mem.h  Memory that is aligned, zeroed, and checked for overflow. */
#ifndef PLDI_BASE_MEM_H
#define PLDI_BASE_MEM_H

#include <stddef.h>

/** Alignment of everything that pldi_alloc() returns: a cache line, an AVX-512 register. */
enum { PLDI_ALIGN = 64 };

/**
 * Zeroed memory for count elements of `bytes` each; freed with pldi_free().
 * NULL (and the sentence set, naming `what`) if there is none or the product overflows.
 * count 0 gives a pointer that must be freed, too.
 */
void *pldi_alloc(size_t count, size_t bytes, const char *what);

/** memset() to 0 by the C library, where compilers would rather have a slow instruction. */
void pldi_clear(void *memory, size_t bytes);

/** NULL is fine. */
void pldi_free(void *memory);

/** A copy of a string, or NULL with the sentence set. */
char *pldi_strdup(const char *text);

/** snprintf into new memory, or NULL with the sentence set. */
char *pldi_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif /* PLDI_BASE_MEM_H */
