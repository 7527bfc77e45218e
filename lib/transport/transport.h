/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file transport.h
 * What moves bytes between ranks.
 *
 * A transport object is a communicator: an ordered set of ranks whose messages
 * never match those of another object.  All calls are non-blocking but open
 * and close, and are made by one thread at a time per job (the engine of lib/coll
 * sees to that), not necessarily by the same one if `threads` is 1.
 *
 * Functions return 0 or PLD_ERR_*, never print, never abort.
 */
#ifndef PLDI_TRANSPORT_H
#define PLDI_TRANSPORT_H

#include <stddef.h>
#include <stdint.h>

struct pldi_transport;
struct pldi_inproc;

/** A message under way; must stay where it is until it is done or cancelled. */
struct pldi_xfer {
    size_t bytes; /**< received: capacity, then what came; sent: what goes */
    int active;   /**< 1 from posting until test() said done, or an error */
    /* What follows is the backend's. */
    int done, code, sending;
    int from, to, tag;
    uint64_t context;
    void *buf;
    void *handle;
    struct pldi_xfer *next;
};

/** What open() may need. */
struct pldi_transport_args {
    int use_comm;              /**< mpi: join `comm` instead of MPI_COMM_WORLD */
    int comm;                  /**< mpi: Fortran handle */
    struct pldi_inproc *world; /**< inproc */
    int rank;                  /**< inproc */
    double timeout;            /**< mpi: seconds to wait for the other ranks; 0: for ever */
};

struct pldi_transport_ops {
    const char *name; /**< as in POLDER_TRANSPORT=name */

    /** Join the job.  Collective over it.  PLD_ERR_TIMEOUT: not all ranks came. */
    int (*open)(const struct pldi_transport_args *args, struct pldi_transport **out);

    /**
     * May be NULL.  Of the first object of a job, before close(): say that this rank leaves;
     * *done = 1 when all have said so, and close() will not wait for long.  Never waits.
     */
    int (*leave)(struct pldi_transport *t, int *done);

    /** Of the first object of a job: leave it; collective.  Of others: local, cannot fail. */
    int (*close)(struct pldi_transport *t);

    /** Messages of equal (source, tag) match in the order of posting. */
    int (*isend)(struct pldi_transport *t, const void *buf, size_t bytes, int peer, int tag,
                 struct pldi_xfer *x);
    /** Takes a message of at most `bytes`; a longer one is PLD_ERR_MISMATCH from test(). */
    int (*irecv)(struct pldi_transport *t, void *buf, size_t bytes, int peer, int tag,
                 struct pldi_xfer *x);
    /** Move on, and say whether x is done.  An error ends x, too. */
    int (*test)(struct pldi_transport *t, struct pldi_xfer *x, int *done);
    /** Give x up, so that its buffer is the caller's again. */
    void (*cancel)(struct pldi_transport *t, struct pldi_xfer *x);

    /** May be NULL: 0.  split() takes the greatest of these numbers among all ranks of t. */
    int (*bid)(const struct pldi_transport *t);

    /**
     * The communicator of `members` (ranks of t, in their new order; this rank among
     * them), or *out = NULL if color < 0.  Collective over t, in lock step: all
     * ranks are already in the call, or about to make it without waiting.  It is used, or
     * closed, after settle() has said that it may be.
     */
    int (*split)(struct pldi_transport *t, int color, int bid, const int *members, int size,
                 struct pldi_transport **out);

    /**
     * May be NULL: a part may be used at once.  Move on what the last split of t began:
     * *done = 1 when this rank may use its part.  Never waits for a rank that is lost.
     */
    int (*settle)(struct pldi_transport *t, int *done);

    /** May be NULL.  Whether that rank has left.  Local. */
    int (*gone)(struct pldi_transport *t, int rank);

    /** May be NULL.  Local; makes all pending and later calls of all ranks PLD_ERR_PEER. */
    void (*revoke)(struct pldi_transport *t);
};

/** The head of every backend's object. */
struct pldi_transport {
    const struct pldi_transport_ops *ops;
    int rank, size;
    int max_tag; /**< tags are 0 .. max_tag */
    int threads; /**< 1: calls may come from any thread, one at a time */
    int lost;    /**< 1: ranks are gone; close must wait for nobody */
};

/** The backend of that name; PLD_ERR_UNSUPPORTED names those there are. */
int pldi_transport_find(const char *name, const struct pldi_transport_ops **out);

#endif /* PLDI_TRANSPORT_H */
