/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The contenders: polder, MPI, and for scale all ranks copying a vector at once,
 * with memcpy() and with stores that go past the caches.  bf16, which MPI does not
 * know, is given to it as a vectorised operator over 16-bit integers: it costs what
 * MPI_SUM of as many bytes costs.
 */

#include "bench.h"

#include <mpi.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

static const size_t MOST_SETS = 1 << 14;
static const double QUICK_BYTES = 1.5e9;

/* Where an iteration of a contender finds its buffers. */
struct vectors {
    char *send, *recv;
};

struct bench {
    const struct bench_area *area;
    const struct bench_case *c;
    pld_group *world;
    int rank, size;
    size_t send_bytes, recv_bytes, count;
    size_t stride, sets;
    MPI_Datatype type;
    MPI_Op sum;
};

const char *bench_op_name(enum bench_op op)
{
    static const char *const names[] = {"allreduce", "reduce_scatter", "allgather"};

    return op < BENCH_OPS ? names[op] : "?";
}

int bench_area_open(pld_runtime *runtime, enum bench_memory memory, size_t bytes,
                    struct bench_area *out)
{
    void *data = NULL;
    int rc = PLD_OK;

    if (memory == BENCH_SHARED)
        rc = pld_mem_alloc(runtime, bytes, &data);
    else if (posix_memalign(&data, 4096, bytes) != 0)
        rc = PLD_ERR_NOMEM;
    rc = pld_agree(pld_runtime_world(runtime), rc);
    if (rc < 0)
        return rc;
    memset(data, 0, bytes);
    *out = (struct bench_area){runtime, memory, data, bytes};
    /* Touched once by all, so that no page is first met during a measurement. */
    for (int root = 0; root < pld_runtime_size(runtime) && rc == 0; root++)
        rc = pld_broadcast(pld_runtime_world(runtime), data, bytes, PLD_U8, root, NULL);
    return rc;
}

void bench_area_close(struct bench_area *area)
{
    if (area->memory == BENCH_SHARED)
        pld_mem_free(area->runtime, area->data);
    else
        free(area->data);
    area->data = NULL;
}

#if defined(__x86_64__) && !defined(__clang__)
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
static void
sum_bf16(void *in, void *inout, int *length, MPI_Datatype *type)
{
    const uint16_t *x = in;
    uint16_t *y = inout;

    (void)type;
    for (int i = 0; i < *length; i++) {
        uint32_t a = (uint32_t)x[i] << 16;
        uint32_t b = (uint32_t)y[i] << 16;
        float f, g;

        memcpy(&f, &a, 4);
        memcpy(&g, &b, 4);
        f += g;
        memcpy(&a, &f, 4);
        y[i] = (uint16_t)((a + 0x7fffU + (a >> 16 & 1U)) >> 16);
    }
}

static void stream_copy(char *to, const char *from, size_t bytes)
{
#ifdef __x86_64__
    size_t i = 0;

    for (; i + 64 <= bytes && (uintptr_t)to % 16 == 0; i += 64) {
        for (size_t k = i; k < i + 64; k += 16)
            _mm_stream_si128((void *)(to + k), _mm_loadu_si128((const void *)(from + k)));
    }
    _mm_sfence();
    memcpy(to + i, from + i, bytes - i);
#else
    memcpy(to, from, bytes);
#endif
}

static struct vectors vectors(const struct bench *b, size_t turn)
{
    char *at = b->area->data + turn % b->sets * b->stride;
    struct vectors v = {at, at + b->stride / 2};

    if (!b->c->in_place)
        return v;
    v.recv = v.send;
    if (b->c->op == BENCH_REDUCE_SCATTER)
        v.recv += (size_t)b->rank * b->recv_bytes;
    if (b->c->op == BENCH_ALLGATHER)
        v.send += (size_t)b->rank * b->send_bytes;
    return v;
}

static int run_mpi(const struct bench *b, struct vectors v)
{
    const void *send = b->c->in_place ? MPI_IN_PLACE : v.send;
    const int n = (int)b->count;

    if (b->c->op == BENCH_ALLREDUCE)
        return MPI_Allreduce(send, v.recv, n, b->type, b->sum, MPI_COMM_WORLD);
    if (b->c->op == BENCH_ALLGATHER)
        return MPI_Allgather(send, n, b->type, v.recv, n, b->type, MPI_COMM_WORLD);
    /* In place MPI has the result at the start of the buffer. */
    return MPI_Reduce_scatter_block(send, b->c->in_place ? v.send : v.recv, n, b->type, b->sum,
                                    MPI_COMM_WORLD);
}

static int run_polder(const struct bench *b, struct vectors v)
{
    const pld_dtype dtype = b->c->dtype;

    if (b->c->op == BENCH_ALLREDUCE)
        return pld_allreduce(b->world, v.send, v.recv, b->count, dtype, PLD_SUM, NULL);
    if (b->c->op == BENCH_ALLGATHER)
        return pld_allgather(b->world, v.send, v.recv, b->count, dtype, NULL);
    return pld_reduce_scatter(b->world, v.send, v.recv, b->count, dtype, PLD_SUM, NULL);
}

static int run(const struct bench *b, enum bench_contender who, size_t turn, double *seconds)
{
    const struct vectors v = vectors(b, turn);
    char *at = b->area->data + turn % b->sets * b->stride;
    double start;
    int rc = 0;

    (void)MPI_Barrier(MPI_COMM_WORLD);
    start = MPI_Wtime();
    if (who == BENCH_POLDER)
        rc = run_polder(b, v);
    else if (who == BENCH_MPI)
        rc = run_mpi(b, v) == MPI_SUCCESS ? 0 : PLD_ERR_TRANSPORT;
    else if (who == BENCH_COPY)
        memcpy(at + b->stride / 2, at, b->c->bytes);
    else
        stream_copy(at + b->stride / 2, at, b->c->bytes);
    *seconds = MPI_Wtime() - start;
    return rc;
}

/* Ones, or ranks' numbers from 1, in any dtype that the benchmark knows. */
static void fill(const struct bench *b, void *to, size_t count, int number)
{
    const float f32 = (float)number;
    const double f64 = number;
    const int32_t i32 = number;
    char one[8] = {0};
    const size_t bytes = pld_dtype_bytes(b->c->dtype);

    if (b->c->dtype == PLD_F64)
        memcpy(one, &f64, 8);
    else if (b->c->dtype == PLD_BF16)
        memcpy(one, (const char *)&f32 + 2, 2);
    else if (b->c->dtype == PLD_F32)
        memcpy(one, &f32, 4);
    else
        memcpy(one, &i32, bytes < 4 ? bytes : 4);
    for (size_t i = 0; i < count; i++)
        memcpy((char *)to + i * bytes, one, bytes);
}

/* Operate on ranks' numbers, and count the elements that are not their sum, or their list. */
static int verify(const struct bench *b, long long *wrong)
{
    const struct vectors v = vectors(b, 0);
    const size_t bytes = pld_dtype_bytes(b->c->dtype);
    const size_t parts = b->c->op == BENCH_ALLGATHER ? (size_t)b->size : 1;
    char expected[8];
    int rc;

    fill(b, v.send, b->send_bytes / bytes, b->rank + 1);
    rc = run_polder(b, v);
    *wrong = 0;
    for (size_t i = 0; i < b->recv_bytes / bytes; i++) {
        const int source = (int)(i / (b->recv_bytes / bytes / parts));

        if (i % (b->recv_bytes / bytes / parts) == 0)
            fill(b, expected, 1, parts > 1 ? source + 1 : b->size * (b->size + 1) / 2);
        *wrong += memcmp(v.recv + i * bytes, expected, bytes) != 0;
    }
    fill(b, v.send, b->send_bytes / bytes, 0);
    (void)MPI_Allreduce(MPI_IN_PLACE, wrong, 1, MPI_LONG_LONG, MPI_SUM, MPI_COMM_WORLD);
    return rc;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *samples, int n)
{
    (void)MPI_Allreduce(MPI_IN_PLACE, samples, n, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    qsort(samples, (size_t)n, sizeof(*samples), compare_doubles);
    return n % 2 == 1 ? samples[n / 2] : (samples[n / 2 - 1] + samples[n / 2]) / 2;
}

static int prepare(struct bench *b, const struct bench_area *area, const struct bench_case *c)
{
    const size_t bytes = pld_dtype_bytes(c->dtype);
    const size_t page = 4096;

    *b = (struct bench){.area = area, .c = c, .world = pld_runtime_world(area->runtime)};
    b->rank = pld_group_rank(b->world);
    b->size = pld_group_size(b->world);
    b->count = c->bytes / bytes / (c->op == BENCH_ALLREDUCE ? 1 : (size_t)b->size);
    b->send_bytes = b->recv_bytes = b->count * bytes;
    if (c->op == BENCH_REDUCE_SCATTER)
        b->send_bytes *= (size_t)b->size;
    if (c->op == BENCH_ALLGATHER)
        b->recv_bytes *= (size_t)b->size;
    /* An odd number of lines between buffers, so that they do not share cache sets. */
    b->stride = 2 * ((c->bytes + page - 1) / page * page + 64);
    b->sets = area->bytes / b->stride;
    if (b->sets == 0 || b->count == 0)
        return PLD_ERR_ARG;
    b->sets = c->hot ? 1 : b->sets < MOST_SETS ? b->sets : MOST_SETS;
    b->type = c->dtype == PLD_F32   ? MPI_FLOAT
              : c->dtype == PLD_F64 ? MPI_DOUBLE
              : c->dtype == PLD_I32 ? MPI_INT32_T
                                    : MPI_UINT16_T;
    b->sum = MPI_SUM;
    if (c->dtype == PLD_BF16)
        return MPI_Op_create(sum_bf16, 1, &b->sum) == MPI_SUCCESS ? 0 : PLD_ERR_TRANSPORT;
    return 0;
}

static int iterations(const struct bench_case *c, int ranks)
{
    const double n = QUICK_BYTES / (double)(c->bytes + 4096) / ranks;

    if (c->iterations > 0)
        return c->iterations;
    return n > 1000 ? 1001 : n < 15 ? 15 : (int)n | 1;
}

static void describe(const struct bench *b, struct bench_result *out)
{
    const double s = (double)b->c->bytes;
    const double p = b->size;

    out->bus_bytes = s * (p - 1) / p * (b->c->op == BENCH_ALLREDUCE ? 2 : 1);
    out->moved = b->c->op == BENCH_REDUCE_SCATTER ? (1 + 1 / p) / 2 : 1;
}

int bench_measure(const struct bench_area *area, const struct bench_case *c,
                  struct bench_result *out)
{
    struct bench_result result = {{0}, 0, 0, 0, 0};
    double *samples = NULL;
    struct bench b;
    size_t turn = 0;
    int n;
    int rc = prepare(&b, area, c);

    if (rc < 0)
        return rc;
    n = result.iterations = iterations(c, b.size);
    samples = calloc((size_t)n * BENCH_CONTENDERS, sizeof(*samples));
    rc = pld_agree(b.world, samples == NULL ? PLD_ERR_NOMEM : 0);
    if (rc == 0)
        rc = verify(&b, &result.wrong);
    for (int i = -2; i < n && rc == 0; i++) {
        for (int who = 0; who < BENCH_CONTENDERS && rc == 0; who++)
            rc = run(&b, (enum bench_contender)who, turn++, &samples[who * n + (i < 0 ? 0 : i)]);
    }
    for (int who = 0; who < BENCH_CONTENDERS && rc == 0; who++)
        result.seconds[who] = median(samples + who * n, n);
    free(samples);
    if (b.sum != MPI_SUM)
        (void)MPI_Op_free(&b.sum);
    describe(&b, &result);
    if (rc == 0)
        *out = result;
    return rc;
}
