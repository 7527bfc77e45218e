/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A stage that is killed while a pipeline runs; test_shm_kill.py runs it.  Argument:
 * elements of an activation.  Survivors speak as those of shm_kill.c do.
 */

#include "kill.h"

static size_t elements;

static int forward(void *context, int stage, int microbatch, const void *in, void *out)
{
    (void)context, (void)stage, (void)microbatch;
    if (in != NULL && out != NULL)
        memcpy(out, in, elements * sizeof(float));
    return 0;
}

static int backward(void *context, int stage, int microbatch, const void *in, const void *grad_out,
                    void *grad_in)
{
    (void)context, (void)stage, (void)microbatch, (void)in;
    if (grad_in != NULL && grad_out != NULL)
        memcpy(grad_in, grad_out, elements * sizeof(float));
    return 0;
}

static int make(pld_runtime *rt, pld_mesh **mesh, pld_pipe **pipe)
{
    const int rank = pld_runtime_rank(rt);
    const int size = pld_runtime_size(rt);
    const pld_schedule_opts s = {PLD_OPTS(pld_schedule_opts), .ranks = size, .microbatches = 6};
    pld_pipe_opts o = {PLD_OPTS(pld_pipe_opts), .forward = forward, .backward = backward};
    const pld_pipe_tensor tensor = {.ndim = 1, .shape = {(int64_t)elements}};
    pld_schedule *schedule = NULL;
    int rc = pld_schedule_create(&s, &schedule);

    if (rank > 0)
        o.input = tensor;
    if (rank + 1 < size)
        o.output = tensor;
    if (rc == 0)
        rc = pld_mesh_create(rt, "pp=0,dp=1", mesh);
    if (rc == 0)
        rc = pld_pipe_create(*mesh, schedule, &o, pipe);
    pld_schedule_destroy(&schedule);
    return rc;
}

int main(int argc, char **argv)
{
    pld_runtime *rt = NULL;
    pld_mesh *mesh = NULL;
    pld_pipe *pipe = NULL;
    double start = 0;
    int end;
    int rc;

    elements = argc > 1 ? (size_t)atoll(argv[1]) : 1;
    end = kill_rank_1();
    if (pld_runtime_open(NULL, &rt) < 0 || make(rt, &mesh, &pipe) < 0)
        return 1;
    kill_soon(end);
    do {
        start = now();
        rc = pld_pipe_step(pipe);
    } while (rc == 0);
    survive(rt, rc, now() - start);
}
