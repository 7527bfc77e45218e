/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Making a communicator: by an id of rank 0's, or for a group that is split off, by
 * splitting the parent's.  A broadcast or an agreement of the hosts comes before, so that
 * a rank that does not come is found and named by the host's means, and only then NCCL is
 * called.
 *
 * NCCL tells a rank of its own failure alone, and the others would wait for it.  So each
 * says to rank 0 how its part ended, and hears from it whether all went well; who hears
 * that not gives up its own part.  Then all agree on the sentence.
 */

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_ticks.h"
#include "coll/coll_break.h"
#include "coll/coll_call.h"
#include "coll/coll_device.h"
#include "health/health_site.h"

/* Behind the tags of calls and those that announce them. */
enum { VERDICT_TAG = 3 << 20, FAILED = 2 };

/* Of the scratch: 64 elements of any type from each rank, and on each level of a tree. */
enum { LEAST_ROOM = 64 * 8, MOST_LEVELS = 33 };

int pldi_gpu_tag(const pld_group *group, int tag)
{
    const int most = group->transport->max_tag - PLDI_TAG_P2P;

    return VERDICT_TAG + 1 + tag <= most ? VERDICT_TAG + 1 + tag : tag;
}

/* ---- Verdicts ---- */

struct verdicts {
    pld_group *group;
    pld_request *sends, *recvs; /* [size], of those that this rank talks to */
    int32_t *said;              /* [size], 0: not yet, 1, or FAILED; of rank 0, what it hears */
    int32_t mine, outcome;
    int32_t word; /* what this rank tells, while it is on its way */
};

static pld_request *post(pld_group *group, enum pldi_kind kind, int32_t *word, int peer,
                         pld_request *op)
{
    const int most = group->transport->max_tag - PLDI_TAG_P2P;

    pldi_call_start(op, group, kind, kind == PLDI_SEND ? word : NULL,
                    kind == PLDI_RECV ? word : NULL, 1, PLD_I32);
    op->peer = peer;
    op->tag = VERDICT_TAG < most ? VERDICT_TAG : most;
    pldi_engine_post(group->engine, op, 1);
    return op;
}

static int make(struct verdicts *v, pld_group *group)
{
    const size_t n = (size_t)group->size;

    v->group = group;
    v->sends = pldi_alloc(n, sizeof(v->sends[0]), "a communicator");
    v->recvs = pldi_alloc(n, sizeof(v->recvs[0]), "a communicator");
    v->said = pldi_alloc(n, sizeof(v->said[0]), "a communicator");
    return v->sends == NULL || v->recvs == NULL || v->said == NULL ? PLD_ERR_NOMEM : PLD_OK;
}

static void release(struct verdicts *v)
{
    pldi_free(v->sends);
    pldi_free(v->recvs);
    pldi_free(v->said);
}

/* Those that this rank talks to: all but itself, or rank 0 alone. */
static int first_peer(const pld_group *g)
{
    return g->rank == 0 ? 1 : 0;
}

static int end_peer(const pld_group *g)
{
    return g->rank == 0 ? g->size : 1;
}

static void listen(struct verdicts *v)
{
    for (int r = first_peer(v->group); r < end_peer(v->group); r++)
        (void)post(v->group, PLDI_RECV, &v->said[r], r, &v->recvs[r]);
}

static void tell(struct verdicts *v, int32_t *word)
{
    for (int r = first_peer(v->group); r < end_peer(v->group); r++)
        (void)post(v->group, PLDI_SEND, word, r, &v->sends[r]);
}

/* What is known by now: 1: all went well, FAILED: not, 0: nothing yet. */
static int32_t hear(struct verdicts *v)
{
    const pld_group *g = v->group;
    int32_t all = g->rank == 0 ? v->mine : 1;
    int missing = 0;

    for (int r = first_peer(g); r < end_peer(g); r++) {
        if (!pldi_engine_test(g->engine, &v->recvs[r]))
            missing = 1;
        else if (v->recvs[r].code < 0 || v->said[r] == FAILED)
            all = FAILED;
    }
    return all == FAILED ? FAILED : missing ? 0 : all;
}

/* All that was posted ends, if need be with the group. */
static void finish(struct verdicts *v, int sent)
{
    for (int r = first_peer(v->group); r < end_peer(v->group); r++) {
        if (sent)
            pldi_engine_wait(v->group->engine, &v->sends[r]);
        pldi_engine_wait(v->group->engine, &v->recvs[r]);
    }
}

/* ---- NCCL ---- */

/* What is made; meanwhile nobody else sees it, nor its parent. */
struct making {
    const unsigned char *id;    /* NULL: a part of the group's own communicator */
    int color, key, size;       /* of the part; color < 0: this rank is in none */
    struct pldi_comm *comms[2]; /* the parent, what is made; NULL: none, or not yet */
};

int pldi_gpu_settle(const struct pldi_gpu_group *g, const pld_request *op)
{
    const int peer = op->kind == PLDI_SEND || op->kind == PLDI_RECV ? op->peer : -1;
    int tries = 0;

    for (;;) {
        /* The watchdog takes the communicator away only when it has the turn, or the code is
         * set. */
        const int rc = g->code == 0 && g->comm != NULL ? g->gpu->device->comm->poll(g->comm) : 0;

        if (rc != 0)
            return rc < 0 ? rc : PLD_OK;
        PLDI_TRY(pldi_gpu_look(g, op->ticket, op->print.sequence, peer));
        pldi_engine_idle(g->group->engine, &tries);
    }
}

/* Until this rank's part and the others' are known: 1, FAILED, or an error of the job. */
static int wait_for_all(struct pldi_gpu_group *g, const struct making *m, struct verdicts *v,
                        const pld_request *op, int *own)
{
    struct pldi_comm *comm = m->comms[1] != NULL ? m->comms[1] : m->comms[0];
    int tries = 0;
    int told = 0;

    while (v->outcome == 0 || !told) {
        const int rc = v->mine != 0 ? v->mine : g->gpu->device->comm->poll(comm);

        if (rc < 0)
            *own = rc;
        v->mine = rc < 0 ? FAILED : rc;
        if (v->outcome == 0)
            v->outcome = hear(v);
        if (v->outcome == FAILED && v->mine == 0)
            v->mine = FAILED;
        /* Rank 0 speaks when it knows of all, the others when they know of themselves. */
        if (!told && (g->group->rank == 0 ? v->outcome : v->mine) != 0) {
            v->word = g->group->rank == 0 ? v->outcome : v->mine;
            tell(v, &v->word);
            told = 1;
        }
        PLDI_TRY(pldi_gpu_look(g, op->ticket, op->print.sequence, -1));
        pldi_engine_idle(g->group->engine, &tries);
    }
    return v->outcome;
}

/* Keep what pld_last_error() says across calls that may fail, too. */
static int again(int code, const char *text)
{
    return code < 0 ? pldi_fail(code, "%s", text) : code;
}

static void abort_made(struct pldi_gpu *gpu, struct making *m)
{
    if (m->comms[0] == NULL && m->comms[1] == NULL)
        return;
    pldi_gpu_enter(gpu);
    gpu->device->comm->abort(m->comms, 2);
    pldi_gpu_leave(gpu);
    m->comms[0] = m->comms[1] = NULL;
}

/* The watchdog, which would abort it for what it sees, does not see it any more. */
static int take_parent(struct pldi_gpu_group *g, struct making *m, const pld_request *op)
{
    int tries = 0;
    int rc;

    (void)pthread_mutex_lock(&g->gpu->lock);
    m->comms[0] = g->comm;
    g->comm = NULL;
    (void)pthread_mutex_unlock(&g->gpu->lock);
    if (m->comms[0] == NULL)
        return pldi_fail(g->code, "%s", g->why);
    while ((rc = g->gpu->device->comm->poll(m->comms[0])) == 0) {
        PLDI_TRY(pldi_gpu_look(g, op->ticket, op->print.sequence, -1));
        pldi_engine_idle(g->group->engine, &tries);
    }
    return rc < 0 ? rc : PLD_OK;
}

/* With the turn. */
static int begin(struct pldi_gpu_group *g, struct making *m, const pld_request *op)
{
    const struct pldi_comm_ops *ops = g->gpu->device->comm;

    if (m->id != NULL)
        return ops->init(g->gpu->device, m->id, g->group->rank, g->group->size, &m->comms[1]);
    PLDI_TRY(take_parent(g, m, op));
    return ops->split(m->comms[0], m->color, m->key, m->size, &m->comms[1]);
}

/* *own: this rank's failure, with the sentence set.  The communicator is nobody else's yet: the
 * turn is needed for calls alone. */
static int meet(struct pldi_gpu_group *g, struct making *m, struct verdicts *v,
                const pld_request *op, int *own)
{
    pld_group *group = g->group;
    char text[PLDI_TEXT_BYTES];
    int began;
    int rc;

    listen(v);
    pldi_gpu_enter(g->gpu);
    *own = begin(g, m, op);
    pldi_gpu_leave(g->gpu);
    if (*own < 0)
        v->mine = FAILED;
    (void)snprintf(text, sizeof(text), "%s", pld_last_error());
    began = *own >= 0;
    rc = wait_for_all(g, m, v, op, own);
    if (*own < 0 && began)
        (void)snprintf(text, sizeof(text), "%s", pld_last_error());
    if (rc < 0) {
        (void)snprintf(text, sizeof(text), "%s", pld_last_error());
        pldi_group_break(group, rc);
    }
    finish(v, rc >= 0 || v->sends[first_peer(group)].group != NULL);
    if (rc != 1)
        abort_made(g->gpu, m);
    return rc < 0 ? again(rc, text) : again(*own, text);
}

/* That NCCL lost a rank is said by those that are not to blame. */
static int agree(pld_group *group, int rc)
{
    char text[PLDI_TEXT_BYTES];

    (void)snprintf(text, sizeof(text), "%s", pld_last_error());
    PLDI_TRY(pld_agree(group, rc == PLD_ERR_PEER ? PLD_OK : rc));
    return pld_agree(group, again(rc, text));
}

/* Recorded, so that the deadline and its report cover it. */
static int join(struct pldi_gpu_group *g, struct making *m)
{
    pld_group *group = g->group;
    struct verdicts v = {0};
    pld_request op;
    int own = 0;
    int rc;

    pldi_call_start(&op, group, PLDI_CONNECT, NULL, NULL, 0, PLD_U8);
    rc = pld_agree(group, make(&v, group));
    if (rc == PLD_OK) {
        op.print.sequence = group->sequence++;
        rc = pldi_health_group_alarm(group->health);
    }
    if (rc == PLD_OK) {
        const struct pldi_health_call call = {
            .kind = PLDI_CONNECT, .peer = -1, .sequence = op.print.sequence, .stamp = pldi_ticks()};

        op.ticket = pldi_health_ticket(group->health);
        pldi_health_called(group->health, op.ticket, &call);
        rc = meet(g, m, &v, &op, &own);
        pldi_health_ended(group->health, op.ticket, rc);
        if (group->broken == 0)
            rc = agree(group, rc);
        else if (pldi_health_group_alarm(group->health) < 0)
            rc = PLD_ERR_TIMEOUT;
    }
    release(&v);
    if (rc < 0)
        abort_made(g->gpu, m);
    return rc;
}

static void keep(struct pldi_gpu_group *g, struct pldi_comm *comm)
{
    (void)pthread_mutex_lock(&g->gpu->lock);
    g->comm = comm;
    (void)pthread_mutex_unlock(&g->gpu->lock);
}

static void set_connected(struct pldi_gpu_group *g, int connected)
{
    (void)pthread_mutex_lock(&g->gpu->lock);
    g->connected = connected;
    (void)pthread_mutex_unlock(&g->gpu->lock);
}

static int make_comm(struct pldi_gpu_group *g)
{
    pld_group *group = g->group;
    pld_device *device = g->gpu->device;
    unsigned char id[PLDI_COMM_ID_BYTES] = {0};
    struct making m = {.id = id};

    PLDI_TRY(pld_agree(group, group->rank == 0 ? device->comm->make_id(device, id) : PLD_OK));
    PLDI_TRY(pld_broadcast(group, id, sizeof(id), PLD_U8, 0, NULL));
    PLDI_TRY(pld_barrier(group, NULL));
    PLDI_TRY(join(g, &m));
    keep(g, m.comms[1]);
    return PLD_OK;
}

/* What this rank needs besides; it is kept if it is made twice. */
static int prepare(struct pldi_gpu_group *g)
{
    const struct pldi_device_ops *ops = g->gpu->device->ops;
    struct pldi_flight *all[PLDI_GPU_FLIGHTS];
    int n = 0;

    if (g->stream == NULL)
        PLDI_TRY(ops->stream_create(g->gpu->device, 1, &g->stream));
    if (g->start == NULL)
        PLDI_TRY(ops->event_create(g->gpu->device, 0, &g->start));
    while (n < PLDI_GPU_FLIGHTS && (all[n] = pldi_flight_take(g->gpu)) != NULL)
        n++;
    for (int i = 0; i < n; i++)
        pldi_flight_drop(g->gpu, all[i]);
    return n == PLDI_GPU_FLIGHTS ? PLD_OK : PLD_ERR_DEVMEM;
}

/* NCCL says that it cannot be used like this: with the GPU of another rank, for example. */
static int without_nccl(struct pldi_gpu_group *g, int rc)
{
    if (rc != PLD_ERR_UNSUPPORTED || g->gpu->path == PLDI_PATH_NCCL)
        return rc;
    (void)pthread_mutex_lock(&g->gpu->lock);
    g->nccl = 0;
    (void)snprintf(g->gpu->note, sizeof(g->gpu->note), "%s", pld_last_error());
    (void)pthread_mutex_unlock(&g->gpu->lock);
    return PLD_OK;
}

int pldi_gpu_connect(pld_group *group)
{
    struct pldi_gpu_group *g = group->on_gpu;
    int rc;

    if (g == NULL || g->connected)
        return PLD_OK;
    if (group->size == 1) {
        PLDI_TRY(prepare(g));
    } else if (g->gpu->nccl) {
        PLDI_TRY(pld_agree(group, prepare(g)));
        g->nccl = 1;
        rc = without_nccl(g, make_comm(g));
        PLDI_TRY(rc);
    }
    set_connected(g, 1);
    return pldi_gpu_regions_join(g);
}

/*
 * A split that fails costs the parent its communicator; both groups then make one by an id
 * when they need it.  Where resources are shared, the rest of the family has lost them, too.
 */
static int part_failed(struct pldi_gpu_group *g, int rc)
{
    char text[PLDI_TEXT_BYTES];

    (void)snprintf(text, sizeof(text), "%s", pld_last_error());
    if (g->group->broken == 0 && g->code == 0 && g->comm == NULL)
        set_connected(g, 0);
    pldi_gpu_end_family(g->gpu, rc);
    /* NCCL refuses to split: an id will do. */
    return rc == PLD_ERR_UNSUPPORTED && g->group->broken == 0 ? PLD_OK : again(rc, text);
}

int pldi_gpu_part(pld_group *parent, pld_group *part, int color, int key, int largest)
{
    struct pldi_gpu_group *g = parent->on_gpu;
    const int in = part != NULL && part->size > 1;
    struct making m = {.color = in ? color : -1, .key = key, .size = in ? part->size : 0};
    int rc;

    if (g == NULL || !g->connected || !g->nccl || !g->gpu->split || largest < 2)
        return PLD_OK;
    pldi_gpu_quiet(parent);
    PLDI_TRY(pld_agree(parent, in ? prepare(part->on_gpu) : PLD_OK));
    rc = join(g, &m);
    if (rc < 0)
        return part_failed(g, rc);
    keep(g, m.comms[0]);
    if (in) {
        part->on_gpu->nccl = 1;
        keep(part->on_gpu, m.comms[1]);
        set_connected(part->on_gpu, 1);
    }
    return PLD_OK;
}

int pld_group_connect(pld_group *group)
{
    PLDI_ENTER();

    PLDI_CHECK_ARG(group != NULL);
    return pldi_gpu_connect(group);
}

int pldi_gpu_reserve(struct pldi_gpu_group *g)
{
    pld_device *device = g->gpu->device;
    const size_t least = ((size_t)g->group->size + MOST_LEVELS) * LEAST_ROOM;
    const size_t bytes = g->gpu->scratch > least ? g->gpu->scratch : least;
    void *memory = NULL;
    int rc = PLD_OK;

    if (g->scratch != NULL)
        return PLD_OK;
    if (g->sources == NULL)
        g->sources = pldi_alloc((size_t)g->group->size, sizeof(g->sources[0]), "sums on a GPU");
    rc = g->sources == NULL ? PLD_ERR_NOMEM
                            : device->ops->alloc(device, bytes, PLD_MEM_DEVICE, &memory);
    rc = pld_agree(g->group, rc);
    if (rc < 0) {
        device->ops->free(device, memory);
        return rc;
    }
    g->scratch = memory;
    g->scratch_bytes = bytes;
    return PLD_OK;
}
