/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Samples of all contenders, in turn.  For scale, two more contenders copy a vector on
 * all ranks at once, with memcpy() and with stores that go past the caches: an operation
 * cannot be faster than the faster of them, for as much memory as it must touch.
 */

#include "polder_bench.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <emmintrin.h>
#endif

enum contender { POLDER, MPI, COPY, STREAM, CONTENDERS };
enum { PAGE = 4096, LINE = 64, MOST_SETS = 1 << 14, FEWEST = 15, MOST = 1001 };

static const size_t COLD_BYTES = (size_t)256 << 20; /* of all ranks of a node, at least */
static const double QUICK_BYTES = 1.5e9;

struct bench {
    const struct bench_area *area;
    const struct bench_case *c;
    struct bench_call call;
    size_t half, stride, sets; /* the second vector behind the first, sets of two, their number */
    int contends[CONTENDERS];
    size_t *counts; /* [ranks] */
    int hot;
};

static size_t half_of(size_t bytes)
{
    /* A line more than pages, so that two vectors do not share cache sets. */
    return (bytes + PAGE - 1) / PAGE * PAGE + LINE;
}

static size_t area_bytes(pld_runtime *rt, const struct bench_options *o)
{
    const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    const size_t least = 2 * half_of(o->last + 16 * (size_t)pld_runtime_size(rt));
    size_t cold = COLD_BYTES;

    if (!o->cold || o->op->from == BENCH_NOTHING)
        return least;
    if (cache > 0 && (size_t)cache * 8 > cold)
        cold = (size_t)cache * 8;
    cold /= (size_t)pld_runtime_local_size(rt);
    return cold > least ? cold : least;
}

static int open_on_device(pld_runtime *rt, const struct bench_options *o, struct bench_area *out)
{
    const size_t set = 2 * half_of(o->last + 16 * (size_t)pld_runtime_size(rt));
    int rc;

    *out = (struct bench_area){
        .runtime = rt, .memory = BENCH_DEVICE_MEMORY, .bytes = area_bytes(rt, o)};
    rc = pld_agree(pld_runtime_world(rt), bench_device_open(out, set));
    if (rc == 0)
        rc = pld_group_connect(pld_runtime_world(rt));
    if (rc < 0)
        bench_area_close(out);
    return rc;
}

int bench_area_open(pld_runtime *rt, const struct bench_options *o, enum bench_memory memory,
                    struct bench_area *out)
{
    const size_t bytes = area_bytes(rt, o);
    pld_group *world = pld_runtime_world(rt);
    void *data = NULL;
    int rc = PLD_OK;

    if (memory == BENCH_DEVICE_MEMORY)
        return open_on_device(rt, o, out);
    if (memory == BENCH_POLDER_MEMORY)
        rc = pld_mem_alloc(rt, bytes, &data);
    else if (posix_memalign(&data, PAGE, bytes) != 0)
        rc = PLD_ERR_NOMEM;
    *out = (struct bench_area){.runtime = rt, .memory = memory, .data = data, .bytes = bytes};
    rc = pld_agree(world, rc);
    if (rc == 0)
        memset(data, 0, bytes);
    /* Touched by all, so that no page is first met during a measurement. */
    for (int root = 0; root < pld_runtime_size(rt) && rc == 0; root++)
        rc = pld_broadcast(world, data, bytes, PLD_U8, root, NULL);
    if (rc < 0)
        bench_area_close(out);
    return rc;
}

void bench_area_close(struct bench_area *area)
{
    if (area->memory == BENCH_DEVICE_MEMORY)
        bench_device_close(area);
    else if (area->memory == BENCH_POLDER_MEMORY)
        pld_mem_free(area->runtime, area->data);
    else
        free(area->data);
    area->data = NULL;
}

static void stream_copy(char *to, const char *from, size_t bytes)
{
    size_t i = 0;

#ifdef __x86_64__
    for (; i + LINE <= bytes && (uintptr_t)to % 16 == 0; i += LINE) {
        for (size_t k = i; k < i + LINE; k += 16)
            _mm_stream_si128((void *)(to + k), _mm_loadu_si128((const void *)(from + k)));
    }
    _mm_sfence();
#endif
    memcpy(to + i, from + i, bytes - i);
}

/* Where a call finds its vectors. */
static void place(struct bench *b, size_t turn)
{
    struct bench_call *call = &b->call;
    char *at = b->area->data + turn % b->sets * b->stride;
    const size_t own = (size_t)call->rank * call->count * pld_dtype_bytes(call->dtype);

    call->send = at;
    call->recv = at + b->half;
    if (!call->in_place)
        return;
    call->recv = at;
    if (b->c->op->send_parts && !b->c->op->recv_parts)
        call->recv = at + own;
    if (b->c->op->recv_parts && !b->c->op->send_parts)
        call->send = at + own;
}

static double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int start_together(const struct bench *b, enum contender who)
{
    if (who != MPI)
        return pld_barrier(b->call.world, NULL);
    bench_mpi_barrier();
    return PLD_OK;
}

static int on_device(const struct bench *b)
{
    return b->area->memory == BENCH_DEVICE_MEMORY;
}

/* Polder's call; on a device it has ended when the stream is empty. */
static int run_polder(struct bench *b)
{
    const int rc = b->c->op->polder(&b->call);

    return rc < 0 || !on_device(b) ? rc : bench_device_wait(b->area);
}

static int run(struct bench *b, enum contender who, size_t turn, double *seconds)
{
    char *at = b->area->data + turn % b->sets * b->stride;
    double start;
    int rc;

    place(b, turn);
    /* The same for all, whose turn comes after one that leaves its results in no cache, too. */
    if (b->hot)
        memcpy(at + b->half, at, b->c->bytes);
    rc = start_together(b, who);
    if (rc < 0)
        return rc;
    start = now();
    if (who == POLDER)
        rc = run_polder(b);
    else if (who == MPI)
        rc = b->c->op->mpi(&b->call);
    else if (on_device(b))
        rc = bench_device_copy(b->area, at + b->half, at, b->c->bytes);
    else if (who == COPY)
        memcpy(at + b->half, at, b->c->bytes);
    else
        stream_copy(at + b->half, at, b->c->bytes);
    *seconds = now() - start;
    return rc;
}

/* One call on known numbers, and the elements that it got wrong, over all ranks. */
static int verify(struct bench *b, enum contender who, long long *wrong)
{
    const struct bench_op *op = b->c->op;
    long long count = 0;
    double ignored;
    int64_t mine;
    int rc = PLD_OK;

    place(b, 0);
    if (on_device(b))
        rc = bench_device_fill(b->area, &b->call, op, b->stride);
    else
        bench_check_fill(&b->call, op);
    if (rc == PLD_OK)
        rc = run(b, who, 0, &ignored);
    if (rc < 0)
        return rc;
    /* MPI leaves the result of a reduce_scatter in place at the start. */
    if (who == MPI && b->call.in_place && op->send_parts && op->from == BENCH_ALL_RANKS)
        b->call.recv = b->call.send;
    if (on_device(b))
        rc = bench_device_count(b->area, &b->call, op, b->stride, &count);
    else if (who != MPI || b->c->redop != PLD_AVG)
        count = bench_check_count(&b->call, op);
    if (rc < 0)
        return rc;
    mine = count;
    rc = pld_allreduce(b->call.world, &mine, &mine, 1, PLD_I64, PLD_SUM, NULL);
    *wrong += mine;
    return rc;
}

static int check(struct bench *b, const struct bench_options *o, struct bench_result *r)
{
    int rc = 0;

    for (int i = 0; i < o->check && rc == 0; i++) {
        rc = verify(b, POLDER, &r->wrong);
        if (b->contends[MPI] && rc == 0)
            rc = verify(b, MPI, &r->mpi_wrong);
    }
    /* The data stays small whatever the operation does with it from now on. */
    if (rc == 0 && on_device(b))
        return bench_device_clear(b->area, b->stride);
    if (!on_device(b))
        memset(b->area->data, 0, b->stride);
    return rc;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;

    return (x > y) - (x < y);
}

static int summarise(pld_group *world, double *samples, int n, struct bench_times *out)
{
    double ranks[3] = {0}; /* mean, and what becomes of it over ranks */
    int rc;

    for (int i = 0; i < n; i++)
        ranks[0] += samples[i] / n;
    ranks[1] = ranks[2] = ranks[0];
    rc = pld_allreduce(world, ranks, ranks, 1, PLD_F64, PLD_AVG, NULL);
    if (rc == 0)
        rc = pld_allreduce(world, ranks + 1, ranks + 1, 1, PLD_F64, PLD_MIN, NULL);
    if (rc == 0)
        rc = pld_allreduce(world, ranks + 2, ranks + 2, 1, PLD_F64, PLD_MAX, NULL);
    if (rc == 0)
        rc = pld_allreduce(world, samples, samples, (size_t)n, PLD_F64, PLD_MAX, NULL);
    qsort(samples, (size_t)n, sizeof(*samples), compare_doubles);
    *out = (struct bench_times){.median = (samples[(n - 1) / 2] + samples[n / 2]) / 2,
                                .p10 = samples[(n - 1) / 10],
                                .p90 = samples[(n - 1) - (n - 1) / 10],
                                .mean = ranks[0],
                                .fastest = ranks[1],
                                .last = ranks[2]};
    return rc;
}

static int iterations(const struct bench_options *o, const struct bench_case *c, int ranks)
{
    const double n = QUICK_BYTES / (double)(c->bytes + PAGE) / ranks;

    if (o->iterations > 0)
        return o->iterations;
    return n > MOST - 1 ? MOST : n < FEWEST ? FEWEST : (int)n | 1;
}

static int prepare(struct bench *b, const struct bench_area *area, const struct bench_options *o,
                   const struct bench_case *c)
{
    pld_group *world = pld_runtime_world(area->runtime);
    int rc = 0;

    *b = (struct bench){.area = area, .c = c, .half = half_of(c->bytes)};
    b->call = (struct bench_call){.world = world,
                                  .rank = pld_group_rank(world),
                                  .size = pld_group_size(world),
                                  .root = c->root,
                                  .in_place = c->in_place,
                                  .blocking = o->blocking,
                                  .count = c->count,
                                  .dtype = c->dtype,
                                  .redop = c->redop,
                                  .stream = area->stream};
    b->counts = calloc((size_t)b->call.size, sizeof(*b->counts));
    for (int r = 0; b->counts != NULL && r < b->call.size; r++)
        b->counts[r] = c->count;
    b->call.counts = b->counts;
    b->hot = !o->cold;
    b->stride = 2 * b->half;
    b->sets = area->bytes / b->stride;
    b->sets = !o->cold ? 1 : b->sets < MOST_SETS ? b->sets : MOST_SETS;
    if (o->vs_mpi)
        b->call.mpi = bench_mpi_prepare(c, &rc);
    b->contends[POLDER] = 1;
    b->contends[MPI] = b->call.mpi != NULL;
    b->contends[COPY] = c->bytes > 0;
    b->contends[STREAM] = c->bytes > 0 && !on_device(b);
    return pld_agree(world, b->counts == NULL ? PLD_ERR_NOMEM : rc);
}

static int sample(struct bench *b, const struct bench_options *o, double *samples, int n)
{
    size_t turn = 0;
    int rc = 0;

    for (int i = -o->warmup; i < n; i++) {
        for (int who = 0; who < CONTENDERS && rc == 0; who++) {
            if (b->contends[who])
                rc = run(b, (enum contender)who, turn++, &samples[who * n + (i < 0 ? 0 : i)]);
        }
        /* Each contender meets each of the sets, wherever in memory they are. */
        turn += b->sets % 2 == 0;
    }
    return rc;
}

static int collect(const struct bench *b, double *samples, struct bench_result *r)
{
    struct bench_times times[CONTENDERS] = {{0}};
    int rc = 0;

    for (int who = 0; who < CONTENDERS && rc == 0; who++) {
        if (b->contends[who])
            rc =
                summarise(b->call.world, samples + who * r->iterations, r->iterations, &times[who]);
    }
    r->polder = times[POLDER];
    r->mpi = times[MPI];
    r->copy = times[COPY].median;
    if (b->contends[STREAM] && times[STREAM].median < r->copy)
        r->copy = times[STREAM].median;
    return rc;
}

/* A call that is waited for at once, work without a call, and both at the same time. */
static int run_overlapped(struct bench *b, size_t turns, double seconds[3])
{
    double start;
    int rc;

    b->call.turns = 0;
    rc = run(b, POLDER, 0, &seconds[0]);
    if (rc == 0)
        rc = start_together(b, POLDER);
    start = now();
    bench_compute(turns);
    seconds[1] = now() - start;
    b->call.turns = turns;
    if (rc == 0)
        rc = run(b, POLDER, 0, &seconds[2]);
    b->call.turns = 0;
    return rc;
}

/* Work that takes as long as the call, as the OSU benchmarks have it. */
static int sample_overlap(struct bench *b, const struct bench_options *o, struct bench_result *r)
{
    const size_t turns = bench_compute_turns(r->polder.mean);
    struct bench_overlap *out = &r->overlap;
    double sums[3] = {0};
    double one[3];
    int rc = 0;

    for (int i = -o->warmup; i < r->iterations && rc == 0; i++) {
        rc = run_overlapped(b, turns, one);
        for (int k = 0; k < 3 && rc == 0 && i >= 0; k++)
            sums[k] += one[k] / r->iterations;
    }
    if (rc == 0)
        rc = pld_allreduce(b->call.world, sums, sums, 3, PLD_F64, PLD_AVG, NULL);
    *out = (struct bench_overlap){sums[0], sums[1], sums[2], 0};
    out->percent = 100 - 100 * (out->overall - out->compute) / out->pure;
    out->percent = out->percent < 0 ? 0 : out->percent > 100 ? 100 : out->percent;
    return rc;
}

int bench_measure(const struct bench_area *area, const struct bench_options *o,
                  const struct bench_case *c, struct bench_result *out)
{
    struct bench_result r = {.iterations = iterations(o, c, pld_runtime_size(area->runtime))};
    double *samples = calloc((size_t)r.iterations * CONTENDERS, sizeof(*samples));
    struct bench b;
    int rc = prepare(&b, area, o, c);

    r.has_mpi = b.contends[MPI];
    if (rc == 0)
        rc = pld_agree(b.call.world, samples == NULL ? PLD_ERR_NOMEM : 0);
    if (rc == 0)
        rc = check(&b, o, &r);
    if (rc == 0)
        rc = sample(&b, o, samples, r.iterations);
    if (rc == 0)
        rc = collect(&b, samples, &r);
    if (rc == 0 && o->overlap)
        rc = sample_overlap(&b, o, &r);
    free(samples);
    free(b.counts);
    bench_mpi_release(b.call.mpi);
    if (rc == 0)
        *out = r;
    return rc;
}
