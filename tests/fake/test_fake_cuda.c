/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The fake driver keeps CUDA's promises, and no more than those. */

#include <limits.h>
#include <math.h>
#include <pthread.h>

#include "gpu.h"
#include "gpu_kernels.h"

/* ---- Devices ---- */

static int two_devices(void *unused)
{
    struct pldi_cu_uuid a, b;
    char id[16] = "", name[64] = "";
    int n = 0, value = 0, version = 0;
    size_t bytes = 0;

    (void)unused;
    HOLDS(cuDeviceGetCount(&n) == 3); /* not initialized */
    HOLDS(cuDriverGetVersion(&version) == 0 && version == 12040);
    HOLDS(cuInit(0) == 0 && cuDeviceGetCount(&n) == 0 && n == 2);
    HOLDS(cuDeviceGetPCIBusId(id, sizeof(id), 1) == 0 && strcmp(id, "0000:2B:00.0") == 0);
    HOLDS(cuDeviceGetName(name, sizeof(name), 0) == 0 && name[0] != '\0');
    HOLDS(cuDeviceGetUuid_v2(&a, 0) == 0 && cuDeviceGetUuid_v2(&b, 1) == 0);
    HOLDS(memcmp(&a, &b, sizeof(a)) != 0);
    HOLDS(cuDeviceGetAttribute(&value, PLDI_CU_ATTR_CC_MAJOR, 0) == 0 && value == 9);
    HOLDS(cuDeviceTotalMem_v2(&bytes, 0) == 0 && bytes == 1UL << 30);
    HOLDS(cuDeviceGet(&n, 2) == PLDI_CU_INVALID_DEVICE);
    return 0;
}

static int one_of_bus_2b(void *unused)
{
    char id[16] = "";
    int n = 0;

    (void)unused;
    HOLDS(cuInit(0) == 0 && cuDeviceGetCount(&n) == 0 && n == 1);
    HOLDS(cuDeviceGetPCIBusId(id, sizeof(id), 0) == 0 && strcmp(id, "0000:2B:00.0") == 0);
    return 0;
}

static int init_code(void *unused)
{
    (void)unused;
    return cuInit(0);
}

static int contexts(void *unused)
{
    pldi_cu_context a, b, now;
    pldi_cu_pointer p;

    (void)unused;
    HOLDS(cuInit(0) == 0 && cuMemAlloc_v2(&p, 1) == PLDI_CU_INVALID_CONTEXT);
    HOLDS(cuDevicePrimaryCtxRetain(&a, 0) == 0 && cuDevicePrimaryCtxRetain(&b, 1) == 0 && a != b);
    HOLDS(cuCtxSetCurrent(a) == 0 && cuCtxPushCurrent_v2(b) == 0);
    HOLDS(cuCtxGetCurrent(&now) == 0 && now == b);
    HOLDS(cuCtxPopCurrent_v2(&now) == 0 && now == b);
    HOLDS(cuCtxGetCurrent(&now) == 0 && now == a);
    HOLDS(cuDevicePrimaryCtxRelease_v2(0) == 0);
    HOLDS(cuMemAlloc_v2(&p, 1) == PLDI_CU_INVALID_CONTEXT);
    return 0;
}

static void test_devices(void)
{
    child_case("two devices", two_devices, "", 0);
    child_case("visible by index", one_of_bus_2b, "CUDA_VISIBLE_DEVICES=1", 0);
    child_case("visible by uuid", one_of_bus_2b, "CUDA_VISIBLE_DEVICES=GPU-fa4f", 0);
    child_case("visible up to a bad one", one_of_bus_2b, "CUDA_VISIBLE_DEVICES=1,7,0", 0);
    child_case("none visible", init_code, "CUDA_VISIBLE_DEVICES=", PLDI_CU_NO_DEVICE);
    child_case("none there", init_code, "FAKE_CUDA_DEVICES=0", PLDI_CU_NO_DEVICE);
    child_case("fault init", init_code, "FAKE_CUDA_FAULT=init:34", PLDI_CU_STUB_LIBRARY);
    child_case("PCI ids", one_of_bus_2b,
               "FAKE_CUDA_PCI=0000:2B:00.0,0000:01:00.0 FAKE_CUDA_DEVICES=1", 0);
    child_case("contexts", contexts, "", 0);
}

/* ---- Memory ---- */

static int memory(void *unused)
{
    unsigned type = 0;
    int ordinal = -1;
    size_t left = 0, total = 0;
    float *x, host = 0;
    void *pinned;

    (void)unused;
    HOLDS(gpu_open(1) == 0);
    x = gpu_new(NULL, 100);
    HOLDS(x != NULL && (uintptr_t)x % 256 == 0);
    HOLDS(isnan(first(x, NULL)));
    HOLDS(cuPointerGetAttribute(&type, PLDI_CU_PTR_MEMORY_TYPE, gpu_address(x + 24)) == 0);
    HOLDS(type == PLDI_CU_MEMORY_DEVICE);
    HOLDS(cuPointerGetAttribute(&ordinal, PLDI_CU_PTR_DEVICE_ORDINAL, gpu_address(x)) == 0);
    HOLDS(ordinal == 1);
    HOLDS(cuPointerGetAttribute(&type, PLDI_CU_PTR_MEMORY_TYPE, gpu_address(x + 25)) ==
          PLDI_CU_INVALID_VALUE);
    HOLDS(cuMemcpyAsync(gpu_address(x), gpu_address(x), 101, NULL) == PLDI_CU_INVALID_VALUE);
    HOLDS(cuMemGetInfo_v2(&left, &total) == 0 && total - left == 100 && total == 1000);
    HOLDS(gpu_new(NULL, 901) == NULL);
    HOLDS(cuMemHostAlloc(&pinned, 64, 0) == 0 && fake_cuda_live("pinned bytes") == 64);
    HOLDS(cuPointerGetAttribute(&type, PLDI_CU_PTR_MEMORY_TYPE, gpu_address(pinned)) == 0);
    HOLDS(type == PLDI_CU_MEMORY_HOST);
    HOLDS(cuMemHostRegister_v2(&host, sizeof(host), 0) == 0);
    HOLDS(cuMemHostRegister_v2(&host, sizeof(host), 0) == 712);
    HOLDS(cuPointerGetAttribute(&type, PLDI_CU_PTR_MEMORY_TYPE, gpu_address(&host)) == 0);
    HOLDS(cuMemHostUnregister(&host) == 0 && cuMemHostUnregister(&host) == 713);
    HOLDS(cuMemFreeHost(pinned) == 0 && gpu_free(x) == 0);
    HOLDS(gpu_free(x) == PLDI_CU_INVALID_VALUE);
    HOLDS(fake_cuda_live("device bytes") == 0 && fake_cuda_live("pinned bytes") == 0);
    return 0;
}

/* Volatile, so that the access is made. */
static int host_touches(void *unused)
{
    const float value = 3;
    volatile float *x;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    x = gpu_new(&value, sizeof(value));
    return x[0] == 3 ? 0 : 1;
}

static int after_free(void *unused)
{
    float *x;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    x = gpu_new(NULL, N * sizeof(*x));
    HOLDS(gpu_free(x) == 0);
    (void)set(x, 1, NULL);
    return cuStreamSynchronize(NULL);
}

static int one_too_many(void *unused)
{
    float *x;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    x = gpu_new(NULL, (N - 1) * sizeof(*x));
    (void)set(x, 1, NULL);
    return gpu_free(x);
}

static int far_too_many(void *unused)
{
    float *x;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    x = gpu_new(NULL, N / 2 * sizeof(*x));
    (void)set(x, 1, NULL);
    return cuStreamSynchronize(NULL);
}

static int free_waits(void *unused)
{
    float *x, *y;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    x = gpu_new(NULL, N * sizeof(*x));
    y = gpu_new(NULL, 4);
    HOLDS(set(x, 5, NULL) == 0);
    HOLDS(gpu_free(y) == 0 && cuStreamQuery(NULL) == 0);
    return 0;
}

static void test_memory(void)
{
    child_case("memory", memory, "FAKE_CUDA_MEMORY=1000", 0);
    child_case("host access, unguarded", host_touches, "", 0);
    child_case("host access, guarded", host_touches, "FAKE_CUDA_GUARD=1", CHILD_CRASHED);
    child_case("guarded memory", memory, "FAKE_CUDA_MEMORY=1000 FAKE_CUDA_GUARD=1", 0);
    child_case("a kernel after free", after_free, "", CHILD_CRASHED);
    child_case("a kernel behind the end", one_too_many, "", CHILD_ABORTED);
    child_case("a kernel far behind the end", far_too_many, "", CHILD_CRASHED);
    child_case("free waits", free_waits, "FAKE_CUDA_FAULT=slow:launch:30ms", 0);
}

/* ---- Order ---- */

/* A pageable source is read in the call; a pageable destination is there after it. */
static int pageable(void *unused)
{
    float host = 7, back = 0;
    float *x;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    x = gpu_new(NULL, sizeof(host));
    HOLDS(cuMemcpyAsync(gpu_address(x), gpu_address(&host), sizeof(host), NULL) == 0);
    host = 8;
    HOLDS(cuMemcpyAsync(gpu_address(&back), gpu_address(x), sizeof(back), NULL) == 0);
    HOLDS(back == 7);
    return 0;
}

/* Pinned memory is read and written at its turn, which is later. */
static int pinned(void *unused)
{
    const float one = 1;
    void *memory_of_host;
    float *p, *x;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    x = gpu_new(&one, sizeof(one));
    HOLDS(cuMemHostAlloc(&memory_of_host, sizeof(*p), 0) == 0);
    p = memory_of_host;
    *p = 2;
    HOLDS(cuMemcpyAsync(gpu_address(p), gpu_address(x), sizeof(*p), NULL) == 0);
    HOLDS(*(volatile float *)p == 2 && cuStreamQuery(NULL) == PLDI_CU_NOT_READY);
    HOLDS(cuStreamSynchronize(NULL) == 0 && *p == 1);
    return 0;
}

/* y = 2 x on one stream of what another has put into x. */
struct dependence {
    int with_event, newer_first;
};

static int depend(void *context)
{
    const struct dependence *d = context;
    pldi_cu_stream a, b;
    pldi_cu_event e;
    float *x, *y;

    HOLDS(gpu_open(0) == 0);
    a = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    b = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    if (d->newer_first) {
        pldi_cu_stream swap = a;

        a = b;
        b = swap;
    }
    e = gpu_event(PLDI_CU_EVENT_DISABLE_TIMING);
    x = gpu_new(NULL, N * sizeof(*x));
    y = gpu_new(NULL, N * sizeof(*y));
    HOLDS(kernel("set") != NULL && kernel("twice") != NULL);
    HOLDS(set(x, 21, a) == 0 && cuEventRecord(e, a) == 0);
    HOLDS(!d->with_event || cuStreamWaitEvent(b, e, 0) == 0);
    HOLDS(twice(y, x, b) == 0);
    return first(y, b) == 42 ? 0 : 2;
}

static void test_dependence(void)
{
    for (int newer = 0; newer < 2; newer++) {
        int right = 0, caught = 0;

        for (int seed = 1; seed <= 4; seed++) {
            struct dependence d = {1, newer};
            char environment[64];

            snprintf(environment, sizeof(environment), "FAKE_CUDA_SEED=%d FAKE_CUDA_DELAY=20000",
                     seed);
            right += child_run(depend, &d, environment, 60) == 0;
            d.with_event = 0;
            caught += child_run(depend, &d, environment, 60) == 2;
        }
        ok(right == 4, "%s producer, with an event: right for %d of 4 seeds",
           newer ? "newer" : "older", right);
        ok(caught >= 1, "%s producer, without: caught for %d of 4 seeds", newer ? "newer" : "older",
           caught);
    }
}

static int events(void *unused)
{
    atomic_int gate = 0, later = 0;
    pldi_cu_stream a, b;
    pldi_cu_event e, never, timed;
    float ms = -1;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    a = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    b = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    e = gpu_event(0);
    never = gpu_event(0);
    timed = gpu_event(0);
    HOLDS(cuEventQuery(never) == 0 && cuEventSynchronize(never) == 0);
    HOLDS(cuStreamWaitEvent(b, never, 0) == 0);
    HOLDS(gpu_gate(a, &gate) == 0 && cuEventRecord(e, a) == 0);
    HOLDS(cuStreamWaitEvent(b, e, 0) == 0);
    /* A later record does not concern those who wait already. */
    HOLDS(gpu_gate(a, &later) == 0 && cuEventRecord(e, a) == 0);
    gpu_nap(0.005);
    HOLDS(cuStreamQuery(b) == PLDI_CU_NOT_READY && cuEventQuery(e) == PLDI_CU_NOT_READY);
    HOLDS(cuEventElapsedTime(&ms, e, e) == PLDI_CU_NOT_READY);
    atomic_store(&gate, 1);
    HOLDS(cuStreamSynchronize(b) == 0 && cuEventQuery(e) == PLDI_CU_NOT_READY);
    atomic_store(&later, 1);
    HOLDS(cuEventSynchronize(e) == 0 && cuEventRecord(timed, a) == 0);
    HOLDS(cuStreamSynchronize(a) == 0);
    HOLDS(cuEventElapsedTime(&ms, e, timed) == 0 && ms >= 0);
    HOLDS(cuEventElapsedTime(&ms, never, timed) == PLDI_CU_INVALID_HANDLE);
    HOLDS(cuEventDestroy_v2(e) == 0 && cuEventQuery(e) == PLDI_CU_INVALID_HANDLE);
    HOLDS(cuEventDestroy_v2(never) == 0 && cuEventDestroy_v2(timed) == 0);
    HOLDS(cuStreamDestroy_v2(a) == 0 && cuStreamDestroy_v2(b) == 0);
    HOLDS(cuStreamQuery(a) == PLDI_CU_INVALID_HANDLE);
    HOLDS(fake_cuda_live("streams") == 0 && fake_cuda_live("events") == 0);
    return 0;
}

static int default_stream(void *unused)
{
    atomic_int gate = 0, other = 0;
    pldi_cu_stream blocking, free_one;
    float *x;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    blocking = gpu_stream(0);
    free_one = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    x = gpu_new(NULL, N * sizeof(*x));
    HOLDS(gpu_gate(free_one, &other) == 0);
    HOLDS(set(x, 1, NULL) == 0 && cuStreamSynchronize(NULL) == 0);
    HOLDS(gpu_gate(blocking, &gate) == 0 && set(x, 2, NULL) == 0 && set(x, 3, blocking) == 0);
    gpu_nap(0.005);
    HOLDS(cuStreamQuery(NULL) == PLDI_CU_NOT_READY);
    atomic_store(&gate, 1);
    HOLDS(cuStreamSynchronize(NULL) == 0);
    HOLDS(first(x, blocking) == 3);
    HOLDS(cuStreamQuery(free_one) == PLDI_CU_NOT_READY);
    atomic_store(&other, 1);
    HOLDS(cuCtxSynchronize() == 0 && cuStreamQuery(free_one) == 0);
    return 0;
}

/* Work that waits for work of all other streams, as an operation of several ranks does.  It has
 * come at its second try; each takes as long as that of a slow machine. */
static int meet(void *tries)
{
    static int come;

    gpu_nap(0.002);
    come += ++*(int *)tries == 2;
    return come == 4;
}

static int meeting(void *unused)
{
    int tries[4] = {0};

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    for (int i = 0; i < 4; i++)
        HOLDS(fake_cuda_enqueue(gpu_stream(PLDI_CU_STREAM_NON_BLOCKING), meet, &tries[i]) == 0);
    HOLDS(cuCtxSynchronize() == 0);
    return 0;
}

static void test_order(void)
{
    child_case("pageable copies", pageable, "", 0);
    child_case("pinned copies", pinned, "FAKE_CUDA_FAULT=slow:copy:50ms", 0);
    for (int seed = 0; seed < 4; seed++) {
        char environment[32];

        snprintf(environment, sizeof(environment), "FAKE_CUDA_SEED=%d", seed);
        child_case("events", events, environment, 0);
        child_case("default stream", default_stream, environment, 0);
        child_case("streams that wait for each other", meeting, environment, 0);
    }
}

/* ---- Kernels ---- */

static int kernels(void *unused)
{
    pldi_cu_function f, none;
    float value = 4, *x;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    x = gpu_new(NULL, N * sizeof(*x));
    f = kernel("set");
    HOLDS(f != NULL && f == kernel("set"));
    HOLDS(cuModuleGetFunction(&none, module, "no such") == PLDI_CU_NOT_FOUND);
    HOLDS(launch("set", N, NULL, (void *[]){&x, &value}) == 0);
    value = 5; /* was read in the call */
    HOLDS(first(x, NULL) == 4);
    HOLDS(cuLaunchKernel(f, 1, 1, 1, 1025, 1, 1, 0, NULL, (void *[]){&x, &value}, NULL) ==
          PLDI_CU_INVALID_VALUE);
    HOLDS(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 50000, NULL, (void *[]){&x, &value}, NULL) ==
          PLDI_CU_INVALID_VALUE);
    HOLDS(cuFuncSetAttribute(f, PLDI_CU_FUNC_MAX_DYNAMIC_SHARED, 50000) == 0);
    HOLDS(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 50000, NULL, (void *[]){&x, &value}, NULL) == 0);
    HOLDS(cuStreamSynchronize(NULL) == 0 && cuModuleUnload(module) == 0);
    HOLDS(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, NULL, (void *[]){&x, &value}, NULL) ==
          PLDI_CU_INVALID_HANDLE);
    HOLDS(fake_cuda_live("modules") == 0);
    return 0;
}

/* ---- Faults ---- */

static int second_alloc(void *unused)
{
    void *p;

    (void)unused;
    HOLDS(gpu_open(0) == 0 && gpu_new(NULL, 8) != NULL && gpu_new(NULL, 8) == NULL);
    HOLDS(gpu_new(NULL, 8) != NULL);
    fake_cuda_fault("pinned:1+:999,alloc:1@3");
    HOLDS(cuMemHostAlloc(&p, 8, 0) == 999 && cuMemHostAlloc(&p, 8, 0) == 999);
    HOLDS(gpu_new(NULL, 8) != NULL);
    fake_set_rank(3);
    fake_cuda_fault("pinned:1+:999,alloc:1@3");
    HOLDS(gpu_new(NULL, 8) == NULL);
    return 0;
}

static int other_calls(void *unused)
{
    pldi_cu_stream s;
    pldi_cu_event e;
    pldi_cu_graph graph;
    pldi_cu_graph_exec exec;
    float host;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    HOLDS(cuStreamCreateWithPriority(&s, 1, 0) == 2 && cuEventCreate(&e, 0) == 2);
    HOLDS(cuStreamCreateWithPriority(&s, 1, 0) == 0 && cuEventCreate(&e, 0) == 0);
    HOLDS(cuModuleLoadData(&module, "x") == PLDI_CU_NO_BINARY_FOR_GPU);
    HOLDS(cuEventRecord(e, s) == PLDI_CU_INVALID_HANDLE && cuEventRecord(e, s) == 0);
    HOLDS(cuMemHostRegister_v2(&host, sizeof(host), 0) == PLDI_CU_OUT_OF_MEMORY);
    HOLDS(cuStreamBeginCapture_v2(s, 1) == 0 && cuStreamEndCapture(s, &graph) == 0);
    HOLDS(cuGraphInstantiateWithFlags(&exec, graph, 0) == PLDI_CU_OUT_OF_MEMORY);
    HOLDS(cuGraphDestroy(graph) == 0);
    return 0;
}

/* The second launch breaks the device: told by whatever comes after it has run. */
static int lost(void *unused)
{
    const float one = 1;
    float *x, host;
    pldi_cu_event e;
    pldi_cu_stream s;
    int recorded;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    x = gpu_new(NULL, N * sizeof(*x));
    e = gpu_event(0);
    s = gpu_stream(PLDI_CU_STREAM_NON_BLOCKING);
    HOLDS(set(x, 1, s) == 0 && cuStreamSynchronize(s) == 0);
    HOLDS(set(x, 2, s) == 0);
    recorded = cuEventRecord(e, s); /* which the launch may have overtaken */
    HOLDS((recorded == 0 || recorded == 719) && cuEventSynchronize(e) == 719);
    HOLDS(set(x, 3, s) == 719 && gpu_read(&host, x, 4, s) == 719 && gpu_new(&one, 4) == NULL);
    HOLDS(cuStreamQuery(s) == 719 && cuMemFree_v2(gpu_address(x)) == 719);
    HOLDS(gpu_open(1) == 0 && gpu_new(&one, 4) != NULL); /* the other one is well */
    return 0;
}

static int lost_copy(void *unused)
{
    const float one = 1;
    float *x, host;

    (void)unused;
    HOLDS(gpu_open(0) == 0);
    x = gpu_new(&one, sizeof(one));
    HOLDS(x != NULL && cuMemcpyAsync(gpu_address(&host), gpu_address(x), 4, NULL) == 700);
    return 0;
}

static int counts(void *unused)
{
    (void)unused;
    HOLDS(fake_cuda_calls("cuMemAlloc_v2") == 0 && fake_cuda_calls("cuMemAlloc") == ULONG_MAX);
    HOLDS(gpu_open(0) == 0 && gpu_new(NULL, 8) != NULL && gpu_new(NULL, 8) != NULL);
    HOLDS(fake_cuda_calls("cuMemAlloc_v2") == 2 && fake_cuda_calls("cuCtxSynchronize") == 0);
    return 0;
}

static void test_counts_file(void)
{
    char path[64], environment[128], line[128];
    unsigned long found = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/tmp/fake-counts-%ld", (long)getpid());
    snprintf(environment, sizeof(environment), "FAKE_CUDA_COUNTS=%s", path);
    child_case("counts", counts, environment, 0);
    f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        found += strcmp(line, "cuMemAlloc_v2 2\n") == 0;
    if (f != NULL)
        fclose(f);
    unlink(path);
    ok(found == 1, "counts are in the file");
}

static int typo(void *unused)
{
    (void)unused;
    return gpu_open(0);
}

static void test_faults(void)
{
    child_case("fault alloc, pinned, @rank", second_alloc, "FAKE_CUDA_FAULT=alloc:2", 0);
    child_case("fault @rank of another", two_devices, "FAKE_CUDA_FAULT=init:100@1 FAKE_RANK=0", 0);
    child_case("fault @rank", init_code, "FAKE_CUDA_FAULT=init:100@1 OMPI_COMM_WORLD_RANK=1", 100);
    child_case("faults of other calls", other_calls,
               "FAKE_CUDA_FAULT=stream:1,event:1,module:1,record:1,register:1,instantiate:1", 0);
    child_case("fault launch", lost, "FAKE_CUDA_FAULT=launch:2:719", 0);
    child_case("fault copy", lost_copy, "FAKE_CUDA_FAULT=copy:2", 0);
    child_case("a fault that is not one", typo, "FAKE_CUDA_FAULT=aloc:2", CHILD_ABORTED);
    test_counts_file();
}

int main(void)
{
    test_devices();
    test_memory();
    test_order();
    test_dependence();
    child_case("kernels", kernels, "", 0);
    test_faults();
    return tap_done();
}
