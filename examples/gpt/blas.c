/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "blas.h"

#include <sched.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

/* OpenBLAS's own; absent in any other BLAS. */
extern char *openblas_get_corename(void) __attribute__((weak));
extern void openblas_set_num_threads(int threads) __attribute__((weak));

static int has_avx512(void)
{
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
    return 0;
#endif
}

/* Families of kernels that use AVX-512. */
static int uses_avx512(const char *name)
{
    static const char *const names[] = {"SkylakeX", "Cooperlake", "Sapphirerapids"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcasecmp(name, names[i]) == 0)
            return 1;
    return 0;
}

void gpt_blas_choose(char **argv)
{
    static const char variable[] = "OPENBLAS_CORETYPE";

    if (openblas_get_corename == NULL || getenv(variable) != NULL || !has_avx512() ||
        uses_avx512(openblas_get_corename()))
        return;
    if (setenv(variable, "SkylakeX", 1) != 0)
        return;
    (void)execv("/proc/self/exe", argv);
    (void)unsetenv(variable);
}

void gpt_blas_threads(int local_ranks)
{
    cpu_set_t cores;
    int threads = 1;

    if (openblas_set_num_threads == NULL || getenv("OPENBLAS_NUM_THREADS") != NULL ||
        getenv("OMP_NUM_THREADS") != NULL)
        return;
    if (sched_getaffinity(0, sizeof(cores), &cores) == 0)
        threads = CPU_COUNT(&cores) / (local_ranks > 0 ? local_ranks : 1);
    openblas_set_num_threads(threads > 0 ? threads : 1);
}
