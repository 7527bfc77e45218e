/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file fake_fault.h
 * What is to go wrong: FAKE_CUDA_FAULT and FAKE_NCCL_FAULT.
 *
 * Both are lists, "item,item", of
 *
 *     WHAT[:WORD][:N[+]][:CODE][@RANK]
 *
 * N counts calls of that kind in the process from 1; "3+" is the third and all later ones.
 * N may be a time instead, "200us", "20ms" or "1s".  CODE is the error to report, and has
 * a default.  With @RANK the fault happens on that rank alone; the rank of a process is
 * FAKE_RANK, else OMPI_COMM_WORLD_RANK, else 0; that of a thread, what fake_set_rank()
 * said.  A fault that cannot be parsed ends the process: a test with a typing error
 * must not pass.  fake_cuda.h and fake_nccl.h list what can go wrong.
 */
#ifndef FAKE_FAULT_H
#define FAKE_FAULT_H

#include <stdbool.h>
#include <stddef.h>

enum { FAKE_MAX_FAULTS = 16, FAKE_MAX_WORD = 24 };

struct fake_fault {
    char what[FAKE_MAX_WORD];
    char word[FAKE_MAX_WORD]; /* "" without */
    long n;                   /* 0 without; a time in microseconds */
    bool onwards;
    int code; /* 0 without */
    int rank; /* -1: all */
};

struct fake_faults {
    size_t n;
    struct fake_fault item[FAKE_MAX_FAULTS];
};

/** @param text  NULL: none */
void fake_faults_parse(struct fake_faults *out, const char *text);

/** The fault `what` that strikes the count-th call on that rank; NULL. */
const struct fake_fault *fake_fault_hit(const struct fake_faults *faults, const char *what,
                                        long count, int rank);

/** The fault `what`, with that word unless NULL, on that rank, whatever its n; NULL. */
const struct fake_fault *fake_fault_find(const struct fake_faults *faults, const char *what,
                                         const char *word, int rank);

/** An environment variable as a number, in 1024s with K, M or G; `otherwise` if not set. */
long fake_env_number(const char *name, long otherwise);

/** Say what is wrong with the test itself, and end the process. */
_Noreturn void fake_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif /* FAKE_FAULT_H */
