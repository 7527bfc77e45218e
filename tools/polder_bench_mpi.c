/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * MPI as a contender.  It knows neither bf16 nor f16; it is given them as vectorised
 * operators over 16-bit integers, which cost what MPI_SUM of as many bytes costs.  It has
 * no average either: it is asked for the sum, and spared the division.
 */

#include "polder_bench.h"

#include <polder/interop_mpi.h>

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

struct bench_mpi {
    MPI_Datatype type;
    MPI_Op op;
    int own_op;
    int *counts, *starts; /* [ranks], of parts */
};

static float from_bf16(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

static uint16_t to_bf16(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return (uint16_t)((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

#if defined(__x86_64__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTORISED
#endif

/* The function that MPI calls to combine two vectors of bf16. */
#define BF16_OPERATOR(name, expression)                                                            \
    VECTORISED static void name(void *in, void *inout, int *length, MPI_Datatype *type)            \
    {                                                                                              \
        const uint16_t *x = in;                                                                    \
        uint16_t *y = inout;                                                                       \
                                                                                                   \
        (void)type;                                                                                \
        for (int i = 0; i < *length; i++) {                                                        \
            const float a = from_bf16(x[i]);                                                       \
            const float b = from_bf16(y[i]);                                                       \
                                                                                                   \
            y[i] = to_bf16(expression);                                                            \
        }                                                                                          \
    }

BF16_OPERATOR(sum_bf16, a + b)
BF16_OPERATOR(max_bf16, a > b ? a : b)
BF16_OPERATOR(min_bf16, a < b ? a : b)
BF16_OPERATOR(prod_bf16, a *b)

#ifdef __x86_64__
#define F16_OPERATOR(name, combine)                                                                \
    __attribute__((target("avx,f16c"))) static void name(void *in, void *inout, int *length,       \
                                                         MPI_Datatype *type)                       \
    {                                                                                              \
        const uint16_t *x = in;                                                                    \
        uint16_t *y = inout;                                                                       \
        __m128i rest[2] = {_mm_setzero_si128(), _mm_setzero_si128()};                              \
        int i = 0;                                                                                 \
                                                                                                   \
        (void)type;                                                                                \
        for (; i + 8 <= *length; i += 8) {                                                         \
            const __m256 a = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(x + i)));              \
            const __m256 b = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(y + i)));              \
                                                                                                   \
            _mm_storeu_si128((void *)(y + i), _mm256_cvtps_ph(combine(a, b), 0));                  \
        }                                                                                          \
        memcpy(&rest[0], x + i, (size_t)(*length - i) * 2);                                        \
        memcpy(&rest[1], y + i, (size_t)(*length - i) * 2);                                        \
        rest[1] = _mm256_cvtps_ph(combine(_mm256_cvtph_ps(rest[0]), _mm256_cvtph_ps(rest[1])), 0); \
        memcpy(y + i, &rest[1], (size_t)(*length - i) * 2);                                        \
    }

F16_OPERATOR(sum_f16, _mm256_add_ps)
F16_OPERATOR(max_f16, _mm256_max_ps)
F16_OPERATOR(min_f16, _mm256_min_ps)
F16_OPERATOR(prod_f16, _mm256_mul_ps)
#endif

static MPI_User_function *half_operator(pld_dtype dtype, pld_op redop)
{
    static MPI_User_function *const bf16[BENCH_REDOPS] = {sum_bf16, sum_bf16, max_bf16, min_bf16,
                                                          prod_bf16};
#ifdef __x86_64__
    static MPI_User_function *const f16[BENCH_REDOPS] = {sum_f16, sum_f16, max_f16, min_f16,
                                                         prod_f16};

    if (dtype == PLD_F16)
        return __builtin_cpu_supports("avx2") ? f16[redop] : NULL;
#endif
    return dtype == PLD_BF16 ? bf16[redop] : NULL;
}

static MPI_Datatype type_of(pld_dtype dtype)
{
    switch (dtype) {
    case PLD_F32:
        return MPI_FLOAT;
    case PLD_F64:
        return MPI_DOUBLE;
    case PLD_I64:
        return MPI_INT64_T;
    case PLD_I32:
        return MPI_INT32_T;
    case PLD_U32:
        return MPI_UINT32_T;
    case PLD_I8:
        return MPI_INT8_T;
    case PLD_U8:
        return MPI_UINT8_T;
    case PLD_F16:
    case PLD_BF16:
    default:
        return MPI_UINT16_T;
    }
}

static MPI_Op operator_of(pld_op redop)
{
    switch (redop) {
    case PLD_MAX:
        return MPI_MAX;
    case PLD_MIN:
        return MPI_MIN;
    case PLD_PROD:
        return MPI_PROD;
    case PLD_SUM:
    case PLD_AVG:
    default:
        return MPI_SUM;
    }
}

int bench_mpi_built(void)
{
    return 1;
}

/* All parts are of one length.  What an int cannot hold is cut off: those calls are not made. */
static int cut(struct bench_mpi *mpi, size_t count)
{
    int ranks = 1;

    (void)MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    mpi->counts = calloc(2 * (size_t)ranks, sizeof(*mpi->counts));
    if (mpi->counts == NULL)
        return PLD_ERR_NOMEM;
    mpi->starts = mpi->counts + ranks;
    for (int r = 0; r < ranks; r++) {
        mpi->counts[r] = (int)count;
        mpi->starts[r] = (int)((size_t)r * count);
    }
    return PLD_OK;
}

const struct bench_mpi *bench_mpi_prepare(const struct bench_case *c, int *rc)
{
    const int is_half = c->dtype == PLD_F16 || c->dtype == PLD_BF16;
    MPI_User_function *function = is_half ? half_operator(c->dtype, c->redop) : NULL;
    struct bench_mpi *mpi;

    *rc = 0;
    if (c->count > INT_MAX || (c->op->by_rank && c->bytes / pld_dtype_bytes(c->dtype) > INT_MAX) ||
        (c->op->from == BENCH_ALL_RANKS && is_half && function == NULL))
        return NULL;
    mpi = malloc(sizeof(*mpi));
    if (mpi == NULL) {
        *rc = PLD_ERR_NOMEM;
        return NULL;
    }
    *mpi =
        (struct bench_mpi){type_of(c->dtype), operator_of(c->redop), function != NULL, NULL, NULL};
    *rc = cut(mpi, c->count);
    if (*rc < 0) {
        free(mpi);
        return NULL;
    }
    if (function != NULL && MPI_Op_create(function, 1, &mpi->op) != MPI_SUCCESS) {
        *rc = PLD_ERR_TRANSPORT;
        mpi->own_op = 0;
        bench_mpi_release(mpi);
        return NULL;
    }
    return mpi;
}

void bench_mpi_release(const struct bench_mpi *mpi)
{
    struct bench_mpi *own = (struct bench_mpi *)(uintptr_t)mpi;

    if (own != NULL && own->own_op)
        (void)MPI_Op_free(&own->op);
    if (own != NULL)
        free(own->counts);
    free(own);
}

void bench_mpi_barrier(void)
{
    (void)MPI_Barrier(MPI_COMM_WORLD);
}

void bench_mpi_version(char *out, size_t room)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;

    (void)MPI_Get_library_version(text, &length);
    (void)snprintf(out, room, "%.*s", (int)strcspn(text, ",\n"), text);
}

static int code(int mpi_code)
{
    return mpi_code == MPI_SUCCESS ? PLD_OK : PLD_ERR_TRANSPORT;
}

int bench_mpi_allreduce(const struct bench_call *c)
{
    return code(MPI_Allreduce(c->in_place ? MPI_IN_PLACE : c->send, c->recv, (int)c->count,
                              c->mpi->type, c->mpi->op, MPI_COMM_WORLD));
}

/* In place MPI leaves the result at the start of the vector that was sent. */
int bench_mpi_reduce_scatter(const struct bench_call *c)
{
    return code(MPI_Reduce_scatter_block(c->in_place ? MPI_IN_PLACE : c->send,
                                         c->in_place ? c->send : c->recv, (int)c->count,
                                         c->mpi->type, c->mpi->op, MPI_COMM_WORLD));
}

int bench_mpi_allgather(const struct bench_call *c)
{
    return code(MPI_Allgather(c->in_place ? MPI_IN_PLACE : c->send, (int)c->count, c->mpi->type,
                              c->recv, (int)c->count, c->mpi->type, MPI_COMM_WORLD));
}

int bench_mpi_broadcast(const struct bench_call *c)
{
    return code(MPI_Bcast(c->recv, (int)c->count, c->mpi->type, c->root, MPI_COMM_WORLD));
}

/* What is in place is so at the root alone. */
static int is_placed(const struct bench_call *c)
{
    return c->in_place && c->rank == c->root;
}

int bench_mpi_reduce(const struct bench_call *c)
{
    return code(MPI_Reduce(is_placed(c) ? MPI_IN_PLACE : c->send,
                           c->rank == c->root ? c->recv : NULL, (int)c->count, c->mpi->type,
                           c->mpi->op, c->root, MPI_COMM_WORLD));
}

int bench_mpi_alltoall(const struct bench_call *c)
{
    return code(MPI_Alltoall(c->in_place ? MPI_IN_PLACE : c->send, (int)c->count, c->mpi->type,
                             c->recv, (int)c->count, c->mpi->type, MPI_COMM_WORLD));
}

int bench_mpi_gather(const struct bench_call *c)
{
    return code(MPI_Gather(is_placed(c) ? MPI_IN_PLACE : c->send, (int)c->count, c->mpi->type,
                           c->recv, (int)c->count, c->mpi->type, c->root, MPI_COMM_WORLD));
}

int bench_mpi_scatter(const struct bench_call *c)
{
    return code(MPI_Scatter(c->send, (int)c->count, c->mpi->type,
                            is_placed(c) ? MPI_IN_PLACE : c->recv, (int)c->count, c->mpi->type,
                            c->root, MPI_COMM_WORLD));
}

int bench_mpi_sendrecv(const struct bench_call *c)
{
    const int next = (c->rank + 1) % c->size;
    const int previous = (c->rank + c->size - 1) % c->size;

    return code(MPI_Sendrecv(c->send, (int)c->count, c->mpi->type, next, 1, c->recv, (int)c->count,
                             c->mpi->type, previous, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
}

int bench_mpi_sync(const struct bench_call *c)
{
    (void)c;
    return code(MPI_Barrier(MPI_COMM_WORLD));
}

/* As bench_mpi_reduce_scatter(). */
int bench_mpi_reduce_scatter_v(const struct bench_call *c)
{
    return code(MPI_Reduce_scatter(c->in_place ? MPI_IN_PLACE : c->send,
                                   c->in_place ? c->send : c->recv, c->mpi->counts, c->mpi->type,
                                   c->mpi->op, MPI_COMM_WORLD));
}

int bench_mpi_allgather_v(const struct bench_call *c)
{
    return code(MPI_Allgatherv(c->in_place ? MPI_IN_PLACE : c->send, (int)c->count, c->mpi->type,
                               c->recv, c->mpi->counts, c->mpi->starts, c->mpi->type,
                               MPI_COMM_WORLD));
}

int bench_mpi_alltoall_v(const struct bench_call *c)
{
    return code(MPI_Alltoallv(c->send, c->mpi->counts, c->mpi->starts, c->mpi->type, c->recv,
                              c->mpi->counts, c->mpi->starts, c->mpi->type, MPI_COMM_WORLD));
}

int bench_mpi_gather_v(const struct bench_call *c)
{
    return code(MPI_Gatherv(is_placed(c) ? MPI_IN_PLACE : c->send, (int)c->count, c->mpi->type,
                            c->recv, c->mpi->counts, c->mpi->starts, c->mpi->type, c->root,
                            MPI_COMM_WORLD));
}

int bench_mpi_scatter_v(const struct bench_call *c)
{
    return code(MPI_Scatterv(c->send, c->mpi->counts, c->mpi->starts, c->mpi->type,
                             is_placed(c) ? MPI_IN_PLACE : c->recv, (int)c->count, c->mpi->type,
                             c->root, MPI_COMM_WORLD));
}

static int each(const struct bench_call *c, int send_parts, int recv_parts,
                int (*call)(const struct bench_call *))
{
    int rc = 0;

    for (int i = 0; i < BENCH_ITEMS && rc == 0; i++) {
        const struct bench_piece p = bench_piece_of(c, send_parts, recv_parts, i);

        rc = call(&p.call);
    }
    return rc;
}

int bench_mpi_allreduce_list(const struct bench_call *c)
{
    return each(c, 0, 0, bench_mpi_allreduce);
}

int bench_mpi_reduce_scatter_list(const struct bench_call *c)
{
    return each(c, 1, 0, bench_mpi_reduce_scatter);
}

int bench_mpi_allgather_list(const struct bench_call *c)
{
    return each(c, 0, 1, bench_mpi_allgather);
}

int bench_mpi_broadcast_list(const struct bench_call *c)
{
    return each(c, 0, 0, bench_mpi_broadcast);
}
