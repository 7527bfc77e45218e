/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>

#include "cuda/cuda_device.h"

int pldi_cuda_stream_create(pld_device *device, int urgent, pld_stream *out)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    pldi_cu_stream stream = NULL;
    const int code = d->cu.stream_create(&stream, PLDI_CU_STREAM_NON_BLOCKING,
                                         urgent ? d->greatest_priority : d->least_priority);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "creating a stream");
    *out = stream;
    return PLD_OK;
}

void pldi_cuda_stream_destroy(pld_device *device, pld_stream *stream)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    struct pldi_cuda_visit visit;

    if (stream == NULL || *stream == NULL)
        return;
    visit = pldi_cuda_enter(d);
    (void)d->cu.stream_destroy(*stream);
    pldi_cuda_leave(&visit);
    *stream = NULL;
}

int pldi_cuda_stream_wait(pld_device *device, pld_stream stream)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int code = d->cu.stream_sync(stream);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "waiting for a stream");
    return PLD_OK;
}

/* The default stream may not be used while one that waits for it records: what that code says. */
int pldi_cuda_stream_records(pld_device *device, pld_stream stream, int *out)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    int status = PLDI_CU_CAPTURE_STATUS_NONE;
    const int code = d->cu.stream_is_capturing(stream, &status);

    pldi_cuda_leave(&visit);
    if (code != PLDI_CU_STREAM_CAPTURE_IMPLICIT)
        PLDI_CUDA_TRY(d, code, "asking whether a stream is recorded");
    *out = code != PLDI_CU_SUCCESS || status != PLDI_CU_CAPTURE_STATUS_NONE;
    return PLD_OK;
}

int pldi_cuda_event_create(pld_device *device, int timed, pld_event *out)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    pldi_cu_event event = NULL;
    const int code = d->cu.event_create(&event, timed ? 0 : PLDI_CU_EVENT_DISABLE_TIMING);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "creating an event");
    *out = event;
    return PLD_OK;
}

void pldi_cuda_event_destroy(pld_device *device, pld_event *event)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    struct pldi_cuda_visit visit;

    if (event == NULL || *event == NULL)
        return;
    visit = pldi_cuda_enter(d);
    (void)d->cu.event_destroy(*event);
    pldi_cuda_leave(&visit);
    *event = NULL;
}

int pldi_cuda_event_record(pld_device *device, pld_event event, pld_stream stream)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int code = d->cu.event_record(event, stream);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "recording an event");
    return PLD_OK;
}

int pldi_cuda_stream_after(pld_device *device, pld_stream stream, pld_event event)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int code = d->cu.stream_wait(stream, event, 0);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "making a stream wait for an event");
    return PLD_OK;
}

int pldi_cuda_event_test(pld_device *device, pld_event event, int *done)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int code = d->cu.event_query(event);

    pldi_cuda_leave(&visit);
    if (code != PLDI_CU_NOT_READY)
        PLDI_CUDA_TRY(d, code, "testing an event");
    *done = code == PLDI_CU_SUCCESS;
    return PLD_OK;
}

int pldi_cuda_event_wait(pld_device *device, pld_event event)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int code = d->cu.event_sync(event);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "waiting for an event");
    return PLD_OK;
}

int pldi_cuda_event_seconds(pld_device *device, pld_event begin, pld_event end, double *out)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    float ms = 0;
    const int code = d->cu.event_elapsed(&ms, begin, end);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "the time between two events");
    *out = (double)ms * 1e-3;
    return PLD_OK;
}
