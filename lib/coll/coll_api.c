/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The public calls: check, fill in an operation, hand it to the engine.
 *
 * A collective call that waits uses the group's spare operation: it needs no
 * memory, and so cannot drop out before the others know.  One that does not
 * wait allocates; if that fails it takes part with the spare, tells the others,
 * and all return PLD_ERR_NOMEM.
 */

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "base/base_ticks.h"
#include "coll/coll_call.h"
#include "coll/coll_device.h"
#include "coll/coll_health.h"
#include "coll/coll_leaves.h"
#include "coll/coll_shm.h"

enum { MAX_TAG = (1 << 20) - 1, TRIES_AT_ONCE = 3000 };

/* Memory for an operation, of which nothing is zero; NULL: there is none. */
static pld_request *take_kept(pld_group *group)
{
    for (int i = 0; i < PLDI_KEPT; i++) {
        pld_request *op = atomic_load_explicit(&group->kept[i], memory_order_relaxed);

        if (op != NULL)
            op = atomic_exchange_explicit(&group->kept[i], NULL, memory_order_acquire);
        if (op != NULL)
            return op;
    }
    return pldi_alloc(1, sizeof(pld_request), "an operation");
}

static void keep(pld_request *op)
{
    pld_group *group = op->group;

    for (int i = 0; i < PLDI_KEPT; i++) {
        pld_request *none = NULL;

        if (atomic_load_explicit(&group->kept[i], memory_order_relaxed) == NULL &&
            atomic_compare_exchange_strong_explicit(&group->kept[i], &none, op,
                                                    memory_order_release, memory_order_relaxed))
            return;
    }
    pldi_free(op);
}

static int finish(pld_request *op)
{
    const int code = op->code;

    pldi_staged_release(op);
    if (code < 0)
        (void)pldi_fail(code, "%s", op->text);
    pldi_free(op->memory);
    if (op->home == PLDI_KEPT_HOME)
        keep(op);
    return code;
}

/* At least those of this rank's node. */
static int meets_in_memory(const pld_group *group)
{
    const pld_group *meets = pldi_team_group(group);

    return meets != NULL && meets->team != NULL;
}

/*
 * Where ranks meet in shared memory the way through the engine's lists costs as much
 * as the operation.  A bounded number of steps are made here first, as long as no other thread
 * wants its operations moved on; what is not done by then goes to the engine as it is.
 */
static int try_at_once(pld_request *op)
{
    struct pldi_engine *engine = op->group->engine;
    const uint64_t now = pldi_ticks();
    int tries = 0;
    int rc = 0;

    op->ticket = pldi_health_ticket(op->group->health);
    if (!meets_in_memory(op->group) || !pldi_engine_try_enter(engine)) {
        pldi_coll_called(op, now);
        return 0;
    }
    pldi_op_hasten(op);
    pldi_coll_called(op, now);
    if (pldi_engine_may_spin(engine))
        pldi_team_spin(op);
    while (rc == 0 && tries < TRIES_AT_ONCE && !pldi_engine_is_wanted(engine)) {
        int moved = 0;

        rc = pldi_op_step(op, &moved);
        if (rc == 0 && moved)
            tries = 0;
        else if (rc == 0)
            pldi_engine_idle(engine, &tries);
    }
    pldi_engine_leave_quickly(engine);
    return rc;
}

/* It is the group's spare one. */
static int do_and_wait(pld_request *op)
{
    const int rc = try_at_once(op);

    if (rc != 0 && op->staged != NULL) {
        op->code = rc < 0 ? rc : PLD_OK;
        if (rc < 0)
            (void)snprintf(op->text, sizeof(op->text), "%s", pld_last_error());
        return finish(op);
    }
    if (rc != 0) {
        pldi_free(op->memory);
        return rc < 0 ? rc : PLD_OK;
    }
    pldi_engine_post(op->group->engine, op, 0);
    pldi_engine_wait(op->group->engine, op);
    return finish(op);
}

static void copy_operation(pld_request *to, const pld_request *from)
{
    memcpy(to, from, offsetof(pld_request, text));
    to->text[0] = '\0';
    if (from->code < 0)
        memcpy(to->text, from->text, sizeof(to->text));
}

/* Where it will be is free now. */
static int move_and_wait(const pld_request *filled)
{
    pld_request *op = &filled->group->spare;

    copy_operation(op, filled);
    op->home = PLDI_SPARE_HOME;
    return do_and_wait(op);
}

/* Without memory for an operation of its own. */
static int take_part(pld_request *filled)
{
    if (filled->kind == PLDI_SEND || filled->kind == PLDI_RECV) {
        pldi_staged_release(filled);
        return PLD_ERR_NOMEM;
    }
    if (filled->code == 0) {
        filled->code = PLD_ERR_NOMEM;
        (void)snprintf(filled->text, sizeof(filled->text), "%s", pld_last_error());
    }
    return move_and_wait(filled);
}

/* One that was not begun. */
static int drop(pld_request *filled, int code)
{
    pldi_staged_release(filled);
    pldi_free(filled->memory);
    if (filled->home == PLDI_KEPT_HOME)
        keep(filled);
    return code;
}

static int post_filled(pld_request *filled, const pld_coll_opts *opts)
{
    pld_request *op = filled;
    int rc = 1;

    if (filled->group->gpu != NULL)
        rc = pldi_gpu_post(filled, opts);
    if (rc <= 0)
        return rc;
    filled->name = opts->tag;
    if (filled->kind != PLDI_SEND && filled->kind != PLDI_RECV)
        pldi_op_number(filled, filled->group->sequence++);
    rc = pldi_coll_may(filled);
    if (rc < 0)
        return drop(filled, rc);
    if (filled->home == PLDI_SPARE_HOME)
        return do_and_wait(filled);
    if (opts->request == NULL)
        return move_and_wait(filled);
    if (filled->home == PLDI_NO_HOME) {
        /* Without a GPU, it was asked for in place_for(). */
        op = filled->group->gpu != NULL ? take_kept(filled->group) : NULL;
        if (op == NULL)
            return take_part(filled);
        copy_operation(op, filled);
        op->home = PLDI_KEPT_HOME;
    }
    op->ticket = pldi_health_ticket(op->group->health);
    pldi_coll_called(op, pldi_ticks());
    *opts->request = op;
    pldi_engine_post(op->group->engine, op, 1);
    return PLD_OK;
}

/*
 * Where a call is filled in: in the place where it will be.  With a GPU that place is needed
 * before, for what the ranks must agree on to use it, and it is where the caller has one.
 */
static pld_request *place_for(pld_group *group, const pld_coll_opts *opts, pld_request *callers)
{
    pld_request *kept;

    if (group->gpu != NULL)
        return callers;
    if (opts->request == NULL)
        return &group->spare;
    kept = take_kept(group);
    return kept != NULL ? kept : callers;
}

/* It was filled in there, or refused. */
static int settle(pld_request *filled, const pld_request *callers, int code)
{
    if (filled == &filled->group->spare)
        filled->home = PLDI_SPARE_HOME;
    else if (filled != callers)
        filled->home = PLDI_KEPT_HOME;
    if (code < 0 && filled->home == PLDI_KEPT_HOME)
        keep(filled);
    return code;
}

/* Inlined: the address that it takes is that of the public function's caller. */
static inline __attribute__((always_inline)) int post(pld_request *filled,
                                                      const pld_coll_opts *opts)
{
    PLDI_ENTER();

    return post_filled(filled, opts);
}

static inline __attribute__((always_inline)) int collective(const struct pldi_call *call,
                                                            const pld_coll_opts *opts)
{
    pld_coll_opts o;
    pld_request local;
    pld_request *r;

    PLDI_TRY(pldi_call_opts(opts, &o));
    if (call->group == NULL)
        return pldi_fail(PLD_ERR_ARG, "%s: need group != NULL", call->name);
    r = place_for(call->group, &o, &local);
    PLDI_TRY(settle(r, &local, pldi_call_fill(call, o.scale, r)));
    return post(r, &o);
}

int pld_allreduce(pld_group *group, const void *send, void *recv, size_t count, pld_dtype dtype,
                  pld_op op, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_ALLREDUCE,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .count = count,
                                   .dtype = dtype,
                                   .op = op};

    return collective(&call, opts);
}

int pld_reduce(pld_group *group, const void *send, void *recv, size_t count, pld_dtype dtype,
               pld_op op, int root, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_REDUCE,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .count = count,
                                   .dtype = dtype,
                                   .op = op,
                                   .root = root};

    return collective(&call, opts);
}

int pld_reduce_scatter(pld_group *group, const void *send, void *recv, size_t count,
                       pld_dtype dtype, pld_op op, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_REDUCE_SCATTER,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .count = count,
                                   .dtype = dtype,
                                   .op = op};

    return collective(&call, opts);
}

int pld_reduce_scatter_v(pld_group *group, const void *send, void *recv, const size_t *counts,
                         pld_dtype dtype, pld_op op, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_REDUCE_SCATTER_V,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .counts = counts,
                                   .dtype = dtype,
                                   .op = op};

    return collective(&call, opts);
}

int pld_allgather(pld_group *group, const void *send, void *recv, size_t count, pld_dtype dtype,
                  const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_ALLGATHER,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .count = count,
                                   .dtype = dtype};

    return collective(&call, opts);
}

int pld_allgather_v(pld_group *group, const void *send, void *recv, const size_t *counts,
                    pld_dtype dtype, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_ALLGATHER_V,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .counts = counts,
                                   .dtype = dtype};

    return collective(&call, opts);
}

int pld_broadcast(pld_group *group, void *buf, size_t count, pld_dtype dtype, int root,
                  const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_BROADCAST,
                                   .group = group,
                                   .send = buf,
                                   .recv = buf,
                                   .count = count,
                                   .dtype = dtype,
                                   .root = root};

    return collective(&call, opts);
}

int pld_alltoall(pld_group *group, const void *send, void *recv, size_t count, pld_dtype dtype,
                 const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_ALLTOALL,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .count = count,
                                   .dtype = dtype};

    return collective(&call, opts);
}

int pld_alltoall_v(pld_group *group, const void *send, const size_t *send_counts, void *recv,
                   const size_t *recv_counts, pld_dtype dtype, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_ALLTOALL_V,
                                   .group = group,
                                   .send = send,
                                   .counts = send_counts,
                                   .recv = recv,
                                   .recv_counts = recv_counts,
                                   .dtype = dtype};

    return collective(&call, opts);
}

int pld_gather(pld_group *group, const void *send, void *recv, size_t count, pld_dtype dtype,
               int root, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_GATHER,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .count = count,
                                   .dtype = dtype,
                                   .root = root};

    return collective(&call, opts);
}

int pld_gather_v(pld_group *group, const void *send, void *recv, const size_t *counts,
                 pld_dtype dtype, int root, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_GATHER_V,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .counts = counts,
                                   .dtype = dtype,
                                   .root = root};

    return collective(&call, opts);
}

int pld_scatter(pld_group *group, const void *send, void *recv, size_t count, pld_dtype dtype,
                int root, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_SCATTER,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .count = count,
                                   .dtype = dtype,
                                   .root = root};

    return collective(&call, opts);
}

int pld_scatter_v(pld_group *group, const void *send, void *recv, const size_t *counts,
                  pld_dtype dtype, int root, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_SCATTER_V,
                                   .group = group,
                                   .send = send,
                                   .recv = recv,
                                   .counts = counts,
                                   .dtype = dtype,
                                   .root = root};

    return collective(&call, opts);
}

int pld_allreduce_leaves(pld_group *group, const pld_leaf *leaves, size_t n, uint64_t total,
                         void *recv, size_t count, pld_dtype dtype, pld_op op,
                         const pld_coll_opts *opts)
{
    pld_coll_opts o;
    pld_request local;
    pld_request *r;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(pldi_call_opts(opts, &o));
    r = place_for(group, &o, &local);
    pldi_call_start(r, group, PLDI_LEAVES, NULL, recv, count, dtype);
    PLDI_TRY(settle(r, &local, pldi_leaves_fill(r, leaves, n, total, op, o.scale)));
    return post(r, &o);
}

int pld_allreduce_list(pld_group *group, const pld_coll_item *items, size_t n, pld_dtype dtype,
                       pld_op op, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_ALLREDUCE,
                                   .group = group,
                                   .items = items,
                                   .n_items = n,
                                   .has_items = 1,
                                   .dtype = dtype,
                                   .op = op};

    return collective(&call, opts);
}

int pld_reduce_scatter_list(pld_group *group, const pld_coll_item *items, size_t n, pld_dtype dtype,
                            pld_op op, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_REDUCE_SCATTER,
                                   .group = group,
                                   .items = items,
                                   .n_items = n,
                                   .has_items = 1,
                                   .dtype = dtype,
                                   .op = op};

    return collective(&call, opts);
}

int pld_allgather_list(pld_group *group, const pld_coll_item *items, size_t n, pld_dtype dtype,
                       const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_ALLGATHER,
                                   .group = group,
                                   .items = items,
                                   .n_items = n,
                                   .has_items = 1,
                                   .dtype = dtype};

    return collective(&call, opts);
}

int pld_broadcast_list(pld_group *group, const pld_coll_item *items, size_t n, pld_dtype dtype,
                       int root, const pld_coll_opts *opts)
{
    const struct pldi_call call = {.name = __func__,
                                   .kind = PLDI_BROADCAST,
                                   .group = group,
                                   .items = items,
                                   .n_items = n,
                                   .has_items = 1,
                                   .dtype = dtype,
                                   .root = root};

    return collective(&call, opts);
}

int pld_barrier(pld_group *group, const pld_coll_opts *opts)
{
    const struct pldi_call call = {
        .name = __func__, .kind = PLDI_BARRIER, .group = group, .dtype = PLD_U8};

    return collective(&call, opts);
}

int pld_agree(pld_group *group, int code)
{
    const pld_coll_opts o = {PLD_OPTS(pld_coll_opts)};
    pld_request *r;

    PLDI_CHECK_ARG(group != NULL);
    r = &group->spare;
    pldi_call_start(r, group, PLDI_AGREE, NULL, NULL, 0, PLD_U8);
    r->home = PLDI_SPARE_HOME;
    r->code = code < 0 ? code : 0;
    if (code < 0)
        (void)snprintf(r->text, sizeof(r->text), "%s", pld_last_error());
    return post(r, &o);
}

static int check_peer(const char *call, const pld_group *group, int peer, int tag)
{
    const int most = group->transport->max_tag - PLDI_TAG_P2P;

    if (peer < 0 || peer >= group->size)
        return pldi_fail(PLD_ERR_ARG, "%s: rank %d is not one of the %d ranks of the group", call,
                         peer, group->size);
    if (tag < 0 || tag > MAX_TAG)
        return pldi_fail(PLD_ERR_ARG, "%s: tag is %d, need 0..%d", call, tag, MAX_TAG);
    if (tag > most)
        return pldi_fail(PLD_ERR_UNSUPPORTED, "%s: tag is %d, this MPI has 0..%d", call, tag, most);
    return PLD_OK;
}

int pld_send(pld_group *group, const void *buf, size_t count, pld_dtype dtype, int dest, int tag,
             const pld_coll_opts *opts)
{
    pld_coll_opts o;
    pld_request local;
    pld_request *r;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(check_peer(__func__, group, dest, tag));
    PLDI_TRY(pldi_call_opts(opts, &o));
    PLDI_TRY(pldi_call_check_buffer(__func__, "buf", buf, count, dtype));
    r = place_for(group, &o, &local);
    pldi_call_start(r, group, PLDI_SEND, buf, NULL, count, dtype);
    (void)settle(r, &local, PLD_OK);
    r->peer = dest;
    r->tag = tag;
    return post(r, &o);
}

int pld_recv(pld_group *group, void *buf, size_t count, pld_dtype dtype, int source, int tag,
             const pld_coll_opts *opts)
{
    pld_coll_opts o;
    pld_request local;
    pld_request *r;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(check_peer(__func__, group, source, tag));
    PLDI_TRY(pldi_call_opts(opts, &o));
    PLDI_TRY(pldi_call_check_buffer(__func__, "buf", buf, count, dtype));
    r = place_for(group, &o, &local);
    pldi_call_start(r, group, PLDI_RECV, NULL, buf, count, dtype);
    (void)settle(r, &local, PLD_OK);
    r->peer = source;
    r->tag = tag;
    return post(r, &o);
}

int pld_request_wait(pld_request **request)
{
    pld_request *op;

    PLDI_CHECK_ARG(request != NULL);
    op = *request;
    if (op == NULL)
        return PLD_OK;
    *request = NULL;
    if (op->flight != NULL)
        return pldi_gpu_wait(op);
    pldi_engine_wait(op->group->engine, op);
    return finish(op);
}

int pld_request_after(pld_request **request, pld_stream stream)
{
    pld_request *op;

    PLDI_CHECK_ARG(request != NULL);
    op = *request;
    if (op == NULL || op->flight == NULL)
        return pld_request_wait(request);
    *request = NULL;
    return pldi_gpu_after(op, stream);
}

int pld_request_test(pld_request **request, int *done)
{
    pld_request *op;

    PLDI_CHECK_ARG(request != NULL && done != NULL);
    op = *request;
    if (op != NULL && op->flight != NULL) {
        const int rc = pldi_gpu_test(op, done);

        *request = *done ? NULL : op;
        return rc;
    }
    if (op != NULL && !pldi_engine_test(op->group->engine, op)) {
        *done = 0;
        return PLD_OK;
    }
    *done = 1;
    *request = NULL;
    return op == NULL ? PLD_OK : finish(op);
}

int pld_request_wait_all(size_t count, pld_request **requests)
{
    char text[PLDI_TEXT_BYTES];
    int first = PLD_OK;

    PLDI_CHECK_ARG(requests != NULL || count == 0);
    for (size_t i = 0; i < count; i++) {
        const int rc = pld_request_wait(&requests[i]);

        if (rc < 0 && first == PLD_OK) {
            first = rc;
            (void)snprintf(text, sizeof(text), "%s", pld_last_error());
        }
    }
    return first == PLD_OK ? PLD_OK : pldi_fail(first, "%s", text);
}
