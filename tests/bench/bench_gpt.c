/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Forward and backward of examples/gpt beside what the machine's BLAS can do:
 *
 *     mpirun -np 2 bench_gpt [-m 124M] [-b 2] [-t 64] [-n 20] [-g 2048] [-c 0]
 *
 * Every rank has the whole model (-m preset) and does a microbatch of -b sequences
 * of -t tokens; before each, all ranks do one square sgemm of size -g at once,
 * so that whatever else the machine does meets both alike.  A sample is the time of
 * the slowest rank; of -n samples the best and the median are shown, and where
 * rank 0 spent its time on average.  -c 1 counts processor time instead, which
 * means something even while others use the machine.
 */

#include <blas.h>
#include <cblas.h>
#include <model.h>
#include <polder/polder.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct options {
    const char *model;
    int batch, seq, iterations, gemm, processor;
};

struct bench {
    struct options o;
    struct gpt_config config;
    pld_runtime *runtime;
    pld_mesh *mesh;
    pld_params *params;
    struct gpt_stage *stage;
    int32_t *tokens; /* [batch * seq + 1] */
    float *a, *b, *c;
    double *gemm_seconds, *step_seconds;
};

static int parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        int *const numbers[] = {&o->batch, &o->seq, &o->iterations, &o->gemm, &o->processor};
        const char *const flags[] = {"-b", "-t", "-n", "-g", "-c"};
        int known = value != NULL && strcmp(argv[i], "-m") == 0;

        if (value == NULL)
            return -1;
        if (known)
            o->model = value;
        for (int f = 0; f < 5; f++) {
            if (strcmp(argv[i], flags[f]) != 0)
                continue;
            *numbers[f] = atoi(value);
            known = *numbers[f] > 0 || f == 4;
        }
        if (!known)
            return -1;
    }
    return 0;
}

static double now(const struct bench *b)
{
    struct timespec t;

    (void)clock_gettime(b->o.processor ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int gemm(struct bench *b)
{
    const int n = b->o.gemm;

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1.0F, b->a, n, b->b, n, 0.0F,
                b->c, n);
    return 0;
}

static int step(struct bench *b)
{
    const float scale = 1.0F / (float)(b->o.batch * b->o.seq);
    int rc = gpt_stage_forward(b->stage, 0, b->tokens, b->tokens + 1, scale, NULL, NULL);

    return rc == 0 ? gpt_stage_backward(b->stage, 0, NULL, NULL, NULL) : rc;
}

/* Seconds of the slowest rank. */
static int timed(struct bench *b, int (*work)(struct bench *b), double *seconds)
{
    pld_group *world = pld_runtime_world(b->runtime);
    double t;
    int rc = pld_barrier(world, NULL);

    if (rc != 0)
        return rc;
    t = now(b);
    rc = work(b);
    t = now(b) - t;
    return rc != 0 ? rc : pld_allreduce(world, &t, seconds, 1, PLD_F64, PLD_MAX, NULL);
}

static int prepare(struct bench *b)
{
    const struct gpt_stage_opts opts = {.config = b->config,
                                        .stages = 1,
                                        .batch = b->o.batch,
                                        .seq = b->o.seq,
                                        .live = 1,
                                        .microbatches = 1};
    const size_t square = (size_t)b->o.gemm * (size_t)b->o.gemm;
    const int count = b->o.batch * b->o.seq + 1;
    int rc = pld_mesh_create(b->runtime, NULL, &b->mesh);

    if (rc == 0)
        rc = pld_params_create(b->mesh, &b->params);
    if (rc == 0)
        rc = gpt_stage_create(&opts, b->params, &b->stage);
    if (rc == 0)
        rc = pld_params_commit(b->params);
    if (rc == 0)
        rc = gpt_stage_init(b->stage, 1);
    b->tokens = calloc((size_t)count, sizeof(*b->tokens));
    for (int i = 0; i < count; i++)
        b->tokens[i] = (int32_t)(pld_random_u64(1, 0, (uint64_t)i) % (uint64_t)b->config.vocab);
    b->a = malloc(square * sizeof(float));
    b->b = malloc(square * sizeof(float));
    b->c = malloc(square * sizeof(float));
    pld_random_uniform(1, 1, 0, square, b->a);
    pld_random_uniform(1, 2, 0, square, b->b);
    b->gemm_seconds = calloc((size_t)b->o.iterations, sizeof(double));
    b->step_seconds = calloc((size_t)b->o.iterations, sizeof(double));
    return rc;
}

static int measure(struct bench *b)
{
    double first;
    int rc = timed(b, gemm, &first);

    if (rc == 0)
        rc = timed(b, step, &first); /* touches all memory once */
    gpt_stage_measure(b->stage, 1);
    for (int i = 0; i < b->o.iterations && rc == 0; i++) {
        rc = timed(b, gemm, &b->gemm_seconds[i]);
        if (rc == 0)
            rc = timed(b, step, &b->step_seconds[i]);
    }
    return rc;
}

static int ascending(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;

    return (a > b) - (a < b);
}

static void line(const struct bench *b, const char *what, double step_seconds, double gemm_seconds)
{
    const double ranks = pld_runtime_size(b->runtime), n = b->o.gemm;
    const double rate = ranks * 2 * n * n * n / gemm_seconds;
    const double tokens = ranks * b->o.batch * b->o.seq / step_seconds;
    const double flops = tokens * gpt_config_flops(&b->config, b->o.seq);

    printf("%-6s  sgemm %7.1f GFLOP/s   model %8.1f tokens/s  %7.1f GFLOP/s  %5.1f %%\n", what,
           rate * 1e-9, tokens, flops * 1e-9, 100 * flops / rate);
}

static void report(struct bench *b)
{
    const size_t n = (size_t)b->o.iterations;
    double classes[GPT_CLASSES], total = 0;

    qsort(b->gemm_seconds, n, sizeof(double), ascending);
    qsort(b->step_seconds, n, sizeof(double), ascending);
    printf("%s, %d rank(s), batch %d, seq %d per rank\n", b->o.model, pld_runtime_size(b->runtime),
           b->o.batch, b->o.seq);
    line(b, "best", b->step_seconds[0], b->gemm_seconds[0]);
    line(b, "median", b->step_seconds[n / 2], b->gemm_seconds[n / 2]);
    gpt_stage_times(b->stage, classes);
    for (int i = 0; i < GPT_CLASSES; i++)
        total += classes[i];
    for (int i = 0; i < GPT_CLASSES; i++)
        printf("%s %.1f ms (%.1f %%)%s", gpt_class_name((enum gpt_class)i),
               1e3 * classes[i] / (double)n, 100 * classes[i] / total,
               i + 1 < GPT_CLASSES ? ", " : "\n");
}

static void finish(struct bench *b)
{
    gpt_stage_destroy(&b->stage);
    pld_params_destroy(&b->params);
    pld_mesh_destroy(&b->mesh);
    free(b->tokens);
    free(b->a);
    free(b->b);
    free(b->c);
    free(b->gemm_seconds);
    free(b->step_seconds);
    (void)pld_runtime_close(&b->runtime);
}

int main(int argc, char **argv)
{
    struct bench b = {
        .o = {.model = "124M", .batch = 2, .seq = 64, .iterations = 20, .gemm = 2048}};
    int rc;

    gpt_blas_choose(argv);
    if (parse(argc, argv, &b.o) != 0 || gpt_config_preset(b.o.model, &b.config) != 0) {
        fprintf(stderr, "see the top of bench_gpt.c\n");
        return 2;
    }
    rc = pld_runtime_open(NULL, &b.runtime);
    if (rc != 0) {
        fprintf(stderr, "%s: %s\n", pld_error_name(rc), pld_last_error());
        return 1;
    }
    gpt_blas_threads(pld_runtime_local_size(b.runtime));
    rc = prepare(&b);
    if (rc == 0)
        rc = measure(&b);
    if (rc == 0 && pld_runtime_rank(b.runtime) == 0)
        report(&b);
    if (rc != 0)
        fprintf(stderr, "%s: %s; %s\n", pld_error_name(rc), gpt_last_error(), pld_last_error());
    finish(&b);
    return rc != 0;
}
