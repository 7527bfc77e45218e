/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file fake_nccl_impl.h  Inside the fake NCCL.  One lock guards all state of the process. */
#ifndef FAKE_NCCL_IMPL_H
#define FAKE_NCCL_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "fake_fault.h"
#include "fake_nccl.h"

enum { FAKE_MAX_RANKS = 32, FAKE_RING = 64 << 10, FAKE_MAX_PATH = 112, FAKE_N_OPS = 5 };

/* ---- Memory of a communicator that its ranks share (fake_nccl_board.c) ---- */

/** Bytes from one rank to another. */
struct fake_channel {
    atomic_ulong head, tail; /* bytes so far: written, read */
    unsigned char data[FAKE_RING];
};

/** What a rank tells the others. */
struct fake_member {
    atomic_int joined; /* what follows is there */
    unsigned long host;
    char pci[16];
    atomic_int failed, gone; /* gone before it was there */
    struct {
        atomic_ulong number; /* of the split that it is about */
        int color, key;
    } split[2]; /* in turn, for one rank may be one ahead */
};

struct fake_board {
    atomic_int size, joined;
    struct fake_member members[FAKE_MAX_RANKS];
    struct fake_channel channels[]; /* [from * size + to] */
};

void fake_board_name(char path[FAKE_MAX_PATH]);
/** NULL: cannot be opened or mapped; errno. */
struct fake_board *fake_board_open(const char *path, int size);
void fake_board_close(struct fake_board *board, int size);
struct fake_channel *fake_board_channel(struct fake_board *board, int from, int to);

/** As many bytes as there is room for, or as there are; how many. */
size_t fake_channel_write(struct fake_channel *channel, const void *data, size_t bytes);
size_t fake_channel_read(struct fake_channel *channel, void *data, size_t bytes);

/* ---- Arithmetic (fake_nccl_math.c) ---- */

size_t fake_dtype_bytes(int dtype); /* 0: not known */
/** acc = acc op x, rounded to the type. */
void fake_reduce(void *acc, const void *x, size_t count, int dtype, int op);
/** x *= *scalar, both of that type. */
void fake_scale(void *x, size_t count, int dtype, const void *scalar);
/** x /= n, of an integer type. */
void fake_divide(void *x, size_t count, int dtype, int n);
/** scalar = value in that floating type. */
void fake_scalar(void *scalar, int dtype, double value);
bool fake_is_float(int dtype);

/* ---- Communicators ---- */

enum fake_job { FAKE_IDLE, FAKE_INIT, FAKE_SPLIT, FAKE_CHILD, FAKE_LAUNCH, FAKE_FINALIZE };

struct fake_premul {
    bool used;
    int dtype, residence;
    _Alignas(double) unsigned char value[8];
    const void *device;
};

struct fake_registration {
    struct fake_registration *next;
    const void *buffer;
    size_t bytes;
};

struct ncclComm {
    struct ncclComm *next;
    unsigned refs;
    int rank, size, device;
    bool blocking, finalized, revoked;
    bool share;           /* parts use its resources: */
    unsigned long family; /* all of one family end with one that is aborted */
    atomic_bool aborted;  /* or revoked: what runs ends without result */
    char path[FAKE_MAX_PATH];
    struct fake_board *board;
    int async;         /* the error it died of */
    int remote_seen;   /* questions since another rank failed */
    enum fake_job job; /* in progress */
    long polls;        /* questions before it goes on */
    struct fake_launch *launch;
    struct ncclComm *child, *parent; /* of a split in progress */
    struct ncclComm **child_out;     /* where the child is told at its end, and not before */
    unsigned long n_splits;
    int color, key;
    bool posted;
    bool held; /* a thread is in a call, or in a group with it */
    pthread_t holder;
    unsigned long launched, done; /* operations */
    long n_calls, n_registers;
    struct fake_premul premul[16];
    struct fake_registration *registrations;
};

void fake_nccl_lock(void);
void fake_nccl_unlock(void);
int fake_nccl_version(void);
/** Note the sentence for ncclGetLastError(); returns code.  With the lock held. */
int fake_nccl_say(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *fake_nccl_alloc(size_t count, size_t bytes);

const struct fake_fault *fake_nccl_hit(const char *what, long count, int rank);
const struct fake_fault *fake_nccl_find(const char *what, int rank);

/** Begin and end a call; 0 or what is wrong.  In a group the end comes with the group's. */
int fake_comm_enter(struct ncclComm *comm, const char *call);
void fake_comm_leave(struct ncclComm *comm);
bool fake_comm_valid(const struct ncclComm *comm);
void fake_comm_put(struct ncclComm *comm);
/** Go on with what is in progress.  With the lock held. */
int fake_comm_advance(struct ncclComm *comm);
/** Begin that job; the code that the call is to return.  Without the lock. */
int fake_comm_begin(struct ncclComm *comm, enum fake_job job);
/** Do it to its end. */
int fake_comm_settle(struct ncclComm *comm);
/** A registration goes with its communicator.  With the lock held. */
void fake_registration_drop(struct fake_registration *registration);
/** Whether another communicator has an operation on the device.  With the lock held. */
bool fake_ops_run_beside(const struct ncclComm *comm);

/* ---- Groups and operations ---- */

enum fake_task_kind {
    FAKE_ALLREDUCE,
    FAKE_REDUCE,
    FAKE_REDUCE_SCATTER,
    FAKE_ALLGATHER,
    FAKE_BROADCAST,
    FAKE_SEND,
    FAKE_RECV
};

struct fake_task {
    struct ncclComm *comm;
    enum fake_task_kind kind;
    const void *send;
    void *recv;
    size_t count;
    int dtype, op, peer;
    pldi_cu_stream stream;
    struct fake_premul premul; /* if used; an average in floating point is one */
};

/** True while the calling thread is between ncclGroupStart() and ncclGroupEnd(). */
bool fake_group_open(void);
/** Have the communicator's job done, and the call end, with the group. */
void fake_group_add(struct ncclComm *comm);

/** What one group, or one call, launches. */
struct fake_launch;
struct fake_launch *fake_launch_new(const struct fake_task *tasks, size_t n);
/** Put it into the streams unless that has been done; a ncclResult_t.  With the lock held. */
int fake_launch_submit(struct fake_launch *launch);
struct fake_launch *fake_launch_get(struct fake_launch *launch);
void fake_launch_put(struct fake_launch *launch);

/* ---- Counters ---- */

#define FAKE_NCCL_INDEX(name, symbol, arguments) FAKE_N_##symbol,
enum {
    PLDI_NCCL_FUNCTIONS(FAKE_NCCL_INDEX) PLDI_NCCL_OPTIONAL(FAKE_NCCL_INDEX) FAKE_N_NCCL_FUNCTIONS
};
#undef FAKE_NCCL_INDEX
void fake_nccl_count(int index);
#define FAKE_NCCL_COUNT(symbol) fake_nccl_count(FAKE_N_##symbol)

#endif /* FAKE_NCCL_IMPL_H */
