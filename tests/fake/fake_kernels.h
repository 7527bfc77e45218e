/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file fake_kernels.h
 * How the fake CUDA driver finds kernels: host functions that stand for device code.
 *
 * cuModuleGetFunction() looks the name up in the table `fake_kernels` of every library
 * that FAKE_CUDA_KERNELS names (path:path), then in that of the program itself if it
 * exports one.  What the image is does not matter.
 */
#ifndef FAKE_KERNELS_H
#define FAKE_KERNELS_H

#include <stddef.h>

/** One kernel.  A table ends with a NULL name. */
struct fake_kernel {
    const char *name;
    /**
     * Do the work of the whole grid.  Runs in the driver's own thread, alone, at the
     * kernel's turn in its stream.
     * @param arguments  [n_arguments], address of a copy made at the launch
     */
    void (*run)(const unsigned grid[3], const unsigned block[3], unsigned shared_bytes,
                void **arguments);
    size_t n_arguments;
    const size_t *argument_bytes; /**< [n_arguments], size of each parameter */
};

/** The symbol to export. */
#define FAKE_KERNELS_SYMBOL "fake_kernels"
extern __attribute__((visibility("default"))) const struct fake_kernel fake_kernels[];

#endif /* FAKE_KERNELS_H */
