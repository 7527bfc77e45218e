/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_rounds.h
 * Algorithms between ranks that send messages, as rounds.  Pure functions.
 *
 * A vector is cut into blocks.  Each member of the algorithm has the sum so far,
 * and the result; a round says what one member sends of either and to whom, what
 * it receives, and what it makes of it.  All members compute the rounds of each
 * other alike, so what is sent is what is expected.
 */
#ifndef PLDI_COLL_ROUNDS_H
#define PLDI_COLL_ROUNDS_H

/** What the members want of the vector. */
enum pldi_goal {
    PLDI_GOAL_ALL,     /**< every member the sum */
    PLDI_GOAL_ROOT,    /**< one member the sum */
    PLDI_GOAL_SCATTER, /**< member b the sum of block b */
    PLDI_GOAL_GATHER,  /**< every member block b of member b, for all b */
    PLDI_GOAL_SPREAD   /**< every member the vector of the root */
};

enum pldi_algorithm {
    PLDI_FLAT,     /**< every member sends to every other at once */
    PLDI_RING,     /**< n - 1 steps to the next member, one block in each */
    PLDI_HALVING,  /**< log2(n) exchanges of half of what is left (Rabenseifner) */
    PLDI_DOUBLING, /**< log2(n) exchanges of the whole vector */
    PLDI_TREE,     /**< binomial, from the root */
    PLDI_NODES,    /**< inside nodes in shared memory, between them by another one */
    PLDI_NUMA,     /**< in shared memory in two levels: NUMA nodes, or runs of near ranks */
    PLDI_NCCL,     /**< of device memory: NCCL's own sums of f16 and bf16 */
    PLDI_ALGORITHMS
};

/** "ring"; "?" for what is no algorithm. */
const char *pldi_algorithm_name(unsigned algorithm);

struct pldi_members {
    enum pldi_goal goal;
    enum pldi_algorithm algorithm;
    int n, me, root;
};

enum pldi_round_kind {
    PLDI_ROUND_PAIR,     /**< send blocks to one member, receive blocks from one */
    PLDI_ROUND_EXCHANGE, /**< block b of each to member b, which adds up all it gets */
    PLDI_ROUND_SHARE,    /**< the own block of the result to all */
    PLDI_ROUND_COLLECT,  /**< the owners' blocks of the result to the root */
    PLDI_ROUND_CHILDREN, /**< the result to the members below this one in the tree */
    PLDI_ROUND_FINISH    /**< make the result of the sum of some blocks; nothing is sent */
};

/** What becomes of the blocks received, which are of the sum if they are added. */
enum pldi_round_take {
    PLDI_TAKE_RESULT, /**< they are the result */
    PLDI_TAKE_AFTER,  /**< sum = sum op received */
    PLDI_TAKE_BEFORE  /**< sum = received op sum */
};

struct pldi_blocks {
    int first, end;
};

struct pldi_round {
    enum pldi_round_kind kind;
    enum pldi_round_take take;
    int to, from; /**< members; -1: nobody */
    int sends_result;
    struct pldi_blocks sent, received; /**< received: also those that are finished */
};

/** Blocks that the vector is cut into. */
int pldi_rounds_blocks(const struct pldi_members *m);

/** The member that forms the sum of a block. */
int pldi_rounds_owner(const struct pldi_members *m, int block);

/** Round i of this member: 1, or 0 if there is none. */
int pldi_rounds_get(const struct pldi_members *m, int i, struct pldi_round *out);

/** The n-th child of this member in the tree: a member, or -1. */
int pldi_rounds_child(const struct pldi_members *m, int n);

/** Bytes that member `from` sends, of a vector of blocks of equal size: the number of blocks;
 *  *result: those of them that are of the result. */
int pldi_rounds_sent(const struct pldi_members *m, int *result);

#endif /* PLDI_COLL_ROUNDS_H */
