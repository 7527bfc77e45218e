/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "coll/coll_shm_stores.h"

/*
 * Both ways in turn at first; then the better one.  The other is tried again after 1, 2, 4 and so
 * on uses, for the first times may have been disturbed, and every so often for ever, for
 * processors move; at its worst it is five times as long, and AGAIN keeps that to 3 % of the time.
 */
enum { TRIALS = 6, AGAIN = 128, SMALLEST = 13 };

/* A rank that was kept from its processor says little: longer times count for a part, and for no
 * more than one and a half times what was known. */
static const float LONGER_PART = 0.25F, LONGER_MOST = 1.5F;

static int size_class(size_t bytes)
{
    int class = 0;

    while (class < PLDI_STORES_SIZES - 1 && bytes >> (SMALLEST + 1 + class) != 0)
        class ++;
    return class;
}

static int tries_again(uint32_t uses)
{
    const uint32_t since = uses - TRIALS;

    return uses % AGAIN == 0 || (since < AGAIN && (since & (since - 1)) == 0);
}

int pldi_stores_choose(const struct pldi_stores *s, enum pldi_kind kind, size_t bytes)
{
    const int class = size_class(bytes);
    const uint32_t uses = s->of[kind][class].uses;
    const float *ticks = s->of[kind][class].ticks;
    int better;

    if (uses < TRIALS)
        return uses % 2 == 0 ? PLDI_STORE_PAST : PLDI_STORE_CACHED;
    better =
        ticks[PLDI_STORE_CACHED] <= ticks[PLDI_STORE_PAST] ? PLDI_STORE_CACHED : PLDI_STORE_PAST;
    return tries_again(uses) ? !better : better;
}

void pldi_stores_note(struct pldi_stores *s, enum pldi_kind kind, size_t bytes, int way,
                      uint64_t ticks)
{
    const int class = size_class(bytes);
    float *known = &s->of[kind][class].ticks[way];
    const float now = (float)ticks;

    s->of[kind][class].uses++;
    if (*known == 0 || now <= *known)
        *known = now;
    else
        *known +=
            LONGER_PART * ((now < LONGER_MOST * *known ? now : LONGER_MOST * *known) - *known);
}
