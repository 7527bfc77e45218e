/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file bench.h
 * Measuring collective operations side by side.
 *
 * Several contenders do the same operation in turn, call by call, so that whatever
 * else the machine does meets all of them alike.  Buffers rotate through an area
 * larger than the caches.  A sample is the time of the slowest rank, a result the
 * median of the samples; only ratios within one run mean anything.
 */
#ifndef BENCH_H
#define BENCH_H

#include <polder/polder.h>

enum bench_op { BENCH_ALLREDUCE, BENCH_REDUCE_SCATTER, BENCH_ALLGATHER, BENCH_OPS };
enum bench_memory { BENCH_SHARED, BENCH_ORDINARY };
enum bench_contender { BENCH_POLDER, BENCH_MPI, BENCH_COPY, BENCH_STREAM, BENCH_CONTENDERS };

/** Area through which buffers rotate, per rank. */
struct bench_area {
    pld_runtime *runtime;
    enum bench_memory memory;
    char *data;
    size_t bytes;
};

/** One row of a table. */
struct bench_case {
    enum bench_op op;
    pld_dtype dtype;
    size_t bytes; /**< of the longer of the two vectors of a rank */
    int in_place;
    int iterations; /**< 0: as many as are quick */
    int hot;        /**< 1: the same buffers each time */
};

/** Medians over iterations of the maximum over ranks; equal on all ranks. */
struct bench_result {
    double seconds[BENCH_CONTENDERS];
    int iterations;
    long long wrong;  /**< elements of the last iterations that are not what they should be */
    double bus_bytes; /**< that each rank must send and receive: bus bandwidth is this by time */
    double moved;     /**< least memory traffic, in units of that of copying `bytes` */
};

int bench_area_open(pld_runtime *runtime, enum bench_memory memory, size_t bytes,
                    struct bench_area *out);
void bench_area_close(struct bench_area *area);

/** Collective over the runtime and MPI_COMM_WORLD.  0, or a polder error code. */
int bench_measure(const struct bench_area *area, const struct bench_case *c,
                  struct bench_result *out);

const char *bench_op_name(enum bench_op op);

#endif /* BENCH_H */
