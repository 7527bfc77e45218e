/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Gradients are small integers, so that every sum is exact and known.  The linker puts
 * two functions of this file in front of the library's (--wrap): one writes down which
 * ranges of memory are handed to all-reduce, the other makes memory run out.
 */

#include "base/base_err.h"
#include "inproc/inproc.h"
#include "numbers.h"
#include "params/params.h"
#include "tap.h"

#include <stdlib.h>

enum { TENSORS = 9, MOST = 700, LOG = 64 };

struct entry {
    const void *memory;
    size_t count;
    pld_dtype dtype;
};

static _Thread_local struct entry reduced[LOG];
static _Thread_local int reductions;
static _Thread_local int fail_operation; /* the n-th allocation of an operation from now fails */

int __real_pld_allreduce(pld_group *group, const void *send, void *recv, size_t count,
                         pld_dtype dtype, pld_op op, const pld_coll_opts *opts);
int __wrap_pld_allreduce(pld_group *group, const void *send, void *recv, size_t count,
                         pld_dtype dtype, pld_op op, const pld_coll_opts *opts);
void *__real_pldi_alloc(size_t count, size_t bytes, const char *what);
void *__wrap_pldi_alloc(size_t count, size_t bytes, const char *what);

int __wrap_pld_allreduce(pld_group *group, const void *send, void *recv, size_t count,
                         pld_dtype dtype, pld_op op, const pld_coll_opts *opts)
{
    if (opts != NULL && opts->tag != NULL && strcmp(opts->tag, "gradient bucket") == 0 &&
        reductions < LOG)
        reduced[reductions++] = (struct entry){recv, count, dtype};
    return __real_pld_allreduce(group, send, recv, count, dtype, op, opts);
}

void *__wrap_pldi_alloc(size_t count, size_t bytes, const char *what)
{
    if (strcmp(what, "an operation") == 0 && fail_operation > 0 && --fail_operation == 0) {
        (void)pldi_fail(PLD_ERR_NOMEM, "no memory for an operation, as the test wants");
        return NULL;
    }
    return __real_pldi_alloc(count, bytes, what);
}

/* A rank's tensors; some in memory of its own. */
struct rank {
    pld_mesh *mesh;
    pld_params *params;
    pld_dp *dp;
    int dp_rank, dp_size;
    void *outside[2][2];
};

static const size_t counts[TENSORS] = {5, 64, 130, 1, 700, 33, 257, 2, 90};
static const pld_dtype dtypes[TENSORS] = {PLD_F32, PLD_F32, PLD_F64, PLD_BF16, PLD_F32,
                                          PLD_F16, PLD_F32, PLD_F32, PLD_F64};

/* Number 4 and number 8 lie outside. */
static int outside_slot(int id)
{
    return id == 4 ? 0 : id == 8 ? 1 : -1;
}

static int add_tensors(struct rank *r)
{
    char name[16];

    for (int i = 0; i < TENSORS; i++) {
        pld_param o = {PLD_OPTS(pld_param), .name = name, .dtype = dtypes[i], .ndim = 1,
                       .shape = {(int64_t)counts[i]}};
        const int at = outside_slot(i);

        (void)snprintf(name, sizeof(name), "s%d.t%d", pld_mesh_coord(r->mesh, PLD_AXIS_PP), i);
        for (int k = 0; k < 2 && at >= 0; k++)
            r->outside[at][k] = calloc(counts[i], sizeof(double));
        if (at >= 0) {
            o.value = r->outside[at][0];
            o.grad = r->outside[at][1];
        }
        if (pld_params_add(r->params, &o, NULL) < 0)
            return -1;
    }
    return pld_params_commit(r->params);
}

static int open_rank(pld_runtime *rt, struct rank *r, const char *mesh, const pld_dp_opts *opts)
{
    memset(r, 0, sizeof(*r));
    reductions = 0;
    CHECK(rt, pld_mesh_create(rt, mesh, &r->mesh) == 0);
    CHECK(rt, pld_params_create(r->mesh, &r->params) == 0);
    CHECK(rt, add_tensors(r) == 0);
    CHECK(rt, opts == NULL || pld_dp_create(r->params, opts, &r->dp) == 0);
    r->dp_rank = pld_mesh_coord(r->mesh, PLD_AXIS_DP);
    r->dp_size = pld_mesh_size(r->mesh, PLD_AXIS_DP);
    return 0;
}

static void close_rank(struct rank *r)
{
    pld_dp_destroy(&r->dp);
    pld_dp_destroy(&r->dp);
    pld_params_destroy(&r->params);
    pld_mesh_destroy(&r->mesh);
    for (int i = 0; i < 4; i++)
        free(r->outside[i / 2][i % 2]);
}

/* Small integers, exact in every type, as are their sums over ranks. */
static double contribution(int rank, int id, size_t i)
{
    return (double)((int)((i * 7 + (size_t)id * 5) % 6) * 2 * (rank + 1));
}

static double get(const void *memory, pld_dtype dtype, size_t i)
{
    return number_get((const char *)memory + i * pld_dtype_bytes(dtype), dtype);
}

static void put(void *memory, pld_dtype dtype, size_t i, double value)
{
    number_put((char *)memory + i * pld_dtype_bytes(dtype), dtype, value);
}

static void fill(struct rank *r, int id, int times)
{
    for (size_t i = 0; i < counts[id]; i++)
        put(pld_params_grad(r->params, id), dtypes[id], i, times * contribution(r->dp_rank, id, i));
}

/* What all ranks together give. */
static int is_reduced(const struct rank *r, int times, int sum)
{
    for (int id = 0; id < TENSORS; id++)
        for (size_t i = 0; i < counts[id]; i++) {
            double want = 0;

            for (int k = 0; k < r->dp_size; k++)
                want += times * contribution(k, id, i);
            want /= sum ? 1 : r->dp_size;
            if (get(pld_params_grad(r->params, id), dtypes[id], i) != want)
                return 0;
        }
    return 1;
}

static int gaps_are_zero(const struct rank *r)
{
    for (int id = 0; id < TENSORS; id++) {
        const struct pldi_arena *arena = pldi_params_arena(r->params, dtypes[id]);
        const size_t offset = pldi_params_offset(r->params, id);

        if (offset == PLDI_OUTSIDE)
            continue;
        for (size_t i = offset + counts[id]; i < offset + pldi_params_padded(counts[id]); i++)
            if (get(arena->grad, dtypes[id], i) != 0)
                return 0;
    }
    return 1;
}

/* A permutation of its own for each rank and step. */
static void shuffle(int order[TENSORS], uint64_t seed)
{
    for (int i = 0; i < TENSORS; i++)
        order[i] = i;
    for (int i = TENSORS - 1; i > 0; i--) {
        const int j = (int)(pld_random_u64(seed, 7, (uint64_t)i) % (uint64_t)(i + 1));
        const int other = order[j];

        order[j] = order[i];
        order[i] = other;
    }
}

struct mode {
    const char *mesh;
    int ranks, accumulate, sum, silent;
    size_t bucket, first;
};

/* The log of every rank of a dp group must be that of its first. */
static int same_order(pld_runtime *rt, struct rank *r)
{
    int64_t mine[2 * LOG] = {0};
    int64_t first[2 * LOG];

    for (int i = 0; i < reductions; i++) {
        mine[2 * i] = (int64_t)reduced[i].count;
        mine[2 * i + 1] = (int64_t)reduced[i].dtype;
    }
    memcpy(first, mine, sizeof(first));
    CHECK(rt, pld_broadcast(pld_mesh_group(r->mesh, PLD_AXIS_DP), first, 2 * LOG, PLD_I64, 0,
                            NULL) == 0);
    CHECK(rt, memcmp(first, mine, sizeof(first)) == 0);
    return 0;
}

static int64_t bytes_logged(void)
{
    int64_t bytes = 0;

    for (int i = 0; i < reductions; i++)
        bytes += (int64_t)(reduced[i].count * pld_dtype_bytes(reduced[i].dtype));
    return bytes;
}

static int one_step(pld_runtime *rt, struct rank *r, const struct mode *m, int step)
{
    int order[TENSORS];

    reductions = 0;
    for (int round = 1; round <= m->accumulate; round++) {
        shuffle(order, (uint64_t)(100 * step + 10 * r->dp_rank + round));
        for (int i = 0; i < TENSORS; i++) {
            fill(r, order[i], round);
            if (!m->silent || i % 2 == 0)
                CHECK(rt, pld_dp_ready(r->dp, order[i], NULL) == 0);
        }
        CHECK(rt, round == m->accumulate || reductions == 0);
    }
    CHECK(rt, m->silent || r->dp_size == 1 || reductions > 0);
    CHECK(rt, m->silent || pld_dp_ready(r->dp, order[0], NULL) == PLD_ERR_STATE);
    CHECK(rt, pld_dp_wait(r->dp) == 0);
    CHECK(rt, is_reduced(r, m->accumulate, m->sum));
    CHECK(rt, gaps_are_zero(r));
    return same_order(rt, r);
}

static int reduce(pld_runtime *rt, void *context)
{
    const struct mode *m = context;
    const pld_dp_opts opts = {PLD_OPTS(pld_dp_opts), .bucket_bytes = m->bucket,
                              .first_bucket_bytes = m->first, .accumulate = m->accumulate,
                              .sum = m->sum};
    pld_dp_stats stats;
    int64_t bytes = 0;
    struct rank r;

    CHECK(rt, open_rank(rt, &r, m->mesh, &opts) == 0);
    for (int step = 0; step < 3; step++) {
        CHECK(rt, one_step(rt, &r, m, step) == 0);
        bytes += bytes_logged();
        pld_dp_get_stats(r.dp, &stats);
        CHECK(rt, stats.steps == step + 1 && stats.bytes_reduced == bytes);
        CHECK(rt, r.dp_size == 1 || stats.buckets == reductions);
        CHECK(rt, (r.dp_size == 1) == (bytes == 0));
        CHECK(rt, stats.wait_s >= 0);
    }
    close_rank(&r);
    return 0;
}

static void test_reduce(void)
{
    static const struct mode modes[] = {
        {"dp=0", 1, 1, 0, 0, 0, 0},      {"dp=0", 2, 1, 0, 0, 0, 0},
        {"dp=0", 2, 1, 1, 0, 1, 1},      {"dp=0", 3, 2, 1, 0, 600, 1},
        {"dp=0", 4, 3, 0, 0, 1000, 64},  {"dp=0", 4, 1, 0, 1, 1, 1},
        {"dp=2,pp=2", 4, 2, 0, 0, 1, 1}, {"dp=0", 4, 1, 1, 0, 2000, 100},
    };

    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        ok(inproc_run(modes[i].ranks, reduce, (void *)(uintptr_t)&modes[i]) == 0,
           "%d ranks, %s: %s of %d microbatches, buckets of %zu, first %zu%s", modes[i].ranks,
           modes[i].mesh, modes[i].sum ? "sum" : "average", modes[i].accumulate, modes[i].bucket,
           modes[i].first, modes[i].silent ? ", half of the tensors not reported" : "");
}

/* One bucket per tensor: they leave from last to first, each when those behind it have. */
static int overlap(pld_runtime *rt, void *context)
{
    const pld_dp_opts opts = {PLD_OPTS(pld_dp_opts), .bucket_bytes = 1, .first_bucket_bytes = 1};
    struct rank r;

    (void)context;
    CHECK(rt, open_rank(rt, &r, "dp=0", &opts) == 0);
    for (int id = 0; id < TENSORS; id++)
        fill(&r, id, 1);
    for (int id = 0; id < TENSORS - 2; id++)
        CHECK(rt, pld_dp_ready(r.dp, id, NULL) == 0 && reductions == 0);
    CHECK(rt, pld_dp_ready(r.dp, TENSORS - 1, NULL) == 0 && reductions == 1);
    CHECK(rt, pld_dp_ready(r.dp, TENSORS - 2, NULL) == 0 && reductions == TENSORS);
    for (int i = 0; i < TENSORS; i++) {
        const int id = TENSORS - 1 - i;

        CHECK(rt, reduced[i].dtype == dtypes[id]);
        CHECK(rt, reduced[i].count == pldi_params_padded(counts[id]));
        CHECK(rt, (reduced[i].memory == pld_params_grad(r.params, id)) == (outside_slot(id) < 0));
    }
    CHECK(rt, pld_dp_wait(r.dp) == 0 && is_reduced(&r, 1, 0));
    close_rank(&r);
    return 0;
}

/* The n-th bucket finds no memory on one rank. */
static int no_memory(pld_runtime *rt, void *context)
{
    const int *nth = context;
    const pld_dp_opts opts = {PLD_OPTS(pld_dp_opts), .bucket_bytes = 1, .first_bucket_bytes = 1};
    int errors = 0;
    struct rank r;

    CHECK(rt, open_rank(rt, &r, "dp=0", &opts) == 0);
    fail_operation = r.dp_rank == 1 ? *nth : 0;
    for (int id = TENSORS - 1; id >= 0; id--) {
        fill(&r, id, 1);
        errors += pld_dp_ready(r.dp, id, NULL) == PLD_ERR_NOMEM;
    }
    CHECK(rt, errors == (r.dp_rank == 1) && fail_operation == 0);
    CHECK(rt, pld_dp_wait(r.dp) == PLD_ERR_NOMEM);
    for (int id = TENSORS - 1; id >= 0; id--) {
        fill(&r, id, 1);
        CHECK(rt, pld_dp_ready(r.dp, id, NULL) == 0);
    }
    CHECK(rt, pld_dp_wait(r.dp) == 0 && is_reduced(&r, 1, 0));
    close_rank(&r);
    return 0;
}

/*
 * Tied tensors on 2 x 3: "wte" on stages 0 and 2, in the caller's memory on one of them,
 * "all" on all three; gradient 100*stage + 10*dp + i.
 */
static float tied_memory[4][2][8];

static int add_tied(pld_params *p, int stage, int dp, int rank)
{
    pld_param wte = {PLD_OPTS(pld_param), .name = "wte", .ndim = 1, .shape = {8}, .shared = 1};
    pld_param all = {PLD_OPTS(pld_param), .name = "all", .ndim = 1, .shape = {8}, .shared = 1};
    pld_param own = {PLD_OPTS(pld_param), .name = "own", .ndim = 1, .shape = {8}};
    char name[16];

    (void)rank;
    if (stage == 2) {
        wte.value = tied_memory[dp][0];
        wte.grad = tied_memory[dp][1];
    }
    (void)snprintf(name, sizeof(name), "own%d", stage);
    own.name = name;
    if (stage == 2 && pld_params_add(p, &all, NULL) < 0)
        return -1;
    if (stage != 1 && pld_params_add(p, &wte, NULL) < 0)
        return -1;
    if (pld_params_add(p, &own, NULL) < 0)
        return -1;
    return stage == 2 ? 0 : pld_params_add(p, &all, NULL);
}

static int check_tied(pld_runtime *rt, const pld_params *p, int stage, int sum)
{
    for (int id = 0; id < pld_params_count(p); id++) {
        const float *grad = pld_params_grad(p, id);
        pld_param_info info;
        float stages;
        float holders;

        CHECK(rt, pld_params_info(p, id, &info) == 0);
        stages = info.name[0] == 'o' ? (float)stage : info.name[0] == 'w' ? 2 : 3;
        holders = info.name[0] == 'o' ? 1 : info.name[0] == 'w' ? 2 : 3;
        for (int i = 0; i < 8; i++) {
            const float average = 100 * stages + holders * (5 + (float)i);

            CHECK(rt, grad[i] == (sum ? 2 * average : average));
        }
    }
    return 0;
}

static int tied(pld_runtime *rt, void *context)
{
    const int *sum = context;
    const pld_dp_opts opts = {PLD_OPTS(pld_dp_opts), .sum = *sum};
    pld_mesh *mesh = NULL;
    pld_params *p = NULL;
    pld_dp *dp = NULL;
    int stage;

    CHECK(rt, pld_mesh_create(rt, "dp=2,pp=3", &mesh) == 0);
    stage = pld_mesh_coord(mesh, PLD_AXIS_PP);
    CHECK(rt, pld_params_create(mesh, &p) == 0);
    CHECK(rt, add_tied(p, stage, pld_mesh_coord(mesh, PLD_AXIS_DP), 0) == 0);
    CHECK(rt, pld_params_commit(p) == 0 && pld_dp_create(p, &opts, &dp) == 0);
    for (int step = 0; step < 2; step++) {
        for (int id = 0; id < pld_params_count(p); id++) {
            float *grad = pld_params_grad(p, id);

            for (int i = 0; i < 8; i++)
                grad[i] = (float)(100 * stage + 10 * pld_mesh_coord(mesh, PLD_AXIS_DP) + i);
            CHECK(rt, pld_dp_ready(dp, id, NULL) == 0);
        }
        CHECK(rt, pld_dp_wait(dp) == 0);
        CHECK(rt, check_tied(rt, p, stage, *sum) == 0);
    }
    pld_dp_destroy(&dp);
    pld_params_destroy(&p);
    pld_mesh_destroy(&mesh);
    return 0;
}

/* Gradients that are looked at and thrown away; those that follow are not told of. */
static int throw_away(pld_runtime *rt, struct rank *r)
{
    CHECK(rt, pld_dp_wait(r->dp) == 0 && pld_params_zero_grad(r->params) == 0);
    for (int id = 0; id < TENSORS; id++)
        fill(r, id, 1);
    return 0;
}

/* The optimizer waits by itself, and does not reduce again what was waited for. */
static int optimizer(pld_runtime *rt, void *context)
{
    const int *waits = context;
    const pld_dp_opts opts = {PLD_OPTS(pld_dp_opts), .sum = 1};
    const pld_optim_opts sgd = {PLD_OPTS(pld_optim_opts), .kind = PLD_SGD};
    pld_optim *optim = NULL;
    pld_dp_stats stats;
    struct rank r;

    CHECK(rt, open_rank(rt, &r, "dp=0", &opts) == 0);
    CHECK(rt, pld_optim_create(r.params, &sgd, &optim) == 0);
    for (int step = 1; step <= 2; step++) {
        for (int id = 0; id < TENSORS; id++) {
            fill(&r, id, 1);
            CHECK(rt, pld_dp_ready(r.dp, id, NULL) == 0);
        }
        CHECK(rt, *waits != 1 || pld_dp_wait(r.dp) == 0);
        CHECK(rt, *waits != 2 || throw_away(rt, &r) == 0);
        CHECK(rt, pld_optim_step(optim, 1, NULL) == 0);
        pld_dp_get_stats(r.dp, &stats);
        CHECK(rt, stats.steps == (*waits == 2 ? 2 * step : step));
        for (int id = 0; id < TENSORS; id++)
            for (size_t i = 0; i < counts[id]; i++) {
                double want = 0;

                for (int k = 0; k < r.dp_size; k++)
                    want -= step * contribution(k, id, i);
                CHECK(rt, get(pld_params_value(r.params, id), dtypes[id], i) == want);
            }
    }
    pld_optim_destroy(&optim);
    close_rank(&r);
    return 0;
}

/* Create with options that one rank got wrong. */
struct wrong {
    const char *mesh;
    int ranks;
    pld_dp_opts common, odd; /* the highest rank has `odd` */
    int code;
    const char *words;
};

static int refused(pld_runtime *rt, void *context)
{
    const struct wrong *w = context;
    const int odd = pld_runtime_rank(rt) == w->ranks - 1;
    pld_dp *dp = NULL;
    struct rank r;

    CHECK(rt, open_rank(rt, &r, w->mesh, NULL) == 0);
    CHECK(rt, pld_dp_create(r.params, odd ? &w->odd : &w->common, &dp) == w->code);
    CHECK(rt, (dp == NULL) == (w->code < 0));
    CHECK(rt, w->code == 0 || strstr(pld_last_error(), w->words) != NULL);
    pld_dp_destroy(&dp);
    CHECK(rt, w->code == PLD_ERR_UNSUPPORTED || pld_dp_create(r.params, NULL, &dp) == 0);
    pld_dp_destroy(&dp);
    close_rank(&r);
    return 0;
}

static void test_refused(void)
{
    static const pld_dp_opts plain = {PLD_OPTS(pld_dp_opts)};
    static const pld_dp_opts same = {PLD_OPTS(pld_dp_opts), .bucket_bytes = 25 << 20,
                                     .first_bucket_bytes = 1 << 20, .accumulate = 1};
    static const pld_dp_opts twice = {PLD_OPTS(pld_dp_opts), .accumulate = 2};
    static const pld_dp_opts sum = {PLD_OPTS(pld_dp_opts), .sum = 1};
    static const pld_dp_opts bucket = {PLD_OPTS(pld_dp_opts), .bucket_bytes = 77};
    static const pld_dp_opts minus = {PLD_OPTS(pld_dp_opts), .accumulate = -1};
    static const pld_dp_opts two = {PLD_OPTS(pld_dp_opts), .sum = 2};
    static const pld_dp_opts small = {.struct_size = sizeof(size_t)};
    const struct wrong all[] = {
        {"dp=0", 3, plain, same, 0, NULL},
        {"dp=0", 3, plain, twice, PLD_ERR_MISMATCH, "pld_dp_opts"},
        {"pp=0", 2, plain, sum, PLD_ERR_MISMATCH, "pld_dp_opts"},
        {"dp=0", 3, plain, bucket, PLD_ERR_MISMATCH, "pld_dp_opts"},
        {"dp=0", 2, plain, minus, PLD_ERR_ARG, "accumulate is -1"},
        {"dp=0", 2, plain, two, PLD_ERR_ARG, "sum is 2"},
        {"dp=0", 2, plain, small, PLD_ERR_ARG, "rank 1"},
        {"dp=1,cp=2", 2, plain, plain, PLD_ERR_UNSUPPORTED, "cp=2"},
        {"dp=1,ep=2", 2, plain, plain, PLD_ERR_UNSUPPORTED, "ep=2"},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        ok(inproc_run(all[i].ranks, refused, (void *)(uintptr_t)&all[i]) == 0,
           "options %zu on %s: %s on all ranks", i, all[i].mesh,
           all[i].code == 0 ? "no error" : pld_error_name(all[i].code));
}

static int states(pld_runtime *rt, void *context)
{
    pld_mesh *mesh = NULL;
    pld_params *params = NULL;
    pld_dp *dp = NULL;
    pld_dp *second = NULL;
    pld_param o = {PLD_OPTS(pld_param), .name = "t", .ndim = 1, .shape = {3}};

    (void)context;
    CHECK(rt, pld_mesh_create(rt, NULL, &mesh) == 0);
    CHECK(rt, pld_params_create(mesh, &params) == 0);
    CHECK(rt, pld_params_add(params, &o, NULL) == 0);
    CHECK(rt, pld_dp_create(params, NULL, &dp) == PLD_ERR_STATE);
    CHECK(rt, pld_params_commit(params) == 0);
    CHECK(rt, pld_dp_create(NULL, NULL, &dp) == PLD_ERR_ARG);
    CHECK(rt, pld_dp_create(params, NULL, NULL) == PLD_ERR_ARG);
    CHECK(rt, pld_dp_create(params, NULL, &dp) == 0);
    CHECK(rt, pld_dp_create(params, NULL, &second) == PLD_ERR_STATE && second == NULL);
    CHECK(rt, pld_dp_ready(NULL, 0, NULL) == PLD_ERR_ARG && pld_dp_wait(NULL) == PLD_ERR_ARG);
    CHECK(rt,
          pld_dp_ready(dp, 1, NULL) == PLD_ERR_ARG && pld_dp_ready(dp, -1, NULL) == PLD_ERR_ARG);
    CHECK(rt, pld_dp_ready(dp, 0, NULL) == 0 && pld_dp_ready(dp, 0, NULL) == PLD_ERR_STATE);
    CHECK(rt, strstr(pld_last_error(), "'t'") != NULL);
    CHECK(rt, pld_dp_wait(dp) == 0 && pld_dp_ready(dp, 0, NULL) == 0);
    CHECK(rt, pld_dp_wait(dp) == 0);
    pld_dp_destroy(&dp);
    pld_dp_destroy(NULL);
    pld_params_destroy(&params);
    pld_mesh_destroy(&mesh);
    return 0;
}

int main(void)
{
    static const int numbers[] = {0, 1, 2, 5, TENSORS};

    test_reduce();
    ok(inproc_run(3, overlap, NULL) == 0, "buckets leave in reverse order of adding");
    for (int i = 1; i < 5; i++)
        ok(inproc_run(3, no_memory, (void *)(uintptr_t)&numbers[i]) == 0,
           "bucket %d finds no memory on a rank: all are told, the next step is sound", numbers[i]);
    for (int i = 0; i < 2; i++) {
        ok(inproc_run(6, tied, (void *)(uintptr_t)&numbers[i]) == 0,
           "shared tensors: %s over dp, sum over the stages", i ? "sum" : "average");
        ok(inproc_run(3, optimizer, (void *)(uintptr_t)&numbers[i]) == 0,
           "the optimizer's step reduces once, %s", i ? "waited for before" : "by itself");
    }
    ok(inproc_run(3, optimizer, (void *)(uintptr_t)&numbers[2]) == 0,
       "and those that come after gradients were waited for and set to zero");
    test_refused();
    ok(inproc_run(2, states, NULL) == 0, "calls out of order");
    return tap_done();
}
