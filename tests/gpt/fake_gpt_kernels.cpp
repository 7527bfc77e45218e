/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The kernels of examples/gpt, to be run without a GPU. */

#include "cuda_emulate.h"

#include "emulate_mma.h"

#include "gpt_kernels.cu"
#include "gpt_kernels.h"

#define TYPED(name) FAKE_KERNEL(gpt_##name##_f32), FAKE_KERNEL(gpt_##name##_bf16),
#define PLAIN(name) FAKE_KERNEL(gpt_##name),
const struct fake_kernel fake_kernels[] = {GPT_CUDA_TYPED(TYPED) GPT_CUDA_PLAIN(PLAIN)
                                               FAKE_KERNELS_END};
