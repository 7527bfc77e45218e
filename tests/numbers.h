/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file numbers.h  Numbers of any dtype. */
#ifndef NUMBERS_H
#define NUMBERS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <polder/dtype.h>

/** One element as a double. */
static inline double number_get(const void *at, pld_dtype dtype)
{
    const int bits = dtype == PLD_F16 ? 10 : 7;
    const int bias = dtype == PLD_F16 ? 15 : 127;
    uint16_t half;
    int exponent;

    if (dtype == PLD_F64)
        return *(const double *)at;
    if (dtype == PLD_F32)
        return (double)*(const float *)at;
    if (dtype == PLD_I64)
        return (double)*(const int64_t *)at;
    if (dtype == PLD_I32)
        return *(const int32_t *)at;
    if (dtype == PLD_U8)
        return *(const uint8_t *)at;
    memcpy(&half, at, sizeof(half));
    exponent = (half & 0x7fff) >> bits;
    if (exponent == (0x7fff >> bits))
        return (half & ((1 << bits) - 1)) != 0 ? NAN : half & 0x8000 ? -INFINITY : INFINITY;
    return (half & 0x8000 ? -1 : 1) *
           ldexp((half & ((1 << bits) - 1)) + (exponent > 0 ? 1 << bits : 0),
                 (exponent > 0 ? exponent : 1) - bias - bits);
}

/** Store a number that the dtype holds exactly, and not as a subnormal. */
static inline void number_put(void *at, pld_dtype dtype, double value)
{
    const int bits = dtype == PLD_F16 ? 10 : 7;
    const int bias = dtype == PLD_F16 ? 15 : 127;
    uint16_t half = value < 0 ? 0x8000 : 0;
    int exponent = 0;
    double fraction;

    if (dtype == PLD_F64)
        *(double *)at = value;
    if (dtype == PLD_F32)
        *(float *)at = (float)value;
    if (dtype == PLD_I64)
        *(int64_t *)at = (int64_t)value;
    if (dtype == PLD_I32)
        *(int32_t *)at = (int32_t)value;
    if (dtype == PLD_U8)
        *(uint8_t *)at = (uint8_t)value;
    if (dtype != PLD_F16 && dtype != PLD_BF16)
        return;
    fraction = frexp(fabs(value), &exponent); /* 0.5 .. 1 */
    if (isinf(value))
        half = (uint16_t)(half | 0x7fff >> bits << bits);
    else if (value != 0)
        half = (uint16_t)(half | ((exponent - 1 + bias) << bits) |
                          ((int)ldexp(fraction, bits + 1) & ((1 << bits) - 1)));
    memcpy(at, &half, sizeof(half));
}

#endif /* NUMBERS_H */
