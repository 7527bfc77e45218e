/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Calls made into phases. */

#include <stdlib.h>
#include <time.h>

#include "fake_nccl_op.h"

double fake_op_clock(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct fake_phase *add_phase(struct fake_op *op, struct fake_part *part, size_t transfers,
                                    enum fake_then then)
{
    struct fake_phase *grown = realloc(op->phases, (op->n_phases + 1) * sizeof(struct fake_phase));

    if (grown == NULL)
        fake_die("out of host memory");
    op->phases = grown;
    grown[op->n_phases] = (struct fake_phase){
        fake_nccl_alloc(transfers + 1, sizeof(struct fake_transfer)), 0, then, part};
    return &grown[op->n_phases++];
}

static void add(struct fake_phase *phase, bool out, int peer, const void *data, size_t bytes)
{
    /* What goes out is only read. */
    phase->transfers[phase->n++] =
        (struct fake_transfer){out, peer, (unsigned char *)(size_t)data, bytes, 0, 0};
}

/* Piece r of `count` elements; *n: elements of it. */
static size_t piece(const struct fake_part *p, int r, size_t *n)
{
    const size_t size = (size_t)p->task.comm->size, count = p->task.count;
    const size_t each = (count + size - 1) / size, at = each * (size_t)r;

    *n = at >= count ? 0 : count - at < each ? count - at : each;
    return (at < count ? at : count) * p->width;
}

static void make_room(struct fake_part *p, size_t mine, size_t count)
{
    const int n = p->task.comm->size;

    p->mine_bytes = mine * p->width;
    p->mine = fake_nccl_alloc(p->mine_bytes + 1, 1);
    p->received = fake_nccl_alloc(count * p->width * (size_t)n + 1, 1);
    p->sum = fake_nccl_alloc(count * p->width + 1, 1);
    for (int r = 0; r < n; r++)
        p->pieces[r] = p->received + count * p->width * (size_t)r;
    p->result_count = count;
}

/* Everybody sends everybody his piece of mine, and gets his own from all. */
static void scatter(struct fake_op *op, struct fake_part *p,
                    size_t (*where)(const struct fake_part *, int, size_t *))
{
    const struct ncclComm *c = p->task.comm;
    struct fake_phase *phase = add_phase(op, p, 2 * (size_t)c->size, FAKE_SUM);
    const size_t bytes = p->result_count * p->width;

    for (int r = 0; r < c->size; r++) {
        size_t n;
        unsigned char *at = p->mine + where(p, r, &n);

        if (r == c->rank) {
            p->pieces[r] = at;
            continue;
        }
        add(phase, true, r, at, n * p->width);
        add(phase, false, r, p->pieces[r], bytes);
    }
    p->owner = c->rank;
}

static void all_reduce(struct fake_op *op, struct fake_part *p)
{
    const struct fake_task *t = &p->task;
    const struct ncclComm *c = t->comm;
    unsigned char *recv = t->recv;
    struct fake_phase *phase;
    size_t mine, n, at;

    at = piece(p, c->rank, &mine);
    make_room(p, t->count, mine);
    p->result = recv + at;
    (void)add_phase(op, p, 0, FAKE_PREPARE);
    scatter(op, p, piece);
    phase = add_phase(op, p, 2 * (size_t)c->size, FAKE_NOTHING);
    for (int r = 0; r < c->size; r++) {
        if (r == c->rank)
            continue;
        add(phase, true, r, p->result, mine * p->width);
        at = piece(p, r, &n);
        add(phase, false, r, recv + at, n * p->width);
    }
}

static size_t equal_piece(const struct fake_part *p, int r, size_t *n)
{
    *n = p->task.count;
    return (size_t)r * p->task.count * p->width;
}

static void reduce_scatter(struct fake_op *op, struct fake_part *p)
{
    const struct fake_task *t = &p->task;

    make_room(p, t->count * (size_t)t->comm->size, t->count);
    p->result = t->recv;
    (void)add_phase(op, p, 0, FAKE_PREPARE);
    scatter(op, p, equal_piece);
}

static void reduce(struct fake_op *op, struct fake_part *p)
{
    const struct fake_task *t = &p->task;
    const struct ncclComm *c = t->comm;
    struct fake_phase *phase;

    make_room(p, t->count, t->count);
    p->result = t->recv;
    p->owner = t->peer;
    (void)add_phase(op, p, 0, FAKE_PREPARE);
    phase = add_phase(op, p, (size_t)c->size, c->rank == t->peer ? FAKE_SUM : FAKE_NOTHING);
    if (c->rank != t->peer)
        add(phase, true, t->peer, p->mine, p->mine_bytes);
    for (int r = 0; c->rank == t->peer && r < c->size; r++)
        if (r != c->rank)
            add(phase, false, r, p->pieces[r], p->mine_bytes);
    p->pieces[c->rank] = p->mine;
}

/* Copies of mine to all others, and of theirs where they belong. */
static void all_gather(struct fake_op *op, struct fake_part *p)
{
    const struct fake_task *t = &p->task;
    const struct ncclComm *c = t->comm;
    const size_t bytes = t->count * p->width;
    unsigned char *recv = t->recv;
    struct fake_phase *phase = add_phase(op, p, 2 * (size_t)c->size, FAKE_COPY);

    p->copy_to = recv + bytes * (size_t)c->rank;
    p->copy_from = t->send;
    p->copy_bytes = bytes;
    for (int r = 0; r < c->size; r++)
        if (r != c->rank) {
            add(phase, true, r, t->send, bytes);
            add(phase, false, r, recv + bytes * (size_t)r, bytes);
        }
}

static void broadcast(struct fake_op *op, struct fake_part *p)
{
    const struct fake_task *t = &p->task;
    const struct ncclComm *c = t->comm;
    const size_t bytes = t->count * p->width;
    const bool root = c->rank == t->peer;
    struct fake_phase *phase = add_phase(op, p, (size_t)c->size, root ? FAKE_COPY : FAKE_NOTHING);

    p->copy_to = t->recv;
    p->copy_from = t->send;
    p->copy_bytes = bytes;
    if (!root)
        add(phase, false, t->peer, t->recv, bytes);
    for (int r = 0; root && r < c->size; r++)
        if (r != c->rank)
            add(phase, true, r, t->send, bytes);
}

static void collective(struct fake_op *op, struct fake_part *p)
{
    switch (p->task.kind) {
    case FAKE_ALLREDUCE:
        all_reduce(op, p);
        break;
    case FAKE_REDUCE_SCATTER:
        reduce_scatter(op, p);
        break;
    case FAKE_REDUCE:
        reduce(op, p);
        break;
    case FAKE_ALLGATHER:
        all_gather(op, p);
        break;
    case FAKE_BROADCAST:
        broadcast(op, p);
        break;
    case FAKE_SEND:
    case FAKE_RECV:
        break;
    }
}

static bool is_p2p(const struct fake_task *t)
{
    return t->kind == FAKE_SEND || t->kind == FAKE_RECV;
}

static void p2p(struct fake_op *op, const struct fake_task *tasks, size_t n)
{
    struct fake_phase *phase = add_phase(op, NULL, n, FAKE_NOTHING);

    for (size_t i = 0; i < n; i++) {
        const struct fake_task *t = &tasks[i];
        const bool out = t->kind == FAKE_SEND;

        if (t->comm == op->comm && is_p2p(t))
            add(phase, out, t->peer, out ? t->send : t->recv,
                t->count * fake_dtype_bytes(t->dtype));
    }
}

static void add_stream(struct fake_op *op, pldi_cu_stream stream)
{
    for (size_t i = 0; i < op->n_streams; i++)
        if (op->streams[i] == stream)
            return;
    if (op->n_streams == sizeof(op->streams) / sizeof(op->streams[0]))
        fake_die("a group uses too many streams");
    op->streams[op->n_streams++] = stream;
}

void fake_op_plan(struct fake_op *op, const struct fake_task *tasks, size_t n)
{
    op->parts = fake_nccl_alloc(n, sizeof(struct fake_part *));
    for (size_t i = 0; i < n; i++) {
        struct fake_part *p;

        if (tasks[i].comm != op->comm)
            continue;
        add_stream(op, tasks[i].stream);
        if (is_p2p(&tasks[i]) || tasks[i].count == 0)
            continue;
        p = op->parts[op->n_parts++] = fake_nccl_alloc(1, sizeof(*p));
        p->task = tasks[i];
        p->width = fake_dtype_bytes(tasks[i].dtype);
        collective(op, p);
    }
    p2p(op, tasks, n);
}

void fake_op_put(struct fake_op *op)
{
    if (--op->refs > 0)
        return;
    for (size_t i = 0; i < op->n_phases; i++)
        free(op->phases[i].transfers);
    for (size_t i = 0; i < op->n_parts; i++) {
        free(op->parts[i]->mine);
        free(op->parts[i]->sum);
        free(op->parts[i]->received);
        free(op->parts[i]);
    }
    free(op->parts);
    free(op->phases);
    fake_comm_put(op->comm);
    free(op);
}
