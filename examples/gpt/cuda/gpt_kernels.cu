/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* All kernels of the model, in one image: each template for both element types. */

#include "gpt_embed.cuh"
#include "gpt_flash.cuh"
#include "gpt_norm.cuh"
#include "gpt_point.cuh"

#define KERNEL extern "C" __global__ void

#define FOR_TYPE(T)                                                                                \
    KERNEL gpt_embed_##T(T *out, const T *wte, const T *wpe, const int32_t *tokens, int rows,      \
                         int seq, int c)                                                           \
    {                                                                                              \
        embed(out, wte, wpe, tokens, rows, seq, c);                                                \
    }                                                                                              \
    KERNEL gpt_embed_tokens_##T(f32 *grad, const T *dx, const int32_t *tokens, int rows, int c)    \
    {                                                                                              \
        embed_tokens(grad, dx, tokens, rows, c);                                                   \
    }                                                                                              \
    KERNEL gpt_embed_positions_##T(f32 *grad, const T *dx, int batch, int seq, int c)              \
    {                                                                                              \
        embed_positions(grad, dx, batch, seq, c);                                                  \
    }                                                                                              \
    KERNEL gpt_norm_##T(T *out, f32 *mean, f32 *rstd, const T *x, const f32 *weight,               \
                        const f32 *bias, int rows, int c)                                          \
    {                                                                                              \
        norm(out, mean, rstd, x, weight, bias, rows, c);                                           \
    }                                                                                              \
    KERNEL gpt_norm_backward_##T(T *dx, T *out, f32 *partial, const T *x, const f32 *weight,       \
                                 const f32 *bias, const f32 *mean, const f32 *rstd, int rows,      \
                                 int c, int fresh)                                                 \
    {                                                                                              \
        norm_backward(dx, out, partial, x, weight, bias, mean, rstd, rows, c, fresh);              \
    }                                                                                              \
    KERNEL gpt_column_sum_##T(f32 *partial, const T *a, int rows, int cols)                        \
    {                                                                                              \
        column_sum(partial, a, rows, cols);                                                        \
    }                                                                                              \
    KERNEL gpt_gelu_##T(T *out, const T *x, size_t count)                                          \
    {                                                                                              \
        gelu(out, x, count);                                                                       \
    }                                                                                              \
    KERNEL gpt_gelu_backward_##T(T *d, T *out, const T *x, size_t count)                           \
    {                                                                                              \
        gelu_backward(d, out, x, count);                                                           \
    }                                                                                              \
    KERNEL gpt_cross_entropy_##T(T *logits, f32 *losses, const int32_t *targets, int vocab,        \
                                 int stride, f32 scale, const f32 *times)                          \
    {                                                                                              \
        cross_entropy(logits, losses, targets, vocab, stride, scale, times);                       \
    }

#define FOR_ATTENTION(T, kind, D)                                                                  \
    KERNEL __launch_bounds__(ATTENTION_BLOCK)                                                      \
        gpt_attention_##D##_##T(T *out, f32 *lse, const T *qkv, attention_shape s)                 \
    {                                                                                              \
        attention_##kind<D>(out, lse, qkv, s);                                                     \
    }                                                                                              \
    KERNEL __launch_bounds__(ATTENTION_BLOCK)                                                      \
        gpt_attention_dq_##D##_##T(T *dqkv, f32 *delta, const T *qkv, const T *out, const T *dout, \
                                   const f32 *lse, attention_shape s)                              \
    {                                                                                              \
        attention_##kind##_dq<D>(dqkv, delta, qkv, out, dout, lse, s);                             \
    }                                                                                              \
    KERNEL __launch_bounds__(ATTENTION_BLOCK) gpt_attention_dkv_##D##_##T(                         \
        T *dqkv, const f32 *delta, const T *qkv, const T *dout, const f32 *lse, attention_shape s) \
    {                                                                                              \
        attention_##kind##_dkv<D>(dqkv, delta, qkv, dout, lse, s);                                 \
    }

FOR_TYPE(f32)
FOR_TYPE(bf16)
FOR_ATTENTION(f32, plain, 32)
FOR_ATTENTION(f32, plain, 64)
FOR_ATTENTION(f32, plain, 128)
FOR_ATTENTION(bf16, flash, 32)
FOR_ATTENTION(bf16, flash, 64)
FOR_ATTENTION(bf16, flash, 128)

KERNEL gpt_round(bf16 *out, const f32 *in, size_t count)
{
    round_all(out, in, count);
}

KERNEL gpt_column_finish(f32 *grad, const f32 *partial, int parts, int cols, int stride)
{
    column_finish(grad, partial, parts, cols, stride);
}

KERNEL gpt_loss_sum(double *total, const f32 *losses, int rows)
{
    loss_sum(total, losses, rows);
}
