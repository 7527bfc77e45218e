/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file coll_leaves.h  pld_allreduce_leaves(), of which each step is a step of a part of it. */
#ifndef PLDI_COLL_LEAVES_H
#define PLDI_COLL_LEAVES_H

#include "coll/coll.h"
#include "coll/coll_sum.h"

/** Where leaves and result are, on all ranks alike. */
enum pldi_leaves_place {
    PLDI_LEAVES_HOST = 0,
    PLDI_LEAVES_STAGED, /**< on the device; pinned memory is worked with */
    PLDI_LEAVES_DEVICE  /**< on the device; the operation ends when it is known who has which */
};

/** What is under way: an operation, but for READ and WRITE, which are copies. */
enum pldi_leaves_part { NUMBERS_OF, NUMBERS, READ, SUBTREES, RESULT, WRITE };

/** A subtree of one rank. */
struct pldi_subtree {
    uint64_t first; /* leaf */
    uint64_t n;     /* leaves */
    int rank, level;
};

struct pldi_leaves {
    pld_request now; /* the part of the operation that is under way */
    enum pldi_leaves_part part;
    pld_group *group;
    const pld_leaf *mine; /* [n], by number */
    size_t n;
    uint64_t total;
    struct pldi_sum sum;
    size_t unit; /* bytes of what sums are formed in */

    uint64_t *given;            /* [size], leaves of each rank */
    size_t *counts;             /* [2][size] */
    uint64_t *own;              /* [n], numbers */
    uint64_t *numbers;          /* [all given], rank by rank */
    int *owners;                /* [total] */
    struct pldi_subtree *parts; /* [n_parts] */
    size_t n_parts;
    size_t *held; /* [size], parts of each rank */

    size_t from;             /* elements of the segments before */
    size_t segment;          /* elements */
    size_t *starts;          /* [size+1], slices of a segment */
    unsigned char *out, *in; /* subtrees: slice by slice; rank by rank */
    unsigned char *slice;    /* of the result */
    const void **sources;    /* [most of total and parts] */
    unsigned char *levels;   /* [n_parts] */

    struct pldi_staged *staged;      /* the operation's; NULL: of the host */
    unsigned char *pinned, *results; /* [n][segment] of leaves, [segment] */
};

/** Fill in an operation that has been started with its buffer, count and dtype. */
int pldi_leaves_fill(pld_request *op, const pld_leaf *leaves, size_t n, uint64_t total,
                     pld_op reduce, double scale);

/** The leaves of this rank, by number; op->n_items of them. */
const pld_leaf *pldi_leaves_of(const pld_request *op);

/**
 * Find out with the other hosts who has which leaf, for an operation that is to be put into a
 * stream: op->leaves, to be freed by pldi_leaves_end().  Collective; waits.
 */
int pldi_leaves_meet(pld_request *op);

/** As pldi_op_step(). */
int pldi_leaves_step(pld_request *op, int *moved);

/** Free what it works with; it has ended. */
void pldi_leaves_end(pld_request *op);

#endif /* PLDI_COLL_LEAVES_H */
