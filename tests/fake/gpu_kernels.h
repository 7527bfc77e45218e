/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file gpu_kernels.h  Two kernels, for tests of the fake driver of one file each. */
#ifndef GPU_KERNELS_H
#define GPU_KERNELS_H

#include "gpu.h"

enum { N = 1000 };

static inline void run_set(const unsigned grid[3], const unsigned block[3], unsigned shared,
                           void **a)
{
    float *x = *(float **)a[0];

    (void)shared;
    for (unsigned i = 0; i < grid[0] * block[0]; i++)
        x[i] = *(const float *)a[1];
}

/* y = 2 x */
static inline void run_twice(const unsigned grid[3], const unsigned block[3], unsigned shared,
                             void **a)
{
    float *y = *(float **)a[0];
    const float *x = *(const float **)a[1];

    (void)shared;
    for (unsigned i = 0; i < grid[0] * block[0]; i++)
        y[i] = 2 * x[i];
}

static const size_t set_bytes[] = {sizeof(void *), sizeof(float)};
static const size_t twice_bytes[] = {sizeof(void *), sizeof(void *)};
const struct fake_kernel fake_kernels[] = {
    {"set", run_set, 2, set_bytes}, {"twice", run_twice, 2, twice_bytes}, {NULL, NULL, 0, NULL}};

static pldi_cu_module module;

static inline pldi_cu_function kernel(const char *name)
{
    pldi_cu_function f = NULL;

    if (module == NULL)
        (void)cuModuleLoadData(&module, "any image");
    return cuModuleGetFunction(&f, module, name) == 0 ? f : NULL;
}

static inline int launch(const char *name, unsigned n, pldi_cu_stream stream, void **arguments)
{
    return cuLaunchKernel(kernel(name), n, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
}

static inline int set(float *x, float value, pldi_cu_stream stream)
{
    return launch("set", N, stream, (void *[]){&x, &value});
}

static inline int twice(float *y, const float *x, pldi_cu_stream stream)
{
    return launch("twice", N, stream, (void *[]){&y, &x});
}

/* First element, when the stream is done. */
static inline float first(const float *x, pldi_cu_stream stream)
{
    float value = -1;

    return gpu_read(&value, x, sizeof(value), stream) == 0 ? value : -2;
}

#endif /* GPU_KERNELS_H */
