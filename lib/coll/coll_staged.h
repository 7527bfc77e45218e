/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file coll_staged.h  What an operation through pinned memory is made of. */
#ifndef PLDI_COLL_STAGED_H
#define PLDI_COLL_STAGED_H

#include "coll/coll_device.h"

enum { PLDI_STAGES = 3 };

/* A pinned buffer. */
struct pldi_pin {
    struct pldi_pin *next;
    unsigned char *memory;
    size_t bytes;
};

/* One chunk's buffers. */
struct pldi_stage {
    struct pldi_pin *pins[2]; /* by side; of one side alone the other's */
    pld_event read, written;
};

struct pldi_staged {
    struct pldi_staged *next; /* in the runtime's list of idle ones, or the group's of messages */
    struct pldi_gpu *gpu;
    struct pldi_stage stages[PLDI_STAGES];
    pld_event start;
    int waits;              /* for `start` */
    pld_request part;       /* the operation on host memory */
    int busy;               /* it is under way */
    int listed;             /* among the group's messages */
    int agreed;             /* chunks are known; else the part finds out the most of any rank */
    uint64_t most;          /* chunks, of alltoall_v */
    size_t chunks, element; /* bytes of an element */
    size_t chunk;           /* bytes of each block in a chunk */
    size_t read, summed, written;
    size_t *starts[2]; /* [size + 1], of the part */
    uint64_t *counts;  /* [2 * size], of the part */
    size_t *memory;    /* of all these */
};

/** One that is idle, or a new one. */
int pldi_staged_take(struct pldi_gpu *gpu, struct pldi_staged **out);
/** A pinned buffer of at least so many bytes; NULL: the sentence is set. */
struct pldi_pin *pldi_pin_take(struct pldi_gpu *gpu, size_t bytes);

#endif /* PLDI_COLL_STAGED_H */
