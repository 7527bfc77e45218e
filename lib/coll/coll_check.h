/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file coll_check.h  POLDER_CHECK=sync: messages are announced before they are sent. */
#ifndef PLDI_COLL_CHECK_H
#define PLDI_COLL_CHECK_H

#include "coll/coll.h"

/**
 * Exchange with the peer of a message what both are about to do, once, before it is posted.
 * 1: they agree and it may go, 0: not yet; PLD_ERR_MISMATCH, the same on both.
 */
int pldi_check_step(pld_request *op, int *moved);

/** Of an operation that ends otherwise. */
void pldi_check_cancel(pld_request *op);

#endif /* PLDI_COLL_CHECK_H */
