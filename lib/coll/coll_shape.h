/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_shape.h
 * What an operation moves, in one description for all of them.
 *
 * Each side of an operation, what is sent and what is received, is cut into
 * blocks by rank.  A reduction forms the sum of block r on rank r ("slice r"),
 * and then, as every other operation, passes blocks on: the flow from s to d is
 * block d of the sending side of s, or block s of the receiving side of d, or
 * both.  All lengths and offsets are in bytes.
 *
 * A list is the concatenation of its items, block by block.
 */
#ifndef PLDI_COLL_SHAPE_H
#define PLDI_COLL_SHAPE_H

#include "coll/coll.h"
#include "coll/coll_sum.h"

enum pldi_side { PLDI_SENT, PLDI_RECEIVED };

/** What the blocks of a side are. */
enum pldi_cut {
    PLDI_NOTHING, /**< there is no buffer */
    PLDI_WHOLE,   /**< there is but one, the same for all ranks */
    PLDI_EVEN,    /**< slices of a vector, all but the last equal */
    PLDI_BLOCKS   /**< one per rank, one behind the other */
};

struct pldi_shape {
    const char *name;
    enum pldi_cut cut[2]; /**< by side */
    int reduces;
    int from_root, to_root; /**< only the root gives, or takes */
    int by_rank;            /**< counts of blocks differ */
};

extern const struct pldi_shape pldi_shapes[PLDI_KINDS];

static inline const struct pldi_shape *pldi_shape(enum pldi_kind kind)
{
    return &pldi_shapes[kind];
}

/** "allreduce"; "?" for what is no kind. */
const char *pldi_kind_name(unsigned kind);

/** Bytes before slice r of a vector that is cut evenly. */
size_t pldi_even_start(const pld_request *op, int r);

/** Bytes of slice r of a reduction, and of the largest. */
size_t pldi_slice(const pld_request *op, int r);
size_t pldi_slice_most(const pld_request *op);

/** Bytes that go from s to d, of which one is this rank if blocks differ on both sides. */
size_t pldi_flow(const pld_request *op, int s, int d);

/** Bytes of the vector, or of one block. */
static inline size_t pldi_vector(const pld_request *op)
{
    return op->vector;
}

/** Bytes of a whole side, in all items and blocks; 0 if this rank has no use for it. */
size_t pldi_extent(const pld_request *op, enum pldi_side side);

/** Whether a rank has something to give, or gets something. */
int pldi_gives(const pld_request *op, int rank);
int pldi_takes(const pld_request *op, int rank);

/** A stretch of one item. */
struct pldi_spot {
    size_t item;
    size_t offset; /**< from the item's base */
    size_t run;    /**< bytes of the block that follow in this item */
};

/** Where byte `offset` of a block is. */
struct pldi_spot pldi_locate(const pld_request *op, enum pldi_side side, int block, size_t offset);

unsigned char *pldi_base(const pld_request *op, enum pldi_side side, size_t item);

/** The place of `bytes` bytes if they are in one piece, else NULL. */
unsigned char *pldi_piece(const pld_request *op, enum pldi_side side, int block, size_t offset,
                          size_t bytes);

/** Copy a part of a block of the sending side into one piece; and back, into the receiving one. */
void pldi_pack(const pld_request *op, int block, size_t offset, size_t bytes, void *to);
void pldi_unpack(const pld_request *op, int block, size_t offset, size_t bytes, const void *from);

/** Reduce `bytes` bytes of n sources, each in one piece, to a part of a received block.
 *  Moves the sources. */
void pldi_reduce_to(const pld_request *op, int block, size_t offset, size_t bytes,
                    const void **sources, int n);

/** How sums of the operation are formed. */
struct pldi_sum pldi_sum_of(const pld_request *op);

/** Where the result is of what would be at that offset, in bytes of the dtype, from base. */
unsigned char *pldi_sum_place(const pld_request *op, unsigned char *base, size_t offset);

/** The operator of the kernels: the factor of an average is part of the scale. */
pld_op pldi_kernel_op(const pld_request *op);

#endif /* PLDI_COLL_SHAPE_H */
