/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file base_opts.h  Size-versioned option structs. */
#ifndef PLDI_BASE_OPTS_H
#define PLDI_BASE_OPTS_H

#include <stddef.h>

/**
 * Copy a caller's option struct into ours, whichever of the two is longer.
 * Both begin with a size_t struct_size.  A short one is padded with zeros
 * (= defaults); a long one is accepted only if its unknown tail is all zero.
 *
 * @return 0, PLD_ERR_ARG if struct_size < min_size, or PLD_ERR_UNSUPPORTED if
 *         the caller set a field that this library does not know
 */
int pldi_opts_copy(void *ours, size_t our_size, const void *theirs, size_t min_size);

#endif /* PLDI_BASE_OPTS_H */
