/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Launches of cuda/gpt_attention.cuh and gpt_flash.cuh. */

#include "cuda_backend.h"

#include <math.h>

/* As in the kernels. */
enum { THREADS = 128, PLAIN_TILE = 32, FLASH_TILE = 64 };

struct attention_shape {
    int seq, heads, size;
    float scale;
};

/* Columns to which heads are padded, and which of three kernels that is. */
static int padded(const struct gpt_stage *s)
{
    const int size = s->config.channels / s->config.heads;

    return size <= 32 ? 32 : size <= 64 ? 64 : 128;
}

static enum gpt_kernel of_size(const struct gpt_stage *s, enum gpt_kernel first)
{
    const int columns = padded(s);

    return first + (columns == 32 ? 0 : columns == 64 ? 1 : 2);
}

/* Shared memory for whole tiles of the block's own, others, and, in f32, tiles of scores. */
static unsigned shared_bytes(const struct gpt_stage *s, int own, int walked, int scores)
{
    const int columns = padded(s), walk = columns > 64 ? 32 : 64;
    int bytes;

    if (s->opts.dtype == PLD_F32)
        bytes = (own + walked) * PLAIN_TILE * (columns + 1) * (int)sizeof(float) +
                scores * PLAIN_TILE * (PLAIN_TILE + 1) * (int)sizeof(float);
    else
        bytes = (own * FLASH_TILE + 2 * walked * walk) * (columns + 8) * 2;
    return (unsigned)bytes;
}

static struct gpt_launch grid(const struct gpt_stage *s, struct gpt_rows rows, unsigned shared)
{
    const int tile = s->opts.dtype == PLD_F32 ? PLAIN_TILE : FLASH_TILE;

    return (struct gpt_launch){.x = (unsigned)((rows.seq + tile - 1) / tile),
                               .y = (unsigned)(rows.batch * s->config.heads),
                               .threads = THREADS,
                               .shared = shared};
}

static struct attention_shape shape_of(const struct gpt_stage *s, struct gpt_rows rows)
{
    const int size = s->config.channels / s->config.heads;

    return (struct attention_shape){rows.seq, s->config.heads, size, 1.0F / sqrtf((float)size)};
}

/* In bf16 its keys and values come in whole tiles, two stages of two. */
void gpt_gpu_attention(struct gpt_stage *s, struct gpt_rows rows, const struct gpt_saved *saved)
{
    struct attention_shape shape = shape_of(s, rows);
    struct gpt_saved at = *saved;
    const unsigned shared =
        s->opts.dtype == PLD_F32 ? shared_bytes(s, 1, 2, 1) : shared_bytes(s, 4, 0, 0);

    gpt_gpu_launch(s, of_size(s, GPT_KERNEL_attention_32), grid(s, rows, shared),
                   GPT_ARGUMENTS(&at.attention, &at.lse, &at.qkv, &shape));
}

/* The first kernel makes delta, which the second one reads. */
void gpt_gpu_attention_backward(struct gpt_stage *s, struct gpt_rows rows,
                                const struct gpt_saved *saved, const void *dout, void *dqkv)
{
    struct attention_shape shape = shape_of(s, rows);
    struct gpt_saved at = *saved;

    gpt_gpu_launch(
        s, of_size(s, GPT_KERNEL_attention_dq_32), grid(s, rows, shared_bytes(s, 2, 2, 1)),
        GPT_ARGUMENTS(&dqkv, &s->scratch.delta, &at.qkv, &at.attention, &dout, &at.lse, &shape));
    gpt_gpu_launch(s, of_size(s, GPT_KERNEL_attention_dkv_32),
                   grid(s, rows, shared_bytes(s, 2, 2, 2)),
                   GPT_ARGUMENTS(&dqkv, &s->scratch.delta, &at.qkv, &dout, &at.lse, &shape));
}
