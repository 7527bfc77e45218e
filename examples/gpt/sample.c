/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Text from the model: one token at a time, each from a forward through all stages
 * of the first pipeline over what fits into the sequence.  Made for a look at what
 * was learned, not for serving.
 */

#include "driver.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Below 1 the likely is preferred. */
#define TEMPERATURE 0.8

enum { TAG = 1, GPT2_END_OF_TEXT = 50256 };

struct sampler {
    struct gpt_trainer *trainer;
    pld_group *pipeline;
    int32_t *tokens; /* [count + 1], the first one being the prompt */
    void *in, *out;  /* [seq][channels], where the stage works */
    float *logits;   /* [vocab] */
};

static int32_t draw(const struct sampler *s, int64_t position)
{
    const int vocab = s->trainer->config.vocab;
    float uniform;
    double most = s->logits[0], sum = 0, aim;

    pld_random_uniform((uint64_t)s->trainer->seed, pld_random_stream("gpt/sample"),
                       (uint64_t)position, 1, &uniform);
    for (int i = 1; i < vocab; i++)
        most = fmax(most, s->logits[i]);
    for (int i = 0; i < vocab; i++)
        sum += exp((s->logits[i] - most) / TEMPERATURE);
    aim = uniform * sum;
    for (int i = 0; i < vocab; i++) {
        aim -= exp((s->logits[i] - most) / TEMPERATURE);
        if (aim < 0)
            return i;
    }
    return vocab - 1;
}

/* Token `position` from those before it, on all ranks of the pipeline. */
static int next(struct sampler *s, int64_t position)
{
    struct gpt_trainer *t = s->trainer;
    const int count = position < t->seq ? (int)position : t->seq;
    const size_t elements = (size_t)count * (size_t)t->config.channels;
    const int first = t->pp_rank == 0, last = t->pp_rank == t->pp_size - 1;
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .stream = gpt_stage_stream(t->stage)};
    int rc = 0;

    if (!first)
        rc = pld_recv(s->pipeline, s->in, elements, t->dtype, t->pp_rank - 1, TAG, &opts);
    if (rc == 0)
        rc = gpt_stage_logits(t->stage, count, first ? s->tokens + position - count : NULL,
                              first ? NULL : s->in, last ? NULL : s->out, last ? s->logits : NULL);
    if (rc == 0 && !last)
        rc = pld_send(s->pipeline, s->out, elements, t->dtype, t->pp_rank + 1, TAG, &opts);
    if (rc == 0 && last)
        s->tokens[position] = draw(s, position);
    if (rc == 0)
        rc = pld_broadcast(s->pipeline, s->tokens + position, 1, PLD_I32, t->pp_size - 1, NULL);
    return gpt_from_polder(rc);
}

static void print(const struct sampler *s, int64_t count)
{
    printf("sample of %lld tokens:\n", (long long)count);
    for (int64_t i = 1; i <= count; i++) {
        if (s->trainer->options->text_count > 0)
            putchar(s->tokens[i] < 256 ? s->tokens[i] : '?');
        else
            printf("%d ", s->tokens[i]);
    }
    printf("\n");
    fflush(stdout);
}

static int generate(struct sampler *s, int64_t count)
{
    int rc = 0;

    s->tokens[0] = s->trainer->options->text_count > 0 ? '\n' : GPT2_END_OF_TEXT;
    if (s->tokens[0] >= s->trainer->config.vocab)
        s->tokens[0] = 0;
    for (int64_t i = 1; i <= count && rc == 0; i++)
        rc = next(s, i);
    if (rc == 0 && s->trainer->pp_rank == 0)
        print(s, count);
    return rc;
}

int gpt_sample(struct gpt_trainer *t, int64_t count)
{
    const size_t elements = (size_t)t->seq * (size_t)t->config.channels;
    struct sampler s = {.trainer = t, .pipeline = pld_mesh_group(t->mesh, PLD_AXIS_PP)};
    int rc = 0;

    s.tokens = malloc(((size_t)count + 1) * sizeof(*s.tokens));
    s.logits = malloc((size_t)t->config.vocab * sizeof(*s.logits));
    if (s.tokens == NULL || s.logits == NULL)
        rc = gpt_fail(PLD_ERR_NOMEM, "no memory for a sample of %lld tokens", (long long)count);
    if (rc == 0)
        rc = gpt_trainer_alloc(t, elements * sizeof(float), PLD_MEM_DEVICE, &s.in);
    if (rc == 0)
        rc = gpt_trainer_alloc(t, elements * sizeof(float), PLD_MEM_DEVICE, &s.out);
    rc = gpt_agree(t->world, rc);
    if (rc == 0 && t->pp_size > 1)
        rc = gpt_from_polder(pld_group_connect(s.pipeline));
    if (rc == 0 && t->dp_rank == 0)
        rc = generate(&s, count);
    rc = gpt_agree(t->world, rc);
    free(s.tokens);
    gpt_trainer_free(t, s.in);
    gpt_trainer_free(t, s.out);
    free(s.logits);
    return rc;
}
