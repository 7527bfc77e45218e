/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What all kernels are written with: elements of every dtype, loads and stores of 16 bytes,
 * the walk over a span.
 *
 * Everything is `static`, and shared memory is declared in kernels alone, so that the
 * emulator of tests/fake can run this same code.
 */
#ifndef PLDI_CUDA_VECTOR_CUH
#define PLDI_CUDA_VECTOR_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

#include "cuda/cuda_kernels.h"

typedef float f32;
typedef double f64;
typedef int64_t i64;
typedef int32_t i32;
typedef uint32_t u32;
typedef int8_t i8;
typedef uint8_t u8;
struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

/* What a dtype is added and multiplied in. */
template <class T> struct wide_of {
    typedef T type;
};
template <> struct wide_of<f16> {
    typedef f32 type;
};
template <> struct wide_of<bf16> {
    typedef f32 type;
};

template <class T> static __device__ inline T widen(T x)
{
    return x;
}

static __device__ inline f32 widen(f16 x)
{
    return __half2float(__ushort_as_half(x.bits));
}

static __device__ inline f32 widen(bf16 x)
{
    return __uint_as_float((u32)x.bits << 16);
}

/* To nearest even; NaN stays NaN. */
template <class T, class W> static __device__ inline void narrow(T &out, W x)
{
    out = (T)x;
}

static __device__ inline void narrow(f16 &out, f32 x)
{
    out.bits = __half_as_ushort(__float2half_rn(x));
}

static __device__ inline void narrow(bf16 &out, f32 x)
{
    out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

/* Elements of 16 bytes. */
template <class T> struct per_vector {
    enum { value = 16 / sizeof(T) };
};

/* N neighbours: whole vectors, which are aligned; or one. */
template <class T, int N> static __device__ inline void load(T (&out)[N], const T *from)
{
    if constexpr (N == 1) {
        out[0] = from[0];
    } else {
#pragma unroll
        for (int k = 0; k < N * (int)sizeof(T) / 16; k++) {
            const uint4 raw = reinterpret_cast<const uint4 *>(from)[k];

            memcpy(reinterpret_cast<char *>(out) + k * 16, &raw, 16);
        }
    }
}

template <class T, int N> static __device__ inline void store(T *to, const T (&in)[N])
{
    if constexpr (N == 1) {
        to[0] = in[0];
    } else {
#pragma unroll
        for (int k = 0; k < N * (int)sizeof(T) / 16; k++) {
            uint4 raw;

            memcpy(&raw, reinterpret_cast<const char *>(in) + k * 16, 16);
            reinterpret_cast<uint4 *>(to)[k] = raw;
        }
    }
}

static __device__ inline uint64_t thread_of_grid()
{
    return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ inline uint64_t threads_of_grid()
{
    return (uint64_t)gridDim.x * blockDim.x;
}

/* The j-th element that belongs to no vector of N. */
template <int N> static __device__ inline uint64_t single(const pldi_cuda_span &span, uint64_t j)
{
    return j < span.head ? j : j + span.vectors * N;
}

/* work.template at<N>(i) for every vector, work.template at<1>(i) for every other element. */
template <int N, class Work>
static __device__ inline void walk(const pldi_cuda_span &span, const Work &work)
{
    const uint64_t singles = span.count - span.vectors * N;

    for (uint64_t v = thread_of_grid(); v < span.vectors; v += threads_of_grid())
        work.template at<N>(span.head + v * N);
    for (uint64_t j = thread_of_grid(); j < singles; j += threads_of_grid())
        work.template at<1>(single<N>(span, j));
}

/* The sum over a block of a multiple of 32 threads, in thread 0; `room` is shared: [32]. */
template <class T> static __device__ inline T block_sum(T x, T *room)
{
    const unsigned warp = threadIdx.x / 32;
    const unsigned lane = threadIdx.x % 32;

    for (int step = 16; step > 0; step /= 2)
        x += __shfl_down_sync(0xffffffffU, x, step);
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    if (warp > 0)
        return x;
    x = lane < blockDim.x / 32 ? room[lane] : (T)0;
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_down_sync(0xffffffffU, x, step);
    return x;
}

/* With so few registers that so many blocks fit on a multiprocessor. */
#define KERNEL_BLOCKS(name, blocks)                                                                \
    extern "C" __global__ void __launch_bounds__(PLDI_CUDA_BLOCK, blocks)                          \
        pldi_cuda_kernel_##name
#define KERNEL(name) KERNEL_BLOCKS(name, 4)

#endif /* PLDI_CUDA_VECTOR_CUH */
