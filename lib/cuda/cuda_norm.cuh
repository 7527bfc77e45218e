/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The norm of the gradients, and what one step does about it.
 *
 * Which element goes to which block, thread and accumulator depends on the counts alone: not
 * on where the data lies, nor on how many multiprocessors there are.  So do all additions.
 */
#ifndef PLDI_CUDA_NORM_CUH
#define PLDI_CUDA_NORM_CUH

#include "cuda/cuda_vector.cuh"

enum { SQUARE_SUMS = 4 };

template <class T> static __device__ inline void add_square(f64 &sum, T x)
{
    const f64 v = (f64)widen(x);

    sum += v * v;
}

/* Vectors of all threads, SQUARE_SUMS times: sums[u] gets vector u of each round. */
template <class T>
static __device__ inline void squares_whole(f64 (&sums)[SQUARE_SUMS], const T *x)
{
    enum { N = per_vector<T>::value };
    T piece[SQUARE_SUMS][N];

#pragma unroll
    for (int u = 0; u < SQUARE_SUMS; u++)
        load(piece[u], x + (u * PLDI_CUDA_BLOCK + threadIdx.x) * N);
#pragma unroll
    for (int k = 0; k < SQUARE_SUMS * N; k++)
        add_square(sums[k / N], piece[k / N][k % N]);
}

/* The same of what is not whole, or not aligned. */
template <class T>
static __device__ inline void squares_part(f64 (&sums)[SQUARE_SUMS], const T *x, uint64_t count)
{
    enum { N = per_vector<T>::value };

#pragma unroll
    for (int u = 0; u < SQUARE_SUMS; u++) {
        const uint64_t first = (u * PLDI_CUDA_BLOCK + threadIdx.x) * N;

        for (uint64_t i = first; i < first + N && i < count; i++)
            add_square(sums[u], x[i]);
    }
}

template <class T> static __device__ inline f64 squares(const void *data, uint64_t count)
{
    enum { ROUND = SQUARE_SUMS * PLDI_CUDA_BLOCK * per_vector<T>::value };
    const T *x = static_cast<const T *>(data);
    const bool aligned = (uintptr_t)data % 16 == 0;
    f64 sums[SQUARE_SUMS] = {0, 0, 0, 0};

    for (uint64_t at = 0; at < count; at += ROUND) {
        if (aligned && at + ROUND <= count)
            squares_whole(sums, x + at);
        else
            squares_part(sums, x + at, count - at);
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class T>
static __device__ inline f64 slice_squares(const pldi_cuda_squares &a, int r, uint64_t begin)
{
    const uint64_t left = a.ranges[r].count - begin;

    return squares<T>(static_cast<const T *>(a.ranges[r].data) + begin,
                      left < a.slice ? left : a.slice);
}

/* The range that the block is in: the last one that does not begin after it. */
static __device__ inline int range_of_block(const pldi_cuda_squares &a)
{
    int low = 0;

    for (int high = a.n; high - low > 1;) {
        const int middle = (low + high) / 2;

        if (a.ranges[middle].first_block <= blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    return low;
}

KERNEL(square_slices)(const __grid_constant__ pldi_cuda_squares args)
{
    __shared__ f64 room[32];
    const int r = range_of_block(args);
    const uint64_t begin = (blockIdx.x - args.ranges[r].first_block) * args.slice;
    const int dtype = args.ranges[r].dtype;
    f64 sum;

    if (dtype == PLD_F32)
        sum = slice_squares<f32>(args, r, begin);
    else if (dtype == PLD_F64)
        sum = slice_squares<f64>(args, r, begin);
    else if (dtype == PLD_F16)
        sum = slice_squares<f16>(args, r, begin);
    else
        sum = slice_squares<bf16>(args, r, begin);
    sum = block_sum(sum, room);
    if (threadIdx.x == 0)
        args.partials[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(PLDI_CUDA_TOTAL_BLOCK)
    pldi_cuda_kernel_square_total(const __grid_constant__ pldi_cuda_total args)
{
    __shared__ f64 room[32];
    f64 sum = 0;

    for (uint64_t i = threadIdx.x; i < args.n; i += blockDim.x)
        sum += args.partials[i];
    sum = block_sum(sum, room);
    if (threadIdx.x > 0)
        return;
    if (args.goes_on)
        sum = args.vote->square + sum;
    args.vote->square = sum;
    args.vote->infinite = isfinite(sum) ? 0 : 1;
}

/* high + low, of about 100 bits. */
struct twofold {
    f64 high, low;
};

static __device__ inline twofold product(twofold a, twofold b)
{
    const f64 high = a.high * b.high;
    const f64 low = fma(a.high, b.high, -high) + (a.high * b.low + a.low * b.high);
    const twofold out = {high + low, low - ((high + low) - high)};

    return out;
}

/*
 * x^t, the f64 next to it: what the host's pow() gives but for one case in a hundred or so,
 * which the rounding of step_size to f32 then hides.  The device's own pow() may be off by
 * two units, and need not be the same from one toolkit to the next.
 */
static __device__ inline f64 power(f64 x, int64_t t)
{
    twofold result = {1, 0};
    twofold square = {x, 0};

    for (; t > 0; t /= 2) {
        if (t % 2 != 0)
            result = product(result, square);
        square = product(square, square);
    }
    return result.high;
}

extern "C" __global__ void __launch_bounds__(32)
    pldi_cuda_kernel_step_decide(const __grid_constant__ pldi_cuda_decide args)
{
    const pldi_step_rule &rule = args.rule;
    pldi_step_control control = *args.control;
    const f64 unscale = 1 / control.scaling.scale;

    if (threadIdx.x > 0)
        return;
    control.norm = sqrt(args.vote->square) * unscale;
    if (args.vote->infinite > 0 && isfinite(control.norm))
        control.norm = __longlong_as_double(0x7ff8000000000000);
    control.skip = !isfinite(control.norm);
    control.t += !control.skip;
    control.clip = 1;
    if (rule.clip > 0 && rule.clip / (control.norm + 1e-6) < 1)
        control.clip = rule.clip / (control.norm + 1e-6);
    control.factor = control.clip * unscale;
    if (!control.skip) {
        control.step_size = rule.lr / (1 - power(rule.beta1, control.t));
        control.sqrt_factor = 1 / sqrt(1 - power(rule.beta2, control.t));
    }
    pldi_loss_scale_next(&control.scaling, &rule.scaling, (int)control.skip);
    control.loss_scale = (f32)control.scaling.scale;
    *args.control = control;
}

#endif /* PLDI_CUDA_NORM_CUH */
