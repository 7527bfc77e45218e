/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_shm_stores.h
 * How slots are filled, found out by trying both ways.
 *
 * A line that another processor has just written comes out of that one's cache.  Where the two
 * share their last level that is faster than memory, so that slots filled by ordinary stores
 * save a quarter to half of an operation's time; where they do not it is five times slower
 * than memory, and slots are better filled past the caches.  Which of the two it is cannot be
 * asked: virtual machines do not tell, and move their processors about, as schedulers move ranks
 * that are not bound.
 */
#ifndef PLDI_COLL_SHM_STORES_H
#define PLDI_COLL_SHM_STORES_H

#include <stddef.h>
#include <stdint.h>

#include "coll/coll.h"

enum { PLDI_STORE_CACHED, PLDI_STORE_PAST, PLDI_STORES };

enum { PLDI_STORES_SIZES = 16 }; /**< classes, each of twice the bytes, from 8 KiB on */

/** What one rank of a team has measured of one kind of operation, by size. */
struct pldi_stores {
    struct {
        uint32_t uses;
        float ticks[PLDI_STORES]; /**< of an operation of so many bytes, each way */
    } of[PLDI_KINDS][PLDI_STORES_SIZES];
};

/** Which way the next operation goes; the same until it is noted. */
int pldi_stores_choose(const struct pldi_stores *s, enum pldi_kind kind, size_t bytes);

/** How long it took that way. */
void pldi_stores_note(struct pldi_stores *s, enum pldi_kind kind, size_t bytes, int way,
                      uint64_t ticks);

#endif /* PLDI_COLL_SHM_STORES_H */
