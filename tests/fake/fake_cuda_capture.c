/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Recording streams, and graphs.  A graph is the list of what was put into the streams of
 * a capture, each a branch; a launch puts it there again, branch 0 into the stream of the
 * launch, each other into a stream of its own, with new marks between them.
 */

#include <pthread.h>
#include <stdlib.h>

#include "fake_cuda_impl.h"

enum { MAX_BRANCHES = 16, GLOBAL = 0, RELAXED = 2, NONE = -1 };

struct node {
    int branch;
    struct fake_work *work;
    int record, wait; /* mark; NONE */
};

struct CUgraph_st {
    struct fake_handle head;
    struct node *nodes;
    size_t n_nodes, room;
    int n_marks, n_branches;
};

struct CUgraphExec_st {
    struct fake_handle head;
    struct CUgraph_st *graph; /* no handle of it is given out */
    struct CUstream_st *branches[MAX_BRANCHES];
    struct fake_mark *last; /* end of the last launch */
};

struct fake_capture {
    struct fake_capture *next;
    unsigned long number;
    int mode;
    pthread_t thread;
    bool invalid;
    struct CUgraph_st *graph;
    struct CUstream_st *streams[MAX_BRANCHES];
    size_t added[MAX_BRANCHES], joined[MAX_BRANCHES]; /* nodes; those another branch waits for */
};

static struct fake_capture *captures;
static unsigned long n_captures;
static _Thread_local int thread_mode = GLOBAL;

/* ---- Graphs ---- */

static void append(struct CUgraph_st *g, struct node node)
{
    if (g->n_nodes == g->room) {
        g->room = 2 * g->room + 16;
        g->nodes = realloc(g->nodes, g->room * sizeof(*g->nodes));
        if (g->nodes == NULL)
            fake_die("out of host memory");
    }
    g->nodes[g->n_nodes++] = node;
}

static void graph_free(struct CUgraph_st *g)
{
    for (size_t i = 0; i < g->n_nodes; i++)
        fake_work_put(g->nodes[i].work);
    free(g->nodes);
    free(g);
}

static struct CUgraph_st *graph_copy(const struct CUgraph_st *g)
{
    struct CUgraph_st *copy = fake_alloc(1, sizeof(*copy));

    for (size_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].work != NULL)
            g->nodes[i].work->refs++;
        append(copy, g->nodes[i]);
    }
    copy->n_marks = g->n_marks;
    copy->n_branches = g->n_branches;
    return copy;
}

/* ---- What a capture notes ---- */

static void note(struct fake_capture *c, struct node node)
{
    append(c->graph, node);
    c->added[node.branch]++;
}

static int spoil(struct fake_capture *c, int code)
{
    c->invalid = true;
    return code;
}

int fake_capture_work(struct CUstream_st *stream, struct fake_work *work)
{
    struct fake_capture *c = stream->capture;
    int rc = PLDI_CU_SUCCESS;

    if (c->invalid)
        rc = FAKE_CU_CAPTURE_INVALIDATED;
    else if (work->foreign)
        rc = spoil(c, PLDI_CU_STREAM_CAPTURE_UNSUPPORTED);
    if (rc == PLDI_CU_SUCCESS)
        note(c, (struct node){stream->branch, work, NONE, NONE});
    else
        fake_work_put(work);
    return rc;
}

int fake_capture_record(struct CUstream_st *stream, struct CUevent_st *event)
{
    struct fake_capture *c = stream->capture;

    if (c->invalid)
        return FAKE_CU_CAPTURE_INVALIDATED;
    event->capture_number = c->number;
    event->captured = c->graph->n_marks++;
    event->branch = stream->branch;
    note(c, (struct node){stream->branch, NULL, event->captured, NONE});
    event->position = c->added[stream->branch];
    return PLDI_CU_SUCCESS;
}

static struct fake_capture *numbered(unsigned long number)
{
    struct fake_capture *c = captures;

    while (c != NULL && c->number != number)
        c = c->next;
    return c;
}

static int join(struct fake_capture *c, struct CUstream_st *stream)
{
    if (stream->legacy)
        return spoil(c, FAKE_CU_CAPTURE_IMPLICIT);
    if (c->graph->n_branches == MAX_BRANCHES)
        fake_die("a capture has more than %d streams", MAX_BRANCHES);
    stream->capture = c;
    stream->branch = c->graph->n_branches++;
    c->streams[stream->branch] = stream;
    return PLDI_CU_SUCCESS;
}

int fake_capture_wait(struct CUstream_st *stream, const struct CUevent_st *event)
{
    struct fake_capture *c = stream->capture;
    struct fake_capture *of = event->capture_number == 0 ? NULL : numbered(event->capture_number);
    int rc = PLDI_CU_SUCCESS;

    if (c != NULL && c->invalid)
        return FAKE_CU_CAPTURE_INVALIDATED;
    if (event->capture_number == 0 && event->mark == NULL)
        return PLDI_CU_SUCCESS; /* never recorded */
    if (of == NULL && c == NULL)
        return FAKE_CU_CAPTURED_EVENT; /* of a capture that is over */
    if (c != NULL && of != c)
        return spoil(c, FAKE_CU_CAPTURE_ISOLATION);
    if (c == NULL)
        rc = join(of, stream);
    if (rc != PLDI_CU_SUCCESS)
        return rc;
    note(of, (struct node){stream->branch, NULL, NONE, event->captured});
    if (stream->branch != event->branch && event->position > of->joined[event->branch])
        of->joined[event->branch] = event->position;
    return PLDI_CU_SUCCESS;
}

int fake_capture_unsafe(void)
{
    for (struct fake_capture *c = captures; c != NULL; c = c->next) {
        const bool mine = pthread_equal(c->thread, pthread_self());
        const bool global = c->mode == GLOBAL && thread_mode == GLOBAL;

        if (c->mode != RELAXED && thread_mode != RELAXED && (mine || global))
            return spoil(c, PLDI_CU_STREAM_CAPTURE_UNSUPPORTED);
    }
    return PLDI_CU_SUCCESS;
}

int fake_capture_forbid(struct CUstream_st *stream)
{
    if (stream->capture == NULL)
        return PLDI_CU_SUCCESS;
    return spoil(stream->capture, PLDI_CU_STREAM_CAPTURE_UNSUPPORTED);
}

/* A capture with a stream that waits for the default stream. */
static struct fake_capture *records_blocking(const struct CUctx_st *ctx)
{
    for (struct fake_capture *c = captures; c != NULL; c = c->next)
        for (int b = 0; b < c->graph->n_branches; b++)
            if (c->streams[b]->ctx == ctx && c->streams[b]->blocking)
                return c;
    return NULL;
}

int fake_capture_implicit(const struct CUctx_st *ctx)
{
    struct fake_capture *c = records_blocking(ctx);

    return c != NULL ? spoil(c, FAKE_CU_CAPTURE_IMPLICIT) : PLDI_CU_SUCCESS;
}

/* ---- Begin and end ---- */

int cuThreadExchangeStreamCaptureMode(int *mode)
{
    const int before = thread_mode;

    FAKE_COUNT(cuThreadExchangeStreamCaptureMode);
    if (*mode < GLOBAL || *mode > RELAXED)
        return PLDI_CU_INVALID_VALUE;
    thread_mode = *mode;
    *mode = before;
    return PLDI_CU_SUCCESS;
}

static void capture_new(struct CUstream_st *stream, int mode)
{
    struct fake_capture *c = fake_alloc(1, sizeof(*c));

    c->number = ++n_captures;
    c->mode = mode;
    c->thread = pthread_self();
    c->graph = fake_alloc(1, sizeof(*c->graph));
    c->next = captures;
    captures = c;
    (void)join(c, stream);
}

static int enter(pldi_cu_stream handle, struct CUctx_st **ctx, struct CUstream_st **stream)
{
    int rc;

    fake_lock();
    rc = fake_current(ctx);
    if (rc != PLDI_CU_SUCCESS)
        return rc;
    *stream = fake_stream_of(*ctx, handle);
    return *stream == NULL ? PLDI_CU_INVALID_HANDLE : PLDI_CU_SUCCESS;
}

int cuStreamBeginCapture_v2(pldi_cu_stream stream, int mode)
{
    struct CUctx_st *ctx;
    struct CUstream_st *s = NULL;
    int rc = enter(stream, &ctx, &s);

    FAKE_COUNT(cuStreamBeginCapture_v2);
    if (rc == PLDI_CU_SUCCESS && (mode < GLOBAL || mode > RELAXED))
        rc = PLDI_CU_INVALID_VALUE;
    if (rc == PLDI_CU_SUCCESS && s->legacy)
        rc = PLDI_CU_STREAM_CAPTURE_UNSUPPORTED;
    if (rc == PLDI_CU_SUCCESS && s->capture != NULL)
        rc = spoil(s->capture, PLDI_CU_INVALID_VALUE);
    if (rc == PLDI_CU_SUCCESS)
        capture_new(s, mode);
    fake_unlock();
    return rc;
}

int cuStreamIsCapturing(pldi_cu_stream stream, int *status)
{
    struct CUctx_st *ctx;
    struct CUstream_st *s = NULL;
    int rc = enter(stream, &ctx, &s);

    FAKE_COUNT(cuStreamIsCapturing);
    if (rc == PLDI_CU_SUCCESS && s->legacy && records_blocking(ctx))
        rc = FAKE_CU_CAPTURE_IMPLICIT; /* spoils nothing */
    if (rc == PLDI_CU_SUCCESS)
        *status = s->capture == NULL ? 0 : s->capture->invalid ? 2 : 1;
    fake_unlock();
    return rc;
}

/* The graph, or what is wrong with it. */
static int result_of(const struct fake_capture *c)
{
    if (c->invalid)
        return FAKE_CU_CAPTURE_INVALIDATED;
    for (int b = 1; b < c->graph->n_branches; b++)
        if (c->joined[b] < c->added[b])
            return FAKE_CU_CAPTURE_UNJOINED;
    return PLDI_CU_SUCCESS;
}

static void take_out(struct fake_capture *c)
{
    struct fake_capture **at = &captures;

    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    for (int b = 0; b < c->graph->n_branches; b++)
        c->streams[b]->capture = NULL;
}

static int end(struct fake_capture *c, pldi_cu_graph *graph)
{
    const int rc = result_of(c);

    take_out(c);
    *graph = NULL;
    if (rc == PLDI_CU_SUCCESS) {
        *graph = fake_handle_new(FAKE_GRAPH, sizeof(**graph));
        /* The head belongs to the list of handles. */
        (*graph)->nodes = c->graph->nodes;
        (*graph)->n_nodes = c->graph->n_nodes;
        (*graph)->room = c->graph->room;
        (*graph)->n_marks = c->graph->n_marks;
        (*graph)->n_branches = c->graph->n_branches;
        free(c->graph);
    } else
        graph_free(c->graph);
    free(c);
    return rc;
}

int cuStreamEndCapture(pldi_cu_stream stream, pldi_cu_graph *graph)
{
    struct CUctx_st *ctx;
    struct CUstream_st *s = NULL;
    int rc = enter(stream, &ctx, &s);

    FAKE_COUNT(cuStreamEndCapture);
    if (rc == PLDI_CU_SUCCESS && s->capture == NULL)
        rc = PLDI_CU_INVALID_VALUE;
    if (rc == PLDI_CU_SUCCESS && s->branch != 0)
        rc = spoil(s->capture, FAKE_CU_CAPTURE_UNMATCHED);
    if (rc == PLDI_CU_SUCCESS && s->capture->mode != RELAXED &&
        !pthread_equal(s->capture->thread, pthread_self()))
        rc = FAKE_CU_CAPTURE_WRONG_THREAD;
    if (rc == PLDI_CU_SUCCESS)
        rc = end(s->capture, graph);
    fake_unlock();
    return rc;
}

int cuGraphInstantiateWithFlags(pldi_cu_graph_exec *exec, pldi_cu_graph graph,
                                unsigned long long flags)
{
    struct CUctx_st *ctx;
    int rc;

    FAKE_COUNT(cuGraphInstantiateWithFlags);
    (void)flags;
    fake_lock();
    rc = fake_current(&ctx);
    if (rc == PLDI_CU_SUCCESS && !fake_handle_valid(graph, FAKE_GRAPH))
        rc = PLDI_CU_INVALID_VALUE;
    if (rc == PLDI_CU_SUCCESS)
        rc = fake_call_fault("instantiate", PLDI_CU_OUT_OF_MEMORY);
    if (rc == PLDI_CU_SUCCESS) {
        *exec = fake_handle_new(FAKE_EXEC, sizeof(**exec));
        (*exec)->graph = graph_copy(graph);
    }
    fake_unlock();
    return rc;
}

/* ---- Launch ---- */

static void put(struct CUstream_st *s, const struct node *node, struct fake_mark **marks)
{
    struct fake_op op = {.work = node->work};

    if (node->work != NULL)
        node->work->refs++;
    if (node->record != NONE)
        op.record = marks[node->record];
    if (node->wait != NONE)
        op.wait = marks[node->wait];
    if (op.record != NULL)
        op.record->refs++;
    if (op.wait != NULL)
        op.wait->refs++;
    fake_push(s, op);
}

/* Launches of one graph come one after another, whatever their streams. */
static void put_all(struct CUgraphExec_st *e, struct CUstream_st *stream)
{
    const struct CUgraph_st *g = e->graph;
    struct fake_mark **marks = fake_alloc((size_t)g->n_marks + 1, sizeof(struct fake_mark *));

    for (int i = 0; i < g->n_marks; i++)
        marks[i] = fake_mark_new();
    if (e->last != NULL)
        fake_push(stream, (struct fake_op){.wait = e->last});
    for (size_t i = 0; i < g->n_nodes; i++) {
        const int b = g->nodes[i].branch;

        put(b == 0 ? stream : e->branches[b], &g->nodes[i], marks);
    }
    e->last = fake_mark_new();
    e->last->refs++;
    fake_push(stream, (struct fake_op){.record = e->last});
    for (int i = 0; i < g->n_marks; i++)
        fake_mark_put(marks[i]);
    free(marks);
}

/* A stream that nobody else knows. */
static struct CUstream_st *hidden(struct CUctx_st *ctx)
{
    return fake_stream_new(ctx, false);
}

int cuGraphLaunch(pldi_cu_graph_exec exec, pldi_cu_stream stream)
{
    struct CUctx_st *ctx;
    struct CUstream_st *s = NULL;
    int rc = enter(stream, &ctx, &s);

    FAKE_COUNT(cuGraphLaunch);
    if (rc == PLDI_CU_SUCCESS && !fake_handle_valid(exec, FAKE_EXEC))
        rc = PLDI_CU_INVALID_HANDLE;
    if (rc == PLDI_CU_SUCCESS)
        rc = fake_capture_forbid(s); /* no graph within a graph */
    if (rc == PLDI_CU_SUCCESS && s->legacy)
        rc = fake_capture_implicit(ctx);
    if (rc == PLDI_CU_SUCCESS) {
        for (int b = 1; b < exec->graph->n_branches; b++)
            if (exec->branches[b] == NULL)
                exec->branches[b] = hidden(ctx);
        put_all(exec, s);
    }
    fake_unlock();
    return rc;
}

int cuGraphDestroy(pldi_cu_graph graph)
{
    int rc = PLDI_CU_SUCCESS;

    FAKE_COUNT(cuGraphDestroy);
    fake_lock();
    if (!fake_handle_valid(graph, FAKE_GRAPH))
        rc = PLDI_CU_INVALID_VALUE;
    else {
        fake_handle_drop(graph);
        graph_free(graph);
    }
    fake_unlock();
    return rc;
}

int cuGraphExecDestroy(pldi_cu_graph_exec exec)
{
    int rc = PLDI_CU_SUCCESS;

    FAKE_COUNT(cuGraphExecDestroy);
    fake_lock();
    if (!fake_handle_valid(exec, FAKE_EXEC))
        rc = PLDI_CU_INVALID_VALUE;
    else {
        fake_handle_drop(exec);
        for (int b = 1; b < exec->graph->n_branches; b++)
            if (exec->branches[b] != NULL)
                fake_stream_drop(exec->branches[b]);
        fake_mark_put(exec->last);
        graph_free(exec->graph);
        free(exec);
    }
    fake_unlock();
    return rc;
}
