/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Messages over MPI.  Everything happens on duplicates of the caller's
 * communicator, with errors returned, so that neither its messages nor its
 * error handler are touched.
 *
 * MPI makes a communicator of some ranks by waiting for them, also for those that are dead;
 * a duplicate is the one thing that it makes without.  So there are duplicates of the whole
 * in store, and a part takes one of them and talks to its own ranks there.  Parts without
 * a rank in common may have the same.  Where ranks have used so many that none is left, the
 * next split of the whole makes more; a split of a part must wait in MPI then.
 *
 * MPI_Comm_free is collective while giving back a group is local; communicators
 * are therefore kept until the job is left, and freed then, newest first: any
 * two ranks made those that they share in the same order.
 *
 * More than INT_MAX bytes travel as one message of a derived type.
 */

#include <limits.h>
#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "base/base_clock.h"
#include "base/base_err.h"
#include "base/base_mem.h"
#include "transport/transport.h"

enum { BLOCK = 1 << 30, YIELDS = 1000, STORE = 4 };

_Static_assert(sizeof(MPI_Request) <= sizeof(void *), "a request fits in xfer.handle");

struct comm {
    MPI_Comm comm;
    MPI_Request making; /* MPI_REQUEST_NULL: it may be used */
    int number;         /* of the duplicates, by age; -1: of a part alone */
    struct comm *older;
};

/* What all communicators of a job share. */
struct job {
    struct comm *newest;
    struct comm *first; /* of which the others are duplicates */
    int made, used;     /* duplicates, those below `used` by groups of this rank */
    int size;
    int finalize;
    int leaving; /* `all_leave` was begun */
    MPI_Request all_leave;
};

struct mpi {
    struct pldi_transport base;
    struct comm *comm;
    struct job *job;
    int *ranks; /* [size], of the job; NULL: the same */
    int first;  /* the object that open() made */
};

extern const struct pldi_transport_ops pldi_transport_mpi;

static int fail(int rc, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;

    (void)MPI_Error_string(rc, text, &length);
    return pldi_fail(PLD_ERR_TRANSPORT, "%s: %s", what, text);
}

static int init(const struct pldi_transport_args *args, int *finalize, int *level)
{
    int initialized = 0;
    int finalized = 0;
    int rc;

    (void)MPI_Finalized(&finalized);
    if (finalized)
        return pldi_fail(PLD_ERR_STATE, "MPI is finalised already, and cannot be started again");
    (void)MPI_Initialized(&initialized);
    if (args->use_comm && !initialized)
        return pldi_fail(PLD_ERR_ARG, "a communicator is given, but MPI is not initialised");
    *finalize = !initialized;
    rc = initialized ? MPI_Query_thread(level)
                     : MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, level);
    return rc == MPI_SUCCESS ? PLD_OK : fail(rc, "MPI_Init_thread");
}

static int find_comm(const struct pldi_transport_args *args, MPI_Comm *out)
{
    int inter = 0;

    *out = args->use_comm ? MPI_Comm_f2c((MPI_Fint)args->comm) : MPI_COMM_WORLD;
    if (*out == MPI_COMM_NULL)
        return pldi_fail(PLD_ERR_ARG, "the communicator to join is MPI_COMM_NULL");
    (void)MPI_Comm_test_inter(*out, &inter);
    if (inter)
        return pldi_fail(PLD_ERR_UNSUPPORTED, "the communicator to join is an intercommunicator");
    return PLD_OK;
}

/* One that the job owns from here on. */
static struct comm *add_comm(struct job *job, int number)
{
    struct comm *c = pldi_alloc(1, sizeof(*c), "a communicator");

    if (c == NULL)
        return NULL;
    *c = (struct comm){MPI_COMM_NULL, MPI_REQUEST_NULL, number, job->newest};
    job->newest = c;
    return c;
}

static int begin_dups(struct job *job, MPI_Comm from, int n)
{
    int rc = MPI_SUCCESS;

    for (int i = 0; i < n && rc == MPI_SUCCESS; i++) {
        struct comm *c = add_comm(job, job->made);

        if (c == NULL)
            return PLD_ERR_NOMEM;
        rc = MPI_Comm_idup(from, &c->comm, &c->making);
        job->made += rc == MPI_SUCCESS;
    }
    return rc == MPI_SUCCESS ? PLD_OK : fail(rc, "MPI_Comm_idup");
}

/* 1: all that were begun may be used, 0: not yet. */
static int test_dups(struct job *job)
{
    int all = 1;

    for (struct comm *c = job->newest; c != NULL; c = c->older) {
        int done = 1;
        int rc = MPI_SUCCESS;

        if (c->making == MPI_REQUEST_NULL)
            continue;
        rc = MPI_Test(&c->making, &done, MPI_STATUS_IGNORE);
        if (rc == MPI_SUCCESS && done)
            rc = MPI_Comm_set_errhandler(c->comm, MPI_ERRORS_RETURN);
        if (rc != MPI_SUCCESS)
            return fail(rc, "MPI_Comm_idup");
        all &= done;
    }
    return all;
}

static struct comm *find_dup(const struct job *job, int number)
{
    struct comm *c = job->newest;

    while (c->number != number)
        c = c->older;
    return c;
}

static struct mpi *make(struct job *job, struct comm *comm, int rank, int size)
{
    struct mpi *t = pldi_alloc(1, sizeof(*t), "a transport");

    if (t == NULL)
        return NULL;
    t->base.ops = &pldi_transport_mpi;
    t->base.rank = rank;
    t->base.size = size;
    t->comm = comm;
    t->job = job;
    return t;
}

static void forget(struct job *job)
{
    while (job->newest != NULL) {
        struct comm *c = job->newest;

        job->newest = c->older;
        if (c->making == MPI_REQUEST_NULL) /* else MPI may write there yet */
            pldi_free(c);
    }
    pldi_free(job);
}

/* Ranks that will not come are waited for in MPI_Comm_free and MPI_Finalize: neither is called. */
static int abandon(struct job *job)
{
    const int ours = job->finalize;

    forget(job);
    return ours ? pldi_fail(PLD_ERR_PEER, "ranks of the job are gone: MPI is not finalised, which "
                                          "would wait for them")
                : PLD_OK;
}

static int is_whole(const struct job *job)
{
    for (const struct comm *c = job->newest; c != NULL; c = c->older) {
        if (c->making != MPI_REQUEST_NULL)
            return 0;
    }
    return 1;
}

static int leave(struct job *job)
{
    int rc = MPI_SUCCESS;
    int finalized = 0;

    (void)MPI_Finalized(&finalized);
    while (job->newest != NULL) {
        struct comm *c = job->newest;
        const int none = finalized || c->comm == MPI_COMM_NULL;
        const int freed = none ? MPI_SUCCESS : MPI_Comm_free(&c->comm);

        rc = rc == MPI_SUCCESS ? freed : rc;
        job->newest = c->older;
        pldi_free(c);
    }
    if (job->finalize && !finalized && rc == MPI_SUCCESS)
        rc = MPI_Finalize();
    pldi_free(job);
    if (finalized)
        return pldi_fail(PLD_ERR_STATE, "MPI was finalised before the runtime was closed");
    return rc == MPI_SUCCESS ? PLD_OK : fail(rc, "leaving MPI");
}

/* All ranks have called when the duplicates are made. */
static int await_dups(struct job *job, double timeout, double until)
{
    const struct timespec nap = {0, 100000};
    int rc = test_dups(job);

    for (int tries = 0; rc == 0 && pldi_now() < until; tries++) {
        if (tries < YIELDS)
            (void)sched_yield();
        else
            (void)nanosleep(&nap, NULL);
        rc = test_dups(job);
    }
    if (rc == 0)
        return pldi_fail(PLD_ERR_TIMEOUT, "pld_runtime_open: not all ranks came within %.1f s",
                         timeout);
    return rc < 0 ? rc : PLD_OK;
}

static int join_comm(struct job *job, MPI_Comm theirs, double timeout, struct mpi **out)
{
    const double until = timeout > 0 ? pldi_now() + timeout : HUGE_VAL;
    MPI_Comm ours;
    int *tag_ub = NULL;
    int found = 0;
    int rank;

    PLDI_TRY(begin_dups(job, theirs, 1));
    PLDI_TRY(await_dups(job, timeout, until));
    job->first = job->newest;
    job->used = 1;
    ours = job->first->comm;
    (void)MPI_Comm_rank(ours, &rank);
    (void)MPI_Comm_size(ours, &job->size);
    if (job->size > 1) {
        PLDI_TRY(begin_dups(job, ours, STORE));
        PLDI_TRY(await_dups(job, timeout, until));
    }
    *out = make(job, job->first, rank, job->size);
    if (*out == NULL)
        return PLD_ERR_NOMEM;
    (void)MPI_Comm_get_attr(ours, MPI_TAG_UB, (void *)&tag_ub, &found);
    (*out)->base.max_tag = found ? *tag_ub : 32767;
    (*out)->first = 1;
    return PLD_OK;
}

static int join(struct job *job, const struct pldi_transport_args *args, struct mpi **out)
{
    MPI_Comm theirs;
    int level = 0;

    PLDI_TRY(init(args, &job->finalize, &level));
    PLDI_TRY(find_comm(args, &theirs));
    PLDI_TRY(join_comm(job, theirs, args->timeout, out));
    /* Serialised is enough if all of MPI is ours; a program that started MPI
     * itself also calls it, at moments that we do not know. */
    (*out)->base.threads =
        level == MPI_THREAD_MULTIPLE || (job->finalize && level == MPI_THREAD_SERIALIZED);
    return PLD_OK;
}

static int open_mpi(const struct pldi_transport_args *args, struct pldi_transport **out)
{
    struct job *job = pldi_alloc(1, sizeof(*job), "the MPI transport");
    struct mpi *t = NULL;
    int rc;

    if (job == NULL)
        return PLD_ERR_NOMEM;
    rc = join(job, args, &t);
    if (rc < 0) {
        forget(job);
        return rc;
    }
    *out = &t->base;
    return PLD_OK;
}

/* MPI_Finalize waits for all ranks, and some may give up the job instead of calling it. */
static int leave_mpi(struct pldi_transport *base, int *done)
{
    struct job *job = ((struct mpi *)base)->job;
    int finalized = 0;
    int rc = MPI_SUCCESS;

    (void)MPI_Finalized(&finalized);
    *done = !job->finalize || finalized;
    if (*done)
        return PLD_OK;
    if (!job->leaving)
        rc = MPI_Ibarrier(job->first->comm, &job->all_leave);
    job->leaving = 1;
    if (rc == MPI_SUCCESS)
        rc = MPI_Test(&job->all_leave, done, MPI_STATUS_IGNORE);
    return rc == MPI_SUCCESS ? PLD_OK : fail(rc, "MPI_Ibarrier");
}

static int close_mpi(struct pldi_transport *base)
{
    struct mpi *t = (struct mpi *)base;
    struct job *job = t->first ? t->job : NULL;
    const int lost = base->lost;

    pldi_free(t->ranks);
    pldi_free(t);
    if (job == NULL)
        return PLD_OK;
    return lost || !is_whole(job) ? abandon(job) : leave(job);
}

/* A type of which one element has that many bytes, more than INT_MAX. */
static int make_big(size_t bytes, MPI_Datatype *out)
{
    int counts[2] = {(int)(bytes / BLOCK), (int)(bytes % BLOCK)};
    MPI_Aint starts[2] = {0, (MPI_Aint)(bytes - bytes % BLOCK)};
    MPI_Datatype types[2] = {MPI_DATATYPE_NULL, MPI_BYTE};
    int rc = MPI_Type_contiguous(BLOCK, MPI_BYTE, &types[0]);

    if (rc == MPI_SUCCESS)
        rc = MPI_Type_create_struct(2, counts, starts, types, out);
    if (rc == MPI_SUCCESS)
        rc = MPI_Type_commit(out);
    if (types[0] != MPI_DATATYPE_NULL)
        (void)MPI_Type_free(&types[0]);
    return rc;
}

static int peer_in_comm(const struct mpi *t, int rank)
{
    return t->ranks != NULL && t->comm->number >= 0 ? t->ranks[rank] : rank;
}

static int post(const struct mpi *t, struct pldi_xfer *x)
{
    const int big = x->bytes > INT_MAX;
    const int count = big ? 1 : (int)x->bytes;
    MPI_Datatype type = MPI_BYTE;
    MPI_Request request = MPI_REQUEST_NULL;
    int rc = big ? make_big(x->bytes, &type) : MPI_SUCCESS;

    if (rc == MPI_SUCCESS && x->sending)
        rc =
            MPI_Isend(x->buf, count, type, peer_in_comm(t, x->to), x->tag, t->comm->comm, &request);
    else if (rc == MPI_SUCCESS)
        rc = MPI_Irecv(x->buf, count, type, peer_in_comm(t, x->from), x->tag, t->comm->comm,
                       &request);
    if (big && type != MPI_BYTE)
        (void)MPI_Type_free(&type);
    memcpy(&x->handle, &request, sizeof(request));
    x->active = rc == MPI_SUCCESS;
    return rc == MPI_SUCCESS ? PLD_OK : fail(rc, x->sending ? "MPI_Isend" : "MPI_Irecv");
}

static int isend(struct pldi_transport *base, const void *buf, size_t bytes, int peer, int tag,
                 struct pldi_xfer *x)
{
    x->buf = (void *)(uintptr_t)buf;
    x->bytes = bytes;
    x->sending = 1;
    x->from = base->rank;
    x->to = peer;
    x->tag = tag;
    return post((struct mpi *)base, x);
}

static int irecv(struct pldi_transport *base, void *buf, size_t bytes, int peer, int tag,
                 struct pldi_xfer *x)
{
    x->buf = buf;
    x->bytes = bytes;
    x->sending = 0;
    x->from = peer;
    x->to = base->rank;
    x->tag = tag;
    return post((struct mpi *)base, x);
}

static int test_failed(const struct pldi_xfer *x, int rc)
{
    int class = rc;

    (void)MPI_Error_class(rc, &class);
    if (class == MPI_ERR_TRUNCATE)
        return pldi_fail(PLD_ERR_MISMATCH,
                         "a message from rank %d has more than the expected %zu "
                         "bytes",
                         x->from, x->bytes);
    return fail(rc, x->sending ? "sending" : "receiving");
}

static int test(struct pldi_transport *base, struct pldi_xfer *x, int *done)
{
    MPI_Request request;
    MPI_Status status;
    MPI_Count bytes = 0;
    int rc;

    (void)base;
    memcpy(&request, &x->handle, sizeof(request));
    rc = MPI_Test(&request, done, &status);
    memcpy(&x->handle, &request, sizeof(request));
    if (rc == MPI_SUCCESS && !*done)
        return PLD_OK;
    x->active = 0;
    if (rc != MPI_SUCCESS)
        return test_failed(x, rc);
    if (!x->sending) {
        (void)MPI_Get_elements_x(&status, MPI_BYTE, &bytes);
        x->bytes = (size_t)bytes;
    }
    return PLD_OK;
}

static void cancel(struct pldi_transport *base, struct pldi_xfer *x)
{
    MPI_Request request;

    (void)base;
    memcpy(&request, &x->handle, sizeof(request));
    if (!x->sending)
        (void)MPI_Cancel(&request);
    (void)MPI_Request_free(&request);
    x->active = 0;
}

static int set_ranks(struct mpi *t, const struct mpi *parent, const int *members)
{
    t->ranks = pldi_alloc((size_t)t->base.size, sizeof(t->ranks[0]), "the ranks of a transport");
    if (t->ranks == NULL)
        return PLD_ERR_NOMEM;
    for (int r = 0; r < t->base.size; r++)
        t->ranks[r] = parent->ranks != NULL ? parent->ranks[members[r]] : members[r];
    return PLD_OK;
}

/* A communicator of these ranks alone, for which they wait in MPI. */
static int make_alone(struct mpi *t)
{
    MPI_Group all, part = MPI_GROUP_NULL;
    int rc = MPI_Comm_group(t->job->first->comm, &all);

    t->comm = add_comm(t->job, -1);
    if (t->comm == NULL)
        return PLD_ERR_NOMEM;
    if (rc == MPI_SUCCESS)
        rc = MPI_Group_incl(all, t->base.size, t->ranks, &part);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_create_group(t->job->first->comm, part, 0, &t->comm->comm);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_set_errhandler(t->comm->comm, MPI_ERRORS_RETURN);
    if (part != MPI_GROUP_NULL)
        (void)MPI_Group_free(&part);
    (void)MPI_Group_free(&all);
    return rc == MPI_SUCCESS ? PLD_OK : fail(rc, "MPI_Comm_create_group");
}

/* By the parent's ranks with the same number; those of one color have what it names in common. */
static int make_part(const struct mpi *parent, const int *members, int size, int number,
                     struct mpi **out)
{
    struct mpi *t;
    int rank = 0;
    int rc;

    while (members[rank] != parent->base.rank)
        rank++;
    t = make(parent->job, NULL, rank, size);
    if (t == NULL)
        return PLD_ERR_NOMEM;
    rc = set_ranks(t, parent, members);
    if (rc == PLD_OK && number < parent->job->made)
        t->comm = find_dup(parent->job, number);
    else if (rc == PLD_OK)
        rc = make_alone(t);
    if (rc < 0) {
        (void)close_mpi(&t->base);
        return rc;
    }
    t->base.max_tag = parent->base.max_tag;
    t->base.threads = parent->base.threads;
    *out = t;
    return PLD_OK;
}

static int bid(const struct pldi_transport *base)
{
    return ((const struct mpi *)base)->job->used;
}

static int split(struct pldi_transport *base, int color, int number, const int *members, int size,
                 struct pldi_transport **out)
{
    const struct mpi *parent = (struct mpi *)base;
    struct job *job = parent->job;
    struct mpi *t = NULL;

    *out = NULL;
    if (number >= job->made && base->size == job->size)
        PLDI_TRY(begin_dups(job, job->first->comm, STORE));
    if (color >= 0)
        PLDI_TRY(make_part(parent, members, size, number, &t));
    if (number < job->made)
        job->used = number + 1;
    *out = t != NULL ? &t->base : NULL;
    return PLD_OK;
}

static int settle(struct pldi_transport *base, int *done)
{
    const int rc = test_dups(((struct mpi *)base)->job);

    *done = rc > 0;
    return rc < 0 ? rc : PLD_OK;
}

const struct pldi_transport_ops pldi_transport_mpi = {
    .name = "mpi",
    .open = open_mpi,
    .leave = leave_mpi,
    .close = close_mpi,
    .isend = isend,
    .irecv = irecv,
    .test = test,
    .cancel = cancel,
    .bid = bid,
    .split = split,
    .settle = settle,
};
