/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file cuda_values.h
 * Arrays of either element type for tests of emulated kernels: with guards, filled from random
 * numbers, read as double; and launching.  Included by one file of a program.
 */
#ifndef CUDA_VALUES_H
#define CUDA_VALUES_H

#include <polder/random.h>

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake/fake_kernels.h"
#include "tap.h"

enum { F32, BF16, DTYPES, GUARD = 64, MOST_ARRAYS = 64 };

static const char *const dtype_names[DTYPES] = {"f32", "bf16"};

/** What an array is. */
struct values {
    void *at;
    size_t count;
    int dtype;
};

/* All arrays of the test at work, freed by all_whole(). */
static struct values arrays[MOST_ARRAYS];
static int array_count;

static double worst; /* of off() */

static size_t bytes_of(const struct values *v)
{
    return v->count * (v->dtype == BF16 ? 2 : 4);
}

static double value(struct values v, size_t i)
{
    uint32_t bits;
    float x;

    if (v.dtype == F32)
        return (double)((const float *)v.at)[i];
    bits = (uint32_t)((const uint16_t *)v.at)[i] << 16;
    memcpy(&x, &bits, 4);
    return (double)x;
}

static void set_value(struct values v, size_t i, double x)
{
    const float rounded = (float)x;
    uint32_t bits;

    if (v.dtype == F32) {
        ((float *)v.at)[i] = rounded;
        return;
    }
    memcpy(&bits, &rounded, 4);
    bits += 0x7fff + (bits >> 16 & 1);
    ((uint16_t *)v.at)[i] = (uint16_t)(bits >> 16);
}

/** [count], full of NaN, between guards. */
static struct values fresh(int dtype, size_t count)
{
    struct values v = {.count = count, .dtype = dtype};
    char *memory = aligned_alloc(GUARD, (2 * GUARD + bytes_of(&v) + GUARD - 1) / GUARD * GUARD);

    memset(memory, 0xa5, GUARD);
    v.at = memory + GUARD;
    memset(v.at, 0xff, bytes_of(&v));
    memset((char *)v.at + bytes_of(&v), 0xa5, GUARD);
    arrays[array_count++] = v;
    return v;
}

/** Random ones with that deviation, already rounded. */
static struct values normal(int dtype, size_t count, uint64_t stream, float deviation)
{
    struct values v = fresh(dtype, count);
    float *x = malloc(count * sizeof(*x));

    pld_random_normal(11, stream, 0, count, x);
    for (size_t i = 0; i < count; i++)
        set_value(v, i, (double)(x[i] * deviation));
    free(x);
    return v;
}

static inline struct values copy_of(struct values from)
{
    struct values v = fresh(from.dtype, from.count);

    memcpy(v.at, from.at, bytes_of(&v));
    return v;
}

/** End of a test: 1 if nothing was written beside an array. */
static int all_whole(void)
{
    int whole = 1;

    for (int k = 0; k < array_count; k++) {
        const unsigned char *before = (unsigned char *)arrays[k].at - GUARD;
        const unsigned char *after = (unsigned char *)arrays[k].at + bytes_of(&arrays[k]);

        for (int i = 0; i < GUARD; i++)
            whole = whole && before[i] == 0xa5 && after[i] == 0xa5;
        free((char *)arrays[k].at - GUARD);
    }
    array_count = 0;
    return whole;
}

/** How far a result is off, beyond what rounding it to its type explains. */
static void off(struct values got, size_t i, double wanted, double unit)
{
    const double rounding = got.dtype == BF16 ? fabs(wanted) / 256 : 0;
    const double error = (fabs(value(got, i) - wanted) - rounding) / unit;

    if (!(error <= worst)) /* NaN counts */
        worst = error;
}

/** A kernel by name and, unless that is DTYPES, type. */
static void launch(const char *name, int dtype, const unsigned grid[2], unsigned threads,
                   unsigned shared, void **arguments)
{
    const unsigned blocks[3] = {grid[0], grid[1], 1}, block[3] = {threads, 1, 1};
    const struct fake_kernel *k = fake_kernels;
    char full[96];

    (void)snprintf(full, sizeof(full), "gpt_%s%s%s", name, dtype < DTYPES ? "_" : "",
                   dtype < DTYPES ? dtype_names[dtype] : "");
    while (k->name != NULL && strcmp(k->name, full) != 0)
        k++;
    if (k->name == NULL) {
        ok(0, "there is no kernel %s", full);
        exit(tap_done());
    }
    k->run(blocks, block, shared, arguments);
}

#define GRID(x, y)                                                                                 \
    (const unsigned[2])                                                                            \
    {                                                                                              \
        x, y                                                                                       \
    }
#define ARGUMENTS(...)                                                                             \
    (void *[])                                                                                     \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

#endif /* CUDA_VALUES_H */
