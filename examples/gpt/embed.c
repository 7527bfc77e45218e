/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Tokens and positions. */

#include "stage.h"

#include <polder/error.h>

int gpt_tokens_check(const struct gpt_stage *s, const char *what, const int32_t *tokens, int count)
{
    for (int i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= s->config.vocab)
            return gpt_fail(PLD_ERR_ARG, "%s %d is %d; the vocabulary is 0 to %d", what, i,
                            (int)tokens[i], s->config.vocab - 1);
    return 0;
}

void gpt_embed(struct gpt_stage *s, struct gpt_rows rows, const int32_t *tokens, float *out)
{
    const size_t c = (size_t)s->config.channels;
    const float *wte = s->own.of[GPT_WTE].value, *wpe = s->own.of[GPT_WPE].value;

    for (int i = 0; i < rows.count; i++)
        s->kernels->add(out + (size_t)i * c, wte + (size_t)tokens[i] * c,
                        wpe + (size_t)(i % rows.seq) * c, c);
    gpt_lap(s, GPT_REST);
}

void gpt_embed_backward(struct gpt_stage *s, struct gpt_rows rows, const int32_t *tokens,
                        const float *dx)
{
    const size_t c = (size_t)s->config.channels;
    float *wte = s->own.of[GPT_WTE].grad, *wpe = s->own.of[GPT_WPE].grad;

    for (int i = 0; i < rows.count; i++) {
        s->kernels->column_sum(wte + (size_t)tokens[i] * c, dx + (size_t)i * c, 1, c);
        s->kernels->column_sum(wpe + (size_t)(i % rows.seq) * c, dx + (size_t)i * c, 1, c);
    }
    gpt_lap(s, GPT_REST);
}
