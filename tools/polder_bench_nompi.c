/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* In place of polder_bench_mpi.c where there is no MPI. */

#include "polder_bench.h"

#include <stdio.h>

int bench_mpi_built(void)
{
    return 0;
}

const struct bench_mpi *bench_mpi_prepare(const struct bench_case *c, int *rc)
{
    (void)c;
    *rc = 0;
    return NULL;
}

void bench_mpi_release(const struct bench_mpi *mpi)
{
    (void)mpi;
}

void bench_mpi_barrier(void)
{
}

void bench_mpi_version(char *out, size_t room)
{
    (void)snprintf(out, room, "%s", "");
}
