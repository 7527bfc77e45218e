/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Who is near whom, and how the ranks of a large team see that all have arrived.
 *
 * The ranks of a NUMA node are a group; more than PLDI_LEVEL_RANKS are cut into equal
 * runs.  Where one NUMA node has more than twice the ranks of another the groups are
 * runs of all ranks, for the smallest would have to do the work of the largest.
 */

#include "coll/coll_shm_levels.h"

#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"

/* Cut the n ranks into equal runs; homes of each: its lowest rank. */
static int cut_run(const int *ranks, int n, int *homes)
{
    const int runs = (n + PLDI_LEVEL_RANKS - 1) / PLDI_LEVEL_RANKS;

    for (int i = 0; i < runs; i++) {
        const int first = (int)((int64_t)n * i / runs);
        const int end = (int)((int64_t)n * (i + 1) / runs);
        int home = ranks[first];

        for (int k = first; k < end; k++)
            home = ranks[k] < home ? ranks[k] : home;
        for (int k = first; k < end; k++)
            homes[ranks[k]] = home;
    }
    return runs;
}

/* Ranks by NUMA node, those of the lowest rank first: *sorted, and where each node begins. */
static int sort_by_numa(const int *numas, int size, int *sorted, int *starts)
{
    int n = 0;
    int at = 0;

    for (int first = 0; first < size; first++) {
        int seen = 0;

        for (int r = 0; r < first; r++)
            seen |= numas[r] == numas[first];
        if (seen)
            continue;
        starts[n++] = at;
        for (int r = first; r < size; r++) {
            if (numas[r] == numas[first])
                sorted[at++] = r;
        }
    }
    starts[n] = at;
    return n;
}

static int cut(const int *numas, int size, int *homes, int *sorted, int *starts)
{
    const int n = sort_by_numa(numas, size, sorted, starts);
    int least = size;
    int most = 0;
    int groups = 0;

    for (int i = 0; i < n; i++) {
        const int ranks = starts[i + 1] - starts[i];

        least = ranks < least ? ranks : least;
        most = ranks > most ? ranks : most;
    }
    if (2 * least < most)
        return cut_run(sorted, size, homes);
    for (int i = 0; i < n; i++)
        groups += cut_run(sorted + starts[i], starts[i + 1] - starts[i], homes);
    return groups;
}

int pldi_levels_cut(const int *numas, int size, int *homes)
{
    int *sorted = pldi_alloc(2 * (size_t)size + 1, sizeof(*sorted), "the groups of a team");
    int groups;

    if (sorted == NULL)
        return PLD_ERR_NOMEM;
    groups = cut(numas, size, homes, sorted, sorted + size);
    pldi_free(sorted);
    return groups;
}

static int worker(const struct pldi_nodes *map, int group, int rank)
{
    return map->by_node[map->starts[group] + map->index[rank] % pldi_nodes_ranks(map, group)];
}

/* Of a rank among the duties of its worker, which are in the order of ranks. */
static int place(const struct pldi_nodes *map, int group, int rank)
{
    int n = 0;

    for (int r = 0; r < rank; r++)
        n += worker(map, group, r) == worker(map, group, rank);
    return n;
}

static void fill(struct pldi_levels *l, int size, int rank)
{
    const struct pldi_nodes *map = l->map;

    l->group = map->node_of[rank];
    l->members = map->by_node + map->starts[l->group];
    l->n_members = pldi_nodes_ranks(map, l->group);
    for (int r = 0; r < size; r++) {
        if (worker(map, l->group, r) == rank)
            l->duties[l->n_duties++] = r;
        l->slots[r] = place(map, l->group, r);
    }
    for (int g = 0; g < map->n; g++) {
        l->workers[g] = worker(map, g, rank);
        l->places[g] = place(map, g, rank);
        for (int r = 0; r < size; r++) {
            const int n = place(map, g, r) + 1;

            l->most = n > l->most ? n : l->most;
        }
    }
}

void pldi_levels_destroy(struct pldi_levels **levels)
{
    struct pldi_levels *l = *levels;

    if (l == NULL)
        return;
    pldi_nodes_detach(&l->map);
    pldi_free(l->duties);
    pldi_free(l->workers);
    pldi_free(l->places);
    pldi_free(l->slots);
    pldi_free(l);
    *levels = NULL;
}

static struct pldi_levels *make(const int *homes, int size, int rank)
{
    struct pldi_levels *l = pldi_alloc(1, sizeof(*l), "the levels of a team");
    const size_t n = (size_t)size;

    if (l == NULL)
        return NULL;
    l->map = pldi_nodes_make(homes, size, rank);
    l->duties = pldi_alloc(n, sizeof(int), "the levels of a team");
    l->workers = pldi_alloc(n, sizeof(int), "the levels of a team");
    l->places = pldi_alloc(n, sizeof(int), "the levels of a team");
    l->slots = pldi_alloc(n, sizeof(int), "the levels of a team");
    if (l->map == NULL || l->duties == NULL || l->workers == NULL || l->places == NULL ||
        l->slots == NULL)
        pldi_levels_destroy(&l);
    else
        fill(l, size, rank);
    return l;
}

struct pldi_levels *pldi_levels_make(const int *numas, int size, int rank, int *rc)
{
    int *homes = pldi_alloc((size_t)size, sizeof(*homes), "the groups of a team");
    const int groups = homes != NULL ? pldi_levels_cut(numas, size, homes) : PLD_ERR_NOMEM;
    struct pldi_levels *l = NULL;

    *rc = groups < 0 ? groups : PLD_OK;
    /* Groups of one rank have no inside. */
    if (groups > 1 && groups < size) {
        l = make(homes, size, rank);
        *rc = l == NULL ? PLD_ERR_NOMEM : PLD_OK;
    }
    pldi_free(homes);
    return l;
}

static struct pldi_meeting *meeting(const struct pldi_team *team, int group)
{
    const struct pldi_nodes *map = team->levels->map;

    return &pldi_team_seat(team, map->by_node[map->starts[group]])->meetings[(team->begun - 1) % 2];
}

static const struct pldi_arrival *arrival(const struct pldi_team *team, int rank)
{
    return &pldi_team_seat(team, rank)->arrivals[(team->begun - 1) % 2];
}

static int has_arrived(const struct pldi_team *team, int rank)
{
    return atomic_load_explicit(&arrival(team, rank)->seq, memory_order_acquire) == team->begun;
}

static int is_complete(const struct pldi_team *team, int group)
{
    return atomic_load_explicit(&meeting(team, group)->seq, memory_order_acquire) == team->begun;
}

void pldi_levels_arrive(struct pldi_levels *levels)
{
    levels->met = levels->groups = levels->told = 0;
}

/* Of the first rank of a group, when its members have arrived. */
static void tell(const struct pldi_team *team)
{
    struct pldi_levels *l = team->levels;
    struct pldi_meeting *m = meeting(team, l->group);

    m->print = arrival(team, team->rank)->print;
    m->direct = ~0U;
    for (int i = 0; i < l->n_members; i++) {
        const struct pldi_arrival *a = arrival(team, l->members[i]);

        m->print = a->print == m->print ? m->print : 0;
        m->direct &= a->direct;
    }
    l->told = 1;
    atomic_store_explicit(&m->seq, team->begun, memory_order_release);
    pldi_team_ring(team);
}

int pldi_levels_met(const struct pldi_team *team)
{
    struct pldi_levels *l = team->levels;
    const int n = team->reads_all ? team->size : l->n_members;
    const int *ranks = team->reads_all ? l->map->by_node : l->members;

    if (team->rank == l->members[0] && !l->told) {
        while (l->met < l->n_members && has_arrived(team, l->members[l->met]))
            l->met++;
        if (l->met < l->n_members)
            return 0;
        tell(team);
        l->met = 0;
    }
    while (team->reads_all && l->met < n && has_arrived(team, ranks[l->met]))
        l->met++;
    while (!team->reads_all && l->groups < l->map->n && is_complete(team, l->groups))
        l->groups++;
    return team->reads_all ? l->met == n : l->groups == l->map->n;
}

int pldi_levels_agree(const struct pldi_team *team, uint64_t print)
{
    int same = 1;

    if (team->reads_all) {
        for (int r = 0; r < team->size; r++)
            same &= arrival(team, r)->print == print;
        return same;
    }
    for (int g = 0; g < team->levels->map->n; g++)
        same &= meeting(team, g)->print == print;
    return same;
}

int pldi_levels_told(const struct pldi_team *team, int rank)
{
    const struct pldi_nodes *map = team->levels->map;
    const int group = map->node_of[rank];

    return rank != map->by_node[map->starts[group]] || is_complete(team, group);
}
