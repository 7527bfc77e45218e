/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The head: final norm, logits, cross-entropy, and at once their gradients, part by part. */

#include "stage.h"

static struct gpt_layer_norm norm_of(const struct gpt_stage *s, int first, int rows)
{
    return (struct gpt_layer_norm){
        .weight = &s->own.of[GPT_LNFW],
        .bias = &s->own.of[GPT_LNFB],
        .mean = s->scratch.mean + first,
        .rstd = s->scratch.rstd + first,
        .rows = rows,
    };
}

void gpt_head(struct gpt_stage *s, const void *x, const int32_t *targets, float scale, void *dx)
{
    const size_t row_bytes = (size_t)s->config.channels * s->element;

    for (int first = 0; first < s->rows.count; first += s->head_rows) {
        const size_t at = (size_t)first * row_bytes;
        const int left = s->rows.count - first;
        const struct gpt_part part = {.rows = left < s->head_rows ? left : s->head_rows,
                                      .hidden = s->scratch.norm,
                                      .targets = targets + first,
                                      .scale = scale,
                                      .times = s->loss_scale};
        const struct gpt_layer_norm norm = norm_of(s, first, part.rows);

        s->backend->norm(s, &norm, (const char *)x + at, s->scratch.norm);
        s->backend->head(s, &part, s->scratch.wide);
        if (scale != 0)
            s->backend->norm_backward(s, &norm, (const char *)x + at, (char *)dx + at,
                                      s->scratch.wide, 1);
    }
}

int gpt_head_logits(struct gpt_stage *s, const void *x, float *out)
{
    const struct gpt_layer_norm norm = norm_of(s, 0, 1);

    s->backend->norm(s, &norm, x, s->scratch.norm);
    return s->broken != 0 ? s->broken : s->backend->logits(s, s->scratch.norm, out);
}
