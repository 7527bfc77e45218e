/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* GELU in its tanh form; softmax and cross-entropy. */
#ifndef GPT_POINT_CUH
#define GPT_POINT_CUH

#include "gpt_vector.cuh"

struct gelu_at {
    f32 value, slope;
};

/* x (1 + tanh u) / 2 = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3) */
static __device__ inline gelu_at gelu_of(f32 x)
{
    const f32 root = 0.7978845608F, cubic = 0.044715F;
    const f32 u = root * x * (1 + cubic * x * x), du = root * (1 + 3 * cubic * x * x);
    const f32 s = 1 / (1 + expf(-2 * u));

    return {x * s, s + 2 * x * s * (1 - s) * du};
}

/* count is a multiple of 8, as in what follows. */
template <class T> static __device__ inline void gelu(T *out, const T *x, size_t count)
{
    enum { N = vector_of<T>::size };

    for (size_t i = thread_of_grid() * N; i < count; i += threads_of_grid() * N) {
        f32 v[N];

        load(v, x + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] = gelu_of(v[k]).value;
        store(out + i, v);
    }
}

/* d: gradient of the result, becomes that of x; out: the result once more */
template <class T>
static __device__ inline void gelu_backward(T *d, T *out, const T *x, size_t count)
{
    enum { N = vector_of<T>::size };

    for (size_t i = thread_of_grid() * N; i < count; i += threads_of_grid() * N) {
        f32 v[N], slope[N];

        load(v, x + i);
        load(slope, d + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            const gelu_at g = gelu_of(v[k]);

            v[k] = g.value;
            slope[k] *= g.slope;
        }
        store(out + i, v);
        store(d + i, slope);
    }
}

/* A maximum and, relative to it, a sum of exponentials. */
struct exponentials {
    f32 most, sum;
};

/* NaN enters the sum and stays.  Of nothing: -INFINITY and 0. */
static __device__ inline exponentials merged(exponentials a, exponentials b)
{
    const f32 most = a.most > b.most ? a.most : b.most;
    const f32 left = a.sum != 0 ? a.sum * expf(a.most - most) : 0;
    const f32 right = b.sum != 0 ? b.sum * expf(b.most - most) : 0;

    return {most, left + right};
}

template <class T>
static __device__ inline exponentials row_exponentials(const T *logits, int vocab)
{
    enum { N = vector_of<T>::size };
    exponentials all = {-INFINITY, 0};

    for (int i = (int)threadIdx.x * N; i < vocab; i += (int)blockDim.x * N) {
        f32 v[N], most = -INFINITY, sum = 0;

        load(v, logits + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            v[k] = i + k < vocab ? v[k] : -INFINITY;
            most = v[k] > most ? v[k] : most;
        }
#pragma unroll
        for (int k = 0; k < N; k++)
            sum += v[k] > -INFINITY || v[k] != v[k] ? expf(v[k] - most) : 0;
        all = merged(all, {most, sum});
    }
    return all;
}

static __device__ inline exponentials block_exponentials(exponentials x, exponentials *room)
{
    for (int step = WARP / 2; step > 0; step /= 2) {
        const exponentials other = {__shfl_xor_sync(ALL_LANES, x.most, step),
                                    __shfl_xor_sync(ALL_LANES, x.sum, step)};

        x = merged(x, other);
    }
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP] = x;
    __syncthreads();
    x = room[0];
    for (int i = 1; i < (int)blockDim.x / WARP; i++)
        x = merged(x, room[i]);
    return x;
}

/*
 * A block a row: its loss, and with a scale other than 0 the gradient of scale times the loss in
 * place of the logits, with `times` that of scale * *times.  Rows are `stride` apart, a multiple of 8; what follows `vocab` columns
 * becomes 0.
 */
template <class T>
static __device__ inline void cross_entropy(T *logits, f32 *losses, const int32_t *targets,
                                            int vocab, int stride, f32 scale,
                                            const f32 *times)
{
    enum { N = vector_of<T>::size };
    __shared__ exponentials room[WARP];
    const int target = targets[blockIdx.x];

    logits += (size_t)blockIdx.x * stride;
    const f32 logit = widen(logits[target]); /* before anybody overwrites it: a barrier follows */
    const exponentials all = block_exponentials(row_exponentials(logits, vocab), room);
    const f32 lse = all.most + logf(all.sum);

    if (threadIdx.x == 0)
        losses[blockIdx.x] = lse - logit;
    if (scale == 0)
        return;
    if (times != NULL)
        scale *= *times;
    for (int i = (int)threadIdx.x * N; i < stride; i += (int)blockDim.x * N) {
        f32 v[N];

        load(v, logits + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            const f32 p = i + k < vocab ? expf(v[k] - lse) : 0;

            v[k] = scale * (p - (i + k == target ? 1.0F : 0.0F));
        }
        store(logits + i, v);
    }
}

/* *total += the sum of losses, in one order; one block. */
static __device__ inline void loss_sum(double *total, const f32 *losses, int rows)
{
    __shared__ double room[WARP];
    double sum = 0;

    for (int i = (int)threadIdx.x; i < rows; i += (int)blockDim.x)
        sum += (double)losses[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0)
        *total += sum;
}

#endif /* GPT_POINT_CUH */
