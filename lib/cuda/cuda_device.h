/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file cuda_device.h  What the files of the plugin share. */
#ifndef PLDI_CUDA_DEVICE_H
#define PLDI_CUDA_DEVICE_H

#include "cuda/cuda_kernels.h"
#include "device/device.h"

/* For cuda_ops.c, which launches polder's own kernels. */

int pldi_cuda_launch(pld_device *device, enum pldi_cuda_kernel kernel, unsigned grid,
                     unsigned block, unsigned shared_bytes, pld_stream stream, void **arguments);
int pldi_cuda_multiprocessors(const pld_device *device);
/** [PLDI_CUDA_SCRATCH_BYTES] of the device. */
void *pldi_cuda_scratch(pld_device *device);
/** PLD_ERR_ARG, with the sentence. */
int pldi_cuda_refuse(const pld_device *device, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif /* PLDI_CUDA_DEVICE_H */
