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

static int run_steps(pld_runtime *rt, struct job *j, struct stage *s, pld_pipe *pipe)
{
    for (int step = 0; step < 3; step++) {
        memset(s->grad, 0, sizeof(s->grad));
        CHECK(rt, pld_pipe_step(pipe) == 0);
        for (int l = s->first; l < s->end; l++)
            CHECK(rt, memcmp(s->grad[l], j->serial[s->dp].grad[l], sizeof(s->grad[l])) == 0);
    }
    return 0;
}

static int64_t messages_bytes(const struct stage *s, int pp)
{
    const int64_t to_next = s->number + 1 < pp ? width[s->end] : 0;
    const int64_t to_previous = s->number > 0 ? width[s->first] : 0;

    return (to_next + to_previous) * ROWS * (int64_t)sizeof(float) * s->microbatches;
}

static int equal_bits(pld_runtime *rt, void *context)
{
    struct job *j = context;
    struct stage *s = NULL;
    pld_pipe *pipe = NULL;
    pld_pipe_stats stats;
    pld_mesh *mesh = NULL;

    CHECK(rt, pld_mesh_create(rt, j->mesh, &mesh) == 0);
    s = stage_new(j, mesh);
    CHECK(rt, create(j, s, mesh, &pipe) == 0);
    CHECK(rt, run_steps(rt, j, s, pipe) == 0);
    pld_pipe_get_stats(pipe, &stats);
    CHECK(rt, stats.bytes_sent == messages_bytes(s, pld_mesh_size(mesh, PLD_AXIS_PP)));
    CHECK(rt, stats.compute_s > 0 && stats.wait_s >= 0);
    CHECK(rt, stats.compute_s + stats.wait_s <= stats.step_s);
    pld_pipe_destroy(&pipe);
    pld_pipe_destroy(&pipe);
    pld_mesh_destroy(&mesh);
    free(s);
    return 0;
}

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

/* Where a callback fails, in which direction, with what. */
static int fails(pld_runtime *rt, void *context)
{
    struct job *j = context;
    struct stage *s = NULL;
    pld_pipe *pipe = NULL;
    pld_mesh *mesh = NULL;

    CHECK(rt, pld_mesh_create(rt, j->mesh, &mesh) == 0);
    s = stage_new(j, mesh);
    CHECK(rt, create(j, s, mesh, &pipe) == 0);
    CHECK(rt, pld_pipe_step(pipe) == j->expect);
    CHECK(rt, strstr(pld_last_error(), j->words) != NULL);
    CHECK(rt, !s->failed || !s->called_after);
    CHECK(rt, pld_pipe_step(pipe) == PLD_ERR_STATE);
    pld_pipe_destroy(&pipe);
    CHECK(rt, pld_barrier(pld_mesh_group(mesh, PLD_AXIS_PP), NULL) == 0);
    pld_mesh_destroy(&mesh);
    free(s);
    return 0;
}

static int run_failure(int pp, int kind, int m, int stage, int microbatch, int backward)
{
    struct job *j = job_new(pp, 1, m);
    int rc;

    j->kind = (pld_schedule_kind)kind;
    j->fail[0] = (struct failure){1, stage, microbatch, backward, PLD_ERR_IO, "the disk is wet"};
    j->expect = PLD_ERR_IO;
    (void)snprintf(j->words, sizeof(j->words),
                   "rank %d: %s of microbatch %d in stage %d returned %d (file system error): "
                   "the disk is wet",
                   stage, backward ? "backward" : "forward", microbatch, stage, PLD_ERR_IO);
    rc = inproc_run(pp, fails, j);
    free(j);
    return rc;
}

static void test_failures(void)
{
    for (int pp = 1; pp <= 4; pp++)
        for (int kind = PLD_SCHEDULE_1F1B; kind <= PLD_SCHEDULE_GPIPE; kind++) {
            const int m = 7;
            int rc = 0;

            for (int stage = 0; stage < pp; stage++)
                for (int at = 0; at < 6; at++)
                    rc |= run_failure(pp, kind, m, stage, at / 2 * (m - 1) / 2, at % 2);
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
