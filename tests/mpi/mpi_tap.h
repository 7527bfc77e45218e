/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file mpi_tap.h
 * TAP of a program of several ranks: a point holds if it does on all of them; the
 * first rank prints.  A program that hangs is ended by alarm().
 */
#ifndef MPI_TAP_H
#define MPI_TAP_H

#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <polder/polder.h>

enum { WATCHDOG_S = 50 };

static int mpi_tap_count, mpi_tap_failed;

/** In a function that returns int: say where, and return 1, unless `cond` holds. */
#define NEED(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            int need_rank_ = -1;                                                                   \
            (void)MPI_Comm_rank(MPI_COMM_WORLD, &need_rank_);                                      \
            (void)fprintf(stderr, "# rank %d: %s:%d: %s does not hold (%s)\n", need_rank_,         \
                          __FILE__, __LINE__, #cond, pld_last_error());                            \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

/** Collective over MPI_COMM_WORLD.  failures: of this rank. */
static inline void all_ok(int failures, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static inline void all_ok(int failures, const char *fmt, ...)
{
    va_list ap;
    int rank = 0;
    int sum = 0;

    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    (void)MPI_Allreduce(&failures, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    mpi_tap_count++;
    mpi_tap_failed += sum != 0;
    if (rank != 0)
        return;
    (void)printf("%sok %d - ", sum == 0 ? "" : "not ", mpi_tap_count);
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    (void)printf("\n");
    (void)fflush(stdout);
}

/** The last line, on the first rank; returns main()'s result. */
static inline int all_done(int rank)
{
    if (rank == 0)
        (void)printf("1..%d\n", mpi_tap_count);
    (void)fflush(stdout);
    return mpi_tap_failed != 0;
}

#endif /* MPI_TAP_H */
