/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What polder declares of CUDA's driver and of NCCL, against their own headers: constants,
 * the layout of structs, and every function's parameters.
 */

#include <climits>
#include <cstddef>
#include <cstdio>
#include <type_traits>

#include <cuda.h>
#ifdef WITH_NCCL
#include <nccl.h>
#endif

#include "cuda/cuda_api.h"
#include "cuda/nccl_api.h"
#include "tap.h"

/* Whether a caller that believes in B calls a function of A right: equal but for the names of
 * structs, and for enums, which travel as int. */
template <class A, class B> static constexpr bool alike()
{
    if constexpr (std::is_same<A, B>::value || std::is_function<A>::value)
        return std::is_same<A, B>::value;
    else if constexpr (std::is_pointer<A>::value && std::is_pointer<B>::value)
        return std::is_void<std::remove_pointer_t<A>>::value ||
               std::is_void<std::remove_pointer_t<B>>::value ||
               alike<std::remove_cv_t<std::remove_pointer_t<A>>,
                     std::remove_cv_t<std::remove_pointer_t<B>>>();
    else if constexpr (std::is_class<A>::value && std::is_class<B>::value)
        return sizeof(A) == sizeof(B) && alignof(A) == alignof(B);
    else if constexpr (std::is_integral<B>::value)
        return (std::is_enum<A>::value || std::is_integral<A>::value) && sizeof(A) == sizeof(B);
    else
        return false;
}

#ifdef WITH_NCCL
/* It may have grown; its beginning is looked at by itself. */
template <> constexpr bool alike<ncclConfig_t, struct pldi_nccl_config>()
{
    return sizeof(ncclConfig_t) >= sizeof(struct pldi_nccl_config);
}
#endif

template <class A, class B> struct same_call;
template <class R, class... A, class Q, class... B> struct same_call<R (*)(A...), Q (*)(B...)> {
    static constexpr bool all()
    {
        if constexpr (sizeof...(A) == sizeof...(B))
            return alike<R, Q>() && (alike<A, B>() && ...);
        else
            return false;
    }
};
static void test_driver_functions()
{
#define CHECK(name, symbol, arguments)                                                             \
    ok(same_call<decltype(&symbol), decltype(pldi_cu::name)>::all(), #symbol);
    PLDI_CU_FUNCTIONS(CHECK)
#undef CHECK
    ok(alike<CUdevice, pldi_cu_device>() && alike<CUdeviceptr, pldi_cu_pointer>() &&
           sizeof(CUuuid) == sizeof(struct pldi_cu_uuid),
       "handles");
    ok(!same_call<decltype(&cuInit), decltype(pldi_cu::device_count)>::all() &&
           !same_call<decltype(&cuMemAlloc), decltype(pldi_cu::fill)>::all(),
       "and different ones are told apart");
}

struct constant {
    const char *name;
    long ours, theirs;
};

static void test_constants(const struct constant *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ok(list[i].ours == list[i].theirs, "%s is %ld, theirs %ld", list[i].name, list[i].ours,
           list[i].theirs);
}

#define SAME(ours, theirs)                                                                         \
    {                                                                                              \
#theirs, (long)(ours), (long)(theirs)                                                      \
    }

static const struct constant driver[] = {
    SAME(PLDI_CU_SUCCESS, CUDA_SUCCESS),
    SAME(PLDI_CU_INVALID_VALUE, CUDA_ERROR_INVALID_VALUE),
    SAME(PLDI_CU_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY),
    SAME(PLDI_CU_STUB_LIBRARY, CUDA_ERROR_STUB_LIBRARY),
    SAME(PLDI_CU_NO_DEVICE, CUDA_ERROR_NO_DEVICE),
    SAME(PLDI_CU_INVALID_DEVICE, CUDA_ERROR_INVALID_DEVICE),
    SAME(PLDI_CU_INVALID_CONTEXT, CUDA_ERROR_INVALID_CONTEXT),
    SAME(PLDI_CU_NO_BINARY_FOR_GPU, CUDA_ERROR_NO_BINARY_FOR_GPU),
    SAME(PLDI_CU_INVALID_HANDLE, CUDA_ERROR_INVALID_HANDLE),
    SAME(PLDI_CU_NOT_FOUND, CUDA_ERROR_NOT_FOUND),
    SAME(PLDI_CU_NOT_READY, CUDA_ERROR_NOT_READY),
    SAME(PLDI_CU_ILLEGAL_ADDRESS, CUDA_ERROR_ILLEGAL_ADDRESS),
    SAME(PLDI_CU_LAUNCH_OUT_OF_RESOURCES, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES),
    SAME(PLDI_CU_LAUNCH_FAILED, CUDA_ERROR_LAUNCH_FAILED),
    SAME(PLDI_CU_STREAM_CAPTURE_UNSUPPORTED, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
    SAME(PLDI_CU_STREAM_CAPTURE_IMPLICIT, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT),
    SAME(PLDI_CU_CAPTURE_STATUS_NONE, CU_STREAM_CAPTURE_STATUS_NONE),
    SAME(PLDI_CU_SYSTEM_DRIVER_MISMATCH, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH),
    SAME(PLDI_CU_ATTR_MULTIPROCESSORS, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
    SAME(PLDI_CU_ATTR_COMPUTE_MODE, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE),
    SAME(PLDI_CU_ATTR_MEMORY_CLOCK_KHZ, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
    SAME(PLDI_CU_ATTR_MEMORY_BUS_BITS, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
    SAME(PLDI_CU_ATTR_L2_BYTES, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE),
    SAME(PLDI_CU_ATTR_CC_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
    SAME(PLDI_CU_ATTR_CC_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
    SAME(PLDI_CU_ATTR_SHARED_OPTIN, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
    SAME(PLDI_CU_ATTR_DMA_BUF, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED),
    SAME(PLDI_CU_FUNC_MAX_DYNAMIC_SHARED, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES),
    SAME(PLDI_CU_PTR_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_MEMORY_TYPE),
    SAME(PLDI_CU_PTR_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL),
    SAME(PLDI_CU_MEMORY_HOST, CU_MEMORYTYPE_HOST),
    SAME(PLDI_CU_MEMORY_DEVICE, CU_MEMORYTYPE_DEVICE),
    SAME(PLDI_CU_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING),
    SAME(PLDI_CU_EVENT_DISABLE_TIMING, CU_EVENT_DISABLE_TIMING),
    SAME(PLDI_CU_HOST_PORTABLE, CU_MEMHOSTALLOC_PORTABLE),
    SAME(PLDI_CU_CAPTURE_THREAD_LOCAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
};

#ifdef WITH_NCCL
static const struct constant nccl[] = {
    SAME(PLDI_NCCL_SUCCESS, ncclSuccess),
    SAME(PLDI_NCCL_CUDA_ERROR, ncclUnhandledCudaError),
    SAME(PLDI_NCCL_SYSTEM_ERROR, ncclSystemError),
    SAME(PLDI_NCCL_INTERNAL_ERROR, ncclInternalError),
    SAME(PLDI_NCCL_INVALID_ARGUMENT, ncclInvalidArgument),
    SAME(PLDI_NCCL_INVALID_USAGE, ncclInvalidUsage),
    SAME(PLDI_NCCL_REMOTE_ERROR, ncclRemoteError),
    SAME(PLDI_NCCL_IN_PROGRESS, ncclInProgress),
    SAME(PLDI_NCCL_I8, ncclInt8),
    SAME(PLDI_NCCL_U8, ncclUint8),
    SAME(PLDI_NCCL_I32, ncclInt32),
    SAME(PLDI_NCCL_U32, ncclUint32),
    SAME(PLDI_NCCL_I64, ncclInt64),
    SAME(PLDI_NCCL_U64, ncclUint64),
    SAME(PLDI_NCCL_F16, ncclFloat16),
    SAME(PLDI_NCCL_F32, ncclFloat32),
    SAME(PLDI_NCCL_F64, ncclFloat64),
    SAME(PLDI_NCCL_BF16, ncclBfloat16),
    SAME(PLDI_NCCL_SUM, ncclSum),
    SAME(PLDI_NCCL_PROD, ncclProd),
    SAME(PLDI_NCCL_MAX, ncclMax),
    SAME(PLDI_NCCL_MIN, ncclMin),
    SAME(PLDI_NCCL_AVG, ncclAvg),
    SAME(PLDI_NCCL_SCALAR_DEVICE, ncclScalarDevice),
    SAME(PLDI_NCCL_SCALAR_HOST, ncclScalarHostImmediate),
    SAME(PLDI_NCCL_NO_COLOR, NCCL_SPLIT_NOCOLOR),
    SAME(sizeof(struct pldi_nccl_id), sizeof(ncclUniqueId)),
    SAME(offsetof(struct pldi_nccl_config, size), offsetof(ncclConfig_t, size)),
    SAME(offsetof(struct pldi_nccl_config, magic), offsetof(ncclConfig_t, magic)),
    SAME(offsetof(struct pldi_nccl_config, version), offsetof(ncclConfig_t, version)),
    SAME(offsetof(struct pldi_nccl_config, blocking), offsetof(ncclConfig_t, blocking)),
    SAME(offsetof(struct pldi_nccl_config, cga_cluster_size),
         offsetof(ncclConfig_t, cgaClusterSize)),
    SAME(offsetof(struct pldi_nccl_config, min_ctas), offsetof(ncclConfig_t, minCTAs)),
    SAME(offsetof(struct pldi_nccl_config, max_ctas), offsetof(ncclConfig_t, maxCTAs)),
    SAME(offsetof(struct pldi_nccl_config, net_name), offsetof(ncclConfig_t, netName)),
    SAME(offsetof(struct pldi_nccl_config, split_share), offsetof(ncclConfig_t, splitShare)),
    SAME(INT_MIN, NCCL_CONFIG_UNDEF_INT),
};

static void test_nccl()
{
    const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
    const struct pldi_nccl_config ours = PLDI_NCCL_CONFIG;

    test_constants(nccl, sizeof(nccl) / sizeof(nccl[0]));
    ok(ours.magic == theirs.magic && ours.blocking == theirs.blocking &&
           ours.net_name == theirs.netName && ours.split_share == theirs.splitShare,
       "NCCL_CONFIG_INITIALIZER");
#define CHECK(name, symbol, arguments)                                                             \
    ok(same_call<decltype(&symbol), decltype(pldi_nccl::name)>::all(), #symbol);
    PLDI_NCCL_FUNCTIONS(CHECK)
#if NCCL_VERSION_CODE >= 22807
    PLDI_NCCL_OPTIONAL(CHECK)
#endif
#undef CHECK
    ok(same_call<decltype(&ncclGetErrorString), decltype(pldi_nccl::error_string)>::all() &&
           same_call<decltype(&ncclGetLastError), decltype(pldi_nccl::last_error)>::all(),
       "ncclGetErrorString, ncclGetLastError");
}
#else
static void test_nccl()
{
    ok(1, "nccl.h # SKIP it is not there");
}
#endif

int main()
{
    test_constants(driver, sizeof(driver) / sizeof(driver[0]));
    test_driver_functions();
    test_nccl();
    return tap_done();
}
