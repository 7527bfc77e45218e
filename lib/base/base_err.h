/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file base_err.h  Setting and passing on errors; see polder/error.h. */
#ifndef PLDI_BASE_ERR_H
#define PLDI_BASE_ERR_H

#include <polder/error.h>

/** Record the detail for pld_last_error() and return `code`. */
int pldi_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3), cold));

/** Return early from the caller if `expr` is an error. */
#define PLDI_TRY(expr)                                                                             \
    do {                                                                                           \
        int pldi_rc_ = (expr);                                                                     \
        if (pldi_rc_ < 0)                                                                          \
            return pldi_rc_;                                                                       \
    } while (0)

/** Check an argument of a public function. */
#define PLDI_CHECK_ARG(cond)                                                                       \
    do {                                                                                           \
        if (!(cond))                                                                               \
            return pldi_fail(PLD_ERR_ARG, "%s: need %s", __func__, #cond);                         \
    } while (0)

#endif /* PLDI_BASE_ERR_H */
