/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file coll_leaves.h  pld_allreduce_leaves(), of which each step is a step of a part of it. */
#ifndef PLDI_COLL_LEAVES_H
#define PLDI_COLL_LEAVES_H

#include "coll/coll.h"

/** Fill in an operation that has been started with its buffer, count and dtype. */
int pldi_leaves_fill(pld_request *op, const pld_leaf *leaves, size_t n, uint64_t total,
                     pld_op reduce, double scale);

/** As pldi_op_step(). */
int pldi_leaves_step(pld_request *op, int *moved);

/** Free what it works with; it has ended. */
void pldi_leaves_end(pld_request *op);

#endif /* PLDI_COLL_LEAVES_H */
