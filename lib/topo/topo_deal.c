/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Ranks to GPUs: a matching by augmenting paths, along which each rank prefers what is near. */

#include <stdio.h>
#include <string.h>

#include "topo/topo_gpu.h"

struct deal {
    const struct pldi_gpu_place *gpus;
    struct pldi_gpu_rank *ranks;
    int n_gpus, n_ranks;
    int most;                  /* ranks that a GPU may have */
    int taken[PLDI_TOPO_GPUS]; /* ranks that it has */
    uint64_t tried;            /* GPUs whose ranks were asked to move */
};

uint32_t pldi_topo_pci_pack(const char *pci)
{
    unsigned domain = 0;
    unsigned bus = 0;
    unsigned device = 0;
    unsigned function = 0;

    (void)sscanf(pci, "%x:%x:%x.%x", &domain, &bus, &device, &function);
    return (domain & 0xffffU) << 16 | (bus & 0xffU) << 8 | (device & 0x1fU) << 3 | (function & 7U);
}

void pldi_topo_pci_text(uint32_t id, char out[PLDI_TOPO_PCI])
{
    (void)snprintf(out, PLDI_TOPO_PCI, "%04x:%02x:%02x.%x", (unsigned)(id >> 16),
                   (unsigned)(id >> 8 & 0xffU), (unsigned)(id >> 3 & 0x1fU), (unsigned)(id & 7U));
}

const char *pldi_topo_near_name(enum pldi_near near)
{
    static const char *const names[] = {"another NUMA node", "the same NUMA node",
                                        "the same host bridge", "the same switch"};

    return names[near];
}

static int shared_cpus(const unsigned char *a, const unsigned char *b)
{
    int shared = 0;

    for (int i = 0; i < PLDI_TOPO_CPUS / 8; i++)
        shared += __builtin_popcount(a[i] & b[i]);
    return shared;
}

/* Ranks whose GPU has the port of this one. */
static int port_users(const struct deal *d, int gpu)
{
    int users = 0;

    for (int g = 0; g < d->n_gpus; g++)
        users += strcmp(d->gpus[g].nic, d->gpus[gpu].nic) == 0 ? d->taken[g] : 0;
    return users;
}

/* Whether the rank would rather have GPU a than b, which comes before it. */
static int is_better(const struct deal *d, int rank, int a, int b)
{
    const unsigned char *cpus = d->ranks[rank].cpus;
    const int by[4] = {d->taken[b] - d->taken[a],
                       shared_cpus(d->gpus[a].cpus, cpus) - shared_cpus(d->gpus[b].cpus, cpus),
                       (int)d->gpus[a].near - (int)d->gpus[b].near,
                       port_users(d, b) - port_users(d, a)};

    for (int i = 0; i < 4; i++)
        if (by[i] != 0)
            return by[i] > 0;
    return 0;
}

/* The best GPU with room, or -1. */
static int find_room(const struct deal *d, int rank)
{
    int best = -1;

    for (int g = 0; g < d->n_gpus; g++) {
        if ((d->ranks[rank].visible >> g & 1U) == 0 || d->taken[g] >= d->most)
            continue;
        if (best < 0 || is_better(d, rank, g, best))
            best = g;
    }
    return best;
}

static int place(struct deal *d, int rank);

/* A rank of the GPU finds room elsewhere. */
static int make_room(struct deal *d, int gpu)
{
    for (int r = 0; r < d->n_ranks; r++) {
        if (d->ranks[r].gpu != gpu || !place(d, r))
            continue;
        d->taken[gpu]--;
        return 1;
    }
    return 0;
}

static int place(struct deal *d, int rank)
{
    int gpu = find_room(d, rank);

    for (int g = 0; g < d->n_gpus && gpu < 0; g++) {
        if ((d->ranks[rank].visible & ~d->tried) >> g & 1U) {
            d->tried |= (uint64_t)1 << g;
            gpu = make_room(d, g) ? g : -1;
        }
    }
    if (gpu < 0)
        return 0;
    d->ranks[rank].gpu = gpu;
    d->taken[gpu]++;
    return 1;
}

void pldi_topo_deal(const struct pldi_gpu_place *gpus, int n_gpus, struct pldi_gpu_rank *ranks,
                    int n_ranks)
{
    struct deal d = {.gpus = gpus, .ranks = ranks, .n_ranks = n_ranks, .most = 1};

    d.n_gpus = n_gpus < PLDI_TOPO_GPUS ? n_gpus : PLDI_TOPO_GPUS;
    for (int r = 0; r < n_ranks; r++)
        ranks[r].gpu = -1;
    for (int r = 0; r < n_ranks; r++) {
        if ((ranks[r].visible & (UINT64_MAX >> (PLDI_TOPO_GPUS - d.n_gpus))) == 0)
            continue;
        for (d.tried = 0; !place(&d, r); d.tried = 0)
            d.most++;
    }
}
