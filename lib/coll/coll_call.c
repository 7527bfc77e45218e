/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What is wrong with the arguments is said by the rank that passed them, before
 * anything is sent.  That there is no memory is not: the other ranks are on their
 * way, so the operation goes on with that code and makes it everybody's.
 */

#include "coll/coll_call.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "coll/coll_shape.h"

enum { OPTS_SIZE_0_1 = 32, OPTS_SIZE = 40 };
_Static_assert(sizeof(pld_coll_opts) == OPTS_SIZE, "padding, or ABI");

int pldi_call_opts(const pld_coll_opts *opts, pld_coll_opts *out)
{
    *out = (pld_coll_opts){PLD_OPTS(pld_coll_opts)};
    if (opts == NULL)
        return PLD_OK;
    return pldi_opts_copy(out, sizeof(*out), opts, OPTS_SIZE_0_1);
}

static int is_floating(pld_dtype dtype)
{
    return dtype == PLD_F32 || dtype == PLD_F64 || dtype == PLD_F16 || dtype == PLD_BF16;
}

int pldi_call_check_buffer(const char *call, const char *name, const void *buffer, size_t count,
                           pld_dtype dtype)
{
    const size_t bytes = pld_dtype_bytes(dtype);

    if (bytes == 0)
        return pldi_fail(PLD_ERR_ARG, "%s: %d is no dtype", call, (int)dtype);
    if (count > PTRDIFF_MAX / bytes)
        return pldi_fail(PLD_ERR_ARG, "%s: %zu elements are more than memory can hold", call,
                         count);
    if (buffer == NULL && count > 0)
        return pldi_fail(PLD_ERR_ARG, "%s: %s is NULL, with %zu elements", call, name, count);
    if ((uintptr_t)buffer % bytes != 0)
        return pldi_fail(PLD_ERR_ARG, "%s: %s is not aligned to %s", call, name,
                         pld_dtype_name(dtype));
    return PLD_OK;
}

/* Where recv must be relative to send to be in place: bytes; PTRDIFF_MIN: nowhere. */
static ptrdiff_t in_place(const pld_request *op)
{
    const enum pldi_cut *cut = pldi_shape(op->kind)->cut;
    const int rank = op->group->rank;

    if (cut[PLDI_SENT] == PLDI_BLOCKS && cut[PLDI_RECEIVED] == PLDI_BLOCKS)
        return pldi_shape(op->kind)->by_rank ? PTRDIFF_MIN : 0;
    if (cut[PLDI_SENT] == PLDI_BLOCKS)
        return (ptrdiff_t)pldi_locate(op, PLDI_SENT, rank, 0).offset;
    if (cut[PLDI_RECEIVED] == PLDI_BLOCKS)
        return -(ptrdiff_t)pldi_locate(op, PLDI_RECEIVED, rank, 0).offset;
    return 0;
}

static int check_apart(const char *call, const pld_request *op)
{
    const uintptr_t send = (uintptr_t)op->send;
    const uintptr_t recv = (uintptr_t)op->recv;
    const size_t send_bytes = pldi_extent(op, PLDI_SENT);
    const size_t recv_bytes = pldi_extent(op, PLDI_RECEIVED);
    const ptrdiff_t place = in_place(op);

    if (send_bytes == 0 || recv_bytes == 0 || send + send_bytes <= recv ||
        recv + recv_bytes <= send)
        return PLD_OK;
    if (place != PTRDIFF_MIN && recv == send + (uintptr_t)place)
        return PLD_OK;
    return pldi_fail(PLD_ERR_ARG, "%s: send and recv overlap without being in place", call);
}

/* What most calls are, in short: whole vectors, in place or apart. */
static int are_plainly_fine(const pld_request *op, size_t bytes)
{
    const uintptr_t send = (uintptr_t)op->send;
    const uintptr_t recv = (uintptr_t)op->recv;

    return op->kind == PLDI_ALLREDUCE && send != 0 && recv != 0 && (send | recv) % bytes == 0 &&
           (send == recv || send + op->vector <= recv || recv + op->vector <= send);
}

/* The buffers of an operation with one item. */
static int check_buffers(const char *call, const pld_request *op)
{
    const size_t bytes = pld_dtype_bytes(op->dtype);
    size_t send, recv;

    if (are_plainly_fine(op, bytes))
        return PLD_OK;
    send = pldi_extent(op, PLDI_SENT);
    recv = pldi_extent(op, PLDI_RECEIVED);
    if (op->kind == PLDI_BROADCAST)
        return pldi_call_check_buffer(call, "buf", op->recv, op->count, op->dtype);
    if (send > 0)
        PLDI_TRY(pldi_call_check_buffer(call, "send", op->send, send / bytes, op->dtype));
    if (recv > 0)
        PLDI_TRY(pldi_call_check_buffer(call, "recv", op->recv, recv / bytes, op->dtype));
    return check_apart(call, op);
}

/* Everything that is there, on all ranks, must be less than memory. */
static int check_count(const char *call, size_t count, pld_dtype dtype, int size)
{
    const size_t bytes = pld_dtype_bytes(dtype);

    if (bytes == 0)
        return pldi_fail(PLD_ERR_ARG, "%s: %d is no dtype", call, (int)dtype);
    if (count > PTRDIFF_MAX / bytes / (size_t)size)
        return pldi_fail(PLD_ERR_ARG, "%s: %d x %zu elements are more than memory can hold", call,
                         size, count);
    return PLD_OK;
}

static int sum_counts(const struct pldi_call *call, const char *name, const size_t *counts,
                      size_t *sum)
{
    const size_t size = (size_t)call->group->size;

    *sum = 0;
    if (counts == NULL)
        return pldi_fail(PLD_ERR_ARG, "%s: %s is NULL", call->name, name);
    for (size_t r = 0; r < size; r++) {
        if (__builtin_add_overflow(*sum, counts[r], sum))
            return pldi_fail(PLD_ERR_ARG, "%s: %s are more than memory can hold", call->name, name);
    }
    return check_count(call->name, *sum, call->dtype, 1);
}

static void set_starts(size_t *starts, const size_t *counts, size_t n, size_t bytes)
{
    starts[0] = 0;
    for (size_t r = 0; r < n; r++)
        starts[r + 1] = starts[r] + counts[r] * bytes;
}

/* It takes part all the same, to say so. */
static void no_memory(pld_request *op)
{
    op->code = PLD_ERR_NOMEM;
    op->n_counts = 0;
    (void)snprintf(op->text, sizeof(op->text), "%s", pld_last_error());
}

static int fill_by_rank(const struct pldi_call *call, pld_request *op)
{
    const enum pldi_side side =
        pldi_shape(call->kind)->cut[PLDI_SENT] == PLDI_BLOCKS ? PLDI_SENT : PLDI_RECEIVED;
    const size_t n = (size_t)call->group->size;
    const size_t bytes = pld_dtype_bytes(call->dtype);
    const size_t arrays = call->kind == PLDI_ALLTOALL_V ? 2 : 1;
    size_t received = 0;
    size_t *memory;

    PLDI_TRY(sum_counts(call, arrays == 2 ? "send_counts" : "counts", call->counts, &op->count));
    if (arrays == 2)
        PLDI_TRY(sum_counts(call, "recv_counts", call->recv_counts, &received));
    else /* alltoall_v's differ from rank to rank */
        op->print.counts = pldi_hash64(call->counts, n * sizeof(call->counts[0]));
    op->print.count = arrays == 2 ? 0 : op->count;
    op->vector = op->count * bytes;
    memory = pldi_alloc(2 * arrays * (n + 1), sizeof(*memory), "the counts of an operation");
    if (memory == NULL) {
        no_memory(op);
        return PLD_OK;
    }
    op->memory = memory;
    for (size_t i = 0; i < arrays; i++) {
        const size_t *counts = i == 0 ? call->counts : call->recv_counts;

        set_starts(memory + i * (n + 1), counts, n, bytes);
        op->starts[i == 0 ? side : PLDI_RECEIVED] = memory + i * (n + 1);
        memcpy(memory + arrays * (n + 1) + i * n, counts, n * sizeof(counts[0]));
    }
    op->counts = (const uint64_t *)(memory + arrays * (n + 1));
    op->n_counts = arrays * n;
    return check_buffers(call->name, op);
}
_Static_assert(sizeof(size_t) == sizeof(uint64_t), "counts travel as they are");

/* Every item by itself, as an operation of its own; then their sum and their hash. */
static int check_items(const struct pldi_call *call, pld_request *op)
{
    size_t total = 0;

    for (size_t i = 0; i < call->n_items; i++) {
        const pld_coll_item *item = &call->items[i];

        PLDI_TRY(check_count(call->name, item->count, call->dtype, call->group->size));
        op->send = call->kind == PLDI_BROADCAST ? item->recv : item->send;
        op->recv = item->recv;
        op->count = item->count;
        op->vector = item->count * pld_dtype_bytes(call->dtype);
        PLDI_TRY(check_buffers(call->name, op));
        total += item->count;
        PLDI_TRY(check_count(call->name, total, call->dtype, call->group->size));
        op->print.counts = pldi_hash64_chain(op->print.counts, &item->count, sizeof(item->count));
    }
    op->print.counts |= 1;
    op->count = op->print.count = total;
    op->vector = total * pld_dtype_bytes(call->dtype);
    return PLD_OK;
}

static int fill_items(const struct pldi_call *call, pld_request *op)
{
    const size_t n = call->n_items;
    const size_t bytes = pld_dtype_bytes(call->dtype);
    struct pldi_item *items;
    uint64_t *counts;
    size_t start = 0;

    if (call->items == NULL && n > 0)
        return pldi_fail(PLD_ERR_ARG, "%s: items is NULL, with %zu items", call->name, n);
    PLDI_TRY(check_items(call, op));
    items = n == 0 ? NULL : pldi_alloc(n, sizeof(*items) + sizeof(*counts), "a list of tensors");
    if (n > 0 && items == NULL)
        no_memory(op);
    if (items == NULL)
        return PLD_OK;
    counts = (uint64_t *)(items + n);
    for (size_t i = 0; i < n; i++) {
        const pld_coll_item *item = &call->items[i];
        const void *send = call->kind == PLDI_BROADCAST ? item->recv : item->send;

        items[i].base[PLDI_SENT] = (unsigned char *)(uintptr_t)send;
        items[i].base[PLDI_RECEIVED] = item->recv;
        items[i].start = start;
        items[i].bytes = item->count * bytes;
        counts[i] = item->count;
        start += items[i].bytes;
    }
    op->memory = items;
    op->items = items;
    op->n_items = n;
    op->counts = counts;
    op->n_counts = n;
    return PLD_OK;
}

int pldi_call_check_op(const char *call, pld_dtype dtype, pld_op op, double scale, double *out)
{
    if ((int)op < PLD_SUM || (int)op > PLD_PROD)
        return pldi_fail(PLD_ERR_ARG, "%s: %d is no operator", call, (int)op);
    if (!isfinite(scale))
        return pldi_fail(PLD_ERR_ARG, "%s: scale is %g", call, scale);
    scale = scale == 0 ? 1 : scale;
    if (!is_floating(dtype) && (op == PLD_AVG || scale != 1))
        return pldi_fail(PLD_ERR_ARG, "%s: %s of %s; average and scale need a floating type", call,
                         op == PLD_AVG ? "average" : "scale", pld_dtype_name(dtype));
    *out = scale;
    return PLD_OK;
}

/* Set the operator; the factor of an average is part of the scale. */
static int set_op(const char *call, pld_request *op, pld_op reduce, double scale)
{
    PLDI_TRY(pldi_call_check_op(call, op->dtype, reduce, scale, &scale));
    op->op = reduce;
    op->print.op = (uint32_t)reduce;
    op->print.scale = scale;
    op->scale = reduce == PLD_AVG ? scale / op->group->size : scale;
    return PLD_OK;
}

void pldi_call_start(pld_request *out, pld_group *group, enum pldi_kind kind, const void *send,
                     void *recv, size_t count, pld_dtype dtype)
{
    pldi_clear(out, offsetof(pld_request, text));
    out->text[0] = '\0';
    out->group = group;
    out->kind = kind;
    out->send = send;
    out->recv = recv;
    out->count = count;
    out->vector = count * pld_dtype_bytes(dtype);
    out->dtype = dtype;
    out->scale = 1;
    out->print.kind = (uint32_t)kind;
    out->print.dtype = (uint32_t)dtype;
    out->print.count = count;
}

static int fill(const struct pldi_call *call, double scale, pld_request *op)
{
    const struct pldi_shape *shape = pldi_shape(call->kind);

    if ((shape->from_root || shape->to_root) && (call->root < 0 || call->root >= call->group->size))
        return pldi_fail(PLD_ERR_ARG, "%s: root %d is not one of the %d ranks of the group",
                         call->name, call->root, call->group->size);
    op->root = op->print.root = call->root;
    PLDI_TRY(check_count(call->name, call->count, call->dtype, call->group->size));
    if (shape->reduces)
        PLDI_TRY(set_op(call->name, op, call->op, scale));
    if (call->has_items)
        return fill_items(call, op);
    if (shape->by_rank)
        return fill_by_rank(call, op);
    return check_buffers(call->name, op);
}

int pldi_call_fill(const struct pldi_call *call, double scale, pld_request *out)
{
    int rc;

    pldi_call_start(out, call->group, call->kind, call->send, call->recv, call->count, call->dtype);
    rc = fill(call, scale, out);
    if (rc < 0)
        pldi_free(out->memory);
    return rc;
}
