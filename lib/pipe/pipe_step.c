/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One step: the walk over this rank's list.
 *
 * If a callback fails, the walk goes on without callbacks: every message of the
 * schedule still flows, marked as void, and turns the stages that it reaches to void,
 * too.  So all ranks come to the end of their lists, where they agree on the code.  On
 * a GPU no mark can be seen in time: other stages' callbacks go on with what is sent.
 * Only if messages themselves fail is the walk given up, and the group with it, which
 * ends what the neighbours wait for.
 */

#include "device/device.h"
#include "pipe/pipe_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/base_clock.h"
#include "base/base_err.h"
#include "coll/coll_break.h"
#include "health/health_site.h"

static void keep_error(char text[PLDI_PIPE_TEXT])
{
    (void)snprintf(text, PLDI_PIPE_TEXT, "%s", pld_last_error());
}

/* The callback's own sentence follows if it left one. */
static void note_failure(pld_pipe *p, const char *callback, int microbatch, int code)
{
    char own[PLDI_PIPE_TEXT];

    keep_error(own);
    if (strcmp(own, p->before) == 0)
        own[0] = '\0';
    p->is_void = 1;
    p->code = code < 0 ? code : PLD_ERR_ARG;
    (void)snprintf(p->text, sizeof(p->text),
                   "%s of microbatch %d in stage %d returned %d (%s)%s%.300s", callback, microbatch,
                   p->stage, code, code < 0 ? pld_error_text(code) : "need 0 or a negative code",
                   own[0] == '\0' ? "" : ": ", own);
}

static int ready(pld_pipe *p, struct pldi_pipe_edge *in, struct pldi_pipe_edge *out, int microbatch)
{
    const double begin = pldi_now();
    int rc = in->mover->await(in, microbatch, &p->is_void);

    if (rc == PLD_OK)
        rc = out->mover->acquire(out, microbatch);
    p->stats.wait_s += pldi_now() - begin;
    return rc;
}

static int forward(pld_pipe *p, int microbatch)
{
    struct pldi_pipe_edge *in = &p->edges[PLDI_IN_F];
    struct pldi_pipe_edge *out = &p->edges[PLDI_OUT_F];
    double begin;
    int rc;

    PLDI_TRY(ready(p, in, out, microbatch));
    if (p->is_void)
        return PLD_OK;
    begin = pldi_now();
    rc = p->opts.forward(p->opts.context, p->stage, microbatch, pldi_pipe_edge_slot(in, microbatch),
                         pldi_pipe_edge_slot(out, microbatch));
    p->stats.compute_s += pldi_now() - begin;
    if (rc != 0)
        note_failure(p, "forward", microbatch, rc);
    return out->mover->fill(out, microbatch);
}

static int backward(pld_pipe *p, int microbatch)
{
    struct pldi_pipe_edge *input = &p->edges[PLDI_IN_F];
    struct pldi_pipe_edge *in = &p->edges[PLDI_IN_B];
    struct pldi_pipe_edge *out = &p->edges[PLDI_OUT_B];
    double begin;
    int rc;

    PLDI_TRY(ready(p, in, out, microbatch));
    if (!p->is_void) {
        begin = pldi_now();
        rc = p->opts.backward(
            p->opts.context, p->stage, microbatch, pldi_pipe_edge_slot(input, microbatch),
            pldi_pipe_edge_slot(in, microbatch), pldi_pipe_edge_slot(out, microbatch));
        p->stats.compute_s += pldi_now() - begin;
        if (rc != 0)
            note_failure(p, "backward", microbatch, rc);
        PLDI_TRY(out->mover->fill(out, microbatch));
    }
    PLDI_TRY(input->mover->release(input, microbatch));
    return in->mover->release(in, microbatch);
}

static int send(pld_pipe *p, struct pldi_pipe_edge *edge, int microbatch)
{
    p->stats.bytes_sent += (int64_t)edge->payload;
    return edge->mover->send(edge, microbatch, p->is_void);
}

static int act(pld_pipe *p, const pld_action *a)
{
    switch (a->kind) {
    case PLD_ACTION_F:
        return forward(p, a->microbatch);
    case PLD_ACTION_B:
        return backward(p, a->microbatch);
    case PLD_ACTION_SEND_F:
        return send(p, &p->edges[PLDI_OUT_F], a->microbatch);
    case PLD_ACTION_SEND_B:
        return send(p, &p->edges[PLDI_OUT_B], a->microbatch);
    case PLD_ACTION_RECV_F:
        return p->edges[PLDI_IN_F].mover->expect(&p->edges[PLDI_IN_F], a->microbatch);
    case PLD_ACTION_RECV_B:
        return p->edges[PLDI_IN_B].mover->expect(&p->edges[PLDI_IN_B], a->microbatch);
    }
    return PLD_OK;
}

/* Without a thread of the library's, messages move on in its calls alone. */
static int look_after_sends(pld_pipe *p)
{
    PLDI_TRY(p->edges[PLDI_OUT_F].mover->reap(&p->edges[PLDI_OUT_F]));
    return p->edges[PLDI_OUT_B].mover->reap(&p->edges[PLDI_OUT_B]);
}

static int walk(pld_pipe *p)
{
    for (int w = 0; w < PLDI_WAYS; w++)
        PLDI_TRY(p->edges[w].mover->start(&p->edges[w]));
    for (size_t i = 0; i < p->length; i++) {
        PLDI_TRY(look_after_sends(p));
        PLDI_TRY(act(p, &p->actions[i]));
    }
    return PLD_OK;
}

static int finish_edges(pld_pipe *p)
{
    int first = PLD_OK;

    for (int w = 0; w < PLDI_WAYS; w++) {
        const int rc = p->edges[w].mover->finish(&p->edges[w]);

        first = first < 0 ? first : rc;
    }
    return first;
}

/* Messages have failed, here: nobody shall wait for those that do not come any more. */
static int give_up(pld_pipe *p, int code)
{
    keep_error(p->text);
    pldi_group_break(p->group, code);
    for (int l = 0; l < PLDI_LANES_OF_PIPE; l++)
        if (p->lanes[l].group != NULL)
            pldi_group_end(p->lanes[l].group, code);
    (void)finish_edges(p);
    return pldi_fail(code, "%s", p->text);
}

static int end(pld_pipe *p, int rc)
{
    const double begin = pldi_now();

    if (rc == PLD_OK)
        rc = finish_edges(p);
    if (rc < 0) {
        rc = give_up(p, rc);
    } else {
        if (p->code < 0)
            (void)pldi_fail(p->code, "%s", p->text);
        rc = pld_agree(p->group, p->code);
    }
    p->stats.wait_s += pldi_now() - begin;
    return rc;
}

int pld_pipe_step(pld_pipe *pipe)
{
    PLDI_ENTER();
    double begin;

    PLDI_CHECK_ARG(pipe != NULL);
    if (pipe->ended < 0)
        return pldi_fail(PLD_ERR_STATE,
                         "an earlier step of this pipe failed with %s: it can only "
                         "be destroyed",
                         pld_error_name(pipe->ended));
    if (pipe->lanes[0].device != NULL)
        PLDI_TRY(pldi_device_check_stream(pipe->lanes[0].device, "pld_pipe_step",
                                          pipe->lanes[0].compute));
    begin = pldi_now();
    pipe->stats = (pld_pipe_stats){0};
    pipe->is_void = pipe->code = 0;
    keep_error(pipe->before);
    pipe->ended = end(pipe, walk(pipe));
    pipe->stats.step_s = pldi_now() - begin;
    return pipe->ended;
}
