/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * --tune: every algorithm that can do an operation is measured by itself, size after
 * size; the fastest becomes a line of the file, which holds from that size to below the
 * next.  Sizes next to each other with the same winner share a line.
 */

#include "polder_bench.h"

#include <stdio.h>
#include <string.h>

enum { SENTENCE = 256 };

static const char *const algorithms[] = {"flat", "ring",  "halving", "doubling",
                                         "tree", "nodes", "numa"};
static const char *const chunks[] = {"32K", "128K", "512K"};

void bench_explain(const pld_group *world, const struct bench_case *c, char *text, size_t room)
{
    char name[32]; /* of a list: that of the operation */
    const char *list = strstr(c->op->name, "_list");

    (void)snprintf(name, sizeof(name), "%.*s",
                   (int)(list != NULL ? (size_t)(list - c->op->name) : strlen(c->op->name)),
                   c->op->name);
    if (c->op->from == BENCH_NOTHING || c->op->from == BENCH_PREVIOUS ||
        pld_coll_explain(world, name, c->bytes, c->dtype, text, room) < 0)
        (void)snprintf(text, room, "no algorithm is chosen for it");
}

/* Nodes, and ranks of the smallest, as the rules count them. */
static int count_nodes(pld_runtime *rt, int64_t *nodes, int64_t *ppn)
{
    pld_group *world = pld_runtime_world(rt);
    int rc;

    *nodes = pld_runtime_local_rank(rt) == 0;
    *ppn = pld_runtime_local_size(rt);
    rc = pld_allreduce(world, nodes, nodes, 1, PLD_I64, PLD_SUM, NULL);
    return rc < 0 ? rc : pld_allreduce(world, ppn, ppn, 1, PLD_I64, PLD_MIN, NULL);
}

/* Median seconds by one rule; 0 if the algorithm cannot do it. */
static int measure(const struct bench_area *area, const struct bench_options *o,
                   const struct bench_case *c, const char *rule, const char *algorithm,
                   double *seconds)
{
    pld_group *world = pld_runtime_world(area->runtime);
    struct bench_result r;
    char text[SENTENCE];
    int rc = pld_group_set_tuning(world, rule);

    *seconds = 0;
    if (rc < 0)
        return rc;
    bench_explain(world, c, text, sizeof(text));
    if (strncmp(text, algorithm, strlen(algorithm)) == 0) {
        rc = bench_measure(area, o, c, &r);
        *seconds = rc < 0 ? 0 : r.polder.median;
    }
    /* The clocks differ, the choice must not. */
    return rc < 0 ? rc : pld_broadcast(world, seconds, sizeof(*seconds), PLD_U8, 0, NULL);
}

int bench_tune_size(struct bench_tune *t, const struct bench_area *area,
                    const struct bench_options *o, const struct bench_case *c)
{
    double best = 0;
    char winner[40] = "";
    char rule[96];
    double seconds;
    int rc = 0;

    for (size_t i = 0; i < sizeof(algorithms) / sizeof(algorithms[0]) && rc == 0; i++) {
        for (size_t k = 0; k < sizeof(chunks) / sizeof(chunks[0]) && rc == 0; k++) {
            (void)snprintf(rule, sizeof(rule), "%s * * * 0 * -> %s %s", c->op->name, algorithms[i],
                           chunks[k]);
            rc = measure(area, o, c, rule, algorithms[i], &seconds);
            if (rc < 0 || seconds <= 0 || (best > 0 && seconds >= best))
                continue;
            best = seconds;
            (void)snprintf(winner, sizeof(winner), "%s %s", algorithms[i], chunks[k]);
        }
    }
    if (rc == 0)
        rc = pld_group_set_tuning(pld_runtime_world(area->runtime), NULL);
    if (rc == 0)
        bench_tune_note(t, c, winner);
    return rc;
}

/* The line so far ends where the next one begins. */
static void end_line(struct bench_tune *t, size_t next)
{
    if (t->winner[0] != '\0' && t->file != NULL)
        (void)fprintf(t->file, "%s %s %lld %lld %zu %zu -> %s\n", t->op, t->dtype, t->nodes, t->ppn,
                      t->from, next - 1, t->winner);
    t->winner[0] = '\0';
}

void bench_tune_note(struct bench_tune *t, const struct bench_case *c, const char *winner)
{
    const char *dtype = pld_dtype_name(c->dtype);

    if (strcmp(t->dtype, dtype) == 0 && strcmp(t->winner, winner) == 0)
        return;
    end_line(t, strcmp(t->dtype, dtype) == 0 ? c->bytes : t->end);
    t->op = c->op->name;
    t->dtype = dtype;
    t->from = c->bytes;
    (void)snprintf(t->winner, sizeof(t->winner), "%s", winner);
}

int bench_tune_open(struct bench_tune *t, pld_runtime *rt, const struct bench_options *o)
{
    int64_t nodes, ppn;
    const int rc = count_nodes(rt, &nodes, &ppn);

    *t = (struct bench_tune){.dtype = "", .end = o->last + 1};
    t->nodes = nodes;
    t->ppn = ppn;
    if (rc < 0 || pld_runtime_rank(rt) != 0)
        return rc;
    t->file = fopen(o->tune, "we");
    if (t->file == NULL)
        return PLD_ERR_IO;
    (void)fprintf(t->file,
                  "# polder bench %s --tune, %d ranks\n# op dtype nodes ppn min max -> "
                  "algorithm chunk\n",
                  o->op->name, pld_runtime_size(rt));
    return 0;
}

int bench_tune_close(struct bench_tune *t)
{
    int bad;

    end_line(t, t->end);
    if (t->file == NULL)
        return 0;
    bad = ferror(t->file) != 0;
    bad |= fclose(t->file) != 0;
    t->file = NULL;
    return bad ? -1 : 0;
}
