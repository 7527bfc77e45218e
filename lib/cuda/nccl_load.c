/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda_device.h"

static int find(void *library, const char *symbol, void *function)
{
    void *address = dlsym(library, symbol);

    memcpy(function, &address, sizeof(address));
    return address != NULL;
}

static const char *find_all(struct pldi_nccl *n)
{
#define FIND(name, symbol, arguments)                                                              \
    if (!find(n->library, #symbol, &n->name))                                                      \
        return #symbol;
#define FIND_OPTIONAL(name, symbol, arguments) (void)find(n->library, #symbol, &n->name);
    PLDI_NCCL_FUNCTIONS(FIND)
    FIND(error_string, ncclGetErrorString, )
    FIND(last_error, ncclGetLastError, )
    PLDI_NCCL_OPTIONAL(FIND_OPTIONAL)
#undef FIND
#undef FIND_OPTIONAL
    return NULL;
}

/* NCCL's own form of versions: 22809, and 2708 before 2.9. */
static void check(struct pldi_cuda *d)
{
    struct pldi_nccl *n = &d->nccl;
    const char *missing = find_all(n);
    int version = 0;

    if (n->version != NULL && n->version(&version) == PLDI_NCCL_SUCCESS &&
        version < PLDI_NCCL_LOWEST) {
        const int minor = version >= 10000 ? version % 10000 / 100 : version % 1000 / 100;

        (void)snprintf(d->nccl_note, sizeof(d->nccl_note),
                       "NCCL 2.%d was found, need 2.20 or newer; set LD_LIBRARY_PATH to one",
                       minor);
    } else if (missing != NULL) {
        (void)snprintf(d->nccl_note, sizeof(d->nccl_note),
                       "libnccl.so.2 has no %s, need NCCL 2.20 or newer", missing);
    }
    n->found_version = version;
}

void pldi_nccl_load(struct pldi_cuda *device)
{
    struct pldi_nccl *n = &device->nccl;

    /* From 2.26 on operations of several communicators run in the order of the host's calls,
     * which is the same on all ranks, and cannot wait for each other crosswise. */
    (void)setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
    n->library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (n->library == NULL)
        (void)snprintf(device->nccl_note, sizeof(device->nccl_note),
                       "NCCL was not found (%s); set LD_LIBRARY_PATH to where libnccl.so.2 is",
                       dlerror());
    else
        check(device);
    if (device->nccl_note[0] != '\0') {
        n->library = NULL;
        return;
    }
    device->info.nccl = n->found_version;
}
