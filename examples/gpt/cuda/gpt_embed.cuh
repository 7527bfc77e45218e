/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Tokens and positions; and parameters rounded for the products. */
#ifndef GPT_EMBED_CUH
#define GPT_EMBED_CUH

#include "gpt_vector.cuh"

/* Threads of a block that looks for tokens. */
enum { TOKENS_BLOCK = 128 };

template <class T>
static __device__ inline void embed(T *out, const T *wte, const T *wpe, const int32_t *tokens,
                                    int rows, int seq, int c)
{
    enum { N = vector_of<T>::size };
    const int vectors = c / N;

    for (size_t i = thread_of_grid(); i < (size_t)rows * vectors; i += threads_of_grid()) {
        const int row = (int)(i / vectors), column = (int)(i % vectors) * N;
        f32 token[N], position[N];

        load(token, wte + (size_t)tokens[row] * c + column);
        load(position, wpe + (size_t)(row % seq) * c + column);
#pragma unroll
        for (int k = 0; k < N; k++)
            token[k] += position[k];
        store(out + (size_t)row * c + column, token);
    }
}

/* Rows of dx with one token, from the k-th of the list on, into that token's gradient. */
template <class T>
static __device__ inline void add_rows(f32 *grad, const T *dx, const int *list, const int *token,
                                       int k, int count, int c)
{
    enum { N = vector_of<T>::size };

    for (int column = (int)threadIdx.x * N; column < c; column += TOKENS_BLOCK * N) {
        f32 sum[N] = {}, old[N];

        for (int j = k; j < count; j++) {
            f32 x[N];

            if (token[j] != token[k])
                continue;
            load(x, dx + (size_t)list[j] * c + column);
#pragma unroll
            for (int e = 0; e < N; e++)
                sum[e] += x[e];
        }
        load_wide(old, grad + (size_t)token[k] * c + column);
#pragma unroll
        for (int e = 0; e < N; e++)
            sum[e] += old[e];
        store_wide(grad + (size_t)token[k] * c + column, sum);
    }
}

/* The places before this thread's in the block's list, and *count, of those that `mine`. */
static __device__ inline int place_of(int mine, int *room, int *count)
{
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    const unsigned votes = __ballot_sync(ALL_LANES, mine);
    int place = __popc(votes & ((1U << lane) - 1));

    if (lane == 0)
        room[warp] = __popc(votes);
    __syncthreads();
    *count = 0;
    for (int i = 0; i < TOKENS_BLOCK / WARP; i++) {
        place += i < warp ? room[i] : 0;
        *count += room[i];
    }
    return place;
}

/*
 * grad[token] += the rows of dx that have it.  A block answers for the tokens that leave its number
 * as remainder and looks through all rows in order: no two blocks meet in a gradient, and the
 * order of additions does not depend on time.
 */
template <class T>
static __device__ inline void embed_tokens(f32 *grad, const T *dx, const int32_t *tokens, int rows,
                                           int c)
{
    __shared__ int list[TOKENS_BLOCK], token[TOKENS_BLOCK], room[TOKENS_BLOCK / WARP];

    for (int first = 0; first < rows; first += TOKENS_BLOCK) {
        const int row = first + (int)threadIdx.x;
        const int here = row < rows ? tokens[row] : -1;
        const int mine = row < rows && here % (int)gridDim.x == (int)blockIdx.x;
        int count;
        const int place = place_of(mine, room, &count);

        if (mine) {
            list[place] = row;
            token[place] = here;
        }
        __syncthreads();
        for (int k = 0; k < count; k++) {
            int before = 0;

            while (token[before] != token[k])
                before++;
            if (before == k)
                add_rows(grad, dx, list, token, k, count, c);
        }
        __syncthreads();
    }
}

/* grad[position] += the rows of dx at it, sequence by sequence. */
template <class T>
static __device__ inline void embed_positions(f32 *grad, const T *dx, int batch, int seq, int c)
{
    enum { N = vector_of<T>::size };
    const size_t elements = (size_t)seq * c;

    for (size_t i = thread_of_grid() * N; i < elements; i += threads_of_grid() * N) {
        f32 sum[N];

        load_wide(sum, grad + i);
        for (int b = 0; b < batch; b++) {
            f32 x[N];

            load(x, dx + (size_t)b * elements + i);
#pragma unroll
            for (int k = 0; k < N; k++)
                sum[k] += x[k];
        }
        store_wide(grad + i, sum);
    }
}

/* Parameters, rounded; count is a multiple of 8. */
static __device__ inline void round_all(bf16 *out, const f32 *in, size_t count)
{
    enum { N = vector_of<bf16>::size };

    for (size_t i = thread_of_grid() * N; i < count; i += threads_of_grid() * N) {
        f32 x[N];

        load_wide(x, in + i);
        store(out + i, x);
    }
}

#endif /* GPT_EMBED_CUH */
