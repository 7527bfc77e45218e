/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file cuda_emulate_types.h
 * CUDA's vector and half types, intrinsics and atomics, as far as device code here uses them.
 * Conversions to halves round once, to nearest even; NaN becomes the one that a device makes.
 */
#ifndef CUDA_EMULATE_TYPES_H
#define CUDA_EMULATE_TYPES_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda_emulate_fiber.h"

using std::isfinite;
using std::isinf;
using std::isnan;

/* ---- Vectors ---- */

#define FAKE_VECTOR2(type, name, bytes)                                                            \
    struct alignas(bytes) name {                                                                   \
        type x, y;                                                                                 \
    };                                                                                             \
    static inline name make_##name(type x, type y)                                                 \
    {                                                                                              \
        return {x, y};                                                                             \
    }
#define FAKE_VECTOR4(type, name, bytes)                                                            \
    struct alignas(bytes) name {                                                                   \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name make_##name(type x, type y, type z, type w)                                 \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
FAKE_VECTOR2(float, float2, 8)
FAKE_VECTOR2(double, double2, 16)
FAKE_VECTOR2(int, int2, 8)
FAKE_VECTOR2(unsigned, uint2, 8)
FAKE_VECTOR2(unsigned short, ushort2, 4)
FAKE_VECTOR2(unsigned long long, ulonglong2, 16)
FAKE_VECTOR4(float, float4, 16)
FAKE_VECTOR4(int, int4, 16)
FAKE_VECTOR4(unsigned, uint4, 16)
FAKE_VECTOR4(unsigned short, ushort4, 8)
FAKE_VECTOR4(unsigned char, uchar4, 4)

/* ---- Bits ---- */

FAKE_BEGIN
template <class To, class From> static inline To bits_as(From from)
{
    static_assert(sizeof(To) == sizeof(From), "not as wide");
    To to;

    memcpy(&to, &from, sizeof(to));
    return to;
}
FAKE_END

static inline unsigned __float_as_uint(float x)
{
    return fake::bits_as<unsigned>(x);
}

static inline float __uint_as_float(unsigned x)
{
    return fake::bits_as<float>(x);
}

static inline int __float_as_int(float x)
{
    return fake::bits_as<int>(x);
}

static inline float __int_as_float(int x)
{
    return fake::bits_as<float>(x);
}

static inline long long __double_as_longlong(double x)
{
    return fake::bits_as<long long>(x);
}

static inline double __longlong_as_double(long long x)
{
    return fake::bits_as<double>(x);
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

static inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

/* ---- Arithmetic ---- */

#define FAKE_BINARY(type, name, op)                                                                \
    static inline type name(type a, type b)                                                        \
    {                                                                                              \
        return a op b;                                                                             \
    }
FAKE_BINARY(float, __fadd_rn, +)
FAKE_BINARY(float, __fsub_rn, -)
FAKE_BINARY(float, __fmul_rn, *)
FAKE_BINARY(float, __fdiv_rn, /)
FAKE_BINARY(float, __fdividef, /)
FAKE_BINARY(double, __dadd_rn, +)
FAKE_BINARY(double, __dsub_rn, -)
FAKE_BINARY(double, __dmul_rn, *)
FAKE_BINARY(double, __ddiv_rn, /)

static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}

static inline double __dsqrt_rn(double x)
{
    return sqrt(x);
}

static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}

static inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}

static inline float rsqrtf(float x)
{
    return 1 / sqrtf(x);
}

/* glibc has functions of these names, without a definition. */
#define __expf(x) expf(x)
#define __logf(x) logf(x)

/* Toward zero. */
static inline float __double2float_rz(double x)
{
    const float nearest = (float)x;

    return std::fabs((double)nearest) > std::fabs(x) ? nextafterf(nearest, 0) : nearest;
}

template <class A, class B> static inline typename std::common_type<A, B>::type max(A a, B b)
{
    typedef typename std::common_type<A, B>::type T;

    if constexpr (std::is_floating_point<T>::value)
        return std::fmax((T)a, (T)b);
    else
        return (T)a > (T)b ? (T)a : (T)b;
}

template <class A, class B> static inline typename std::common_type<A, B>::type min(A a, B b)
{
    typedef typename std::common_type<A, B>::type T;

    if constexpr (std::is_floating_point<T>::value)
        return std::fmin((T)a, (T)b);
    else
        return (T)a < (T)b ? (T)a : (T)b;
}

/* ---- Memory ---- */

#define FAKE_LOAD(name)                                                                            \
    template <class T> static inline T name(const T *from)                                         \
    {                                                                                              \
        return *from;                                                                              \
    }
FAKE_LOAD(__ldg)
FAKE_LOAD(__ldcs)
FAKE_LOAD(__ldcg)
FAKE_LOAD(__ldca)

#define FAKE_STORE(name)                                                                           \
    template <class T> static inline void name(T *to, T value)                                     \
    {                                                                                              \
        *to = value;                                                                               \
    }
FAKE_STORE(__stcs)
FAKE_STORE(__stcg)

static inline void __threadfence()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Two kernels of two libraries may run at once. */
template <class T, class Change> static inline T fake_atomic(T *at, const Change &change)
{
    T old;
    T next;

    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do
        next = change(old);
    while (!__atomic_compare_exchange(at, &old, &next, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    return old;
}

#define FAKE_ATOMIC(name, expression)                                                              \
    template <class T> static inline T name(T *at, typename std::common_type<T>::type value)       \
    {                                                                                              \
        return fake_atomic(at, [value](T old) -> T { return expression; });                        \
    }
FAKE_ATOMIC(atomicAdd, old + value)
FAKE_ATOMIC(atomicSub, old - value)
FAKE_ATOMIC(atomicMax, old > value ? old : value)
FAKE_ATOMIC(atomicMin, old < value ? old : value)
FAKE_ATOMIC(atomicOr, old | value)
FAKE_ATOMIC(atomicAnd, old &value)
FAKE_ATOMIC(atomicExch, ((void)old, value))

template <class T>
static inline T atomicCAS(T *at, typename std::common_type<T>::type expected,
                          typename std::common_type<T>::type value)
{
    return fake_atomic(at, [=](T old) -> T { return old == expected ? value : old; });
}

/* ---- Halves ---- */

FAKE_BEGIN
/* By definition of the format: `bits` of mantissa, an exponent with that bias. */
static inline unsigned short half_by_definition(double x, int bits, int bias)
{
    const unsigned sign = std::signbit(x) ? 0x8000 : 0;
    const unsigned infinite = (unsigned)(2 * bias + 1) << bits;
    int exponent = 0;
    double mantissa;

    if (std::isnan(x))
        return 0x7fff;
    x = std::fabs(x);
    if (std::isinf(x) || x == 0)
        return (unsigned short)(sign | (x == 0 ? 0 : infinite));
    (void)std::frexp(x, &exponent);
    exponent = exponent - 1 < 1 - bias ? 1 - bias : exponent - 1;
    mantissa = std::nearbyint(std::ldexp(x, bits - exponent)); /* to even at a half */
    /* One that was rounded up to the next power of two carries into the exponent. */
    mantissa += (double)((exponent + bias - 1) * (1 << bits));
    return (unsigned short)(sign | (mantissa < infinite ? (unsigned)mantissa : infinite));
}

/* The same, quickly where neither end of the range is near. */
static inline unsigned short half_of(float x, int bits, int bias)
{
    const int drop = 23 - bits;
    const unsigned all = bits_as<unsigned>(x);
    const int exponent = (int)(all >> 23 & 0xff) - 127 + bias;
    const unsigned kept = (all & 0x7fffffff) + (1U << (drop - 1)) - 1 + (all >> drop & 1);

    if (exponent < 1 || exponent > 2 * bias - 1)
        return half_by_definition((double)x, bits, bias);
    return (unsigned short)((all >> 16 & 0x8000) |
                            ((kept >> drop) - ((unsigned)(127 - bias) << bits)));
}

static inline float half_value(unsigned short half, int bits, int bias)
{
    const int exponent = (half & 0x7fff) >> bits;
    const int mantissa = half & ((1 << bits) - 1);
    double value;

    if (exponent > 0 && exponent < 2 * bias + 1)
        return bits_as<float>((unsigned)(half & 0x8000) << 16 |
                              (unsigned)(exponent + 127 - bias) << 23 |
                              (unsigned)mantissa << (23 - bits));
    if (exponent == 0)
        value = std::ldexp(mantissa, 1 - bias - bits);
    else
        value = mantissa != 0 ? (double)NAN : (double)INFINITY;
    return (float)(half & 0x8000 ? -value : value);
}

/* The bits of a float16, or of a bfloat16. */
template <int BITS, int BIAS> struct half_type {
    unsigned short x;

    half_type() = default;
    half_type(float value) : x(half_of(value, BITS, BIAS))
    {
    }
    operator float() const
    {
        return half_value(x, BITS, BIAS);
    }
};

template <class H> struct alignas(4) half_pair {
    H x, y;
};
FAKE_END

typedef fake::half_type<10, 15> __half;
typedef fake::half_type<7, 127> __nv_bfloat16;
typedef __half half;
typedef __nv_bfloat16 nv_bfloat16;
typedef fake::half_pair<__half> __half2;
typedef fake::half_pair<__nv_bfloat16> __nv_bfloat162;
typedef __half2 half2;
typedef __nv_bfloat162 nv_bfloat162;

#define FAKE_HALF(type, pair, to_float, from_float, as_bits, from_bits)                            \
    static inline float to_float(type h)                                                           \
    {                                                                                              \
        return h;                                                                                  \
    }                                                                                              \
    static inline type from_float(float f)                                                         \
    {                                                                                              \
        return type(f);                                                                            \
    }                                                                                              \
    static inline type from_float##_rn(float f)                                                    \
    {                                                                                              \
        return type(f);                                                                            \
    }                                                                                              \
    static inline unsigned short as_bits(type h)                                                   \
    {                                                                                              \
        return h.x;                                                                                \
    }                                                                                              \
    static inline type from_bits(unsigned short bits)                                              \
    {                                                                                              \
        type h;                                                                                    \
                                                                                                   \
        h.x = bits;                                                                                \
        return h;                                                                                  \
    }                                                                                              \
    static inline float __low2float(pair p)                                                        \
    {                                                                                              \
        return p.x;                                                                                \
    }                                                                                              \
    static inline float __high2float(pair p)                                                       \
    {                                                                                              \
        return p.y;                                                                                \
    }
FAKE_HALF(__half, __half2, __half2float, __float2half, __half_as_ushort, __ushort_as_half)
FAKE_HALF(__nv_bfloat16, __nv_bfloat162, __bfloat162float, __float2bfloat16, __bfloat16_as_ushort,
          __ushort_as_bfloat16)

static inline __half2 __floats2half2_rn(float a, float b)
{
    return {a, b};
}

static inline __half2 __halves2half2(__half a, __half b)
{
    return {a, b};
}

static inline __half2 __float22half2_rn(float2 v)
{
    return {v.x, v.y};
}

static inline float2 __half22float2(__half2 p)
{
    return {p.x, p.y};
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b)
{
    return {a, b};
}

static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return {a, b};
}

static inline __nv_bfloat162 __float22bfloat162_rn(float2 v)
{
    return {v.x, v.y};
}

static inline float2 __bfloat1622float2(__nv_bfloat162 p)
{
    return {p.x, p.y};
}

#endif /* CUDA_EMULATE_TYPES_H */
