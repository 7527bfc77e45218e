/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_shm_levels.h
 * Two levels of shared memory: the ranks of a team in groups of near ones.
 *
 * A group is the ranks of a NUMA node, or a run of them if they are many.  Every
 * rank's slice (coll_shape.h) has a worker in each group: for ranks of that group
 * themselves, for others the one with their index, around again if it is smaller.
 */
#ifndef PLDI_COLL_SHM_LEVELS_H
#define PLDI_COLL_SHM_LEVELS_H

#include "coll/coll_nodes.h"
#include "coll/coll_shm.h"

enum { PLDI_LEVEL_RANKS = 8 /**< of a group, at most */ };

struct pldi_levels {
    struct pldi_nodes *map; /**< groups in the place of nodes */
    int group;              /**< this rank's */
    const int *members;     /**< [n_members], its ranks */
    int n_members;
    int *duties; /**< [n_duties], the ranks for whose slices this one works */
    int n_duties;
    int *workers; /**< [groups], who works for this rank's slice in each */
    int *places;  /**< [groups], where among its duties */
    int *slots;   /**< [size], each rank's place among the duties of its worker in this group */
    int most;     /**< the most duties of a rank */

    /* Of the operation that ranks arrive at. */
    int met;    /**< members seen */
    int groups; /**< groups seen to be complete */
    int told;   /**< this rank has said that its group is */

    /* Of the operation under way. */
    size_t width;       /**< bytes of what sums are formed in, for one byte */
    int works_back;     /**< this group gets the result */
    const int *readers; /**< [n_readers], of what this rank sends */
    int n_readers;
};

/** The groups of these ranks by their NUMA nodes: homes[r] is the lowest rank of r's.  Returns
 *  how many there are. */
int pldi_levels_cut(const int *numas, int size, int *homes);

/** NULL: there is but one group, or no memory (*rc). */
struct pldi_levels *pldi_levels_make(const int *numas, int size, int rank, int *rc);
void pldi_levels_destroy(struct pldi_levels **levels);

/** A rank has arrived: look from the beginning. */
void pldi_levels_arrive(struct pldi_levels *levels);

/**
 * Whether all have.  The first rank of each group looks at its members and says when they
 * are there; the others look at those first ranks.  Who reads what the others bring looks at
 * all of them, which is no more than it must.
 */
int pldi_levels_met(const struct pldi_team *team);

/** After that: whether all have said the same. */
int pldi_levels_agree(const struct pldi_team *team, uint64_t print);

/** Whether a rank has said all that it must so that others see who has arrived. */
int pldi_levels_told(const struct pldi_team *team, int rank);

/** Whether the operation goes this way; then its plan and its steps, as pldi_team_move(). */
int pldi_levels_carry(pld_request *op);
void pldi_levels_plan(pld_request *op);
int pldi_levels_advance(pld_request *op);
int pldi_levels_done(const pld_request *op);

#endif /* PLDI_COLL_SHM_LEVELS_H */
