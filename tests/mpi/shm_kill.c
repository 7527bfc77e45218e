/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A rank that is killed while all of them operate; test_shm_kill.py runs it.
 * Arguments: elements of an operation; 1: buffers from pld_mem_alloc().  Each survivor
 * says on a line of its own what it got, and how long it was in that call.
 */

#include "kill.h"

int main(int argc, char **argv)
{
    const size_t count = argc > 1 ? (size_t)atoll(argv[1]) : 1;
    pld_runtime *rt = NULL;
    void *buffer = NULL;
    double start = 0;
    const int end = kill_rank_1();
    int rc;

    if (pld_runtime_open(NULL, &rt) < 0)
        return 1;
    kill_soon(end);
    if (argc > 2 && atoi(argv[2]) != 0)
        (void)pld_mem_alloc(rt, count * sizeof(float), &buffer);
    else
        buffer = calloc(count, sizeof(float));
    do {
        start = now();
        rc = pld_allreduce(pld_runtime_world(rt), buffer, buffer, count, PLD_F32, PLD_SUM, NULL);
    } while (rc == 0);
    survive(rt, rc, now() - start);
}
