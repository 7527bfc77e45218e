/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file cuda_bf16.h  Stands for the toolkit's where device code is emulated. */
#ifndef FAKE_CUDA_BF16_H
#define FAKE_CUDA_BF16_H

#include "cuda_emulate_types.h"

#endif /* FAKE_CUDA_BF16_H */
