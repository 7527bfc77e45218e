/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The kernels of examples/gpt/cuda, emulated, against their definitions in double, all but
 * attention: at sizes around those of vectors, warps and blocks.
 */

#include "cuda_values.h"

/* ---- embedding ---- */

static void test_embed(int dtype, int c)
{
    enum { BATCH = 3, SEQ = 5, ROWS = BATCH * SEQ, VOCAB = 11 };
    struct values wte = normal(dtype, (size_t)(VOCAB * c), 1, 1);
    struct values wpe = normal(dtype, (size_t)(SEQ * c), 2, 1);
    struct values out = fresh(dtype, (size_t)(ROWS * c));
    int32_t tokens[ROWS], *at = tokens;
    int rows = ROWS, seq = SEQ;

    for (int i = 0; i < ROWS; i++)
        tokens[i] = i * 7 % VOCAB;
    launch("embed", dtype, GRID(2, 1), 32, 0,
           ARGUMENTS(&out.at, &wte.at, &wpe.at, &at, &rows, &seq, &c));
    worst = 0;
    for (int i = 0; i < ROWS * c; i++)
        off(out, (size_t)i,
            value(wte, (size_t)(tokens[i / c] * c + i % c)) +
                value(wpe, (size_t)(i / c % SEQ * c + i % c)),
            1);
    ok(worst < 1e-6 && all_whole(), "%s: embedding of %d channels to %.1e", dtype_names[dtype], c,
       worst);
}

/* More rows than a block has threads, fewer blocks than tokens, one token in half of all rows. */
static void test_embed_backward(int dtype, int c, unsigned blocks)
{
    enum { BATCH = 30, SEQ = 10, ROWS = BATCH * SEQ, VOCAB = 13 };
    struct values dx = normal(dtype, (size_t)(ROWS * c), 1, 1);
    struct values wte = normal(F32, (size_t)(VOCAB * c), 2, 1), old = copy_of(wte);
    struct values wpe = normal(F32, (size_t)(SEQ * c), 3, 1), old_wpe = copy_of(wpe);
    int32_t tokens[ROWS], *at = tokens;
    int rows = ROWS, seq = SEQ, batch = BATCH;

    for (int i = 0; i < ROWS; i++)
        tokens[i] = i % 2 == 0 ? 5 : i * 7 % (VOCAB - 1);
    launch("embed_tokens", dtype, GRID(blocks, 1), 128, 0,
           ARGUMENTS(&wte.at, &dx.at, &at, &rows, &c));
    launch("embed_positions", dtype, GRID(3, 1), 32, 0,
           ARGUMENTS(&wpe.at, &dx.at, &batch, &seq, &c));
    worst = 0;
    for (int j = 0; j < c; j++) {
        for (int t = 0; t < VOCAB; t++) {
            double sum = value(old, (size_t)(t * c + j));

            for (int i = 0; i < ROWS; i++)
                sum += tokens[i] == t ? value(dx, (size_t)(i * c + j)) : 0;
            off(wte, (size_t)(t * c + j), sum, 10);
        }
        for (int p = 0; p < SEQ; p++) {
            double sum = value(old_wpe, (size_t)(p * c + j));

            for (int b = 0; b < BATCH; b++)
                sum += value(dx, (size_t)((b * SEQ + p) * c + j));
            off(wpe, (size_t)(p * c + j), sum, 10);
        }
    }
    ok(worst < 1e-6 && all_whole(),
       "%s: gradients of %d channels of embeddings, %u blocks, to %.1e", dtype_names[dtype], c,
       blocks, worst);
}

static void test_round(void)
{
    struct values in = normal(F32, 1032, 1, 1), out = fresh(BF16, 1032);
    size_t count = 1032;

    launch("round", DTYPES, GRID(2, 1), 32, 0, ARGUMENTS(&out.at, &in.at, &count));
    worst = 0;
    for (size_t i = 0; i < count; i++)
        off(out, i, value(in, i), fabs(value(in, i)));
    ok(worst <= 0 && all_whole(), "rounding to bf16");
}

/* ---- norm ---- */

static void moments(struct values x, int row, int c, double *m, double *r)
{
    double sum = 0, squares = 0;

    for (int j = 0; j < c; j++)
        sum += value(x, (size_t)(row * c + j));
    *m = sum / c;
    for (int j = 0; j < c; j++)
        squares += pow(value(x, (size_t)(row * c + j)) - *m, 2);
    *r = 1 / sqrt(squares / c + 1e-5);
}

enum { NORM_ROWS = 11, NORM_PARTS = 4 };

/* The arrays of a norm and its backward. */
struct norm_case {
    int dtype, c, fresh;
    struct values x, weight, bias, mean, rstd, out, dy, old, dx, dweight, dbias;
};

static void check_norm_row(const struct norm_case *n, int i)
{
    double m, r, sum = 0, dot = 0;

    moments(n->x, i, n->c, &m, &r);
    off(n->mean, (size_t)i, m, 1);
    off(n->rstd, (size_t)i, r, r);
    for (int j = 0; j < n->c; j++) {
        const size_t at = (size_t)(i * n->c + j);
        const double g = value(n->dy, at) * value(n->weight, (size_t)j);

        sum += g / n->c;
        dot += g * (value(n->x, at) - m) * r / n->c;
    }
    for (int j = 0; j < n->c; j++) {
        const size_t at = (size_t)(i * n->c + j);
        const double h = (value(n->x, at) - m) * r,
                     g = value(n->dy, at) * value(n->weight, (size_t)j);

        off(n->out, at, h * value(n->weight, (size_t)j) + value(n->bias, (size_t)j), 1 + fabs(h));
        off(n->dx, at, (n->fresh ? 0 : value(n->old, at)) + r * (g - sum - h * dot), 1 + r);
    }
}

static void check_norm(const struct norm_case *n)
{
    worst = 0;
    for (int i = 0; i < NORM_ROWS; i++)
        check_norm_row(n, i);
    for (int j = 0; j < n->c; j++) {
        double dw = 1, db = 1, m, r;

        for (int i = 0; i < NORM_ROWS; i++) {
            const size_t at = (size_t)(i * n->c + j);

            moments(n->x, i, n->c, &m, &r);
            dw += value(n->dy, at) * (value(n->x, at) - m) * r;
            db += value(n->dy, at);
        }
        off(n->dweight, (size_t)j, dw, NORM_ROWS);
        off(n->dbias, (size_t)j, db, NORM_ROWS);
    }
    ok(worst < 3e-6 && all_whole(), "%s: norm of %d channels%s to %.1e", dtype_names[n->dtype],
       n->c, n->fresh ? ", afresh" : "", worst);
}

static void test_norm(int dtype, int c, int fresh_dx)
{
    const size_t all = (size_t)(NORM_ROWS * c);
    struct norm_case n = {.dtype = dtype,
                          .c = c,
                          .fresh = fresh_dx,
                          .x = normal(dtype, all, 1, 3),
                          .weight = normal(F32, (size_t)c, 2, 1),
                          .bias = normal(F32, (size_t)c, 3, 1),
                          .mean = fresh(F32, NORM_ROWS),
                          .rstd = fresh(F32, NORM_ROWS),
                          .dy = normal(dtype, all, 4, 1),
                          .old = normal(dtype, all, 5, 1),
                          .dweight = fresh(F32, (size_t)c),
                          .dbias = fresh(F32, (size_t)c)};
    struct values partial = fresh(F32, (size_t)(NORM_PARTS * 2 * c)), forward = fresh(dtype, all);
    int rows = NORM_ROWS, parts = NORM_PARTS, stride = 2 * c, same;
    float *second = (float *)partial.at + c;

    for (int j = 0; j < c; j++) {
        set_value(n.dweight, (size_t)j, 1);
        set_value(n.dbias, (size_t)j, 1);
    }
    n.out = copy_of(n.dy);
    n.dx = copy_of(n.old);
    launch("norm", dtype, GRID(2, 1), 256, 0,
           ARGUMENTS(&forward.at, &n.mean.at, &n.rstd.at, &n.x.at, &n.weight.at, &n.bias.at, &rows,
                     &c));
    launch("norm_backward", dtype, GRID(NORM_PARTS, 1), c > 500 ? 64 : 32, (unsigned)(8 * c),
           ARGUMENTS(&n.dx.at, &n.out.at, &partial.at, &n.x.at, &n.weight.at, &n.bias.at,
                     &n.mean.at, &n.rstd.at, &rows, &c, &n.fresh));
    launch("column_finish", DTYPES, GRID((unsigned)(c + 31) / 32, 1), 256, 0,
           ARGUMENTS(&n.dweight.at, &partial.at, &parts, &c, &stride));
    launch("column_finish", DTYPES, GRID((unsigned)(c + 31) / 32, 1), 256, 0,
           ARGUMENTS(&n.dbias.at, &second, &parts, &c, &stride));
    same = 1;
    for (size_t i = 0; i < all; i++)
        same = same && fabs(value(n.out, i) - value(forward, i)) <= 0.01 * fabs(value(forward, i));
    ok(same, "%s: norm's result is in its backward once more", dtype_names[dtype]);
    check_norm(&n);
}

static void test_columns(int dtype, int rows, int cols, int parts)
{
    const unsigned wide = 32 * (dtype == BF16 ? 8 : 4);
    struct values a = normal(dtype, (size_t)(rows * cols), 1, 1);
    struct values grad = normal(F32, (size_t)cols, 2, 1), old = copy_of(grad);
    struct values partial = fresh(F32, (size_t)(parts * cols));

    launch("column_sum", dtype, GRID(((unsigned)cols + wide - 1) / wide, (unsigned)parts), 256, 0,
           ARGUMENTS(&partial.at, &a.at, &rows, &cols));
    launch("column_finish", DTYPES, GRID((unsigned)(cols + 31) / 32, 1), 256, 0,
           ARGUMENTS(&grad.at, &partial.at, &parts, &cols, &cols));
    worst = 0;
    for (int j = 0; j < cols; j++) {
        double sum = value(old, (size_t)j);

        for (int i = 0; i < rows; i++)
            sum += value(a, (size_t)(i * cols + j));
        off(grad, (size_t)j, sum, sqrt(rows));
    }
    ok(worst < 1e-6 && all_whole(), "%s: sums of %d columns over %d rows to %.1e",
       dtype_names[dtype], cols, rows, worst);
}

/* ---- GELU ---- */

static double gelu_of(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/* Relative to the value, down to where it is nothing beside 1; slope by differences. */
static void test_gelu(int dtype)
{
    size_t count = 4008;
    struct values x = fresh(dtype, count), out = fresh(dtype, count), again = fresh(dtype, count);
    struct values d = fresh(dtype, count);
    const double h = 1e-5;

    for (size_t i = 0; i < count; i++) {
        set_value(x, i, ((double)i - 2000) / 160);
        set_value(d, i, 2);
    }
    launch("gelu", dtype, GRID(3, 1), 32, 0, ARGUMENTS(&out.at, &x.at, &count));
    launch("gelu_backward", dtype, GRID(3, 1), 32, 0, ARGUMENTS(&d.at, &again.at, &x.at, &count));
    worst = 0;
    for (size_t i = 0; i < count; i++) {
        const double v = value(x, i);

        off(out, i, gelu_of(v), fabs(gelu_of(v)) + 1e-6);
        off(again, i, gelu_of(v), fabs(gelu_of(v)) + 1e-6);
        off(d, i, (gelu_of(v + h) - gelu_of(v - h)) / h, 1);
    }
    ok(worst < 6e-6, "%s: gelu and its slope to %.1e", dtype_names[dtype], worst);
    set_value(x, 1, NAN);
    launch("gelu", dtype, GRID(1, 1), 32, 0, ARGUMENTS(&out.at, &x.at, &count));
    ok(isnan(value(out, 1)) && !isnan(value(out, 0)) && all_whole(), "%s: gelu of NaN",
       dtype_names[dtype]);
}

/* ---- loss ---- */

static void check_loss_row(struct values logits, struct values before, struct values losses, int i,
                           int target, const int sizes[2], double scale)
{
    const int vocab = sizes[0], stride = sizes[1];
    double sum = 0;

    for (int j = 0; j < vocab; j++)
        sum += exp(value(before, (size_t)(i * stride + j)));
    off(losses, (size_t)i, log(sum) - value(before, (size_t)(i * stride + target)), 10);
    for (int j = 0; j < stride; j++) {
        const size_t at = (size_t)(i * stride + j);
        const double p = j < vocab ? exp(value(before, at)) / sum : 0;

        off(logits, at, scale * (p - (j == target)), scale * (p + (j == target) + 1e-30));
    }
}

static void test_loss(int dtype, int vocab, int stride)
{
    enum { ROWS = 5 };
    const int sizes[2] = {vocab, stride};
    struct values logits = normal(dtype, (size_t)(ROWS * stride), 1, 5), before = copy_of(logits);
    struct values losses = fresh(F32, ROWS);
    int32_t targets[ROWS], *at = targets;
    float none = 0, scale = 0.125F, half = 0.0625F, two = 2;
    const float *times = NULL, *twice = &two;

    for (int i = 0; i < ROWS; i++)
        targets[i] = (vocab - 1) * i / (ROWS - 1);
    launch("cross_entropy", dtype, GRID(ROWS, 1), 64, 0,
           ARGUMENTS(&logits.at, &losses.at, &at, &vocab, &stride, &none, &twice));
    ok(memcmp(logits.at, before.at, bytes_of(&before)) == 0,
       "%s: logits stay if no gradient is wanted", dtype_names[dtype]);
    launch("cross_entropy", dtype, GRID(ROWS, 1), 64, 0,
           ARGUMENTS(&logits.at, &losses.at, &at, &vocab, &stride, &half, &twice));
    worst = 0;
    for (int i = 0; i < ROWS; i++)
        check_loss_row(logits, before, losses, i, targets[i], sizes, (double)scale);
    ok(worst < 3e-6, "%s: losses over %d tokens and their slopes to %.1e", dtype_names[dtype],
       vocab, worst);
    set_value(before, (size_t)stride + 1, NAN);
    launch("cross_entropy", dtype, GRID(ROWS, 1), 64, 0,
           ARGUMENTS(&before.at, &losses.at, &at, &vocab, &stride, &scale, &times));
    ok(isnan(value(losses, 1)) && !isnan(value(losses, 0)) &&
           isnan(value(before, (size_t)stride)) && all_whole(),
       "%s: NaN among the logits", dtype_names[dtype]);
}

static void test_loss_sum(void)
{
    struct values losses = normal(F32, 1003, 1, 3);
    double total = 0.5, sum = 0.5, *at = &total;
    int rows = 1003;

    for (size_t i = 0; i < losses.count; i++)
        sum += value(losses, i);
    launch("loss_sum", DTYPES, GRID(1, 1), 256, 0, ARGUMENTS(&at, &losses.at, &rows));
    ok(fabs(total - sum) < 1e-11 && all_whole(), "sum of losses to %.1e", fabs(total - sum));
}

int main(void)
{
    static const int channels[] = {8, 40, 264, 1032};

    for (int dtype = 0; dtype < DTYPES; dtype++) {
        for (size_t i = 0; i < sizeof(channels) / sizeof(channels[0]); i++) {
            const int c = channels[i];

            test_embed(dtype, c);
            test_embed_backward(dtype, c, i % 2 == 0 ? 13 : 3);
            test_norm(dtype, c, 0);
            test_norm(dtype, c, 1);
            test_columns(dtype, 37, c, 3);
        }
        test_columns(dtype, 1, 24, 1);
        test_columns(dtype, 130, 24, 2);
        test_gelu(dtype);
        test_loss(dtype, 30, 32);
        test_loss(dtype, 1003, 1008);
        test_loss(dtype, 5, 8);
    }
    test_round();
    test_loss_sum();
    return tap_done();
}
