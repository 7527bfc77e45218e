/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Model files of llm.c. */

#include "stage.h"

#include <polder/error.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAGIC = 20240326, VERSION = 3, WORDS = 256 };

static int64_t body_count(const struct gpt_config *config, enum gpt_kind kind)
{
    struct gpt_tensor_info info;

    gpt_tensor_describe(config, kind, 0, &info);
    return info.count * (gpt_kind_in_layer(kind) ? config->layers : 1);
}

/* Byte at which a tensor begins; GPT_KINDS: the length of the file. */
static int64_t offset_of(const struct gpt_config *config, enum gpt_kind kind, int layer)
{
    struct gpt_tensor_info info;
    int64_t at = 0;

    for (enum gpt_kind k = 0; k < kind; k++)
        at += body_count(config, k);
    if (kind < GPT_KINDS && layer > 0) {
        gpt_tensor_describe(config, kind, layer, &info);
        at += layer * info.count;
    }
    return WORDS * (int64_t)sizeof(int32_t) + at * (int64_t)sizeof(float);
}

static int check_header(const char *path, const int32_t words[WORDS], struct gpt_config *out)
{
    if (words[0] != MAGIC)
        return gpt_fail(PLD_ERR_CORRUPT, "'%s' is no llm.c model file: it begins with %d, not %d",
                        path, (int)words[0], MAGIC);
    if (words[1] != VERSION)
        return gpt_fail(PLD_ERR_CORRUPT,
                        "'%s' is a model file of version %d, not %d (f32 with padded vocabulary)",
                        path, (int)words[1], VERSION);
    *out = (struct gpt_config){.max_seq = words[2],
                               .vocab = words[3],
                               .layers = words[4],
                               .heads = words[5],
                               .channels = words[6],
                               .padded_vocab = words[7]};
    if (gpt_config_check(out) != 0)
        return gpt_fail(PLD_ERR_CORRUPT, "'%s': %s", path, gpt_last_error());
    return 0;
}

static int read_header(const char *path, FILE *file, struct gpt_config *out)
{
    int32_t words[WORDS];
    struct stat status;
    int64_t expected;
    int rc;

    if (fstat(fileno(file), &status) != 0)
        return gpt_fail(PLD_ERR_IO, "'%s': %s", path, strerror(errno));
    if (fread(words, sizeof(words), 1, file) != 1 && ferror(file))
        return gpt_fail(PLD_ERR_IO, "'%s': %s", path, strerror(errno));
    if (feof(file))
        return gpt_fail(PLD_ERR_CORRUPT, "'%s' has %lld bytes; the header of a model file has %zu",
                        path, (long long)status.st_size, sizeof(words));
    rc = check_header(path, words, out);
    if (rc != 0)
        return rc;
    expected = offset_of(out, GPT_KINDS, 0);
    if (status.st_size != expected)
        return gpt_fail(PLD_ERR_CORRUPT,
                        "'%s' has %lld bytes, but its header says %d layers, %d channels, %d "
                        "positions and %d rows of embeddings: %lld bytes",
                        path, (long long)status.st_size, out->layers, out->channels, out->max_seq,
                        out->padded_vocab, (long long)expected);
    return 0;
}

static int open_model(const char *path, FILE **out_file, struct gpt_config *out)
{
    FILE *file = fopen(path, "rb");
    int rc;

    if (file == NULL)
        return gpt_fail(errno == ENOENT || errno == ENOTDIR ? PLD_ERR_NOTFOUND : PLD_ERR_IO,
                        "'%s': %s", path, strerror(errno));
    rc = read_header(path, file, out);
    if (rc != 0)
        (void)fclose(file);
    else
        *out_file = file;
    return rc;
}

int gpt_llmc_config(const char *path, struct gpt_config *out)
{
    struct gpt_config config;
    FILE *file = NULL;
    int rc = open_model(path, &file, &config);

    if (rc != 0)
        return rc;
    (void)fclose(file);
    *out = config;
    return 0;
}

static int same_model(const char *path, const struct gpt_config *file,
                      const struct gpt_config *stage)
{
    const struct {
        const char *name;
        int file, stage;
    } sizes[] = {
        {"positions", file->max_seq, stage->max_seq},
        {"tokens in its vocabulary", file->vocab, stage->vocab},
        {"rows of embeddings", file->padded_vocab, stage->padded_vocab},
        {"layers", file->layers, stage->layers},
        {"heads", file->heads, stage->heads},
        {"channels", file->channels, stage->channels},
    };

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (sizes[i].file != sizes[i].stage)
            return gpt_fail(PLD_ERR_MISMATCH, "'%s' has a model with %d %s; this one has %d", path,
                            sizes[i].file, sizes[i].name, sizes[i].stage);
    return 0;
}

static int read_tensor(struct gpt_stage *s, const struct gpt_tensor *tensor, FILE *file,
                       float *values)
{
    if (fread(values, sizeof(*values), tensor->count, file) != tensor->count)
        return PLD_ERR_IO;
    return s->backend->put(s, tensor->value, values, tensor->count * sizeof(*values));
}

static int load_tensor(struct gpt_stage *s, enum gpt_kind kind, int layer,
                       const struct gpt_tensor *tensor, const char *path, FILE *file)
{
    float *values = malloc(tensor->count * sizeof(*values));
    struct gpt_tensor_info info;
    int rc = PLD_ERR_IO;

    gpt_tensor_describe(&s->config, kind, layer, &info);
    if (values == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for %s", info.name);
    if (fseeko(file, offset_of(&s->config, kind, layer), SEEK_SET) == 0)
        rc = read_tensor(s, tensor, file, values);
    free(values);
    if (rc == PLD_ERR_IO)
        return gpt_fail(PLD_ERR_IO, "'%s': cannot read %s: %s", path, info.name,
                        ferror(file) ? strerror(errno) : "the file ends before it");
    return rc;
}

static int load_set(struct gpt_stage *s, const struct gpt_tensors *set, int layer, const char *path,
                    FILE *file)
{
    int rc = 0;

    for (enum gpt_kind k = 0; k < GPT_KINDS && rc == 0; k++)
        if (set->of[k].id >= 0)
            rc = load_tensor(s, k, layer, &set->of[k], path, file);
    return rc;
}

int gpt_llmc_load(struct gpt_stage *s, const char *path)
{
    struct gpt_config config;
    FILE *file = NULL;
    int rc = gpt_tensors_bind(s);

    if (rc == 0)
        rc = open_model(path, &file, &config);
    if (rc != 0)
        return rc;
    rc = same_model(path, &config, &s->config);
    if (rc == 0)
        rc = load_set(s, &s->own, 0, path, file);
    for (int l = 0; l < s->layer_count && rc == 0; l++)
        rc = load_set(s, &s->layers[l], s->first_layer + l, path, file);
    (void)fclose(file);
    gpt_stage_changed(s);
    return rc;
}

static int write_tensor(FILE *file, const struct gpt_config *config, enum gpt_kind kind, int layer,
                        uint64_t seed)
{
    float values[4096];
    const int64_t most = sizeof(values) / sizeof(values[0]);
    struct gpt_tensor_info info;

    gpt_tensor_describe(config, kind, layer, &info);
    for (int64_t first = 0; first < info.count; first += most) {
        const int64_t left = info.count - first, count = left < most ? left : most;

        gpt_tensor_initial(config, kind, layer, seed, first, count, values);
        if (fwrite(values, sizeof(values[0]), (size_t)count, file) != (size_t)count)
            return -1;
    }
    return 0;
}

static int write_model(FILE *file, const struct gpt_config *config, uint64_t seed)
{
    const int32_t words[WORDS] = {
        MAGIC,          VERSION,       config->max_seq,  config->vocab,
        config->layers, config->heads, config->channels, config->padded_vocab};
    int rc = fwrite(words, sizeof(words), 1, file) == 1 ? 0 : -1;

    for (enum gpt_kind k = 0; k < GPT_KINDS; k++)
        for (int l = 0; l < (gpt_kind_in_layer(k) ? config->layers : 1) && rc == 0; l++)
            rc = write_tensor(file, config, k, l, seed);
    return rc;
}

/* Written beside its place and renamed, so that under its name there is never half a model. */
int gpt_llmc_create(const char *path, const struct gpt_config *config, uint64_t seed)
{
    const size_t length = strlen(path) + sizeof(".part");
    char *part;
    FILE *file;
    int rc = gpt_config_check(config);

    if (rc != 0)
        return rc;
    part = malloc(length);
    if (part == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for the name '%s'", path);
    (void)snprintf(part, length, "%s.part", path);
    file = fopen(part, "wb");
    if (file != NULL)
        rc = write_model(file, config, seed);
    if (file == NULL || (fclose(file) != 0) | (rc != 0) || rename(part, path) != 0) {
        rc = gpt_fail(PLD_ERR_IO, "'%s' cannot be written: %s", path, strerror(errno));
        if (file != NULL)
            (void)remove(part);
    }
    free(part);
    return rc;
}
