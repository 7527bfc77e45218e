/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Update rules against 60-digit numbers (tests/golden/optim, argument: the folder of
 * golden files), and what an update needs to be told to all ranks.
 */

#include "base/base_err.h"
#include "inproc/inproc.h"
#include "numbers.h"
#include "params/params.h"
#include "tap.h"

enum { ELEMENTS = 11, STEPS = 6, LINE = 2 + ELEMENTS, CUT = 4 };

/* One case of the golden file. */
struct golden {
    const char *name;
    pld_optim_opts opts;
    double lines[STEPS][LINE]; /* norm, factor, values */
    pld_dtype dtype;
};

static struct golden cases[] = {
    {.name = "adamw", .opts = {PLD_OPTS(pld_optim_opts)}},
    {.name = "adamw_decay", .opts = {PLD_OPTS(pld_optim_opts), .weight_decay = 0.1}},
    {.name = "adamw_betas",
     .opts = {PLD_OPTS(pld_optim_opts), .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-3,
              .weight_decay = 0.01}},
    {.name = "adamw_beta1_zero", .opts = {PLD_OPTS(pld_optim_opts), .beta1 = -1}},
    {.name = "adamw_clip", .opts = {PLD_OPTS(pld_optim_opts), .weight_decay = 0.1, .clip = 1.5}},
    {.name = "sgd", .opts = {PLD_OPTS(pld_optim_opts), .kind = PLD_SGD}},
    {.name = "sgd_momentum", .opts = {PLD_OPTS(pld_optim_opts), .kind = PLD_SGD, .momentum = 0.9}},
    {.name = "sgd_decay_clip",
     .opts = {PLD_OPTS(pld_optim_opts), .kind = PLD_SGD, .momentum = 0.5, .weight_decay = 0.125,
              .clip = 2}},
};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

static int read_golden(const char *folder)
{
    char path[512];
    char name[64];
    FILE *f;
    int good = 1;

    (void)snprintf(path, sizeof(path), "%s/optim/steps.txt", folder);
    f = fopen(path, "r");
    if (f == NULL)
        return 0;
    for (int c = 0; c < CASES && good; c++) {
        good = fscanf(f, "%63s", name) == 1 && strcmp(name, cases[c].name) == 0;
        for (int i = 0; i < STEPS * LINE && good; i++)
            good = fscanf(f, "%lf", &cases[c].lines[i / LINE][i % LINE]) == 1;
    }
    good = good && fscanf(f, "%63s", name) == EOF;
    (void)fclose(f);
    return good;
}

static double golden_gradient(int step, int i)
{
    return (double)((step * 7 + i * 5) % 13 - 6) / 8;
}

static const struct pldi_slot *find_slot(const pld_params *p, int id, const char *name)
{
    for (int i = 0; i < pldi_params_slots(p, id); i++)
        if (strcmp(pldi_params_slot(p, id, i)->name, name) == 0)
            return pldi_params_slot(p, id, i);
    return NULL;
}

/* Elements [0, CUT) are one tensor, the others a second, in the caller's memory. */
static int add_cut(pld_params *p, pld_dtype dtype, void *value, void *grad)
{
    pld_param head = {PLD_OPTS(pld_param), .name = "head", .dtype = dtype,
                      .ndim = 1,           .shape = {CUT}, .decay = 1};
    pld_param tail = {PLD_OPTS(pld_param),       .name = "tail", .dtype = dtype, .ndim = 1,
                      .shape = {ELEMENTS - CUT}, .value = value, .grad = grad,   .decay = 1};

    return pld_params_add(p, &head, NULL) | pld_params_add(p, &tail, NULL);
}

static void *element(void *head, void *tail, pld_dtype dtype, int i)
{
    char *base = i < CUT ? head : tail;

    return base + (size_t)(i < CUT ? i : i - CUT) * pld_dtype_bytes(dtype);
}

/* The f32 or f64 number that the update keeps, and the value as it is stored. */
static int check_value(pld_runtime *rt, const pld_params *p, pld_dtype dtype, int i, double want)
{
    const int is_half = dtype == PLD_F16 || dtype == PLD_BF16;
    const double tolerance = dtype == PLD_F64 ? 1e-13 : 4e-6;
    const int id = i >= CUT;
    const double value =
        number_get(element(pld_params_value(p, 0), pld_params_value(p, 1), dtype, i), dtype);
    double kept = value;

    if (is_half) {
        const struct pldi_slot *master = find_slot(p, id, "master");

        CHECK(rt, master != NULL && master->dtype == PLD_F32);
        kept = (double)((const float *)master->value)[i < CUT ? i : i - CUT];
        CHECK(rt, fabs(value - kept) <= fabs(kept) * (dtype == PLD_F16 ? 0x1p-11 : 0x1p-8));
    }
    CHECK(rt, fabs(kept - want) <= tolerance);
    return 0;
}

static int follow_golden(pld_runtime *rt, void *context)
{
    const struct golden *g = context;
    double tail[2][ELEMENTS];
    pld_step_report report;
    pld_optim *optim = NULL;
    pld_mesh *mesh = NULL;
    pld_params *p = NULL;

    memset(tail, 0, sizeof(tail));
    CHECK(rt, pld_mesh_create(rt, "dp=0", &mesh) == 0 && pld_params_create(mesh, &p) == 0);
    CHECK(rt, add_cut(p, g->dtype, tail[0], tail[1]) == 0 && pld_params_commit(p) == 0);
    for (int i = 0; i < ELEMENTS; i++)
        number_put(element(pld_params_value(p, 0), tail[0], g->dtype, i), g->dtype,
                   (double)(i * 3 % 7 - 3) / 4);
    CHECK(rt, pld_optim_create(p, &g->opts, &optim) == 0);
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < ELEMENTS; i++)
            number_put(element(pld_params_grad(p, 0), tail[1], g->dtype, i), g->dtype,
                       golden_gradient(step, i));
        CHECK(rt, pld_optim_step(optim, (double)(step + 1) / 64, &report) == 0);
        CHECK(rt, report.step == step + 1 && pld_optim_steps(optim) == step + 1);
        CHECK(rt, report.skipped == 0);
        CHECK(rt, fabs(report.grad_norm - g->lines[step][0]) < 1e-14 * 16);
        CHECK(rt, fabs(report.factor - g->lines[step][1]) < 1e-14);
        for (int i = 0; i < ELEMENTS; i++) {
            CHECK(rt, check_value(rt, p, g->dtype, i, g->lines[step][2 + i]) == 0);
            CHECK(rt,
                  number_get(element(pld_params_grad(p, 0), tail[1], g->dtype, i), g->dtype) == 0);
        }
    }
    pld_optim_destroy(&optim);
    pld_params_destroy(&p);
    pld_mesh_destroy(&mesh);
    return 0;
}

static void test_golden(const char *folder)
{
    static const pld_dtype dtypes[] = {PLD_F64, PLD_F32, PLD_F16, PLD_BF16};

    if (!ok(read_golden(folder), "golden steps in %s", folder))
        return;
    for (int c = 0; c < CASES; c++)
        for (int d = 0; d < 4; d++) {
            cases[c].dtype = dtypes[d];
            ok(inproc_run(1 + d % 2, follow_golden, &cases[c]) == 0, "%s in %s follows the paper",
               cases[c].name, pld_dtype_name(dtypes[d]));
        }
}

/* One tensor with decay between two without: only it shrinks, and gaps stay zero. */
static int decay_flag(pld_runtime *rt, void *context)
{
    const pld_optim_opts opts = {PLD_OPTS(pld_optim_opts), .weight_decay = 0.25};
    pld_optim *optim = NULL;
    pld_mesh *mesh = NULL;
    pld_params *p = NULL;

    (void)context;
    CHECK(rt, pld_mesh_create(rt, "dp=0", &mesh) == 0 && pld_params_create(mesh, &p) == 0);
    for (int i = 0; i < 3; i++) {
        pld_param o = {PLD_OPTS(pld_param),
                       .name = i == 0   ? "a"
                               : i == 1 ? "b"
                                        : "c",
                       .ndim = 1, .shape = {70}, .decay = i == 1};

        CHECK(rt, pld_params_add(p, &o, NULL) == 0);
    }
    CHECK(rt, pld_params_commit(p) == 0 && pld_optim_create(p, &opts, &optim) == 0);
    for (int i = 0; i < 3; i++)
        for (int e = 0; e < 70; e++)
            ((float *)pld_params_value(p, i))[e] = 8;
    CHECK(rt, pld_optim_step(optim, 0.5, NULL) == 0);
    for (int i = 0; i < 3; i++)
        for (int e = 0; e < 70; e++)
            CHECK(rt, ((float *)pld_params_value(p, i))[e] == (i == 1 ? 7 : 8));
    for (int e = 70; e < 128; e++)
        CHECK(rt, ((float *)pld_params_value(p, 1))[e] == 0);
    pld_optim_destroy(&optim);
    pld_params_destroy(&p);
    pld_mesh_destroy(&mesh);
    return 0;
}

/* Steps of 2^-12, below the resolution of bf16 at 1, add up; a value from outside counts. */
static int masters(pld_runtime *rt, void *context)
{
    const pld_optim_opts opts = {PLD_OPTS(pld_optim_opts), .kind = PLD_SGD};
    pld_param o = {PLD_OPTS(pld_param), .name = "w", .dtype = PLD_BF16, .ndim = 1, .shape = {3}};
    pld_optim *optim = NULL;
    pld_mesh *mesh = NULL;
    pld_params *p = NULL;

    (void)context;
    CHECK(rt, pld_mesh_create(rt, "dp=0", &mesh) == 0 && pld_params_create(mesh, &p) == 0);
    CHECK(rt, pld_params_add(p, &o, NULL) == 0 && pld_params_commit(p) == 0);
    CHECK(rt, pld_optim_create(p, &opts, &optim) == 0);
    for (int i = 0; i < 3; i++)
        number_put((uint16_t *)pld_params_value(p, 0) + i, PLD_BF16, 1);
    for (int step = 0; step < 64; step++) {
        number_put(pld_params_grad(p, 0), PLD_BF16, -1);
        number_put((uint16_t *)pld_params_grad(p, 0) + 1, PLD_BF16, -1);
        if (step == 32)
            number_put((uint16_t *)pld_params_value(p, 0) + 1, PLD_BF16, 2);
        CHECK(rt, pld_optim_step(optim, 0x1p-12, NULL) == 0);
    }
    CHECK(rt, number_get(pld_params_value(p, 0), PLD_BF16) == 1 + 0x1p-6);
    CHECK(rt, ((const float *)find_slot(p, 0, "master")->value)[1] == 2 + 0x1p-7F);
    CHECK(rt, number_get((uint16_t *)pld_params_value(p, 0) + 2, PLD_BF16) == 1);
    pld_optim_destroy(&optim);
    CHECK(rt, pldi_params_slots(p, 0) == 0 && pldi_params_states(p) == 0);
    CHECK(rt, pld_optim_create(p, &opts, &optim) == 0 && pld_optim_steps(optim) == 0);
    pld_optim_destroy(&optim);
    pld_params_destroy(&p);
    pld_mesh_destroy(&mesh);
    return 0;
}

/* Which state a rule keeps, and in which precision. */
static int slots(pld_runtime *rt, void *context)
{
    static const char *const names[] = {"exp_avg", "exp_avg_sq", "momentum", "master"};
    static const pld_dtype dtypes[] = {PLD_F32, PLD_F64, PLD_BF16};
    pld_mesh *mesh = NULL;

    (void)context;
    CHECK(rt, pld_mesh_create(rt, "dp=0", &mesh) == 0);
    for (int i = 0; i < 9; i++) {
        const pld_dtype dtype = dtypes[i % 3];
        const int adamw = i / 3 == 0;
        const pld_optim_opts opts = {PLD_OPTS(pld_optim_opts), .kind = adamw ? PLD_ADAMW : PLD_SGD,
                                     .momentum = i / 3 == 1 ? 0.9 : 0};
        const int want[] = {adamw, adamw, i / 3 == 1, dtype == PLD_BF16};
        const pld_param o = {PLD_OPTS(pld_param), .name = "w", .dtype = dtype, .ndim = 1,
                             .shape = {3}};
        pld_optim *optim = NULL;
        pld_params *p = NULL;

        CHECK(rt, pld_params_create(mesh, &p) == 0 && pld_params_add(p, &o, NULL) == 0);
        CHECK(rt, pld_params_commit(p) == 0 && pld_optim_create(p, &opts, &optim) == 0);
        for (int k = 0; k < 4; k++) {
            const struct pldi_slot *slot = find_slot(p, 0, names[k]);

            CHECK(rt, (slot != NULL) == want[k]);
            CHECK(rt, slot == NULL || slot->dtype == (dtype == PLD_F64 ? PLD_F64 : PLD_F32));
        }
        pld_optim_destroy(&optim);
        pld_params_destroy(&p);
    }
    pld_mesh_destroy(&mesh);
    return 0;
}

int main(int argc, char **argv)
{
    test_golden(argc > 1 ? argv[1] : "tests/golden");
    ok(inproc_run(2, decay_flag, NULL) == 0, "weight decay of the tensors that ask for it alone");
    ok(inproc_run(1, masters, NULL) == 0, "bf16 masters add up small steps, and follow the value");
    ok(inproc_run(1, slots, NULL) == 0, "state of each rule and dtype");
    return tap_done();
}
