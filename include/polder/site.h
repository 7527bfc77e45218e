/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/site.h
 * Where in the program a call was made, for the recorder and for error sentences.
 *
 * Every function that communicates has a macro of its own name in its header, which
 * notes file and line in the calling thread before the call: pld_barrier(g, NULL)
 * becomes pld_barrier((pld_site("train.c", 231), (g)), NULL).  What is not a call,
 * such as &pld_barrier, is not touched; (pld_barrier)(g, NULL) does without.  Calls
 * that the library makes for a caller (pld_optim_step() reduces, pld_ckpt_save()
 * votes) count as made where the caller is.
 *
 * Callers without the macros (other languages, function pointers, PLD_NO_SITES
 * defined before the headers) are named by module and return address, as
 * "prog+0x1a2b (solve_)"; addr2line finds the line.
 */
#ifndef POLDER_SITE_H
#define POLDER_SITE_H

#include <polder/export.h>

PLD_BEGIN_DECLS

/**
 * The next call of this thread is made there.  Bindings may call it with a place of
 * their language.  Local, never fails.
 *
 * @param file  a string that is never freed
 */
PLD_API void pld_site(const char *file, int line);

PLD_END_DECLS

/** A call's first argument, and on the way the place of the call. */
#define PLD_HERE(first) (pld_site(__FILE__, __LINE__), (first))

#endif /* POLDER_SITE_H */
