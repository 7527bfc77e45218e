/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Kernels and graphs of the caller; handles that know their device by themselves. */

#include "base/base_err.h"
#include "base/base_mem.h"
#include "device/device.h"

static const struct pldi_device_ops *ops_of(const void *handle)
{
    return ((const struct pldi_device_handle *)handle)->device->ops;
}

int pld_module_open(pld_device *device, const void *image, pld_module **out)
{
    PLDI_CHECK_ARG(device != NULL && image != NULL && out != NULL);
    return device->ops->module_open(device, image, out);
}

void pld_module_close(pld_module **module)
{
    if (module != NULL && *module != NULL)
        ops_of(*module)->module_close(module);
}

int pld_module_find(pld_module *module, const char *name, pld_kernel *out)
{
    PLDI_CHECK_ARG(module != NULL && name != NULL && out != NULL);
    return ops_of(module)->module_find(module, name, out);
}

int pld_kernel_launch(pld_module *module, pld_kernel kernel, const pld_launch *launch,
                      pld_stream stream, void **arguments)
{
    PLDI_CHECK_ARG(module != NULL && kernel != NULL && launch != NULL && arguments != NULL);
    return ops_of(module)->launch(module, kernel, launch, stream, arguments);
}

int pld_graph_begin(pld_device *device, pld_stream stream)
{
    PLDI_CHECK_ARG(device != NULL && stream != NULL);
    return device->ops->graph_begin(device, stream);
}

int pld_graph_end(pld_device *device, pld_stream stream, pld_graph **out)
{
    PLDI_CHECK_ARG(device != NULL && stream != NULL && out != NULL);
    return device->ops->graph_end(device, stream, out);
}

int pld_graph_launch(pld_graph *graph, pld_stream stream)
{
    PLDI_CHECK_ARG(graph != NULL);
    return ops_of(graph)->graph_launch(graph, stream);
}

void pld_graph_destroy(pld_graph **graph)
{
    if (graph != NULL && *graph != NULL)
        ops_of(*graph)->graph_destroy(graph);
}
