/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Causal attention without a matrix of scores: tiles of queries meet tiles of keys, with a
 * running maximum and sum (Dao et al., "FlashAttention-2", 2023).  This file: what both
 * element types share, and f32, which is made for comparing with the processor.
 *
 * A block of 128 threads has one tile of one head.  Heads are padded with zeros to D columns.
 * The backward is two kernels, one for dq and one for dk and dv, which compute the scores each
 * for itself: two products in seven more than with one kernel, but every sum is made by one
 * block in one order.
 */
#ifndef GPT_ATTENTION_CUH
#define GPT_ATTENTION_CUH

#include "gpt_vector.cuh"

enum { ATTENTION_BLOCK = 128 };

/* The operands of all three kernels.  qkv and dqkv: [batch][seq][3][heads][size], out and dout:
 * [batch][seq][heads][size], lse and delta: [batch][heads][seq]. */
struct attention_shape {
    int seq, heads, size;
    f32 scale;
};

/* Where the head of this block (blockIdx.y) begins. */
struct head_at {
    size_t qkv, out, row;
    size_t qkv_stride, out_stride;
};

static __device__ inline head_at head_of(const attention_shape &s)
{
    const size_t b = blockIdx.y / (unsigned)s.heads, h = blockIdx.y % (unsigned)s.heads;
    const size_t c = (size_t)s.heads * s.size;
    head_at at;

    at.qkv_stride = 3 * c;
    at.out_stride = c;
    at.qkv = b * s.seq * 3 * c + h * s.size;
    at.out = b * s.seq * c + h * s.size;
    at.row = (size_t)blockIdx.y * s.seq;
    return at;
}

/* Queries and keys of a tile in f32; four threads a row. */
enum { PLAIN = 32, SHARES = 4 };

template <int D> struct plain_tile {
    f32 at[PLAIN][D + 1];
};
typedef f32 plain_scores[PLAIN][PLAIN + 1];

template <int D>
static __device__ inline void plain_fetch(plain_tile<D> &to, const f32 *from, size_t stride,
                                          int first, const attention_shape &s)
{
    for (int i = (int)threadIdx.x; i < PLAIN * D; i += ATTENTION_BLOCK) {
        const int row = i / D, column = i % D;
        const bool inside = first + row < s.seq && column < s.size;

        to.at[row][column] = inside ? from[(size_t)(first + row) * stride + column] : 0;
    }
}

template <int D>
static __device__ inline f32 plain_dot(const plain_tile<D> &a, int i, const plain_tile<D> &b, int j)
{
    f32 sum = 0;

#pragma unroll 8
    for (int k = 0; k < D; k++)
        sum += a.at[i][k] * b.at[j][k];
    return sum;
}

/* This thread's columns of row r: o += p[r][.] b */
template <int D>
static __device__ inline void plain_add(f32 (&o)[D / SHARES], const plain_scores &p, int r,
                                        const plain_tile<D> &b)
{
    const int share = (int)threadIdx.x % SHARES;

    for (int j = 0; j < PLAIN; j++) {
        const f32 x = p[r][j];

#pragma unroll
        for (int k = 0; k < D / SHARES; k++)
            o[k] += x * b.at[j][k * SHARES + share];
    }
}

template <int D>
static __device__ inline void plain_store(f32 *to, size_t stride, int row,
                                          const f32 (&o)[D / SHARES], f32 factor,
                                          const attention_shape &s)
{
    const int share = (int)threadIdx.x % SHARES;

    for (int k = 0; k < D / SHARES && row < s.seq; k++)
        if (k * SHARES + share < s.size)
            to[(size_t)row * stride + k * SHARES + share] = o[k] * factor;
}

/* Over the threads of a row. */
static __device__ inline f32 share_sum(f32 x)
{
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

static __device__ inline f32 share_most(f32 x)
{
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

template <int D>
static __device__ inline void attention_plain(f32 *out, f32 *lse, const f32 *qkv, attention_shape s)
{
    DYNAMIC_SHARED(uint4, memory);
    plain_tile<D> *tiles = reinterpret_cast<plain_tile<D> *>(memory);
    plain_tile<D> &q = tiles[0], &k = tiles[1], &v = tiles[2];
    plain_scores &p = *reinterpret_cast<plain_scores *>(tiles + 3);
    const head_at at = head_of(s);
    const int tile = (int)(gridDim.x - 1 - blockIdx.x); /* the longest ones first */
    const int r = (int)threadIdx.x / SHARES, share = (int)threadIdx.x % SHARES;
    const int row = tile * PLAIN + r;
    const size_t c = (size_t)s.heads * s.size;
    f32 o[D / SHARES] = {}, most = -INFINITY, sum = 0;

    plain_fetch(q, qkv + at.qkv, at.qkv_stride, tile * PLAIN, s);
    for (int first = 0; first <= tile * PLAIN; first += PLAIN) {
        f32 mine[PLAIN / SHARES], top = most;

        __syncthreads();
        plain_fetch(k, qkv + at.qkv + c, at.qkv_stride, first, s);
        plain_fetch(v, qkv + at.qkv + 2 * c, at.qkv_stride, first, s);
        __syncthreads();
        for (int j = 0; j < PLAIN / SHARES; j++) {
            const int key = j * SHARES + share;

            mine[j] = first + key <= row ? plain_dot(q, r, k, key) * s.scale : -INFINITY;
            top = fmaxf(top, mine[j]);
        }
        top = share_most(top);
        const f32 factor = expf(most - top);

        most = top;
        sum *= factor;
        for (int j = 0; j < PLAIN / SHARES; j++) {
            mine[j] = expf(mine[j] - most);
            sum += mine[j];
            p[r][j * SHARES + share] = mine[j];
        }
        __syncwarp();
        for (int i = 0; i < D / SHARES; i++)
            o[i] *= factor;
        plain_add(o, p, r, v);
    }
    sum = share_sum(sum);
    plain_store<D>(out + at.out, at.out_stride, row, o, 1 / sum, s);
    if (share == 0 && row < s.seq)
        lse[at.row + row] = most + logf(sum);
}

/* Also delta: the sum over each row of out times dout. */
template <int D>
static __device__ inline void attention_plain_dq(f32 *dqkv, f32 *delta, const f32 *qkv,
                                                 const f32 *out, const f32 *dout, const f32 *lse,
                                                 attention_shape s)
{
    DYNAMIC_SHARED(uint4, memory);
    plain_tile<D> *tiles = reinterpret_cast<plain_tile<D> *>(memory);
    plain_tile<D> &q = tiles[0], &k = tiles[1], &v = tiles[2], &d = tiles[3];
    plain_scores &p = *reinterpret_cast<plain_scores *>(tiles + 4);
    const head_at at = head_of(s);
    const int tile = (int)(gridDim.x - 1 - blockIdx.x);
    const int r = (int)threadIdx.x / SHARES, share = (int)threadIdx.x % SHARES;
    const int row = tile * PLAIN + r;
    const size_t c = (size_t)s.heads * s.size;
    f32 dq[D / SHARES] = {}, dot = 0;

    plain_fetch(q, qkv + at.qkv, at.qkv_stride, tile * PLAIN, s);
    plain_fetch(d, dout + at.out, at.out_stride, tile * PLAIN, s);
    plain_fetch(k, out + at.out, at.out_stride, tile * PLAIN, s);
    __syncthreads();
    for (int i = share; i < D; i += SHARES)
        dot += k.at[r][i] * d.at[r][i];
    dot = share_sum(dot);
    const f32 base = row < s.seq ? lse[at.row + row] : INFINITY;

    if (share == 0 && row < s.seq)
        delta[at.row + row] = dot;
    for (int first = 0; first <= tile * PLAIN; first += PLAIN) {
        __syncthreads();
        plain_fetch(k, qkv + at.qkv + c, at.qkv_stride, first, s);
        plain_fetch(v, qkv + at.qkv + 2 * c, at.qkv_stride, first, s);
        __syncthreads();
        for (int key = share; key < PLAIN; key += SHARES) {
            const f32 score = plain_dot(q, r, k, key) * s.scale;
            const f32 weight = first + key <= row ? expf(score - base) : 0;

            p[r][key] = weight * (plain_dot(d, r, v, key) - dot);
        }
        __syncwarp();
        plain_add(dq, p, r, k);
    }
    plain_store<D>(dqkv + at.qkv, at.qkv_stride, row, dq, s.scale, s);
}

/* A tile of keys; p and ds are transposed. */
template <int D>
static __device__ inline void attention_plain_dkv(f32 *dqkv, const f32 *delta, const f32 *qkv,
                                                  const f32 *dout, const f32 *lse,
                                                  attention_shape s)
{
    DYNAMIC_SHARED(uint4, memory);
    plain_tile<D> *tiles = reinterpret_cast<plain_tile<D> *>(memory);
    plain_tile<D> &q = tiles[0], &k = tiles[1], &v = tiles[2], &d = tiles[3];
    plain_scores *scores = reinterpret_cast<plain_scores *>(tiles + 4);
    plain_scores &p = scores[0], &ds = scores[1];
    const head_at at = head_of(s);
    const int r = (int)threadIdx.x / SHARES, share = (int)threadIdx.x % SHARES;
    const int key = (int)blockIdx.x * PLAIN + r;
    const size_t c = (size_t)s.heads * s.size;
    f32 dk[D / SHARES] = {}, dv[D / SHARES] = {};

    plain_fetch(k, qkv + at.qkv + c, at.qkv_stride, (int)blockIdx.x * PLAIN, s);
    plain_fetch(v, qkv + at.qkv + 2 * c, at.qkv_stride, (int)blockIdx.x * PLAIN, s);
    for (int first = (int)blockIdx.x * PLAIN; first < s.seq; first += PLAIN) {
        __syncthreads();
        plain_fetch(q, qkv + at.qkv, at.qkv_stride, first, s);
        plain_fetch(d, dout + at.out, at.out_stride, first, s);
        __syncthreads();
        for (int i = share; i < PLAIN; i += SHARES) {
            const int row = first + i;
            const bool sees = key <= row && row < s.seq;
            const f32 score = plain_dot(q, i, k, r) * s.scale;
            const f32 weight = sees ? expf(score - lse[at.row + row]) : 0;

            p[r][i] = weight;
            ds[r][i] = sees ? weight * (plain_dot(d, i, v, r) - delta[at.row + row]) : 0;
        }
        __syncwarp();
        plain_add(dv, p, r, d);
        plain_add(dk, ds, r, q);
    }
    plain_store<D>(dqkv + at.qkv + c, at.qkv_stride, key, dk, s.scale, s);
    plain_store<D>(dqkv + at.qkv + 2 * c, at.qkv_stride, key, dv, 1, s);
}

#endif /* GPT_ATTENTION_CUH */
