/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Operations on device memory by processes; test_device.py runs it, over the fakes.
 * Arguments: kill or end: rank 1 is killed, or all end after some operations; 1: with requests.
 */

#include "kill.h"

enum { COUNT = 1000, ENOUGH = 100 };

static int reduce(pld_runtime *rt, float *host, void *data, pld_stream stream, int request)
{
    pld_device *device = pld_runtime_device(rt);
    pld_request *r = NULL;
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .stream = stream,
                                .request = request ? &r : NULL};
    int rc;

    for (int i = 0; i < COUNT; i++)
        host[i] = 1;
    rc = pld_device_copy(device, data, host, COUNT * sizeof(float), stream);
    if (rc == 0)
        rc = pld_allreduce(pld_runtime_world(rt), data, data, COUNT, PLD_F32, PLD_SUM, &opts);
    if (rc == 0)
        rc = pld_request_wait(&r);
    if (rc == 0)
        rc = pld_device_copy(device, host, data, COUNT * sizeof(float), stream);
    if (rc == 0)
        rc = pld_stream_wait(device, stream);
    return rc;
}

int main(int argc, char **argv)
{
    const int kills = argc > 1 && strcmp(argv[1], "kill") == 0;
    const int request = argc > 2 && atoi(argv[2]) != 0;
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .device = "cuda"};
    pld_runtime *rt = NULL;
    pld_stream stream = NULL;
    void *host = NULL;
    void *data = NULL;
    double start = 0;
    const int end = kills ? kill_rank_1() : -1;
    int right = 1;
    int rc;

    rc = pld_runtime_open(&opts, &rt);
    if (rc == 0)
        rc = pld_stream_create(pld_runtime_device(rt), 0, &stream);
    if (rc == 0)
        rc = pld_device_alloc(pld_runtime_device(rt), COUNT * 4, PLD_MEM_PINNED, &host);
    if (rc == 0)
        rc = pld_device_alloc(pld_runtime_device(rt), COUNT * 4, PLD_MEM_DEVICE, &data);
    for (int i = 0; rc == 0 && (kills || (i < ENOUGH && right)); i++) {
        start = now();
        rc = reduce(rt, host, data, stream, request);
        if (i == 0)
            kill_soon(end);
        right = ((const float *)host)[COUNT - 1] == (float)pld_runtime_size(rt);
    }
    if (kills && rt != NULL)
        survive(rt, rc, now() - start);
    if (rc < 0)
        (void)printf("failed: %s\n", pld_last_error());
    else if (right)
        (void)printf("right, by \"%s\"\n", pld_runtime_device_note(rt));
    (void)fflush(stdout);
    if (rt != NULL && rc == 0) {
        pld_device_free(pld_runtime_device(rt), host);
        pld_device_free(pld_runtime_device(rt), data);
        pld_stream_destroy(pld_runtime_device(rt), &stream);
        rc = pld_runtime_close(&rt);
    }
    return rc != 0;
}
