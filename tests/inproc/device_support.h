/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file device_support.h
 * Ranks as threads, each with a GPU of the fake driver.  The environment that tests need
 * (where the fakes, the plugin and its kernels are) is set by meson.build.
 */
#ifndef DEVICE_SUPPORT_H
#define DEVICE_SUPPORT_H

#include "inproc.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include "coll_pattern.h" /* SLOW */

enum { DEVICE_RANKS = 4 };

/** A function of a fake; the program ends if it is not there. */
static inline void *device_fake(const char *library, const char *symbol)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    void *function = handle != NULL ? dlsym(handle, symbol) : NULL;

    if (function == NULL) {
        printf("Bail out! no %s in %s: %s\n", symbol, library, dlerror());
        exit(1);
    }
    return function;
}

static inline unsigned long device_calls(const char *symbol)
{
    unsigned long (*calls)(const char *);
    void *function = device_fake("libcuda.so.1", "fake_cuda_calls");

    memcpy(&calls, &function, sizeof(calls));
    return calls(symbol);
}

static inline unsigned long device_live(const char *what)
{
    unsigned long (*live)(const char *);
    void *function = device_fake("libcuda.so.1", "fake_cuda_live");

    memcpy(&live, &function, sizeof(live));
    return live(what);
}

static inline unsigned long device_live_comms(void)
{
    unsigned long (*live)(void);
    void *function = device_fake("libnccl.so.2", "fake_nccl_live");

    memcpy(&live, &function, sizeof(live));
    return live();
}

/** Whether the program is about the NCCL without ncclCommSplit and its like: then the argument is
 *  where libraries are, and it begins again with that, for meson has its own order of folders. */
static inline int device_bare(int argc, char **argv)
{
    if (argc < 2)
        return 0;
    if (getenv("DEVICE_BARE") == NULL) {
        (void)setenv("DEVICE_BARE", "1", 1);
        (void)setenv("LD_LIBRARY_PATH", argv[1], 1);
        (void)execv("/proc/self/exe", argv);
    }
    return dlsym(dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL), "ncclCommSplit") == NULL ? 1 : -1;
}

/** What is to go wrong from here on: lists as FAKE_CUDA_FAULT and FAKE_NCCL_FAULT; "": nothing. */
static inline void device_faults(const char *cuda, const char *nccl)
{
    void (*set)(const char *);
    void *function = device_fake("libcuda.so.1", "fake_cuda_fault");

    memcpy(&set, &function, sizeof(set));
    set(cuda);
    function = device_fake("libnccl.so.2", "fake_nccl_fault");
    memcpy(&set, &function, sizeof(set));
    set(nccl);
}

/** The calling thread is that rank, for faults of one rank. */
static inline void device_rank(int rank)
{
    void (*set)(int);
    void *function = device_fake("libcuda.so.1", "fake_set_rank");

    memcpy(&set, &function, sizeof(set));
    set(rank);
}

/** Run `body` on ranks with GPUs; path: of POLDER_DEVICE_PATH, or NULL. */
static inline int device_run(int ranks, const char *path, double timeout,
                             int (*body)(pld_runtime *rt, void *context), void *context)
{
    pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .device = "cuda", .timeout = timeout};

    if (path != NULL)
        (void)setenv("POLDER_DEVICE_PATH", path, 1);
    else
        (void)unsetenv("POLDER_DEVICE_PATH");
    return inproc_run_with(ranks, body, context, &opts);
}

#endif /* DEVICE_SUPPORT_H */
