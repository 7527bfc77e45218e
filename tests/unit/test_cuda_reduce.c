/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reductions of the GPU's kernels, emulated: against the host's, bit for bit, at all
 * alignments and tails; and against sums in f64, and in integers of 64 bits.
 */

#include "cuda_support.h"

enum { DTYPES = 9, OPS = 4, MAX_SOURCES = 130, MAX_TARGETS = 18, POOL = 5 };

static const pld_op ops[OPS] = {PLD_SUM, PLD_MAX, PLD_MIN, PLD_PROD};
static const char *const op_names[] = {"sum", "avg", "max", "min", "prod"};

/* How the arrays of a trial lie. */
enum layout { ALIGNED, SHIFTED_ALIKE, SHIFTED_APART, LAYOUTS };

struct trial {
    pld_dtype dtype;
    pld_op op;
    size_t count;
    int n_srcs, n_dsts;
    enum layout layout;
    double scale;
    int special;
    int in_place; /* 1 + the source that is the first target; 0: none */
};

static size_t shift_of(enum layout layout, int array)
{
    return layout == ALIGNED ? 0 : layout == SHIFTED_ALIKE ? 3 : (size_t)(array * 5 % 7);
}

static double fold_numbers(double x, double y, pld_op op)
{
    return op == PLD_MAX    ? (isnan(x) || x > y ? x : y)
           : op == PLD_MIN  ? (isnan(x) || x < y ? x : y)
           : op == PLD_PROD ? x * y
                            : x + y;
}

/* Half a unit in the last place of the type, relative, and absolute near 0. */
static double unit_of(pld_dtype dtype)
{
    return dtype == PLD_F64   ? 0x1p-53
           : dtype == PLD_F32 ? 0x1p-24
           : dtype == PLD_F16 ? 0x1p-11
                              : 0x1p-8;
}

static int number_is_close(const char *got, const void *const *srcs, size_t at,
                           const struct trial *t)
{
    const double result = get_number(got, t->dtype);
    double exact = get_number((const char *)srcs[0] + at, t->dtype);
    double size = fabs(exact);
    double slack;

    for (int s = 1; s < t->n_srcs; s++) {
        const double x = get_number((const char *)srcs[s] + at, t->dtype);

        exact = fold_numbers(exact, x, t->op);
        size = t->op == PLD_PROD ? fabs(exact) : size + fabs(x);
    }
    exact *= t->scale;
    size *= fabs(t->scale);
    slack = fabs(exact) * unit_of(t->dtype) +
            size * (t->n_srcs + 1) * (t->dtype == PLD_F64 ? 0x1p-52 : 0x1p-23) +
            (t->dtype == PLD_F16 ? 0x1p-25 : 0x1p-133);
    return fabs(result - exact) <= slack;
}

static int64_t integer_at(const void *from, pld_dtype dtype)
{
    int64_t value = 0;

    if (dtype == PLD_I8)
        return *(const int8_t *)from;
    if (dtype == PLD_I32)
        return *(const int32_t *)from;
    memcpy(&value, from, pld_dtype_bytes(dtype));
    return value;
}

static int integer_is_right(const char *got, const void *const *srcs, size_t at,
                            const struct trial *t)
{
    int64_t exact = integer_at((const char *)srcs[0] + at, t->dtype);

    for (int s = 1; s < t->n_srcs; s++) {
        const int64_t x = integer_at((const char *)srcs[s] + at, t->dtype);

        exact = t->op == PLD_MAX    ? (exact > x ? exact : x)
                : t->op == PLD_MIN  ? (exact < x ? exact : x)
                : t->op == PLD_PROD ? (int64_t)((uint64_t)exact * (uint64_t)x)
                                    : (int64_t)((uint64_t)exact + (uint64_t)x);
    }
    return memcmp(got, &exact, pld_dtype_bytes(t->dtype)) == 0; /* the low bytes */
}

static int is_right(const struct array *got, const void *const *srcs, const struct trial *t)
{
    const size_t bytes = pld_dtype_bytes(t->dtype);
    int good = 1;

    for (size_t at = 0; at < got->bytes && good; at += bytes)
        good = is_floating_type(t->dtype) ? number_is_close(got->at + at, srcs, at, t)
                                          : integer_is_right(got->at + at, srcs, at, t);
    return good;
}

/* Sources beyond the pool are those of the pool again. */
static int run(const struct trial *t)
{
    struct array pool[POOL];
    struct array targets[MAX_TARGETS];
    struct array wanted = array_new(t->count, t->dtype, 0);
    const void *srcs[MAX_SOURCES];
    void *dsts[MAX_TARGETS];
    int good = 1;

    for (int s = 0; s < POOL; s++) {
        pool[s] = array_new(t->count, t->dtype, shift_of(t->layout, s));
        array_fill(&pool[s], t->dtype, t->special);
    }
    for (int s = 0; s < t->n_srcs; s++)
        srcs[s] = pool[s % POOL].at;
    for (int d = 0; d < t->n_dsts; d++) {
        targets[d] = array_new(t->count, t->dtype, shift_of(t->layout, d + 1));
        dsts[d] = targets[d].at;
    }
    pldi_kernels_find("scalar")->reduce(wanted.at, srcs, t->n_srcs, t->count, t->dtype, t->op,
                                        t->scale);
    if (!t->special)
        good = is_right(&wanted, srcs, t);
    if (t->in_place > 0)
        dsts[0] = pool[(t->in_place - 1) % POOL].at;
    good &= pldi_cuda_reduce(gpu, dsts, t->n_dsts, srcs, t->n_srcs, t->count, t->dtype, t->op,
                             t->scale, NULL) == PLD_OK;
    for (int d = 0; d < t->n_dsts; d++) {
        good &= same_elements(dsts[d], wanted.at, t->count, t->dtype);
        good &= array_free(&targets[d]);
    }
    for (int s = 0; s < POOL; s++)
        good &= array_free(&pool[s]);
    good &= array_free(&wanted);
    if (!good)
        printf("# %s %s of %d sources into %d, %zu elements, layout %d, scale %g, in place %d\n",
               pld_dtype_name(t->dtype), op_names[t->op], t->n_srcs, t->n_dsts, t->count,
               (int)t->layout, t->scale, t->in_place);
    return good;
}

/* Everything with everything, at sizes about those of a vector and a warp. */
static int small_ones(pld_dtype dtype)
{
    static const size_t counts[] = {0, 1, 3, 15, 16, 17, 63, 64, 65, 1000};
    static const int sources[] = {1, 2, 3, 5};
    int good = 1;
    int number = 0;

    for (size_t c = 0; c < sizeof(counts) / sizeof(*counts) * OPS * LAYOUTS * 4; c++) {
        const struct trial t = {.dtype = dtype,
                                .op = ops[c % OPS],
                                .layout = (enum layout)(c / OPS % LAYOUTS),
                                .n_srcs = sources[c / OPS / LAYOUTS % 4],
                                .count = counts[c / OPS / LAYOUTS / 4],
                                .n_dsts = 1 + number % 3,
                                .scale = number % 5 < 2 ? 0.3 : 1,
                                .special = number % 2,
                                .in_place = number % 4};

        number++;
        good &= run(&t);
    }
    return good;
}

static int large_ones(pld_dtype dtype)
{
    int good = 1;

    for (int k = 0; k < LAYOUTS; k++) {
        const struct trial t = {.dtype = dtype,
                                .op = PLD_SUM,
                                .layout = (enum layout)k,
                                .n_srcs = 2 + k,
                                .count = 100003,
                                .n_dsts = 1 + k % 2,
                                .scale = k == 1 ? 0.125 : 1,
                                .special = k % 2};

        good &= run(&t);
    }
    return good;
}

/* More sources and targets than one launch takes; a later source is a target. */
static int many_ones(pld_dtype dtype)
{
    static const int sources[] = {PLDI_CUDA_SOURCES, PLDI_CUDA_SOURCES + 1, MAX_SOURCES};
    int good = 1;

    for (int k = 0; k < 3 * OPS; k++) {
        const struct trial t = {.dtype = dtype,
                                .op = ops[k % OPS],
                                .layout = (enum layout)(k % LAYOUTS),
                                .n_srcs = sources[k / OPS],
                                .count = 777,
                                .n_dsts = k % 2 == 0 ? 1 : MAX_TARGETS,
                                .scale = k % 3 == 0 ? 1.0 / 64 : 1,
                                .special = 1,
                                .in_place = k % 5};

        good &= run(&t);
    }
    return good;
}

/* A sum that goes on in memory is done a part at a time. */
static void test_parts(void)
{
    const size_t part = PLDI_CUDA_SUM_BYTES / sizeof(double);
    const struct trial t = {.dtype = PLD_F64,
                            .op = PLD_SUM,
                            .n_srcs = PLDI_CUDA_SOURCES + 1,
                            .n_dsts = 1,
                            .count = part + 100,
                            .scale = 1,
                            .special = 1,
                            .in_place = 2};
    int good;

    launches = 0;
    good = run(&t);
    ok(good && launches == 4, "two launches for each of two parts: %d", launches);
}

/* What is only copied keeps all its bits, those of a NaN, too. */
static void test_copies(void)
{
    static uint16_t from[1 << 16], to[1 << 16];
    const void *src = from;
    void *dst = to;
    int good;

    for (int i = 0; i < 1 << 16; i++)
        from[i] = (uint16_t)i;
    good = pldi_cuda_reduce(gpu, &dst, 1, &src, 1, 1 << 16, PLD_BF16, PLD_SUM, 1, NULL) == PLD_OK;
    ok(good && memcmp(from, to, sizeof(to)) == 0, "the sum of one source has all its bits");
}

static void test_refusal(void)
{
    char byte = 1;
    const void *src = &byte;
    void *dst = &byte;
    const int rc = pldi_cuda_reduce(gpu, &dst, 1, &src, 1, 1, (pld_dtype)77, PLD_SUM, 1, NULL);

    ok(rc == PLD_ERR_ARG && strstr(refusal, "77") != NULL, "an unknown dtype: %s", refusal);
}

int main(void)
{
    for (int d = 0; d < DTYPES; d++) {
        const pld_dtype dtype = (pld_dtype)d;

        ok(small_ones(dtype), "%s: up to 1000 elements, all operations", pld_dtype_name(dtype));
        ok(large_ones(dtype), "%s: 100003 elements", pld_dtype_name(dtype));
        ok(many_ones(dtype), "%s: up to %d sources", pld_dtype_name(dtype), (int)MAX_SOURCES);
    }
    test_parts();
    test_copies();
    test_refusal();
    return tap_done();
}
