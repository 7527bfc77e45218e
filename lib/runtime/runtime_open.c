/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A process is in one job or in none.  That is a fact about the process, so the
 * flag that says so is the library's one global besides the error buffer.
 */

#include "runtime/runtime.h"

#include <polder/mem.h>

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base_clock.h"
#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "coll/coll.h"
#include "coll/coll_device.h"
#include "coll/coll_health.h"
#include "coll/coll_mem.h"
#include "coll/coll_shape.h"
#include "coll/coll_shm.h"
#include "device/device.h"
#include "runtime/runtime_device.h"
#include "topo/topo.h"
#include "transport/transport.h"

enum { OPTS_SIZE_0_1 = 24, OPTS_SIZE = 80, YIELDS = 1000 };
_Static_assert(sizeof(pld_runtime_opts) == OPTS_SIZE, "padding, or ABI");

static const double DEADLINE = 300; /* seconds */
static const double LONGEST = 1e9;
static const double LOOK_SECONDS = 0.5;

static atomic_flag is_open = ATOMIC_FLAG_INIT;

struct pld_runtime {
    struct pldi_engine *engine;
    pld_group *world;
    struct pldi_transport *transport; /* only as long as there is no world */
    struct pldi_node node;
    struct pldi_place *places; /* of all ranks, while the runtime opens */
    struct pldi_health *health;
    pld_device *device;
    struct pldi_gpu *gpu;
    char device_note[PLDI_NOTE_BYTES];
    int holds_flag;
};

static int find_node(pld_runtime *rt)
{
    const int rank = rt->world->rank;
    const int size = rt->world->size;
    struct pldi_place *places = pldi_alloc((size_t)size, sizeof(*places), "the node map");
    int *homes = pldi_alloc(2 * (size_t)size, sizeof(*homes), "the node map");
    struct pldi_machine machine;
    int rc = pld_agree(rt->world, places == NULL || homes == NULL ? PLD_ERR_NOMEM : PLD_OK);

    if (rc == PLD_OK) {
        pldi_topo_look(&machine);
        pldi_topo_here(rank, size, &places[rank]);
        places[rank].numa = machine.numa;
        rc = pld_allgather(rt->world, &places[rank], places, sizeof(*places), PLD_U8, NULL);
    }
    if (rc == PLD_OK) {
        pldi_topo_node(places, rank, size, &rt->node);
        pldi_engine_set_cores(rt->engine, rt->node.cpus, rt->node.sharing);
        pldi_topo_homes(places, size, homes);
        pldi_topo_numas(places, homes, size, homes + size);
        rc = pldi_node_open(rt->world, homes,
                            &(struct pldi_node_facts){homes + size, machine.cache_bytes,
                                                      rt->node.cpus < rt->node.sharing});
    }
    pldi_free(homes);
    rt->places = places;
    return rc;
}

/* Seconds, 0: none.  POLDER_TIMEOUT counts where the caller does not say. */
static int read_timeout(double wanted, double *out)
{
    const char *text = getenv("POLDER_TIMEOUT");
    char *end = NULL;

    if (!(wanted <= LONGEST))
        return pldi_fail(PLD_ERR_ARG, "timeout is %g, need at most %g", wanted, LONGEST);
    *out = wanted < 0 ? 0 : wanted > 0 ? wanted : DEADLINE;
    if (wanted != 0 || text == NULL || text[0] == '\0')
        return PLD_OK;
    *out = strtod(text, &end);
    if (*end != '\0' || !(*out >= 0 && *out <= LONGEST))
        return pldi_fail(PLD_ERR_ARG, "POLDER_TIMEOUT is \"%s\", need seconds, 0..%g", text,
                         LONGEST);
    return PLD_OK;
}

/* POLDER_ON_TIMEOUT counts where the caller does not say. */
static int read_deadline(const pld_runtime_opts *o, struct pldi_health_opts *out)
{
    const char *then = getenv("POLDER_ON_TIMEOUT");

    PLDI_TRY(read_timeout(o->timeout, &out->timeout));
    out->kill = o->on_timeout == PLD_TIMEOUT_ABORT;
    if (o->on_timeout != PLD_TIMEOUT_DEFAULT || then == NULL || then[0] == '\0')
        return PLD_OK;
    out->kill = strcmp(then, "abort") == 0;
    if (!out->kill && strcmp(then, "return") != 0)
        return pldi_fail(PLD_ERR_ARG, "POLDER_ON_TIMEOUT is \"%s\", need return or abort", then);
    return PLD_OK;
}

static int read_health(const pld_runtime_opts *o, struct pldi_health_opts *out)
{
    const char *dir = o->trace_dir != NULL ? o->trace_dir : getenv("POLDER_TRACE_DIR");

    *out = (struct pldi_health_opts){.report = o->report,
                                     .give_up = o->give_up,
                                     .context = o->context,
                                     .kind_name = pldi_kind_name,
                                     .op_name = pldi_reduce_name};
    if (dir != NULL && dir[0] != '\0')
        out->trace_dir = dir;
    if (o->on_timeout < PLD_TIMEOUT_DEFAULT || o->on_timeout > PLD_TIMEOUT_ABORT)
        return pldi_fail(PLD_ERR_ARG, "on_timeout is %d, need 0..%d", o->on_timeout,
                         PLD_TIMEOUT_ABORT);
    return read_deadline(o, out);
}

static int open_health(pld_runtime *rt, const pld_runtime_opts *o)
{
    const char *check = getenv("POLDER_CHECK");
    struct pldi_health_opts opts;
    int32_t checks = o->check != 0 || (check != NULL && strcmp(check, "sync") == 0);

    PLDI_TRY(pld_agree(rt->world, read_health(o, &opts)));
    /* Both ends of a message must announce it, or none. */
    PLDI_TRY(pld_allreduce(rt->world, &checks, &checks, 1, PLD_I32, PLD_MAX, NULL));
    rt->world->check = checks;
    return pldi_coll_open_health(rt->world, &opts, &rt->health);
}

/* One that is none is refused later, on all ranks. */
static double opening_timeout(const pld_runtime_opts *o)
{
    double seconds = 0;

    return read_timeout(o->timeout, &seconds) < 0 ? DEADLINE : seconds;
}

static int wire(pld_runtime *rt, const pld_runtime_opts *opts)
{
    const char *wanted = getenv("POLDER_COMM_THREAD");
    const int threads = rt->transport->threads && (wanted == NULL || atoi(wanted) != 0);
    struct pldi_transport *transport = rt->transport;

    PLDI_TRY(pldi_engine_create(threads, 0, &rt->engine));
    rt->transport = NULL;
    PLDI_TRY(pldi_group_create(rt->engine, transport, &rt->world));
    pldi_engine_set_limit(rt->engine, opening_timeout(opts));
    PLDI_TRY(find_node(rt));
    PLDI_TRY(open_health(rt, opts));
    pldi_engine_set_limit(rt->engine, 0);
    PLDI_TRY(pldi_runtime_device_open(rt->world, opts->device, rt->places, &rt->node, &rt->device,
                                      rt->device_note));
    rt->world->device = rt->device;
    PLDI_TRY(pldi_gpu_open(rt->world));
    rt->gpu = rt->world->gpu;
    pldi_free(rt->places);
    rt->places = NULL;
    return PLD_OK;
}

int pldi_runtime_open(const struct pldi_transport_ops *ops, const struct pldi_transport_args *args,
                      const pld_runtime_opts *opts, pld_runtime **out)
{
    const pld_runtime_opts none = {PLD_OPTS(pld_runtime_opts)};
    pld_runtime *rt = pldi_alloc(1, sizeof(*rt), "the runtime");
    int rc;

    if (rt == NULL)
        return PLD_ERR_NOMEM;
    rc = ops->open(args, &rt->transport);
    if (rc == PLD_OK)
        rc = wire(rt, opts != NULL ? opts : &none);
    if (rc < 0) {
        (void)pld_runtime_close(&rt);
        return rc;
    }
    *out = rt;
    return PLD_OK;
}

static int open_by_name(const pld_runtime_opts *o, pld_runtime **out)
{
    const struct pldi_transport_args args = {
        .use_comm = o->use_comm, .comm = o->comm, .timeout = opening_timeout(o)};
    const struct pldi_transport_ops *ops;
    const char *name = o->transport != NULL ? o->transport : getenv("POLDER_TRANSPORT");

    PLDI_TRY(pldi_transport_find(name != NULL && name[0] != '\0' ? name : "mpi", &ops));
    return pldi_runtime_open(ops, &args, o, out);
}

int pld_runtime_open(const pld_runtime_opts *opts, pld_runtime **out)
{
    PLDI_ENTER();
    pld_runtime_opts o = {PLD_OPTS(pld_runtime_opts)};
    int rc;

    PLDI_CHECK_ARG(out != NULL);
    if (opts != NULL)
        PLDI_TRY(pldi_opts_copy(&o, sizeof(o), opts, OPTS_SIZE_0_1));
    if (o.use_comm != 0 && o.use_comm != 1)
        return pldi_fail(PLD_ERR_ARG, "use_comm is %d, need 0 or 1", o.use_comm);
    if (atomic_flag_test_and_set(&is_open))
        return pldi_fail(PLD_ERR_STATE, "this process has joined a job already; close that first");
    rc = open_by_name(&o, out);
    if (rc < 0)
        atomic_flag_clear(&is_open);
    else
        (*out)->holds_flag = 1;
    return rc;
}

/* While there still are an engine, and memory that the node's ranks share. */
static void close_gpu(pld_runtime *rt)
{
    if (rt->gpu == NULL)
        return;
    pldi_gpu_detach(rt->world);
    if (rt->health != NULL)
        pldi_health_set_watch(rt->health, NULL, NULL, NULL);
    pldi_gpu_close(&rt->gpu);
}

static int is_lost(const pld_runtime *rt)
{
    if (rt->world != NULL && rt->world->health == NULL) /* it did not come to be open */
        return rt->world->broken != 0;
    return rt->health != NULL && pldi_health_is_lost(rt->health);
}

/* Until all ranks leave: 1 if some never will, for ranks may be lost, or give up. */
static int await_leaving(const pld_runtime *rt, struct pldi_transport *t)
{
    const struct timespec nap = {0, 100000};
    double looked = pldi_now();
    int lost = is_lost(rt);
    int done = t->ops->leave == NULL;
    int rc = PLD_OK;

    for (int tries = 0; rc == PLD_OK && !lost && !done; tries++) {
        rc = t->ops->leave(t, &done);
        if (tries < YIELDS)
            (void)sched_yield();
        else
            (void)nanosleep(&nap, NULL);
        if (pldi_now() - looked < LOOK_SECONDS)
            continue;
        looked = pldi_now();
        lost = is_lost(rt);
    }
    return lost || rc < 0;
}

int pld_runtime_close(pld_runtime **runtime)
{
    struct pldi_node_shm *node;
    struct pldi_transport *t;
    pld_runtime *rt;
    int rc = PLD_OK;

    if (runtime == NULL || *runtime == NULL)
        return PLD_OK;
    rt = *runtime;
    if (rt->gpu != NULL)
        pldi_gpu_quiet(rt->world);
    if (rt->engine != NULL && pldi_engine_active(rt->engine) > 0)
        return pldi_fail(PLD_ERR_STATE, "%d operations are under way; wait for their requests",
                         pldi_engine_active(rt->engine));
    *runtime = NULL;
    close_gpu(rt);
    if (rt->health != NULL)
        pldi_health_leave(rt->health);
    pldi_engine_destroy(&rt->engine);
    t = rt->world != NULL ? rt->world->transport : rt->transport;
    node = rt->world != NULL ? rt->world->node : NULL;
    if (t != NULL)
        t->lost = await_leaving(rt, t);
    if (rt->world != NULL)
        rc = pldi_group_close(&rt->world);
    else if (t != NULL)
        rc = t->ops->close(t);
    pldi_node_close(&node);
    pldi_health_destroy(&rt->health);
    pldi_device_close(&rt->device);
    pldi_free(rt->places);
    if (rt->holds_flag)
        atomic_flag_clear(&is_open);
    pldi_free(rt);
    return rc;
}

int pld_runtime_rank(const pld_runtime *runtime)
{
    return runtime->world->rank;
}

int pld_runtime_size(const pld_runtime *runtime)
{
    return runtime->world->size;
}

int pld_runtime_local_rank(const pld_runtime *runtime)
{
    return runtime->node.local_rank;
}

int pld_runtime_local_size(const pld_runtime *runtime)
{
    return runtime->node.local_size;
}

pld_group *pld_runtime_world(pld_runtime *runtime)
{
    return runtime->world;
}

pld_device *pld_runtime_device(pld_runtime *runtime)
{
    return runtime->device;
}

const char *pld_runtime_device_note(const pld_runtime *runtime)
{
    return runtime->gpu != NULL ? runtime->gpu->note : runtime->device_note;
}

const char *pld_runtime_report(const pld_runtime *runtime)
{
    return pldi_health_report(runtime->health);
}

int pld_runtime_set_timeout(pld_runtime *runtime, double timeout)
{
    double seconds = 0;

    PLDI_CHECK_ARG(runtime != NULL);
    PLDI_TRY(read_timeout(timeout, &seconds));
    pldi_health_set_timeout(runtime->health, seconds);
    return PLD_OK;
}

int pld_mem_alloc(pld_runtime *runtime, size_t bytes, void **out)
{
    void *memory;

    PLDI_CHECK_ARG(runtime != NULL && out != NULL);
    memory = pldi_mem_alloc(runtime->world, bytes, 1, "a buffer");
    if (memory == NULL)
        return PLD_ERR_NOMEM;
    *out = memory;
    return PLD_OK;
}

void pld_mem_free(pld_runtime *runtime, void *memory)
{
    pldi_mem_free(runtime->world, memory);
}
