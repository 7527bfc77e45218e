/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sums over the canonical tree (coll_sum.h) of numbered leaves, whoever has them.
 *
 * Every rank learns who has which leaf, and so where the largest subtrees lie that
 * are all one rank's.  Those are formed there, unrounded; then each rank gets its
 * slice of all of them, finishes the tree, and hands the result to all.  Where the
 * leaves are cut among the ranks makes no difference to the tree.
 */

#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll.h"
#include "coll/coll_call.h"
#include "coll/coll_device.h"
#include "coll/coll_sum.h"
#include "health/health_site.h"

enum { ALIGN = 16 /* elements */, MAX_LEAVES = 1 << 26, MAX_LEVEL = 32 };

static const size_t WORK = 8 << 20; /* bytes of the subtrees of a segment, of one rank */

/* What a rank says of itself before anything else. */
struct header {
    uint64_t count, total, n;
    double scale;
    int32_t dtype, op;
};

/* A subtree of one rank. */
struct part {
    uint64_t first; /* leaf */
    uint64_t n;     /* leaves */
    int rank, level;
};

struct leaves {
    pld_group *group;
    const pld_leaf **mine; /* [n], by number */
    size_t n;
    uint64_t total;
    size_t count;
    struct pldi_sum sum;
    size_t unit; /* bytes of what sums are formed in */

    struct header *headers; /* [size] */
    size_t *counts;         /* [2][size] */
    uint64_t *numbers;      /* [total], rank by rank */
    int *owners;            /* [total] */
    struct part *parts;     /* [n_parts] */
    size_t n_parts;
    size_t *held; /* [size], parts of each rank */

    size_t segment;          /* elements */
    size_t *starts;          /* [size+1], slices of a segment */
    unsigned char *out, *in; /* subtrees: slice by slice; rank by rank */
    unsigned char *slice;    /* of the result */
    const void **sources;    /* [most of total and parts] */
    unsigned char *levels;   /* [n_parts] */
    const pld_coll_opts *opts;
};

static int order(const void *a, const void *b)
{
    const pld_leaf *x = *(const pld_leaf *const *)a;
    const pld_leaf *y = *(const pld_leaf *const *)b;

    return x->leaf < y->leaf ? -1 : x->leaf > y->leaf;
}

static void release(struct leaves *l)
{
    pldi_free((void *)l->mine);
    pldi_free(l->headers);
    pldi_free(l->counts);
    pldi_free(l->numbers);
    pldi_free(l->owners);
    pldi_free(l->parts);
    pldi_free(l->held);
    pldi_free(l->starts);
    pldi_free(l->out);
    pldi_free(l->in);
    pldi_free(l->slice);
    pldi_free((void *)l->sources);
    pldi_free(l->levels);
}

static int compare(const struct leaves *l)
{
    const struct header *first = &l->headers[0];

    for (int r = 1; r < l->group->size; r++) {
        const struct header *h = &l->headers[r];

        if (h->count != first->count || h->dtype != first->dtype || h->op != first->op ||
            h->total != first->total || h->scale != first->scale)
            return pldi_fail(PLD_ERR_MISMATCH,
                             "ranks disagree on allreduce_leaves: rank 0: %s[%llu] operator %d of "
                             "%llu leaves, scale %g; rank %d: %s[%llu] operator %d of %llu leaves, "
                             "scale %g",
                             pld_dtype_name((pld_dtype)first->dtype),
                             (unsigned long long)first->count, first->op,
                             (unsigned long long)first->total, first->scale, r,
                             pld_dtype_name((pld_dtype)h->dtype), (unsigned long long)h->count,
                             h->op, (unsigned long long)h->total, h->scale);
    }
    return PLD_OK;
}

/* Who has which leaf: each is somebody's, and nobody else's. */
static int find_owners(struct leaves *l)
{
    size_t at = 0;

    for (uint64_t i = 0; i < l->total; i++)
        l->owners[i] = -1;
    for (int r = 0; r < l->group->size; r++) {
        for (uint64_t i = 0; i < l->headers[r].n; i++) {
            const uint64_t leaf = l->numbers[at++];

            if (leaf >= l->total)
                return pldi_fail(PLD_ERR_MISMATCH,
                                 "allreduce_leaves: rank %d gives leaf %llu of %llu", r,
                                 (unsigned long long)leaf, (unsigned long long)l->total);
            if (l->owners[leaf] >= 0)
                return pldi_fail(PLD_ERR_MISMATCH,
                                 "allreduce_leaves: leaf %llu is given by rank %d and by rank %d",
                                 (unsigned long long)leaf, l->owners[leaf], r);
            l->owners[leaf] = r;
        }
    }
    for (uint64_t i = 0; i < l->total; i++) {
        if (l->owners[i] < 0)
            return pldi_fail(PLD_ERR_MISMATCH, "allreduce_leaves: no rank gives leaf %llu of %llu",
                             (unsigned long long)i, (unsigned long long)l->total);
    }
    return PLD_OK;
}

static int one_owner(const struct leaves *l, uint64_t first, uint64_t end)
{
    for (uint64_t i = first + 1; i < end; i++) {
        if (l->owners[i] != l->owners[first])
            return 0;
    }
    return 1;
}

/* From the left, the largest aligned subtree that is all of one rank. */
static void find_parts(struct leaves *l)
{
    uint64_t at = 0;

    l->n_parts = 0;
    while (at < l->total) {
        uint64_t end = at + 1;
        int level = 0;

        while (level < MAX_LEVEL && at % (2ULL << level) == 0 && end < l->total) {
            const uint64_t next = at + (2ULL << level) < l->total ? at + (2ULL << level) : l->total;

            if (!one_owner(l, at, next))
                break;
            end = next;
            level++;
        }
        l->parts[l->n_parts] = (struct part){at, end - at, l->owners[at], level};
        l->levels[l->n_parts++] = (unsigned char)level;
        l->held[l->owners[at]]++;
        at = end;
    }
}

static int gather_numbers(struct leaves *l)
{
    const size_t p = (size_t)l->group->size;
    uint64_t *mine = pldi_alloc(l->n, sizeof(*mine), "leaf numbers");
    uint64_t all = 0;
    int rc;

    for (size_t r = 0; r < p; r++) {
        l->counts[r] = l->headers[r].n;
        all += l->headers[r].n;
    }
    l->numbers = pldi_alloc(all, sizeof(l->numbers[0]), "leaf numbers");
    l->owners = pldi_alloc(l->total, sizeof(l->owners[0]), "leaf numbers");
    l->parts = pldi_alloc(l->total, sizeof(l->parts[0]), "leaf numbers");
    l->levels = pldi_alloc(l->total, 1, "leaf numbers");
    l->sources = pldi_alloc(l->total, sizeof(l->sources[0]), "leaf numbers");
    rc = mine == NULL || l->numbers == NULL || l->owners == NULL || l->parts == NULL ||
                 l->levels == NULL || l->sources == NULL
             ? PLD_ERR_NOMEM
             : PLD_OK;
    rc = pld_agree(l->group, rc);
    for (size_t i = 0; rc == PLD_OK && i < l->n; i++)
        mine[i] = l->mine[i]->leaf;
    if (rc == PLD_OK)
        rc = pld_allgather_v(l->group, mine, l->numbers, l->counts, PLD_I64, l->opts);
    pldi_free(mine);
    return rc;
}

/* Memory for segments of which no rank has more subtrees than WORK bytes. */
static int reserve(struct leaves *l)
{
    const size_t p = (size_t)l->group->size;
    const size_t mine = l->held[l->group->rank];
    size_t most = 1;
    size_t slice;

    for (size_t r = 0; r < p; r++)
        most = l->held[r] > most ? l->held[r] : most;
    slice = WORK / l->unit / most / p / ALIGN * ALIGN;
    slice = slice < ALIGN ? ALIGN : slice;
    l->segment = slice * p;
    l->starts = pldi_alloc(p + 1, sizeof(l->starts[0]), "leaves");
    l->out = pldi_alloc(mine * l->segment + 1, l->unit, "leaves");
    l->in = pldi_alloc(l->n_parts * slice + 1, l->unit, "leaves");
    l->slice = pldi_alloc(slice, l->unit, "leaves");
    return pld_agree(l->group,
                     l->starts == NULL || l->out == NULL || l->in == NULL || l->slice == NULL
                         ? PLD_ERR_NOMEM
                         : PLD_OK);
}

/* This rank's subtrees of a segment, for each rank its slice of all of them. */
static void form_parts(const struct leaves *l, size_t from)
{
    struct pldi_sum sum = l->sum;
    const size_t element = pld_dtype_bytes(sum.dtype);
    unsigned char *to = l->out;

    sum.wide = 1;
    for (int d = 0; d < l->group->size; d++) {
        const size_t n = l->starts[d + 1] - l->starts[d];
        size_t leaf = 0;

        for (size_t i = 0; i < l->n_parts; i++) {
            void *target = to;

            if (l->parts[i].rank != l->group->rank)
                continue;
            for (uint64_t k = 0; k < l->parts[i].n; k++)
                l->sources[k] =
                    (const unsigned char *)l->mine[leaf++]->data + (from + l->starts[d]) * element;
            pldi_sum_to(&sum, &target, 1, l->sources, (int)l->parts[i].n, n, 0);
            to += n * l->unit;
        }
    }
}

/* The tree above the subtrees, of this rank's slice. */
static void finish_tree(const struct leaves *l)
{
    struct pldi_sum sum = l->sum;
    const int me = l->group->rank;
    const size_t n = l->starts[me + 1] - l->starts[me];
    const unsigned char *at = l->in;
    void *target = l->in;

    for (int r = 0; r < l->group->size; r++) {
        for (size_t i = 0; i < l->n_parts; i++) {
            if (l->parts[i].rank != r)
                continue;
            l->sources[i] = at;
            at += n * l->unit;
        }
    }
    sum.dtype = pldi_sum_dtype(sum.dtype);
    sum.wide = 1;
    sum.levels = l->levels;
    pldi_sum_to(&sum, &target, 1, l->sources, (int)l->n_parts, n, 0);
    pldi_sum_finish(&l->sum, l->slice, l->in, n);
}

static int do_segment(struct leaves *l, size_t from, size_t n, unsigned char *recv)
{
    const size_t p = (size_t)l->group->size;
    const size_t me = (size_t)l->group->rank;
    const size_t each = (n + p * ALIGN - 1) / (p * ALIGN) * ALIGN;
    size_t *in = l->counts + p;

    for (size_t r = 0; r <= p; r++)
        l->starts[r] = r * each < n ? r * each : n;
    for (size_t r = 0; r < p; r++) {
        l->counts[r] = l->held[me] * (l->starts[r + 1] - l->starts[r]);
        in[r] = l->held[r] * (l->starts[me + 1] - l->starts[me]);
    }
    form_parts(l, from);
    PLDI_TRY(pld_alltoall_v(l->group, l->out, l->counts, l->in, in, pldi_sum_dtype(l->sum.dtype),
                            l->opts));
    finish_tree(l);
    for (size_t r = 0; r < p; r++)
        l->counts[r] = l->starts[r + 1] - l->starts[r];
    return pld_allgather_v(l->group, l->slice, recv + from * pld_dtype_bytes(l->sum.dtype),
                           l->counts, l->sum.dtype, l->opts);
}

static int run(struct leaves *l, const pld_leaf *leaves, unsigned char *recv)
{
    const size_t p = (size_t)l->group->size;
    struct header h = {l->count,          l->total, l->n, l->sum.scale, (int32_t)l->sum.dtype,
                       (int32_t)l->sum.op};

    l->mine = pldi_alloc(l->n, sizeof(l->mine[0]), "leaves");
    l->headers = pldi_alloc(p, sizeof(h), "leaves");
    l->counts = pldi_alloc(2 * p, sizeof(l->counts[0]), "leaves");
    l->held = pldi_alloc(p, sizeof(l->held[0]), "leaves");
    PLDI_TRY(pld_agree(l->group,
                       l->mine == NULL || l->headers == NULL || l->counts == NULL || l->held == NULL
                           ? PLD_ERR_NOMEM
                           : PLD_OK));
    for (size_t i = 0; i < l->n; i++)
        l->mine[i] = &leaves[i];
    if (l->n > 0)
        qsort((void *)l->mine, l->n, sizeof(l->mine[0]), order);
    PLDI_TRY(pld_allgather(l->group, &h, l->headers, sizeof(h), PLD_U8, l->opts));
    PLDI_TRY(compare(l));
    if (l->sum.op == PLD_AVG)
        l->sum.scale /= (double)l->total;
    PLDI_TRY(gather_numbers(l));
    PLDI_TRY(find_owners(l));
    find_parts(l);
    PLDI_TRY(reserve(l));
    for (size_t from = 0; from < l->count; from += l->segment)
        PLDI_TRY(
            do_segment(l, from, l->count - from < l->segment ? l->count - from : l->segment, recv));
    return PLD_OK;
}

static int check(const pld_group *group, const pld_leaf *leaves, size_t n, uint64_t total,
                 void *recv, size_t count, pld_dtype dtype)
{
    if (total < 1 || total > MAX_LEAVES)
        return pldi_fail(PLD_ERR_ARG, "pld_allreduce_leaves: %llu leaves, need 1..%d",
                         (unsigned long long)total, MAX_LEAVES);
    if (n > total || (leaves == NULL && n > 0))
        return pldi_fail(PLD_ERR_ARG, "pld_allreduce_leaves: leaves is %s, with %zu of %llu leaves",
                         leaves == NULL ? "NULL" : "given", n, (unsigned long long)total);
    for (size_t i = 0; i < n; i++)
        PLDI_TRY(
            pldi_call_check_buffer("pld_allreduce_leaves", "data", leaves[i].data, count, dtype));
    (void)group;
    return pldi_call_check_buffer("pld_allreduce_leaves", "recv", recv, count, dtype);
}

int pld_allreduce_leaves(pld_group *group, const pld_leaf *leaves, size_t n, uint64_t total,
                         void *recv, size_t count, pld_dtype dtype, pld_op op,
                         const pld_coll_opts *opts)
{
    PLDI_ENTER();
    struct leaves l = {.group = group, .n = n, .total = total, .count = count};
    pld_coll_opts o;
    double scale = 1;
    int rc;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(pldi_call_opts(opts, &o));
    PLDI_TRY(check(group, leaves, n, total, recv, count, dtype));
    PLDI_TRY(pldi_call_check_op("pld_allreduce_leaves", dtype, op, o.scale, &scale));
    if (o.request != NULL)
        return pldi_fail(PLD_ERR_UNSUPPORTED, "pld_allreduce_leaves: only calls that wait");
    PLDI_TRY(pldi_gpu_refuse(group, "pld_allreduce_leaves", recv));
    o.scale = 0;
    l.opts = &o;
    l.sum = (struct pldi_sum){
        .kernels = group->kernels, .dtype = dtype, .op = op, .scale = scale, .tree = 1};
    l.unit = pld_dtype_bytes(pldi_sum_dtype(dtype));
    rc = run(&l, leaves, recv);
    release(&l);
    return rc;
}
