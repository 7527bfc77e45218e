/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What makes a pipe impossible, and that all ranks of the mesh are told the same. */

#include <stddef.h>

#include "inproc/pipe_model.h"
#include "tap.h"

/* What one rank is given instead of what it should have. */
struct fault {
    const char *what;
    int (*make)(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out);
    int code;
    const char *words;
    const char *text; /* schedule in text form; NULL: 1F1B */
};

static int is(const pld_mesh *mesh, int dp, int pp)
{
    return pld_mesh_coord(mesh, PLD_AXIS_DP) == dp && pld_mesh_coord(mesh, PLD_AXIS_PP) == pp;
}

static int make(pld_mesh *mesh, const struct job *j, const pld_pipe_opts *opts, pld_pipe **out)
{
    pld_schedule *schedule = NULL;
    int rc = make_schedule(j, 3, &schedule);

    if (rc == 0)
        rc = pld_pipe_create(mesh, schedule, opts, out);
    pld_schedule_destroy(&schedule);
    return rc;
}

static int other_shape(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 1, 1))
        o.input.shape[1] = 99;
    return make(mesh, j, &o, out);
}

static int other_dtype(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 0, 1))
        o.output.dtype = PLD_I32;
    return make(mesh, j, &o, out);
}

static int other_ndim(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 0, 2)) {
        o.input.ndim = 3;
        o.input.shape[2] = 1;
    }
    return make(mesh, j, &o, out);
}

static int other_microbatches(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    const pld_pipe_opts o = stage_opts(s);
    struct job *mine = job_new(3, 2, is(mesh, 1, 2) ? 4 : 6);
    int rc;

    (void)j;
    rc = make(mesh, mine, &o, out);
    free(mine);
    return rc;
}

static int other_kind(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    const pld_pipe_opts o = stage_opts(s);
    struct job *mine = job_new(3, 2, j->microbatches);
    int rc;

    mine->kind = is(mesh, 0, 1) ? PLD_SCHEDULE_GPIPE : PLD_SCHEDULE_1F1B;
    rc = make(mesh, mine, &o, out);
    free(mine);
    return rc;
}

static int as_it_is(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    const pld_pipe_opts o = stage_opts(s);

    return make(mesh, j, &o, out);
}

static int no_callback(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 1, 0))
        o.backward = NULL;
    return make(mesh, j, &o, out);
}

static int no_output(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 0, 1))
        o.output.ndim = 0;
    return make(mesh, j, &o, out);
}

static int too_much_input(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 0, 0))
        o.input = boundary(1);
    return make(mesh, j, &o, out);
}

static int empty_shape(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 0, 1))
        o.input.shape[0] = 0;
    return make(mesh, j, &o, out);
}

static int too_large(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 0, 1))
        o.input.shape[0] = o.input.shape[1] = INT64_MAX / 2;
    return make(mesh, j, &o, out);
}

static int no_dtype(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 0, 2))
        o.input.dtype = (pld_dtype)77;
    return make(mesh, j, &o, out);
}

static int too_many_dims(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 0, 2))
        o.input.ndim = PLD_MAX_DIMS + 1;
    return make(mesh, j, &o, out);
}

static int no_opts(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    const pld_pipe_opts o = stage_opts(s);

    return make(mesh, j, is(mesh, 1, 1) ? NULL : &o, out);
}

static int no_schedule(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    const pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 1, 1))
        return pld_pipe_create(mesh, NULL, &o, out);
    return make(mesh, j, &o, out);
}

static int short_opts(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    if (is(mesh, 0, 1)) /* than the first release's */
        o.struct_size = offsetof(pld_pipe_opts, stream) - 1;
    return make(mesh, j, &o, out);
}

/* A boundary that is not there in the other direction: what lies behind ndim does not count. */
static int rubbish_behind(pld_mesh *mesh, const struct job *j, struct stage *s, pld_pipe **out)
{
    pld_pipe_opts o = stage_opts(s);

    o.input.shape[5] = s->number;
    o.output.shape[2] = s->number;
    return make(mesh, j, &o, out);
}

static const struct fault faults[] = {
    {"nothing wrong", as_it_is, 0, NULL, NULL},
    {"nothing wrong but what does not count", rubbish_behind, 0, NULL, NULL},
    {"an input of another shape", other_shape, PLD_ERR_MISMATCH,
     "stage 0 puts out f32 [2,5], but stage 1 takes in f32 [2,99]", NULL},
    {"an output of another dtype", other_dtype, PLD_ERR_MISMATCH,
     "stage 1 puts out i32 [2,7], but stage 2 takes in f32 [2,7]", NULL},
    {"an input with one dimension more", other_ndim, PLD_ERR_MISMATCH,
     "stage 1 puts out f32 [2,7], but stage 2 takes in f32 [2,7,1]", NULL},
    {"fewer microbatches", other_microbatches, PLD_ERR_MISMATCH,
     "ranks 0 and 5 have different schedules, of 6 and 4 microbatches", NULL},
    {"a schedule of the same size", other_kind, PLD_ERR_MISMATCH,
     "ranks 0 and 2 have different schedules, of 6 and 6 microbatches", NULL},
    {"no backward", no_callback, PLD_ERR_ARG, "rank 1: stage 0 has no backward", NULL},
    {"no output", no_output, PLD_ERR_ARG, "stage 1 has a next stage, but its output is nothing",
     NULL},
    {"an input of the first stage", too_much_input, PLD_ERR_ARG,
     "stage 0 has no previous stage, but its input is f32 [2,5]", NULL},
    {"an empty shape", empty_shape, PLD_ERR_ARG, "stage 1: input is f32 [0,5]", NULL},
    {"a shape beyond memory", too_large, PLD_ERR_ARG, "more than memory can hold", NULL},
    {"no dtype", no_dtype, PLD_ERR_ARG, "stage 2: input.dtype is 77", NULL},
    {"too many dimensions", too_many_dims, PLD_ERR_ARG, "stage 2: input.ndim is 9", NULL},
    {"no options", no_opts, PLD_ERR_ARG, "rank 3: pld_pipe_create: the options", NULL},
    {"no schedule", no_schedule, PLD_ERR_ARG, "rank 3: pld_pipe_create: the schedule", NULL},
    {"options too short", short_opts, PLD_ERR_ARG, "rank 2: ", NULL},
    {"a schedule for two ranks", as_it_is, PLD_ERR_ARG,
     "the schedule is for 2 ranks, but the mesh has pp=3", "0F0,0B0\n1F0,1B0\n"},
    {"two stages on each rank", as_it_is, PLD_ERR_UNSUPPORTED,
     "the schedule has 6 stages on 3 ranks", "0F0,3F0,3B0,0B0\n1F0,4F0,4B0,1B0\n2F0,5F0,5B0,2B0\n"},
};

static const struct fault *current;

static int body(pld_runtime *rt, void *context)
{
    const struct fault *f = current;
    struct job *j = context;
    pld_mesh *mesh = NULL;
    pld_pipe *pipe = NULL;
    struct stage *s;

    CHECK(rt, pld_mesh_create(rt, j->mesh, &mesh) == 0);
    s = calloc(1, sizeof(*s));
    CHECK(rt, s != NULL);
    s->job = j;
    s->number = pld_mesh_coord(mesh, PLD_AXIS_PP);
    s->dp = pld_mesh_coord(mesh, PLD_AXIS_DP);
    s->first = s->number * LAYERS / 3;
    s->end = (s->number + 1) * LAYERS / 3;
    CHECK(rt, f->make(mesh, j, s, &pipe) == f->code);
    CHECK(rt, (pipe != NULL) == (f->code == 0));
    CHECK(rt, f->code == 0 || strstr(pld_last_error(), f->words) != NULL);
    CHECK(rt, f->code != 0 || pld_pipe_step(pipe) == 0);
    pld_pipe_destroy(&pipe);
    CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
    pld_mesh_destroy(&mesh);
    free(s);
    return 0;
}

static int null_arguments(pld_runtime *rt, void *context)
{
    pld_pipe *pipe = NULL;

    (void)context;
    CHECK(rt, pld_pipe_create(NULL, NULL, NULL, &pipe) == PLD_ERR_ARG);
    CHECK(rt, pld_pipe_step(NULL) == PLD_ERR_ARG);
    pld_pipe_destroy(&pipe);
    pld_pipe_destroy(NULL);
    return 0;
}

int main(void)
{
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        struct job *j = job_new(3, 2, 6);

        current = &faults[i];
        j->text = current->text;
        ok(inproc_run(6, body, j) == 0, "%s: %s on all ranks", current->what,
           current->code == 0 ? "a pipe" : pld_error_name(current->code));
        free(j);
    }
    ok(inproc_run(1, null_arguments, NULL) == 0, "null arguments");
    return tap_done();
}
