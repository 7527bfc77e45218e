/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Reaching a GPU: kernels, cuBLASLt, a stream; and launching. */

#include "cuda_backend.h"

#include <polder/error.h>

#include <stdlib.h>
#include <string.h>

/* A multiple of 8 lets 16 bytes be read from the beginning of each head and row; shared memory
 * holds two sums for each channel. */
enum { GRAIN = 8, MOST_HEAD = 128, MOST_CHANNELS = 12288, MOST_HEADS = 65535 };

/* From here on products make GELU as they store: see doc/cuda.md. */
enum { FUSES_GELU = 90 };

void gpt_gpu_check(struct gpt_stage *s, int rc)
{
    if (rc != 0 && s->broken == 0)
        gpt_broken(s, gpt_fail(rc, "%s", pld_last_error()));
}

void gpt_gpu_launch(struct gpt_stage *s, enum gpt_kernel kernel, struct gpt_launch how,
                    void **arguments)
{
    const struct gpt_gpu *g = gpt_gpu_of(s);
    const pld_launch launch = {
        .grid = {how.x, how.y}, .block = {how.threads}, .shared_bytes = how.shared};

    if (s->broken == 0)
        gpt_gpu_check(
            s, pld_kernel_launch(g->module, g->kernels[kernel], &launch, s->stream, arguments));
}

static int check(const struct gpt_stage *s)
{
    const struct gpt_config *c = &s->config;
    const int size = c->channels / c->heads;

    if (s->opts.dtype != PLD_F32 && s->opts.dtype != PLD_BF16)
        return gpt_fail(PLD_ERR_ARG, "a model in %s; a GPU computes in f32 or bf16",
                        pld_dtype_name(s->opts.dtype));
    if (size % GRAIN != 0 || size > MOST_HEAD)
        return gpt_fail(PLD_ERR_ARG,
                        "heads of %d channels; on a GPU that must be a multiple of %d, at most %d",
                        size, GRAIN, MOST_HEAD);
    if (c->channels > MOST_CHANNELS)
        return gpt_fail(PLD_ERR_ARG, "%d channels; on a GPU at most %d", c->channels,
                        MOST_CHANNELS);
    if ((int64_t)s->opts.batch * c->heads > MOST_HEADS)
        return gpt_fail(PLD_ERR_ARG,
                        "%d sequences of %d heads at once; on a GPU their product is at most %d",
                        s->opts.batch, c->heads, MOST_HEADS);
    return 0;
}

static int find_kernels(struct gpt_gpu *g, pld_dtype dtype)
{
    static const char *const names[][2] = {
#define TYPED(name) {"gpt_" #name "_f32", "gpt_" #name "_bf16"},
#define PLAIN(name) {"gpt_" #name, "gpt_" #name},
        GPT_CUDA_TYPED(TYPED) GPT_CUDA_PLAIN(PLAIN)
#undef TYPED
#undef PLAIN
    };
    int rc = 0;

    for (int k = 0; k < GPT_KERNEL_COUNT && rc == 0; k++)
        rc = pld_module_find(g->module, names[k][dtype == PLD_BF16], &g->kernels[k]);
    return rc;
}

static int has_image(void)
{
    return gpt_cuda_image_bytes != sizeof(GPT_NO_IMAGE) ||
           memcmp(gpt_cuda_image, GPT_NO_IMAGE, sizeof(GPT_NO_IMAGE)) != 0;
}

/* Tried in any case: a driver that emulates has its kernels from elsewhere. */
static int open_image(struct gpt_gpu *g)
{
    const int rc = pld_module_open(g->device, gpt_cuda_image, &g->module);

    if (rc == 0)
        return 0;
    if (has_image())
        return gpt_fail(rc, "%s", pld_last_error());
    return gpt_fail(PLD_ERR_UNSUPPORTED, "gpt was built without nvcc and has no device code; build "
                                         "it where the CUDA toolkit is, or run with --device cpu");
}

static int reach(struct gpt_stage *s, struct gpt_gpu *g)
{
    void *loss = NULL;
    int rc;

    rc = gpt_lt_open(g->device, &g->lt);
    if (rc == 0)
        rc = open_image(g);
    if (rc != 0)
        return rc;
    rc = find_kernels(g, s->opts.dtype);
    if (rc == 0)
        rc = pld_stream_create(g->device, 0, &g->own);
    if (rc == 0)
        rc = pld_event_create(g->device, 0, &g->tokens_read);
    if (rc == 0)
        rc = pld_event_create(g->device, 0, &g->loss_known);
    if (rc == 0)
        rc = pld_device_alloc(g->device, sizeof(*g->loss), PLD_MEM_PINNED, &loss);
    g->loss = loss;
    s->stream = g->own;
    return rc == 0 ? 0 : gpt_fail(rc, "%s", pld_last_error());
}

int gpt_gpu_open(struct gpt_stage *s)
{
    struct gpt_gpu *g;
    pld_device_info info;
    int rc = check(s);

    if (rc != 0)
        return rc;
    g = calloc(1, sizeof(*g));
    if (g == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for a GPU's stage");
    g->device = s->opts.device;
    s->own_state = g;
    pld_device_get_info(g->device, &info);
    s->keeps_act = s->opts.dtype == PLD_BF16 && info.capability >= FUSES_GELU;
    return reach(s, g);
}

void gpt_gpu_close(struct gpt_stage *s)
{
    struct gpt_gpu *g = gpt_gpu_of(s);

    if (g == NULL)
        return;
    pld_device_free(g->device, g->factors);
    pld_device_free(g->device, g->loss);
    pld_event_destroy(g->device, &g->loss_known);
    pld_event_destroy(g->device, &g->tokens_read);
    pld_stream_destroy(g->device, &g->own);
    pld_module_close(&g->module);
    gpt_lt_close(&g->lt);
    free(g);
    s->own_state = NULL;
}
