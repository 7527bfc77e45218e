/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file fake_cuda_impl.h  Inside the fake driver.  One lock guards all of it. */
#ifndef FAKE_CUDA_IMPL_H
#define FAKE_CUDA_IMPL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "fake_cuda.h"
#include "fake_fault.h"

/** CUresult that polder does not look at. */
enum {
    FAKE_CU_NOT_INITIALIZED = 3,
    FAKE_CU_NOT_REGISTERED = 713,
    FAKE_CU_ALREADY_REGISTERED = 712,
    FAKE_CU_CAPTURE_INVALIDATED = 901,
    FAKE_CU_CAPTURE_UNMATCHED = 903,
    FAKE_CU_CAPTURE_UNJOINED = 904,
    FAKE_CU_CAPTURE_ISOLATION = 905,
    FAKE_CU_CAPTURE_IMPLICIT = 906,
    FAKE_CU_CAPTURED_EVENT = 907,
    FAKE_CU_CAPTURE_WRONG_THREAD = 908
};

enum { FAKE_MAX_DEVICES = 16 };

/* ---- Objects that a caller holds (fake_handle.c) ---- */

enum fake_kind { FAKE_STREAM, FAKE_EVENT, FAKE_MODULE, FAKE_FUNCTION, FAKE_GRAPH, FAKE_EXEC };

/** Head of each. */
struct fake_handle {
    enum fake_kind kind;
    struct fake_handle *next;
};

/** A new zeroed one.  Never NULL. */
void *fake_handle_new(enum fake_kind kind, size_t bytes);
/** Forget it, so that it is not valid any more; does not free. */
void fake_handle_drop(void *object);
/** Whether that is one of that kind that is still there. */
bool fake_handle_valid(const void *object, enum fake_kind kind);
unsigned long fake_handle_count(enum fake_kind kind);

void *fake_alloc(size_t count, size_t bytes);

/* ---- Devices (fake_cuda_device.c); a context is the primary one of its device ---- */

struct CUctx_st {
    int ordinal;
    int index; /* of the node */
    char pci[16];
    struct pldi_cu_uuid uuid;
    size_t memory, used;
    unsigned retained;
    int error; /* the device is lost */
    struct CUstream_st *legacy;
};

/**
 * Begin a call that needs a current context; with the lock held.
 * @return a CUresult: not initialized, no context, or the error the device was lost with
 */
int fake_current(struct CUctx_st **out);
/** The same for the context of that device. */
int fake_context_of(int ordinal, struct CUctx_st **out);

/* ---- Work (fake_cuda_exec.c) ---- */

/** Something to run.  Shared by the queue and the graphs that hold it. */
struct fake_work {
    unsigned refs;
    int (*step)(void *context); /* as that of fake_cuda_enqueue() */
    void *context;
    void (*release)(void *context); /* may be NULL */
    long slow_us;                   /* pause before it */
    int error;                      /* instead of running, the device is lost */
    bool foreign;
};

/** A point in a stream.  Shared by its event, the queue and those who wait. */
struct fake_mark {
    unsigned refs;
    bool done;
    double when;
};

/** An entry of a queue: one of the three. */
struct fake_op {
    struct fake_op *next;
    unsigned long seq; /* order of the whole process */
    struct fake_work *work;
    struct fake_mark *record, *wait;
    bool paused; /* its slow_us has been waited for */
};

struct CUstream_st {
    struct fake_handle head;
    struct CUstream_st *next; /* of all, newest first */
    struct CUctx_st *ctx;
    unsigned long number;
    bool blocking, legacy, destroyed;
    struct fake_op *first, *last;
    unsigned long queued, done; /* entries so far */
    double not_before;          /* the first entry is not tried again until then */
    double backoff;
    unsigned long tried; /* number of its last try that did not get on; 0: of none */
    struct fake_capture *capture;
    int branch; /* of the capture */
};

struct CUevent_st {
    struct fake_handle head;
    struct CUctx_st *ctx;
    bool timed;
    struct fake_mark *mark;       /* NULL: never recorded */
    unsigned long capture_number; /* recorded in that capture; 0: in none */
    int captured;                 /* mark of its graph */
    int branch;
    size_t position;
};

void fake_lock(void);
void fake_unlock(void);
double fake_now(void);

/** All with the lock held. */
struct fake_mark *fake_mark_new(void);
void fake_mark_put(struct fake_mark *mark); /* NULL is fine */
struct fake_work *fake_work_new(int (*step)(void *), void *context, void (*release)(void *));
void fake_work_put(struct fake_work *work);

struct CUstream_st *fake_stream_new(struct CUctx_st *ctx, bool blocking);
/** Frees it when it is empty. */
void fake_stream_drop(struct CUstream_st *stream);
/** The stream a handle stands for in that context; NULL: not one. */
struct CUstream_st *fake_stream_of(struct CUctx_st *ctx, pldi_cu_stream handle);

/** Append one entry; takes over one reference. */
void fake_push(struct CUstream_st *stream, struct fake_op entry);

/** Wait, giving up the lock meanwhile, until that many entries are done or the device is lost. */
void fake_wait_stream(const struct CUstream_st *stream, unsigned long entries);
void fake_wait_mark(const struct CUctx_st *ctx, const struct fake_mark *mark);
/** For what is in all streams of the context now. */
void fake_wait_device(const struct CUctx_st *ctx);

/** Put work into a stream, or into the graph that it records; takes over `work`. */
int fake_submit(struct CUctx_st *ctx, pldi_cu_stream stream, struct fake_work *work);

/* ---- Memory (fake_cuda_memory.c) ---- */

enum fake_place { FAKE_PAGEABLE, FAKE_PINNED, FAKE_DEVICE };

/** Where an address is; FAKE_PAGEABLE for those unknown.  *left: bytes from there to its end. */
enum fake_place fake_place_of(const void *address, size_t *left);

/** Let work touch device memory, and stop it again. */
void fake_guard_open(void);
void fake_guard_close(void);

unsigned long fake_pinned_bytes(void);
unsigned long fake_device_bytes(void);

/* ---- Capture (fake_cuda_capture.c) ---- */

int fake_capture_work(struct CUstream_st *stream, struct fake_work *work);
int fake_capture_record(struct CUstream_st *stream, struct CUevent_st *event);
int fake_capture_wait(struct CUstream_st *stream, const struct CUevent_st *event);
/** A call that no thread may make beside a capture that it can spoil; spoils it. */
int fake_capture_unsafe(void);
/** A call that a capturing stream does not allow; spoils the capture. */
int fake_capture_forbid(struct CUstream_st *stream);
/** The default stream is used while a stream that waits for it captures. */
int fake_capture_implicit(const struct CUctx_st *ctx);

/* ---- Faults (fake_cuda_calls.c) ---- */

/** CUresult of the n-th call of that kind; 0: it goes well. */
int fake_call_fault(const char *what, int otherwise);
int fake_init_fault(void);
/** Give the work what is to happen to it. */
void fake_work_fault(struct fake_work *work, const char *what);

/** The rank whatever the thread. */
int fake_process_rank(void);

/* ---- Counters (fake_cuda_calls.c) ---- */

#define FAKE_CUDA_INDEX(name, symbol, arguments) FAKE_N_##symbol,
enum { PLDI_CU_FUNCTIONS(FAKE_CUDA_INDEX) FAKE_N_cuCtxSynchronize, FAKE_N_FUNCTIONS };
#undef FAKE_CUDA_INDEX

void fake_count(int index);
#define FAKE_COUNT(symbol) fake_count(FAKE_N_##symbol)

#endif /* FAKE_CUDA_IMPL_H */
