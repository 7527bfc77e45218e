/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Messages on a GPU.  The list of a rank is its part of one sequence of all computations and
 * messages, in which a message is one event of its two ranks.  Everything is put into streams
 * in the order of the list: what is computed into the callbacks' stream, messages that go down
 * the stages into one lane, those that go up into another.  The event that comes first in the
 * sequence, of those that are not over, is at the head of its stream on each rank that takes
 * part in it, for what it waits for comes before it: so something always goes on, although a
 * message holds up its stream until the other rank is there.
 *
 * A slot is filled and emptied in turn, by different streams, and each waits for the other's
 * event of the last time.  The host never waits: that it may use a slot's number again is its
 * own affair, that the memory is free by then is the streams'.
 */

#include "pipe/pipe_impl.h"

#include <stdint.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "coll/coll_break.h"
#include "coll/coll_mem.h"
#include "device/device.h"
#include "schedule/schedule.h"

enum { ORDERED_NCCL = 22600 };

/*
 * Before NCCL 2.26 nothing but a stream orders operations of different communicators, and they
 * could wait for each other crosswise: then both lanes are one stream, which has the order of
 * the list, and what the caller does before and after a step is so to its messages, too.
 */
static int needs_order(const pld_device *device)
{
    pld_device_info info;

    pld_device_get_info(device, &info);
    return info.nccl > 0 && info.nccl < ORDERED_NCCL;
}

static int open_stream(struct pldi_pipe_lane *lane, const struct pldi_pipe_lane *other)
{
    lane->strict = needs_order(lane->device);
    lane->shares = lane->strict && other != NULL;
    if (!lane->shares)
        return lane->device->ops->stream_create(lane->device, 1, &lane->stream);
    lane->stream = other->stream;
    return PLD_OK;
}

int pldi_pipe_lane_open(struct pldi_pipe_lane *lane, const struct pldi_pipe_lane *other,
                        pld_device *device, pld_stream compute, pld_group *axis)
{
    int rc;

    lane->device = device;
    lane->compute = compute;
    PLDI_TRY(pld_group_split(axis, 0, pld_group_rank(axis), &lane->group));
    rc = pld_agree(axis, open_stream(lane, other));
    return rc < 0 ? rc : pld_group_connect(lane->group);
}

void pldi_pipe_lane_drain(struct pldi_pipe_lane *lane)
{
    if (lane->stream == NULL)
        return;
    if (lane->group != NULL)
        pldi_group_quiet(lane->group);
    (void)lane->device->ops->stream_wait(lane->device, lane->compute);
    (void)lane->device->ops->stream_wait(lane->device, lane->stream);
}

void pldi_pipe_lane_close(struct pldi_pipe_lane *lane)
{
    if (lane->device == NULL)
        return;
    pld_group_destroy(&lane->group);
    if (!lane->shares)
        lane->device->ops->stream_destroy(lane->device, &lane->stream);
}

int pldi_pipe_lane_edge_open(struct pldi_pipe_edge *edge)
{
    const struct pldi_device_ops *ops = edge->lane->device->ops;
    void *memory = NULL;
    int rc;

    edge->filled = pldi_alloc((size_t)edge->slots, sizeof(pld_event), "the events of messages");
    edge->emptied = pldi_alloc((size_t)edge->slots, sizeof(pld_event), "the events of messages");
    if (edge->filled == NULL || edge->emptied == NULL)
        return PLD_ERR_NOMEM;
    for (int i = 0; i < edge->slots; i++) {
        PLDI_TRY(ops->event_create(edge->lane->device, 0, &edge->filled[i]));
        PLDI_TRY(ops->event_create(edge->lane->device, 0, &edge->emptied[i]));
    }
    rc = pldi_device_arena(edge->lane->device, (size_t)edge->slots, edge->stride,
                           "messages between stages", edge->lane->stream, &memory);
    edge->memory = memory;
    return rc;
}

void pldi_pipe_lane_edge_close(struct pldi_pipe_edge *edge)
{
    const struct pldi_device_ops *ops = edge->lane->device->ops;

    for (int i = 0; i < edge->slots && edge->filled != NULL && edge->emptied != NULL; i++) {
        ops->event_destroy(edge->lane->device, &edge->filled[i]);
        ops->event_destroy(edge->lane->device, &edge->emptied[i]);
    }
    pldi_group_unregister(edge->lane->group, edge->memory);
    ops->free(edge->lane->device, edge->memory);
    pldi_free(edge->filled);
    pldi_free(edge->emptied);
}

static int record(const struct pldi_pipe_edge *e, pld_event event, pld_stream stream)
{
    return e->lane->device->ops->event_record(e->lane->device, event, stream);
}

static int after(const struct pldi_pipe_edge *e, pld_stream stream, pld_event event)
{
    return e->lane->device->ops->stream_after(e->lane->device, stream, event);
}

static int move(const struct pldi_pipe_edge *e, void *slot)
{
    const struct pldi_action_info *info = pldi_action_info(e->kind);
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .tag = "pipeline",
                                .stream = e->lane->stream};
    const int tag = (int)info->compute;

    if (info->is_send)
        return pld_send(e->group, slot, e->payload, PLD_U8, e->peer, tag, &opts);
    return pld_recv(e->group, slot, e->payload, PLD_U8, e->peer, tag, &opts);
}

int pldi_pipe_lane_meet(struct pldi_pipe_edge *in, struct pldi_pipe_edge *out)
{
    struct pldi_pipe_lane *lane = in->lane != NULL ? in->lane : out->lane;
    int rc = PLD_OK;

    if (in->count > 0)
        rc = move(in, in->memory);
    if (rc == PLD_OK && out->count > 0)
        rc = move(out, out->memory);
    if (rc < 0)
        return rc;
    pldi_group_quiet(lane->group);
    return lane->device->ops->stream_wait(lane->device, lane->stream);
}

static int start(struct pldi_pipe_edge *edge)
{
    pld_event event; /* one that is recorded in the callbacks' stream, and may be so again */

    pldi_pipe_edge_reset(edge);
    if (edge->count == 0 || !edge->lane->strict)
        return PLD_OK;
    event = pldi_action_info(edge->kind)->is_send ? edge->filled[0] : edge->emptied[0];
    PLDI_TRY(record(edge, event, edge->lane->compute));
    return after(edge, edge->lane->stream, event);
}

/* The list has as many slots as it ever holds, and one more. */
static int expect(struct pldi_pipe_edge *edge, int microbatch)
{
    const int slot = pldi_pipe_take_slot(edge, microbatch);

    PLDI_TRY(after(edge, edge->lane->stream, edge->emptied[slot]));
    PLDI_TRY(move(edge, pldi_pipe_edge_slot(edge, microbatch)));
    return record(edge, edge->filled[slot], edge->lane->stream);
}

static int await(struct pldi_pipe_edge *edge, int microbatch, int *is_void)
{
    (void)is_void;
    if (edge->count == 0)
        return PLD_OK;
    return after(edge, edge->lane->compute, edge->filled[edge->slot_of[microbatch]]);
}

static int release(struct pldi_pipe_edge *edge, int microbatch)
{
    if (edge->count == 0)
        return PLD_OK;
    PLDI_TRY(record(edge, edge->emptied[edge->slot_of[microbatch]], edge->lane->compute));
    pldi_pipe_give_slot(edge, microbatch);
    return PLD_OK;
}

static int acquire(struct pldi_pipe_edge *edge, int microbatch)
{
    if (edge->count == 0)
        return PLD_OK;
    return after(edge, edge->lane->compute, edge->emptied[pldi_pipe_take_slot(edge, microbatch)]);
}

static int fill(struct pldi_pipe_edge *edge, int microbatch)
{
    if (edge->count == 0)
        return PLD_OK;
    return record(edge, edge->filled[edge->slot_of[microbatch]], edge->lane->compute);
}

/* Void or not, something is sent; what it was filled with last, if a callback failed. */
static int send(struct pldi_pipe_edge *edge, int microbatch, int is_void)
{
    const int slot = edge->slot_of[microbatch];

    (void)is_void;
    PLDI_TRY(after(edge, edge->lane->stream, edge->filled[slot]));
    PLDI_TRY(move(edge, pldi_pipe_edge_slot(edge, microbatch)));
    PLDI_TRY(record(edge, edge->emptied[slot], edge->lane->stream));
    pldi_pipe_give_slot(edge, microbatch);
    return PLD_OK;
}

static int finish(struct pldi_pipe_edge *edge)
{
    /* One that is recorded in the lane, and may be so again. */
    pld_event event;

    if (edge->count == 0 || !edge->lane->strict)
        return PLD_OK;
    event = pldi_action_info(edge->kind)->is_send ? edge->emptied[0] : edge->filled[0];
    PLDI_TRY(record(edge, event, edge->lane->stream));
    return after(edge, edge->lane->compute, event);
}

static int nothing(struct pldi_pipe_edge *edge)
{
    (void)edge;
    return PLD_OK;
}

const struct pldi_pipe_mover pldi_pipe_lane_mover = {.start = start,
                                                     .expect = expect,
                                                     .await = await,
                                                     .release = release,
                                                     .acquire = acquire,
                                                     .fill = fill,
                                                     .send = send,
                                                     .reap = nothing,
                                                     .finish = finish};
