/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* All kernels, in one image. */

#include "cuda/cuda_bytes.cuh"
#include "cuda/cuda_norm.cuh"
#include "cuda/cuda_optim.cuh"
#include "cuda/cuda_reduce.cuh"
