/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Up to PLDI_DIRECT_RANKS members talk to each other at once: one step, the fewest
 * bytes, sums in rank order.  More would be that many messages per chunk, so there
 * the vector goes around a ring if it is long, and halves if it is not.  A ring has
 * no tree: where sums must be reproducible, powers of two of ranks halve.
 */

#include "coll/coll_choice.h"

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "coll/coll.h"
#include "coll/coll_device.h"
#include "coll/coll_nodes.h"
#include "coll/coll_shape.h"
#include "coll/coll_shm_levels.h"

enum { ANY = -1, MANY = PLDI_DIRECT_RANKS + 1, NO_END = INT32_MAX, CHUNK = 128 << 10 };

#define END UINT64_MAX
#define NODES(from, to)                                                                            \
    {from, to},                                                                                    \
    {                                                                                              \
        1, NO_END                                                                                  \
    }
#define PPN(from)                                                                                  \
    {1, NO_END},                                                                                   \
    {                                                                                              \
        from, NO_END                                                                               \
    }

static const struct pldi_rule defaults[] = {
    {ANY, ANY, PPN(1), {65537, END}, PLDI_NUMA, CHUNK},
    {ANY, ANY, PPN(2), {0, END}, PLDI_NODES, CHUNK},
    {PLDI_ALLREDUCE, ANY, NODES(MANY, NO_END), {0, 32768}, PLDI_DOUBLING, CHUNK},
    {PLDI_ALLREDUCE, ANY, NODES(MANY, NO_END), {0, 1 << 20}, PLDI_HALVING, CHUNK},
    {PLDI_ALLREDUCE, ANY, NODES(MANY, NO_END), {0, END}, PLDI_RING, CHUNK},
    {PLDI_ALLREDUCE, ANY, NODES(MANY, NO_END), {0, END}, PLDI_HALVING, CHUNK},
    {PLDI_REDUCE, ANY, NODES(MANY, NO_END), {0, 1 << 20}, PLDI_HALVING, CHUNK},
    {PLDI_REDUCE, ANY, NODES(MANY, NO_END), {0, END}, PLDI_RING, CHUNK},
    {PLDI_REDUCE, ANY, NODES(MANY, NO_END), {0, END}, PLDI_HALVING, CHUNK},
    {PLDI_REDUCE_SCATTER, ANY, NODES(MANY, NO_END), {262144, END}, PLDI_RING, CHUNK},
    {PLDI_REDUCE_SCATTER_V, ANY, NODES(MANY, NO_END), {262144, END}, PLDI_RING, CHUNK},
    {PLDI_ALLGATHER, ANY, NODES(MANY, NO_END), {262144, END}, PLDI_RING, CHUNK},
    {PLDI_ALLGATHER_V, ANY, NODES(MANY, NO_END), {262144, END}, PLDI_RING, CHUNK},
    {PLDI_BROADCAST, ANY, NODES(1, NO_END), {0, END}, PLDI_TREE, CHUNK},
    {ANY, ANY, NODES(1, NO_END), {0, END}, PLDI_FLAT, CHUNK},
};

/* What all ranks of a node send to another is one message, as long as that of few ranks. */
size_t pldi_small_most(int ranks, int nodes)
{
    if (ranks <= PLDI_DIRECT_RANKS)
        return PLDI_SMALL_BYTES;
    if (nodes > PLDI_DIRECT_RANKS || ranks > PLDI_HALL_RANKS)
        return 0;
    return (size_t)PLDI_DIRECT_RANKS * PLDI_SMALL_BYTES / (size_t)ranks / 16 * 16;
}

static int is_power_of_two(int n)
{
    return (n & (n - 1)) == 0;
}

/* What can be done in two levels. */
static int is_by_vector(const struct pldi_facts *f)
{
    return f->kind == PLDI_ALLREDUCE || f->kind == PLDI_REDUCE || f->kind == PLDI_BROADCAST;
}

static int is_by_block(const struct pldi_facts *f)
{
    return f->kind == PLDI_REDUCE_SCATTER || f->kind == PLDI_REDUCE_SCATTER_V ||
           f->kind == PLDI_ALLGATHER || f->kind == PLDI_ALLGATHER_V;
}

static int is_sum_by_tree(const struct pldi_facts *f)
{
    return f->tree && pldi_shape((enum pldi_kind)f->kind)->reduces;
}

static int fits_nodes(const struct pldi_facts *f)
{
    if (f->nodes < 2 || f->nodes >= f->ranks ||
        !(is_by_vector(f) || (is_by_block(f) && f->regular)))
        return 0;
    return !is_sum_by_tree(f) || f->aligned;
}

/* In shared memory there is one level, or two. */
static int fits_shared(const struct pldi_facts *f, enum pldi_algorithm algorithm)
{
    if (algorithm != PLDI_NUMA)
        return algorithm == PLDI_FLAT;
    return f->numas > 1 && (is_by_vector(f) || is_by_block(f)) &&
           (!is_sum_by_tree(f) || f->near_aligned);
}

int pldi_choice_fits(const struct pldi_facts *f, enum pldi_algorithm algorithm)
{
    const int sums = f->kind == PLDI_ALLREDUCE || f->kind == PLDI_REDUCE;
    const int scatters = f->kind == PLDI_REDUCE_SCATTER || f->kind == PLDI_REDUCE_SCATTER_V;
    const int gathers = f->kind == PLDI_ALLGATHER || f->kind == PLDI_ALLGATHER_V;

    if (f->shared)
        return fits_shared(f, algorithm);
    switch (algorithm) {
    case PLDI_FLAT:
        return f->kind != PLDI_BROADCAST;
    case PLDI_TREE:
        return f->kind == PLDI_BROADCAST;
    case PLDI_RING:
        return gathers || ((sums || scatters) && !f->tree);
    case PLDI_HALVING:
        return sums && (!f->tree || is_power_of_two(f->ranks));
    case PLDI_DOUBLING:
        return f->kind == PLDI_ALLREDUCE && (!f->tree || is_power_of_two(f->ranks));
    case PLDI_NODES:
        return fits_nodes(f);
    case PLDI_NUMA:
    case PLDI_NCCL: /* never on the host */
    case PLDI_ALGORITHMS:
        break;
    }
    return 0;
}

static int covers(const struct pldi_rule *r, const struct pldi_facts *f)
{
    return (r->kind < 0 || r->kind == f->kind) && (r->dtype < 0 || r->dtype == (int)f->dtype) &&
           f->nodes >= r->nodes[0] && f->nodes <= r->nodes[1] && f->ppn >= r->ppn[0] &&
           f->ppn <= r->ppn[1] && f->bytes >= r->bytes[0] && f->bytes <= r->bytes[1];
}

static int matches(const struct pldi_rule *r, const struct pldi_facts *f)
{
    return covers(r, f) && pldi_choice_fits(f, r->algorithm);
}

static const struct pldi_rule *find(const struct pldi_rule *rules, size_t n,
                                    const struct pldi_facts *f)
{
    for (size_t i = 0; i < n; i++) {
        if (matches(&rules[i], f))
            return &rules[i];
    }
    return NULL;
}

int pldi_choice_nccl(const struct pldi_facts *facts, const struct pldi_tuning *tuning)
{
    for (size_t i = 0; tuning != NULL && i < tuning->n; i++) {
        if (tuning->rules[i].algorithm == PLDI_NCCL && covers(&tuning->rules[i], facts))
            return 1;
    }
    return 0;
}

/* What arrives with the openings of few ranks needs no algorithm. */
static int is_small(const struct pldi_facts *f)
{
    const enum pldi_cut *cut = pldi_shape((enum pldi_kind)f->kind)->cut;
    const int blocks = cut[PLDI_SENT] == PLDI_BLOCKS || cut[PLDI_RECEIVED] == PLDI_BLOCKS;

    const size_t most = pldi_small_most(f->ranks, f->nodes);

    return most > 0 && f->bytes / (uint64_t)(blocks ? f->ranks : 1) <= most;
}

/* Two levels are more stages, and where ranks share processors each is a turn of the
 * scheduler: there it takes a tuning file to say that they are worth it. */
static const struct pldi_rule *find_default(const struct pldi_facts *f)
{
    const size_t skipped = f->shared && f->crowded ? 1 : 0;

    return find(defaults + skipped, sizeof(defaults) / sizeof(defaults[0]) - skipped, f);
}

struct pldi_choice pldi_choose(const struct pldi_facts *facts, const struct pldi_tuning *tuning)
{
    struct pldi_facts f = *facts;
    struct pldi_choice choice = {PLDI_FLAT, PLDI_FLAT, CHUNK};
    const struct pldi_rule *rule = tuning != NULL ? find(tuning->rules, tuning->n, &f) : NULL;

    if (is_small(&f)) {
        choice.algorithm = f.kind == PLDI_BROADCAST ? PLDI_TREE : PLDI_FLAT;
        return choice;
    }
    if (rule == NULL)
        rule = find_default(&f);
    choice.algorithm = rule->algorithm;
    choice.chunk = rule->chunk;
    if (rule->algorithm != PLDI_NODES)
        return choice;
    /* Between nodes it is an operation of one rank per node, on its part of the data. */
    f.bytes /= (uint64_t)f.ppn;
    f.ranks = f.nodes;
    f.ppn = 1;
    rule = tuning != NULL ? find(tuning->rules, tuning->n, &f) : NULL;
    if (rule == NULL)
        rule = find_default(&f);
    choice.across = rule->algorithm;
    return choice;
}

struct pldi_facts pldi_facts_of(const pld_group *group, int kind, pld_dtype dtype, uint64_t bytes)
{
    const struct pldi_nodes *n = group->nodes;
    const int shared = n != NULL && n->shared;
    const struct pldi_levels *levels = group->team != NULL ? group->team->levels : NULL;

    if (group->team != NULL)
        return (struct pldi_facts){.kind = kind,
                                   .dtype = dtype,
                                   .bytes = bytes,
                                   .ranks = group->size,
                                   .nodes = 1,
                                   .ppn = group->size,
                                   .regular = 1,
                                   .tree = group->reproducible,
                                   .shared = 1,
                                   .crowded = group->node->crowded,
                                   .numas = levels != NULL ? levels->map->n : 1,
                                   .near_aligned = levels != NULL && levels->map->aligned};
    return (struct pldi_facts){.kind = kind,
                               .dtype = dtype,
                               .bytes = bytes,
                               .ranks = group->size,
                               .nodes = shared ? n->n : group->size,
                               .ppn = shared ? n->lanes : 1,
                               .regular = shared && n->regular,
                               .aligned = shared && n->aligned,
                               .tree = group->reproducible};
}

static int find_kind(const char *name)
{
    for (int k = 0; k < PLDI_KINDS; k++) {
        if (strcmp(name, pldi_kind_name((unsigned)k)) == 0)
            return k;
    }
    return -1;
}

static void explain(const pld_group *g, const struct pldi_facts *f, char *out, size_t bytes)
{
    const struct pldi_choice c = pldi_choose(f, g->tuning);
    const char *sums = f->tree ? ", sums by the canonical tree" : "";

    if (g->size == 1)
        (void)snprintf(out, bytes, "alone: a copy");
    else if (g->team != NULL && c.algorithm == PLDI_NUMA)
        (void)snprintf(out, bytes,
                       "numa: shared memory of one node in two levels, %d ranks in %d groups, "
                       "chunks of %zu bytes%s",
                       f->ranks, f->numas, c.chunk, sums);
    else if (g->team != NULL && f->numas > 1)
        (void)snprintf(out, bytes, "flat: shared memory of one node, %d ranks%s", f->ranks, sums);
    else if (g->team != NULL)
        (void)snprintf(out, bytes, "shared memory of one node, %d ranks%s", f->ranks, sums);
    else if (is_small(f))
        (void)snprintf(out, bytes, "with the openings, %d ranks%s", f->ranks, sums);
    else if (c.algorithm == PLDI_NODES)
        (void)snprintf(out, bytes,
                       "nodes: shared memory inside, %s between %d nodes, %d ranks of each, "
                       "chunks of %zu bytes%s",
                       pldi_algorithm_name(c.across), f->nodes, f->ppn, c.chunk, sums);
    else
        (void)snprintf(
            out, bytes, "%s, %d ranks, chunks of %zu bytes%s", pldi_algorithm_name(c.algorithm),
            f->ranks,
            c.algorithm == PLDI_FLAT || c.algorithm == PLDI_TREE ? g->chunk_bytes : c.chunk, sums);
}

int pld_coll_explain(const pld_group *group, const char *op, uint64_t bytes, pld_dtype dtype,
                     char *text, size_t text_bytes)
{
    struct pldi_facts f;
    int kind;

    PLDI_CHECK_ARG(group != NULL && op != NULL && text != NULL && text_bytes > 0);
    kind = find_kind(op);
    if (kind < 0)
        return pldi_fail(PLD_ERR_ARG, "pld_coll_explain: \"%s\" is no operation", op);
    if (pld_dtype_bytes(dtype) == 0)
        return pldi_fail(PLD_ERR_ARG, "pld_coll_explain: %d is no dtype", (int)dtype);
    f = pldi_facts_of(group, kind, dtype, bytes);
    f.tree = f.tree && pldi_shape((enum pldi_kind)kind)->reduces;
    explain(group, &f, text, text_bytes);
    pldi_gpu_explain(group, kind, dtype, bytes, text, text_bytes);
    return PLD_OK;
}
