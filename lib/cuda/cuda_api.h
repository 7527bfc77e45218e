/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file cuda_api.h
 * What polder calls of the CUDA driver, libcuda.so.1, found at run time.
 *
 * The driver's interface rather than the runtime's (libcudart): it is there on every
 * node that has a GPU and nowhere else, one build works with every toolkit from 12.0 on,
 * and a program that uses libcudart itself shares the device's primary context with us,
 * so that its streams and pointers are ours.  Declared here and not taken from cuda.h,
 * so that all but the kernels builds and is tested where no toolkit is; a test compares
 * with cuda.h where there is one.  Names and values are those of the driver's published
 * binary interface.
 */
#ifndef PLDI_CUDA_API_H
#define PLDI_CUDA_API_H

#include <stddef.h>

typedef int pldi_cu_device;
typedef unsigned long long pldi_cu_pointer;
typedef struct CUctx_st *pldi_cu_context;
typedef struct CUmod_st *pldi_cu_module;
typedef struct CUfunc_st *pldi_cu_function;
typedef struct CUstream_st *pldi_cu_stream;
typedef struct CUevent_st *pldi_cu_event;
typedef struct CUgraph_st *pldi_cu_graph;
typedef struct CUgraphExec_st *pldi_cu_graph_exec;

struct pldi_cu_uuid {
    char bytes[16];
};

/** CUresult, where polder looks at it. */
enum {
    PLDI_CU_SUCCESS = 0,
    PLDI_CU_INVALID_VALUE = 1,
    PLDI_CU_OUT_OF_MEMORY = 2,
    PLDI_CU_STUB_LIBRARY = 34,
    PLDI_CU_NO_DEVICE = 100,
    PLDI_CU_INVALID_DEVICE = 101,
    PLDI_CU_INVALID_CONTEXT = 201,
    PLDI_CU_NO_BINARY_FOR_GPU = 209,
    PLDI_CU_INVALID_HANDLE = 400,
    PLDI_CU_NOT_FOUND = 500,
    PLDI_CU_NOT_READY = 600,
    PLDI_CU_ILLEGAL_ADDRESS = 700,
    PLDI_CU_LAUNCH_OUT_OF_RESOURCES = 701,
    PLDI_CU_LAUNCH_FAILED = 719,
    PLDI_CU_STREAM_CAPTURE_UNSUPPORTED = 900,
    PLDI_CU_STREAM_CAPTURE_IMPLICIT = 906,
    PLDI_CU_SYSTEM_DRIVER_MISMATCH = 803
};

/** CUdevice_attribute */
enum {
    PLDI_CU_ATTR_MULTIPROCESSORS = 16,
    PLDI_CU_ATTR_COMPUTE_MODE = 20,
    PLDI_CU_ATTR_MEMORY_CLOCK_KHZ = 36,
    PLDI_CU_ATTR_MEMORY_BUS_BITS = 37,
    PLDI_CU_ATTR_L2_BYTES = 38,
    PLDI_CU_ATTR_CC_MAJOR = 75,
    PLDI_CU_ATTR_CC_MINOR = 76,
    PLDI_CU_ATTR_SHARED_OPTIN = 97,
    PLDI_CU_ATTR_DMA_BUF = 124
};

/** CUfunction_attribute, CUpointer_attribute, CUmemorytype, and flags */
enum {
    PLDI_CU_FUNC_MAX_DYNAMIC_SHARED = 8,
    PLDI_CU_PTR_MEMORY_TYPE = 2,
    PLDI_CU_PTR_DEVICE_ORDINAL = 9,
    PLDI_CU_MEMORY_HOST = 1,
    PLDI_CU_MEMORY_DEVICE = 2,
    PLDI_CU_STREAM_NON_BLOCKING = 1,
    PLDI_CU_EVENT_DISABLE_TIMING = 2,
    PLDI_CU_HOST_PORTABLE = 1,
    PLDI_CU_CAPTURE_THREAD_LOCAL = 1,
    PLDI_CU_CAPTURE_STATUS_NONE = 0
};

/*
 * X(name, symbol, arguments): functions that the driver must have; all since 12.0.  Each
 * returns a CUresult.
 */
#define PLDI_CU_FUNCTIONS(X)                                                                       \
    X(init, cuInit, (unsigned flags))                                                              \
    X(driver_version, cuDriverGetVersion, (int *version))                                          \
    X(error_name, cuGetErrorName, (int code, const char **text))                                   \
    X(error_string, cuGetErrorString, (int code, const char **text))                               \
    X(device_count, cuDeviceGetCount, (int *count))                                                \
    X(device_get, cuDeviceGet, (pldi_cu_device * device, int ordinal))                             \
    X(device_name, cuDeviceGetName, (char *name, int bytes, pldi_cu_device device))                \
    X(device_pci, cuDeviceGetPCIBusId, (char *id, int bytes, pldi_cu_device device))               \
    X(device_uuid, cuDeviceGetUuid_v2, (struct pldi_cu_uuid * uuid, pldi_cu_device device))        \
    X(device_attribute, cuDeviceGetAttribute, (int *value, int attribute, pldi_cu_device device))  \
    X(device_memory, cuDeviceTotalMem_v2, (size_t * bytes, pldi_cu_device device))                 \
    X(context_retain, cuDevicePrimaryCtxRetain,                                                    \
      (pldi_cu_context * context, pldi_cu_device device))                                          \
    X(context_release, cuDevicePrimaryCtxRelease_v2, (pldi_cu_device device))                      \
    X(context_push, cuCtxPushCurrent_v2, (pldi_cu_context context))                                \
    X(context_pop, cuCtxPopCurrent_v2, (pldi_cu_context * context))                                \
    X(context_set, cuCtxSetCurrent, (pldi_cu_context context))                                     \
    X(context_get, cuCtxGetCurrent, (pldi_cu_context * context))                                   \
    X(priorities, cuCtxGetStreamPriorityRange, (int *least, int *greatest))                        \
    X(memory_info, cuMemGetInfo_v2, (size_t * free, size_t * total))                               \
    X(alloc, cuMemAlloc_v2, (pldi_cu_pointer * pointer, size_t bytes))                             \
    X(free, cuMemFree_v2, (pldi_cu_pointer pointer))                                               \
    X(alloc_host, cuMemHostAlloc, (void **pointer, size_t bytes, unsigned flags))                  \
    X(free_host, cuMemFreeHost, (void *pointer))                                                   \
    X(host_register, cuMemHostRegister_v2, (void *pointer, size_t bytes, unsigned flags))          \
    X(host_unregister, cuMemHostUnregister, (void *pointer))                                       \
    X(pointer_attribute, cuPointerGetAttribute,                                                    \
      (void *value, int attribute, pldi_cu_pointer pointer))                                       \
    X(copy, cuMemcpyAsync,                                                                         \
      (pldi_cu_pointer dst, pldi_cu_pointer src, size_t bytes, pldi_cu_stream stream))             \
    X(fill, cuMemsetD8Async,                                                                       \
      (pldi_cu_pointer dst, unsigned char value, size_t bytes, pldi_cu_stream stream))             \
    X(stream_create, cuStreamCreateWithPriority,                                                   \
      (pldi_cu_stream * stream, unsigned flags, int priority))                                     \
    X(stream_destroy, cuStreamDestroy_v2, (pldi_cu_stream stream))                                 \
    X(stream_query, cuStreamQuery, (pldi_cu_stream stream))                                        \
    X(stream_is_capturing, cuStreamIsCapturing, (pldi_cu_stream stream, int *status))              \
    X(stream_sync, cuStreamSynchronize, (pldi_cu_stream stream))                                   \
    X(stream_wait, cuStreamWaitEvent,                                                              \
      (pldi_cu_stream stream, pldi_cu_event event, unsigned flags))                                \
    X(event_create, cuEventCreate, (pldi_cu_event * event, unsigned flags))                        \
    X(event_destroy, cuEventDestroy_v2, (pldi_cu_event event))                                     \
    X(event_record, cuEventRecord, (pldi_cu_event event, pldi_cu_stream stream))                   \
    X(event_query, cuEventQuery, (pldi_cu_event event))                                            \
    X(event_sync, cuEventSynchronize, (pldi_cu_event event))                                       \
    X(event_elapsed, cuEventElapsedTime, (float *ms, pldi_cu_event begin, pldi_cu_event end))      \
    X(module_load, cuModuleLoadData, (pldi_cu_module * module, const void *image))                 \
    X(module_unload, cuModuleUnload, (pldi_cu_module module))                                      \
    X(module_function, cuModuleGetFunction,                                                        \
      (pldi_cu_function * function, pldi_cu_module module, const char *name))                      \
    X(function_set, cuFuncSetAttribute, (pldi_cu_function function, int attribute, int value))     \
    X(launch, cuLaunchKernel,                                                                      \
      (pldi_cu_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,               \
       unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,                \
       pldi_cu_stream stream, void **arguments, void **extra))                                     \
    X(capture_mode, cuThreadExchangeStreamCaptureMode, (int *mode))                                \
    X(capture_begin, cuStreamBeginCapture_v2, (pldi_cu_stream stream, int mode))                   \
    X(capture_end, cuStreamEndCapture, (pldi_cu_stream stream, pldi_cu_graph * graph))             \
    X(graph_instantiate, cuGraphInstantiateWithFlags,                                              \
      (pldi_cu_graph_exec * exec, pldi_cu_graph graph, unsigned long long flags))                  \
    X(graph_launch, cuGraphLaunch, (pldi_cu_graph_exec exec, pldi_cu_stream stream))               \
    X(graph_destroy, cuGraphDestroy, (pldi_cu_graph graph))                                        \
    X(graph_exec_destroy, cuGraphExecDestroy, (pldi_cu_graph_exec exec))

/** The driver's functions. */
struct pldi_cu {
    void *library;
#define PLDI_CU_MEMBER(name, symbol, arguments) int(*name) arguments;
    PLDI_CU_FUNCTIONS(PLDI_CU_MEMBER)
#undef PLDI_CU_MEMBER
};

#endif /* PLDI_CUDA_API_H */
