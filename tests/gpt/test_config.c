/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Sizes of models and their cut into stages, against known numbers and search. */

#include <model.h>
#include <polder/error.h>
#include <tensors.h>

#include <math.h>
#include <string.h>

#include "tap.h"

static struct gpt_config preset(const char *name)
{
    struct gpt_config config = {0};

    ok(gpt_config_preset(name, &config) == 0 && gpt_config_check(&config) == 0, "preset %s", name);
    return config;
}

static int64_t count_tensors(const struct gpt_config *config)
{
    struct gpt_tensor_info info;
    int64_t sum = 0;

    for (enum gpt_kind k = 0; k < GPT_KINDS; k++) {
        gpt_tensor_describe(config, k, 0, &info);
        sum += info.count * (gpt_kind_in_layer(k) ? config->layers : 1);
    }
    return sum - (int64_t)(config->padded_vocab - config->vocab) * config->channels;
}

static void test_parameters(void)
{
    static const char *const names[] = {"tiny", "small", "124M"};

    for (int i = 0; i < 3; i++) {
        const struct gpt_config config = preset(names[i]);

        ok(gpt_config_parameters(&config) == count_tensors(&config),
           "%s: %lld parameters, as many as its tensors hold", names[i],
           (long long)gpt_config_parameters(&config));
    }
    {
        const struct gpt_config gpt2 = preset("124M");

        /* What the published model has. */
        ok(gpt_config_parameters(&gpt2) == 124439808, "GPT-2 has 124439808 parameters");
    }
}

/* The fastest slowest stage that any cut of `layers` into `others` stages of at least one layer
 * and a last one of any number has, found by trying all. */
static double best_cut(int layers, int others, double layer, double head)
{
    double best = INFINITY;

    if (others == 0)
        return layers * layer + head;
    for (int take = 1; take <= layers - (others - 1); take++) {
        const double rest = best_cut(layers - take, others - 1, layer, head);

        best = fmin(best, fmax(rest, take * layer));
    }
    return best;
}

static void test_split(struct gpt_config config, int stages, int seq)
{
    struct gpt_config longer = config;
    double layer, head, slowest = 0;
    int next = 0, good = 1;

    longer.layers++;
    layer = gpt_config_flops(&longer, seq) - gpt_config_flops(&config, seq);
    head = gpt_config_flops(&config, seq) - config.layers * layer;
    for (int i = 0; i < stages; i++) {
        int first = -1, count = -1;

        good = good && gpt_config_split(&config, seq, i, stages, &first, &count) == 0 &&
               first == next && count >= (i < stages - 1);
        next = first + count;
        slowest = fmax(slowest, count * layer + (i == stages - 1 ? head : 0));
    }
    ok(good && next == config.layers &&
           slowest <= 1.0000001 * best_cut(config.layers, stages - 1, layer, head),
       "%d layers of %d channels, vocabulary %d, %d stages: the slowest has %.2f layers' work",
       config.layers, config.channels, config.vocab, stages, slowest / layer);
}

static void said(int rc, const char *part)
{
    ok(rc == PLD_ERR_ARG && strstr(gpt_last_error(), part) != NULL, "%s: %s", pld_error_name(rc),
       gpt_last_error());
}

static void test_wrong(void)
{
    struct gpt_config config = preset("tiny"), bad = config;
    int first = 0, count = 0;

    said(gpt_config_preset("huge", &bad), "there are tiny, small and 124M");
    said(gpt_config_split(&config, 8, 0, 6, &first, &count), "4 layers makes 1 to 5");
    said(gpt_config_split(&config, 8, 2, 2, &first, &count), "stage 2 of 2");
    said(gpt_config_split(&config, 8, 0, 0, &first, &count), "stage 0 of 0");
    bad.padded_vocab = 255;
    said(gpt_config_check(&bad), "padded vocabulary 255 smaller than vocabulary 256");
    bad = config;
    bad.heads = 5;
    said(gpt_config_check(&bad), "128 channels cannot have 5 heads");
    bad = config;
    bad.layers = -1;
    said(gpt_config_check(&bad), "layers -1");
}

int main(void)
{
    struct gpt_config config = preset("124M");

    test_parameters();
    for (int stages = 1; stages <= 6; stages++)
        test_split(config, stages, 256);
    test_split(config, 13, 1024);
    config.layers = 5;
    test_split(config, 6, 64);
    config = preset("small"); /* a head that costs next to nothing */
    for (int stages = 1; stages <= 9; stages += 2)
        test_split(config, stages, 128);
    test_wrong();
    return tap_done();
}
