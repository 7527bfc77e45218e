/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Optimizer sweeps and norms; included by device_kernels_isa.c alone. */

static double sum_squares(const void *src, size_t count, pld_dtype dtype)
{
    (void)src, (void)count, (void)dtype;
    return 0;
}

static void adamw(float *w, float *g, float *m, float *v, size_t count,
                  const struct pldi_adamw *args)
{
    (void)w, (void)g, (void)m, (void)v, (void)count, (void)args;
}

static void sgd(float *w, float *g, float *momentum, size_t count, const struct pldi_sgd *args)
{
    (void)w, (void)g, (void)momentum, (void)count, (void)args;
}
