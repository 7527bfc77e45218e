/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file fake_nccl_op.h  What an operation is made of. */
#ifndef FAKE_NCCL_OP_H
#define FAKE_NCCL_OP_H

#include "fake_nccl_impl.h"

/** Bytes to or from a peer. */
struct fake_transfer {
    bool out;
    int peer;
    unsigned char *data;
    size_t bytes, done;
    unsigned long end; /* where the channel is when they have been read */
};

/** One collective. */
struct fake_part {
    struct fake_task task;
    size_t width; /* of an element */
    unsigned char *mine, *sum;
    size_t mine_bytes;
    unsigned char *pieces[FAKE_MAX_RANKS]; /* of each rank, to be summed */
    unsigned char *received;               /* where those of others lie */
    unsigned char *result;
    size_t result_count;
    int owner;
    unsigned char *copy_to;
    const unsigned char *copy_from;
    size_t copy_bytes;
};

enum fake_then { FAKE_NOTHING, FAKE_PREPARE, FAKE_COPY, FAKE_SUM };

struct fake_phase {
    struct fake_transfer *transfers;
    size_t n;
    enum fake_then then;
    struct fake_part *part;
};

struct fake_fence {
    struct fake_op *op;
    bool arrived;
};

/** All that one group does in one communicator. */
struct fake_op {
    struct fake_op *next;
    unsigned refs;
    struct ncclComm *comm;
    unsigned long number; /* in its communicator */
    struct slot *slot;
    unsigned long ticket; /* its place in the order of the host */
    struct fake_phase *phases;
    size_t n_phases, at;
    struct fake_part **parts;
    size_t n_parts;
    pldi_cu_stream streams[8];
    size_t n_streams;
    unsigned fences, arrived;
    bool begun, running, finished;
    double not_before;
};

double fake_op_clock(void);
void fake_op_put(struct fake_op *op);
/** It counts as the calling thread's, whoever's question launches it. */
void fake_op_take_slot(struct fake_op *op);
/** Put it into its streams; a CUresult.  With the lock held. */
int fake_op_enqueue(struct fake_op *op);

/** Add the phases of the tasks: each collective in turn, sends and receives together. */
void fake_op_plan(struct fake_op *op, const struct fake_task *tasks, size_t n);

#endif /* FAKE_NCCL_OP_H */
