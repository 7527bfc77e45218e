/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * 01: ranks that add up numbers.
 *
 *     mpirun -np 4 build/examples/01_allreduce
 *
 * A program becomes a job of several ranks, each with its own memory.  An
 * all-reduce combines a buffer of every rank and gives the result to all of them:
 * it is what data-parallel training is made of.
 */

#include <polder/polder.h>

#include "check.h"

enum { COUNT = 1 << 20 };

/* Every rank contributes its number plus one; all of them receive 1 + 2 + ... + size. */
static void sum_one_number(pld_runtime *rt)
{
    const int rank = pld_runtime_rank(rt), size = pld_runtime_size(rt);
    double mine = rank + 1, sum = 0;

    CHECK(pld_allreduce(pld_runtime_world(rt), &mine, &sum, 1, PLD_F64, PLD_SUM, NULL));
    EXPECT(sum == 0.5 * size * (size + 1), "the sum is wrong");
    if (rank == 0)
        printf("%d ranks: the sum of their numbers is %g\n", size, sum);
}

/*
 * The same with a million numbers, in place, and without waiting: the call
 * returns at once, the rank goes on with work of its own, and waits at the end.
 * Until then the buffer is polder's.
 */
static void average_in_the_background(pld_runtime *rt)
{
    const int rank = pld_runtime_rank(rt), size = pld_runtime_size(rt);
    pld_request *request = NULL;
    float *buffer = NULL;
    double work = 0;

    /* Memory that the ranks of a node share; ordinary memory would do, more slowly. */
    CHECK(pld_mem_alloc(rt, COUNT * sizeof(float), (void **)&buffer));
    for (int i = 0; i < COUNT; i++)
        buffer[i] = (float)(rank + i % 100);

    CHECK(pld_allreduce(pld_runtime_world(rt), buffer, buffer, COUNT, PLD_F32, PLD_AVG,
                        &(pld_coll_opts){PLD_OPTS(pld_coll_opts), .request = &request}));
    for (int i = 1; i <= COUNT; i++)
        work += 1.0 / ((double)i * i);
    CHECK(pld_request_wait(&request));

    for (int i = 0; i < COUNT; i++) {
        const double difference = buffer[i] - (0.5 * (size - 1) + i % 100);

        EXPECT(difference < 1e-4 && difference > -1e-4, "the average is wrong");
    }
    if (rank == 0)
        printf("%d averages arrived while this rank added up pi^2/6 = %.4f\n", COUNT, work);
    pld_mem_free(rt, buffer);
}

/* What only one rank knows: rank 0 reads the input, all others receive it. */
static void tell_everybody(pld_runtime *rt)
{
    double learning_rate = pld_runtime_rank(rt) == 0 ? 3e-4 : 0;

    CHECK(pld_broadcast(pld_runtime_world(rt), &learning_rate, 1, PLD_F64, 0, NULL));
    EXPECT(learning_rate == 3e-4, "the broadcast did not arrive");
}

/* One rank fails, say, to open a file.  Told to nobody, the others would wait for it for ever. */
static void fail_together(pld_runtime *rt)
{
    const int last = pld_runtime_size(rt) - 1;
    const int mine = pld_runtime_rank(rt) == last ? PLD_ERR_NOTFOUND : 0;
    const int agreed = pld_agree(pld_runtime_world(rt), mine);

    EXPECT(agreed == PLD_ERR_NOTFOUND, "the ranks did not agree");
    if (pld_runtime_rank(rt) == 0)
        printf("rank %d failed, and all ranks know: %s\n", last, pld_error_name(agreed));
}

int main(void)
{
    pld_runtime *rt = NULL;

    CHECK(pld_runtime_open(NULL, &rt)); /* MPI_Init(), if the program has not called it */
    sum_one_number(rt);
    average_in_the_background(rt);
    tell_everybody(rt);
    fail_together(rt);
    CHECK(pld_runtime_close(&rt));
    return 0;
}
