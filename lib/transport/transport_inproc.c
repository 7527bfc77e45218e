/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One lock, and per receiving rank a list of sends and one of receives that
 * have not met yet.  Whoever comes second copies, straight from buffer to
 * buffer, under the lock.  A communicator is a number, the context; that of a
 * part follows from its parent's, the number of the split and the color, so that
 * all members compute it without talking.
 */

#include "transport/transport_inproc.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "transport/transport.h"

struct revoked {
    uint64_t context;
    struct revoked *next;
};

struct box {
    struct pldi_xfer *sends, *recvs;
    int gone;
};

struct pldi_inproc {
    pthread_mutex_t lock;
    int size;
    struct revoked *revoked;
    struct box boxes[]; /* [size] */
};

struct inproc {
    struct pldi_transport base;
    struct pldi_inproc *world;
    uint64_t context;
    uint64_t splits;
    int owns_world;
    int members[]; /* [size], ranks of the world */
};

extern const struct pldi_transport_ops pldi_transport_inproc;
extern const struct pldi_transport_ops pldi_transport_self;

struct pldi_inproc *pldi_inproc_create(int size)
{
    struct pldi_inproc *world =
        pldi_alloc(1, sizeof(*world) + (size_t)size * sizeof(world->boxes[0]), "an inproc world");

    if (world == NULL)
        return NULL;
    world->size = size;
    (void)pthread_mutex_init(&world->lock, NULL);
    return world;
}

void pldi_inproc_destroy(struct pldi_inproc **world)
{
    if (world == NULL || *world == NULL)
        return;
    while ((*world)->revoked != NULL) {
        struct revoked *next = (*world)->revoked->next;

        pldi_free((*world)->revoked);
        (*world)->revoked = next;
    }
    (void)pthread_mutex_destroy(&(*world)->lock);
    pldi_free(*world);
    *world = NULL;
}

static void append(struct pldi_xfer **list, struct pldi_xfer *x)
{
    while (*list != NULL)
        list = &(*list)->next;
    x->next = NULL;
    *list = x;
}

static void unlink_xfer(struct pldi_xfer **list, const struct pldi_xfer *x)
{
    while (*list != NULL && *list != x)
        list = &(*list)->next;
    if (*list != NULL)
        *list = x->next;
}

/* Take the oldest entry that matches x out of the list. */
static struct pldi_xfer *take_match(struct pldi_xfer **list, const struct pldi_xfer *x)
{
    for (; *list != NULL; list = &(*list)->next) {
        struct pldi_xfer *y = *list;

        if (y->context == x->context && y->from == x->from && y->tag == x->tag) {
            *list = y->next;
            return y;
        }
    }
    return NULL;
}

static void deliver(struct pldi_xfer *send, struct pldi_xfer *recv)
{
    send->done = recv->done = 1;
    if (send->bytes > recv->bytes)
        recv->code = PLD_ERR_MISMATCH;
    else if (send->bytes > 0)
        memcpy(recv->buf, send->buf, send->bytes);
    recv->bytes = send->bytes;
}

void pldi_inproc_leave(struct pldi_inproc *world, int rank)
{
    (void)pthread_mutex_lock(&world->lock);
    world->boxes[rank].gone = 1;
    world->boxes[rank].recvs = NULL;
    for (int r = 0; r < world->size; r++) {
        struct pldi_xfer **list = &world->boxes[r].sends;

        while (*list != NULL) {
            if ((*list)->from == rank)
                *list = (*list)->next;
            else
                list = &(*list)->next;
        }
    }
    (void)pthread_mutex_unlock(&world->lock);
}

static int is_revoked(const struct pldi_inproc *world, uint64_t context)
{
    for (const struct revoked *r = world->revoked; r != NULL; r = r->next) {
        if (r->context == context)
            return 1;
    }
    return 0;
}

static struct inproc *make(const struct pldi_transport_ops *ops, struct pldi_inproc *world,
                           const int *members, int size, int rank)
{
    struct inproc *t =
        pldi_alloc(1, sizeof(*t) + (size_t)size * sizeof(t->members[0]), "a transport");

    if (t == NULL)
        return NULL;
    t->base = (struct pldi_transport){ops, rank, size, INT32_MAX, 1, 0};
    t->world = world;
    for (int r = 0; r < size; r++)
        t->members[r] = members != NULL ? members[r] : r;
    return t;
}

static int open_inproc(const struct pldi_transport_args *args, struct pldi_transport **out)
{
    struct inproc *t;

    if (args->world == NULL)
        return pldi_fail(PLD_ERR_UNSUPPORTED,
                         "transport \"inproc\" is for tests that run ranks as threads");
    t = make(&pldi_transport_inproc, args->world, NULL, args->world->size, args->rank);
    if (t == NULL)
        return PLD_ERR_NOMEM;
    *out = &t->base;
    return PLD_OK;
}

static int open_self(const struct pldi_transport_args *args, struct pldi_transport **out)
{
    struct pldi_inproc *world = pldi_inproc_create(1);
    struct inproc *t = world == NULL ? NULL : make(&pldi_transport_self, world, NULL, 1, 0);

    (void)args;
    if (t == NULL) {
        pldi_inproc_destroy(&world);
        return PLD_ERR_NOMEM;
    }
    t->owns_world = 1;
    *out = &t->base;
    return PLD_OK;
}

static int close_inproc(struct pldi_transport *base)
{
    struct inproc *t = (struct inproc *)base;

    if (t->owns_world)
        pldi_inproc_destroy(&t->world);
    pldi_free(t);
    return PLD_OK;
}

static int post(struct inproc *t, struct pldi_xfer *x)
{
    struct pldi_inproc *world = t->world;
    struct box *box = &world->boxes[x->to];
    struct pldi_xfer *other;

    (void)pthread_mutex_lock(&world->lock);
    x->active = 1;
    x->done = x->code = 0;
    x->context = t->context;
    other = take_match(x->sending ? &box->recvs : &box->sends, x);
    if (other != NULL)
        deliver(x->sending ? x : other, x->sending ? other : x);
    else
        append(x->sending ? &box->sends : &box->recvs, x);
    (void)pthread_mutex_unlock(&world->lock);
    return PLD_OK;
}

static int isend(struct pldi_transport *base, const void *buf, size_t bytes, int peer, int tag,
                 struct pldi_xfer *x)
{
    struct inproc *t = (struct inproc *)base;

    x->buf = (void *)(uintptr_t)buf;
    x->bytes = bytes;
    x->sending = 1;
    x->from = t->members[t->base.rank];
    x->to = t->members[peer];
    x->tag = tag;
    return post(t, x);
}

static int irecv(struct pldi_transport *base, void *buf, size_t bytes, int peer, int tag,
                 struct pldi_xfer *x)
{
    struct inproc *t = (struct inproc *)base;

    x->buf = buf;
    x->bytes = bytes;
    x->sending = 0;
    x->from = t->members[peer];
    x->to = t->members[t->base.rank];
    x->tag = tag;
    return post(t, x);
}

/* With the lock held: take back what nobody answered. */
static void withdraw(struct inproc *t, struct pldi_xfer *x)
{
    struct box *box = &t->world->boxes[x->to];

    unlink_xfer(x->sending ? &box->sends : &box->recvs, x);
    x->active = 0;
}

static int test(struct pldi_transport *base, struct pldi_xfer *x, int *done)
{
    struct inproc *t = (struct inproc *)base;
    const int other = x->sending ? x->to : x->from;
    int code = PLD_OK;

    (void)pthread_mutex_lock(&t->world->lock);
    *done = x->done;
    if (x->done) {
        x->active = 0;
        if (x->code < 0)
            code = pldi_fail(x->code, "a message from rank %d has %zu bytes, more than expected",
                             other, x->bytes);
    } else if (t->world->boxes[other].gone || is_revoked(t->world, t->context)) {
        withdraw(t, x);
        code = pldi_fail(PLD_ERR_PEER, "rank %d of the job left, or gave up, before its message",
                         other);
    }
    (void)pthread_mutex_unlock(&t->world->lock);
    return code;
}

static void cancel(struct pldi_transport *base, struct pldi_xfer *x)
{
    struct inproc *t = (struct inproc *)base;

    (void)pthread_mutex_lock(&t->world->lock);
    withdraw(t, x);
    (void)pthread_mutex_unlock(&t->world->lock);
}

static int split(struct pldi_transport *base, int color, int bid, const int *members, int size,
                 struct pldi_transport **out)
{
    struct inproc *parent = (struct inproc *)base;
    uint64_t place[3] = {parent->context, ++parent->splits, (uint64_t)(uint32_t)color};
    struct inproc *t;

    (void)bid;
    *out = NULL;
    if (color < 0)
        return PLD_OK;
    t = make(base->ops, parent->world, members, size, 0);
    if (t == NULL)
        return PLD_ERR_NOMEM;
    for (int r = 0; r < size; r++) {
        t->members[r] = parent->members[members[r]];
        if (members[r] == base->rank)
            t->base.rank = r;
    }
    t->context = pldi_hash64(place, sizeof(place));
    *out = &t->base;
    return PLD_OK;
}

static int gone(struct pldi_transport *base, int rank)
{
    struct inproc *t = (struct inproc *)base;
    int is_gone;

    (void)pthread_mutex_lock(&t->world->lock);
    is_gone = t->world->boxes[t->members[rank]].gone;
    (void)pthread_mutex_unlock(&t->world->lock);
    return is_gone;
}

static void revoke(struct pldi_transport *base)
{
    struct inproc *t = (struct inproc *)base;
    struct revoked *r = pldi_alloc(1, sizeof(*r), "a revoked context");

    if (r == NULL)
        return;
    (void)pthread_mutex_lock(&t->world->lock);
    r->context = t->context;
    r->next = t->world->revoked;
    t->world->revoked = r;
    (void)pthread_mutex_unlock(&t->world->lock);
}

const struct pldi_transport_ops pldi_transport_inproc = {
    .name = "inproc",
    .open = open_inproc,
    .close = close_inproc,
    .isend = isend,
    .irecv = irecv,
    .test = test,
    .cancel = cancel,
    .split = split,
    .gone = gone,
    .revoke = revoke,
};

/* A world of one: what is sent to oneself is received by oneself. */
const struct pldi_transport_ops pldi_transport_self = {
    .name = "self",
    .open = open_self,
    .close = close_inproc,
    .isend = isend,
    .irecv = irecv,
    .test = test,
    .cancel = cancel,
    .split = split,
    .gone = gone,
    .revoke = revoke,
};
