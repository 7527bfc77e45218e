/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file shard.h
 * Boxes: rectangular parts of tensors.  Pure arithmetic over int64_t; all
 * functions are local and none can fail.  Tensors and boxes are row-major; a box
 * in memory is dense.
 */
#ifndef PLDI_SHARD_H
#define PLDI_SHARD_H

#include <stddef.h>
#include <stdint.h>

#include <polder/export.h>

/** Elements offset[d] .. offset[d]+extent[d]-1 of each dimension; ndim >= 1, extents >= 1. */
struct pldi_box {
    int64_t offset[PLD_MAX_DIMS];
    int64_t extent[PLD_MAX_DIMS];
    int ndim;
};

/** Elements in the box. */
int64_t pldi_box_count(const struct pldi_box *box);

/** What two boxes of one tensor have in common.  1, or 0 and *out unspecified: nothing. */
int pldi_box_intersect(const struct pldi_box *a, const struct pldi_box *b, struct pldi_box *out);

/** 1 if `inner` lies within `outer`. */
int pldi_box_within(const struct pldi_box *inner, const struct pldi_box *outer);

/**
 * The rows of a box: its slices along the first dimension that is longer than 1.
 * Ranges of rows are boxes and dense ranges of the box's memory at the same time.
 */
int64_t pldi_box_rows(const struct pldi_box *box);

/** Rows begin .. end-1; 0 <= begin < end <= pldi_box_rows(). */
struct pldi_box pldi_box_cut(const struct pldi_box *box, int64_t begin, int64_t end);

/**
 * Walk over the elements of `region` as runs that are consecutive in both of two
 * boxes that contain it, by ascending position in either.
 *
 *     struct pldi_runs w = pldi_runs_begin(&region, &from, &to);
 *     while (pldi_runs_next(&w))
 *         copy w.count elements from w.from to w.to
 */
struct pldi_runs {
    int64_t count; /**< elements of each run */
    int64_t from;  /**< where the run begins in each box, in elements */
    int64_t to;
    int64_t extent[PLD_MAX_DIMS]; /* of the region, along what is walked over */
    int64_t at[PLD_MAX_DIMS];
    int64_t from_step[PLD_MAX_DIMS], to_step[PLD_MAX_DIMS];
    int outer; /* dimensions walked over */
    int started;
};

struct pldi_runs pldi_runs_begin(const struct pldi_box *region, const struct pldi_box *from,
                                 const struct pldi_box *to);
int pldi_runs_next(struct pldi_runs *walk);

/** Copy the elements of `region` between two boxes that contain it; `element` in bytes. */
void pldi_box_copy(const struct pldi_box *region, const struct pldi_box *from, const void *source,
                   const struct pldi_box *to, void *target, size_t element);

#endif /* PLDI_SHARD_H */
