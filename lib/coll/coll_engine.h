/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_engine.h
 * Who moves operations on.  One per runtime.
 *
 * Exactly one thread drives at a time: it steps all active operations in turn,
 * and makes all calls of the transport.  A thread that waits for an operation
 * drives; when nobody waits, the comm thread does, if there is one.
 */
#ifndef PLDI_COLL_ENGINE_H
#define PLDI_COLL_ENGINE_H

#include <polder/coll.h>

struct pldi_engine;
struct pldi_door;

/**
 * @param threads  1: a comm thread may be started, when first needed
 * @param spare    1: this rank has a core to spare for waiting without sleep
 */
int pldi_engine_create(int threads, int spare, struct pldi_engine **out);
void pldi_engine_destroy(struct pldi_engine **engine);

/** Once it is known: processors of the node, and ranks on it. */
void pldi_engine_set_cores(struct pldi_engine *engine, int cpus, int ranks);

/** Where this rank sleeps; those whom it waits for ring there.  NULL: nowhere, any more. */
void pldi_engine_set_door(struct pldi_engine *engine, struct pldi_door *door);

/** What nobody watches over yet, for the runtime opens, is to end within so many seconds from now;
 *  0: whenever it does. */
void pldi_engine_set_limit(struct pldi_engine *engine, double seconds);
/** Those seconds if they have passed, else 0. */
double pldi_engine_late(const struct pldi_engine *engine);

/** Operations under way. */
int pldi_engine_active(struct pldi_engine *engine);

/** Hand an operation over.  background: nobody is about to wait for it. */
void pldi_engine_post(struct pldi_engine *engine, pld_request *op, int background);

void pldi_engine_wait(struct pldi_engine *engine, pld_request *op);
int pldi_engine_test(struct pldi_engine *engine, const pld_request *op);
/** As test, but moves nothing on. */
int pldi_engine_over(const pld_request *op);

/** As enter, if no operation is under way and nobody drives: 1, else 0.  Without the lock. */
int pldi_engine_try_enter(struct pldi_engine *engine);
void pldi_engine_leave_quickly(struct pldi_engine *engine);
/** By who has entered: somebody else has something to do. */
int pldi_engine_is_wanted(const struct pldi_engine *engine);

/** Whether a rank that waits has a core of its own. */
int pldi_engine_may_spin(const struct pldi_engine *engine);

/** One more fruitless look at what is waited for; `tries` counts them, from 0. */
void pldi_engine_idle(const struct pldi_engine *engine, int *tries);

/** Be the driver, and the only user of the transport, for a call that blocks. */
void pldi_engine_enter(struct pldi_engine *engine);
void pldi_engine_leave(struct pldi_engine *engine);

#endif /* PLDI_COLL_ENGINE_H */
