/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Who writes what.  Ranks that differ in dp, cp and ep alone hold the same
 * tensors.  All bytes of one of them, tensor after tensor with its slots, are one
 * line that is cut into as many equal pieces as there are such replicas; the cuts
 * move to the nearest row.  Everybody computes the same cuts, nothing is sent, and
 * each tensor is cut no more often than the line is.
 */

#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_impl.h"
#include "params/params.h"

/* A cut closer than this to a tensor's end is made there. */
enum { LEAST_PIECE = 65536 };

/* Part of the line, and what was found in it. */
struct line {
    uint64_t begin, end; /* this rank's */
    uint64_t at;
    uint64_t print;
    struct ckpt_piece *pieces;
    size_t count;
};

struct pldi_box pldi_ckpt_box_of(const pld_param_info *info)
{
    struct pldi_box box = {.ndim = info->ndim};

    memcpy(box.offset, info->offset, sizeof(box.offset));
    memcpy(box.extent, info->extent, sizeof(box.extent));
    return box;
}

/* The row of a tensor, which begins at `begin` in the line, where a cut at `cut` is made. */
static int64_t row_at(uint64_t begin, int64_t rows, uint64_t row_bytes, uint64_t cut)
{
    const uint64_t bytes = (uint64_t)rows * row_bytes;
    uint64_t row;

    if (cut <= begin)
        return 0;
    if (cut >= begin + bytes)
        return rows;
    row = (cut - begin + row_bytes / 2) / row_bytes;
    if (row * row_bytes < LEAST_PIECE)
        return 0;
    return bytes - row * row_bytes < LEAST_PIECE ? rows : (int64_t)row;
}

static void add_print(struct line *line, const struct ckpt_piece *p)
{
    const int64_t words[2] = {p->dtype, p->box.ndim};

    line->print = pldi_hash64_chain(line->print, p->name, strlen(p->name) + 1);
    line->print = pldi_hash64_chain(line->print, p->slot, strlen(p->slot) + 1);
    line->print = pldi_hash64_chain(line->print, words, sizeof(words));
    line->print = pldi_hash64_chain(line->print, p->box.offset, sizeof(p->box.offset));
    line->print = pldi_hash64_chain(line->print, p->box.extent, sizeof(p->box.extent));
}

/* Move on over one tensor or slot, and keep what lies in this rank's piece. */
static void pass(struct line *line, struct ckpt_piece whole)
{
    const int64_t rows = pldi_box_rows(&whole.box);
    const uint64_t bytes = (uint64_t)whole.info->count * pld_dtype_bytes(whole.dtype);
    const uint64_t row_bytes = bytes / (uint64_t)rows;
    const int64_t first = row_at(line->at, rows, row_bytes, line->begin);
    const int64_t end = row_at(line->at, rows, row_bytes, line->end);

    add_print(line, &whole);
    line->at += bytes;
    if (first >= end)
        return;
    whole.box = pldi_box_cut(&whole.box, first, end);
    whole.data = (const char *)whole.data + (uint64_t)first * row_bytes;
    line->pieces[line->count++] = whole;
}

static void pass_tensor(struct line *line, const pld_params *params, int id,
                        const pld_param_info *info)
{
    struct ckpt_piece p = {.name = info->name,
                           .slot = "",
                           .dtype = info->dtype,
                           .info = info,
                           .box = pldi_ckpt_box_of(info),
                           .data = info->value};

    pass(line, p);
    for (int s = 0; s < pldi_params_slots(params, id); s++) {
        const struct pldi_slot *slot = pldi_params_slot(params, id, s);

        p.slot = slot->name;
        p.dtype = slot->dtype;
        p.data = slot->value;
        pass(line, p);
    }
}

static uint64_t line_bytes(const pld_params *params, const pld_param_info *infos)
{
    uint64_t bytes = 0;

    for (int i = 0; i < pld_params_count(params); i++) {
        if (!pldi_params_counted(params, i))
            continue;
        bytes += infos[i].count * pld_dtype_bytes(infos[i].dtype);
        for (int s = 0; s < pldi_params_slots(params, i); s++)
            bytes += infos[i].count * pld_dtype_bytes(pldi_params_slot(params, i, s)->dtype);
    }
    return bytes;
}

/* Where replica number r of n begins. */
static uint64_t cut_of(uint64_t bytes, uint64_t r, uint64_t n)
{
    const uint64_t rest = bytes % n;

    return bytes / n * r + (r < rest ? r : rest);
}

static void set_ends(const pld_ckpt *c, struct line *line, uint64_t bytes)
{
    static const pld_axis axes[] = {PLD_AXIS_CP, PLD_AXIS_EP, PLD_AXIS_DP};
    uint64_t r = 0;
    uint64_t n = 1;

    for (size_t i = 0; i < sizeof(axes) / sizeof(axes[0]); i++) {
        r += n * (uint64_t)pld_mesh_coord(c->mesh, axes[i]);
        n *= (uint64_t)pld_mesh_size(c->mesh, axes[i]);
    }
    line->begin = cut_of(bytes, r, n);
    line->end = cut_of(bytes, r + 1, n);
}

static int by_name(const void *left, const void *right)
{
    const struct ckpt_piece *a = left;
    const struct ckpt_piece *b = right;

    return pldi_ckpt_tensor_order(a->name, a->slot, b->name, b->slot);
}

/* The part's tables; every tensor in it has one box. */
static int fill_part(struct ckpt_share *share, const struct line *line)
{
    struct ckpt_manifest *m = &share->part;

    m->shard_count = line->count > 0;
    m->tensor_count = (uint32_t)line->count;
    m->box_count = line->count;
    for (size_t i = 0; i < line->count; i++) {
        struct ckpt_box b = {.box = line->pieces[i].box};

        pldi_ckpt_block_plan(&b, pld_dtype_bytes(line->pieces[i].dtype));
        m->block_count += b.blocks;
    }
    share->data = pldi_alloc(line->count, sizeof(*share->data), "a share's addresses");
    share->slots = pldi_alloc(line->count, sizeof(*share->slots), "a share's slots");
    if (share->data == NULL || share->slots == NULL)
        return PLD_ERR_NOMEM;
    PLDI_TRY(pldi_ckpt_manifest_alloc(m));
    m->block_count = 0;
    for (size_t i = 0; i < line->count; i++) {
        const struct ckpt_piece *p = &line->pieces[i];
        struct ckpt_tensor *t = &m->tensors[i];

        memcpy(share->slots[i], p->slot, strlen(p->slot));
        *t = (struct ckpt_tensor){p->name, share->slots[i], p->dtype, p->info->ndim, {0}, i, 1};
        memcpy(t->shape, p->info->shape, sizeof(t->shape));
        m->boxes[i] =
            (struct ckpt_box){.box = p->box, .tensor = (uint32_t)i, .first_block = m->block_count};
        pldi_ckpt_block_plan(&m->boxes[i], pld_dtype_bytes(p->dtype));
        m->block_count += m->boxes[i].blocks;
        share->data[i] = p->data;
    }
    return PLD_OK;
}

static int find_pieces(const pld_ckpt *c, struct ckpt_share *share, struct line *line)
{
    const int count = pld_params_count(c->params);
    size_t most = 0;

    share->infos = pldi_alloc((size_t)count, sizeof(*share->infos), "tensors to save");
    if (share->infos == NULL)
        return PLD_ERR_NOMEM;
    for (int i = 0; i < count; i++) {
        (void)pld_params_info(c->params, i, &share->infos[i]);
        most += 1 + (size_t)pldi_params_slots(c->params, i);
    }
    line->pieces = pldi_alloc(most, sizeof(*line->pieces), "pieces to save");
    if (line->pieces == NULL)
        return PLD_ERR_NOMEM;
    set_ends(c, line, line_bytes(c->params, share->infos));
    for (int i = 0; i < count; i++)
        if (pldi_params_counted(c->params, i))
            pass_tensor(line, c->params, i, &share->infos[i]);
    if (line->count > 0)
        qsort(line->pieces, line->count, sizeof(*line->pieces), by_name);
    return PLD_OK;
}

int pldi_ckpt_share(const pld_ckpt *c, struct ckpt_share *out)
{
    struct ckpt_share share = {0};
    struct line line = {0};
    int rc = PLD_OK;

    if (c->params != NULL)
        rc = find_pieces(c, &share, &line);
    if (rc == PLD_OK)
        rc = fill_part(&share, &line);
    share.print = line.print;
    pldi_free(line.pieces);
    if (rc < 0)
        pldi_ckpt_share_free(&share);
    else
        *out = share;
    return rc;
}

void pldi_ckpt_share_free(struct ckpt_share *share)
{
    pldi_ckpt_manifest_free(&share->part);
    pldi_free(share->data);
    pldi_free(share->slots);
    pldi_free(share->infos);
    *share = (struct ckpt_share){0};
}
