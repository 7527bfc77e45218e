/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Philox4x32-10: ten rounds of multiply, swap and xor over a 128-bit counter.
 * The counter holds the element's block number and the stream, the key the
 * seed; four elements of 32 bits, or two of 64, share a block.
 */

#include <polder/random.h>

#include <math.h>

#include "base/base_hash.h"

enum { ROUNDS = 10 };

void pld_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];

    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        const uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;

        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* the golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static void block_at(uint64_t seed, uint64_t stream, uint64_t block, uint32_t out[4])
{
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream,
                                 (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};

    pld_philox4x32(counter, key, out);
}

uint64_t pld_random_stream(const char *name)
{
    size_t length = 0;

    while (name[length] != '\0')
        length++;
    return pldi_hash64(name, length);
}

uint64_t pld_random_u64(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t r[4];
    const unsigned half = (unsigned)(index & 1) * 2;

    block_at(seed, stream, index >> 1, r);
    return (uint64_t)r[half + 1] << 32 | r[half];
}

void pld_random_uniform(uint64_t seed, uint64_t stream, uint64_t first, size_t count, float *out)
{
    uint32_t r[4] = {0};

    for (size_t i = 0; i < count; i++) {
        const uint64_t index = first + i;

        if (i == 0 || (index & 3) == 0)
            block_at(seed, stream, index >> 2, r);
        out[i] = (float)(r[index & 3] >> 8) * 0x1p-24f;
    }
}

/* Elements 2j and 2j+1 are the cosine and the sine half of one Box-Muller pair. */
void pld_random_normal(uint64_t seed, uint64_t stream, uint64_t first, size_t count, float *out)
{
    for (size_t i = 0; i < count; i++) {
        const uint64_t index = first + i;
        uint32_t r[4];
        double u, angle;

        block_at(seed, stream, index >> 1, r);
        u = ((double)((uint64_t)r[1] << 21 ^ r[0] >> 11) + 0.5) * 0x1p-53;
        angle = 6.283185307179586476925 * (double)((uint64_t)r[3] << 21 ^ r[2] >> 11) * 0x1p-53;
        out[i] = (float)(sqrt(-2.0 * log(u)) * ((index & 1) == 0 ? cos(angle) : sin(angle)));
    }
}
