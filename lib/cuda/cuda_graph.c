/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>

#include "cuda/cuda_device.h"

struct pld_graph {
    struct pldi_device_handle head;
    pldi_cu_graph_exec exec;
};

/* Of this thread alone: what others do meanwhile is not recorded and does not spoil it. */
int pldi_cuda_graph_begin(pld_device *device, pld_stream stream)
{
    const struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int code = d->cu.capture_begin(stream, PLDI_CU_CAPTURE_THREAD_LOCAL);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "beginning to record a graph");
    return PLD_OK;
}

static int make(struct pldi_cuda *d, pld_stream stream, pldi_cu_graph_exec *out)
{
    pldi_cu_graph graph = NULL;
    int code = d->cu.capture_end(stream, &graph);

    if (code == PLDI_CU_SUCCESS)
        code = d->cu.graph_instantiate(out, graph, 0);
    if (graph != NULL)
        (void)d->cu.graph_destroy(graph);
    return code;
}

int pldi_cuda_graph_end(pld_device *device, pld_stream stream, pld_graph **out)
{
    struct pldi_cuda *d = pldi_cuda_of(device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    pld_graph *g = d->host->alloc(1, sizeof(*g), "a graph");
    pldi_cu_graph_exec exec = NULL;
    const int code = make(d, stream, &exec);

    if (g == NULL && exec != NULL)
        (void)d->cu.graph_exec_destroy(exec);
    pldi_cuda_leave(&visit);
    if (g == NULL)
        return PLD_ERR_NOMEM;
    if (code != PLDI_CU_SUCCESS) {
        d->host->free(g);
        return pldi_cuda_fail(d, code, "recording a graph");
    }
    *g = (pld_graph){{device}, exec};
    *out = g;
    return PLD_OK;
}

int pldi_cuda_graph_launch(pld_graph *graph, pld_stream stream)
{
    const struct pldi_cuda *d = pldi_cuda_of(graph->head.device);
    const struct pldi_cuda_visit visit = pldi_cuda_enter(d);
    const int code = d->cu.graph_launch(graph->exec, stream);

    pldi_cuda_leave(&visit);
    PLDI_CUDA_TRY(d, code, "launching a graph");
    return PLD_OK;
}

void pldi_cuda_graph_destroy(pld_graph **graph)
{
    const struct pldi_cuda *d;
    struct pldi_cuda_visit visit;

    if (graph == NULL || *graph == NULL)
        return;
    d = pldi_cuda_of((*graph)->head.device);
    visit = pldi_cuda_enter(d);
    (void)d->cu.graph_exec_destroy((*graph)->exec);
    pldi_cuda_leave(&visit);
    d->host->free(*graph);
    *graph = NULL;
}
