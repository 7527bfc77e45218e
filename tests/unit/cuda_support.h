/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file cuda_support.h
 * A device for lib/cuda/cuda_ops.c whose memory is the host's and whose kernels are emulated,
 * each launch at once.  Included by one file of a program.
 */
#ifndef CUDA_SUPPORT_H
#define CUDA_SUPPORT_H

#include <polder/error.h>

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda_device.h"
#include "device/device_kernels.h"
#include "fake/fake_kernels.h"
#include "tap.h"

static char refusal[256];

static int keep_sentence(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int keep_sentence(int code, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(refusal, sizeof(refusal), format, arguments);
    va_end(arguments);
    return code;
}

static const struct pldi_plugin_host host = {.fail = keep_sentence};
static struct pldi_cuda emulated = {.host = &host};
static pld_device *const gpu = &emulated.head;
static int launches;

/* Few multiprocessors, so that a thread has more than one piece of work. */
int pldi_cuda_multiprocessors(const pld_device *device)
{
    (void)device;
    return 1;
}

void *pldi_cuda_scratch(pld_device *device)
{
    static void *scratch;

    (void)device;
    if (scratch == NULL)
        scratch = aligned_alloc(256, PLDI_CUDA_SCRATCH_BYTES);
    return scratch;
}

int pldi_cuda_launch(pld_device *device, enum pldi_cuda_kernel kernel, unsigned grid,
                     unsigned block, unsigned shared_bytes, pld_stream stream, void **arguments)
{
    const unsigned blocks[3] = {grid, 1, 1};
    const unsigned threads[3] = {block, 1, 1};
    const struct fake_kernel *k = fake_kernels;

    (void)device, (void)stream;
    while (k->name != NULL && strcmp(k->name, pldi_cuda_kernel_names[kernel]) != 0)
        k++;
    if (k->name == NULL)
        return PLD_ERR_NOTFOUND;
    launches++;
    k->run(blocks, threads, shared_bytes, arguments);
    return PLD_OK;
}

/* Pseudo-random bits. */
static uint64_t random_state = 1;

static uint64_t next_random(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15U;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
}

/* About [-2, 2], of many sizes. */
static double random_number(void)
{
    const double fraction = (double)(int64_t)next_random() * 0x1p-62;

    return ldexp(fraction, -(int)(next_random() % 12));
}

static int is_floating_type(pld_dtype dtype)
{
    return dtype == PLD_F32 || dtype == PLD_F64 || dtype == PLD_F16 || dtype == PLD_BF16;
}

/* Store a number rounded by the host's kernels. */
static void put_number(void *to, pld_dtype dtype, double value)
{
    const float single = (float)value;

    if (dtype == PLD_F64)
        memcpy(to, &value, sizeof(value));
    else if (dtype == PLD_F32)
        memcpy(to, &single, sizeof(single));
    else
        pldi_kernels_find("scalar")->narrow(to, &single, 1, dtype);
}

static double get_number(const void *from, pld_dtype dtype)
{
    double value;
    float single;

    if (dtype == PLD_F64) {
        memcpy(&value, from, sizeof(value));
        return value;
    }
    if (dtype == PLD_F32)
        memcpy(&single, from, sizeof(single));
    else
        pldi_kernels_find("scalar")->widen(&single, from, 1, dtype);
    return (double)single;
}

/* Equal bits; of floating types any NaN is as good as another. */
static int same_elements(const void *a, const void *b, size_t count, pld_dtype dtype)
{
    const size_t bytes = pld_dtype_bytes(dtype);
    const char *x = a;
    const char *y = b;

    if (count == 0 || memcmp(a, b, count * bytes) == 0)
        return 1;
    for (size_t i = 0; i < count * bytes; i += bytes) {
        if (memcmp(x + i, y + i, bytes) == 0)
            continue;
        if (!is_floating_type(dtype) || !isnan(get_number(x + i, dtype)) ||
            !isnan(get_number(y + i, dtype)))
            return 0;
    }
    return 1;
}

/* An array that may begin at any element, between bytes that must stay as they are. */
enum { GUARD_BYTES = 64, GUARD = 0x5a };

struct array {
    char *memory;
    char *at;
    size_t bytes;
};

static struct array array_new(size_t count, pld_dtype dtype, size_t shift)
{
    const size_t bytes = count * pld_dtype_bytes(dtype);
    const size_t all = (GUARD_BYTES * 3 + bytes + 63) / 64 * 64;
    struct array a = {.memory = aligned_alloc(64, all), .bytes = bytes};

    memset(a.memory, GUARD, all);
    a.at = a.memory + GUARD_BYTES + shift * pld_dtype_bytes(dtype);
    return a;
}

/* Free; 1: nothing was written around it. */
static int array_free(struct array *a)
{
    int good = 1;

    for (char *p = a->memory; p < a->at; p++)
        good &= *p == GUARD;
    for (char *p = a->at + a->bytes; p < a->at + a->bytes + GUARD_BYTES; p++)
        good &= *p == GUARD;
    free(a->memory);
    return good;
}

/* Numbers; every 31st, if wanted, is one that needs care. */
static void array_fill(struct array *a, pld_dtype dtype, int special)
{
    static const double odd_ones[] = {0, -0.0, 1e-310, -1e-41, 3e-6, INFINITY, -INFINITY, 6.1e4};
    const size_t bytes = pld_dtype_bytes(dtype);

    for (size_t i = 0; i < a->bytes; i += bytes) {
        const uint64_t bits = next_random();

        if (!is_floating_type(dtype))
            memcpy(a->at + i, &bits, bytes);
        else if (special && bits % 31 == 0)
            put_number(a->at + i, dtype, bits % 8 == 5 ? (double)NAN : odd_ones[bits / 31 % 8]);
        else
            put_number(a->at + i, dtype, random_number());
    }
}

#endif /* CUDA_SUPPORT_H */
