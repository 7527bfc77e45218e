/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The public calls: what is wrong with the arguments is said here, the rest is the plugin's. */

#include <stdio.h>

#include "base/base_err.h"
#include "device/device.h"

void pld_device_get_info(const pld_device *device, pld_device_info *out)
{
    device->ops->get_info(device, out);
    out->sharing = device->sharing;
    (void)snprintf(out->nic, sizeof(out->nic), "%s", device->nic);
}

int pld_device_alloc(pld_device *device, size_t bytes, pld_mem_kind kind, void **out)
{
    PLDI_CHECK_ARG(device != NULL && out != NULL);
    if (kind != PLD_MEM_DEVICE && kind != PLD_MEM_PINNED)
        return pldi_fail(PLD_ERR_ARG, "kind is %d, need PLD_MEM_DEVICE or PLD_MEM_PINNED",
                         (int)kind);
    return device->ops->alloc(device, bytes, kind, out);
}

void pld_device_free(pld_device *device, void *memory)
{
    device->ops->free(device, memory);
}

pld_mem_kind pld_device_where(pld_device *device, const void *memory)
{
    return device == NULL ? PLD_MEM_HOST : device->ops->where(device, memory);
}

int pld_device_free_bytes(pld_device *device, uint64_t *out)
{
    PLDI_CHECK_ARG(device != NULL && out != NULL);
    return device->ops->free_bytes(device, out);
}

int pld_device_copy(pld_device *device, void *dst, const void *src, size_t bytes, pld_stream stream)
{
    PLDI_CHECK_ARG(device != NULL && ((dst != NULL && src != NULL) || bytes == 0));
    return device->ops->copy(device, dst, src, bytes, stream);
}

int pld_device_fill(pld_device *device, void *dst, int byte, size_t bytes, pld_stream stream)
{
    PLDI_CHECK_ARG(device != NULL && (dst != NULL || bytes == 0));
    return device->ops->fill(device, dst, byte, bytes, stream);
}

int pld_stream_create(pld_device *device, int urgent, pld_stream *out)
{
    PLDI_CHECK_ARG(device != NULL && out != NULL);
    return device->ops->stream_create(device, urgent, out);
}

void pld_stream_destroy(pld_device *device, pld_stream *stream)
{
    if (device != NULL)
        device->ops->stream_destroy(device, stream);
}

int pld_stream_wait(pld_device *device, pld_stream stream)
{
    PLDI_CHECK_ARG(device != NULL);
    return device->ops->stream_wait(device, stream);
}

int pld_event_create(pld_device *device, int timed, pld_event *out)
{
    PLDI_CHECK_ARG(device != NULL && out != NULL);
    return device->ops->event_create(device, timed, out);
}

void pld_event_destroy(pld_device *device, pld_event *event)
{
    if (device != NULL)
        device->ops->event_destroy(device, event);
}

int pld_event_record(pld_device *device, pld_event event, pld_stream stream)
{
    PLDI_CHECK_ARG(device != NULL && event != NULL);
    return device->ops->event_record(device, event, stream);
}

int pld_stream_after(pld_device *device, pld_stream stream, pld_event event)
{
    PLDI_CHECK_ARG(device != NULL && event != NULL);
    return device->ops->stream_after(device, stream, event);
}

int pld_event_test(pld_device *device, pld_event event, int *done)
{
    PLDI_CHECK_ARG(device != NULL && event != NULL && done != NULL);
    return device->ops->event_test(device, event, done);
}

int pld_event_wait(pld_device *device, pld_event event)
{
    PLDI_CHECK_ARG(device != NULL && event != NULL);
    return device->ops->event_wait(device, event);
}

int pld_event_seconds(pld_device *device, pld_event begin, pld_event end, double *out)
{
    PLDI_CHECK_ARG(device != NULL && begin != NULL && end != NULL && out != NULL);
    return device->ops->event_seconds(device, begin, end, out);
}
