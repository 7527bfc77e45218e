/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attention of examples/gpt/cuda, emulated, against its definition in double: heads of all three
 * widths, whole and padded, sequences around the tiles' size.  That no row sees what comes after
 * it is tested by its bits.
 */

#include "cuda_values.h"

enum { BATCH = 2, HEADS = 2 };

/* As in gpt_attention.cuh. */
struct attention_shape {
    int seq, heads, size;
    float scale;
};

/* One problem, and where things are in it. */
struct problem {
    int dtype, columns; /* the kernel's, >= size */
    struct attention_shape shape;
    struct values qkv, out, lse, delta, dout, dqkv;
};

static size_t in_qkv(const struct problem *p, int head, int row, int part, int j)
{
    const int b = head / HEADS, h = head % HEADS, size = p->shape.size;

    return (size_t)((((b * p->shape.seq + row) * 3 + part) * HEADS + h) * size + j);
}

static size_t in_out(const struct problem *p, int head, int row, int j)
{
    const int b = head / HEADS, h = head % HEADS;

    return (size_t)(((b * p->shape.seq + row) * HEADS + h) * p->shape.size + j);
}

static unsigned shared_bytes(const struct problem *p, int backward, int scores)
{
    const unsigned d = (unsigned)p->columns, walk = d > 64 ? 32 : 64;

    if (p->dtype == F32)
        return (3U + (unsigned)backward) * 32 * (d + 1) * 4 + (unsigned)scores * 32 * 33 * 4;
    return (backward ? 2 * 64 + 4 * walk : 4 * 64) * (d + 8) * 2;
}

static void run(const char *kernel, const struct problem *p, unsigned shared, void **arguments)
{
    const int tile = p->dtype == F32 ? 32 : 64;
    char name[64];

    (void)snprintf(name, sizeof(name), "%s_%d", kernel, p->columns);
    launch(name, p->dtype, GRID((unsigned)((p->shape.seq + tile - 1) / tile), BATCH * HEADS), 128,
           shared, arguments);
}

static void run_all(struct problem *p)
{
    run("attention", p, shared_bytes(p, 0, 1),
        ARGUMENTS(&p->out.at, &p->lse.at, &p->qkv.at, &p->shape));
    run("attention_dq", p, shared_bytes(p, 1, 1),
        ARGUMENTS(&p->dqkv.at, &p->delta.at, &p->qkv.at, &p->out.at, &p->dout.at, &p->lse.at,
                  &p->shape));
    run("attention_dkv", p, shared_bytes(p, 1, 2),
        ARGUMENTS(&p->dqkv.at, &p->delta.at, &p->qkv.at, &p->dout.at, &p->lse.at, &p->shape));
}

static struct problem problem_of(int dtype, int size, int seq)
{
    const size_t all = (size_t)(BATCH * HEADS * seq * size), rows = (size_t)(BATCH * HEADS * seq);

    return (struct problem){.dtype = dtype,
                            .columns = size <= 32   ? 32
                                       : size <= 64 ? 64
                                                    : 128,
                            .shape = {seq, HEADS, size, 1 / sqrtf((float)size)},
                            .qkv = normal(dtype, 3 * all, 1, 1),
                            .out = fresh(dtype, all),
                            .lse = fresh(F32, rows),
                            .delta = fresh(F32, rows),
                            .dout = normal(dtype, all, 2, 1),
                            .dqkv = fresh(dtype, 3 * all)};
}

static double dot(const struct problem *p, int head, int row, int key, int parts[2])
{
    double sum = 0;

    for (int j = 0; j < p->shape.size; j++) {
        const double a = parts[0] < 3 ? value(p->qkv, in_qkv(p, head, row, parts[0], j))
                                      : value(p->dout, in_out(p, head, row, j));

        sum += a * value(p->qkv, in_qkv(p, head, key, parts[1], j));
    }
    return sum;
}

/* One row of the forward; its probabilities to `weights`, its slopes of scores to `slopes`. */
static void check_row(const struct problem *p, int head, int row, double *weights, double *slopes)
{
    double sum = 0, delta = 0;

    for (int key = 0; key <= row; key++) {
        weights[key] = exp((double)p->shape.scale * dot(p, head, row, key, (int[]){0, 1}));
        sum += weights[key];
    }
    off(p->lse, (size_t)(head * p->shape.seq + row), log(sum), 1);
    for (int key = 0; key <= row; key++) {
        weights[key] /= sum;
        slopes[key] = dot(p, head, row, key, (int[]){3, 2});
        delta += weights[key] * slopes[key];
    }
    for (int key = 0; key <= row; key++)
        slopes[key] = weights[key] * (slopes[key] - delta) * (double)p->shape.scale;
    for (int j = 0; j < p->shape.size; j++) {
        double out = 0, dq = 0;

        for (int key = 0; key <= row; key++) {
            out += weights[key] * value(p->qkv, in_qkv(p, head, key, 2, j));
            dq += slopes[key] * value(p->qkv, in_qkv(p, head, key, 1, j));
        }
        off(p->out, in_out(p, head, row, j), out, 1);
        off(p->dqkv, in_qkv(p, head, row, 0, j), dq, 1);
    }
}

static void check_head(const struct problem *p, int head)
{
    const int seq = p->shape.seq;
    double *weights = calloc((size_t)(seq * seq), sizeof(*weights));
    double *slopes = calloc((size_t)(seq * seq), sizeof(*slopes));

    for (int row = 0; row < seq; row++)
        check_row(p, head, row, weights + row * seq, slopes + row * seq);
    for (int key = 0; key < seq; key++)
        for (int j = 0; j < p->shape.size; j++) {
            double dk = 0, dv = 0;

            for (int row = key; row < seq; row++) {
                dk += slopes[row * seq + key] * value(p->qkv, in_qkv(p, head, row, 0, j));
                dv += weights[row * seq + key] * value(p->dout, in_out(p, head, row, j));
            }
            off(p->dqkv, in_qkv(p, head, key, 1, j), dk, 1);
            off(p->dqkv, in_qkv(p, head, key, 2, j), dv, 1);
        }
    free(weights);
    free(slopes);
}

/* In bf16 probabilities and slopes are rounded for their products: 1 part in 512 of each, of which
 * a sum over a row of ones takes some. */
static void test_attention(int dtype, int size, int seq)
{
    struct problem p = problem_of(dtype, size, seq);

    run_all(&p);
    worst = 0;
    for (int head = 0; head < BATCH * HEADS; head++)
        check_head(&p, head);
    ok(worst < (dtype == BF16 ? 2e-2 : 4e-6) && all_whole(),
       "%s: attention of %d tokens with heads of %d to %.1e", dtype_names[dtype], seq, size, worst);
}

/* Other values behind `cut` change nothing before it, neither in the forward nor in dq. */
static void test_causal(int dtype, int seq, int cut)
{
    struct problem p = problem_of(dtype, 32, seq), other = problem_of(dtype, 32, seq);
    int same = 1, differ = 0;

    for (int head = 0; head < BATCH * HEADS; head++)
        for (int row = cut; row < seq; row++)
            for (int j = 0; j < 32; j++)
                set_value(other.qkv, in_qkv(&other, head, row, 1 + j % 2, j), 7);
    run_all(&p);
    run_all(&other);
    for (int head = 0; head < BATCH * HEADS; head++)
        for (int row = 0; row < seq; row++)
            for (int j = 0; j < 32; j++) {
                const size_t o = in_out(&p, head, row, j), q = in_qkv(&p, head, row, 0, j);
                const int equal = value(p.out, o) == value(other.out, o) &&
                                  value(p.dqkv, q) == value(other.dqkv, q);

                same = same && (row >= cut || equal);
                differ = differ || !equal;
            }
    ok(same && differ && all_whole(), "%s: no row of %d sees what comes behind %d",
       dtype_names[dtype], seq, cut);
}

int main(void)
{
    static const int cases[][2] = {{32, 1},   {32, 31},  {32, 64}, {32, 65}, {32, 130},
                                   {8, 33},   {64, 63},  {64, 64}, {64, 97}, {40, 65},
                                   {128, 32}, {128, 65}, {96, 40}};

    for (int dtype = 0; dtype < DTYPES; dtype++) {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
            test_attention(dtype, cases[i][0], cases[i][1]);
        test_causal(dtype, 90, 40);
        test_causal(dtype, 130, 64);
    }
    return tap_done();
}
