/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file ckpt_model.h
 * A model to save and load on any mesh: every element is a function of its
 * tensor's name, its slot, its global position and a salt, so that a rank can tell
 * without help whether what it holds is right.
 *
 * Six layers over pp; tensors cut along tp in either dimension, or the same on all;
 * an embedding of several blocks shared by the first and the last stage; four
 * dtypes; two slots.
 */
#ifndef CKPT_MODEL_H
#define CKPT_MODEL_H

#include <ftw.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/base_hash.h"
#include "inproc/inproc.h"
#include "params/params.h"

enum { MODEL_LAYERS = 4, MODEL_MAX_TENSORS = 32 };

/* Rows of the embedding, of 320 bytes each, and of the layers' matrices, of 1228. */
static int model_rows[2] = {4001, 203};

struct model_tensor {
    pld_param_info info;
    void *slots[2];
};

struct model {
    pld_mesh *mesh;
    pld_params *params;
    pld_ckpt *ckpt;
    struct model_tensor tensors[MODEL_MAX_TENSORS];
    int with_slots;
    int64_t optim_step;
    int64_t position[4];
};

/* What a scenario may change about the model. */
struct model_change {
    const char *extra;  /* a tensor more, on the first stage */
    const char *absent; /* a tensor less */
    const char *longer; /* a tensor with one row more */
    const char *other;  /* a tensor that is f64 */
    int no_slots;       /* no optimizer state at all */
    int no_momentum;    /* no "exp_avg" */
    int no_state;       /* no position */
    int short_state;    /* one number fewer */
};

static const struct model_change model_same = {0};

static inline int model_is(const char *a, const char *b)
{
    return a != NULL && strcmp(a, b) == 0;
}

static inline int model_add(struct model *m, const struct model_change *how, const char *name,
                            pld_dtype dtype, int rows, int columns, int cut, int shared)
{
    const int t = pld_mesh_coord(m->mesh, PLD_AXIS_TP);
    const int n = pld_mesh_size(m->mesh, PLD_AXIS_TP);
    pld_param o = {PLD_OPTS(pld_param), .name = name, .ndim = 2, .dtype = dtype};

    if (model_is(how->absent, name))
        return 0;
    o.dtype = model_is(how->other, name) ? PLD_F64 : dtype;
    o.shape[0] = rows + model_is(how->longer, name);
    o.shape[1] = columns;
    o.shared = shared;
    if (cut >= 0) {
        memcpy(o.extent, o.shape, sizeof(o.extent));
        o.offset[cut] = o.shape[cut] * t / n;
        o.extent[cut] = o.shape[cut] * (t + 1) / n - o.offset[cut];
    }
    return pld_params_add(m->params, &o, NULL);
}

static inline int model_fill_params(struct model *m, const struct model_change *how)
{
    const int stage = pld_mesh_coord(m->mesh, PLD_AXIS_PP);
    const int stages = pld_mesh_size(m->mesh, PLD_AXIS_PP);
    char name[64];
    int rc = 0;

    if (stage == 0 || stage == stages - 1)
        rc |= model_add(m, how, "wte", PLD_F32, model_rows[0], 80, 0, 1);
    if (stage == 0 && how->extra != NULL)
        rc |= model_add(m, how, how->extra, PLD_F32, 3, 4, -1, 0);
    for (int l = 0; l < MODEL_LAYERS; l++) {
        if (l * stages / MODEL_LAYERS != stage)
            continue;
        (void)snprintf(name, sizeof(name), "h.%d.w", l);
        rc |= model_add(m, how, name, PLD_F32, model_rows[1], 307, 1, 0);
        (void)snprintf(name, sizeof(name), "h.%d.ln", l);
        rc |= model_add(m, how, name, PLD_BF16, 1, 83, -1, 0);
        (void)snprintf(name, sizeof(name), "h/%d%%b~.u", l);
        rc |= model_add(m, how, name, l == 2 ? PLD_F64 : PLD_F16, 31, 5, 0, 0);
    }
    return rc < 0 ? rc : 0;
}

/* Bits of one element; numbers near 1, so that there is something to compress. */
static inline uint64_t model_bits(uint64_t seed, int64_t at, pld_dtype dtype)
{
    const uint64_t mixed = (seed ^ (uint64_t)at) * UINT64_C(0x9E3779B97F4A7C15);
    const uint64_t h = mixed ^ mixed >> 32;

    if (dtype == PLD_F32)
        return 0x3F800000u | (h & 0x3FFFu);
    if (dtype == PLD_F64)
        return UINT64_C(0x3FF0000000000000) | (h & 0xFFFFFu);
    return (dtype == PLD_BF16 ? 0x3F80u : 0x3C00u) | (h & 0x3Fu);
}

/* Write the expected elements of a rank's box, or count those that differ. */
static inline int64_t model_each(const pld_param_info *info, pld_dtype dtype, const char *slot,
                                 uint64_t salt, unsigned char *value, int check)
{
    const size_t bytes = pld_dtype_bytes(dtype);
    const uint64_t seed = pldi_hash64_chain(pldi_hash64_chain(salt, info->name, strlen(info->name)),
                                            slot, strlen(slot));
    int64_t wrong = 0;

    for (int64_t r = 0; r < info->extent[0]; r++)
        for (int64_t c = 0; c < info->extent[1]; c++, value += bytes) {
            const int64_t at = (info->offset[0] + r) * info->shape[1] + info->offset[1] + c;
            const uint64_t bits = model_bits(seed, at, dtype);

            if (check)
                wrong += memcmp(value, &bits, bytes) != 0;
            else
                memcpy(value, &bits, bytes);
        }
    return wrong;
}

static const char *const model_slots[2] = {"exp_avg", "exp_avg_sq"};

static inline int64_t model_all(struct model *m, uint64_t salt, int check)
{
    int64_t wrong = 0;

    for (int i = 0; i < pld_params_count(m->params); i++) {
        struct model_tensor *t = &m->tensors[i];

        wrong += model_each(&t->info, t->info.dtype, "", salt, t->info.value, check);
        for (int s = 0; s < 2; s++)
            if (t->slots[s] != NULL)
                wrong += model_each(&t->info, PLD_F32, model_slots[s], salt, t->slots[s], check);
    }
    return wrong;
}

static inline void model_set(struct model *m, uint64_t salt)
{
    (void)model_all(m, salt, 0);
    m->optim_step = (int64_t)salt;
    for (int i = 0; i < 4; i++)
        m->position[i] = (int64_t)salt * 10 + i;
}

/* Elements and states that are not those of `salt`. */
static inline int64_t model_wrong(struct model *m, uint64_t salt)
{
    int64_t wrong = model_all(m, salt, 1);

    if (m->with_slots)
        wrong += m->optim_step != (int64_t)salt;
    for (int i = 0; i < 4; i++)
        wrong += m->position[i] != (int64_t)salt * 10 + i;
    return wrong;
}

static inline int model_add_slots(struct model *m, const struct model_change *how)
{
    for (int i = 0; i < pld_params_count(m->params); i++) {
        struct model_tensor *t = &m->tensors[i];

        if (pld_params_info(m->params, i, &t->info) != 0)
            return -1;
        for (int s = how->no_momentum; s < 2 && !how->no_slots; s++) {
            t->slots[s] = malloc(t->info.count * sizeof(float));
            if (t->slots[s] == NULL ||
                pldi_params_add_slot(m->params, i, model_slots[s], PLD_F32, t->slots[s]) != 0)
                return -1;
        }
    }
    m->with_slots = !how->no_slots;
    if (how->no_slots)
        return 0;
    return pldi_params_add_state(m->params, "optim/step", &m->optim_step, sizeof(m->optim_step));
}

static inline int model_open(pld_runtime *rt, const char *mesh, const char *directory,
                             const pld_ckpt_opts *opts, const struct model_change *how,
                             struct model *m)
{
    memset(m, 0, sizeof(*m));
    if (pld_mesh_create(rt, mesh, &m->mesh) != 0 || pld_params_create(m->mesh, &m->params) != 0 ||
        model_fill_params(m, how) != 0 || pld_params_commit(m->params) != 0 ||
        model_add_slots(m, how) != 0 || pld_ckpt_open(m->mesh, directory, opts, &m->ckpt) != 0 ||
        pld_ckpt_add_params(m->ckpt, m->params) != 0)
        return -1;
    if (how->no_state)
        return 0;
    return pld_ckpt_add_state(m->ckpt, "position", m->position,
                              sizeof(m->position) - (how->short_state ? 8 : 0));
}

static inline void model_close(struct model *m)
{
    const int count = m->params == NULL ? 0 : pld_params_count(m->params);

    pld_ckpt_destroy(&m->ckpt);
    pld_params_destroy(&m->params);
    pld_mesh_destroy(&m->mesh);
    for (int i = 0; i < count; i++) {
        free(m->tensors[i].slots[0]);
        free(m->tensors[i].slots[1]);
    }
}

/* A directory of the test's own, in memory if there is such a thing: saves flush much. */
static char model_dir[64];

static inline int make_model_dir(void)
{
    static const char *const places[] = {"/dev/shm", "/tmp"};

    for (int i = 0; i < 2; i++) {
        (void)snprintf(model_dir, sizeof(model_dir), "%s/polder-ckpt-XXXXXX", places[i]);
        if (mkdtemp(model_dir) != NULL)
            return 1;
    }
    return 0;
}

static inline const char *in_model_dir(const char *name, char out[256])
{
    (void)snprintf(out, 256, "%s/%s", model_dir, name);
    return out;
}

static inline int model_remove_one(const char *path, const struct stat *about, int kind,
                                   struct FTW *where)
{
    (void)about;
    (void)kind;
    (void)where;
    return remove(path);
}

static inline void model_remove(const char *path)
{
    (void)nftw(path, model_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif /* CKPT_MODEL_H */
