/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file base_hash.h  XXH3 of bytes: fingerprints of plans and of stored data. */
#ifndef PLDI_BASE_HASH_H
#define PLDI_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/** XXH3-64. */
uint64_t pldi_hash64(const void *data, size_t bytes);

/** XXH3-64 seeded with an earlier hash: h = chain(chain(0, a), b). */
uint64_t pldi_hash64_chain(uint64_t hash, const void *data, size_t bytes);

/** XXH3-128 fed piece by piece. */
struct pldi_hash128;
struct pldi_hash128 *pldi_hash128_new(void); /* NULL: no memory, sentence set */
void pldi_hash128_add(struct pldi_hash128 *state, const void *data, size_t bytes);
/** Canonical (big-endian) digest of all added so far. */
void pldi_hash128_digest(const struct pldi_hash128 *state, unsigned char out[16]);
void pldi_hash128_free(struct pldi_hash128 *state);

#endif /* PLDI_BASE_HASH_H */
