/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the model makes of a file of values and a file of tokens, for the oracle:
 *
 *   probe MODEL TOKENS OUT STAGES BATCH SEQ MICROBATCHES LIVE SCALE
 *
 * TOKENS holds [microbatch][batch][seq] int32, then as many targets.  OUT receives f32:
 * all gradients in the order of the model file, summed over microbatches and
 * stages, then the logits [vocab] after the first sequence.  Prints a line with the
 * sum of losses for each microbatch.
 */

#include <tensors.h>

#include <stdio.h>
#include <stdlib.h>

#include "chain.h"

static int step(struct chain *c, const int32_t *tokens, int microbatches, float scale)
{
    const size_t size = (size_t)c->batch * (size_t)c->seq;
    int rc = 0;

    /* Up to `live` microbatches ahead, the oldest one goes back first. */
    for (int f = 0, b = 0; b < microbatches && rc == 0;) {
        const int32_t *at = tokens + (size_t)f * size;
        double loss = 0;

        if (f < microbatches && f - b < c->live) {
            rc = chain_forward(c, f, f % c->live, at, at + (size_t)microbatches * size, scale,
                               &loss);
            printf("%.17g\n", loss);
            f++;
        } else {
            rc = chain_backward(c, b, b % c->live);
            b++;
        }
    }
    return rc;
}

static int write_gradient(const struct chain *c, enum gpt_kind kind, int layer, FILE *out)
{
    struct gpt_tensor_info info;
    float *grad;
    int rc;

    gpt_tensor_describe(&c->config, kind, layer, &info);
    grad = malloc((size_t)info.count * sizeof(*grad));
    rc = chain_gradient(c, info.name, (size_t)info.count, grad);
    if (rc == 0 && fwrite(grad, sizeof(*grad), (size_t)info.count, out) != (size_t)info.count)
        rc = PLD_ERR_IO;
    free(grad);
    return rc;
}

static int write_results(struct chain *c, const int32_t *tokens, const char *path)
{
    float *logits = calloc((size_t)c->config.vocab, sizeof(*logits));
    FILE *out = fopen(path, "wb");
    int rc = out == NULL ? PLD_ERR_IO : 0;

    for (enum gpt_kind k = 0; k < GPT_KINDS; k++)
        for (int l = 0; l < (gpt_kind_in_layer(k) ? c->config.layers : 1) && rc == 0; l++)
            rc = write_gradient(c, k, l, out);
    if (rc == 0)
        rc = chain_logits(c, c->seq, tokens, logits);
    if (rc == 0)
        (void)fwrite(logits, sizeof(*logits), (size_t)c->config.vocab, out);
    if (out != NULL && fclose(out) != 0)
        rc = PLD_ERR_IO;
    free(logits);
    return rc;
}

static int32_t *read_tokens(const char *path, size_t count)
{
    int32_t *tokens = malloc(count * sizeof(*tokens));
    FILE *file = fopen(path, "rb");

    if (file == NULL || fread(tokens, sizeof(*tokens), count, file) != count) {
        free(tokens);
        tokens = NULL;
    }
    if (file != NULL)
        (void)fclose(file);
    return tokens;
}

int main(int argc, char **argv)
{
    struct chain_opts o = {0};
    struct chain c = {0};
    int32_t *tokens = NULL;
    int rc;

    if (argc != 10)
        return 2;
    o.stages = atoi(argv[4]);
    o.batch = atoi(argv[5]);
    o.seq = atoi(argv[6]);
    o.microbatches = atoi(argv[7]);
    o.live = atoi(argv[8]);
    rc = gpt_llmc_config(argv[1], &o.config);
    if (rc == 0)
        rc = chain_open(&o, &c);
    if (rc == 0)
        rc = chain_load(&c, argv[1]);
    if (rc == 0)
        tokens = read_tokens(argv[2], 2 * (size_t)(o.microbatches * o.batch * o.seq));
    if (tokens == NULL)
        rc = rc != 0 ? rc : PLD_ERR_IO;
    if (rc == 0)
        rc = step(&c, tokens, o.microbatches, (float)atof(argv[9]));
    if (rc == 0)
        rc = write_results(&c, tokens, argv[3]);
    if (rc != 0)
        fprintf(stderr, "probe: %s: %s; %s\n", pld_error_name(rc), gpt_last_error(),
                pld_last_error());
    free(tokens);
    chain_close(&c);
    return rc != 0;
}
