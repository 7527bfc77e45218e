/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* A stage: its tensors, its memory, and the clock. */

#include "stage.h"

#include <polder/error.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Rounds of device memory, so that every array can be read 16 bytes at a time. */
enum { ALIGNMENT = 256 };

void *gpt_take(struct gpt_cut *cut, size_t count, size_t size)
{
    void *at = cut->base != NULL ? cut->base + cut->used : NULL;

    cut->used += (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return at;
}

static float *floats(struct gpt_cut *cut, size_t rows, size_t cols)
{
    return gpt_take(cut, rows * cols, sizeof(float));
}

/* Activations of all rows. */
static void *wide(struct gpt_cut *cut, const struct gpt_stage *s, size_t times)
{
    const size_t rows = (size_t)s->rows.count, c = (size_t)s->config.channels;

    return gpt_take(cut, rows * c * times, s->element);
}

static void cut_saved(struct gpt_cut *cut, const struct gpt_stage *s, int own_input,
                      struct gpt_saved *out)
{
    const size_t rows = (size_t)s->rows.count;

    out->x = own_input ? wide(cut, s, 1) : NULL;
    out->mean1 = floats(cut, rows, 1);
    out->rstd1 = floats(cut, rows, 1);
    out->qkv = wide(cut, s, 3);
    out->lse = floats(cut, rows, (size_t)s->config.heads);
    out->attention = wide(cut, s, 1);
    out->middle = wide(cut, s, 1);
    out->mean2 = floats(cut, rows, 1);
    out->rstd2 = floats(cut, rows, 1);
    out->fc = wide(cut, s, 4);
    out->act = s->keeps_act ? wide(cut, s, 4) : NULL;
}

static void cut_head(struct gpt_cut *cut, struct gpt_stage *s)
{
    const size_t rows = (size_t)s->rows.count;
    struct gpt_scratch *t = &s->scratch;

    t->final = wide(cut, s, 1);
    t->mean = floats(cut, rows, 1);
    t->rstd = floats(cut, rows, 1);
    t->targets = gpt_take(cut, rows, sizeof(*t->targets));
}

static void cut_scratch(struct gpt_cut *cut, struct gpt_stage *s)
{
    struct gpt_scratch *t = &s->scratch;

    cut_saved(cut, s, 1, &t->layer);
    t->norm = wide(cut, s, 1);
    t->wide = wide(cut, s, 4);
    t->wide2 = wide(cut, s, 4);
    t->dx = wide(cut, s, 1);
    if (s->first)
        t->tokens = gpt_take(cut, (size_t)s->rows.count, sizeof(*t->tokens));
    if (s->last)
        cut_head(cut, s);
    s->backend->scratch(cut, s);
}

static void cut_slot(struct gpt_cut *cut, struct gpt_stage *s, struct gpt_slot *slot)
{
    const size_t rows = (size_t)s->rows.count;

    slot->microbatch = -1;
    for (int l = 0; l < s->layer_count; l++)
        cut_saved(cut, s, s->first || l > 0, &slot->layers[l]);
    if (s->last)
        slot->dx = wide(cut, s, 1);
    if (s->first)
        slot->tokens = gpt_take(cut, rows, sizeof(*slot->tokens));
}

static size_t cut_all(struct gpt_stage *s, char *base)
{
    struct gpt_cut cut = {.base = base};

    for (int i = 0; i < s->opts.live; i++)
        cut_slot(&cut, s, &s->slots[i]);
    cut_scratch(&cut, s);
    return cut.used;
}

static int allocate(struct gpt_stage *s)
{
    size_t bytes;
    int rc;

    s->layers = calloc((size_t)s->layer_count + 1, sizeof(*s->layers));
    s->slots = calloc((size_t)s->opts.live, sizeof(*s->slots));
    if (s->layers == NULL || s->slots == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for a stage of %d layers", s->layer_count);
    for (int i = 0; i < s->opts.live; i++) {
        s->slots[i].layers = calloc((size_t)s->layer_count + 1, sizeof(*s->slots[i].layers));
        if (s->slots[i].layers == NULL)
            return gpt_fail(PLD_ERR_NOMEM, "no memory for %d live microbatches", s->opts.live);
    }
    bytes = cut_all(s, NULL);
    rc = s->backend->alloc(s, bytes, &s->memory);
    if (rc != 0)
        return gpt_fail(rc,
                        "no memory for the activations of %d live microbatches of %d tokens in %d "
                        "layers: %zu bytes",
                        s->opts.live, s->rows.count, s->layer_count, bytes);
    (void)cut_all(s, s->memory);
    return 0;
}

static int check(const struct gpt_stage_opts *o)
{
    const struct {
        const char *name;
        int value, limit;
    } sizes[] = {{"batch", o->batch, 1 << 20},
                 {"seq", o->seq, o->config.max_seq},
                 {"live", o->live, 1 << 20},
                 {"microbatches", o->microbatches, 1 << 20}};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].limit)
            return gpt_fail(PLD_ERR_ARG, "stage with %s %d; it must be 1 to %d", sizes[i].name,
                            sizes[i].value, sizes[i].limit);
    if ((int64_t)o->batch * o->seq > 1 << 24)
        return gpt_fail(PLD_ERR_ARG,
                        "stage with batch %d of %d tokens; a microbatch holds at most %d tokens",
                        o->batch, o->seq, 1 << 24);
    return 0;
}

/* Size of the parts when `count` is cut into equal ones of at most `most`. */
static int even_parts(int count, int most)
{
    const int parts = (count + most - 1) / most;

    return (count + parts - 1) / parts;
}

static int build(struct gpt_stage *s, const struct gpt_stage_opts *opts, pld_params *params)
{
    int rc;

    s->opts = *opts;
    s->config = opts->config;
    s->params = params;
    s->backend = opts->device != NULL ? &gpt_cuda : &gpt_cpu;
    s->first = opts->stage == 0;
    s->last = opts->stage == opts->stages - 1;
    s->rows = (struct gpt_rows){opts->batch, opts->seq, opts->batch * opts->seq};
    s->element = opts->dtype == PLD_BF16 ? 2 : sizeof(float);
    s->head_rows = even_parts(s->rows.count, s->backend->head_rows(s));
    rc = gpt_config_split(&s->config, opts->seq, opts->stage, opts->stages, &s->first_layer,
                          &s->layer_count);
    if (rc == 0)
        rc = s->backend->open(s);
    if (rc == 0)
        rc = allocate(s);
    if (rc == 0)
        rc = gpt_graphs_create(s);
    return rc == 0 ? gpt_tensors_add(s) : rc;
}

int gpt_stage_create(const struct gpt_stage_opts *opts, pld_params *params, struct gpt_stage **out)
{
    struct gpt_stage *s;
    int rc = gpt_config_check(&opts->config);

    if (rc == 0)
        rc = check(opts);
    if (rc != 0)
        return rc;
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for a stage");
    rc = build(s, opts, params);
    if (rc != 0)
        gpt_stage_destroy(&s);
    else
        *out = s;
    return rc;
}

void gpt_stage_destroy(struct gpt_stage **stage)
{
    struct gpt_stage *s = *stage;

    if (s == NULL)
        return;
    for (int i = 0; s->slots != NULL && i < s->opts.live; i++)
        free(s->slots[i].layers);
    free(s->slots);
    free(s->layers);
    gpt_graphs_destroy(s);
    if (s->memory != NULL)
        s->backend->free(s, s->memory);
    if (s->backend != NULL)
        s->backend->close(s);
    free(s);
    *stage = NULL;
}

void gpt_stage_shape(const struct gpt_stage *stage, int64_t shape[3])
{
    shape[0] = stage->rows.batch;
    shape[1] = stage->rows.seq;
    shape[2] = stage->config.channels;
}

void gpt_stage_on_ready(struct gpt_stage *stage, int (*ready)(void *context, int id), void *context)
{
    stage->ready = ready;
    stage->ready_context = context;
}

void gpt_stage_scale_loss(struct gpt_stage *stage, const float *scale)
{
    stage->loss_scale = scale;
}

pld_stream gpt_stage_stream(const struct gpt_stage *stage)
{
    return stage->stream;
}

int gpt_stage_loss(struct gpt_stage *stage, double *out)
{
    *out = 0;
    return stage->last ? stage->backend->loss(stage, out) : 0;
}

int gpt_stage_settle(struct gpt_stage *stage)
{
    return stage->backend->settle(stage);
}

void gpt_broken(struct gpt_stage *stage, int code)
{
    if (stage->broken == 0)
        stage->broken = code;
}

static double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void gpt_lap(struct gpt_stage *stage, enum gpt_class class)
{
    double t;

    if (!stage->measuring)
        return;
    t = now();
    if (class < GPT_CLASSES)
        stage->seconds[class] += t - stage->lap;
    stage->lap = t;
}

void gpt_stage_measure(struct gpt_stage *stage, int on)
{
    stage->measuring = on != 0;
    memset(stage->seconds, 0, sizeof(stage->seconds));
}

void gpt_stage_times(const struct gpt_stage *stage, double out[GPT_CLASSES])
{
    memcpy(out, stage->seconds, sizeof(stage->seconds));
}
