/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A step is a walk over the buckets in one fixed order.  Readiness only moves the
 * point up to which the walk may go: `next` passes a bucket when nothing in it is
 * pending any more.  So all ranks launch the same operations in the same order
 * without a word about it, whatever the order in which their gradients complete.
 *
 * Waiting makes every remaining exchange even after an error and keeps the first
 * error: a rank that fails does not leave the others in a collective alone.
 */

#include <polder/dp.h>

#include <string.h>

#include "base/base_clock.h"
#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "coll/coll_mem.h"
#include "device/device.h"
#include "dp/dp_plan.h"
#include "health/health_site.h"

/* What a caller built against 0.1 passes.  Stays when the struct grows. */
enum { OPTS_SIZE_0_1 = 32 };
_Static_assert(sizeof(pld_dp_opts) == OPTS_SIZE_0_1, "padding, or ABI");

enum { BUCKET_BYTES = 25 << 20, FIRST_BUCKET_BYTES = 1 << 20 };

/*
 * Where the gradients of a bucket come from.  A bucket with one producer leaves after that
 * stream; others are gathered in the stream `join` of the pld_dp.
 */
struct producers {
    pld_stream stream; /* the last that was named */
    int known;         /* there is one */
    int joined;        /* others were before, and `join` is after them */
};

struct pld_dp {
    pld_params *params;
    pld_device *device; /* NULL: the host */
    pld_stream join;
    pld_group *group;
    pld_dp_opts opts;
    struct pldi_dp_plan plan;
    int tensors;
    void *scratch[PLDI_PARAM_DTYPES]; /* gradients of tensors in the caller's memory */
    int *ready;                       /* [tensors]: calls of pld_dp_ready() in this step */
    int *pending;                     /* [buckets]: tensors that are not ready */
    struct producers *producers;      /* [buckets] */
    pld_request **requests;           /* [buckets] */
    int next;                         /* first bucket that has not left */
    int code;                         /* with which one of this step could not */
    int registered;                   /* the group has been told of the memory */
    int reduced;                      /* pld_dp_wait() has been here since the last readiness */
    int64_t zeroed;                   /* how often gradients had been set to zero by then */
    pld_dp_stats stats;
};

static int first_error(int rc, int next)
{
    return rc < 0 ? rc : next;
}

static void reset(pld_dp *dp)
{
    dp->next = 0;
    dp->code = PLD_OK;
    for (int i = 0; i < dp->tensors; i++)
        dp->ready[i] = 0;
    for (int b = 0; b < dp->plan.count; b++) {
        dp->pending[b] = dp->plan.buckets[b].tensors;
        dp->producers[b] = (struct producers){0};
    }
}

static char *bucket_memory(const pld_dp *dp, const struct pldi_dp_bucket *b)
{
    char *base = b->outside ? dp->scratch[b->dtype] : pldi_params_arena(dp->params, b->dtype)->grad;

    return base + b->offset * pld_dtype_bytes(b->dtype);
}

/* Between the caller's memory and the scratch, in order of `stream`. */
static int copy(pld_dp *dp, void *dst, const void *src, size_t bytes, pld_stream stream)
{
    if (dp->device != NULL)
        return dp->device->ops->copy(dp->device, dst, src, bytes, stream);
    memcpy(dst, src, bytes);
    return PLD_OK;
}

/* All tensors, or those of one bucket. */
static int copy_outside(pld_dp *dp, int bucket, int into_scratch, pld_stream stream)
{
    for (int i = 0; i < dp->tensors; i++) {
        const struct pldi_dp_bucket *b = &dp->plan.buckets[dp->plan.bucket_of[i]];
        const size_t bytes = pld_dtype_bytes(b->dtype);
        pld_param_info info;
        char *place;

        if (!b->outside || (bucket >= 0 && dp->plan.bucket_of[i] != bucket))
            continue;
        PLDI_TRY(pld_params_info(dp->params, i, &info));
        place = (char *)dp->scratch[b->dtype] + dp->plan.place[i] * bytes;
        PLDI_TRY(copy(dp, into_scratch ? place : info.grad, into_scratch ? info.grad : place,
                      info.count * bytes, stream));
    }
    return PLD_OK;
}

static int join(pld_dp *dp, struct producers *p)
{
    PLDI_TRY(pldi_params_order(dp->params, p->stream, dp->join));
    p->joined = 1;
    return PLD_OK;
}

/* One more stream that a bucket's gradients come from. */
static int add_producer(pld_dp *dp, int bucket, pld_stream stream)
{
    struct producers *p = &dp->producers[bucket];

    if (dp->device == NULL)
        return PLD_OK;
    if (p->known && p->stream != stream)
        PLDI_TRY(join(dp, p));
    p->stream = stream;
    p->known = 1;
    return PLD_OK;
}

/* The stream after which the bucket leaves.  What is copied first is copied beside backward. */
static int leaving_stream(pld_dp *dp, int bucket, pld_stream *out)
{
    struct producers *p = &dp->producers[bucket];

    *out = NULL;
    if (dp->device == NULL)
        return PLD_OK;
    if (dp->pending[bucket] > 0)
        PLDI_TRY(add_producer(dp, bucket, pldi_params_stream(dp->params)));
    if (p->joined || dp->plan.buckets[bucket].outside)
        PLDI_TRY(join(dp, p));
    *out = p->joined ? dp->join : p->stream;
    return PLD_OK;
}

static int launch(pld_dp *dp, int bucket)
{
    const struct pldi_dp_bucket *b = &dp->plan.buckets[bucket];
    pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .request = &dp->requests[bucket],
                          .tag = "gradient bucket"};
    char *memory = bucket_memory(dp, b);
    int rc = leaving_stream(dp, bucket, &opts.stream);

    if (rc == PLD_OK && b->outside)
        rc = copy_outside(dp, bucket, 1, opts.stream);
    PLDI_TRY(rc);
    PLDI_TRY(pld_allreduce(dp->group, memory, memory, b->count, b->dtype,
                           dp->opts.sum ? PLD_SUM : PLD_AVG, &opts));
    dp->stats.bytes_reduced += (int64_t)(b->count * pld_dtype_bytes(b->dtype));
    return PLD_OK;
}

/*
 * A bucket that could not be launched has left all the same: the other ranks have been
 * told in its place in the order of operations, and a second try would be one more.
 */
static int launch_next(pld_dp *dp)
{
    const int rc = launch(dp, dp->next++);

    dp->code = first_error(dp->code, rc);
    return rc;
}

/* Send off, in order, the buckets that are complete. */
static int advance(pld_dp *dp)
{
    int rc = PLD_OK;

    if (pld_group_size(dp->group) == 1)
        return PLD_OK;
    while (dp->next < dp->plan.count && dp->pending[dp->next] == 0)
        rc = first_error(rc, launch_next(dp));
    return rc;
}

int pld_dp_ready(pld_dp *dp, int id, pld_stream stream)
{
    PLDI_ENTER();
    pld_param_info info;
    int rc;

    PLDI_CHECK_ARG(dp != NULL);
    PLDI_TRY(pld_params_info(dp->params, id, &info));
    if (dp->ready[id] == dp->opts.accumulate)
        return pldi_fail(PLD_ERR_STATE,
                         "tensor '%s' is ready for the %dth time in this step, but accumulate is "
                         "%d",
                         info.name, dp->ready[id] + 1, dp->opts.accumulate);
    if (dp->device == NULL && stream != NULL)
        return pldi_fail(PLD_ERR_ARG, "tensor '%s' is in host memory, stream must be NULL",
                         info.name);
    if (dp->device != NULL)
        PLDI_TRY(pldi_device_check_stream(dp->device, "pld_dp_ready", stream));
    dp->reduced = 0;
    dp->ready[id]++;
    rc = add_producer(dp, dp->plan.bucket_of[id], stream);
    if (dp->ready[id] == dp->opts.accumulate)
        dp->pending[dp->plan.bucket_of[id]]--;
    dp->code = first_error(dp->code, rc);
    return first_error(rc, advance(dp));
}

/* After the average over dp: a shared tensor's gradient is the sum over its stages. */
static int sum_shared(pld_dp *dp)
{
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .tag = "shared gradient",
                                .stream = pldi_params_stream(dp->params)};
    int rc = PLD_OK;

    for (int i = 0; i < pldi_params_shared(dp->params); i++) {
        const int id = pldi_params_shared_id(dp->params, i);
        pld_param_info info;

        rc = first_error(rc, pld_params_info(dp->params, id, &info));
        rc = first_error(rc, pld_allreduce(pldi_params_holders(dp->params, id), info.grad,
                                           info.grad, info.count, info.dtype, PLD_SUM, &opts));
        dp->stats.bytes_reduced += (int64_t)(info.count * pld_dtype_bytes(info.dtype));
    }
    return rc;
}

/* The params' stream waits for producers: those of buckets that need not leave, too. */
static int await_producers(pld_dp *dp)
{
    const pld_stream stream = pldi_params_stream(dp->params);
    int rc = PLD_OK;

    for (int b = 0; b < dp->plan.count; b++) {
        const struct producers *p = &dp->producers[b];

        if (p->known)
            rc = first_error(rc, pldi_params_order(dp->params, p->stream, stream));
        if (p->joined)
            rc = first_error(rc, pldi_params_order(dp->params, dp->join, stream));
    }
    return rc;
}

/* On a GPU the params' stream waits for the reductions, elsewhere the host. */
static int await_reductions(pld_dp *dp)
{
    int rc = PLD_OK;

    if (dp->device == NULL)
        return pld_request_wait_all((size_t)dp->plan.count, dp->requests);
    for (int b = 0; b < dp->plan.count; b++)
        rc = first_error(rc, pld_request_after(&dp->requests[b], pldi_params_stream(dp->params)));
    return rc;
}

static int finish(pld_dp *dp)
{
    const double begin = pldi_now();
    const int alone = pld_group_size(dp->group) == 1;
    int rc;

    while (!alone && dp->next < dp->plan.count)
        (void)launch_next(dp);
    rc = dp->code;
    if (rc < 0)
        (void)pldi_fail(rc, "the reduction of a gradient bucket could not begin");
    rc = first_error(rc, await_reductions(dp));
    if (dp->device != NULL && alone)
        rc = first_error(rc, await_producers(dp));
    if (rc == PLD_OK && !alone)
        rc = copy_outside(dp, -1, 0, pldi_params_stream(dp->params));
    rc = first_error(rc, sum_shared(dp));
    reset(dp);
    dp->stats.steps += rc == PLD_OK;
    dp->stats.wait_s += pldi_now() - begin;
    return rc;
}

/* The reducer of the params: what pld_dp_wait() has reduced, and nobody has thrown away since, is
 * not reduced again. */
static int finish_once(void *context)
{
    pld_dp *dp = context;
    const int done = dp->reduced && dp->zeroed == pldi_params_zeroed(dp->params);

    dp->reduced = 0;
    return done ? PLD_OK : finish(dp);
}

int pld_dp_wait(pld_dp *dp)
{
    PLDI_ENTER();
    int rc;

    PLDI_CHECK_ARG(dp != NULL);
    rc = pldi_params_check_stream(dp->params, "pld_dp_wait");
    if (rc == PLD_OK)
        rc = finish(dp);
    rc = pld_agree(pld_mesh_world(pldi_params_mesh(dp->params)), rc);
    dp->reduced = rc == PLD_OK;
    dp->zeroed = pldi_params_zeroed(dp->params);
    return rc;
}

void pld_dp_get_stats(const pld_dp *dp, pld_dp_stats *out)
{
    *out = dp->stats;
}

static int read_opts(const pld_dp_opts *opts, pld_dp_opts *o)
{
    *o = (pld_dp_opts){PLD_OPTS(pld_dp_opts)};
    if (opts != NULL)
        PLDI_TRY(pldi_opts_copy(o, sizeof(*o), opts, OPTS_SIZE_0_1));
    if (o->accumulate < 0)
        return pldi_fail(PLD_ERR_ARG, "accumulate is %d, need 1 or more, or 0 for 1",
                         o->accumulate);
    if (o->sum != 0 && o->sum != 1)
        return pldi_fail(PLD_ERR_ARG, "sum is %d, need 0 or 1", o->sum);
    o->struct_size = 0; /* the caller's, which may differ between equal options */
    o->accumulate += o->accumulate == 0;
    o->bucket_bytes = o->bucket_bytes == 0 ? BUCKET_BYTES : o->bucket_bytes;
    o->first_bucket_bytes = o->first_bucket_bytes == 0 ? FIRST_BUCKET_BYTES : o->first_bucket_bytes;
    return PLD_OK;
}

static int make_plan(pld_dp *dp)
{
    struct pldi_dp_tensor *tensors =
        pldi_alloc((size_t)dp->tensors, sizeof(*tensors), "the bucket plan");
    int rc = tensors == NULL ? PLD_ERR_NOMEM : PLD_OK;

    for (int i = 0; rc == PLD_OK && i < dp->tensors; i++) {
        pld_param_info info;

        rc = pld_params_info(dp->params, i, &info);
        if (rc == PLD_OK)
            tensors[i] = (struct pldi_dp_tensor){info.count, pldi_params_offset(dp->params, i),
                                                 info.dtype, info.shared};
    }
    if (rc == PLD_OK)
        rc = pldi_dp_plan_make(tensors, dp->tensors, dp->opts.first_bucket_bytes,
                               dp->opts.bucket_bytes, &dp->plan);
    pldi_free(tensors);
    return rc;
}

static int alloc_memory(pld_dp *dp)
{
    const size_t buckets = (size_t)dp->plan.count;

    dp->ready = pldi_alloc((size_t)dp->tensors, sizeof(*dp->ready), "gradient counters");
    dp->pending = pldi_alloc(buckets, sizeof(*dp->pending), "bucket counters");
    dp->requests = pldi_alloc(buckets, sizeof(pld_request *), "bucket requests");
    dp->producers = pldi_alloc(buckets, sizeof(*dp->producers), "bucket streams");
    if (dp->ready == NULL || dp->pending == NULL || dp->requests == NULL || dp->producers == NULL)
        return PLD_ERR_NOMEM;
    if (dp->device != NULL)
        PLDI_TRY(dp->device->ops->stream_create(dp->device, 0, &dp->join));
    for (int d = 0; d < PLDI_PARAM_DTYPES && pld_group_size(dp->group) > 1; d++) {
        if (dp->plan.scratch[d] == 0)
            continue;
        PLDI_TRY(pldi_params_alloc_arena(dp->params, dp->plan.scratch[d],
                                         pld_dtype_bytes((pld_dtype)d), "bucket scratch",
                                         &dp->scratch[d]));
    }
    return PLD_OK;
}

/* What buckets are in, all of them in place: gradients, and copies of those that are not polder's.
 * Not the halves, whose sums pass through other memory; nor values, which are broadcast once, and
 * which callers may pass to operations of their own. */
static int register_memory(pld_dp *dp)
{
    struct pldi_region regions[2 * PLDI_PARAM_DTYPES];
    size_t n = 0;

    dp->registered = 1;
    for (int d = 0; d < PLDI_PARAM_DTYPES; d++) {
        const struct pldi_arena *arena = pldi_params_arena(dp->params, (pld_dtype)d);
        const size_t bytes = pld_dtype_bytes((pld_dtype)d);

        if (d == PLD_F16 || d == PLD_BF16)
            continue;
        regions[n++] = (struct pldi_region){arena->grad, arena->count * bytes};
        regions[n++] = (struct pldi_region){dp->scratch[d], dp->plan.scratch[d] * bytes};
    }
    return pldi_group_register(dp->group, regions, n);
}

/* The arenas may be those of another pld_dp, because of which this one was refused. */
static void unregister_memory(const pld_dp *dp)
{
    for (int d = 0; d < PLDI_PARAM_DTYPES && dp->registered; d++) {
        pldi_group_unregister(dp->group, pldi_params_arena(dp->params, (pld_dtype)d)->grad);
        pldi_group_unregister(dp->group, dp->scratch[d]);
    }
}

static int check_params(pld_params *params)
{
    static const pld_axis refused[] = {PLD_AXIS_CP, PLD_AXIS_EP};

    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        const int size = pld_mesh_size(pldi_params_mesh(params), refused[i]);

        if (size > 1)
            return pldi_fail(PLD_ERR_UNSUPPORTED,
                             "the mesh has %s=%d, but gradients are only reduced over dp",
                             pld_axis_name(refused[i]), size);
    }
    if (pldi_params_reducer(params) != NULL)
        return pldi_fail(PLD_ERR_STATE, "the params have a pld_dp already");
    return PLD_OK;
}

/* All that this rank does alone. */
static int prepare(pld_dp *dp, const pld_dp_opts *opts)
{
    PLDI_TRY(read_opts(opts, &dp->opts));
    PLDI_TRY(check_params(dp->params));
    PLDI_TRY(make_plan(dp));
    PLDI_TRY(alloc_memory(dp));
    reset(dp);
    dp->stats.buckets = dp->plan.count;
    return PLD_OK;
}

int pld_dp_create(pld_params *params, const pld_dp_opts *opts, pld_dp **out)
{
    PLDI_ENTER();
    pld_dp *dp;
    int rc;

    PLDI_CHECK_ARG(params != NULL && out != NULL);
    if (!pldi_params_committed(params))
        return pldi_fail(PLD_ERR_STATE, "pld_params_commit() comes before pld_dp_create()");
    dp = pldi_alloc(1, sizeof(*dp), "a data-parallel reduction");
    rc = dp == NULL ? PLD_ERR_NOMEM : PLD_OK;
    if (rc == PLD_OK) {
        dp->params = params;
        dp->device = pldi_params_device(params);
        dp->group = pld_mesh_group(pldi_params_mesh(params), PLD_AXIS_DP);
        dp->tensors = pld_params_count(params);
        rc = prepare(dp, opts);
    }
    rc = pldi_params_same(params, rc, rc < 0 ? 0 : pldi_hash64(&dp->opts, sizeof(dp->opts)),
                          "pld_dp_opts");
    if (rc == PLD_OK)
        rc = pld_agree(pld_mesh_world(pldi_params_mesh(params)), register_memory(dp));
    if (rc < 0) {
        pld_dp_destroy(&dp);
        return rc;
    }
    pldi_params_set_reducer(params, finish_once, dp);
    *out = dp;
    return PLD_OK;
}

void pld_dp_destroy(pld_dp **dp)
{
    pld_dp *d;

    if (dp == NULL || *dp == NULL)
        return;
    d = *dp;
    if (d->requests != NULL)
        (void)pld_request_wait_all((size_t)d->plan.count, d->requests);
    if (pldi_params_reducer(d->params) == d)
        pldi_params_set_reducer(d->params, NULL, NULL);
    unregister_memory(d);
    for (int i = 0; i < PLDI_PARAM_DTYPES; i++)
        pldi_params_free(d->params, d->scratch[i]);
    if (d->device != NULL)
        d->device->ops->stream_destroy(d->device, &d->join);
    pldi_dp_plan_free(&d->plan);
    pldi_free(d->ready);
    pldi_free(d->pending);
    pldi_free(d->requests);
    pldi_free(d->producers);
    pldi_free(d);
    *dp = NULL;
}
