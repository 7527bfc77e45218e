/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file cuda_fp16.h  Stands for the toolkit's where device code is emulated. */
#ifndef FAKE_CUDA_FP16_H
#define FAKE_CUDA_FP16_H

#include "cuda_emulate_types.h"

#endif /* FAKE_CUDA_FP16_H */
