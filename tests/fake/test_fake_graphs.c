/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What the fake driver records and replays, and what it refuses meanwhile. */

#include <math.h>
#include <pthread.h>

#include "gpu.h"
#include "gpu_kernels.h"

static int capture(pldi_cu_stream a, pldi_cu_stream b, float *x, float *y, pldi_cu_graph *graph)
{
    pldi_cu_event fork = gpu_event(PLDI_CU_EVENT_DISABLE_TIMING);
    pldi_cu_event join = gpu_event(PLDI_CU_EVENT_DISABLE_TIMING);

    /* a: x = 1; b: y = 2 x; a: x = 2 y */
    HOLDS(cuStreamBeginCapture_v2(a, PLDI_CU_CAPTURE_THREAD_LOCAL) == 0);
    HOLDS(set(x, 1, a) == 0 && cuEventRecord(fork, a) == 0 && cuStreamWaitEvent(b, fork, 0) == 0);
    HOLDS(twice(y, x, b) == 0 && cuEventRecord(join, b) == 0);
    HOLDS(cuStreamWaitEvent(a, join, 0) == 0 && twice(x, y, a) == 0);
    HOLDS(cuStreamEndCapture(a, graph) == 0);
    HOLDS(cuEventQuery(fork) == 907);
    HOLDS(cuEventDestroy_v2(fork) == 0 && cuEventDestroy_v2(join) == 0);
    return 0;
}

static int graphs(void *unused)
{
    pldi_cu_stream a, b;
    pldi_cu_graph graph;
    pldi_cu_graph_exec exec;
    float *x, *y;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    a = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    b = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    x = gpu_new(NULL, N * sizeof(*x));
    y = gpu_new(NULL, N * sizeof(*y));
    HOLDS(capture(a, b, x, y, &graph) == 0);
    HOLDS(isnan(first(x, a))); /* nothing was done */
    HOLDS(cuGraphInstantiateWithFlags(&exec, graph, 0) == 0 && cuGraphDestroy(graph) == 0);
    for (int i = 0; i < 3; i++) {
        HOLDS(set(x, 0, i == 1 ? b : a) == 0);
        HOLDS(cuGraphLaunch(exec, i == 1 ? b : a) == 0);
        HOLDS(first(x, i == 1 ? b : a) == 4 && first(y, a) == 2);
    }
    HOLDS(cuGraphLaunch(exec, a) == 0 && cuGraphLaunch(exec, b) == 0);
    HOLDS(cuGraphExecDestroy(exec) == 0 && cuCtxSynchronize() == 0);
    HOLDS(fake_cuda_live("graphs") == 0 && first(x, a) == 4);
    return 0;
}

static void *allocate_beside(void *context)
{
    static int bad = 1;

    return gpu_open(0) == 0 && gpu_new(NULL, 8) != NULL ? context : &bad;
}

static int forbidden(void *unused)
{
    pldi_cu_stream a, b;
    pldi_cu_event e;
    pldi_cu_graph graph;
    pthread_t thread;
    void *result = &thread;
    float *x, host = 1;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    a = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    b = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    e = gpu_event(0);
    x = gpu_new(NULL, N * sizeof(*x));
    HOLDS(cuStreamBeginCapture_v2(NULL, 0) == PLDI_CU_STREAM_CAPTURE_UNSUPPORTED);
    /* Other threads may do what they like beside a thread-local one. */
    HOLDS(cuStreamBeginCapture_v2(a, PLDI_CU_CAPTURE_THREAD_LOCAL) == 0);
    HOLDS(pthread_create(&thread, NULL, allocate_beside, NULL) == 0);
    HOLDS(pthread_join(thread, &result) == 0 && result == NULL);
    HOLDS(cuStreamEndCapture(a, &graph) == 0 && cuGraphDestroy(graph) == 0);
    HOLDS(cuStreamBeginCapture_v2(a, PLDI_CU_CAPTURE_THREAD_LOCAL) == 0);
    HOLDS(gpu_new(NULL, 8) == NULL);
    HOLDS(set(x, 1, a) == 901 && cuStreamEndCapture(a, &graph) == 901);
    HOLDS(cuStreamBeginCapture_v2(a, PLDI_CU_CAPTURE_THREAD_LOCAL) == 0);
    HOLDS(cuStreamSynchronize(a) == PLDI_CU_STREAM_CAPTURE_UNSUPPORTED);
    HOLDS(cuStreamEndCapture(a, &graph) == 901);
    HOLDS(cuStreamBeginCapture_v2(a, PLDI_CU_CAPTURE_THREAD_LOCAL) == 0);
    HOLDS(cuMemcpyAsync(gpu_address(x), gpu_address(&host), 4, a) ==
          PLDI_CU_STREAM_CAPTURE_UNSUPPORTED);
    HOLDS(cuStreamEndCapture(a, &graph) == 901);
    HOLDS(cuStreamBeginCapture_v2(a, PLDI_CU_CAPTURE_THREAD_LOCAL) == 0);
    HOLDS(cuEventRecord(e, a) == 0 && cuStreamWaitEvent(b, e, 0) == 0 && set(x, 1, b) == 0);
    HOLDS(cuStreamEndCapture(a, &graph) == 904); /* b has not come back */
    HOLDS(set(x, 2, b) == 0 && first(x, b) == 2);
    return 0;
}

static int begin(pldi_cu_stream s)
{
    return cuStreamBeginCapture_v2(s, PLDI_CU_CAPTURE_THREAD_LOCAL);
}

static int end(pldi_cu_stream s)
{
    pldi_cu_graph graph = NULL;
    const int rc = cuStreamEndCapture(s, &graph);

    return rc == 0 ? cuGraphDestroy(graph) : rc;
}

/* Waiting, asking, the default stream. */
static int forbidden_asking(void *unused)
{
    pldi_cu_stream a, blocking;
    pldi_cu_event inside, outside;
    float *x;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    a = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    blocking = gpu_stream(0);
    inside = gpu_event(PLDI_CU_EVENT_DISABLE_TIMING);
    outside = gpu_event(PLDI_CU_EVENT_DISABLE_TIMING);
    x = gpu_new(NULL, N * sizeof(*x));
    HOLDS(cuEventRecord(outside, a) == 0);
    HOLDS(begin(a) == 0 && cuCtxSynchronize() == 900 && end(a) == 901);
    HOLDS(begin(a) == 0 && cuStreamQuery(a) == 900 && end(a) == 901);
    HOLDS(begin(a) == 0 && cuEventQuery(outside) == 900 && end(a) == 901);
    HOLDS(begin(a) == 0 && cuEventSynchronize(outside) == 900 && end(a) == 901);
    HOLDS(begin(a) == 0 && cuEventRecord(inside, a) == 0 && cuEventQuery(inside) == 907);
    HOLDS(cuEventSynchronize(inside) == 907 && end(a) == 0);
    HOLDS(begin(a) == 0 && cuMemFree_v2(gpu_address(x)) == 900 && end(a) == 901);
    /* A blocking stream would have to wait for the default one; others do not care. */
    HOLDS(begin(blocking) == 0 && set(x, 1, NULL) == 906 && end(blocking) == 901);
    HOLDS(begin(a) == 0 && set(x, 1, NULL) == 0 && end(a) == 0);
    HOLDS(first(x, NULL) == 1);
    return 0;
}

/* Whether a stream is recorded: to ask spoils nothing. */
static int asked(void *unused)
{
    pldi_cu_stream a, b, blocking;
    pldi_cu_event fork, join;
    int status = -1;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    a = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    b = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    blocking = gpu_stream(0);
    fork = gpu_event(PLDI_CU_EVENT_DISABLE_TIMING);
    join = gpu_event(PLDI_CU_EVENT_DISABLE_TIMING);
    HOLDS(cuStreamIsCapturing(a, &status) == 0 && status == 0);
    HOLDS(begin(a) == 0 && cuStreamIsCapturing(a, &status) == 0 && status == 1);
    HOLDS(cuStreamIsCapturing(b, &status) == 0 && status == 0);
    HOLDS(cuStreamIsCapturing(NULL, &status) == 0 && status == 0);
    HOLDS(cuEventRecord(fork, a) == 0 && cuStreamWaitEvent(b, fork, 0) == 0);
    HOLDS(cuStreamIsCapturing(b, &status) == 0 && status == 1);
    HOLDS(cuEventRecord(join, b) == 0 && cuStreamWaitEvent(a, join, 0) == 0 && end(a) == 0);
    HOLDS(begin(a) == 0 && cuStreamSynchronize(a) == PLDI_CU_STREAM_CAPTURE_UNSUPPORTED);
    HOLDS(cuStreamIsCapturing(a, &status) == 0 && status == 2 && end(a) == 901);
    /* The default stream would wait for a blocking one. */
    HOLDS(begin(blocking) == 0);
    HOLDS(cuStreamIsCapturing(NULL, &status) == PLDI_CU_STREAM_CAPTURE_IMPLICIT);
    HOLDS(end(blocking) == 0);
    return 0;
}

/* Work of other libraries: once, again and again. */
static int count_step(void *context)
{
    ++*(int *)context;
    return 1;
}

static void count_release(void *context)
{
    *(int *)context += 100;
}

static int foreign(void *unused)
{
    int once = 0, again = 0;
    pldi_cu_stream a;
    pldi_cu_graph graph;
    pldi_cu_graph_exec exec;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    a = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    HOLDS(begin(a) == 0 && fake_cuda_enqueue(a, count_step, &once) == 900 && end(a) == 901);
    HOLDS(begin(a) == 0 && fake_cuda_enqueue_again(a, count_step, &again, count_release) == 0);
    HOLDS(cuStreamEndCapture(a, &graph) == 0 && cuCtxSynchronize() == 0);
    HOLDS(once == 0 && again == 0);
    HOLDS(cuGraphInstantiateWithFlags(&exec, graph, 0) == 0 && cuGraphDestroy(graph) == 0);
    for (int i = 1; i <= 3; i++)
        HOLDS(cuGraphLaunch(exec, a) == 0 && cuStreamSynchronize(a) == 0 && again == i);
    HOLDS(cuGraphExecDestroy(exec) == 0 && again == 103);
    HOLDS(fake_cuda_enqueue_again(a, count_step, &once, count_release) == 0);
    HOLDS(cuStreamSynchronize(a) == 0 && once == 101);
    return 0;
}

int main(void)
{
    for (int seed = 0; seed < 4; seed++) {
        char environment[32];

        snprintf(environment, sizeof(environment), "FAKE_CUDA_SEED=%d", seed);
        child_case("graphs", graphs, environment, 0);
    }
    child_case("forbidden in a capture", forbidden, "", 0);
    child_case("waiting and asking in a capture", forbidden_asking, "", 0);
    child_case("asked whether it is recorded", asked, "", 0);
    child_case("other libraries in a capture", foreign, "", 0);
    return tap_done();
}
