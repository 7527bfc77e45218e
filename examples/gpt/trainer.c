/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Wiring: from options to a run that is ready for its next step. */

#include "driver.h"

#include "blas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Leave with the code of a polder call that is the same on all ranks, or of a local one. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        int try_code_ = gpt_from_polder(call);                                                     \
        if (try_code_ < 0)                                                                         \
            return try_code_;                                                                      \
    } while (0)
#define TRY_LOCAL(call)                                                                            \
    do {                                                                                           \
        int try_code_ = gpt_agree(t->world, call);                                                 \
        if (try_code_ < 0)                                                                         \
            return try_code_;                                                                      \
    } while (0)

/* Of dense products in bf16, as NVIDIA publishes them, with f32 sums and without sparsity; cards of
 * the same capability with less power reach less. */
static double peak_of(const pld_device *device, pld_dtype dtype)
{
    pld_device_info info;

    if (device == NULL || dtype != PLD_BF16)
        return 0;
    pld_device_get_info(device, &info);
    return info.capability == 80 ? 312e12 : info.capability == 90 ? 989e12 : 0;
}

static int choose_device(struct gpt_trainer *t)
{
    const struct gpt_options *o = t->options;

    t->device = pld_runtime_device(t->runtime);
    t->dtype = strcmp(o->dtype, "bf16") == 0 ? PLD_BF16 : PLD_F32;
    t->peak = peak_of(t->device, t->dtype);
    if (t->device == NULL && strcmp(o->device, "cuda") == 0)
        return gpt_fail(PLD_ERR_UNSUPPORTED, "--device cuda: %s",
                        pld_runtime_device_note(t->runtime));
    if (t->device == NULL && t->dtype != PLD_F32)
        return gpt_fail(PLD_ERR_UNSUPPORTED, "--dtype bf16 needs a GPU: %s",
                        pld_runtime_device_note(t->runtime));
    if (t->device != NULL && o->times)
        return gpt_fail(PLD_ERR_ARG, "--times is for --device cpu; a GPU's time is not the host's");
    return 0;
}

int gpt_trainer_alloc(struct gpt_trainer *t, size_t bytes, pld_mem_kind kind, void **out)
{
    if (t->device != NULL)
        return gpt_from_polder(pld_device_alloc(t->device, bytes, kind, out));
    *out = malloc(bytes);
    return *out != NULL ? 0 : gpt_fail(PLD_ERR_NOMEM, "no memory for %zu bytes", bytes);
}

void gpt_trainer_free(struct gpt_trainer *t, void *memory)
{
    if (t->device != NULL)
        pld_device_free(t->device, memory);
    else
        free(memory);
}

static int choose_model(struct gpt_trainer *t)
{
    const struct gpt_options *o = t->options;
    int rc = o->llmc_model != NULL
                 ? gpt_llmc_config(o->llmc_model, &t->config)
                 : gpt_config_preset(o->model != NULL ? o->model : "small", &t->config);

    if (rc < 0)
        return rc;
    if (o->seq > t->config.max_seq)
        return gpt_fail(PLD_ERR_ARG, "--seq is %lld; the model has %d positions", (long long)o->seq,
                        t->config.max_seq);
    t->seq = o->seq > 0 ? (int)o->seq : t->config.max_seq < 128 ? t->config.max_seq : 128;
    if (o->text_count > 0 && t->config.vocab < 256)
        return gpt_fail(PLD_ERR_ARG, "--text needs a vocabulary of 256 bytes, the model has %d",
                        t->config.vocab);
    return 0;
}

static int choose_mesh(struct gpt_trainer *t)
{
    TRY(pld_mesh_create(t->runtime, t->options->mesh, &t->mesh));
    t->dp_rank = pld_mesh_coord(t->mesh, PLD_AXIS_DP);
    t->dp_size = pld_mesh_size(t->mesh, PLD_AXIS_DP);
    t->pp_rank = pld_mesh_coord(t->mesh, PLD_AXIS_PP);
    t->pp_size = pld_mesh_size(t->mesh, PLD_AXIS_PP);
    if (t->dp_size * t->pp_size != pld_group_size(t->world))
        return gpt_fail(PLD_ERR_ARG, "--mesh is \"%s\"; this program has the axes dp and pp alone",
                        t->options->mesh);
    return 0;
}

/* Without a wish: enough microbatches to keep the bubble small, as far as they divide. */
static int choose_microbatches(struct gpt_trainer *t)
{
    const int64_t batch = t->options->batch;
    const int64_t share = batch / t->dp_size;
    int64_t parts = t->options->microbatches;

    if (batch % t->dp_size != 0)
        return gpt_fail(PLD_ERR_ARG, "--batch %lld cannot be shared by %d data-parallel ranks",
                        (long long)batch, t->dp_size);
    for (int64_t n = 1; parts == 0 && n <= share; n++)
        if (share % n == 0 && (n >= 4 * (t->pp_size - 1) || n == share))
            parts = n;
    if (share % parts != 0)
        return gpt_fail(PLD_ERR_ARG,
                        "--microbatches %lld do not divide the %lld sequences of a "
                        "data-parallel rank",
                        (long long)parts, (long long)share);
    if (share / parts * t->seq > INT32_MAX / t->config.channels / 4)
        return gpt_fail(PLD_ERR_ARG, "a microbatch of %lld sequences is too large",
                        (long long)(share / parts));
    t->microbatches = (int)parts;
    t->sequences = (int)(share / parts);
    return 0;
}

static int make_schedule(const struct gpt_trainer *t, pld_schedule **out)
{
    pld_schedule_opts opts = {PLD_OPTS(pld_schedule_opts), .ranks = t->pp_size,
                              .microbatches = t->microbatches};

    TRY(pld_schedule_kind_find(t->options->schedule, &opts.kind));
    TRY(pld_schedule_create(&opts, out));
    return 0;
}

static int make_stage(struct gpt_trainer *t, const pld_schedule *schedule)
{
    const struct gpt_stage_opts opts = {.config = t->config,
                                        .stage = t->pp_rank,
                                        .stages = t->pp_size,
                                        .batch = t->sequences,
                                        .seq = t->seq,
                                        .live = pld_schedule_peak_live(schedule, t->pp_rank),
                                        .microbatches = t->microbatches,
                                        .dtype = t->dtype,
                                        .device = t->device,
                                        .graphs = strcmp(t->options->graphs, "on") == 0};
    const size_t tokens = (size_t)t->microbatches * (size_t)t->sequences * (size_t)t->seq;
    void *inputs = NULL, *targets = NULL;
    int rc = gpt_from_polder(pld_params_create(t->mesh, &t->params));

    if (rc == 0)
        rc = gpt_stage_create(&opts, t->params, &t->stage);
    if (rc == 0)
        rc = gpt_trainer_alloc(t, tokens * sizeof(*t->tokens), PLD_MEM_PINNED, &inputs);
    if (rc == 0)
        rc = gpt_trainer_alloc(t, tokens * sizeof(*t->targets), PLD_MEM_PINNED, &targets);
    t->tokens = inputs;
    t->targets = targets;
    t->sample = malloc(((size_t)t->seq + 1) * sizeof(*t->sample));
    if (rc == 0 && t->sample == NULL)
        rc = gpt_fail(PLD_ERR_NOMEM, "no memory for a sample of %d tokens", t->seq);
    return rc;
}

/* The pipeline's callbacks: the stage between what came in and what goes out. */
static int forward(void *context, int stage, int microbatch, const void *in, void *out)
{
    struct gpt_trainer *t = context;
    const size_t at = (size_t)microbatch * (size_t)t->sequences * (size_t)t->seq;
    const int first = t->pp_rank == 0, last = t->pp_rank == t->pp_size - 1;
    const double all = (double)t->options->batch * t->seq;

    (void)stage;
    if (t->failed < 0)
        return t->failed; /* there are no tokens */
    t->failed = gpt_stage_forward(t->stage, microbatch, first ? t->tokens + at : NULL,
                                  last ? t->targets + at : NULL, (float)(1 / all), in, out);
    return t->failed;
}

static int backward(void *context, int stage, int microbatch, const void *in, const void *grad_out,
                    void *grad_in)
{
    struct gpt_trainer *t = context;

    (void)stage;
    t->failed = gpt_stage_backward(t->stage, microbatch, in, grad_out, grad_in);
    return t->failed;
}

static int ready(void *context, int id)
{
    struct gpt_trainer *t = context;

    return gpt_from_polder(pld_dp_ready(t->dp, id, gpt_stage_stream(t->stage)));
}

static int make_pipe(struct gpt_trainer *t, const pld_schedule *schedule)
{
    pld_pipe_opts opts = {PLD_OPTS(pld_pipe_opts), .forward = forward, .backward = backward,
                          .context = t, .stream = gpt_stage_stream(t->stage)};
    pld_pipe_tensor edge = {.dtype = t->dtype, .ndim = 3};

    gpt_stage_shape(t->stage, edge.shape);
    if (t->pp_rank > 0)
        opts.input = edge;
    if (t->pp_rank < t->pp_size - 1)
        opts.output = edge;
    return gpt_from_polder(pld_pipe_create(t->mesh, schedule, &opts, &t->pipe));
}

static pld_loss_scaling scaling_of(const struct gpt_options *o)
{
    if (o->scaling == NULL)
        return PLD_SCALING_NONE;
    return o->loss_scale > 0 ? PLD_SCALING_STATIC : PLD_SCALING_DYNAMIC;
}

/* The loss is a mean over the whole batch, so replicas' gradients are added, not averaged. */
static int make_optimizer(struct gpt_trainer *t)
{
    const struct gpt_options *o = t->options;
    const pld_dp_opts sum = {PLD_OPTS(pld_dp_opts), .sum = 1};
    const pld_optim_opts adamw = {PLD_OPTS(pld_optim_opts),
                                  .beta1 = o->beta1 > 0 ? o->beta1 : -1,
                                  .beta2 = o->beta2 > 0 ? o->beta2 : -1,
                                  .eps = o->eps,
                                  .weight_decay = o->weight_decay,
                                  .clip = o->clip,
                                  .scaling = scaling_of(o),
                                  .init_scale = o->loss_scale};

    TRY(pld_params_commit(t->params));
    if (t->device != NULL)
        TRY(pld_params_set_stream(t->params, gpt_stage_stream(t->stage)));
    TRY(pld_dp_create(t->params, &sum, &t->dp));
    TRY(pld_optim_create(t->params, &adamw, &t->optim));
    gpt_stage_on_ready(t->stage, ready, t);
    gpt_stage_scale_loss(t->stage, o->scaling == NULL ? NULL : pld_optim_loss_scale(t->optim));
    return 0;
}

static int open_checkpoints(struct gpt_trainer *t)
{
    const struct gpt_options *o = t->options;
    const pld_ckpt_opts opts = {PLD_OPTS(pld_ckpt_opts),
                                .codec = o->codec[0] == 'z' ? PLD_CKPT_ZSTD : PLD_CKPT_RAW,
                                .keep = (int)o->keep};
    const char *model = o->llmc_model != NULL ? "llm.c" : o->model != NULL ? o->model : "small";
    int rc;

    TRY(pld_ckpt_open(t->mesh, o->ckpt, &opts, &t->ckpt));
    rc = pld_ckpt_add_params(t->ckpt, t->params);
    if (rc == 0)
        rc = pld_ckpt_add_state(t->ckpt, "data/consumed", &t->consumed, sizeof(t->consumed));
    if (rc == 0)
        rc = pld_ckpt_add_state(t->ckpt, "seed", &t->seed, sizeof(t->seed));
    if (rc == 0)
        rc = pld_ckpt_set_text(t->ckpt, "model", model);
    TRY_LOCAL(gpt_from_polder(rc));
    return 0;
}

/* A path is read, but what is saved later still goes to --ckpt. */
static int resume(struct gpt_trainer *t)
{
    const struct gpt_options *o = t->options;
    int64_t step = -1;

    if (strcmp(o->resume, "never") == 0)
        return 0;
    if (t->ckpt == NULL && strcmp(o->resume, "latest") == 0)
        return 0;
    if (t->ckpt == NULL)
        return gpt_fail(PLD_ERR_ARG, "--resume %s needs --ckpt DIR, where the run goes on saving",
                        o->resume);
    TRY(pld_ckpt_load(t->ckpt, o->resume, &step));
    gpt_stage_changed(t->stage);
    t->step = step < 0 ? 0 : step;
    if (step >= 0 && o->seed_given && t->seed != o->seed)
        t->seed = o->seed;
    return 0;
}

static int open_data(struct gpt_trainer *t)
{
    const struct gpt_options *o = t->options;
    const char *const llmc[] = {o->llmc_data};
    const pld_data_opts opts = {PLD_OPTS(pld_data_opts),
                                .paths = o->llmc_data != NULL ? llmc : o->texts,
                                .path_count = o->llmc_data != NULL ? 1 : (size_t)o->text_count,
                                .seed = (uint64_t)t->seed,
                                .length = t->seq,
                                .batch = o->batch,
                                .format = o->llmc_data != NULL ? PLD_DATA_LLMC : PLD_DATA_TEXT,
                                .order =
                                    o->llmc_data != NULL ? PLD_DATA_SEQUENTIAL : PLD_DATA_SHUFFLED};

    return gpt_from_polder(pld_data_open(t->world, &opts, &t->data));
}

/* Rank 0 alone reports.  What an interrupted run logged after its last save stays in the file:
 * a step that is there twice counts as it was logged last. */
static int open_meter(struct gpt_trainer *t)
{
    const int reports = pld_group_rank(t->world) == 0;
    const pld_meter_opts opts = {
        PLD_OPTS(pld_meter_opts), .path = reports ? t->options->metrics : NULL,
        .progress_fd = reports ? STDOUT_FILENO + 1 : 0, .append = t->step > 0};

    return gpt_from_polder(pld_meter_open(&opts, &t->meter));
}

static int build(struct gpt_trainer *t, pld_schedule **schedule)
{
    TRY_LOCAL(choose_device(t));
    TRY_LOCAL(choose_model(t));
    TRY_LOCAL(choose_mesh(t));
    TRY_LOCAL(choose_microbatches(t));
    TRY_LOCAL(make_schedule(t, schedule));
    TRY_LOCAL(make_stage(t, *schedule));
    TRY_LOCAL(make_optimizer(t));
    TRY_LOCAL(make_pipe(t, *schedule));
    return 0;
}

static int fill(struct gpt_trainer *t)
{
    const char *file = t->options->llmc_model;

    if (t->options->ckpt != NULL)
        TRY_LOCAL(open_checkpoints(t));
    TRY_LOCAL(file != NULL ? gpt_llmc_load(t->stage, file)
                           : gpt_stage_init(t->stage, (uint64_t)t->seed));
    TRY_LOCAL(resume(t));
    TRY_LOCAL(open_data(t));
    TRY_LOCAL(open_meter(t));
    gpt_stage_measure(t->stage, t->options->times);
    return 0;
}

int gpt_trainer_open(pld_runtime *runtime, const struct gpt_options *options,
                     struct gpt_trainer *out)
{
    pld_schedule *schedule = NULL;
    int rc;

    *out = (struct gpt_trainer){.options = options,
                                .runtime = runtime,
                                .world = pld_runtime_world(runtime),
                                .seed = options->seed};
    gpt_blas_threads(pld_runtime_local_size(runtime));
    rc = build(out, &schedule);
    pld_schedule_destroy(&schedule);
    return rc < 0 ? rc : fill(out);
}

void gpt_trainer_close(struct gpt_trainer *t)
{
    pld_meter_close(&t->meter);
    pld_data_close(&t->data);
    pld_ckpt_destroy(&t->ckpt);
    pld_pipe_destroy(&t->pipe);
    pld_optim_destroy(&t->optim);
    pld_dp_destroy(&t->dp);
    pld_params_destroy(&t->params);
    gpt_stage_destroy(&t->stage);
    pld_mesh_destroy(&t->mesh);
    free(t->sample);
    gpt_trainer_free(t, t->tokens);
    gpt_trainer_free(t, t->targets);
    *t = (struct gpt_trainer){0};
}
