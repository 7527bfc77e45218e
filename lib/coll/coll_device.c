/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The runtime's part: which way device memory goes, the turn, flights, and the
 * watchdog's work: it asks events and communicators, and aborts where there is no hope.
 *
 * To abort, nobody may be in a call of NCCL.  Who has the turn looks at `stop` and at its
 * group's code in every loop and gives it back; a thread that is stuck inside NCCL
 * itself is waited for a while, and then not any more.
 */

#include "coll/coll_device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_break.h"
#include "coll/coll_shm.h"

enum { TURN_SECONDS = 10, MIN_CHUNK = 4096, MAX_CHUNK = 256 << 20 };

/* ---- The turn ---- */

static int is_mine(const struct pldi_gpu *gpu)
{
    return gpu->taken && pthread_equal(gpu->taker, pthread_self());
}

void pldi_gpu_enter(struct pldi_gpu *gpu)
{
    (void)pthread_mutex_lock(&gpu->lock);
    while (gpu->taken)
        (void)pthread_cond_wait(&gpu->turn, &gpu->lock);
    gpu->taken = 1;
    gpu->taker = pthread_self();
    (void)pthread_mutex_unlock(&gpu->lock);
}

void pldi_gpu_leave(struct pldi_gpu *gpu)
{
    (void)pthread_mutex_lock(&gpu->lock);
    gpu->taken = 0;
    (void)pthread_cond_signal(&gpu->turn);
    (void)pthread_mutex_unlock(&gpu->lock);
}

/* With the lock held: the turn, or after a while without; 1: it must be given back. */
static int take_turn(struct pldi_gpu *gpu)
{
    struct timespec end;
    int rc = 0;

    if (is_mine(gpu))
        return 0;
    (void)clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += TURN_SECONDS;
    while (gpu->taken && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&gpu->turn, &gpu->lock, &end);
    if (gpu->taken)
        return 0;
    gpu->taken = 1;
    gpu->taker = pthread_self();
    return 1;
}

/* ---- Flights ---- */

struct pldi_flight *pldi_flight_take(struct pldi_gpu *gpu)
{
    struct pldi_flight *f;

    (void)pthread_mutex_lock(&gpu->lock);
    f = gpu->spare;
    if (f != NULL)
        gpu->spare = f->next;
    (void)pthread_mutex_unlock(&gpu->lock);
    if (f != NULL)
        return f;
    f = pldi_alloc(1, sizeof(*f), "an operation in a stream");
    if (f != NULL && gpu->device->ops->event_create(gpu->device, 0, &f->done) < 0) {
        pldi_free(f);
        f = NULL;
    }
    return f;
}

/* With the lock held. */
static void put_back(struct pldi_gpu *gpu, struct pldi_flight *f)
{
    f->next = gpu->spare;
    f->held = 0;
    f->code = 0;
    gpu->spare = f;
}

void pldi_flight_drop(struct pldi_gpu *gpu, struct pldi_flight *flight)
{
    (void)pthread_mutex_lock(&gpu->lock);
    flight->held = 0;
    if (flight->owner == NULL)
        put_back(gpu, flight);
    (void)pthread_mutex_unlock(&gpu->lock);
}

int pldi_flight_launch(struct pldi_gpu_group *g, struct pldi_flight *flight, pld_stream stream)
{
    struct pldi_gpu *gpu = g->gpu;

    PLDI_TRY(gpu->device->ops->event_record(gpu->device, flight->done, stream));
    (void)pthread_mutex_lock(&gpu->lock);
    flight->owner = g;
    flight->stream = stream;
    flight->next = NULL;
    if (g->last != NULL)
        g->last->next = flight;
    else
        g->first = flight;
    g->last = flight;
    pldi_health_started(g->group->health, flight->ticket);
    (void)pthread_mutex_unlock(&gpu->lock);
    return PLD_OK;
}

int pldi_flight_follow(struct pldi_gpu_group *g, pld_stream stream)
{
    struct pldi_gpu *gpu = g->gpu;
    int rc = PLD_OK;

    (void)pthread_mutex_lock(&gpu->lock);
    if (g->last != NULL && g->last->stream != stream)
        rc = gpu->device->ops->stream_after(gpu->device, stream, g->last->done);
    (void)pthread_mutex_unlock(&gpu->lock);
    return rc;
}

/* With the lock held: the oldest flight is over. */
static void land(struct pldi_gpu_group *g, int code)
{
    struct pldi_flight *f = g->first;

    g->first = f->next;
    if (g->first == NULL)
        g->last = NULL;
    pldi_health_ended(g->group->health, f->ticket, code);
    f->owner = NULL;
    f->code = code;
    if (!f->held)
        put_back(g->gpu, f);
}

/* With the lock held: the group ends, with this thread's sentence; the first word holds. */
static void mark(struct pldi_gpu_group *g, int code)
{
    if (atomic_load(&g->code) == 0) {
        (void)snprintf(g->why, sizeof(g->why), "%s", pld_last_error());
        atomic_store(&g->code, code);
        /* Whoever finds it out, also the watchdog: the node's other ranks look there. */
        if (g->group->team != NULL)
            pldi_team_break(g->group->team, code);
    }
    while (g->first != NULL)
        land(g, g->code);
}

/* With the lock held: what has come.  In order of launch, for streams follow each other. */
static void reap(struct pldi_gpu_group *g)
{
    pld_device *device = g->gpu->device;

    while (g->first != NULL) {
        int done = 0;
        const int rc = device->ops->event_test(device, g->first->done, &done);

        if (rc < 0)
            mark(g, rc);
        else if (done)
            land(g, PLD_OK);
        else
            return;
    }
}

int pldi_flight_test(struct pldi_gpu *gpu, struct pldi_flight *flight)
{
    int over;

    (void)pthread_mutex_lock(&gpu->lock);
    if (flight->owner != NULL)
        reap(flight->owner);
    over = flight->owner == NULL;
    (void)pthread_mutex_unlock(&gpu->lock);
    return over;
}

/* ---- Ends ---- */

/* Another rank gave up.  That ranks went apart this one can see as well as that one did. */
static int gave_up(const struct pldi_gpu_group *g, int rank, int code)
{
    char text[PLDI_TEXT_BYTES] = "";

    if (code == PLD_ERR_MISMATCH)
        pldi_health_differ(g->group->health, text, sizeof(text));
    if (text[0] != '\0')
        return pldi_gpu_apart(g->group, text);
    return pldi_fail(PLD_ERR_PEER, "rank %d gave up (%s) an operation on device memory", rank,
                     pld_error_name(code));
}

/* A rank of the node that gave up says so in shared memory. */
static int look_at_team(const struct pldi_gpu_group *g)
{
    const struct pldi_team *team = g->group->team;

    for (int r = 0; team != NULL && r < team->size; r++) {
        const int code = atomic_load(&pldi_team_seat(team, r)->progress.broken);

        if (code != 0 && r != team->rank)
            return gave_up(g, r, code);
    }
    return PLD_OK;
}

int pldi_gpu_look(const struct pldi_gpu_group *g, uint64_t ticket, uint64_t sequence, int peer)
{
    const int code = atomic_load(&g->code);

    if (code != 0)
        return pldi_fail(code, "%s", g->why);
    if (atomic_load(&g->gpu->stop) || pldi_health_is_over(g->group->health))
        return pldi_fail(PLD_ERR_TIMEOUT, "the job was given up");
    PLDI_TRY(look_at_team(g));
    return pldi_health_look(g->group->health, ticket, sequence, peer);
}

int pldi_gpu_failed(const struct pldi_gpu_group *g)
{
    PLDI_TRY(pldi_health_group_alarm(g->group->health));
    return pldi_fail(g->code, "%s", g->why);
}

/* With the lock held: with a communicator that is aborted goes what shares its resources. */
static void mark_family(struct pldi_gpu *gpu, int code, const char *why)
{
    for (struct pldi_gpu_group *g = gpu->groups; g != NULL && gpu->family; g = g->next) {
        if (g->comm == NULL || g->code != 0)
            continue;
        (void)pldi_fail(code, "%s", why);
        mark(g, code);
    }
}

/* With the lock held: abort the communicators of groups that have ended, or all. */
static void abort_comms(struct pldi_gpu *gpu, int all)
{
    const int give_back = take_turn(gpu);
    struct pldi_comm *comms[PLDI_GPU_FLIGHTS];
    size_t n;

    do {
        n = 0;
        for (struct pldi_gpu_group *g = gpu->groups; g != NULL; g = g->next) {
            if (g->comm == NULL || n == PLDI_GPU_FLIGHTS || (!all && g->code == 0))
                continue;
            comms[n++] = g->comm;
            g->comm = NULL;
        }
        (void)pthread_mutex_unlock(&gpu->lock);
        if (n > 0)
            gpu->device->comm->abort(comms, n);
        (void)pthread_mutex_lock(&gpu->lock);
    } while (n == PLDI_GPU_FLIGHTS);
    if (give_back)
        gpu->taken = 0;
    (void)pthread_cond_signal(&gpu->turn);
}

void pldi_gpu_end_family(struct pldi_gpu *gpu, int code)
{
    char why[PLDI_TEXT_BYTES];

    (void)snprintf(why, sizeof(why), "%s", pld_last_error());
    (void)pthread_mutex_lock(&gpu->lock);
    mark_family(gpu, code, why);
    abort_comms(gpu, 0);
    (void)pthread_mutex_unlock(&gpu->lock);
}

int pldi_gpu_fail(struct pldi_gpu_group *g, int code)
{
    struct pldi_gpu *gpu = g->gpu;
    char text[PLDI_TEXT_BYTES];

    (void)snprintf(text, sizeof(text), "%s", pld_last_error());
    /* What comes of another rank's having given up the job is its timeout. */
    if (pldi_health_node_alarm(g->group->health)) {
        code = pldi_health_group_alarm(g->group->health);
        (void)snprintf(text, sizeof(text), "%s", pld_last_error());
    }
    (void)pldi_fail(code, "%s", text);
    (void)pthread_mutex_lock(&gpu->lock);
    mark(g, code);
    mark_family(gpu, g->code, g->why);
    abort_comms(gpu, 0);
    (void)pthread_mutex_unlock(&gpu->lock);
    if (g->group->broken == 0)
        pldi_group_break(g->group, g->code);
    return pldi_fail(g->code, "%s", g->why);
}

/* By the watchdog's thread, a few times a second. */
static void tick(void *context)
{
    struct pldi_gpu *gpu = context;
    const struct pldi_gpu_group *ended = NULL;

    (void)pthread_mutex_lock(&gpu->lock);
    for (struct pldi_gpu_group *g = gpu->groups; g != NULL; g = g->next) {
        const struct pldi_flight *f;
        int rc = PLD_OK;

        reap(g);
        f = g->first;
        /* Why another rank gave up says more than what NCCL makes of it. */
        if (f != NULL)
            rc = pldi_gpu_look(g, f->ticket, f->sequence, f->peer);
        if (rc >= 0 && g->comm != NULL && g->connected && g->code == 0)
            rc = gpu->device->comm->poll(g->comm);
        /* What another rank's giving up looks like; the alarm comes by itself. */
        if (rc < 0 && rc != PLD_ERR_TIMEOUT && !pldi_health_node_alarm(g->group->health))
            mark(g, rc);
        ended = g->code != 0 && g->comm != NULL ? g : ended;
    }
    if (ended != NULL) {
        mark_family(gpu, ended->code, ended->why);
        abort_comms(gpu, 0);
    }
    (void)pthread_mutex_unlock(&gpu->lock);
}

/* The job was given up: whatever kernels wait for others must end, or nothing does. */
static void alarm(void *context)
{
    struct pldi_gpu *gpu = context;

    atomic_store(&gpu->stop, 1);
    (void)pthread_mutex_lock(&gpu->lock);
    for (struct pldi_gpu_group *g = gpu->groups; g != NULL; g = g->next) {
        if (g->first == NULL && g->comm == NULL)
            continue;
        (void)pldi_fail(PLD_ERR_TIMEOUT, "the job was given up");
        mark(g, PLD_ERR_TIMEOUT);
    }
    abort_comms(gpu, 1);
    (void)pthread_mutex_unlock(&gpu->lock);
}

/* ---- Groups ---- */

int pldi_gpu_attach(pld_group *group, struct pldi_gpu *gpu)
{
    struct pldi_gpu_group *g;

    if (gpu == NULL)
        return PLD_OK;
    g = pldi_alloc(1, sizeof(*g), "a group's part on a GPU");
    if (g == NULL)
        return PLD_ERR_NOMEM;
    g->gpu = gpu;
    g->group = group;
    group->gpu = gpu;
    group->on_gpu = g;
    (void)pthread_mutex_lock(&gpu->lock);
    g->next = gpu->groups;
    gpu->groups = g;
    (void)pthread_mutex_unlock(&gpu->lock);
    return PLD_OK;
}

void pldi_gpu_quiet(pld_group *group)
{
    struct pldi_gpu_group *g = group->on_gpu;
    struct pldi_flight f;
    int tries = 0;
    int rc = PLD_OK;

    if (g == NULL)
        return;
    while (rc == PLD_OK) {
        (void)pthread_mutex_lock(&g->gpu->lock);
        reap(g);
        f = g->first != NULL ? *g->first : (struct pldi_flight){.owner = NULL};
        (void)pthread_mutex_unlock(&g->gpu->lock);
        if (f.owner == NULL)
            break;
        rc = pldi_gpu_look(g, f.ticket, f.sequence, f.peer);
        pldi_engine_idle(group->engine, &tries);
    }
    if (rc < 0)
        (void)pldi_gpu_fail(g, rc);
    (void)pldi_gpu_judge(g, 1);
}

void pldi_group_quiet(pld_group *group)
{
    pldi_gpu_quiet(group);
}

void pldi_group_end(pld_group *group, int code)
{
    if (group->on_gpu != NULL)
        (void)pldi_gpu_fail(group->on_gpu, code);
    else
        pldi_group_break(group, code);
}

void pldi_gpu_detach(pld_group *group)
{
    struct pldi_gpu_group *g = group->on_gpu;
    struct pldi_gpu_group **list;
    struct pldi_comm *comm;
    struct pldi_gpu *gpu;

    if (g == NULL)
        return;
    pldi_gpu_quiet(group);
    gpu = g->gpu;
    pldi_gpu_enter(gpu);
    (void)pthread_mutex_lock(&gpu->lock);
    for (list = &gpu->groups; *list != g; list = &(*list)->next)
        ;
    *list = g->next;
    comm = g->comm;
    (void)pthread_mutex_unlock(&gpu->lock);
    if (comm != NULL && g->code != 0)
        gpu->device->comm->abort(&comm, 1);
    else if (comm != NULL)
        (void)gpu->device->comm->close(&comm);
    pldi_gpu_leave(gpu);
    gpu->device->ops->free(gpu->device, g->scratch);
    gpu->device->ops->stream_destroy(gpu->device, &g->stream);
    gpu->device->ops->event_destroy(gpu->device, &g->start);
    pldi_gpu_regions_free(g);
    pldi_free((void *)g->sources);
    pldi_free(g);
    group->on_gpu = NULL;
    group->gpu = NULL;
}

/* ---- Opening ---- */

/* What a rank knows and wants. */
struct said {
    int32_t has_nccl, sharing, path, share;
    int32_t split, family, registers; /* 1: it could, and wants to */
    uint64_t chunk, scratch;
};

static int read_bytes(const char *name, uint64_t usual, uint64_t *out)
{
    const char *text = getenv(name);
    char *end = NULL;

    *out = usual;
    if (text == NULL || text[0] == '\0')
        return PLD_OK;
    *out = strtoull(text, &end, 10);
    if (*end != '\0' || *out < MIN_CHUNK || *out > MAX_CHUNK)
        return pldi_fail(PLD_ERR_ARG, "%s is \"%s\", need bytes, %d..%d", name, text, MIN_CHUNK,
                         MAX_CHUNK);
    return PLD_OK;
}

static int read_switch(const char *name, int usual, int32_t *out)
{
    const char *text = getenv(name);

    *out = usual;
    if (text == NULL || text[0] == '\0')
        return PLD_OK;
    *out = strcmp(text, "1") == 0;
    if (!*out && strcmp(text, "0") != 0)
        return pldi_fail(PLD_ERR_ARG, "%s is \"%s\", need 0 or 1", name, text);
    return PLD_OK;
}

static int read_path(struct said *said)
{
    const char *path = getenv("POLDER_DEVICE_PATH");
    const char *shared = getenv("POLDER_SHARED_GPU");

    if (path != NULL && strcmp(path, "nccl") == 0)
        said->path = PLDI_PATH_NCCL;
    else if (path != NULL && strcmp(path, "staged") == 0)
        said->path = PLDI_PATH_STAGED;
    else if (path != NULL && path[0] != '\0')
        return pldi_fail(PLD_ERR_ARG, "POLDER_DEVICE_PATH is \"%s\", need nccl or staged", path);
    said->share = shared != NULL && strcmp(shared, "nccl") == 0;
    if (shared != NULL && shared[0] != '\0' && !said->share && strcmp(shared, "staged") != 0)
        return pldi_fail(PLD_ERR_ARG, "POLDER_SHARED_GPU is \"%s\", need staged or nccl", shared);
    PLDI_TRY(read_switch("POLDER_NCCL_SPLIT", 1, &said->split));
    PLDI_TRY(read_switch("POLDER_NCCL_SHARE", 0, &said->family));
    PLDI_TRY(read_switch("POLDER_NCCL_REGISTER", 1, &said->registers));
    PLDI_TRY(read_bytes("POLDER_DEVICE_CHUNK", PLDI_GPU_CHUNK, &said->chunk));
    return read_bytes("POLDER_DEVICE_SCRATCH", PLDI_GPU_SCRATCH, &said->scratch);
}

/* From what all said, so on all ranks alike. */
static int decide(struct pldi_gpu *gpu, const struct said *all, int size)
{
    int missing = -1;
    int shares = -1;

    gpu->split = gpu->family = gpu->registers = 1;
    for (int r = size - 1; r >= 0; r--) {
        if (all[r].path != all[0].path || all[r].share != all[0].share ||
            all[r].chunk != all[0].chunk || all[r].scratch != all[0].scratch)
            return pldi_fail(PLD_ERR_MISMATCH,
                             "ranks 0 and %d have different POLDER_DEVICE_PATH, POLDER_SHARED_GPU, "
                             "POLDER_DEVICE_CHUNK or POLDER_DEVICE_SCRATCH",
                             r);
        missing = all[r].has_nccl ? missing : r;
        shares = all[r].sharing > 1 ? r : shares;
        gpu->split &= all[r].split;
        gpu->family &= all[r].family;
        gpu->registers &= all[r].registers;
    }
    gpu->family &= gpu->split;
    gpu->device->family = gpu->family;
    gpu->path = (enum pldi_gpu_path)all[0].path;
    gpu->chunk = (size_t)all[0].chunk;
    gpu->scratch = (size_t)all[0].scratch;
    if (gpu->path == PLDI_PATH_STAGED)
        (void)snprintf(gpu->note, sizeof(gpu->note), "POLDER_DEVICE_PATH is staged");
    else if (missing >= 0)
        (void)snprintf(gpu->note, sizeof(gpu->note), "rank %d: %s", missing,
                       missing == gpu->world->rank ? gpu->device->ops->comm_note(gpu->device)
                                                   : "NCCL cannot be used there");
    else if (shares >= 0 && !all[0].share)
        (void)snprintf(gpu->note, sizeof(gpu->note),
                       "rank %d shares its GPU with %d others; POLDER_SHARED_GPU=nccl tries NCCL "
                       "all the same",
                       shares, all[shares].sharing - 1);
    gpu->nccl = gpu->note[0] == '\0';
    gpu->registers &= gpu->nccl;
    gpu->device->registers = gpu->registers;
    if (gpu->path == PLDI_PATH_NCCL && !gpu->nccl)
        return pldi_fail(PLD_ERR_UNSUPPORTED, "POLDER_DEVICE_PATH is nccl, but %s", gpu->note);
    if (gpu->nccl && shares >= 0)
        return gpu->device->comm->share(gpu->device, gpu->world->rank);
    return PLD_OK;
}

static int agree_path(struct pldi_gpu *gpu, struct said *all)
{
    pld_group *world = gpu->world;
    struct said *mine = all != NULL ? &all[world->rank] : NULL;
    int rc = all == NULL ? PLD_ERR_NOMEM : read_path(mine);

    PLDI_TRY(pld_agree(world, rc));
    mine->has_nccl = gpu->device->comm != NULL;
    mine->split &= mine->has_nccl && gpu->device->comm->can_split(gpu->device);
    mine->registers &= mine->has_nccl && gpu->device->comm->can_register(gpu->device);
    mine->sharing = gpu->device->sharing;
    PLDI_TRY(pld_allgather(world, mine, all, sizeof(*all), PLD_U8, NULL));
    return pld_agree(world, decide(gpu, all, world->size));
}

int pldi_gpu_open(pld_group *world)
{
    struct pldi_gpu *gpu;
    struct said *all;
    int rc;

    if (world->device == NULL)
        return PLD_OK;
    gpu = pldi_alloc(1, sizeof(*gpu), "the way of device memory");
    rc = pld_agree(world, gpu == NULL ? PLD_ERR_NOMEM : PLD_OK);
    if (rc < 0) {
        pldi_free(gpu);
        return rc;
    }
    (void)pthread_mutex_init(&gpu->lock, NULL);
    (void)pthread_cond_init(&gpu->turn, NULL);
    gpu->device = world->device;
    gpu->world = world;
    all = pldi_alloc((size_t)world->size, sizeof(*all), "the way of device memory");
    rc = agree_path(gpu, all);
    pldi_free(all);
    if (rc == PLD_OK)
        rc = pld_agree(world, pldi_gpu_attach(world, gpu));
    if (rc < 0) {
        pldi_gpu_detach(world);
        pldi_gpu_close(&gpu);
        return rc;
    }
    if (world->health != NULL)
        pldi_health_set_watch(pldi_health_group_owner(world->health), tick, alarm, gpu);
    return PLD_OK;
}

void pldi_gpu_close(struct pldi_gpu **gpu)
{
    struct pldi_gpu *g = *gpu;

    if (g == NULL)
        return;
    pldi_staged_close(g);
    while (g->spare != NULL) {
        struct pldi_flight *f = g->spare;

        g->spare = f->next;
        g->device->ops->event_destroy(g->device, &f->done);
        pldi_free(f);
    }
    (void)pthread_cond_destroy(&g->turn);
    (void)pthread_mutex_destroy(&g->lock);
    pldi_free(g);
    *gpu = NULL;
}
