/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A stage whose work is replayed as CUDA graphs, beside an equal one whose work is launched, on
 * the stand-in of the driver.  A graph keeps its arguments, so what one forgets to bring from
 * outside makes another loss.
 */

#include <polder/polder.h>

#include <cublaslt.h>
#include <model.h>

#include <stdlib.h>
#include <string.h>

#include "fake_cuda.h"
#include "tap.h"

enum { BATCH = 2, SEQ = 9, COUNT = BATCH * SEQ, VOCAB = 30, CHANNELS = 16, LAYERS = 3 };
enum { WIDTH = COUNT * CHANNELS, MOST_READY = 256, MOST_SETS = 256 };

static const struct gpt_config config = {.max_seq = 12,
                                         .vocab = VOCAB,
                                         .padded_vocab = 32,
                                         .layers = LAYERS,
                                         .heads = 2,
                                         .channels = CHANNELS};

static pld_runtime *runtime;
static pld_mesh *mesh;
static pld_device *device;

/* A stage, and what it has reported. */
struct rig {
    pld_params *params;
    struct gpt_stage *stage;
    pld_event event;
    int32_t *tokens; /* pinned, [2][2][COUNT]: of microbatches in turn, tokens, then targets */
    int ids[MOST_READY], count;
    unsigned long launched[MOST_READY]; /* graphs, when the report came */
    int bad;                            /* reports during which the stream recorded */
    int refuses;                        /* 1: the reports are answered with PLD_ERR_PEER */
};

static unsigned long recorded(void)
{
    return fake_cuda_calls("cuStreamBeginCapture_v2");
}

/* What a collective operation would do with the stream: mark where it stands, and ask. */
static int report(void *context, int id)
{
    struct rig *r = context;
    int done;

    r->bad += pld_event_record(device, r->event, gpt_stage_stream(r->stage)) != 0 ||
              pld_event_test(device, r->event, &done) != 0;
    r->launched[r->count] = fake_cuda_calls("cuGraphLaunch");
    r->ids[r->count++] = id;
    return r->refuses ? PLD_ERR_PEER : 0;
}

static int rig_open(struct rig *r, int graphs, int stage, int stages, int microbatches)
{
    const struct gpt_stage_opts opts = {.config = config,
                                        .stage = stage,
                                        .stages = stages,
                                        .batch = BATCH,
                                        .seq = SEQ,
                                        .live = 1,
                                        .microbatches = microbatches,
                                        .dtype = PLD_BF16,
                                        .device = device,
                                        .graphs = graphs};
    void *tokens = NULL;
    int rc = pld_params_create(mesh, &r->params);

    rc = rc < 0 ? rc : gpt_stage_create(&opts, r->params, &r->stage);
    rc = rc < 0 ? rc : pld_params_commit(r->params);
    rc = rc < 0 ? rc : pld_params_set_stream(r->params, gpt_stage_stream(r->stage));
    rc = rc < 0 ? rc : gpt_stage_init(r->stage, 42);
    rc = rc < 0 ? rc : pld_event_create(device, 0, &r->event);
    rc = rc < 0 ? rc
                : pld_device_alloc(device, 4 * COUNT * sizeof(*r->tokens), PLD_MEM_PINNED, &tokens);
    r->tokens = tokens;
    if (rc == 0)
        gpt_stage_on_ready(r->stage, report, r);
    return ok(rc == 0, "stage %d of %d, graphs %s: %s", stage, stages, graphs ? "on" : "off",
              rc == 0 ? "there" : gpt_last_error());
}

static void rig_close(struct rig *r)
{
    (void)pld_stream_wait(device, gpt_stage_stream(r->stage));
    gpt_stage_destroy(&r->stage);
    pld_params_destroy(&r->params);
    pld_event_destroy(device, &r->event);
    pld_device_free(device, r->tokens);
}

static const int32_t *tokens_of(const struct rig *r, int number)
{
    return r->tokens + (number & 1) * 2 * COUNT;
}

/* Tokens that no microbatch had before, and not where the last one had its own. */
static int forward(struct rig *r, int number, float scale, double *loss)
{
    const int32_t *tokens = tokens_of(r, number);
    int rc = gpt_stage_settle(r->stage);

    for (int i = 0; i < 2 * COUNT; i++)
        r->tokens[tokens - r->tokens + i] =
            (int32_t)(pld_random_u64(7, (uint64_t)number, (uint64_t)i) % VOCAB);
    rc = rc < 0 ? rc
                : gpt_stage_forward(r->stage, number, tokens, tokens + COUNT, scale, NULL, NULL);
    return rc < 0 || loss == NULL ? rc : gpt_stage_loss(r->stage, loss);
}

static int backward(struct rig *r, int number)
{
    return gpt_stage_backward(r->stage, number, NULL, NULL, NULL);
}

/* A step of `microbatches`, whose losses are added up. */
static int step(struct rig *r, int number, int microbatches, double *loss)
{
    int rc = 0;

    r->count = 0;
    for (int m = 0; m < microbatches && rc == 0; m++) {
        rc = forward(r, number * microbatches + m, 0.5F, NULL);
        rc = rc < 0 ? rc : backward(r, number * microbatches + m);
    }
    return rc < 0 ? rc : gpt_stage_loss(r->stage, loss);
}

static int same_memory(const struct rig *a, const void *of_a, const void *of_b, size_t bytes)
{
    void *host[2] = {malloc(bytes), malloc(bytes)};
    const pld_stream stream = gpt_stage_stream(a->stage);
    int same = pld_device_copy(device, host[0], of_a, bytes, stream) == 0 &&
               pld_device_copy(device, host[1], of_b, bytes, stream) == 0 &&
               pld_stream_wait(device, stream) == 0;

    same = same && memcmp(host[0], host[1], bytes) == 0;
    free(host[0]);
    free(host[1]);
    return same;
}

/* Of how many tensors the gradients have the same bits. */
static int same_gradients(const struct rig *a, const struct rig *b)
{
    int same = 0;

    (void)pld_stream_wait(device, gpt_stage_stream(a->stage));
    (void)pld_stream_wait(device, gpt_stage_stream(b->stage));
    for (int id = 0; id < pld_params_count(a->params); id++) {
        pld_param_info info;

        (void)pld_params_info(a->params, id, &info);
        same +=
            same_memory(a, info.grad, pld_params_grad(b->params, id), info.count * sizeof(float));
    }
    return same;
}

/* ---- a step, and when its gradients are reported ---- */

static int same_order(const struct rig *a, const struct rig *b)
{
    return a->count == b->count &&
           memcmp(a->ids, b->ids, (size_t)a->count * sizeof(a->ids[0])) == 0;
}

/* Launches of graphs after which there were reports, in the order of the step. */
static int waves(const struct rig *r)
{
    int n = r->count > 0;

    for (int i = 1; i < r->count; i++)
        n += r->launched[i] != r->launched[i - 1];
    return n;
}

static void check_step(struct rig *plain, struct rig *graphs, int number, double losses[2])
{
    int rc = step(plain, number, 2, &losses[0]);

    rc = rc < 0 ? rc : step(graphs, number, 2, &losses[1]);
    ok(rc == 0 && losses[0] == losses[1] && losses[0] > 0,
       "step %d: loss %.9g is that without graphs, %.9g%s", number, losses[1], losses[0],
       rc == 0 ? "" : gpt_last_error());
    ok(same_gradients(plain, graphs) == pld_params_count(plain->params),
       "step %d: %d of %d gradients have the same bits", number, same_gradients(plain, graphs),
       pld_params_count(plain->params));
    ok(same_order(plain, graphs) && graphs->count == pld_params_count(graphs->params) &&
           graphs->bad == 0,
       "step %d: %d tensors reported in the same order, none while the stream recorded", number,
       graphs->count);
}

static void test_steps(void)
{
    struct rig plain = {0}, graphs = {0};
    const unsigned long before = recorded();
    unsigned long launches;
    double losses[2] = {0};

    if (!rig_open(&plain, 0, 0, 1, 2) || !rig_open(&graphs, 1, 0, 1, 2))
        return;
    for (int i = 0; i < 4; i++) {
        launches = fake_cuda_calls("cuLaunchKernel");
        check_step(&plain, &graphs, i, losses);
        launches = fake_cuda_calls("cuLaunchKernel") - launches;
        /* Forward, a backward, the last backward by layers. */
        ok(recorded() - before == (i > 0 ? 2 + LAYERS : 0), "step %d: %lu recordings so far", i,
           recorded() - before);
        /* Those of the head, then layer by layer. */
        ok(i == 0 || waves(&graphs) == 1 + LAYERS, "step %d: reports in %d waves", i,
           waves(&graphs));
    }
    ok(fake_cuda_live("graphs") == 2 + LAYERS, "%lu graphs", fake_cuda_live("graphs"));
    /* The last of these steps: all kernels of one stage, and of the other none. */
    ok(step(&graphs, 4, 2, &losses[1]) == 0 && launches > 0, "%lu kernels in a step", launches);
    launches = fake_cuda_calls("cuLaunchKernel");
    ok(step(&graphs, 5, 2, &losses[1]) == 0 && fake_cuda_calls("cuLaunchKernel") == launches + 1,
       "of these, with graphs, the rounding of the parameters alone is launched by itself");
    rig_close(&plain);
    rig_close(&graphs);
    ok(fake_cuda_live("graphs") == 0, "graphs are given back");
}

/* ---- other calls in between ---- */

static int evaluate(struct rig *r, int number, float logits[VOCAB], double *loss)
{
    int rc = forward(r, number, 0, loss);

    return rc < 0 ? rc : gpt_stage_logits(r->stage, 5, tokens_of(r, number), NULL, NULL, logits);
}

static void test_between(void)
{
    struct rig plain = {0}, graphs = {0};
    float logits[2][VOCAB];
    double losses[2] = {0};

    if (!rig_open(&plain, 0, 0, 1, 1) || !rig_open(&graphs, 1, 0, 1, 1))
        return;
    for (int i = 0; i < 3; i++) {
        const unsigned long before = recorded();

        (void)step(&plain, 3 * i, 1, &losses[0]);
        (void)step(&graphs, 3 * i, 1, &losses[1]);
        ok(losses[0] == losses[1] && recorded() - before == (i == 1 ? 1 + LAYERS : 0),
           "step %d: the same loss, %lu recordings", i, recorded() - before);
        ok(evaluate(&plain, 3 * i + 1, logits[0], &losses[0]) == 0 &&
               evaluate(&graphs, 3 * i + 1, logits[1], &losses[1]) == 0 && losses[0] == losses[1] &&
               memcmp(logits[0], logits[1], sizeof(logits[0])) == 0 &&
               recorded() - before == (i == 1 ? 1 + LAYERS : 0),
           "without gradients, and one sequence: launched, the same numbers");
    }
    /* A scale is an argument. */
    ok(forward(&plain, 90, 0.25F, &losses[0]) == 0 && forward(&graphs, 90, 0.25F, &losses[1]) == 0,
       "another scale");
    ok(backward(&plain, 90) == 0 && backward(&graphs, 90) == 0 &&
           same_gradients(&plain, &graphs) == pld_params_count(plain.params),
       "the same gradients");
    rig_close(&plain);
    rig_close(&graphs);
}

/* ---- buffers that change ---- */

/* One microbatch of the middle stage through these buffers. */
static int pass(struct rig *r, int number, char *memory[4])
{
    int rc = gpt_stage_forward(r->stage, number, NULL, NULL, 0.5F, memory[0], memory[1]);

    r->count = 0;
    return rc < 0 ? rc : gpt_stage_backward(r->stage, number, memory[0], memory[2], memory[3]);
}

/* Input and gradient of the output are numbers that depend on `number`. */
static int fill(const struct rig *r, int number, char *const memory[4])
{
    static uint16_t values[WIDTH];
    const pld_stream stream = gpt_stage_stream(r->stage);
    int rc = 0;

    for (int which = 0; which < 4 && rc == 0; which += 2) {
        for (int i = 0; i < WIDTH; i++)
            values[i] = (uint16_t)(0x3f00 + (number * 7 + which + i * 31) % 128);
        rc = pld_device_copy(device, memory[which], values, sizeof(values), stream);
    }
    return rc < 0 ? rc : pld_stream_wait(device, stream);
}

static int same_pass(struct rig *plain, struct rig *graphs, int number, char *fixed[4],
                     char *moving[4])
{
    const size_t bytes = WIDTH * sizeof(uint16_t);

    if (fill(plain, number, fixed) < 0 || fill(graphs, number, moving) < 0 ||
        pass(plain, number, fixed) < 0 || pass(graphs, number, moving) < 0)
        return 0;
    (void)pld_stream_wait(device, gpt_stage_stream(graphs->stage));
    return same_memory(plain, fixed[1], moving[1], bytes) &&
           same_memory(plain, fixed[3], moving[3], bytes);
}

enum { ALL = 16, NEW = 130, FEW = 4, STRIDE = 1024 };

/* Each of the four in one of two places, in all combinations; then all where nothing was before. */
static void place(char *memory, int number, char *out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = memory + (i + 4 * (number < ALL ? number >> i & 1 : number)) * STRIDE;
}

/* A stage that meets other buffers at each step: at some number graphs are no longer made. */
static void test_buffers(void)
{
    const unsigned long before = recorded();
    struct rig plain = {0}, graphs = {0};
    void *memory = NULL;
    char *fixed[4], *moving[4];
    int same = 0, failed = 0;

    if (!rig_open(&plain, 0, 1, 3, 1) || !rig_open(&graphs, 1, 1, 3, 1) ||
        pld_device_alloc(device, (size_t)(ALL + NEW + 1) * 4 * STRIDE, PLD_MEM_DEVICE, &memory) !=
            0)
        return;
    place(memory, ALL + NEW, fixed);
    for (int n = 0; n < ALL + NEW; n++) {
        place(memory, n, moving);
        if (n < ALL || n >= ALL + NEW - FEW)
            same += same_pass(&plain, &graphs, n, fixed, moving);
        else
            failed += pass(&graphs, n, moving) != 0;
        /* Input and output; input and both gradients. */
        if (n == ALL - 1)
            ok(recorded() - before == 4 + 8, "%lu sets of buffers", recorded() - before);
    }
    ok(same == ALL + FEW && failed == 0, "%d of %d steps give the same bits", same, ALL + FEW);
    ok(recorded() - before == MOST_SETS, "%lu graphs, then no more", recorded() - before);
    pld_device_free(device, memory);
    rig_close(&plain);
    rig_close(&graphs);
}

/* ---- what goes wrong ---- */

static int usable(const struct rig *r)
{
    return pld_stream_wait(device, gpt_stage_stream(r->stage)) == 0;
}

/* The report fails in the step that records, or in one that replays. */
static void test_refusal(int at)
{
    struct rig r = {0};
    double loss;
    int rc = 0;

    if (!rig_open(&r, 1, 0, 1, 1))
        return;
    for (int i = 0; i <= at && rc == 0; i++) {
        r.refuses = i == at;
        rc = step(&r, i, 1, &loss);
    }
    ok(rc == PLD_ERR_PEER && r.refuses && r.count == 1 && usable(&r),
       "step %d: backward ends with what ready() says, the stream records no more", at);
    rig_close(&r);
}

static void test_no_graph(const char *fault, const char *what)
{
    struct rig r = {0};
    double loss;
    int rc;

    if (!rig_open(&r, 1, 0, 1, 1))
        return;
    rc = step(&r, 0, 1, &loss);
    fake_cuda_fault(fault);
    rc = rc < 0 ? rc : step(&r, 1, 1, &loss);
    ok(rc < 0 && strstr(gpt_last_error(), what) != NULL && usable(&r), "%s: %s", fault,
       gpt_last_error());
    fake_cuda_fault("");
    rig_close(&r);
    ok(fake_cuda_live("graphs") == 0, "no graph is left");
}

/* ---- a product in a graph ---- */

enum { SIDE = 16, CELLS = SIDE * SIDE };

static int set_all(float *memory, float value, pld_stream stream)
{
    static float values[CELLS];

    for (int i = 0; i < CELLS; i++)
        values[i] = value;
    return pld_device_copy(device, memory, values, sizeof(values), stream);
}

static float first(const float *memory, pld_stream stream)
{
    float value = -1;

    (void)pld_device_copy(device, &value, memory, sizeof(value), stream);
    (void)pld_stream_wait(device, stream);
    return value;
}

/* It reads memory as it is when the graph is launched, and keeps its arguments. */
static void test_product(void)
{
    struct gpt_product p = {.m = SIDE,
                            .n = SIDE,
                            .k = SIDE,
                            .type = GPT_LT_R_32F,
                            .type_out = GPT_LT_R_32F,
                            .epilogue = GPT_LT_DEFAULT,
                            .lda = SIDE,
                            .ldb = SIDE,
                            .ldd = SIDE};
    struct gpt_lt *lt = NULL;
    pld_graph *graph = NULL;
    pld_stream stream = NULL;
    void *at[4] = {NULL};
    int rc = gpt_lt_open(device, &lt);

    rc = rc < 0 ? rc : pld_stream_create(device, 0, &stream);
    for (int i = 0; i < 4 && rc == 0; i++) {
        rc = pld_device_alloc(device, CELLS * sizeof(float), PLD_MEM_DEVICE, &at[i]);
        rc = rc < 0 ? rc : set_all(at[i], (float)(i + 1), stream);
    }
    p.a = at[0];
    p.b = at[1];
    p.d = at[2];
    rc = rc < 0 ? rc : pld_graph_begin(device, stream);
    rc = rc < 0 ? rc : gpt_lt_multiply(lt, &p, stream);
    rc = rc < 0 ? rc : pld_graph_end(device, stream, &graph);
    ok(rc == 0 && first(at[2], stream) == 3, "a product that is recorded is not done");
    p.d = at[3];
    rc = rc < 0 ? rc : pld_graph_launch(graph, stream);
    ok(rc == 0 && first(at[2], stream) == 2 * SIDE && first(at[3], stream) == 4,
       "launched: %g where it was recorded for", (double)first(at[2], stream));
    rc = rc < 0 ? rc : set_all(at[0], 3, stream);
    rc = rc < 0 ? rc : pld_graph_launch(graph, stream);
    ok(rc == 0 && first(at[2], stream) == 6 * SIDE, "once more, with another matrix");
    pld_graph_destroy(&graph);
    for (int i = 0; i < 4; i++)
        pld_device_free(device, at[i]);
    pld_stream_destroy(device, &stream);
    gpt_lt_close(&lt);
}

int main(void)
{
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .transport = "self",
                                   .device = "cuda"};

    if (!ok(pld_runtime_open(&opts, &runtime) == 0 && pld_mesh_create(runtime, NULL, &mesh) == 0,
            "a rank with a GPU: %s", pld_last_error()))
        return tap_done();
    device = pld_runtime_device(runtime);
    test_product();
    test_steps();
    test_between();
    test_buffers();
    test_refusal(1);
    test_refusal(3);
    test_no_graph("instantiate:1", "recording a graph");
    pld_mesh_destroy(&mesh);
    ok(pld_runtime_close(&runtime) == 0, "closed");
    return tap_done();
}
