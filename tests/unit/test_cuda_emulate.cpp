/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The emulator of device code: what warps and blocks do together gives what the CUDA manual
 * says, and what is wrong with a kernel is found.
 */

#include "fake/cuda_emulate.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

#include "tap.h"

enum { WARPS = 4, THREADS = 32 * WARPS, BLOCKS = 5 };

/* Lane l of a warp: sums by all shuffles; 0 if one of them is wrong. */
extern "C" __global__ void shuffles(int *good)
{
    const int lane = threadIdx.x % 32;
    const int x = 100 * (int)threadIdx.x;
    const int base = x - 100 * lane;
    int fine = __shfl_sync(0xffffffffU, x, 5) == base + 500;

    fine &=
        __shfl_sync(0xffffffffU, x, lane + 9, 8) == base + 100 * (lane / 8 * 8 + (lane + 9) % 8);
    fine &= __shfl_xor_sync(0xffffffffU, x, 3) == base + 100 * (lane ^ 3);
    fine &= __shfl_down_sync(0xffffffffU, x, 2) == (lane < 30 ? x + 200 : x);
    fine &= __shfl_up_sync(0xffffffffU, x, 2) == (lane > 1 ? x - 200 : x);
    fine &= __ballot_sync(0xffffffffU, lane % 3 == 0) == 0x49249249U;
    fine &= __all_sync(0xffffffffU, lane < 32) && !__all_sync(0xffffffffU, lane < 31);
    fine &= __any_sync(0xffffffffU, lane == 7) && !__any_sync(0xffffffffU, lane > 31);
    if (lane < 16)
        fine &= __shfl_xor_sync(0xffffU, x, 8) == base + 100 * (lane ^ 8);
    else
        fine &= __ballot_sync(0xffff0000U, 1) == 0xffff0000U;
    __syncwarp();
    good[blockIdx.x * THREADS + threadIdx.x] = fine;
}

/* The sum over a block, by shared memory and barriers; the threads of the last warp end early. */
extern "C" __global__ void barriers(int *sums)
{
    __shared__ int room[THREADS];

    if (threadIdx.x >= THREADS - 32)
        return;
    room[threadIdx.x] = (int)threadIdx.x;
    __syncthreads();
    for (unsigned step = 1; step < THREADS; step *= 2) {
        const unsigned other = threadIdx.x + step;
        const int x = other < THREADS - 32 ? room[other] : 0;

        __syncthreads();
        room[threadIdx.x] += x;
        __syncthreads();
    }
    if (threadIdx.x == 0)
        sums[blockIdx.x] = room[0];
    if (__syncthreads_count(threadIdx.x < 7) != 7 || !__syncthreads_or(threadIdx.x == 3) ||
        __syncthreads_and(threadIdx.x == 3))
        sums[blockIdx.x] = -1;
}

extern "C" __global__ void reads_unwritten(float *out, float *of_lane)
{
    __shared__ float room[4];
    DYNAMIC_SHARED(float, more);
    const float stray = __shfl_sync(0x3U, 1.0F, 9);

    of_lane[threadIdx.x] = stray;
    if (threadIdx.x > 0)
        return;
    out[0] = room[1];
    out[1] = more[1];
    room[1] = more[1] = 7;
}

/* Half of a warp waits for the whole of it. */
extern "C" __global__ void diverges(int *out)
{
    if (threadIdx.x % 2 == 0)
        out[0] = __shfl_sync(0xffffffffU, 1, 3);
    __syncthreads();
}

/* A lane that its own mask does not name. */
extern "C" __global__ void names_others(int *out)
{
    out[threadIdx.x] = __shfl_sync(0x2U, 1, 1);
}

/* Lanes that have ended are not waited for. */
extern "C" __global__ void ends_early(int *out)
{
    if (threadIdx.x % 2 == 1)
        return;
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffU, (int)threadIdx.x, 2);
}

extern "C" __global__ void counts_up(unsigned long long *total, float *sum, int *order)
{
    order[atomicAdd(total, 1ULL)] = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(sum, 0.5F);
}

/* c = a b + c, one tile, in halves added up in f32. */
extern "C" __global__ void multiplies(const __half *a, const __half *b, float *c)
{
    using namespace nvcuda;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> tile_a;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> tile_b;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;

    wmma::load_matrix_sync(tile_a, a, 16);
    wmma::load_matrix_sync(tile_b, b, 16);
    wmma::load_matrix_sync(sum, c, 16, wmma::mem_row_major);
    wmma::mma_sync(sum, tile_a, tile_b, sum);
    for (int i = 0; i < sum.num_elements; i++)
        sum.x[i] *= 2;
    wmma::store_matrix_sync(c, sum, 16, wmma::mem_row_major);
}

const struct fake_kernel fake_kernels[] = {
    FAKE_KERNEL(shuffles),     FAKE_KERNEL(barriers),   FAKE_KERNEL(reads_unwritten),
    FAKE_KERNEL(names_others), FAKE_KERNEL(diverges),   FAKE_KERNEL(ends_early),
    FAKE_KERNEL(counts_up),    FAKE_KERNEL(multiplies), FAKE_KERNELS_END};

static char complaint[256];

static void keep(const char *sentence)
{
    snprintf(complaint, sizeof(complaint), "%s", sentence);
}

template <class... A>
static void run(const char *name, unsigned blocks, unsigned threads, unsigned shared,
                A... arguments)
{
    const unsigned grid[3] = {blocks, 1, 1};
    const unsigned block[3] = {threads, 1, 1};
    void *addresses[] = {&arguments...};

    for (const struct fake_kernel *k = fake_kernels; k->name != NULL; k++)
        if (strcmp(k->name, name) == 0)
            k->run(grid, block, shared, addresses);
}

static void test_together()
{
    int good[BLOCKS * THREADS] = {0};
    int sums[BLOCKS] = {0};
    int lanes[32];
    int right = 1;

    run("shuffles", BLOCKS, THREADS, 0, good);
    for (int x : good)
        right &= x;
    ok(right, "shuffles and votes");
    run("barriers", BLOCKS, THREADS, 0, sums);
    right = 1;
    for (int x : sums)
        right &= x == (THREADS - 32) * (THREADS - 33) / 2;
    ok(right, "barriers, also where a warp has ended: %d", sums[0]);
    run("ends_early", 1, 32, 0, lanes);
    right = 1;
    for (int i = 0; i < 32; i += 2)
        right &= lanes[i] == (i ^ 2);
    ok(right && complaint[0] == 0, "lanes that have ended are not waited for");
}

static void test_unwritten()
{
    float out[2] = {0, 0};
    float lanes[2] = {0, 0};

    for (int again = 0; again < 2; again++) {
        run("reads_unwritten", 3, 2, 16, out, lanes);
        ok(isnan(out[0]) && isnan(out[1]), "shared memory not written yet: %g, %g", (double)out[0],
           (double)out[1]);
    }
    ok(isnan(lanes[0]) && isnan(lanes[1]), "from a lane that is not there: %g", (double)lanes[0]);
}

static void test_divergence()
{
    int out = 0;
    int good[BLOCKS * THREADS] = {0};

    run("diverges", 1, 64, 0, &out);
    ok(strstr(complaint, "diverges") != NULL &&
           strstr(complaint, "32 threads wait at a barrier") != NULL,
       "what waits for ever: %s", complaint);
    complaint[0] = 0;
    run("names_others", 1, 2, 0, good);
    ok(strstr(complaint, "names_others") != NULL, "a mask without the caller: %s", complaint);
    run("shuffles", BLOCKS, THREADS, 0, good);
    ok(good[0] && good[BLOCKS * THREADS - 1], "and the next kernel runs");
}

static void test_order()
{
    int first[BLOCKS * 64];
    int second[BLOCKS * 64];
    unsigned long long total = 0;
    float sum = 0;
    int in_order = 1;

    run("counts_up", BLOCKS, 64, 0, &total, &sum, first);
    ok(total == BLOCKS * 64 && sum == BLOCKS * 32, "each thread once: %llu, %g", total,
       (double)sum);
    total = 0;
    run("counts_up", BLOCKS, 64, 0, &total, &sum, second);
    for (int i = 0; i < BLOCKS * 64; i++)
        in_order &= first[i] == i;
    ok(!in_order && memcmp(first, second, sizeof(first)) != 0,
       "threads run in another order each time");
}

static void test_product()
{
    __half a[256];
    __half b[256];
    float c[256];
    int wrong = 0;

    for (int i = 0; i < 256; i++) {
        a[i] = __float2half((float)(i * 7 % 11 - 5));
        b[i] = __float2half((float)(i * 5 % 13 - 6));
        c[i] = (float)i;
    }
    run("multiplies", 1, 32, 0, a, b, c);
    for (int i = 0; i < 256; i++) {
        float wanted = (float)i;

        for (int k = 0; k < 16; k++)
            wanted += __half2float(a[i / 16 * 16 + k]) * __half2float(b[i % 16 * 16 + k]);
        wrong += c[i] != 2 * wanted;
    }
    ok(wrong == 0, "a product of tiles: %d of 256 wrong", wrong);
}

int main()
{
    fake_kernels_complain = keep;
    test_together();
    test_unwritten();
    test_divergence();
    test_order();
    test_product();
    return tap_done();
}
