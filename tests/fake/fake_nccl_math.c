/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Arithmetic element by element; f16 and bf16 are computed in f32 and rounded every time. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "fake_nccl_impl.h"

size_t fake_dtype_bytes(int dtype)
{
    switch (dtype) {
    case PLDI_NCCL_I8:
    case PLDI_NCCL_U8:
        return 1;
    case PLDI_NCCL_F16:
    case PLDI_NCCL_BF16:
        return 2;
    case PLDI_NCCL_I32:
    case PLDI_NCCL_U32:
    case PLDI_NCCL_F32:
        return 4;
    case PLDI_NCCL_I64:
    case PLDI_NCCL_U64:
    case PLDI_NCCL_F64:
        return 8;
    default:
        return 0;
    }
}

bool fake_is_float(int dtype)
{
    return dtype == PLDI_NCCL_F16 || dtype == PLDI_NCCL_BF16 || dtype == PLDI_NCCL_F32 ||
           dtype == PLDI_NCCL_F64;
}

static bool is_signed(int dtype)
{
    return dtype == PLDI_NCCL_I8 || dtype == PLDI_NCCL_I32 || dtype == PLDI_NCCL_I64;
}

/* ---- Floating point ---- */

static double bf16_value(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;

    memcpy(&value, &wide, sizeof(value));
    return value;
}

static uint16_t bf16_bits(float value)
{
    uint32_t wide;

    memcpy(&wide, &value, sizeof(wide));
    if (isnan(value))
        return 0x7fff;
    return (uint16_t)((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

static double f16_value(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double value = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);

    if (exponent == 31)
        value = fraction != 0 ? NAN : INFINITY;
    return bits & 0x8000 ? -value : value;
}

static uint16_t f16_bits(float value)
{
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const float size = fabsf(value);
    int exponent;
    long units;

    if (isnan(value))
        return 0x7fff;
    if (size >= 65520)
        return sign | 0x7c00;
    (void)frexpf(size, &exponent);
    exponent = exponent < -13 ? -13 : exponent; /* subnormal: the last place is 2^-24 */
    units = lrintf(ldexpf(size, 11 - exponent));
    /* A carry to 2048 moves on to the next exponent by itself. */
    return (uint16_t)(sign + ((exponent + 13) << 10) + units);
}

static double float_at(const void *x, size_t i, int dtype)
{
    switch (dtype) {
    case PLDI_NCCL_F16:
        return f16_value(((const uint16_t *)x)[i]);
    case PLDI_NCCL_BF16:
        return bf16_value(((const uint16_t *)x)[i]);
    case PLDI_NCCL_F32:
        return ((const float *)x)[i];
    default:
        return ((const double *)x)[i];
    }
}

static void set_float(void *x, size_t i, int dtype, double value)
{
    switch (dtype) {
    case PLDI_NCCL_F16:
        ((uint16_t *)x)[i] = f16_bits((float)value);
        break;
    case PLDI_NCCL_BF16:
        ((uint16_t *)x)[i] = bf16_bits((float)value);
        break;
    case PLDI_NCCL_F32:
        ((float *)x)[i] = (float)value;
        break;
    default:
        ((double *)x)[i] = value;
        break;
    }
}

static double float_op(double a, double b, int op)
{
    switch (op) {
    case PLDI_NCCL_PROD:
        return a * b;
    case PLDI_NCCL_MAX:
        return a > b || isnan(a) ? a : b;
    case PLDI_NCCL_MIN:
        return a < b || isnan(a) ? a : b;
    default:
        return a + b;
    }
}

/* ---- Integers, as 64 bits; those with a sign are extended ---- */

static uint64_t int_at(const void *x, size_t i, int dtype)
{
    switch (dtype) {
    case PLDI_NCCL_I8:
        return (uint64_t)((const int8_t *)x)[i];
    case PLDI_NCCL_U8:
        return ((const uint8_t *)x)[i];
    case PLDI_NCCL_I32:
        return (uint64_t)((const int32_t *)x)[i];
    case PLDI_NCCL_U32:
        return ((const uint32_t *)x)[i];
    default:
        return ((const uint64_t *)x)[i];
    }
}

static void set_int(void *x, size_t i, int dtype, uint64_t value)
{
    switch (fake_dtype_bytes(dtype)) {
    case 1:
        ((uint8_t *)x)[i] = (uint8_t)value;
        break;
    case 4:
        ((uint32_t *)x)[i] = (uint32_t)value;
        break;
    default:
        ((uint64_t *)x)[i] = value;
        break;
    }
}

static uint64_t int_op(uint64_t a, uint64_t b, int op, bool with_sign)
{
    const bool less = with_sign ? (int64_t)a < (int64_t)b : a < b;

    switch (op) {
    case PLDI_NCCL_PROD:
        return a * b;
    case PLDI_NCCL_MAX:
        return less ? b : a;
    case PLDI_NCCL_MIN:
        return less ? a : b;
    default:
        return a + b;
    }
}

void fake_reduce(void *acc, const void *x, size_t count, int dtype, int op)
{
    const bool with_sign = is_signed(dtype);

    for (size_t i = 0; i < count; i++)
        if (fake_is_float(dtype))
            set_float(acc, i, dtype, float_op(float_at(acc, i, dtype), float_at(x, i, dtype), op));
        else
            set_int(acc, i, dtype,
                    int_op(int_at(acc, i, dtype), int_at(x, i, dtype), op, with_sign));
}

void fake_scale(void *x, size_t count, int dtype, const void *scalar)
{
    for (size_t i = 0; i < count; i++)
        if (fake_is_float(dtype))
            set_float(x, i, dtype, float_at(x, i, dtype) * float_at(scalar, 0, dtype));
        else
            set_int(x, i, dtype, int_at(x, i, dtype) * int_at(scalar, 0, dtype));
}

void fake_divide(void *x, size_t count, int dtype, int n)
{
    for (size_t i = 0; i < count; i++) {
        const uint64_t v = int_at(x, i, dtype);

        set_int(x, i, dtype, is_signed(dtype) ? (uint64_t)((int64_t)v / n) : v / (uint64_t)n);
    }
}

void fake_scalar(void *scalar, int dtype, double value)
{
    set_float(scalar, 0, dtype, value);
}
