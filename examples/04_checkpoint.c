/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * 04: save on one layout, go on with another.
 *
 *     mpirun -np 4 build/examples/04_checkpoint 04-run && build/tools/polder inspect 04-run
 *
 * A training saves half-way, with its layers spread over the ranks, and goes on.  A second one,
 * where every rank has all layers, loads that and goes on, too.  In the end both have the same
 * weights, to the last bit: nothing was lost, not the optimizer's state, not the number of steps.
 */

#include <polder/polder.h>

#include <string.h>

#include "check.h"

enum { LAYERS = 4, WIDTH = 1000, HALF = 10, STEPS = 20 };

struct training {
    pld_mesh *mesh;
    pld_params *params;
    pld_optim *optim;
    pld_ckpt *ckpt;
    int64_t step; /* saved and loaded with the rest */
};

/* The names of the tensors are all that the layouts have in common. */
static void begin(pld_runtime *rt, const char *layout, const char *directory, struct training *t)
{
    char name[32];
    pld_param layer = {PLD_OPTS(pld_param), .name = name, .ndim = 1, .shape = {WIDTH}};

    memset(t, 0, sizeof(*t));
    CHECK(pld_mesh_create(rt, layout, &t->mesh));
    CHECK(pld_params_create(t->mesh, &t->params));
    const int first = pld_mesh_coord(t->mesh, PLD_AXIS_PP);
    for (int l = first; l < LAYERS; l += pld_mesh_size(t->mesh, PLD_AXIS_PP)) {
        snprintf(name, sizeof(name), "layer.%d.weight", l);
        CHECK(pld_params_add(t->params, &layer, NULL));
    }
    CHECK(pld_params_commit(t->params));
    CHECK(pld_optim_create(t->params, NULL, &t->optim)); /* AdamW, with two numbers per weight */
    CHECK(pld_ckpt_open(t->mesh, directory, NULL, &t->ckpt));
    CHECK(pld_ckpt_add_params(t->ckpt, t->params));
    CHECK(pld_ckpt_add_state(t->ckpt, "step", &t->step, sizeof(t->step)));
    CHECK(pld_ckpt_set_text(t->ckpt, "example", "04_checkpoint"));
}

/* In place of a backward: weights are drawn to zero, with noise from the number of the step. */
static void train(struct training *t, int64_t until)
{
    for (; t->step < until; t->step++) {
        pld_step_report report;

        for (int i = 0; i < pld_params_count(t->params); i++) {
            pld_param_info w;

            CHECK(pld_params_info(t->params, i, &w));
            pld_random_normal((uint64_t)t->step, pld_random_stream(w.name), 0, WIDTH, w.grad);
            for (int k = 0; k < WIDTH; k++)
                ((float *)w.grad)[k] += ((const float *)w.value)[k];
        }
        CHECK(pld_optim_step(t->optim, 1e-2, &report));
        CHECK(pld_ckpt_set_number(t->ckpt, "grad_norm", report.grad_norm));
    }
}

/* Whether two trainings have the same bits in the layers that this rank holds in both. */
static int equal(const struct training *a, const struct training *b)
{
    for (int i = 0; i < pld_params_count(a->params); i++) {
        pld_param_info w;
        int k;

        CHECK(pld_params_info(a->params, i, &w));
        CHECK(pld_params_find(b->params, w.name, &k));
        if (memcmp(w.value, pld_params_value(b->params, k), WIDTH * sizeof(float)) != 0)
            return 0;
    }
    return 1;
}

static void end(struct training *t)
{
    pld_ckpt_destroy(&t->ckpt);
    pld_optim_destroy(&t->optim);
    pld_params_destroy(&t->params);
    pld_mesh_destroy(&t->mesh);
}

int main(int argc, char **argv)
{
    const char *directory = argc > 1 ? argv[1] : "04-run";
    struct training deep, wide;
    pld_runtime *rt = NULL;

    CHECK(pld_runtime_open(NULL, &rt));
    EXPECT(pld_runtime_size(rt) <= LAYERS, "there are only 4 layers to hand out");

    begin(rt, "pp=0", directory, &deep); /* every rank some layers */
    train(&deep, HALF);
    CHECK(pld_ckpt_save(deep.ckpt, deep.step));
    train(&deep, STEPS);
    begin(rt, "dp=0", directory, &wide); /* every rank all layers */
    CHECK(pld_ckpt_load(wide.ckpt, "latest", NULL));
    EXPECT(wide.step == HALF && pld_optim_steps(wide.optim) == HALF, "this is not what was saved");
    EXPECT(!equal(&deep, &wide), "the second half of the training changes nothing");
    train(&wide, STEPS);
    CHECK(pld_agree(pld_runtime_world(rt), equal(&deep, &wide) ? 0 : PLD_ERR_MISMATCH));
    if (pld_runtime_rank(rt) == 0)
        printf("saved as pp=0, loaded as dp=0: the same bits at step %d\n", STEPS);
    end(&deep);
    end(&wide);
    CHECK(pld_runtime_close(&rt));
    return 0;
}
