/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * All boxes of a share, one after the other, are one line of bytes.  From a GPU the line passes
 * in pieces through a ring of pinned segments: copies are put into a stream of their own as far
 * as there are segments, and each is taken out when its event has come.  The params' stream is
 * made to wait for the event behind the last copy, which must be in the stream by then: so who
 * is about to change the params waits, on the host, for `queued`.
 */

#include <pthread.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_impl.h"
#include "device/device.h"

struct ckpt_snapshot {
    pld_params *params;
    pld_device *device; /* NULL: the host */
    pld_stream stream;
    pld_event event;  /* orders the stream after the params' */
    pld_event copied; /* behind the last copy */
    unsigned char *ring;
    pld_event events[CKPT_MAX_SEGMENTS];
    int segments;
    size_t segment; /* bytes */
    unsigned char *memory;
    size_t capacity, bytes; /* of memory; of the line */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int queued; /* nothing is read any more that the device does not know of */
    int guarded;
    struct pldi_params_guard guard;
};

static size_t padded(size_t bytes)
{
    return (bytes + PLDI_ALIGN - 1) / PLDI_ALIGN * PLDI_ALIGN;
}

static size_t box_bytes(const struct ckpt_share *share, uint64_t b)
{
    const struct ckpt_box *box = &share->part.boxes[b];

    return (size_t)pldi_box_count(&box->box) *
           pld_dtype_bytes(share->part.tensors[box->tensor].dtype);
}

static void set_queued(struct ckpt_snapshot *s, int queued)
{
    (void)pthread_mutex_lock(&s->lock);
    s->queued = queued;
    (void)pthread_cond_broadcast(&s->changed);
    (void)pthread_mutex_unlock(&s->lock);
}

/* The guard of the params. */
static int wait_for_copy(void *context)
{
    struct ckpt_snapshot *s = context;

    (void)pthread_mutex_lock(&s->lock);
    while (!s->queued)
        (void)pthread_cond_wait(&s->changed, &s->lock);
    (void)pthread_mutex_unlock(&s->lock);
    if (s->device == NULL)
        return PLD_OK;
    return s->device->ops->stream_after(s->device, pldi_params_stream(s->params), s->copied);
}

static int open_device(struct ckpt_snapshot *s)
{
    const struct pldi_device_ops *ops = s->device->ops;
    void *ring = NULL;
    int rc;

    PLDI_TRY(ops->stream_create(s->device, 0, &s->stream));
    PLDI_TRY(ops->event_create(s->device, 0, &s->event));
    PLDI_TRY(ops->event_create(s->device, 0, &s->copied));
    for (int i = 0; i < s->segments; i++)
        PLDI_TRY(ops->event_create(s->device, 0, &s->events[i]));
    rc = ops->alloc(s->device, (size_t)s->segments * s->segment, PLD_MEM_PINNED, &ring);
    s->ring = ring;
    return rc;
}

int pldi_ckpt_snapshot_open(pld_ckpt *c)
{
    struct ckpt_snapshot *s;
    int rc = PLD_OK;

    if (c->snapshot != NULL)
        return PLD_OK;
    s = pldi_alloc(1, sizeof(*s), "a snapshot");
    if (s == NULL)
        return PLD_ERR_NOMEM;
    *s = (struct ckpt_snapshot){.params = c->params,
                                .device = pldi_params_device(c->params),
                                .segments = c->opts.ring_segments,
                                .segment = padded(c->opts.ring_bytes),
                                .lock = PTHREAD_MUTEX_INITIALIZER,
                                .changed = PTHREAD_COND_INITIALIZER,
                                .guard = {wait_for_copy, s, NULL}};
    c->snapshot = s;
    if (s->device != NULL)
        rc = open_device(s);
    if (rc < 0)
        pldi_ckpt_snapshot_close(c);
    return rc;
}

void pldi_ckpt_snapshot_close(pld_ckpt *c)
{
    struct ckpt_snapshot *s = c->snapshot;

    if (s == NULL)
        return;
    pldi_ckpt_snapshot_release(s);
    if (s->device != NULL) {
        s->device->ops->free(s->device, s->ring);
        for (int i = 0; i < s->segments; i++)
            s->device->ops->event_destroy(s->device, &s->events[i]);
        s->device->ops->event_destroy(s->device, &s->copied);
        s->device->ops->event_destroy(s->device, &s->event);
        s->device->ops->stream_destroy(s->device, &s->stream);
    }
    pldi_free(s->memory);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->lock);
    pldi_free(s);
    c->snapshot = NULL;
}

int pldi_ckpt_snapshot_reserve(struct ckpt_snapshot *s, const struct ckpt_share *share)
{
    s->bytes = 0;
    for (uint64_t b = 0; b < share->part.box_count; b++)
        s->bytes += padded(box_bytes(share, b));
    if (s->bytes > s->capacity) {
        pldi_free(s->memory);
        s->capacity = 0;
        s->memory = pldi_alloc(s->bytes, 1, "the copy of what is saved");
        if (s->memory == NULL)
            return PLD_ERR_NOMEM;
        s->capacity = s->bytes;
    }
    if (s->device != NULL)
        PLDI_TRY(pldi_device_order(s->device, s->event, pldi_params_stream(s->params), s->stream));
    set_queued(s, 0);
    pldi_params_add_guard(s->params, &s->guard);
    s->guarded = 1;
    return PLD_OK;
}

void pldi_ckpt_snapshot_release(struct ckpt_snapshot *s)
{
    if (s->guarded)
        pldi_params_remove_guard(s->params, &s->guard);
    s->guarded = 0;
}

/* Where the walk along the line is. */
struct walk {
    uint64_t box;
    size_t done; /* bytes of that box */
};

/* The copies that fill one segment, in order of the stream. */
static int queue(struct ckpt_snapshot *s, const struct ckpt_share *share, struct walk *at,
                 size_t segment)
{
    const struct pldi_device_ops *ops = s->device->ops;
    const int slot = (int)(segment % (size_t)s->segments);
    unsigned char *to = s->ring + (size_t)slot * s->segment;
    size_t left = s->segment;

    while (left > 0 && at->box < share->part.box_count) {
        const size_t bytes = box_bytes(share, at->box);
        const size_t n = bytes - at->done < left ? bytes - at->done : left;
        const size_t gap = at->done + n == bytes ? padded(bytes) - bytes : 0;

        PLDI_TRY(
            ops->copy(s->device, to, (const char *)share->data[at->box] + at->done, n, s->stream));
        to += n + gap;
        left -= n + gap;
        at->done += n;
        if (at->done < bytes)
            continue;
        at->done = 0;
        at->box++;
    }
    return ops->event_record(s->device, s->events[slot], s->stream);
}

static int take_out(struct ckpt_snapshot *s, size_t segment)
{
    const size_t slot = segment % (size_t)s->segments;
    const size_t begin = segment * s->segment;
    const size_t left = s->bytes - begin;

    PLDI_TRY(s->device->ops->event_wait(s->device, s->events[slot]));
    memcpy(s->memory + begin, s->ring + slot * s->segment, left < s->segment ? left : s->segment);
    return PLD_OK;
}

static int copy_from_device(struct ckpt_snapshot *s, const struct ckpt_share *share)
{
    const size_t segments = (s->bytes + s->segment - 1) / s->segment;
    struct walk at = {0};
    size_t queued = 0;

    for (size_t done = 0; done < segments; done++) {
        while (queued < segments && queued < done + (size_t)s->segments)
            PLDI_TRY(queue(s, share, &at, queued++));
        if (queued == segments && !s->queued) {
            PLDI_TRY(s->device->ops->event_record(s->device, s->copied, s->stream));
            set_queued(s, 1);
        }
        PLDI_TRY(take_out(s, done));
    }
    return PLD_OK;
}

static void copy_from_host(struct ckpt_snapshot *s, const struct ckpt_share *share)
{
    unsigned char *to = s->memory;

    for (uint64_t b = 0; b < share->part.box_count; b++) {
        memcpy(to, share->data[b], box_bytes(share, b));
        to += padded(box_bytes(share, b));
    }
}

int pldi_ckpt_snapshot_take(struct ckpt_snapshot *s, struct ckpt_share *share)
{
    unsigned char *at = s->memory;
    int rc = PLD_OK;

    if (s->device != NULL)
        rc = copy_from_device(s, share);
    else
        copy_from_host(s, share);
    set_queued(s, 1);
    for (uint64_t b = 0; rc == PLD_OK && b < share->part.box_count; b++) {
        share->data[b] = at;
        at += padded(box_bytes(share, b));
    }
    return rc;
}
