/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How boxes are cut into blocks.  A block is what is hashed, compressed and read
 * as one; it is a dense range of the box's elements and, so that it can be an HDF5
 * chunk, a box, too.
 */

#include "ckpt/ckpt_manifest.h"

enum { BLOCK_BYTES = 1 << 20, LARGE_BLOCK_BYTES = 4 << 20 };
#define LARGE_BOX_BYTES (INT64_C(1) << 30)

static int64_t lines(const struct ckpt_box *b)
{
    int64_t n = 1;

    for (int d = 0; d < b->dim; d++)
        n *= b->box.extent[d];
    return n;
}

static int64_t inner(const struct ckpt_box *b)
{
    int64_t n = 1;

    for (int d = b->dim + 1; d < b->box.ndim; d++)
        n *= b->box.extent[d];
    return n;
}

/* Blocks along the cut dimension. */
static int64_t per_line(const struct ckpt_box *b)
{
    return (b->box.extent[b->dim] - 1) / b->rows + 1;
}

int64_t pldi_ckpt_block_full(const struct ckpt_box *b)
{
    return b->rows * inner(b);
}

struct ckpt_range pldi_ckpt_block_range(const struct ckpt_box *b, uint64_t index)
{
    const int64_t n = per_line(b);
    const int64_t row = (int64_t)index % n * b->rows;
    const int64_t left = b->box.extent[b->dim] - row;
    const int64_t size = inner(b);

    return (struct ckpt_range){((int64_t)index / n * b->box.extent[b->dim] + row) * size,
                               (left < b->rows ? left : b->rows) * size};
}

uint64_t pldi_ckpt_block_of(const struct ckpt_box *b, int64_t element)
{
    const int64_t row = element / inner(b);
    const int64_t line = row / b->box.extent[b->dim];

    return (uint64_t)(line * per_line(b) + row % b->box.extent[b->dim] / b->rows);
}

void pldi_ckpt_block_plan(struct ckpt_box *b, size_t element)
{
    const int64_t *extent = b->box.extent;
    const int64_t bytes = pldi_box_count(&b->box) * (int64_t)element;
    const int64_t target = bytes > LARGE_BOX_BYTES ? LARGE_BLOCK_BYTES : BLOCK_BYTES;
    int64_t size = (int64_t)element;
    int64_t most, parts;
    int d = b->box.ndim - 1;

    while (d > 0 && size * extent[d] <= target)
        size *= extent[d--];
    most = target / size;
    /* Equal parts: the chunk at the end of a line is stored whole. */
    parts = (extent[d] - 1) / most + 1;
    b->dim = d;
    b->rows = (extent[d] - 1) / parts + 1;
    b->blocks = (uint64_t)(lines(b) * per_line(b));
}
