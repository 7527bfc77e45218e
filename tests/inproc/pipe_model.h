/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file pipe_model.h
 * A small perceptron to run in a pipeline: layer l computes tanh(x W_l), widths
 * differ at every boundary, the loss is half the squared output.
 */
#ifndef PIPE_MODEL_H
#define PIPE_MODEL_H

#include <math.h>
#include <stdlib.h>

#include "base/base_err.h"
#include "inproc/inproc.h"

enum { LAYERS = 5, ROWS = 2, WIDEST = 7, MOST_MICROBATCHES = 9, MOST_DP = 2, FAILURES = 2 };

static const int width[LAYERS + 1] = {3, 5, 4, 7, 2, 6};

typedef float tile[ROWS * WIDEST];

/** What the serial loop over the microbatches of one data-parallel rank saw. */
struct serial {
    float grad[LAYERS][WIDEST * WIDEST];
    tile act[LAYERS + 1][MOST_MICROBATCHES];
    tile by[LAYERS + 1][MOST_MICROBATCHES]; /* gradient of the loss by act */
};

struct failure {
    int armed, stage, microbatch, backward, code;
    const char *sentence;
};

/** One pipeline to run, shared by its ranks and not written by them. */
struct job {
    char mesh[32];
    int microbatches;
    pld_schedule_kind kind;
    int lower;        /**< hand over a schedule with messages */
    const char *text; /**< schedule in text form; NULL: of `kind` */
    struct failure fail[FAILURES];
    int expect, leaver;
    char words[160];
    struct serial serial[MOST_DP];
};

/** A rank. */
struct stage {
    const struct job *job;
    int number, dp, first, end, microbatches;
    int failed, called_after;
    float grad[LAYERS][WIDEST * WIDEST];
    tile act[LAYERS + 1][MOST_MICROBATCHES];
    const void *in[MOST_MICROBATCHES];
};

static inline float weight(int layer, int i, int j)
{
    return 0.1F * (float)((layer * 31 + i * 7 + j * 13) % 11 - 5);
}

static inline float sample(int dp, int microbatch, int i)
{
    return 0.25F * (float)((dp * 5 + microbatch * 3 + i * 7) % 9 - 4);
}

static inline void layer_forward(int l, const float *x, float *y)
{
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < width[l + 1]; j++) {
            float sum = 0;

            for (int i = 0; i < width[l]; i++)
                sum += x[r * width[l] + i] * weight(l, i, j);
            y[r * width[l + 1] + j] = tanhf(sum);
        }
}

/** grad += x' d, by_x = d W', where d is by_y times the derivative of tanh. */
static inline void layer_backward(int l, const float *x, const float *y, const float *by_y,
                                  float *grad, float *by_x)
{
    const int n = width[l];
    const int m = width[l + 1];

    memset(by_x, 0, sizeof(float) * (size_t)(ROWS * n));
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < m; j++) {
            const float d = by_y[r * m + j] * (1 - y[r * m + j] * y[r * m + j]);

            for (int i = 0; i < n; i++) {
                grad[i * m + j] += x[r * n + i] * d;
                by_x[r * n + i] += d * weight(l, i, j);
            }
        }
}

static inline size_t tile_bytes(int boundary)
{
    return sizeof(float) * (size_t)(ROWS * width[boundary]);
}

/** Layers [first, end) forward, and backward, with acts of one microbatch in a strided array. */
static inline void run_serial(struct serial *s, int dp, int microbatches)
{
    for (int m = 0; m < microbatches; m++) {
        for (int i = 0; i < ROWS * width[0]; i++)
            s->act[0][m][i] = sample(dp, m, i);
        for (int l = 0; l < LAYERS; l++)
            layer_forward(l, s->act[l][m], s->act[l + 1][m]);
        memcpy(s->by[LAYERS][m], s->act[LAYERS][m], tile_bytes(LAYERS));
        for (int l = LAYERS - 1; l >= 0; l--)
            layer_backward(l, s->act[l][m], s->act[l + 1][m], s->by[l + 1][m], s->grad[l],
                           s->by[l][m]);
    }
}

static inline struct job *job_new(int pp, int dp, int microbatches)
{
    struct job *j = calloc(1, sizeof(*j));

    if (j == NULL)
        abort();
    j->microbatches = microbatches;
    (void)snprintf(j->mesh, sizeof(j->mesh), "dp=%d,pp=%d", dp, pp);
    for (int d = 0; d < dp; d++)
        run_serial(&j->serial[d], d, microbatches);
    return j;
}

/** A failure that is due here, or 0. */
static inline int failure_due(struct stage *s, int microbatch, int backward)
{
    for (int i = 0; i < FAILURES; i++) {
        const struct failure *f = &s->job->fail[i];

        if (!f->armed || f->stage != s->number || f->microbatch != microbatch ||
            f->backward != backward)
            continue;
        s->failed = 1;
        if (f->sentence != NULL)
            (void)pldi_fail(f->code, "%s", f->sentence);
        return f->code;
    }
    s->called_after |= s->failed;
    return 0;
}

/** PLD_ERR_INTERNAL, which no test expects: the pipe handed over something else. */
static inline int differs(const char *what, const struct stage *s, int microbatch, const void *got,
                          const void *want, int boundary)
{
    if (got != NULL && memcmp(got, want, tile_bytes(boundary)) == 0)
        return 0;
    return pldi_fail(PLD_ERR_INTERNAL, "%s of microbatch %d in stage %d is not what it was", what,
                     microbatch, s->number);
}

static inline int stage_forward(void *context, int stage, int microbatch, const void *in, void *out)
{
    struct stage *s = context;
    const int rc = failure_due(s, microbatch, 0);

    if (rc != 0)
        return rc;
    if (stage != s->number || (in == NULL) != (s->first == 0) ||
        (out == NULL) != (s->end == LAYERS))
        return pldi_fail(PLD_ERR_INTERNAL, "stage %d is called as %d", s->number, stage);
    if ((uintptr_t)in % 64 != 0 || (uintptr_t)out % 64 != 0)
        return pldi_fail(PLD_ERR_INTERNAL, "stage %d has buffers that are not aligned", stage);
    if (in == NULL)
        in = s->job->serial[s->dp].act[0][microbatch];
    else if (differs("input", s, microbatch, in, s->job->serial[s->dp].act[s->first][microbatch],
                     s->first) < 0)
        return PLD_ERR_INTERNAL;
    s->in[microbatch] = in;
    for (int l = s->first; l < s->end; l++)
        layer_forward(l, l == s->first ? in : s->act[l][microbatch], s->act[l + 1][microbatch]);
    if (out != NULL)
        memcpy(out, s->act[s->end][microbatch], tile_bytes(s->end));
    return 0;
}

static inline int stage_backward(void *context, int stage, int microbatch, const void *in,
                                 const void *grad_out, void *grad_in)
{
    struct stage *s = context;
    const struct serial *serial = &s->job->serial[s->dp];
    const int rc = failure_due(s, microbatch, 1);
    tile by[2];

    if (rc != 0)
        return rc;
    if (stage != s->number || (in == NULL) != (s->first == 0) ||
        (grad_in == NULL) != (s->first == 0) || (grad_out == NULL) != (s->end == LAYERS))
        return pldi_fail(PLD_ERR_INTERNAL, "stage %d is called as %d", s->number, stage);
    if (grad_out == NULL)
        grad_out = s->act[LAYERS][microbatch];
    if (in == NULL)
        in = serial->act[0][microbatch];
    else if (in != s->in[microbatch])
        return pldi_fail(PLD_ERR_INTERNAL, "the input has moved");
    if (differs("input", s, microbatch, in, serial->act[s->first][microbatch], s->first) < 0 ||
        differs("gradient", s, microbatch, grad_out, serial->by[s->end][microbatch], s->end) < 0)
        return PLD_ERR_INTERNAL;
    memcpy(by[s->end % 2], grad_out, tile_bytes(s->end));
    for (int l = s->end - 1; l >= s->first; l--)
        layer_backward(l, l == s->first ? in : s->act[l][microbatch], s->act[l + 1][microbatch],
                       by[(l + 1) % 2], s->grad[l], by[l % 2]);
    if (grad_in != NULL)
        memcpy(grad_in, by[s->first % 2], tile_bytes(s->first));
    return 0;
}

static inline int make_schedule(const struct job *j, int ranks, pld_schedule **out)
{
    pld_schedule_opts o = {PLD_OPTS(pld_schedule_opts), .kind = j->kind, .ranks = ranks,
                           .microbatches = j->microbatches};
    pld_schedule *plain = NULL;
    int rc =
        j->text != NULL ? pld_schedule_parse(j->text, &plain) : pld_schedule_create(&o, &plain);

    if (rc < 0 || !j->lower) {
        *out = plain;
        return rc;
    }
    rc = pld_schedule_lower(plain, out);
    pld_schedule_destroy(&plain);
    return rc;
}

/** This rank's part of the model; the schedule says which stage it is. */
static inline struct stage *stage_new(const struct job *j, const pld_mesh *mesh)
{
    const int pp = pld_mesh_size(mesh, PLD_AXIS_PP);
    struct stage *s = calloc(1, sizeof(*s));
    pld_schedule *schedule = NULL;

    if (s == NULL || make_schedule(j, pp, &schedule) < 0)
        abort();
    while (pld_schedule_rank_of(schedule, s->number) != pld_mesh_coord(mesh, PLD_AXIS_PP))
        s->number++;
    pld_schedule_destroy(&schedule);
    s->job = j;
    s->dp = pld_mesh_coord(mesh, PLD_AXIS_DP);
    s->first = s->number * LAYERS / pp;
    s->end = (s->number + 1) * LAYERS / pp;
    s->microbatches = j->microbatches;
    return s;
}

static inline pld_pipe_tensor boundary(int at)
{
    pld_pipe_tensor t = {.dtype = PLD_F32, .ndim = 2, .shape = {ROWS, width[at]}};

    if (at == 0 || at == LAYERS)
        t.ndim = 0;
    return t;
}

static inline pld_pipe_opts stage_opts(struct stage *s)
{
    return (pld_pipe_opts){PLD_OPTS(pld_pipe_opts),     .forward = stage_forward,
                           .backward = stage_backward,  .context = s,
                           .input = boundary(s->first), .output = boundary(s->end)};
}

static inline int create(const struct job *j, struct stage *s, pld_mesh *mesh, pld_pipe **out)
{
    const pld_pipe_opts opts = stage_opts(s);
    pld_schedule *schedule = NULL;
    int rc = make_schedule(j, pld_mesh_size(mesh, PLD_AXIS_PP), &schedule);

    if (rc == 0)
        rc = pld_pipe_create(mesh, schedule, &opts, out);
    pld_schedule_destroy(&schedule);
    return rc;
}

static inline int run_steps(pld_runtime *rt, struct job *j, struct stage *s, pld_pipe *pipe)
{
    for (int step = 0; step < 3; step++) {
        memset(s->grad, 0, sizeof(s->grad));
        CHECK(rt, pld_pipe_step(pipe) == 0);
        for (int l = s->first; l < s->end; l++)
            CHECK(rt, memcmp(s->grad[l], j->serial[s->dp].grad[l], sizeof(s->grad[l])) == 0);
    }
    return 0;
}

static inline int64_t messages_bytes(const struct stage *s, int pp)
{
    const int64_t to_next = s->number + 1 < pp ? width[s->end] : 0;
    const int64_t to_previous = s->number > 0 ? width[s->first] : 0;

    return (to_next + to_previous) * ROWS * (int64_t)sizeof(float) * s->microbatches;
}

/** Body: three steps, each with the gradients of the serial loop. */
static inline int equal_bits(pld_runtime *rt, void *context)
{
    struct job *j = context;
    struct stage *s = NULL;
    pld_pipe *pipe = NULL;
    pld_pipe_stats stats;
    pld_mesh *mesh = NULL;

    CHECK(rt, pld_mesh_create(rt, j->mesh, &mesh) == 0);
    s = stage_new(j, mesh);
    CHECK(rt, create(j, s, mesh, &pipe) == 0);
    CHECK(rt, run_steps(rt, j, s, pipe) == 0);
    pld_pipe_get_stats(pipe, &stats);
    CHECK(rt, stats.bytes_sent == messages_bytes(s, pld_mesh_size(mesh, PLD_AXIS_PP)));
    CHECK(rt, stats.compute_s > 0 && stats.wait_s >= 0);
    CHECK(rt, stats.compute_s + stats.wait_s <= stats.step_s);
    pld_pipe_destroy(&pipe);
    pld_pipe_destroy(&pipe);
    pld_mesh_destroy(&mesh);
    free(s);
    return 0;
}

/** Body: a step whose callback fails, as the job says. */
static inline int fails(pld_runtime *rt, void *context)
{
    struct job *j = context;
    struct stage *s = NULL;
    pld_pipe *pipe = NULL;
    pld_mesh *mesh = NULL;

    CHECK(rt, pld_mesh_create(rt, j->mesh, &mesh) == 0);
    s = stage_new(j, mesh);
    CHECK(rt, create(j, s, mesh, &pipe) == 0);
    CHECK(rt, pld_pipe_step(pipe) == j->expect);
    CHECK(rt, strstr(pld_last_error(), j->words) != NULL);
    CHECK(rt, !s->failed || !s->called_after);
    CHECK(rt, pld_pipe_step(pipe) == PLD_ERR_STATE);
    pld_pipe_destroy(&pipe);
    CHECK(rt, pld_barrier(pld_mesh_group(mesh, PLD_AXIS_PP), NULL) == 0);
    pld_mesh_destroy(&mesh);
    free(s);
    return 0;
}

/** A job in which one callback fails. */
static inline struct job *failing_job(int pp, int kind, int m, int stage, int microbatch,
                                      int backward)
{
    struct job *j = job_new(pp, 1, m);

    j->kind = (pld_schedule_kind)kind;
    j->fail[0] = (struct failure){1, stage, microbatch, backward, PLD_ERR_IO, "the disk is wet"};
    j->expect = PLD_ERR_IO;
    (void)snprintf(j->words, sizeof(j->words),
                   "rank %d: %s of microbatch %d in stage %d returned %d (file system error): "
                   "the disk is wet",
                   stage, backward ? "backward" : "forward", microbatch, stage, PLD_ERR_IO);
    return j;
}

#endif /* PIPE_MODEL_H */
