/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * gpt: trains a GPT-2 data- and pipeline-parallel, saves, resumes.  See --help.
 * Exit status: 0, or 1 on all ranks with one sentence on standard error.  If a rank ends
 * early the others say which; if one does not come, one of them says who waits where.
 */

#include "driver.h"

#include "blas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void describe_device(const struct gpt_trainer *t)
{
    const char *note = pld_runtime_device_note(t->runtime);
    pld_device_info info;

    if (note[0] != '\0')
        printf("device: the processor, for %s\n", note);
    if (t->device == NULL)
        return;
    pld_device_get_info(t->device, &info);
    printf("device: %s, compute capability %d.%d, in %s%s\n", info.name, info.capability / 10,
           info.capability % 10, pld_dtype_name(t->dtype),
           strcmp(t->options->graphs, "on") == 0 ? ", as CUDA graphs" : "");
}

static void describe(const struct gpt_trainer *t)
{
    const struct gpt_options *o = t->options;

    printf("model: %d layers, %d channels, %d heads, %.1f million parameters\n", t->config.layers,
           t->config.channels, t->config.heads, (double)gpt_config_parameters(&t->config) / 1e6);
    printf("layout: dp=%d x pp=%d, %d microbatches of %d x %d tokens, layers by stage:", t->dp_size,
           t->pp_size, t->microbatches, t->sequences, t->seq);
    for (int stage = 0; stage < t->pp_size; stage++) {
        int first = 0, count = 0;

        (void)gpt_config_split(&t->config, t->seq, stage, t->pp_size, &first, &count);
        printf(" %d", count);
    }
    printf("\n");
    describe_device(t);
    printf("data: %lld tokens in %zu files\n", (long long)pld_data_tokens(t->data),
           pld_data_files(t->data));
    if (t->step >= o->steps)
        printf("step %lld of %lld is reached already: nothing to train\n", (long long)t->step,
               (long long)o->steps);
    else if (t->step > 0)
        printf("resumed after step %lld\n", (long long)t->step);
    fflush(stdout);
}

static void print_times(const struct gpt_trainer *t)
{
    double seconds[GPT_CLASSES];
    pld_dp_stats dp;

    gpt_stage_times(t->stage, seconds);
    pld_dp_get_stats(t->dp, &dp);
    printf("seconds of rank 0:");
    for (int i = 0; i < GPT_CLASSES; i++)
        printf(" %s %.2f", gpt_class_name((enum gpt_class)i), seconds[i]);
    printf(", waiting for gradients %.2f\n", dp.wait_s);
}

static int run(pld_runtime *runtime, const struct gpt_options *options)
{
    struct gpt_trainer trainer;
    int rc = gpt_trainer_open(runtime, options, &trainer);
    const int reports = pld_runtime_rank(runtime) == 0;

    if (rc == 0 && reports)
        describe(&trainer);
    if (rc == 0)
        rc = gpt_train(&trainer);
    if (rc == 0 && options->sample > 0)
        rc = gpt_sample(&trainer, options->sample);
    if (rc == 0 && reports && options->times)
        print_times(&trainer);
    if (rc == 0 && reports && trainer.skipped > 0)
        fprintf(stderr, "gpt: %lld steps were skipped: their gradients were not finite\n",
                (long long)trainer.skipped);
    /* With operations under way nothing may be destroyed; the process ends anyway. */
    if (rc == 0)
        gpt_trainer_close(&trainer);
    return rc;
}

/* Whoever finds that the job does not go on says who waits where, at once and for all ranks. */
static void tell_report(const char *text, void *context)
{
    (void)context;
    fprintf(stderr, "gpt: %s\n", text);
}

/* Without a peer, or the way to it, no rank knows what the others know. */
static int is_alone(int rc)
{
    return rc == PLD_ERR_PEER || rc == PLD_ERR_TRANSPORT;
}

/* One rank speaks for all, except where it cannot know: when ranks have lost each other. */
static void tell(const pld_runtime *runtime, int rc)
{
    const int rank = pld_runtime_rank(runtime);

    if (is_alone(rc))
        fprintf(stderr, "gpt: rank %d of %d stops: %s\n", rank, pld_runtime_size(runtime),
                gpt_last_error());
    else if (rank == 0 && (rc != PLD_ERR_TIMEOUT || pld_runtime_report(runtime)[0] == '\0'))
        fprintf(stderr, "gpt: %s\n", gpt_last_error());
}

/* What was printed may be waiting for a disk that is full by now. */
static int flush(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    if (status == 0)
        fprintf(stderr, "gpt: what was printed could not be written: standard output failed\n");
    return 1;
}

int main(int argc, char **argv)
{
    pld_runtime_opts how = {PLD_OPTS(pld_runtime_opts), .report = tell_report};
    struct gpt_options options = {0};
    pld_runtime *runtime = NULL;
    int rc, status;

    gpt_blas_choose(argv);
    /* Also for "cuda": of ranks without a GPU one says so, see gpt_trainer_open(). */
    how.device = strcmp(gpt_options_device(argc, argv), "cpu") == 0 ? "cpu" : "auto";
    if (pld_runtime_open(&how, &runtime) < 0) {
        fprintf(stderr, "gpt: %s\n", pld_last_error());
        return 1;
    }
    rc = gpt_options_read(argc, argv, &options);
    if (rc == 0 && options.help && pld_runtime_rank(runtime) == 0)
        fputs(gpt_usage, stdout);
    else if (rc == 0 && !options.help)
        rc = run(runtime, &options);
    if (rc < 0)
        tell(runtime, rc);
    status = flush(rc < 0);
    gpt_options_free(&options);
    /* Ranks that failed together leave together; without a peer there is no together. */
    if (is_alone(rc))
        _Exit(status);
    (void)pld_runtime_close(&runtime);
    return status;
}
