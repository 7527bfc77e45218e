/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Slots of an edge and the messages in them.
 *
 * Receives are posted ahead, in the order in which the other end sends, as long as
 * there are slots; sends are posted and looked after later.  Why that cannot hang:
 * the schedule has been found to make progress even if sends and receives block where
 * the list has them.  A receive is posted here no later than that, for there are as
 * many slots as the list ever holds at once.  A send is posted where the list has it,
 * and waited for later, when its slot is needed again.  So every event needs no more
 * to have happened than in the blocking execution.
 *
 * One slot more than the list holds lets the next message come in, or the last one go
 * out, during a computation.
 */

#include "pipe/pipe_impl.h"

#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "coll/coll_mem.h"
#include "schedule/schedule.h"

enum { SPARE_SLOTS = 1 };

static size_t round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

static size_t note_at(const struct pldi_pipe_edge *e)
{
    return e->message - sizeof(struct pldi_pipe_note);
}

static int is_sending(const struct pldi_pipe_edge *e)
{
    return pldi_action_info(e->kind)->is_send;
}

/* Most slots that the list itself keeps: filled by one kind of action, emptied by another. */
static int peak(const pld_action *actions, size_t length, pld_action_kind fills,
                pld_action_kind empties)
{
    int now = 0;
    int most = 0;

    for (size_t i = 0; i < length; i++) {
        now += actions[i].kind == fills;
        most = now > most ? now : most;
        now -= actions[i].kind == empties;
    }
    return most;
}

/* Incoming data are kept until the backward of their microbatch, whichever way they came. */
static int count_slots(const struct pldi_pipe_edge *e, const pld_action *actions, size_t length)
{
    const pld_action_kind compute = pldi_action_info(e->kind)->compute;
    const int most = is_sending(e) ? peak(actions, length, compute, e->kind)
                                   : peak(actions, length, e->kind, PLD_ACTION_B);

    return most + SPARE_SLOTS < e->count ? most + SPARE_SLOTS : e->count;
}

/* Shared, so that collectives of the caller's within a stage reach it directly. */
static int open_memory(struct pldi_pipe_edge *e)
{
    if (e->lane != NULL)
        return pldi_pipe_lane_edge_open(e);
    e->memory = pldi_mem_alloc(e->group, (size_t)e->slots, e->stride, "messages between stages");
    return e->memory == NULL ? PLD_ERR_NOMEM : PLD_OK;
}

int pldi_pipe_edge_open(struct pldi_pipe_edge *edge, const pld_action *actions, size_t length)
{
    int n = 0;

    for (size_t i = 0; i < length; i++)
        edge->count += actions[i].kind == edge->kind;
    edge->message =
        round_up(edge->payload, sizeof(struct pldi_pipe_note)) + sizeof(struct pldi_pipe_note);
    edge->stride = round_up(edge->message, PLDI_ALIGN);
    edge->slots = count_slots(edge, actions, length);
    edge->order = pldi_alloc((size_t)edge->count, sizeof(int), "the order of messages");
    edge->slot_of = pldi_alloc((size_t)edge->count, sizeof(int), "the slots of messages");
    edge->free = pldi_alloc((size_t)edge->slots, sizeof(int), "the slots of messages");
    edge->requests =
        pldi_alloc((size_t)edge->slots, sizeof(pld_request *), "the requests of messages");
    if (edge->order == NULL || edge->slot_of == NULL || edge->free == NULL ||
        edge->requests == NULL)
        return PLD_ERR_NOMEM;
    for (size_t i = 0; i < length; i++)
        if (actions[i].kind == edge->kind)
            edge->order[n++] = actions[i].microbatch;
    return open_memory(edge);
}

void pldi_pipe_edge_close(struct pldi_pipe_edge *edge)
{
    if (edge->lane != NULL)
        pldi_pipe_lane_edge_close(edge);
    else if (edge->memory != NULL)
        pldi_mem_free(edge->group, edge->memory);
    pldi_free(edge->order);
    pldi_free(edge->slot_of);
    pldi_free(edge->free);
    pldi_free(edge->requests);
    *edge = (struct pldi_pipe_edge){0};
}

unsigned char *pldi_pipe_edge_slot(const struct pldi_pipe_edge *edge, int microbatch)
{
    if (edge->count == 0)
        return NULL;
    return edge->memory + (size_t)edge->slot_of[microbatch] * edge->stride;
}

int pldi_pipe_take_slot(struct pldi_pipe_edge *edge, int microbatch)
{
    return edge->slot_of[microbatch] = edge->free[--edge->free_count];
}

void pldi_pipe_give_slot(struct pldi_pipe_edge *edge, int microbatch)
{
    edge->free[edge->free_count++] = edge->slot_of[microbatch];
    edge->slot_of[microbatch] = -1;
}

/* wait: without a request, which takes no memory. */
static int receive_next(struct pldi_pipe_edge *e, int wait)
{
    const int microbatch = e->order[e->posted];
    const int slot = pldi_pipe_take_slot(e, microbatch);
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts),
                                .request = wait ? NULL : &e->requests[slot], .tag = "pipeline"};
    const int rc = pld_recv(e->group, pldi_pipe_edge_slot(e, microbatch), e->message, PLD_U8,
                            e->peer, (int)pldi_action_info(e->kind)->compute, &opts);

    if (rc < 0)
        pldi_pipe_give_slot(e, microbatch);
    else
        e->posted++;
    return rc;
}

/* What finds no memory now is tried again later; at the latest expect() makes do without. */
static int post_receives(struct pldi_pipe_edge *e)
{
    int rc = PLD_OK;

    while (rc == PLD_OK && e->free_count > 0 && e->posted < e->count)
        rc = receive_next(e, 0);
    return rc == PLD_ERR_NOMEM ? PLD_OK : rc;
}

void pldi_pipe_edge_reset(struct pldi_pipe_edge *edge)
{
    edge->posted = edge->finished = edge->free_count = 0;
    for (int i = 0; i < edge->count; i++)
        edge->slot_of[i] = -1;
    for (int i = edge->slots - 1; i >= 0; i--)
        edge->free[edge->free_count++] = i;
}

static int start(struct pldi_pipe_edge *edge)
{
    pldi_pipe_edge_reset(edge);
    return edge->count == 0 || is_sending(edge) ? PLD_OK : post_receives(edge);
}

static int expect(struct pldi_pipe_edge *edge, int microbatch)
{
    while (edge->slot_of[microbatch] < 0)
        PLDI_TRY(receive_next(edge, 1));
    return PLD_OK;
}

static int check_note(const struct pldi_pipe_edge *e, int microbatch,
                      const struct pldi_pipe_note *note)
{
    const struct pldi_action_info *info = pldi_action_info(e->kind);

    if (note->kind == (int)info->partner && note->stage == e->stage + info->peer &&
        note->microbatch == microbatch)
        return PLD_OK;
    return pldi_fail(PLD_ERR_INTERNAL, "stage %d received message %d of microbatch %d for %d",
                     e->stage, note->kind, note->microbatch, microbatch);
}

static int await(struct pldi_pipe_edge *edge, int microbatch, int *is_void)
{
    struct pldi_pipe_note note;

    if (edge->count == 0)
        return PLD_OK;
    PLDI_TRY(pld_request_wait(&edge->requests[edge->slot_of[microbatch]]));
    memcpy(&note, pldi_pipe_edge_slot(edge, microbatch) + note_at(edge), sizeof(note));
    PLDI_TRY(check_note(edge, microbatch, &note));
    *is_void |= note.is_void;
    return PLD_OK;
}

static int release(struct pldi_pipe_edge *edge, int microbatch)
{
    if (edge->count == 0)
        return PLD_OK;
    pldi_pipe_give_slot(edge, microbatch);
    return post_receives(edge);
}

static int reap(struct pldi_pipe_edge *edge)
{
    while (edge->finished < edge->posted) {
        const int microbatch = edge->order[edge->finished];
        int done = 0;

        PLDI_TRY(pld_request_test(&edge->requests[edge->slot_of[microbatch]], &done));
        if (!done)
            break;
        pldi_pipe_give_slot(edge, microbatch);
        edge->finished++;
    }
    return PLD_OK;
}

static int acquire(struct pldi_pipe_edge *edge, int microbatch)
{
    if (edge->count == 0)
        return PLD_OK;
    PLDI_TRY(reap(edge));
    if (edge->free_count == 0) {
        const int oldest = edge->order[edge->finished];

        PLDI_TRY(pld_request_wait(&edge->requests[edge->slot_of[oldest]]));
        pldi_pipe_give_slot(edge, oldest);
        edge->finished++;
    }
    (void)pldi_pipe_take_slot(edge, microbatch);
    return PLD_OK;
}

static int send(struct pldi_pipe_edge *edge, int microbatch, int is_void)
{
    const struct pldi_pipe_note note = {is_void, (int32_t)edge->kind, edge->stage, microbatch};
    unsigned char *slot = pldi_pipe_edge_slot(edge, microbatch);
    pld_coll_opts opts = {PLD_OPTS(pld_coll_opts),
                          .request = &edge->requests[edge->slot_of[microbatch]], .tag = "pipeline"};
    const int tag = (int)pldi_action_info(edge->kind)->compute;
    int rc;

    memcpy(slot + note_at(edge), &note, sizeof(note));
    rc = pld_send(edge->group, slot, edge->message, PLD_U8, edge->peer, tag, &opts);
    if (rc == PLD_ERR_NOMEM) {
        opts.request = NULL;
        rc = pld_send(edge->group, slot, edge->message, PLD_U8, edge->peer, tag, &opts);
    }
    edge->posted += rc == PLD_OK;
    return rc;
}

static int finish(struct pldi_pipe_edge *edge)
{
    return pld_request_wait_all((size_t)edge->slots, edge->requests);
}

/* What is sent is what the callback left in the slot. */
static int fill(struct pldi_pipe_edge *edge, int microbatch)
{
    (void)edge;
    (void)microbatch;
    return PLD_OK;
}

const struct pldi_pipe_mover pldi_pipe_host_mover = {.start = start,
                                                     .expect = expect,
                                                     .await = await,
                                                     .release = release,
                                                     .acquire = acquire,
                                                     .fill = fill,
                                                     .send = send,
                                                     .reap = reap,
                                                     .finish = finish};
