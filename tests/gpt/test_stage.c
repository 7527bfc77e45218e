/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What stages promise beside their numbers, which test_reference.py compares. */

#include <tensors.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chain.h"
#include "tap.h"

enum { BATCH = 2, SEQ = 9, COUNT = BATCH * SEQ, VOCAB = 30 };

static const struct gpt_config config = {
    .max_seq = 12, .vocab = VOCAB, .padded_vocab = 32, .layers = 3, .heads = 2, .channels = 16};

static char folder[] = "/tmp/polder-gpt-XXXXXX";

static const char *file_named(const char *name)
{
    static char path[128];

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static struct chain open_chain(int stages, int live, int microbatches)
{
    const struct chain_opts opts = {config, stages, BATCH, SEQ, live, microbatches};
    struct chain c;

    if (chain_open(&opts, &c) != 0 || chain_init(&c, 42) != 0)
        ok(0, "%d stages: %s", stages, gpt_last_error());
    return c;
}

static void tokens_of(uint64_t seed, int32_t *out, int count)
{
    for (int i = 0; i < count; i++)
        out[i] = (int32_t)(pld_random_u64(seed, 0, (uint64_t)i) % VOCAB);
}

/* ---- when gradients are final ---- */

struct watch {
    const pld_params *params;
    int calls[64];
    float *copy[64];
};

static int watch(void *context, int id)
{
    struct watch *w = context;
    pld_param_info info;

    w->calls[id]++;
    (void)pld_params_info(w->params, id, &info);
    w->copy[id] = malloc(info.count * sizeof(float));
    memcpy(w->copy[id], info.grad, info.count * sizeof(float));
    return 0;
}

static int is_final(const struct watch *w, int id)
{
    pld_param_info info;

    (void)pld_params_info(w->params, id, &info);
    return w->calls[id] == 1 && memcmp(w->copy[id], info.grad, info.count * sizeof(float)) == 0;
}

static void check_final(const struct chain *c, struct watch w[])
{
    for (int i = 0; i < c->stages; i++) {
        int final = 0;

        for (int id = 0; id < pld_params_count(c->params[i]); id++) {
            final += is_final(&w[i], id);
            free(w[i].copy[id]);
        }
        ok(final == pld_params_count(c->params[i]),
           "stage %d of %d: %d of %d tensors were reported once and stayed as they were", i,
           c->stages, final, pld_params_count(c->params[i]));
    }
}

static void test_ready(int stages)
{
    struct chain c = open_chain(stages, 2, 3);
    struct watch w[CHAIN_STAGES];
    int32_t tokens[4 * COUNT];
    int early = 0;

    tokens_of(1, tokens, 4 * COUNT);
    for (int step = 0; step < 2; step++) {
        memset(w, 0, sizeof(w));
        for (int i = 0; i < stages; i++) {
            w[i].params = c.params[i];
            gpt_stage_on_ready(c.stage[i], watch, &w[i]);
        }
        for (int m = 0; m < 3; m++) {
            (void)chain_forward(&c, m, 0, tokens + m * COUNT, tokens + (m + 1) * COUNT, 0.1F, NULL);
            for (int i = 0; i < stages; i++)
                early += w[i].calls[0];
            (void)chain_backward(&c, m, 0);
        }
        check_final(&c, w);
    }
    ok(early == 0, "%d stages: no call before the last backward", stages);
    chain_close(&c);
}

static int refuse(void *context, int id)
{
    (void)id;
    ++*(int *)context;
    return PLD_ERR_PEER;
}

static void test_refusal(void)
{
    struct chain c = open_chain(1, 1, 1);
    int32_t tokens[COUNT];
    int calls = 0;

    tokens_of(2, tokens, COUNT);
    gpt_stage_on_ready(c.stage[0], refuse, &calls);
    ok(chain_forward(&c, 0, 0, tokens, tokens, 1, NULL) == 0 &&
           chain_backward(&c, 0, 0) == PLD_ERR_PEER && calls == 1,
       "backward ends with what ready() says");
    chain_close(&c);
}

/* ---- wrong calls ---- */

static void said(int rc, int code, const char *part)
{
    ok(rc == code && strstr(gpt_last_error(), part) != NULL, "%s: %s", pld_error_name(rc),
       gpt_last_error());
}

static void test_misuse(void)
{
    struct chain c = open_chain(1, 1, 2);
    int32_t tokens[COUNT], bad[COUNT];
    float logits[VOCAB];

    tokens_of(3, tokens, COUNT);
    memcpy(bad, tokens, sizeof(bad));
    bad[COUNT - 1] = VOCAB; /* a row of the padding */
    said(chain_forward(&c, 0, 0, bad, tokens, 1, NULL), PLD_ERR_ARG,
         "token 17 is 30; the vocabulary is 0 to 29");
    said(chain_forward(&c, 0, 0, tokens, bad, 1, NULL), PLD_ERR_ARG, "target 17 is 30");
    bad[COUNT - 1] = -1;
    said(chain_forward(&c, 0, 0, bad, tokens, 1, NULL), PLD_ERR_ARG, "token 17 is -1");
    said(chain_logits(&c, SEQ + 1, tokens, logits), PLD_ERR_ARG, "1 to 9");
    said(chain_logits(&c, 0, tokens, logits), PLD_ERR_ARG, "1 to 9");
    said(chain_forward(&c, -2, 0, tokens, tokens, 1, NULL), PLD_ERR_ARG, "-2");
    said(chain_backward(&c, 0, 0), PLD_ERR_STATE, "no forward");
    said(chain_backward(&c, -1, 0), PLD_ERR_STATE, "no forward");
    ok(chain_forward(&c, 5, 0, tokens, tokens, 1, NULL) == 0, "microbatch 5");
    said(chain_forward(&c, 5, 0, tokens, tokens, 1, NULL), PLD_ERR_STATE, "already");
    said(chain_forward(&c, 6, 0, tokens, tokens, 1, NULL), PLD_ERR_STATE, "the 1 that may be live");
    ok(chain_forward(&c, 6, 0, tokens, tokens, 0, NULL) == 0, "evaluation of one more");
    ok(chain_backward(&c, 5, 0) == 0, "backward of 5");
    said(chain_backward(&c, 5, 0), PLD_ERR_STATE, "microbatch 5");
    chain_close(&c);
}

static void try_create(pld_mesh *mesh, struct gpt_stage_opts o, const char *part)
{
    struct gpt_stage *stage = NULL;
    pld_params *params = NULL;
    int rc;

    (void)pld_params_create(mesh, &params);
    rc = gpt_stage_create(&o, params, &stage);
    said(rc, PLD_ERR_ARG, part);
    ok(stage == NULL && pld_params_count(params) == 0, "nothing is left of it");
    gpt_stage_destroy(&stage);
    pld_params_destroy(&params);
}

static void test_create(void)
{
    struct chain c = open_chain(1, 1, 1);
    const struct gpt_stage_opts good = {
        .config = config, .stages = 1, .batch = BATCH, .seq = SEQ, .live = 1, .microbatches = 1};
    struct gpt_stage_opts o = good;
    struct gpt_stage *stage = NULL;
    pld_params *params = NULL;

    o.seq = 13;
    try_create(c.mesh, o, "seq 13; it must be 1 to 12");
    o = good;
    o.live = 0;
    try_create(c.mesh, o, "live 0");
    o = good;
    o.dtype = PLD_BF16;
    try_create(c.mesh, o, "in bf16 on a GPU alone");
    o = good;
    o.stages = 5;
    try_create(c.mesh, o, "a model of 3 layers makes 1 to 4 stages");
    o = good;
    o.config.heads = 3;
    try_create(c.mesh, o, "3 heads");
    (void)pld_params_create(c.mesh, &params);
    ok(gpt_stage_create(&good, params, &stage) == 0, "good options");
    said(gpt_stage_init(stage, 1), PLD_ERR_STATE, "not committed");
    gpt_stage_destroy(&stage);
    gpt_stage_destroy(&stage);
    pld_params_destroy(&params);
    chain_close(&c);
}

/* ---- evaluation and sampling ---- */

static double all_gradients(const struct chain *c)
{
    double sum = 0;
    pld_param_info info;

    for (int i = 0; i < c->stages; i++)
        for (int id = 0; pld_params_info(c->params[i], id, &info) == 0; id++)
            for (size_t k = 0; k < info.count; k++)
                sum += fabs((double)((float *)info.grad)[k]);
    return sum;
}

static double loss_by_logits(struct chain *c, const int32_t *tokens, const int32_t *targets)
{
    double loss = 0;

    for (int i = 0; i < COUNT; i++) {
        float logits[VOCAB];
        double sum = 0;

        if (chain_logits(c, i % SEQ + 1, tokens + i / SEQ * SEQ, logits) != 0)
            return NAN;
        for (int v = 0; v < VOCAB; v++)
            sum += exp((double)logits[v]);
        loss += log(sum) - (double)logits[targets[i]];
    }
    return loss;
}

static void test_evaluate(int stages)
{
    struct chain c = open_chain(stages, 1, 1);
    int32_t tokens[COUNT], targets[COUNT];
    double evaluated = -1, trained = -2, sampled, times[GPT_CLASSES], total = 0;

    tokens_of(4, tokens, COUNT);
    tokens_of(5, targets, COUNT);
    ok(chain_forward(&c, 0, 0, tokens, targets, 0, &evaluated) == 0 && all_gradients(&c) == 0,
       "%d stages: evaluation touches no gradient", stages);
    sampled = loss_by_logits(&c, tokens, targets);
    gpt_stage_measure(c.stage[stages - 1], 1);
    (void)chain_forward(&c, 0, 0, tokens, targets, 1, &trained);
    ok(evaluated == trained, "%d stages: loss %.9g evaluated, %.9g with backward", stages,
       evaluated, trained);
    ok(fabs(sampled - trained) < 1e-6 * trained, "%d stages: loss from logits %.9g", stages,
       sampled);
    ok(chain_backward(&c, 0, 0) == 0 && all_gradients(&c) > 0, "backward does");
    gpt_stage_times(c.stage[stages - 1], times);
    for (int i = 0; i < GPT_CLASSES; i++)
        total += times[i];
    ok(times[GPT_HEAD] > 0 && times[GPT_LOSS] > 0 && total < 10, "%.6f s in the head of %.6f",
       times[GPT_HEAD], total);
    chain_close(&c);
}

/* ---- values and files ---- */

/* Tensors of the chain that do not hold what the file has in their place. */
static int differing(const struct chain *c, const char *path)
{
    struct gpt_tensor_info info;
    FILE *file = fopen(path, "rb");
    float x[2048], y[2048];
    int differ = 0;

    (void)fseek(file, 1024, SEEK_SET);
    for (enum gpt_kind k = 0; k < GPT_KINDS; k++) {
        for (int l = 0; l < (gpt_kind_in_layer(k) ? config.layers : 1); l++) {
            gpt_tensor_describe(&config, k, l, &info);
            differ += fread(x, sizeof(*x), (size_t)info.count, file) != (size_t)info.count ||
                      chain_value(c, info.name, (size_t)info.count, y) != 0 ||
                      memcmp(x, y, (size_t)info.count * sizeof(*x)) != 0;
        }
    }
    (void)fclose(file);
    return differ;
}

static void test_values(int stages)
{
    const char *path = file_named("model.bin");
    struct chain c = open_chain(stages, 1, 1);
    struct gpt_config read = {0};
    int same, other, loaded;

    ok(gpt_llmc_create(path, &config, 42) == 0 && gpt_llmc_config(path, &read) == 0 &&
           memcmp(&read, &config, sizeof(read)) == 0,
       "a file of initial values has the model's sizes");
    same = differing(&c, path);
    (void)chain_init(&c, 43);
    other = differing(&c, path);
    ok(chain_load(&c, path) == 0, "%d stages load it", stages);
    loaded = differing(&c, path);
    ok(same == 0 && loaded == 0 && other == 2 + 4 * config.layers,
       "%d stages: of its tensors differ %d from those of the seed, %d from those of another, %d "
       "when loaded",
       stages, same, other, loaded);
    chain_close(&c);
}

/* Deviation and mean of initial values. */
static void test_deviation(void)
{
    struct gpt_config small;
    static float x[2 * 16384];
    const enum gpt_kind kinds[] = {GPT_WTE, GPT_QKVW, GPT_FCPROJW};
    const double wanted[] = {0.02, 0.02, 0.02 / sqrt(8.0)};

    (void)gpt_config_preset("tiny", &small);
    for (int i = 0; i < 3; i++) {
        double sum = 0, squares = 0;

        gpt_tensor_initial(&small, kinds[i], 1, 9, 0, 32768, x);
        for (int k = 0; k < 32768; k++) {
            sum += (double)x[k] / 32768;
            squares += (double)x[k] * (double)x[k] / 32768;
        }
        ok(fabs(sqrt(squares) / wanted[i] - 1) < 0.02 && fabs(sum) < 0.03 * wanted[i],
           "initial values of kind %d: deviation %.5f, mean %.1e", (int)kinds[i], sqrt(squares),
           sum);
    }
    small.vocab = 200;
    gpt_tensor_initial(&small, GPT_WTE, 0, 9, 199 * 128, 57 * 128, x);
    ok(x[127] != 0 && x[128] == 0 && x[57 * 128 - 1] == 0, "padding is 0");
}

/* ---- wrong files ---- */

/* The good file with one word changed, or a few bytes less or more. */
static const char *spoiled(int word, int32_t value, long bytes)
{
    static char contents[1 << 20];
    FILE *file = fopen(file_named("model.bin"), "rb");
    size_t size = fread(contents, 1, sizeof(contents), file);

    (void)fclose(file);
    memcpy(contents + 4 * word, &value, sizeof(value));
    size = bytes < 0 ? size - (size_t)-bytes : size + (size_t)bytes;
    file = fopen(file_named("bad.bin"), "wb");
    (void)fwrite(contents, 1, size, file);
    (void)fclose(file);
    return file_named("bad.bin");
}

static void test_wrong_files(void)
{
    struct chain c = open_chain(2, 1, 1);
    struct gpt_config out = {.layers = -7}, other = config;

    said(gpt_llmc_config(file_named("none.bin"), &out), PLD_ERR_NOTFOUND, "none.bin': No such");
    said(gpt_llmc_config(folder, &out), PLD_ERR_IO, "Is a directory");
    said(gpt_llmc_config(spoiled(0, 20240326, -43000), &out), PLD_ERR_CORRUPT, "has 328 bytes");
    said(gpt_llmc_config(spoiled(0, 20240520, 0), &out), PLD_ERR_CORRUPT,
         "no llm.c model file: it begins with 20240520, not 20240326");
    said(gpt_llmc_config(spoiled(1, 5, 0), &out), PLD_ERR_CORRUPT, "version 5, not 3");
    said(gpt_llmc_config(spoiled(5, 3, 0), &out), PLD_ERR_CORRUPT, "cannot have 3 heads");
    said(gpt_llmc_config(spoiled(4, 0, 0), &out), PLD_ERR_CORRUPT, "layers 0");
    said(gpt_llmc_config(spoiled(1, 3, -1), &out), PLD_ERR_CORRUPT, "bytes, but its header says");
    said(gpt_llmc_config(spoiled(1, 3, 4), &out), PLD_ERR_CORRUPT, "3 layers, 16 channels, 12 po");
    said(gpt_llmc_config(spoiled(4, 4, 0), &out), PLD_ERR_CORRUPT, "4 layers");
    ok(out.layers == -7, "an error leaves the output alone");
    said(chain_load(&c, spoiled(1, 3, -40)), PLD_ERR_CORRUPT, "bad.bin' has");
    other.heads = 4;
    (void)gpt_llmc_create(file_named("other.bin"), &other, 1);
    said(chain_load(&c, file_named("other.bin")), PLD_ERR_MISMATCH, "4 heads; this one has 2");
    other.heads = 5;
    said(gpt_llmc_create(file_named("other.bin"), &other, 1), PLD_ERR_ARG, "5 heads");
    said(gpt_llmc_create(file_named("no/where.bin"), &config, 1), PLD_ERR_IO, "no/where.bin'");
    chain_close(&c);
}

static void remove_files(void)
{
    static const char *const names[] = {"model.bin", "bad.bin", "other.bin"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        (void)remove(file_named(names[i]));
    ok(rmdir(folder) == 0, "no other file is left behind");
}

int main(void)
{
    if (mkdtemp(folder) == NULL)
        return 1;
    test_ready(1);
    test_ready(3);
    test_refusal();
    test_misuse();
    test_create();
    test_evaluate(1);
    test_evaluate(4);
    test_values(1);
    test_values(4);
    test_deviation();
    test_wrong_files();
    remove_files();
    return tap_done();
}
