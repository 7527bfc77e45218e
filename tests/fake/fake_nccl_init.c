/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* How ranks find each other: by an id, or as parts of a communicator that there is. */

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_nccl_comm.h"

static const char magic[8] = "fakenccl";

int ncclGetUniqueId(struct pldi_nccl_id *id)
{
    const struct fake_fault *f;
    char path[FAKE_MAX_PATH];
    int rc = PLDI_NCCL_SUCCESS;

    FAKE_NCCL_COUNT(ncclGetUniqueId);
    fake_nccl_lock();
    f = fake_nccl_find("id_error", -1);
    if (f != NULL)
        rc = fake_nccl_say(f->code != 0 ? f->code : PLDI_NCCL_SYSTEM_ERROR,
                           "ncclGetUniqueId: no socket interface found");
    fake_nccl_unlock();
    fake_board_name(path);
    memset(id, 0, sizeof(*id));
    memcpy(id->bytes, magic, sizeof(magic));
    memcpy(id->bytes + sizeof(magic), path, sizeof(path));
    return rc;
}

/* ---- Joining ---- */

/* NCCL_HOSTID, read once as NCCL does, or what tells machines apart. */
static unsigned long host_hash(void)
{
    static unsigned long hash;
    char text[256] = "";
    const char *id = getenv("NCCL_HOSTID");

    if (hash != 0)
        return hash;
    if (id == NULL)
        gethostname(text, sizeof(text) - 1);
    for (const char *at = id != NULL ? id : text; *at != '\0'; at++)
        hash = hash * 31 + (unsigned char)*at;
    return hash = hash * 2 + 1;
}

int fake_comm_join(struct ncclComm *c, bool failed, bool gone)
{
    struct fake_member *me;
    int size = 0, joined = 0;

    c->board = fake_board_open(c->path, c->size);
    if (c->board == NULL)
        return fake_nccl_say(PLDI_NCCL_SYSTEM_ERROR, "init: %s: %s", c->path, strerror(errno));
    if (!atomic_compare_exchange_strong(&c->board->size, &size, c->size) && size != c->size)
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "init: %d ranks, others say %d", c->size,
                             size);
    me = &c->board->members[c->rank];
    me->host = host_hash();
    fake_cuda_pci(c->device, me->pci);
    atomic_store(&me->failed, failed);
    atomic_store(&me->gone, gone);
    if (!atomic_compare_exchange_strong(&me->joined, &joined, 1))
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "init: rank %d is there twice", c->rank);
    if (atomic_fetch_add(&c->board->joined, 1) + 1 == c->size)
        unlink(c->path);
    return PLDI_NCCL_SUCCESS;
}

static bool gpus_may_be_shared(void)
{
    return fake_nccl_version() >= 23003 && fake_env_number("NCCL_MULTI_RANK_GPU_ENABLE", 0) == 1;
}

static int check_gpus(const struct ncclComm *c)
{
    const struct fake_member *m = c->board->members;

    for (int r = 0; r < c->size && !gpus_may_be_shared(); r++)
        if (r != c->rank && m[r].host == m[c->rank].host && strcmp(m[r].pci, m[c->rank].pci) == 0)
            return fake_nccl_say(PLDI_NCCL_INVALID_USAGE,
                                 "Duplicate GPU detected : rank %d and rank %d both on CUDA device "
                                 "%s",
                                 c->rank, r, m[r].pci);
    return PLDI_NCCL_SUCCESS;
}

/* The others are told. */
static int fail(struct ncclComm *c, int rc)
{
    if (rc != PLDI_NCCL_SUCCESS && rc != PLDI_NCCL_IN_PROGRESS && c->board != NULL)
        atomic_store(&c->board->members[c->rank].failed, 1);
    return rc;
}

static int fault(const struct ncclComm *c, const char *hang, const char *error)
{
    const struct fake_fault *f = fake_nccl_find(error, c->rank);

    if (fake_nccl_find(hang, c->rank) != NULL)
        return PLDI_NCCL_IN_PROGRESS;
    if (f == NULL)
        return PLDI_NCCL_SUCCESS;
    return fake_nccl_say(f->code != 0 ? f->code
                         : f->n != 0  ? (int)f->n
                                      : PLDI_NCCL_INVALID_USAGE,
                         "%s of rank %d was asked for", error, c->rank);
}

/* All are there, and none of the others is in a state in which it would not answer. */
static bool complete(const struct ncclComm *c)
{
    bool yes = atomic_load(&c->board->joined) == c->size;

    for (int r = 0; r < c->size && yes; r++)
        yes = r == c->rank || (!atomic_load(&c->board->members[r].failed) &&
                               !atomic_load(&c->board->members[r].gone));
    return yes;
}

int fake_init_advance(struct ncclComm *comm)
{
    int rc = fault(comm, "init_hang", "init_error");

    if (rc == PLDI_NCCL_IN_PROGRESS)
        return rc;
    if (comm->board == NULL) {
        const int joined = fake_comm_join(comm, rc != PLDI_NCCL_SUCCESS, false);

        rc = rc == PLDI_NCCL_SUCCESS ? joined : rc;
    }
    if (rc == PLDI_NCCL_SUCCESS && atomic_load(&comm->board->joined) == comm->size)
        rc = check_gpus(comm);
    if (rc == PLDI_NCCL_SUCCESS && !complete(comm))
        return PLDI_NCCL_IN_PROGRESS;
    return fail(comm, rc);
}

/* Of the caller's configuration, or what it inherits. */
static int blocking_of(const struct pldi_nccl_config *config, bool inherited, bool *out)
{
    *out = inherited;
    if (config == NULL)
        return PLDI_NCCL_SUCCESS;
    if (config->magic != 0xcafebeefU || config->size < sizeof(*config))
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "the configuration was not initialized");
    if (config->version > (unsigned)fake_nccl_version())
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "a configuration of version %u",
                             config->version);
    if (config->blocking != INT_MIN && config->blocking != 0 && config->blocking != 1)
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "blocking is %d", config->blocking);
    if (config->blocking != INT_MIN)
        *out = config->blocking == 1;
    return PLDI_NCCL_SUCCESS;
}

static int check_init(int size, const struct pldi_nccl_id *id, int rank)
{
    if (size < 1 || size > FAKE_MAX_RANKS || rank < 0 || rank >= size)
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "init: rank %d of %d (at most %d)", rank,
                             size, FAKE_MAX_RANKS);
    if (memcmp(id->bytes, magic, sizeof(magic)) != 0)
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "init: that is not an id");
    if (fake_cuda_current() < 0)
        return fake_nccl_say(PLDI_NCCL_CUDA_ERROR, "init: no current CUDA device");
    return PLDI_NCCL_SUCCESS;
}

/* splitShare is about the parts that a communicator will have. */
static void inherit(struct ncclComm *c, const struct ncclComm *parent,
                    const struct pldi_nccl_config *config)
{
    static unsigned long families;

    c->share = parent != NULL && parent->share;
    if (config != NULL && config->split_share != INT_MIN)
        c->share = config->split_share == 1;
    c->family = parent != NULL && parent->share ? parent->family : ++families;
}

/* A failed blocking call leaves nothing behind. */
static int done(struct ncclComm *made, pldi_nccl_comm *out, int rc)
{
    if (rc != PLDI_NCCL_SUCCESS && rc != PLDI_NCCL_IN_PROGRESS && made != NULL) {
        fake_nccl_lock();
        fake_comm_forget(made);
        fake_nccl_unlock();
        *out = NULL;
    }
    return rc;
}

int ncclCommInitRankConfig(pldi_nccl_comm *comm, int size, struct pldi_nccl_id id, int rank,
                           struct pldi_nccl_config *config)
{
    struct ncclComm *c = NULL;
    bool blocking;
    int rc;

    FAKE_NCCL_COUNT(ncclCommInitRankConfig);
    *comm = NULL;
    fake_nccl_lock();
    rc = check_init(size, &id, rank);
    if (rc == PLDI_NCCL_SUCCESS)
        rc = blocking_of(config, true, &blocking);
    if (rc == PLDI_NCCL_SUCCESS) {
        c = fake_comm_new(rank, size, fake_cuda_current(), blocking);
        inherit(c, NULL, config);
        memcpy(c->path, id.bytes + sizeof(magic), sizeof(c->path));
        *comm = c;
    }
    fake_nccl_unlock();
    if (c == NULL)
        return rc;
    return done(c, comm, fake_comm_begin(c, FAKE_INIT));
}

/* ---- Splitting ---- */

static void post(struct ncclComm *c)
{
    struct fake_member *me = &c->board->members[c->rank];
    const unsigned long number = ++c->n_splits;

    me->split[number % 2].color = c->color;
    me->split[number % 2].key = c->key;
    atomic_store(&me->split[number % 2].number, number);
    c->posted = true;
}

static bool all_posted(const struct ncclComm *c)
{
    for (int r = 0; r < c->size; r++)
        if (atomic_load(&c->board->members[r].split[c->n_splits % 2].number) != c->n_splits)
            return false;
    return true;
}

/* Ranks of the same color, by key and then by rank. */
static void place_child(const struct ncclComm *c, struct ncclComm *child)
{
    child->rank = child->size = 0;
    for (int r = 0; r < c->size; r++) {
        const int color = c->board->members[r].split[c->n_splits % 2].color;
        const int key = c->board->members[r].split[c->n_splits % 2].key;

        if (color != c->color)
            continue;
        child->size++;
        child->rank += key < c->key || (key == c->key && r < c->rank);
    }
    snprintf(child->path, sizeof(child->path), "%.80s.%lu.%d", c->path, c->n_splits, c->color);
}

int fake_split_end(struct ncclComm *c, int rc)
{
    if (rc == PLDI_NCCL_IN_PROGRESS)
        return rc;
    c->posted = false;
    if (c->child != NULL) {
        c->child->parent = NULL;
        c->child->job = FAKE_IDLE;
        c->child->async = rc;
    }
    /* As NCCL does: by its own thread, also of a rank without color and after a failure. */
    if (c->child_out != NULL)
        *c->child_out = c->child;
    c->child = NULL;
    c->child_out = NULL;
    return rc;
}

int fake_split_advance(struct ncclComm *comm)
{
    int rc = fault(comm, "split_hang", "split_error");

    if (rc != PLDI_NCCL_SUCCESS)
        return fake_split_end(comm, fail(comm, rc));
    if (!comm->posted)
        post(comm);
    if (!all_posted(comm))
        return PLDI_NCCL_IN_PROGRESS;
    if (comm->child == NULL)
        return fake_split_end(comm, PLDI_NCCL_SUCCESS);
    if (comm->child->board == NULL) {
        place_child(comm, comm->child);
        rc = fake_comm_join(comm->child, false, false);
    }
    if (rc == PLDI_NCCL_SUCCESS && atomic_load(&comm->child->board->joined) < comm->child->size)
        return PLDI_NCCL_IN_PROGRESS;
    return fake_split_end(comm, rc);
}

#ifndef FAKE_NCCL_BARE
static int prepare_split(struct ncclComm *comm, int color, int key, pldi_nccl_comm *out,
                         const struct pldi_nccl_config *config)
{
    bool blocking;
    const int rc = blocking_of(config, comm->blocking, &blocking);

    if (rc != PLDI_NCCL_SUCCESS)
        return rc;
    if (color < 0 && color != PLDI_NCCL_NO_COLOR)
        return fake_nccl_say(PLDI_NCCL_INVALID_ARGUMENT, "ncclCommSplit: color %d", color);
    comm->color = color;
    comm->key = key;
    comm->child_out = out;
    if (color != PLDI_NCCL_NO_COLOR) {
        comm->child = fake_comm_new(0, 1, comm->device, blocking);
        inherit(comm->child, comm, config);
        comm->child->parent = comm;
        comm->child->job = FAKE_CHILD;
    }
    return PLDI_NCCL_SUCCESS;
}

int ncclCommSplit(pldi_nccl_comm comm, int color, int key, pldi_nccl_comm *out,
                  struct pldi_nccl_config *config)
{
    int rc = fake_comm_enter(comm, "ncclCommSplit");

    FAKE_NCCL_COUNT(ncclCommSplit);
    if (rc != PLDI_NCCL_SUCCESS)
        return rc;
    *out = NULL;
    fake_nccl_lock();
    rc = prepare_split(comm, color, key, out, config);
    fake_nccl_unlock();
    if (rc == PLDI_NCCL_SUCCESS) {
        rc = fake_comm_begin(comm, FAKE_SPLIT);
        if (rc != PLDI_NCCL_IN_PROGRESS)
            rc = done(*out, out, rc);
    }
    if (!fake_group_open())
        fake_comm_leave(comm);
    return rc;
}
#endif
