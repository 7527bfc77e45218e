/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file pipe_impl.h
 * The parts of lib/pipe.
 *
 * An edge is one direction of one stage boundary as this rank sees it: the four
 * of a rank are what comes in and what goes out, forward and backward.
 * pipe_edge.c moves messages over an edge, pipe_lane.c does so on a GPU,
 * pipe_step.c walks the schedule, pipe_agree.c finds out whether all ranks mean the same pipeline.
 */
#ifndef PLDI_PIPE_IMPL_H
#define PLDI_PIPE_IMPL_H

#include <polder/coll.h>
#include <polder/pipe.h>

enum pldi_pipe_way { PLDI_IN_F, PLDI_IN_B, PLDI_OUT_F, PLDI_OUT_B, PLDI_WAYS };

enum { PLDI_DOWN, PLDI_UP, PLDI_LANES_OF_PIPE };

enum { PLDI_PIPE_TEXT = 512 };

/**
 * The end of every message.  A rank that cannot go on still sends what its
 * schedule says, marked as void, so that nobody waits for it.
 */
struct pldi_pipe_note {
    int32_t is_void;
    int32_t kind, stage, microbatch; /**< of the SEND, to tell a defect from data */
};

struct pldi_pipe_edge {
    const struct pldi_pipe_mover *mover;
    struct pldi_pipe_lane *lane; /* on a GPU */
    pld_event *filled, *emptied; /* [slots], on a GPU: what a slot waits for */
    pld_group *group;
    int peer; /**< rank of the group */
    pld_action_kind kind;
    int stage;      /**< this rank's */
    size_t payload; /**< bytes of the tensor; 0: nothing crosses, and the rest is empty */
    size_t message; /**< bytes, note included */
    size_t stride;  /**< bytes from slot to slot */
    int count;      /**< messages per step */
    int *order;     /**< [count] microbatches in the order in which they cross */
    int *slot_of;   /**< [count] by microbatch; -1: none */
    int slots;
    int *free; /**< [slots] stack */
    int free_count;
    unsigned char *memory;  /**< [slots][stride] */
    pld_request **requests; /**< [slots] */
    int posted;             /**< of order: handed to the transport */
    int finished;           /**< of order, sends only: slots taken back */
};

/**
 * One direction on a GPU: messages to the next stages (down) or to the previous ones (up), all in
 * one stream and with a communicator of their own, in the order of the schedule.
 */
struct pldi_pipe_lane {
    pld_device *device;
    pld_group *group;
    pld_stream stream;
    pld_stream compute; /* the callbacks' */
    int strict;         /* NCCL does not order communicators: streams must */
    int shares;         /* so the stream is the other lane's */
};

struct pld_pipe {
    pld_pipe_opts opts;
    pld_group *group; /**< the pp axis, for messages of this pipe alone */
    int stage, microbatches;
    pld_action *actions; /**< [length], this rank's */
    size_t length;
    struct pldi_pipe_edge edges[PLDI_WAYS];
    struct pldi_pipe_lane lanes[PLDI_LANES_OF_PIPE]; /* on a GPU */
    pld_pipe_stats stats;

    /* One step. */
    int code;                  /**< what this rank has failed with */
    int is_void;               /**< data are missing from here on: messages flow, callbacks rest */
    char text[PLDI_PIPE_TEXT]; /**< the sentence to `code` */
    char before[PLDI_PIPE_TEXT]; /**< pld_last_error() when the step began */
    int ended;                   /**< an earlier step failed with this code */
};

/**
 * How messages move over an edge.  An edge that nothing crosses has count 0, and its functions
 * do nothing.
 */
struct pldi_pipe_mover {
    /** Before a step.  Receives are posted as far as slots go. */
    int (*start)(struct pldi_pipe_edge *edge);
    /** Incoming: the list has come to the message, which must be posted by now. */
    int (*expect)(struct pldi_pipe_edge *edge, int microbatch);
    /** Incoming: the callback comes next; *is_void is set if the message has no data. */
    int (*await)(struct pldi_pipe_edge *edge, int microbatch, int *is_void);
    /** Incoming: the slot is no longer needed. */
    int (*release)(struct pldi_pipe_edge *edge, int microbatch);
    /** Outgoing: find a slot for the microbatch, and wait for one if need be. */
    int (*acquire)(struct pldi_pipe_edge *edge, int microbatch);
    /** Outgoing: the callback has been. */
    int (*fill)(struct pldi_pipe_edge *edge, int microbatch);
    /** Outgoing: send it off. */
    int (*send)(struct pldi_pipe_edge *edge, int microbatch, int is_void);
    /** Outgoing: take back the slots of messages that have gone. */
    int (*reap)(struct pldi_pipe_edge *edge);
    /** Wait for all that the host waits for; the first error. */
    int (*finish)(struct pldi_pipe_edge *edge);
};

extern const struct pldi_pipe_mover pldi_pipe_host_mover;
extern const struct pldi_pipe_mover pldi_pipe_lane_mover;

/**
 * Collective over `axis`: the verdict is this rank's own.
 * @param other  the other lane, if it is open
 */
int pldi_pipe_lane_open(struct pldi_pipe_lane *lane, const struct pldi_pipe_lane *other,
                        pld_device *device, pld_stream compute, pld_group *axis);
/** Exchange something once with the neighbours: receive, then send.  Collective, as open. */
int pldi_pipe_lane_meet(struct pldi_pipe_edge *in, struct pldi_pipe_edge *out);
/** Wait for all that the lane and the callbacks have under way. */
void pldi_pipe_lane_drain(struct pldi_pipe_lane *lane);
void pldi_pipe_lane_close(struct pldi_pipe_lane *lane);
/** Memory and events of an edge, if it has a lane. */
int pldi_pipe_lane_edge_open(struct pldi_pipe_edge *edge);
void pldi_pipe_lane_edge_close(struct pldi_pipe_edge *edge);

/** Lay out an edge for messages of `kind` in the order of the list; `payload` > 0. */
int pldi_pipe_edge_open(struct pldi_pipe_edge *edge, const pld_action *actions, size_t length);
/** No message may be under way. */
void pldi_pipe_edge_close(struct pldi_pipe_edge *edge);

/** The slot of a microbatch; NULL if nothing crosses the edge. */
unsigned char *pldi_pipe_edge_slot(const struct pldi_pipe_edge *edge, int microbatch);

/** All slots are free, nothing is posted. */
void pldi_pipe_edge_reset(struct pldi_pipe_edge *edge);
int pldi_pipe_take_slot(struct pldi_pipe_edge *edge, int microbatch);
void pldi_pipe_give_slot(struct pldi_pipe_edge *edge, int microbatch);

/** Bytes of a tensor; 0 if ndim is 0. */
size_t pldi_pipe_bytes(const pld_pipe_tensor *tensor);
/** PLD_ERR_ARG: what stage `stage` calls `name` is no tensor, or is there without a neighbour. */
int pldi_pipe_check_tensor(const pld_pipe_tensor *tensor, int stage, int has_neighbour,
                           const char *name, const char *neighbour);
/** Do all ranks of `world` have this schedule?  Collective over it. */
int pldi_pipe_agree_schedule(pld_group *world, const pld_schedule *schedule);
/** Do neighbours agree on shapes?  Collective over `axis`, which runs the schedule. */
int pldi_pipe_agree_shapes(pld_group *axis, const pld_schedule *schedule,
                           const pld_pipe_opts *opts);

#endif /* PLDI_PIPE_IMPL_H */
