/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file cublaslt.h
 * Matrix products on a GPU by cuBLASLt, which is opened with dlopen(): the program runs where
 * there is none, and one build works with CUDA 12 and 13.
 *
 * What is used of its interface is declared here; a test compares with NVIDIA's header
 * where there is one.  Matrices are cuBLASLt's: by columns, `ld` elements apart.
 */
#ifndef GPT_CUBLASLT_H
#define GPT_CUBLASLT_H

#include <polder/device.h>

#include <stddef.h>
#include <stdint.h>

/** cudaDataType_t, cublasComputeType_t, cublasOperation_t */
enum { GPT_LT_R_32F = 0, GPT_LT_R_16BF = 14, GPT_LT_COMPUTE_32F = 68, GPT_LT_N = 0, GPT_LT_T = 1 };

/** cublasLtMatmulDescAttributes_t, cublasLtMatmulPreferenceAttributes_t */
enum {
    GPT_LT_TRANSA = 3,
    GPT_LT_TRANSB = 4,
    GPT_LT_EPILOGUE = 7,
    GPT_LT_BIAS_POINTER = 8,
    GPT_LT_AUX_POINTER = 11,
    GPT_LT_AUX_LD = 12,
    GPT_LT_MAX_WORKSPACE = 1,
    GPT_LT_ALIGNMENT_A = 5, /**< then those of B, C, D */
    GPT_LT_ALIGNMENT_D = 8
};

/** cublasLtEpilogue_t: what is done to a product before it is stored.  GELU in its tanh form. */
enum {
    GPT_LT_DEFAULT = 1,
    GPT_LT_BIAS = 4,            /**< + bias, one element a row */
    GPT_LT_GELU_AUX_BIAS = 164, /**< gelu(. + bias), its argument to aux */
    GPT_LT_DGELU = 192          /**< times the slope of GELU at aux */
};

/** cublasLtMatmulAlgo_t, cublasLtMatmulHeuristicResult_t */
struct gpt_lt_algo {
    uint64_t data[8];
};
struct gpt_lt_choice {
    struct gpt_lt_algo algo;
    size_t workspace;
    int state; /**< 0: usable */
    float waves;
    int reserved[4];
};

/** X(name, symbol, arguments): functions that return a cublasStatus_t, 0 being success. */
#define GPT_LT_FUNCTIONS(X)                                                                        \
    X(create, cublasLtCreate, (void **handle))                                                     \
    X(destroy, cublasLtDestroy, (void *handle))                                                    \
    X(desc_create, cublasLtMatmulDescCreate, (void **desc, int compute, int scale))                \
    X(desc_destroy, cublasLtMatmulDescDestroy, (void *desc))                                       \
    X(desc_set, cublasLtMatmulDescSetAttribute,                                                    \
      (void *desc, int attribute, const void *value, size_t bytes))                                \
    X(layout_create, cublasLtMatrixLayoutCreate,                                                   \
      (void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld))                         \
    X(layout_destroy, cublasLtMatrixLayoutDestroy, (void *layout))                                 \
    X(wish_create, cublasLtMatmulPreferenceCreate, (void **wish))                                  \
    X(wish_destroy, cublasLtMatmulPreferenceDestroy, (void *wish))                                 \
    X(wish_set, cublasLtMatmulPreferenceSetAttribute,                                              \
      (void *wish, int attribute, const void *value, size_t bytes))                                \
    X(choose, cublasLtMatmulAlgoGetHeuristic,                                                      \
      (void *handle, void *desc, void *a, void *b, void *c, void *d, void *wish, int most,         \
       struct gpt_lt_choice *out, int *count))                                                     \
    X(multiply, cublasLtMatmul,                                                                    \
      (void *handle, void *desc, const void *alpha, const void *a, void *a_layout, const void *b,  \
       void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,   \
       const struct gpt_lt_algo *algo, void *workspace, size_t workspace_bytes, void *stream))

/** d[m][n] = op(a) op(b) + beta c, then the epilogue; op(a) is [m][k]. */
struct gpt_product {
    int trans_a, trans_b; /**< GPT_LT_N or GPT_LT_T */
    int m, n, k;
    int type, type_out; /**< of a and b; of c and d */
    int epilogue;
    int lda, ldb, ldd;     /**< ldd: also of c and aux */
    float beta;            /**< 0 or 1 */
    const void *a, *b, *c; /**< c: may be d; not read if beta is 0 */
    void *d;
    const void *bias; /**< [m] of type_out, for the epilogue */
    void *aux;        /**< [m][n] of type_out, for the epilogue */
};

/** The library, and what it has chosen for each shape so far. */
struct gpt_lt;

/**
 * Load it and make the GPU current in this thread, where cuBLASLt looks for it.
 * PLD_ERR_UNSUPPORTED: there is none; PLD_ERR_DEVMEM, PLD_ERR_DEVICE.
 */
int gpt_lt_open(pld_device *device, struct gpt_lt **out);
void gpt_lt_close(struct gpt_lt **lt);

/** Put a product into the stream.  The first of a shape asks cuBLASLt for its best way. */
int gpt_lt_multiply(struct gpt_lt *lt, const struct gpt_product *product, pld_stream stream);

#endif /* GPT_CUBLASLT_H */
