/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "runtime/runtime_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "device/device.h"

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

/* The processors of the node's ranks, by local rank. */
static unsigned char *node_cpus(const struct pldi_place *places, int size, int rank, int local_size)
{
    const size_t bytes = sizeof(places[0].cpus);
    unsigned char *cpus = pldi_alloc((size_t)local_size, bytes, "the processors of the node");
    int local = 0;

    for (int r = 0; cpus != NULL && r < size && local < local_size; r++)
        if (strcmp(places[r].host, places[rank].host) == 0)
            memcpy(cpus + (size_t)local++ * bytes, places[r].cpus, bytes);
    return cpus;
}

static int open_mine(pld_group *world, const char *pci, const struct pldi_place *places,
                     const struct pldi_node *node, pld_device **out)
{
    unsigned char *cpus =
        node_cpus(places, pld_group_size(world), pld_group_rank(world), node->local_size);
    const struct pldi_device_wish wish = {.local_rank = node->local_rank,
                                          .local_size = node->local_size,
                                          .pci = pci,
                                          .cpus = cpus,
                                          .cpus_bytes = sizeof(places[0].cpus)};
    const int rc = cpus == NULL ? PLD_ERR_NOMEM : pldi_device_open(&wish, out);

    pldi_free(cpus);
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
    rc = pld_agree(world, open_mine(world, pci, places, node, &device));
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
