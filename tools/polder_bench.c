/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* `polder bench`: which cases are measured, in which order, and what is done with them. */

#include "polder_bench.h"
#include "polder.h"
#include "polder_launch.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RANK_LINE = 128 };

static const char help[] =
    "usage: mpirun -np N polder bench OPERATION [OPTION]...\n"
    "\n"
    "Measures a collective operation, checks every element of its result, and compares it\n"
    "with MPI's.  Operations: allreduce, reduce_scatter, allgather, broadcast, reduce, alltoall,\n"
    "gather, scatter, sendrecv (to the next rank, from the previous one), barrier;\n"
    "reduce_scatter_v, allgather_v, alltoall_v, gather_v, scatter_v (with equal counts);\n"
    "allreduce_list, reduce_scatter_list, allgather_list, broadcast_list (of 8 tensors; MPI is\n"
    "called for each).\n"
    "\n"
    "Sizes:\n"
    "  -b, --minbytes SIZE      first size (default 8); 64K, 1.5M, 2G are understood\n"
    "  -e, --maxbytes SIZE      last size (default 64M)\n"
    "  -f, --stepfactor N       each size is N times the one before (default 2)\n"
    "  -i, --stepbytes SIZE     or larger by SIZE\n"
    "What:\n"
    "  -d, --datatype LIST      f32, f64, f16, bf16, i64, i32, u32, i8, u8 (or float, double,\n"
    "                           half, bfloat16, int64, ...), or all (default f32)\n"
    "  -o, --op LIST            sum, avg, max, min, prod, or all (default sum)\n"
    "  -r, --root RANK|all      root, where there is one (default 0)\n"
    "      --device WHERE       cpu (default), cuda, cuda:PCI-ID or auto: vectors in the memory "
    "of\n"
    "                           the rank's GPU\n"
    "      --memory WHICH       polder (shared by the ranks of a node; default), ordinary, both\n"
    "How:\n"
    "  -n, --iters N            calls (default: 15 to 1001, as many as are quick)\n"
    "  -w, --warmup_iters N     calls before those (default 5)\n"
    "  -c, --check N            checked calls (default 1; 0: none)\n"
    "  -z, --blocking 0|1       0: start, then wait (default 1: calls that wait)\n"
    "      --cold | --hot       other buffers in each call, or the same (default)\n"
    "      --vs mpi             MPI in turn with polder, call by call\n"
    "      --tune FILE          measure every algorithm, and write the fastest as a file for\n"
    "                           POLDER_TUNE\n"
    "Output:\n"
    "      --explain            before each row, the algorithm that is chosen\n"
    "      --osu                columns of the OSU benchmarks\n"
    "      --overlap            those of their non-blocking ones: compute while a call is under "
    "way\n"
    "  -J, --json, --output_file FILE   results as JSON, too\n"
    "\n"
    "Columns: those of nccl-tests, then for both places MPI's median time, MPI's time by\n"
    "polder's, and the share of the speed at which all ranks copy memory at once.  A time is\n"
    "the median over the calls, of the slowest rank.\n"
    "Exit status: 0 all is well, 1 wrong results or an error, 2 wrong usage.\n";

struct bench_run {
    const struct bench_options *o;
    pld_runtime *rt;
    struct bench_json *json; /* rank 0 alone, if wanted */
    struct bench_tune tune;
    int rank, size;
    long long wrong;
    double busbw; /* sum over `rows` */
    int rows;
};

/* The next size, or 0 behind the last. */
static size_t next_size(const struct bench_options *o, size_t size)
{
    const size_t next = o->step > 0 ? size + o->step : size * o->factor;

    return next > o->last || next <= size ? 0 : next;
}

/* Elements of a part for a size: rounded down, but one at least. */
static void fit(struct bench_case *c, size_t size, int ranks)
{
    const size_t parts = c->op->send_parts || c->op->recv_parts ? (size_t)ranks : 1;
    const size_t bytes = pld_dtype_bytes(c->dtype) * parts;

    if (c->op->from == BENCH_NOTHING)
        return;
    c->count = size / bytes > 0 ? size / bytes : 1;
    c->bytes = c->count * bytes;
}

static int run_row(struct bench_run *run, const struct bench_area *area, struct bench_case *c)
{
    struct bench_result r[2];
    const struct bench_result *both[2] = {NULL, NULL};

    for (int in_place = 0; in_place < 2; in_place++) {
        int rc;

        if (!(c->op->places & (in_place ? BENCH_IN_PLACE : BENCH_OUT_OF_PLACE)))
            continue;
        c->in_place = in_place;
        rc = bench_measure(area, run->o, c, &r[in_place]);
        if (rc < 0)
            return rc;
        both[in_place] = &r[in_place];
        run->wrong += r[in_place].wrong;
        run->busbw += (double)c->bytes / r[in_place].polder.median * 1e-9 *
                      bench_bus_factor(c->op, run->size);
        run->rows++;
        if (run->json != NULL)
            bench_json_add(run->json, c, &r[in_place], run->size);
    }
    if (run->rank == 0)
        bench_print_row(run->o, c, both, run->size);
    c->in_place = !(c->op->places & BENCH_OUT_OF_PLACE);
    return run->o->tune != NULL ? bench_tune_size(&run->tune, area, run->o, c) : 0;
}

static void explain(const struct bench_run *run, const struct bench_case *c)
{
    char text[256];

    if (run->rank != 0 || !run->o->explain)
        return;
    bench_explain(pld_runtime_world(run->rt), c, text, sizeof(text));
    (void)printf("# %zu bytes: %s\n", c->bytes, text);
}

static int run_sizes(struct bench_run *run, const struct bench_area *area, struct bench_case *c)
{
    size_t before = 0;
    int rc = 0;

    for (size_t size = run->o->first; size > 0 && rc == 0; size = next_size(run->o, size)) {
        fit(c, size, run->size);
        if (before > 0 && c->count == before)
            continue; /* both less than an element for each rank */
        before = c->count;
        explain(run, c);
        rc = run_row(run, area, c);
    }
    return rc;
}

/* Whether a combination of type, operator and root is asked for; types and operators that mean
 * nothing to the operation are taken once. */
static int is_wanted(const struct bench_run *run, const struct bench_case *c)
{
    const struct bench_options *o = run->o;

    if (c->op->from == BENCH_NOTHING && c->dtype != PLD_F32)
        return 0;
    if (c->op->from != BENCH_NOTHING && !(o->dtypes >> c->dtype & 1U))
        return 0;
    if (c->op->from != BENCH_ALL_RANKS && c->redop != PLD_SUM)
        return 0;
    if (c->op->from == BENCH_ALL_RANKS &&
        (!(o->redops >> c->redop & 1U) || !bench_redop_takes(c->redop, c->dtype)))
        return 0;
    if (!c->op->rooted)
        return c->root == 0;
    return o->root == BENCH_ALL_ROOTS || o->root == c->root;
}

static int run_memory(struct bench_run *run, enum bench_memory memory)
{
    const int cases = BENCH_DTYPES * BENCH_REDOPS * run->size;
    struct bench_area area;
    int first = 1;
    int rc = bench_area_open(run->rt, run->o, memory, &area);

    if (rc < 0)
        return rc;
    for (int n = 0; n < cases && rc == 0; n++) {
        struct bench_case c = {.op = run->o->op,
                               .memory = memory,
                               .dtype = (pld_dtype)(n / run->size / BENCH_REDOPS),
                               .redop = (pld_op)(n / run->size % BENCH_REDOPS),
                               .root = n % run->size};

        if (!is_wanted(run, &c))
            continue;
        fit(&c, run->o->first, run->size);
        if (run->rank == 0 && (first || run->o->osu))
            bench_print_table_head(run->o, &c);
        first = 0;
        rc = run_sizes(run, &area, &c);
    }
    bench_area_close(&area);
    return rc;
}

/* Where the ranks are, a line each, on all ranks; caller frees. */
static char *describe_ranks(pld_runtime *rt)
{
    const int size = pld_runtime_size(rt);
    char *lines = calloc((size_t)size + 1, RANK_LINE);
    char mine[RANK_LINE] = "";
    char host[64] = "";
    cpu_set_t cpus;
    size_t length = 0;
    int n = 0;
    int rc;

    (void)gethostname(host, sizeof(host) - 1);
    if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
        n = CPU_COUNT(&cpus);
    (void)snprintf(mine, sizeof(mine), "#  Rank %2d Group  0 Pid %6d on %10s, %d processors\n",
                   pld_runtime_rank(rt), (int)getpid(), host, n);
    rc = pld_agree(pld_runtime_world(rt), lines == NULL ? PLD_ERR_NOMEM : 0);
    if (rc == 0)
        rc = pld_allgather(pld_runtime_world(rt), mine, lines, RANK_LINE, PLD_U8, NULL);
    if (rc < 0 || lines == NULL) {
        free(lines);
        return NULL;
    }
    for (int r = 0; r < size; r++) {
        const size_t bytes = strlen(lines + (size_t)r * RANK_LINE);

        memmove(lines + length, lines + (size_t)r * RANK_LINE, bytes);
        length += bytes;
    }
    lines[length] = '\0';
    return lines;
}

/* All ranks were told the same, or they would wait for each other for ever. */
static int compare_options(pld_runtime *rt, char **argv, int *same)
{
    int64_t hash[2] = {5381, 5381};
    int rc;

    for (char **arg = argv; *arg != NULL; arg++) {
        for (const char *c = *arg; *c != '\0'; c++)
            hash[0] = (hash[0] * 33 + *c) % 1000000007;
        hash[0] = (hash[0] * 33) % 1000000007;
    }
    hash[1] = hash[0];
    rc = pld_allreduce(pld_runtime_world(rt), hash, hash, 1, PLD_I64, PLD_MIN, NULL);
    if (rc == 0)
        rc = pld_allreduce(pld_runtime_world(rt), hash + 1, hash + 1, 1, PLD_I64, PLD_MAX, NULL);
    *same = hash[0] == hash[1];
    return rc;
}

/* With a GPU, its memory. */
static unsigned memories(const struct bench_run *run)
{
    return pld_runtime_device(run->rt) != NULL ? 1U << BENCH_DEVICE_MEMORY : run->o->memories;
}

/* What device the vectors are on, or why on none. */
static void describe_device(const struct bench_run *run)
{
    pld_device *gpu = pld_runtime_device(run->rt);
    const char *note = pld_runtime_device_note(run->rt);
    pld_device_info info;

    if (note[0] != '\0')
        (void)printf("# the host's memory: %s\n", note);
    if (gpu == NULL)
        return;
    pld_device_get_info(gpu, &info);
    (void)printf("# GPU of rank 0: %s, %s, driver for CUDA %d.%d, NCCL %d, %d ranks on it%s%s\n",
                 info.name, info.pci, info.driver / 1000, info.driver % 1000 / 10, info.nccl,
                 info.sharing, info.nic[0] != '\0' ? ", nearest port " : "", info.nic);
}

static int measure_all(struct bench_run *run)
{
    char *ranks = describe_ranks(run->rt);
    int rc = ranks == NULL ? PLD_ERR_NOMEM : 0;

    if (rc == 0 && run->rank == 0)
        bench_print_head(run->o, run->rt, ranks);
    if (rc == 0 && run->rank == 0)
        describe_device(run);
    free(ranks);
    for (int m = 0; m < BENCH_MEMORIES && rc == 0; m++) {
        if (memories(run) >> m & 1U)
            rc = run_memory(run, (enum bench_memory)m);
    }
    return rc;
}

/* Rank 0 says how it went; the status is everybody's. */
static int finish(struct bench_run *run, int rc)
{
    int status = rc < 0 || run->wrong > 0 ? STATUS_BAD : STATUS_OK;

    if (run->rank != 0)
        return status;
    if (rc < 0)
        return complain(status, "bench %s: %s: %s", run->o->op->name, pld_error_name(rc),
                        pld_last_error());
    if (!run->o->osu && run->rows > 0)
        (void)printf("# Out of bounds values : %lld %s\n# Avg bus bandwidth    : %g\n#\n",
                     run->wrong, run->wrong == 0 ? "OK" : "FAILED", run->busbw / run->rows);
    else if (run->wrong > 0)
        (void)complain(status, "bench %s: %lld elements are wrong", run->o->op->name, run->wrong);
    if (bench_tune_close(&run->tune) < 0)
        return complain(STATUS_BAD, "bench: cannot write \"%s\": %s", run->o->tune,
                        strerror(errno));
    if (run->json != NULL && bench_json_write(&run->json, run->o->json) < 0)
        return complain(STATUS_BAD, "bench: cannot write \"%s\": %s", run->o->json,
                        strerror(errno));
    return status;
}

/* What can be wrong with the options once the ranks are known; the same on all. */
static int refuse(const struct bench_options *o, pld_runtime *rt, char **argv)
{
    const int is_first = pld_runtime_rank(rt) == 0;
    int same = 1;
    int rc = compare_options(rt, argv, &same);

    if (rc == 0 && !same)
        return is_first ? complain(STATUS_USAGE, "bench: the ranks were given different options")
                        : STATUS_USAGE;
    if (rc == 0 && o->op->rooted && o->root >= pld_runtime_size(rt))
        return is_first ? complain(STATUS_USAGE, "bench: -r %d: there are ranks 0 to %d", o->root,
                                   pld_runtime_size(rt) - 1)
                        : STATUS_USAGE;
    return STATUS_OK;
}

/* Before anything is measured: a long run is not lost to a wrong path. */
static int open_json(struct bench_run *run)
{
    FILE *file = fopen(run->o->json, "ae");

    if (file == NULL || fclose(file) != 0) {
        (void)complain(STATUS_BAD, "bench: cannot write \"%s\": %s", run->o->json, strerror(errno));
        return PLD_ERR_IO;
    }
    run->json = bench_json_open(run->o, run->rt);
    return run->json == NULL ? PLD_ERR_NOMEM : 0;
}

static int open_tune(struct bench_run *run)
{
    const int rc = bench_tune_open(&run->tune, run->rt, run->o);

    if (rc == PLD_ERR_IO)
        (void)complain(STATUS_BAD, "bench: cannot write \"%s\": %s", run->o->tune, strerror(errno));
    return rc;
}

static int run_joined(const struct bench_options *o, pld_runtime *rt, char **argv)
{
    struct bench_run run = {
        .o = o, .rt = rt, .rank = pld_runtime_rank(rt), .size = pld_runtime_size(rt)};
    int status = refuse(o, rt, argv);
    int rc = 0;

    if (status != STATUS_OK)
        return status;
    if (o->json != NULL && run.rank == 0)
        rc = open_json(&run);
    rc = pld_agree(pld_runtime_world(rt), rc);
    if (rc == 0 && o->tune != NULL)
        rc = pld_agree(pld_runtime_world(rt), open_tune(&run));
    if (rc == PLD_ERR_IO)
        return STATUS_BAD; /* said so */
    if (rc == 0)
        rc = measure_all(&run);
    return finish(&run, rc);
}

static int run_bench(char **argv)
{
    struct bench_options o;
    char why[400];
    pld_runtime *rt = NULL;
    char **all; /* with the place of the command's name, which getopt skips */
    int argc = 1;
    int status;

    while (argv[argc - 1] != NULL)
        argc++;
    all = calloc((size_t)argc + 1, sizeof(*all));
    if (all == NULL)
        return complain(STATUS_BAD, "bench: out of memory");
    all[0] = (char *)(uintptr_t) "bench";
    memcpy(all + 1, argv, (size_t)(argc - 1) * sizeof(*all));
    status = bench_options_read(argc, all, &o, why, sizeof(why)) < 0 ? STATUS_USAGE : STATUS_OK;
    free(all);
    if (status != STATUS_OK)
        return complain_once(status, "bench: %s", why);
    if (o.help)
        return launched_rank() == 0 && fputs(help, stdout) == EOF ? STATUS_BAD : STATUS_OK;
    if (join_job(o.device, &rt) < 0)
        return complain(STATUS_BAD, "bench: %s", pld_last_error());
    status = run_joined(&o, rt, argv);
    (void)fflush(stdout); /* a launcher may end the job as soon as one rank has a status */
    (void)pld_runtime_close(&rt);
    return status;
}

const struct command command_bench = {"bench", "measure collective operations, and compare them",
                                      help, run_bench};
