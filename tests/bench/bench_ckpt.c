/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Saving and loading beside writing and reading as many bytes with nothing around
 * them, in turn, on the same file system:
 *
 *     bench_ckpt DIRECTORY [MB] [ROUNDS]
 *
 * One rank, or several under mpirun; then MB are per model, not per rank.  "cold"
 * means that the page cache was told to forget the files before (which it does for
 * files that are flushed); medians over the rounds.  Only ratios mean anything.
 * "cpu" is processor time of rank 0, which other work on the machine disturbs least.
 */

#include <polder/polder.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TENSORS = 24, COLUMNS = 1024, MAX_ROUNDS = 32, PIECE = 1 << 20 };
enum {
    PLAIN_WRITE,
    RAW_SAVE,
    ZSTD_SAVE,
    PLAIN_READ,
    RAW_LOAD,
    ZSTD_LOAD,
    WARM_RAW,
    WARM_ZSTD,
    ROWS
};

static const char *const names[ROWS] = {"write + fsync",  "save raw",       "save zstd",
                                        "read, cold",     "load raw, cold", "load zstd, cold",
                                        "load raw, warm", "load zstd, warm"};

struct bench {
    pld_runtime *runtime;
    pld_mesh *mesh;
    pld_params *params;
    pld_ckpt *ckpts[2];
    char paths[2][512];
    char plain[512];
    double bytes;
    double seconds[ROWS][MAX_ROUNDS];
    double cpu[ROWS][MAX_ROUNDS];
};

static double now(clockid_t clock)
{
    struct timespec t;

    (void)clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(int rc, const char *what)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, pld_last_error());
    exit(1);
}

/* Bell-shaped around 0, as weights are. */
static void fill(float *value, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        float sum = 0;

        for (int k = 0; k < 6; k++) {
            seed = seed * 1664525u + 1013904223u;
            sum += (float)(seed >> 8) / (float)(1 << 24) - 0.5f;
        }
        value[i] = 0.03f * sum;
    }
}

static void make_model(struct bench *b, int megabytes)
{
    const int64_t rows = (int64_t)megabytes * 1000000 / 4 / COLUMNS / TENSORS;
    char name[32];

    must(pld_params_create(b->mesh, &b->params), "params");
    for (int i = 0; i < TENSORS; i++) {
        pld_param o = {PLD_OPTS(pld_param), .name = name, .ndim = 2, .shape = {rows, COLUMNS}};

        (void)snprintf(name, sizeof(name), "layer%d.weight", i);
        must(pld_params_add(b->params, &o, NULL), "tensor");
    }
    must(pld_params_commit(b->params), "commit");
    for (int i = 0; i < TENSORS; i++)
        fill(pld_params_value(b->params, i), (size_t)rows * COLUMNS, (uint32_t)i + 1);
    b->bytes = 4.0 * (double)rows * COLUMNS * TENSORS;
}

static void forget(const char *path)
{
    const int fd = open(path, O_RDONLY);

    if (fd >= 0) {
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        (void)close(fd);
    }
}

static void forget_all(const char *directory)
{
    DIR *dir = opendir(directory);
    struct dirent *e;
    char path[1024];

    while (dir != NULL && (e = readdir(dir)) != NULL) {
        (void)snprintf(path, sizeof(path), "%s/%s", directory, e->d_name);
        forget(path);
    }
    if (dir != NULL)
        (void)closedir(dir);
}

/* This rank's part of as many bytes, a megabyte at a time. */
static void plain_write(struct bench *b)
{
    const int ranks = pld_runtime_size(b->runtime);
    const char *value = pld_params_value(b->params, 0);
    const size_t mine = (size_t)(b->bytes / ranks);
    const int fd = open(b->plain, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    size_t done = 0;

    while (fd >= 0 && done < mine) {
        const size_t n = mine - done < PIECE ? mine - done : PIECE;

        if (write(fd, value + done, n) != (ssize_t)n)
            break;
        done += n;
    }
    must(fd < 0 || done < mine || fsync(fd) != 0 || close(fd) != 0 ? -1 : 0, b->plain);
}

static void plain_read(struct bench *b)
{
    char *to = pld_params_grad(b->params, 0);
    const int fd = open(b->plain, O_RDONLY);
    ssize_t n = 1;

    while (fd >= 0 && (n = read(fd, to, PIECE)) > 0)
        to += n;
    must(fd < 0 || n < 0 ? -1 : 0, b->plain);
    (void)close(fd);
}

static void do_row(struct bench *b, int row)
{
    int64_t step;

    switch (row) {
    case PLAIN_WRITE:
        plain_write(b);
        return;
    case PLAIN_READ:
        plain_read(b);
        return;
    case RAW_SAVE:
    case ZSTD_SAVE:
        must(pld_ckpt_save(b->ckpts[row - RAW_SAVE], 1), "save");
        return;
    case RAW_LOAD:
    case ZSTD_LOAD:
        must(pld_ckpt_load(b->ckpts[row - RAW_LOAD], "latest", &step), "load");
        return;
    default:
        must(pld_ckpt_load(b->ckpts[row - WARM_RAW], "latest", &step), "load");
    }
}

static void prepare(struct bench *b, int row)
{
    char path[600];

    if (row == PLAIN_READ)
        forget(b->plain);
    if (row == RAW_LOAD || row == ZSTD_LOAD) {
        (void)snprintf(path, sizeof(path), "%s/step-00000001", b->paths[row - RAW_LOAD]);
        forget_all(path);
    }
    must(pld_barrier(pld_runtime_world(b->runtime), NULL), "barrier");
}

static int by_value(const void *left, const void *right)
{
    const double a = *(const double *)left;
    const double b = *(const double *)right;

    return a < b ? -1 : a > b;
}

static double stored_ratio(const struct bench *b)
{
    char path[600];
    pld_snapshot *s = NULL;
    double stored = 0;

    (void)snprintf(path, sizeof(path), "%s/step-00000001", b->paths[1]);
    must(pld_snapshot_open(path, &s), "snapshot");
    for (size_t i = 0; i < pld_snapshot_tensors(s); i++)
        stored += (double)pld_snapshot_tensor_at(s, i)->stored_bytes;
    pld_snapshot_close(&s);
    return b->bytes / stored;
}

static void print(struct bench *b, int rounds)
{
    printf("%.0f MB of f32, %d ranks, %d rounds; zstd stores %.3f times less\n", b->bytes / 1e6,
           pld_runtime_size(b->runtime), rounds, stored_ratio(b));
    for (int row = 0; row < ROWS; row++) {
        const int plain = row < PLAIN_READ ? PLAIN_WRITE : PLAIN_READ;

        qsort(b->seconds[row], (size_t)rounds, sizeof(double), by_value);
        qsort(b->cpu[row], (size_t)rounds, sizeof(double), by_value);
        printf("%-16s %8.3f s %7.0f MB/s  %5.2f of plain   cpu %.3f s\n", names[row],
               b->seconds[row][rounds / 2], b->bytes / 1e6 / b->seconds[row][rounds / 2],
               b->seconds[plain][rounds / 2] / b->seconds[row][rounds / 2],
               b->cpu[row][rounds / 2]);
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    const char *directory = argc > 1 ? argv[1] : ".";
    const int rounds = argc > 3 ? atoi(argv[3]) : 5;

    must(pld_runtime_open(NULL, &b.runtime), "runtime");
    must(pld_mesh_create(b.runtime, NULL, &b.mesh), "mesh");
    make_model(&b, argc > 2 ? atoi(argv[2]) : 500);
    for (int codec = 0; codec < 2; codec++) {
        (void)snprintf(b.paths[codec], sizeof(b.paths[codec]), "%s/bench-%s", directory,
                       codec ? "zstd" : "raw");
        must(
            pld_ckpt_open(b.mesh, b.paths[codec],
                          &(pld_ckpt_opts){PLD_OPTS(pld_ckpt_opts), .codec = (pld_ckpt_codec)codec},
                          &b.ckpts[codec]),
            "open");
        must(pld_ckpt_add_params(b.ckpts[codec], b.params), "add");
    }
    (void)snprintf(b.plain, sizeof(b.plain), "%s/bench-plain-%d", directory,
                   pld_runtime_rank(b.runtime));
    for (int round = 0; round < rounds && round < MAX_ROUNDS; round++)
        for (int row = 0; row < ROWS; row++) {
            double begin, cpu;

            prepare(&b, row);
            begin = now(CLOCK_MONOTONIC);
            cpu = now(CLOCK_PROCESS_CPUTIME_ID);
            do_row(&b, row);
            must(pld_barrier(pld_runtime_world(b.runtime), NULL), "barrier");
            b.seconds[row][round] = now(CLOCK_MONOTONIC) - begin;
            b.cpu[row][round] = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        }
    if (pld_runtime_rank(b.runtime) == 0)
        print(&b, rounds);
    (void)unlink(b.plain);
    pld_ckpt_destroy(&b.ckpts[0]);
    pld_ckpt_destroy(&b.ckpts[1]);
    pld_params_destroy(&b.params);
    pld_mesh_destroy(&b.mesh);
    return pld_runtime_close(&b.runtime) < 0;
}
