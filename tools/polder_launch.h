/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file polder_launch.h  For subcommands that are started under mpirun. */
#ifndef POLDER_LAUNCH_H
#define POLDER_LAUNCH_H

#include <polder/runtime.h>

/** Rank as the launcher tells it, 0 without one: for what is said before the job is joined. */
int launched_rank(void);

/** As complain(), but on one rank alone; `status` on all. */
int complain_once(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** pld_runtime_open(); a build without MPI runs one rank. */
int join_job(const char *device, pld_runtime **out);

#endif /* POLDER_LAUNCH_H */
