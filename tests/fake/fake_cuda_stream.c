/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Streams and events, as the driver's interface has them. */

#include <stdlib.h>

#include "fake_cuda_impl.h"

/* Begin of a call on a stream; with the lock held from here on. */
static int enter(pldi_cu_stream handle, struct CUstream_st **stream)
{
    struct CUctx_st *c;
    int rc;

    fake_lock();
    rc = fake_current(&c);
    if (rc != PLDI_CU_SUCCESS)
        return rc;
    *stream = fake_stream_of(c, handle);
    return *stream == NULL ? PLDI_CU_INVALID_HANDLE : PLDI_CU_SUCCESS;
}

/* Leave with the code, or the one that the device was lost with meanwhile. */
static int leave(int rc, const struct CUctx_st *ctx)
{
    if (rc == PLDI_CU_SUCCESS && ctx != NULL)
        rc = ctx->error;
    fake_unlock();
    return rc;
}

int cuStreamCreateWithPriority(pldi_cu_stream *stream, unsigned flags, int priority)
{
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuStreamCreateWithPriority);
    (void)priority; /* CUDA clamps it to its range, too */
    fake_lock();
    rc = fake_current(&c);
    if (rc == PLDI_CU_SUCCESS && flags > PLDI_CU_STREAM_NON_BLOCKING)
        rc = PLDI_CU_INVALID_VALUE;
    if (rc == PLDI_CU_SUCCESS)
        rc = fake_call_fault("stream", PLDI_CU_OUT_OF_MEMORY);
    if (rc == PLDI_CU_SUCCESS)
        *stream = fake_stream_new(c, (flags & PLDI_CU_STREAM_NON_BLOCKING) == 0);
    fake_unlock();
    return rc;
}

int cuStreamDestroy_v2(pldi_cu_stream stream)
{
    struct CUstream_st *s = NULL;
    int rc = enter(stream, &s);

    FAKE_COUNT(cuStreamDestroy_v2);
    if (rc == PLDI_CU_SUCCESS && s->legacy)
        rc = PLDI_CU_INVALID_HANDLE;
    if (rc == PLDI_CU_SUCCESS)
        rc = fake_capture_forbid(s);
    if (rc == PLDI_CU_SUCCESS)
        fake_stream_drop(s);
    return leave(rc, NULL);
}

/* Asking a stream is forbidden while it, or this thread, records. */
static int enter_asking(pldi_cu_stream handle, struct CUstream_st **stream)
{
    int rc = enter(handle, stream);

    if (rc == PLDI_CU_SUCCESS)
        rc = fake_capture_forbid(*stream);
    return rc == PLDI_CU_SUCCESS ? fake_capture_unsafe() : rc;
}

int cuStreamQuery(pldi_cu_stream stream)
{
    struct CUstream_st *s = NULL;
    int rc = enter_asking(stream, &s);

    FAKE_COUNT(cuStreamQuery);
    if (rc == PLDI_CU_SUCCESS && s->first != NULL)
        rc = PLDI_CU_NOT_READY;
    return leave(rc, NULL);
}

int cuStreamSynchronize(pldi_cu_stream stream)
{
    struct CUstream_st *s = NULL;
    const struct CUctx_st *ctx = NULL;
    int rc = enter_asking(stream, &s);

    FAKE_COUNT(cuStreamSynchronize);
    if (rc == PLDI_CU_SUCCESS) {
        ctx = s->ctx;
        fake_wait_stream(s, s->queued);
    }
    return leave(rc, ctx);
}

/* The record that the event holds now is the one to wait for. */
static int wait_event(struct CUstream_st *s, const struct CUevent_st *e)
{
    if (s->capture != NULL || e->capture_number != 0)
        return fake_capture_wait(s, e);
    if (e->mark == NULL)
        return PLDI_CU_SUCCESS;
    e->mark->refs++;
    fake_push(s, (struct fake_op){.wait = e->mark});
    return PLDI_CU_SUCCESS;
}

int cuStreamWaitEvent(pldi_cu_stream stream, pldi_cu_event event, unsigned flags)
{
    struct CUstream_st *s = NULL;
    int rc = enter(stream, &s);

    FAKE_COUNT(cuStreamWaitEvent);
    if (rc == PLDI_CU_SUCCESS && flags != 0)
        rc = PLDI_CU_INVALID_VALUE;
    if (rc == PLDI_CU_SUCCESS && !fake_handle_valid(event, FAKE_EVENT))
        rc = PLDI_CU_INVALID_HANDLE;
    if (rc == PLDI_CU_SUCCESS)
        rc = wait_event(s, event);
    return leave(rc, NULL);
}

/* ---- Events ---- */

static int enter_event(pldi_cu_event event)
{
    struct CUctx_st *c;
    int rc;

    fake_lock();
    rc = fake_current(&c);
    if (rc == PLDI_CU_SUCCESS && !fake_handle_valid(event, FAKE_EVENT))
        rc = PLDI_CU_INVALID_HANDLE;
    return rc;
}

int cuEventCreate(pldi_cu_event *event, unsigned flags)
{
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuEventCreate);
    fake_lock();
    rc = fake_current(&c);
    if (rc == PLDI_CU_SUCCESS)
        rc = fake_call_fault("event", PLDI_CU_OUT_OF_MEMORY);
    if (rc == PLDI_CU_SUCCESS) {
        struct CUevent_st *e = fake_handle_new(FAKE_EVENT, sizeof(*e));

        e->ctx = c;
        e->timed = (flags & PLDI_CU_EVENT_DISABLE_TIMING) == 0;
        *event = e;
    }
    return leave(rc, NULL);
}

int cuEventDestroy_v2(pldi_cu_event event)
{
    const int rc = enter_event(event);

    FAKE_COUNT(cuEventDestroy_v2);
    if (rc == PLDI_CU_SUCCESS) {
        fake_handle_drop(event);
        fake_mark_put(event->mark);
        free(event);
    }
    return leave(rc, NULL);
}

static int record(struct CUevent_st *e, struct CUstream_st *s)
{
    int rc = fake_call_fault("record", PLDI_CU_INVALID_HANDLE);

    if (rc == PLDI_CU_SUCCESS && e->ctx != s->ctx)
        rc = PLDI_CU_INVALID_HANDLE;
    if (rc == PLDI_CU_SUCCESS && s->legacy)
        rc = fake_capture_implicit(s->ctx);
    if (rc != PLDI_CU_SUCCESS)
        return rc;
    fake_mark_put(e->mark);
    e->mark = NULL;
    if (s->capture != NULL)
        return fake_capture_record(s, e);
    e->capture_number = 0;
    e->mark = fake_mark_new();
    e->mark->refs++;
    fake_push(s, (struct fake_op){.record = e->mark});
    return PLDI_CU_SUCCESS;
}

int cuEventRecord(pldi_cu_event event, pldi_cu_stream stream)
{
    struct CUstream_st *s = NULL;
    int rc = enter(stream, &s);

    FAKE_COUNT(cuEventRecord);
    if (rc == PLDI_CU_SUCCESS && !fake_handle_valid(event, FAKE_EVENT))
        rc = PLDI_CU_INVALID_HANDLE;
    if (rc == PLDI_CU_SUCCESS)
        rc = record(event, s);
    return leave(rc, NULL);
}

static int enter_asking_event(pldi_cu_event event)
{
    int rc = enter_event(event);

    if (rc == PLDI_CU_SUCCESS && event->capture_number != 0)
        rc = FAKE_CU_CAPTURED_EVENT;
    return rc == PLDI_CU_SUCCESS ? fake_capture_unsafe() : rc;
}

int cuEventQuery(pldi_cu_event event)
{
    int rc = enter_asking_event(event);

    FAKE_COUNT(cuEventQuery);
    if (rc == PLDI_CU_SUCCESS && event->mark != NULL && !event->mark->done)
        rc = PLDI_CU_NOT_READY;
    return leave(rc, NULL);
}

int cuEventSynchronize(pldi_cu_event event)
{
    const struct CUctx_st *ctx = NULL;
    int rc = enter_asking_event(event);

    FAKE_COUNT(cuEventSynchronize);
    if (rc == PLDI_CU_SUCCESS && event->mark != NULL) {
        struct fake_mark *mark = event->mark;

        ctx = event->ctx;
        mark->refs++;
        fake_wait_mark(ctx, mark);
        fake_mark_put(mark);
    }
    return leave(rc, ctx);
}

static int elapsed(float *ms, const struct CUevent_st *begin, const struct CUevent_st *end)
{
    if (!begin->timed || !end->timed || begin->mark == NULL || end->mark == NULL)
        return PLDI_CU_INVALID_HANDLE;
    if (!begin->mark->done || !end->mark->done)
        return PLDI_CU_NOT_READY;
    *ms = (float)(1e3 * (end->mark->when - begin->mark->when));
    return PLDI_CU_SUCCESS;
}

int cuEventElapsedTime(float *ms, pldi_cu_event begin, pldi_cu_event end)
{
    int rc = enter_event(begin);

    FAKE_COUNT(cuEventElapsedTime);
    if (rc == PLDI_CU_SUCCESS && !fake_handle_valid(end, FAKE_EVENT))
        rc = PLDI_CU_INVALID_HANDLE;
    if (rc == PLDI_CU_SUCCESS)
        rc = elapsed(ms, begin, end);
    return leave(rc, NULL);
}
