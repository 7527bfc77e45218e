/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file topo_gpu.h  Which GPU is for which rank of a node, and what is near it. */
#ifndef PLDI_TOPO_GPU_H
#define PLDI_TOPO_GPU_H

#include <stdint.h>

#include "topo/topo.h"

enum { PLDI_TOPO_GPUS = 64, PLDI_TOPO_PCI = 16, PLDI_TOPO_NIC = 24 };

/** What two PCI devices have in common, at least. */
enum pldi_near { PLDI_FAR = 0, PLDI_NEAR_NUMA, PLDI_NEAR_BRIDGE, PLDI_NEAR_SWITCH };

/** A GPU, and what is near it. */
struct pldi_gpu_place {
    uint32_t id;                            /**< its PCI id, packed */
    unsigned char cpus[PLDI_TOPO_CPUS / 8]; /**< bit per processor; all 0: not known */
    char nic[PLDI_TOPO_NIC];                /**< the nearest InfiniBand or RoCE device with a port
                                             *   that is up; "": none */
    enum pldi_near near;                    /**< how near */
};

/** A rank of the node. */
struct pldi_gpu_rank {
    const unsigned char *cpus; /**< [PLDI_TOPO_CPUS / 8], that it may run on */
    uint64_t visible;          /**< bit per GPU that it sees */
    int gpu;                   /**< receives the index of its GPU; -1: it sees none */
};

/** "0000:1b:00.0" in 32 bits, in the order of the text; and back. */
uint32_t pldi_topo_pci_pack(const char *pci);
void pldi_topo_pci_text(uint32_t id, char out[PLDI_TOPO_PCI]);

/**
 * What is near out->id, as hwloc has it; unknown devices are near nothing.  Takes tens of
 * milliseconds the first time.
 */
void pldi_topo_pci_look(struct pldi_gpu_place *out);

const char *pldi_topo_near_name(enum pldi_near near);

/**
 * Deal GPUs out: each rank in turn takes, of those that the fewest have, the one that shares most
 * processors with it, then one that has a port near, then one whose port the fewest use, then
 * the first.  No rank shares a GPU while the ranks could be placed, each on one that it sees, so
 * that fewer share: those before it move if need be.  Pure, so that all ranks come to the
 * same result.
 */
void pldi_topo_deal(const struct pldi_gpu_place *gpus, int n_gpus, struct pldi_gpu_rank *ranks,
                    int n_ranks);

#endif /* PLDI_TOPO_GPU_H */
