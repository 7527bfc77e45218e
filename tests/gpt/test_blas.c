/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Choosing OpenBLAS's kernels and threads.  This program has its own
 * openblas_get_corename(), which says that AVX2 kernels are in use; so the choice has
 * to be made, the program is executed again, and it finds out here.
 */

#include <blas.h>
#include <cblas.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "tap.h"

char *openblas_get_corename(void);
extern int openblas_get_num_threads(void) __attribute__((weak));

char *openblas_get_corename(void)
{
    static char name[] = "Haswell";

    return name;
}

static int has_avx512(void)
{
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
    return 0;
#endif
}

static void test_threads(void)
{
    const float one = 1;
    cpu_set_t cores;
    int all;

    /* A call that is not weak, or the linker leaves the library out. */
    ok(cblas_sdot(1, &one, 1, &one, 1) == one, "BLAS answers");
    if (openblas_get_num_threads == NULL) {
        ok(1, "threads # SKIP another BLAS");
        return;
    }
    (void)unsetenv("OPENBLAS_NUM_THREADS");
    (void)unsetenv("OMP_NUM_THREADS");
    (void)sched_getaffinity(0, sizeof(cores), &cores);
    all = CPU_COUNT(&cores);
    gpt_blas_threads(all);
    ok(openblas_get_num_threads() == 1, "as many ranks as cores: a thread each");
    gpt_blas_threads(1);
    ok(openblas_get_num_threads() == all, "one rank: all %d cores", all);
    gpt_blas_threads(1000000);
    ok(openblas_get_num_threads() == 1, "more ranks than cores: a thread each");
    (void)setenv("OPENBLAS_NUM_THREADS", "1", 1);
    gpt_blas_threads(1);
    ok(openblas_get_num_threads() == 1, "the user's number stands");
}

int main(int argc, char **argv)
{
    const char *type = getenv("OPENBLAS_CORETYPE");
    char *again[] = {argv[0], "again", NULL};

    if (argc == 1) {
        (void)unsetenv("OPENBLAS_CORETYPE");
        gpt_blas_choose(again); /* does not come back where there is something to choose */
        ok(!has_avx512() && getenv("OPENBLAS_CORETYPE") == NULL, "nothing to choose");
    } else {
        ok(strcmp(argv[1], "again") == 0 && type != NULL && strcmp(type, "SkylakeX") == 0,
           "executed again with %s, and with its arguments", type);
        gpt_blas_choose(again);
        ok(1, "and not once more");
        (void)setenv("OPENBLAS_CORETYPE", "Zen", 1);
        gpt_blas_choose(again);
        ok(strcmp(getenv("OPENBLAS_CORETYPE"), "Zen") == 0, "a choice made is left alone");
    }
    test_threads();
    return tap_done();
}
