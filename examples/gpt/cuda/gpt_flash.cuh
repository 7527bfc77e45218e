/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attention in bf16 on tensor cores; see gpt_attention.cuh for what and why.
 *
 * Each of the four warps has 16 rows of the block's tile of 64; their scores, probabilities and
 * results stay in registers.  Tiles that are walked over come by asynchronous copies, one ahead
 * of the one at work.  Rows in shared memory are 16 bytes longer than D, so that the eight rows of
 * a matrix lie in different banks.
 */
#ifndef GPT_FLASH_CUH
#define GPT_FLASH_CUH

#include "gpt_attention.cuh"
#include "gpt_mma.cuh"

enum { TILE = 64, WARP_ROWS = 16 };

static __device__ constexpr f32 log2_e = 1.4426950408889634F;

template <int D> struct flash {
    enum {
        stride = D + 8,
        steps = D / 16, /* of a product over D */
        parts = D / 8,  /* of a result with D columns */
        /* Rows of a tile that is walked over by the backward: what registers allow. */
        walk = D > 64 ? 32 : 64
    };
    typedef u32 factor[steps][4];
    typedef f32 result[parts][4];
};

/* N rows of a head from `first` on, zeros beyond. */
template <int D, int N>
static __device__ inline void flash_fetch(bf16 *to, const bf16 *from, size_t stride, int first,
                                          const attention_shape &s)
{
    for (int i = (int)threadIdx.x; i < N * D / 8; i += ATTENTION_BLOCK) {
        const int row = i / (D / 8), column = i % (D / 8) * 8;
        const bool inside = first + row < s.seq && column < s.size;

        copy_async(to + row * flash<D>::stride + column,
                   inside ? from + (size_t)(first + row) * stride + column : from, inside);
    }
}

/* Rows `row` .. +15 of a tile, columns k .. k+15, as left factor. */
template <int D> static __device__ inline void left_factor(u32 (&out)[4], const bf16 *tile, int k)
{
    const int lane = (int)threadIdx.x % WARP;

    load_matrices(out, tile + (lane % 16) * flash<D>::stride + k + lane / 16 * 8);
}

template <int D>
static __device__ inline void left_factors(typename flash<D>::factor &out, const bf16 *tile)
{
#pragma unroll
    for (int i = 0; i < flash<D>::steps; i++)
        left_factor<D>(out[i], tile, i * 16);
}

/* s[16][N] += a b': one step of 16 columns of both. */
template <int D, int N>
static __device__ inline void step_transposed(f32 (&s)[N / 8][4], const u32 (&a)[4],
                                              const bf16 *tile, int k)
{
    const int lane = (int)threadIdx.x % WARP;

#pragma unroll
    for (int n = 0; n < N; n += 16) {
        u32 b[4];

        load_matrices(b, tile + (n + lane % 8 + lane / 16 * 8) * flash<D>::stride + k +
                             lane / 8 % 2 * 8);
        mma(s[n / 8], a, b[0], b[1]);
        mma(s[n / 8 + 1], a, b[2], b[3]);
    }
}

/* s[16][N] = a b' with a in registers. */
template <int D, int N>
static __device__ inline void
product_transposed(f32 (&s)[N / 8][4], const typename flash<D>::factor &a, const bf16 *tile)
{
#pragma unroll
    for (int n = 0; n < N / 8; n++)
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int i = 0; i < flash<D>::steps; i++)
        step_transposed<D, N>(s, a[i], tile, i * 16);
}

/* The same with a in shared memory. */
template <int D, int N>
static __device__ inline void product_shared(f32 (&s)[N / 8][4], const bf16 *a, const bf16 *tile)
{
#pragma unroll
    for (int n = 0; n < N / 8; n++)
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int i = 0; i < flash<D>::steps; i++) {
        u32 factor[4];

        left_factor<D>(factor, a, i * 16);
        step_transposed<D, N>(s, factor, tile, i * 16);
    }
}

/* o[16][D] += p b: a result of N columns, rounded, is the left factor. */
template <int D, int N>
static __device__ inline void product_add(typename flash<D>::result &o, const f32 (&p)[N / 8][4],
                                          const bf16 *tile)
{
    const int lane = (int)threadIdx.x % WARP;

#pragma unroll
    for (int k = 0; k < N; k += 16) {
        const u32 a[4] = {pair_of(p[k / 8][0], p[k / 8][1]), pair_of(p[k / 8][2], p[k / 8][3]),
                          pair_of(p[k / 8 + 1][0], p[k / 8 + 1][1]),
                          pair_of(p[k / 8 + 1][2], p[k / 8 + 1][3])};

#pragma unroll
        for (int n = 0; n < D; n += 16) {
            u32 b[4];

            load_transposed(b, tile + (k + lane % 16) * flash<D>::stride + n + lane / 16 * 8);
            mma(o[n / 8], a, b[0], b[1]);
            mma(o[n / 8 + 1], a, b[2], b[3]);
        }
    }
}

/* A warp's 16 rows times a factor for each half, by way of `room`, its own [16][stride]. */
template <int D>
static __device__ inline void
flash_store(bf16 *to, size_t stride, int row, const typename flash<D>::result &o,
            const f32 (&factor)[2], bf16 *room, const attention_shape &s)
{
    const int lane = (int)threadIdx.x % WARP;

    __syncwarp();
#pragma unroll
    for (int n = 0; n < flash<D>::parts; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const u32 pair = pair_of(o[n][2 * h] * factor[h], o[n][2 * h + 1] * factor[h]);

            memcpy(room + (lane / 4 + 8 * h) * flash<D>::stride + n * 8 + lane % 4 * 2, &pair, 4);
        }
    __syncwarp();
    for (int i = lane; i < WARP_ROWS * D / 8; i += WARP) {
        const int r = i / (D / 8), column = i % (D / 8) * 8;

        if (row + r < s.seq && column < s.size)
            *reinterpret_cast<uint4 *>(to + (size_t)(row + r) * stride + column) =
                *reinterpret_cast<const uint4 *>(room + r * flash<D>::stride + column);
    }
}

/* What a row's softmax has seen so far, for the thread's two rows; in powers of 2. */
struct running {
    f32 most[2], sum[2];
};

/* Scores become probabilities relative to the new maximum; the result so far follows. */
template <int D>
static __device__ inline void online_softmax(running &seen, f32 (&s)[TILE / 8][4],
                                             typename flash<D>::result &o)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        f32 most = seen.most[h];

#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            most = fmaxf(most, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        most = share_most(most);
        const f32 factor = power_of_two(seen.most[h] - most);

        seen.most[h] = most;
        seen.sum[h] *= factor;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; e++) {
                s[n][e] = power_of_two(s[n][e] - most);
                seen.sum[h] += s[n][e];
            }
#pragma unroll
        for (int n = 0; n < flash<D>::parts; n++) {
            o[n][2 * h] *= factor;
            o[n][2 * h + 1] *= factor;
        }
    }
}

/* Scores in powers of 2; those of keys that a row does not see become -INFINITY. */
template <int N>
static __device__ inline void scale_and_mask(f32 (&s)[N / 8][4], f32 scale, int row, int key,
                                             bool diagonal)
{
    const int lane = (int)threadIdx.x % WARP;

#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const bool hidden =
                diagonal && key + n * 8 + lane % 4 * 2 + e % 2 > row + lane / 4 + e / 2 * 8;

            s[n][e] = hidden ? -INFINITY : s[n][e] * scale;
        }
}

template <int D>
static __device__ inline void attention_flash(bf16 *out, f32 *lse, const bf16 *qkv,
                                              attention_shape s)
{
    enum { SIZE = TILE * flash<D>::stride };
    DYNAMIC_SHARED(uint4, memory);
    bf16 *stages = reinterpret_cast<bf16 *>(memory);
    const head_at at = head_of(s);
    const int tile = (int)(gridDim.x - 1 - blockIdx.x); /* the longest ones first */
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    const int row = tile * TILE + warp * WARP_ROWS;
    const size_t c = (size_t)s.heads * s.size;
    const bf16 *k = qkv + at.qkv + c, *v = k + c;
    typename flash<D>::factor q;
    typename flash<D>::result o = {};
    running seen = {{-INFINITY, -INFINITY}, {0, 0}};

    flash_fetch<D, TILE>(stages + 2 * SIZE, qkv + at.qkv, at.qkv_stride, tile * TILE, s);
    copy_group();
    flash_fetch<D, TILE>(stages, k, at.qkv_stride, 0, s);
    flash_fetch<D, TILE>(stages + SIZE, v, at.qkv_stride, 0, s);
    copy_group();
    copy_wait<1>();
    __syncthreads();
    left_factors<D>(q, stages + 2 * SIZE + warp * WARP_ROWS * flash<D>::stride);
    __syncthreads();
    for (int j = 0; j <= tile; j++) {
        const bf16 *now = stages + j % 2 * 2 * SIZE;
        f32 p[TILE / 8][4];

        if (j < tile) {
            bf16 *next = stages + (j + 1) % 2 * 2 * SIZE;

            flash_fetch<D, TILE>(next, k, at.qkv_stride, (j + 1) * TILE, s);
            flash_fetch<D, TILE>(next + SIZE, v, at.qkv_stride, (j + 1) * TILE, s);
        }
        copy_group();
        copy_wait<1>();
        __syncthreads();
        product_transposed<D, TILE>(p, q, now);
        scale_and_mask<TILE>(p, s.scale * log2_e, row, j * TILE, j == tile);
        online_softmax<D>(seen, p, o);
        product_add<D, TILE>(o, p, now + SIZE);
        __syncthreads();
    }
    f32 factor[2];

    for (int h = 0; h < 2; h++) {
        const int mine = row + lane / 4 + 8 * h;

        seen.sum[h] = share_sum(seen.sum[h]);
        factor[h] = 1 / seen.sum[h];
        if (lane % 4 == 0 && mine < s.seq)
            lse[at.row + mine] = (seen.most[h] + log2f(seen.sum[h])) / log2_e;
    }
    flash_store<D>(out + at.out, at.out_stride, row, o, factor,
                   stages + warp * WARP_ROWS * flash<D>::stride, s);
}

/* The sums over the rows of a tile of out times dout, two threads a row; also to global memory. */
template <int D>
static __device__ inline void flash_delta(f32 *shared, f32 *delta, const bf16 *out,
                                          const bf16 *dout, size_t stride, int first,
                                          const attention_shape &s)
{
    const int r = (int)threadIdx.x / 2;
    f32 dot = 0;

    for (int i = (int)threadIdx.x % 2 * 8; i < s.size && first + r < s.seq; i += 16) {
        f32 a[8], b[8];

        load(a, out + (size_t)(first + r) * stride + i);
        load(b, dout + (size_t)(first + r) * stride + i);
        for (int k = 0; k < 8; k++)
            dot += a[k] * b[k];
    }
    dot += __shfl_xor_sync(ALL_LANES, dot, 1);
    if (threadIdx.x % 2 == 0) {
        shared[r] = dot;
        if (first + r < s.seq)
            delta[first + r] = dot;
    }
}

template <int D>
static __device__ inline void attention_flash_dq(bf16 *dqkv, f32 *delta, const bf16 *qkv,
                                                 const bf16 *out, const bf16 *dout, const f32 *lse,
                                                 attention_shape s)
{
    enum { N = flash<D>::walk, SIZE = N * flash<D>::stride, OWN = TILE * flash<D>::stride };
    DYNAMIC_SHARED(uint4, memory);
    __shared__ f32 dots[TILE];
    bf16 *own = reinterpret_cast<bf16 *>(memory), *stages = own + 2 * OWN;
    const head_at at = head_of(s);
    const int first = (int)(gridDim.x - 1 - blockIdx.x) * TILE;
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    const int row = first + warp * WARP_ROWS, steps = (first + TILE) / N;
    const size_t c = (size_t)s.heads * s.size;
    const bf16 *k = qkv + at.qkv + c, *v = k + c;
    typename flash<D>::result dq = {};
    f32 base[2], dot[2];

    flash_fetch<D, TILE>(own, qkv + at.qkv, at.qkv_stride, first, s);
    flash_fetch<D, TILE>(own + OWN, dout + at.out, at.out_stride, first, s);
    flash_fetch<D, N>(stages, k, at.qkv_stride, 0, s);
    flash_fetch<D, N>(stages + SIZE, v, at.qkv_stride, 0, s);
    copy_group();
    flash_delta<D>(dots, delta + at.row, out + at.out, dout + at.out, at.out_stride, first, s);
    __syncthreads();
    for (int h = 0; h < 2; h++) {
        const int mine = row + lane / 4 + 8 * h;

        base[h] = mine < s.seq ? lse[at.row + mine] * log2_e : INFINITY;
        dot[h] = dots[mine - first];
    }
    for (int j = 0; j < steps; j++) {
        const bf16 *now = stages + j % 2 * 2 * SIZE;
        const bf16 *mine = own + warp * WARP_ROWS * flash<D>::stride;
        f32 p[N / 8][4], ds[N / 8][4];

        if (j + 1 < steps) {
            bf16 *next = stages + (j + 1) % 2 * 2 * SIZE;

            flash_fetch<D, N>(next, k, at.qkv_stride, (j + 1) * N, s);
            flash_fetch<D, N>(next + SIZE, v, at.qkv_stride, (j + 1) * N, s);
        }
        copy_group();
        copy_wait<1>();
        __syncthreads();
        product_shared<D, N>(p, mine, now);
        scale_and_mask<N>(p, s.scale * log2_e, row, j * N, (j + 1) * N > first);
        product_shared<D, N>(ds, mine + OWN, now + SIZE);
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                ds[n][e] = power_of_two(p[n][e] - base[e / 2]) * (ds[n][e] - dot[e / 2]);
        product_add<D, N>(dq, ds, now);
        __syncthreads();
    }
    const f32 factor[2] = {s.scale, s.scale};

    flash_store<D>(dqkv + at.qkv, at.qkv_stride, row, dq, factor,
                   own + warp * WARP_ROWS * flash<D>::stride, s);
}

/* What belongs to the columns of transposed scores: N rows' base and delta. */
template <int N>
static __device__ inline void flash_fetch_rows(f32 (*to)[N], const f32 *lse, const f32 *delta,
                                               int first, const attention_shape &s)
{
    const int r = (int)threadIdx.x;

    if (r >= N)
        return;
    to[0][r] = first + r < s.seq ? lse[first + r] * log2_e : INFINITY;
    to[1][r] = first + r < s.seq ? delta[first + r] : 0;
}

/* Transposed scores and gradients of probabilities become probabilities and gradients of scores. */
template <int N>
static __device__ inline void flash_slopes(f32 (&p)[N / 8][4], f32 (&ds)[N / 8][4],
                                           const f32 (*rows)[N], f32 scale, int key, int first)
{
    const int lane = (int)threadIdx.x % WARP;

#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = n * 8 + lane % 4 * 2 + e % 2;
            const bool sees = key + lane / 4 + e / 2 * 8 <= first + r;

            p[n][e] = sees ? power_of_two(p[n][e] * scale - rows[0][r]) : 0;
            ds[n][e] = p[n][e] * (ds[n][e] - rows[1][r]);
        }
}

template <int D>
static __device__ inline void attention_flash_dkv(bf16 *dqkv, const f32 *delta, const bf16 *qkv,
                                                  const bf16 *dout, const f32 *lse,
                                                  attention_shape s)
{
    enum { N = flash<D>::walk, SIZE = N * flash<D>::stride, OWN = TILE * flash<D>::stride };
    DYNAMIC_SHARED(uint4, memory);
    __shared__ f32 rows[2][2][N];
    bf16 *own = reinterpret_cast<bf16 *>(memory), *stages = own + 2 * OWN;
    const head_at at = head_of(s);
    const int warp = (int)threadIdx.x / WARP;
    const int begin = (int)blockIdx.x * TILE, key = begin + warp * WARP_ROWS;
    const size_t c = (size_t)s.heads * s.size;
    const bf16 *q = qkv + at.qkv;
    bf16 *mine = own + warp * WARP_ROWS * flash<D>::stride;
    typename flash<D>::result dk = {}, dv = {};

    flash_fetch<D, TILE>(own, q + c, at.qkv_stride, begin, s);
    flash_fetch<D, TILE>(own + OWN, q + 2 * c, at.qkv_stride, begin, s);
    flash_fetch<D, N>(stages, q, at.qkv_stride, begin, s);
    flash_fetch<D, N>(stages + SIZE, dout + at.out, at.out_stride, begin, s);
    flash_fetch_rows<N>(rows[0], lse + at.row, delta + at.row, begin, s);
    copy_group();
    for (int first = begin, j = 0; first < s.seq; first += N, j++) {
        const bf16 *now = stages + j % 2 * 2 * SIZE;
        f32 p[N / 8][4], ds[N / 8][4];

        if (first + N < s.seq) {
            bf16 *next = stages + (j + 1) % 2 * 2 * SIZE;

            flash_fetch<D, N>(next, q, at.qkv_stride, first + N, s);
            flash_fetch<D, N>(next + SIZE, dout + at.out, at.out_stride, first + N, s);
            flash_fetch_rows<N>(rows[(j + 1) % 2], lse + at.row, delta + at.row, first + N, s);
        }
        copy_group();
        copy_wait<1>();
        __syncthreads();
        product_shared<D, N>(p, mine, now);
        product_shared<D, N>(ds, mine + OWN, now + SIZE);
        flash_slopes<N>(p, ds, rows[j % 2], s.scale * log2_e, key, first);
        product_add<D, N>(dv, p, now + SIZE);
        product_add<D, N>(dk, ds, now);
        __syncthreads();
    }
    const f32 one[2] = {1, 1}, scale[2] = {s.scale, s.scale};

    flash_store<D>(dqkv + at.qkv + c, at.qkv_stride, key, dk, scale, mine, s);
    flash_store<D>(dqkv + at.qkv + 2 * c, at.qkv_stride, key, dv, one, mine, s);
}

#endif /* GPT_FLASH_CUH */
