/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "ckpt/ckpt_hdf5_impl.h"

#include <fcntl.h>

#include "base/base_err.h"
#include "base/base_mem.h"

/* The part, its file, and the data set that chunks go to. */
struct ckpt_h5 {
    struct ckpt_manifest *part;
    char *path;
    int memory;
    hid_t file;
    hid_t set;
    const struct ckpt_box *box;
};

static hid_t space_of(const struct ckpt_box *b)
{
    hsize_t dims[PLD_MAX_DIMS];

    for (int d = 0; d < b->box.ndim; d++)
        dims[d] = (hsize_t)b->box.extent[d];
    return H5Screate_simple(b->box.ndim, dims, NULL);
}

/* Contiguous with its place in the file known at once, or in chunks. */
static hid_t creation_of(const struct ckpt_box *b, int compressed)
{
    const hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    const unsigned level[1] = {1};
    hsize_t chunk[PLD_MAX_DIMS];
    int good = p >= 0 && H5Pset_fill_time(p, H5D_FILL_TIME_NEVER) >= 0;

    for (int d = 0; d < b->box.ndim; d++)
        chunk[d] = d < b->dim ? 1 : d == b->dim ? (hsize_t)b->rows : (hsize_t)b->box.extent[d];
    if (good && !compressed)
        good = H5Pset_layout(p, H5D_CONTIGUOUS) >= 0 &&
               H5Pset_alloc_time(p, H5D_ALLOC_TIME_EARLY) >= 0;
    else if (good)
        good = H5Pset_chunk(p, b->box.ndim, chunk) >= 0 && H5Pset_shuffle(p) >= 0 &&
               H5Pset_filter(p, CKPT_H5_ZSTD, H5Z_FLAG_MANDATORY, 1, level) >= 0;
    if (good)
        return p;
    if (p >= 0)
        (void)H5Pclose(p);
    return -1;
}

static int describe(hid_t set, const struct ckpt_tensor *t, const struct ckpt_box *b)
{
    if (pldi_ckpt_h5_text(set, "dtype", pld_dtype_name(t->dtype)) < 0 ||
        pldi_ckpt_h5_numbers(set, "global_shape", t->shape, t->ndim) < 0 ||
        pldi_ckpt_h5_numbers(set, "offset", b->box.offset, t->ndim) < 0)
        return -1;
    return 0;
}

/* Blocks of a contiguous data set follow each other. */
static void place_blocks(struct ckpt_manifest *part, const struct ckpt_box *b, haddr_t at,
                         size_t element)
{
    for (uint64_t i = 0; i < b->blocks; i++) {
        struct ckpt_block *block = &part->blocks[b->first_block + i];

        block->offset = at;
        block->bytes = (uint64_t)pldi_ckpt_block_range(b, i).count * element;
        block->form = CKPT_PLAIN;
        at += block->bytes;
    }
}

static int make_set(hid_t file, struct ckpt_manifest *part, const struct ckpt_box *b,
                    int compressed)
{
    const struct ckpt_tensor *t = &part->tensors[b->tensor];
    const hid_t type = pldi_ckpt_h5_type(t->dtype);
    const hid_t space = space_of(b);
    const hid_t creation = creation_of(b, compressed);
    char name[CKPT_H5_PATH];
    hid_t set = -1;
    haddr_t at = 0;
    int rc = -1;

    if (type >= 0 && space >= 0 && creation >= 0)
        set = pldi_ckpt_h5_set(file, pldi_ckpt_h5_name(t->name, t->slot, name), type, space,
                               creation);
    if (set >= 0)
        rc = describe(set, t, b);
    if (rc == 0 && !compressed) {
        at = H5Dget_offset(set);
        rc = at == HADDR_UNDEF ? -1 : 0;
        place_blocks(part, b, at, pld_dtype_bytes(t->dtype));
    }
    if (set >= 0 && H5Dclose(set) < 0)
        rc = -1;
    if (creation >= 0)
        (void)H5Pclose(creation);
    if (space >= 0)
        (void)H5Sclose(space);
    if (type >= 0)
        (void)H5Tclose(type);
    return rc;
}

static int make_sets(hid_t file, const char *path, struct ckpt_manifest *part, int compressed)
{
    if ((compressed && pldi_ckpt_h5_filter() < 0) || pldi_ckpt_h5_uuid(file, part) < 0)
        return pldi_ckpt_h5_fail("write", path);
    for (uint64_t b = 0; b < part->box_count; b++)
        if (make_set(file, part, &part->boxes[b], compressed) < 0)
            return pldi_ckpt_h5_fail("write", path);
    return PLD_OK;
}

int pldi_ckpt_h5_layout(int memory, const char *path, struct ckpt_manifest *part)
{
    struct ckpt_h5_guard guard;
    hid_t file;
    int rc;

    pldi_ckpt_h5_enter(&guard);
    file = pldi_ckpt_h5_create(memory, part->box_count);
    if (file < 0)
        rc = pldi_ckpt_h5_fail("create", path);
    else
        rc = pldi_ckpt_h5_close(file, path, make_sets(file, path, part, 0));
    pldi_ckpt_h5_leave(&guard);
    return rc;
}

static int begin(const char *path, struct ckpt_h5 *h)
{
    struct ckpt_h5_guard guard;
    int rc;

    pldi_ckpt_h5_enter(&guard);
    h->file = pldi_ckpt_h5_create(h->memory, h->part->box_count);
    if (h->file < 0) {
        rc = pldi_ckpt_h5_fail("create", path);
    } else {
        rc = make_sets(h->file, path, h->part, 1);
        if (rc < 0)
            (void)pldi_ckpt_h5_close(h->file, path, rc);
    }
    pldi_ckpt_h5_leave(&guard);
    return rc;
}

int pldi_ckpt_h5_begin(int memory, const char *path, struct ckpt_manifest *part,
                       struct ckpt_h5 **out)
{
    struct ckpt_h5 *h = pldi_alloc(1, sizeof(*h), "a shard");
    int rc = PLD_ERR_NOMEM;

    if (h == NULL)
        return PLD_ERR_NOMEM;
    *h = (struct ckpt_h5){
        .part = part, .memory = memory, .path = pldi_strdup(path), .file = -1, .set = -1};
    if (h->path != NULL)
        rc = begin(path, h);
    if (rc < 0) {
        pldi_free(h->path);
        pldi_free(h);
        return rc;
    }
    *out = h;
    return PLD_OK;
}

static int open_set(struct ckpt_h5 *h, const struct ckpt_box *b)
{
    const struct ckpt_tensor *t = &h->part->tensors[b->tensor];
    char name[CKPT_H5_PATH];

    if (h->box == b)
        return 0;
    if (h->set >= 0)
        (void)H5Dclose(h->set);
    h->set = H5Dopen2(h->file, pldi_ckpt_h5_name(t->name, t->slot, name), H5P_DEFAULT);
    h->box = h->set < 0 ? NULL : b;
    return h->set < 0 ? -1 : 0;
}

/* Where in the data set a chunk begins: its first element's position, dimension by dimension. */
static void chunk_place(const struct ckpt_box *b, uint64_t index, hsize_t place[PLD_MAX_DIMS])
{
    int64_t at = pldi_ckpt_block_range(b, index).begin;

    for (int d = b->box.ndim - 1; d >= 0; d--) {
        place[d] = (hsize_t)(at % b->box.extent[d]);
        at /= b->box.extent[d];
    }
}

static int put_chunk(struct ckpt_h5 *h, const struct ckpt_box *b, uint64_t index, const void *data)
{
    struct ckpt_block *block = &h->part->blocks[b->first_block + index];
    /* One bit for each filter that the chunk did not go through. */
    const unsigned skipped = block->form == CKPT_PLAIN ? 0x3 : 0;
    hsize_t place[PLD_MAX_DIMS];
    unsigned mask = 0;
    hsize_t bytes = 0;
    haddr_t at = HADDR_UNDEF;

    chunk_place(b, index, place);
    if (open_set(h, b) < 0 ||
        H5Dwrite_chunk(h->set, H5P_DEFAULT, skipped, place, (size_t)block->bytes, data) < 0 ||
        H5Dget_chunk_info_by_coord(h->set, place, &mask, &at, &bytes) < 0 || at == HADDR_UNDEF)
        return -1;
    block->offset = at;
    /* Where holes cannot be punched the shard takes memory until it is written, no more. */
    (void)fallocate(h->memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
                    (off_t)block->bytes);
    return 0;
}

int pldi_ckpt_h5_chunk(struct ckpt_h5 *h, const struct ckpt_box *box, uint64_t index,
                       const void *data)
{
    struct ckpt_h5_guard guard;
    int rc = PLD_OK;

    pldi_ckpt_h5_enter(&guard);
    if (put_chunk(h, box, index, data) < 0)
        rc = pldi_ckpt_h5_fail("write", h->path);
    pldi_ckpt_h5_leave(&guard);
    return rc;
}

int pldi_ckpt_h5_end(struct ckpt_h5 **h, int code)
{
    struct ckpt_h5_guard guard;

    if (*h == NULL)
        return code;
    pldi_ckpt_h5_enter(&guard);
    if ((*h)->set >= 0)
        (void)H5Dclose((*h)->set);
    code = pldi_ckpt_h5_close((*h)->file, (*h)->path, code);
    pldi_ckpt_h5_leave(&guard);
    pldi_free((*h)->path);
    pldi_free(*h);
    *h = NULL;
    return code;
}
