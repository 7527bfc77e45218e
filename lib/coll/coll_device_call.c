/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * From a call to a stream, and from a request back.
 *
 * What may fail by itself on one rank is done before all say that they are ready, once
 * per group; a launch allocates nothing.  A failure after that leaves the ranks at
 * different places, and the group ends.
 */

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_device.h"
#include "coll/coll_health.h"
#include "coll/coll_leaves.h"
#include "coll/coll_shape.h"

enum { JUDGE_EVERY = 256 };

/* ---- Where buffers are ---- */

static int is_message(const pld_request *op)
{
    return op->kind == PLDI_SEND || op->kind == PLDI_RECV;
}

static int on_device(const pld_request *op, const void *memory)
{
    pld_device *device = op->group->device;

    return memory != NULL && device->ops->where(device, memory) == PLD_MEM_DEVICE;
}

/* 1: of the device, 0: of the host, -1: this rank has nothing there. */
static int side_of(const pld_request *op, enum pldi_side side, const void **seen)
{
    const size_t n = op->items != NULL ? op->n_items : 1;
    int where = -1;

    if (is_message(op)) {
        *seen = side == PLDI_SENT ? op->send : op->recv;
        return *seen == NULL || op->count == 0 ? -1 : on_device(op, *seen);
    }
    if (pldi_extent(op, side) == 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        int this;

        if (op->items != NULL && op->items[i].bytes == 0)
            continue;
        *seen = pldi_base(op, side, i);
        this = on_device(op, *seen);
        if (where >= 0 && this != where)
            return pldi_fail(PLD_ERR_ARG, "pld_%s_list: item %zu is in %s memory, others are not",
                             pldi_kind_name(op->kind), i, this ? "device" : "host");
        where = this;
    }
    return where;
}

/*
 * A rank that has no part of an operation with blocks of different lengths must still know
 * which way the others go: by the pointers that it passes, or by a stream.
 */
static int without_data(const pld_request *op, const pld_coll_opts *opts)
{
    if (!pldi_shape(op->kind)->by_rank)
        return 0;
    return on_device(op, op->send) || on_device(op, op->recv) || opts->stream != NULL;
}

static int classify_leaves(const pld_request *op)
{
    const pld_leaf *leaves = pldi_leaves_of(op);
    int where;

    if (op->count == 0)
        return 0;
    where = on_device(op, op->recv);
    for (size_t i = 0; i < op->n_items; i++) {
        const int this = on_device(op, leaves[i].data);

        if (this != where)
            return pldi_fail(PLD_ERR_ARG,
                             "pld_allreduce_leaves: leaf %llu is in %s memory and recv in %s "
                             "memory; need one kind",
                             (unsigned long long)leaves[i].leaf, this ? "device" : "host",
                             where ? "device" : "host");
    }
    return where;
}

static int classify(const pld_request *op, const pld_coll_opts *opts)
{
    const void *pointers[2] = {NULL, NULL};
    int where[2];

    if (op->kind == PLDI_LEAVES)
        return classify_leaves(op);
    if (pldi_shape(op->kind)->cut[PLDI_RECEIVED] == PLDI_NOTHING && !is_message(op))
        return 0;
    for (int side = PLDI_SENT; side <= PLDI_RECEIVED; side++) {
        where[side] = side_of(op, (enum pldi_side)side, &pointers[side]);
        if (where[side] < -1)
            return where[side];
    }
    if (where[0] < 0 && where[1] < 0)
        return without_data(op, opts);
    if (where[0] >= 0 && where[1] >= 0 && where[0] != where[1])
        return pldi_fail(
            PLD_ERR_ARG, "pld_%s: send is in %s memory and recv in %s memory; need one kind",
            pldi_kind_name(op->kind), where[0] ? "device" : "host", where[1] ? "device" : "host");
    return where[0] == 1 || where[1] == 1;
}

/* ---- Which way ---- */

static int is_floating(pld_dtype dtype)
{
    return dtype == PLD_F32 || dtype == PLD_F64 || dtype == PLD_F16 || dtype == PLD_BF16;
}

/* A tuning rule may leave sums of f16 and bf16 to NCCL, which rounds them at each hop. */
static int left_to_nccl(const pld_group *g, int kind, pld_dtype dtype, uint64_t bytes)
{
    const struct pldi_facts facts = pldi_facts_of(g, kind, dtype, bytes);

    return pldi_choice_nccl(&facts, g->tuning);
}

static uint64_t bytes_of(const pld_request *op)
{
    const int blocks =
        pldi_shape(op->kind)->cut[PLDI_SENT] == PLDI_BLOCKS && op->starts[PLDI_SENT] == NULL;

    return op->vector * (uint64_t)(blocks ? op->group->size : 1);
}

int pldi_gpu_sums(const pld_request *op)
{
    if (!pldi_shape(op->kind)->reduces || !is_floating(op->dtype))
        return 0;
    if (op->tree || op->op == PLD_MAX || op->op == PLD_MIN)
        return 1;
    if (op->op == PLD_PROD && op->print.scale != 1)
        return 1;
    if (op->dtype != PLD_F16 && op->dtype != PLD_BF16)
        return 0;
    return op->print.scale != 1 || !left_to_nccl(op->group, (int)op->kind, op->dtype, bytes_of(op));
}

static int needs_scratch(const pld_request *op)
{
    if (op->group->size == 1)
        return 0;
    return pldi_gpu_sums(op) || (op->kind == PLDI_ALLTOALL && op->send == op->recv);
}

/* ---- Launching ---- */

/* A flight, even if there is no memory for another one: the oldest lands some day. */
static struct pldi_flight *get_flight(struct pldi_gpu_group *g)
{
    struct pldi_flight *f = pldi_flight_take(g->gpu);

    if (f != NULL)
        return f;
    pldi_gpu_quiet(g->group);
    return pldi_flight_take(g->gpu);
}

/* With the turn. */
static int put(struct pldi_gpu_group *g, const pld_request *op, pld_stream stream, int beside)
{
    pld_device *device = g->gpu->device;
    struct pldi_put p = {.op = op, .g = g, .stream = beside ? g->stream : stream};

    if (g->code != 0)
        return pldi_fail(g->code, "%s", g->why);
    if (beside) {
        PLDI_TRY(device->ops->event_record(device, g->start, stream));
        PLDI_TRY(device->ops->stream_after(device, g->stream, g->start));
    }
    PLDI_TRY(pldi_flight_follow(g, p.stream));
    PLDI_TRY(pldi_put_operation(&p));
    return pldi_flight_launch(g, op->flight, p.stream);
}

/* The recorder knows the call; its end is the flight's, or this failure. */
static int launch(struct pldi_gpu_group *g, pld_request *op, const pld_coll_opts *opts)
{
    struct pldi_flight *f = get_flight(g);
    int rc;

    if (f == NULL)
        return PLD_ERR_DEVMEM;
    op->flight = f;
    f->ticket = op->ticket;
    f->sequence = op->print.sequence;
    f->peer = is_message(op) ? op->peer : -1;
    f->held = opts->request != NULL;
    pldi_gpu_enter(g->gpu);
    rc = put(g, op, opts->stream, opts->request != NULL);
    pldi_gpu_leave(g->gpu);
    if (rc < 0)
        pldi_flight_drop(g->gpu, f);
    return rc;
}

/* In the debugging mode the ranks compare first; its record is one of its own. */
static int announce(struct pldi_gpu_group *g, pld_request *filled)
{
    if (!filled->group->check)
        return PLD_OK;
    PLDI_TRY(pldi_gpu_announce(g, filled));
    return pldi_coll_record(filled);
}

static int fly(pld_request *filled, const pld_coll_opts *opts)
{
    struct pldi_gpu_group *g = filled->group->on_gpu;
    pld_request *op = NULL;
    int rc = filled->code;

    if (!is_message(filled))
        pldi_op_number(filled, filled->group->sequence++);
    filled->name = opts->tag;
    PLDI_TRY(pldi_coll_record(filled));
    if (rc < 0) /* no memory for its counts: nobody else knows */
        (void)pldi_fail(rc, "%s", filled->text);
    if (rc == PLD_OK)
        rc = announce(g, filled);
    if (rc == PLD_OK && opts->request != NULL) {
        op = pldi_alloc(1, sizeof(*op), "an operation");
        rc = op == NULL ? PLD_ERR_NOMEM : PLD_OK;
    }
    if (rc == PLD_OK)
        rc = launch(g, filled, opts);
    if (rc == PLD_OK) {
        pldi_gpu_count(g, filled);
        if (op != NULL) {
            memcpy(op, filled, offsetof(pld_request, text));
            op->leaves = NULL;
            *opts->request = op;
        }
        return PLD_OK;
    }
    pldi_free(op);
    pldi_health_ended(filled->group->health, filled->ticket, rc);
    /* What all ranks get leaves them at the same place. */
    return rc == PLD_ERR_MISMATCH && g->code == 0 ? rc : pldi_gpu_fail(g, rc);
}

static int carried_by_stream(const pld_request *op)
{
    const struct pldi_gpu_group *g = op->group->on_gpu;

    if (op->group->size == 1)
        return !is_message(op);
    return g->nccl && !(is_message(op) && op->peer == op->group->rank);
}

/* The hosts meet before anything else, so that what one of them finds wrong is told there. */
static int fly_leaves(pld_request *filled, const pld_coll_opts *opts)
{
    int rc;

    PLDI_TRY(pldi_leaves_meet(filled));
    rc = pldi_gpu_reserve(filled->group->on_gpu);
    if (rc == PLD_OK)
        rc = fly(filled, opts);
    pldi_leaves_end(filled);
    return rc;
}

/*
 * Nothing that asks an event may come before, for it would spoil the recording.  Where hosts meet
 * in the operation all hear of it; where they do not, the rank that records does.
 */
static int check_stream(pld_request *op, pld_stream stream)
{
    const struct pldi_gpu_group *g = op->group->on_gpu;
    const int staged = g->connected && !carried_by_stream(op);
    char call[64];
    int rc;

    (void)snprintf(call, sizeof(call), "pld_%s", pldi_kind_name(op->kind));
    rc = pldi_device_check_stream(g->gpu->device, call, stream);
    if (rc == PLD_OK || is_message(op) || !(staged || (g->connected && op->kind == PLDI_LEAVES)))
        return rc;
    if (op->code == 0) {
        op->code = rc;
        (void)snprintf(op->text, sizeof(op->text), "%s", pld_last_error());
    }
    return PLD_OK;
}

static int post(pld_request *filled, const pld_coll_opts *opts)
{
    struct pldi_gpu_group *g = filled->group->on_gpu;
    int rc = classify(filled, opts);

    if (rc <= 0)
        return rc < 0 ? rc : 1;
    PLDI_TRY(check_stream(filled, opts->stream));
    if (is_message(filled) && !g->connected && g->gpu->nccl && filled->group->size > 1)
        return pldi_fail(PLD_ERR_STATE,
                         "pld_%s of device memory in a group that has not been connected; all its "
                         "ranks call pld_group_connect() first",
                         pldi_kind_name(filled->kind));
    if (!is_message(filled))
        PLDI_TRY(pldi_gpu_connect(filled->group));
    filled->place = carried_by_stream(filled) ? PLDI_LEAVES_DEVICE : PLDI_LEAVES_STAGED;
    filled->tree |= filled->group->reproducible && pldi_shape(filled->kind)->reduces;
    if (!carried_by_stream(filled))
        return filled->code < 0 ? 1 : pldi_staged_prepare(filled, opts);
    PLDI_TRY(pldi_gpu_judge(g, 0));
    if (g->code != 0)
        return pldi_gpu_failed(g);
    if (filled->group->broken != 0) {
        (void)pldi_group_failed(filled);
        return pldi_gpu_fail(g, filled->group->broken);
    }
    if (filled->kind == PLDI_LEAVES)
        return fly_leaves(filled, opts);
    if (needs_scratch(filled))
        PLDI_TRY(pldi_gpu_reserve(g));
    return fly(filled, opts);
}

int pldi_gpu_post(pld_request *filled, const pld_coll_opts *opts)
{
    const int rc = post(filled, opts);

    if (rc <= 0) {
        pldi_free(filled->memory);
        filled->memory = NULL;
    }
    return rc;
}

/* ---- Requests ---- */

static int finish(pld_request *op)
{
    struct pldi_gpu_group *g = op->group->on_gpu;
    const int code = op->flight->code;

    pldi_flight_drop(g->gpu, op->flight);
    pldi_free(op);
    if (code < 0)
        return g->group->broken == 0 ? pldi_gpu_fail(g, code) : pldi_gpu_failed(g);
    return PLD_OK;
}

int pldi_gpu_wait(pld_request *op)
{
    struct pldi_gpu_group *g = op->group->on_gpu;
    const struct pldi_flight *f = op->flight;
    unsigned looks = 0;
    int tries = 0;

    while (!pldi_flight_test(g->gpu, op->flight)) {
        const int rc = pldi_gpu_look(g, f->ticket, f->sequence, f->peer);

        if (rc < 0)
            (void)pldi_gpu_fail(g, rc);
        if (++looks % JUDGE_EVERY == 0)
            (void)pldi_gpu_judge(g, 0);
        pldi_engine_idle(op->group->engine, &tries);
    }
    return finish(op);
}

int pldi_gpu_test(pld_request *op, int *done)
{
    struct pldi_gpu_group *g = op->group->on_gpu;
    const struct pldi_flight *f = op->flight;

    *done = pldi_flight_test(g->gpu, op->flight);
    if (!*done) {
        const int rc = pldi_gpu_look(g, f->ticket, f->sequence, f->peer);

        if (rc < 0)
            (void)pldi_gpu_fail(g, rc);
        return PLD_OK;
    }
    return finish(op);
}

int pldi_gpu_after(pld_request *op, pld_stream stream)
{
    struct pldi_gpu_group *g = op->group->on_gpu;
    int rc = PLD_OK;

    if (!pldi_flight_test(g->gpu, op->flight)) {
        rc = g->gpu->device->ops->stream_after(g->gpu->device, stream, op->flight->done);
        pldi_flight_drop(g->gpu, op->flight);
        pldi_free(op);
        return rc;
    }
    return finish(op);
}

/* ---- Explaining ---- */

static void explain_regions(const struct pldi_gpu_group *g, char *text, size_t text_bytes)
{
    const size_t bytes = pldi_gpu_regions_bytes(g);
    const size_t at = strlen(text);

    if (bytes > 0)
        (void)snprintf(text + at, text_bytes - at, ", %zu bytes of arenas registered", bytes);
    else if (g->refusal[0] != '\0')
        (void)snprintf(text + at, text_bytes - at, ", arenas not registered (%s)", g->refusal);
}

void pldi_gpu_explain(const pld_group *group, int kind, pld_dtype dtype, uint64_t bytes, char *text,
                      size_t text_bytes)
{
    const struct pldi_gpu_group *g = group->on_gpu;
    const int half = dtype == PLD_F16 || dtype == PLD_BF16;
    const char *how = "";
    const size_t at = strlen(text);

    if (g == NULL || kind == PLDI_BARRIER || kind == PLDI_AGREE)
        return;
    if (group->size == 1) {
        (void)snprintf(text + at, text_bytes - at, "; device memory: a copy");
        return;
    }
    if (!g->nccl && (g->connected || !g->gpu->nccl)) {
        (void)snprintf(text + at, text_bytes - at,
                       "; device memory: staged through pinned memory, chunks of %zu bytes",
                       g->gpu->chunk);
        return;
    }
    if (pldi_shape((enum pldi_kind)kind)->reduces && is_floating(dtype)) {
        if (group->reproducible)
            how = ", sums by all-to-all and kernels, by the canonical tree";
        else if (half && !left_to_nccl(group, kind, dtype, bytes))
            how = ", sums in f32 by all-to-all and a kernel";
        else if (half)
            how = ", sums rounded at each hop";
    }
    (void)snprintf(text + at, text_bytes - at, "; device memory: NCCL%s", how);
    explain_regions(g, text, text_bytes);
}
