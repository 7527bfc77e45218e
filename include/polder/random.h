/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/random.h
 * Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011).
 *
 * Element i of a sequence is a pure function of (seed, stream, i), so a tensor
 * gets the same values however it is cut over ranks, and nothing has to be
 * saved but the seed.  Local, never fails, any thread.
 */
#ifndef POLDER_RANDOM_H
#define POLDER_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#include <polder/export.h>

PLD_BEGIN_DECLS

/** One Philox4x32-10 block.  Known-answer vectors of Random123 hold. */
PLD_API void pld_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/** A stream number from a name, e.g. a tensor's: XXH3-64 of its bytes. */
PLD_API uint64_t pld_random_stream(const char *name);

/** Element `index` of the sequence, uniform over all 64-bit integers. */
PLD_API uint64_t pld_random_u64(uint64_t seed, uint64_t stream, uint64_t index);

/**
 * Elements first .. first+count-1 of the sequence, uniform in [0, 1).
 * @param out  [count], host memory
 */
PLD_API void pld_random_uniform(uint64_t seed, uint64_t stream, uint64_t first, size_t count,
                                float *out);

/**
 * The same with mean 0 and standard deviation 1 (Box-Muller in double, so that
 * all machines whose libm rounds alike agree).
 * @param out  [count], host memory
 */
PLD_API void pld_random_normal(uint64_t seed, uint64_t stream, uint64_t first, size_t count,
                               float *out);

PLD_END_DECLS

#endif /* POLDER_RANDOM_H */
