/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/interop_mpi.h
 * For programs that have their own communicator.  The only public header that
 * needs mpi.h.
 */
#ifndef POLDER_INTEROP_MPI_H
#define POLDER_INTEROP_MPI_H

#include <string.h>

#include <mpi.h>

#include <polder/runtime.h>

PLD_BEGIN_DECLS

/** pld_runtime_open() over `comm`, which is duplicated and stays the caller's. */
static inline int pld_runtime_open_mpi(MPI_Comm comm, pld_runtime **out)
{
    pld_runtime_opts opts;

    memset(&opts, 0, sizeof(opts));
    opts.struct_size = sizeof(opts);
    opts.use_comm = 1;
    opts.transport = "mpi";
    opts.comm = (int)MPI_Comm_c2f(comm);
    return pld_runtime_open(&opts, out);
}

PLD_END_DECLS

#endif /* POLDER_INTEROP_MPI_H */
