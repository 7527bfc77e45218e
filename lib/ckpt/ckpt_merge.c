/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The ranks' reports become one manifest.  Here is the one place where all boxes of
 * a tensor are seen: they must cover it without overlap, or the save could not be
 * loaded on another layout.
 */

#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_impl.h"

/* A tensor of a report. */
struct source {
    const struct ckpt_manifest *report;
    const struct ckpt_tensor *tensor;
    uint32_t shard; /* the report's one, in the result */
};

static int by_tensor(const void *left, const void *right)
{
    const struct source *a = left;
    const struct source *b = right;
    const int order =
        pldi_ckpt_tensor_order(a->tensor->name, a->tensor->slot, b->tensor->name, b->tensor->slot);

    return order != 0 ? order : (a->shard > b->shard) - (a->shard < b->shard);
}

static int by_offset(const void *left, const void *right)
{
    const struct ckpt_box *a = left;
    const struct ckpt_box *b = right;

    for (int d = 0; d < a->box.ndim; d++)
        if (a->box.offset[d] != b->box.offset[d])
            return a->box.offset[d] < b->box.offset[d] ? -1 : 1;
    return 0;
}

static int same_tensor(const struct ckpt_tensor *a, const struct ckpt_tensor *b)
{
    return a->dtype == b->dtype && a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, sizeof(a->shape)) == 0;
}

/* Boxes are sorted by where they begin, so only those before one's end can meet it. */
static int check_cover(const struct ckpt_manifest *m, const struct ckpt_tensor *t)
{
    const struct ckpt_box *boxes = &m->boxes[t->first_box];
    char words[2 * PLD_MAX_NAME];
    int64_t covered = 0;
    int64_t all = 1;
    struct pldi_box common;

    for (int d = 0; d < t->ndim; d++)
        all *= t->shape[d];
    for (uint32_t i = 0; i < t->boxes; i++) {
        const int64_t end = boxes[i].box.offset[0] + boxes[i].box.extent[0];

        covered += pldi_box_count(&boxes[i].box);
        for (uint32_t j = i + 1; j < t->boxes && boxes[j].box.offset[0] < end; j++)
            if (pldi_box_intersect(&boxes[i].box, &boxes[j].box, &common))
                return pldi_fail(PLD_ERR_MISMATCH,
                                 "tensor %s is held in boxes that overlap without being equal",
                                 pldi_ckpt_tensor_words(t->name, t->slot, words, sizeof(words)));
    }
    if (covered != all)
        return pldi_fail(PLD_ERR_MISMATCH, "the boxes of tensor %s hold %lld of its %lld elements",
                         pldi_ckpt_tensor_words(t->name, t->slot, words, sizeof(words)),
                         (long long)covered, (long long)all);
    return PLD_OK;
}

static void take_box(struct ckpt_manifest *out, const struct source *s, uint32_t which)
{
    const struct ckpt_box *from = &s->report->boxes[s->tensor->first_box + which];
    struct ckpt_box *b = &out->boxes[out->box_count++];

    *b = *from;
    b->shard = s->shard;
    b->tensor = out->tensor_count - 1;
    b->first_block = out->block_count;
    memcpy(&out->blocks[out->block_count], &s->report->blocks[from->first_block],
           from->blocks * sizeof(*out->blocks));
    out->block_count += from->blocks;
}

static int take_tensors(struct ckpt_manifest *out, const struct source *sources, size_t count)
{
    char words[2 * PLD_MAX_NAME];

    for (size_t i = 0; i < count; i++) {
        const struct ckpt_tensor *from = sources[i].tensor;
        struct ckpt_tensor *t = out->tensor_count > 0 ? &out->tensors[out->tensor_count - 1] : NULL;

        if (t == NULL || pldi_ckpt_tensor_order(t->name, t->slot, from->name, from->slot) != 0) {
            t = &out->tensors[out->tensor_count++];
            *t = *from;
            t->first_box = out->box_count;
            t->boxes = 0;
        } else if (!same_tensor(t, from)) {
            return pldi_fail(PLD_ERR_MISMATCH, "ranks hold tensor %s with two shapes or dtypes",
                             pldi_ckpt_tensor_words(t->name, t->slot, words, sizeof(words)));
        }
        for (uint32_t b = 0; b < from->boxes; b++)
            take_box(out, &sources[i], b);
        t->boxes += from->boxes;
    }
    for (uint32_t i = 0; i < out->tensor_count; i++) {
        const struct ckpt_tensor *t = &out->tensors[i];

        qsort(&out->boxes[t->first_box], t->boxes, sizeof(*out->boxes), by_offset);
        PLDI_TRY(check_cover(out, t));
    }
    return PLD_OK;
}

/* The encoder writes blocks box by box, so sorting boxes does not move blocks. */
static size_t list_sources(const struct ckpt_manifest *reports, int count, struct source *sources)
{
    size_t n = 0;
    uint32_t shard = 0;

    for (int r = 0; r < count; r++) {
        for (uint32_t t = 0; t < reports[r].tensor_count; t++)
            sources[n++] = (struct source){&reports[r], &reports[r].tensors[t], shard};
        shard += reports[r].shard_count;
    }
    if (n > 0)
        qsort(sources, n, sizeof(*sources), by_tensor);
    return n;
}

static int merge_into(struct ckpt_manifest *reports, int count, struct ckpt_manifest *out,
                      struct source *sources)
{
    const size_t n = list_sources(reports, count, sources);

    PLDI_TRY(pldi_ckpt_manifest_alloc(out));
    out->shard_count = out->tensor_count = 0;
    out->box_count = out->block_count = 0;
    for (int r = 0; r < count; r++)
        for (uint32_t s = 0; s < reports[r].shard_count; s++)
            out->shards[out->shard_count++] = reports[r].shards[s];
    return take_tensors(out, sources, n);
}

int pldi_ckpt_merge(struct ckpt_manifest *reports, int count, struct ckpt_manifest *out)
{
    struct source *sources;
    int rc;

    for (int r = 0; r < count; r++) {
        out->shard_count += reports[r].shard_count;
        out->tensor_count += reports[r].tensor_count;
        out->box_count += reports[r].box_count;
        out->block_count += reports[r].block_count;
    }
    sources = pldi_alloc(out->tensor_count, sizeof(*sources), "the ranks' tensors");
    if (sources == NULL)
        return PLD_ERR_NOMEM;
    rc = merge_into(reports, count, out, sources);
    pldi_free(sources);
    return rc;
}
