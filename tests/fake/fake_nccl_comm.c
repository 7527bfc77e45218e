/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Communicators: who is in a call, what is in progress, and how it goes on. */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake_nccl_comm.h"

static struct ncclComm *comms; /* valid handles */

static const char *jobs[] = {"nothing", "its init", "a split", "a split", "a launch", "finalize"};

bool fake_comm_valid(const struct ncclComm *comm)
{
    const struct ncclComm *c = comms;

    while (c != NULL && c != comm)
        c = c->next;
    return c != NULL;
}

unsigned long fake_nccl_live(void)
{
    unsigned long n = 0;

    fake_nccl_lock();
    for (const struct ncclComm *c = comms; c != NULL; c = c->next)
        n++;
    fake_nccl_unlock();
    return n;
}

struct ncclComm *fake_comm_new(int rank, int size, int device, bool blocking)
{
    struct ncclComm *c = fake_nccl_alloc(1, sizeof(*c));

    c->refs = 1;
    c->rank = rank;
    c->size = size;
    c->device = device;
    c->blocking = blocking;
    c->next = comms;
    comms = c;
    return c;
}

void fake_comm_put(struct ncclComm *comm)
{
    if (--comm->refs > 0)
        return;
    fake_board_close(comm->board, comm->size);
    while (comm->registrations != NULL) {
        struct fake_registration *r = comm->registrations;

        comm->registrations = r->next;
        fake_registration_drop(r);
    }
    free(comm);
}

void fake_comm_forget(struct ncclComm *comm)
{
    struct ncclComm **at = &comms;

    while (*at != comm)
        at = &(*at)->next;
    *at = comm->next;
    if (comm->parent != NULL)
        comm->parent->child = NULL;
    if (comm->job == FAKE_SPLIT)
        (void)fake_split_end(comm, PLDI_NCCL_INTERNAL_ERROR);
    if (comm->job == FAKE_INIT && comm->board == NULL)
        (void)fake_comm_join(comm, false, true); /* the last one to come removes the file */
    if (comm->launch != NULL)
        fake_launch_put(comm->launch);
    comm->launch = NULL;
    fake_comm_put(comm);
}

/* ---- Calls ---- */

static void dwell(const struct ncclComm *comm)
{
    const struct fake_fault *f;
    struct timespec t;

    fake_nccl_lock();
    f = fake_nccl_find("dwell", comm->rank);
    t = (struct timespec){f == NULL ? 0 : f->n / 1000000, f == NULL ? 0 : f->n % 1000000 * 1000};
    fake_nccl_unlock();
    if (f != NULL)
        nanosleep(&t, NULL);
}

static bool held_by_other(const struct ncclComm *comm)
{
    return comm->held && !pthread_equal(comm->holder, pthread_self());
}

static int check(const struct ncclComm *c, const char *call)
{
    const int usage = PLDI_NCCL_INVALID_USAGE;

    if (!fake_comm_valid(c))
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "%s: that is not a communicator", call);
    if (held_by_other(c))
        return fake_nccl_say(usage, "%s: two threads use the communicator at the same time", call);
    if (c->job != FAKE_IDLE)
        return fake_nccl_say(usage, "%s: called before the previous operation, %s, was over", call,
                             jobs[c->job]);
    if (c->async != 0)
        return fake_nccl_say(c->async, "%s: the communicator has failed before", call);
    if (c->finalized || c->revoked)
        return fake_nccl_say(usage, "%s: the communicator was %s", call,
                             c->finalized ? "finalized" : "revoked");
    return PLDI_NCCL_SUCCESS;
}

int fake_comm_enter(struct ncclComm *comm, const char *call)
{
    int rc;

    fake_nccl_lock();
    rc = check(comm, call);
    if (rc == PLDI_NCCL_SUCCESS) {
        comm->held = true;
        comm->holder = pthread_self();
    }
    fake_nccl_unlock();
    if (rc == PLDI_NCCL_SUCCESS)
        dwell(comm);
    return rc;
}

void fake_comm_leave(struct ncclComm *comm)
{
    fake_nccl_lock();
    comm->held = false;
    fake_nccl_unlock();
}

/* ---- What is in progress ---- */

/* Another rank's failure is told late. */
static int remote_error(struct ncclComm *c)
{
    enum { LATE = 3 };

    if (c->board == NULL || c->async != 0)
        return PLDI_NCCL_SUCCESS;
    for (int r = 0; r < c->size; r++)
        if (r != c->rank && atomic_load(&c->board->members[r].failed) && ++c->remote_seen > LATE)
            return fake_nccl_say(PLDI_NCCL_REMOTE_ERROR, "rank %d: rank %d has failed", c->rank, r);
    return PLDI_NCCL_SUCCESS;
}

static int go_on(struct ncclComm *c)
{
    switch (c->job) {
    case FAKE_INIT:
        return fake_init_advance(c);
    case FAKE_SPLIT:
        return fake_split_advance(c);
    case FAKE_CHILD:
        /* Its parent brings it to IDLE; a parent that is gone, never. */
        if (c->parent != NULL)
            (void)fake_comm_advance(c->parent);
        return c->job == FAKE_IDLE ? c->async : PLDI_NCCL_IN_PROGRESS;
    case FAKE_LAUNCH:
        return fake_launch_submit(c->launch);
    case FAKE_FINALIZE:
        if (c->launched != c->done || fake_nccl_find("finalize_hang", c->rank) != NULL)
            return PLDI_NCCL_IN_PROGRESS;
        c->finalized = true;
        return PLDI_NCCL_SUCCESS;
    case FAKE_IDLE:
        break;
    }
    return PLDI_NCCL_SUCCESS;
}

static void end_job(struct ncclComm *c, int rc)
{
    if (c->launch != NULL)
        fake_launch_put(c->launch);
    c->launch = NULL;
    if (c->job == FAKE_SPLIT)
        (void)fake_split_end(c, rc);
    c->job = FAKE_IDLE;
    if (rc != PLDI_NCCL_SUCCESS && c->async == 0)
        c->async = rc;
}

int fake_comm_advance(struct ncclComm *comm)
{
    int rc = comm->async, remote;

    if (rc == PLDI_NCCL_SUCCESS && comm->job != FAKE_CHILD && comm->polls > 0) {
        comm->polls--;
        return PLDI_NCCL_IN_PROGRESS;
    }
    if (rc == PLDI_NCCL_SUCCESS)
        rc = go_on(comm);
    remote = remote_error(comm);
    if (remote != PLDI_NCCL_SUCCESS && (rc == PLDI_NCCL_SUCCESS || rc == PLDI_NCCL_IN_PROGRESS))
        rc = remote;
    if (rc != PLDI_NCCL_IN_PROGRESS)
        end_job(comm, rc);
    return rc;
}

int fake_comm_settle(struct ncclComm *comm)
{
    const struct timespec nap = {0, 50000};
    int rc;

    for (;;) {
        fake_nccl_lock();
        rc = fake_comm_advance(comm);
        fake_nccl_unlock();
        if (rc != PLDI_NCCL_IN_PROGRESS)
            return rc;
        nanosleep(&nap, NULL);
    }
}

int fake_comm_begin(struct ncclComm *comm, enum fake_job job)
{
    const struct fake_fault *f;

    fake_nccl_lock();
    f = fake_nccl_find("progress", comm->rank);
    comm->job = job;
    comm->polls = comm->blocking ? 0 : f != NULL ? f->n : 1;
    fake_nccl_unlock();
    if (fake_group_open()) {
        fake_group_add(comm);
        return PLDI_NCCL_SUCCESS;
    }
    return comm->blocking ? fake_comm_settle(comm) : PLDI_NCCL_IN_PROGRESS;
}

int ncclCommGetAsyncError(pldi_nccl_comm comm, int *code)
{
    int rc = PLDI_NCCL_SUCCESS;

    FAKE_NCCL_COUNT(ncclCommGetAsyncError);
    fake_nccl_lock();
    if (!fake_comm_valid(comm))
        rc = fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT,
                           "ncclCommGetAsyncError: that is not a communicator");
    else
        *code = fake_comm_advance(comm);
    fake_nccl_unlock();
    return rc;
}

/* ---- The end ---- */

int ncclCommFinalize(pldi_nccl_comm comm)
{
    int rc = fake_comm_enter(comm, "ncclCommFinalize");

    FAKE_NCCL_COUNT(ncclCommFinalize);
    if (rc != PLDI_NCCL_SUCCESS)
        return rc;
    rc = fake_comm_begin(comm, FAKE_FINALIZE);
    if (!fake_group_open())
        fake_comm_leave(comm);
    return rc;
}

static int check_destroy(const struct ncclComm *c)
{
    const int usage = PLDI_NCCL_INVALID_USAGE;

    if (!fake_comm_valid(c))
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT,
                             "ncclCommDestroy: that is not a communicator");
    if (held_by_other(c))
        return fake_nccl_say(usage, "ncclCommDestroy: another thread is in a call");
    if (c->job != FAKE_IDLE)
        return fake_nccl_say(usage, "ncclCommDestroy: %s is in progress", jobs[c->job]);
    if (c->launched != c->done)
        return fake_nccl_say(usage, "ncclCommDestroy: %lu operations are not over",
                             c->launched - c->done);
    return PLDI_NCCL_SUCCESS;
}

int ncclCommDestroy(pldi_nccl_comm comm)
{
    int rc;

    FAKE_NCCL_COUNT(ncclCommDestroy);
    fake_nccl_lock();
    rc = check_destroy(comm);
    if (rc == PLDI_NCCL_SUCCESS)
        fake_comm_forget(comm);
    fake_nccl_unlock();
    return rc;
}

static bool must_wait(const struct ncclComm *c)
{
    bool yes;

    fake_nccl_lock();
    yes = fake_nccl_find("abort_waits", c->rank) != NULL && fake_ops_run_beside(c);
    fake_nccl_unlock();
    return yes;
}

static void abort_family(struct ncclComm *comm)
{
    for (struct ncclComm *c = comms; c != NULL; c = c->next) {
        if (c->family != comm->family)
            continue;
        atomic_store(&c->aborted, true);
        if (c != comm && c->async == 0)
            c->async = PLDI_NCCL_INTERNAL_ERROR;
    }
}

int ncclCommAbort(pldi_nccl_comm comm)
{
    const struct timespec nap = {0, 100000};
    int rc = PLDI_NCCL_SUCCESS;

    FAKE_NCCL_COUNT(ncclCommAbort);
    fake_nccl_lock();
    if (!fake_comm_valid(comm))
        rc = fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "ncclCommAbort: that is not a communicator");
    else if (held_by_other(comm))
        rc = fake_nccl_say(PLDI_NCCL_INVALID_USAGE, "ncclCommAbort: another thread is in a call");
    else
        abort_family(comm);
    fake_nccl_unlock();
    if (rc != PLDI_NCCL_SUCCESS)
        return rc;
    while (must_wait(comm))
        nanosleep(&nap, NULL);
    fake_nccl_lock();
    fake_comm_forget(comm);
    fake_nccl_unlock();
    return rc;
}

#ifndef FAKE_NCCL_OLD
int ncclCommRevoke(pldi_nccl_comm comm, int flags)
{
    int rc = PLDI_NCCL_SUCCESS;

    FAKE_NCCL_COUNT(ncclCommRevoke);
    fake_nccl_lock();
    if (!fake_comm_valid(comm) || flags != 0)
        rc = fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "ncclCommRevoke: no communicator, or flags");
    else if (held_by_other(comm))
        rc = fake_nccl_say(PLDI_NCCL_INVALID_USAGE, "ncclCommRevoke: another thread is in a call");
    else {
        comm->revoked = true;
        atomic_store(&comm->aborted, true);
    }
    fake_nccl_unlock();
    return rc;
}
#endif
