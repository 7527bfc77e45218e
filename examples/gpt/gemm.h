/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file gemm.h
 * The three matrix products of a linear layer y = x W', W [out][in], rows of x and
 * y one after the other: what it gives, and the gradients of x and W.
 */
#ifndef GPT_GEMM_H
#define GPT_GEMM_H

#include <cblas.h>

/** c[m][n] = beta c + alpha a[m][k] b[n][k]' */
static inline void gemm_nt(int m, int n, int k, float alpha, const float *a, int lda,
                           const float *b, int ldb, float beta, float *c, int ldc)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, alpha, a, lda, b, ldb, beta, c,
                ldc);
}

/** c[m][n] = beta c + a[m][k] b[k][n] */
static inline void gemm_nn(int m, int n, int k, const float *a, int lda, const float *b, int ldb,
                           float beta, float *c, int ldc)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1.0F, a, lda, b, ldb, beta, c,
                ldc);
}

/** c[m][n] = beta c + a[k][m]' b[k][n] */
static inline void gemm_tn(int m, int n, int k, const float *a, int lda, const float *b, int ldb,
                           float beta, float *c, int ldc)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, n, k, 1.0F, a, lda, b, ldb, beta, c,
                ldc);
}

/** y[rows][out] += x[rows][in] w[out][in]' */
static inline void linear_forward(int rows, int out, int in, const float *x, const float *w,
                                  float *y)
{
    gemm_nt(rows, out, in, 1.0F, x, in, w, in, 1.0F, y, out);
}

/** dx[rows][in] = dy[rows][out] w[out][in] */
static inline void linear_input(int rows, int out, int in, const float *dy, const float *w,
                                float *dx)
{
    gemm_nn(rows, in, out, dy, out, w, in, 0.0F, dx, in);
}

/** dw[out][in] += dy[rows][out]' x[rows][in] */
static inline void linear_weight(int rows, int out, int in, const float *dy, const float *x,
                                 float *dw)
{
    gemm_tn(out, in, rows, dy, out, x, in, 1.0F, dw, in);
}

#endif /* GPT_GEMM_H */
