/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>

#include "cuda/cuda_device.h"

/* What a block may have of dynamic shared memory without asking for it. */
enum { SHARED_UNASKED = 48 << 10 };

int pldi_cuda_module_open(pld_device *device, const void *image, pld_module **out)
{
    struct pldi_cuda *d = pldi_cuda_of(device);
    pld_module *m = d->host->alloc(1, sizeof(*m), "a module");
    struct pldi_cuda_visit visit;
    int code;

    if (m == NULL)
        return PLD_ERR_NOMEM;
    m->head.device = &d->head;
    visit = pldi_cuda_enter(d);
    code = d->cu.module_load(&m->handle, image);
    pldi_cuda_leave(&visit);
    if (code != PLDI_CU_SUCCESS) {
        d->host->free(m);
        return pldi_cuda_fail(d, code, "loading kernels for compute capability %d.%d",
                              d->info.capability / 10, d->info.capability % 10);
    }
    *out = m;
    return PLD_OK;
}

void pldi_cuda_module_close(pld_module **module)
{
    const struct pldi_cuda *d;
    struct pldi_cuda_visit visit;

    if (module == NULL || *module == NULL)
        return;
    d = pldi_cuda_of((*module)->head.device);
    visit = pldi_cuda_enter(d);
    (void)d->cu.module_unload((*module)->handle);
    pldi_cuda_leave(&visit);
    d->host->free(*module);
    *module = NULL;
}

int pldi_cuda_module_find(pld_module *module, const char *name, pld_kernel *out)
{
    const struct pldi_cuda *d = pldi_cuda_of(module->head.device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    pldi_cu_function function = NULL;
    const int code = d->cu.module_function(&function, module->handle, name);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "looking for kernel '%s'", name);
    *out = function;
    return PLD_OK;
}

static unsigned at_least_one(unsigned n)
{
    return n > 0 ? n : 1;
}

int pldi_cuda_kernel_launch(pld_module *module, pld_kernel kernel, const pld_launch *launch,
                            pld_stream stream, void **arguments)
{
    const struct pldi_cuda *d = pldi_cuda_of(module->head.device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    int code = PLDI_CU_SUCCESS;

    if (launch->shared_bytes > SHARED_UNASKED)
        code =
            d->cu.function_set(kernel, PLDI_CU_FUNC_MAX_DYNAMIC_SHARED, (int)launch->shared_bytes);
    if (code == PLDI_CU_SUCCESS)
        code = d->cu.launch(kernel, at_least_one(launch->grid[0]), at_least_one(launch->grid[1]),
                            at_least_one(launch->grid[2]), at_least_one(launch->block[0]),
                            at_least_one(launch->block[1]), at_least_one(launch->block[2]),
                            launch->shared_bytes, stream, arguments, NULL);
    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "launching a kernel with %u x %u x %u blocks of %u x %u x %u threads",
                  launch->grid[0], launch->grid[1], launch->grid[2], launch->block[0],
                  launch->block[1], launch->block[2]);
    return PLD_OK;
}

int pldi_cuda_launch(pld_device *device, enum pldi_cuda_kernel kernel, unsigned grid,
                     unsigned block, unsigned shared_bytes, pld_stream stream, void **arguments)
{
    struct pldi_cuda *d = pldi_cuda_of(device);
    const pld_launch launch = {.grid = {grid}, .block = {block}, .shared_bytes = shared_bytes};

    return pldi_cuda_kernel_launch(d->module, d->kernels[kernel], &launch, stream, arguments);
}
