/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * This and topo_pci.c are the files that know hwloc.  Devices are left out of the topology: finding
 * them takes longer than all the rest, and only who wants a GPU asks for them.
 */

#include <hwloc.h>
#include <pthread.h>

#include "topo/topo.h"

static hwloc_topology_t topology;

/* Of the largest cache that covers a processor of the set. */
static size_t cache_of(hwloc_topology_t t, hwloc_const_cpuset_t cpus)
{
    hwloc_obj_t pu = hwloc_get_next_obj_inside_cpuset_by_type(t, cpus, HWLOC_OBJ_PU, NULL);
    size_t bytes = 0;

    for (hwloc_obj_t o = pu; o != NULL; o = o->parent) {
        if (hwloc_obj_type_is_dcache(o->type) && o->attr->cache.size > bytes)
            bytes = (size_t)o->attr->cache.size;
    }
    return bytes;
}

/* Not where an unbound thread happens to be: what follows from it would differ each time. */
static void look(hwloc_topology_t t, struct pldi_machine *out)
{
    hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
    hwloc_bitmap_t nodes = hwloc_bitmap_alloc();

    if (cpus != NULL && nodes != NULL && hwloc_get_cpubind(t, cpus, HWLOC_CPUBIND_THREAD) == 0) {
        hwloc_cpuset_to_nodeset(t, cpus, nodes);
        if (hwloc_bitmap_weight(nodes) == 1)
            out->numa = hwloc_bitmap_first(nodes);
        out->cache_bytes = cache_of(t, cpus);
    }
    hwloc_bitmap_free(cpus);
    hwloc_bitmap_free(nodes);
}

/* The machine stays what it is: found out once for all runtimes of the process. */
static void load(void)
{
    hwloc_topology_t t = NULL;

    if (hwloc_topology_init(&t) != 0)
        return;
    (void)hwloc_topology_set_io_types_filter(t, HWLOC_TYPE_FILTER_KEEP_NONE);
    (void)hwloc_topology_set_type_filter(t, HWLOC_OBJ_MISC, HWLOC_TYPE_FILTER_KEEP_NONE);
    if (hwloc_topology_load(t) == 0)
        topology = t;
    else
        hwloc_topology_destroy(t);
}

void pldi_topo_look(struct pldi_machine *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    *out = (struct pldi_machine){0, 0};
    (void)pthread_once(&once, load);
    if (topology != NULL)
        look(topology, out);
}
