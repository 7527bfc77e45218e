/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_route.h
 * Large operations of a group without shared memory among all its ranks, by the
 * algorithms of coll_rounds.h, inside nodes by operations in shared memory.
 */
#ifndef PLDI_COLL_ROUTE_H
#define PLDI_COLL_ROUTE_H

#include "coll/coll.h"
#include "coll/coll_leg.h"

enum { PLDI_SLOTS = 2 /* segments under way: one inside the node, one between nodes */ };

/** A segment's memory and place. */
struct pldi_slot {
    struct pldi_leg leg;
    int crossing;   /**< its leg is not over */
    size_t from;    /**< bytes of the vector, or of each block, before it */
    size_t bytes;   /**< of the vector in it */
    size_t *cuts;   /**< [lanes+1], bytes before each lane's part */
    size_t *starts; /**< [blocks+1], elements before each block of this rank's part */
    unsigned char *acc, *temp, *out;
    unsigned char *scratch; /**< the segment, if it is not where the caller has it */
    unsigned char *vector;  /**< that, or the caller's */
    struct pldi_xfer *sends, *recvs;
    size_t *wants;
};

struct pldi_route {
    struct pldi_slot slots[PLDI_SLOTS];
    struct pldi_sum sum;
    pld_request local;              /**< the operation inside the node */
    int busy;                       /**< 0, 1: the first of a segment is under way, 2: the second */
    size_t segments, first, second; /**< how many; those whose operation inside comes next */
    size_t segment_bytes;           /**< of the vector, or of each block */
    int *everybody;                 /**< [size], ranks, where each is a node of its own */
    const void **sources;           /**< [size] */
    unsigned char *memory;
    size_t memory_bytes;
};

/** Whether an operation goes this way. */
int pldi_route_carries(const pld_request *op);

/** Get memory, before the opening. */
int pldi_route_plan(pld_request *op);

/** After it: 1: done, 0: not yet; or an error. */
int pldi_route_step(pld_request *op, int *moved);

void pldi_route_cancel(pld_group *group);
void pldi_route_destroy(struct pldi_route **route);

#endif /* PLDI_COLL_ROUTE_H */
