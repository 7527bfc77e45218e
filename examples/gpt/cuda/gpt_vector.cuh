/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the kernels are written with: two element types, accesses of 16 bytes, sums over a warp and
 * a block.
 *
 * Everything is `static` and shared memory is declared in kernels, or in functions that a
 * kernel calls once, so that the same code also runs emulated on the host.
 */
#ifndef GPT_VECTOR_CUH
#define GPT_VECTOR_CUH

#include <cuda_bf16.h>
#include <stdint.h>
#include <string.h>

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

typedef float f32;
typedef uint32_t u32;
struct bf16 {
    uint16_t bits;
};

enum { WARP = 32 };
enum : unsigned { ALL_LANES = 0xffffffffU };

static __device__ inline f32 widen(f32 x)
{
    return x;
}

static __device__ inline f32 widen(bf16 x)
{
    return __uint_as_float((u32)x.bits << 16);
}

static __device__ inline void narrow(f32 &out, f32 x)
{
    out = x;
}

/* To nearest even; NaN stays NaN. */
static __device__ inline void narrow(bf16 &out, f32 x)
{
    out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

/* Two neighbours, the first in the lower half, as memory and tensor cores want them. */
static __device__ inline u32 pair_of(f32 first, f32 second)
{
    bf16 low, high;

    narrow(low, first);
    narrow(high, second);
    return low.bits | (u32)high.bits << 16;
}

/* Elements of 16 bytes. */
template <class T> struct vector_of {
    enum { size = 16 / sizeof(T) };
};

template <class T> static __device__ inline void load(f32 (&out)[16 / sizeof(T)], const T *from)
{
    T raw[16 / sizeof(T)];
    const uint4 bytes = *reinterpret_cast<const uint4 *>(from);

    memcpy(raw, &bytes, 16);
#pragma unroll
    for (int k = 0; k < (int)(16 / sizeof(T)); k++)
        out[k] = widen(raw[k]);
}

template <class T> static __device__ inline void store(T *to, const f32 (&in)[16 / sizeof(T)])
{
    T raw[16 / sizeof(T)];
    uint4 bytes;

#pragma unroll
    for (int k = 0; k < (int)(16 / sizeof(T)); k++)
        narrow(raw[k], in[k]);
    memcpy(&bytes, raw, 16);
    *reinterpret_cast<uint4 *>(to) = bytes;
}

/* N neighbours of f32, N a multiple of 4, aligned. */
template <int N> static __device__ inline void load_wide(f32 (&out)[N], const f32 *from)
{
#pragma unroll
    for (int k = 0; k < N; k += 4) {
        const float4 part = *reinterpret_cast<const float4 *>(from + k);

        out[k] = part.x;
        out[k + 1] = part.y;
        out[k + 2] = part.z;
        out[k + 3] = part.w;
    }
}

template <int N> static __device__ inline void store_wide(f32 *to, const f32 (&in)[N])
{
#pragma unroll
    for (int k = 0; k < N; k += 4) {
        float4 part;

        part.x = in[k];
        part.y = in[k + 1];
        part.z = in[k + 2];
        part.w = in[k + 3];
        *reinterpret_cast<float4 *>(to + k) = part;
    }
}

static __device__ inline size_t thread_of_grid()
{
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ inline size_t threads_of_grid()
{
    return (size_t)gridDim.x * blockDim.x;
}

/* The same sum in all lanes. */
template <class T> static __device__ inline T warp_sum(T x)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

/* The same sum in all threads of a block of whole warps; `room`: shared, [32]. */
template <class T> static __device__ inline T block_sum(T x, T *room)
{
    const int warps = (int)blockDim.x / WARP;
    T sum = 0;

    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP] = x;
    __syncthreads();
    for (int i = 0; i < warps; i++)
        sum += room[i];
    return sum;
}

#endif /* GPT_VECTOR_CUH */
