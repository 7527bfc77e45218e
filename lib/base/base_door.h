/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file base_door.h
 * How a process sleeps until another one, with which it shares memory, has news for it.
 *
 *     sleeper: pldi_door_shut(d); look once more; pldi_door_sleep(d, ns)
 *     others:  store the news; pldi_door_ring(d)
 *
 * Who rings puts no fence between the two, which each call would pay for.  The bell may
 * thus be read before the news can be seen, and a sleeper overheard: no sleep is
 * longer than PLDI_DOOR_NS, so that is what it costs.
 */
#ifndef PLDI_BASE_DOOR_H
#define PLDI_BASE_DOOR_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { PLDI_DOOR_NS = 4000000 };

/** In shared memory, zero at first; on a line of its own. */
struct pldi_door {
    _Atomic uint32_t shut; /**< 1: somebody sleeps, or is about to */
};

void pldi_door_shut(struct pldi_door *door);
/** Until rung, since it was shut, or for so long. */
void pldi_door_sleep(struct pldi_door *door);
void pldi_door_wake(struct pldi_door *door);

/** NULL: nobody. */
static inline void pldi_door_ring(struct pldi_door *door)
{
    if (door != NULL && atomic_load_explicit(&door->shut, memory_order_relaxed) != 0)
        pldi_door_wake(door);
}

#endif /* PLDI_BASE_DOOR_H */
