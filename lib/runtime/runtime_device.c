/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "runtime/runtime_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "device/device.h"
#include "topo/topo_gpu.h"

enum wish { HOST, AUTO, GPU };

/* What this rank's user wants; *pci: a certain GPU, or NULL. */
static int read_wish(const char *wanted, enum wish *wish, const char **pci)
{
    const char *text = wanted != NULL ? wanted : getenv("POLDER_DEVICE");

    *pci = NULL;
    *wish = HOST;
    if (text == NULL || text[0] == '\0' || strcmp(text, "cpu") == 0)
        return PLD_OK;
    *wish = strcmp(text, "auto") == 0 ? AUTO : GPU;
    if (*wish == AUTO || strcmp(text, "cuda") == 0)
        return PLD_OK;
    if (strncmp(text, "cuda:", 5) != 0 || text[5] == '\0')
        return pldi_fail(PLD_ERR_ARG,
                         "device is \"%s\", need \"cpu\", \"cuda\", \"auto\" or \"cuda:PCI-ID\"",
                         text);
    *pci = text + 5;
    return PLD_OK;
}

/* Ranks that want different things would wait in different calls later. */
static int agree_wish(pld_group *world, int code, enum wish wish)
{
    int32_t said[2] = {(int32_t)wish, -(int32_t)wish};

    PLDI_TRY(pld_agree(world, code));
    PLDI_TRY(pld_allreduce(world, said, said, 2, PLD_I32, PLD_MAX, NULL));
    if (said[0] != -said[1])
        return pldi_fail(PLD_ERR_MISMATCH,
                         "ranks ask for different devices; give all of them the same `device` or "
                         "POLDER_DEVICE");
    return PLD_OK;
}

/* The GPUs that a rank sees. */
struct seen {
    int32_t n;
    uint32_t id[PLDI_TOPO_GPUS];
};

static int list_mine(const char *pci, struct seen *out)
{
    char texts[PLDI_TOPO_GPUS][PLDI_PCI_BYTES];
    int n = 0;

    PLDI_TRY(pldi_device_list(pci, texts, PLDI_TOPO_GPUS, &n));
    for (int g = 0; g < n; g++)
        out->id[g] = pldi_topo_pci_pack(texts[g]);
    out->n = n;
    return PLD_OK;
}

/* The node's GPUs and ranks, and which rank sees which. */
struct dealing {
    struct pldi_gpu_place gpus[PLDI_TOPO_GPUS];
    struct pldi_gpu_rank *ranks; /* [local_size] */
    int n_gpus, n_ranks;
};

/* In the order of their ids, whatever the order in which ranks see them. */
static void add_gpus(struct dealing *d, const struct seen *seen)
{
    for (int i = 0; i < seen->n; i++) {
        int at = d->n_gpus;

        for (int g = 0; g < d->n_gpus; g++)
            at = d->gpus[g].id == seen->id[i] ? -1 : at;
        if (at < 0 || at == PLDI_TOPO_GPUS)
            continue;
        for (; at > 0 && d->gpus[at - 1].id > seen->id[i]; at--)
            d->gpus[at] = d->gpus[at - 1];
        d->gpus[at] = (struct pldi_gpu_place){.id = seen->id[i]};
        d->n_gpus++;
    }
}

static void add_rank(struct dealing *d, const struct seen *seen, const unsigned char *cpus)
{
    struct pldi_gpu_rank *r = &d->ranks[d->n_ranks++];

    r->cpus = cpus;
    for (int g = 0; g < d->n_gpus; g++)
        for (int i = 0; i < seen->n; i++)
            r->visible |= (uint64_t)(d->gpus[g].id == seen->id[i]) << g;
}

static int is_near(const struct pldi_place *places, int a, int b)
{
    return strcmp(places[a].host, places[b].host) == 0;
}

/* Every rank deals for the whole node, and takes what falls to itself. */
static int deal(const struct seen *all, const struct pldi_place *places, int rank, int size,
                const struct pldi_node *node, struct pldi_gpu_place *mine)
{
    struct dealing *d = pldi_alloc(1, sizeof(*d), "the GPUs of the node");

    if (d != NULL)
        d->ranks = pldi_alloc((size_t)node->local_size, sizeof(*d->ranks), "the ranks of the node");
    if (d == NULL || d->ranks == NULL) {
        pldi_free(d);
        return PLD_ERR_NOMEM;
    }
    for (int r = 0; r < size; r++)
        if (is_near(places, r, rank))
            add_gpus(d, &all[r]);
    for (int g = 0; g < d->n_gpus; g++)
        pldi_topo_pci_look(&d->gpus[g]);
    for (int r = 0; r < size && d->n_ranks < node->local_size; r++)
        if (is_near(places, r, rank))
            add_rank(d, &all[r], places[r].cpus);
    pldi_topo_deal(d->gpus, d->n_gpus, d->ranks, d->n_ranks);
    *mine = d->gpus[d->ranks[node->local_rank].gpu];
    pldi_free(d->ranks);
    pldi_free(d);
    return PLD_OK;
}

/* all: [size]; collective. */
static int gather_seen(pld_group *world, const char *pci, struct seen *all)
{
    struct seen *mine = all == NULL ? NULL : &all[pld_group_rank(world)];

    PLDI_TRY(pld_agree(world, all == NULL ? PLD_ERR_NOMEM : list_mine(pci, mine)));
    return pld_allgather(world, mine, all, sizeof(*all), PLD_U8, NULL);
}

static int open_mine(const struct seen *all, const struct pldi_place *places, int rank, int size,
                     const struct pldi_node *node, pld_device **out)
{
    struct pldi_gpu_place mine = {0};
    char text[PLDI_PCI_BYTES];

    PLDI_TRY(deal(all, places, rank, size, node, &mine));
    pldi_topo_pci_text(mine.id, text);
    PLDI_TRY(pldi_device_open(text, out));
    (void)snprintf((*out)->nic, sizeof((*out)->nic), "%s", mine.nic);
    return PLD_OK;
}

/* Collective, with the same code on all ranks. */
static int open_all(pld_group *world, const char *pci, const struct pldi_place *places,
                    const struct pldi_node *node, pld_device **out)
{
    const int size = pld_group_size(world);
    const int rank = pld_group_rank(world);
    struct seen *all = pldi_alloc((size_t)size, sizeof(*all), "the ranks' GPUs");
    int rc = gather_seen(world, pci, all);

    if (rc == PLD_OK)
        rc = pld_agree(world, open_mine(all, places, rank, size, node, out));
    pldi_free(all);
    return rc;
}

/* Ranks that have this one's GPU, whichever node they pretend to be on. */
static int count_sharing(pld_group *world, pld_device *device)
{
    const size_t n = (size_t)pld_group_size(world);
    pld_device_info *all = pldi_alloc(n, sizeof(*all), "the ranks' GPUs");
    pld_device_info *mine = all == NULL ? NULL : &all[pld_group_rank(world)];
    int rc = pld_agree(world, all == NULL ? PLD_ERR_NOMEM : PLD_OK);

    if (rc == PLD_OK) {
        pld_device_get_info(device, mine);
        rc = pld_allgather(world, mine, all, sizeof(*all), PLD_U8, NULL);
    }
    device->sharing = 0;
    for (size_t r = 0; rc == PLD_OK && r < n; r++)
        device->sharing += strcmp(all[r].uuid, mine->uuid) == 0;
    pldi_free(all);
    return rc;
}

int pldi_runtime_device_open(pld_group *world, const char *wanted, const struct pldi_place *places,
                             const struct pldi_node *node, pld_device **out, char *note)
{
    pld_device *device = NULL;
    const char *pci;
    enum wish wish;
    int rc = read_wish(wanted, &wish, &pci);

    note[0] = '\0';
    *out = NULL;
    PLDI_TRY(agree_wish(world, rc, wish));
    if (wish == HOST)
        return PLD_OK;
    rc = open_all(world, pci, places, node, &device);
    if (rc == PLD_OK)
        rc = count_sharing(world, device);
    if (rc == PLD_OK) {
        *out = device;
        return PLD_OK;
    }
    pldi_device_close(&device);
    if (wish == GPU || rc != PLD_ERR_UNSUPPORTED)
        return rc;
    (void)snprintf(note, PLDI_NOTE_BYTES, "%s", pld_last_error());
    return PLD_OK;
}
