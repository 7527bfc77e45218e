/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Checkpoints for other programs to read, and beside them what they must find:
 *     ckpt_files DIRECTORY
 * makes raw/ and zstd/, and for each tensor DIRECTORY/<number>.bin with its bytes and
 * a line "number dtype rows columns slot name" (slot "-" for the value) on stdout.
 */

#include "inproc/ckpt_model.h"

static const char *root;

static int print_tensor(const struct model *m, int i, const char *slot, pld_dtype dtype, int number)
{
    pld_param_info whole = m->tensors[i].info;
    const size_t bytes = pld_dtype_bytes(dtype) * (size_t)(whole.shape[0] * whole.shape[1]);
    unsigned char *data = malloc(bytes);
    char path[300];
    FILE *f;
    int good;

    memset(whole.offset, 0, sizeof(whole.offset));
    memcpy(whole.extent, whole.shape, sizeof(whole.extent));
    (void)snprintf(path, sizeof(path), "%s/%d.bin", root, number);
    f = fopen(path, "wb");
    if (f == NULL || data == NULL)
        return -1;
    (void)model_each(&whole, dtype, slot, 5, data, 0);
    good = fwrite(data, 1, bytes, f) == bytes;
    good &= fclose(f) == 0;
    free(data);
    printf("%d %s %d %d %s %s\n", number, pld_dtype_name(dtype), (int)whole.shape[0],
           (int)whole.shape[1], slot[0] == '\0' ? "-" : slot, whole.name);
    return good ? 0 : -1;
}

/* One rank holds all tensors, so it knows them. */
static int list(pld_runtime *rt, void *context)
{
    struct model m;
    int number = 0;

    CHECK(rt, model_open(rt, "dp=1", context, NULL, &model_same, &m) == 0);
    for (int i = 0; i < pld_params_count(m.params); i++) {
        CHECK(rt, print_tensor(&m, i, "", m.tensors[i].info.dtype, number++) == 0);
        CHECK(rt, print_tensor(&m, i, "exp_avg", PLD_F32, number++) == 0);
        CHECK(rt, print_tensor(&m, i, "exp_avg_sq", PLD_F32, number++) == 0);
    }
    model_close(&m);
    return 0;
}

static int save(pld_runtime *rt, void *context)
{
    pld_ckpt_opts opts = {PLD_OPTS(pld_ckpt_opts)};
    struct model m;

    opts.codec = strstr(context, "zstd") != NULL ? PLD_CKPT_ZSTD : PLD_CKPT_RAW;
    CHECK(rt, model_open(rt, "dp=2,pp=2,tp=2", context, &opts, &model_same, &m) == 0);
    model_set(&m, 5);
    CHECK(rt, pld_ckpt_set_number(m.ckpt, "loss", 1.25) == 0);
    CHECK(rt, pld_ckpt_set_text(m.ckpt, "model", "toy") == 0);
    CHECK(rt, pld_ckpt_save(m.ckpt, 7) == 0);
    model_close(&m);
    return 0;
}

int main(int argc, char **argv)
{
    char raw[300], zstd[300];

    if (argc != 2)
        return 2;
    root = argv[1];
    (void)snprintf(raw, sizeof(raw), "%s/raw", root);
    (void)snprintf(zstd, sizeof(zstd), "%s/zstd", root);
    return inproc_run(8, save, raw) != 0 || inproc_run(8, save, zstd) != 0 ||
           inproc_run(1, list, raw) != 0;
}
