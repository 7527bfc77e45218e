/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Casts, the hash that replicas are compared by, and HDF5's byte shuffle. */
#ifndef PLDI_CUDA_BYTES_CUH
#define PLDI_CUDA_BYTES_CUH

#include "cuda/cuda_vector.cuh"

template <class T, class W> static __device__ inline void cast_one(T &out, W x)
{
    narrow(out, (typename wide_of<T>::type)x);
}

/* Rounded to odd first: that keeps, in bits below those of the halves, whether the value is
 * above, on or below a tie, so that the second rounding is as good as one. */
static __device__ inline f32 to_odd(f64 x)
{
    const f32 down = __double2float_rz(x);

    return (f64)down == x || x != x ? down : __uint_as_float(__float_as_uint(down) | 1);
}

static __device__ inline void cast_one(f16 &out, f64 x)
{
    narrow(out, to_odd(x));
}

static __device__ inline void cast_one(bf16 &out, f64 x)
{
    narrow(out, to_odd(x));
}

template <class To, class From> struct cast_work {
    To *dst;
    const From *src;

    template <int N> __device__ void at(uint64_t i) const
    {
        From in[N];
        To out[N];

        load(in, src + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            cast_one(out[k], widen(in[k]));
        store(dst + i, out);
    }
};

#define DEFINE_CAST(to, from, to_dtype, from_dtype)                                                \
    KERNEL(cast_##to##_##from)                                                                     \
    (const __grid_constant__ pldi_cuda_cast args)                                                  \
    {                                                                                              \
        enum { N = 16 / (sizeof(to) < sizeof(from) ? sizeof(to) : sizeof(from)) };                 \
        const cast_work<to, from> work = {static_cast<to *>(args.dst),                             \
                                          static_cast<const from *>(args.src)};                    \
                                                                                                   \
        walk<N>(args.span, work);                                                                  \
    }
PLDI_CUDA_CASTS(DEFINE_CAST)

/* The finalizer of SplitMix64. */
static __device__ inline uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

/* Of word i. */
static __device__ inline uint64_t mix_word(uint64_t word, uint64_t i)
{
    return mix(word + (i + 1) * 0x9e3779b97f4a7c15);
}

/* Two words from anywhere, by loads of the width that the address allows. */
template <class T> static __device__ inline void load_words(uint64_t (&words)[2], const u8 *from)
{
    T parts[16 / sizeof(T)];

#pragma unroll
    for (int k = 0; k < 16 / (int)sizeof(T); k++)
        parts[k] = reinterpret_cast<const T *>(from)[k];
    memcpy(words, parts, 16);
}

enum { HASH_PAIRS = 4 };

template <class T> static __device__ inline uint64_t hash_pairs(const u8 *data, uint64_t pairs)
{
    const uint64_t tile = (uint64_t)blockDim.x * HASH_PAIRS;
    uint64_t sum = 0;

    for (uint64_t p = blockIdx.x * tile + threadIdx.x; p < pairs; p += gridDim.x * tile) {
        uint64_t words[HASH_PAIRS][2];

#pragma unroll
        for (int u = 0; u < HASH_PAIRS; u++) {
            const uint64_t at = p + u * blockDim.x;

            load_words<T>(words[u], data + (at < pairs ? at : p) * 16);
        }
#pragma unroll
        for (int u = 0; u < HASH_PAIRS; u++) {
            const uint64_t at = p + u * blockDim.x;

            if (at < pairs)
                sum += mix_word(words[u][0], 2 * at) + mix_word(words[u][1], 2 * at + 1);
        }
    }
    return sum;
}

/* What is left behind the last 16 bytes; the last word is padded with zeros. */
static __device__ inline uint64_t hash_rest(const u8 *data, uint64_t begin, uint64_t bytes)
{
    uint64_t sum = 0;

    for (uint64_t at = begin; at < bytes; at += 8) {
        uint64_t word = 0;

        for (uint64_t i = at; i < bytes && i < at + 8; i++)
            word |= (uint64_t)data[i] << (i - at) * 8;
        sum += mix_word(word, at / 8);
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(32)
    pldi_cuda_kernel_hash_begin(const __grid_constant__ pldi_cuda_hash args)
{
    if (threadIdx.x == 0)
        *args.out = mix(args.bytes);
}

KERNEL(hash_words)(const __grid_constant__ pldi_cuda_hash args)
{
    __shared__ uint64_t room[32];
    const u8 *data = static_cast<const u8 *>(args.data);
    const uint64_t pairs = args.bytes / 16;
    const unsigned off = (unsigned)((uintptr_t)data % 16);
    uint64_t sum;

    if (off == 0)
        sum = hash_pairs<ulonglong2>(data, pairs);
    else if (off % 8 == 0)
        sum = hash_pairs<uint64_t>(data, pairs);
    else if (off % 4 == 0)
        sum = hash_pairs<u32>(data, pairs);
    else if (off % 2 == 0)
        sum = hash_pairs<uint16_t>(data, pairs);
    else
        sum = hash_pairs<u8>(data, pairs);
    if (thread_of_grid() == 0)
        sum += hash_rest(data, pairs * 16, args.bytes);
    sum = block_sum(sum, room);
    if (threadIdx.x == 0)
        atomicAdd(reinterpret_cast<unsigned long long *>(args.out), (unsigned long long)sum);
}

/* Byte k of words. */
template <int M> static __device__ inline u32 byte_at(const u32 (&words)[M], int k)
{
    return words[k / 4] >> k % 4 * 8 & 0xff;
}

/* 8 elements of W bytes, to one word of each plane. */
template <int W> static __device__ inline void shuffle_eight(const pldi_cuda_shuffle &a, uint64_t g)
{
    u32 words[2 * W];

    load(words, static_cast<const u32 *>(a.src) + g * 2 * W);
#pragma unroll
    for (int b = 0; b < W; b++) {
        uint2 out = make_uint2(0, 0);

#pragma unroll
        for (int e = 0; e < 4; e++) {
            out.x |= byte_at(words, e * W + b) << e * 8;
            out.y |= byte_at(words, (e + 4) * W + b) << e * 8;
        }
        *reinterpret_cast<uint2 *>(static_cast<u8 *>(a.dst) + b * a.count + g * 8) = out;
    }
}

template <int W>
static __device__ inline void unshuffle_eight(const pldi_cuda_shuffle &a, uint64_t g)
{
    u32 planes[2 * W];
    u32 words[2 * W];

#pragma unroll
    for (int b = 0; b < W; b++) {
        const uint2 in = *reinterpret_cast<const uint2 *>(static_cast<const u8 *>(a.src) +
                                                          b * a.count + g * 8);

        planes[2 * b] = in.x;
        planes[2 * b + 1] = in.y;
    }
#pragma unroll
    for (int k = 0; k < 2 * W; k++) {
        words[k] = 0;
#pragma unroll
        for (int j = 4 * k; j < 4 * k + 4; j++)
            words[k] |= byte_at(planes, j % W * 8 + j / W) << j % 4 * 8;
    }
    store(static_cast<u32 *>(a.dst) + g * 2 * W, words);
}

template <int W, bool BACK>
static __device__ inline void move_eights(const pldi_cuda_shuffle &a)
{
    for (uint64_t g = thread_of_grid(); g < a.eights; g += threads_of_grid()) {
        if (BACK)
            unshuffle_eight<W>(a, g);
        else
            shuffle_eight<W>(a, g);
    }
}

template <bool BACK> static __device__ inline void move_element(const pldi_cuda_shuffle &a, uint64_t i)
{
    u8 *dst = static_cast<u8 *>(a.dst);
    const u8 *src = static_cast<const u8 *>(a.src);

    for (uint64_t b = 0; b < a.width; b++) {
        if (BACK)
            dst[i * a.width + b] = src[b * a.count + i];
        else
            dst[b * a.count + i] = src[i * a.width + b];
    }
}

template <bool BACK> static __device__ inline void move_bytes(const pldi_cuda_shuffle &a)
{
    if (a.width == 2)
        move_eights<2, BACK>(a);
    else if (a.width == 4)
        move_eights<4, BACK>(a);
    else if (a.width == 8)
        move_eights<8, BACK>(a);
    for (uint64_t i = a.eights * 8 + thread_of_grid(); i < a.count; i += threads_of_grid())
        move_element<BACK>(a, i);
}

KERNEL(shuffle)(const __grid_constant__ pldi_cuda_shuffle args)
{
    move_bytes<false>(args);
}

KERNEL(unshuffle)(const __grid_constant__ pldi_cuda_shuffle args)
{
    move_bytes<true>(args);
}

#endif /* PLDI_CUDA_BYTES_CUH */
