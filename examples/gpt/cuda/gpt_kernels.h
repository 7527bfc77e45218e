/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file gpt_kernels.h
 * The kernels of the model by name, for those who define, launch and emulate them.
 * Those of X exist as gpt_NAME_f32 and gpt_NAME_bf16, those of Y as gpt_NAME alone.
 */
#ifndef GPT_CUDA_KERNELS_H
#define GPT_CUDA_KERNELS_H

#define GPT_CUDA_TYPED(X)                                                                          \
    X(embed)                                                                                       \
    X(embed_tokens)                                                                                \
    X(embed_positions)                                                                             \
    X(norm)                                                                                        \
    X(norm_backward)                                                                               \
    X(column_sum)                                                                                  \
    X(gelu)                                                                                        \
    X(gelu_backward)                                                                               \
    X(cross_entropy)                                                                               \
    X(attention_32)                                                                                \
    X(attention_64)                                                                                \
    X(attention_128)                                                                               \
    X(attention_dq_32)                                                                             \
    X(attention_dq_64)                                                                             \
    X(attention_dq_128)                                                                            \
    X(attention_dkv_32)                                                                            \
    X(attention_dkv_64)                                                                            \
    X(attention_dkv_128)

#define GPT_CUDA_PLAIN(Y)                                                                          \
    Y(round)                                                                                       \
    Y(column_finish)                                                                               \
    Y(loss_sum)

#endif /* GPT_CUDA_KERNELS_H */
