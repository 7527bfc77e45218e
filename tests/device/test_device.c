/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The plugin over whatever GPU is there: the stand-in in tests/run, a real one in the GPU
 * suite.  The oracle of the kernels are the host's, which have tests of their own.
 */

#include <polder/device.h>
#include <polder/error.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "device/device.h"
#include "device/device_kernels.h"
#include "tap.h"

enum { COUNT = 20011, BYTES = COUNT * 8, BUFFERS = 8 };

static pld_device *gpu;
static pld_stream stream;
static unsigned char *device[BUFFERS], *pinned[BUFFERS];
static const pld_dtype floats[] = {PLD_F32, PLD_F64, PLD_F16, PLD_BF16};

static uint64_t next_random(void)
{
    static uint64_t state = 1;
    uint64_t z = state += 0x9e3779b97f4a7c15U;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
}

/* About [-1, 1]; integers take all bits. */
static void fill_random(void *to, size_t count, pld_dtype dtype)
{
    for (size_t i = 0; i < count; i++) {
        const uint64_t bits = next_random();
        const double wide = (double)(int64_t)bits * 0x1p-63;
        const float single = (float)wide;
        char *at = (char *)to + i * pld_dtype_bytes(dtype);

        if (dtype == PLD_F64)
            memcpy(at, &wide, sizeof(wide));
        else if (dtype == PLD_F32)
            memcpy(at, &single, sizeof(single));
        else if (dtype == PLD_F16 || dtype == PLD_BF16)
            pldi_kernels()->narrow(at, &single, 1, dtype);
        else
            memcpy(at, &bits, pld_dtype_bytes(dtype));
    }
}

static int up(int buffer, size_t bytes)
{
    return pld_device_copy(gpu, device[buffer], pinned[buffer], bytes, stream);
}

/* Result in pinned[buffer], the stream empty. */
static int down(int buffer, size_t bytes)
{
    const int rc = pld_device_copy(gpu, pinned[buffer], device[buffer], bytes, stream);

    return rc < 0 ? rc : pld_stream_wait(gpu, stream);
}

static void test_memory(void)
{
    static unsigned char plain[BYTES];
    void *memory = NULL;
    int rc;

    ok(pld_device_where(gpu, device[0]) == PLD_MEM_DEVICE &&
           pld_device_where(gpu, pinned[0]) == PLD_MEM_PINNED &&
           pld_device_where(gpu, plain) == PLD_MEM_HOST,
       "three kinds of memory are told apart");
    fill_random(pinned[0], BYTES, PLD_U8);
    rc = up(0, BYTES);
    rc = rc < 0 ? rc : pld_device_copy(gpu, device[1], device[0], BYTES, stream);
    rc = rc < 0 ? rc : pld_device_copy(gpu, plain, device[1], BYTES, stream);
    rc = rc < 0 ? rc : pld_stream_wait(gpu, stream);
    ok(rc == 0 && memcmp(plain, pinned[0], BYTES) == 0, "host to device to device to host: %s",
       rc < 0 ? pld_last_error() : "equal");
    rc = pld_device_fill(gpu, device[1], 0x41, 1000, stream);
    rc = rc < 0 ? rc : down(1, 1001);
    ok(rc == 0 && pinned[1][0] == 0x41 && pinned[1][999] == 0x41 && pinned[1][1000] == plain[1000],
       "1000 bytes filled, the next one left alone");
    rc = pld_device_alloc(gpu, (size_t)1 << 50, PLD_MEM_DEVICE, &memory);
    ok(rc == PLD_ERR_DEVMEM && memory == NULL && strstr(pld_last_error(), "are free") != NULL,
       "a petabyte: %s", pld_last_error());
}

/* Each round the second stream copies what the first has just filled, and the first fills anew
 * after that. */
static void test_events(void)
{
    enum { ROUNDS = 20 };
    pld_stream other = NULL;
    pld_event filled = NULL;
    pld_event copied = NULL;
    int done = -1;
    int rc = pld_stream_create(gpu, 1, &other);

    rc = rc < 0 ? rc : pld_event_create(gpu, 0, &filled);
    rc = rc < 0 ? rc : pld_event_create(gpu, 0, &copied);
    ok(rc == 0 && pld_event_test(gpu, filled, &done) == 0 && done == 1,
       "an event that was never recorded has come");
    for (int i = 0; i < ROUNDS && rc == 0; i++) {
        rc = pld_device_fill(gpu, device[0], i + 1, BYTES, stream);
        rc = rc < 0 ? rc : pld_event_record(gpu, filled, stream);
        rc = rc < 0 ? rc : pld_stream_after(gpu, other, filled);
        rc = rc < 0 ? rc : pld_device_copy(gpu, pinned[0] + i, device[0] + BYTES - 1, 1, other);
        rc = rc < 0 ? rc : pld_event_record(gpu, copied, other);
        rc = rc < 0 ? rc : pld_stream_after(gpu, stream, copied);
    }
    rc = rc < 0 ? rc : pld_event_wait(gpu, copied);
    for (int i = 0; i < ROUNDS; i++)
        rc = pinned[0][i] == i + 1 ? rc : 1;
    ok(rc == 0, "two streams in step by events, %d rounds", (int)ROUNDS);
    pld_event_destroy(gpu, &filled);
    pld_event_destroy(gpu, &copied);
    pld_stream_destroy(gpu, &other);
    ok(other == NULL && filled == NULL, "destroyed");
}

static void test_reduce_of(pld_dtype dtype, pld_op op, int n_srcs, double scale)
{
    const void *srcs[BUFFERS], *host_srcs[BUFFERS];
    void *dsts[1] = {device[BUFFERS - 1]};
    const size_t bytes = COUNT * pld_dtype_bytes(dtype);
    static unsigned char expected[BYTES];
    int rc = 0;

    for (int s = 0; s < n_srcs; s++) {
        fill_random(pinned[s], COUNT, dtype);
        srcs[s] = device[s];
        host_srcs[s] = pinned[s];
        rc = rc < 0 ? rc : up(s, bytes);
    }
    pldi_kernels()->reduce(expected, host_srcs, n_srcs, COUNT, dtype, op, scale);
    rc =
        rc < 0 ? rc : gpu->ops->reduce(gpu, dsts, 1, srcs, n_srcs, COUNT, dtype, op, scale, stream);
    rc = rc < 0 ? rc : down(BUFFERS - 1, bytes);
    ok(rc == 0 && memcmp(pinned[BUFFERS - 1], expected, bytes) == 0,
       "%s, op %d of %d, times %g: the host's bits%s%s", pld_dtype_name(dtype), (int)op, n_srcs,
       scale, rc < 0 ? ": " : "", rc < 0 ? pld_last_error() : "");
}

static void test_reduce(void)
{
    static const pld_op ops[] = {PLD_SUM, PLD_MAX, PLD_MIN, PLD_PROD};
    static const pld_dtype integers[] = {PLD_I64, PLD_I32, PLD_U32, PLD_I8, PLD_U8};

    for (int o = 0; o < 4; o++) {
        for (int d = 0; d < 4; d++)
            test_reduce_of(floats[d], ops[o], 2 + (d + o) % 5, o == 0 ? 0.25 : 1);
        for (int d = 0; d < 5; d++)
            test_reduce_of(integers[d], ops[o], 3, 1);
    }
}

static void test_cast(void)
{
    for (int half = 2; half < 4; half++) {
        float wide[COUNT];
        int rc;

        fill_random(pinned[0], COUNT, PLD_F32);
        rc = up(0, COUNT * 4);
        rc = rc < 0
                 ? rc
                 : gpu->ops->cast(gpu, device[1], floats[half], device[0], PLD_F32, COUNT, stream);
        rc = rc < 0
                 ? rc
                 : gpu->ops->cast(gpu, device[2], PLD_F32, device[1], floats[half], COUNT, stream);
        rc = rc < 0 ? rc : down(1, COUNT * 2);
        rc = rc < 0 ? rc : down(2, COUNT * 4);
        pldi_kernels()->narrow(pinned[3], (float *)(void *)pinned[0], COUNT, floats[half]);
        pldi_kernels()->widen(wide, pinned[3], COUNT, floats[half]);
        ok(rc == 0 && memcmp(pinned[1], pinned[3], COUNT * 2) == 0 &&
               memcmp(pinned[2], wide, sizeof(wide)) == 0,
           "f32 to %s and back: the host's bits", pld_dtype_name(floats[half]));
    }
}

static void test_norm(void)
{
    const struct pldi_range ranges[] = {
        {device[0], COUNT, PLD_F32}, {device[1], COUNT, PLD_BF16}, {device[2], 7, PLD_F64}};
    struct pldi_step_vote *vote = (void *)device[3];
    struct pldi_step_vote first = {0}, again = {0}, bad;
    double exact = 0;
    int rc = 0;

    for (int i = 0; i < 3; i++) {
        fill_random(pinned[i], ranges[i].count, ranges[i].dtype);
        exact += pldi_kernels()->sum_squares(pinned[i], ranges[i].count, ranges[i].dtype);
        rc = rc < 0 ? rc : up(i, ranges[i].count * pld_dtype_bytes(ranges[i].dtype));
    }
    for (int i = 0; i < 2 && rc == 0; i++) {
        rc = gpu->ops->sum_squares(gpu, ranges, 3, vote, stream);
        rc = rc < 0 ? rc : down(3, sizeof(first));
        memcpy(i == 0 ? &first : &again, pinned[3], sizeof(first));
    }
    ok(rc == 0 && fabs(first.square - exact) < 1e-12 * exact && first.infinite == 0,
       "sum of squares %.17g, exactly %.17g", first.square, exact);
    ok(first.square == again.square, "twice the same bits");
    ((float *)(void *)pinned[0])[COUNT / 2] = INFINITY;
    rc = up(0, COUNT * 4);
    rc = rc < 0 ? rc : gpu->ops->sum_squares(gpu, ranges, 3, vote, stream);
    rc = rc < 0 ? rc : down(3, sizeof(bad));
    memcpy(&bad, pinned[3], sizeof(bad));
    ok(rc == 0 && bad.infinite == 1, "an infinite element is seen");
}

enum { W, G, M, V, CONTROL, STEPS = 5 };
static const struct pldi_step_rule rule = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .clip = 1};
static const double decay = 0.999;

/* Step `t` on the host, of gradients with the norm 2. */
static struct pldi_adamw host_factors(int t)
{
    return (struct pldi_adamw){.beta1 = (float)rule.beta1,
                               .beta2 = (float)rule.beta2,
                               .rest1 = (float)(1 - rule.beta1),
                               .rest2 = (float)(1 - rule.beta2),
                               .grad_factor = (float)(1 / (2 + 1e-6)),
                               .step_size = (float)(rule.lr / (1 - pow(rule.beta1, t))),
                               .sqrt_factor = (float)(1 / sqrt(1 - pow(rule.beta2, t))),
                               .eps = 1e-8F,
                               .decay_factor = (float)decay};
}

/* The same on the device, which finds its factors by itself. */
static int device_step(void)
{
    const struct pldi_device_sweep sweep = {.value = device[W],
                                            .grad = device[G],
                                            .first = device[M],
                                            .second = device[V],
                                            .count = COUNT,
                                            .dtype = PLD_F32,
                                            .grad_dtype = PLD_F32,
                                            .lr = rule.lr,
                                            .beta1 = rule.beta1,
                                            .beta2 = rule.beta2,
                                            .eps = 1e-8,
                                            .decay_factor = decay,
                                            .adamw = 1};
    int rc = up(G, COUNT * 4);

    rc = rc < 0 ? rc
                : gpu->ops->step_decide(gpu, (void *)(device[CONTROL] + 128), &rule,
                                        (void *)device[CONTROL], stream);
    rc = rc < 0 ? rc : gpu->ops->sweep(gpu, &sweep, (void *)device[CONTROL], stream);
    return rc < 0 ? rc : pld_stream_wait(gpu, stream);
}

/* Five steps of AdamW in f32, against the host's kernel with the same factors. */
static void test_adamw(void)
{
    static float w[COUNT], g[COUNT], m[COUNT], v[COUNT];
    const struct pldi_step_vote vote = {.square = 4};
    struct pldi_step_control control = {.scaling = {.scale = 1}};
    int rc = 0;

    fill_random(w, COUNT, PLD_F32);
    memcpy(pinned[W], w, sizeof(w));
    memset(pinned[M], 0, COUNT * 4);
    memset(pinned[V], 0, COUNT * 4);
    memset(pinned[CONTROL], 0, 256);
    memcpy(pinned[CONTROL], &control, sizeof(control));
    memcpy(pinned[CONTROL] + 128, &vote, sizeof(vote));
    for (int i = 0; i < 4 && rc == 0; i++)
        rc = i == G ? 0 : up(i, sizeof(w));
    rc = rc < 0 ? rc : up(CONTROL, 256);
    for (int t = 1; t <= STEPS && rc == 0; t++) {
        const struct pldi_adamw factors = host_factors(t);

        fill_random(g, COUNT, PLD_F32);
        memcpy(pinned[G], g, sizeof(g));
        pldi_kernels()->adamw(w, g, m, v, COUNT, &factors);
        rc = device_step();
    }
    rc = rc < 0 ? rc : down(W, sizeof(w));
    rc = rc < 0 ? rc : down(G, sizeof(w));
    rc = rc < 0 ? rc : down(CONTROL, sizeof(control));
    memcpy(&control, pinned[CONTROL], sizeof(control));
    ok(rc == 0 && control.t == STEPS && control.norm == 2 && !control.skip,
       "%lld steps counted on the device, norm %g", (long long)control.t, control.norm);
    ok(rc == 0 && memcmp(pinned[W], w, sizeof(w)) == 0 && memcmp(pinned[G], g, sizeof(g)) == 0,
       "AdamW in f32, %d steps: the host's bits%s%s", (int)STEPS, rc < 0 ? ": " : "",
       rc < 0 ? pld_last_error() : "");
}

static void test_bytes(void)
{
    enum { WIDTH = 4, ELEMENTS = 5003 };
    static unsigned char expected[WIDTH * ELEMENTS];
    uint64_t hash = 0;
    int rc;

    fill_random(pinned[0], sizeof(expected), PLD_U8);
    for (size_t b = 0; b < WIDTH; b++)
        for (size_t i = 0; i < ELEMENTS; i++)
            expected[b * ELEMENTS + i] = pinned[0][i * WIDTH + b];
    rc = up(0, sizeof(expected));
    rc = rc < 0 ? rc : gpu->ops->shuffle(gpu, device[1], device[0], ELEMENTS, WIDTH, stream);
    rc = rc < 0 ? rc : down(1, sizeof(expected));
    ok(rc == 0 && memcmp(pinned[1], expected, sizeof(expected)) == 0, "bytes are shuffled");
    rc = gpu->ops->hash(gpu, device[0] + 1, sizeof(expected) - 3, (void *)device[2], stream);
    rc = rc < 0 ? rc : down(2, sizeof(hash));
    memcpy(&hash, pinned[2], sizeof(hash));
    ok(rc == 0 && hash == pldi_device_hash(pinned[0] + 1, sizeof(expected) - 3),
       "hash %016llx is the host's", (unsigned long long)hash);
}

/* What was recorded is done at each launch, and only then. */
static void test_graph(void)
{
    const void *srcs[2] = {device[0], device[1]};
    void *dsts[1] = {device[0]};
    pld_graph *graph = NULL;
    float sum = 0;
    int rc;

    for (int i = 0; i < 100; i++) {
        ((float *)(void *)pinned[0])[i] = 1;
        ((float *)(void *)pinned[1])[i] = 2;
    }
    rc = up(0, 400);
    rc = rc < 0 ? rc : up(1, 400);
    rc = rc < 0 ? rc : pld_graph_begin(gpu, stream);
    rc = rc < 0 ? rc : gpu->ops->reduce(gpu, dsts, 1, srcs, 2, 100, PLD_F32, PLD_SUM, 1, stream);
    rc = rc < 0 ? rc : pld_graph_end(gpu, stream, &graph);
    for (int i = 0; i < 3 && rc == 0; i++)
        rc = pld_graph_launch(graph, stream);
    rc = rc < 0 ? rc : down(0, 400);
    memcpy(&sum, pinned[0] + 396, sizeof(sum));
    ok(rc == 0 && sum == 7, "a recorded sum, launched three times: %g%s%s", (double)sum,
       rc < 0 ? ": " : "", rc < 0 ? pld_last_error() : "");
    pld_graph_destroy(&graph);
    ok(graph == NULL, "destroyed");
}

static void test_speed(void)
{
    pld_event begin = NULL;
    pld_event end = NULL;
    double seconds = 0;
    int rc = pld_event_create(gpu, 1, &begin);

    rc = rc < 0 ? rc : pld_event_create(gpu, 1, &end);
    rc = rc < 0 ? rc : pld_event_record(gpu, begin, stream);
    rc = rc < 0 ? rc : pld_device_copy(gpu, device[0], device[1], BYTES, stream);
    rc = rc < 0 ? rc : pld_event_record(gpu, end, stream);
    rc = rc < 0 ? rc : pld_event_wait(gpu, end);
    rc = rc < 0 ? rc : pld_event_seconds(gpu, begin, end, &seconds);
    ok(rc == 0 && seconds > 0, "events tell time: %g s", seconds);
    pld_event_destroy(gpu, &begin);
    pld_event_destroy(gpu, &end);
}

/* Until nothing is under way on the host's side. */
static int settle(struct pldi_comm *comm)
{
    int rc = 0;

    while (rc == 0)
        rc = gpu->comm->poll(comm);
    return rc < 0 ? rc : 0;
}

/* A communicator of one rank: all calls are legal, and become copies. */
static void test_comm(void)
{
    const struct pldi_comm_call call = {.kind = PLDI_COMM_ALLREDUCE,
                                        .send = device[0],
                                        .recv = device[1],
                                        .count = COUNT,
                                        .dtype = PLD_F32,
                                        .op = PLD_AVG,
                                        .scale = 1};
    unsigned char id[PLDI_COMM_ID_BYTES];
    struct pldi_comm *comm = NULL;
    int rc;

    if (gpu->comm == NULL) {
        ok(gpu->ops->comm_note(gpu)[0] != '\0', "no NCCL: %s", gpu->ops->comm_note(gpu));
        return;
    }
    fill_random(pinned[0], COUNT, PLD_F32);
    rc = up(0, COUNT * 4);
    rc = rc < 0 ? rc : gpu->comm->make_id(gpu, id);
    rc = rc < 0 ? rc : gpu->comm->init(gpu, id, 0, 1, &comm);
    rc = rc < 0 ? rc : settle(comm);
    rc = rc < 0 ? rc : gpu->comm->enqueue(comm, &call, stream);
    rc = rc < 0 ? rc : settle(comm);
    rc = rc < 0 ? rc : down(1, COUNT * 4);
    ok(rc == 0 && memcmp(pinned[1], pinned[0], COUNT * 4) == 0, "NCCL over one rank%s%s",
       rc < 0 ? ": " : "", rc < 0 ? pld_last_error() : "");
    rc = comm == NULL ? -1 : gpu->comm->close(&comm);
    ok(rc == 0 && comm == NULL, "closed");
}

static int open_all(void)
{
    void *memory;
    int rc = pldi_device_open(NULL, &gpu);

    rc = rc < 0 ? rc : pld_stream_create(gpu, 0, &stream);
    for (int b = 0; b < BUFFERS && rc == 0; b++) {
        rc = pld_device_alloc(gpu, BYTES, PLD_MEM_DEVICE, &memory);
        device[b] = rc < 0 ? NULL : memory;
        rc = rc < 0 ? rc : pld_device_alloc(gpu, BYTES, PLD_MEM_PINNED, &memory);
        pinned[b] = rc < 0 ? NULL : memory;
    }
    return rc;
}

static void close_all(void)
{
    for (int b = 0; b < BUFFERS; b++) {
        pld_device_free(gpu, device[b]);
        pld_device_free(gpu, pinned[b]);
    }
    pld_stream_destroy(gpu, &stream);
    pldi_device_close(&gpu);
}

int main(void)
{
    const int rc = open_all();
    pld_device_info info;

    if (!ok(rc == 0, "a GPU is opened: %s", rc < 0 ? pld_last_error() : "yes"))
        return tap_done();
    pld_device_get_info(gpu, &info);
    printf("# %s, %s, capability %d, %d multiprocessors, driver %d, NCCL %d\n", info.name, info.pci,
           info.capability, info.multiprocessors, info.driver, info.nccl);
    test_memory();
    test_events();
    test_reduce();
    test_cast();
    test_norm();
    test_adamw();
    test_bytes();
    test_graph();
    test_speed();
    test_comm();
    close_all();
    return tap_done();
}
