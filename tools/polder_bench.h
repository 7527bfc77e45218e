/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder_bench.h
 * `polder bench`: collective operations measured, checked, and compared.
 *
 * The contenders do the same operation in turn, call by call, so that whatever else
 * the machine does meets all of them alike.  Each call follows a barrier of the same
 * library.  A sample is the time of the slowest rank, a result the median of the
 * samples; with cold buffers each call gets others, out of an area larger than the
 * caches.
 */
#ifndef POLDER_BENCH_H
#define POLDER_BENCH_H

#include <polder/polder.h>

#include <stdio.h>

enum { BENCH_DTYPES = 9, BENCH_REDOPS = 5, BENCH_ALL_ROOTS = -1, BENCH_ITEMS = 8 };
enum bench_memory {
    BENCH_POLDER_MEMORY,
    BENCH_ORDINARY_MEMORY,
    BENCH_DEVICE_MEMORY,
    BENCH_MEMORIES
};

/** Whose data an operation delivers. */
enum bench_from { BENCH_NOTHING, BENCH_ALL_RANKS, BENCH_EACH_RANK, BENCH_ROOT, BENCH_PREVIOUS };

/** In which form an operation can be asked for. */
enum { BENCH_OUT_OF_PLACE = 1, BENCH_IN_PLACE = 2, BENCH_BOTH_PLACES = 3 };

struct bench_call;

/** An operation: one row of the table in polder_bench_op.c. */
struct bench_op {
    const char *name;
    const char *title; /**< as the OSU benchmarks call it */
    int send_parts;    /**< 1: the vector that is sent has a part for each rank, else 0 */
    int recv_parts;    /**< likewise for the one that is received */
    int places;        /**< BENCH_OUT_OF_PLACE | BENCH_IN_PLACE */
    int by_rank;       /**< 1: a part for each rank has a count of its own */
    int items;         /**< 1: the vector is a list of BENCH_ITEMS tensors, part by part each */
    int rooted;
    int root_receives; /**< 1: nobody else does */
    enum bench_from from;
    int from_own_part; /**< 1: what arrives is the source's part for this rank */
    double bus[2];     /**< bus bandwidth / algorithm bandwidth = bus[0] * (n - bus[1]) / n */
    int (*polder)(const struct bench_call *call);
    int (*mpi)(const struct bench_call *call); /**< NULL: built without MPI */
};

/** One call of an operation. */
struct bench_call {
    pld_group *world;
    int rank, size, root;
    int in_place;
    int blocking;
    void *send, *recv;
    size_t count;         /**< elements of a part */
    const size_t *counts; /**< [size], all of them that */
    pld_stream stream;    /**< of vectors in device memory */
    pld_dtype dtype;
    pld_op redop;
    size_t turns;                /**< of bench_compute(), between start and wait */
    const struct bench_mpi *mpi; /**< what MPI needs besides; NULL without it */
};

/** A tensor of a list, as a call of its own. */
struct bench_piece {
    struct bench_call call;
    size_t before; /**< elements of what is sent before it */
};

struct bench_options {
    const struct bench_op *op;
    size_t first, last, step, factor; /**< bytes; step 0: multiply by factor */
    int iterations;                   /**< 0: as many as are quick */
    int warmup, check, blocking;
    unsigned dtypes, redops; /**< sets: 1 << value */
    int root;
    int cold, osu, vs_mpi, help;
    int overlap;
    int explain;
    const char *tune;  /**< file to write; NULL: none */
    unsigned memories; /**< set of enum bench_memory */
    const char *json;
    const char *device; /**< where vectors are; NULL: the host */
};

/** A row of a table: what is measured. */
struct bench_case {
    const struct bench_op *op;
    pld_dtype dtype;
    pld_op redop;
    int root;
    enum bench_memory memory;
    int in_place;
    size_t count; /**< elements of a part */
    size_t bytes; /**< of the longer vector: the size that bandwidths refer to */
};

/** Seconds. */
struct bench_times {
    double median, p10, p90;    /**< over samples, of the slowest rank */
    double mean, fastest, last; /**< of ranks' means: their mean, least, greatest */
};

/** Seconds, means over calls and ranks. */
struct bench_overlap {
    double pure;    /**< of a call that is waited for at once */
    double compute; /**< that were computed for */
    double overall; /**< of a call that is computed during */
    double percent; /**< of `pure` that was hidden */
};

struct bench_result {
    struct bench_times polder, mpi;
    struct bench_overlap overlap;
    double copy; /**< seconds that all ranks take to copy `bytes` at once, the best of two ways */
    int iterations;
    int has_mpi;
    long long wrong, mpi_wrong; /**< elements, over all ranks */
};

/** Area through which buffers rotate, per rank. */
struct bench_area {
    pld_runtime *runtime;
    enum bench_memory memory;
    char *data;
    size_t bytes;
    char *shadow; /**< of the first set, if the area is in device memory */
    pld_stream stream;
};

/* polder_bench_op.c */
const struct bench_op *bench_op_find(const char *name);
const struct bench_op *bench_op_at(int i); /**< NULL behind the last */
double bench_bus_factor(const struct bench_op *op, int size);
double bench_copy_factor(const struct bench_op *op, int in_place, int size);
const char *bench_redop_name(pld_op redop);
/** Whether an element type can be reduced so. */
int bench_redop_takes(pld_op redop, pld_dtype dtype);

struct bench_piece bench_piece_of(const struct bench_call *c, int send_parts, int recv_parts,
                                  int i);

/* polder_bench_overlap.c */
/** Work for the processor, in memory of its own. */
void bench_compute(size_t turns);
/** How many turns take so long; at least 1. */
size_t bench_compute_turns(double seconds);

/* polder_bench_options.c: 0, or -1 with a sentence. */
int bench_options_read(int argc, char **argv, struct bench_options *out, char *why, size_t room);

/* polder_bench_check.c */
void bench_check_fill(const struct bench_call *call, const struct bench_op *op);
/** Elements of this rank's buffers that are not what they should be. */
long long bench_check_count(const struct bench_call *call, const struct bench_op *op);

/* polder_bench_measure.c: collective over the runtime; 0 or a polder error code. */
int bench_area_open(pld_runtime *runtime, const struct bench_options *o, enum bench_memory memory,
                    struct bench_area *out);
void bench_area_close(struct bench_area *area);
int bench_measure(const struct bench_area *area, const struct bench_options *o,
                  const struct bench_case *c, struct bench_result *out);

/* polder_bench_device.c: local; a set is a pair of vectors. */
int bench_device_open(struct bench_area *area, size_t set_bytes);
void bench_device_close(struct bench_area *area);
int bench_device_wait(const struct bench_area *area);
/** Waits for its end. */
int bench_device_copy(const struct bench_area *area, char *to, const char *from, size_t bytes);
/** As bench_check_fill() and bench_check_count(), of the first set. */
int bench_device_fill(const struct bench_area *area, const struct bench_call *call,
                      const struct bench_op *op, size_t set_bytes);
int bench_device_count(const struct bench_area *area, const struct bench_call *call,
                       const struct bench_op *op, size_t set_bytes, long long *wrong);
int bench_device_clear(const struct bench_area *area, size_t set_bytes);

/* polder_bench_mpi.c, or polder_bench_nompi.c: the other contender. */
int bench_mpi_built(void);
/** Type and operator for a case; NULL if MPI cannot do it. */
const struct bench_mpi *bench_mpi_prepare(const struct bench_case *c, int *rc);
void bench_mpi_release(const struct bench_mpi *mpi);
void bench_mpi_barrier(void);
/** Version in one line, "" without MPI. */
void bench_mpi_version(char *out, size_t room);
int bench_mpi_allreduce(const struct bench_call *call);
int bench_mpi_reduce_scatter(const struct bench_call *call);
int bench_mpi_allgather(const struct bench_call *call);
int bench_mpi_broadcast(const struct bench_call *call);
int bench_mpi_reduce(const struct bench_call *call);
int bench_mpi_alltoall(const struct bench_call *call);
int bench_mpi_gather(const struct bench_call *call);
int bench_mpi_scatter(const struct bench_call *call);
int bench_mpi_sendrecv(const struct bench_call *call);
int bench_mpi_sync(const struct bench_call *call);
int bench_mpi_reduce_scatter_v(const struct bench_call *call);
int bench_mpi_allgather_v(const struct bench_call *call);
int bench_mpi_alltoall_v(const struct bench_call *call);
int bench_mpi_gather_v(const struct bench_call *call);
int bench_mpi_scatter_v(const struct bench_call *call);
/* A list: a call for each of its tensors. */
int bench_mpi_allreduce_list(const struct bench_call *call);
int bench_mpi_reduce_scatter_list(const struct bench_call *call);
int bench_mpi_allgather_list(const struct bench_call *call);
int bench_mpi_broadcast_list(const struct bench_call *call);

/** A tuning file under way; the file is rank 0's. */
struct bench_tune {
    FILE *file;
    long long nodes, ppn;
    const char *op, *dtype; /**< of the line so far */
    size_t from, end;
    char winner[40];
};

/* polder_bench_tune.c: collective; 0 or a polder error code. */
int bench_tune_open(struct bench_tune *t, pld_runtime *rt, const struct bench_options *o);
int bench_tune_size(struct bench_tune *t, const struct bench_area *area,
                    const struct bench_options *o, const struct bench_case *c);
void bench_tune_note(struct bench_tune *t, const struct bench_case *c, const char *winner);
/** Local; -1: the file could not be written. */
int bench_tune_close(struct bench_tune *t);
/** How an operation would be carried.  Local. */
void bench_explain(const pld_group *world, const struct bench_case *c, char *text, size_t room);

/* polder_bench_print.c: of rank 0. */
void bench_print_head(const struct bench_options *o, pld_runtime *rt, const char *ranks);
void bench_print_table_head(const struct bench_options *o, const struct bench_case *c);
/** `results[0]` out of place, `results[1]` in place; NULL: not measured. */
void bench_print_row(const struct bench_options *o, const struct bench_case *c,
                     const struct bench_result *const results[2], int size);

/* polder_bench_json.c: of rank 0. */
struct bench_json;
struct bench_json *bench_json_open(const struct bench_options *o, pld_runtime *rt);
void bench_json_add(struct bench_json *json, const struct bench_case *c,
                    const struct bench_result *r, int size);
/** 0, or -1 with errno. */
int bench_json_write(struct bench_json **json, const char *path);

#endif /* POLDER_BENCH_H */
