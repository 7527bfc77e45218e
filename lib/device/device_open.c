/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The plugin lies beside the library that looks for it, unless POLDER_CUDA_PLUGIN says
 * where; it stays loaded, for CUDA has threads of its own by then.
 */

#include <polder/version.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "device/device.h"

#define PLUGIN "libpolder-cuda.so"

typedef const struct pldi_plugin *entry(void);

enum { MAX_PATH = 4096 };

/* The folder of the file that this code is in, with its slash; "" if that is not known. */
static void own_folder(char *out, size_t bytes)
{
    static const char here;
    const char *slash;
    Dl_info info;

    out[0] = '\0';
    if (dladdr(&here, &info) == 0)
        return;
    slash = info.dli_fname != NULL ? strrchr(info.dli_fname, '/') : NULL;
    if (slash != NULL && (size_t)(slash - info.dli_fname) + 2 <= bytes)
        (void)snprintf(out, bytes, "%.*s", (int)(slash - info.dli_fname) + 1, info.dli_fname);
}

static void *load(char *path, size_t bytes)
{
    const char *wanted = getenv("POLDER_CUDA_PLUGIN");
    void *library;
    size_t folder;

    if (wanted != NULL && wanted[0] != '\0') {
        (void)snprintf(path, bytes, "%s", wanted);
        return dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    own_folder(path, bytes - sizeof(PLUGIN));
    folder = strlen(path);
    memcpy(path + folder, PLUGIN, sizeof(PLUGIN));
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return library != NULL ? library : dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
}

static int check(const struct pldi_plugin *plugin, const char *path)
{
    if (plugin->abi == PLDI_PLUGIN_ABI && strcmp(plugin->version, PLD_VERSION) == 0)
        return PLD_OK;
    return pldi_fail(PLD_ERR_UNSUPPORTED,
                     "%s is of polder %.32s (interface %u), this is polder %s (interface %d); "
                     "install both from one build",
                     path, plugin->abi == PLDI_PLUGIN_ABI ? plugin->version : "another version",
                     plugin->abi, PLD_VERSION, PLDI_PLUGIN_ABI);
}

static int find(const struct pldi_plugin **out)
{
    char path[MAX_PATH];
    void *library = load(path, sizeof(path));
    entry *enter;
    void *symbol;

    if (library == NULL)
        return pldi_fail(PLD_ERR_UNSUPPORTED,
                         "the CUDA plugin cannot be loaded (%s); POLDER_CUDA_PLUGIN says where "
                         "it is",
                         dlerror());
    symbol = dlsym(library, PLDI_PLUGIN_SYMBOL);
    if (symbol == NULL)
        return pldi_fail(PLD_ERR_UNSUPPORTED, "%s is no plugin of polder: it has no %s()", path,
                         PLDI_PLUGIN_SYMBOL);
    memcpy(&enter, &symbol, sizeof(enter));
    *out = enter();
    return check(*out, path);
}

static const struct pldi_plugin_host host = {pldi_fail, pldi_alloc, pldi_free};

int pldi_device_list(const char *wanted, char (*pcis)[PLDI_PCI_BYTES], int most, int *n)
{
    const struct pldi_plugin *plugin = NULL;

    *n = 0;
    PLDI_TRY(find(&plugin));
    return plugin->list(&host, wanted, pcis, most, n);
}

int pldi_device_open(const char *pci, pld_device **out)
{
    const struct pldi_plugin *plugin = NULL;
    char first[1][PLDI_PCI_BYTES];
    int n = 0;

    PLDI_TRY(find(&plugin));
    if (pci == NULL)
        PLDI_TRY(plugin->list(&host, NULL, first, 1, &n));
    PLDI_TRY(plugin->open(&host, pci != NULL ? pci : first[0], out));
    (*out)->sharing = 1;
    return PLD_OK;
}

void pldi_device_close(pld_device **device)
{
    if (device == NULL || *device == NULL)
        return;
    (*device)->ops->close(*device);
    *device = NULL;
}
