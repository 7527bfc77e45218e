/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What ranks find out about each other's tensors, and what they then share. */

#include <stdlib.h>

#include "inproc/inproc.h"
#include "params/params.h"
#include "tap.h"

static pld_param matrix(const char *name, int64_t rows, int64_t columns)
{
    return (pld_param){PLD_OPTS(pld_param), .name = name, .ndim = 2, .shape = {rows, columns}};
}

static int add(pld_params *p, pld_param o)
{
    return pld_params_add(p, &o, NULL);
}

/* A scenario: mesh, what each rank adds, which code commit gives, which words the text has. */
struct scenario {
    const char *mesh;
    int ranks;
    int (*fill)(const pld_mesh *mesh, pld_params *p);
    int code;
    const char *words[4];
};

static int commit(pld_runtime *rt, void *context)
{
    const struct scenario *s = context;
    pld_mesh *mesh = NULL;
    pld_params *p = NULL;

    CHECK(rt, pld_mesh_create(rt, s->mesh, &mesh) == 0);
    CHECK(rt, pld_params_create(mesh, &p) == 0);
    CHECK(rt, s->fill(mesh, p) == 0);
    CHECK(rt, pld_params_commit(p) == s->code);
    for (int i = 0; i < 4 && s->words[i] != NULL; i++)
        CHECK(rt, strstr(pld_last_error(), s->words[i]) != NULL);
    CHECK(rt, (pld_params_value(p, 0) != NULL) == (s->code == 0));
    pld_params_destroy(&p);
    pld_params_destroy(&p);
    pld_mesh_destroy(&mesh);
    return 0;
}

static int fill_equal(const pld_mesh *mesh, pld_params *p)
{
    (void)mesh;
    return add(p, matrix("a", 3, 4)) | add(p, matrix("b", 5, 1));
}

static int fill_other_shape(const pld_mesh *mesh, pld_params *p)
{
    const int odd = pld_mesh_coord(mesh, PLD_AXIS_DP) == 2;

    return add(p, matrix("a", 3, 4)) | add(p, matrix("b", odd ? 6 : 5, 1));
}

static int fill_other_name(const pld_mesh *mesh, pld_params *p)
{
    return add(p, matrix("a", 3, 4)) |
           add(p, matrix(pld_mesh_coord(mesh, PLD_AXIS_DP) == 1 ? "x.weight" : "y.bias", 5, 1));
}

static int fill_missing(const pld_mesh *mesh, pld_params *p)
{
    int rc = add(p, matrix("a", 3, 4));

    if (pld_mesh_coord(mesh, PLD_AXIS_DP) == 0)
        rc |= add(p, matrix("lonely", 2, 2));
    return rc;
}

static int fill_decay(const pld_mesh *mesh, pld_params *p)
{
    pld_param o = matrix("a", 3, 4);

    o.decay = pld_mesh_coord(mesh, PLD_AXIS_DP) == 1;
    return add(p, o);
}

static float outside_value[12], outside_grad[12];

static int fill_outside(const pld_mesh *mesh, pld_params *p)
{
    pld_param o = matrix("a", 3, 4);

    if (pld_mesh_coord(mesh, PLD_AXIS_DP) == 1) {
        o.value = outside_value;
        o.grad = outside_grad;
    }
    return add(p, o);
}

static int fill_not_shared(const pld_mesh *mesh, pld_params *p)
{
    const int stage = pld_mesh_coord(mesh, PLD_AXIS_PP);
    pld_param o = matrix("wte", 3, 4);

    o.shared = stage == 0;
    return stage == 1 ? add(p, matrix("middle", 1, 1)) : add(p, o);
}

static int fill_shared_shape(const pld_mesh *mesh, pld_params *p)
{
    pld_param o = matrix("wte", pld_mesh_coord(mesh, PLD_AXIS_PP) == 1 ? 7 : 3, 4);

    o.shared = 1;
    return add(p, o);
}

static int fill_stages(const pld_mesh *mesh, pld_params *p)
{
    char name[32];
    int rc = 0;

    for (int i = 0; i <= pld_mesh_coord(mesh, PLD_AXIS_PP); i++) {
        (void)snprintf(name, sizeof(name), "s%d.t%d", pld_mesh_coord(mesh, PLD_AXIS_PP), i);
        rc |= add(p, matrix(name, 2, 3));
    }
    return rc;
}

static int fill_boxes(const pld_mesh *mesh, pld_params *p)
{
    pld_param o = matrix("columns", 4, 6);

    o.offset[1] = 3 * pld_mesh_coord(mesh, PLD_AXIS_TP);
    o.extent[0] = 4;
    o.extent[1] = 3;
    return add(p, o) | add(p, matrix("norm", 1, 6));
}

static void test_commit(void)
{
    static const struct scenario scenarios[] = {
        {"dp=0", 1, fill_equal, 0, {NULL}},
        {"dp=4", 4, fill_equal, 0, {NULL}},
        {"dp=2,pp=2", 4, fill_stages, 0, {NULL}},
        {"tp=2,dp=2", 4, fill_boxes, 0, {NULL}},
        {"dp=4",
         4,
         fill_other_shape,
         PLD_ERR_MISMATCH,
         {"rank 2", "'b' f32 [6,1]", "'b' f32 [5,1]"}},
        {"dp=2,pp=2", 4, fill_other_name, PLD_ERR_MISMATCH, {"'x.weight'", "'y.bias'", "tensor 1"}},
        {"dp=2", 2, fill_missing, PLD_ERR_MISMATCH, {"nothing", "'lonely' f32 [2,2]"}},
        {"dp=2", 2, fill_decay, PLD_ERR_MISMATCH, {"[3,4], decay on dp 1", "[3,4] on dp 0"}},
        {"dp=2", 2, fill_outside, PLD_ERR_MISMATCH, {"caller's memory"}},
        {"cp=2", 2, fill_equal, 0, {NULL}},
        {"pp=3,dp=2",
         6,
         fill_not_shared,
         PLD_ERR_MISMATCH,
         {"'wte'", "stages 0 and 2", "stage 2 does"}},
        {"pp=2",
         2,
         fill_shared_shape,
         PLD_ERR_MISMATCH,
         {"[3,4], shared on stage 0", "[7,4], shared on stage 1"}},
    };

    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
        ok(inproc_run(scenarios[i].ranks, commit, (void *)(uintptr_t)&scenarios[i]) == 0,
           "commit on %s: scenario %zu gives %s everywhere", scenarios[i].mesh, i,
           pld_error_name(scenarios[i].code));
}

/*
 * Three stages; "all" on 0 1 2, "ends" on 0 2, "late" on 1 2, "also" on 1 2, added in another
 * order on each stage.
 */
static int add_shared(pld_params *p, int stage)
{
    static const char *const order[3][5] = {{"ends", "own0", "all", NULL, NULL},
                                            {"late", "all", "own1", "also", NULL},
                                            {"also", "all", "own2", "ends", "late"}};

    for (int i = 0; i < 5 && order[stage][i] != NULL; i++) {
        pld_param o = matrix(order[stage][i], 3, 7);

        o.shared = strncmp(order[stage][i], "own", 3) != 0;
        if (add(p, o) < 0)
            return -1;
    }
    return 0;
}

static int first_stage(const char *name, int stage)
{
    if (strncmp(name, "own", 3) == 0)
        return stage;
    return strcmp(name, "late") == 0 || strcmp(name, "also") == 0 ? 1 : 0;
}

static int holders(const char *name)
{
    if (strncmp(name, "own", 3) == 0)
        return 1;
    return strcmp(name, "all") == 0 ? 3 : 2;
}

/* Before sync: 100*stage + 10*dp + index of element; after: of the first holder. */
static int check_shared(pld_runtime *rt, pld_params *p, int stage)
{
    int shared = 0;

    for (int i = 0; i < pld_params_count(p); i++) {
        pld_group *group = pldi_params_holders(p, i);
        pld_param_info info;
        float *value;

        CHECK(rt, pld_params_info(p, i, &info) == 0);
        CHECK(rt, (group == NULL ? 1 : pld_group_size(group)) == holders(info.name));
        CHECK(rt, info.owner == (first_stage(info.name, stage) == stage));
        CHECK(rt, pldi_params_counted(p, i) == info.owner);
        CHECK(rt, group == NULL || (pld_group_rank(group) == 0) == info.owner);
        shared += group != NULL;
        value = info.value;
        for (size_t e = 0; e < info.count; e++)
            CHECK(rt, value[e] == (float)(100 * first_stage(info.name, stage)) + (float)e);
    }
    CHECK(rt, pldi_params_shared(p) == shared);
    return 0;
}

static int shared(pld_runtime *rt, void *context)
{
    pld_mesh *mesh = NULL;
    pld_params *p = NULL;
    int stage;

    (void)context;
    CHECK(rt, pld_mesh_create(rt, "dp=2,pp=3", &mesh) == 0);
    stage = pld_mesh_coord(mesh, PLD_AXIS_PP);
    CHECK(rt, pld_params_create(mesh, &p) == 0);
    CHECK(rt, pld_params_sync(p) == PLD_ERR_STATE);
    CHECK(rt, add_shared(p, stage) == 0);
    CHECK(rt, pld_params_commit(p) == 0);
    CHECK(rt, pld_params_commit(p) == PLD_ERR_STATE);
    for (int i = 0; i < pld_params_count(p); i++) {
        float *value = pld_params_value(p, i);

        for (int e = 0; e < 21; e++)
            value[e] = (float)(100 * stage + 10 * pld_mesh_coord(mesh, PLD_AXIS_DP) + e);
    }
    CHECK(rt, pld_params_sync(p) == 0);
    CHECK(rt, check_shared(rt, p, stage) == 0);
    pld_params_destroy(&p);
    pld_mesh_destroy(&mesh);
    return 0;
}

/* A refused list may be completed and committed again. */
static int again(pld_runtime *rt, void *context)
{
    pld_mesh *mesh = NULL;
    pld_params *p = NULL;

    (void)context;
    CHECK(rt, pld_mesh_create(rt, "dp=2", &mesh) == 0);
    CHECK(rt, pld_params_create(mesh, &p) == 0);
    CHECK(rt, fill_missing(mesh, p) == 0);
    CHECK(rt, pld_params_commit(p) == PLD_ERR_MISMATCH);
    if (pld_mesh_coord(mesh, PLD_AXIS_DP) == 1)
        CHECK(rt, add(p, matrix("lonely", 2, 2)) == 0);
    CHECK(rt, pld_params_commit(p) == 0);
    CHECK(rt, pld_params_value(p, 1) != NULL && pld_params_value(p, 2) == NULL);
    pld_params_destroy(&p);
    pld_mesh_destroy(&mesh);
    return 0;
}

/* Tensor-parallel boxes count on every rank, what all hold on the first alone; sync knows. */
static int boxes(pld_runtime *rt, void *context)
{
    pld_mesh *mesh = NULL;
    pld_params *p = NULL;
    pld_param_info info;
    float *columns, *norm;
    int tp;

    (void)context;
    CHECK(rt, pld_mesh_create(rt, "tp=2,dp=2", &mesh) == 0);
    tp = pld_mesh_coord(mesh, PLD_AXIS_TP);
    CHECK(rt, pld_params_create(mesh, &p) == 0);
    CHECK(rt, fill_boxes(mesh, p) == 0);
    CHECK(rt, pld_params_commit(p) == 0);
    CHECK(rt, pld_params_info(p, 0, &info) == 0);
    CHECK(rt, info.count == 12 && info.shape[1] == 6 && info.extent[1] == 3);
    CHECK(rt, info.offset[1] == 3 * tp);
    CHECK(rt, pldi_params_counted(p, 0) == 1 && pldi_params_counted(p, 1) == (tp == 0));
    columns = pld_params_value(p, 0);
    norm = pld_params_value(p, 1);
    columns[5] = norm[5] = (float)pld_runtime_rank(rt);
    CHECK(rt, pld_params_sync(p) == 0);
    CHECK(rt, columns[5] == (float)tp && norm[5] == 0);
    pld_params_destroy(&p);
    pld_mesh_destroy(&mesh);
    return 0;
}

int main(void)
{
    test_commit();
    ok(inproc_run(6, shared, NULL) == 0, "holders, owners and sync of shared tensors on 2 x 3");
    ok(inproc_run(2, again, NULL) == 0, "after a refused commit the list may be completed");
    ok(inproc_run(4, boxes, NULL) == 0, "boxes of tensor-parallel ranks");
    return tap_done();
}
