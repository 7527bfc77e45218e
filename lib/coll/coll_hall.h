/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_hall.h
 * How the ranks of a group that spans nodes meet at the start of an operation, where
 * nodes have several of them: in the memory of the node, and one rank of each speaks
 * to the other nodes.
 */
#ifndef PLDI_COLL_HALL_H
#define PLDI_COLL_HALL_H

#include "coll/coll_nodes.h"

struct pldi_word;
struct pldi_digest;

/** Collective over the node's ranks: 1: they have one, 0: not. */
int pldi_hall_attach(pld_group *group, struct pldi_nodes *nodes);
void pldi_hall_detach(struct pldi_hall **hall);

/** This rank has come, with what it says; then 1: all have, of all nodes, 0: not yet. */
int pldi_hall_begin(pld_request *op);
int pldi_hall_meet(pld_request *op, int *moved);

/** This rank gives up, for the reason of pld_last_error(); that of another one of the node. */
void pldi_hall_break(struct pldi_hall *hall, int code);
int pldi_hall_broken(const struct pldi_hall *hall, int index);

/** Few nodes: what each rank of the group said, and its data for this one. */
const struct pldi_word *pldi_hall_words(const pld_group *group);
const unsigned char *pldi_hall_data(const pld_group *group, int rank);

/** Many: what it comes to. */
const struct pldi_digest *pldi_hall_digest(const pld_group *group);

#endif /* PLDI_COLL_HALL_H */
