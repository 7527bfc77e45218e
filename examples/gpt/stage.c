/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* A stage: its tensors, its memory, and the clock. */

#include "stage.h"

#include <polder/error.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* Memory is cut twice: from NULL to learn its size, then from what was allocated. */
struct cut {
    char *base;
    size_t used;
};

static void *take(struct cut *cut, size_t count, size_t size)
{
    void *at = cut->base != NULL ? cut->base + cut->used : NULL;

    cut->used += (count * size + 63) / 64 * 64;
    return at;
}

static float *floats(struct cut *cut, size_t rows, size_t cols)
{
    return take(cut, rows * cols, sizeof(float));
}

static void cut_saved(struct cut *cut, const struct gpt_stage *s, int own_input,
                      struct gpt_saved *out)
{
    const size_t rows = (size_t)s->rows.count, c = (size_t)s->config.channels;

    out->x = own_input ? floats(cut, rows, c) : NULL;
    out->mean1 = floats(cut, rows, 1);
    out->rstd1 = floats(cut, rows, 1);
    out->qkv = floats(cut, rows, 3 * c);
    out->lse = floats(cut, rows, (size_t)s->config.heads);
    out->attention = floats(cut, rows, c);
    out->middle = floats(cut, rows, c);
    out->mean2 = floats(cut, rows, 1);
    out->rstd2 = floats(cut, rows, 1);
    out->fc = floats(cut, rows, 4 * c);
}

static void cut_head(struct cut *cut, struct gpt_stage *s)
{
    const size_t rows = (size_t)s->rows.count, head = (size_t)s->head_rows;
    const size_t blocks = ((size_t)s->config.vocab + GPT_HEAD_COLS - 1) / GPT_HEAD_COLS;
    struct gpt_scratch *t = &s->scratch;

    t->final = floats(cut, rows, (size_t)s->config.channels);
    t->mean = floats(cut, rows, 1);
    t->rstd = floats(cut, rows, 1);
    t->logits = floats(cut, blocks * head, GPT_HEAD_COLS);
    t->maximum = floats(cut, head, 1);
    t->sum = floats(cut, head, 1);
}

static void cut_scratch(struct cut *cut, struct gpt_stage *s)
{
    const size_t rows = (size_t)s->rows.count, c = (size_t)s->config.channels;
    const size_t seq = (size_t)s->rows.seq;
    struct gpt_scratch *t = &s->scratch;

    cut_saved(cut, s, 1, &t->layer);
    t->norm = floats(cut, rows, c);
    t->wide = floats(cut, rows, 4 * c);
    t->wide2 = floats(cut, rows, 4 * c);
    t->dx = floats(cut, rows, c);
    t->scores = floats(cut, GPT_QUERIES, seq);
    t->dscores = floats(cut, GPT_QUERIES, seq);
    t->delta = floats(cut, seq, 1);
    if (s->last)
        cut_head(cut, s);
}

static void cut_slot(struct cut *cut, struct gpt_stage *s, struct gpt_slot *slot)
{
    const size_t rows = (size_t)s->rows.count;

    slot->microbatch = -1;
    for (int l = 0; l < s->layer_count; l++)
        cut_saved(cut, s, s->first || l > 0, &slot->layers[l]);
    if (s->last)
        slot->dx = floats(cut, rows, (size_t)s->config.channels);
    if (s->first)
        slot->tokens = take(cut, rows, sizeof(*slot->tokens));
}

static size_t cut_all(struct gpt_stage *s, char *base)
{
    struct cut cut = {.base = base};

    for (int i = 0; i < s->opts.live; i++)
        cut_slot(&cut, s, &s->slots[i]);
    cut_scratch(&cut, s);
    return cut.used;
}

/* Large pages, where the system has them, save the matrix products from missing the TLB. */
static int allocate(struct gpt_stage *s)
{
    const size_t page = (size_t)2 << 20;
    size_t bytes;

    s->layers = calloc((size_t)s->layer_count + 1, sizeof(*s->layers));
    s->slots = calloc((size_t)s->opts.live, sizeof(*s->slots));
    if (s->layers == NULL || s->slots == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for a stage of %d layers", s->layer_count);
    for (int i = 0; i < s->opts.live; i++) {
        s->slots[i].layers = calloc((size_t)s->layer_count + 1, sizeof(*s->slots[i].layers));
        if (s->slots[i].layers == NULL)
            return gpt_fail(PLD_ERR_NOMEM, "no memory for %d live microbatches", s->opts.live);
    }
    bytes = (cut_all(s, NULL) + page - 1) / page * page;
    s->memory = aligned_alloc(page, bytes);
    if (s->memory == NULL)
        return gpt_fail(PLD_ERR_NOMEM,
                        "no memory for the activations of %d live microbatches of %d tokens in %d "
                        "layers: %zu bytes",
                        s->opts.live, s->rows.count, s->layer_count, bytes);
    (void)madvise(s->memory, bytes, MADV_HUGEPAGE);
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
    s->first = opts->stage == 0;
    s->last = opts->stage == opts->stages - 1;
    s->rows = (struct gpt_rows){opts->batch, opts->seq, opts->batch * opts->seq};
    s->head_rows = even_parts(s->rows.count, GPT_HEAD_ROWS);
    s->kernels = gpt_kernels();
    rc = gpt_config_split(&s->config, opts->seq, opts->stage, opts->stages, &s->first_layer,
                          &s->layer_count);
    if (rc == 0)
        rc = allocate(s);
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
    free(s->memory);
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
