/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_pattern.h
 * What ranks contribute in tests of collective operations, and what must come of
 * it.  Contributions are integers from 0 to 4, so that every result is exact in
 * every dtype, and follows from integer arithmetic.
 */
#ifndef COLL_PATTERN_H
#define COLL_PATTERN_H

#include <polder/polder.h>

#include <stdint.h>
#include <string.h>

#include "slow.h"

enum {
    PATTERN_PERIOD = 577,
    PATTERN_BY_SENDER = 101, /* how far into the pattern a rank's contribution begins, ... */
    PATTERN_BY_TAKER = 37,   /* ... and its block for a certain rank */
    PATTERN_SPARE = 4096
};

static inline int pattern_value(size_t i)
{
    return (int)((i * 3 + i / PATTERN_PERIOD) % 5);
}

/** A small number that the dtype can hold. */
static inline void pattern_store(pld_dtype dtype, void *at, double v)
{
    const float f32 = (float)v;
    const int64_t i64 = (int64_t)v; /* little endian: the low bytes come first */
    uint32_t bits;
    uint16_t half;

    memcpy(&bits, &f32, 4);
    half = (uint16_t)(bits >> 16);
    if (dtype == PLD_F16)
        half = v == 0 ? 0 : (uint16_t)(((bits >> 23) - 127 + 15) << 10 | (bits >> 13 & 1023));
    if (dtype == PLD_F64)
        memcpy(at, &v, 8);
    else if (dtype == PLD_F32)
        memcpy(at, &f32, 4);
    else if (dtype == PLD_F16 || dtype == PLD_BF16)
        memcpy(at, &half, 2);
    else
        memcpy(at, &i64, pld_dtype_bytes(dtype));
}

/** [count + PATTERN_SPARE] elements; rank r contributes those from r * PATTERN_BY_SENDER. */
static inline void pattern_fill(pld_dtype dtype, void *to, size_t count)
{
    for (size_t i = 0; i < count + PATTERN_SPARE; i++)
        pattern_store(dtype, (char *)to + i * pld_dtype_bytes(dtype), pattern_value(i));
}

/** Element i of the reduction over so many ranks, by the definition of the operator. */
static inline double pattern_reduced(pld_op op, int ranks, size_t i, double factor)
{
    int acc = pattern_value(i);

    for (int r = 1; r < ranks; r++) {
        const int v = pattern_value(i + (size_t)r * PATTERN_BY_SENDER);

        if (op == PLD_MAX)
            acc = v > acc ? v : acc;
        else if (op == PLD_MIN)
            acc = v < acc ? v : acc;
        else
            acc = op == PLD_PROD ? acc * v : acc + v;
    }
    return acc * factor;
}

#endif /* COLL_PATTERN_H */
