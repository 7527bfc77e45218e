/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Communicators of NCCL, all of them non-blocking: only such can be aborted safely, and
 * only with such does a rank that never comes not hold the host for ever.
 */

#include <polder/error.h>

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda/cuda_device.h"

enum { CLOSE_SECONDS = 10, ABORT_SECONDS = 10, KNOWS_SHARING = 23000 };

struct registered {
    struct registered *next;
    const void *memory;
    void *handle;
};

struct pldi_comm {
    struct pldi_cuda *device;
    pldi_nccl_comm raw;
    int size;
    struct pldi_comm *parent; /* that is being split to make this one; or NULL */
    struct pldi_comm *part;   /* its counterpart */
    pldi_nccl_comm nobody;    /* for NCCL to write what a rank without color gets */
    struct registered *registered;
};

static int code_of(int code)
{
    switch (code) {
    case PLDI_NCCL_INVALID_ARGUMENT:
    case PLDI_NCCL_INVALID_USAGE:
        return PLD_ERR_UNSUPPORTED;
    case PLDI_NCCL_REMOTE_ERROR:
        return PLD_ERR_PEER;
    case PLDI_NCCL_CUDA_ERROR:
        return PLD_ERR_DEVICE;
    default:
        return PLD_ERR_TRANSPORT;
    }
}

static int fail(const struct pldi_cuda *d, int code, const char *what)
{
    const char *detail = d->nccl.last_error(NULL);
    const int some = detail != NULL && detail[0] != '\0';

    return d->host->fail(code_of(code), "NCCL %d.%d.%d on GPU %s: %s: %s%s%s",
                         d->nccl.found_version / 10000, d->nccl.found_version % 10000 / 100,
                         d->nccl.found_version % 100, d->info.pci, what, d->nccl.error_string(code),
                         some ? ": " : "", some ? detail : "");
}

/* In progress is not a failure: poll() tells the end. */
static int begun(const struct pldi_cuda *d, int code, const char *what)
{
    if (code == PLDI_NCCL_SUCCESS || code == PLDI_NCCL_IN_PROGRESS)
        return PLD_OK;
    return fail(d, code, what);
}

static int make_id(pld_device *device, unsigned char id[PLDI_COMM_ID_BYTES])
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    struct pldi_nccl_id raw = {{0}};
    const int rc = begun(d, d->nccl.unique_id(&raw), "making an id");

    if (rc == PLD_OK)
        memcpy(id, raw.bytes, sizeof(raw.bytes));
    return rc;
}

static struct pldi_comm *make(struct pldi_cuda *d, int size)
{
    struct pldi_comm *c = d->host->alloc(1, sizeof(*c), "a communicator");

    if (c != NULL) {
        c->device = d;
        c->size = size;
    }
    return c;
}

static struct pldi_nccl_config config(const struct pldi_cuda *d)
{
    struct pldi_nccl_config c = PLDI_NCCL_CONFIG;

    c.blocking = 0;
    c.split_share = d->head.family;
    return c;
}

static int init(pld_device *device, const unsigned char id[PLDI_COMM_ID_BYTES], int rank, int size,
                struct pldi_comm **out)
{
    struct pldi_cuda *d = pldi_cuda_of(device);
    struct pldi_nccl_config how = config(d);
    struct pldi_comm *c = make(d, size);
    struct pldi_cuda_visit visit;
    struct pldi_nccl_id raw;
    int rc;

    if (c == NULL)
        return PLD_ERR_NOMEM;
    memcpy(raw.bytes, id, sizeof(raw.bytes));
    visit = pldi_cuda_enter(d);
    rc = begun(d, d->nccl.init(&c->raw, size, raw, rank, &how), "joining a communicator");
    pldi_cuda_leave(&visit);
    if (rc < 0)
        d->host->free(c);
    else
        *out = c;
    return rc;
}

static int can_split(const pld_device *device)
{
    return pldi_cuda_of(device)->nccl.split != NULL;
}

/*
 * A rank without color takes part, and has nothing of it.  NCCL's thread writes the handle
 * when all is over, so where it goes must last until then.
 */
static int split(struct pldi_comm *comm, int color, int key, int size, struct pldi_comm **out)
{
    struct pldi_cuda *d = comm->device;
    struct pldi_nccl_config how = config(d);
    struct pldi_comm *c = color < 0 ? NULL : make(d, size);
    struct pldi_cuda_visit visit;
    int rc;

    *out = NULL;
    if (color >= 0 && c == NULL)
        return PLD_ERR_NOMEM;
    visit = pldi_cuda_enter(d);
    rc = begun(d,
               d->nccl.split(comm->raw, c == NULL ? PLDI_NCCL_NO_COLOR : color, key,
                             c == NULL ? &comm->nobody : &c->raw, &how),
               "splitting a communicator");
    pldi_cuda_leave(&visit);
    if (rc < 0) {
        d->host->free(c);
        return rc;
    }
    if (c != NULL) {
        c->parent = comm;
        comm->part = c;
    }
    *out = c;
    return rc;
}

static int poll_raw(const struct pldi_cuda *d, pldi_nccl_comm raw)
{
    int state = PLDI_NCCL_SUCCESS;
    const int code = d->nccl.async_error(raw, &state);

    if (code != PLDI_NCCL_SUCCESS)
        return fail(d, code, "asking for errors");
    if (state == PLDI_NCCL_IN_PROGRESS)
        return 0;
    return state == PLDI_NCCL_SUCCESS ? 1 : fail(d, state, "an operation failed");
}

/* A part has a state of its own from when its parent is done with it. */
static int poll(struct pldi_comm *comm)
{
    struct pldi_comm *parent = comm->parent;

    if (parent != NULL) {
        const int rc = poll_raw(comm->device, parent->raw);

        if (rc != 1)
            return rc;
        parent->part = NULL;
        comm->parent = NULL;
    }
    return poll_raw(comm->device, comm->raw);
}

static int can_register(const pld_device *device)
{
    const struct pldi_nccl *n = &pldi_cuda_of(device)->nccl;

    return n->register_buffer != NULL && n->deregister_buffer != NULL;
}

static int register_memory(struct pldi_comm *comm, void *memory, size_t bytes)
{
    const struct pldi_cuda *d = comm->device;
    struct registered *r = d->host->alloc(1, sizeof(*r), "registered memory");
    struct pldi_cuda_visit visit;
    int rc;

    if (r == NULL)
        return PLD_ERR_NOMEM;
    visit = pldi_cuda_enter(d);
    rc = begun(d, d->nccl.register_buffer(comm->raw, memory, bytes, &r->handle),
               "registering memory");
    pldi_cuda_leave(&visit);
    if (rc < 0) {
        d->host->free(r);
        return rc;
    }
    r->memory = memory;
    r->next = comm->registered;
    comm->registered = r;
    return PLD_OK;
}

/* NCCL gives no handle where it has been told not to register anything. */
static void deregister_memory(struct pldi_comm *comm, const void *memory)
{
    const struct pldi_cuda *d = comm->device;
    struct registered **at = &comm->registered;
    struct registered *r;
    struct pldi_cuda_visit visit;

    while (*at != NULL && (*at)->memory != memory)
        at = &(*at)->next;
    r = *at;
    if (r == NULL)
        return;
    *at = r->next;
    visit = pldi_cuda_enter(d);
    if (r->handle != NULL)
        (void)d->nccl.deregister_buffer(comm->raw, r->handle);
    pldi_cuda_leave(&visit);
    d->host->free(r);
}

static int dtype_of(pld_dtype dtype)
{
    switch (dtype) {
    case PLD_F32:
        return PLDI_NCCL_F32;
    case PLD_F64:
        return PLDI_NCCL_F64;
    case PLD_F16:
        return PLDI_NCCL_F16;
    case PLD_BF16:
        return PLDI_NCCL_BF16;
    case PLD_I64:
        return PLDI_NCCL_I64;
    case PLD_I32:
        return PLDI_NCCL_I32;
    case PLD_U32:
        return PLDI_NCCL_U32;
    case PLD_I8:
        return PLDI_NCCL_I8;
    case PLD_U8:
        break;
    }
    return PLDI_NCCL_U8;
}

/* One rank's average is its sum; NCCL's own is said to be wrong there. */
static int op_of(const struct pldi_comm *comm, pld_op op)
{
    switch (op) {
    case PLD_AVG:
        return comm->size == 1 ? PLDI_NCCL_SUM : PLDI_NCCL_AVG;
    case PLD_MAX:
        return PLDI_NCCL_MAX;
    case PLD_MIN:
        return PLDI_NCCL_MIN;
    case PLD_PROD:
        return PLDI_NCCL_PROD;
    case PLD_SUM:
        break;
    }
    return PLDI_NCCL_SUM;
}

static int put(const struct pldi_comm *comm, const struct pldi_comm_call *call, int op,
               pld_stream stream)
{
    const struct pldi_nccl *n = &comm->device->nccl;
    const int dtype = dtype_of(call->dtype);
    const size_t count = call->count;
    const void *send = call->send;
    void *recv = call->recv;

    switch (call->kind) {
    case PLDI_COMM_ALLREDUCE:
        return n->all_reduce(send, recv, count, dtype, op, comm->raw, stream);
    case PLDI_COMM_REDUCE:
        return n->reduce(send, recv, count, dtype, op, call->peer, comm->raw, stream);
    case PLDI_COMM_REDUCE_SCATTER:
        return n->reduce_scatter(send, recv, count, dtype, op, comm->raw, stream);
    case PLDI_COMM_ALLGATHER:
        return n->all_gather(send, recv, count, dtype, comm->raw, stream);
    case PLDI_COMM_BROADCAST:
        return n->broadcast(send, recv, count, dtype, call->peer, comm->raw, stream);
    case PLDI_COMM_SEND:
        return n->send(send, count, dtype, call->peer, comm->raw, stream);
    case PLDI_COMM_RECV:
        return n->recv(recv, count, dtype, call->peer, comm->raw, stream);
    }
    return PLDI_NCCL_INVALID_ARGUMENT;
}

/* The factor lives on the host, and in the type of the data; NCCL reads it in the call. */
static int put_scaled(const struct pldi_comm *comm, const struct pldi_comm_call *call,
                      pld_stream stream)
{
    const struct pldi_nccl *n = &comm->device->nccl;
    double wide = call->scale;
    float single = (float)call->scale;
    void *scalar = call->dtype == PLD_F64 ? (void *)&wide : (void *)&single;
    int op = 0;
    int code = n->premul_sum(&op, scalar, dtype_of(call->dtype), PLDI_NCCL_SCALAR_HOST, comm->raw);

    if (code != PLDI_NCCL_SUCCESS)
        return code;
    code = put(comm, call, op, stream);
    (void)n->op_destroy(op, comm->raw);
    return code;
}

static int enqueue(struct pldi_comm *comm, const struct pldi_comm_call *call, pld_stream stream)
{
    struct pldi_cuda *d = comm->device;
    struct pldi_cuda_visit visit;
    int rc;

    if (call->scale != 1 && call->dtype != PLD_F32 && call->dtype != PLD_F64)
        return d->host->fail(PLD_ERR_INTERNAL, "a factor for %s is not NCCL's to apply",
                             "a half-precision type");
    visit = pldi_cuda_enter(d);
    rc = begun(d,
               call->scale == 1 ? put(comm, call, op_of(comm, call->op), stream)
                                : put_scaled(comm, call, stream),
               "an operation");
    pldi_cuda_leave(&visit);
    return rc;
}

static int group_begin(pld_device *device)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);

    return begun(d, d->nccl.group_start(), "beginning a group");
}

static int group_end(pld_device *device)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int rc = begun(d, d->nccl.group_end(), "launching a group");

    pldi_cuda_leave(&visit);
    return rc;
}

/*
 * NCCL refuses ranks with one GPU, since 2.30 unless it is told to bear them.  Older ones
 * only look at ranks of one host, so each pretends to be one of its own.  Few CTAs,
 * for kernels of all must fit on the GPU at once.
 */
static int share(pld_device *device, int rank)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    char host[48];

    (void)snprintf(host, sizeof(host), "polder-%d", rank);
    (void)setenv("NCCL_MAX_CTAS", "2", 0);
    if (d->nccl.found_version >= KNOWS_SHARING)
        (void)setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
    else
        (void)setenv("NCCL_HOSTID", host, 0);
    return PLD_OK;
}

static void release(struct pldi_comm *comm)
{
    while (comm->registered != NULL) {
        struct registered *r = comm->registered;

        comm->registered = r->next;
        comm->device->host->free(r);
    }
    comm->device->host->free(comm);
}

/*
 * Side by side, for one that ends may need another to have ended: a kernel of one keeps
 * the memory of another from being freed.  A thread that does not come back is left behind
 * with its communicator; the process is about to end anyway.
 */
static void *abort_one(void *argument)
{
    struct pldi_comm *comm = argument;
    struct pldi_comm *part = comm->part;
    const struct pldi_cuda_visit visit = pldi_cuda_enter(comm->device);

    (void)comm->device->nccl.abort(comm->raw);
    /* A split ends with its parent, and only then its handle is there, if it was made at all. */
    if (part != NULL && part->raw != NULL)
        (void)comm->device->nccl.abort(part->raw);
    pldi_cuda_leave(&visit);
    if (part != NULL)
        release(part);
    release(comm);
    return NULL;
}

/* Those that are being split off end with their parents. */
static void leave_parts(struct pldi_comm **comms, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (comms[i] != NULL && comms[i]->parent != NULL)
            comms[i] = NULL;
}

static void abort_all(struct pldi_comm **comms, size_t n)
{
    struct timespec end;
    pthread_t threads[16];
    enum { AT_ONCE = sizeof(threads) / sizeof(threads[0]) };

    leave_parts(comms, n);
    for (size_t begin = 0; begin < n; begin += AT_ONCE) {
        const size_t some = n - begin < AT_ONCE ? n - begin : AT_ONCE;
        int started[AT_ONCE] = {0};

        for (size_t i = 0; i < some; i++)
            started[i] = comms[begin + i] != NULL &&
                         pthread_create(&threads[i], NULL, abort_one, comms[begin + i]) == 0;
        (void)clock_gettime(CLOCK_REALTIME, &end);
        end.tv_sec += ABORT_SECONDS;
        for (size_t i = 0; i < some; i++) {
            if (started[i] && pthread_timedjoin_np(threads[i], NULL, &end) != 0)
                (void)pthread_detach(threads[i]);
            comms[begin + i] = NULL;
        }
    }
}

static double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Returns the last word of poll(), 0 if it did not come in time. */
static int settle(struct pldi_comm *comm)
{
    const double end = now() + CLOSE_SECONDS;
    int rc = poll(comm);

    while (rc == 0 && now() < end) {
        (void)sched_yield();
        rc = poll(comm);
    }
    return rc;
}

static int close_comm(struct pldi_comm **comm)
{
    struct pldi_comm *c;
    const struct pldi_cuda *d;
    struct pldi_cuda_visit visit;
    int rc;

    if (comm == NULL || *comm == NULL)
        return PLD_OK;
    c = *comm;
    d = c->device;
    visit = pldi_cuda_enter(d);
    while (c->registered != NULL)
        deregister_memory(c, c->registered->memory);
    rc = begun(d, d->nccl.finalize(c->raw), "closing a communicator");
    if (rc == PLD_OK)
        rc = settle(c);
    if (rc == 1)
        (void)d->nccl.destroy(c->raw);
    pldi_cuda_leave(&visit);
    if (rc == 1) {
        release(c);
        *comm = NULL;
        return PLD_OK;
    }
    if (rc == 0)
        rc = d->host->fail(PLD_ERR_TIMEOUT, "NCCL did not close a communicator in %d seconds",
                           CLOSE_SECONDS);
    abort_all(comm, 1);
    return rc;
}

const struct pldi_comm_ops pldi_nccl_ops = {
    .make_id = make_id,
    .init = init,
    .can_split = can_split,
    .split = split,
    .poll = poll,
    .can_register = can_register,
    .register_memory = register_memory,
    .deregister_memory = deregister_memory,
    .enqueue = enqueue,
    .group_begin = group_begin,
    .group_end = group_end,
    .share = share,
    .abort = abort_all,
    .close = close_comm,
};
