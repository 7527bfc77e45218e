/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_leg.h
 * One rank's way through the rounds (coll_rounds.h) of one segment of a vector,
 * by messages of the group's transport.
 */
#ifndef PLDI_COLL_LEG_H
#define PLDI_COLL_LEG_H

#include "coll/coll_rounds.h"
#include "coll/coll_sum.h"
#include "transport/transport.h"

struct pldi_leg {
    struct pldi_members members;
    const int *ranks; /**< [n], of the group */
    const struct pldi_sum *sum;
    const size_t *starts;            /**< [blocks+1], elements before each block */
    unsigned char *acc;              /**< the sum so far, of pldi_sum_dtype() */
    unsigned char *temp;             /**< what came, to be added */
    unsigned char *out;              /**< the result */
    struct pldi_xfer *sends, *recvs; /**< [n] */
    size_t *wants;                   /**< [n] */
    const void **sources;            /**< [n] */
    int tag;
    int at;     /**< the round */
    int posted; /**< its messages are under way */
    struct pldi_round round;
    int n_sends, n_recvs;
};

/** From the first round on; the fields above `at` are the caller's. */
void pldi_leg_start(struct pldi_leg *leg);

/** 1: done, 0: not yet; or an error. */
int pldi_leg_step(struct pldi_leg *leg, pld_group *group, int *moved);

/** Elements of temp, if the vector has so many and each block at most `block`. */
size_t pldi_leg_temp(const struct pldi_members *m, size_t vector, size_t block);

#endif /* PLDI_COLL_LEG_H */
