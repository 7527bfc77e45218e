/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sums over numbered leaves in device memory, over NCCL and through pinned memory: the bits of
 * host memory, and the same for any number of ranks.  And what ranks get that differ.
 */

#include "device_support.h"
#include "tap.h"

enum { MOST_LEAVES = 40, COUNT = 2003, TRIALS = 42, MOST_BYTES = COUNT * 8 };

/* How the leaves are cut among ranks. */
enum cut { RUNS, DEALT, LAST_HAS_ALL, CUTS };

struct trial {
    enum cut cut;
    pld_dtype dtype;
    pld_op op;
    size_t count;
    int leaves, in_place, mode;
    double scale;
};

struct memory {
    char *host[MOST_LEAVES], *device[MOST_LEAVES]; /* of this rank's leaves */
    char *result, *got;                            /* on the device, on the host */
    pld_stream stream;
};

struct setting {
    const char *path;
    unsigned char (*first)[MOST_BYTES]; /* [TRIALS], results of one rank */
};

static struct trial trial_of(int i)
{
    static const int leaves[] = {1, 2, 5, 8, 12, 24, MOST_LEAVES};
    static const size_t counts[] = {COUNT, 577, 1, 0, 256};
    static const pld_dtype dtypes[] = {PLD_F32, PLD_BF16, PLD_F64, PLD_F16, PLD_I32};
    struct trial t = {.cut = (enum cut)(i % CUTS),
                      .dtype = dtypes[i % 5],
                      .op = (pld_op)(i / 5 % 4),
                      .count = counts[i / 7 % 5],
                      .leaves = leaves[i % 7],
                      .in_place = i % 2,
                      .mode = i % 3};

    t.op = t.op == PLD_AVG && t.dtype == PLD_I32 ? PLD_SUM : t.op;
    t.scale = t.dtype != PLD_I32 && i % 4 == 3 ? 0.3 : 0;
    return t;
}

static int owner(const struct trial *t, int leaf, int size)
{
    if (t->cut == LAST_HAS_ALL)
        return size - 1;
    return t->cut == DEALT ? leaf % size : leaf * size / t->leaves;
}

static void fill(const struct trial *t, int leaf, char *to)
{
    unsigned state = (unsigned)leaf * 7919 + 99;

    for (size_t i = 0; i < t->count; i++) {
        state = state * 1664525 + 1013904223;
        pattern_store(t->dtype, to + i * pld_dtype_bytes(t->dtype),
                      t->dtype == PLD_I32 ? (double)(state >> 20 & 7)
                                          : ((double)(state >> 8) / 16777216 - 0.5) * 4 + 0.0625);
    }
}

/* Fill this rank's leaves, in descending order; `on` are those of host and device. */
static size_t begin(const pld_group *g, const struct trial *t, struct memory *m, pld_leaf *on[2])
{
    size_t n = 0;

    for (int leaf = t->leaves - 1; leaf >= 0; leaf--) {
        if (owner(t, leaf, pld_group_size(g)) != pld_group_rank(g))
            continue;
        fill(t, leaf, m->host[n]);
        on[0][n] = (pld_leaf){m->host[n], (uint64_t)leaf};
        on[1][n] = (pld_leaf){m->device[n], (uint64_t)leaf};
        n++;
    }
    return n;
}

static int end(const struct trial *t, pld_request *request, pld_stream stream)
{
    if (t->mode == 0)
        return 0;
    return t->mode == 1 ? pld_request_wait(&request) : pld_request_after(&request, stream);
}

static int run_trial(pld_runtime *rt, const struct setting *s, int i, struct memory *m)
{
    const struct trial t = trial_of(i);
    const size_t bytes = t.count * pld_dtype_bytes(t.dtype);
    pld_group *g = pld_runtime_world(rt);
    pld_leaf leaves[2][MOST_LEAVES], *on[2] = {leaves[0], leaves[1]};
    char want[MOST_BYTES];
    pld_request *request = NULL;
    pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .scale = t.scale};
    char *result;
    size_t n;

    n = begin(g, &t, m, on);
    CHECK(rt, pld_allreduce_leaves(g, on[0], n, (uint64_t)t.leaves, want, t.count, t.dtype, t.op,
                                   &opts) == 0);
    for (size_t k = 0; k < n; k++) /* still under way when it is to be read */
        CHECK(rt, pld_device_copy(pld_runtime_device(rt), m->device[k], m->host[k], bytes,
                                  m->stream) == 0);
    result = t.in_place && n > 0 ? m->device[n / 2] : m->result;
    opts.stream = m->stream;
    opts.request = t.mode == 0 ? NULL : &request;
    CHECK(rt, pld_allreduce_leaves(g, on[1], n, (uint64_t)t.leaves, result, t.count, t.dtype, t.op,
                                   &opts) == 0);
    CHECK(rt, end(&t, request, m->stream) == 0);
    CHECK(rt, pld_device_copy(pld_runtime_device(rt), m->got, result, bytes, m->stream) == 0);
    CHECK(rt, pld_stream_wait(pld_runtime_device(rt), m->stream) == 0);
    if (memcmp(m->got, want, bytes) != 0)
        printf("# %s, trial %d: %d leaves cut as %d, %s[%zu], op %d, mode %d, in_place %d\n",
               s->path, i, t.leaves, (int)t.cut, pld_dtype_name(t.dtype), t.count, (int)t.op,
               t.mode, t.in_place);
    CHECK(rt, memcmp(m->got, want, bytes) == 0);
    if (pld_group_size(g) == 1)
        memcpy(s->first[i], m->got, bytes);
    CHECK(rt, memcmp(s->first[i], m->got, bytes) == 0);
    return 0;
}

static int open_memory(pld_runtime *rt, struct memory *m)
{
    pld_device *device = pld_runtime_device(rt);

    CHECK(rt, pld_stream_create(device, 0, &m->stream) == 0);
    CHECK(rt, pld_device_alloc(device, MOST_BYTES, PLD_MEM_DEVICE, (void **)&m->result) == 0);
    CHECK(rt, pld_device_alloc(device, MOST_BYTES, PLD_MEM_PINNED, (void **)&m->got) == 0);
    for (int i = 0; i < MOST_LEAVES; i++) {
        CHECK(rt,
              pld_device_alloc(device, MOST_BYTES, PLD_MEM_DEVICE, (void **)&m->device[i]) == 0);
        CHECK(rt, pld_device_alloc(device, MOST_BYTES, PLD_MEM_PINNED, (void **)&m->host[i]) == 0);
    }
    return 0;
}

static void close_memory(pld_runtime *rt, struct memory *m)
{
    pld_device *device = pld_runtime_device(rt);

    for (int i = 0; i < MOST_LEAVES; i++) {
        pld_device_free(device, m->device[i]);
        pld_device_free(device, m->host[i]);
    }
    pld_device_free(device, m->result);
    pld_device_free(device, m->got);
    pld_stream_destroy(device, &m->stream);
}

static int same_bits(pld_runtime *rt, void *context)
{
    const struct setting *s = context;
    struct memory m = {0};
    int rc = open_memory(rt, &m);

    for (int i = 0; i < TRIALS && rc == 0; i++)
        rc = run_trial(rt, s, i, &m);
    close_memory(rt, &m);
    return rc;
}

/* All ranks set out with these faults. */
static int faults(pld_runtime *rt, const char *cuda)
{
    pld_group *g = pld_runtime_world(rt);

    device_rank(pld_runtime_rank(rt));
    CHECK(rt, pld_barrier(g, NULL) == 0);
    if (pld_runtime_rank(rt) == 0)
        device_faults(cuda, "");
    CHECK(rt, pld_barrier(g, NULL) == 0);
    return 0;
}

/* A rank has no pinned memory, and says so to the other. */
static int no_memory(pld_runtime *rt, void *context)
{
    pld_group *g = pld_runtime_world(rt);
    struct memory m = {0};
    pld_leaf leaf;

    (void)context;
    CHECK(rt, open_memory(rt, &m) == 0);
    leaf = (pld_leaf){m.device[0], (uint64_t)pld_group_rank(g)};
    CHECK(rt, faults(rt, "register:1+@1") == 0);
    CHECK(rt, pld_allreduce_leaves(g, &leaf, 1, 2, m.result, 8, PLD_F32, PLD_SUM, NULL) ==
                  PLD_ERR_NOMEM);
    CHECK(rt, strstr(pld_last_error(), "rank 1: ") != NULL);
    CHECK(rt, faults(rt, "") == 0);
    CHECK(rt, pld_allreduce_leaves(g, &leaf, 1, 2, m.result, 8, PLD_F32, PLD_SUM, NULL) == 0);
    close_memory(rt, &m);
    return 0;
}

/* Mistakes, after each of which the group is usable. */
static int mistakes(pld_runtime *rt, void *context)
{
    pld_group *g = pld_runtime_world(rt);
    const int me = pld_group_rank(g);
    struct memory m = {0};
    float host[8] = {0}, sum[8] = {0};
    pld_leaf leaf, two[2];

    (void)context;
    CHECK(rt, open_memory(rt, &m) == 0 && pld_group_connect(g) == 0);
    CHECK(rt, pld_device_fill(pld_runtime_device(rt), m.device[0], 0, 32, m.stream) == 0);
    leaf = (pld_leaf){m.device[0], (uint64_t)me};
    two[0] = leaf;
    two[1] = (pld_leaf){host, 7};
    CHECK(rt,
          pld_allreduce_leaves(g, two, 2, 8, m.result, 8, PLD_F32, PLD_SUM, NULL) == PLD_ERR_ARG);
    CHECK(rt, strstr(pld_last_error(), "leaf 7 is in host memory and recv in device") != NULL);
    CHECK(rt, pld_allreduce_leaves(g, &leaf, 1, 2, host, 8, PLD_F32, PLD_SUM, NULL) == PLD_ERR_ARG);
    CHECK(rt, strstr(pld_last_error(), "is in device memory and recv in host") != NULL);
    CHECK(rt, pld_allreduce_leaves(g, &leaf, 1, 3, m.result, 8, PLD_F32, PLD_SUM, NULL) ==
                  PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), "no rank gives leaf 2 of 3") != NULL);
    if (me == 1)
        leaf.data = host;
    CHECK(rt, pld_allreduce_leaves(g, &leaf, 1, 2, me == 1 ? (void *)sum : m.result, 8, PLD_F32,
                                   PLD_SUM, NULL) == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), "rank 0 has its leaves in device memory, rank 1 in host") !=
                  NULL);
    leaf.data = m.device[0];
    CHECK(rt, pld_allreduce_leaves(g, &leaf, 1, 2, m.result, 8, PLD_F32, PLD_SUM, NULL) == 0);
    CHECK(rt, pld_stream_wait(pld_runtime_device(rt), NULL) == 0);
    close_memory(rt, &m);
    return 0;
}

int main(void)
{
    static unsigned char first[TRIALS][MOST_BYTES];
    const char *seed = getenv("FAKE_CUDA_SEED");
    const int most = seed == NULL || strcmp(seed, "1") == 0 ? DEVICE_RANKS : 2;
    static const char *const names[] = {"nccl", "staged"};
    struct setting all[] = {{names[0], first}, {names[1], first}};

    for (int ranks = 1; ranks <= most; ranks++)
        for (int i = 0; i < 2; i++)
            ok(device_run(ranks, all[i].path, 60, same_bits, &all[i]) == 0,
               "%s: leaves on %d ranks give the host's bits, and those of one rank", names[i],
               ranks);
    for (int i = 0; i < 2; i++)
        ok(device_run(2, names[i], 60, mistakes, NULL) == 0,
           "%s: memory of two kinds, and leaves that are missing", i ? "pinned" : "NCCL");
    ok(device_run(2, "staged", 60, no_memory, NULL) == 0,
       "no pinned memory on a rank: all get that, and go on");
    ok(device_live_comms() == 0 && device_live("streams") == 0 && device_live("events") == 0 &&
           device_live("device bytes") == 0 && device_live("pinned bytes") == 0,
       "nothing is left");
    return tap_done();
}
