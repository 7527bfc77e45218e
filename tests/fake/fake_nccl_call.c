/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Calls that put work into a stream, and groups of them. */

#include <stdlib.h>
#include <string.h>

#include "fake_nccl_op.h"

/* ---- Launches ---- */

enum { MAX_COMMS = 64 };

struct fake_launch {
    unsigned refs;
    bool submitted;
    int result;
    struct fake_op *ops[MAX_COMMS]; /* in the order of the group */
    size_t n_ops;
};

static bool has_op(const struct fake_launch *l, const struct ncclComm *comm)
{
    for (size_t i = 0; i < l->n_ops; i++)
        if (l->ops[i]->comm == comm)
            return true;
    return false;
}

struct fake_launch *fake_launch_new(const struct fake_task *tasks, size_t n)
{
    struct fake_launch *l = fake_nccl_alloc(1, sizeof(*l));

    l->refs = 1;
    for (size_t i = 0; i < n; i++) {
        struct fake_op *op;

        if (has_op(l, tasks[i].comm))
            continue;
        op = l->ops[l->n_ops++] = fake_nccl_alloc(1, sizeof(*op));
        op->refs = 1;
        op->comm = tasks[i].comm;
        op->comm->refs++;
        fake_op_plan(op, tasks, n);
        fake_op_take_slot(op);
    }
    return l;
}

int fake_launch_submit(struct fake_launch *launch)
{
    for (size_t i = 0; i < launch->n_ops && !launch->submitted; i++) {
        const int rc = fake_op_enqueue(launch->ops[i]);

        if (rc != 0)
            launch->result =
                fake_nccl_say(PLDI_NCCL_CUDA_ERROR, "launch: CUDA error %d from the stream", rc);
    }
    launch->submitted = true;
    return launch->result;
}

struct fake_launch *fake_launch_get(struct fake_launch *launch)
{
    launch->refs++;
    return launch;
}

void fake_launch_put(struct fake_launch *launch)
{
    if (--launch->refs > 0)
        return;
    for (size_t i = 0; i < launch->n_ops; i++)
        fake_op_put(launch->ops[i]);
    free(launch);
}

/* ---- Groups ---- */

struct group {
    int depth, result;
    struct fake_task *tasks;
    size_t n_tasks, room;
    struct ncclComm *comms[MAX_COMMS]; /* that are in it, in order */
    size_t n_comms;
};

static _Thread_local struct group group;

bool fake_group_open(void)
{
    return group.depth > 0;
}

void fake_group_add(struct ncclComm *comm)
{
    for (size_t i = 0; i < group.n_comms; i++)
        if (group.comms[i] == comm)
            return;
    if (group.n_comms == MAX_COMMS)
        fake_die("a group has more than %d communicators", MAX_COMMS);
    group.comms[group.n_comms++] = comm;
}

static void add_task(const struct fake_task *task)
{
    if (group.n_tasks == group.room) {
        group.room = 2 * group.room + 16;
        group.tasks = realloc(group.tasks, group.room * sizeof(*group.tasks));
        if (group.tasks == NULL)
            fake_die("out of host memory");
    }
    group.tasks[group.n_tasks++] = *task;
    fake_group_add(task->comm);
}

int ncclGroupStart(void)
{
    FAKE_NCCL_COUNT(ncclGroupStart);
    group.depth++;
    return PLDI_NCCL_SUCCESS;
}

/* Have all of them in progress with the launch before the first question can come. */
static void give(struct fake_launch *l)
{
    const struct fake_fault *f;

    fake_nccl_lock();
    for (size_t i = 0; i < group.n_comms; i++) {
        struct ncclComm *c = group.comms[i];

        if (!has_op(l, c))
            continue;
        f = fake_nccl_find("progress", c->rank);
        c->polls = c->blocking ? 0 : f != NULL ? f->n : 1;
        c->job = FAKE_LAUNCH;
        c->launch = fake_launch_get(l);
    }
    fake_launch_put(l);
    fake_nccl_unlock();
}

/* A group with one non-blocking communicator does not block. */
static int settle(void)
{
    bool blocking = true;
    int rc = PLDI_NCCL_SUCCESS;

    for (size_t i = 0; i < group.n_comms; i++)
        blocking &= group.comms[i]->blocking;
    if (!blocking)
        return PLDI_NCCL_IN_PROGRESS;
    for (size_t i = 0; i < group.n_comms; i++) {
        const int one = fake_comm_settle(group.comms[i]);

        rc = rc == PLDI_NCCL_SUCCESS ? one : rc;
    }
    return rc;
}

static struct fake_launch *plan(void)
{
    struct fake_launch *l;

    fake_nccl_lock();
    l = fake_launch_new(group.tasks, group.n_tasks);
    fake_nccl_unlock();
    return l;
}

static void end_calls(void)
{
    for (size_t i = 0; i < group.n_comms; i++)
        fake_comm_leave(group.comms[i]);
    free(group.tasks);
    group = (struct group){.depth = 0};
}

int ncclGroupEnd(void)
{
    int rc = group.result;

    FAKE_NCCL_COUNT(ncclGroupEnd);
    if (group.depth == 0)
        return PLDI_NCCL_INVALID_USAGE;
    if (--group.depth > 0)
        return PLDI_NCCL_SUCCESS;
    if (rc == PLDI_NCCL_SUCCESS && group.n_tasks > 0)
        give(plan());
    if (rc == PLDI_NCCL_SUCCESS && group.n_comms > 0)
        rc = settle();
    end_calls();
    return rc;
}

/* ---- Calls ---- */

static bool peer_matters(enum fake_task_kind kind)
{
    return kind == FAKE_SEND || kind == FAKE_RECV || kind == FAKE_REDUCE || kind == FAKE_BROADCAST;
}

static int check_op(const struct fake_task *t)
{
    const struct fake_premul *m;

    if (t->op >= 0 && t->op < FAKE_N_OPS)
        return PLDI_NCCL_SUCCESS;
    m = &t->comm->premul[t->op - FAKE_N_OPS];
    if (t->op < 0 || t->op >= FAKE_N_OPS + 16 || !m->used)
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "operator %d is not known", t->op);
    if (m->dtype != t->dtype)
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "operator %d is for type %d, not %d",
                             t->op, m->dtype, t->dtype);
    return PLDI_NCCL_SUCCESS;
}

/* Bytes that the call reads and writes. */
static void extents(const struct fake_task *t, size_t *read, size_t *write)
{
    const size_t n = (size_t)t->comm->size, bytes = t->count * fake_dtype_bytes(t->dtype);
    const bool root = t->comm->rank == t->peer;

    *read = t->kind == FAKE_REDUCE_SCATTER ? n * bytes : bytes;
    *write = t->kind == FAKE_ALLGATHER ? n * bytes : bytes;
    if (t->kind == FAKE_SEND || (t->kind == FAKE_REDUCE && !root))
        *write = 0;
    if (t->kind == FAKE_RECV || (t->kind == FAKE_BROADCAST && !root))
        *read = 0;
}

static int check(const struct fake_task *t)
{
    size_t read, write;

    if (fake_dtype_bytes(t->dtype) == 0)
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "type %d is not known", t->dtype);
    if (peer_matters(t->kind) && (t->peer < 0 || t->peer >= t->comm->size))
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "rank %d of %d", t->peer, t->comm->size);
    extents(t, &read, &write);
    if (read > 0 && !fake_cuda_reachable(t->send, read))
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "%zu bytes to send are not a device's",
                             read);
    if (write > 0 && !fake_cuda_reachable(t->recv, write))
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "%zu bytes to receive are not a device's",
                             write);
    return check_op(t);
}

static int fault(struct ncclComm *c)
{
    const struct fake_fault *f = fake_nccl_hit("enqueue", ++c->n_calls, c->rank);

    if (f == NULL)
        return PLDI_NCCL_SUCCESS;
    return fake_nccl_say(f->code != 0 ? f->code : PLDI_NCCL_INTERNAL_ERROR,
                         "call %ld of rank %d failed", c->n_calls, c->rank);
}

/* An operator of the communicator is a sum of what it multiplies; so is an average of
 * floating point numbers. */
static void resolve(struct fake_task *t)
{
    if (t->op >= FAKE_N_OPS) {
        t->premul = t->comm->premul[t->op - FAKE_N_OPS];
        t->op = PLDI_NCCL_SUM;
    } else if (t->op == PLDI_NCCL_AVG && fake_is_float(t->dtype)) {
        t->premul = (struct fake_premul){true, t->dtype, PLDI_NCCL_SCALAR_HOST, {0}, NULL};
        fake_scalar(t->premul.value, t->dtype, 1.0 / t->comm->size);
        t->op = PLDI_NCCL_SUM;
    }
}

static int call(struct fake_task task, const char *name)
{
    int rc = fake_comm_enter(task.comm, name);

    if (rc == PLDI_NCCL_SUCCESS) {
        fake_nccl_lock();
        rc = check(&task);
        if (rc == PLDI_NCCL_SUCCESS)
            rc = fault(task.comm);
        fake_nccl_unlock();
        if (rc != PLDI_NCCL_SUCCESS && group.depth == 0)
            fake_comm_leave(task.comm);
        else if (rc != PLDI_NCCL_SUCCESS)
            fake_group_add(task.comm);
    }
    if (rc != PLDI_NCCL_SUCCESS) {
        if (group.depth > 0 && group.result == PLDI_NCCL_SUCCESS)
            group.result = rc;
        return rc;
    }
    resolve(&task);
    if (group.depth > 0) {
        add_task(&task);
        return PLDI_NCCL_SUCCESS;
    }
    add_task(&task);
    give(plan());
    rc = settle();
    end_calls();
    return rc;
}

int ncclAllReduce(const void *send, void *recv, size_t count, int dtype, int op,
                  pldi_nccl_comm comm, pldi_cu_stream stream)
{
    FAKE_NCCL_COUNT(ncclAllReduce);
    return call(
        (struct fake_task){comm, FAKE_ALLREDUCE, send, recv, count, dtype, op, 0, stream, {0}},
        "ncclAllReduce");
}

int ncclReduce(const void *send, void *recv, size_t count, int dtype, int op, int root,
               pldi_nccl_comm comm, pldi_cu_stream stream)
{
    FAKE_NCCL_COUNT(ncclReduce);
    return call(
        (struct fake_task){comm, FAKE_REDUCE, send, recv, count, dtype, op, root, stream, {0}},
        "ncclReduce");
}

int ncclReduceScatter(const void *send, void *recv, size_t count, int dtype, int op,
                      pldi_nccl_comm comm, pldi_cu_stream stream)
{
    FAKE_NCCL_COUNT(ncclReduceScatter);
    return call(
        (struct fake_task){comm, FAKE_REDUCE_SCATTER, send, recv, count, dtype, op, 0, stream, {0}},
        "ncclReduceScatter");
}

int ncclAllGather(const void *send, void *recv, size_t count, int dtype, pldi_nccl_comm comm,
                  pldi_cu_stream stream)
{
    FAKE_NCCL_COUNT(ncclAllGather);
    return call(
        (struct fake_task){comm, FAKE_ALLGATHER, send, recv, count, dtype, 0, 0, stream, {0}},
        "ncclAllGather");
}

int ncclBroadcast(const void *send, void *recv, size_t count, int dtype, int root,
                  pldi_nccl_comm comm, pldi_cu_stream stream)
{
    FAKE_NCCL_COUNT(ncclBroadcast);
    return call(
        (struct fake_task){comm, FAKE_BROADCAST, send, recv, count, dtype, 0, root, stream, {0}},
        "ncclBroadcast");
}

int ncclSend(const void *send, size_t count, int dtype, int peer, pldi_nccl_comm comm,
             pldi_cu_stream stream)
{
    FAKE_NCCL_COUNT(ncclSend);
    return call((struct fake_task){comm, FAKE_SEND, send, NULL, count, dtype, 0, peer, stream, {0}},
                "ncclSend");
}

int ncclRecv(void *recv, size_t count, int dtype, int peer, pldi_nccl_comm comm,
             pldi_cu_stream stream)
{
    FAKE_NCCL_COUNT(ncclRecv);
    return call((struct fake_task){comm, FAKE_RECV, NULL, recv, count, dtype, 0, peer, stream, {0}},
                "ncclRecv");
}
