/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>

#include <dlfcn.h>
#include <string.h>

#include "cuda/cuda_device.h"

/* The first driver with everything that cuda_api.h names. */
enum { LOWEST_DRIVER = 12000 };

/* A function's address out of a data pointer, as dlsym() gives it. */
static int find(void *library, const char *symbol, void *function)
{
    void *address = dlsym(library, symbol);

    memcpy(function, &address, sizeof(address));
    return address != NULL;
}

static const char *find_all(struct pldi_cu *cu)
{
#define FIND(name, symbol, arguments)                                                              \
    if (!find(cu->library, #symbol, &cu->name))                                                    \
        return #symbol;
    PLDI_CU_FUNCTIONS(FIND)
#undef FIND
    return NULL;
}

static const char *explain(const struct pldi_cu *cu, int code)
{
    const char *text = NULL;

    switch (code) {
    case PLDI_CU_NO_DEVICE:
        return "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it";
    case PLDI_CU_STUB_LIBRARY:
        return "libcuda.so.1 is the toolkit's stub; take its folder out of LD_LIBRARY_PATH";
    case PLDI_CU_SYSTEM_DRIVER_MISMATCH:
        return "kernel module and libcuda.so.1 are of different versions; reload the module or "
               "reboot the node";
    default:
        return cu->error_string(code, &text) == PLDI_CU_SUCCESS && text != NULL ? text
                                                                                : "unknown error";
    }
}

static int start(const struct pldi_plugin_host *host, const struct pldi_cu *cu)
{
    int version = 0;
    const int code = cu->init(0);

    if (code != PLDI_CU_SUCCESS)
        return host->fail(PLD_ERR_UNSUPPORTED, "cuInit() says %d: %s", code, explain(cu, code));
    if (cu->driver_version(&version) != PLDI_CU_SUCCESS || version < LOWEST_DRIVER)
        return host->fail(PLD_ERR_UNSUPPORTED,
                          "the driver supports CUDA %d.%d, need %d.%d or newer; install a newer "
                          "driver on this node",
                          version / 1000, version % 1000 / 10, LOWEST_DRIVER / 1000,
                          LOWEST_DRIVER % 1000 / 10);
    return PLD_OK;
}

/* The library stays loaded: CUDA does not survive being unloaded. */
int pldi_cuda_load(const struct pldi_plugin_host *host, struct pldi_cu *out)
{
    const char *missing;

    out->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (out->library == NULL)
        return host->fail(PLD_ERR_UNSUPPORTED, "this node has no NVIDIA driver (%s)", dlerror());
    missing = find_all(out);
    if (missing != NULL)
        return host->fail(PLD_ERR_UNSUPPORTED,
                          "libcuda.so.1 has no %s; need a driver for CUDA %d.%d or newer", missing,
                          LOWEST_DRIVER / 1000, LOWEST_DRIVER % 1000 / 10);
    return start(host, out);
}
