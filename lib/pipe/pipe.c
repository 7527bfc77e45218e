/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Making a pipe.  Everything that a rank can find wrong alone is found first and made
 * everybody's; then the ranks compare what they have; then each takes memory.
 */

#include "pipe/pipe_impl.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "coll/coll_break.h"
#include "coll/coll_host.h"
#include "coll/coll_mem.h"
#include "device/device.h"
#include "health/health_site.h"
#include "schedule/schedule.h"

/* What a caller built against 0.1 passes.  Stays when the struct grows. */
enum { OPTS_SIZE_0_1 = 176 };
_Static_assert(offsetof(pld_pipe_opts, stream) == OPTS_SIZE_0_1, "padding, or ABI");

/* The schedule with messages, whether it came with them or not. */
static int complete(const pld_schedule *schedule, pld_schedule **lowered)
{
    if (schedule == NULL)
        return pldi_fail(PLD_ERR_ARG, "pld_pipe_create: the schedule is NULL");
    PLDI_TRY(pld_schedule_validate(schedule));
    return schedule->has_messages ? PLD_OK : pld_schedule_lower(schedule, lowered);
}

/* One stage on each rank of the axis. */
static int check_ranks(const pld_schedule *schedule, int ranks)
{
    if (schedule->ranks != ranks)
        return pldi_fail(PLD_ERR_ARG, "the schedule is for %d ranks, but the mesh has pp=%d",
                         schedule->ranks, ranks);
    if (schedule->stages != ranks)
        return pldi_fail(PLD_ERR_UNSUPPORTED,
                         "the schedule has %d stages on %d ranks, but a pipe runs one stage on "
                         "each rank",
                         schedule->stages, ranks);
    for (int s = 0; s < schedule->stages; s++)
        for (int t = 0; t < s; t++)
            if (schedule->rank_of[s] == schedule->rank_of[t])
                return pldi_fail(PLD_ERR_UNSUPPORTED,
                                 "the schedule has stages %d and %d on rank %d, but a pipe runs "
                                 "one stage on each rank",
                                 t, s, schedule->rank_of[s]);
    return PLD_OK;
}

static int stage_of(const pld_schedule *schedule, int rank)
{
    int stage = 0;

    while (schedule->rank_of[stage] != rank)
        stage++;
    return stage;
}

static int read_opts(pld_pipe *p, const pld_pipe_opts *opts, int stages)
{
    if (opts == NULL)
        return pldi_fail(PLD_ERR_ARG, "pld_pipe_create: the options are NULL");
    PLDI_TRY(pldi_opts_copy(&p->opts, sizeof(p->opts), opts, OPTS_SIZE_0_1));
    if (p->opts.forward == NULL || p->opts.backward == NULL)
        return pldi_fail(PLD_ERR_ARG, "stage %d has no %s", p->stage,
                         p->opts.forward == NULL ? "forward" : "backward");
    PLDI_TRY(pldi_pipe_check_tensor(&p->opts.input, p->stage, p->stage > 0, "input", "previous"));
    return pldi_pipe_check_tensor(&p->opts.output, p->stage, p->stage + 1 < stages, "output",
                                  "next");
}

static int copy_actions(pld_pipe *p, const pld_schedule *schedule, int rank)
{
    p->length = pld_schedule_length(schedule, rank);
    p->microbatches = schedule->microbatches;
    p->actions = pldi_alloc(p->length, sizeof(*p->actions), "the actions of a pipe");
    if (p->actions == NULL)
        return PLD_ERR_NOMEM;
    memcpy(p->actions, pld_schedule_actions(schedule, rank), p->length * sizeof(*p->actions));
    return PLD_OK;
}

/* All that this rank finds out alone. */
static int prepare(pld_pipe *p, const pld_mesh *mesh, const pld_schedule *schedule,
                   const pld_pipe_opts *opts)
{
    const int rank = pld_mesh_coord(mesh, PLD_AXIS_PP);

    PLDI_TRY(check_ranks(schedule, pld_mesh_size(mesh, PLD_AXIS_PP)));
    p->stage = stage_of(schedule, rank);
    PLDI_TRY(read_opts(p, opts, schedule->stages));
    return copy_actions(p, schedule, rank);
}

/* On a GPU a message is its tensor: nobody on the host reads a note. */
static void choose_mover(pld_pipe *p, struct pldi_pipe_edge *e, int lane)
{
    e->mover = &pldi_pipe_host_mover;
    if (p->lanes[lane].device == NULL)
        return;
    e->mover = &pldi_pipe_lane_mover;
    e->lane = &p->lanes[lane];
    e->group = e->lane->group;
}

static int open_edges(pld_pipe *p, const pld_schedule *schedule)
{
    static const pld_action_kind kinds[PLDI_WAYS] = {
        [PLDI_IN_F] = PLD_ACTION_RECV_F,
        [PLDI_IN_B] = PLD_ACTION_RECV_B,
        [PLDI_OUT_F] = PLD_ACTION_SEND_F,
        [PLDI_OUT_B] = PLD_ACTION_SEND_B,
    };

    for (int w = 0; w < PLDI_WAYS; w++) {
        struct pldi_pipe_edge *e = &p->edges[w];
        const int up = w == PLDI_IN_F || w == PLDI_OUT_B;

        e->group = p->group;
        choose_mover(p, e, w == PLDI_IN_F || w == PLDI_OUT_F ? PLDI_DOWN : PLDI_UP);
        e->kind = kinds[w];
        e->stage = p->stage;
        e->payload = pldi_pipe_bytes(up ? &p->opts.input : &p->opts.output);
        if (e->payload == 0)
            continue;
        e->peer = schedule->rank_of[p->stage + pldi_action_info(e->kind)->peer];
        PLDI_TRY(pldi_pipe_edge_open(e, p->actions, p->length));
    }
    return PLD_OK;
}

static int open_lanes(pld_pipe *p, pld_mesh *mesh)
{
    pld_device *device = pldi_mem_device(pld_mesh_world(mesh));
    pld_group *axis = pld_mesh_group(mesh, PLD_AXIS_PP);
    int verdict = PLD_OK;

    for (int l = 0; l < PLDI_LANES_OF_PIPE && device != NULL; l++) {
        const struct pldi_pipe_lane *other = l > 0 ? &p->lanes[l - 1] : NULL;
        const int rc = pldi_pipe_lane_open(&p->lanes[l], other, device, p->opts.stream, axis);

        verdict = verdict < 0 ? verdict : rc;
    }
    return verdict;
}

/* Who fails where neighbours meet ends what they wait in. */
static int end_lanes(pld_pipe *p, int code)
{
    (void)snprintf(p->text, sizeof(p->text), "%s", pld_last_error());
    for (int l = 0; l < PLDI_LANES_OF_PIPE; l++)
        pldi_group_end(p->lanes[l].group, code);
    return pldi_fail(code, "%s", p->text);
}

/* NCCL makes connections when ranks first talk: here, where all of them do. */
static int meet(pld_pipe *p)
{
    int rc;

    if (p->lanes[PLDI_DOWN].device == NULL)
        return PLD_OK;
    rc = pldi_pipe_lane_meet(&p->edges[PLDI_IN_F], &p->edges[PLDI_OUT_F]);
    if (rc == PLD_OK)
        rc = pldi_pipe_lane_meet(&p->edges[PLDI_IN_B], &p->edges[PLDI_OUT_B]);
    return rc < 0 ? end_lanes(p, rc) : PLD_OK;
}

/* Before ranks meet, so that the connections made there can do without copies. */
static int register_edges(pld_pipe *p)
{
    int verdict = PLD_OK;

    for (int l = 0; l < PLDI_LANES_OF_PIPE && p->lanes[l].device != NULL; l++) {
        struct pldi_region regions[PLDI_WAYS];
        size_t n = 0;
        int rc;

        for (int w = 0; w < PLDI_WAYS; w++) {
            const struct pldi_pipe_edge *e = &p->edges[w];

            if (e->lane == &p->lanes[l] && e->memory != NULL)
                regions[n++] = (struct pldi_region){e->memory, (size_t)e->slots * e->stride};
        }
        rc = pldi_group_register(p->lanes[l].group, regions, n);
        verdict = verdict < 0 ? verdict : rc;
    }
    return verdict;
}

/* What ranks find out together; the verdict of each exchange is that of its group. */
static int join(pld_pipe *p, pld_mesh *mesh, const pld_schedule *schedule)
{
    pld_group *world = pld_mesh_world(mesh);
    pld_group *axis = pld_mesh_group(mesh, PLD_AXIS_PP);

    PLDI_TRY(pldi_pipe_agree_schedule(world, schedule));
    PLDI_TRY(pld_agree(world, pldi_pipe_agree_shapes(axis, schedule, &p->opts)));
    PLDI_TRY(pld_agree(world, pldi_group_split_host(axis, 0, pld_group_rank(axis), &p->group)));
    PLDI_TRY(pld_agree(world, open_lanes(p, mesh)));
    PLDI_TRY(pld_agree(world, open_edges(p, schedule)));
    PLDI_TRY(pld_agree(world, register_edges(p)));
    return pld_agree(world, meet(p));
}

int pld_pipe_create(pld_mesh *mesh, const pld_schedule *schedule, const pld_pipe_opts *opts,
                    pld_pipe **out)
{
    PLDI_ENTER();
    pld_schedule *lowered = NULL;
    pld_pipe *p;
    int rc;

    PLDI_CHECK_ARG(mesh != NULL && out != NULL);
    p = pldi_alloc(1, sizeof(*p), "a pipe");
    rc = p == NULL ? PLD_ERR_NOMEM : complete(schedule, &lowered);
    if (lowered != NULL)
        schedule = lowered;
    if (rc == PLD_OK)
        rc = prepare(p, mesh, schedule, opts);
    rc = pld_agree(pld_mesh_world(mesh), rc);
    if (rc == PLD_OK)
        rc = join(p, mesh, schedule);
    pld_schedule_destroy(&lowered);
    if (rc < 0)
        pld_pipe_destroy(&p);
    else
        *out = p;
    return rc;
}

void pld_pipe_get_stats(const pld_pipe *pipe, pld_pipe_stats *out)
{
    *out = pipe->stats;
}

void pld_pipe_destroy(pld_pipe **pipe)
{
    pld_pipe *p;

    if (pipe == NULL || *pipe == NULL)
        return;
    p = *pipe;
    for (int l = 0; l < PLDI_LANES_OF_PIPE; l++)
        pldi_pipe_lane_drain(&p->lanes[l]);
    for (int w = 0; w < PLDI_WAYS; w++)
        pldi_pipe_edge_close(&p->edges[w]);
    for (int l = 0; l < PLDI_LANES_OF_PIPE; l++)
        pldi_pipe_lane_close(&p->lanes[l]);
    pld_group_destroy(&p->group);
    pldi_free(p->actions);
    pldi_free(p);
    *pipe = NULL;
}
