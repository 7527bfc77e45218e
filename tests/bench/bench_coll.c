/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Collectives of polder and of MPI, side by side:
 *
 *     mpirun -np 2 bench_coll [-b 8] [-e 64M] [-f 8] [-d f32,bf16] [-o allreduce,...]
 *                             [-m polder,ordinary] [-n iterations] [-i 0|1] [--hot]
 *
 * Columns: bytes of a vector; medians in microseconds of polder and MPI; MPI's time
 * by polder's; bus bandwidth of polder; share of the copy limit, that is, of the
 * speed at which all ranks at once copy as much memory as the operation must move.
 */

#include "bench.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t AREA_BYTES = (size_t)256 << 20;

struct options {
    size_t first, last, factor;
    const char *dtypes, *ops, *memories;
    int iterations, in_place, hot;
};

static size_t parse_bytes(const char *text)
{
    char *end;
    const double number = strtod(text, &end);
    const char *units = "KMG";
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;

    return (size_t)(unit == NULL ? number : number * (double)((size_t)1024 << (unit - units) * 10));
}

static int parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (strcmp(argv[i], "--hot") == 0) {
            o->hot = 1;
            continue;
        }
        if (value == NULL || argv[i][0] != '-' || strlen(argv[i]) != 2)
            return -1;
        switch (argv[i++][1]) {
        case 'b':
            o->first = parse_bytes(value);
            break;
        case 'e':
            o->last = parse_bytes(value);
            break;
        case 'f':
            o->factor = parse_bytes(value);
            break;
        case 'd':
            o->dtypes = value;
            break;
        case 'o':
            o->ops = value;
            break;
        case 'm':
            o->memories = value;
            break;
        case 'n':
            o->iterations = atoi(value);
            break;
        case 'i':
            o->in_place = atoi(value);
            break;
        default:
            return -1;
        }
    }
    return o->first == 0 || o->factor < 2 || o->last < o->first ? -1 : 0;
}

/* Whether a list like "f32,bf16" has a word. */
static int listed(const char *list, const char *word)
{
    const size_t n = strlen(word);

    for (const char *at = list; (at = strstr(at, word)) != NULL; at += n) {
        if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] == '\0'))
            return 1;
    }
    return 0;
}

static void print_row(const struct bench_case *c, const char *memory, const struct bench_result *r)
{
    const double copy = r->seconds[BENCH_COPY] < r->seconds[BENCH_STREAM]
                            ? r->seconds[BENCH_COPY]
                            : r->seconds[BENCH_STREAM];
    const double t = r->seconds[BENCH_POLDER];

    printf("%12zu %14s %5s %8s %8s %10.2f %10.2f %6.2f %8.2f %5.0f%% %6lld\n", c->bytes,
           bench_op_name(c->op), pld_dtype_name(c->dtype), memory, c->in_place ? "in" : "out",
           t * 1e6, r->seconds[BENCH_MPI] * 1e6, r->seconds[BENCH_MPI] / t, r->bus_bytes / t * 1e-9,
           100 * copy * r->moved / t, r->wrong);
    (void)fflush(stdout);
}

static int run_sizes(const struct bench_area *area, const struct options *o, struct bench_case c)
{
    const char *memory = area->memory == BENCH_SHARED ? "polder" : "ordinary";

    for (c.bytes = o->first; c.bytes <= o->last; c.bytes *= o->factor) {
        struct bench_result r;
        const int rc = bench_measure(area, &c, &r);

        if (rc == PLD_ERR_ARG)
            continue; /* smaller than an element for each rank, or larger than the area */
        if (rc < 0)
            return rc;
        if (pld_runtime_rank(area->runtime) == 0)
            print_row(&c, memory, &r);
    }
    return 0;
}

static int run_memory(pld_runtime *rt, const struct options *o, enum bench_memory memory)
{
    static const pld_dtype dtypes[] = {PLD_F32, PLD_BF16, PLD_F64, PLD_I32};
    struct bench_area area;
    int rc = bench_area_open(rt, memory, AREA_BYTES, &area);

    if (rc < 0)
        return rc;
    for (int n = 0; n < BENCH_OPS * 4 * 2 && rc == 0; n++) {
        const struct bench_case c = {.op = (enum bench_op)(n / 8),
                                     .dtype = dtypes[n / 2 % 4],
                                     .in_place = n % 2,
                                     .iterations = o->iterations,
                                     .hot = o->hot};

        if (listed(o->ops, bench_op_name(c.op)) && listed(o->dtypes, pld_dtype_name(c.dtype)) &&
            (o->in_place < 0 || o->in_place == c.in_place))
            rc = run_sizes(&area, o, c);
    }
    bench_area_close(&area);
    return rc;
}

static int run_all(pld_runtime *rt, const struct options *o)
{
    if (pld_runtime_rank(rt) == 0)
        printf("# %d ranks, %d of them on this node, %s buffers; times in us\n"
               "#%11s %14s %5s %8s %8s %10s %10s %6s %8s %6s %6s\n",
               pld_runtime_size(rt), pld_runtime_local_size(rt), o->hot ? "hot" : "cold", "bytes",
               "operation", "dtype", "memory", "place", "polder", "MPI", "ratio", "busbw", "limit",
               "wrong");
    if (listed(o->memories, "polder") && run_memory(rt, o, BENCH_SHARED) < 0)
        return -1;
    return listed(o->memories, "ordinary") ? run_memory(rt, o, BENCH_ORDINARY) : 0;
}

int main(int argc, char **argv)
{
    struct options o = {8,
                        (size_t)64 << 20,
                        8,
                        "f32,bf16",
                        "allreduce,reduce_scatter,allgather",
                        "polder,ordinary",
                        0,
                        -1,
                        0};
    pld_runtime *rt = NULL;
    int rc;

    (void)MPI_Init(&argc, &argv);
    if (parse(argc, argv, &o) < 0) {
        (void)fprintf(stderr, "bench_coll: see the head of bench_coll.c for its options\n");
        (void)MPI_Finalize();
        return 2;
    }
    rc = pld_runtime_open(NULL, &rt);
    if (rc == 0)
        rc = run_all(rt, &o);
    if (rc < 0)
        (void)fprintf(stderr, "bench_coll: %s: %s\n", pld_error_name(rc), pld_last_error());
    (void)pld_runtime_close(&rt);
    (void)MPI_Finalize();
    return rc < 0;
}
