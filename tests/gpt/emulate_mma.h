/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file emulate_mma.h
 * The instructions of examples/gpt/cuda/gpt_mma.cuh for emulated kernels, in the layout of
 * registers that the PTX manual gives (9.7.14.5, "Warp-level matrix multiply-accumulate").
 * To be included before the kernels; takes that header's place.
 *
 * Asynchronous copies are made at once into a shadow and reach shared memory when their group
 * is waited for, so that a missing wait shows as NaN or old data.
 */
#ifndef GPT_MMA_CUH
#define GPT_MMA_CUH

#include <vector>

#include "cuda_emulate.h"
#include "gpt_vector.cuh"

/* What a lane brings. */
struct emulated_mma {
    f32 *d;
    const u32 *a;
    u32 b[2];
};

struct emulated_matrix {
    u32 *out;
    const bf16 *row;
};

template <class P> static P brought(const fake::lane *lane)
{
    const P *at;

    memcpy(&at, lane->in, sizeof(at));
    return *at;
}

template <class P> static void bring(const P &part, fake::together what)
{
    const P *at = &part;

    memcpy(fake::self->in, &at, sizeof(at));
    fake::meet(ALL_LANES, what);
}

static f32 half_of(u32 pair, int high)
{
    bf16 x;

    x.bits = (uint16_t)(high ? pair >> 16 : pair);
    return widen(x);
}

static void multiply_16x8x16(fake::lane *const members[fake::WARP], unsigned)
{
    emulated_mma part[32];
    f32 a[16][16], b[16][8];

    for (int l = 0; l < 32; l++) {
        const int g = l / 4, t = l % 4;

        part[l] = brought<emulated_mma>(members[l]);
        for (int e = 0; e < 2; e++) {
            a[g][2 * t + e] = half_of(part[l].a[0], e);
            a[g + 8][2 * t + e] = half_of(part[l].a[1], e);
            a[g][2 * t + 8 + e] = half_of(part[l].a[2], e);
            a[g + 8][2 * t + 8 + e] = half_of(part[l].a[3], e);
            b[2 * t + e][g] = half_of(part[l].b[0], e);
            b[2 * t + 8 + e][g] = half_of(part[l].b[1], e);
        }
    }
    for (int l = 0; l < 32; l++)
        for (int e = 0; e < 4; e++) {
            const int row = l / 4 + e / 2 * 8, column = l % 4 * 2 + e % 2;
            f32 sum = part[l].d[e];

            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[k][column];
            part[l].d[e] = sum;
        }
}

static inline void mma(f32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1)
{
    bring(emulated_mma{d, a, {b0, b1}}, multiply_16x8x16);
}

static inline f32 power_of_two(f32 x)
{
    return exp2f(x);
}

template <bool TRANSPOSED>
static void gather_matrices(fake::lane *const members[fake::WARP], unsigned)
{
    emulated_matrix part[32];

    for (int l = 0; l < 32; l++) {
        part[l] = brought<emulated_matrix>(members[l]);
        if (reinterpret_cast<uintptr_t>(part[l].row) % 16 != 0)
            abort(); /* so does the device */
    }
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            u32 pair = 0;

            for (int e = 0; e < 2; e++) {
                const int row = TRANSPOSED ? l % 4 * 2 + e : l / 4;
                const int column = TRANSPOSED ? l / 4 : l % 4 * 2 + e;

                pair |= (u32)part[8 * i + row].row[column].bits << 16 * e;
            }
            part[l].out[i] = pair;
        }
}

static inline void load_matrices(u32 (&out)[4], const bf16 *row)
{
    bring(emulated_matrix{out, row}, gather_matrices<false>);
}

static inline void load_transposed(u32 (&out)[4], const bf16 *row)
{
    bring(emulated_matrix{out, row}, gather_matrices<true>);
}

/* Of one thread: copies on the way, with the number of the group that they are of. */
struct emulated_copy {
    bf16 *to;
    uint4 bytes;
    int group;
};
static std::vector<emulated_copy> emulated_copies[fake::MAX_THREADS];
static int emulated_group[fake::MAX_THREADS];

static inline void copy_async(bf16 *to, const bf16 *from, bool inside)
{
    const unsigned me = threadIdx.x;
    emulated_copy copy = {to, {}, emulated_group[me]};

    if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0)
        abort();
    if (inside)
        memcpy(&copy.bytes, from, sizeof(copy.bytes));
    emulated_copies[me].push_back(copy);
}

static inline void copy_group()
{
    emulated_group[threadIdx.x]++;
}

template <int N> static inline void copy_wait()
{
    const unsigned me = threadIdx.x;
    std::vector<emulated_copy> &all = emulated_copies[me];
    size_t left = 0;

    for (const emulated_copy &copy : all) {
        if (copy.group < emulated_group[me] - N)
            memcpy(copy.to, &copy.bytes, sizeof(copy.bytes));
        else
            all[left++] = copy;
    }
    all.resize(left);
}

#endif /* GPT_MMA_CUH */
