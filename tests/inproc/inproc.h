/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file inproc.h
 * Ranks as threads of the test program.
 *
 *     static int body(pld_runtime *rt, void *context)
 *     {
 *         CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
 *         return 0;
 *     }
 *     ok(inproc_run(4, body, &context) == 0, "...");
 *
 * A rank whose body returns, with or without an error, has left the job: ranks
 * that wait for it get PLD_ERR_PEER, so a failing rank fails the test instead of
 * hanging it.  Messages are not buffered: a send waits for its receive.
 *
 * tap.h is not for use in a body (its counters belong to the main thread): use
 * CHECK, which prints what failed and returns -1 from the body, and one ok() for
 * the run.  A program over all is stopped after 60 s by meson.
 */
#ifndef INPROC_H
#define INPROC_H

#include <polder/polder.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "runtime/runtime.h"
#include "transport/transport.h"
#include "transport/transport_inproc.h"

/** In a body: leave it with -1, and say where, unless `cond` holds. */
#define CHECK(rt, cond)                                                                            \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("# rank %d: %s:%d: %s does not hold (%s)\n", pld_runtime_rank(rt), __FILE__,    \
                   __LINE__, #cond, pld_last_error());                                             \
            return -1;                                                                             \
        }                                                                                          \
    } while (0)

enum { INPROC_MAX_RANKS = 64 };

struct inproc_rank {
    struct pldi_inproc *world;
    int rank;
    int (*body)(pld_runtime *rt, void *context);
    void *context;
    const pld_runtime_opts *opts;
    int result;
};

static inline void *inproc_thread(void *arg)
{
    struct inproc_rank *me = arg;
    const struct pldi_transport_args args = {.world = me->world, .rank = me->rank};
    const struct pldi_transport_ops *ops = NULL;
    pld_runtime *rt = NULL;

    me->result = pldi_transport_find("inproc", &ops);
    if (me->result == 0)
        me->result = pldi_runtime_open(ops, &args, me->opts, &rt);
    if (me->result != 0)
        printf("# rank %d cannot join: %s\n", me->rank, pld_last_error());
    if (me->result == 0)
        me->result = me->body(rt, me->context);
    pldi_inproc_leave(me->world, me->rank);
    if (pld_runtime_close(&rt) != 0 && me->result == 0) {
        printf("# rank %d cannot leave: %s\n", me->rank, pld_last_error());
        me->result = -1;
    }
    return NULL;
}

/** As inproc_run(), with options of the runtime. */
static inline int inproc_run_with(int ranks, int (*body)(pld_runtime *rt, void *context),
                                  void *context, const pld_runtime_opts *opts)
{
    struct pldi_inproc *world = pldi_inproc_create(ranks);
    struct inproc_rank all[INPROC_MAX_RANKS];
    pthread_t threads[INPROC_MAX_RANKS];
    int result = world == NULL || ranks > INPROC_MAX_RANKS ? -1 : 0;

    if (result != 0)
        return result;
    for (int r = 0; r < ranks; r++) {
        all[r] = (struct inproc_rank){world, r, body, context, opts, 0};
        if (pthread_create(&threads[r], NULL, inproc_thread, &all[r]) != 0)
            return -1;
    }
    for (int r = 0; r < ranks; r++)
        (void)pthread_join(threads[r], NULL);
    for (int r = ranks - 1; r >= 0; r--)
        result = all[r].result != 0 ? all[r].result : result;
    pldi_inproc_destroy(&world);
    return result;
}

/**
 * Run `body` on so many ranks, each a thread with a runtime of its own, which is
 * opened before and closed after it.
 *
 * @param context  passed to all of them
 * @return the result of the lowest rank whose result is not 0, or 0
 */
static inline int inproc_run(int ranks, int (*body)(pld_runtime *rt, void *context), void *context)
{
    return inproc_run_with(ranks, body, context, NULL);
}

#endif /* INPROC_H */
