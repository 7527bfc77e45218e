/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file health_site.h
 * Where the caller is; see polder/site.h.
 *
 * A public function that communicates, or calls one that does, begins with
 * PLDI_ENTER().  The outermost of them on a thread decides: what it calls counts as
 * made at its own place.
 */
#ifndef PLDI_HEALTH_SITE_H
#define PLDI_HEALTH_SITE_H

#include <polder/site.h>

/** A place: of the macros, or an address. */
struct pldi_site {
    const char *file; /**< NULL: `address` */
    int line;
    const void *address;
};

struct pldi_scope {
    int depth;
};

struct pldi_scope pldi_site_enter(const void *address);
void pldi_site_leave(struct pldi_scope *scope);

#define PLDI_ENTER()                                                                               \
    struct pldi_scope pldi_scope_ __attribute__((cleanup(pldi_site_leave), unused)) =              \
        pldi_site_enter(__builtin_return_address(0))

/** Of the outermost call that this thread is in. */
struct pldi_site pldi_site_now(void);

/** "train.c:231", or "prog+0x1a2b (solve_)"; the end of a long path. */
void pldi_site_text(const struct pldi_site *site, char *text, int bytes);

#endif /* PLDI_HEALTH_SITE_H */
