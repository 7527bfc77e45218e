/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_device.h
 * Operations on device memory.
 *
 * struct pldi_gpu is the runtime's, struct pldi_gpu_group a group's.  An operation goes
 * one of two ways, the same on all ranks of a group: NCCL carries it (coll_device_move.c,
 * coll_device_sum.c), or it passes through pinned memory as an operation on host memory
 * (coll_staged.c).
 *
 * - What was put into a stream is a flight until its event has come.  Callers and the
 *   watchdog look after flights by asking events; nothing waits inside CUDA.
 * - One thread at a time has the turn: it alone calls NCCL, whatever the communicator.
 *   poll() is the exception.  Who has the turn never waits for the engine's driver, nor
 *   runs hooks, so that the watchdog can always get it in order to abort.
 * - `lock` guards lists and is held for a few queries at most.
 */
#ifndef PLDI_COLL_DEVICE_H
#define PLDI_COLL_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>

#include "coll/coll.h"
#include "device/device.h"

enum {
    PLDI_GPU_CHUNK = 2 << 20,    /**< bytes of a pinned buffer */
    PLDI_GPU_SCRATCH = 16 << 20, /**< bytes of device memory for sums, of each group */
    PLDI_GPU_FLIGHTS = 32,       /**< made when a group connects; more when they run out */
    PLDI_GPU_CHECK_EVERY = 64    /**< operations */
};

/** Which way device memory goes. */
enum pldi_gpu_path { PLDI_PATH_ANY = 0, PLDI_PATH_NCCL, PLDI_PATH_STAGED };

/** What was put into a stream. */
struct pldi_flight {
    struct pldi_flight *next;
    struct pldi_gpu_group *owner; /**< NULL: it has landed */
    pld_event done;
    pld_stream stream;
    uint64_t ticket, sequence;
    int peer; /**< of a message, else -1 */
    int held; /**< a request refers to it */
    int code; /**< once landed */
};

struct pldi_gpu_region;
struct pldi_pin;
struct pldi_staged;
struct pldi_gpu_check;

struct pldi_gpu {
    pld_device *device;
    pld_group *world;
    enum pldi_gpu_path path;    /**< what the environment forces, on all ranks */
    int nccl;                   /**< 1: groups try NCCL */
    int split;                  /**< 1: and split communicators, where there is one */
    int family;                 /**< 1: which then share their resources, and their end */
    int registers;              /**< 1: memory is registered with communicators */
    size_t chunk;               /**< bytes of a pinned buffer, equal on all ranks */
    size_t scratch;             /**< bytes of device memory for sums of a group, too */
    char note[PLDI_TEXT_BYTES]; /**< why it is not NCCL; or "" */

    pthread_mutex_t lock;
    pthread_cond_t turn;
    int taken; /**< somebody has the turn */
    pthread_t taker;
    _Atomic int stop; /**< the job was given up: no call of NCCL begins any more */
    struct pldi_gpu_group *groups;
    struct pldi_flight *spare; /**< flights */

    struct pldi_pin *pins; /**< free ones */
    struct pldi_staged *idle;
    pld_stream in, out; /**< of copies from and to the device */
};

struct pldi_gpu_group {
    struct pldi_gpu *gpu;
    pld_group *group;
    struct pldi_gpu_group *next;
    int connected;
    int nccl;               /**< 1: NCCL carries it */
    struct pldi_comm *comm; /**< NULL: not NCCL, one rank, or aborted */
    _Atomic int code;       /**< what ended it; `why` is written before */
    char why[PLDI_TEXT_BYTES];
    pld_stream stream; /**< of operations with a request */
    pld_event start;   /**< of the caller's stream, for that one to wait for */
    void *scratch;     /**< [scratch_bytes], NULL: not yet needed */
    size_t scratch_bytes;
    const void **sources;             /**< [size], with that */
    struct pldi_flight *first, *last; /**< oldest first */

    uint64_t chain; /**< hash of all operations so far */
    uint64_t launched;
    struct pldi_gpu_check *checks; /**< under way, oldest first */
    struct pldi_staged *messages;  /**< under way, oldest first; the engine's driver */

    struct pldi_gpu_region *regions; /**< memory to be registered */
    unsigned region_calls;           /**< that may have brought some, on any rank */
    char refusal[PLDI_TEXT_BYTES];   /**< why it is not registered; or "" */
};

/* ---- coll_device.c: the runtime's part ---- */

/** Agree on the way; collective over world, whose device is set. */
int pldi_gpu_open(pld_group *world);
void pldi_gpu_close(struct pldi_gpu **gpu);

/** Give a group its part; local. */
int pldi_gpu_attach(pld_group *group, struct pldi_gpu *gpu);
/** Wait for what is under way, as long as there is hope. */
void pldi_gpu_quiet(pld_group *group);
void pldi_gpu_detach(pld_group *group);

void pldi_gpu_enter(struct pldi_gpu *gpu);
void pldi_gpu_leave(struct pldi_gpu *gpu);

/** Whether what is under way in a group has a future; 0 or an error.  Calls no hook. */
int pldi_gpu_look(const struct pldi_gpu_group *g, uint64_t ticket, uint64_t sequence, int peer);

/** The group ends with this code and the sentence of the calling thread: its communicator is
 *  aborted, and operations on host memory end, too.  Returns the code.  Without the turn. */
int pldi_gpu_fail(struct pldi_gpu_group *g, int code);
/** Where communicators share resources: all groups end, for one was aborted.  With the sentence
 *  of the calling thread; without the turn. */
void pldi_gpu_end_family(struct pldi_gpu *gpu, int code);
/** The same code and sentence again. */
int pldi_gpu_failed(const struct pldi_gpu_group *g);

/** Events of its own; NULL: the sentence is set. */
struct pldi_flight *pldi_flight_take(struct pldi_gpu *gpu);
void pldi_flight_drop(struct pldi_gpu *gpu, struct pldi_flight *flight);
/** Record its event, and look after it from here on; with the turn. */
int pldi_flight_launch(struct pldi_gpu_group *g, struct pldi_flight *flight, pld_stream stream);
/** Let the stream wait for what the group has in another one. */
int pldi_flight_follow(struct pldi_gpu_group *g, pld_stream stream);
/** 1: it has landed, with its code; 0: not yet. */
int pldi_flight_test(struct pldi_gpu *gpu, struct pldi_flight *flight);

/* ---- coll_device_comm.c: communicators ---- */

/** Collective over the group, unless it has been done. */
int pldi_gpu_connect(pld_group *group);
/**
 * Give a group that was just split off a communicator by splitting that of its parent, if that
 * has one; else the group makes its own when it needs one.  Collective over the parent.
 *
 * @param part     NULL: this rank is in none
 * @param largest  the size of the largest of all the parts
 */
int pldi_gpu_part(pld_group *parent, pld_group *part, int color, int key, int largest);
/** Get the memory that sums need; collective, unless it is there. */
int pldi_gpu_reserve(struct pldi_gpu_group *g);
/** With the turn: wait until the communicator is idle. */
int pldi_gpu_settle(const struct pldi_gpu_group *g, const pld_request *op);

/* ---- coll_device_register.c: memory that communicators know ---- */

/** A communicator was made: it gets to know the group's memory.  Collective. */
int pldi_gpu_regions_join(struct pldi_gpu_group *g);
/** It is to know none of it from now on.  NULL on_gpu is fine. */
void pldi_gpu_regions_leave(pld_group *group);
/** Forget all of it; the communicator is gone. */
void pldi_gpu_regions_free(struct pldi_gpu_group *g);
/** Bytes that are registered. */
size_t pldi_gpu_regions_bytes(const struct pldi_gpu_group *g);

/* ---- coll_device_call.c: from calls ---- */

/**
 * What becomes of an operation that is filled in.
 * @return 0: it is launched, or done; 1: the engine is to carry it, perhaps through pinned
 *         memory; or an error.  filled->memory is freed unless 1.
 */
int pldi_gpu_post(pld_request *filled, const pld_coll_opts *opts);
/** Of a request with a flight.  They free it. */
int pldi_gpu_wait(pld_request *op);
int pldi_gpu_test(pld_request *op, int *done);
int pldi_gpu_after(pld_request *op, pld_stream stream);
/** Whether sums of an operation are formed by polder's kernels. */
int pldi_gpu_sums(const pld_request *op);
/** Add to a sentence of pld_coll_explain(). */
void pldi_gpu_explain(const pld_group *group, int kind, pld_dtype dtype, uint64_t bytes, char *text,
                      size_t text_bytes);

/* ---- coll_device_move.c, coll_device_sum.c, coll_device_leaves.c: what goes into a stream ---- */

/** An operation on its way into a stream. */
struct pldi_put {
    const pld_request *op;
    struct pldi_gpu_group *g;
    pld_stream stream;
    int rc; /**< the first error between begin and end */
};

int pldi_put_begin(struct pldi_put *put);
int pldi_put_end(struct pldi_put *put);
/** Between the two: every run of a stretch of a block to or from a peer; at: one piece instead
 *  of the caller's memory, or NULL. */
void pldi_put_runs(struct pldi_put *put, enum pldi_comm_kind kind, int peer, int side, int block,
                   size_t offset, size_t bytes, unsigned char *at);
void pldi_put_call(struct pldi_put *put, const struct pldi_comm_call *call);

/** All of an operation; with the turn. */
int pldi_put_operation(struct pldi_put *put);
int pldi_put_sums(struct pldi_put *put);
int pldi_put_leaves(struct pldi_put *put);

/* ---- coll_device_check.c: whether ranks do the same ---- */

/** Before a launch.  POLDER_CHECK=sync: waits for the others. */
int pldi_gpu_announce(struct pldi_gpu_group *g, const pld_request *op);
/** After it. */
void pldi_gpu_count(struct pldi_gpu_group *g, const pld_request *op);
/** Look at what has ended; wait: at all. */
int pldi_gpu_judge(struct pldi_gpu_group *g, int wait);
/** PLD_ERR_MISMATCH, with what pldi_health_differ() has said, which may be "". */
int pldi_gpu_apart(const pld_group *group, const char *text);

/** The tag by which a message from or to device memory travels: never one of host memory. */
int pldi_gpu_tag(const pld_group *group, int tag);

/* ---- coll_staged.c: through pinned memory ---- */

/** Prepare an operation; what fails is part of it, if it is a collective one. */
int pldi_staged_prepare(pld_request *filled, const pld_coll_opts *opts);
int pldi_staged_step(pld_request *op, int *moved);
void pldi_staged_cancel(pld_request *op);
/** NULL is fine. */
void pldi_staged_release(pld_request *op);
void pldi_staged_close(struct pldi_gpu *gpu);

#endif /* PLDI_COLL_DEVICE_H */
