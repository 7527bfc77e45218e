/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll.h
 * The parts of lib/coll.
 *
 * An operation (struct pld_request) is a state machine: a step function moves it
 * on as far as it can without waiting.  coll_engine.c decides who calls it, and
 * when; coll_open.c is the first phase of every collective operation, in which
 * the ranks find out whether they are doing the same thing; coll_lane.c moves the
 * data of those too big to travel with the opening.  Between ranks of one node
 * coll_shm.h stands in for both.  What distinguishes one operation from another
 * is a row of the table in coll_shape.c; the rest goes by it.
 */
#ifndef PLDI_COLL_H
#define PLDI_COLL_H

#include <polder/coll.h>
#include <polder/device.h>

#include <stdatomic.h>

#include <stdint.h>

#include "coll/coll_choice.h"
#include "coll/coll_engine.h"
#include "health/health.h"
#include "transport/transport.h"

enum {
    PLDI_SMALL_BYTES = 16384, /**< what travels with the opening, for one rank */
    PLDI_DIRECT_RANKS = 8,    /**< up to here every rank talks to every other at once */
    PLDI_HALL_RANKS = 64,     /**< on few nodes: up to here each hears of each */
    PLDI_LANES = 2,           /**< chunks under way at a time: one moves, one is reduced */
    PLDI_TEXT_BYTES = 1024,
    PLDI_TAG_BYTES = 60,
    PLDI_COUNTS = 128, /**< counts of blocks or items that travel with an opening */
    /* Tags: one for openings, two for each lane, one for each slot of a route, then those of
     * pld_send(). */
    PLDI_TAG_OPEN = 0,
    PLDI_TAG_LANE = 1,
    PLDI_TAG_LEG = 5,
    PLDI_TAG_P2P = 16
};

enum pldi_kind {
    PLDI_BARRIER,
    PLDI_AGREE,
    PLDI_ALLREDUCE,
    PLDI_REDUCE,
    PLDI_REDUCE_SCATTER,
    PLDI_REDUCE_SCATTER_V,
    PLDI_ALLGATHER,
    PLDI_ALLGATHER_V,
    PLDI_BROADCAST,
    PLDI_ALLTOALL,
    PLDI_ALLTOALL_V,
    PLDI_GATHER,
    PLDI_GATHER_V,
    PLDI_SCATTER,
    PLDI_SCATTER_V,
    PLDI_SEND,
    PLDI_RECV,
    PLDI_LEAVES,
    PLDI_CONNECT, /**< making what operations on device memory need */
    PLDI_KINDS
};

/** How far an operation is. */
enum pldi_state {
    PLDI_NEW = 0, /**< nothing was sent */
    PLDI_OPENING, /**< openings are on their way */
    PLDI_OPENED,  /**< all have arrived */
    PLDI_MOVING   /**< the lanes are at work */
};

/** What a rank says at the start of a collective operation. */
struct pldi_opening {
    struct pldi_print { /* must be equal on all ranks */
        uint32_t kind, dtype, op;
        int32_t root;
        uint64_t count;
        double scale;
        uint64_t sequence;
        uint64_t counts; /**< hash of the blocks' or items' counts; 0: one count says it all */
    } print;
    int32_t rank, size;
    int32_t code;      /**< PLD_AGREE's, or of a rank that cannot take part; its text follows */
    uint32_t n_counts; /**< counts that follow, at most PLDI_COUNTS */
    uint32_t bytes;    /**< of data or text that follow those */
    char tag[PLDI_TAG_BYTES];   /**< the caller's name for the operation */
    char site[PLDI_SITE_BYTES]; /**< where it was called */
};
_Static_assert(2 * (int)PLDI_HALL_RANKS <= (int)PLDI_COUNTS,
               "alltoall_v's, of the sent and received");
_Static_assert(sizeof(struct pldi_opening) == 192, "data that follow are aligned");

/** All that one rank said; for the verdict. */
struct pldi_word {
    const struct pldi_opening *opening;
    const uint64_t *counts; /**< [opening->n_counts] */
    const char *text;       /**< [opening->bytes], if its code is negative */
};

enum { PLDI_KEPT = 4 /**< operations that a group keeps when they are over */ };

enum { PLDI_SLOT_BYTES = (int)sizeof(struct pldi_opening) + PLDI_COUNTS * 8 + PLDI_SMALL_BYTES };

/** A chunk's way through the two stages of an operation. */
struct pldi_lane {
    size_t chunk;
    int state;
    struct pldi_xfer *sends, *recvs; /* [size] */
    size_t *wants;                   /* [size], bytes that each receive must bring */
    unsigned char *scratch;          /* [2 * size][chunk bytes]: what came, what goes */
    unsigned char *result;           /* of the reduction, in one piece */
};

/** Memory for the one collective operation of a group that is under way. */
struct pldi_work {
    unsigned char *out, *in;         /* openings, [size][PLDI_SLOT_BYTES] */
    struct pldi_xfer *sends, *recvs; /* [size] */
    struct pldi_lane lanes[PLDI_LANES];
    const void **sources;    /* [size] */
    uint64_t *theirs, *ours; /* [size], counts that peers say they send, and this rank does */
    size_t scratch_bytes;    /* of each lane */
    int round, phase;        /* of the digest */
};

/** One tensor of an operation; an operation without a list has one. */
struct pldi_item {
    unsigned char *base[2]; /**< send, recv */
    size_t start;           /**< bytes of the items before, in one block */
    size_t bytes;           /**< of one block */
};

/** Where an operation is. */
enum pldi_home {
    PLDI_NO_HOME = 0, /**< its caller's stack, or a part of something else */
    PLDI_SPARE_HOME,  /**< it is its group's spare */
    PLDI_KEPT_HOME    /**< memory that its group keeps for the next one */
};

struct pld_request {
    pld_group *group;
    enum pldi_kind kind;
    struct pldi_print print;
    const void *send;
    void *recv;
    size_t count;  /**< of all items together; of all blocks if they differ */
    size_t vector; /**< bytes of that */
    pld_dtype dtype;
    pld_op op;
    int root;
    double scale;
    int peer, tag;
    struct { /* coll_shm_mail.c */
        pld_request *next;
        uint64_t id, ref, at;
        size_t bytes, moved;
        int phase;
    } mail;
    unsigned waits;             /**< fruitless steps, for looking after the others now and then */
    double looked;              /**< when that was last done */
    const pld_request *whole;   /**< what it is a part of; NULL: nothing */
    const char *name;           /**< the caller's tag */
    uint64_t hash;              /**< of the print */
    uint64_t ticket;            /**< of the recorder */
    int started;                /**< and it knows that all have come */
    struct pldi_check *check;   /**< of a message that is being announced */
    struct pldi_leaves *leaves; /**< of pld_allreduce_leaves(), while it is under way */
    int place;                  /**< of its leaves: enum pldi_leaves_place */

    /* Where one count does not say it all; in `memory`, which is the operation's. */
    void *memory;
    const struct pldi_item *items; /**< NULL: one, with send, recv and count */
    size_t n_items;
    const size_t *starts[2]; /**< [size+1], bytes before each block; NULL: all are equal */
    const uint64_t *counts;  /**< [n_counts], what the hash in the print is of */
    size_t n_counts;

    enum pldi_state state;
    int fresh;        /**< the engine counts it among those not begun */
    _Atomic int done; /**< set last: by then nobody but its owner looks at it */
    enum pldi_home home;
    int code; /**< before the start: this rank's verdict; when done: the result */
    struct pldi_xfer xfer;
    size_t chunks, chunk_bytes;
    struct pldi_choice choice; /**< of the algorithm */
    int tree;                  /**< sums are formed by the canonical tree */
    int wide;                  /**< the result is what sums are formed in, unrounded */

    struct pldi_staged *staged; /**< through pinned memory; NULL: not */
    struct pldi_flight *flight; /**< of a stream; NULL: the engine's */

    pld_request *queued; /**< behind it in its group */
    pld_request *active; /**< next in the engine */

    char text[PLDI_TEXT_BYTES]; /**< of the code; last, for it is rarely copied */
};

struct pldi_kernels;
struct pldi_node_shm;
struct pldi_team;

struct pld_group {
    struct pldi_engine *engine;
    struct pldi_transport *transport;
    const struct pldi_kernels *kernels;
    int rank, size;
    uint64_t sequence;
    size_t small_bytes; /**< that travel with an opening, for one rank; 0: a digest does */
    size_t chunk_bytes; /**< of messages of large operations, for each peer; equal on all ranks */
    _Atomic int broken; /**< the code that ended communication in this group, with `why` */
    pld_request *first, *last;
    pld_request spare;                      /**< for calls that wait: they need no memory */
    _Atomic(pld_request *) kept[PLDI_KEPT]; /**< of calls that did not; to be used again */
    struct pldi_work work;
    struct pldi_node_shm *node;       /**< the runtime's; NULL: none, or not yet */
    struct pldi_team *team;           /**< NULL: its ranks send messages */
    int *world;                       /**< [size], ranks of the runtime */
    struct pldi_nodes *nodes;         /**< NULL: not known */
    struct pldi_route *route;         /**< NULL: not yet needed */
    const struct pldi_tuning *tuning; /**< the runtime's; NULL: the defaults */
    struct pldi_tuning *own_tuning;   /**< of pld_group_set_tuning() */
    int reproducible;                 /**< sums by the canonical tree */
    uint64_t crossed;   /**< bytes of collective operations that this rank sent to other nodes */
    uint64_t crossings; /**< messages of them */
    struct pldi_health_group *health; /**< NULL: not recorded (yet) */
    uint64_t splits;
    int check;                 /**< messages are announced first */
    struct pldi_check *checks; /**< under way */
    pld_device *device;        /**< of this rank, the runtime's; NULL: the host alone */
    struct pldi_gpu *gpu;      /**< of this rank; NULL: the host alone */
    struct pldi_gpu_group *on_gpu;
    char why[PLDI_TEXT_BYTES];
};

/** Over a transport object, which it owns from here on, also on failure. */
int pldi_group_create(struct pldi_engine *engine, struct pldi_transport *transport,
                      pld_group **out);

/** As pld_group_destroy(); the code is that of closing the transport object. */
int pldi_group_close(pld_group **group);

/** A part's transport object, as the transport's split(); collective over the parent.  Where
 *  it fails on one rank the others may not know yet. */
int pldi_group_part(pld_group *parent, int color, const int *members, int size,
                    struct pldi_transport **out);

/** Scratch of so many bytes for each lane. */
int pldi_work_reserve(pld_group *group, size_t bytes);

/** The code of a group that is broken, with the sentence that says why. */
int pldi_group_failed(const pld_request *op);

/** Move on; sets *moved if anything happened.  1: done, 0: not yet; or an error. */
int pldi_op_step(pld_request *op, int *moved);
/** The same for an operation that is a part of another one, and not recorded. */
int pldi_op_part(pld_request *op, int *moved);

/** A collective operation is complete but for its number in its group. */
void pldi_op_number(pld_request *op, uint64_t number);

/**
 * What the other ranks wait for, if it can be done at once: the rest of the first step, and
 * the recorder, come while they look.
 */
void pldi_op_hasten(pld_request *op);
/** End an operation under way with an error. */
int pldi_op_give_up(pld_request *op, int code);
int pldi_open_step(pld_request *op, int *moved);
int pldi_lane_step(pld_request *op, int *moved);

/** What this rank says at the start of op; the verdict on what all said. */
struct pldi_opening pldi_open_make(const pld_request *op);
int pldi_open_judge(const pld_group *group, const struct pldi_word *all);

/** Plan the lanes of an operation; may need memory. */
int pldi_lane_plan(pld_request *op);

/** Bytes that rank s sends to d with the opening; put this rank's there; make the best of all. */
size_t pldi_small_bytes(const pld_request *op, int s, int d);
void pldi_small_put(const pld_request *op, int d, unsigned char *to);
void pldi_small_finish(pld_request *op);

/** An operation of a group of one rank. */
void pldi_lane_alone(const pld_request *op);

/** Data of `rank` in the opening that came from it. */
const unsigned char *pldi_open_data(const pld_group *group, int rank);

/** Test what is active among n transfers; wants may be NULL.  1: none is active any more. */
int pldi_xfers_test(pld_group *group, struct pldi_xfer *xfers, const size_t *wants, int n,
                    int *moved);
/** The first n of the group's own transfers, likewise. */
int pldi_work_test(pld_group *group, int n, int *moved);
/** isend() of the group's transport, for collective operations: counts what leaves the node. */
int pldi_send_part(pld_group *group, const void *buf, size_t bytes, int peer, int tag,
                   struct pldi_xfer *x);

/** Give up whatever the group has under way. */
void pldi_work_cancel(pld_group *group);

const char *pldi_reduce_name(unsigned op);

#endif /* PLDI_COLL_H */
