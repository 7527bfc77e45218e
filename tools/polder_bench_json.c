/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Results of `polder bench` as JSON. */

#include "polder_bench.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

struct bench_json {
    json_t *root, *results;
};

/* "model name" of the first processor. */
static void processor(char *out, size_t room)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];

    (void)snprintf(out, room, "%s", "unknown");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        const char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            (void)snprintf(out, room, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (file != NULL)
        (void)fclose(file);
}

static json_t *machine(void)
{
    struct utsname system = {0};
    char model[128];

    (void)uname(&system);
    processor(model, sizeof(model));
    return json_pack("{s:s, s:s, s:i, s:s, s:s}", "host", system.nodename, "processor", model,
                     "processors", (int)sysconf(_SC_NPROCESSORS_ONLN), "system", system.sysname,
                     "release", system.release);
}

struct bench_json *bench_json_open(const struct bench_options *o, pld_runtime *rt)
{
    struct bench_json *json = malloc(sizeof(*json));
    const time_t seconds = time(NULL);
    char date[32] = "";
    char mpi[128];
    struct tm utc;

    if (json == NULL)
        return NULL;
    if (gmtime_r(&seconds, &utc) != NULL)
        (void)strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &utc);
    bench_mpi_version(mpi, sizeof(mpi));
    json->results = json_array();
    json->root = json_pack("{s:s, s:s, s:s, s:o, s:i, s:i, s:b, s:i, s:o}", "version",
                           pld_version(), "mpi", mpi, "date", date, "machine", machine(), "ranks",
                           pld_runtime_size(rt), "local_ranks", pld_runtime_local_size(rt), "cold",
                           o->cold, "warmup", o->warmup, "results", json->results);
    if (json->root == NULL) {
        free(json);
        return NULL;
    }
    return json;
}

static void set(json_t *to, const char *key, double value)
{
    (void)json_object_set_new(to, key, json_real(value));
}

void bench_json_add(struct bench_json *json, const struct bench_case *c,
                    const struct bench_result *r, int size)
{
    static const char *const memories[BENCH_MEMORIES] = {"polder", "ordinary", "device"};
    const double speed = (double)c->bytes / r->polder.median * 1e-9;
    const double least = r->copy * bench_copy_factor(c->op, c->in_place, size);
    json_t *row =
        json_pack("{s:s, s:I, s:I, s:s, s:s, s:i, s:s, s:b, s:i, s:I}", "op", c->op->name, "size",
                  (json_int_t)c->bytes, "count", (json_int_t)c->count, "dtype",
                  c->op->from == BENCH_NOTHING ? "none" : pld_dtype_name(c->dtype), "redop",
                  c->op->from == BENCH_ALL_RANKS ? bench_redop_name(c->redop) : "none", "root",
                  c->op->rooted ? c->root : -1, "memory", memories[c->memory], "in_place",
                  c->in_place, "iterations", r->iterations, "wrong", (json_int_t)r->wrong);

    set(row, "time_us", r->polder.median * 1e6);
    set(row, "time_p10_us", r->polder.p10 * 1e6);
    set(row, "time_p90_us", r->polder.p90 * 1e6);
    set(row, "algbw", speed);
    set(row, "busbw", speed * bench_bus_factor(c->op, size));
    if (least > 0)
        set(row, "share_of_copy", least / r->polder.median);
    if (r->has_mpi) {
        set(row, "mpi_time_us", r->mpi.median * 1e6);
        set(row, "ratio", r->mpi.median / r->polder.median);
        (void)json_object_set_new(row, "mpi_wrong", json_integer((json_int_t)r->mpi_wrong));
    }
    if (r->overlap.pure > 0) {
        set(row, "overall_us", r->overlap.overall * 1e6);
        set(row, "compute_us", r->overlap.compute * 1e6);
        set(row, "pure_us", r->overlap.pure * 1e6);
        set(row, "overlap_percent", r->overlap.percent);
    }
    (void)json_array_append_new(json->results, row);
}

int bench_json_write(struct bench_json **json, const char *path)
{
    FILE *file = fopen(path, "we");
    int rc = file == NULL ? -1 : 0;

    if (rc == 0 && (json_dumpf((*json)->root, file, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) < 0 ||
                    fputc('\n', file) == EOF))
        rc = -1;
    if (file != NULL && fclose(file) != 0)
        rc = -1;
    json_decref((*json)->root);
    free(*json);
    *json = NULL;
    return rc;
}
