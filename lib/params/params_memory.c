/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Where tensors are: in the host's memory or that of the rank's GPU, in the caller's stream. */

#include <string.h>

#include "base/base_err.h"
#include "coll/coll_mem.h"
#include "device/device.h"
#include "params/params_impl.h"

pld_device *pldi_params_device(const pld_params *params)
{
    return params->device;
}

pld_stream pldi_params_stream(const pld_params *params)
{
    return params->stream;
}

int pldi_params_alloc(const pld_params *params, size_t count, size_t bytes, const char *what,
                      void **out)
{
    if (params->device != NULL)
        return pldi_device_zeros(params->device, count, bytes, what, params->stream, out);
    *out = pldi_mem_alloc(pld_mesh_world(params->mesh), count, bytes, what);
    return *out == NULL ? PLD_ERR_NOMEM : PLD_OK;
}

int pldi_params_alloc_arena(const pld_params *params, size_t count, size_t bytes, const char *what,
                            void **out)
{
    if (params->device != NULL)
        return pldi_device_arena(params->device, count, bytes, what, params->stream, out);
    return pldi_params_alloc(params, count, bytes, what, out);
}

void pldi_params_free(const pld_params *params, void *memory)
{
    if (params->device != NULL)
        params->device->ops->free(params->device, memory);
    else
        pldi_mem_free(pld_mesh_world(params->mesh), memory);
}

int pldi_params_copy(const pld_params *params, void *dst, const void *src, size_t bytes)
{
    if (params->device != NULL)
        return params->device->ops->copy(params->device, dst, src, bytes, params->stream);
    memcpy(dst, src, bytes);
    return PLD_OK;
}

int pldi_params_zero(const pld_params *params, void *memory, size_t bytes)
{
    if (params->device != NULL)
        return params->device->ops->fill(params->device, memory, 0, bytes, params->stream);
    memset(memory, 0, bytes);
    return PLD_OK;
}

int pldi_params_check_stream(const pld_params *params, const char *call)
{
    if (params->device == NULL)
        return PLD_OK;
    return pldi_device_check_stream(params->device, call, params->stream);
}

int pldi_params_order(const pld_params *params, pld_stream earlier, pld_stream later)
{
    return pldi_device_order(params->device, params->event, earlier, later);
}

int pld_params_set_stream(pld_params *params, pld_stream stream)
{
    PLDI_CHECK_ARG(params != NULL);
    if (params->device == NULL && stream != NULL)
        return pldi_fail(PLD_ERR_ARG,
                         "pld_params_set_stream: the tensors are in host memory, need NULL");
    if (params->device != NULL)
        PLDI_TRY(pldi_params_order(params, params->stream, stream));
    params->stream = stream;
    return PLD_OK;
}

int pld_params_zero_grad(pld_params *params)
{
    PLDI_CHECK_ARG(params != NULL);
    if (!params->committed)
        return pldi_fail(PLD_ERR_STATE, "there are no gradients before the commit");
    params->zeroed++;
    for (int i = 0; i < PLDI_PARAM_DTYPES; i++)
        if (params->arenas[i].count > 0)
            PLDI_TRY(pldi_params_zero(params, params->arenas[i].grad,
                                      params->arenas[i].count * pld_dtype_bytes((pld_dtype)i)));
    for (int i = 0; i < params->count; i++) {
        const pld_param_info *info = &params->entries[i].info;

        if (params->entries[i].outside)
            PLDI_TRY(
                pldi_params_zero(params, info->grad, info->count * pld_dtype_bytes(info->dtype)));
    }
    return PLD_OK;
}
