/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the ranks find out together.  Commit is a fixed sequence of exchanges, each
 * made whatever the verdict of the one before, and ends each phase with an agreement
 * of the whole mesh: a rank that finds fault never leaves the others waiting.
 *
 *   1. replicas (dp, cp, ep, tp) hold the same list;
 *   2. stages that hold a tensor of one name agree on it and become its holders;
 *   3. memory.
 *
 * Stages learn of each other's tensors from the whole tables, which they walk by
 * name: so all stages make the groups of holders in the same order.
 */

#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "health/health_site.h"
#include "params/params_table.h"

/* One tensor of one stage. */
struct place {
    const struct param_record *record;
    int stage;
    int index;
};

/* Everything the walk over the stages' tables needs. */
struct walk {
    struct param_tables tables;
    struct place *places; /* [place_count], by name, then stage */
    size_t place_count;
    unsigned char *members; /* [place_count][stages]: the sets of stages met so far */
};

static int first_error(int rc, int next)
{
    return rc < 0 ? rc : next;
}

static int by_name_and_stage(const void *left, const void *right)
{
    const struct place *a = left;
    const struct place *b = right;
    const int names = strcmp(a->record->name, b->record->name);

    return names != 0 ? names : a->stage - b->stage;
}

static size_t end_of_name(const struct walk *w, size_t begin)
{
    size_t end = begin + 1;

    while (end < w->place_count &&
           strcmp(w->places[end].record->name, w->places[begin].record->name) == 0)
        end++;
    return end;
}

/* Where a tensor lies in memory is each stage's own affair. */
static int same_tensor(const struct param_record *a, const struct param_record *b)
{
    struct param_record other = *b;

    other.outside = a->outside;
    return memcmp(a, &other, sizeof(other)) == 0;
}

static int check_name(const struct walk *w, size_t begin, size_t end)
{
    const struct place *first = &w->places[begin];
    char ours[320];
    char other[320];

    for (size_t i = begin; i < end && end - begin > 1; i++) {
        const struct place *p = &w->places[i];

        if (!p->record->shared)
            return pldi_fail(PLD_ERR_MISMATCH,
                             "stages %d and %d both hold tensor '%s', but stage %d does not mark "
                             "it shared: set .shared on all of them or rename it",
                             first->stage, w->places[i == begin ? begin + 1 : i].stage,
                             first->record->name, p->stage);
    }
    for (size_t i = begin + 1; i < end; i++) {
        if (same_tensor(first->record, w->places[i].record))
            continue;
        pldi_params_words(first->record, ours, sizeof(ours));
        pldi_params_words(w->places[i].record, other, sizeof(other));
        return pldi_fail(PLD_ERR_MISMATCH, "a shared tensor is %s on stage %d and %s on stage %d",
                         ours, first->stage, other, w->places[i].stage);
    }
    return PLD_OK;
}

static void walk_free(struct walk *w)
{
    pldi_params_tables_free(&w->tables);
    pldi_free(w->places);
    pldi_free(w->members);
}

/* Memory for the walk, and for what it leaves in the params. */
static int walk_alloc(pld_params *params, struct walk *w)
{
    const size_t stages = (size_t)w->tables.ranks;

    for (size_t s = 0; s < stages; s++)
        w->place_count += (size_t)w->tables.counts[s];
    w->places = pldi_alloc(w->place_count, sizeof(*w->places), "the stages' tensors");
    w->members = pldi_alloc(w->place_count, stages, "the sets of stages that share tensors");
    params->groups = pldi_alloc(w->place_count, sizeof(pld_group *), "the groups of holders");
    params->shared_ids =
        pldi_alloc((size_t)params->count, sizeof(*params->shared_ids), "the shared tensors");
    if (w->places == NULL || w->members == NULL || params->groups == NULL ||
        params->shared_ids == NULL)
        return PLD_ERR_NOMEM;
    return PLD_OK;
}

static void walk_sort(struct walk *w)
{
    size_t n = 0;

    for (int s = 0; s < w->tables.ranks; s++)
        for (size_t i = 0; i < (size_t)w->tables.counts[s]; i++)
            w->places[n++] = (struct place){pldi_params_at(&w->tables, s, i), s, (int)i};
    if (n > 0)
        qsort(w->places, n, sizeof(*w->places), by_name_and_stage);
}

/* The group of a set of stages: that of an earlier tensor with the same set, or a new one. */
static int holders_group(pld_params *params, struct walk *w, size_t begin, size_t end,
                         pld_group **out)
{
    const size_t stages = (size_t)w->tables.ranks;
    const int me = pld_mesh_coord(params->mesh, PLD_AXIS_PP);
    unsigned char *set = w->members + (size_t)params->group_count * stages;

    memset(set, 0, stages);
    for (size_t i = begin; i < end; i++)
        set[w->places[i].stage] = 1;
    for (int g = 0; g < params->group_count; g++) {
        *out = params->groups[g];
        if (memcmp(w->members + (size_t)g * stages, set, stages) == 0)
            return PLD_OK;
    }
    PLDI_TRY(pld_group_split(pld_mesh_group(params->mesh, PLD_AXIS_PP), set[me] ? 0 : -1, me,
                             &params->groups[params->group_count]));
    *out = params->groups[params->group_count++];
    return PLD_OK;
}

static int join_holders(pld_params *params, struct walk *w)
{
    const int me = pld_mesh_coord(params->mesh, PLD_AXIS_PP);
    size_t end;

    for (size_t begin = 0; begin < w->place_count; begin = end) {
        pld_group *group;

        end = end_of_name(w, begin);
        if (end - begin == 1)
            continue;
        PLDI_TRY(holders_group(params, w, begin, end, &group));
        for (size_t i = begin; i < end; i++) {
            if (w->places[i].stage != me)
                continue;
            params->entries[w->places[i].index].holders = group;
            params->entries[w->places[i].index].info.owner = i == begin;
            params->shared_ids[params->shared_count++] = w->places[i].index;
        }
    }
    return PLD_OK;
}

static int check_names(const struct walk *w)
{
    size_t end;

    for (size_t begin = 0; begin < w->place_count; begin = end) {
        end = end_of_name(w, begin);
        PLDI_TRY(check_name(w, begin, end));
    }
    return PLD_OK;
}

static int meet_stages(pld_params *params, const struct param_record *mine)
{
    pld_group *group = pld_mesh_group(params->mesh, PLD_AXIS_PP);
    struct walk w = {0};
    int rc;

    if (pld_mesh_size(params->mesh, PLD_AXIS_PP) == 1)
        return PLD_OK;
    PLDI_TRY(pldi_params_gather(params, mine, PLD_AXIS_PP, &w.tables));
    rc = pld_agree(group, walk_alloc(params, &w));
    if (rc == PLD_OK) {
        walk_sort(&w);
        rc = check_names(&w);
    }
    if (rc == PLD_OK)
        rc = join_holders(params, &w);
    walk_free(&w);
    return rc;
}

static int same_box(const struct param_record *a, const struct param_record *b)
{
    return memcmp(a->offset, b->offset, sizeof(a->offset)) == 0 &&
           memcmp(a->extent, b->extent, sizeof(a->extent)) == 0;
}

/* Tensor-parallel ranks hold boxes, some the same one (a norm's weights, say). */
static int meet_boxes(pld_params *params, const struct param_record *mine)
{
    const int me = pld_mesh_coord(params->mesh, PLD_AXIS_TP);
    struct param_tables t = {0};

    if (pld_mesh_size(params->mesh, PLD_AXIS_TP) == 1)
        return PLD_OK;
    PLDI_TRY(pldi_params_gather(params, mine, PLD_AXIS_TP, &t));
    for (int i = 0; i < params->count; i++) {
        struct param_entry *entry = &params->entries[i];

        entry->same_on_tp = 1;
        for (int r = 0; r < t.ranks; r++) {
            const int same = same_box(&mine[i], pldi_params_at(&t, r, (size_t)i));

            entry->same_on_tp &= same;
            entry->counted &= !(same && r < me);
        }
    }
    pldi_params_tables_free(&t);
    return PLD_OK;
}

static int compare_replicas(pld_params *params, const struct param_record *mine)
{
    static const pld_axis axes[] = {PLD_AXIS_DP, PLD_AXIS_CP, PLD_AXIS_EP, PLD_AXIS_TP};
    int rc = PLD_OK;

    for (size_t i = 0; i < sizeof(axes) / sizeof(axes[0]); i++)
        rc = first_error(rc, pldi_params_compare(params, mine, axes[i]));
    return rc;
}

static int meet_neighbours(pld_params *params, const struct param_record *mine)
{
    const int rc = meet_stages(params, mine);

    return first_error(rc, meet_boxes(params, mine));
}

static int alloc_arenas(pld_params *params)
{
    for (int i = 0; i < params->count; i++) {
        struct param_entry *entry = &params->entries[i];
        struct pldi_arena *arena = &params->arenas[entry->info.dtype];

        if (entry->outside)
            continue;
        entry->offset = arena->count;
        arena->count += pldi_params_padded(entry->info.count);
    }
    for (int d = 0; d < PLDI_PARAM_DTYPES; d++) {
        struct pldi_arena *arena = &params->arenas[d];
        const size_t bytes = pld_dtype_bytes((pld_dtype)d);

        if (arena->count == 0)
            continue;
        PLDI_TRY(pldi_params_alloc(params, arena->count, bytes, "tensors", &arena->value));
        PLDI_TRY(pldi_params_alloc_arena(params, arena->count, bytes, "gradients", &arena->grad));
    }
    return PLD_OK;
}

static void give_addresses(pld_params *params)
{
    for (int i = 0; i < params->count; i++) {
        struct param_entry *entry = &params->entries[i];
        const struct pldi_arena *arena = &params->arenas[entry->info.dtype];
        const size_t at = entry->offset * pld_dtype_bytes(entry->info.dtype);

        entry->counted &= entry->info.owner;
        if (entry->outside)
            continue;
        entry->info.value = (char *)arena->value + at;
        entry->info.grad = (char *)arena->grad + at;
    }
    params->committed = 1;
}

/* As before the commit, so that a caller who changes the list may try again. */
static void undo(pld_params *params)
{
    for (int i = 0; i < params->count; i++) {
        struct param_entry *entry = &params->entries[i];

        entry->holders = NULL;
        entry->info.owner = 1;
        entry->counted = 1;
        entry->same_on_tp = 0;
        entry->offset = PLDI_OUTSIDE;
    }
    for (int g = 0; g < params->group_count; g++)
        pld_group_destroy(&params->groups[g]);
    for (int d = 0; d < PLDI_PARAM_DTYPES; d++) {
        pldi_params_free(params, params->arenas[d].value);
        pldi_params_free(params, params->arenas[d].grad);
        params->arenas[d] = (struct pldi_arena){0};
    }
    pldi_free(params->groups);
    pldi_free(params->shared_ids);
    params->groups = NULL;
    params->shared_ids = NULL;
    params->group_count = 0;
    params->shared_count = 0;
}

int pld_params_commit(pld_params *params)
{
    PLDI_ENTER();
    struct param_record *mine;
    pld_group *world;
    int rc;

    PLDI_CHECK_ARG(params != NULL);
    if (params->committed)
        return pldi_fail(PLD_ERR_STATE, "the tensors are committed already");
    world = pld_mesh_world(params->mesh);
    mine = pldi_params_table(params);
    rc = pld_agree(world, mine == NULL ? PLD_ERR_NOMEM : PLD_OK);
    if (rc == PLD_OK)
        rc = pld_agree(world, compare_replicas(params, mine));
    if (rc == PLD_OK)
        rc = pld_agree(world, meet_neighbours(params, mine));
    if (rc == PLD_OK)
        rc = pld_agree(world, alloc_arenas(params));
    pldi_free(mine);
    if (rc == PLD_OK)
        give_addresses(params);
    else
        undo(params);
    return rc;
}

static int broadcast(const pld_params *params, pld_group *group, void *value, size_t count,
                     pld_dtype dtype)
{
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .tag = "values", .stream = params->stream};

    return pld_broadcast(group, value, count, dtype, 0, &opts);
}

/* One tensor or arena from its first replica to all. */
static int sync_replicas(pld_params *params, void *value, size_t count, pld_dtype dtype)
{
    static const pld_axis axes[] = {PLD_AXIS_DP, PLD_AXIS_CP, PLD_AXIS_EP};
    int rc = PLD_OK;

    for (size_t i = 0; i < sizeof(axes) / sizeof(axes[0]); i++)
        if (pld_mesh_size(params->mesh, axes[i]) > 1)
            rc = first_error(
                rc, broadcast(params, pld_mesh_group(params->mesh, axes[i]), value, count, dtype));
    return rc;
}

static int sync_boxes(pld_params *params)
{
    int rc = PLD_OK;

    for (int i = 0; i < params->count; i++) {
        const pld_param_info *info = &params->entries[i].info;

        if (params->entries[i].same_on_tp)
            rc = first_error(rc, broadcast(params, pld_mesh_group(params->mesh, PLD_AXIS_TP),
                                           info->value, info->count, info->dtype));
    }
    return rc;
}

int pld_params_sync(pld_params *params)
{
    PLDI_ENTER();
    int rc;

    PLDI_CHECK_ARG(params != NULL);
    if (!params->committed)
        return pldi_fail(PLD_ERR_STATE, "there are no values before the commit");
    rc = pldi_params_before_change(params);
    for (int d = 0; d < PLDI_PARAM_DTYPES; d++)
        if (params->arenas[d].count > 0)
            rc = first_error(rc, sync_replicas(params, params->arenas[d].value,
                                               params->arenas[d].count, (pld_dtype)d));
    for (int i = 0; i < params->count; i++) {
        const pld_param_info *info = &params->entries[i].info;

        if (params->entries[i].outside)
            rc = first_error(rc, sync_replicas(params, info->value, info->count, info->dtype));
    }
    rc = first_error(rc, sync_boxes(params));
    for (int i = 0; i < params->shared_count; i++) {
        const struct param_entry *entry = &params->entries[params->shared_ids[i]];

        rc = first_error(rc, broadcast(params, entry->holders, entry->info.value, entry->info.count,
                                       entry->info.dtype));
    }
    return pld_agree(pld_mesh_world(params->mesh), rc);
}

int pldi_params_same(const pld_params *params, int code, uint64_t hash, const char *what)
{
    pld_group *world = pld_mesh_world(params->mesh);
    int64_t bounds[2] = {(int64_t)hash, (int64_t)~hash};

    PLDI_TRY(pld_agree(world, code));
    PLDI_TRY(pld_allreduce(world, bounds, bounds, 2, PLD_I64, PLD_MAX, NULL));
    if (bounds[0] != ~bounds[1])
        return pldi_fail(PLD_ERR_MISMATCH, "ranks pass different %s", what);
    return PLD_OK;
}
