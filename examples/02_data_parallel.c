/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * 02: a surrogate that learns from a simulation in the same program.
 *
 *     mpirun -np 4 build/examples/02_data_parallel
 *
 * The simulation solves the heat equation for a rod with a hot spot: given its place and
 * the diffusivity, how warm is the rod at 16 points later?  A small network learns to
 * answer that at once.  Each rank solves for parameters of its own and trains on them;
 * gradients are averaged over the ranks.
 */

#include <polder/polder.h>

#include <math.h>

#include "check.h"

enum { GRID = 65, TIMES = 300, IN = 3, WIDTH = 48, OUT = 16, BATCH = 32, STEPS = 400 };

/* Sample n: parameters drawn from (seed, n), the truth from the solver.  Any rank can make it. */
static void simulate(uint64_t n, float in[IN], float truth[OUT])
{
    double u[2][GRID] = {{0}}, r;

    pld_random_uniform(1, 0, n * 2, 2, in);
    r = 0.05 + 0.4 * (double)in[1]; /* diffusivity * dt / dx^2, stable below 1/2 */
    for (int i = 1; i < GRID - 1; i++)
        u[0][i] = exp(-pow((i / (GRID - 1.0) - 0.2 - 0.6 * (double)in[0]) / 0.08, 2));
    for (int t = 0; t < TIMES; t++) /* u_t = a u_xx, the ends kept at 0 */
        for (int i = 1; i < GRID - 1; i++)
            u[(t + 1) % 2][i] = u[t % 2][i] * (1 - 2 * r) + r * (u[t % 2][i - 1] + u[t % 2][i + 1]);
    for (int o = 0; o < OUT; o++)
        truth[o] = (float)u[TIMES % 2][2 + o * (GRID - 1) / OUT];
    in[0] = 6 * in[0] - 3; /* what a network likes best: numbers around zero */
    in[1] = 6 * in[1] - 3;
    in[2] = 1; /* the factor of the biases */
}

/* Square error of the network tanh(in w1) w2 on sample n.  With a `dp`, 1/count of its gradient
 * is added to that of the params, and polder is told what is complete: backward ends with w1. */
static double learn(pld_params *params, pld_dp *dp, uint64_t n, int count)
{
    const float(*w1)[WIDTH] = pld_params_value(params, 0), (*w2)[OUT] = pld_params_value(params, 1);
    float(*g1)[WIDTH] = pld_params_grad(params, 0), (*g2)[OUT] = pld_params_grad(params, 1);
    float in[IN], truth[OUT], hidden[WIDTH + 1], error[OUT], back[WIDTH + 1] = {0};
    double loss = 0;

    simulate(n, in, truth);
    for (int h = 0; h < WIDTH; h++)
        hidden[h] = tanhf(in[0] * w1[0][h] + in[1] * w1[1][h] + in[2] * w1[2][h]);
    hidden[WIDTH] = 1;
    for (int o = 0; o < OUT; o++) {
        error[o] = -truth[o];
        for (int h = 0; h <= WIDTH; h++)
            error[o] += hidden[h] * w2[h][o];
        loss += (double)(error[o] * error[o]) / OUT;
    }
    if (dp == NULL)
        return loss;
    for (int h = 0; h <= WIDTH; h++)
        for (int o = 0; o < OUT; o++) {
            g2[h][o] += error[o] * hidden[h] / (float)count;
            back[h] += error[o] * w2[h][o] / (float)count;
        }
    CHECK(pld_dp_ready(dp, 1, NULL));
    for (int h = 0; h < WIDTH; h++)
        for (int i = 0; i < IN; i++)
            g1[i][h] += back[h] * (1 - hidden[h] * hidden[h]) * in[i];
    CHECK(pld_dp_ready(dp, 0, NULL));
    return loss;
}

int main(void)
{
    const pld_param w1 = {PLD_OPTS(pld_param), .name = "w1", .ndim = 2, .shape = {IN, WIDTH}};
    const pld_param w2 = {PLD_OPTS(pld_param), .name = "w2", .ndim = 2, .shape = {WIDTH + 1, OUT}};
    pld_runtime *rt = NULL;
    pld_mesh *mesh = NULL;
    pld_params *params = NULL;
    pld_dp *dp = NULL;
    pld_optim *optim = NULL;
    double loss = 0;

    CHECK(pld_runtime_open(NULL, &rt));
    const int rank = pld_runtime_rank(rt), share = BATCH / pld_runtime_size(rt);
    EXPECT(share * pld_runtime_size(rt) == BATCH, "the number of ranks must divide 32");
    CHECK(pld_mesh_create(rt, "dp=0", &mesh)); /* data parallel over all ranks */
    CHECK(pld_params_create(mesh, &params));
    CHECK(pld_params_add(params, &w1, NULL)); /* tensor 0 */
    CHECK(pld_params_add(params, &w2, NULL)); /* tensor 1 */
    CHECK(pld_params_commit(params));         /* now they have addresses, and are zero */
    pld_random_normal(7, 0, 0, (size_t)IN * WIDTH, pld_params_value(params, 0));
    CHECK(pld_dp_create(params, &(pld_dp_opts){PLD_OPTS(pld_dp_opts), .accumulate = share}, &dp));
    CHECK(pld_optim_create(params, NULL, &optim)); /* AdamW */

    for (int step = 0; step <= STEPS; step++) {
        if (step % 100 == 0) {
            loss = 0;
            for (uint64_t n = 0; n < BATCH; n++) /* samples that no step trains on */
                loss += learn(params, NULL, (1 << 30) + n, 1) / BATCH;
            if (rank == 0)
                printf("step %3d: mean square error %.2e\n", step, loss);
        }
        for (int i = 0; i < share; i++) /* this rank's part of the 32 samples of a step */
            (void)learn(params, dp, (uint64_t)(step * BATCH + rank * share + i), share);
        /* Waits for the averages, updates the values, sets the gradients to zero. */
        CHECK(pld_optim_step(optim, 1e-2 * (1 - step / (STEPS + 1.0)), NULL));
    }
    EXPECT(loss < 6e-4, "the surrogate has not learned");
    pld_optim_destroy(&optim);
    pld_dp_destroy(&dp);
    pld_params_destroy(&params);
    pld_mesh_destroy(&mesh);
    CHECK(pld_runtime_close(&rt));
    return 0;
}
