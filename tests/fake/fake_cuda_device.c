/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Devices, and their primary contexts. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_cuda_impl.h"

enum { MAX_STACK = 16 };

static struct CUctx_st devices[FAKE_MAX_DEVICES];
static int n_devices;
static bool initialized;

static _Thread_local struct CUctx_st *stack[MAX_STACK];
static _Thread_local int depth;

/* The index-th of FAKE_CUDA_PCI, or what is there by default; CUDA writes capitals. */
static void set_pci(struct CUctx_st *c)
{
    const char *at = getenv("FAKE_CUDA_PCI");

    for (int i = 0; at != NULL && i < c->index; i++) {
        at = strchr(at, ',');
        at = at == NULL ? NULL : at + 1;
    }
    if (at != NULL)
        snprintf(c->pci, sizeof(c->pci), "%.*s", (int)strcspn(at, ","), at);
    else
        snprintf(c->pci, sizeof(c->pci), "0000:%02X:00.0", 0x1B + 0x10 * c->index);
}

static void set_uuid(struct CUctx_st *c)
{
    static const unsigned char base[16] = {0xfa, 0x4e, 0x01, 0x02, 0x03, 0x04, 0x45, 0x06,
                                           0x87, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x00};

    memcpy(c->uuid.bytes, base, sizeof(base));
    c->uuid.bytes[1] = (char)(0x4e + c->index); /* a short prefix tells them apart */
    c->uuid.bytes[15] = (char)c->index;
}

static void add(int index)
{
    struct CUctx_st *c = &devices[n_devices];

    c->ordinal = n_devices++;
    c->index = index;
    c->memory = (size_t)fake_env_number("FAKE_CUDA_MEMORY", 1L << 30);
    set_pci(c);
    set_uuid(c);
}

/* "GPU-" and at least the beginning of the uuid, as hexadecimal digits with dashes. */
static int index_of_uuid(const char *name, size_t length, int n)
{
    for (int i = 0; i < n; i++) {
        struct CUctx_st c = {.index = i};
        char text[48];
        int at = 4;

        set_uuid(&c);
        memcpy(text, "GPU-", 4);
        for (int b = 0; b < 16; b++)
            at += snprintf(text + at, sizeof(text) - (size_t)at, "%s%02x",
                           b == 4 || b == 6 || b == 8 || b == 10 ? "-" : "",
                           (unsigned char)c.uuid.bytes[b]);
        if (length <= strlen(text) && strncmp(name, text, length) == 0)
            return i;
    }
    return -1;
}

/* As CUDA does: what follows the first name that is not one is not seen. */
static void add_visible(const char *list, int n)
{
    while (*list != '\0' && n_devices < FAKE_MAX_DEVICES) {
        const size_t length = strcspn(list, ",");
        char *end;
        long index = strtol(list, &end, 10);

        if (strncmp(list, "GPU-", 4) == 0)
            index = index_of_uuid(list, length, n);
        else if (end != list + length || length == 0)
            index = -1;
        if (index < 0 || index >= n)
            return;
        add((int)index);
        list += length + (list[length] == ',');
    }
}

static int initialize(void)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    const int n = (int)fake_env_number("FAKE_CUDA_DEVICES", 2);
    const int fault = fake_init_fault();

    if (fault != PLDI_CU_SUCCESS)
        return fault;
    if (n > FAKE_MAX_DEVICES)
        fake_die("FAKE_CUDA_DEVICES=%d: at most %d", n, FAKE_MAX_DEVICES);
    if (visible != NULL)
        add_visible(visible, n);
    else
        for (int i = 0; i < n; i++)
            add(i);
    initialized = n_devices > 0;
    return initialized ? PLDI_CU_SUCCESS : PLDI_CU_NO_DEVICE;
}

int cuInit(unsigned flags)
{
    int rc = PLDI_CU_SUCCESS;

    FAKE_COUNT(cuInit);
    if (flags != 0)
        return PLDI_CU_INVALID_VALUE;
    fake_lock();
    if (!initialized)
        rc = initialize();
    fake_unlock();
    return rc;
}

int cuDriverGetVersion(int *version)
{
    FAKE_COUNT(cuDriverGetVersion);
    *version = (int)fake_env_number("FAKE_CUDA_DRIVER", 12040);
    return PLDI_CU_SUCCESS;
}

int cuDeviceGetCount(int *count)
{
    FAKE_COUNT(cuDeviceGetCount);
    if (!initialized)
        return FAKE_CU_NOT_INITIALIZED;
    *count = n_devices;
    return PLDI_CU_SUCCESS;
}

static int check_device(pldi_cu_device device)
{
    if (!initialized)
        return FAKE_CU_NOT_INITIALIZED;
    return device < 0 || device >= n_devices ? PLDI_CU_INVALID_DEVICE : PLDI_CU_SUCCESS;
}

int cuDeviceGet(pldi_cu_device *device, int ordinal)
{
    const int rc = check_device(ordinal);

    FAKE_COUNT(cuDeviceGet);
    if (rc == PLDI_CU_SUCCESS)
        *device = ordinal;
    return rc;
}

int cuDeviceGetName(char *name, int bytes, pldi_cu_device device)
{
    const int rc = check_device(device);

    FAKE_COUNT(cuDeviceGetName);
    if (rc == PLDI_CU_SUCCESS)
        snprintf(name, (size_t)bytes, "Fake H100 %d", devices[device].index);
    return rc;
}

int cuDeviceGetPCIBusId(char *id, int bytes, pldi_cu_device device)
{
    const int rc = check_device(device);

    FAKE_COUNT(cuDeviceGetPCIBusId);
    if (rc == PLDI_CU_SUCCESS)
        snprintf(id, (size_t)bytes, "%s", devices[device].pci);
    return rc;
}

int cuDeviceGetUuid_v2(struct pldi_cu_uuid *uuid, pldi_cu_device device)
{
    const int rc = check_device(device);

    FAKE_COUNT(cuDeviceGetUuid_v2);
    if (rc == PLDI_CU_SUCCESS)
        *uuid = devices[device].uuid;
    return rc;
}

int cuDeviceGetAttribute(int *value, int attribute, pldi_cu_device device)
{
    static const struct {
        int attribute, value;
    } known[] = {
        {PLDI_CU_ATTR_MULTIPROCESSORS, 132},
        {PLDI_CU_ATTR_COMPUTE_MODE, 0},
        {PLDI_CU_ATTR_MEMORY_CLOCK_KHZ, 2619000},
        {PLDI_CU_ATTR_MEMORY_BUS_BITS, 5120},
        {PLDI_CU_ATTR_L2_BYTES, 50 << 20},
        {PLDI_CU_ATTR_SHARED_OPTIN, 227 << 10},
        {PLDI_CU_ATTR_DMA_BUF, 1},
    };
    const int capability = (int)fake_env_number("FAKE_CUDA_CAPABILITY", 90);
    const int rc = check_device(device);

    FAKE_COUNT(cuDeviceGetAttribute);
    if (rc != PLDI_CU_SUCCESS)
        return rc;
    if (attribute == PLDI_CU_ATTR_CC_MAJOR || attribute == PLDI_CU_ATTR_CC_MINOR) {
        *value = attribute == PLDI_CU_ATTR_CC_MAJOR ? capability / 10 : capability % 10;
        return PLDI_CU_SUCCESS;
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].attribute == attribute) {
            *value = known[i].value;
            return PLDI_CU_SUCCESS;
        }
    return PLDI_CU_INVALID_VALUE;
}

int cuDeviceTotalMem_v2(size_t *bytes, pldi_cu_device device)
{
    const int rc = check_device(device);

    FAKE_COUNT(cuDeviceTotalMem_v2);
    if (rc == PLDI_CU_SUCCESS)
        *bytes = devices[device].memory;
    return rc;
}

/* ---- Contexts ---- */

int cuDevicePrimaryCtxRetain(pldi_cu_context *context, pldi_cu_device device)
{
    int rc;

    FAKE_COUNT(cuDevicePrimaryCtxRetain);
    fake_lock();
    rc = check_device(device);
    if (rc == PLDI_CU_SUCCESS) {
        struct CUctx_st *c = &devices[device];

        c->retained++;
        if (c->legacy == NULL) {
            c->legacy = fake_stream_new(c, true);
            c->legacy->legacy = true;
            fake_handle_drop(c->legacy); /* no handle of it is given out */
        }
        *context = c;
    }
    fake_unlock();
    return rc;
}

int cuDevicePrimaryCtxRelease_v2(pldi_cu_device device)
{
    int rc;

    FAKE_COUNT(cuDevicePrimaryCtxRelease_v2);
    fake_lock();
    rc = check_device(device);
    if (rc == PLDI_CU_SUCCESS && devices[device].retained == 0)
        rc = PLDI_CU_INVALID_CONTEXT;
    if (rc == PLDI_CU_SUCCESS && devices[device].retained == 1)
        fake_wait_device(&devices[device]);
    if (rc == PLDI_CU_SUCCESS)
        devices[device].retained--;
    fake_unlock();
    return rc;
}

static bool usable(const struct CUctx_st *c)
{
    return c >= devices && c < devices + n_devices && c->retained > 0;
}

int cuCtxPushCurrent_v2(pldi_cu_context context)
{
    int rc = PLDI_CU_SUCCESS;

    FAKE_COUNT(cuCtxPushCurrent_v2);
    fake_lock();
    if (!usable(context))
        rc = PLDI_CU_INVALID_CONTEXT;
    else if (depth == MAX_STACK)
        fake_die("contexts are pushed and not popped");
    else
        stack[depth++] = context;
    fake_unlock();
    return rc;
}

int cuCtxPopCurrent_v2(pldi_cu_context *context)
{
    FAKE_COUNT(cuCtxPopCurrent_v2);
    if (depth == 0)
        return PLDI_CU_INVALID_CONTEXT;
    depth--;
    if (context != NULL)
        *context = stack[depth];
    return PLDI_CU_SUCCESS;
}

int cuCtxSetCurrent(pldi_cu_context context)
{
    int rc = PLDI_CU_SUCCESS;

    FAKE_COUNT(cuCtxSetCurrent);
    fake_lock();
    if (context == NULL)
        depth -= depth > 0;
    else if (!usable(context))
        rc = PLDI_CU_INVALID_CONTEXT;
    else {
        depth += depth == 0;
        stack[depth - 1] = context;
    }
    fake_unlock();
    return rc;
}

int cuCtxGetCurrent(pldi_cu_context *context)
{
    FAKE_COUNT(cuCtxGetCurrent);
    *context = depth > 0 ? stack[depth - 1] : NULL;
    return PLDI_CU_SUCCESS;
}

int fake_current(struct CUctx_st **out)
{
    *out = depth > 0 ? stack[depth - 1] : NULL;
    if (!initialized)
        return FAKE_CU_NOT_INITIALIZED;
    if (*out == NULL || !usable(*out))
        return PLDI_CU_INVALID_CONTEXT;
    return (*out)->error;
}

int fake_context_of(int ordinal, struct CUctx_st **out)
{
    const int rc = check_device(ordinal);

    if (rc != PLDI_CU_SUCCESS)
        return rc;
    *out = &devices[ordinal];
    return usable(*out) ? (*out)->error : PLDI_CU_INVALID_CONTEXT;
}

int fake_cuda_current(void)
{
    return depth > 0 ? stack[depth - 1]->ordinal : -1;
}

void fake_cuda_pci(int device, char id[16])
{
    memcpy(id, devices[device].pci, sizeof(devices[device].pci));
}

int cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuCtxGetStreamPriorityRange);
    fake_lock();
    rc = fake_current(&c);
    fake_unlock();
    if (rc == PLDI_CU_SUCCESS) {
        *least = 0;
        *greatest = -5;
    }
    return rc;
}

int cuCtxSynchronize(void)
{
    struct CUctx_st *c;
    int rc;

    FAKE_COUNT(cuCtxSynchronize);
    fake_lock();
    rc = fake_current(&c);
    if (rc == PLDI_CU_SUCCESS)
        rc = fake_capture_unsafe();
    if (rc == PLDI_CU_SUCCESS) {
        fake_wait_device(c);
        rc = c->error;
    }
    fake_unlock();
    return rc;
}
