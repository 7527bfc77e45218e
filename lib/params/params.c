/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The list of tensors of one rank, and all that needs no other rank.  What
 * commit finds out together with the others is in params_commit.c, what others
 * attach to the tensors in params_slots.c.
 */

#include "params/params_impl.h"

#include <string.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "coll/coll_mem.h"
#include "device/device.h"

/* What a caller built against 0.1 passes.  Stays when the struct grows. */
enum { PARAM_SIZE_0_1 = 240 };
_Static_assert(sizeof(pld_param) == PARAM_SIZE_0_1, "padding, or ABI");
_Static_assert((int)PLD_F32 == 0 && (int)PLD_F64 == 1 && (int)PLD_F16 == 2 && (int)PLD_BF16 == 3 &&
                   PLDI_PARAM_DTYPES == 4,
               "the floating dtypes come first");

int pldi_params_reserve(void **array, int count, int *capacity, size_t bytes, const char *what)
{
    const int wanted = *capacity == 0 ? 8 : 2 * *capacity;
    void *grown;

    if (count < *capacity)
        return PLD_OK;
    grown = pldi_alloc((size_t)wanted, bytes, what);
    if (grown == NULL)
        return PLD_ERR_NOMEM;
    if (count > 0)
        memcpy(grown, *array, (size_t)count * bytes);
    pldi_free(*array);
    *array = grown;
    *capacity = wanted;
    return PLD_OK;
}

int pld_params_create(pld_mesh *mesh, pld_params **out)
{
    pld_params *params;
    int rc = PLD_OK;

    PLDI_CHECK_ARG(mesh != NULL && out != NULL);
    params = pldi_alloc(1, sizeof(*params), "a set of tensors");
    if (params == NULL)
        return PLD_ERR_NOMEM;
    params->mesh = mesh;
    params->device = pldi_mem_device(pld_mesh_world(mesh));
    if (params->device != NULL)
        rc = params->device->ops->event_create(params->device, 0, &params->event);
    if (rc < 0)
        pld_params_destroy(&params);
    else
        *out = params;
    return rc;
}

void pld_params_destroy(pld_params **params)
{
    pld_params *p;

    if (params == NULL || *params == NULL)
        return;
    p = *params;
    for (int i = 0; i < p->count; i++) {
        pldi_free(p->entries[i].slots);
        pldi_free((void *)(uintptr_t)p->entries[i].info.name);
    }
    for (int i = 0; i < p->group_count; i++)
        pld_group_destroy(&p->groups[i]);
    for (int i = 0; i < PLDI_PARAM_DTYPES; i++) {
        pldi_params_free(p, p->arenas[i].value);
        pldi_params_free(p, p->arenas[i].grad);
    }
    if (p->device != NULL)
        p->device->ops->event_destroy(p->device, &p->event);
    pldi_free(p->entries);
    pldi_free(p->groups);
    pldi_free(p->shared_ids);
    pldi_free(p->states);
    pldi_free(p);
    *params = NULL;
}

static int check_flag(const char *name, const char *field, int value)
{
    if (value != 0 && value != 1)
        return pldi_fail(PLD_ERR_ARG, "tensor '%s': %s is %d, need 0 or 1", name, field, value);
    return PLD_OK;
}

static int check_fields(const pld_param *o)
{
    if (o->name == NULL || o->name[0] == '\0')
        return pldi_fail(PLD_ERR_ARG, "a tensor needs a name");
    if (strlen(o->name) >= PLD_MAX_NAME)
        return pldi_fail(PLD_ERR_ARG, "tensor name '%s' has %zu bytes, at most %d fit", o->name,
                         strlen(o->name), PLD_MAX_NAME - 1);
    if ((unsigned)o->dtype >= PLDI_PARAM_DTYPES)
        return pldi_fail(PLD_ERR_ARG, "tensor '%s': dtype is %s (%d), need f32, f64, f16 or bf16",
                         o->name, pld_dtype_name(o->dtype), (int)o->dtype);
    if (o->ndim < 1 || o->ndim > PLD_MAX_DIMS)
        return pldi_fail(PLD_ERR_ARG, "tensor '%s': ndim is %d, need 1..%d", o->name, o->ndim,
                         PLD_MAX_DIMS);
    if ((o->value == NULL) != (o->grad == NULL))
        return pldi_fail(PLD_ERR_ARG, "tensor '%s': value and grad are set both or neither",
                         o->name);
    PLDI_TRY(check_flag(o->name, "decay", o->decay));
    return check_flag(o->name, "shared", o->shared);
}

/* Copies shape and box, the whole tensor by default, and counts the box's elements. */
static int set_box(const pld_param *o, pld_param_info *info)
{
    const int whole = o->extent[0] <= 0;
    size_t bytes = pld_dtype_bytes(o->dtype);
    int64_t all = (int64_t)bytes;

    if (o->extent[0] < 0)
        return pldi_fail(PLD_ERR_ARG, "tensor '%s': extent[0] is %lld, need 0 or more", o->name,
                         (long long)o->extent[0]);
    for (int d = 0; d < o->ndim; d++) {
        const int64_t n = o->shape[d];
        const int64_t begin = whole ? 0 : o->offset[d];
        const int64_t size = whole ? n : o->extent[d];

        if (n < 1 || __builtin_mul_overflow(all, n, &all))
            return pldi_fail(PLD_ERR_ARG, "tensor '%s': shape[%d] is %lld, need 1 or more%s",
                             o->name, d, (long long)n, n < 1 ? "" : " and fewer than 2^63 bytes");
        if (begin < 0 || size < 1 || begin > n - size)
            return pldi_fail(PLD_ERR_ARG,
                             "tensor '%s': offset[%d] %lld and extent %lld leave its shape, %lld",
                             o->name, d, (long long)begin, (long long)size, (long long)n);
        if (__builtin_mul_overflow(bytes, (size_t)size, &bytes))
            return pldi_fail(PLD_ERR_ARG, "tensor '%s' is larger than memory", o->name);
        info->shape[d] = n;
        info->offset[d] = begin;
        info->extent[d] = size;
    }
    info->count = bytes / pld_dtype_bytes(o->dtype);
    return PLD_OK;
}

/* Kernels and NCCL reach device memory alone. */
static int check_place(const pld_params *params, const pld_param *o)
{
    const void *const places[] = {o->value, o->grad};

    for (int i = 0; i < 2 && params->device != NULL && o->value != NULL; i++)
        if (params->device->ops->where(params->device, places[i]) != PLD_MEM_DEVICE)
            return pldi_fail(PLD_ERR_ARG,
                             "tensor '%s': %s is not in device memory, but the run is "
                             "on a GPU",
                             o->name, i == 0 ? "value" : "grad");
    return PLD_OK;
}

static int find(const pld_params *params, const char *name, uint64_t hash)
{
    for (int i = 0; i < params->count; i++)
        if (params->entries[i].name_hash == hash && strcmp(params->entries[i].info.name, name) == 0)
            return i;
    return -1;
}

static int append(pld_params *params, const pld_param *o, const struct param_entry *entry)
{
    char *name;

    PLDI_TRY(pldi_params_reserve((void **)&params->entries, params->count, &params->capacity,
                                 sizeof(params->entries[0]), "a list of tensors"));
    name = pldi_strdup(o->name);
    if (name == NULL)
        return PLD_ERR_NOMEM;
    params->entries[params->count] = *entry;
    params->entries[params->count].info.name = name;
    params->count++;
    return PLD_OK;
}

int pld_params_add(pld_params *params, const pld_param *param, int *out_id)
{
    struct param_entry entry = {.offset = PLDI_OUTSIDE, .counted = 1};
    pld_param o;

    PLDI_CHECK_ARG(params != NULL && param != NULL);
    PLDI_TRY(pldi_opts_copy(&o, sizeof(o), param, PARAM_SIZE_0_1));
    PLDI_TRY(check_fields(&o));
    if (params->committed)
        return pldi_fail(PLD_ERR_STATE, "tensor '%s' is added after the commit", o.name);
    entry.name_hash = pldi_hash64(o.name, strlen(o.name));
    if (find(params, o.name, entry.name_hash) >= 0)
        return pldi_fail(PLD_ERR_ARG, "tensor '%s' is added twice", o.name);
    PLDI_TRY(check_place(params, &o));
    PLDI_TRY(set_box(&o, &entry.info));
    entry.info.value = o.value;
    entry.info.grad = o.grad;
    entry.info.dtype = o.dtype;
    entry.info.ndim = o.ndim;
    entry.info.decay = o.decay;
    entry.info.shared = o.shared;
    entry.info.owner = 1;
    entry.outside = o.value != NULL;
    PLDI_TRY(append(params, &o, &entry));
    if (out_id != NULL)
        *out_id = params->count - 1;
    return PLD_OK;
}

int pld_params_count(const pld_params *params)
{
    return params->count;
}

int pld_params_find(const pld_params *params, const char *name, int *out_id)
{
    int id;

    PLDI_CHECK_ARG(params != NULL && name != NULL && out_id != NULL);
    id = find(params, name, pldi_hash64(name, strlen(name)));
    if (id < 0)
        return pldi_fail(PLD_ERR_NOTFOUND, "this rank holds no tensor '%s'", name);
    *out_id = id;
    return PLD_OK;
}

static const struct param_entry *entry_of(const pld_params *params, int id)
{
    return params == NULL || id < 0 || id >= params->count ? NULL : &params->entries[id];
}

int pld_params_info(const pld_params *params, int id, pld_param_info *out)
{
    PLDI_CHECK_ARG(params != NULL && out != NULL);
    if (entry_of(params, id) == NULL)
        return pldi_fail(PLD_ERR_ARG, "there is no tensor %d, only 0..%d", id, params->count - 1);
    *out = params->entries[id].info;
    return PLD_OK;
}

void *pld_params_value(const pld_params *params, int id)
{
    const struct param_entry *entry = entry_of(params, id);

    return entry == NULL || !params->committed ? NULL : entry->info.value;
}

void *pld_params_grad(const pld_params *params, int id)
{
    const struct param_entry *entry = entry_of(params, id);

    return entry == NULL || !params->committed ? NULL : entry->info.grad;
}

pld_mesh *pldi_params_mesh(const pld_params *params)
{
    return params->mesh;
}

int pldi_params_committed(const pld_params *params)
{
    return params->committed;
}

size_t pldi_params_padded(size_t count)
{
    return (count + PLDI_PARAM_ALIGN - 1) / PLDI_PARAM_ALIGN * PLDI_PARAM_ALIGN;
}

const struct pldi_arena *pldi_params_arena(const pld_params *params, pld_dtype dtype)
{
    return &params->arenas[dtype];
}

size_t pldi_params_offset(const pld_params *params, int id)
{
    return params->entries[id].offset;
}

int pldi_params_counted(const pld_params *params, int id)
{
    return params->entries[id].counted;
}

pld_group *pldi_params_holders(const pld_params *params, int id)
{
    return params->entries[id].holders;
}

int pldi_params_shared(const pld_params *params)
{
    return params->shared_count;
}

int pldi_params_shared_id(const pld_params *params, int index)
{
    return params->shared_ids[index];
}
