/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* A GPU as a backend: kernels that move elements, and the table.  See cuda_*.c for the rest. */

#include "cuda_backend.h"

#include <polder/error.h>

#include <string.h>

/* What the kernels are made for; see cuda/. */
enum {
    POINT_THREADS = 256,
    TOKENS_BLOCK = 128,
    MOST_TOKEN_BLOCKS = 4096,
    NORM_PARTS = 512,
    SUM_PARTS = 128,
    ROWS_A_PART = 128,
    SUM_THREADS = 256,
    LOGITS_BYTES = 256 << 20
};

static unsigned parts_of(size_t all, size_t part)
{
    return (unsigned)((all + part - 1) / part);
}

struct gpt_launch gpt_gpu_spread(const struct gpt_stage *s, size_t count)
{
    const size_t blocks = (count * s->element / 16 + POINT_THREADS - 1) / POINT_THREADS;

    return (struct gpt_launch){
        .x = blocks < 1 << 20 ? (unsigned)blocks : 1 << 20, .y = 1, .threads = POINT_THREADS};
}

static int gpu_alloc(struct gpt_stage *s, size_t bytes, void **out)
{
    return pld_device_alloc(gpt_gpu_of(s)->device, bytes, PLD_MEM_DEVICE, out);
}

static void gpu_free(struct gpt_stage *s, void *memory)
{
    pld_device_free(gpt_gpu_of(s)->device, memory);
}

int gpt_gpu_logit_stride(const struct gpt_stage *s)
{
    return (s->config.padded_vocab + 7) / 8 * 8;
}

static int gpu_head_rows(const struct gpt_stage *s)
{
    const size_t row = (size_t)gpt_gpu_logit_stride(s) * s->element;
    const size_t rows = LOGITS_BYTES / row;

    return rows < GPT_HEAD_ROWS ? GPT_HEAD_ROWS : (int)rows;
}

static float *floats(struct gpt_cut *cut, size_t rows, size_t cols)
{
    return gpt_take(cut, rows * cols, sizeof(float));
}

static void gpu_scratch(struct gpt_cut *cut, struct gpt_stage *s)
{
    const size_t rows = (size_t)s->rows.count, head = (size_t)s->head_rows;
    const size_t c = (size_t)s->config.channels;
    struct gpt_scratch *t = &s->scratch;

    t->delta = floats(cut, rows, (size_t)s->config.heads);
    t->partial = floats(cut, 2 * NORM_PARTS, c);
    if (!s->last)
        return;
    t->logits = gpt_take(cut, head * (size_t)gpt_gpu_logit_stride(s), s->element);
    t->losses = floats(cut, head, 1);
    t->loss = gpt_take(cut, 1, sizeof(*t->loss));
}

static int gpu_move(struct gpt_stage *s, void *to, const void *from, size_t bytes)
{
    pld_device *device = gpt_gpu_of(s)->device;
    int rc = pld_device_copy(device, to, from, bytes, s->stream);

    if (rc == 0)
        rc = pld_stream_wait(device, s->stream);
    return rc == 0 ? 0 : gpt_fail(rc, "%s", pld_last_error());
}

static void gpu_copy(struct gpt_stage *s, void *to, const void *from, size_t bytes)
{
    gpt_gpu_check(s, pld_device_copy(gpt_gpu_of(s)->device, to, from, bytes, s->stream));
}

static const int32_t *gpu_tokens(struct gpt_stage *s, int32_t *to, const int32_t *from, int count,
                                 int keep)
{
    const struct gpt_gpu *g = gpt_gpu_of(s);

    (void)keep;
    gpu_copy(s, to, from, (size_t)count * sizeof(*to));
    gpt_gpu_check(s, pld_event_record(g->device, g->tokens_read, s->stream));
    return to;
}

static int gpu_settle(struct gpt_stage *s)
{
    const struct gpt_gpu *g = gpt_gpu_of(s);
    const int rc = pld_event_wait(g->device, g->tokens_read);

    return rc == 0 ? 0 : gpt_fail(rc, "%s", pld_last_error());
}

/* ---- parameters ---- */

static struct gpt_tensor *tensor(struct gpt_stage *s, int i)
{
    struct gpt_tensors *set = i < GPT_KINDS ? &s->own : &s->layers[i / GPT_KINDS - 1];

    return &set->of[i % GPT_KINDS];
}

/* All values are in one arena, so that their copy is one, too. */
static void gpu_refresh(struct gpt_stage *s)
{
    struct gpt_gpu *g = gpt_gpu_of(s);
    const int tensors = GPT_KINDS * (s->layer_count + 1);
    float *begin = NULL, *end = NULL;
    size_t count;

    if (s->opts.dtype == PLD_F32)
        return;
    for (int i = 0; i < tensors; i++) {
        const struct gpt_tensor *t = tensor(s, i);

        if (t->id < 0)
            continue;
        begin = begin == NULL || t->value < begin ? t->value : begin;
        end = t->value + t->count > end ? t->value + t->count : end;
    }
    count = (size_t)(end - begin);
    if (g->factors == NULL)
        gpt_gpu_check(s,
                      pld_device_alloc(g->device, count * s->element, PLD_MEM_DEVICE, &g->factors));
    if (s->broken != 0)
        return;
    for (int i = 0; i < tensors; i++)
        if (tensor(s, i)->id >= 0)
            tensor(s, i)->factor =
                (const char *)g->factors + (size_t)(tensor(s, i)->value - begin) * s->element;
    gpt_gpu_launch(s, GPT_KERNEL_round, gpt_gpu_spread(s, count),
                   GPT_ARGUMENTS(&g->factors, &begin, &count));
}

/* ---- tokens and positions ---- */

static void gpu_embed(struct gpt_stage *s, struct gpt_rows rows, const int32_t *tokens, void *out)
{
    struct gpt_tensor *wte = &s->own.of[GPT_WTE], *wpe = &s->own.of[GPT_WPE];
    int c = s->config.channels;

    gpt_gpu_launch(
        s, GPT_KERNEL_embed, gpt_gpu_spread(s, (size_t)rows.count * (size_t)c),
        GPT_ARGUMENTS(&out, &wte->factor, &wpe->factor, &tokens, &rows.count, &rows.seq, &c));
}

static void gpu_embed_backward(struct gpt_stage *s, struct gpt_rows rows, const int32_t *tokens,
                               const void *dx)
{
    struct gpt_tensor *wte = &s->own.of[GPT_WTE], *wpe = &s->own.of[GPT_WPE];
    const int vocab = s->config.vocab;
    const struct gpt_launch blocks = {
        .x = (unsigned)(vocab < MOST_TOKEN_BLOCKS ? vocab : MOST_TOKEN_BLOCKS),
        .threads = TOKENS_BLOCK};
    int c = s->config.channels;

    gpt_gpu_launch(s, GPT_KERNEL_embed_tokens, blocks,
                   GPT_ARGUMENTS(&wte->grad, &dx, &tokens, &rows.count, &c));
    gpt_gpu_launch(s, GPT_KERNEL_embed_positions, gpt_gpu_spread(s, (size_t)rows.seq * (size_t)c),
                   GPT_ARGUMENTS(&wpe->grad, &dx, &rows.batch, &rows.seq, &c));
}

/* ---- norm, biases, GELU ---- */

static void gpu_norm(struct gpt_stage *s, const struct gpt_layer_norm *n, const void *x, void *out)
{
    struct gpt_layer_norm at = *n;
    float *weight = n->weight->value, *bias = n->bias->value;
    const struct gpt_launch how = {.x = parts_of((size_t)n->rows, POINT_THREADS / 32),
                                   .threads = POINT_THREADS};
    int c = s->config.channels;

    gpt_gpu_launch(s, GPT_KERNEL_norm, how,
                   GPT_ARGUMENTS(&out, &at.mean, &at.rstd, &x, &weight, &bias, &at.rows, &c));
}

/* grad[cols] += the sum of `parts` rows of scratch->partial from `first` on */
static void finish(struct gpt_stage *s, float *grad, int parts, int cols, int first, int stride)
{
    const struct gpt_launch how = {.x = parts_of((size_t)cols, 32), .threads = SUM_THREADS};
    float *partial = s->scratch.partial + first;

    gpt_gpu_launch(s, GPT_KERNEL_column_finish, how,
                   GPT_ARGUMENTS(&grad, &partial, &parts, &cols, &stride));
}

static void gpu_norm_backward(struct gpt_stage *s, const struct gpt_layer_norm *n, const void *x,
                              void *dx, void *out, int fresh)
{
    struct gpt_layer_norm at = *n;
    float *weight = n->weight->value, *bias = n->bias->value;
    int c = s->config.channels, parts = n->rows < NORM_PARTS ? n->rows : NORM_PARTS;
    const unsigned warps = parts_of((size_t)c * s->element, 32 * 16);
    const struct gpt_launch how = {.x = (unsigned)parts,
                                   .threads = 32 * (warps < 16 ? warps : 16),
                                   .shared = 2 * (unsigned)c * (unsigned)sizeof(float)};

    gpt_gpu_launch(s, GPT_KERNEL_norm_backward, how,
                   GPT_ARGUMENTS(&dx, &out, &s->scratch.partial, &x, &weight, &bias, &at.mean,
                                 &at.rstd, &at.rows, &c, &fresh));
    finish(s, n->weight->grad, parts, c, 0, 2 * c);
    finish(s, n->bias->grad, parts, c, c, 2 * c);
}

static void bias_gradient(struct gpt_stage *s, const struct gpt_linear *l, const void *dy)
{
    const unsigned wanted = parts_of((size_t)l->rows, ROWS_A_PART);
    const struct gpt_launch how = {.x = parts_of((size_t)l->out * s->element, 32 * 16),
                                   .y = wanted < SUM_PARTS ? wanted : SUM_PARTS,
                                   .threads = SUM_THREADS};
    int rows = l->rows, cols = l->out;

    gpt_gpu_launch(s, GPT_KERNEL_column_sum, how,
                   GPT_ARGUMENTS(&s->scratch.partial, &dy, &rows, &cols));
    finish(s, l->bias->grad, (int)how.y, cols, 0, cols);
}

static void gpu_linear_back(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                            void *dx)
{
    bias_gradient(s, l, dy);
    gpt_gpu_linear_input(s, l, dy, dx);
}

static void gpu_linear_gelu(struct gpt_stage *s, const struct gpt_linear *l, const void *x, void *y,
                            void *act)
{
    size_t count = (size_t)l->rows * (size_t)l->out;

    if (s->keeps_act) {
        gpt_gpu_linear_gelu(s, l, x, y, act);
        return;
    }
    gpt_gpu_linear(s, l, x, NULL, y);
    gpt_gpu_launch(s, GPT_KERNEL_gelu, gpt_gpu_spread(s, count), GPT_ARGUMENTS(&act, &y, &count));
}

static void gpu_linear_back_gelu(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                                 const void *y, void *dy_in, void *act)
{
    size_t count = (size_t)l->rows * (size_t)l->in;

    bias_gradient(s, l, dy);
    if (s->keeps_act) {
        gpt_gpu_linear_input_gelu(s, l, dy, y, dy_in);
        return;
    }
    gpt_gpu_linear_input(s, l, dy, dy_in);
    gpt_gpu_launch(s, GPT_KERNEL_gelu_backward, gpt_gpu_spread(s, count),
                   GPT_ARGUMENTS(&dy_in, &act, &y, &count));
}

const struct gpt_backend gpt_cuda = {
    .name = "cuda",
    .open = gpt_gpu_open,
    .close = gpt_gpu_close,
    .alloc = gpu_alloc,
    .free = gpu_free,
    .head_rows = gpu_head_rows,
    .scratch = gpu_scratch,
    .put = gpu_move,
    .get = gpu_move,
    .tokens = gpu_tokens,
    .refresh = gpu_refresh,
    .copy = gpu_copy,
    .embed = gpu_embed,
    .embed_backward = gpu_embed_backward,
    .norm = gpu_norm,
    .norm_backward = gpu_norm_backward,
    .linear = gpt_gpu_linear,
    .linear_gelu = gpu_linear_gelu,
    .linear_back = gpu_linear_back,
    .linear_back_gelu = gpu_linear_back_gelu,
    .linear_weight = gpt_gpu_linear_weight,
    .attention = gpt_gpu_attention,
    .attention_backward = gpt_gpu_attention_backward,
    .head = gpt_gpu_head,
    .head_begin = gpt_gpu_head_begin,
    .head_done = gpt_gpu_head_done,
    .logits = gpt_gpu_logits,
    .loss = gpt_gpu_loss,
    .settle = gpu_settle,
};
