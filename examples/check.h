/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file check.h  How the numbered examples handle errors: they say so and end. */
#ifndef EXAMPLES_CHECK_H
#define EXAMPLES_CHECK_H

#include <polder/error.h>

#include <stdio.h>
#include <stdlib.h>

/** A call of polder that must succeed.  A rank that ends without leaving the job
 *  makes mpirun end the others, so nobody waits for it. */
#define CHECK(call)                                                                                \
    do {                                                                                           \
        const int check_rc = (call);                                                               \
        if (check_rc < 0) {                                                                        \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, pld_error_name(check_rc),       \
                    pld_last_error());                                                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/** What the example claims.  `why` is what it would mean if it were not so. */
#define EXPECT(condition, why)                                                                     \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, why);                               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#endif /* EXAMPLES_CHECK_H */
