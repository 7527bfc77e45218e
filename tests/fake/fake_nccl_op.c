/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Operations as they run in a stream: phases, each of transfers that go on side by side and
 * of arithmetic when all of them are over.  Only the driver's thread comes here.
 *
 * A reduction is formed in the order of a ring, from the rank behind the one that owns the
 * piece round to the owner, so that its bits are the same wherever it ends up.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fake_nccl_op.h"

/* ---- Transfers ---- */

/* What a pass of one phase found: peers whose next transfer must wait for an earlier one. */
struct pass {
    bool busy_out[FAKE_MAX_RANKS], busy_in[FAKE_MAX_RANKS];
    bool moved, open;
};

/* All of it is written, and, for a send is not over before its receive, read. */
static bool over(const struct fake_transfer *t, const struct fake_channel *c)
{
    if (t->bytes == 0)
        return true;
    return t->done == t->bytes && (!t->out || atomic_load(&c->tail) >= t->end);
}

static void move(struct ncclComm *comm, struct fake_transfer *t, struct pass *pass)
{
    struct fake_channel *c = t->out ? fake_board_channel(comm->board, comm->rank, t->peer)
                                    : fake_board_channel(comm->board, t->peer, comm->rank);
    bool *busy = t->out ? &pass->busy_out[t->peer] : &pass->busy_in[t->peer];
    const size_t left = t->bytes - t->done;
    size_t n = 0;

    if (!*busy && left > 0) {
        n = t->out ? fake_channel_write(c, t->data + t->done, left)
                   : fake_channel_read(c, t->data + t->done, left);
        t->done += n;
        if (t->done == t->bytes)
            t->end = atomic_load(&c->head);
    }
    pass->moved |= n > 0;
    *busy |= t->done < t->bytes;
    pass->open |= !over(t, c);
}

/* ---- Arithmetic ---- */

/* What the call sends, as it is when the operation begins, scaled. */
static void prepare(struct fake_part *p)
{
    const struct fake_task *t = &p->task;

    memcpy(p->mine, t->send, p->mine_bytes);
    if (t->premul.used)
        fake_scale(p->mine, p->mine_bytes / p->width, t->dtype,
                   t->premul.residence == PLDI_NCCL_SCALAR_DEVICE ? t->premul.device
                                                                  : t->premul.value);
}

/* pieces[r] of every rank, of `count` elements, into out: around the ring up to `owner`. */
static void reduce_ring(const struct fake_part *p, unsigned char *out, size_t count, int owner)
{
    const struct fake_task *t = &p->task;
    const int n = t->comm->size;
    unsigned char *sum = p->sum;

    memcpy(sum, p->pieces[(owner + 1) % n], count * p->width);
    for (int k = 2; k <= n; k++)
        fake_reduce(sum, p->pieces[(owner + k) % n], count, t->dtype, t->op);
    if (t->op == PLDI_NCCL_AVG && !fake_is_float(t->dtype))
        fake_divide(sum, count, t->dtype, n);
    memcpy(out, sum, count * p->width);
}

static void after(struct fake_phase *phase)
{
    struct fake_part *p = phase->part;

    switch (phase->then) {
    case FAKE_PREPARE:
        prepare(p);
        break;
    case FAKE_COPY:
        if (p->copy_to != p->copy_from)
            memmove(p->copy_to, p->copy_from, p->copy_bytes);
        break;
    case FAKE_SUM:
        reduce_ring(p, p->result, p->result_count, p->owner);
        break;
    case FAKE_NOTHING:
        break;
    }
}

/* As fake_cuda_enqueue()'s step. */
static int go_on(struct fake_op *op)
{
    bool moved = false;

    while (op->at < op->n_phases) {
        struct fake_phase *phase = &op->phases[op->at];
        struct pass pass = {.moved = false};

        for (size_t i = 0; i < phase->n; i++)
            move(op->comm, &phase->transfers[i], &pass);
        moved |= pass.moved;
        if (pass.open)
            return moved ? 2 : 0;
        after(phase);
        op->at++;
    }
    return 1;
}

/* ---- When it may run ---- */

/* One device as one host thread uses it: with one rank a process, one for each device. */
struct slot {
    struct slot *next;
    int device;
    pthread_t thread;
    long running;
};

static struct slot *slots;
static unsigned long tickets;
static struct fake_op *all; /* operations that are not over */

static struct slot *slot_of(int device)
{
    struct slot *s = slots;

    while (s != NULL && (s->device != device || !pthread_equal(s->thread, pthread_self())))
        s = s->next;
    if (s == NULL) {
        s = fake_nccl_alloc(1, sizeof(*s));
        s->device = device;
        s->thread = pthread_self();
        s->next = slots;
        slots = s;
    }
    return s;
}

static bool in_host_order(void)
{
    return fake_nccl_version() >= 22600 && fake_env_number("NCCL_LAUNCH_ORDER_IMPLICIT", 0) == 1;
}

/* Whether the host gave the device another one before that has not begun. */
static bool overtakes(const struct fake_op *op)
{
    for (const struct fake_op *o = all; o != NULL; o = o->next)
        if (o->slot == op->slot && !o->begun && o->ticket < op->ticket)
            return true;
    return false;
}

static bool may_begin(const struct fake_op *op)
{
    if (op->arrived < op->fences || op->comm->done != op->number - 1)
        return false;
    if (in_host_order() && overtakes(op))
        return false;
    return op->slot->running < fake_env_number("FAKE_NCCL_SLOTS", 1);
}

static void begin(struct fake_op *op)
{
    op->begun = op->running = true;
    op->slot->running++;
}

static void finish(struct fake_op *op)
{
    struct fake_op **at = &all;

    op->finished = true;
    op->slot->running -= op->running;
    op->running = false;
    op->comm->done++;
    while (*at != op)
        at = &(*at)->next;
    *at = op->next;
    fake_op_put(op);
}

/* 1: nothing happens any more but abort. */
static bool struck(struct fake_op *op)
{
    struct ncclComm *c = op->comm;
    const struct fake_fault *f = fake_nccl_hit("async", (long)op->number, c->rank);

    if (f != NULL && c->async == 0) {
        c->async = f->code != 0 ? f->code : PLDI_NCCL_SYSTEM_ERROR;
        (void)fake_nccl_say(c->async, "rank %d: operation %lu failed on the way", c->rank,
                            op->number);
        atomic_store(&c->board->members[c->rank].failed, 1);
    }
    return f != NULL || fake_nccl_hit("hang", (long)op->number, c->rank) != NULL;
}

static bool delayed(struct fake_op *op)
{
    const struct fake_fault *f = fake_nccl_find("delay", op->comm->rank);

    if (f == NULL)
        return false;
    if (op->not_before == 0)
        op->not_before = fake_op_clock() + 1e-6 * (double)f->n;
    return fake_op_clock() < op->not_before;
}

/* 1: transfers may go on; 0: not yet; -1: it is over. */
static int admit(struct fake_op *op)
{
    if (atomic_load(&op->comm->aborted)) {
        finish(op);
        return -1;
    }
    if (!op->running && may_begin(op))
        begin(op);
    if (!op->running || struck(op) || delayed(op))
        return 0;
    return 1;
}

static int step(void *context)
{
    struct fake_op *op = context;
    int r;

    fake_nccl_lock();
    r = admit(op);
    fake_nccl_unlock();
    if (r != 1)
        return r < 0 ? 1 : 0;
    r = go_on(op);
    if (r == 1) {
        fake_nccl_lock();
        finish(op);
        fake_nccl_unlock();
    }
    return r;
}

/* In each other stream of its group: the operation comes after what is there, and before
 * what follows. */
static int fence(void *context)
{
    struct fake_fence *f = context;
    bool finished;

    fake_nccl_lock();
    if (!f->arrived) {
        f->arrived = true;
        f->op->arrived++;
    }
    finished = f->op->finished;
    if (finished) {
        fake_op_put(f->op);
        free(f);
    }
    fake_nccl_unlock();
    return finished;
}

static int enqueue_fence(struct fake_op *op, pldi_cu_stream stream)
{
    struct fake_fence *f = fake_nccl_alloc(1, sizeof(*f));
    int rc;

    f->op = op;
    op->refs++;
    op->fences++;
    rc = fake_cuda_enqueue_on(op->comm->device, stream, fence, f);
    if (rc != 0) {
        op->fences--;
        op->refs--;
        free(f);
    }
    return rc;
}

int fake_op_enqueue(struct fake_op *op)
{
    struct ncclComm *comm = op->comm;
    int rc = fake_cuda_enqueue_on(comm->device, op->streams[0], step, op);

    if (rc != 0)
        return rc;
    op->next = all;
    all = op;
    op->refs++;
    op->number = ++comm->launched;
    op->ticket = ++tickets;
    for (size_t i = 1; i < op->n_streams && rc == 0; i++)
        rc = enqueue_fence(op, op->streams[i]);
    return rc;
}

void fake_op_take_slot(struct fake_op *op)
{
    op->slot = slot_of(op->comm->device);
}

bool fake_ops_run_beside(const struct ncclComm *comm)
{
    for (const struct fake_op *op = all; op != NULL; op = op->next)
        if (op->comm != comm && op->comm->device == comm->device && op->running &&
            !atomic_load(&op->comm->aborted))
            return true;
    return false;
}
