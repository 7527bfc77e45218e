/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory that a group's communicator knows, so that NCCL moves data without a copy of its own.
 * NCCL wants all ranks of an operation to pass registered memory, or none: so ranks agree on
 * each batch, and if one cannot register its part, none keeps it.
 */

#include <stdio.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_break.h"
#include "coll/coll_device.h"
#include "coll/coll_mem.h"

enum state { UNKNOWN, TRIED, KNOWN };

struct pldi_gpu_region {
    struct pldi_gpu_region *next;
    struct pldi_region what;
    enum state state; /* to the communicator that the group has */
};

/* Only who has the turn, or the group's only caller, takes the communicator away while it is
 * healthy. */
static struct pldi_comm *usable(const struct pldi_gpu_group *g)
{
    return g->code == 0 && !g->gpu->stop ? g->comm : NULL;
}

/* With the turn: what the communicator does not know yet. */
static int try_all(struct pldi_gpu_group *g)
{
    struct pldi_comm *comm = usable(g);

    for (struct pldi_gpu_region *r = g->regions; r != NULL; r = r->next) {
        if (r->state != UNKNOWN)
            continue;
        if (comm == NULL)
            return pldi_fail(PLD_ERR_TRANSPORT, "the group's communicator has ended");
        PLDI_TRY(g->gpu->device->comm->register_memory(comm, r->what.memory, r->what.bytes));
        r->state = TRIED;
    }
    return PLD_OK;
}

/* With the turn. */
static void keep_or_not(struct pldi_gpu_group *g, int keep)
{
    struct pldi_comm *comm = usable(g);

    for (struct pldi_gpu_region *r = g->regions; r != NULL; r = r->next) {
        if (r->state != TRIED)
            continue;
        r->state = keep ? KNOWN : UNKNOWN;
        if (!keep && comm != NULL)
            g->gpu->device->comm->deregister_memory(comm, r->what.memory);
    }
}

static int meet(struct pldi_gpu_group *g)
{
    int rc;

    pldi_gpu_enter(g->gpu);
    rc = try_all(g);
    pldi_gpu_leave(g->gpu);
    rc = pld_agree(g->group, rc);
    pldi_gpu_enter(g->gpu);
    keep_or_not(g, rc == PLD_OK);
    pldi_gpu_leave(g->gpu);
    if (rc < 0 && g->group->broken == 0) {
        (void)snprintf(g->refusal, sizeof(g->refusal), "%s", pld_last_error());
        rc = PLD_OK;
    }
    return rc;
}

/* Reproducible sums are formed from pieces in memory of another kind. */
static int is_wanted(const struct pldi_gpu_group *g)
{
    return g->connected && g->nccl && g->region_calls > 0 && !g->group->reproducible;
}

int pldi_gpu_regions_join(struct pldi_gpu_group *g)
{
    for (struct pldi_gpu_region *r = g->regions; r != NULL; r = r->next)
        r->state = UNKNOWN;
    return is_wanted(g) ? meet(g) : PLD_OK;
}

void pldi_gpu_regions_leave(pld_group *group)
{
    struct pldi_gpu_group *g = group->on_gpu;

    if (g == NULL || g->regions == NULL)
        return;
    pldi_gpu_quiet(group);
    pldi_gpu_enter(g->gpu);
    for (struct pldi_gpu_region *r = g->regions; r != NULL; r = r->next)
        r->state = r->state == KNOWN ? TRIED : r->state;
    keep_or_not(g, 0);
    pldi_gpu_leave(g->gpu);
}

static int add(struct pldi_gpu_group *g, const struct pldi_region *regions, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct pldi_gpu_region *r;

        if (regions[i].memory == NULL || regions[i].bytes == 0)
            continue;
        r = pldi_alloc(1, sizeof(*r), "registered memory");
        if (r == NULL)
            return PLD_ERR_NOMEM;
        r->what = regions[i];
        r->next = g->regions;
        g->regions = r;
    }
    return PLD_OK;
}

int pldi_group_register(pld_group *group, const struct pldi_region *regions, size_t n)
{
    struct pldi_gpu_group *g = group->on_gpu;

    if (g == NULL || !g->gpu->registers || group->size == 1)
        return PLD_OK;
    PLDI_TRY(pld_agree(group, add(g, regions, n)));
    g->region_calls++;
    return is_wanted(g) ? meet(g) : PLD_OK;
}

void pldi_group_unregister(pld_group *group, const void *memory)
{
    struct pldi_gpu_group *g = group != NULL ? group->on_gpu : NULL;
    struct pldi_gpu_region **at = g != NULL ? &g->regions : NULL;
    struct pldi_gpu_region *r;

    while (at != NULL && *at != NULL && (*at)->what.memory != memory)
        at = &(*at)->next;
    if (at == NULL || *at == NULL)
        return;
    pldi_gpu_quiet(group);
    r = *at;
    *at = r->next;
    pldi_gpu_enter(g->gpu);
    if (r->state == KNOWN && usable(g) != NULL)
        g->gpu->device->comm->deregister_memory(g->comm, memory);
    pldi_gpu_leave(g->gpu);
    pldi_free(r);
}

void pldi_gpu_regions_free(struct pldi_gpu_group *g)
{
    while (g->regions != NULL) {
        struct pldi_gpu_region *r = g->regions;

        g->regions = r->next;
        pldi_free(r);
    }
}

size_t pldi_gpu_regions_bytes(const struct pldi_gpu_group *g)
{
    size_t bytes = 0;

    for (const struct pldi_gpu_region *r = g->regions; r != NULL; r = r->next)
        bytes += r->state == KNOWN ? r->what.bytes : 0;
    return bytes;
}
