/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Calls: their number, the names of their results, and what is to go wrong with them. */

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_cuda_impl.h"

#define SYMBOL_TEXT(name, symbol, arguments) #symbol,
static const char *const symbols[] = {PLDI_CU_FUNCTIONS(SYMBOL_TEXT) "cuCtxSynchronize"};
static atomic_ulong calls[FAKE_N_FUNCTIONS];

void fake_count(int index)
{
    atomic_fetch_add(&calls[index], 1);
}

unsigned long fake_cuda_calls(const char *symbol)
{
    for (int i = 0; i < FAKE_N_FUNCTIONS; i++)
        if (strcmp(symbols[i], symbol) == 0)
            return atomic_load(&calls[i]);
    return ULONG_MAX;
}

/* `pattern` with %p replaced by the process id. */
static void counts_path(char *out, size_t bytes, const char *pattern)
{
    const char *at = strstr(pattern, "%p");

    if (at == NULL)
        snprintf(out, bytes, "%s", pattern);
    else
        snprintf(out, bytes, "%.*s%ld%s", (int)(at - pattern), pattern, (long)getpid(), at + 2);
}

__attribute__((destructor)) static void write_counts(void)
{
    const char *pattern = getenv("FAKE_CUDA_COUNTS");
    char path[4096];
    FILE *f;

    if (pattern == NULL)
        return;
    counts_path(path, sizeof(path), pattern);
    f = fopen(path, "w");
    if (f == NULL)
        fake_die("FAKE_CUDA_COUNTS: cannot write %s", path);
    for (int i = 0; i < FAKE_N_FUNCTIONS; i++)
        fprintf(f, "%s %lu\n", symbols[i], atomic_load(&calls[i]));
    fclose(f);
}

/* Kinds of calls that can fail at their n-th time. */
static const char *const kinds[] = {"init",        "alloc",  "pinned", "register",
                                    "stream",      "event",  "record", "module",
                                    "instantiate", "launch", "copy",   "fill"};
enum { N_KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static struct fake_faults faults;
static bool faults_read;
static long counted[N_KINDS];
static _Thread_local int thread_rank = -1;

void fake_set_rank(int rank)
{
    thread_rank = rank;
}

int fake_get_rank(void)
{
    if (thread_rank >= 0)
        return thread_rank;
    return (int)fake_env_number("FAKE_RANK", fake_env_number("OMPI_COMM_WORLD_RANK", 0));
}

static void set_faults(const char *list)
{
    fake_faults_parse(&faults, list);
    for (size_t i = 0; i < faults.n; i++) {
        bool known = strcmp(faults.item[i].what, "slow") == 0;

        for (size_t k = 0; k < N_KINDS; k++)
            known |= strcmp(faults.item[i].what, kinds[k]) == 0;
        if (!known)
            fake_die("FAKE_CUDA_FAULT: there is no fault \"%s\"", faults.item[i].what);
    }
    memset(counted, 0, sizeof(counted));
    faults_read = true;
}

void fake_cuda_fault(const char *list)
{
    fake_lock();
    set_faults(list);
    fake_unlock();
}

static const struct fake_fault *hit(const char *what)
{
    size_t k = 0;

    if (!faults_read)
        set_faults(getenv("FAKE_CUDA_FAULT"));
    while (strcmp(kinds[k], what) != 0)
        k++;
    counted[k]++;
    return fake_fault_hit(&faults, what, counted[k], fake_get_rank());
}

int fake_call_fault(const char *what, int otherwise)
{
    const struct fake_fault *f = hit(what);

    if (f == NULL)
        return PLDI_CU_SUCCESS;
    return f->code != 0 ? f->code : otherwise;
}

/* init:CODE has no number: every call fails. */
int fake_init_fault(void)
{
    const struct fake_fault *f;

    (void)hit("init");
    f = fake_fault_find(&faults, "init", NULL, fake_get_rank());
    return f == NULL ? PLDI_CU_SUCCESS : (int)f->n;
}

void fake_work_fault(struct fake_work *work, const char *what)
{
    const struct fake_fault *f = hit(what);

    if (f != NULL)
        work->error = f->code != 0 ? f->code : PLDI_CU_ILLEGAL_ADDRESS;
    f = fake_fault_find(&faults, "slow", what, fake_get_rank());
    if (f != NULL)
        work->slow_us = f->n;
}

static const struct {
    int code;
    const char *name, *text;
} results[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "capture was not ended in the same stream as it began"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

int cuGetErrorName(int code, const char **text)
{
    FAKE_COUNT(cuGetErrorName);
    *text = NULL;
    for (size_t i = 0; i < sizeof(results) / sizeof(results[0]); i++)
        if (results[i].code == code)
            *text = results[i].name;
    return *text == NULL ? PLDI_CU_INVALID_VALUE : PLDI_CU_SUCCESS;
}

int cuGetErrorString(int code, const char **text)
{
    FAKE_COUNT(cuGetErrorString);
    *text = NULL;
    for (size_t i = 0; i < sizeof(results) / sizeof(results[0]); i++)
        if (results[i].code == code)
            *text = results[i].text;
    return *text == NULL ? PLDI_CU_INVALID_VALUE : PLDI_CU_SUCCESS;
}
