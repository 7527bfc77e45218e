/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Messages over MPI.  Everything happens on duplicates of the caller's
 * communicator, with errors returned, so that neither its messages nor its
 * error handler are touched.
 *
 * MPI_Comm_free is collective while giving back a group is local; communicators
 * are therefore kept until the job is left, and freed then, newest first: any
 * two ranks made those that they share in the same order.
 *
 * More than INT_MAX bytes travel as one message of a derived type.
 */

#include <limits.h>
#include <mpi.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "transport/transport.h"

enum { BLOCK = 1 << 30 };

_Static_assert(sizeof(MPI_Request) <= sizeof(void *), "a request fits in xfer.handle");

struct comm {
    MPI_Comm comm;
    struct comm *older;
};

/* What all communicators of a job share. */
struct job {
    struct comm *newest;
    int finalize;
};

struct mpi {
    struct pldi_transport base;
    MPI_Comm comm;
    struct job *job;
    int first; /* the object that open() made */
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

/* An object over comm, which it owns from here on, also on failure. */
static int adopt(struct job *job, MPI_Comm comm, struct mpi **out)
{
    struct mpi *t = pldi_alloc(1, sizeof(*t), "a transport");
    struct comm *c = pldi_alloc(1, sizeof(*c), "a communicator");
    int *tag_ub = NULL;
    int found = 0;

    if (t == NULL || c == NULL) {
        pldi_free(t);
        pldi_free(c);
        return PLD_ERR_NOMEM;
    }
    (void)MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    (void)MPI_Comm_get_attr(comm, MPI_TAG_UB, (void *)&tag_ub, &found);
    *c = (struct comm){comm, job->newest};
    job->newest = c;
    t->base.ops = &pldi_transport_mpi;
    t->base.max_tag = found ? *tag_ub : 32767;
    (void)MPI_Comm_rank(comm, &t->base.rank);
    (void)MPI_Comm_size(comm, &t->base.size);
    t->comm = comm;
    t->job = job;
    *out = t;
    return PLD_OK;
}

static int leave(struct job *job)
{
    int rc = MPI_SUCCESS;
    int finalized = 0;

    (void)MPI_Finalized(&finalized);
    while (job->newest != NULL) {
        struct comm *c = job->newest;
        const int freed = finalized ? MPI_SUCCESS : MPI_Comm_free(&c->comm);

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

/* Ranks that will not come are waited for in MPI_Comm_free and MPI_Finalize: neither is called. */
static int abandon(struct job *job)
{
    const int ours = job->finalize;

    while (job->newest != NULL) {
        struct comm *c = job->newest;

        job->newest = c->older;
        pldi_free(c);
    }
    pldi_free(job);
    return ours ? pldi_fail(PLD_ERR_PEER, "ranks of the job are gone: MPI is not finalised, which "
                                          "would wait for them")
                : PLD_OK;
}

static int join(struct job *job, const struct pldi_transport_args *args, struct mpi **out)
{
    MPI_Comm theirs, ours;
    int level = 0;
    int rc;

    PLDI_TRY(init(args, &job->finalize, &level));
    PLDI_TRY(find_comm(args, &theirs));
    rc = MPI_Comm_dup(theirs, &ours);
    if (rc != MPI_SUCCESS)
        return fail(rc, "MPI_Comm_dup");
    PLDI_TRY(adopt(job, ours, out));
    (*out)->first = 1;
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
        pldi_free(job);
        return rc;
    }
    *out = &t->base;
    return PLD_OK;
}

static int close_mpi(struct pldi_transport *base)
{
    struct mpi *t = (struct mpi *)base;
    struct job *job = t->first ? t->job : NULL;
    const int lost = base->lost;

    pldi_free(t);
    if (job == NULL)
        return PLD_OK;
    return lost ? abandon(job) : leave(job);
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

static int post(struct mpi *t, struct pldi_xfer *x)
{
    const int big = x->bytes > INT_MAX;
    const int count = big ? 1 : (int)x->bytes;
    MPI_Datatype type = MPI_BYTE;
    MPI_Request request = MPI_REQUEST_NULL;
    int rc = big ? make_big(x->bytes, &type) : MPI_SUCCESS;

    if (rc == MPI_SUCCESS && x->sending)
        rc = MPI_Isend(x->buf, count, type, x->to, x->tag, t->comm, &request);
    else if (rc == MPI_SUCCESS)
        rc = MPI_Irecv(x->buf, count, type, x->from, x->tag, t->comm, &request);
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

static int split(struct pldi_transport *base, int color, int key, const int *members, int size,
                 struct pldi_transport **out)
{
    struct mpi *parent = (struct mpi *)base;
    struct mpi *t;
    MPI_Comm comm;
    int rc = MPI_Comm_split(parent->comm, color < 0 ? MPI_UNDEFINED : color, key, &comm);

    (void)members, (void)size;
    *out = NULL;
    if (rc != MPI_SUCCESS)
        return fail(rc, "MPI_Comm_split");
    if (comm == MPI_COMM_NULL)
        return PLD_OK;
    PLDI_TRY(adopt(parent->job, comm, &t));
    t->base.threads = base->threads;
    *out = &t->base;
    return PLD_OK;
}

const struct pldi_transport_ops pldi_transport_mpi = {
    .name = "mpi",
    .open = open_mpi,
    .close = close_mpi,
    .isend = isend,
    .irecv = irecv,
    .test = test,
    .cancel = cancel,
    .split = split,
};
