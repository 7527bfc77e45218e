/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Writes two checkpoints for test_cli.py, with what is rarely seen: all element types,
 * a name too long for a table, control characters, numbers that are none.
 * Arguments: RUN raw|zstd.  Two ranks, two stages.
 */

#include <polder/polder.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int64_t shape[3];
    pld_dtype dtype;
    int ndim, stage;
} tensors[] = {
    {"embedding", {1000, 64}, PLD_F32, 2, 0},
    {"brain", {64}, PLD_BF16, 1, 0},
    {"a.name.that.is.so.long.that.no.table.of.eighty.columns.has.room.for.it", {7}, PLD_F64, 1, 0},
    {"cube", {3, 5, 7}, PLD_F32, 3, 1},
    {"half", {64}, PLD_F16, 1, 1},
};

static int stop(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, pld_last_error());
    return 1;
}

static int add_tensors(pld_params *params, int stage)
{
    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]); i++) {
        pld_param param = {PLD_OPTS(pld_param), .name = tensors[i].name, .dtype = tensors[i].dtype,
                           .ndim = tensors[i].ndim};

        memcpy(param.shape, tensors[i].shape, sizeof(tensors[i].shape));
        if (tensors[i].stage == stage && pld_params_add(params, &param, NULL) < 0)
            return stop("add");
    }
    return pld_params_commit(params) < 0 ? stop("commit") : 0;
}

static int save(pld_mesh *mesh, pld_params *params, const char *run, const char *codec)
{
    pld_ckpt_opts opts = {PLD_OPTS(pld_ckpt_opts)};
    char state[3] = {1, 2, 3};
    pld_ckpt *ckpt = NULL;

    opts.codec = strcmp(codec, "zstd") == 0 ? PLD_CKPT_ZSTD : PLD_CKPT_RAW;
    if (pld_ckpt_open(mesh, run, &opts, &ckpt) < 0 || pld_ckpt_add_params(ckpt, params) < 0 ||
        pld_ckpt_add_state(ckpt, "rng", state, sizeof(state)) < 0 ||
        pld_ckpt_set_number(ckpt, "loss", 2.25) < 0 ||
        pld_ckpt_set_text(ckpt, "gr\303\266\303\237e", "line\nbreak \033[31mred \303\251") < 0 ||
        pld_ckpt_save(ckpt, 3) < 0 || pld_ckpt_save(ckpt, 12) < 0)
        return stop("save");
    if (pld_ckpt_set_number(ckpt, "perplexity", (double)NAN) < 0)
        fprintf(stderr, "NaN: %s\n", pld_last_error());
    pld_ckpt_destroy(&ckpt);
    return 0;
}

int main(int argc, char **argv)
{
    pld_runtime *rt = NULL;
    pld_mesh *mesh = NULL;
    pld_params *params = NULL;
    pld_optim *optim = NULL;
    int status;

    if (argc != 3)
        return 2;
    if (pld_runtime_open(NULL, &rt) < 0 || pld_mesh_create(rt, "pp=2", &mesh) < 0 ||
        pld_params_create(mesh, &params) < 0)
        return stop("open");
    status = add_tensors(params, pld_mesh_coord(mesh, PLD_AXIS_PP));
    if (status == 0 && pld_optim_create(params, NULL, &optim) < 0)
        status = stop("optim");
    if (status == 0)
        status = save(mesh, params, argv[1], argv[2]);
    pld_optim_destroy(&optim);
    pld_params_destroy(&params);
    pld_mesh_destroy(&mesh);
    return pld_runtime_close(&rt) < 0 || status;
}
