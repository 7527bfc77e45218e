/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* The command line: one table row an option. */

#include "driver.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

const char gpt_usage[] =
    "usage: gpt [OPTION VALUE]...    started by mpirun or srun for several ranks\n"
    "\n"
    "data and model\n"
    "  --text PATH          file, glob or directory; a token is a byte; may be repeated\n"
    "  --llmc-data GLOB     token files of llm.c, read in file order\n"
    "  --model NAME         tiny, small (default) or 124M, with random weights\n"
    "  --llmc-model FILE    a model file of llm.c, instead\n"
    "layout\n"
    "  --mesh TEXT          dp=2,pp=2; 0 means what is left (default dp=0)\n"
    "  --schedule NAME      1f1b (default) or gpipe\n"
    "  --batch N            sequences of the global batch (default 8)\n"
    "  --microbatches N     parts of a data-parallel rank's share (default: chosen)\n"
    "  --seq N              tokens of a sequence (default 128)\n"
    "  --device NAME        cpu (default), cuda, or auto: a GPU where every rank has one\n"
    "  --dtype NAME         of activations and matrix products: f32 (default), or bf16 on a GPU;\n"
    "                       parameters, gradients and sums are f32\n"
    "  --cuda-graphs NAME   on: from the second step on a GPU replays a microbatch's work as\n"
    "                       graphs; off (default, until a GPU has shown where they pay)\n"
    "training\n"
    "  --steps N            steps of the whole run (default 100)\n"
    "  --lr X --warmup N --decay cosine|linear|constant\n"
    "                       highest rate (3e-4), steps to reach it (0), how it falls to 0\n"
    "                       at the last step (cosine)\n"
    "  --beta1 X --beta2 X --eps X --weight-decay X\n"
    "                       AdamW (0.9, 0.95, 1e-8, 0); matrices alone decay\n"
    "  --clip X             largest gradient norm (1); 0: off\n"
    "  --loss-scale N|dynamic\n"
    "                       multiply the loss, so that small gradients stay; dynamic: from 65536\n"
    "                       on, less where gradients overflow (default: no scale)\n"
    "  --seed N             of weights, order of samples, sampled text (1337)\n"
    "checkpoints\n"
    "  --ckpt DIR           where to save and to look for what to resume\n"
    "  --save-every N       steps between saves (default: after the last step alone)\n"
    "  --keep N             newest saves to keep (default: all)\n"
    "  --codec raw|zstd     how tensors are stored (raw)\n"
    "  --resume WHAT        latest (default), never, or the path of a checkpoint or run\n"
    "output\n"
    "  --metrics FILE       a JSON object a step\n"
    "  --sample N           tokens to generate after training (0)\n"
    "  --times              at the end, where the time went (on the processor)\n"
    "  --help\n";

enum kind { TEXT, TEXTS, COUNT, REAL, SWITCH };

struct option {
    const char *name;
    enum kind kind;
    size_t offset;
    double least; /* COUNT and REAL: smallest value; those of kind REAL that end are in `below` */
    double below; /* 0: no limit */
};

#define AT(field) offsetof(struct gpt_options, field)
static const struct option table[] = {
    {"--text", TEXTS, 0, 0, 0},
    {"--llmc-data", TEXT, AT(llmc_data), 0, 0},
    {"--llmc-model", TEXT, AT(llmc_model), 0, 0},
    {"--model", TEXT, AT(model), 0, 0},
    {"--mesh", TEXT, AT(mesh), 0, 0},
    {"--schedule", TEXT, AT(schedule), 0, 0},
    {"--ckpt", TEXT, AT(ckpt), 0, 0},
    {"--codec", TEXT, AT(codec), 0, 0},
    {"--resume", TEXT, AT(resume), 0, 0},
    {"--metrics", TEXT, AT(metrics), 0, 0},
    {"--decay", TEXT, AT(decay), 0, 0},
    {"--device", TEXT, AT(device), 0, 0},
    {"--dtype", TEXT, AT(dtype), 0, 0},
    {"--cuda-graphs", TEXT, AT(graphs), 0, 0},
    {"--loss-scale", TEXT, AT(scaling), 0, 0},
    {"--batch", COUNT, AT(batch), 1, 1 << 30},
    {"--microbatches", COUNT, AT(microbatches), 1, 1 << 20},
    {"--seq", COUNT, AT(seq), 1, 1 << 20},
    {"--steps", COUNT, AT(steps), 0, 1e15},
    {"--warmup", COUNT, AT(warmup), 0, 1e15},
    {"--save-every", COUNT, AT(save_every), 1, 1e15},
    {"--keep", COUNT, AT(keep), 1, 1 << 30},
    {"--sample", COUNT, AT(sample), 0, 1 << 30},
    {"--seed", COUNT, AT(seed), 0, 9e18},
    {"--lr", REAL, AT(lr), 0, 0},
    {"--beta1", REAL, AT(beta1), 0, 1},
    {"--beta2", REAL, AT(beta2), 0, 1},
    {"--eps", REAL, AT(eps), 0, 0},
    {"--weight-decay", REAL, AT(weight_decay), 0, 0},
    {"--clip", REAL, AT(clip), 0, 0},
    {"--times", SWITCH, AT(times), 0, 0},
    {"--help", SWITCH, AT(help), 0, 0},
};

static const struct option *find(const char *name)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

static int in_range(const struct option *o, double value)
{
    return value >= o->least && (o->below == 0 || value < o->below);
}

static int set_count(const struct option *o, const char *value, int64_t *out)
{
    char *end;
    long long number;

    errno = 0;
    number = strtoll(value, &end, 10);
    if (end == value || *end != '\0' || errno != 0 || !in_range(o, (double)number))
        return gpt_fail(PLD_ERR_ARG, "%s is \"%s\"; it must be a whole number from %.0f to %.0f",
                        o->name, value, o->least, o->below - 1);
    *out = number;
    return 0;
}

static int set_real(const struct option *o, const char *value, double *out)
{
    char *end;
    double number = strtod(value, &end);

    if (end == value || *end != '\0' || !isfinite(number) || !in_range(o, number))
        return gpt_fail(PLD_ERR_ARG, "%s is \"%s\"; it must be a number, %g or more%s", o->name,
                        value, o->least, o->below == 0 ? "" : " and below 1");
    *out = number;
    return 0;
}

static int set(const struct option *o, const char *value, struct gpt_options *out)
{
    void *field = (char *)out + o->offset;

    switch (o->kind) {
    case TEXT:
        *(const char **)field = value;
        return value[0] != '\0' ? 0 : gpt_fail(PLD_ERR_ARG, "%s has an empty value", o->name);
    case TEXTS:
        out->texts[out->text_count++] = value;
        return 0;
    case COUNT:
        out->seed_given |= field == (void *)&out->seed;
        return set_count(o, value, field);
    case REAL:
        return set_real(o, value, field);
    case SWITCH:
        break;
    }
    *(int *)field = 1;
    return 0;
}

static int check_device(const struct gpt_options *o)
{
    if (strcmp(o->device, "cpu") != 0 && strcmp(o->device, "cuda") != 0 &&
        strcmp(o->device, "auto") != 0)
        return gpt_fail(PLD_ERR_ARG, "--device is \"%s\"; there are cpu, cuda and auto", o->device);
    if (strcmp(o->dtype, "f32") != 0 && strcmp(o->dtype, "bf16") != 0)
        return gpt_fail(PLD_ERR_ARG, "--dtype is \"%s\"; there are f32 and bf16", o->dtype);
    if (strcmp(o->dtype, "bf16") == 0 && strcmp(o->device, "cpu") == 0)
        return gpt_fail(PLD_ERR_ARG,
                        "--dtype bf16 needs --device cuda; the processor has f32 alone");
    if (strcmp(o->graphs, "off") != 0 && strcmp(o->graphs, "on") != 0)
        return gpt_fail(PLD_ERR_ARG, "--cuda-graphs is \"%s\"; there are off and on", o->graphs);
    if (strcmp(o->graphs, "on") == 0 && strcmp(o->device, "cpu") == 0)
        return gpt_fail(PLD_ERR_ARG, "--cuda-graphs on needs --device cuda");
    return 0;
}

static int read_scaling(struct gpt_options *o)
{
    char *end;

    if (o->scaling == NULL || strcmp(o->scaling, "dynamic") == 0)
        return 0;
    o->loss_scale = strtod(o->scaling, &end);
    if (*end != '\0' || !(o->loss_scale > 0 && isfinite(o->loss_scale)))
        return gpt_fail(PLD_ERR_ARG,
                        "--loss-scale is \"%s\"; it must be a number above 0, or dynamic",
                        o->scaling);
    return 0;
}

static int check(const struct gpt_options *o)
{
    if (o->help)
        return 0;
    if ((o->text_count > 0) == (o->llmc_data != NULL))
        return gpt_fail(PLD_ERR_ARG, "give either --text or --llmc-data; see --help");
    if (o->model != NULL && o->llmc_model != NULL)
        return gpt_fail(PLD_ERR_ARG, "give either --model or --llmc-model, not both");
    if (strcmp(o->codec, "raw") != 0 && strcmp(o->codec, "zstd") != 0)
        return gpt_fail(PLD_ERR_ARG, "--codec is \"%s\"; there are raw and zstd", o->codec);
    if (strcmp(o->decay, "cosine") != 0 && strcmp(o->decay, "linear") != 0 &&
        strcmp(o->decay, "constant") != 0)
        return gpt_fail(PLD_ERR_ARG, "--decay is \"%s\"; there are cosine, linear and constant",
                        o->decay);
    if (o->eps == 0)
        return gpt_fail(PLD_ERR_ARG, "--eps is 0; it must be above 0");
    return check_device(o);
}

int gpt_options_read(int argc, char **argv, struct gpt_options *out)
{
    int rc = 0;

    *out = (struct gpt_options){.mesh = "dp=0",
                                .schedule = "1f1b",
                                .resume = "latest",
                                .decay = "cosine",
                                .codec = "raw",
                                .device = "cpu",
                                .dtype = "f32",
                                .graphs = "off",
                                .batch = 8,
                                .steps = 100,
                                .seed = 1337,
                                .lr = 3e-4,
                                .beta1 = 0.9,
                                .beta2 = 0.95,
                                .eps = 1e-8,
                                .clip = 1};
    out->texts = calloc((size_t)argc + 1, sizeof(*out->texts));
    if (out->texts == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for the command line");
    for (int i = 1; i < argc && rc == 0; i++) {
        const struct option *o = find(argv[i]);

        if (o == NULL)
            return gpt_fail(PLD_ERR_ARG, "unknown option \"%s\"; see --help", argv[i]);
        if (o->kind != SWITCH && ++i == argc)
            return gpt_fail(PLD_ERR_ARG, "%s needs a value; see --help", o->name);
        rc = set(o, argv[i], out);
    }
    if (rc == 0)
        rc = read_scaling(out);
    return rc == 0 ? check(out) : rc;
}

const char *gpt_options_device(int argc, char **argv)
{
    const char *device = "cpu";

    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], "--device") == 0)
            device = argv[i + 1];
    return device;
}

void gpt_options_free(struct gpt_options *options)
{
    free(options->texts);
    options->texts = NULL;
}
