/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file train.h
 * A model that trains on the host or on a GPU, with the same bits.
 *
 * Stage s computes y = (x + w_s) * a, elementwise; the first and the last stage add a tensor
 * that they share; the loss is half the squared distance from a target.  So its gradients are
 * sums and multiples, which polder's own kernels form on both.
 */
#ifndef TRAIN_H
#define TRAIN_H

#include "device/device.h"
#include "device/device_kernels.h"
#include "inproc/inproc.h"
#include "params/params.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>

enum { WIDTH = 3001, TRAIN_MAX_RANKS = 4, MOST_VALUES = 4 * WIDTH, TRAIN_STEPS = 6 };

/** One run; `value` and `report` are what it ended with. */
struct train {
    const char *mesh;
    int ranks, microbatches;
    int on_device, watched; /**< watched: reports are asked for in every step */
    int own_stream, side;   /**< gradients also come from a second stream */
    int outside;            /**< the stage's tensor is the caller's memory */
    double clip;
    pld_loss_scaling scaling; /**< from 2^10 on */
    int blind;                /**< the scale is not read, for that waits: gradients lack it */
    int64_t growth_interval;
    int fails; /**< microbatch at which forward of stage 1 fails, from 1; 0: none */
    float value[TRAIN_MAX_RANKS][MOST_VALUES];
    pld_step_report report[TRAIN_MAX_RANKS];
    int code[TRAIN_MAX_RANKS];
    char text[TRAIN_MAX_RANKS][512];
};

struct train_rank {
    struct train *t;
    pld_runtime *rt;
    pld_device *gpu;
    pld_mesh *mesh;
    pld_params *params;
    pld_dp *dp;
    pld_optim *optim;
    pld_pipe *pipe;
    pld_ckpt *ckpt;
    pld_stream stream, side;
    pld_event event;
    int stage, stages, dp_rank;
    int w, v;              /* tensors; v < 0: none */
    int poisoned;          /* gradients are not finite */
    float *input, *target; /* [microbatches][WIDTH] */
    float *scratch, *by;
    void *outside[2];
};

/** Return a negative code from the caller. */
#define TRAIN_TRY(call)                                                                            \
    do {                                                                                           \
        const int train_rc_ = (call);                                                              \
        if (train_rc_ < 0)                                                                         \
            return train_rc_;                                                                      \
    } while (0)

/** Memory where the run is; zeroed. */
static inline void *train_alloc(struct train_rank *r, size_t bytes)
{
    void *memory = NULL;

    if (r->gpu == NULL)
        return calloc(1, bytes);
    if (pld_device_alloc(r->gpu, bytes, PLD_MEM_DEVICE, &memory) < 0 ||
        pld_device_fill(r->gpu, memory, 0, bytes, r->stream) < 0)
        return NULL;
    return memory;
}

static inline void train_free(struct train_rank *r, void *memory)
{
    if (r->gpu == NULL)
        free(memory);
    else
        pld_device_free(r->gpu, memory);
}

/** Waits: setting up and looking at results alone. */
static inline int train_put(struct train_rank *r, void *to, const void *from, size_t bytes)
{
    if (r->gpu == NULL) {
        memcpy(to, from, bytes);
        return 0;
    }
    TRAIN_TRY(pld_device_copy(r->gpu, to, from, bytes, r->stream));
    return pld_stream_wait(r->gpu, r->stream);
}

/** dst = scale * (sum of srcs), in order of the stream. */
static inline int train_sum(struct train_rank *r, float *dst, const float *const *srcs, int n,
                            double scale, pld_stream stream)
{
    void *dsts[1] = {dst};
    const void *from[4];

    for (int i = 0; i < n; i++)
        from[i] = srcs[i];
    if (r->gpu != NULL)
        return r->gpu->ops->reduce(r->gpu, dsts, 1, from, n, WIDTH, PLD_F32, PLD_SUM, scale,
                                   stream);
    pldi_kernels()->reduce(dst, from, n, WIDTH, PLD_F32, PLD_SUM, scale);
    return 0;
}

static inline float *train_f32(struct train_rank *r, int id, int grad)
{
    return grad ? pld_params_grad(r->params, id) : pld_params_value(r->params, id);
}

static inline int train_forward(void *context, int stage, int microbatch, const void *in, void *out)
{
    struct train_rank *r = context;
    const float *srcs[3] = {in != NULL ? in : r->input + (size_t)microbatch * WIDTH,
                            train_f32(r, r->w, 0), NULL};
    int n = 2;

    if (stage == 1 && microbatch + 1 == r->t->fails)
        return PLD_ERR_IO;
    if (r->v >= 0)
        srcs[n++] = train_f32(r, r->v, 0);
    /* The last stage's output is needed by its backward alone, which forms it again. */
    return train_sum(r, out != NULL ? out : r->scratch, srcs, n, 0.75, r->stream);
}

static inline int train_order(struct train_rank *r, pld_stream earlier, pld_stream later)
{
    TRAIN_TRY(pld_event_record(r->gpu, r->event, earlier));
    return pld_stream_after(r->gpu, later, r->event);
}

/** Add to a gradient, on the second stream if there is one, and say that it is ready. */
static inline int train_add(struct train_rank *r, int id, const float *by)
{
    const pld_stream stream = r->side != NULL && id == r->w ? r->side : r->stream;
    float *grad = train_f32(r, id, 1);
    const float *srcs[2] = {grad, by};

    if (stream != r->stream)
        TRAIN_TRY(train_order(r, r->stream, stream));
    TRAIN_TRY(train_sum(r, grad, srcs, 2, 1, stream));
    return pld_dp_ready(r->dp, id, stream);
}

/** What the loss is multiplied by.  A device's is asked for: in tests alone one waits for it. */
static inline int train_loss_scale(struct train_rank *r, float *out)
{
    *out = 1;
    if (r->t->scaling == PLD_SCALING_NONE || r->t->blind)
        return 0;
    TRAIN_TRY(train_put(r, out, pld_optim_loss_scale(r->optim), sizeof(*out)));
    if (r->poisoned)
        *out = INFINITY;
    return 0;
}

static inline int train_backward(void *context, int stage, int microbatch, const void *in,
                                 const void *grad_out, void *grad_in)
{
    struct train_rank *r = context;
    float *mine = r->by + (size_t)microbatch * WIDTH; /* the second stream may be behind */
    const float *by[2] = {grad_out, r->target + (size_t)microbatch * WIDTH};
    float scale = 1;
    int n = 1;

    if (grad_out == NULL) { /* y minus target; the target is stored negative */
        TRAIN_TRY(train_loss_scale(r, &scale));
        TRAIN_TRY(train_forward(context, stage, microbatch, in, NULL));
        by[0] = r->scratch;
        n = 2;
    }
    TRAIN_TRY(train_sum(r, mine, by, n, 0.75 * (double)scale, r->stream));
    TRAIN_TRY(train_add(r, r->w, mine));
    if (r->v >= 0)
        TRAIN_TRY(train_add(r, r->v, mine));
    by[0] = mine;
    return grad_in == NULL ? 0 : train_sum(r, grad_in, by, 1, 1, r->stream);
}

static inline float train_number(int a, int b, int i)
{
    return 0.01F * (float)((a * 31 + b * 17 + i * 7) % 101 - 50);
}

/** What is local of setting up the tensors. */
static inline int train_add_tensors(struct train_rank *r, pld_param *w)
{
    const pld_param v = {PLD_OPTS(pld_param), .name = "v", .ndim = 1, .shape = {WIDTH},
                         .shared = r->stages > 1};

    r->v = -1;
    if (r->t->outside) {
        r->outside[0] = w->value = train_alloc(r, sizeof(float) * WIDTH);
        r->outside[1] = w->grad = train_alloc(r, sizeof(float) * WIDTH);
    }
    TRAIN_TRY(pld_params_create(r->mesh, &r->params));
    TRAIN_TRY(pld_params_add(r->params, w, &r->w));
    if (r->stage == 0 || r->stage == r->stages - 1)
        TRAIN_TRY(pld_params_add(r->params, &v, &r->v));
    return 0;
}

/** Set up: the code of the call that fails, the same on all ranks. */
static inline int train_tensors(struct train_rank *r)
{
    char name[16];
    pld_param w = {PLD_OPTS(pld_param), .name = name, .ndim = 1, .shape = {WIDTH}, .decay = 1};
    float first[WIDTH];

    (void)snprintf(name, sizeof(name), "w%d", r->stage);
    TRAIN_TRY(pld_agree(pld_runtime_world(r->rt), train_add_tensors(r, &w)));
    TRAIN_TRY(pld_params_commit(r->params));
    TRAIN_TRY(pld_params_set_stream(r->params, r->stream));
    for (int i = 0; i < WIDTH; i++) /* wrong on all replicas but the first, until they are synced */
        first[i] = train_number(1, r->stage, i) + (float)r->dp_rank;
    TRAIN_TRY(train_put(r, train_f32(r, r->w, 0), first, sizeof(first)));
    TRAIN_TRY(pld_params_sync(r->params));
    return 0;
}

/** Memory that cannot be had is DEVMEM: there is no other. */
static inline int train_data(struct train_rank *r)
{
    const size_t bytes = sizeof(float) * WIDTH * (size_t)r->t->microbatches;
    float *data = malloc(bytes);

    r->input = train_alloc(r, bytes);
    r->target = train_alloc(r, bytes);
    r->scratch = train_alloc(r, sizeof(float) * WIDTH);
    r->by = train_alloc(r, bytes);
    if (!(data != NULL && r->input != NULL && r->target != NULL && r->scratch != NULL &&
          r->by != NULL))
        return PLD_ERR_DEVMEM;
    for (int m = 0; m < r->t->microbatches; m++)
        for (int i = 0; i < WIDTH; i++)
            data[m * WIDTH + i] = train_number(2 + r->dp_rank, m, i);
    TRAIN_TRY(train_put(r, r->input, data, bytes));
    for (int m = 0; m < r->t->microbatches; m++)
        for (int i = 0; i < WIDTH; i++)
            data[m * WIDTH + i] = -train_number(5 + r->dp_rank, m, i);
    TRAIN_TRY(train_put(r, r->target, data, bytes));
    free(data);
    return 0;
}

static inline int train_open(struct train_rank *r)
{
    struct train *t = r->t;
    const pld_schedule_opts plan = {PLD_OPTS(pld_schedule_opts), .kind = PLD_SCHEDULE_1F1B,
                                    .ranks = r->stages, .microbatches = t->microbatches};
    const pld_pipe_tensor tile = {.ndim = 1, .shape = {WIDTH}, .dtype = PLD_F32};
    /* Buckets of one tensor, or of all: then from two streams. */
    const size_t bucket = t->side ? 0 : 4096;
    const pld_dp_opts dp = {PLD_OPTS(pld_dp_opts), .accumulate = t->microbatches,
                            .bucket_bytes = bucket, .first_bucket_bytes = bucket};
    const pld_optim_opts adamw = {PLD_OPTS(pld_optim_opts),
                                  .weight_decay = 0.1,
                                  .clip = t->clip,
                                  .scaling = t->scaling,
                                  .init_scale = t->scaling == PLD_SCALING_NONE ? 0 : 1024,
                                  .growth_interval = t->growth_interval};
    pld_pipe_opts pipe = {PLD_OPTS(pld_pipe_opts), .forward = train_forward,
                          .backward = train_backward, .context = r, .stream = r->stream};
    pld_schedule *schedule = NULL;

    TRAIN_TRY(train_tensors(r));
    TRAIN_TRY(pld_agree(pld_runtime_world(r->rt), train_data(r)));
    TRAIN_TRY(pld_dp_create(r->params, &dp, &r->dp));
    TRAIN_TRY(pld_optim_create(r->params, &adamw, &r->optim));
    TRAIN_TRY(pld_schedule_create(&plan, &schedule));
    if (r->stage > 0)
        pipe.input = tile;
    if (r->stage < r->stages - 1)
        pipe.output = tile;
    TRAIN_TRY(pld_pipe_create(r->mesh, schedule, &pipe, &r->pipe));
    pld_schedule_destroy(&schedule);
    return 0;
}

static inline void train_close(struct train_rank *r)
{
    void *const memory[] = {r->input, r->target, r->scratch, r->by};

    pld_ckpt_destroy(&r->ckpt);
    pld_pipe_destroy(&r->pipe);
    pld_optim_destroy(&r->optim);
    pld_dp_destroy(&r->dp);
    pld_params_destroy(&r->params);
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++)
        train_free(r, memory[i]);
    train_free(r, r->outside[0]);
    train_free(r, r->outside[1]);
    if (r->gpu != NULL) {
        pld_event_destroy(r->gpu, &r->event);
        if (r->side != NULL)
            pld_stream_destroy(r->gpu, &r->side);
        if (r->t->own_stream)
            pld_stream_destroy(r->gpu, &r->stream);
    }
    pld_mesh_destroy(&r->mesh);
}

/** What has been trained, and the slots that belong to it. */
static inline int train_results(struct train_rank *r)
{
    float *out = r->t->value[pld_runtime_rank(r->rt)];

    for (int id = 0; id < pld_params_count(r->params); id++) {
        CHECK(r->rt, train_put(r, out, train_f32(r, id, 0), sizeof(float) * WIDTH) == 0);
        CHECK(r->rt, train_put(r, out + WIDTH, pldi_params_slot(r->params, id, 1)->value,
                               sizeof(float) * WIDTH) == 0);
        out += 2 * WIDTH;
    }
    return 0;
}

static inline int train_streams(struct train_rank *r)
{
    if (r->gpu == NULL)
        return 0;
    if (r->t->own_stream)
        TRAIN_TRY(pld_stream_create(r->gpu, 0, &r->stream));
    if (r->t->side)
        TRAIN_TRY(pld_stream_create(r->gpu, 0, &r->side));
    return pld_event_create(r->gpu, 0, &r->event);
}

static inline int train_begin(pld_runtime *rt, struct train *t, struct train_rank *r)
{
    *r = (struct train_rank){.t = t, .rt = rt, .gpu = pld_runtime_device(rt)};
    CHECK(rt, (r->gpu != NULL) == t->on_device);
    TRAIN_TRY(pld_mesh_create(rt, t->mesh, &r->mesh));
    r->stage = pld_mesh_coord(r->mesh, PLD_AXIS_PP);
    r->stages = pld_mesh_size(r->mesh, PLD_AXIS_PP);
    r->dp_rank = pld_mesh_coord(r->mesh, PLD_AXIS_DP);
    TRAIN_TRY(pld_agree(pld_runtime_world(rt), train_streams(r)));
    return train_open(r);
}

/** One step of training. */
static inline int train_step(struct train_rank *r, int step)
{
    pld_step_report *report = &r->t->report[pld_runtime_rank(r->rt)];

    /* Replicas do not know of each other's pipelines. */
    TRAIN_TRY(pld_agree(pld_runtime_world(r->rt), pld_pipe_step(r->pipe)));
    TRAIN_TRY(pld_optim_step(r->optim, 0.01 / (1 + step), r->t->watched ? report : NULL));
    /* The second stream's next gradient comes after the zeros of this step. */
    return r->side == NULL ? 0 : train_order(r, r->stream, r->side);
}

/** `body` on all ranks, on their GPUs with both streams, or on the host. */
static inline int train_run(struct train *t, int on_device, int (*body)(pld_runtime *, void *),
                            void *context)
{
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .timeout = 60,
                                   .device = on_device ? "cuda" : NULL};

    t->on_device = on_device;
    t->own_stream = t->side = on_device;
    return inproc_run_with(t->ranks, body, context, &opts);
}

/** Put the address of a function of the stand-in for the driver into *function; 0: that is not
 *  what is loaded. */
static inline int train_fake(const char *name, void *function)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    void *symbol = driver == NULL ? NULL : dlsym(driver, name);

    memcpy(function, &symbol, sizeof(symbol));
    return symbol != NULL;
}

#endif /* TRAIN_H */
