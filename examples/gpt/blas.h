/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file blas.h  Getting the best out of whichever BLAS is linked. */
#ifndef GPT_BLAS_H
#define GPT_BLAS_H

/**
 * Make OpenBLAS use its AVX-512 kernels where the processor has them: some of
 * its versions do not choose them on processors newer than themselves.  The choice
 * is made by a variable (OPENBLAS_CORETYPE) that is read before main() begins, so
 * this sets it and executes the program again.  Call it first in main(), before
 * MPI.  Returns if there is nothing to do (another BLAS, no AVX-512, such kernels in
 * use, the variable set already) or if it cannot be done.
 */
void gpt_blas_choose(char **argv);

/** Threads for BLAS: the cores this process may use, shared among `local_ranks`, at least 1.
 *  OPENBLAS_NUM_THREADS and OMP_NUM_THREADS, where set, are left to speak for themselves. */
void gpt_blas_threads(int local_ranks);

#endif /* GPT_BLAS_H */
