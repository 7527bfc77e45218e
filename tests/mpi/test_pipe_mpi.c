/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The pipelines of tests/inproc, with ranks that are processes; all ranks of the job. */

#include <unistd.h>

#include "inproc/pipe_model.h"

enum { WATCHDOG_S = 50 };

static int count, failed;

/* Collective: holds if it does on all ranks. */
static void all_ok(pld_runtime *rt, int rc, const char *what, int detail)
{
    int bad = rc != 0;

    (void)pld_allreduce(pld_runtime_world(rt), &bad, &bad, 1, PLD_I32, PLD_MAX, NULL);
    count++;
    failed += bad;
    if (pld_runtime_rank(rt) == 0)
        (void)printf("%sok %d - %s %d\n", bad ? "not " : "", count, what, detail);
    (void)fflush(stdout);
}

static void test_bits(pld_runtime *rt, int pp, int dp)
{
    for (int m = 1; m <= MOST_MICROBATCHES; m += 2) {
        int rc = 0;

        for (int kind = PLD_SCHEDULE_1F1B; kind <= PLD_SCHEDULE_GPIPE; kind++) {
            struct job *j = job_new(pp, dp, m);

            j->kind = (pld_schedule_kind)kind;
            rc |= equal_bits(rt, j);
            free(j);
        }
        all_ok(rt, rc, dp == 1 ? "bits of a loop, microbatches" : "as part of a mesh, microbatches",
               m);
    }
}

static void test_failures(pld_runtime *rt, int pp)
{
    for (int stage = 0; stage < pp; stage++) {
        int rc = 0;

        for (int at = 0; at < 6; at++) {
            struct job *j = failing_job(pp, PLD_SCHEDULE_1F1B, 5, stage, at / 2 * 2, at % 2);

            rc |= fails(rt, j);
            free(j);
        }
        all_ok(rt, rc, "a callback fails, all hear of it, stage", stage);
    }
}

int main(void)
{
    pld_runtime *rt = NULL;
    int size;

    (void)alarm(WATCHDOG_S);
    if (pld_runtime_open(NULL, &rt) < 0)
        return 1;
    size = pld_runtime_size(rt);
    test_bits(rt, size, 1);
    if (size % 2 == 0)
        test_bits(rt, size / 2, 2);
    test_failures(rt, size);
    if (pld_runtime_rank(rt) == 0)
        (void)printf("1..%d\n", count);
    return pld_runtime_close(&rt) != 0 || failed != 0;
}
