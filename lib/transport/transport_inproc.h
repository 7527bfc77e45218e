/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file transport_inproc.h
 * Ranks as threads of one process.  Messages are not buffered: a send is done
 * when its receive has taken it, so whatever relies on buffering shows.
 */
#ifndef PLDI_TRANSPORT_INPROC_H
#define PLDI_TRANSPORT_INPROC_H

struct pldi_inproc;

/** What `size` ranks share; NULL without memory. */
struct pldi_inproc *pldi_inproc_create(int size);

/** After the last rank has closed its transport. */
void pldi_inproc_destroy(struct pldi_inproc **world);

/**
 * The rank will not come back.  Whoever waits for it, now or later, gets
 * PLD_ERR_PEER, except for what it already handed over.
 */
void pldi_inproc_leave(struct pldi_inproc *world, int rank);

#endif /* PLDI_TRANSPORT_INPROC_H */
