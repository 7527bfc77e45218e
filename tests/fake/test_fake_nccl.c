/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The arithmetic and the messages of the fake NCCL against plain loops. */

#include <limits.h>
#include <math.h>

#include "ranks.h"

enum { COUNT = 20011, MOST = 65536 }; /* no multiple of anything; longer than a channel */

/* ---- Values of any type: small whole numbers, exact in all of them ---- */

static size_t width(int dtype)
{
    static const size_t widths[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

    return widths[dtype];
}

/* Small whole numbers as f16 and bf16 have them: no rounding is needed. */
static uint16_t half_bits(int dtype, int value)
{
    const float f = (float)value;
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    if (dtype == PLDI_NCCL_BF16)
        return (uint16_t)(bits >> 16);
    if (value == 0)
        return 0;
    return (uint16_t)((bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 127 + 15) << 10) |
                      (bits >> 13 & 1023));
}

static void put(void *x, size_t i, int dtype, int value)
{
    switch (dtype) {
    case PLDI_NCCL_F64:
        ((double *)x)[i] = value;
        break;
    case PLDI_NCCL_F32:
        ((float *)x)[i] = (float)value;
        break;
    case PLDI_NCCL_F16:
    case PLDI_NCCL_BF16:
        ((uint16_t *)x)[i] = half_bits(dtype, value);
        break;
    case PLDI_NCCL_I64:
    case PLDI_NCCL_U64:
        ((int64_t *)x)[i] = value;
        break;
    case PLDI_NCCL_I32:
    case PLDI_NCCL_U32:
        ((int32_t *)x)[i] = value;
        break;
    default:
        ((int8_t *)x)[i] = (int8_t)value;
        break;
    }
}

static int input(int rank, size_t i, int op)
{
    return op == PLDI_NCCL_PROD ? 1 + (int)(i + (size_t)rank) % 2 : (int)(i + 3 * (size_t)rank) % 7;
}

/* What `size` ranks make of element i. */
static int reduced(int size, size_t i, int op)
{
    int acc = input(0, i, op);

    for (int r = 1; r < size; r++) {
        const int x = input(r, i, op);

        if (op == PLDI_NCCL_PROD)
            acc *= x;
        else if (op == PLDI_NCCL_MAX)
            acc = x > acc ? x : acc;
        else if (op == PLDI_NCCL_MIN)
            acc = x < acc ? x : acc;
        else
            acc += x;
    }
    return acc;
}

static void *host_input(int rank, size_t n, int dtype, int op)
{
    void *x = calloc(n + 1, width(dtype));

    for (size_t i = 0; x != NULL && i < n; i++)
        put(x, i, dtype, input(rank, i, op));
    return x;
}

/* Whether the device has wanted[n]. */
static int same(const struct rank *r, const void *device, const void *wanted, size_t bytes)
{
    void *host = malloc(bytes + 1);
    const int good = host != NULL && gpu_read(host, device, bytes, r->stream) == 0 &&
                     memcmp(host, wanted, bytes) == 0;

    free(host);
    return good;
}

/* ---- Collectives ---- */

struct buffers {
    int dtype, op;
    size_t n, bytes;
    void *host, *wanted, *send, *recv;
};

static int make(const struct rank *r, struct buffers *b, int dtype, int op, size_t n)
{
    b->dtype = dtype;
    b->op = op;
    b->n = n;
    b->bytes = n * width(dtype);
    b->host = host_input(r->rank, n, dtype, op);
    b->wanted = calloc(n, width(dtype));
    for (size_t i = 0; i < n; i++)
        put(b->wanted, i, dtype, reduced(r->size, i, op));
    b->send = gpu_new(b->host, b->bytes);
    b->recv = gpu_new(NULL, b->bytes * (size_t)r->size);
    HOLDS(b->host != NULL && b->wanted != NULL && b->send != NULL && b->recv != NULL);
    return 0;
}

static int drop(struct buffers *b)
{
    free(b->host);
    free(b->wanted);
    HOLDS(gpu_free(b->send) == 0 && gpu_free(b->recv) == 0);
    return 0;
}

static int reductions(struct rank *r, int dtype, int op)
{
    const size_t share = COUNT / 4, offset = share * (size_t)r->rank;
    struct buffers b;
    int rc;

    HOLDS(make(r, &b, dtype, op, COUNT) == 0);
    rc = ncclAllReduce(b.send, b.recv, COUNT, dtype, op, r->comm, r->stream);
    HOLDS(rank_settle(r->comm, rc) == 0 && same(r, b.recv, b.wanted, b.bytes));
    rc = ncclReduceScatter(b.send, b.recv, share, dtype, op, r->comm, r->stream);
    HOLDS(rank_settle(r->comm, rc) == 0);
    HOLDS(same(r, b.recv, (const char *)b.wanted + offset * width(dtype), share * width(dtype)));
    rc = ncclReduce(b.send, b.recv, COUNT, dtype, op, r->size - 1, r->comm, r->stream);
    HOLDS(rank_settle(r->comm, rc) == 0);
    HOLDS(r->rank != r->size - 1 || same(r, b.recv, b.wanted, b.bytes));
    /* In place. */
    rc = ncclAllReduce(b.send, b.send, COUNT, dtype, op, r->comm, r->stream);
    HOLDS(rank_settle(r->comm, rc) == 0 && same(r, b.send, b.wanted, b.bytes));
    return drop(&b);
}

static int movements(struct rank *r, int dtype)
{
    struct buffers b;
    int rc;

    HOLDS(make(r, &b, dtype, PLDI_NCCL_SUM, COUNT) == 0);
    rc = ncclAllGather(b.send, b.recv, COUNT, dtype, r->comm, r->stream);
    HOLDS(rank_settle(r->comm, rc) == 0);
    for (int from = 0; from < r->size; from++) {
        void *theirs = host_input(from, COUNT, dtype, PLDI_NCCL_SUM);

        HOLDS(same(r, (char *)b.recv + b.bytes * (size_t)from, theirs, b.bytes));
        free(theirs);
    }
    for (int root = 0; root < r->size; root++) {
        void *theirs = host_input(root, COUNT, dtype, PLDI_NCCL_SUM);

        rc = ncclBroadcast(b.send, b.recv, COUNT, dtype, root, r->comm, r->stream);
        HOLDS(rank_settle(r->comm, rc) == 0 && same(r, b.recv, theirs, b.bytes));
        free(theirs);
    }
    return drop(&b);
}

static int collectives(struct rank *r)
{
    static const int dtypes[] = {PLDI_NCCL_F32, PLDI_NCCL_BF16, PLDI_NCCL_F16,
                                 PLDI_NCCL_F64, PLDI_NCCL_I64,  PLDI_NCCL_I8};

    HOLDS(rank_open(r) == 0);
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        HOLDS(reductions(r, dtypes[i], PLDI_NCCL_SUM) == 0);
    for (int op = PLDI_NCCL_PROD; op <= PLDI_NCCL_MIN; op++)
        HOLDS(reductions(r, PLDI_NCCL_F32, op) == 0 && reductions(r, PLDI_NCCL_U32, op) == 0);
    HOLDS(movements(r, PLDI_NCCL_BF16) == 0);
    return rank_close(r);
}

/* ---- Scaling, and where it is rounded ---- */

static int read_f32(const struct rank *r, const float *x, float *out)
{
    return gpu_read(out, x, sizeof(*out), r->stream);
}

static int scaled(struct rank *r)
{
    const float mine = (float)(8 * (r->rank + 1)), quarter = 0.25F;
    const int whole = 5 + r->rank;
    float *x, *y, *factor, got = 0;
    int *k, sum = 0, op = 0;

    HOLDS(rank_open(r) == 0 && r->size == 4);
    x = gpu_new(&mine, sizeof(mine));
    y = gpu_new(NULL, sizeof(mine));
    factor = gpu_new(&quarter, sizeof(quarter));
    k = gpu_new(&whole, sizeof(whole));
    HOLDS(ncclAllReduce(x, y, 1, PLDI_NCCL_F32, PLDI_NCCL_AVG, r->comm, r->stream) == 0);
    HOLDS(read_f32(r, y, &got) == 0 && got == 20); /* (8 + 16 + 24 + 32) / 4 */
    HOLDS(ncclAllReduce(k, k, 1, PLDI_NCCL_I32, PLDI_NCCL_AVG, r->comm, r->stream) == 0);
    HOLDS(gpu_read(&sum, k, sizeof(sum), r->stream) == 0 && sum == 6); /* 26 / 4 */
    for (int where = 0; where < 2; where++) {
        float host = 0.25F;

        HOLDS(ncclRedOpCreatePreMulSum(&op, where ? (void *)&host : factor, PLDI_NCCL_F32, where,
                                       r->comm) == 0);
        host = 100; /* has been read */
        HOLDS(ncclAllReduce(x, y, 1, PLDI_NCCL_F32, op, r->comm, r->stream) == 0);
        HOLDS(ncclRedOpDestroy(op, r->comm) == 0);
        HOLDS(read_f32(r, y, &got) == 0 && got == 20);
    }
    HOLDS(ncclAllReduce(x, y, 1, PLDI_NCCL_F32, op, r->comm, r->stream) ==
          PLDI_NCCL_INVALID_ARGUMENT);
    HOLDS(ncclRedOpCreatePreMulSum(&op, factor, PLDI_NCCL_F32, 0, r->comm) == 0);
    HOLDS(ncclAllReduce(x, y, 1, PLDI_NCCL_BF16, op, r->comm, r->stream) ==
          PLDI_NCCL_INVALID_ARGUMENT);
    return rank_close(r);
}

/* 256 + 1 is 256 in bf16, so that a ring loses every 1 that comes after; f32 would not. */
static int rounded(struct rank *r)
{
    const uint16_t mine = half_bits(PLDI_NCCL_BF16, r->rank == 0 ? 256 : 1);
    uint16_t *x, *y, got = 0;

    HOLDS(rank_open(r) == 0 && r->size == 4);
    x = gpu_new(&mine, sizeof(mine));
    y = gpu_new(NULL, sizeof(mine));
    /* Root 3 is the end of the ring 0 1 2 3; root 0 of 1 2 3 0. */
    HOLDS(ncclReduce(x, y, 1, PLDI_NCCL_BF16, PLDI_NCCL_SUM, 3, r->comm, r->stream) == 0);
    HOLDS(gpu_read(&got, y, 2, r->stream) == 0);
    HOLDS(r->rank != 3 || got == half_bits(PLDI_NCCL_BF16, 256));
    HOLDS(ncclReduce(x, y, 1, PLDI_NCCL_BF16, PLDI_NCCL_SUM, 0, r->comm, r->stream) == 0);
    HOLDS(gpu_read(&got, y, 2, r->stream) == 0);
    HOLDS(r->rank != 0 || got == half_bits(PLDI_NCCL_BF16, 260)); /* 259, to even */
    return rank_close(r);
}

/* ---- Messages ---- */

static int exchange(struct rank *r)
{
    const int next = (r->rank + 1) % r->size, before = (r->rank + r->size - 1) % r->size;
    void *theirs = host_input(before, COUNT, PLDI_NCCL_F32, PLDI_NCCL_SUM);
    const size_t half = COUNT / 2, bytes = sizeof(float);
    struct buffers b;
    int rc;

    HOLDS(rank_open(r) == 0 && make(r, &b, PLDI_NCCL_F32, PLDI_NCCL_SUM, COUNT) == 0);
    HOLDS(ncclGroupStart() == 0);
    /* Two to the same peer come in order. */
    HOLDS(ncclSend(b.send, half, PLDI_NCCL_F32, next, r->comm, r->stream) == 0);
    HOLDS(ncclSend((char *)b.send + half * bytes, COUNT - half, PLDI_NCCL_F32, next, r->comm,
                   r->stream) == 0);
    HOLDS(ncclRecv(b.recv, half, PLDI_NCCL_F32, before, r->comm, r->stream) == 0);
    HOLDS(ncclRecv((char *)b.recv + half * bytes, COUNT - half, PLDI_NCCL_F32, before, r->comm,
                   r->stream) == 0);
    rc = ncclGroupEnd();
    HOLDS(rc == (r->blocking ? PLDI_NCCL_SUCCESS : PLDI_NCCL_IN_PROGRESS));
    HOLDS(rank_settle(r->comm, rc) == 0 && same(r, b.recv, theirs, b.bytes));
    free(theirs);
    HOLDS(drop(&b) == 0);
    return rank_close(r);
}

/* A group of collectives and messages, on two streams that both wait for all of it. */
static int mixed_group(struct rank *r)
{
    const float mine = (float)(1 + r->rank);
    pldi_cu_stream other = NULL;
    atomic_int gate = 0;
    float *x, *y, *z, got = 0;

    HOLDS(rank_open(r) == 0 && r->size == 2);
    other = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    x = gpu_new(&mine, sizeof(mine));
    y = gpu_new(NULL, sizeof(mine));
    z = gpu_new(NULL, sizeof(mine));
    HOLDS(gpu_gate(other, &gate) == 0);
    HOLDS(ncclGroupStart() == 0);
    HOLDS(ncclAllReduce(x, y, 1, PLDI_NCCL_F32, PLDI_NCCL_SUM, r->comm, r->stream) == 0);
    HOLDS(ncclSend(x, 1, PLDI_NCCL_F32, 1 - r->rank, r->comm, r->stream) == 0);
    HOLDS(ncclRecv(z, 1, PLDI_NCCL_F32, 1 - r->rank, r->comm, other) == 0);
    HOLDS(ncclGroupEnd() == 0);
    gpu_nap(0.005);
    HOLDS(cuStreamQuery(r->stream) == PLDI_CU_NOT_READY);
    atomic_store(&gate, 1);
    HOLDS(read_f32(r, y, &got) == 0 && got == 3);
    HOLDS(gpu_read(&got, z, sizeof(got), other) == 0 && got == (float)(2 - r->rank));
    return rank_close(r);
}

/* A send is not over before its receive, however small it is. */
static int send_waits(struct rank *r)
{
    const float one = 1;
    float *x, got = 0;

    HOLDS(rank_open(r) == 0 && r->size == 2);
    x = gpu_new(r->rank == 0 ? &one : NULL, sizeof(one));
    if (r->rank == 0) {
        HOLDS(ncclSend(x, 1, PLDI_NCCL_F32, 1, r->comm, r->stream) == 0);
        gpu_nap(0.02);
        HOLDS(cuStreamQuery(r->stream) == PLDI_CU_NOT_READY);
        HOLDS(cuStreamSynchronize(r->stream) == 0);
    } else {
        gpu_nap(0.1);
        HOLDS(ncclRecv(x, 1, PLDI_NCCL_F32, 0, r->comm, r->stream) == 0);
        HOLDS(read_f32(r, x, &got) == 0 && got == 1);
    }
    return rank_close(r);
}

static int both_send(struct rank *r)
{
    float *x;

    HOLDS(rank_open(r) == 0);
    x = gpu_new(NULL, sizeof(float));
    HOLDS(ncclSend(x, 1, PLDI_NCCL_F32, 1 - r->rank, r->comm, r->stream) == 0);
    HOLDS(ncclRecv(x, 1, PLDI_NCCL_F32, 1 - r->rank, r->comm, r->stream) == 0);
    return rank_close(r);
}

static int other_counts(struct rank *r)
{
    float *x;

    HOLDS(rank_open(r) == 0);
    x = gpu_new(NULL, MOST * sizeof(float));
    HOLDS(ncclAllReduce(x, x, r->rank == 0 ? MOST : MOST / 2, PLDI_NCCL_F32, PLDI_NCCL_SUM, r->comm,
                        r->stream) == 0);
    return rank_close(r);
}

/* ---- Parts of a communicator ---- */

static int split(struct rank *r)
{
    struct pldi_nccl_config c = rank_config(r);
    pldi_nccl_comm part = NULL, none = NULL;
    const float mine = (float)(1 << r->rank);
    float *x, *y, got = 0;
    int rc;

    HOLDS(rank_open(r) == 0 && r->size == 4);
    x = gpu_new(&mine, sizeof(mine));
    y = gpu_new(NULL, 2 * sizeof(mine));
    /* {0, 2} and {1, 3}, backwards. */
    rc = ncclCommSplit(r->comm, r->rank % 2, -r->rank, &part, &c);
    HOLDS(rank_settle(r->comm, rc) == 0 && part != NULL);
    HOLDS(rank_settle(part, PLDI_NCCL_IN_PROGRESS) == 0);
    rc = ncclAllGather(x, y, 1, PLDI_NCCL_F32, part, r->stream);
    HOLDS(rank_settle(part, rc) == 0);
    HOLDS(read_f32(r, y, &got) == 0 && got == (float)(r->rank % 2 == 0 ? 4 : 8));
    /* Rank 3 has no part in the second. */
    rc = ncclCommSplit(r->comm, r->rank == 3 ? PLDI_NCCL_NO_COLOR : 7, 0, &none, NULL);
    HOLDS(rank_settle(r->comm, rc) == 0 && (none == NULL) == (r->rank == 3));
    HOLDS(cuStreamSynchronize(r->stream) == 0);
    HOLDS(ncclCommDestroy(part) == 0 && (none == NULL || ncclCommDestroy(none) == 0));
    return rank_close(r);
}

int main(void)
{
    static const char *const guard = "FAKE_CUDA_GUARD=1 FAKE_CUDA_SEED=0";

    for (int size = 1; size <= 4; size++)
        for (int threads = 0; threads < 2; threads++)
            world_case("collectives", (struct world){size, threads, size % 2, 0, 0, collectives},
                       size == 3 ? guard : "", 0, 60);
    for (int threads = 0; threads < 2; threads++) {
        world_case("scaling", (struct world){4, threads, 1, 0, 0, scaled}, "", 0, 60);
        world_case("rounding", (struct world){4, threads, 1, 0, 0, rounded}, "", 0, 60);
        world_case("messages", (struct world){4, threads, threads, 0, 0, exchange}, "", 0, 60);
        world_case("messages to oneself", (struct world){1, threads, 1, 0, 0, exchange}, "", 0, 60);
        world_case("a group of both", (struct world){2, threads, 1, 0, 0, mixed_group}, "", 0, 60);
        world_case("a send waits", (struct world){2, threads, 1, 0, 0, send_waits}, "", 0, 60);
        world_case("split", (struct world){4, threads, threads, 0, 0, split}, "", 0, 60);
    }
    world_case("sends that nobody receives", (struct world){2, 1, 1, 0, 0, both_send}, "",
               CHILD_HUNG, 0.5);
    world_case("other counts", (struct world){2, 0, 1, 0, 0, other_counts}, "", CHILD_HUNG, 0.5);
    return tap_done();
}
