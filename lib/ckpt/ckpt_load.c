/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Rank 0 chooses the checkpoint and reads its manifest; all others get its bytes.
 * From then on each rank knows what it wants (its tensors) and what there is (the
 * boxes), and reads the blocks in which they meet.
 */

#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_impl.h"
#include "ckpt/ckpt_read.h"
#include "device/device.h"
#include "health/health_site.h"
#include "params/params.h"

/* A tensor of a GPU, and where it is put together first. */
struct landing {
    void *value;
    unsigned char *host;
    size_t bytes;
};

struct load {
    pld_ckpt *c;
    char *path; /* of the checkpoint; NULL: there is none */
    struct ckpt_manifest m;
    struct ckpt_entry *entries;
    uint32_t states;
    int slots; /* optimizer state is loaded, too */
    unsigned char *used;
    struct ckpt_wants wants;
    struct landing *landings; /* NULL: tensors are in host memory */
    size_t landing_count;
    unsigned char *memory;
};

/* Rank 0's findings, which all others are told. */
struct found {
    int64_t path_bytes; /* 0: no checkpoint */
    int64_t manifest_bytes;
};

static int find(struct load *l, const char *which, void **data, size_t *bytes)
{
    struct ckpt_manifest m = {0};
    char *name;
    int rc;

    PLDI_TRY(pldi_ckpt_resolve(l->c, which, &l->path));
    if (l->path == NULL)
        return PLD_OK;
    PLDI_TRY(pldi_ckpt_read_manifest(l->path, &m));
    rc = pldi_ckpt_check_shards(l->path, &m);
    pldi_ckpt_manifest_free(&m);
    PLDI_TRY(rc);
    name = pldi_ckpt_path(l->path, CKPT_MANIFEST);
    rc = name == NULL ? PLD_ERR_NOMEM : pldi_ckpt_read_file(name, data, bytes);
    if (rc == PLD_ERR_NOTFOUND)
        rc = PLD_ERR_CORRUPT;
    pldi_free(name);
    return rc;
}

/* Path and manifest to everybody; the bytes become the manifest's. */
static int tell(struct load *l, const struct found *f, void **data)
{
    pld_group *world = l->c->world;
    int rc = PLD_OK;

    if (pld_group_rank(world) > 0) {
        l->path = pldi_alloc((size_t)f->path_bytes, 1, "a path");
        *data = pldi_alloc((size_t)f->manifest_bytes, 1, "a manifest");
        rc = l->path == NULL || *data == NULL ? PLD_ERR_NOMEM : PLD_OK;
    }
    PLDI_TRY(pld_agree(world, rc));
    PLDI_TRY(pld_broadcast(world, l->path, (size_t)f->path_bytes, PLD_U8, 0, NULL));
    PLDI_TRY(pld_broadcast(world, *data, (size_t)f->manifest_bytes, PLD_U8, 0, NULL));
    rc = pldi_ckpt_manifest_decode(l->path, *data, (size_t)f->manifest_bytes, &l->m);
    *data = NULL;
    return pld_agree(world, rc);
}

static int choose(struct load *l, const char *which)
{
    struct found f = {0};
    void *data = NULL;
    size_t bytes = 0;
    int rc = PLD_OK;

    if (which == NULL)
        rc = pldi_fail(PLD_ERR_ARG, "pld_ckpt_load: need \"latest\" or a path");
    else if (pld_group_rank(l->c->world) == 0)
        rc = find(l, which, &data, &bytes);
    rc = pld_agree(l->c->world, rc);
    if (l->path != NULL)
        f = (struct found){(int64_t)strlen(l->path) + 1, (int64_t)bytes};
    if (rc == PLD_OK)
        rc = pld_broadcast(l->c->world, &f, sizeof(f), PLD_U8, 0, NULL);
    if (rc == PLD_OK && f.path_bytes > 0)
        rc = tell(l, &f, &data);
    pldi_free(data);
    return rc;
}

/* 1 if some rank's params have optimizer state. */
static int any_slots(const struct load *l, int *out)
{
    const pld_params *p = l->c->params;
    int64_t any = 0;

    if (p != NULL) {
        any = pldi_params_states(p) > 0;
        for (int i = 0; i < pld_params_count(p); i++)
            any |= pldi_params_slots(p, i) > 0;
    }
    PLDI_TRY(pld_allreduce(l->c->world, &any, &any, 1, PLD_I64, PLD_MAX, NULL));
    *out = (int)any;
    return PLD_OK;
}

static const struct ckpt_entry *find_entry(const struct ckpt_entry *entries, uint32_t count,
                                           const struct ckpt_entry *like)
{
    for (uint32_t i = 0; i < count; i++)
        if (entries[i].kind == like->kind && strcmp(entries[i].key, like->key) == 0)
            return &entries[i];
    return NULL;
}

static int match_states(const struct load *l)
{
    for (uint32_t i = 0; i < l->states; i++) {
        const struct ckpt_entry *mine = &l->entries[i];
        const struct ckpt_entry *e = find_entry(l->m.entries, l->m.entry_count, mine);

        if (e == NULL)
            return pldi_fail(PLD_ERR_MISMATCH, "checkpoint '%s' has no state '%s'", l->path,
                             mine->key);
        if (e->bytes != mine->bytes)
            return pldi_fail(PLD_ERR_MISMATCH,
                             "state '%s' has %u bytes in checkpoint '%s', %u in this run",
                             mine->key, e->bytes, l->path, mine->bytes);
    }
    for (uint32_t i = 0; i < l->m.entry_count; i++) {
        const struct ckpt_entry *e = &l->m.entries[i];
        const int wanted = e->kind == CKPT_STATE || (e->kind == CKPT_PARAMS_STATE && l->slots);

        if (wanted && find_entry(l->entries, l->states, e) == NULL)
            return pldi_fail(PLD_ERR_MISMATCH,
                             "checkpoint '%s' has a state '%s' that this run does not have",
                             l->path, e->key);
    }
    return PLD_OK;
}

/* The stored tensor for a tensor of this rank, or a sentence about how they differ. */
static int match(struct load *l, const pld_param_info *info, const char *slot, pld_dtype dtype,
                 const struct ckpt_tensor **out)
{
    const struct ckpt_tensor *t = pldi_ckpt_manifest_find(&l->m, info->name, slot);
    char words[2 * PLD_MAX_NAME];

    (void)pldi_ckpt_tensor_words(info->name, slot, words, sizeof(words));
    if (t == NULL)
        return pldi_fail(PLD_ERR_MISMATCH, "checkpoint '%s' has no tensor %s", l->path, words);
    if (t->dtype != dtype)
        return pldi_fail(PLD_ERR_MISMATCH, "tensor %s is %s in checkpoint '%s', %s in this run",
                         words, pld_dtype_name(t->dtype), l->path, pld_dtype_name(dtype));
    if (t->ndim != info->ndim)
        return pldi_fail(PLD_ERR_MISMATCH,
                         "tensor %s has %d dimensions in checkpoint '%s', %d in this run", words,
                         t->ndim, l->path, info->ndim);
    for (int d = 0; d < t->ndim; d++)
        if (t->shape[d] != info->shape[d])
            return pldi_fail(PLD_ERR_MISMATCH,
                             "dimension %d of tensor %s is %lld in checkpoint '%s', %lld in this "
                             "run",
                             d, words, (long long)t->shape[d], l->path, (long long)info->shape[d]);
    l->used[t - l->m.tensors] = 1;
    *out = t;
    return PLD_OK;
}

static size_t padded(size_t bytes)
{
    return (bytes + PLDI_ALIGN - 1) / PLDI_ALIGN * PLDI_ALIGN;
}

/* Host memory for all that this rank loads to a GPU. */
static int make_landings(struct load *l, int count)
{
    const pld_params *p = l->c->params;
    size_t most = 0;
    size_t bytes = 0;

    if (p == NULL || pldi_params_device(p) == NULL)
        return PLD_OK;
    for (int i = 0; i < count; i++) {
        pld_param_info info;

        PLDI_TRY(pld_params_info(p, i, &info));
        bytes += padded(info.count * pld_dtype_bytes(info.dtype));
        for (int s = 0; s < pldi_params_slots(p, i); s++)
            bytes += padded(info.count * pld_dtype_bytes(pldi_params_slot(p, i, s)->dtype));
        most += 1 + (size_t)pldi_params_slots(p, i);
    }
    l->landings = pldi_alloc(most, sizeof(*l->landings), "tensors to load");
    l->memory = pldi_alloc(bytes, 1, "the tensors on their way to the GPU");
    return l->landings == NULL || l->memory == NULL ? PLD_ERR_NOMEM : PLD_OK;
}

/* Where a tensor is read to. */
static void *land(struct load *l, const pld_param_info *info, pld_dtype dtype, void *value)
{
    struct landing *n = &l->landings[l->landing_count];
    unsigned char *at = l->memory;

    if (l->landings == NULL)
        return value;
    if (l->landing_count > 0)
        at = n[-1].host + padded(n[-1].bytes);
    *n = (struct landing){value, at, info->count * pld_dtype_bytes(dtype)};
    l->landing_count++;
    return at;
}

static int take_off(const struct load *l)
{
    const pld_params *p = l->c->params;
    pld_device *device = p == NULL ? NULL : pldi_params_device(p);

    if (device == NULL)
        return PLD_OK;
    for (size_t i = 0; i < l->landing_count; i++)
        PLDI_TRY(
            pldi_params_copy(p, l->landings[i].value, l->landings[i].host, l->landings[i].bytes));
    return device->ops->stream_wait(device, pldi_params_stream(p));
}

static int want(struct load *l, const pld_param_info *info, const char *slot, pld_dtype dtype,
                void *value)
{
    const struct ckpt_tensor *t = NULL;
    const struct pldi_box box = pldi_ckpt_box_of(info);

    PLDI_TRY(match(l, info, slot, dtype, &t));
    return pldi_ckpt_want(&l->wants, &l->m, t, &box, land(l, info, dtype, value));
}

static int want_all(struct load *l)
{
    const pld_params *p = l->c->params;
    const int count = p == NULL ? 0 : pld_params_count(p);

    PLDI_TRY(make_landings(l, count));
    for (int i = 0; i < count; i++) {
        pld_param_info info;

        PLDI_TRY(pld_params_info(p, i, &info));
        PLDI_TRY(want(l, &info, "", info.dtype, info.value));
        for (int s = 0; s < pldi_params_slots(p, i); s++) {
            const struct pldi_slot *slot = pldi_params_slot(p, i, s);

            PLDI_TRY(want(l, &info, slot->name, slot->dtype, slot->value));
        }
    }
    return PLD_OK;
}

/* Tensors that no rank wants: the checkpoint is of another model. */
static int check_left_over(const struct load *l)
{
    char words[2 * PLD_MAX_NAME];

    for (uint32_t i = 0; i < l->m.tensor_count; i++) {
        const struct ckpt_tensor *t = &l->m.tensors[i];

        if (l->used[i] == 0 && (t->slot[0] == '\0' || l->slots))
            return pldi_fail(PLD_ERR_MISMATCH,
                             "checkpoint '%s' has a tensor %s that this run does not have", l->path,
                             pldi_ckpt_tensor_words(t->name, t->slot, words, sizeof(words)));
    }
    return PLD_OK;
}

static int match_all(struct load *l)
{
    pld_group *world = l->c->world;
    uint32_t count = 0;
    int rc;

    PLDI_TRY(any_slots(l, &l->slots));
    l->used = pldi_alloc(l->m.tensor_count, 1, "marks of tensors");
    rc = l->used == NULL ? PLD_ERR_NOMEM : pldi_ckpt_entries(l->c, &l->entries, &l->states, &count);
    if (rc == PLD_OK && l->c->params != NULL)
        rc = pldi_params_check_stream(l->c->params, "pld_ckpt_load");
    if (rc == PLD_OK)
        rc = match_states(l);
    if (rc == PLD_OK)
        rc = want_all(l);
    PLDI_TRY(pld_agree(world, rc));
    PLDI_TRY(pld_allreduce(world, l->used, l->used, l->m.tensor_count, PLD_U8, PLD_MAX, NULL));
    return pld_agree(world, check_left_over(l));
}

static void set_states(struct load *l)
{
    for (uint32_t i = 0; i < l->states; i++) {
        const struct ckpt_entry *e = find_entry(l->m.entries, l->m.entry_count, &l->entries[i]);

        memcpy((void *)(uintptr_t)l->entries[i].value, e->value, e->bytes);
    }
}

/* All that is read, to where it belongs, once no save through another pld_ckpt copies from it. */
static int read_all(struct load *l)
{
    int rc = l->c->params == NULL ? PLD_OK : pldi_params_before_change(l->c->params);

    if (rc == PLD_OK)
        rc = pldi_ckpt_read_wants(&l->wants, &l->m, l->path, l->c->threads);
    if (rc == PLD_OK)
        rc = take_off(l);
    PLDI_TRY(pld_agree(l->c->world, rc));
    set_states(l);
    return pld_agree(l->c->world, l->c->params == NULL ? PLD_OK : pldi_params_push(l->c->params));
}

static int load_all(struct load *l, const char *which, int64_t *out_step)
{
    PLDI_TRY(pldi_ckpt_complete(l->c));
    PLDI_TRY(choose(l, which));
    if (l->path == NULL) {
        *out_step = -1;
        return PLD_OK;
    }
    PLDI_TRY(match_all(l));
    PLDI_TRY(read_all(l));
    *out_step = l->m.step;
    return PLD_OK;
}

int pld_ckpt_load(pld_ckpt *ckpt, const char *which, int64_t *out_step)
{
    PLDI_ENTER();
    struct load l = {.c = ckpt};
    int64_t step = -1;
    int rc;

    PLDI_CHECK_ARG(ckpt != NULL);
    rc = load_all(&l, which, &step);
    if (rc == PLD_OK && out_step != NULL)
        *out_step = step;
    pldi_ckpt_wants_free(&l.wants);
    pldi_ckpt_manifest_free(&l.m);
    pldi_free(l.entries);
    pldi_free(l.landings);
    pldi_free(l.memory);
    pldi_free(l.used);
    pldi_free(l.path);
    return rc;
}
