/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Every rank has one heap, and maps those of all others of its node when the
 * runtime is opened; from then on a buffer is found by rank and offset.
 *
 * POLDER_SHM=0 turns all of it off, on the ranks where it is set and so for every
 * group with one of them; POLDER_SHM=copy leaves the copying form alone.
 */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_mem.h"
#include "coll/coll_nodes.h"
#include "coll/coll_shm.h"

static const size_t CACHE_DEFAULT = (size_t)32 << 20;
/* All heaps together must fit into the address space of a process, with room to spare. */
static const size_t ADDRESS_SPACE = (size_t)16 << 40;

static size_t heap_bytes(int ranks)
{
    const long pages = sysconf(_SC_PHYS_PAGES);
    const long page = sysconf(_SC_PAGESIZE);
    const size_t all = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : (size_t)1 << 34;
    const size_t most = ADDRESS_SPACE / (size_t)ranks;

    return all < most ? all : most;
}

void pldi_node_close(struct pldi_node_shm **node)
{
    struct pldi_node_shm *n = *node;

    if (n == NULL)
        return;
    for (int r = 0; r < n->size; r++) {
        pldi_shm_unmap(&n->ranks[r].heap);
        pldi_shm_unwatch(n->ranks[r].watch);
    }
    if (n->heap != NULL)
        pldi_heap_destroy(&n->heap);
    pldi_free(n->ranks);
    pldi_free(n->homes);
    pldi_free(n->tuning);
    pldi_free(n);
    *node = NULL;
}

static struct pldi_node_shm *make(int rank, int size, int near_count)
{
    struct pldi_node_shm *node = pldi_alloc(1, sizeof(*node), "the node");
    const char *wanted = getenv("POLDER_SHM");

    if (node == NULL)
        return NULL;
    node->enabled = wanted == NULL || strcmp(wanted, "0") != 0;
    node->direct = wanted == NULL || strcmp(wanted, "copy") != 0;
    node->kernels = pldi_kernels();
    node->rank = rank;
    node->ranks = pldi_alloc((size_t)size, sizeof(node->ranks[0]), "the node");
    node->homes = pldi_alloc(2 * (size_t)size, sizeof(node->homes[0]), "the node");
    if (node->ranks == NULL || node->homes == NULL) {
        pldi_node_close(&node);
        return NULL;
    }
    node->size = size;
    for (int r = 0; r < size; r++)
        node->ranks[r] = (struct pldi_neighbour){.watch = -1, .heap.fd = -1};
    /* Without a heap buffers are ordinary memory: slower, no error. */
    if (node->enabled && node->direct && near_count > 1)
        (void)pldi_heap_create(heap_bytes(near_count), &node->heap);
    return node;
}

static void describe(const struct pldi_node_shm *node, struct pldi_shm_place *out)
{
    const struct pldi_shm none = {.fd = -1};

    pldi_shm_describe(node->heap != NULL ? pldi_heap_segment(node->heap) : &none, out);
    if (!node->enabled)
        out->pid = 0;
}

static void meet(struct pldi_node_shm *node, int rank, const struct pldi_shm_place *place)
{
    struct pldi_neighbour *n = &node->ranks[rank];

    if (!node->enabled || place->pid == 0)
        return;
    n->here = 1;
    n->pid = place->pid;
    if (rank == node->rank)
        return;
    if (n->pid != getpid())
        n->watch = pldi_shm_watch(n->pid);
    if (place->nonce != 0)
        (void)pldi_shm_map(place, &n->heap);
}

/* POLDER_REPRODUCIBLE=1 on any rank. */
static int read_mode(pld_group *world)
{
    const char *wanted = getenv("POLDER_REPRODUCIBLE");
    int32_t on = wanted != NULL && atoi(wanted) != 0;

    world->tuning = world->node->tuning;
    PLDI_TRY(pld_allreduce(world, &on, &on, 1, PLD_I32, PLD_MAX, NULL));
    world->reproducible = on;
    return PLD_OK;
}

static void settle(struct pldi_node_shm *node, const int *homes,
                   const struct pldi_node_facts *facts)
{
    const size_t bytes = (size_t)node->size * sizeof(homes[0]);

    node->crowded = facts->crowded;
    node->cache_bytes = facts->cache_bytes > 0 ? facts->cache_bytes : CACHE_DEFAULT;
    node->numas = node->homes + node->size;
    memcpy(node->homes, homes, bytes);
    memcpy(node->numas, facts->numas, bytes);
}

int pldi_node_open(pld_group *world, const int *homes, const struct pldi_node_facts *facts)
{
    struct pldi_shm_place *places =
        pldi_alloc((size_t)world->size, sizeof(*places), "the neighbours");
    int near_count = 0;
    int rc;

    for (int r = 0; r < world->size; r++)
        near_count += homes[r] == homes[world->rank];
    world->node = make(world->rank, world->size, near_count);
    rc = pld_agree(world, places == NULL || world->node == NULL ? PLD_ERR_NOMEM : PLD_OK);
    if (rc == PLD_OK) {
        settle(world->node, homes, facts);
        describe(world->node, &places[world->rank]);
        rc = pld_allgather(world, &places[world->rank], places, sizeof(*places), PLD_U8, NULL);
    }
    for (int r = 0; rc == PLD_OK && r < world->size; r++) {
        if (homes[r] == homes[world->rank])
            meet(world->node, r, &places[r]);
    }
    pldi_free(places);
    if (rc == PLD_OK)
        rc = pldi_team_attach(world, world->node);
    if (rc == PLD_OK && world->team == NULL)
        rc = pldi_nodes_attach(world);
    if (rc == PLD_OK)
        rc = pldi_tuning_load(world, &world->node->tuning);
    if (rc == PLD_OK)
        rc = read_mode(world);
    /* All have come this far: nobody needs the descriptor any more. */
    if (world->node != NULL && world->node->heap != NULL)
        pldi_heap_seal(world->node->heap);
    return rc;
}

void *pldi_mem_alloc(const pld_group *group, size_t count, size_t bytes, const char *what)
{
    struct pldi_heap *heap = group->node != NULL ? group->node->heap : NULL;
    void *memory = NULL;
    size_t total;

    if (heap != NULL && !__builtin_mul_overflow(count, bytes, &total))
        memory = pldi_heap_alloc(heap, total);
    return memory != NULL ? memory : pldi_alloc(count, bytes, what);
}

void pldi_mem_free(const pld_group *group, void *memory)
{
    struct pldi_heap *heap = group->node != NULL ? group->node->heap : NULL;

    if (heap == NULL || !pldi_heap_free(heap, memory))
        pldi_free(memory);
}

pld_device *pldi_mem_device(const pld_group *group)
{
    return group->device;
}
