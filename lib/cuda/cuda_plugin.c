/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Opening a GPU: the driver, the choice among the GPUs that this process sees, the
 * primary context, polder's kernels.  The one symbol that the plugin exports is here.
 */

#include <polder/error.h>
#include <polder/export.h>
#include <polder/version.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cuda/cuda_device.h"

enum { MAX_TEXT = 512 };

struct pldi_cuda_visit pldi_cuda_enter(const struct pldi_cuda *device)
{
    pldi_cu_context current = NULL;

    (void)device->cu.context_get(&current);
    if (current == device->context)
        return (struct pldi_cuda_visit){device, 0};
    (void)device->cu.context_push(device->context);
    return (struct pldi_cuda_visit){device, 1};
}

void pldi_cuda_leave(const struct pldi_cuda_visit *visit)
{
    pldi_cu_context ours;

    if (visit->pushed)
        (void)visit->device->cu.context_pop(&ours);
}

static int code_of(int code)
{
    switch (code) {
    case PLDI_CU_OUT_OF_MEMORY:
        return PLD_ERR_DEVMEM;
    case PLDI_CU_NO_BINARY_FOR_GPU:
        return PLD_ERR_UNSUPPORTED;
    case PLDI_CU_NOT_FOUND:
        return PLD_ERR_NOTFOUND;
    default:
        return PLD_ERR_DEVICE;
    }
}

int pldi_cuda_fail(const struct pldi_cuda *device, int code, const char *format, ...)
{
    char what[MAX_TEXT];
    const char *name = NULL;
    const char *text = NULL;
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(what, sizeof(what), format, arguments);
    va_end(arguments);
    (void)device->cu.error_name(code, &name);
    (void)device->cu.error_string(code, &text);
    return device->host->fail(code_of(code), "GPU %s (%s): %s: %s: %s", device->info.pci,
                              device->info.name, what, name != NULL ? name : "unknown error",
                              text != NULL ? text : "no text");
}

/* CUDA's form has upper case and people leave the domain out; the kernel's does neither. */
static void set_pci(char out[16], const char *text)
{
    const char *colon = strchr(text, ':');
    unsigned domain = 0;
    unsigned bus = 0;
    unsigned device = 0;
    unsigned function = 0;

    if (colon != NULL && strchr(colon + 1, ':') != NULL)
        (void)sscanf(text, "%x:%x:%x.%x", &domain, &bus, &device, &function);
    else
        (void)sscanf(text, "%x:%x.%x", &bus, &device, &function);
    (void)snprintf(out, 16, "%04x:%02x:%02x.%x", domain & 0xffffU, bus & 0xffU, device & 0xffU,
                   function & 0xfU);
}

static int pci_of(const struct pldi_cuda *d, int ordinal, char out[PLDI_PCI_BYTES])
{
    pldi_cu_device device = 0;
    char text[32] = "";

    PLDI_CUDA_TRY(d, d->cu.device_get(&device, ordinal), "looking at GPU %d", ordinal);
    PLDI_CUDA_TRY(d, d->cu.device_pci(text, sizeof(text), device), "looking at GPU %d", ordinal);
    set_pci(out, text);
    return PLD_OK;
}

static int count(const struct pldi_cuda *d, int *n)
{
    PLDI_CUDA_TRY(d, d->cu.device_count(n), "counting GPUs");
    if (*n == 0)
        return d->host->fail(PLD_ERR_UNSUPPORTED,
                             "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it");
    return PLD_OK;
}

static int by_pci(const struct pldi_cuda *d, const char *wanted, int *ordinal)
{
    char pci[PLDI_PCI_BYTES];
    char its[PLDI_PCI_BYTES];
    int n = 0;
    int rc = count(d, &n);

    set_pci(pci, wanted);
    for (int g = 0; g < n && rc == PLD_OK; g++) {
        *ordinal = g;
        rc = pci_of(d, g, its);
        if (rc == PLD_OK && strcmp(its, pci) == 0)
            return PLD_OK;
    }
    return rc < 0 ? rc
                  : d->host->fail(PLD_ERR_UNSUPPORTED,
                                  "no GPU with PCI id '%s' among the %d that this process sees",
                                  wanted, n);
}

static int list(const struct pldi_cuda *d, const char *wanted, char (*pcis)[PLDI_PCI_BYTES],
                int most, int *n)
{
    int first = 0;
    int rc = wanted != NULL ? by_pci(d, wanted, &first) : count(d, n);

    if (rc < 0)
        return rc;
    *n = wanted != NULL ? 1 : *n < most ? *n : most;
    for (int g = 0; g < *n && rc == PLD_OK; g++)
        rc = pci_of(d, first + g, pcis[g]);
    return rc;
}

static int list_devices(const struct pldi_plugin_host *host, const char *wanted,
                        char (*pcis)[PLDI_PCI_BYTES], int most, int *n)
{
    struct pldi_cuda *d = host->alloc(1, sizeof(*d), "a GPU");
    int rc;

    if (d == NULL)
        return PLD_ERR_NOMEM;
    d->host = host;
    rc = pldi_cuda_load(host, &d->cu);
    if (rc == PLD_OK)
        rc = list(d, wanted, pcis, most, n);
    host->free(d);
    return rc;
}

static void set_uuid(char out[48], const struct pldi_cu_uuid *uuid)
{
    static const char dashes[] = {4, 6, 8, 10};
    size_t at = (size_t)snprintf(out, 48, "GPU-");

    for (int i = 0; i < 16; i++) {
        if (memchr(dashes, i, sizeof(dashes)) != NULL)
            out[at++] = '-';
        (void)snprintf(out + at, 3, "%02x", (unsigned)(unsigned char)uuid->bytes[i]);
        at += 2;
    }
}

static int attribute(const struct pldi_cuda *d, int which)
{
    int value = 0;

    (void)d->cu.device_attribute(&value, which, d->device);
    return value;
}

static int fill_info(struct pldi_cuda *d, int ordinal)
{
    pld_device_info *info = &d->info;
    struct pldi_cu_uuid uuid = {{0}};
    size_t bytes = 0;
    const int rc = pci_of(d, ordinal, info->pci);

    if (rc < 0)
        return rc;
    info->ordinal = ordinal;
    info->sharing = 1;
    PLDI_CUDA_TRY(d, d->cu.device_get(&d->device, ordinal), "opening");
    (void)d->cu.device_name(info->name, sizeof(info->name), d->device);
    PLDI_CUDA_TRY(d, d->cu.device_memory(&bytes, d->device), "asking for its memory");
    info->bytes = bytes;
    (void)d->cu.device_uuid(&uuid, d->device);
    set_uuid(info->uuid, &uuid);
    info->capability =
        attribute(d, PLDI_CU_ATTR_CC_MAJOR) * 10 + attribute(d, PLDI_CU_ATTR_CC_MINOR);
    info->multiprocessors = attribute(d, PLDI_CU_ATTR_MULTIPROCESSORS);
    (void)d->cu.driver_version(&info->driver);
    return PLD_OK;
}

/* Without nvcc the image is a text that no real driver takes. */
static int open_image(struct pldi_cuda *d)
{
    const int rc = pldi_cuda_module_open(&d->head, pldi_cuda_image, &d->module);

    if (rc < 0 && memcmp(pldi_cuda_image, PLDI_CUDA_NO_IMAGE, sizeof(PLDI_CUDA_NO_IMAGE) - 1) == 0)
        return d->host->fail(PLD_ERR_UNSUPPORTED,
                             "libpolder-cuda.so was built without nvcc and has no kernels; build "
                             "polder where the CUDA toolkit is");
    return rc;
}

static int load_kernels(struct pldi_cuda *d)
{
    void *scratch = NULL;
    int rc = open_image(d);

    for (int k = 0; rc == PLD_OK && k < PLDI_CUDA_KERNELS; k++)
        rc = pldi_cuda_module_find(d->module, pldi_cuda_kernel_names[k], &d->kernels[k]);
    if (rc == PLD_OK)
        rc = pldi_cuda_alloc(&d->head, PLDI_CUDA_SCRATCH_BYTES, PLD_MEM_DEVICE, &scratch);
    d->scratch = scratch;
    return rc;
}

static int start(struct pldi_cuda *d, const char *pci)
{
    struct pldi_cuda_visit visit;
    int ordinal = 0;
    int rc = pldi_cuda_load(d->host, &d->cu);

    if (rc == PLD_OK)
        rc = by_pci(d, pci, &ordinal);
    if (rc == PLD_OK)
        rc = fill_info(d, ordinal);
    if (rc < 0)
        return rc;
    PLDI_CUDA_TRY(d, d->cu.context_retain(&d->context, d->device), "making its context");
    visit = pldi_cuda_enter(d);
    (void)d->cu.priorities(&d->least_priority, &d->greatest_priority);
    pldi_cuda_leave(&visit);
    rc = load_kernels(d);
    if (rc == PLD_OK)
        pldi_nccl_load(d);
    return rc;
}

static void close_device(pld_device *device)
{
    struct pldi_cuda *d = pldi_cuda_of(device);

    if (d->context != NULL) {
        pldi_cuda_free(device, d->scratch);
        pldi_cuda_module_close(&d->module);
        (void)d->cu.context_release(d->device);
    }
    (void)pthread_mutex_destroy(&d->lock);
    d->host->free(d);
}

static int open_device(const struct pldi_plugin_host *host, const char *pci, pld_device **out)
{
    struct pldi_cuda *d = host->alloc(1, sizeof(*d), "a GPU");
    int rc;

    if (d == NULL)
        return PLD_ERR_NOMEM;
    d->head.ops = &pldi_cuda_ops;
    d->host = host;
    (void)pthread_mutex_init(&d->lock, NULL);
    rc = start(d, pci);
    if (rc < 0) {
        close_device(&d->head);
        return rc;
    }
    d->head.comm = d->nccl.library != NULL ? &pldi_nccl_ops : NULL;
    *out = &d->head;
    return PLD_OK;
}

static void get_info(const pld_device *device, pld_device_info *out)
{
    *out = pldi_cuda_of(device)->info;
}

int pldi_cuda_multiprocessors(const pld_device *device)
{
    return pldi_cuda_of(device)->info.multiprocessors;
}

void *pldi_cuda_scratch(pld_device *device)
{
    return pldi_cuda_of(device)->scratch;
}

const char *pldi_cuda_comm_note(const pld_device *device)
{
    return pldi_cuda_of(device)->nccl_note;
}

const struct pldi_device_ops pldi_cuda_ops = {
    .close = close_device,
    .get_info = get_info,
    .alloc = pldi_cuda_alloc,
    .alloc_arena = pldi_cuda_alloc_arena,
    .free = pldi_cuda_free,
    .where = pldi_cuda_where,
    .free_bytes = pldi_cuda_free_bytes,
    .copy = pldi_cuda_copy,
    .fill = pldi_cuda_fill,
    .stream_create = pldi_cuda_stream_create,
    .stream_destroy = pldi_cuda_stream_destroy,
    .stream_wait = pldi_cuda_stream_wait,
    .stream_records = pldi_cuda_stream_records,
    .event_create = pldi_cuda_event_create,
    .event_destroy = pldi_cuda_event_destroy,
    .event_record = pldi_cuda_event_record,
    .stream_after = pldi_cuda_stream_after,
    .event_test = pldi_cuda_event_test,
    .event_wait = pldi_cuda_event_wait,
    .pin = pldi_cuda_pin,
    .unpin = pldi_cuda_unpin,
    .event_seconds = pldi_cuda_event_seconds,
    .module_open = pldi_cuda_module_open,
    .module_close = pldi_cuda_module_close,
    .module_find = pldi_cuda_module_find,
    .launch = pldi_cuda_kernel_launch,
    .graph_begin = pldi_cuda_graph_begin,
    .graph_end = pldi_cuda_graph_end,
    .graph_launch = pldi_cuda_graph_launch,
    .graph_destroy = pldi_cuda_graph_destroy,
    .reduce = pldi_cuda_reduce,
    .sum_squares = pldi_cuda_sum_squares,
    .step_decide = pldi_cuda_step_decide,
    .sweep = pldi_cuda_sweep,
    .cast = pldi_cuda_cast,
    .hash = pldi_cuda_hash,
    .shuffle = pldi_cuda_shuffle,
    .unshuffle = pldi_cuda_unshuffle,
    .comm_note = pldi_cuda_comm_note,
};

PLD_API const struct pldi_plugin *pldi_plugin_cuda(void);

const struct pldi_plugin *pldi_plugin_cuda(void)
{
    static const struct pldi_plugin plugin = {PLDI_PLUGIN_ABI, PLD_VERSION, list_devices,
                                              open_device};

    return &plugin;
}
