/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Which instruction set. */

#include "kernels.h"

#include <stdlib.h>
#include <string.h>

extern const struct gpt_kernels gpt_kernels_scalar;
#ifdef __x86_64__
extern const struct gpt_kernels gpt_kernels_avx2;
extern const struct gpt_kernels gpt_kernels_avx512;

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

const struct gpt_kernels *gpt_kernels_find(const char *name)
{
    if (strcmp(name, "scalar") == 0)
        return &gpt_kernels_scalar;
#ifdef __x86_64__
    if (strcmp(name, "avx2") == 0 && has_avx2())
        return &gpt_kernels_avx2;
    if (strcmp(name, "avx512") == 0 && has_avx512())
        return &gpt_kernels_avx512;
#endif
    return NULL;
}

const struct gpt_kernels *gpt_kernels(void)
{
    static const char *const best_first[] = {"avx512", "avx2"};
    const char *wanted = getenv("POLDER_ISA");
    const struct gpt_kernels *found = wanted != NULL ? gpt_kernels_find(wanted) : NULL;

    for (size_t i = 0; found == NULL && i < sizeof(best_first) / sizeof(best_first[0]); i++)
        found = gpt_kernels_find(best_first[i]);
    return found != NULL ? found : &gpt_kernels_scalar;
}
