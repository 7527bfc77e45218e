/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What is near a PCI device, from hwloc.  A topology of its own: with devices it takes
 * longer to find than without, and only who wants a GPU asks.
 */

#include <hwloc.h>
#include <hwloc/helper.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "topo/topo_gpu.h"

static hwloc_topology_t topology;

static void load(void)
{
    /* What would open a GPU, or a display, to look at it. */
    static const char *const unwanted[] = {"cuda", "nvml", "opencl", "rsmi", "levelzero", "gl"};
    hwloc_topology_t t = NULL;

    if (hwloc_topology_init(&t) != 0)
        return;
    (void)hwloc_topology_set_io_types_filter(t, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
#if HWLOC_API_VERSION >= 0x00020100
    for (size_t i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++)
        (void)hwloc_topology_set_components(t, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST,
                                            unwanted[i]);
#else
    (void)unwanted;
#endif
    if (hwloc_topology_load(t) == 0)
        topology = t;
    else
        hwloc_topology_destroy(t);
}

/* InfiniBand's own word for a port that is up is 4; where nothing is said, it may be. */
static int is_up(hwloc_obj_t nic)
{
    int said = 0;

    for (unsigned i = 0; i < nic->infos_count; i++) {
        unsigned port = 0;
        int end = 0;

        (void)sscanf(nic->infos[i].name, "Port%uState%n", &port, &end);
        if (end == 0 || nic->infos[i].name[end] != '\0')
            continue;
        if (strcmp(nic->infos[i].value, "4") == 0)
            return 1;
        said = 1;
    }
    return !said;
}

/* The first that is above both. */
static hwloc_obj_t find_common(hwloc_obj_t a, hwloc_obj_t b)
{
    for (; a != NULL; a = a->parent)
        for (hwloc_obj_t o = b; o != NULL; o = o->parent)
            if (o == a)
                return a;
    return NULL;
}

static enum pldi_near nearness(hwloc_obj_t common)
{
    if (common->type == HWLOC_OBJ_BRIDGE)
        return common->attr->bridge.upstream_type == HWLOC_OBJ_BRIDGE_HOST ? PLDI_NEAR_BRIDGE
                                                                           : PLDI_NEAR_SWITCH;
    return hwloc_bitmap_weight(common->nodeset) == 1 ? PLDI_NEAR_NUMA : PLDI_FAR;
}

static int count_above(hwloc_obj_t o)
{
    int n = 0;

    for (; o != NULL; o = o->parent)
        n++;
    return n;
}

/* By nearness, then by the number of bridges in common, then by name. */
static void find_nic(hwloc_obj_t gpu, struct pldi_gpu_place *out)
{
    int depth = 0;

    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_osdev(topology, o)) != NULL;) {
        hwloc_obj_t common;
        enum pldi_near near;
        int above;

        if (o->attr->osdev.type != HWLOC_OBJ_OSDEV_OPENFABRICS || o->name == NULL || !is_up(o))
            continue;
        common = find_common(gpu->parent, o->parent);
        near = nearness(common);
        above = count_above(common);
        if (out->nic[0] != '\0' &&
            (near < out->near || (near == out->near && above < depth) ||
             (near == out->near && above == depth && strcmp(o->name, out->nic) >= 0)))
            continue;
        (void)snprintf(out->nic, sizeof(out->nic), "%.23s", o->name);
        out->near = near;
        depth = above;
    }
}

void pldi_topo_pci_look(struct pldi_gpu_place *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    hwloc_obj_t gpu = NULL;
    hwloc_obj_t above;
    int cpu;

    (void)pthread_once(&once, load);
    memset(out->cpus, 0, sizeof(out->cpus));
    out->nic[0] = '\0';
    out->near = PLDI_FAR;
    if (topology != NULL)
        gpu = hwloc_get_pcidev_by_busid(topology, out->id >> 16, out->id >> 8 & 0xffU,
                                        out->id >> 3 & 0x1fU, out->id & 7U);
    if (gpu == NULL)
        return;
    above = hwloc_get_non_io_ancestor_obj(topology, gpu);
    hwloc_bitmap_foreach_begin(cpu, above->cpuset)
    {
        if (cpu < PLDI_TOPO_CPUS)
            out->cpus[cpu / 8] = (unsigned char)(out->cpus[cpu / 8] | 1U << cpu % 8);
    }
    hwloc_bitmap_foreach_end();
    find_nic(gpu, out);
}
