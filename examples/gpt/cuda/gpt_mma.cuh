/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Instructions that C++ has no words for, since sm_80: products of tensor cores with operands in
 * registers, matrices from shared memory, and copies into it that do not pass through
 * registers.  In registers rather than through nvcuda::wmma, whose fragments hide which element is
 * where: the rows of a softmax would have to go through shared memory for every tile.
 *
 * Where elements are ("Warp Level Matrix Instructions" of the PTX manual), for lane
 * g * 4 + t, pairs being neighbours in a row:
 *
 *   a [16][16]      register 0: row g, columns 2t, 2t+1; 1: row g+8; 2: columns 2t+8, 2t+9; 3: both
 *   b [16][8]       register 0: rows 2t, 2t+1 of column g; 1: rows 2t+8, 2t+9
 *   c, d [16][8]    0, 1: row g, columns 2t, 2t+1; 2, 3: row g+8
 */
#ifndef GPT_MMA_CUH
#define GPT_MMA_CUH

#include "gpt_vector.cuh"

/* d += a b */
static __device__ inline void mma(f32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 2 to the power of x, to 2 units in the last place; of -INFINITY 0, of NaN NaN. */
static __device__ inline f32 power_of_two(f32 x)
{
    f32 y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ inline u32 shared_address(const void *at)
{
    return (u32)__cvta_generic_to_shared(at);
}

/* Four matrices of 8 x 8; lane 8 i + r names row r of matrix i.  out[i]: of matrix i, row
 * lane / 4, columns 2 (lane % 4) and the next. */
static __device__ inline void load_matrices(u32 (&out)[4], const bf16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* The same of the transposed matrices: column lane / 4, rows 2 (lane % 4) and the next. */
static __device__ inline void load_transposed(u32 (&out)[4], const bf16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* 16 bytes into shared memory; zeros if not `inside`, and then nothing is read. */
static __device__ inline void copy_async(bf16 *to, const bf16 *from, bool inside)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)),
                   "r"(inside ? 16 : 0)
                 : "memory");
}

/* The copies so far are a group. */
static __device__ inline void copy_group()
{
    asm volatile("cp.async.commit_group;" : : : "memory");
}

/* Wait for all groups of this thread but the last N. */
template <int N> static __device__ inline void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
}

#endif /* GPT_MMA_CUH */
