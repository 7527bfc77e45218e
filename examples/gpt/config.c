/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Sizes, costs, and the split into stages: arithmetic on the configuration alone. */

#include "model.h"

#include <polder/error.h>

#include <string.h>

static const struct preset {
    const char *name;
    struct gpt_config config;
} presets[] = {
    {"tiny", {256, 256, 256, 4, 4, 128}},
    {"small", {1024, 256, 256, 8, 6, 192}},
    {"124M", {1024, 50257, 50304, 12, 12, 768}},
};

int gpt_config_preset(const char *name, struct gpt_config *out)
{
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        if (strcmp(name, presets[i].name) == 0) {
            *out = presets[i].config;
            return 0;
        }
    }
    return gpt_fail(PLD_ERR_ARG, "unknown model \"%s\"; there are tiny, small and 124M", name);
}

/* The bounds keep every product of two sizes within an int, as BLAS wants it. */
int gpt_config_check(const struct gpt_config *config)
{
    const struct {
        const char *name;
        int value, limit;
    } sizes[] = {
        {"max_seq", config->max_seq, 1 << 20},
        {"vocab", config->vocab, 1 << 24},
        {"padded_vocab", config->padded_vocab, 1 << 24},
        {"layers", config->layers, 1 << 12},
        {"heads", config->heads, 1 << 12},
        {"channels", config->channels, 1 << 16},
    };

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].limit)
            return gpt_fail(PLD_ERR_ARG, "model with %s %d; it must be 1 to %d", sizes[i].name,
                            sizes[i].value, sizes[i].limit);
    if (config->channels % config->heads != 0)
        return gpt_fail(PLD_ERR_ARG, "model with %d channels cannot have %d heads: not a divisor",
                        config->channels, config->heads);
    if (config->padded_vocab < config->vocab)
        return gpt_fail(PLD_ERR_ARG, "model with padded vocabulary %d smaller than vocabulary %d",
                        config->padded_vocab, config->vocab);
    return 0;
}

/* Per layer: matrices 3CC + CC + 4CC + 4CC, biases 3C + C + 4C + C, two norms of 2C. */
int64_t gpt_config_parameters(const struct gpt_config *config)
{
    int64_t c = config->channels;

    return (config->vocab + config->max_seq) * c + config->layers * (12 * c * c + 13 * c) + 2 * c;
}

/* A multiply-add per weight forward, two backward; causal attention meets seq/2 keys on average,
 * with one product for scores and one for the sum. */
static double layer_flops(const struct gpt_config *config, int seq)
{
    double c = config->channels;

    return 6 * 12 * c * c + 6 * c * seq;
}

static double head_flops(const struct gpt_config *config)
{
    return 6.0 * config->vocab * config->channels;
}

double gpt_config_flops(const struct gpt_config *config, int seq)
{
    return config->layers * layer_flops(config, seq) + head_flops(config);
}

/*
 * All layers cost the same, so a split is known by the number of layers on the
 * last stage, which also has the head: the others share the rest evenly.  Of
 * equal splits the one with most layers beside the head is taken, for the last
 * stage keeps the fewest microbatches alive.
 */
static int layers_beside_head(const struct gpt_config *config, int seq, int stages)
{
    double layer = layer_flops(config, seq), head = head_flops(config), best = 0;
    int best_last = -1, others = stages - 1;

    for (int last = 0; last <= config->layers - others; last++) {
        int longest = (config->layers - last + others - 1) / others;
        double cost = last * layer + head;

        if (longest * layer > cost)
            cost = longest * layer;
        if (best_last < 0 || cost <= best) {
            best = cost;
            best_last = last;
        }
    }
    return best_last;
}

int gpt_config_split(const struct gpt_config *config, int seq, int stage, int stages,
                     int *out_first, int *out_count)
{
    int last, rest, others = stages - 1;

    if (stages < 1 || stage < 0 || stage >= stages || stages > config->layers + 1)
        return gpt_fail(PLD_ERR_ARG, "stage %d of %d: a model of %d layers makes 1 to %d stages",
                        stage, stages, config->layers, config->layers + 1);
    last = others == 0 ? config->layers : layers_beside_head(config, seq, stages);
    rest = config->layers - last;
    if (stage == others) {
        *out_first = rest;
        *out_count = last;
        return 0;
    }
    *out_first = (int)((int64_t)rest * stage / others);
    *out_count = (int)((int64_t)rest * (stage + 1) / others) - *out_first;
    return 0;
}

const char *gpt_class_name(enum gpt_class class)
{
    static const char *const names[GPT_CLASSES] = {"gemm", "attention", "gelu", "norm",
                                                   "head", "loss",      "rest"};

    return (unsigned)class < GPT_CLASSES ? names[class] : "?";
}
