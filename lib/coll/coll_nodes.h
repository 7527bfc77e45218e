/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_nodes.h
 * How the ranks of a group lie on nodes.  Equal on all of them, but for what says
 * "this rank's".
 */
#ifndef PLDI_COLL_NODES_H
#define PLDI_COLL_NODES_H

#include <polder/coll.h>

struct pldi_hall;

struct pldi_nodes {
    int n;            /**< nodes, in the order of their lowest ranks */
    int lanes;        /**< ranks of the smallest: so many of each carry data between nodes */
    int regular;      /**< all have as many */
    int aligned;      /**< the ranks of each are an aligned run of 2^k, the last maybe shorter */
    int shared;       /**< the ranks of each share memory, or are alone; they have a hall */
    int *node_of;     /**< [size] */
    int *index;       /**< [size], among the ranks of the node */
    int *by_node;     /**< [size], ranks, node by node */
    int *starts;      /**< [n+1], into by_node */
    int *carriers;    /**< [n], the ranks with this rank's index; if it is below `lanes` */
    pld_group *local; /**< this rank's node; NULL: there is one, or each rank is one */
    struct pldi_hall *hall; /**< where its ranks meet; NULL: openings go from rank to rank */
};

/** Find out; collective over the group, with code on all if one has no memory. */
int pldi_nodes_attach(pld_group *group);
void pldi_nodes_detach(struct pldi_nodes **nodes);

/** The layout of `size` ranks with these nodes' names; local.  NULL without memory. */
struct pldi_nodes *pldi_nodes_make(const int *homes, int size, int rank);

/** Ranks of a node. */
int pldi_nodes_ranks(const struct pldi_nodes *nodes, int node);

#endif /* PLDI_COLL_NODES_H */
