/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "base/base_hash.h"

#include <string.h>
#include <xxhash.h>

#include "base/base_err.h"

uint64_t pldi_hash64(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

uint64_t pldi_hash64_chain(uint64_t hash, const void *data, size_t bytes)
{
    return XXH3_64bits_withSeed(data, bytes, hash);
}

/* libxxhash owns the memory: its state wants an alignment of its own. */
struct pldi_hash128 *pldi_hash128_new(void)
{
    XXH3_state_t *state = XXH3_createState();

    if (state == NULL) {
        (void)pldi_fail(PLD_ERR_NOMEM, "no memory for a hash state");
        return NULL;
    }
    (void)XXH3_128bits_reset(state);
    return (struct pldi_hash128 *)state;
}

void pldi_hash128_add(struct pldi_hash128 *state, const void *data, size_t bytes)
{
    (void)XXH3_128bits_update((XXH3_state_t *)state, data, bytes);
}

void pldi_hash128_digest(const struct pldi_hash128 *state, unsigned char out[16])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest((const XXH3_state_t *)state));
    memcpy(out, canonical.digest, 16);
}

void pldi_hash128_free(struct pldi_hash128 *state)
{
    (void)XXH3_freeState((XXH3_state_t *)state);
}
