/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Modules and kernels: an image is taken unread, its kernels are host functions by name. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_cuda_impl.h"
#include "fake_kernels.h"

enum { MAX_LIBRARIES = 8, STATIC_SHARED = 48 << 10, MAX_SHARED = 227 << 10 };

struct CUmod_st {
    struct fake_handle head;
    struct CUctx_st *ctx;
    struct CUfunc_st *functions;
};

struct CUfunc_st {
    struct fake_handle head;
    struct CUfunc_st *next;
    struct CUctx_st *ctx;
    const struct fake_kernel *kernel;
    unsigned shared_limit;
};

static const struct fake_kernel *tables[MAX_LIBRARIES];
static int n_tables;

static const struct fake_kernel *open_table(const char *path, int length)
{
    char name[4096];
    void *library, *table;

    snprintf(name, sizeof(name), "%.*s", length, path);
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        fake_die("FAKE_CUDA_KERNELS: %s", dlerror());
    table = dlsym(library, FAKE_KERNELS_SYMBOL);
    if (table == NULL)
        fake_die("FAKE_CUDA_KERNELS: %s has no " FAKE_KERNELS_SYMBOL, name);
    return table;
}

static void open_tables(void)
{
    const char *at = getenv("FAKE_CUDA_KERNELS");

    if (n_tables > 0)
        return;
    while (at != NULL && *at != '\0' && n_tables < MAX_LIBRARIES - 1) {
        const size_t length = strcspn(at, ":");

        tables[n_tables++] = open_table(at, (int)length);
        at += length + (at[length] == ':');
    }
    tables[n_tables] = dlsym(RTLD_DEFAULT, FAKE_KERNELS_SYMBOL);
    n_tables += tables[n_tables] != NULL;
}

static const struct fake_kernel *find(const char *name)
{
    open_tables();
    for (int t = 0; t < n_tables; t++)
        for (const struct fake_kernel *k = tables[t]; k->name != NULL; k++)
            if (strcmp(k->name, name) == 0)
                return k;
    return NULL;
}

int cuModuleLoadData(pldi_cu_module *module, const void *image)
{
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuModuleLoadData);
    fake_lock();
    rc = fake_current(&c);
    if (rc == PLDI_CU_SUCCESS && image == NULL)
        rc = PLDI_CU_INVALID_VALUE;
    if (rc == PLDI_CU_SUCCESS)
        rc = fake_call_fault("module", PLDI_CU_NO_BINARY_FOR_GPU);
    if (rc == PLDI_CU_SUCCESS) {
        *module = fake_handle_new(FAKE_MODULE, sizeof(**module));
        (*module)->ctx = c;
    }
    fake_unlock();
    return rc;
}

static int enter_module(pldi_cu_module module)
{
    struct CUctx_st *c;
    int rc;

    fake_lock();
    rc = fake_current(&c);
    if (rc == PLDI_CU_SUCCESS && !fake_handle_valid(module, FAKE_MODULE))
        rc = PLDI_CU_INVALID_HANDLE;
    return rc;
}

int cuModuleUnload(pldi_cu_module module)
{
    const int rc = enter_module(module);

    FAKE_COUNT(cuModuleUnload);
    if (rc == PLDI_CU_SUCCESS) {
        while (module->functions != NULL) {
            struct CUfunc_st *f = module->functions;

            module->functions = f->next;
            fake_handle_drop(f);
            free(f);
        }
        fake_handle_drop(module);
        free(module);
    }
    fake_unlock();
    return rc;
}

static struct CUfunc_st *function_new(struct CUmod_st *module, const struct fake_kernel *kernel)
{
    struct CUfunc_st *f = fake_handle_new(FAKE_FUNCTION, sizeof(*f));

    f->ctx = module->ctx;
    f->kernel = kernel;
    f->shared_limit = STATIC_SHARED;
    f->next = module->functions;
    module->functions = f;
    return f;
}

int cuModuleGetFunction(pldi_cu_function *function, pldi_cu_module module, const char *name)
{
    int rc = enter_module(module);

    FAKE_COUNT(cuModuleGetFunction);
    if (rc == PLDI_CU_SUCCESS) {
        const struct fake_kernel *kernel = find(name);
        struct CUfunc_st *f = module->functions;

        while (f != NULL && f->kernel != kernel)
            f = f->next;
        if (kernel == NULL)
            rc = PLDI_CU_NOT_FOUND;
        else
            *function = f != NULL ? f : function_new(module, kernel);
    }
    fake_unlock();
    return rc;
}

int cuFuncSetAttribute(pldi_cu_function function, int attribute, int value)
{
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuFuncSetAttribute);
    fake_lock();
    rc = fake_current(&c);
    if (rc == PLDI_CU_SUCCESS && !fake_handle_valid(function, FAKE_FUNCTION))
        rc = PLDI_CU_INVALID_HANDLE;
    if (rc == PLDI_CU_SUCCESS && (value < 0 || value > MAX_SHARED))
        rc = PLDI_CU_INVALID_VALUE;
    if (rc == PLDI_CU_SUCCESS && attribute == PLDI_CU_FUNC_MAX_DYNAMIC_SHARED)
        function->shared_limit = (unsigned)value;
    fake_unlock();
    return rc;
}

/* ---- Launch ---- */

struct launch {
    const struct fake_kernel *kernel;
    unsigned grid[3], block[3], shared_bytes;
    void **arguments;       /* into what follows */
    unsigned char *storage; /* each of them aligned to 16 */
};

static int run_launch(void *context)
{
    const struct launch *l = context;

    l->kernel->run(l->grid, l->block, l->shared_bytes, l->arguments);
    return 1;
}

static void release(void *context)
{
    struct launch *l = context;

    free(l->arguments);
    free(l->storage);
    free(l);
}

static void copy_arguments(struct launch *l, void **arguments)
{
    const struct fake_kernel *k = l->kernel;
    size_t at = 0;

    for (size_t i = 0; i < k->n_arguments; i++)
        at += (k->argument_bytes[i] + 15) / 16 * 16;
    l->storage = fake_alloc(at + 1, 1);
    l->arguments = fake_alloc(k->n_arguments + 1, sizeof(void *));
    at = 0;
    for (size_t i = 0; i < k->n_arguments; i++) {
        l->arguments[i] = memcpy(l->storage + at, arguments[i], k->argument_bytes[i]);
        at += (k->argument_bytes[i] + 15) / 16 * 16;
    }
}

/* The limits of compute capability 9.0. */
static bool launchable(const struct launch *l, const struct CUfunc_st *f)
{
    const unsigned *b = l->block, *g = l->grid;

    if (b[0] == 0 || b[1] == 0 || b[2] == 0 || g[0] == 0 || g[1] == 0 || g[2] == 0)
        return false;
    if (b[0] > 1024 || b[1] > 1024 || b[2] > 64 || (unsigned long)b[0] * b[1] * b[2] > 1024)
        return false;
    if (g[0] > 0x7fffffffU || g[1] > 65535 || g[2] > 65535)
        return false;
    return l->shared_bytes <= f->shared_limit;
}

static int launch(struct CUctx_st *c, const struct CUfunc_st *f, const struct launch *how,
                  pldi_cu_stream stream, void **arguments)
{
    struct launch *l;
    struct fake_work *work;

    if (f->ctx != c)
        return PLDI_CU_INVALID_CONTEXT;
    if (!launchable(how, f) || (arguments == NULL && f->kernel->n_arguments > 0))
        return PLDI_CU_INVALID_VALUE;
    l = fake_alloc(1, sizeof(*l));
    *l = *how;
    l->kernel = f->kernel;
    copy_arguments(l, arguments);
    work = fake_work_new(run_launch, l, release);
    fake_work_fault(work, "launch");
    return fake_submit(c, stream, work);
}

int cuLaunchKernel(pldi_cu_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                   pldi_cu_stream stream, void **arguments, void **extra)
{
    const struct launch how = {.grid = {grid_x, grid_y, grid_z},
                               .block = {block_x, block_y, block_z},
                               .shared_bytes = shared_bytes};
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuLaunchKernel);
    fake_lock();
    rc = fake_current(&c);
    if (rc == PLDI_CU_SUCCESS && !fake_handle_valid(function, FAKE_FUNCTION))
        rc = PLDI_CU_INVALID_HANDLE;
    if (rc == PLDI_CU_SUCCESS && extra != NULL)
        rc = PLDI_CU_INVALID_VALUE;
    if (rc == PLDI_CU_SUCCESS)
        rc = launch(c, function, &how, stream, arguments);
    fake_unlock();
    return rc;
}
