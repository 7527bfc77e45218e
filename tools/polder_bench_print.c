/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tables.  The default one has the columns of nccl-tests, in their widths, so that what
 * reads those reads these; what polder adds stands behind them.  --osu prints the columns
 * of the OSU benchmarks.
 */

#include "polder_bench.h"

#include <stdio.h>
#include <string.h>

static const char *const memory_names[BENCH_MEMORIES] = {"polder", "ordinary", "device"};

void bench_print_head(const struct bench_options *o, pld_runtime *rt, const char *ranks)
{
    if (o->osu)
        return;
    (void)printf("# polder %s: %s, ranks: %d, of them on this node: %d, %s buffers\n",
                 pld_version(), o->op->name, pld_runtime_size(rt), pld_runtime_local_size(rt),
                 o->cold ? "cold" : "hot");
    (void)printf("# minBytes %zu maxBytes %zu step: %zu(%s) warmup iters: %d iters: ", o->first,
                 o->last, o->step > 0 ? o->step : o->factor, o->step > 0 ? "bytes" : "factor",
                 o->warmup);
    if (o->iterations > 0)
        (void)printf("%d", o->iterations);
    else
        (void)printf("auto");
    (void)printf(" validation: %d\n#\n%s", o->check, ranks);
}

static void print_osu_head(const struct bench_options *o, const struct bench_case *c)
{
    (void)printf("\n# OSU-style polder %s %s Test, %s memory, %s buffers\n", c->op->title,
                 o->overlap ? "Overlap" : "Latency", memory_names[c->memory],
                 o->cold ? "cold" : "hot");
    if (c->bytes > 0)
        (void)printf("# Datatype: %s.\n", pld_dtype_name(c->dtype));
    if (o->overlap) {
        (void)printf("%-10s%18s%18s%18s%18s\n", "# Size", "Overall(us)", "Compute(us)",
                     "Pure Comm.(us)", "Overlap(%)");
        return;
    }
    (void)printf("%-10s%18s%18s%18s%18s", "# Size", "Avg Latency(us)", "Min Latency(us)",
                 "Max Latency(us)", "Iterations");
    if (o->vs_mpi)
        (void)printf("%18s", "MPI Avg(us)");
    (void)printf("\n");
}

void bench_print_table_head(const struct bench_options *o, const struct bench_case *c)
{
    const char *const heads[2][4] = {{"time", "algbw", "busbw", "#wrong"},
                                     {"(us)", "(GB/s)", "(GB/s)", ""}};
    const char *const sides[2][5] = {{"size", "count", "type", "redop", "root"},
                                     {"(B)", "(elements)", "", "", ""}};
    const int extra = o->vs_mpi ? 24 : 6;

    if (o->osu) {
        print_osu_head(o, c);
        return;
    }
    (void)printf("#\n# %s memory\n#%11s  %12s  %8s  %6s  %6s  %-31s  %-31s | %-*s %-*s\n",
                 memory_names[c->memory], "", "", "", "", "", "        out-of-place",
                 "          in-place", extra, "out-of-place", extra, "in-place");
    for (int line = 0; line < 2; line++) {
        (void)printf("#%11s  %12s  %8s  %6s  %6s", sides[line][0], sides[line][1], sides[line][2],
                     sides[line][3], sides[line][4]);
        for (int i = 0; i < 2; i++)
            (void)printf("  %7s  %6s  %6s  %6s", heads[line][0], heads[line][1], heads[line][2],
                         heads[line][3]);
        (void)printf(" |");
        for (int i = 0; i < 2; i++) {
            if (o->vs_mpi)
                (void)printf(" %9s %7s", line == 0 ? "MPI" : "(us)", line == 0 ? "ratio" : "");
            (void)printf(" %6s", line == 0 ? "copy" : "(%)");
        }
        (void)printf("\n");
    }
}

/* A time in 7 columns, as nccl-tests writes it. */
static const char *microseconds(double seconds, char text[16])
{
    const double us = seconds * 1e6;

    (void)snprintf(text, 16, us >= 10000 ? "%7.0f" : us >= 100 ? "%7.1f" : "%7.2f", us);
    return text;
}

static void print_times(const struct bench_options *o, const struct bench_case *c,
                        const struct bench_result *r, int size)
{
    char time[16];
    double speed;

    if (r == NULL) {
        (void)printf("  %7s  %6s  %6s  %6s", "N/A", "N/A", "N/A", "N/A");
        return;
    }
    speed = (double)c->bytes / r->polder.median * 1e-9;
    (void)printf("  %7s  %6.2f  %6.2f", microseconds(r->polder.median, time), speed,
                 speed * bench_bus_factor(c->op, size));
    if (o->check > 0)
        (void)printf("  %6g", (double)r->wrong);
    else
        (void)printf("  %6s", "N/A");
}

static void print_extra(const struct bench_options *o, const struct bench_case *c,
                        const struct bench_result *r, int in_place, int size)
{
    const double least = r == NULL ? 0 : r->copy * bench_copy_factor(c->op, in_place, size);
    char time[16];

    if (o->vs_mpi && r != NULL && r->has_mpi)
        (void)printf(" %9s %7.2f", microseconds(r->mpi.median, time),
                     r->mpi.median / r->polder.median);
    else if (o->vs_mpi)
        (void)printf(" %9s %7s", "N/A", "N/A");
    if (least > 0)
        (void)printf(" %6.0f", 100 * least / r->polder.median);
    else
        (void)printf(" %6s", "N/A");
}

static void print_osu_row(const struct bench_options *o, const struct bench_case *c,
                          const struct bench_result *r)
{
    /* There the size is that of a part, except for a reduce_scatter. */
    const size_t part = c->count * pld_dtype_bytes(c->dtype);

    (void)printf("%-10zu", c->op->from == BENCH_ALL_RANKS ? c->bytes : part);
    if (o->overlap) {
        (void)printf("%18.2f%18.2f%18.2f%18.2f\n", r->overlap.overall * 1e6,
                     r->overlap.compute * 1e6, r->overlap.pure * 1e6, r->overlap.percent);
        return;
    }
    (void)printf("%18.2f%18.2f%18.2f%18d", r->polder.mean * 1e6, r->polder.fastest * 1e6,
                 r->polder.last * 1e6, r->iterations);
    if (o->vs_mpi && r->has_mpi)
        (void)printf("%18.2f", r->mpi.mean * 1e6);
    else if (o->vs_mpi)
        (void)printf("%18s", "N/A");
    (void)printf("\n");
}

void bench_print_row(const struct bench_options *o, const struct bench_case *c,
                     const struct bench_result *const results[2], int size)
{
    const int has_data = c->op->from != BENCH_NOTHING;
    char root[16] = "-1";

    if (o->osu) {
        print_osu_row(o, c, results[0] != NULL ? results[0] : results[1]);
        (void)fflush(stdout);
        return;
    }
    if (c->op->rooted)
        (void)snprintf(root, sizeof(root), "%d", c->root);
    (void)printf("%12zu  %12zu  %8s  %6s  %6s", c->bytes, c->count,
                 has_data ? pld_dtype_name(c->dtype) : "none",
                 c->op->from == BENCH_ALL_RANKS ? bench_redop_name(c->redop) : "none", root);
    for (int i = 0; i < 2; i++)
        print_times(o, c, results[i], size);
    (void)printf("  ");
    for (int i = 0; i < 2; i++)
        print_extra(o, c, results[i], i, size);
    (void)printf("\n");
    (void)fflush(stdout);
}
