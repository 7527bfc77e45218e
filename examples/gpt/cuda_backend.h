/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file cuda_backend.h  What the files of the GPU's backend share. */
#ifndef GPT_CUDA_BACKEND_H
#define GPT_CUDA_BACKEND_H

#include "cublaslt.h"
#include "cuda/gpt_kernels.h"
#include "stage.h"

/** Kernels by number; those of GPT_CUDA_TYPED in the stage's dtype. */
enum gpt_kernel {
#define NUMBER(name) GPT_KERNEL_##name,
    GPT_CUDA_TYPED(NUMBER) GPT_CUDA_PLAIN(NUMBER)
#undef NUMBER
        GPT_KERNEL_COUNT
};

/** A stage's GPU. */
struct gpt_gpu {
    pld_device *device;
    pld_module *module;
    pld_kernel kernels[GPT_KERNEL_COUNT];
    struct gpt_lt *lt;
    pld_stream own;
    pld_event tokens_read, loss_known;
    double *loss;  /**< pinned */
    void *factors; /**< of dtype bf16: all parameters, rounded, in the order of their arena */
    int begun;     /**< 1: the sum of losses on the device has a value */
    int heads;     /**< 1: there was a head since the loss was last asked for */
};

/** The image of the kernels; GPT_NO_IMAGE if there was no nvcc. */
extern const unsigned char gpt_cuda_image[];
extern const size_t gpt_cuda_image_bytes;
#define GPT_NO_IMAGE "no device code"

static inline struct gpt_gpu *gpt_gpu_of(const struct gpt_stage *s)
{
    return s->own_state;
}

/** Note polder's error, if it is one. */
void gpt_gpu_check(struct gpt_stage *s, int rc);

/** Grid, threads of a block, dynamic shared memory. */
struct gpt_launch {
    unsigned x, y, threads, shared;
};

void gpt_gpu_launch(struct gpt_stage *s, enum gpt_kernel kernel, struct gpt_launch how,
                    void **arguments);

/** Addresses of a kernel's arguments. */
#define GPT_ARGUMENTS(...)                                                                         \
    (void *[])                                                                                     \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/** Blocks for `count` elements that threads take 16 bytes at a time. */
struct gpt_launch gpt_gpu_spread(const struct gpt_stage *s, size_t count);

/** Open and close. */
int gpt_gpu_open(struct gpt_stage *s);
void gpt_gpu_close(struct gpt_stage *s);

/** Columns of logits in memory. */
int gpt_gpu_logit_stride(const struct gpt_stage *s);

/** A product of the stage; sets types and notes errors. */
void gpt_gpu_multiply(struct gpt_stage *s, struct gpt_product p);

/* Products of linear layers.  The biases' gradients are not among them. */
void gpt_gpu_linear(struct gpt_stage *s, const struct gpt_linear *l, const void *x,
                    const void *residual, void *y);
void gpt_gpu_linear_gelu(struct gpt_stage *s, const struct gpt_linear *l, const void *x, void *y,
                         void *act);
void gpt_gpu_linear_input(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                          void *dx);
void gpt_gpu_linear_input_gelu(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                               const void *y, void *dy_in);
void gpt_gpu_linear_weight(struct gpt_stage *s, const struct gpt_linear *l, const void *dy,
                           const void *x);

/* Operations, see backend.h. */
void gpt_gpu_attention(struct gpt_stage *s, struct gpt_rows rows, const struct gpt_saved *saved);
void gpt_gpu_attention_backward(struct gpt_stage *s, struct gpt_rows rows,
                                const struct gpt_saved *saved, const void *dout, void *dqkv);
void gpt_gpu_head(struct gpt_stage *s, const struct gpt_part *part, void *dhidden);
void gpt_gpu_head_begin(struct gpt_stage *s);
void gpt_gpu_head_done(struct gpt_stage *s);
int gpt_gpu_logits(struct gpt_stage *s, const void *hidden, float *out);
int gpt_gpu_loss(struct gpt_stage *s, double *out);

#endif /* GPT_CUDA_BACKEND_H */
