/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The lock guards the lists, never a step: the driver lets go of it while it moves data,
 * so that posting never waits for a reduction.
 *
 * Posting appends; only the driver removes.  The list that it walks can
 * therefore grow at its end under its feet, and nothing else.
 *
 * Whether somebody drives is a word of its own, so that a call that finds nobody does without
 * the lock.  Who finds somebody, and waits, marks it; only who gives a marked one back has
 * anybody to wake.
 *
 * Who finds nothing to do spins a little if the rank has a core of its own, then
 * yields, then sleeps: where ranks share cores, a spinning one takes the time
 * that the other needs to send what is waited for.  It sleeps until it is rung for
 * (base_door.h) where all that it waits for comes by shared memory, else for a moment.
 */

#include "coll/coll_engine.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "base/base_clock.h"
#include "base/base_cpu.h"
#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll.h"
#include "coll/coll_shm.h"

enum { SPINS = 2000, YIELDS = 20000, NAP_NS = 50000 };
enum { DOZES = 6, DOZE_NS = 100000, SECOND_NS = 1000000000 };

/* Whether somebody drives; and whether others will want to hear when it ends. */
enum { NOBODY, DRIVES, DRIVES_MARKED };

struct pldi_engine {
    pthread_mutex_t lock;
    pthread_cond_t turn; /* for waiters: nobody drives */
    pthread_cond_t wake; /* for the comm thread: there is work, and nobody waits for it */
    pld_request *first;  /* active operations, oldest first */
    _Atomic int active;
    _Atomic int fresh; /* of them: not begun */
    _Atomic int driving;
    int waiters;
    int threads, spare, spin;
    int started, stop;
    int asleep; /* the comm thread, until it is woken */
    pthread_t thread;
    struct pldi_door *door; /* NULL: none */
    double limit, until;    /* seconds, and when they have passed; 0: none */
};

/* One more fruitless pass; `tries` counts them. */
static void idle(int *tries, int spins, int yields)
{
    const struct timespec nap = {0, NAP_NS};

    if (*tries < spins) {
        pldi_pause();
    } else if (*tries < spins + yields) {
        (void)sched_yield();
    } else {
        (void)nanosleep(&nap, NULL);
        return;
    }
    ++*tries;
}

/* With the lock held: all that is waited for is written by ranks that ring. */
static int all_ring(const struct pldi_engine *e)
{
    if (e->door == NULL)
        return 0;
    for (const pld_request *op = e->first; op != NULL; op = op->active) {
        const struct pldi_team *team = op->group->team;

        if (team == NULL || !team->has_doors || op->check != NULL)
            return 0;
        if ((op->kind == PLDI_SEND || op->kind == PLDI_RECV) && team->peers == NULL)
            return 0;
    }
    return 1;
}

/* With the lock held, given up meanwhile: after a fruitless look.  One more follows when the
 * door has been shut. */
static void rest(struct pldi_engine *e, int *tries)
{
    const int spins = e->spin ? SPINS : 0;
    const int sleeps = *tries >= spins + YIELDS && all_ring(e);

    (void)pthread_mutex_unlock(&e->lock);
    if (!sleeps) {
        idle(tries, spins, YIELDS);
    } else if (*tries == spins + YIELDS) {
        pldi_door_shut(e->door);
        ++*tries;
    } else {
        pldi_door_sleep(e->door);
        --*tries;
    }
    (void)pthread_mutex_lock(&e->lock);
}

static void append(struct pldi_engine *e, pld_request *op)
{
    pld_request **list = &e->first;

    while (*list != NULL)
        list = &(*list)->active;
    op->active = NULL;
    op->fresh = op->state == PLDI_NEW;
    *list = op;
    e->active++;
    e->fresh += op->fresh;
}

static void set_begun(struct pldi_engine *e, pld_request *op)
{
    e->fresh -= op->fresh;
    op->fresh = 0;
}

/* With the lock held: op is over; what stood behind it in its group takes its place. */
static void finish(struct pldi_engine *e, pld_request *op)
{
    pld_request **list = &e->first;
    pld_group *group = op->group;

    while (*list != op)
        list = &(*list)->active;
    *list = op->active;
    set_begun(e, op);
    if (group->first == op) {
        group->first = op->queued;
        if (group->first == NULL)
            group->last = NULL;
        else
            append(e, group->first);
    }
    e->active--; /* not before: who looks without the lock must not find none in between */
    atomic_store_explicit(&op->done, 1, memory_order_release); /* and may be gone */
    pldi_door_ring(e->door);
}

/* By the driver: as pldi_op_step(), but 1 also where it failed, which the operation keeps. */
static int advance(pld_request *op, int *moved)
{
    const int rc = pldi_op_step(op, moved);

    if (rc < 0) {
        op->code = rc;
        (void)snprintf(op->text, sizeof(op->text), "%s", pld_last_error());
    }
    return rc != 0;
}

/* By the driver, with the lock held: one step; sets *next to what comes after op. */
static int step(struct pldi_engine *e, pld_request *op, pld_request **next)
{
    int moved = 0;
    int over;

    (void)pthread_mutex_unlock(&e->lock);
    over = advance(op, &moved);
    (void)pthread_mutex_lock(&e->lock);
    *next = op->active;
    if (over)
        finish(e, op);
    else if (op->state != PLDI_NEW)
        set_begun(e, op);
    return moved || over;
}

/* 1: this thread drives from here on. */
static int take(struct pldi_engine *e)
{
    int nobody = NOBODY;

    return atomic_compare_exchange_strong_explicit(&e->driving, &nobody, DRIVES,
                                                   memory_order_acquire, memory_order_relaxed);
}

/* With the lock held: 1: somebody drives, and will wake who waits; 0: nobody did just now. */
static int mark(struct pldi_engine *e)
{
    int drives = DRIVES;

    return atomic_compare_exchange_strong(&e->driving, &drives, DRIVES_MARKED) ||
           drives == DRIVES_MARKED;
}

/* With the lock held: tell who may want to drive that nobody does.  Out of line, for inlined
 * under sanitizers gcc 12 takes `e` for a null pointer. */
static __attribute__((noinline)) void wake_others(struct pldi_engine *e)
{
    if (e->waiters > 0)
        (void)pthread_cond_broadcast(&e->turn);
    else if (e->asleep && e->active > 0)
        (void)pthread_cond_signal(&e->wake);
}

/* With the lock held: hand the role of the driver back. */
static void release(struct pldi_engine *e)
{
    atomic_store_explicit(&e->driving, NOBODY, memory_order_release);
    wake_others(e);
}

/*
 * With the lock held: if op alone is under way, spin without taking the lock at each look.
 * 1: something moved.
 */
static int spin_alone(struct pldi_engine *e, pld_request *op, int *tries)
{
    int over = 0;
    int moved = 0;

    if (!e->spin || *tries >= SPINS || e->first != op || op->active != NULL || !take(e))
        return 0;
    (void)pthread_mutex_unlock(&e->lock);
    for (; *tries < SPINS && !over && !moved && e->active == 1; ++*tries) {
        over = advance(op, &moved);
        if (!over && !moved)
            pldi_pause();
    }
    (void)pthread_mutex_lock(&e->lock);
    if (over)
        finish(e, op);
    else if (op->state != PLDI_NEW)
        set_begun(e, op);
    release(e);
    return over || moved;
}

/*
 * With the lock held: one step for each active operation, if nobody drives.
 * fresh: only for those not begun; in order, for that is the order of messages.
 */
static int try_drive(struct pldi_engine *e, int fresh)
{
    pld_request *next;
    int moved = 0;

    if (!take(e)) {
        (void)mark(e);
        return 0;
    }
    for (pld_request *op = e->first; op != NULL; op = next) {
        next = op->active;
        if (!fresh || op->state == PLDI_NEW)
            moved |= step(e, op, &next);
    }
    release(e);
    return moved;
}

/*
 * With the lock held: nothing for the comm thread to do.  To wake it costs its caller more than
 * most messages do, and where no core is spare it takes one from a rank; so for a while it
 * looks again by itself, ever less often, and only then sleeps until it is woken.
 */
static void doze(struct pldi_engine *e, int *dozes)
{
    struct timespec until;

    if (*dozes == DOZES) {
        e->asleep = 1;
        (void)pthread_cond_wait(&e->wake, &e->lock);
        e->asleep = 0;
        *dozes = 0;
        return;
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)DOZE_NS << *dozes;
    if (until.tv_nsec >= SECOND_NS) {
        until.tv_nsec -= SECOND_NS;
        until.tv_sec++;
    }
    (void)pthread_cond_timedwait(&e->wake, &e->lock, &until);
    ++*dozes;
}

static void *comm_thread(void *arg)
{
    struct pldi_engine *e = arg;
    int tries = 0;
    int dozes = 0;
    int yields;

    (void)pthread_mutex_lock(&e->lock);
    while (!e->stop) {
        if (e->active == 0 || e->waiters > 0 || mark(e)) {
            doze(e, &dozes);
            tries = 0;
            continue;
        }
        dozes = 0;
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
    pthread_condattr_t monotonic;

    if (e == NULL)
        return PLD_ERR_NOMEM;
    (void)pthread_mutex_init(&e->lock, NULL);
    (void)pthread_cond_init(&e->turn, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&e->wake, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
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

void pldi_engine_set_door(struct pldi_engine *engine, struct pldi_door *door)
{
    (void)pthread_mutex_lock(&engine->lock);
    engine->door = door;
    (void)pthread_mutex_unlock(&engine->lock);
}

void pldi_engine_set_limit(struct pldi_engine *engine, double seconds)
{
    (void)pthread_mutex_lock(&engine->lock);
    engine->limit = seconds;
    engine->until = pldi_now() + seconds;
    (void)pthread_mutex_unlock(&engine->lock);
}

double pldi_engine_late(const struct pldi_engine *engine)
{
    return engine->limit > 0 && pldi_now() > engine->until ? engine->limit : 0;
}

int pldi_engine_active(struct pldi_engine *engine)
{
    int active;

    (void)pthread_mutex_lock(&engine->lock);
    active = engine->active;
    (void)pthread_mutex_unlock(&engine->lock);
    return active;
}

static int is_message(const pld_request *op)
{
    return op->kind == PLDI_SEND || op->kind == PLDI_RECV;
}

/*
 * Without the lock: begin a message that is in nobody's way: those before it have begun, and
 * nobody drives.  1: it is over, and never was in the list.
 */
static int begin_at_once(struct pldi_engine *e, pld_request *op)
{
    int moved = 0;
    int over;

    if (!is_message(op) || atomic_load_explicit(&e->fresh, memory_order_relaxed) > 0 || !take(e))
        return 0;
    over = advance(op, &moved);
    pldi_engine_leave_quickly(e);
    atomic_store_explicit(&op->done, over, memory_order_relaxed); /* nobody else knows of it */
    return over;
}

void pldi_engine_post(struct pldi_engine *engine, pld_request *op, int background)
{
    pld_group *group = op->group;

    if (background && begin_at_once(engine, op))
        return;
    (void)pthread_mutex_lock(&engine->lock);
    op->queued = NULL;
    if (is_message(op)) {
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
        if (engine->asleep && engine->active > 0)
            (void)pthread_cond_signal(&engine->wake);
    }
    (void)pthread_mutex_unlock(&engine->lock);
}

int pldi_engine_over(const pld_request *op)
{
    return atomic_load_explicit(&op->done, memory_order_acquire);
}

void pldi_engine_wait(struct pldi_engine *engine, pld_request *op)
{
    int tries = 0;

    if (pldi_engine_over(op))
        return;
    (void)pthread_mutex_lock(&engine->lock);
    engine->waiters++;
    while (!pldi_engine_over(op)) {
        if (mark(engine)) {
            (void)pthread_cond_wait(&engine->turn, &engine->lock);
            continue;
        }
        if (spin_alone(engine, op, &tries) || try_drive(engine, 0)) {
            tries = 0;
            continue;
        }
        rest(engine, &tries);
    }
    engine->waiters--;
    if (!mark(engine))
        wake_others(engine);
    (void)pthread_mutex_unlock(&engine->lock);
}

int pldi_engine_test(struct pldi_engine *engine, const pld_request *op)
{
    if (pldi_engine_over(op))
        return 1;
    (void)pthread_mutex_lock(&engine->lock);
    if (!pldi_engine_over(op))
        (void)try_drive(engine, 0);
    (void)pthread_mutex_unlock(&engine->lock);
    return pldi_engine_over(op);
}

void pldi_engine_enter(struct pldi_engine *engine)
{
    (void)pthread_mutex_lock(&engine->lock);
    engine->waiters++;
    while (!take(engine)) {
        if (mark(engine))
            (void)pthread_cond_wait(&engine->turn, &engine->lock);
    }
    (void)pthread_mutex_unlock(&engine->lock);
}

int pldi_engine_try_enter(struct pldi_engine *engine)
{
    return atomic_load_explicit(&engine->active, memory_order_relaxed) == 0 && take(engine);
}

void pldi_engine_leave_quickly(struct pldi_engine *engine)
{
    if (atomic_exchange_explicit(&engine->driving, NOBODY, memory_order_acq_rel) == DRIVES)
        return;
    (void)pthread_mutex_lock(&engine->lock);
    wake_others(engine);
    (void)pthread_mutex_unlock(&engine->lock);
}

int pldi_engine_is_wanted(const struct pldi_engine *engine)
{
    return atomic_load_explicit(&engine->driving, memory_order_relaxed) == DRIVES_MARKED;
}

int pldi_engine_may_spin(const struct pldi_engine *engine)
{
    return engine->spin;
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
