/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <sched.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll.h"
#include "coll/coll_device.h"
#include "coll/coll_digest.h"
#include "coll/coll_health.h"
#include "coll/coll_host.h"
#include "coll/coll_nodes.h"
#include "coll/coll_route.h"
#include "coll/coll_shm.h"
#include "device/device_kernels.h"
#include "health/health_site.h"

enum {
    MAX_CHUNK = 512 << 10,
    MIN_CHUNK = 32 << 10,
    ALL_CHUNKS = 1 << 20, /* of the peers of one lane together */
    LOOKS = 100
};

static void free_work(struct pldi_work *w)
{
    pldi_free(w->out);
    pldi_free(w->in);
    pldi_free(w->sends);
    pldi_free(w->recvs);
    pldi_free(w->sources);
    pldi_free(w->theirs);
    pldi_free(w->ours);
    for (int i = 0; i < PLDI_LANES; i++) {
        pldi_free(w->lanes[i].sends);
        pldi_free(w->lanes[i].recvs);
        pldi_free(w->lanes[i].wants);
        pldi_free(w->lanes[i].scratch);
    }
}

static int make_lane(struct pldi_lane *lane, size_t n)
{
    lane->sends = pldi_alloc(n, sizeof(lane->sends[0]), "transfers");
    lane->recvs = pldi_alloc(n, sizeof(lane->recvs[0]), "transfers");
    lane->wants = pldi_alloc(n, sizeof(lane->wants[0]), "transfers");
    return lane->sends == NULL || lane->recvs == NULL || lane->wants == NULL ? PLD_ERR_NOMEM
                                                                             : PLD_OK;
}

static int make_work(struct pldi_work *w, int size)
{
    const size_t n = (size_t)size;
    const size_t slots = size > PLDI_DIRECT_RANKS ? 1 : n;

    _Static_assert(PLDI_SLOT_BYTES >= sizeof(struct pldi_digest), "a slot holds a digest");
    w->sources = pldi_alloc(n, sizeof(w->sources[0]), "reduction sources");
    if (w->sources == NULL)
        return PLD_ERR_NOMEM;
    if (size == 1)
        return PLD_OK;
    w->out = pldi_alloc(slots, PLDI_SLOT_BYTES, "openings");
    w->in = pldi_alloc(slots, PLDI_SLOT_BYTES, "openings");
    w->sends = pldi_alloc(n, sizeof(w->sends[0]), "transfers");
    w->recvs = pldi_alloc(n, sizeof(w->recvs[0]), "transfers");
    w->theirs = pldi_alloc(n, sizeof(w->theirs[0]), "counts");
    w->ours = pldi_alloc(n, sizeof(w->ours[0]), "counts");
    if (w->out == NULL || w->in == NULL || w->sends == NULL || w->recvs == NULL ||
        w->theirs == NULL || w->ours == NULL)
        return PLD_ERR_NOMEM;
    for (int i = 0; i < PLDI_LANES; i++)
        PLDI_TRY(make_lane(&w->lanes[i], n));
    return PLD_OK;
}

static size_t choose_chunk(int size)
{
    const size_t chunk = ALL_CHUNKS / (size_t)size / 64 * 64;

    return chunk > MAX_CHUNK ? MAX_CHUNK : chunk < MIN_CHUNK ? MIN_CHUNK : chunk;
}

int pldi_group_create(struct pldi_engine *engine, struct pldi_transport *transport, pld_group **out)
{
    pld_group *g = pldi_alloc(1, sizeof(*g), "a group");

    if (g == NULL) {
        (void)transport->ops->close(transport);
        return PLD_ERR_NOMEM;
    }
    g->engine = engine;
    g->transport = transport;
    g->kernels = pldi_kernels();
    g->rank = transport->rank;
    g->size = transport->size;
    g->small_bytes = pldi_small_most(g->size, g->size);
    g->chunk_bytes = choose_chunk(g->size);
    g->world = pldi_alloc((size_t)g->size, sizeof(g->world[0]), "the ranks of a group");
    if (g->world == NULL || make_work(&g->work, g->size) < 0) {
        pld_group_destroy(&g);
        return PLD_ERR_NOMEM;
    }
    for (int r = 0; r < g->size; r++)
        g->world[r] = r;
    *out = g;
    return PLD_OK;
}

int pldi_work_reserve(pld_group *group, size_t bytes)
{
    struct pldi_work *w = &group->work;

    if (w->scratch_bytes >= bytes)
        return PLD_OK;
    w->scratch_bytes = 0;
    for (int i = 0; i < PLDI_LANES; i++) {
        pldi_free(w->lanes[i].scratch);
        w->lanes[i].scratch = pldi_alloc(1, bytes, "scratch");
        if (w->lanes[i].scratch == NULL)
            return PLD_ERR_NOMEM;
    }
    w->scratch_bytes = bytes;
    return PLD_OK;
}

int pld_group_rank(const pld_group *group)
{
    return group->rank;
}

int pld_group_size(const pld_group *group)
{
    return group->size;
}

int pld_group_set_reproducible(pld_group *group, int on)
{
    PLDI_ENTER();
    int32_t said[2] = {on != 0, -(on != 0)};

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(pld_allreduce(group, said, said, 2, PLD_I32, PLD_MAX, NULL));
    if (said[0] != -said[1])
        return pldi_fail(PLD_ERR_MISMATCH,
                         "pld_group_set_reproducible: some ranks say 1, others 0; here it is %d",
                         on);
    group->reproducible = said[0];
    if (said[0])
        pldi_gpu_regions_leave(group);
    return PLD_OK;
}

int pld_group_reproducible(const pld_group *group)
{
    return group->reproducible;
}

int pldi_group_close(pld_group **group)
{
    int rc;

    pldi_gpu_detach(*group);
    pldi_nodes_detach(&(*group)->nodes);
    rc = (*group)->transport->ops->close((*group)->transport);
    pldi_team_detach(&(*group)->team);
    pldi_route_destroy(&(*group)->route);
    pldi_free((*group)->world);
    pldi_free((*group)->own_tuning);
    for (int i = 0; i < PLDI_KEPT; i++)
        pldi_free((*group)->kept[i]);
    pldi_health_group_destroy(&(*group)->health);
    free_work(&(*group)->work);
    pldi_free(*group);
    *group = NULL;
    return rc;
}

void pld_group_destroy(pld_group **group)
{
    if (group != NULL && *group != NULL)
        (void)pldi_group_close(group);
}

/* The ranks of one color, by key, then by rank; returns how many. */
static int select_members(const int *colors_keys, int size, int color, int *members)
{
    int n = 0;

    for (int r = 0; r < size; r++) {
        int at = n;

        if (colors_keys[2 * r] != color)
            continue;
        for (; at > 0 && colors_keys[2 * members[at - 1] + 1] > colors_keys[2 * r + 1]; at--)
            members[at] = members[at - 1];
        members[at] = r;
        n++;
    }
    return n;
}

/* Where its ranks are, and what the parent has said of itself. */
static int settle(const pld_group *parent, const int *members, pld_group *group)
{
    for (int r = 0; r < group->size; r++)
        group->world[r] = parent->world[members[r]];
    group->tuning = parent->node != NULL ? parent->node->tuning : NULL;
    group->reproducible = parent->reproducible;
    PLDI_TRY(pldi_team_attach(group, parent->node));
    return parent->node != NULL && group->team == NULL ? pldi_nodes_attach(group) : PLD_OK;
}

/* How many have the color that most have. */
static int find_largest(const int *colors_keys, int size)
{
    int most = 0;

    for (int r = 0; r < size; r++) {
        int n = 0;

        for (int i = 0; i < size && colors_keys[2 * r] >= 0; i++)
            n += colors_keys[2 * i] == colors_keys[2 * r];
        most = n > most ? n : most;
    }
    return most;
}

/* Some looks whether the part may be used by now: 1, 0 or an error. */
static int look_at_part(pld_group *parent)
{
    struct pldi_transport *t = parent->transport;
    int done = 0;
    int rc = PLD_OK;

    for (int tries = 0; rc == PLD_OK && !done && tries < LOOKS; tries++) {
        if (tries > 0)
            (void)sched_yield();
        pldi_engine_enter(parent->engine);
        rc = t->ops->settle(t, &done);
        pldi_engine_leave(parent->engine);
    }
    return rc < 0 ? rc : done;
}

/* Between looks all say whether they have their part, in an operation that is watched over. */
static int await_part(pld_group *parent, int rc)
{
    int32_t all[2] = {0, 0}; /* have it; the worst code */

    while (all[0] == 0 && all[1] == 0) {
        const int looked = rc < 0 ? rc : look_at_part(parent);
        const int32_t mine[2] = {looked > 0, looked < 0 ? looked : 0};

        rc = looked < 0 ? looked : PLD_OK;
        PLDI_TRY(pld_allreduce(parent, mine, all, 2, PLD_I32, PLD_MIN, NULL));
    }
    return rc;
}

/* It takes all ranks, and some may be lost meanwhile: nobody waits for them in the transport. */
int pldi_group_part(pld_group *parent, int color, const int *members, int size,
                    struct pldi_transport **out)
{
    struct pldi_transport *t = parent->transport;
    int32_t bid = t->ops->bid != NULL ? t->ops->bid(t) : 0;
    int rc;

    if (t->ops->bid != NULL)
        PLDI_TRY(pld_allreduce(parent, &bid, &bid, 1, PLD_I32, PLD_MAX, NULL));
    pldi_engine_enter(parent->engine);
    rc = t->ops->split(t, color, bid, members, size, out);
    pldi_engine_leave(parent->engine);
    if (t->ops->settle != NULL)
        rc = await_part(parent, rc);
    if (rc < 0 && *out != NULL) {
        (void)(*out)->ops->close(*out);
        *out = NULL;
    }
    return rc;
}

static int split(pld_group *parent, int color, int key, int *table, pld_group **out)
{
    struct pldi_transport *child = NULL;
    int *members = table + 2 * parent->size;
    int mine[2] = {color < 0 ? -1 : color, key};
    int rc;

    PLDI_TRY(pld_allgather(parent, mine, table, 2, PLD_I32, NULL));
    rc = pldi_group_part(parent, color, members,
                         color < 0 ? 0 : select_members(table, parent->size, color, members),
                         &child);
    if (rc == PLD_OK && child != NULL)
        rc = pldi_group_create(parent->engine, child, out);
    if (rc == PLD_OK && child != NULL)
        (*out)->device = parent->device;
    if (rc == PLD_OK && child != NULL)
        rc = pldi_gpu_attach(*out, parent->gpu);
    parent->splits++;
    if (rc == PLD_OK && child != NULL)
        rc = pldi_coll_part_health(parent, *out, color, members);
    rc = pld_agree(parent, rc);
    if (rc == PLD_OK && child != NULL)
        rc = settle(parent, members, *out);
    return pld_agree(parent, rc);
}

static int split_off(pld_group *parent, int color, int key, int device, pld_group **out)
{
    pld_group *group = NULL;
    int *table;
    int rc;

    table = pldi_alloc(3 * (size_t)parent->size, sizeof(int), "colors and keys");
    rc = pld_agree(parent, table == NULL ? PLD_ERR_NOMEM : PLD_OK);
    if (rc == PLD_OK)
        rc = split(parent, color, key, table, &group);
    if (rc == PLD_OK && device)
        rc = pldi_gpu_part(parent, group, color, key, find_largest(table, parent->size));
    pldi_free(table);
    if (rc < 0) {
        pld_group_destroy(&group);
        return rc;
    }
    *out = group;
    return PLD_OK;
}

int pld_group_split(pld_group *parent, int color, int key, pld_group **out)
{
    PLDI_ENTER();

    PLDI_CHECK_ARG(parent != NULL && out != NULL);
    return split_off(parent, color, key, 1, out);
}

int pldi_group_split_host(pld_group *parent, int color, int key, pld_group **out)
{
    return split_off(parent, color, key, 0, out);
}
