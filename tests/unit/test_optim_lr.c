/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>
#include <polder/optim.h>

#include <math.h>
#include <string.h>

#include "tap.h"

static double rate(pld_lr_opts o, int64_t step)
{
    double out = -1;

    o.struct_size = sizeof(o);
    return pld_lr_at(&o, step, &out) == 0 ? out : -2;
}

static int near(double a, double b)
{
    return fabs(a - b) <= 1e-15 * (1 + fabs(b));
}

static void test_warmup(void)
{
    const pld_lr_opts o = {.lr = 0.8, .warmup = 4, .steps = 12, .decay = PLD_LR_COSINE};
    pld_lr_opts none = o;
    pld_lr_opts longer = o;

    ok(near(rate(o, 0), 0.2) && near(rate(o, 1), 0.4) && near(rate(o, 2), 0.6) &&
           near(rate(o, 3), 0.8),
       "warm-up of 4: %g %g %g %g", rate(o, 0), rate(o, 1), rate(o, 2), rate(o, 3));
    ok(near(rate(o, 4), 0.8), "the decay begins at the top: %g", rate(o, 4));
    none.warmup = 0;
    ok(near(rate(none, 0), 0.8), "no warm-up: %g at once", rate(none, 0));
    longer.warmup = 20;
    ok(near(rate(longer, 11), 0.8 * 12 / 20) && near(rate(longer, 19), 0.8),
       "a warm-up longer than the run goes on rising");
    ok(near(rate(longer, 20), 0), "and then has decayed: %g", rate(longer, 20));
}

static void test_decay(void)
{
    pld_lr_opts o = {.lr = 2, .final = 0.1, .warmup = 10, .steps = 110, .decay = PLD_LR_COSINE};

    ok(near(rate(o, 60), 2 * 0.55), "cosine, half way: %g", rate(o, 60));
    /* cos(60 degrees) = 1/2, so 3/4 of the fall is left after a third. */
    o.steps = 10 + 99;
    ok(near(rate(o, 10 + 33), 2 * (0.1 + 0.9 * 0.75)), "cosine, a third: %g", rate(o, 43));
    o.steps = 110;
    ok(near(rate(o, 110), 0.2) && near(rate(o, 1 << 30), 0.2), "cosine ends at final and stays");
    ok(rate(o, 109) > 0.2 && rate(o, 109) < 0.21, "and is all but there before: %g", rate(o, 109));
    o.decay = PLD_LR_LINEAR;
    ok(near(rate(o, 35), 2 * (1 - 0.9 / 4)), "linear, a quarter: %g", rate(o, 35));
    ok(near(rate(o, 110), 0.2) && near(rate(o, 200), 0.2), "linear ends at final and stays");
    o.decay = PLD_LR_CONSTANT;
    ok(near(rate(o, 10), 2) && near(rate(o, 500), 2), "constant stays");
    o.steps = 0;
    ok(near(rate(o, 0), 0.2) && near(rate(o, 77), 2), "constant needs no steps: %g", rate(o, 77));
    o = (pld_lr_opts){.lr = 1, .steps = 1, .decay = PLD_LR_LINEAR};
    ok(near(rate(o, 0), 1) && near(rate(o, 1), 0), "a run of one step");
    o = (pld_lr_opts){.lr = 0, .steps = 5, .decay = PLD_LR_COSINE};
    ok(rate(o, 3) == 0, "lr 0 is 0");
}

static int refused(pld_lr_opts o, int64_t step, const char *word)
{
    double out = 77;

    o.struct_size = sizeof(o);
    return pld_lr_at(&o, step, &out) == PLD_ERR_ARG && out == 77 &&
           strstr(pld_last_error(), word) != NULL;
}

static void test_errors(void)
{
    const pld_lr_opts good = {.lr = 1, .steps = 10, .decay = PLD_LR_LINEAR};
    pld_lr_opts o = good;
    double out;

    ok(refused(good, -1, "step"), "negative step: %s", pld_last_error());
    o.lr = -1;
    ok(refused(o, 0, "-1"), "negative lr: %s", pld_last_error());
    o.lr = NAN;
    ok(refused(o, 0, "lr"), "lr not a number");
    o = good;
    o.final = 1.5;
    ok(refused(o, 0, "1.5"), "final above 1: %s", pld_last_error());
    o = good;
    o.steps = 0;
    ok(refused(o, 0, "steps"), "a decay without steps: %s", pld_last_error());
    o = good;
    o.warmup = -3;
    ok(refused(o, 0, "-3"), "negative warm-up: %s", pld_last_error());
    o = good;
    o.decay = (pld_lr_decay)7;
    ok(refused(o, 0, "7"), "unknown decay: %s", pld_last_error());
    o = good;
    o.reserved = 1;
    ok(refused(o, 0, "reserved"), "reserved set");
    ok(pld_lr_at(NULL, 0, &out) == PLD_ERR_ARG, "no options");
    o = good;
    o.struct_size = 0;
    ok(pld_lr_at(&o, 0, &out) == PLD_ERR_ARG, "struct_size unset");
}

int main(void)
{
    test_warmup();
    test_decay();
    test_errors();
    return tap_done();
}
