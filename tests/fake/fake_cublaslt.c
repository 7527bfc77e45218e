/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * cuBLASLt without a GPU: what examples/gpt calls, by CBLAS in f32, at its turn in the stream of
 * the fake driver, or in each launch of the graph that the stream recorded.
 *
 * FAKE_CUBLASLT_COUNTS=file  write "multiply N" and "choose N" at exit
 *
 * What is caught: operands outside device memory or aligned less than the algorithm counts on (256
 * bytes unless the preference says less, a bias as the one that the choice saw), leading dimensions
 * and combinations of types that cuBLASLt does not have, an algorithm that was not chosen for these
 * operands, no current context, descriptors that were not given back.
 */

#include "fake_cuda.h"

#include <cublaslt.h>

#include <cblas.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cublasStatus_t, cudaDataType_t, cublasLtMatmulDescAttributes_t, cublasLtEpilogue_t */
enum {
    SUCCESS = 0,
    NOT_INITIALIZED = 1,
    INVALID_VALUE = 7,
    EXECUTION_FAILED = 13,
    NOT_SUPPORTED = 15
};
enum { R_32F = 0, R_16BF = 14, COMPUTE_32F = 68 };
enum { TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS = 8, AUX = 11, AUX_LD = 12, COUNT = 13 };
enum { DEFAULT = 1, WITH_BIAS = 4, GELU_AUX_BIAS = 164, DGELU = 192 };

struct layout {
    int type;
    int64_t rows, cols, ld;
};

struct desc {
    int trans[2], epilogue;
    char *bias, *aux;
    int64_t aux_ld;
};

#define DECLARE(name, symbol, arguments) FAKE_EXPORT int symbol arguments;
GPT_LT_FUNCTIONS(DECLARE)
#undef DECLARE

/* Bytes that A, B, C and D are aligned to. */
struct wish {
    uint32_t alignment[4];
};

/* A product on its way. */
struct job {
    struct desc desc;
    struct layout a, b, d;
    const char *pa, *pb, *pc;
    char *pd;
    float alpha, beta;
};

static long live, multiplied, chosen;

static __attribute__((destructor)) void tell(void)
{
    const char *path = getenv("FAKE_CUBLASLT_COUNTS");
    FILE *f = path != NULL ? fopen(path, "w") : NULL;

    if (f == NULL)
        return;
    fprintf(f, "multiply %ld\nchoose %ld\nlive %ld\n", multiplied, chosen, live);
    (void)fclose(f);
}

static size_t size_of(int type)
{
    return type == R_16BF ? 2 : 4;
}

static float read_one(const char *at, int type, int64_t i)
{
    uint16_t half;
    uint32_t bits;
    float value;

    if (type == R_32F) {
        memcpy(&value, at + 4 * i, 4);
        return value;
    }
    memcpy(&half, at + 2 * i, 2);
    bits = (uint32_t)half << 16;
    memcpy(&value, &bits, 4);
    return value;
}

/* To nearest even. */
static void write_one(char *at, int type, int64_t i, float value)
{
    uint32_t bits;
    uint16_t half;

    if (type == R_32F) {
        memcpy(at + 4 * i, &value, 4);
        return;
    }
    memcpy(&bits, &value, 4);
    half = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    if (value != value)
        half = 0x7fff;
    memcpy(at + 2 * i, &half, 2);
}

/* A matrix in f32, densely by columns. */
static float *widened(const char *at, const struct layout *l)
{
    float *out = malloc((size_t)(l->rows * l->cols) * sizeof(*out));

    for (int64_t j = 0; j < l->cols; j++)
        for (int64_t i = 0; i < l->rows; i++)
            out[j * l->rows + i] = read_one(at, l->type, j * l->ld + i);
    return out;
}

static double gelu_slope(double x, double *value)
{
    const double root = sqrt(2 / M_PI), t = tanh(root * (x + 0.044715 * x * x * x));

    *value = 0.5 * x * (1 + t);
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x);
}

/* Element (i, j) of the result on its way to memory. */
static float finish(const struct job *job, int64_t i, int64_t j, float x)
{
    const struct desc *d = &job->desc;
    double value;

    if (d->epilogue & WITH_BIAS)
        x += read_one(d->bias, job->d.type, i);
    if (d->epilogue == GELU_AUX_BIAS) {
        write_one(d->aux, job->d.type, j * d->aux_ld + i, x);
        (void)gelu_slope((double)x, &value);
        return (float)value;
    }
    if (d->epilogue == DGELU)
        return x *
               (float)gelu_slope((double)read_one(d->aux, job->d.type, j * d->aux_ld + i), &value);
    return x;
}

static int step(void *context)
{
    struct job *job = context;
    const struct desc *d = &job->desc;
    const int m = (int)job->d.rows, n = (int)job->d.cols;
    const int k = (int)(d->trans[0] ? job->a.rows : job->a.cols);
    float *a = widened(job->pa, &job->a), *b = widened(job->pb, &job->b);
    float *out = malloc((size_t)m * (size_t)n * sizeof(*out));

    cblas_sgemm(CblasColMajor, d->trans[0] ? CblasTrans : CblasNoTrans,
                d->trans[1] ? CblasTrans : CblasNoTrans, m, n, k, job->alpha, a, (int)job->a.rows,
                b, (int)job->b.rows, 0.0F, out, m);
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < m; i++) {
            float x = out[j * m + i];

            if (job->beta != 0)
                x += job->beta * read_one(job->pc, job->d.type, j * job->d.ld + i);
            write_one(job->pd, job->d.type, j * job->d.ld + i, finish(job, i, j, x));
        }
    free(a);
    free(b);
    free(out);
    return 1;
}

static int reachable(const void *at, const struct layout *l, uint64_t alignment)
{
    const size_t bytes = (size_t)((l->cols - 1) * l->ld + l->rows) * size_of(l->type);

    return (uintptr_t)at % alignment == 0 && fake_cuda_reachable(at, bytes);
}

/* A, B in bf16 give bf16 or f32; in f32, f32. */
static int types_exist(const struct job *job)
{
    return job->a.type == job->b.type && (job->d.type == R_32F || job->a.type == R_16BF);
}

static int shapes_fit(const struct job *job)
{
    const struct desc *d = &job->desc;
    const int64_t m = d->trans[0] ? job->a.cols : job->a.rows;
    const int64_t k = d->trans[0] ? job->a.rows : job->a.cols;
    const int64_t k2 = d->trans[1] ? job->b.cols : job->b.rows;
    const int64_t n = d->trans[1] ? job->b.rows : job->b.cols;

    return m == job->d.rows && n == job->d.cols && k == k2;
}

static int epilogue_exists(const struct job *job)
{
    const struct desc *d = &job->desc;
    const struct layout aux = {job->d.type, job->d.rows, job->d.cols, d->aux_ld};

    if (d->epilogue != DEFAULT && d->epilogue != WITH_BIAS && d->epilogue != GELU_AUX_BIAS &&
        d->epilogue != DGELU)
        return 0;
    if ((d->epilogue & WITH_BIAS) &&
        !fake_cuda_reachable(d->bias, (size_t)job->d.rows * size_of(job->d.type)))
        return 0;
    return (d->epilogue & 128) == 0 || (d->aux_ld % 8 == 0 && reachable(d->aux, &aux, 16));
}

/* What an algorithm was chosen for. */
static uint64_t mark_of(const struct job *job)
{
    const struct desc *d = &job->desc;

    return (uint64_t)(job->d.rows * 1000003 + job->d.cols * 10007 + job->a.rows * 101 +
                      job->a.cols * 7 + job->a.type + d->epilogue * 3 + d->trans[0] +
                      2 * d->trans[1]);
}

FAKE_EXPORT int cublasLtCreate(void **handle)
{
    if (fake_cuda_current() < 0)
        return NOT_INITIALIZED;
    *handle = malloc(1);
    live++;
    return SUCCESS;
}

static int release(void *what)
{
    live -= what != NULL;
    free(what);
    return SUCCESS;
}

FAKE_EXPORT int cublasLtDestroy(void *handle)
{
    return release(handle);
}

FAKE_EXPORT int cublasLtMatmulDescCreate(void **out, int compute, int scale)
{
    struct desc *d = calloc(1, sizeof(*d));

    d->epilogue = DEFAULT;
    *out = d;
    live++;
    return compute == COMPUTE_32F && scale == R_32F ? SUCCESS : NOT_SUPPORTED;
}

FAKE_EXPORT int cublasLtMatmulDescDestroy(void *desc)
{
    return release(desc);
}

FAKE_EXPORT int cublasLtMatmulDescSetAttribute(void *desc, int attribute, const void *value,
                                               size_t bytes)
{
    struct desc *d = desc;
    const struct {
        void *at;
        size_t bytes;
    } fields[COUNT] = {
        [TRANSA] = {&d->trans[0], 4},      [TRANSB] = {&d->trans[1], 4},
        [EPILOGUE] = {&d->epilogue, 4},    [BIAS] = {&d->bias, sizeof(d->bias)},
        [AUX] = {&d->aux, sizeof(d->aux)}, [AUX_LD] = {&d->aux_ld, 8},
    };

    if (attribute < 0 || attribute >= COUNT || fields[attribute].at == NULL ||
        fields[attribute].bytes != bytes)
        return INVALID_VALUE;
    memcpy(fields[attribute].at, value, bytes);
    return SUCCESS;
}

FAKE_EXPORT int cublasLtMatrixLayoutCreate(void **out, int type, uint64_t rows, uint64_t cols,
                                           int64_t ld)
{
    struct layout *l = calloc(1, sizeof(*l));

    *l = (struct layout){type, (int64_t)rows, (int64_t)cols, ld};
    *out = l;
    live++;
    return (type == R_32F || type == R_16BF) && ld >= (int64_t)rows && rows > 0 && cols > 0
               ? SUCCESS
               : INVALID_VALUE;
}

FAKE_EXPORT int cublasLtMatrixLayoutDestroy(void *layout)
{
    return release(layout);
}

FAKE_EXPORT int cublasLtMatmulPreferenceCreate(void **out)
{
    struct wish *w = malloc(sizeof(*w));

    *w = (struct wish){{256, 256, 256, 256}};
    *out = w;
    live++;
    return SUCCESS;
}

FAKE_EXPORT int cublasLtMatmulPreferenceDestroy(void *wish)
{
    return release(wish);
}

FAKE_EXPORT int cublasLtMatmulPreferenceSetAttribute(void *wish, int attribute, const void *value,
                                                     size_t bytes)
{
    struct wish *w = wish;

    if (attribute == 1)
        return bytes == sizeof(size_t) ? SUCCESS : INVALID_VALUE;
    if (attribute < 5 || attribute > 8 || bytes != sizeof(w->alignment[0]))
        return INVALID_VALUE;
    memcpy(&w->alignment[attribute - 5], value, bytes);
    return SUCCESS;
}

/* The largest power of 2 in an address, up to 256. */
static uint64_t alignment_of(const void *at)
{
    const uint64_t bits = (uint64_t)(uintptr_t)at | 256;

    return bits & -bits;
}

FAKE_EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *desc, void *a, void *b, void *c,
                                               void *d, void *wish, int most,
                                               struct gpt_lt_choice *out, int *count)
{
    const struct job job = {.desc = *(struct desc *)desc,
                            .a = *(struct layout *)a,
                            .b = *(struct layout *)b,
                            .d = *(struct layout *)d};
    const struct wish *w = wish;

    chosen++;
    *count = 0;
    if (handle == NULL || wish == NULL || most < 1 || c == NULL)
        return INVALID_VALUE;
    if (!types_exist(&job) || !shapes_fit(&job))
        return NOT_SUPPORTED;
    *out = (struct gpt_lt_choice){
        .algo = {{mark_of(&job), w->alignment[0], w->alignment[1], w->alignment[2], w->alignment[3],
                  alignment_of(job.desc.bias)}}};
    *count = 1;
    return SUCCESS;
}

static int is_valid(const struct job *job, const struct gpt_lt_algo *algo)
{
    const uint64_t *least = algo->data + 1;

    return types_exist(job) && shapes_fit(job) && epilogue_exists(job) &&
           algo->data[0] == mark_of(job) && reachable(job->pa, &job->a, least[0]) &&
           reachable(job->pb, &job->b, least[1]) && reachable(job->pc, &job->d, least[2]) &&
           reachable(job->pd, &job->d, least[3]) && alignment_of(job->desc.bias) >= least[4];
}

FAKE_EXPORT int cublasLtMatmul(void *handle, void *desc, const void *alpha, const void *a,
                               void *a_layout, const void *b, void *b_layout, const void *beta,
                               const void *c, void *c_layout, void *d, void *d_layout,
                               const struct gpt_lt_algo *algo, void *workspace,
                               size_t workspace_bytes, void *stream)
{
    struct job *job = malloc(sizeof(*job));

    *job = (struct job){.desc = *(struct desc *)desc,
                        .a = *(struct layout *)a_layout,
                        .b = *(struct layout *)b_layout,
                        .d = *(struct layout *)d_layout,
                        .pa = a,
                        .pb = b,
                        .pc = c,
                        .pd = d,
                        .alpha = *(const float *)alpha,
                        .beta = *(const float *)beta};
    multiplied++;
    if (handle == NULL || fake_cuda_current() < 0 || c_layout == NULL || !is_valid(job, algo) ||
        !fake_cuda_reachable(workspace, workspace_bytes)) {
        free(job);
        return INVALID_VALUE;
    }
    return fake_cuda_enqueue_again(stream, step, job, free) == 0 ? SUCCESS : EXECUTION_FAILED;
}
