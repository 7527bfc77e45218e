/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The lock guards the lists and the done flags, never a step: the driver lets go
 * of it while it moves data, so that posting never waits for a reduction.
 *
 * Posting appends; only the driver removes.  The list that it walks can
 * therefore grow at its end under its feet, and nothing else.
 *
 * Who finds nothing to do spins a little if the rank has a core of its own, then
 * yields, then sleeps: where ranks share cores, a spinning one takes the time
 * that the other needs to send what is waited for.
 */

#include "coll/coll_engine.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll.h"

enum { SPINS = 2000, YIELDS = 20000, NAP_NS = 50000 };

struct pldi_engine {
    pthread_mutex_t lock;
    pthread_cond_t turn; /* for waiters: nobody drives */
    pthread_cond_t wake; /* for the comm thread: there is work, and nobody waits for it */
    pld_request *first;  /* active operations, oldest first */
    int active;
    int driving;
    int waiters;
    int threads, spare, spin;
    int started, stop;
    pthread_t thread;
};

/* One more fruitless pass; `tries` counts them. */
static void idle(int *tries, int spins, int yields)
{
    const struct timespec nap = {0, NAP_NS};

    if (*tries < spins) {
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
    } else if (*tries < spins + yields) {
        (void)sched_yield();
    } else {
        (void)nanosleep(&nap, NULL);
        return;
    }
    ++*tries;
}

static void append(struct pldi_engine *e, pld_request *op)
{
    pld_request **list = &e->first;

    while (*list != NULL)
        list = &(*list)->active;
    op->active = NULL;
    *list = op;
    e->active++;
}

/* With the lock held: op is over; what stood behind it in its group takes its place. */
static void finish(struct pldi_engine *e, pld_request *op)
{
    pld_request **list = &e->first;
    pld_group *group = op->group;

    while (*list != op)
        list = &(*list)->active;
    *list = op->active;
    e->active--;
    if (group->first == op) {
        group->first = op->queued;
        if (group->first == NULL)
            group->last = NULL;
        else
            append(e, group->first);
    }
    op->done = 1;
}

/* With the lock held and driving = 1: one step; sets *next to what comes after op. */
static int step(struct pldi_engine *e, pld_request *op, pld_request **next)
{
    int moved = 0;
    int rc;

    (void)pthread_mutex_unlock(&e->lock);
    rc = pldi_op_step(op, &moved);
    if (rc < 0) {
        op->code = rc;
        (void)snprintf(op->text, sizeof(op->text), "%s", pld_last_error());
    }
    (void)pthread_mutex_lock(&e->lock);
    *next = op->active;
    if (rc != 0)
        finish(e, op);
    return moved || rc != 0;
}

/* With the lock held: hand the role of the driver back, and tell who may want it. */
static void release(struct pldi_engine *e)
{
    e->driving = 0;
    if (e->waiters > 0)
        (void)pthread_cond_broadcast(&e->turn);
    else if (e->started && e->active > 0)
        (void)pthread_cond_signal(&e->wake);
}

/*
 * With the lock held: one step for each active operation, if nobody drives.
 * fresh: only for those not begun; in order, for that is the order of messages.
 */
static int try_drive(struct pldi_engine *e, int fresh)
{
    pld_request *next;
    int moved = 0;

    if (e->driving)
        return 0;
    e->driving = 1;
    for (pld_request *op = e->first; op != NULL; op = next) {
        next = op->active;
        if (!fresh || op->state == PLDI_NEW)
            moved |= step(e, op, &next);
    }
    release(e);
    return moved;
}

static void *comm_thread(void *arg)
{
    struct pldi_engine *e = arg;
    int tries = 0;
    int yields;

    (void)pthread_mutex_lock(&e->lock);
    while (!e->stop) {
        if (e->active == 0 || e->waiters > 0 || e->driving) {
            (void)pthread_cond_wait(&e->wake, &e->lock);
            tries = 0;
            continue;
        }
        if (try_drive(e, 0)) {
            tries = 0;
            continue;
        }
        yields = e->spare ? YIELDS : 0;
        (void)pthread_mutex_unlock(&e->lock);
        idle(&tries, 0, yields);
        (void)pthread_mutex_lock(&e->lock);
    }
    (void)pthread_mutex_unlock(&e->lock);
    return NULL;
}

int pldi_engine_create(int threads, int spare, struct pldi_engine **out)
{
    struct pldi_engine *e = pldi_alloc(1, sizeof(*e), "the engine");

    if (e == NULL)
        return PLD_ERR_NOMEM;
    (void)pthread_mutex_init(&e->lock, NULL);
    (void)pthread_cond_init(&e->turn, NULL);
    (void)pthread_cond_init(&e->wake, NULL);
    e->threads = threads;
    e->spare = spare;
    *out = e;
    return PLD_OK;
}

void pldi_engine_set_cores(struct pldi_engine *engine, int cpus, int ranks)
{
    (void)pthread_mutex_lock(&engine->lock);
    engine->spare = cpus > ranks;
    engine->spin = cpus >= ranks;
    (void)pthread_mutex_unlock(&engine->lock);
}

void pldi_engine_destroy(struct pldi_engine **engine)
{
    struct pldi_engine *e;

    if (engine == NULL || *engine == NULL)
        return;
    e = *engine;
    (void)pthread_mutex_lock(&e->lock);
    e->stop = 1;
    (void)pthread_cond_broadcast(&e->wake);
    (void)pthread_mutex_unlock(&e->lock);
    if (e->started)
        (void)pthread_join(e->thread, NULL);
    (void)pthread_cond_destroy(&e->turn);
    (void)pthread_cond_destroy(&e->wake);
    (void)pthread_mutex_destroy(&e->lock);
    pldi_free(e);
    *engine = NULL;
}

int pldi_engine_active(struct pldi_engine *engine)
{
    int active;

    (void)pthread_mutex_lock(&engine->lock);
    active = engine->active;
    (void)pthread_mutex_unlock(&engine->lock);
    return active;
}

void pldi_engine_post(struct pldi_engine *engine, pld_request *op, int background)
{
    pld_group *group = op->group;

    (void)pthread_mutex_lock(&engine->lock);
    op->queued = NULL;
    if (op->kind == PLDI_SEND || op->kind == PLDI_RECV) {
        append(engine, op);
    } else if (group->last != NULL) {
        group->last->queued = op;
        group->last = op;
    } else {
        group->first = group->last = op;
        append(engine, op);
    }
    if (background && engine->threads && !engine->started)
        engine->started = pthread_create(&engine->thread, NULL, comm_thread, engine) == 0;
    if (background) {
        (void)try_drive(engine, 1);
        (void)pthread_cond_signal(&engine->wake);
    }
    (void)pthread_mutex_unlock(&engine->lock);
}

void pldi_engine_wait(struct pldi_engine *engine, const pld_request *op)
{
    int tries = 0;
    int spins;

    (void)pthread_mutex_lock(&engine->lock);
    engine->waiters++;
    while (!op->done) {
        if (engine->driving) {
            (void)pthread_cond_wait(&engine->turn, &engine->lock);
            continue;
        }
        if (try_drive(engine, 0)) {
            tries = 0;
            continue;
        }
        spins = engine->spin ? SPINS : 0;
        (void)pthread_mutex_unlock(&engine->lock);
        idle(&tries, spins, YIELDS);
        (void)pthread_mutex_lock(&engine->lock);
    }
    engine->waiters--;
    if (!engine->driving)
        release(engine);
    (void)pthread_mutex_unlock(&engine->lock);
}

int pldi_engine_test(struct pldi_engine *engine, const pld_request *op)
{
    int done;

    (void)pthread_mutex_lock(&engine->lock);
    if (!op->done)
        (void)try_drive(engine, 0);
    done = op->done;
    (void)pthread_mutex_unlock(&engine->lock);
    return done;
}

int pldi_engine_over(struct pldi_engine *engine, const pld_request *op)
{
    int done;

    (void)pthread_mutex_lock(&engine->lock);
    done = op->done;
    (void)pthread_mutex_unlock(&engine->lock);
    return done;
}

void pldi_engine_enter(struct pldi_engine *engine)
{
    (void)pthread_mutex_lock(&engine->lock);
    engine->waiters++;
    while (engine->driving)
        (void)pthread_cond_wait(&engine->turn, &engine->lock);
    engine->driving = 1;
    (void)pthread_mutex_unlock(&engine->lock);
}

int pldi_engine_try_enter(struct pldi_engine *engine)
{
    int entered;

    (void)pthread_mutex_lock(&engine->lock);
    entered = !engine->driving && engine->active == 0;
    engine->waiters += entered;
    engine->driving |= entered;
    (void)pthread_mutex_unlock(&engine->lock);
    return entered;
}

void pldi_engine_idle(const struct pldi_engine *engine, int *tries)
{
    idle(tries, engine->spin ? SPINS : 0, YIELDS);
}

void pldi_engine_leave(struct pldi_engine *engine)
{
    (void)pthread_mutex_lock(&engine->lock);
    engine->waiters--;
    release(engine);
    (void)pthread_mutex_unlock(&engine->lock);
}
