/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reductions of any number of sources.
 *
 * A thread has two vectors of the result in its registers, and those of the next source are
 * under way while those of this one are folded in: 64 bytes per thread.  All sources of an
 * element are read before it is written, so a dst may be a src.
 */
#ifndef PLDI_CUDA_REDUCE_CUH
#define PLDI_CUDA_REDUCE_CUH

#include "cuda/cuda_vector.cuh"

/* Where sums and products of integers wrap without overflow. */
template <class T> struct wrapping {
    typedef T type;
};
template <> struct wrapping<i64> {
    typedef uint64_t type;
};
template <> struct wrapping<i32> {
    typedef u32 type;
};
template <> struct wrapping<i8> {
    typedef u32 type;
};
template <> struct wrapping<u8> {
    typedef u32 type;
};

/* A NaN on either side wins: on the left by itself, on the right by failing to compare. */
template <class W> static __device__ inline W larger(W a, W b)
{
    return a > b || a != a ? a : b;
}

template <class W> static __device__ inline W smaller(W a, W b)
{
    return a < b || a != a ? a : b;
}

template <class T> struct is_floating {
    enum { value = (T)0.5 != (T)0 };
};

/* Vectors of the result that a thread has in its registers.  Bytes need one register each. */
template <class T> struct unroll_of {
    enum { value = sizeof(T) > 1 ? 2 : 1 };
};

/* acc[k] = acc[k] op x[k]; the operation is chosen once for all of them. */
template <class W, class T, int U, int N>
static __device__ inline void fold(W (&acc)[U][N], const T (&x)[U][N], int op)
{
    typedef typename wrapping<W>::type wide;

#define FOLD(a, b, value)                                                                          \
    _Pragma("unroll") for (int k = 0; k < U * N; k++)                                              \
    {                                                                                              \
        const W a = acc[k / N][k % N];                                                             \
        const W b = widen(x[k / N][k % N]);                                                        \
        acc[k / N][k % N] = value;                                                                 \
    }
    if (op == PLD_MAX) {
        FOLD(a, b, larger(a, b))
    } else if (op == PLD_MIN) {
        FOLD(a, b, smaller(a, b))
    } else if (op == PLD_PROD) {
        FOLD(a, b, (W)((wide)a * (wide)b))
    } else {
        FOLD(a, b, (W)((wide)a + (wide)b))
    }
#undef FOLD
}

/* U pieces of N elements, from `i` on, `apart` elements from one to the next. */
struct place {
    uint64_t i, apart;
};

template <class T, int U, int N>
static __device__ inline void load_pieces(T (&x)[U][N], const void *from, place at)
{
#pragma unroll
    for (int u = 0; u < U; u++)
        load(x[u], static_cast<const T *>(from) + at.i + u * at.apart);
}

template <class W, class T, int U, int N>
static __device__ inline void fold_sources(W (&acc)[U][N], const pldi_cuda_reduce &r, place at)
{
    T x[U][N];
    T ahead[U][N];

    load_pieces(ahead, r.srcs[0], at);
    for (int s = 0; s < r.n_srcs; s++) {
        memcpy(x, ahead, sizeof(x));
        if (s + 1 < r.n_srcs)
            load_pieces(ahead, r.srcs[s + 1], at);
        if (s > 0 || r.goes_on) {
            fold(acc, x, r.op);
            continue;
        }
#pragma unroll
        for (int k = 0; k < U * N; k++)
            acc[k / N][k % N] = widen(x[k / N][k % N]);
    }
}

/* The sum so far is read and written element by element: it need not be aligned as the rest. */
template <class W, int U, int N>
static __device__ inline void load_sum(W (&acc)[U][N], const void *sum, place at)
{
#pragma unroll
    for (int k = 0; k < U * N; k++)
        acc[k / N][k % N] = static_cast<const W *>(sum)[at.i + k / N * at.apart + k % N];
}

template <class W, int U, int N>
static __device__ inline void store_sum(const W (&acc)[U][N], void *sum, place at)
{
#pragma unroll
    for (int k = 0; k < U * N; k++)
        static_cast<W *>(sum)[at.i + k / N * at.apart + k % N] = acc[k / N][k % N];
}

/* The factor comes last, in the precision of the sum; integers have none. */
template <class T, class W, int U, int N>
static __device__ inline void finish(W (&acc)[U][N], const pldi_cuda_reduce &r, place at)
{
    T out[U][N];

    if (is_floating<W>::value && r.scale != 1) {
        const W factor = (W)r.scale;

#pragma unroll
        for (int k = 0; k < U * N; k++)
            acc[k / N][k % N] *= factor;
    }
#pragma unroll
    for (int k = 0; k < U * N; k++)
        narrow(out[k / N][k % N], acc[k / N][k % N]);
    for (int d = 0; d < r.n_dsts; d++) {
#pragma unroll
        for (int u = 0; u < U; u++)
            store(static_cast<T *>(r.dsts[d]) + at.i + u * at.apart, out[u]);
    }
}

template <class T, int U, int N>
static __device__ inline void reduce_pieces(const pldi_cuda_reduce &r, place at)
{
    typedef typename wide_of<T>::type W;
    W acc[U][N] = {};

    if (r.goes_on)
        load_sum(acc, r.sum, at);
    fold_sources<W, T>(acc, r, at);
    if (r.begins)
        store_sum(acc, r.sum, at);
    else
        finish<T>(acc, r, at);
}

template <class T> static __device__ inline void reduce(const pldi_cuda_reduce &r)
{
    enum { N = per_vector<T>::value, U = unroll_of<T>::value };
    const uint64_t vectors = r.span.vectors;
    const uint64_t singles = r.span.count - vectors * N;
    const uint64_t tile = (uint64_t)blockDim.x * U;

    for (uint64_t v = blockIdx.x * tile + threadIdx.x; v < vectors; v += gridDim.x * tile) {
        const place at = {r.span.head + v * N, (uint64_t)blockDim.x * N};

        if (v + (U - 1) * blockDim.x < vectors) {
            reduce_pieces<T, U, N>(r, at);
            continue;
        }
        for (uint64_t w = v; w < vectors; w += blockDim.x) {
            const place one = {r.span.head + w * N, 0};

            reduce_pieces<T, 1, N>(r, one);
        }
    }
    for (uint64_t j = thread_of_grid(); j < singles; j += threads_of_grid()) {
        const place one = {single<N>(r.span, j), 0};

        reduce_pieces<T, 1, 1>(r, one);
    }
}

#define DEFINE_REDUCE(type, dtype)                                                                 \
    KERNEL(reduce_##type)                                                                          \
    (const __grid_constant__ pldi_cuda_reduce args)                                                \
    {                                                                                              \
        reduce<type>(args);                                                                        \
    }
PLDI_CUDA_REDUCED(DEFINE_REDUCE)

#endif /* PLDI_CUDA_REDUCE_CUH */
