/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Pinned buffers, events and streams of operations through pinned memory: made when first
 * needed, and kept, for making them may wait for the device.
 */

#include "base/base_clock.h"
#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_mem.h"
#include "coll/coll_staged.h"

enum { PATIENCE = 10 /* seconds */ };

static void unpin(struct pldi_gpu *gpu, struct pldi_pin *pin)
{
    gpu->device->ops->unpin(gpu->device, pin->memory);
    pldi_mem_free(gpu->world, pin->memory);
    pldi_free(pin);
}

static struct pldi_pin *make_pin(struct pldi_gpu *gpu, size_t bytes)
{
    struct pldi_pin *pin = pldi_alloc(1, sizeof(*pin), "a pinned buffer");

    if (pin == NULL)
        return NULL;
    pin->bytes = bytes;
    pin->memory = pldi_mem_alloc(gpu->world, 1, bytes, "a pinned buffer");
    if (pin->memory != NULL && gpu->device->ops->pin(gpu->device, pin->memory, bytes) == PLD_OK)
        return pin;
    pldi_mem_free(gpu->world, pin->memory);
    pldi_free(pin);
    return NULL;
}

/* Of at least so many bytes; they are all of one size but where ranks are very many. */
struct pldi_pin *pldi_pin_take(struct pldi_gpu *gpu, size_t bytes)
{
    struct pldi_pin **list = &gpu->pins;
    struct pldi_pin *pin;

    (void)pthread_mutex_lock(&gpu->lock);
    while (*list != NULL && (*list)->bytes < bytes)
        list = &(*list)->next;
    pin = *list;
    if (pin != NULL)
        *list = pin->next;
    else
        pin = make_pin(gpu, bytes > gpu->chunk ? bytes : gpu->chunk);
    (void)pthread_mutex_unlock(&gpu->lock);
    return pin;
}

static void destroy(struct pldi_staged *s)
{
    const struct pldi_device_ops *ops = s->gpu->device->ops;

    for (int i = 0; i < PLDI_STAGES; i++) {
        ops->event_destroy(s->gpu->device, &s->stages[i].read);
        ops->event_destroy(s->gpu->device, &s->stages[i].written);
    }
    ops->event_destroy(s->gpu->device, &s->start);
    pldi_free(s);
}

/* Threads with groups of their own may come at the same time. */
static int make_streams(struct pldi_gpu *gpu)
{
    const struct pldi_device_ops *ops = gpu->device->ops;
    int rc = PLD_OK;

    (void)pthread_mutex_lock(&gpu->lock);
    if (gpu->in == NULL)
        rc = ops->stream_create(gpu->device, 1, &gpu->in);
    if (rc == PLD_OK && gpu->out == NULL)
        rc = ops->stream_create(gpu->device, 1, &gpu->out);
    (void)pthread_mutex_unlock(&gpu->lock);
    return rc;
}

static int make(struct pldi_gpu *gpu, struct pldi_staged **out)
{
    const struct pldi_device_ops *ops = gpu->device->ops;
    struct pldi_staged *s = pldi_alloc(1, sizeof(*s), "an operation through pinned memory");
    int rc = s == NULL ? PLD_ERR_NOMEM : make_streams(gpu);

    if (s == NULL)
        return rc;
    s->gpu = gpu;
    for (int i = 0; i < PLDI_STAGES && rc == PLD_OK; i++) {
        rc = ops->event_create(gpu->device, 0, &s->stages[i].read);
        if (rc == PLD_OK)
            rc = ops->event_create(gpu->device, 0, &s->stages[i].written);
    }
    if (rc == PLD_OK)
        rc = ops->event_create(gpu->device, 0, &s->start);
    if (rc < 0)
        destroy(s);
    else
        *out = s;
    return rc;
}

int pldi_staged_take(struct pldi_gpu *gpu, struct pldi_staged **out)
{
    struct pldi_staged *s;

    (void)pthread_mutex_lock(&gpu->lock);
    s = gpu->idle;
    if (s != NULL)
        gpu->idle = s->next;
    (void)pthread_mutex_unlock(&gpu->lock);
    if (s == NULL)
        return make(gpu, out);
    *out = s;
    return PLD_OK;
}

void pldi_staged_close(struct pldi_gpu *gpu)
{
    while (gpu->idle != NULL) {
        struct pldi_staged *s = gpu->idle;

        gpu->idle = s->next;
        destroy(s);
    }
    while (gpu->pins != NULL) {
        struct pldi_pin *pin = gpu->pins;

        gpu->pins = pin->next;
        unpin(gpu, pin);
    }
    gpu->device->ops->stream_destroy(gpu->device, &gpu->in);
    gpu->device->ops->stream_destroy(gpu->device, &gpu->out);
}

/* A copy that is still under way goes to or from memory that others will use.  1: none is. */
static int copies_are_over(const struct pldi_staged *s, const pld_group *group)
{
    const double end = pldi_now() + PATIENCE;
    pld_device *device = s->gpu->device;
    int tries = 0;

    for (int i = 0; i < PLDI_STAGES && s->read > s->written; i++) {
        int read = 0;
        int written = 0;

        while (s->stages[i].pins[0] != NULL && !(read && written)) {
            /* Nothing moves any more on a device that is lost. */
            if (device->ops->event_test(device, s->stages[i].read, &read) < 0 ||
                device->ops->event_test(device, s->stages[i].written, &written) < 0)
                return 1;
            if (pldi_now() > end)
                return 0;
            pldi_engine_idle(group->engine, &tries);
        }
    }
    return 1;
}

/* With the lock held. */
static void give_back(struct pldi_gpu *gpu, struct pldi_stage *stage)
{
    if (stage->pins[1] == stage->pins[0])
        stage->pins[1] = NULL;
    for (int side = 0; side < 2; side++) {
        struct pldi_pin *pin = stage->pins[side];

        stage->pins[side] = NULL;
        if (pin == NULL)
            continue;
        pin->next = gpu->pins;
        gpu->pins = pin;
    }
}

void pldi_staged_release(pld_request *op)
{
    struct pldi_staged *s = op->staged;
    struct pldi_gpu *gpu;

    if (s == NULL)
        return;
    gpu = s->gpu;
    op->staged = NULL;
    /* What a stream that never ends may still write to is lost with it. */
    if (!copies_are_over(s, op->group))
        return;
    (void)pthread_mutex_lock(&gpu->lock);
    for (int i = 0; i < PLDI_STAGES; i++)
        give_back(gpu, &s->stages[i]);
    pldi_free(s->memory);
    s->memory = NULL;
    s->next = gpu->idle;
    gpu->idle = s;
    (void)pthread_mutex_unlock(&gpu->lock);
}
