/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Device memory through pinned memory of the host, where NCCL cannot be used.
 *
 * An operation is cut into chunks: a stretch of the vector, or of every block.  While one
 * is copied from the device, the one before is an operation on host memory, and the one
 * before that is copied back.  To the engine it is one operation, at its place in the
 * group's order; the operations on host memory are its parts.  The first of them carries
 * the whole one's print, so that ranks that differ are told what the caller did.
 *
 * In place is safe: chunks touch disjoint stretches of every block.
 */

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_call.h"
#include "coll/coll_shape.h"
#include "coll/coll_staged.h"

/* ---- Geometry ---- */

static int is_message(const pld_request *op)
{
    return op->kind == PLDI_SEND || op->kind == PLDI_RECV;
}

/* Whether this rank has memory on that side. */
static int has_side(const pld_request *op, int side)
{
    if (is_message(op))
        return (op->kind == PLDI_RECV) == side;
    return pldi_extent(op, (enum pldi_side)side) > 0;
}

static int blocks_of(const pld_request *op, int side)
{
    if (is_message(op))
        return 1;
    return pldi_shape(op->kind)->cut[side] == PLDI_BLOCKS ? op->group->size : 1;
}

/* Bytes of a block of a side, on ranks that have it. */
static size_t block_bytes(const pld_request *op, int side, int block)
{
    const size_t *starts = op->starts[side];

    if (is_message(op) || pldi_shape(op->kind)->cut[side] == PLDI_EVEN)
        return op->vector;
    if (starts != NULL)
        return starts[block + 1] - starts[block];
    /* One block, of which the other side has one of its own length for each rank. */
    return op->starts[!side] != NULL
               ? op->starts[!side][op->group->rank + 1] - op->starts[!side][op->group->rank]
               : op->vector;
}

/* The part of that in chunk i. */
static size_t part_bytes(const pld_request *op, int side, int block, size_t i)
{
    const size_t all = block_bytes(op, side, block);
    const size_t from = i * op->staged->chunk;

    if (from >= all)
        return 0;
    return all - from < op->staged->chunk ? all - from : op->staged->chunk;
}

static size_t longest_block(const pld_request *op)
{
    size_t most = 0;

    if (op->starts[0] == NULL && op->starts[1] == NULL)
        return op->vector;
    for (int side = 0; side < 2; side++) {
        for (int r = 0; op->starts[side] != NULL && r < op->group->size; r++) {
            const size_t n = op->starts[side][r + 1] - op->starts[side][r];

            most = n > most ? n : most;
        }
    }
    return most;
}

/* Blocks of a chunk together, whichever side has more. */
static size_t most_blocks(const pld_request *op)
{
    const int a = blocks_of(op, PLDI_SENT);
    const int b = blocks_of(op, PLDI_RECEIVED);

    return (size_t)(a > b ? a : b);
}

/* ---- Copies ---- */

/* Chunk i of a side, from the device to the buffer or back. */
static int copy_part(const pld_request *op, int side, size_t i, pld_stream stream)
{
    const struct pldi_staged *s = op->staged;
    pld_device *device = s->gpu->device;
    unsigned char *at = s->stages[i % PLDI_STAGES].pins[side]->memory;

    for (int b = 0; b < blocks_of(op, side); b++) {
        size_t left = part_bytes(op, side, b, i);
        size_t offset = i * s->chunk;

        while (left > 0) {
            const struct pldi_spot spot = is_message(op)
                                              ? (struct pldi_spot){0, offset, SIZE_MAX}
                                              : pldi_locate(op, (enum pldi_side)side, b, offset);
            const size_t run = spot.run < left ? spot.run : left;
            unsigned char *place = pldi_base(op, (enum pldi_side)side, spot.item) + spot.offset;

            PLDI_TRY(side == PLDI_SENT ? device->ops->copy(device, at, place, run, stream)
                                       : device->ops->copy(device, place, at, run, stream));
            at += run;
            offset += run;
            left -= run;
        }
    }
    return PLD_OK;
}

static int start_read(const pld_request *op)
{
    struct pldi_staged *s = op->staged;
    pld_device *device = s->gpu->device;
    const struct pldi_stage *stage = &s->stages[s->read % PLDI_STAGES];

    if (s->waits)
        PLDI_TRY(device->ops->stream_after(device, s->gpu->in, s->start));
    s->waits = 0;
    if (has_side(op, PLDI_SENT))
        PLDI_TRY(copy_part(op, PLDI_SENT, s->read, s->gpu->in));
    PLDI_TRY(device->ops->event_record(device, stage->read, s->gpu->in));
    s->read++;
    return PLD_OK;
}

/* What is written is the caller's from the call on, so that this waits for his stream, too:
 * the copy begins after what was read at the same time. */
static int start_write(const pld_request *op)
{
    struct pldi_staged *s = op->staged;
    pld_device *device = s->gpu->device;
    const struct pldi_stage *stage = &s->stages[s->summed % PLDI_STAGES];

    if (has_side(op, PLDI_RECEIVED))
        PLDI_TRY(copy_part(op, PLDI_RECEIVED, s->summed, s->gpu->out));
    PLDI_TRY(device->ops->event_record(device, stage->written, s->gpu->out));
    s->summed++;
    return PLD_OK;
}

static int has_come(const struct pldi_staged *s, pld_event event, int *done)
{
    return s->gpu->device->ops->event_test(s->gpu->device, event, done);
}

/* ---- The part on host memory ---- */

static unsigned char *buffer(const pld_request *op, int side, size_t i)
{
    const struct pldi_pin *pin = op->staged->stages[i % PLDI_STAGES].pins[side];

    if (pin == NULL || (!has_side(op, side) && op->kind != PLDI_BROADCAST))
        return NULL;
    return pin->memory;
}

/* Lengths of the blocks of chunk i, where the caller's differ. */
static void set_blocks(const pld_request *op, size_t i)
{
    struct pldi_staged *s = op->staged;
    pld_request *part = &s->part;
    const size_t n = (size_t)op->group->size;
    size_t arrays = 0;

    for (int side = 0; side < 2; side++) {
        if (op->starts[side] == NULL)
            continue;
        s->starts[side][0] = 0;
        for (size_t r = 0; r < n; r++) {
            const size_t bytes = part_bytes(op, side, (int)r, i);

            s->starts[side][r + 1] = s->starts[side][r] + bytes;
            s->counts[arrays * n + r] = bytes / s->element;
        }
        part->starts[side] = s->starts[side];
        part->vector = side == PLDI_SENT || arrays == 0 ? s->starts[side][n] : part->vector;
        arrays++;
    }
    part->count = part->vector / s->element;
    part->counts = s->counts;
    part->n_counts = arrays * n;
}

static void begin_part(pld_request *op)
{
    struct pldi_staged *s = op->staged;
    pld_request *part = &s->part;
    const size_t i = s->summed;

    pldi_call_start(part, op->group, op->kind, buffer(op, PLDI_SENT, i),
                    buffer(op, PLDI_RECEIVED, i), 0, op->dtype);
    part->op = op->op;
    part->root = op->root;
    part->scale = op->scale;
    part->tree = op->tree;
    part->name = op->name;
    part->ticket = op->ticket;
    part->print = op->print;
    part->hash = op->hash;
    part->peer = op->peer;
    part->tag = pldi_gpu_tag(op->group, op->tag);
    part->code = op->code;
    if (op->code < 0)
        memcpy(part->text, op->text, sizeof(part->text));
    if (op->starts[0] != NULL || op->starts[1] != NULL) {
        if (s->memory != NULL)
            set_blocks(op, i);
    } else {
        part->vector = part_bytes(op, PLDI_RECEIVED, 0, i);
        part->count = part->vector / s->element;
        part->counts = i == 0 ? op->counts : NULL;
        part->n_counts = i == 0 ? op->n_counts : 0;
    }
    s->busy = 1;
}

/* What each rank has for each is known to no rank alone: how many chunks are there? */
static void begin_agreement(pld_request *op)
{
    struct pldi_staged *s = op->staged;
    pld_request *part = &s->part;

    pldi_call_start(part, op->group, PLDI_ALLREDUCE, &s->most, &s->most, 1, PLD_I64);
    part->op = PLD_MAX;
    part->print = op->print;
    part->hash = op->hash;
    part->counts = op->counts;
    part->n_counts = op->n_counts;
    part->name = op->name;
    part->ticket = op->ticket;
    part->code = op->code;
    if (op->code < 0)
        memcpy(part->text, op->text, sizeof(part->text));
    s->busy = 1;
}

/* Of messages to or from a rank with one tag each waits for the one before to be over. */
static int may_begin(const pld_request *op)
{
    const struct pldi_staged *s = op->staged;

    for (const struct pldi_staged *m = op->group->on_gpu->messages; m != NULL && m != s;
         m = m->next) {
        if (m->part.kind == op->kind && m->part.peer == op->peer &&
            m->part.tag == pldi_gpu_tag(op->group, op->tag))
            return 0;
    }
    return 1;
}

static void enlist(pld_request *op)
{
    struct pldi_staged **list = &op->group->on_gpu->messages;

    while (*list != NULL)
        list = &(*list)->next;
    op->staged->next = NULL;
    op->staged->listed = 1;
    op->staged->part.kind = op->kind;
    op->staged->part.peer = op->peer;
    op->staged->part.tag = pldi_gpu_tag(op->group, op->tag);
    *list = op->staged;
}

static void strike(pld_request *op)
{
    struct pldi_staged **list = &op->group->on_gpu->messages;

    if (op->staged == NULL || !op->staged->listed)
        return;
    while (*list != op->staged)
        list = &(*list)->next;
    *list = op->staged->next;
    op->staged->listed = 0;
}

/* ---- Steps ---- */

/* 1: the part is over. */
static int step_part(pld_request *op, int *moved)
{
    struct pldi_staged *s = op->staged;
    const int rc = pldi_op_part(&s->part, moved);

    /* A verdict of all ranks leaves the group as it is, any other end is everybody's. */
    if (rc == 0)
        return 0;
    s->busy = 0;
    *moved = 1;
    PLDI_TRY(rc);
    if (op->state < PLDI_OPENED)
        op->state = PLDI_OPENED;
    if (!s->agreed) {
        s->agreed = 1;
        s->chunks = s->most > 0 ? (size_t)s->most : 1;
        return 0;
    }
    return 1;
}

/* The ranks went on together, so that one that cannot ends it for all. */
static int lost(pld_request *op, int rc)
{
    char text[PLDI_TEXT_BYTES];

    (void)snprintf(text, sizeof(text), "%s", pld_last_error());
    (void)pldi_op_give_up(op, rc);
    return pldi_fail(rc, "%s", text);
}

/* Reads and the part; 0, or an error. */
static int step_front(pld_request *op, int *moved)
{
    struct pldi_staged *s = op->staged;
    int done = 0;

    while (op->code >= 0 && s->agreed && s->read < s->chunks &&
           s->read < s->written + PLDI_STAGES) {
        const int rc = start_read(op);

        if (rc < 0)
            return lost(op, rc);
        *moved = 1;
    }
    if (s->busy || s->summed == s->chunks || !may_begin(op))
        return PLD_OK;
    if (!s->agreed) {
        begin_agreement(op);
    } else if (op->code < 0) {
        begin_part(op);
    } else if (s->summed < s->read) {
        const int rc = has_come(s, s->stages[s->summed % PLDI_STAGES].read, &done);

        if (rc < 0)
            return lost(op, rc);
        if (done)
            begin_part(op);
    }
    return PLD_OK;
}

int pldi_staged_step(pld_request *op, int *moved)
{
    struct pldi_staged *s = op->staged;
    int done = 0;
    int rc = PLD_OK;

    if (op->state == PLDI_NEW) {
        if (is_message(op))
            enlist(op);
        op->state = PLDI_OPENING;
        *moved = 1;
    }
    PLDI_TRY(step_front(op, moved));
    if (s->busy)
        rc = step_part(op, moved);
    if (rc < 0)
        strike(op);
    PLDI_TRY(rc);
    if (rc == 1)
        rc = start_write(op);
    if (rc == PLD_OK && s->written < s->summed)
        rc = has_come(s, s->stages[s->written % PLDI_STAGES].written, &done);
    if (rc < 0)
        return lost(op, rc);
    s->written += (size_t)done;
    *moved |= done;
    if (s->written < s->chunks)
        return 0;
    strike(op);
    return 1;
}

void pldi_staged_cancel(pld_request *op)
{
    struct pldi_staged *s = op->staged;

    strike(op);
    if (s->busy && is_message(op))
        (void)pldi_op_give_up(&s->part, PLD_ERR_PEER);
    s->busy = 0;
}

/* ---- From the call ---- */

static int get_buffers(pld_request *op)
{
    struct pldi_staged *s = op->staged;
    const size_t bytes = s->chunk * most_blocks(op);
    const int sides = is_message(op) || pldi_shape(op->kind)->cut[PLDI_SENT] == PLDI_EVEN ||
                              op->kind == PLDI_BROADCAST
                          ? 1
                          : 2;
    size_t stages = s->chunks < PLDI_STAGES && s->agreed ? s->chunks : PLDI_STAGES;

    for (size_t i = 0; i < stages; i++) {
        for (int side = 0; side < sides; side++) {
            s->stages[i].pins[side] = pldi_pin_take(s->gpu, bytes);
            if (s->stages[i].pins[side] == NULL)
                return PLD_ERR_NOMEM;
        }
        if (sides == 1)
            s->stages[i].pins[1] = s->stages[i].pins[0];
    }
    return PLD_OK;
}

static int get_arrays(pld_request *op)
{
    struct pldi_staged *s = op->staged;
    const size_t n = (size_t)op->group->size;

    if (op->starts[0] == NULL && op->starts[1] == NULL)
        return PLD_OK;
    s->memory = pldi_alloc(2 * (n + 1) + 2 * n, sizeof(s->memory[0]), "the counts of a chunk");
    if (s->memory == NULL)
        return PLD_ERR_NOMEM;
    s->starts[0] = s->memory;
    s->starts[1] = s->memory + n + 1;
    s->counts = (uint64_t *)(s->memory + 2 * (n + 1));
    return PLD_OK;
}

static void plan(pld_request *op)
{
    struct pldi_staged *s = op->staged;
    const size_t all = longest_block(op);
    size_t chunk;

    s->element = pld_dtype_bytes(op->dtype);
    chunk = s->gpu->chunk / most_blocks(op) / 64 * 64;
    s->chunk = chunk > 0 ? chunk : 64;
    s->read = s->summed = s->written = 0;
    s->busy = s->listed = 0;
    s->agreed = op->kind != PLDI_ALLTOALL_V;
    s->chunks = (all + s->chunk - 1) / s->chunk;
    s->most = s->chunks;
    if (s->chunks == 0)
        s->chunks = 1;
}

static int prepare(pld_request *op, pld_stream stream)
{
    struct pldi_staged *s = op->staged;
    pld_device *device = s->gpu->device;

    plan(op);
    if (op->kind != PLDI_LEAVES) { /* those find out who has how many first */
        PLDI_TRY(get_arrays(op));
        PLDI_TRY(get_buffers(op));
    }
    s->waits = 1;
    return device->ops->event_record(device, s->start, stream);
}

int pldi_staged_prepare(pld_request *filled, const pld_coll_opts *opts)
{
    int rc = pldi_staged_take(filled->group->gpu, &filled->staged);

    if (filled->staged != NULL)
        rc = prepare(filled, opts->stream);
    if (rc == PLD_OK)
        return 1;
    if (is_message(filled)) {
        pldi_staged_release(filled);
        return rc;
    }
    /* It takes part all the same, to say so. */
    if (filled->code == 0) {
        filled->code = rc;
        (void)snprintf(filled->text, sizeof(filled->text), "%s", pld_last_error());
    }
    return 1;
}
