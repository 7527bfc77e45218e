/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The version, errors, counters, operators and registered memory. */

#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_nccl_impl.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char last_error[512];

void fake_nccl_lock(void)
{
    pthread_mutex_lock(&lock);
}

void fake_nccl_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

void *fake_nccl_alloc(size_t count, size_t bytes)
{
    void *memory = calloc(count, bytes);

    if (memory == NULL)
        fake_die("out of host memory");
    return memory;
}

int fake_nccl_version(void)
{
#ifdef FAKE_NCCL_OLD
    return 22005;
#else
    return (int)fake_env_number("FAKE_NCCL_VERSION", 22809);
#endif
}

int ncclGetVersion(int *version)
{
    FAKE_NCCL_COUNT(ncclGetVersion);
    *version = fake_nccl_version();
    return PLDI_NCCL_SUCCESS;
}

int fake_nccl_say(int code, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(last_error, sizeof(last_error), format, ap);
    va_end(ap);
    return code;
}

const char *ncclGetLastError(pldi_nccl_comm comm)
{
    static _Thread_local char copy[sizeof(last_error)];

    (void)comm; /* NCCL has one for the process, too */
    fake_nccl_lock();
    memcpy(copy, last_error, sizeof(copy));
    fake_nccl_unlock();
    return copy;
}

const char *ncclGetErrorString(int code)
{
    static const char *const texts[] = {
        "no error",
        "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        "unhandled system error (run with NCCL_DEBUG=INFO for details)",
        "internal error - please report this issue to the NCCL developers",
        "invalid argument (run with NCCL_DEBUG=WARN for details)",
        "invalid usage (run with NCCL_DEBUG=WARN for details)",
        "remote process exited or there was a network error",
        "NCCL operation in progress",
    };

    return code >= 0 && code <= PLDI_NCCL_IN_PROGRESS ? texts[code] : "unknown result code";
}

/* ---- Faults and counters ---- */

static struct fake_faults faults;
static bool faults_read;

static void set_faults(const char *list)
{
    static const char *const known[] = {"progress",    "async",      "hang",          "delay",
                                        "init_hang",   "split_hang", "finalize_hang", "init_error",
                                        "split_error", "id_error",   "enqueue",       "register",
                                        "abort_waits", "dwell"};

    fake_faults_parse(&faults, list);
    faults_read = true;
    for (size_t i = 0; i < faults.n; i++) {
        size_t k = 0;

        while (k < sizeof(known) / sizeof(known[0]) && strcmp(known[k], faults.item[i].what) != 0)
            k++;
        if (k == sizeof(known) / sizeof(known[0]))
            fake_die("FAKE_NCCL_FAULT: there is no fault \"%s\"", faults.item[i].what);
    }
}

void fake_nccl_fault(const char *list)
{
    fake_nccl_lock();
    set_faults(list);
    fake_nccl_unlock();
}

static const struct fake_faults *all_faults(void)
{
    if (!faults_read)
        set_faults(getenv("FAKE_NCCL_FAULT"));
    return &faults;
}

const struct fake_fault *fake_nccl_hit(const char *what, long count, int rank)
{
    return fake_fault_hit(all_faults(), what, count, rank);
}

const struct fake_fault *fake_nccl_find(const char *what, int rank)
{
    return fake_fault_find(all_faults(), what, NULL, rank);
}

#define SYMBOL_TEXT(name, symbol, arguments) #symbol,
static const char *const symbols[] = {PLDI_NCCL_FUNCTIONS(SYMBOL_TEXT)
                                          PLDI_NCCL_OPTIONAL(SYMBOL_TEXT)};
static atomic_ulong calls[FAKE_N_NCCL_FUNCTIONS];

void fake_nccl_count(int index)
{
    atomic_fetch_add(&calls[index], 1);
}

unsigned long fake_nccl_calls(const char *symbol)
{
    for (int i = 0; i < FAKE_N_NCCL_FUNCTIONS; i++)
        if (strcmp(symbols[i], symbol) == 0)
            return atomic_load(&calls[i]);
    return ULONG_MAX;
}

/* ---- Operators ---- */

static int make_premul(struct fake_premul *m, const void *scalar, int dtype, int residence)
{
    if (fake_dtype_bytes(dtype) == 0 || scalar == NULL)
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "ncclRedOpCreatePreMulSum: type %d",
                             dtype);
    if (residence != PLDI_NCCL_SCALAR_DEVICE && residence != PLDI_NCCL_SCALAR_HOST)
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "ncclRedOpCreatePreMulSum: residence %d",
                             residence);
    *m = (struct fake_premul){true, dtype, residence, {0}, scalar};
    if (residence == PLDI_NCCL_SCALAR_HOST)
        memcpy(m->value, scalar, fake_dtype_bytes(dtype));
    else if (!fake_cuda_reachable(scalar, fake_dtype_bytes(dtype)))
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT,
                             "ncclRedOpCreatePreMulSum: the scalar is not a device's");
    return PLDI_NCCL_SUCCESS;
}

/* A call that is over when it returns does not end a group's hold on the communicator. */
static void leave(struct ncclComm *comm)
{
    if (fake_group_open())
        fake_group_add(comm);
    else
        fake_comm_leave(comm);
}

int ncclRedOpCreatePreMulSum(int *op, void *scalar, int dtype, int residence, pldi_nccl_comm comm)
{
    int rc = fake_comm_enter(comm, "ncclRedOpCreatePreMulSum");
    int i = 0;

    FAKE_NCCL_COUNT(ncclRedOpCreatePreMulSum);
    if (rc != PLDI_NCCL_SUCCESS)
        return rc;
    while (i < 16 && comm->premul[i].used)
        i++;
    if (i == 16)
        fake_die("16 operators are not destroyed");
    fake_nccl_lock();
    rc = make_premul(&comm->premul[i], scalar, dtype, residence);
    comm->premul[i].used = rc == PLDI_NCCL_SUCCESS;
    fake_nccl_unlock();
    *op = FAKE_N_OPS + i;
    leave(comm);
    return rc;
}

/* Calls have taken what they need of it, so that it may go while one is in progress. */
int ncclRedOpDestroy(int op, pldi_nccl_comm comm)
{
    int rc = PLDI_NCCL_SUCCESS;

    FAKE_NCCL_COUNT(ncclRedOpDestroy);
    fake_nccl_lock();
    if (!fake_comm_valid(comm))
        rc = fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT,
                           "ncclRedOpDestroy: that is not a communicator");
    else if (op < FAKE_N_OPS || op >= FAKE_N_OPS + 16 || !comm->premul[op - FAKE_N_OPS].used)
        rc = fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "ncclRedOpDestroy: operator %d", op);
    else
        comm->premul[op - FAKE_N_OPS].used = false;
    fake_nccl_unlock();
    return rc;
}

/* ---- Memory ---- */

struct block {
    struct block *next;
    void *memory;
    size_t bytes;
};

static struct block *blocks; /* of ncclMemAlloc() */
static unsigned long registered, dropped, stale;

unsigned long fake_nccl_memory(const char *what)
{
    unsigned long n = ULONG_MAX;

    fake_nccl_lock();
    if (strcmp(what, "registered") == 0)
        n = registered;
    else if (strcmp(what, "dropped") == 0)
        n = dropped;
    else if (strcmp(what, "stale") == 0)
        n = stale;
    else if (strcmp(what, "allocated") == 0) {
        n = 0;
        for (const struct block *b = blocks; b != NULL; b = b->next)
            n += b->bytes;
    }
    fake_nccl_unlock();
    return n;
}

void fake_registration_drop(struct fake_registration *registration)
{
    registered--;
    dropped++;
    free(registration);
}

#ifndef FAKE_NCCL_BARE
int ncclMemAlloc(void **out, size_t bytes)
{
    pldi_cu_pointer pointer = 0;
    struct block *b;

    FAKE_NCCL_COUNT(ncclMemAlloc);
    *out = NULL;
    if (cuMemAlloc_v2(&pointer, bytes) != 0)
        return PLDI_NCCL_CUDA_ERROR;
    b = fake_nccl_alloc(1, sizeof(*b));
    fake_nccl_lock();
    *b = (struct block){blocks, (void *)(uintptr_t)pointer, bytes};
    blocks = b;
    fake_nccl_unlock();
    *out = b->memory;
    return PLDI_NCCL_SUCCESS;
}

int ncclMemFree(void *memory)
{
    struct block **at = &blocks;
    struct block *b;

    FAKE_NCCL_COUNT(ncclMemFree);
    fake_nccl_lock();
    while (*at != NULL && (*at)->memory != memory)
        at = &(*at)->next;
    b = *at;
    if (b != NULL)
        *at = b->next;
    else
        (void)fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "ncclMemFree: not of ncclMemAlloc");
    fake_nccl_unlock();
    if (b == NULL)
        return PLDI_NCCL_INVALID_ARGUMENT;
    free(b);
    return cuMemFree_v2((pldi_cu_pointer)(uintptr_t)memory) == 0 ? PLDI_NCCL_SUCCESS
                                                                 : PLDI_NCCL_CUDA_ERROR;
}

static int add_registration(struct ncclComm *c, const void *buffer, size_t bytes, void **handle)
{
    const struct fake_fault *f = fake_nccl_hit("register", ++c->n_registers, c->rank);
    struct fake_registration *r;

    if (f != NULL)
        return fake_nccl_say(f->code != 0 ? f->code : PLDI_NCCL_SYSTEM_ERROR,
                             "ncclCommRegister: registration %ld failed", c->n_registers);
    if (!fake_cuda_reachable(buffer, bytes))
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT,
                             "ncclCommRegister: %zu bytes are not a device's", bytes);
    r = fake_nccl_alloc(1, sizeof(*r));
    *r = (struct fake_registration){c->registrations, buffer, bytes};
    c->registrations = r;
    registered++;
    *handle = r;
    return PLDI_NCCL_SUCCESS;
}

int ncclCommRegister(pldi_nccl_comm comm, void *buffer, size_t bytes, void **handle)
{
    int rc = fake_comm_enter(comm, "ncclCommRegister");

    FAKE_NCCL_COUNT(ncclCommRegister);
    if (rc != PLDI_NCCL_SUCCESS)
        return rc;
    fake_nccl_lock();
    rc = add_registration(comm, buffer, bytes, handle);
    fake_nccl_unlock();
    leave(comm);
    return rc;
}

int ncclCommDeregister(pldi_nccl_comm comm, void *handle)
{
    int rc = fake_comm_enter(comm, "ncclCommDeregister");
    struct fake_registration **at;
    struct fake_registration *r;

    FAKE_NCCL_COUNT(ncclCommDeregister);
    if (rc != PLDI_NCCL_SUCCESS)
        return rc;
    fake_nccl_lock();
    at = &comm->registrations;
    while (*at != NULL && *at != handle)
        at = &(*at)->next;
    r = *at;
    if (r == NULL)
        rc = fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "ncclCommDeregister: not a handle");
    else {
        *at = r->next;
        registered--;
        stale += !fake_cuda_reachable(r->buffer, r->bytes);
        free(r);
    }
    fake_nccl_unlock();
    leave(comm);
    return rc;
}
#endif
