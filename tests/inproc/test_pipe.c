/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A perceptron of five layers, cut into 1 to 5 stages, against a serial loop over
 * the microbatches: gradients must have the same bits.  Every callback also compares
 * what it is given with what the serial loop saw there, so that data of another
 * microbatch, or of a message without data, cannot pass.
 */

#include "inproc/pipe_model.h"
#include "tap.h"

/* Schedules in text form that no generator makes. */
static const char *const eager_1f1b = "0F0,0F1,0F2,0F3,0F4,0B0,0B1,0B2,0B3,0B4\n"
                                      "1F0,1F1,1F2,1B0,1F3,1B1,1F4,1B2,1B3,1B4\n"
                                      "2F0,2B0,2F1,2B1,2F2,2B2,2F3,2B3,2F4,2B4\n";
static const char *const crossed_ranks = "2F0,2B0,2F1,2B1,2F2,2B2\n"
                                         "0F0,0F1,0F2,0B0,0B1,0B2\n"
                                         "1F0,1F1,1B0,1F2,1B1,1B2\n";
static const char *const late_sends =
    "0F0,0F1,0SEND_F1,0SEND_F0,0F2,0SEND_F2,0RECV_B1,0RECV_B0,0B0,0B1,0RECV_B2,0B2\n"
    "1RECV_F1,1RECV_F0,1F0,1F1,1RECV_F2,1F2,1B0,1B1,1SEND_B1,1SEND_B0,1B2,1SEND_B2\n";

static void test_bits(void)
{
    for (int pp = 1; pp <= LAYERS; pp++)
        for (int kind = PLD_SCHEDULE_1F1B; kind <= PLD_SCHEDULE_GPIPE; kind++) {
            int rc = 0;

            for (int m = 1; m <= MOST_MICROBATCHES; m++) {
                struct job *j = job_new(pp, 1, m);

                j->kind = (pld_schedule_kind)kind;
                rc |= inproc_run(pp, equal_bits, j);
                free(j);
            }
            ok(rc == 0, "pp=%d, %s: gradients of 1..%d microbatches have the bits of a loop", pp,
               pld_schedule_kind_name((pld_schedule_kind)kind), MOST_MICROBATCHES);
        }
}

static void test_text(const char *text, int pp, int microbatches, const char *what)
{
    struct job *j = job_new(pp, 1, microbatches);

    j->text = text;
    ok(inproc_run(pp, equal_bits, j) == 0, "a schedule read from text: %s", what);
    free(j);
}

static void test_lowered(void)
{
    struct job *j = job_new(4, 1, 6);

    j->lower = 1;
    ok(inproc_run(4, equal_bits, j) == 0, "a schedule that has messages already");
    free(j);
    j = job_new(3, 2, 5);
    ok(inproc_run(6, equal_bits, j) == 0, "dp=2, pp=3: two pipelines with data of their own");
    free(j);
}

static void test_failures(void)
{
    for (int pp = 1; pp <= 4; pp++)
        for (int kind = PLD_SCHEDULE_1F1B; kind <= PLD_SCHEDULE_GPIPE; kind++) {
            const int m = 7;
            int rc = 0;

            for (int stage = 0; stage < pp; stage++)
                for (int at = 0; at < 6; at++) {
                    struct job *j = failing_job(pp, kind, m, stage, at / 2 * (m - 1) / 2, at % 2);

                    rc |= inproc_run(pp, fails, j);
                    free(j);
                }
            ok(rc == 0, "pp=%d, %s: a callback fails on any stage, early or late; all hear of it",
               pp, pld_schedule_kind_name((pld_schedule_kind)kind));
        }
}

static void test_other_failures(void)
{
    struct job *j = job_new(3, 1, 4);

    j->fail[0] = (struct failure){1, 2, 0, 0, PLD_ERR_NOTFOUND, NULL};
    j->fail[1] = (struct failure){1, 0, 3, 0, PLD_ERR_CORRUPT, NULL};
    j->expect = PLD_ERR_CORRUPT;
    (void)snprintf(j->words, sizeof(j->words), "rank 0: forward of microbatch 3");
    j->kind = PLD_SCHEDULE_GPIPE;
    ok(inproc_run(3, fails, j) == 0, "of two failures the lower rank's is everybody's");
    free(j);
    j = job_new(2, 1, 4);
    j->fail[0] = (struct failure){1, 1, 1, 1, 7, NULL};
    j->expect = PLD_ERR_ARG;
    (void)snprintf(j->words, sizeof(j->words),
                   "rank 1: backward of microbatch 1 in stage 1 returned 7 (need 0 or");
    ok(inproc_run(2, fails, j) == 0, "a callback that returns a positive number is at fault");
    free(j);
}

/* A rank that leaves instead of making its step. */
static int leaves(pld_runtime *rt, void *context)
{
    struct job *j = context;
    struct stage *s = NULL;
    pld_pipe *pipe = NULL;
    pld_mesh *mesh = NULL;

    CHECK(rt, pld_mesh_create(rt, j->mesh, &mesh) == 0);
    s = stage_new(j, mesh);
    CHECK(rt, create(j, s, mesh, &pipe) == 0);
    CHECK(rt, pld_pipe_step(pipe) == 0);
    if (s->number != j->leaver) {
        CHECK(rt, pld_pipe_step(pipe) == PLD_ERR_PEER);
        CHECK(rt, pld_pipe_step(pipe) == PLD_ERR_STATE);
    }
    pld_pipe_destroy(&pipe);
    pld_mesh_destroy(&mesh);
    free(s);
    return 0;
}

static void test_leave(void)
{
    for (int leaver = 0; leaver < 4; leaver++) {
        struct job *j = job_new(4, 1, 5);

        j->leaver = leaver;
        ok(inproc_run(4, leaves, j) == 0, "stage %d leaves: PLD_ERR_PEER on the others", leaver);
        free(j);
    }
}

int main(void)
{
    test_bits();
    test_text(eager_1f1b, 3, 5, "eager 1F1B");
    test_text(crossed_ranks, 3, 3, "stages on other ranks than their own");
    test_text(late_sends, 2, 3, "messages in another order than computations");
    test_lowered();
    test_failures();
    test_other_failures();
    test_leave();
    return tap_done();
}
