/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Ranks compare their lists of tensors by hash, which costs one word however many
 * tensors there are.  Only where hashes differ does the list of coordinate 0
 * travel, so that the first difference can be named.
 */

#include "params/params_table.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"

_Static_assert(sizeof(struct param_record) == PLD_MAX_NAME + 3 * 8 * PLD_MAX_DIMS + 24,
               "padding would make equal tensors differ");

struct param_record *pldi_params_table(const pld_params *params)
{
    struct param_record *table =
        pldi_alloc((size_t)params->count, sizeof(*table), "a table of tensors");

    for (int i = 0; table != NULL && i < params->count; i++) {
        const struct param_entry *entry = &params->entries[i];
        struct param_record *r = &table[i];

        memcpy(r->name, entry->info.name, strlen(entry->info.name));
        memcpy(r->shape, entry->info.shape, sizeof(r->shape));
        memcpy(r->offset, entry->info.offset, sizeof(r->offset));
        memcpy(r->extent, entry->info.extent, sizeof(r->extent));
        r->dtype = (int32_t)entry->info.dtype;
        r->ndim = entry->info.ndim;
        r->decay = entry->info.decay;
        r->shared = entry->info.shared;
        r->outside = entry->outside;
    }
    return table;
}

/* Appends at *at; what does not fit is cut off. */
static void add_words(char *out, size_t bytes, size_t *at, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void add_words(char *out, size_t bytes, size_t *at, const char *fmt, ...)
{
    va_list ap;

    if (*at >= bytes)
        return;
    va_start(ap, fmt);
    *at += (size_t)vsnprintf(out + *at, bytes - *at, fmt, ap);
    va_end(ap);
}

static void add_list(char *out, size_t bytes, size_t *at, const int64_t *numbers, int count)
{
    for (int i = 0; i < count; i++)
        add_words(out, bytes, at, "%c%lld", i == 0 ? '[' : ',', (long long)numbers[i]);
    add_words(out, bytes, at, "]");
}

void pldi_params_words(const struct param_record *r, char *out, size_t bytes)
{
    size_t at = 0;

    add_words(out, bytes, &at, "'%s' %s ", r->name, pld_dtype_name((pld_dtype)r->dtype));
    add_list(out, bytes, &at, r->shape, r->ndim);
    if (memcmp(r->shape, r->extent, sizeof(r->shape)) != 0) {
        add_words(out, bytes, &at, ", box ");
        add_list(out, bytes, &at, r->extent, r->ndim);
        add_words(out, bytes, &at, " at ");
        add_list(out, bytes, &at, r->offset, r->ndim);
    }
    add_words(out, bytes, &at, "%s%s%s", r->decay ? ", decay" : "", r->shared ? ", shared" : "",
              r->outside ? ", in the caller's memory" : "");
}

static void drop_boxes(struct param_record *table, int count)
{
    for (int i = 0; i < count; i++) {
        memcpy(table[i].extent, table[i].shape, sizeof(table[i].extent));
        memset(table[i].offset, 0, sizeof(table[i].offset));
    }
}

/* The sentence for a rank whose table is not that of coordinate 0. */
static int name_difference(const pld_params *params, const struct param_record *mine, pld_axis axis,
                           const struct param_record *theirs, int64_t their_count)
{
    const int coord = pld_mesh_coord(params->mesh, axis);
    const char *name = pld_axis_name(axis);
    char ours[320] = "nothing";
    char other[320] = "nothing";
    int64_t i = 0;

    while (i < params->count && i < their_count &&
           memcmp(&mine[i], &theirs[i], sizeof(mine[i])) == 0)
        i++;
    if (i == params->count && i == their_count)
        return PLD_OK;
    if (i < params->count)
        pldi_params_words(&mine[i], ours, sizeof(ours));
    if (i < their_count)
        pldi_params_words(&theirs[i], other, sizeof(other));
    return pldi_fail(PLD_ERR_MISMATCH,
                     "%s replicas add different tensors: tensor %lld is %s on %s %d and %s on %s 0",
                     name, (long long)i, ours, name, coord, other, name);
}

/* The table of coordinate 0 to all, and the verdict of this rank on its own. */
static int compare_with_first(const pld_params *params, const struct param_record *mine,
                              pld_axis axis)
{
    pld_group *group = pld_mesh_group(params->mesh, axis);
    const size_t bytes = sizeof(*mine);
    int64_t count = params->count;
    struct param_record *first;
    int rc;

    PLDI_TRY(pld_broadcast(group, &count, 1, PLD_I64, 0, NULL));
    first = pldi_alloc((size_t)count, bytes, "the first rank's table of tensors");
    rc = pld_agree(group, first == NULL ? PLD_ERR_NOMEM : PLD_OK);
    if (rc == PLD_OK && pld_group_rank(group) == 0)
        memcpy(first, mine, (size_t)count * bytes);
    if (rc == PLD_OK)
        rc = pld_broadcast(group, first, (size_t)count * bytes, PLD_U8, 0, NULL);
    if (rc == PLD_OK)
        rc = name_difference(params, mine, axis, first, count);
    pldi_free(first);
    return rc;
}

int pldi_params_compare(const pld_params *params, const struct param_record *mine, pld_axis axis)
{
    pld_group *group = pld_mesh_group(params->mesh, axis);
    const size_t bytes = (size_t)params->count * sizeof(*mine);
    struct param_record *copy;
    int64_t bounds[2];
    int rc;

    if (pld_mesh_size(params->mesh, axis) == 1)
        return PLD_OK;
    copy = pldi_alloc((size_t)params->count, sizeof(*copy), "a table of tensors");
    rc = pld_agree(group, copy == NULL ? PLD_ERR_NOMEM : PLD_OK);
    if (rc < 0) {
        pldi_free(copy);
        return rc;
    }
    if (bytes > 0)
        memcpy(copy, mine, bytes);
    if (axis == PLD_AXIS_TP)
        drop_boxes(copy, params->count);
    /* The largest hash and the largest complement agree on one word only if all are equal. */
    bounds[0] = (int64_t)pldi_hash64_chain((uint64_t)params->count, copy, bytes);
    bounds[1] = ~bounds[0];
    rc = pld_allreduce(group, bounds, bounds, 2, PLD_I64, PLD_MAX, NULL);
    if (rc == PLD_OK && bounds[0] != ~bounds[1])
        rc = compare_with_first(params, copy, axis);
    pldi_free(copy);
    return rc;
}

void pldi_params_tables_free(struct param_tables *tables)
{
    pldi_free(tables->records);
    pldi_free(tables->counts);
    *tables = (struct param_tables){0};
}

static int gather_counts(pld_group *group, int count, struct param_tables *out)
{
    out->ranks = pld_group_size(group);
    out->counts = pldi_alloc((size_t)out->ranks, sizeof(*out->counts), "the ranks' tensor counts");
    PLDI_TRY(pld_agree(group, out->counts == NULL ? PLD_ERR_NOMEM : PLD_OK));
    out->counts[pld_group_rank(group)] = count;
    PLDI_TRY(
        pld_allgather(group, &out->counts[pld_group_rank(group)], out->counts, 1, PLD_I64, NULL));
    for (int r = 0; r < out->ranks; r++)
        if ((size_t)out->counts[r] > out->stride)
            out->stride = (size_t)out->counts[r];
    return PLD_OK;
}

int pldi_params_gather(const pld_params *params, const struct param_record *mine, pld_axis axis,
                       struct param_tables *out)
{
    pld_group *group = pld_mesh_group(params->mesh, axis);
    struct param_tables t = {0};
    struct param_record *own;
    int rc = gather_counts(group, params->count, &t);

    if (rc == PLD_OK) {
        t.records = pldi_alloc((size_t)t.ranks * t.stride, sizeof(*mine), "the ranks' tensors");
        rc = pld_agree(group, t.records == NULL ? PLD_ERR_NOMEM : PLD_OK);
    }
    if (rc == PLD_OK) {
        own = t.records + (size_t)pld_group_rank(group) * t.stride;
        if (params->count > 0)
            memcpy(own, mine, (size_t)params->count * sizeof(*mine));
        rc = pld_allgather(group, own, t.records, t.stride * sizeof(*mine), PLD_U8, NULL);
    }
    if (rc < 0)
        pldi_params_tables_free(&t);
    else
        *out = t;
    return rc;
}
