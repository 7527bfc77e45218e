/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The norm, the decision and the optimizer sweeps of the GPU's kernels, emulated.  Sweeps:
 * many steps against lib/optim, bit for bit; the norm: against long double, and with the same
 * bits whatever the order of blocks and the place of the data.
 */

#include "cuda_support.h"
#include "optim/optim_impl.h"

/* SKIPPED: the step with a gradient that is not finite. */
enum { RANGES = 10, STEPS = 50, FEW_STEPS = 8, SKIPPED = 6, MOST_STEPS = 100000 };

static const size_t counts[RANGES] = {0, 1, 3, 63, 64, 65, 1000, 100003, 16384, 16385};
static const pld_dtype floating[] = {PLD_F32, PLD_F64, PLD_F16, PLD_BF16};

/* ---- Norm ---- */

/* All counts, dtypes in turn, each array `shift` elements off its alignment. */
static struct pldi_step_vote norm_of_many(size_t shift, long double *wanted)
{
    struct array arrays[RANGES];
    struct pldi_range ranges[RANGES];
    struct pldi_step_vote vote = {-1, -1};

    random_state = 7;
    *wanted = 0;
    for (int r = 0; r < RANGES; r++) {
        const pld_dtype dtype = floating[r % 4];

        arrays[r] = array_new(counts[r], dtype, shift * (size_t)(r % 3));
        array_fill(&arrays[r], dtype, 0);
        ranges[r] = (struct pldi_range){arrays[r].at, counts[r], dtype};
        for (size_t i = 0; i < counts[r]; i++) {
            const double x = get_number(arrays[r].at + i * pld_dtype_bytes(dtype), dtype);

            *wanted += (long double)x * (long double)x;
        }
    }
    if (pldi_cuda_sum_squares(gpu, ranges, RANGES, &vote, NULL) < 0)
        vote.square = -2;
    for (int r = 0; r < RANGES; r++)
        if (!array_free(&arrays[r]))
            vote.square = -3;
    return vote;
}

static void test_norm(void)
{
    long double wanted;
    const struct pldi_step_vote first = norm_of_many(0, &wanted);
    int differ = 0;

    ok(fabs((double)(first.square / wanted - 1)) < 1e-14 && first.infinite == 0,
       "sum of squares %.17g, wanted %.17Lg", first.square, wanted);
    for (int k = 1; k < 8; k++) {
        const struct pldi_step_vote other = norm_of_many((size_t)k % 5, &wanted);

        differ += memcmp(&first, &other, sizeof(first)) != 0;
    }
    ok(differ == 0, "in other orders of blocks, and at other places: %d of 7 differ", differ);
}

/* More ranges than partials, one of which needs longer slices; then none at all. */
static void test_many_ranges(void)
{
    enum { MANY = PLDI_CUDA_PARTIALS + 100, LONG = 2 * PLDI_CUDA_SLICE + 1 };
    static struct pldi_range ranges[MANY];
    static float ones[LONG];
    struct pldi_step_vote vote = {0, 0};
    int rc;

    for (int i = 0; i < LONG; i++)
        ones[i] = 1;
    for (int r = 0; r < MANY; r++)
        ranges[r] = (struct pldi_range){ones, r == 3000 ? LONG : 1, PLD_F32};
    rc = pldi_cuda_sum_squares(gpu, ranges, MANY, &vote, NULL);
    ok(rc == PLD_OK && vote.square == MANY - 1 + LONG, "%d ranges: %g", MANY, vote.square);
    rc = pldi_cuda_sum_squares(gpu, NULL, 0, &vote, NULL);
    ok(rc == PLD_OK && vote.square == 0 && vote.infinite == 0, "no range: %g", vote.square);
    ranges[3].dtype = PLD_I32;
    rc = pldi_cuda_sum_squares(gpu, ranges, 4, &vote, NULL);
    ok(rc == PLD_ERR_ARG && strstr(refusal, "i32") != NULL, "integers: %s", refusal);
}

static int sees_infinite(pld_dtype dtype, double bad, size_t at)
{
    struct array a = array_new(5000, dtype, 1);
    struct pldi_range range = {a.at, 5000, dtype};
    struct pldi_step_vote vote = {0, 0};

    array_fill(&a, dtype, 0);
    put_number(a.at + at * pld_dtype_bytes(dtype), dtype, bad);
    (void)pldi_cuda_sum_squares(gpu, &range, 1, &vote, NULL);
    return array_free(&a) && vote.infinite == 1 ? 1 : isfinite(vote.square) ? 0 : -1;
}

static void test_infinite(void)
{
    int seen = 0;
    int wrongly = 0;

    for (int d = 0; d < 4; d++) {
        for (size_t at = 0; at < 5000; at += 357) {
            seen += sees_infinite(floating[d], at % 2 ? (double)NAN : (double)-INFINITY, at) == 1;
            wrongly += sees_infinite(floating[d], 6e4, at) != 0;
        }
    }
    ok(seen == 4 * 15 && wrongly == 0, "not finite: %d of 60 seen, %d wrongly", seen, wrongly);
    ok(sees_infinite(PLD_F64, 1e200, 77) == 1, "a square beyond f64 is not finite either");
    ok(sees_infinite(PLD_F32, 3e38, 77) == 0, "the square of the largest f32 is");
}

/* ---- Decision ---- */

static struct pldi_step_control decide(struct pldi_step_vote vote, struct pldi_step_rule rule,
                                       int64_t t, double scale)
{
    struct pldi_step_control control = {.t = t, .scaling = {.scale = scale}};

    (void)pldi_cuda_step_decide(gpu, &vote, &rule, &control, NULL);
    return control;
}

/* Factors of steps, against the host's pow(), in f32, which is what updates are made with. */
static void test_bias(void)
{
    static const double betas[] = {0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999};
    int differ = 0;
    double worst = 0;

    for (int64_t t = 1; t <= MOST_STEPS; t += t < 3000 ? 1 : 997) {
        const double beta1 = betas[t % 7];
        const double beta2 = betas[(t + 2) % 7];
        const struct pldi_step_rule rule = {.lr = 3e-4, .beta1 = beta1, .beta2 = beta2};
        const struct pldi_step_control c = decide((struct pldi_step_vote){1, 0}, rule, t - 1, 1);
        const double step_size = 3e-4 / (1 - pow(beta1, (double)t));
        const double sqrt_factor = 1 / sqrt(1 - pow(beta2, (double)t));

        differ += (float)c.step_size != (float)step_size;
        differ += (float)c.sqrt_factor != (float)sqrt_factor || c.t != t;
        worst = fmax(worst, fabs(c.step_size / step_size - 1));
        worst = fmax(worst, fabs(c.sqrt_factor / sqrt_factor - 1));
    }
    ok(differ == 0, "bias corrections: %d of f32 differ from the host's", differ);
    ok(worst < 1e-12, "bias corrections in f64 within %.1e", worst);
}

static void test_decision(void)
{
    const struct pldi_step_rule plain = {.lr = 0.1, .beta1 = 0.9, .beta2 = 0.99};
    const struct pldi_step_rule clipped = {.lr = 0.1, .beta1 = 0.9, .beta2 = 0.99, .clip = 2.5};
    struct pldi_step_control c = decide((struct pldi_step_vote){16, 0}, plain, 4, 1);

    ok(c.norm == 4 && c.factor == 1 && c.t == 5 && c.skip == 0, "no clipping: norm %g, factor %g",
       c.norm, c.factor);
    c = decide((struct pldi_step_vote){16, 0}, clipped, 4, 1);
    ok(c.factor == 2.5 / (4 + 1e-6), "clipped: factor %.17g", c.factor);
    c = decide((struct pldi_step_vote){4, 0}, clipped, 4, 1);
    ok(c.norm == 2 && c.factor == 1, "not beyond the largest norm: factor %g", c.factor);
    c = decide((struct pldi_step_vote){16 * 0x1p20, 0}, clipped, 4, 1024);
    ok(c.norm == 4 && c.factor == 2.5 / (4 + 1e-6) / 1024 && c.clip == c.factor * 1024,
       "unscaled: norm %g, factor %.17g", c.norm, c.factor);
    c = decide((struct pldi_step_vote){16, 1}, clipped, 4, 1);
    ok(isnan(c.norm) && c.skip == 1 && c.t == 4, "a rank's share is not finite: norm %g", c.norm);
    c = decide((struct pldi_step_vote){INFINITY, 2}, clipped, 4, 1);
    ok(isinf(c.norm) && c.skip == 1 && c.t == 4, "the sum is not finite: norm %g", c.norm);
    c = decide((struct pldi_step_vote){NAN, 0}, plain, 4, 1);
    ok(isnan(c.norm) && c.skip == 1 && c.t == 4, "NaN: norm %g", c.norm);
}

/* Steps, X those that are not finite, and the scale after each, in powers of two. */
static void follow_scale(const char *steps, double first, const int *powers)
{
    const struct pldi_step_rule rule = {
        .lr = 0.1, .beta1 = 0.9, .beta2 = 0.99, .scaling = {4, 0.5, 3}};
    struct pldi_step_control c = {.scaling = {.scale = first}};
    int good = 1;
    int skips = 0;

    for (int i = 0; steps[i] != 0; i++) {
        const struct pldi_step_vote vote = {steps[i] == 'X' ? INFINITY : 1, 0};

        good &= pldi_cuda_step_decide(gpu, &vote, &rule, &c, NULL) == PLD_OK;
        skips += steps[i] == 'X';
        good &= c.scaling.scale == ldexp(1, powers[i]) && c.loss_scale == ldexpf(1, powers[i]);
        good &= c.scaling.skips == skips;
    }
    ok(good, "%s from %g: the scale ends at %g", steps, first, c.scaling.scale);
}

static void test_scale(void)
{
    follow_scale("..X...X....", 1024, (const int[]){10, 10, 9, 9, 9, 11, 10, 10, 10, 12, 12});
    follow_scale("XX.", 0x1p-125, (const int[]){-126, -126, -126});
    follow_scale("......", 0x1p124, (const int[]){124, 124, 126, 126, 126, 126});
}

/* ---- Sweeps ---- */

enum { VALUE, GRAD, FIRST, SECOND, MASTER, ARRAYS };

struct trial {
    pld_dtype dtype, grad_dtype;
    int adamw;
    double momentum, decay;
    size_t count;
    int apart; /* arrays lie differently */
    int steps;
};

/* One model twice: the GPU's, and the host's. */
struct model {
    struct array ours[ARRAYS], theirs[ARRAYS];
    pld_dtype dtypes[ARRAYS];
    struct pldi_step_control control;
};

static int has(const struct trial *t, int array)
{
    const int half = pld_dtype_bytes(t->dtype) == 2;

    return array <= GRAD || (array == MASTER && half) || (array == SECOND && t->adamw) ||
           (array == FIRST && (t->adamw || t->momentum > 0));
}

static void model_new(struct model *m, const struct trial *t)
{
    const pld_dtype state = t->dtype == PLD_F64 ? PLD_F64 : PLD_F32;

    *m = (struct model){.dtypes = {t->dtype, t->grad_dtype, state, state, state},
                        .control = {.scaling = {.scale = 1}}};
    for (int a = 0; a < ARRAYS; a++) {
        if (!has(t, a))
            continue;
        m->ours[a] = array_new(t->count, m->dtypes[a], t->apart ? (size_t)(a * 3 % 5) : 5);
        m->theirs[a] = array_new(t->count, a == GRAD ? t->dtype : m->dtypes[a], 0);
        memset(m->ours[a].at, 0, m->ours[a].bytes);
        memset(m->theirs[a].at, 0, m->theirs[a].bytes);
    }
}

static int model_free(struct model *m, const struct trial *t)
{
    int good = 1;

    for (int a = 0; a < ARRAYS; a++)
        if (has(t, a))
            good &= array_free(&m->ours[a]) & array_free(&m->theirs[a]);
    return good;
}

/* Numbers that both have exactly, if gradients are of another type; some values are written
 * from outside. */
static void new_gradients(struct model *m, const struct trial *t, int step)
{
    const size_t bytes = pld_dtype_bytes(t->dtype);
    const size_t grad_bytes = pld_dtype_bytes(t->grad_dtype);

    for (size_t i = 0; i < t->count; i++) {
        char *theirs = m->theirs[GRAD].at + i * bytes;

        put_number(theirs, t->dtype, random_number() * ldexp(1, step % 5));
        put_number(m->ours[GRAD].at + i * grad_bytes, t->grad_dtype, get_number(theirs, t->dtype));
        if (step > 0 && (step != t->steps / 3 || i % 7 != 0))
            continue;
        put_number(m->theirs[VALUE].at + i * bytes, t->dtype, random_number());
        memcpy(m->ours[VALUE].at + i * bytes, m->theirs[VALUE].at + i * bytes, bytes);
    }
    if (step == SKIPPED && t->count > 0)
        put_number(m->ours[GRAD].at + t->count / 2 * grad_bytes, t->grad_dtype, (double)NAN);
}

static int our_step(struct model *m, const struct trial *t, double lr)
{
    const struct pldi_range range = {m->ours[GRAD].at, t->count, t->grad_dtype};
    const struct pldi_step_rule rule = {.lr = lr, .beta1 = 0.9, .beta2 = 0.999, .clip = 20};
    const struct pldi_device_sweep sweep = {.value = m->ours[VALUE].at,
                                            .grad = m->ours[GRAD].at,
                                            .master = m->ours[MASTER].at,
                                            .first = m->ours[FIRST].at,
                                            .second = m->ours[SECOND].at,
                                            .count = t->count,
                                            .dtype = t->dtype,
                                            .grad_dtype = t->grad_dtype,
                                            .lr = lr,
                                            .beta1 = 0.9,
                                            .beta2 = 0.999,
                                            .eps = 1e-8,
                                            .momentum = t->momentum,
                                            .decay_factor = 1 - lr * t->decay,
                                            .adamw = t->adamw};
    struct pldi_step_vote vote;
    int rc = pldi_cuda_sum_squares(gpu, &range, 1, &vote, NULL);

    if (rc == PLD_OK)
        rc = pldi_cuda_step_decide(gpu, &vote, &rule, &m->control, NULL);
    return rc < 0 ? rc : pldi_cuda_sweep(gpu, &sweep, &m->control, NULL);
}

/* The same with lib/optim, but for the norm, whose order of additions is another. */
static void their_step(struct model *m, const struct trial *t, double lr)
{
    const struct optim_rule rule = {.kind = t->adamw ? PLD_ADAMW : PLD_SGD,
                                    .lr = lr,
                                    .beta1 = 0.9,
                                    .beta2 = 0.999,
                                    .eps = 1e-8,
                                    .momentum = t->momentum,
                                    .weight_decay = t->decay,
                                    .factor = m->control.factor,
                                    .t = m->control.t};
    const struct optim_run run = {
        .value = m->theirs[VALUE].at,
        .grad = m->theirs[GRAD].at,
        .slots = {m->theirs[FIRST].at, m->theirs[SECOND].at, m->theirs[MASTER].at},
        .count = t->count,
        .dtype = t->dtype,
        .decay = t->decay > 0};

    if (m->control.skip)
        memset(m->theirs[GRAD].at, 0, m->theirs[GRAD].bytes);
    else
        pldi_optim_update(pldi_kernels(), &rule, &run);
}

static int all_zero(const struct array *a)
{
    for (size_t i = 0; i < a->bytes; i++)
        if (a->at[i] != 0)
            return 0;
    return 1;
}

static int run(const struct trial *t)
{
    struct model m;
    int good = 1;
    int skipped = 0;

    model_new(&m, t);
    for (int step = 0; step < t->steps && good; step++) {
        const double lr = 0.01 / (1 + step);

        new_gradients(&m, t, step);
        good &= our_step(&m, t, lr) == PLD_OK;
        skipped += (int)m.control.skip;
        their_step(&m, t, lr);
        good &= all_zero(&m.ours[GRAD]) && m.control.t == step + 1 - skipped;
        for (int a = 0; a < ARRAYS; a++)
            if (has(t, a) && a != GRAD)
                good &= memcmp(m.ours[a].at, m.theirs[a].at, m.ours[a].bytes) == 0;
        if (!good)
            printf("# step %d of %zu %s, gradients %s, apart %d: factor %g\n", step, t->count,
                   pld_dtype_name(t->dtype), pld_dtype_name(t->grad_dtype), t->apart,
                   m.control.factor);
    }
    good &= skipped == (t->count > 0 && t->steps > SKIPPED);
    return model_free(&m, t) && good;
}

static void test_sweeps(pld_dtype dtype, pld_dtype grad_dtype, int adamw, double momentum)
{
    int good = 1;

    for (int k = 0; k < 2 * 7; k++) {
        const struct trial t = {.dtype = dtype,
                                .grad_dtype = grad_dtype,
                                .adamw = adamw,
                                .momentum = momentum,
                                .decay = k % 3 == 0 ? 0 : 0.1,
                                .count = counts[k / 2],
                                .apart = k % 2,
                                .steps = counts[k / 2] == 1000 ? STEPS : FEW_STEPS};

        good &= run(&t);
    }
    for (int apart = 0; apart < 2; apart++) {
        const struct trial t = {.dtype = dtype,
                                .grad_dtype = grad_dtype,
                                .adamw = adamw,
                                .momentum = momentum,
                                .decay = 0.01,
                                .count = 100003,
                                .apart = apart,
                                .steps = 2};

        good &= run(&t);
    }
    ok(good, "%s of %s with gradients of %s, momentum %g: the bits of lib/optim",
       adamw ? "AdamW" : "SGD", pld_dtype_name(dtype), pld_dtype_name(grad_dtype), momentum);
}

static void test_refusal(void)
{
    struct pldi_step_control control = {.t = 0};
    const struct pldi_device_sweep s = {.dtype = PLD_F32, .grad_dtype = PLD_BF16, .count = 1};
    const int rc = pldi_cuda_sweep(gpu, &s, &control, NULL);

    ok(rc == PLD_ERR_ARG && strstr(refusal, "bf16") != NULL, "no such kernel: %s", refusal);
}

int main(void)
{
    static const pld_dtype pairs[][2] = {{PLD_F32, PLD_F32},   {PLD_F64, PLD_F64},
                                         {PLD_F16, PLD_F16},   {PLD_F16, PLD_F32},
                                         {PLD_BF16, PLD_BF16}, {PLD_BF16, PLD_F32}};

    test_norm();
    test_many_ranges();
    test_infinite();
    test_bias();
    test_decision();
    test_scale();
    for (int p = 0; p < 6; p++) {
        test_sweeps(pairs[p][0], pairs[p][1], 1, 0);
        test_sweeps(pairs[p][0], pairs[p][1], 0, 0);
        test_sweeps(pairs[p][0], pairs[p][1], 0, 0.9);
    }
    test_refusal();
    return tap_done();
}
