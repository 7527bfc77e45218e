/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* LayerNorm, and sums over rows: those of its backward, those of biases. */
#ifndef GPT_NORM_CUH
#define GPT_NORM_CUH

#include "gpt_vector.cuh"

/* A warp a row.  Mean first, then the deviation from it: what is left of a large common value in
 * a sum of squares is noise. */
template <class T>
static __device__ inline void norm(T *out, f32 *mean, f32 *rstd, const T *x, const f32 *weight,
                                   const f32 *bias, int rows, int c)
{
    enum { N = vector_of<T>::size };
    const int row = (int)(thread_of_grid() / WARP), lane = (int)threadIdx.x % WARP;
    f32 sum = 0, squares = 0, v[N];

    if (row >= rows)
        return;
    x += (size_t)row * c;
    out += (size_t)row * c;
    for (int i = lane * N; i < c; i += WARP * N) {
        load(v, x + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            sum += v[k];
    }
    const f32 m = warp_sum(sum) / (f32)c;
    for (int i = lane * N; i < c; i += WARP * N) {
        load(v, x + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            squares += (v[k] - m) * (v[k] - m);
    }
    const f32 r = 1.0F / sqrtf(warp_sum(squares) / (f32)c + 1e-5F);
    for (int i = lane * N; i < c; i += WARP * N) {
        f32 w[N], b[N];

        load(v, x + i);
        load_wide(w, weight + i);
        load_wide(b, bias + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] = (v[k] - m) * r * w[k] + b[k];
        store(out + i, v);
    }
    if (lane == 0) {
        mean[row] = m;
        rstd[row] = r;
    }
}

/* One vector of a row in norm's backward. */
template <int N> struct norm_piece {
    f32 h[N], g[N], d[N], w[N]; /* normalised x; gradient of h; that of the result; weight */
};

template <class T, int N = vector_of<T>::size>
static __device__ inline norm_piece<N> norm_piece_of(const T *x, const T *d, const f32 *weight,
                                                     f32 m, f32 r)
{
    norm_piece<N> p;

    load(p.h, x);
    load(p.d, d);
    load_wide(p.w, weight);
#pragma unroll
    for (int k = 0; k < N; k++) {
        p.h[k] = (p.h[k] - m) * r;
        p.g[k] = p.d[k] * p.w[k];
    }
    return p;
}

/*
 * Rows blockIdx, blockIdx + gridDim, ... of the backward.
 * out      in: the gradient of norm's result; out: the result once more
 * partial  [gridDim][2][c], receives this block's part of the gradients of weight and bias
 * Each thread owns its columns in shared memory: [2][c].
 */
template <class T>
static __device__ inline void norm_backward(T *dx, T *out, f32 *partial, const T *x,
                                            const f32 *weight, const f32 *bias, const f32 *mean,
                                            const f32 *rstd, int rows, int c, int fresh)
{
    enum { N = vector_of<T>::size };
    DYNAMIC_SHARED(uint4, memory);
    f32 *sums = reinterpret_cast<f32 *>(memory);
    __shared__ f32 room[2][WARP];
    const int begin = (int)threadIdx.x * N, stride = (int)blockDim.x * N;

    for (int i = begin; i < c; i += stride)
        for (int k = 0; k < N; k++)
            sums[i + k] = sums[c + i + k] = 0;
    for (int row = (int)blockIdx.x; row < rows; row += (int)gridDim.x) {
        const f32 m = mean[row], r = rstd[row];
        const size_t at = (size_t)row * c;
        f32 sum = 0, dot = 0;

        for (int i = begin; i < c; i += stride) {
            const norm_piece<N> p = norm_piece_of(x + at + i, out + at + i, weight + i, m, r);

#pragma unroll
            for (int k = 0; k < N; k++) {
                sum += p.g[k];
                dot += p.g[k] * p.h[k];
            }
        }
        sum = block_sum(sum, room[0]) / (f32)c;
        dot = block_sum(dot, room[1]) / (f32)c;
        for (int i = begin; i < c; i += stride) {
            const norm_piece<N> p = norm_piece_of(x + at + i, out + at + i, weight + i, m, r);
            f32 slope[N] = {}, again[N];

            load_wide(again, bias + i);
            if (!fresh)
                load(slope, dx + at + i);
#pragma unroll
            for (int k = 0; k < N; k++) {
                slope[k] += r * (p.g[k] - sum - p.h[k] * dot);
                again[k] += p.h[k] * p.w[k];
                sums[i + k] += p.d[k] * p.h[k];
                sums[c + i + k] += p.d[k];
            }
            store(dx + at + i, slope);
            store(out + at + i, again);
        }
    }
    for (int i = begin; i < c; i += stride)
        for (int k = 0; k < N; k++) {
            partial[(size_t)blockIdx.x * 2 * c + i + k] = sums[i + k];
            partial[(size_t)blockIdx.x * 2 * c + c + i + k] = sums[c + i + k];
        }
}

/* Threads of a block as rows of warps. */
enum { SUM_ROWS = 8 };

/* partial[blockIdx.y][j] = the sum over that part's rows of a[i][j]; a lane has N columns. */
template <class T>
static __device__ inline void column_sum(f32 *partial, const T *a, int rows, int cols)
{
    enum { N = vector_of<T>::size };
    __shared__ f32 room[SUM_ROWS][WARP * N];
    const int lane = (int)threadIdx.x % WARP, group = (int)threadIdx.x / WARP;
    const int column = ((int)blockIdx.x * WARP + lane) * N;
    const int share = (rows + (int)gridDim.y - 1) / (int)gridDim.y;
    const int first = share * (int)blockIdx.y, end = first + share < rows ? first + share : rows;
    f32 sum[N] = {};

    for (int i = first + group; i < end && column < cols; i += SUM_ROWS) {
        f32 x[N];

        load(x, a + (size_t)i * cols + column);
#pragma unroll
        for (int k = 0; k < N; k++)
            sum[k] += x[k];
    }
#pragma unroll
    for (int k = 0; k < N; k++)
        room[group][k * WARP + lane] = sum[k];
    __syncthreads();
    for (int j = (int)threadIdx.x; j < WARP * N; j += SUM_ROWS * WARP) {
        const int to = ((int)blockIdx.x * WARP + j % WARP) * N + j / WARP;
        f32 all = 0;

        for (int i = 0; i < SUM_ROWS; i++)
            all += room[i][j];
        if (to < cols)
            partial[(size_t)blockIdx.y * cols + to] = all;
    }
}

/* grad[j] += the sum over `parts` rows of partial[i][j], rows being `stride` apart. */
static __device__ inline void column_finish(f32 *grad, const f32 *partial, int parts, int cols,
                                            int stride)
{
    __shared__ f32 room[SUM_ROWS][WARP];
    const int lane = (int)threadIdx.x % WARP, group = (int)threadIdx.x / WARP;
    const int column = (int)blockIdx.x * WARP + lane;
    f32 sum = 0;

    for (int i = group; i < parts && column < cols; i += SUM_ROWS)
        sum += partial[(size_t)i * stride + column];
    room[group][lane] = sum;
    __syncthreads();
    if (group > 0 || column >= cols)
        return;
    for (int i = 1; i < SUM_ROWS; i++)
        sum += room[i][lane];
    grad[column] += sum;
}

#endif /* GPT_NORM_CUH */
