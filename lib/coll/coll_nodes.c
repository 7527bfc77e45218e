/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "coll/coll_nodes.h"

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll.h"
#include "coll/coll_hall.h"
#include "coll/coll_shm.h"

int pldi_nodes_ranks(const struct pldi_nodes *nodes, int node)
{
    return nodes->starts[node + 1] - nodes->starts[node];
}

void pldi_nodes_detach(struct pldi_nodes **nodes)
{
    struct pldi_nodes *n = *nodes;

    if (n == NULL)
        return;
    pldi_hall_detach(&n->hall);
    pld_group_destroy(&n->local);
    pldi_free(n->node_of);
    pldi_free(n->index);
    pldi_free(n->by_node);
    pldi_free(n->starts);
    pldi_free(n->carriers);
    pldi_free(n);
    *nodes = NULL;
}

static void sort_ranks(struct pldi_nodes *n, const int *homes, int size)
{
    int at = 0;

    for (int r = 0; r < size; r++)
        n->node_of[r] = -1;
    for (int first = 0; first < size; first++) {
        if (n->node_of[first] >= 0)
            continue;
        n->starts[n->n] = at;
        for (int r = first; r < size; r++) {
            if (homes[r] != homes[first])
                continue;
            n->node_of[r] = n->n;
            n->index[r] = at - n->starts[n->n];
            n->by_node[at++] = r;
        }
        n->n++;
    }
    n->starts[n->n] = at;
}

/* Consecutive ranks, each node 2^k of them but the last, which may have fewer. */
static int is_aligned(const struct pldi_nodes *n, int size)
{
    const int each = pldi_nodes_ranks(n, 0);

    if ((each & (each - 1)) != 0)
        return 0;
    for (int r = 0; r < size; r++) {
        if (n->by_node[r] != r)
            return 0;
    }
    for (int i = 0; i < n->n; i++) {
        const int ranks = pldi_nodes_ranks(n, i);

        if (i < n->n - 1 ? ranks != each : ranks > each)
            return 0;
    }
    return 1;
}

struct pldi_nodes *pldi_nodes_make(const int *homes, int size, int rank)
{
    struct pldi_nodes *n = pldi_alloc(1, sizeof(*n), "the nodes of a group");
    const size_t p = (size_t)size;

    if (n == NULL)
        return NULL;
    n->node_of = pldi_alloc(p, sizeof(int), "the nodes of a group");
    n->index = pldi_alloc(p, sizeof(int), "the nodes of a group");
    n->by_node = pldi_alloc(p, sizeof(int), "the nodes of a group");
    n->starts = pldi_alloc(p + 1, sizeof(int), "the nodes of a group");
    n->carriers = pldi_alloc(p, sizeof(int), "the nodes of a group");
    if (n->node_of == NULL || n->index == NULL || n->by_node == NULL || n->starts == NULL ||
        n->carriers == NULL) {
        pldi_nodes_detach(&n);
        return NULL;
    }
    sort_ranks(n, homes, size);
    n->lanes = size;
    n->regular = 1;
    for (int i = 0; i < n->n; i++) {
        const int ranks = pldi_nodes_ranks(n, i);

        n->lanes = ranks < n->lanes ? ranks : n->lanes;
        n->regular &= ranks == pldi_nodes_ranks(n, 0);
    }
    n->aligned = is_aligned(n, size);
    for (int i = 0; i < n->n && n->index[rank] < n->lanes; i++)
        n->carriers[i] = n->by_node[n->starts[i] + n->index[rank]];
    return n;
}

/* The group of this rank's node; collective over the group. */
static int make_local(pld_group *group, struct pldi_nodes *n)
{
    const int node = n->node_of[group->rank];
    const int *members = n->by_node + n->starts[node];
    const int size = pldi_nodes_ranks(n, node);
    struct pldi_transport *t = NULL;
    int32_t shared;
    int rc;

    rc = pldi_group_part(group, node, members, size, &t);
    if (rc == PLD_OK)
        rc = pldi_group_create(group->engine, t, &n->local);
    rc = pld_agree(group, rc);
    if (rc < 0)
        return rc;
    for (int r = 0; r < size; r++)
        n->local->world[r] = group->world[members[r]];
    rc = pldi_team_attach(n->local, group->node);
    PLDI_TRY(pld_agree(group, rc));
    shared = (size == 1 || n->local->team != NULL) && pldi_hall_attach(group, n);
    PLDI_TRY(pld_allreduce(group, &shared, &shared, 1, PLD_I32, PLD_MIN, NULL));
    n->shared = shared;
    if (!shared)
        pldi_hall_detach(&n->hall);
    return PLD_OK;
}

int pldi_nodes_attach(pld_group *group)
{
    const struct pldi_node_shm *node = group->node;
    int *homes = pldi_alloc((size_t)group->size, sizeof(*homes), "the nodes of a group");
    struct pldi_nodes *n = NULL;
    int rc;

    for (int r = 0; homes != NULL && r < group->size; r++)
        homes[r] = node->homes[group->world[r]];
    if (homes != NULL)
        n = pldi_nodes_make(homes, group->size, group->rank);
    pldi_free(homes);
    rc = pld_agree(group, n == NULL ? PLD_ERR_NOMEM : PLD_OK);
    if (rc == PLD_OK && n->n > 1 && n->n < group->size)
        rc = make_local(group, n);
    if (rc < 0)
        pldi_nodes_detach(&n);
    group->nodes = n;
    if (n != NULL && n->shared)
        group->small_bytes = pldi_small_most(group->size, n->n);
    return rc;
}
