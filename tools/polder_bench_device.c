/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Vectors in the memory of a GPU.  Numbers are made and looked at in a pinned shadow of the
 * first set; a call has ended when its stream is empty.
 */

#include "polder_bench.h"

#include <string.h>

int bench_device_open(struct bench_area *area, size_t set_bytes)
{
    pld_device *gpu = pld_runtime_device(area->runtime);
    void *memory = NULL;
    int rc = pld_device_alloc(gpu, area->bytes, PLD_MEM_DEVICE, &memory);

    area->data = memory;
    memory = NULL;
    if (rc == 0)
        rc = pld_device_alloc(gpu, set_bytes, PLD_MEM_PINNED, &memory);
    area->shadow = memory;
    if (rc == 0)
        rc = pld_stream_create(gpu, 0, &area->stream);
    if (rc == 0)
        rc = pld_device_fill(gpu, area->data, 0, area->bytes, area->stream);
    return rc < 0 ? rc : pld_stream_wait(gpu, area->stream);
}

void bench_device_close(struct bench_area *area)
{
    pld_device *gpu = pld_runtime_device(area->runtime);

    pld_stream_destroy(gpu, &area->stream);
    pld_device_free(gpu, area->shadow);
    pld_device_free(gpu, area->data);
}

int bench_device_wait(const struct bench_area *area)
{
    return pld_stream_wait(pld_runtime_device(area->runtime), area->stream);
}

int bench_device_copy(const struct bench_area *area, char *to, const char *from, size_t bytes)
{
    const int rc =
        pld_device_copy(pld_runtime_device(area->runtime), to, from, bytes, area->stream);

    return rc < 0 ? rc : bench_device_wait(area);
}

/* The same call on the shadow. */
static struct bench_call shadow_of(const struct bench_area *area, const struct bench_call *call)
{
    struct bench_call c = *call;

    c.send = area->shadow + ((char *)call->send - area->data);
    c.recv = area->shadow + ((char *)call->recv - area->data);
    return c;
}

int bench_device_fill(const struct bench_area *area, const struct bench_call *call,
                      const struct bench_op *op, size_t set_bytes)
{
    const struct bench_call c = shadow_of(area, call);

    bench_check_fill(&c, op);
    return bench_device_copy(area, area->data, area->shadow, set_bytes);
}

int bench_device_count(const struct bench_area *area, const struct bench_call *call,
                       const struct bench_op *op, size_t set_bytes, long long *wrong)
{
    const struct bench_call c = shadow_of(area, call);
    const int rc = bench_device_copy(area, area->shadow, area->data, set_bytes);

    *wrong = rc < 0 ? 0 : bench_check_count(&c, op);
    return rc;
}

int bench_device_clear(const struct bench_area *area, size_t set_bytes)
{
    const int rc =
        pld_device_fill(pld_runtime_device(area->runtime), area->data, 0, set_bytes, area->stream);

    return rc < 0 ? rc : bench_device_wait(area);
}
