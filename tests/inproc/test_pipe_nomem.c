/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A pipeline when memory for open messages runs out, now and then or always: it must
 * come to the same result with calls that wait.  The linker puts these functions
 * between lib/pipe and lib/coll (--wrap).
 */

#include "inproc/pipe_model.h"
#include "tap.h"

#include <stdatomic.h>

int __real_pld_send(pld_group *group, const void *buf, size_t count, pld_dtype dtype, int dest,
                    int tag, const pld_coll_opts *opts);
int __real_pld_recv(pld_group *group, void *buf, size_t count, pld_dtype dtype, int source, int tag,
                    const pld_coll_opts *opts);
int __wrap_pld_send(pld_group *group, const void *buf, size_t count, pld_dtype dtype, int dest,
                    int tag, const pld_coll_opts *opts);
int __wrap_pld_recv(pld_group *group, void *buf, size_t count, pld_dtype dtype, int source, int tag,
                    const pld_coll_opts *opts);

static unsigned refuse_of_16;
static atomic_int refused;

static int refuse(const pld_coll_opts *opts)
{
    static _Thread_local unsigned state = 1;

    state = state * 1664525U + 1013904223U;
    if (opts == NULL || opts->request == NULL || (state >> 24) % 16 >= refuse_of_16)
        return 0;
    (void)atomic_fetch_add(&refused, 1);
    return pldi_fail(PLD_ERR_NOMEM, "no memory for an operation");
}

int __wrap_pld_send(pld_group *group, const void *buf, size_t count, pld_dtype dtype, int dest,
                    int tag, const pld_coll_opts *opts)
{
    const int rc = refuse(opts);

    return rc < 0 ? rc : __real_pld_send(group, buf, count, dtype, dest, tag, opts);
}

int __wrap_pld_recv(pld_group *group, void *buf, size_t count, pld_dtype dtype, int source, int tag,
                    const pld_coll_opts *opts)
{
    const int rc = refuse(opts);

    return rc < 0 ? rc : __real_pld_recv(group, buf, count, dtype, source, tag, opts);
}

static int step(pld_runtime *rt, void *context)
{
    struct job *j = context;
    struct stage *s = NULL;
    pld_pipe *pipe = NULL;
    pld_mesh *mesh = NULL;

    CHECK(rt, pld_mesh_create(rt, j->mesh, &mesh) == 0);
    s = stage_new(j, mesh);
    CHECK(rt, create(j, s, mesh, &pipe) == 0);
    CHECK(rt, pld_pipe_step(pipe) == 0);
    for (int l = s->first; l < s->end; l++)
        CHECK(rt, memcmp(s->grad[l], j->serial[s->dp].grad[l], sizeof(s->grad[l])) == 0);
    pld_pipe_destroy(&pipe);
    pld_mesh_destroy(&mesh);
    free(s);
    return 0;
}

int main(void)
{
    for (refuse_of_16 = 4; refuse_of_16 <= 16; refuse_of_16 += 4) {
        int rc = 0;

        atomic_store(&refused, 0);
        for (int pp = 2; pp <= LAYERS; pp++)
            for (int m = 1; m <= MOST_MICROBATCHES; m += 2)
                for (int kind = PLD_SCHEDULE_1F1B; kind <= PLD_SCHEDULE_GPIPE; kind++) {
                    struct job *j = job_new(pp, 1, m);

                    j->kind = (pld_schedule_kind)kind;
                    rc |= inproc_run(pp, step, j);
                    free(j);
                }
        ok(rc == 0 && atomic_load(&refused) > 0, "with %u of 16 requests refused (%d)",
           refuse_of_16, atomic_load(&refused));
    }
    return tap_done();
}
