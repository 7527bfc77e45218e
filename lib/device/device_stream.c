/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What those who keep tensors on a device all do with it. */

#include <stdio.h>

#include "base/base_err.h"
#include "device/device.h"

int pldi_device_order(pld_device *device, pld_event event, pld_stream earlier, pld_stream later)
{
    if (earlier == later)
        return PLD_OK;
    PLDI_TRY(device->ops->event_record(device, event, earlier));
    return device->ops->stream_after(device, later, event);
}

int pldi_device_check_stream(pld_device *device, const char *call, pld_stream stream)
{
    int records = 0;

    PLDI_TRY(device->ops->stream_records(device, stream, &records));
    if (!records)
        return PLD_OK;
    return pldi_fail(PLD_ERR_STATE,
                     "%s: its stream is being recorded into a CUDA graph, and this cannot be part "
                     "of one; call it when the recording has ended",
                     call);
}

static int fail(int code, const char *what)
{
    char reason[512];

    (void)snprintf(reason, sizeof(reason), "%s", pld_last_error());
    return pldi_fail(code, "%s: %s", what, reason);
}

static int make_zeros(pld_device *device, size_t count, size_t bytes, int arena, const char *what,
                      pld_stream stream, void **out)
{
    void *memory = NULL;
    size_t total;
    int rc;

    if (__builtin_mul_overflow(count, bytes, &total))
        return pldi_fail(PLD_ERR_DEVMEM, "%s: %zu times %zu bytes are more than a device holds",
                         what, count, bytes);
    rc = arena ? device->ops->alloc_arena(device, total, &memory)
               : device->ops->alloc(device, total, PLD_MEM_DEVICE, &memory);
    if (rc == PLD_OK)
        rc = device->ops->fill(device, memory, 0, total, stream);
    if (rc < 0) {
        rc = fail(rc, what);
        device->ops->free(device, memory);
        return rc;
    }
    *out = memory;
    return PLD_OK;
}

int pldi_device_zeros(pld_device *device, size_t count, size_t bytes, const char *what,
                      pld_stream stream, void **out)
{
    return make_zeros(device, count, bytes, 0, what, stream, out);
}

int pldi_device_arena(pld_device *device, size_t count, size_t bytes, const char *what,
                      pld_stream stream, void **out)
{
    return make_zeros(device, count, bytes, device->registers, what, stream, out);
}
