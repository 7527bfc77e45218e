/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Copies, fills, and the work of other libraries. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fake_cuda_impl.h"

struct copy {
    unsigned char *dst;
    const unsigned char *src;
    size_t bytes;
    unsigned char *staged; /* pageable source, as it was at the call */
    int value;             /* of a fill */
};

static int run_copy(void *context)
{
    const struct copy *c = context;

    memmove(c->dst, c->staged != NULL ? c->staged : c->src, c->bytes);
    return 1;
}

static int run_fill(void *context)
{
    const struct copy *c = context;

    memset(c->dst, c->value, c->bytes);
    return 1;
}

static void release(void *context)
{
    struct copy *c = context;

    free(c->staged);
    free(c);
}

static struct copy *copy_new(pldi_cu_pointer dst, pldi_cu_pointer src, size_t bytes)
{
    struct copy *c = fake_alloc(1, sizeof(*c));

    c->dst = (unsigned char *)(uintptr_t)dst;
    c->src = (const unsigned char *)(uintptr_t)src;
    c->bytes = bytes;
    return c;
}

/*
 * With pageable memory CUDA stages: the source is read in the call, and a destination on
 * the host is there when the call returns.
 */
static int copy(struct CUctx_st *ctx, struct copy *c, pldi_cu_stream stream)
{
    struct CUstream_st *s = fake_stream_of(ctx, stream);
    size_t dst_left, src_left;
    const enum fake_place to = fake_place_of(c->dst, &dst_left);
    const enum fake_place from = fake_place_of(c->src, &src_left);
    const bool pageable = to == FAKE_PAGEABLE || from == FAKE_PAGEABLE;
    struct fake_work *work = fake_work_new(run_copy, c, release);
    int rc = PLDI_CU_SUCCESS;

    if (s == NULL)
        rc = PLDI_CU_INVALID_HANDLE;
    else if (c->bytes > dst_left || c->bytes > src_left)
        rc = PLDI_CU_INVALID_VALUE;
    else if (pageable)
        rc = fake_capture_forbid(s);
    if (rc != PLDI_CU_SUCCESS) {
        fake_work_put(work);
        return rc;
    }
    if (from == FAKE_PAGEABLE) {
        c->staged = fake_alloc(c->bytes + 1, 1);
        memcpy(c->staged, c->src, c->bytes);
    }
    fake_work_fault(work, "copy");
    rc = fake_submit(ctx, stream, work);
    if (rc == PLDI_CU_SUCCESS && to == FAKE_PAGEABLE)
        fake_wait_stream(s, s->queued);
    return rc == PLDI_CU_SUCCESS ? ctx->error : rc;
}

int cuMemcpyAsync(pldi_cu_pointer dst, pldi_cu_pointer src, size_t bytes, pldi_cu_stream stream)
{
    struct CUctx_st *ctx;
    int rc;

    FAKE_COUNT(cuMemcpyAsync);
    fake_lock();
    rc = fake_current(&ctx);
    if (rc == PLDI_CU_SUCCESS && bytes > 0)
        rc = copy(ctx, copy_new(dst, src, bytes), stream);
    fake_unlock();
    return rc;
}

static int fill(struct CUctx_st *ctx, struct copy *c, pldi_cu_stream stream)
{
    struct fake_work *work = fake_work_new(run_fill, c, release);
    size_t left;

    if (fake_place_of(c->dst, &left) == FAKE_PAGEABLE || c->bytes > left) {
        fake_work_put(work);
        return PLDI_CU_INVALID_VALUE;
    }
    fake_work_fault(work, "fill");
    return fake_submit(ctx, stream, work);
}

int cuMemsetD8Async(pldi_cu_pointer dst, unsigned char value, size_t bytes, pldi_cu_stream stream)
{
    struct CUctx_st *ctx;
    int rc;

    FAKE_COUNT(cuMemsetD8Async);
    fake_lock();
    rc = fake_current(&ctx);
    if (rc == PLDI_CU_SUCCESS && bytes > 0) {
        struct copy *c = copy_new(dst, 0, bytes);

        c->value = value;
        rc = fill(ctx, c, stream);
    }
    fake_unlock();
    return rc;
}

int fake_cuda_enqueue_again(pldi_cu_stream stream, int (*step)(void *), void *context,
                            void (*give_back)(void *))
{
    struct fake_work *work = NULL;
    struct CUctx_st *ctx = NULL;
    int rc;

    fake_lock();
    rc = fake_current(&ctx);
    work = fake_work_new(step, context, give_back);
    if (rc == PLDI_CU_SUCCESS)
        rc = fake_submit(ctx, stream, work);
    else
        fake_work_put(work);
    fake_unlock();
    return rc;
}

/* With the lock held; gives it up. */
static int enqueue(int rc, struct CUctx_st *ctx, pldi_cu_stream stream, int (*step)(void *),
                   void *context)
{
    if (rc == PLDI_CU_SUCCESS) {
        struct fake_work *work = fake_work_new(step, context, NULL);

        work->foreign = true;
        rc = fake_submit(ctx, stream, work);
    }
    fake_unlock();
    return rc;
}

int fake_cuda_enqueue(pldi_cu_stream stream, int (*step)(void *), void *context)
{
    struct CUctx_st *ctx = NULL;
    int rc;

    fake_lock();
    rc = fake_current(&ctx);
    return enqueue(rc, ctx, stream, step, context);
}

int fake_cuda_enqueue_on(int device, pldi_cu_stream stream, int (*step)(void *), void *context)
{
    struct CUctx_st *ctx = NULL;
    int rc;

    fake_lock();
    rc = fake_context_of(device, &ctx);
    return enqueue(rc, ctx, stream, step, context);
}

unsigned long fake_cuda_live(const char *what)
{
    static const struct {
        const char *what;
        enum fake_kind kind;
    } kinds[] = {{"streams", FAKE_STREAM}, {"events", FAKE_EVENT}, {"modules", FAKE_MODULE}};
    unsigned long n = 0;
    bool known = true;

    fake_lock();
    if (strcmp(what, "graphs") == 0)
        n = fake_handle_count(FAKE_GRAPH) + fake_handle_count(FAKE_EXEC);
    else if (strcmp(what, "device bytes") == 0)
        n = fake_device_bytes();
    else if (strcmp(what, "pinned bytes") == 0)
        n = fake_pinned_bytes();
    else
        known = false;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strcmp(what, kinds[i].what) == 0) {
            n = fake_handle_count(kinds[i].kind);
            known = true;
        }
    fake_unlock();
    if (!known)
        fake_die("fake_cuda_live: there is no \"%s\"", what);
    return n;
}
