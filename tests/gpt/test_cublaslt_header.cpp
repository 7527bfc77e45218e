/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What examples/gpt/cublaslt.h declares, against NVIDIA's header: numbers, sizes of structs, and of
 * each function the number and sizes of its arguments. */

#include <cublasLt.h>

#include <cstdio>

extern "C" {
#include "cublaslt.h"
}

static int count, failed;

static void ok(bool good, const char *what)
{
    count++;
    failed += !good;
    printf("%sok %d - %s\n", good ? "" : "not ", count, what);
}

template <class A, class B> struct alike {
    static constexpr bool value = false;
};
template <class R, class... A, class S, class... B> struct alike<R (*)(A...), S (*)(B...)> {
    static constexpr bool value = [] {
        if constexpr (sizeof...(A) == sizeof...(B))
            return ((sizeof(A) == sizeof(B)) && ...) && sizeof(R) == sizeof(S);
        return false;
    }();
};

static bool same(int ours, int theirs)
{
    return ours == theirs;
}

static void numbers()
{
    ok(same(GPT_LT_R_32F, CUDA_R_32F) && same(GPT_LT_R_16BF, CUDA_R_16BF), "data types");
    ok(same(GPT_LT_COMPUTE_32F, CUBLAS_COMPUTE_32F), "compute type");
    ok(same(GPT_LT_N, CUBLAS_OP_N) && same(GPT_LT_T, CUBLAS_OP_T), "operations");
    ok(same(GPT_LT_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA) &&
           same(GPT_LT_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB) &&
           same(GPT_LT_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE) &&
           same(GPT_LT_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER) &&
           same(GPT_LT_AUX_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER) &&
           same(GPT_LT_AUX_LD, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD),
       "attributes of a product");
    ok(same(GPT_LT_MAX_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES),
       "wish for a workspace");
    ok(same(GPT_LT_DEFAULT, CUBLASLT_EPILOGUE_DEFAULT) &&
           same(GPT_LT_BIAS, CUBLASLT_EPILOGUE_BIAS) &&
           same(GPT_LT_GELU_AUX_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS) &&
           same(GPT_LT_DGELU, CUBLASLT_EPILOGUE_DGELU),
       "epilogues");
    ok(sizeof(gpt_lt_algo) == sizeof(cublasLtMatmulAlgo_t), "an algorithm");
    ok(sizeof(gpt_lt_choice) == sizeof(cublasLtMatmulHeuristicResult_t) &&
           offsetof(gpt_lt_choice, workspace) ==
               offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) &&
           offsetof(gpt_lt_choice, state) == offsetof(cublasLtMatmulHeuristicResult_t, state),
       "a choice");
}

int main()
{
    numbers();
#define CHECK(name, symbol, arguments)                                                             \
    {                                                                                              \
        typedef int(*ours) arguments;                                                              \
        ok(alike<decltype(&symbol), ours>::value, #symbol);                                        \
    }
    GPT_LT_FUNCTIONS(CHECK)
#undef CHECK
    printf("1..%d\n", count);
    return failed != 0;
}
