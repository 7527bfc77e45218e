/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The loop. */

#include "driver.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What rank 0 tells about a step. */
struct account {
    double loss;
    double lr;
    double seconds;
    pld_step_report report;
};

/*
 * One exchange carries the loss and the verdicts: a replica whose model failed must
 * not leave the others waiting for its gradients.  Of several failures the model's
 * own comes first, for that of the pipeline follows from it.
 */
static int share_loss(struct gpt_trainer *t, int rc, double *loss)
{
    double sums[3] = {0};
    int shared;

    if (rc == 0 && t->failed == 0)
        t->failed = gpt_stage_loss(t->stage, &sums[0]);
    sums[1] = t->failed < 0;
    sums[2] = rc < 0;
    shared = pld_allreduce(t->world, sums, sums, 3, PLD_F64, PLD_SUM, NULL);

    if (shared < 0)
        return rc < 0 ? rc : gpt_from_polder(shared);
    if (sums[1] > 0)
        return gpt_agree(t->world, t->failed);
    if (sums[2] > 0)
        return gpt_agree(t->world, rc);
    *loss = sums[0] / ((double)t->options->batch * t->seq);
    return 0;
}

static int forward_backward(struct gpt_trainer *t, double *loss)
{
    int rc;

    t->failed = gpt_batch_read(t);
    /* Also without tokens: other stages, which may have theirs, wait for this one's messages. */
    rc = pld_pipe_step(t->pipe);
    if (t->failed == 0)
        rc = gpt_from_polder(rc);
    return share_loss(t, rc, loss);
}

static int learning_rate(const struct gpt_trainer *t, double *out)
{
    const struct gpt_options *o = t->options;
    const pld_lr_opts opts = {PLD_OPTS(pld_lr_opts), .lr = o->lr, .warmup = o->warmup,
                              .steps = o->steps,
                              .decay = o->decay[0] == 'c' && o->decay[2] == 's' ? PLD_LR_COSINE
                                       : o->decay[0] == 'l'                     ? PLD_LR_LINEAR
                                                                                : PLD_LR_CONSTANT};

    return gpt_from_polder(pld_lr_at(&opts, t->step, out));
}

static int step(struct gpt_trainer *t, struct account *account)
{
    const double begin = pld_clock();
    int rc = learning_rate(t, &account->lr);

    if (rc == 0)
        rc = forward_backward(t, &account->loss);
    if (rc == 0)
        rc = gpt_from_polder(pld_optim_step(t->optim, account->lr, &account->report));
    if (rc < 0)
        return rc;
    t->step++;
    t->skipped += account->report.skipped;
    t->consumed += t->options->batch;
    account->seconds = pld_clock() - begin;
    return 0;
}

/* The part of the devices' operations that training needs, by gpt_config_flops(). */
static double utilisation(const struct gpt_trainer *t, double tokens_a_second)
{
    const double ranks = (double)t->dp_size * t->pp_size;

    return t->peak == 0
               ? 0
               : gpt_config_flops(&t->config, t->seq) * tokens_a_second / (ranks * t->peak);
}

static int tell(struct gpt_trainer *t, const struct account *a)
{
    const double speed = (double)t->options->batch * t->seq / a->seconds;
    const double mfu = utilisation(t, speed);
    pld_metric metrics[9] = {
        {.name = "step", .integer = t->step, .is_integer = 1},
        {.name = "loss", .number = a->loss},
        {.name = "grad_norm", .number = a->report.grad_norm},
        {.name = "lr", .number = a->lr},
        {.name = "tokens", .integer = t->consumed * t->seq, .is_integer = 1},
        {.name = "tokens_per_s", .number = speed},
        {.name = "step_s", .number = a->seconds},
    };
    size_t count = 7;
    char text[96], part[32] = "";
    int rc;

    if (t->options->scaling != NULL)
        metrics[count++] = (pld_metric){.name = "loss_scale", .number = a->report.loss_scale};
    if (t->peak > 0) /* else the device's is not known */
        metrics[count++] = (pld_metric){.name = "mfu", .number = mfu};
    rc = pld_meter_log(t->meter, metrics, count);
    if (t->peak > 0)
        snprintf(part, sizeof(part), "  MFU %.1f %%", 100 * mfu);
    snprintf(text, sizeof(text), "loss %.4f  %.0f tok/s%s%s", a->loss, speed, part,
             a->report.skipped ? "  skipped: gradient is not finite" : "");
    if (rc == 0)
        rc = pld_meter_progress(t->meter, t->step, t->options->steps, text);
    return gpt_from_polder(rc);
}

static int save(struct gpt_trainer *t, double loss)
{
    int rc = pld_ckpt_set_number(t->ckpt, "loss", loss);

    if (rc == 0)
        rc = pld_ckpt_save(t->ckpt, t->step);
    return gpt_from_polder(rc);
}

static int is_save_due(const struct gpt_trainer *t)
{
    const int64_t every = t->options->save_every;

    return t->ckpt != NULL && (t->step == t->options->steps || (every > 0 && t->step % every == 0));
}

int gpt_train(struct gpt_trainer *t)
{
    while (t->step < t->options->steps) {
        struct account account = {0};
        int rc = step(t, &account);

        /* The report is rank 0's own; what it could not write ends the run on all ranks. */
        if (rc == 0)
            rc = gpt_agree(t->world, tell(t, &account));
        if (rc == 0 && is_save_due(t))
            rc = save(t, account.loss);
        if (rc < 0)
            return rc;
    }
    return 0;
}
