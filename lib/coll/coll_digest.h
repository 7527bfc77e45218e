/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_digest.h
 * The smallest and the largest print, and the lowest rank with an error code: what
 * many ranks need of their openings for a verdict.  All three are found right no
 * matter how often a rank's word is counted.
 */
#ifndef PLDI_COLL_DIGEST_H
#define PLDI_COLL_DIGEST_H

#include "coll/coll.h"

struct pldi_digest {
    struct pldi_opening low, high; /**< smallest and largest print */
    struct pldi_opening bad;       /**< of the lowest rank with a code; rank INT32_MAX: none */
    char text[PLDI_TEXT_BYTES];
    uint64_t counts[2][PLDI_COUNTS]; /**< of low and high */
};

/** What one rank said; of several. */
void pldi_digest_put(struct pldi_digest *d, const struct pldi_word *word);
void pldi_digest_merge(struct pldi_digest *mine, const struct pldi_digest *theirs);

/**
 * log2 rounds of dissemination, of the digest in the group's work.out; work.in is the one
 * coming.  Its members are all ranks, or one of each node where those have a hall.
 */
int pldi_digest_post(pld_group *group);
/** 1: it is of all members, 0: not yet. */
int pldi_digest_step(pld_group *group, int *moved);

#endif /* PLDI_COLL_DIGEST_H */
