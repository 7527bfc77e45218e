/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file nccl_api.h
 * What polder calls of NCCL 2.20 to 2.30, libnccl.so.2, found at run time.
 *
 * Declared here for the reasons that cuda_api.h gives.  Some functions are optional: NULL
 * where the library at hand lacks them.
 */
#ifndef PLDI_NCCL_API_H
#define PLDI_NCCL_API_H

#include <limits.h>
#include <stddef.h>

#include "cuda/cuda_api.h"

typedef struct ncclComm *pldi_nccl_comm;

struct pldi_nccl_id {
    char bytes[128];
};

/** ncclResult_t */
enum {
    PLDI_NCCL_SUCCESS = 0,
    PLDI_NCCL_CUDA_ERROR = 1,
    PLDI_NCCL_SYSTEM_ERROR = 2,
    PLDI_NCCL_INTERNAL_ERROR = 3,
    PLDI_NCCL_INVALID_ARGUMENT = 4,
    PLDI_NCCL_INVALID_USAGE = 5,
    PLDI_NCCL_REMOTE_ERROR = 6,
    PLDI_NCCL_IN_PROGRESS = 7
};

/** ncclDataType_t, ncclRedOp_t, ncclScalarResidence_t */
enum {
    PLDI_NCCL_I8 = 0,
    PLDI_NCCL_U8 = 1,
    PLDI_NCCL_I32 = 2,
    PLDI_NCCL_U32 = 3,
    PLDI_NCCL_I64 = 4,
    PLDI_NCCL_U64 = 5,
    PLDI_NCCL_F16 = 6,
    PLDI_NCCL_F32 = 7,
    PLDI_NCCL_F64 = 8,
    PLDI_NCCL_BF16 = 9,
    PLDI_NCCL_SUM = 0,
    PLDI_NCCL_PROD = 1,
    PLDI_NCCL_MAX = 2,
    PLDI_NCCL_MIN = 3,
    PLDI_NCCL_AVG = 4,
    PLDI_NCCL_SCALAR_DEVICE = 0,
    PLDI_NCCL_SCALAR_HOST = 1,
    PLDI_NCCL_NO_COLOR = -1
};

/** Lowest version that will do, and the first with a struct pldi_nccl_config this long. */
enum { PLDI_NCCL_LOWEST = 22000 };

/**
 * ncclConfig_t as 2.20 has it; later ones only append.  `size` tells the library how much
 * of it there is, `version` which defaults the rest has.
 */
struct pldi_nccl_config {
    size_t size;
    unsigned magic;
    unsigned version;
    int blocking;
    int cga_cluster_size;
    int min_ctas;
    int max_ctas;
    const char *net_name;
    int split_share;
};
#define PLDI_NCCL_CONFIG                                                                           \
    {                                                                                              \
        sizeof(struct pldi_nccl_config), 0xcafebeefU, PLDI_NCCL_LOWEST, INT_MIN, INT_MIN, INT_MIN, \
            INT_MIN, NULL, INT_MIN                                                                 \
    }

/* X(name, symbol, arguments); each returns a ncclResult_t. */
#define PLDI_NCCL_FUNCTIONS(X)                                                                     \
    X(version, ncclGetVersion, (int *version))                                                     \
    X(unique_id, ncclGetUniqueId, (struct pldi_nccl_id * id))                                      \
    X(init, ncclCommInitRankConfig,                                                                \
      (pldi_nccl_comm * comm, int size, struct pldi_nccl_id id, int rank,                          \
       struct pldi_nccl_config *config))                                                           \
    X(finalize, ncclCommFinalize, (pldi_nccl_comm comm))                                           \
    X(destroy, ncclCommDestroy, (pldi_nccl_comm comm))                                             \
    X(abort, ncclCommAbort, (pldi_nccl_comm comm))                                                 \
    X(async_error, ncclCommGetAsyncError, (pldi_nccl_comm comm, int *code))                        \
    X(premul_sum, ncclRedOpCreatePreMulSum,                                                        \
      (int *op, void *scalar, int dtype, int residence, pldi_nccl_comm comm))                      \
    X(op_destroy, ncclRedOpDestroy, (int op, pldi_nccl_comm comm))                                 \
    X(reduce, ncclReduce,                                                                          \
      (const void *send, void *recv, size_t count, int dtype, int op, int root,                    \
       pldi_nccl_comm comm, pldi_cu_stream stream))                                                \
    X(broadcast, ncclBroadcast,                                                                    \
      (const void *send, void *recv, size_t count, int dtype, int root, pldi_nccl_comm comm,       \
       pldi_cu_stream stream))                                                                     \
    X(all_reduce, ncclAllReduce,                                                                   \
      (const void *send, void *recv, size_t count, int dtype, int op, pldi_nccl_comm comm,         \
       pldi_cu_stream stream))                                                                     \
    X(reduce_scatter, ncclReduceScatter,                                                           \
      (const void *send, void *recv, size_t count, int dtype, int op, pldi_nccl_comm comm,         \
       pldi_cu_stream stream))                                                                     \
    X(all_gather, ncclAllGather,                                                                   \
      (const void *send, void *recv, size_t count, int dtype, pldi_nccl_comm comm,                 \
       pldi_cu_stream stream))                                                                     \
    X(send, ncclSend,                                                                              \
      (const void *send, size_t count, int dtype, int peer, pldi_nccl_comm comm,                   \
       pldi_cu_stream stream))                                                                     \
    X(recv, ncclRecv,                                                                              \
      (void *recv, size_t count, int dtype, int peer, pldi_nccl_comm comm, pldi_cu_stream stream)) \
    X(group_start, ncclGroupStart, (void))                                                         \
    X(group_end, ncclGroupEnd, (void))

/* What polder can do without: since 2.18, 2.19, and 2.28.7. */
#define PLDI_NCCL_OPTIONAL(X)                                                                      \
    X(split, ncclCommSplit,                                                                        \
      (pldi_nccl_comm comm, int color, int key, pldi_nccl_comm *out,                               \
       struct pldi_nccl_config *config))                                                           \
    X(register_buffer, ncclCommRegister,                                                           \
      (pldi_nccl_comm comm, void *buffer, size_t bytes, void **handle))                            \
    X(deregister_buffer, ncclCommDeregister, (pldi_nccl_comm comm, void *handle))                  \
    X(mem_alloc, ncclMemAlloc, (void **out, size_t bytes))                                         \
    X(mem_free, ncclMemFree, (void *memory))                                                       \
    X(revoke, ncclCommRevoke, (pldi_nccl_comm comm, int flags))

/** NCCL's functions. */
struct pldi_nccl {
    void *library;
    int found_version;
    const char *(*error_string)(int code);
    const char *(*last_error)(pldi_nccl_comm comm); /**< sentence of the last failure, or "" */
#define PLDI_NCCL_MEMBER(name, symbol, arguments) int(*name) arguments;
    PLDI_NCCL_FUNCTIONS(PLDI_NCCL_MEMBER)
    PLDI_NCCL_OPTIONAL(PLDI_NCCL_MEMBER)
#undef PLDI_NCCL_MEMBER
};

#endif /* PLDI_NCCL_API_H */
