/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The index is for other programs.  libhdf5 shows fill values where a shard is
 * missing, so those are NaN: a hole is seen.  It looks for a shard beside the
 * index first and in the reader's directory then, so shards have the save's uuid
 * in their names: it never finds those of another save.
 */

#include "ckpt/ckpt_hdf5_impl.h"

#include <string.h>

#include "base/base_err.h"

static int set_fill(hid_t creation, hid_t type, pld_dtype dtype)
{
    static const unsigned char nan32[] = {0, 0, 0xC0, 0x7F};
    static const unsigned char nan64[] = {0, 0, 0, 0, 0, 0, 0xF8, 0x7F};
    static const unsigned char nan_half[] = {0, 0x7E};
    static const unsigned char nan_bfloat[] = {0xC0, 0x7F};
    const unsigned char *fill = NULL;

    if (dtype == PLD_F32)
        fill = nan32;
    else if (dtype == PLD_F64)
        fill = nan64;
    else if (dtype == PLD_F16)
        fill = nan_half;
    else if (dtype == PLD_BF16)
        fill = nan_bfloat;
    return fill == NULL ? 0 : H5Pset_fill_value(creation, type, fill);
}

/* One box of the tensor comes from one data set of a shard. */
static int map_box(hid_t creation, hid_t space, const struct ckpt_manifest *m,
                   const struct ckpt_box *b, const char *name)
{
    hsize_t start[PLD_MAX_DIMS], count[PLD_MAX_DIMS];
    hid_t source;
    int rc = -1;

    for (int d = 0; d < b->box.ndim; d++) {
        start[d] = (hsize_t)b->box.offset[d];
        count[d] = (hsize_t)b->box.extent[d];
    }
    source = H5Screate_simple(b->box.ndim, count, NULL);
    if (source >= 0 && H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
        H5Pset_virtual(creation, space, m->shards[b->shard].name, name, source) >= 0)
        rc = 0;
    if (source >= 0)
        (void)H5Sclose(source);
    return rc;
}

static hid_t virtual_set(hid_t file, const struct ckpt_manifest *m, const struct ckpt_tensor *t,
                         const char *name, hid_t type)
{
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t dims[PLD_MAX_DIMS];
    hid_t set = -1;
    hid_t space;
    int good;

    for (int d = 0; d < t->ndim; d++)
        dims[d] = (hsize_t)t->shape[d];
    space = H5Screate_simple(t->ndim, dims, NULL);
    good = creation >= 0 && space >= 0 && set_fill(creation, type, t->dtype) >= 0;
    for (uint32_t b = 0; good && b < t->boxes; b++)
        good = map_box(creation, space, m, &m->boxes[t->first_box + b], name) == 0;
    if (good && H5Sselect_all(space) >= 0)
        set = pldi_ckpt_h5_set(file, name, type, space, creation);
    if (space >= 0)
        (void)H5Sclose(space);
    if (creation >= 0)
        (void)H5Pclose(creation);
    return set;
}

static int add_tensor(hid_t file, const struct ckpt_manifest *m, const struct ckpt_tensor *t)
{
    const hid_t type = pldi_ckpt_h5_type(t->dtype);
    char name[CKPT_H5_PATH];
    hid_t set = -1;
    int rc = -1;

    (void)pldi_ckpt_h5_name(t->name, t->slot, name);
    if (type >= 0)
        set = virtual_set(file, m, t, name, type);
    if (set >= 0) {
        rc = pldi_ckpt_h5_text(set, "dtype", pld_dtype_name(t->dtype));
        if (H5Dclose(set) < 0)
            rc = -1;
    }
    if (type >= 0)
        (void)H5Tclose(type);
    return rc;
}

static int add_state(hid_t file, const struct ckpt_entry *e)
{
    const hsize_t dims[1] = {e->bytes};
    const hid_t space = H5Screate_simple(1, dims, NULL);
    char name[CKPT_H5_PATH];
    hid_t set = -1;
    int rc = -1;

    if (space >= 0)
        set = pldi_ckpt_h5_set(file, pldi_ckpt_h5_entry_name(e, name), H5T_STD_U8LE, space,
                               H5P_DEFAULT);
    if (set >= 0) {
        rc = H5Dwrite(set, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, e->value) < 0 ? -1 : 0;
        if (H5Dclose(set) < 0)
            rc = -1;
    }
    if (space >= 0)
        (void)H5Sclose(space);
    return rc;
}

static int add_entries(hid_t file, const struct ckpt_manifest *m)
{
    const hid_t meta = H5Gcreate2(file, "meta", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    int rc = meta < 0 ? -1 : 0;

    for (uint32_t i = 0; rc == 0 && i < m->entry_count; i++) {
        const struct ckpt_entry *e = &m->entries[i];

        if (e->kind == CKPT_NUMBER)
            rc = pldi_ckpt_h5_number(meta, e->key, e->number);
        else if (e->kind == CKPT_TEXT)
            rc = pldi_ckpt_h5_text(meta, e->key, e->value);
        else
            rc = add_state(file, e);
    }
    if (meta >= 0 && H5Gclose(meta) < 0)
        rc = -1;
    return rc;
}

static int fill_index(hid_t file, const char *path, const struct ckpt_manifest *m)
{
    const int64_t format = CKPT_FORMAT;

    if (pldi_ckpt_h5_uuid(file, m) < 0 || pldi_ckpt_h5_text(file, "mesh", m->mesh) < 0 ||
        pldi_ckpt_h5_text(file, "polder", m->writer) < 0 ||
        pldi_ckpt_h5_numbers(file, "format", &format, 1) < 0 ||
        pldi_ckpt_h5_numbers(file, "time_ns", &m->time, 1) < 0 || add_entries(file, m) < 0)
        return pldi_ckpt_h5_fail("write", path);
    for (uint32_t t = 0; t < m->tensor_count; t++)
        if (add_tensor(file, m, &m->tensors[t]) < 0)
            return pldi_ckpt_h5_fail("write", path);
    return PLD_OK;
}

int pldi_ckpt_h5_index(int memory, const char *path, const struct ckpt_manifest *m)
{
    struct ckpt_h5_guard guard;
    hid_t file;
    int rc;

    pldi_ckpt_h5_enter(&guard);
    file = pldi_ckpt_h5_create(memory, m->tensor_count);
    if (file < 0)
        rc = pldi_ckpt_h5_fail("create", path);
    else
        rc = pldi_ckpt_h5_close(file, path, fill_index(file, path, m));
    pldi_ckpt_h5_leave(&guard);
    return rc;
}
