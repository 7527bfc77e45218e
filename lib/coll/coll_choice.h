/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_choice.h
 * Which algorithm carries an operation: a pure function of what all ranks agree on.
 */
#ifndef PLDI_COLL_CHOICE_H
#define PLDI_COLL_CHOICE_H

#include <stddef.h>
#include <stdint.h>

#include <polder/coll.h>

#include "coll/coll_rounds.h"

struct pldi_facts {
    int kind; /**< enum pldi_kind */
    pld_dtype dtype;
    uint64_t bytes; /**< of the vector, or of all blocks together */
    int ranks;
    int nodes, ppn;   /**< ranks of the smallest node; a rank without shared memory is a node */
    int regular;      /**< all nodes have as many ranks */
    int aligned;      /**< the ranks of a node are a subtree of the canonical tree */
    int tree;         /**< sums must be formed by that tree */
    int shared;       /**< all ranks share memory, on one node */
    int crowded;      /**< and they outnumber the processors */
    int numas;        /**< then: groups of near ranks; 0 or 1: there are none */
    int near_aligned; /**< and whether the ranks of each are such a subtree */
};

struct pldi_choice {
    enum pldi_algorithm algorithm;
    enum pldi_algorithm across; /**< of PLDI_NODES: between them */
    size_t chunk;               /**< bytes of a block in one message */
};

/** A line of the table: what it is for, and what it says. */
struct pldi_rule {
    int kind, dtype; /**< -1: all */
    int nodes[2], ppn[2];
    uint64_t bytes[2]; /**< from, to, both included */
    enum pldi_algorithm algorithm;
    size_t chunk;
};

struct pldi_tuning {
    size_t n;
    struct pldi_rule rules[];
};

/** Bytes for one rank that travel with the openings of so many; 0: none do. */
size_t pldi_small_most(int ranks, int nodes);

/** Whether the algorithm can do it at all. */
int pldi_choice_fits(const struct pldi_facts *facts, enum pldi_algorithm algorithm);

/** The first rule that fits, of the tuning (may be NULL), then of the defaults. */
struct pldi_choice pldi_choose(const struct pldi_facts *facts, const struct pldi_tuning *tuning);

/** Of an operation on device memory: whether a rule leaves its sums to NCCL. */
int pldi_choice_nccl(const struct pldi_facts *facts, const struct pldi_tuning *tuning);

/**
 * Read a tuning file's text: lines `op dtype nodes ppn min max -> algorithm chunk`.
 * @param name  of the file, for sentences, which give the line
 */
int pldi_tuning_parse(const char *name, const char *text, struct pldi_tuning **out);

/** POLDER_TUNE=FILE, read by rank 0 of the group for all; collective.  *out: NULL without. */
int pldi_tuning_load(pld_group *world, struct pldi_tuning **out);

/** What there is to know about an operation of so many bytes in a group. */
struct pldi_facts pldi_facts_of(const pld_group *group, int kind, pld_dtype dtype, uint64_t bytes);

#endif /* PLDI_COLL_CHOICE_H */
