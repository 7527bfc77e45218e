/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * 03: a network too long for one rank, cut into stages.
 *
 *     mpirun -np 4 build/examples/03_pipeline
 *
 * Each rank holds some of the layers.  A batch travels through them in microbatches, so that stages
 * work at the same time: a schedule says who does what, polder carries the data and calls forward()
 * and backward().  The loss has the same digits on 1, 2 and 4 ranks.
 */

#include <polder/polder.h>

#include <math.h>
#include <string.h>

#include "check.h"

enum { LAYERS = 4, WIDTH = 64, MICROBATCHES = 8, STEPS = 200 };
static pld_params *params;     /* tensor l: the weights of this stage's layer l */
static int step, layers, last; /* layers of this stage; whether it is the last one */
static float saved[MICROBATCHES][LAYERS + 1][WIDTH]; /* input of each layer, output of the last */
static double loss;                                  /* of this step; the last stage knows */

/* A layer is y[i] = x[i] + tanh(w[i] x[i-1]); together they shall make x[i] + sin(x[i-1]). */
static int forward(void *context, int stage, int microbatch, const void *in, void *out)
{
    float(*x)[WIDTH] = saved[microbatch];

    (void)context;
    pld_random_uniform((uint64_t)step, (uint64_t)microbatch, 0, WIDTH, x[0]); /* any rank can */
    if (stage > 0)
        memcpy(x[0], in, sizeof(x[0]));
    for (int l = 0; l < layers; l++) {
        const float *w = pld_params_value(params, l);

        for (int i = 0; i < WIDTH; i++)
            x[l + 1][i] = x[l][i] + (i > 0 ? tanhf(w[i] * x[l][i - 1]) : 0);
    }
    if (!last)
        memcpy(out, x[layers], sizeof(x[0]));
    return 0;
}

/* g begins as the gradient by the stage's output and becomes, layer by layer, that by its input. */
static int backward(void *context, int stage, int microbatch, const void *in, const void *grad_out,
                    void *grad_in)
{
    float(*x)[WIDTH] = saved[microbatch], input[WIDTH], g[WIDTH];

    (void)context, (void)in;
    pld_random_uniform((uint64_t)step, (uint64_t)microbatch, 0, WIDTH, input);
    for (int i = 0; i < WIDTH; i++) {
        g[i] = last ? x[layers][i] - input[i] - (i > 0 ? sinf(input[i - 1]) : 0)
                    : ((const float *)grad_out)[i];
        loss += (double)(g[i] * g[i]) / MICROBATCHES / WIDTH;
    }
    for (int l = layers - 1; l >= 0; l--)
        for (int i = 1; i < WIDTH; i++) {
            const float t = x[l + 1][i] - x[l][i], inner = g[i] * (1 - t * t);

            ((float *)pld_params_grad(params, l))[i] += inner * x[l][i - 1];
            g[i - 1] += inner * ((float *)pld_params_value(params, l))[i];
        }
    if (stage > 0)
        memcpy(grad_in, g, sizeof(g));
    return 0;
}

int main(void)
{
    char text[1024], name[32];
    pld_param layer = {PLD_OPTS(pld_param), .name = name, .ndim = 1, .shape = {WIDTH}};
    pld_pipe_opts stage = {PLD_OPTS(pld_pipe_opts), .forward = forward, .backward = backward};
    pld_runtime *rt = NULL;
    pld_mesh *mesh = NULL;
    pld_schedule *schedule = NULL;
    pld_pipe *pipe = NULL;
    pld_optim *optim = NULL;

    CHECK(pld_runtime_open(NULL, &rt));
    const int rank = pld_runtime_rank(rt), ranks = pld_runtime_size(rt);
    EXPECT(LAYERS % ranks == 0, "4 layers make 1, 2 or 4 stages");
    CHECK(pld_mesh_create(rt, "pp=0", &mesh)); /* pipeline parallel: a rank is a stage */
    CHECK(pld_params_create(mesh, &params));
    layers = LAYERS / ranks;
    last = rank == ranks - 1;
    for (int l = 0; l < layers; l++) {
        snprintf(name, sizeof(name), "layer.%d", rank * layers + l);
        CHECK(pld_params_add(params, &layer, NULL));
    }
    CHECK(pld_params_commit(params));
    CHECK(pld_optim_create(params, NULL, &optim));
    const pld_schedule_opts plan = {PLD_OPTS(pld_schedule_opts), .ranks = ranks,
                                    .microbatches = MICROBATCHES};
    CHECK(pld_schedule_create(&plan, &schedule));                /* 1F1B, unless told otherwise */
    stage.input = (pld_pipe_tensor){{WIDTH}, PLD_F32, rank > 0}; /* 0: nothing comes in */
    stage.output = (pld_pipe_tensor){{WIDTH}, PLD_F32, !last};
    CHECK(pld_pipe_create(mesh, schedule, &stage, &pipe));
    if (last && pld_schedule_format(schedule, text, sizeof(text)) < sizeof(text))
        printf("%s", text); /* a line for each rank; 2F0: stage 2, forward of microbatch 0 */
    for (step = 0; step <= STEPS; step++) {
        loss = 0;
        CHECK(pld_pipe_step(pipe));
        CHECK(pld_optim_step(optim, 1e-2, NULL));
        if (last && step % 50 == 0)
            printf("step %3d: loss %.12f\n", step, loss);
    }
    EXPECT(!last || loss < 0.01, "the network has not learned");
    pld_pipe_destroy(&pipe);
    pld_schedule_destroy(&schedule);
    pld_optim_destroy(&optim);
    pld_params_destroy(&params);
    pld_mesh_destroy(&mesh);
    CHECK(pld_runtime_close(&rt));
    return 0;
}
