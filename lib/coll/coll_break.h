/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file coll_break.h  Giving up a group. */
#ifndef PLDI_COLL_BREAK_H
#define PLDI_COLL_BREAK_H

#include <polder/coll.h>

/**
 * This rank cannot go on in the group: everything that it has under way there fails with
 * `code`, and the others get PLD_ERR_PEER for what they wait for from it, where the
 * transport or shared memory can tell them.  Local; no operation may be in a call.
 */
void pldi_group_break(pld_group *group, int code);

/** The same, and its communicator of device memory is aborted; with the calling thread's sentence.
 */
void pldi_group_end(pld_group *group, int code);

/** Wait for what the group has in streams, as long as there is hope: what waits for the device
 *  after that does not wait for other ranks. */
void pldi_group_quiet(pld_group *group);

#endif /* PLDI_COLL_BREAK_H */
