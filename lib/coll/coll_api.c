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

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "coll/coll.h"

enum { OPTS_SIZE_0_1 = 32, MAX_TAG = (1 << 20) - 1, TRIES_AT_ONCE = 3000 };
_Static_assert(sizeof(pld_coll_opts) == OPTS_SIZE_0_1, "padding, or ABI");

static int is_floating(pld_dtype dtype)
{
    return dtype == PLD_F32 || dtype == PLD_F64 || dtype == PLD_F16 || dtype == PLD_BF16;
}

static int check_buffer(const char *call, const char *name, const void *buffer, size_t count,
                        pld_dtype dtype, size_t times)
{
    const size_t bytes = pld_dtype_bytes(dtype);
    size_t total;

    if (bytes == 0)
        return pldi_fail(PLD_ERR_ARG, "%s: %d is no dtype", call, (int)dtype);
    if (__builtin_mul_overflow(count, bytes, &total) ||
        __builtin_mul_overflow(total, times, &total) || total > PTRDIFF_MAX)
        return pldi_fail(PLD_ERR_ARG, "%s: %zu x %zu elements are more than memory can hold", call,
                         times, count);
    if (buffer == NULL && total > 0)
        return pldi_fail(PLD_ERR_ARG, "%s: %s is NULL, with %zu elements", call, name, count);
    if ((uintptr_t)buffer % bytes != 0)
        return pldi_fail(PLD_ERR_ARG, "%s: %s is not aligned to %s", call, name,
                         pld_dtype_name(dtype));
    return PLD_OK;
}

static int check_overlap(const char *call, const void *a, size_t a_bytes, const void *b,
                         size_t b_bytes, const void *in_place)
{
    const uintptr_t x = (uintptr_t)a;
    const uintptr_t y = (uintptr_t)b;

    if (a_bytes == 0 || b_bytes == 0 || (uintptr_t)in_place == (a_bytes < b_bytes ? x : y) ||
        x + a_bytes <= y || y + b_bytes <= x)
        return PLD_OK;
    return pldi_fail(PLD_ERR_ARG, "%s: send and recv overlap without being in place", call);
}

static int read_opts(const pld_coll_opts *opts, pld_coll_opts *out)
{
    *out = (pld_coll_opts){PLD_OPTS(pld_coll_opts)};
    if (opts == NULL)
        return PLD_OK;
    return pldi_opts_copy(out, sizeof(*out), opts, OPTS_SIZE_0_1);
}

/* Set the operator; the factor of an average is part of the scale. */
static int set_op(const char *call, pld_request *op, pld_op reduce, double scale)
{
    if ((int)reduce < PLD_SUM || (int)reduce > PLD_PROD)
        return pldi_fail(PLD_ERR_ARG, "%s: %d is no operator", call, (int)reduce);
    if (!isfinite(scale))
        return pldi_fail(PLD_ERR_ARG, "%s: scale is %g", call, scale);
    scale = scale == 0 ? 1 : scale;
    if (!is_floating(op->dtype) && (reduce == PLD_AVG || scale != 1))
        return pldi_fail(PLD_ERR_ARG, "%s: %s of %s; average and scale need a floating type", call,
                         reduce == PLD_AVG ? "average" : "scale", pld_dtype_name(op->dtype));
    op->op = reduce;
    op->print.op = (uint32_t)reduce;
    op->print.scale = scale;
    op->scale = reduce == PLD_AVG ? scale / op->group->size : scale;
    return PLD_OK;
}

static void fill(pld_request *op, pld_group *group, enum pldi_kind kind, const void *send,
                 void *recv, size_t count, pld_dtype dtype)
{
    memset(op, 0, offsetof(pld_request, text));
    op->text[0] = '\0';
    op->group = group;
    op->kind = kind;
    op->send = send;
    op->recv = recv;
    op->count = count;
    op->dtype = dtype;
    op->scale = 1;
    op->print.kind = (uint32_t)kind;
    op->print.dtype = (uint32_t)dtype;
    op->print.count = count;
}

static int finish(pld_request *op)
{
    const int code = op->code;

    if (code < 0)
        (void)pldi_fail(code, "%s", op->text);
    if (!op->spare)
        pldi_free(op);
    return code;
}

/*
 * Where ranks meet in shared memory the way through the engine's lists costs as much
 * as the operation.  A bounded number of steps are made here first; what is not done
 * by then goes to the engine as it is, for others may wait for their turn there.
 */
static int try_at_once(pld_request *op)
{
    struct pldi_engine *engine = op->group->engine;
    int tries = 0;
    int rc = 0;

    if (op->group->team == NULL || op->kind == PLDI_SEND || op->kind == PLDI_RECV ||
        !pldi_engine_try_enter(engine))
        return 0;
    while (rc == 0 && tries < TRIES_AT_ONCE) {
        int moved = 0;

        rc = pldi_op_step(op, &moved);
        if (rc == 0 && moved)
            tries = 0;
        else if (rc == 0)
            pldi_engine_idle(engine, &tries);
    }
    pldi_engine_leave(engine);
    return rc;
}

static int post_and_wait(const pld_request *filled)
{
    pld_request *op = &filled->group->spare;
    int rc;

    *op = *filled;
    op->spare = 1;
    rc = try_at_once(op);
    if (rc != 0)
        return rc < 0 ? rc : PLD_OK;
    pldi_engine_post(op->group->engine, op, 0);
    pldi_engine_wait(op->group->engine, op);
    return finish(op);
}

static int post(pld_request *filled, const pld_coll_opts *opts)
{
    pld_request *op;

    if (filled->kind != PLDI_SEND && filled->kind != PLDI_RECV)
        filled->print.sequence = filled->group->sequence++;
    filled->name = opts->tag;
    if (opts->request == NULL)
        return post_and_wait(filled);
    op = pldi_alloc(1, sizeof(*op), "an operation");
    if (op == NULL && (filled->kind == PLDI_SEND || filled->kind == PLDI_RECV))
        return PLD_ERR_NOMEM;
    if (op == NULL) {
        filled->code = PLD_ERR_NOMEM;
        (void)snprintf(filled->text, sizeof(filled->text), "%s", pld_last_error());
        return post_and_wait(filled);
    }
    *op = *filled;
    *opts->request = op;
    pldi_engine_post(op->group->engine, op, 1);
    return PLD_OK;
}

int pld_allreduce(pld_group *group, const void *send, void *recv, size_t count, pld_dtype dtype,
                  pld_op op, const pld_coll_opts *opts)
{
    const size_t bytes = count * pld_dtype_bytes(dtype);
    pld_coll_opts o;
    pld_request r;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(read_opts(opts, &o));
    PLDI_TRY(check_buffer(__func__, "send", send, count, dtype, 1));
    PLDI_TRY(check_buffer(__func__, "recv", recv, count, dtype, 1));
    if (send != recv)
        PLDI_TRY(check_overlap(__func__, send, bytes, recv, bytes, NULL));
    fill(&r, group, PLDI_ALLREDUCE, send, recv, count, dtype);
    PLDI_TRY(set_op(__func__, &r, op, o.scale));
    return post(&r, &o);
}

int pld_reduce_scatter(pld_group *group, const void *send, void *recv, size_t count,
                       pld_dtype dtype, pld_op op, const pld_coll_opts *opts)
{
    const size_t bytes = count * pld_dtype_bytes(dtype);
    pld_coll_opts o;
    pld_request r;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(read_opts(opts, &o));
    PLDI_TRY(check_buffer(__func__, "send", send, count, dtype, (size_t)group->size));
    PLDI_TRY(check_buffer(__func__, "recv", recv, count, dtype, 1));
    PLDI_TRY(check_overlap(__func__, recv, bytes, send, bytes * (size_t)group->size,
                           (const char *)send + bytes * (size_t)group->rank));
    fill(&r, group, PLDI_REDUCE_SCATTER, send, recv, count, dtype);
    PLDI_TRY(set_op(__func__, &r, op, o.scale));
    return post(&r, &o);
}

int pld_allgather(pld_group *group, const void *send, void *recv, size_t count, pld_dtype dtype,
                  const pld_coll_opts *opts)
{
    const size_t bytes = count * pld_dtype_bytes(dtype);
    pld_coll_opts o;
    pld_request r;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(read_opts(opts, &o));
    PLDI_TRY(check_buffer(__func__, "send", send, count, dtype, 1));
    PLDI_TRY(check_buffer(__func__, "recv", recv, count, dtype, (size_t)group->size));
    PLDI_TRY(check_overlap(__func__, send, bytes, recv, bytes * (size_t)group->size,
                           (const char *)recv + bytes * (size_t)group->rank));
    fill(&r, group, PLDI_ALLGATHER, send, recv, count, dtype);
    return post(&r, &o);
}

int pld_broadcast(pld_group *group, void *buf, size_t count, pld_dtype dtype, int root,
                  const pld_coll_opts *opts)
{
    pld_coll_opts o;
    pld_request r;

    PLDI_CHECK_ARG(group != NULL);
    if (root < 0 || root >= group->size)
        return pldi_fail(PLD_ERR_ARG, "%s: root %d is not one of the %d ranks of the group",
                         __func__, root, group->size);
    PLDI_TRY(read_opts(opts, &o));
    PLDI_TRY(check_buffer(__func__, "buf", buf, count, dtype, 1));
    fill(&r, group, PLDI_BROADCAST, buf, buf, count, dtype);
    r.root = r.print.root = root;
    return post(&r, &o);
}

int pld_barrier(pld_group *group, const pld_coll_opts *opts)
{
    pld_coll_opts o;
    pld_request r;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(read_opts(opts, &o));
    fill(&r, group, PLDI_BARRIER, NULL, NULL, 0, PLD_U8);
    return post(&r, &o);
}

int pld_agree(pld_group *group, int code)
{
    const pld_coll_opts o = {PLD_OPTS(pld_coll_opts)};
    pld_request r;

    PLDI_CHECK_ARG(group != NULL);
    fill(&r, group, PLDI_AGREE, NULL, NULL, 0, PLD_U8);
    r.code = code < 0 ? code : 0;
    if (code < 0)
        (void)snprintf(r.text, sizeof(r.text), "%s", pld_last_error());
    return post(&r, &o);
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
    pld_request r;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(check_peer(__func__, group, dest, tag));
    PLDI_TRY(read_opts(opts, &o));
    PLDI_TRY(check_buffer(__func__, "buf", buf, count, dtype, 1));
    fill(&r, group, PLDI_SEND, buf, NULL, count, dtype);
    r.peer = dest;
    r.tag = tag;
    return post(&r, &o);
}

int pld_recv(pld_group *group, void *buf, size_t count, pld_dtype dtype, int source, int tag,
             const pld_coll_opts *opts)
{
    pld_coll_opts o;
    pld_request r;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(check_peer(__func__, group, source, tag));
    PLDI_TRY(read_opts(opts, &o));
    PLDI_TRY(check_buffer(__func__, "buf", buf, count, dtype, 1));
    fill(&r, group, PLDI_RECV, NULL, buf, count, dtype);
    r.peer = source;
    r.tag = tag;
    return post(&r, &o);
}

int pld_request_wait(pld_request **request)
{
    pld_request *op;

    PLDI_CHECK_ARG(request != NULL);
    op = *request;
    if (op == NULL)
        return PLD_OK;
    *request = NULL;
    pldi_engine_wait(op->group->engine, op);
    return finish(op);
}

int pld_request_test(pld_request **request, int *done)
{
    pld_request *op;

    PLDI_CHECK_ARG(request != NULL && done != NULL);
    op = *request;
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
