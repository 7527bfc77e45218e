/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* polder's own kernels, to be run without a GPU. */

#include "cuda_emulate.h"

#include "cuda/cuda_kernels.cu"

#define PLDI_CUDA_X(name) FAKE_KERNEL(pldi_cuda_kernel_##name),
const struct fake_kernel fake_kernels[] = {PLDI_CUDA_ALL_KERNELS FAKE_KERNELS_END};
#undef PLDI_CUDA_X
