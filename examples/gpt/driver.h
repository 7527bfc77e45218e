/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file driver.h
 * The training program around the model: options, a trainer that wires model and
 * library together, the loop, and sampling.
 *
 * Functions that return int give 0 or a negative PLD_ERR_* code, and are
 * collective over the mesh unless they say "local": a verdict of one rank becomes
 * that of all by gpt_agree(), so that the program ends everywhere or nowhere.
 */
#ifndef GPT_DRIVER_H
#define GPT_DRIVER_H

#include <polder/polder.h>

#include <stdint.h>

#include "model.h"

/** The command line, with defaults filled in. */
struct gpt_options {
    const char **texts; /**< [text_count], of --text */
    int text_count;
    const char *llmc_data;
    const char *llmc_model;
    const char *model;
    const char *mesh;
    const char *schedule;
    const char *ckpt;
    const char *codec;
    const char *resume;
    const char *metrics;
    const char *decay;
    const char *device;   /**< "cpu", "cuda" or "auto" */
    const char *dtype;    /**< "f32" or "bf16" */
    const char *graphs;   /**< "off" or "on" */
    const char *scaling;  /**< of the loss: "dynamic", or a number; NULL: none */
    int64_t batch;        /**< sequences of the global batch */
    int64_t microbatches; /**< of one data-parallel rank; 0: chosen */
    int64_t seq;          /**< 0: 128, or the model's limit if that is smaller */
    int64_t steps;
    int64_t warmup;
    int64_t save_every; /**< 0: at the end alone */
    int64_t keep;
    int64_t sample;
    int64_t seed;
    double lr, beta1, beta2, eps, weight_decay, clip;
    double loss_scale; /**< of `scaling`; 0: the library's */
    int seed_given;    /**< 1: --seed wins over the seed of a checkpoint */
    int times;         /**< 1: say at the end where the time went */
    int help;
};

/** What a run consists of. */
struct gpt_trainer {
    const struct gpt_options *options;
    pld_runtime *runtime; /**< not owned */
    pld_group *world;
    pld_mesh *mesh;
    pld_params *params;
    pld_dp *dp;
    pld_optim *optim;
    pld_pipe *pipe;
    pld_ckpt *ckpt; /**< NULL without --ckpt */
    pld_data *data;
    pld_meter *meter;
    struct gpt_stage *stage;
    pld_device *device; /**< NULL: the processor */
    pld_dtype dtype;    /**< of activations */
    double peak;        /**< operations a second of the device in that dtype; 0: not known */
    struct gpt_config config;
    int dp_rank, dp_size, pp_rank, pp_size;
    int microbatches;
    int sequences; /**< of one microbatch */
    int seq;
    int64_t step;     /**< completed ones */
    int64_t consumed; /**< samples used so far by all ranks; saved */
    int64_t seed;     /**< saved */
    int64_t skipped;  /**< steps without an update, for the gradient was not finite */

    int32_t *sample; /**< [seq + 1] */
    int32_t *tokens; /**< [microbatches][sequences][seq], of this step */
    int32_t *targets;
    int failed; /**< code of this rank's model in this step, sentence in gpt_last_error() */
};

/** What --device says, before anything else is read: the runtime must know. */
const char *gpt_options_device(int argc, char **argv);

/** Memory for what the host and the trainer's device both reach: pinned, or ordinary without a
 *  device; local. */
int gpt_trainer_alloc(struct gpt_trainer *trainer, size_t bytes, pld_mem_kind kind, void **out);
void gpt_trainer_free(struct gpt_trainer *trainer, void *memory);

/** Read the command line; local.  PLD_ERR_ARG with the option that is wrong in gpt_last_error(). */
int gpt_options_read(int argc, char **argv, struct gpt_options *out);
void gpt_options_free(struct gpt_options *options);

/** What --help prints. */
extern const char gpt_usage[];

/**
 * Make one rank's failure everybody's.  `code` is this rank's verdict, its sentence in
 * gpt_last_error(); returns the code of the first rank that failed, with its sentence, or 0.
 */
int gpt_agree(pld_group *world, int code);

/** Local: take over pld_last_error() as this program's sentence; returns `code`. */
int gpt_from_polder(int code);

/** Build everything and resume as the options say.  After an error, close all the same. */
int gpt_trainer_open(pld_runtime *runtime, const struct gpt_options *options,
                     struct gpt_trainer *out);

/** Local. */
void gpt_trainer_close(struct gpt_trainer *trainer);

/** Read the tokens of the next step; local. */
int gpt_batch_read(struct gpt_trainer *trainer);

/** Train until `steps`, saving as the options say. */
int gpt_train(struct gpt_trainer *trainer);

/** Generate `count` tokens and write them on rank 0. */
int gpt_sample(struct gpt_trainer *trainer, int64_t count);

#endif /* GPT_DRIVER_H */
