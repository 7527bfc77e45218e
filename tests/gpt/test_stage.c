/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What stages promise beside their numbers, which test_reference.py compares. */

#include <kernels.h>
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
    int code;
};

static int watch(void *context, int id)
{
    struct watch *w = context;
    pld_param_info info;

    w->calls[id]++;
    (void)pld_params_info(w->params, id, &info);
    w->copy[id] = malloc(info.count * sizeof(float));
    memcpy(w->copy[id], info.grad, info.count * sizeof(float));
    return w->code;
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
    w[0] = (struct watch){.params = c.params[0], .code = PLD_ERR_PEER};
    for (int m = 0; m < 3; m++)
        (void)chain_forward(&c, m, 0, tokens, tokens, 0.1F, NULL) && chain_backward(&c, m, 0);
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
    const struct gpt_stage_opts good = {config, 0, 1, BATCH, SEQ, 1, 1};
    struct gpt_stage_opts o = good;
    struct gpt_stage *stage = NULL;
    pld_params *params = NULL;

    o.seq = 13;
    try_create(c.mesh, o, "seq 13; it must be 1 to 12");
    o = good;
    o.live = 0;
    try_create(c.mesh, o, "live 0");
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
    ok(chain_forward(&c, 0, 0, tokens, targets, 1, &trained) == 0 && evaluated == trained,
       "%d stages: loss %.9g evaluated, %.9g with backward", stages, evaluated, trained);
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

static int same_values(const struct chain *a, const struct chain *b, const char *name, size_t count)
{
    float *x = malloc(count * sizeof(*x)), *y = malloc(count * sizeof(*y));
    const int same = chain_value(a, name, count, x) == 0 && chain_value(b, name, count, y) == 0 &&
                     memcmp(x, y, count * sizeof(*x)) == 0;

    free(x);
    free(y);
    return same;
}

static int same_models(const struct chain *a, const struct chain *b)
{
    struct gpt_tensor_info info;
    int differ = 0;

    for (enum gpt_kind k = 0; k < GPT_KINDS; k++) {
        for (int l = 0; l < (gpt_kind_in_layer(k) ? config.layers : 1); l++) {
            gpt_tensor_describe(&config, k, l, &info);
            differ += !same_values(a, b, info.name, (size_t)info.count);
        }
    }
    return differ == 0;
}

static void test_files(void)
{
    const char *path = file_named("model.bin");
    struct gpt_config read = {0};
    struct chain one = open_chain(1, 1, 1);

    ok(gpt_llmc_create(path, &config, 42) == 0, "file of initial values");
    ok(gpt_llmc_config(path, &read) == 0 && memcmp(&read, &config, sizeof(read)) == 0,
       "its sizes are those of the model");
    chain_close(&one);
    for (int stages = 1; stages <= 4; stages++) {
        struct chain made = open_chain(stages, 1, 1);
        float first = 0;

        memset(pld_params_value(made.params[0], 0), 0, sizeof(float));
        ok(chain_load(&made, path) == 0, "%d stages load it: %s", stages, gpt_last_error());
        memcpy(&first, pld_params_value(made.params[0], 0), sizeof(first));
        chain_close(&made);
        ok(first != 0, "%d stages: the values are the file's", stages);
    }
}

/* The file of values and the params of several stages hold the same, tensor by tensor; the two
 * cannot be open at once (one runtime), so the file's are taken from what was written. */
static void test_initial(int stages)
{
    struct chain c = open_chain(stages, 1, 1);
    struct gpt_tensor_info info;
    FILE *file = fopen(file_named("model.bin"), "rb");
    int differ = 0;

    (void)fseek(file, 1024, SEEK_SET);
    for (enum gpt_kind k = 0; k < GPT_KINDS; k++) {
        for (int l = 0; l < (gpt_kind_in_layer(k) ? config.layers : 1); l++) {
            float x[2048], y[2048];

            gpt_tensor_describe(&config, k, l, &info);
            differ += fread(x, 4, (size_t)info.count, file) != (size_t)info.count ||
                      chain_value(&c, info.name, (size_t)info.count, y) != 0 ||
                      memcmp(x, y, (size_t)info.count * 4) != 0;
        }
    }
    (void)fclose(file);
    ok(differ == 0, "%d stages: initial values are those of the file (%d differ)", stages, differ);
    chain_close(&c);
}

int main(void)
{
    (void)same_models;
    if (mkdtemp(folder) == NULL)
        return 1;
    test_ready(1);
    test_ready(3);
    test_refusal();
    test_misuse();
    test_create();
    test_evaluate(1);
    test_evaluate(4);
    test_files();
    test_initial(1);
    test_initial(4);
    return tap_done();
}
