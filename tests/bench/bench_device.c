/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The kernels of a GPU beside its copies, in turn, medians of the time between events:
 *
 *     bench_device [MILLION-ELEMENTS] [ROUNDS]
 *
 * The share is that of the bandwidth at which the device copies its own memory, counting
 * bytes read and written, which is what a kernel that is bound by memory can reach.
 */

#include <polder/device.h>
#include <polder/error.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/device.h"

enum { ARRAYS = 6, MAX_ROUNDS = 101, WARM_UP = 3 };

struct bench {
    pld_device *gpu;
    pld_stream stream;
    pld_event begin, end;
    char *a[ARRAYS];
    void *pinned;
    struct pldi_step_control *control;
    struct pldi_step_vote *vote;
    size_t count;
};

/* What is measured: its bytes of device memory for an element. */
struct row {
    const char *name;
    double bytes;
    int (*run)(struct bench *b);
};

static int copy(struct bench *b)
{
    return pld_device_copy(b->gpu, b->a[0], b->a[1], b->count * 4, b->stream);
}

static int upload(struct bench *b)
{
    return pld_device_copy(b->gpu, b->a[0], b->pinned, b->count * 4, b->stream);
}

static int download(struct bench *b)
{
    return pld_device_copy(b->gpu, b->pinned, b->a[0], b->count * 4, b->stream);
}

static int fill(struct bench *b)
{
    return pld_device_fill(b->gpu, b->a[0], 0, b->count * 4, b->stream);
}

static int reduce(struct bench *b, int n_srcs, pld_dtype dtype)
{
    const void *srcs[] = {b->a[0], b->a[1], b->a[2], b->a[3]};
    void *dst = b->a[4];

    return b->gpu->ops->reduce(b->gpu, &dst, 1, srcs, n_srcs, b->count, dtype, PLD_SUM, 1,
                               b->stream);
}

static int sum_two_f32(struct bench *b)
{
    return reduce(b, 2, PLD_F32);
}

static int sum_two_bf16(struct bench *b)
{
    return reduce(b, 2, PLD_BF16);
}

static int sum_four_bf16(struct bench *b)
{
    return reduce(b, 4, PLD_BF16);
}

static int norm(struct bench *b, pld_dtype dtype)
{
    const struct pldi_range range = {b->a[1], b->count, dtype};

    return b->gpu->ops->sum_squares(b->gpu, &range, 1, b->vote, b->stream);
}

static int norm_f32(struct bench *b)
{
    return norm(b, PLD_F32);
}

static int norm_bf16(struct bench *b)
{
    return norm(b, PLD_BF16);
}

static int sweep(struct bench *b, pld_dtype dtype, int adamw)
{
    const struct pldi_device_sweep s = {.value = b->a[0],
                                        .grad = b->a[1],
                                        .master = dtype == PLD_F32 ? NULL : (void *)b->a[2],
                                        .first = (void *)b->a[3],
                                        .second = (void *)b->a[4],
                                        .count = b->count,
                                        .dtype = dtype,
                                        .grad_dtype = dtype,
                                        .lr = 1e-4,
                                        .beta1 = 0.9,
                                        .beta2 = 0.95,
                                        .eps = 1e-8,
                                        .momentum = 0.9,
                                        .decay_factor = 1,
                                        .adamw = adamw};

    return b->gpu->ops->sweep(b->gpu, &s, b->control, b->stream);
}

static int adamw_f32(struct bench *b)
{
    return sweep(b, PLD_F32, 1);
}

static int adamw_bf16(struct bench *b)
{
    return sweep(b, PLD_BF16, 1);
}

static int sgd_f32(struct bench *b)
{
    return sweep(b, PLD_F32, 0);
}

static int narrow(struct bench *b)
{
    return b->gpu->ops->cast(b->gpu, b->a[0], PLD_BF16, b->a[1], PLD_F32, b->count, b->stream);
}

static int hash(struct bench *b)
{
    return b->gpu->ops->hash(b->gpu, b->a[0], b->count * 4, (void *)b->vote, b->stream);
}

static int shuffle(struct bench *b)
{
    return b->gpu->ops->shuffle(b->gpu, b->a[0], b->a[1], b->count, 4, b->stream);
}

/* AdamW reads and writes value, moments and master, reads the gradient and sets it to zero. */
static const struct row rows[] = {
    {"copy, device to device", 8, copy},
    {"copy, host to device", 4, upload},
    {"copy, device to host", 4, download},
    {"fill", 4, fill},
    {"sum of two, f32", 12, sum_two_f32},
    {"sum of two, bf16", 6, sum_two_bf16},
    {"sum of four, bf16", 10, sum_four_bf16},
    {"norm, f32", 4, norm_f32},
    {"norm, bf16", 2, norm_bf16},
    {"AdamW, f32", 32, adamw_f32},
    {"AdamW, bf16, f32 master", 32, adamw_bf16},
    {"SGD with momentum, f32", 24, sgd_f32},
    {"f32 to bf16", 6, narrow},
    {"hash", 4, hash},
    {"byte shuffle, width 4", 8, shuffle},
};
enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

static int compare(const void *x, const void *y)
{
    const double a = *(const double *)x;
    const double b = *(const double *)y;

    return (a > b) - (a < b);
}

static int timed(struct bench *b, const struct row *row, double *seconds)
{
    int rc = pld_event_record(b->gpu, b->begin, b->stream);

    rc = rc < 0 ? rc : row->run(b);
    rc = rc < 0 ? rc : pld_event_record(b->gpu, b->end, b->stream);
    rc = rc < 0 ? rc : pld_event_wait(b->gpu, b->end);
    return rc < 0 ? rc : pld_event_seconds(b->gpu, b->begin, b->end, seconds);
}

static int open_all(struct bench *b)
{
    void *memory = NULL;
    int rc = pldi_device_open(NULL, &b->gpu);

    rc = rc < 0 ? rc : pld_stream_create(b->gpu, 0, &b->stream);
    rc = rc < 0 ? rc : pld_event_create(b->gpu, 1, &b->begin);
    rc = rc < 0 ? rc : pld_event_create(b->gpu, 1, &b->end);
    for (int i = 0; i < ARRAYS && rc == 0; i++) {
        rc = pld_device_alloc(b->gpu, b->count * 4, PLD_MEM_DEVICE, &memory);
        b->a[i] = memory;
        rc = rc < 0 ? rc : pld_device_fill(b->gpu, memory, 0, b->count * 4, b->stream);
    }
    rc = rc < 0 ? rc : pld_device_alloc(b->gpu, b->count * 4, PLD_MEM_PINNED, &b->pinned);
    rc = rc < 0 ? rc : pld_device_alloc(b->gpu, 512, PLD_MEM_DEVICE, &memory);
    if (rc < 0)
        return rc;
    b->control = memory;
    b->vote = (void *)((char *)memory + 256);
    return pld_device_fill(b->gpu, memory, 0, 512, b->stream);
}

/* The rounds go over all rows in turn. */
static int measure(struct bench *b, int rounds, double (*seconds)[MAX_ROUNDS])
{
    int rc = 0;

    for (int i = -WARM_UP; i < rounds && rc == 0; i++)
        for (int r = 0; r < (int)ROWS && rc == 0; r++)
            rc = timed(b, &rows[r], &seconds[r][i < 0 ? 0 : i]);
    return rc;
}

int main(int argc, char **argv)
{
    static double seconds[ROWS][MAX_ROUNDS];
    const int rounds = argc > 2 ? atoi(argv[2]) : 21;
    struct bench b = {.count = (size_t)(argc > 1 ? atoi(argv[1]) : 128) * 1000000};
    pld_device_info info;
    double limit = 0;

    if (b.count == 0 || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: bench_device [MILLION-ELEMENTS] [ROUNDS, 1 to %d]\n", MAX_ROUNDS);
        return 2;
    }
    if (open_all(&b) < 0 || measure(&b, rounds, seconds) < 0) {
        fprintf(stderr, "bench_device: %s\n", pld_last_error());
        return 1;
    }
    pld_device_get_info(b.gpu, &info);
    printf("# %s, %zu million elements, median of %d rounds\n", info.name, b.count / 1000000,
           rounds);
    printf("%-26s %12s %10s %9s\n", "what", "us", "GB/s", "of copy");
    for (int r = 0; r < (int)ROWS; r++) {
        double rate;

        qsort(seconds[r], (size_t)rounds, sizeof(double), compare);
        rate = (double)b.count * rows[r].bytes / seconds[r][rounds / 2] * 1e-9;
        limit = r == 0 ? rate : limit;
        printf("%-26s %12.1f %10.1f %8.0f%%\n", rows[r].name, seconds[r][rounds / 2] * 1e6, rate,
               100 * rate / limit);
    }
    return 0;
}
