/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Training with a scaled loss against training without: the same bits.  A step whose gradients
 * overflow on one rank is skipped by all and leaves no trace but a smaller scale; and a run
 * that goes on from a checkpoint has the scale of one that was not interrupted.
 */

#include <ftw.h>
#include <unistd.h>

#include "inproc/train.h"
#include "tap.h"

/* The step that is made once with gradients that are not finite, then well. */
enum { POISONED = 3, SAVED = 4 };

struct trial {
    struct train t;
    int poisoned;
    const char *directory; /* NULL: no checkpoint */
    int load;
};

/* All ranks; the scale is also what the caller's kernels would read. */
static int check_scale(pld_runtime *rt, struct train_rank *r, double scale, int skips)
{
    pld_step_report report;
    float seen = 0;

    (void)pld_optim_steps(r->optim);
    CHECK(rt, pld_optim_report(r->optim, &report) == 0);
    CHECK(rt, report.loss_scale == scale && report.skips == skips);
    CHECK(rt, train_put(r, &seen, pld_optim_loss_scale(r->optim), sizeof(seen)) == 0);
    CHECK(rt, seen == (float)scale);
    return 0;
}

static int poisoned_step(pld_runtime *rt, struct train_rank *r, int step)
{
    pld_step_report report;

    r->poisoned = r->dp_rank == 1;
    CHECK(rt, train_step(r, step) == 0);
    r->poisoned = 0;
    CHECK(rt, pld_optim_steps(r->optim) == step);
    CHECK(rt, pld_optim_report(r->optim, &report) == 0);
    CHECK(rt, report.skipped == 1 && report.step == step && !isfinite(report.grad_norm));
    return check_scale(rt, r, 1024, 1);
}

static int open_ckpt(struct train_rank *r, const struct trial *c)
{
    TRAIN_TRY(pld_ckpt_open(r->mesh, c->directory, NULL, &r->ckpt));
    return pld_ckpt_add_params(r->ckpt, r->params);
}

static int body(pld_runtime *rt, void *context)
{
    struct trial *c = context;
    pld_step_report *report = &c->t.report[pld_runtime_rank(rt)];
    int64_t step = 0;
    struct train_rank r;

    CHECK(rt, train_begin(rt, &c->t, &r) == 0);
    CHECK(rt, check_scale(rt, &r, c->t.scaling == PLD_SCALING_NONE ? 1 : 1024, 0) == 0);
    CHECK(rt, c->directory == NULL || open_ckpt(&r, c) == 0);
    if (c->load) {
        CHECK(rt, pld_ckpt_load(r.ckpt, "latest", &step) == 0 && step == SAVED);
        CHECK(rt, check_scale(rt, &r, 1024, c->poisoned) == 0);
    }
    for (; step < TRAIN_STEPS; step++) {
        if (step == POISONED && c->poisoned)
            CHECK(rt, poisoned_step(rt, &r, (int)step) == 0);
        if (step == SAVED && c->directory != NULL && !c->load)
            CHECK(rt, pld_ckpt_save(r.ckpt, SAVED) == 0);
        CHECK(rt, train_step(&r, (int)step) == 0);
    }
    CHECK(rt, pld_optim_steps(r.optim) == TRAIN_STEPS);
    CHECK(rt, pld_optim_report(r.optim, report) == 0 && train_results(&r) == 0);
    train_close(&r);
    return 0;
}

static int run(struct trial *c, int on_device)
{
    return train_run(&c->t, on_device, body, c);
}

static struct trial *trial_new(const char *mesh, int ranks, pld_loss_scaling scaling, int poisoned)
{
    struct trial *c = calloc(1, sizeof(*c));

    if (c == NULL)
        abort();
    *c = (struct trial){.t = {.mesh = mesh,
                              .ranks = ranks,
                              .microbatches = 2,
                              .clip = 1,
                              .scaling = scaling,
                              .growth_interval = scaling == PLD_SCALING_DYNAMIC ? 2 : 0},
                        .poisoned = poisoned};
    return c;
}

/* `plain` was trained on the host without a scale. */
static void compare(const struct trial *plain, pld_loss_scaling scaling, int poisoned, double last)
{
    static const char *const names[] = {"no scale", "a static scale", "a dynamic scale"};
    struct trial *c = trial_new(plain->t.mesh, plain->t.ranks, scaling, poisoned);
    const char *what = names[scaling];

    for (int on_device = 0; on_device < 2; on_device++) {
        const pld_step_report *now = &c->t.report[c->t.ranks - 1];

        ok(run(c, on_device) == 0, "%s: %s, %s trains on the %s", c->t.mesh, what,
           poisoned ? "a step that overflows," : "no step that overflows,",
           on_device ? "GPU" : "host");
        ok(memcmp(c->t.value, plain->t.value, sizeof(c->t.value)) == 0,
           "%s: %s: the bits of the run without", c->t.mesh, what);
        ok(fabs(now->grad_norm / plain->t.report[0].grad_norm - 1) < 1e-12 &&
               fabs(now->factor / plain->t.report[0].factor - 1) < 1e-12,
           "%s: %s: norm %.9g, clipped by %.9g, as without", c->t.mesh, what, now->grad_norm,
           now->factor);
        ok(now->loss_scale == last && now->skips == poisoned, "%s: %s ends at %g, %d skipped",
           c->t.mesh, what, now->loss_scale, (int)now->skips);
    }
    free(c);
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about, (void)kind, (void)where;
    return remove(path);
}

/* A scale half way to its next growth, saved on one, goes on on both. */
static void resume(pld_loss_scaling scaling, int saved_on_device)
{
    char directory[] = "/tmp/polder-scale-XXXXXX";
    struct trial *whole = trial_new("dp=2", 2, scaling, scaling == PLD_SCALING_DYNAMIC);
    struct trial *rest = trial_new("dp=2", 2, scaling, scaling == PLD_SCALING_DYNAMIC);

    if (mkdtemp(directory) == NULL)
        abort();
    whole->directory = rest->directory = directory;
    rest->load = 1;
    ok(run(whole, saved_on_device) == 0, "scale %d, saved on the %s", (int)scaling,
       saved_on_device ? "GPU" : "host");
    for (int on_device = 0; on_device < 2; on_device++)
        ok(run(rest, on_device) == 0 &&
               memcmp(rest->t.value, whole->t.value, sizeof(rest->t.value)) == 0 &&
               rest->t.report[0].loss_scale == whole->t.report[0].loss_scale &&
               rest->t.report[1].skips == whole->t.report[0].skips,
           "it goes on on the %s, and comes to %g", on_device ? "GPU" : "host",
           rest->t.report[0].loss_scale);
    (void)nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(whole);
    free(rest);
}

/* Saves without a scale; what has one does not load that. */
static int misfit(pld_runtime *rt, void *context)
{
    struct trial *c = context;
    struct train_rank r;

    CHECK(rt, train_begin(rt, &c->t, &r) == 0 && open_ckpt(&r, c) == 0);
    CHECK(rt, pld_ckpt_save(r.ckpt, 1) == 0);
    train_close(&r);
    c->t.scaling = PLD_SCALING_STATIC;
    CHECK(rt, train_begin(rt, &c->t, &r) == 0 && open_ckpt(&r, c) == 0);
    CHECK(rt, pld_ckpt_load(r.ckpt, "latest", NULL) == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), "has no state 'optim/scaling'") != NULL);
    train_close(&r);
    return 0;
}

static void test_misfit(void)
{
    char directory[] = "/tmp/polder-scale-XXXXXX";
    struct trial *c = trial_new("dp=1", 1, PLD_SCALING_NONE, 0);

    if (mkdtemp(directory) == NULL)
        abort();
    c->directory = directory;
    ok(inproc_run_with(1, misfit, c, &(pld_runtime_opts){PLD_OPTS(pld_runtime_opts)}) == 0,
       "a checkpoint without a scale is not one with");
    (void)nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(c);
}

static void test_layout(const char *mesh, int ranks)
{
    struct trial *plain = trial_new(mesh, ranks, PLD_SCALING_NONE, 0);

    ok(run(plain, 0) == 0, "%s: no scale", mesh);
    compare(plain, PLD_SCALING_STATIC, 0, 1024);
    compare(plain, PLD_SCALING_DYNAMIC, 0, 8192);
    if (ranks > 1)
        compare(plain, PLD_SCALING_DYNAMIC, 1, 2048);
    free(plain);
}

int main(void)
{
    (void)setenv("FAKE_CUDA_DEVICES", "4", 0);
    test_layout("dp=1", 1);
    test_layout("dp=2", 2);
    test_layout("dp=2,pp=2", 4);
    resume(PLD_SCALING_STATIC, 0);
    resume(PLD_SCALING_DYNAMIC, 0);
    resume(PLD_SCALING_DYNAMIC, 1);
    test_misfit();
    return tap_done();
}
