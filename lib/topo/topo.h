/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file topo.h  Where ranks are: mesh coordinates and nodes.  Pure arithmetic, all local. */
#ifndef PLDI_TOPO_H
#define PLDI_TOPO_H

#include <stddef.h>

#include <polder/mesh.h>

/** Coordinates of `rank` in a mesh of these sizes. */
void pldi_topo_coords(const int sizes[PLD_AXES], int rank, int coords[PLD_AXES]);

/** The inverse; -1 if a coordinate is outside its axis. */
int pldi_topo_rank(const int sizes[PLD_AXES], const int coords[PLD_AXES]);

enum { PLDI_TOPO_CPUS = 1024, PLDI_TOPO_HOST = 112 };

/** Where in its machine the calling thread is bound; 0 for what the system does not tell. */
struct pldi_machine {
    int numa;           /**< number of its NUMA node; 0 also if it is bound to none */
    size_t cache_bytes; /**< of its last-level cache */
};

/** Takes milliseconds the first time. */
void pldi_topo_look(struct pldi_machine *out);

/** What one rank tells the others about its place. */
struct pldi_place {
    char host[PLDI_TOPO_HOST];              /**< equal on ranks of one node */
    unsigned char cpus[PLDI_TOPO_CPUS / 8]; /**< bit per processor it may run on */
    int numa;                               /**< NUMA node */
    int fake_numas;                         /**< POLDER_FAKE_NUMA; 0: none */
};

/** What this rank makes of all places. */
struct pldi_node {
    int local_rank; /**< among the ranks of the node, by rank */
    int local_size;
    int cpus;    /**< processors that the node's ranks may use, all together */
    int sharing; /**< ranks of the machine: more than the node's where nodes are pretended */
};

/**
 * The place of the calling process.  POLDER_FAKE_NODES=n cuts the job into n
 * pretended nodes of consecutive ranks, so that what happens between nodes can
 * be tested on one.  `numa` is left to pldi_topo_look().
 */
void pldi_topo_here(int rank, int size, struct pldi_place *out);

/** Find this rank's node among the places of all. */
void pldi_topo_node(const struct pldi_place *places, int rank, int size, struct pldi_node *out);

/** homes[r]: the lowest rank of r's node. */
void pldi_topo_homes(const struct pldi_place *places, int size, int *homes);

/**
 * numas[r]: the NUMA node of r, as numbered on its own node.  POLDER_FAKE_NUMA=n, as the
 * lowest rank of a node has it, cuts the node's ranks into n runs instead.
 */
void pldi_topo_numas(const struct pldi_place *places, const int *homes, int size, int *numas);

#endif /* PLDI_TOPO_H */
