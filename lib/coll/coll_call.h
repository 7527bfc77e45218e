/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file coll_call.h  From the arguments of a public call to an operation. */
#ifndef PLDI_COLL_CALL_H
#define PLDI_COLL_CALL_H

#include "coll/coll.h"

/** The arguments of a collective call; what it does not have is 0. */
struct pldi_call {
    const char *name; /**< of the function, for sentences */
    enum pldi_kind kind;
    pld_group *group;
    const void *send;
    void *recv;
    size_t count;
    pld_dtype dtype;
    pld_op op;
    int root;
    const size_t *counts;      /**< [size], by rank */
    const size_t *recv_counts; /**< [size], of alltoall_v; counts are then those it sends */
    const pld_coll_item *items;
    size_t n_items;
    int has_items; /**< 1: items and n_items are what is to be moved */
};

/** Check the arguments, and fill in an operation that is to be freed with its `memory`. */
int pldi_call_fill(const struct pldi_call *call, double scale, pld_request *out);

/** An operation of which nothing is known yet but this. */
void pldi_call_start(pld_request *out, pld_group *group, enum pldi_kind kind, const void *send,
                     void *recv, size_t count, pld_dtype dtype);

/** The options of a call, with what it does not say filled in. */
int pldi_call_opts(const pld_coll_opts *opts, pld_coll_opts *out);

/** Check the operator and its factor; *out: the factor, 1 for none. */
int pldi_call_check_op(const char *call, pld_dtype dtype, pld_op op, double scale, double *out);

int pldi_call_check_buffer(const char *call, const char *name, const void *buffer, size_t count,
                           pld_dtype dtype);

#endif /* PLDI_COLL_CALL_H */
