/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "shard/shard.h"

#include <string.h>

int64_t pldi_box_count(const struct pldi_box *box)
{
    int64_t count = 1;

    for (int d = 0; d < box->ndim; d++)
        count *= box->extent[d];
    return count;
}

int pldi_box_intersect(const struct pldi_box *a, const struct pldi_box *b, struct pldi_box *out)
{
    *out = (struct pldi_box){.ndim = a->ndim};
    for (int d = 0; d < a->ndim; d++) {
        const int64_t a_end = a->offset[d] + a->extent[d];
        const int64_t b_end = b->offset[d] + b->extent[d];
        const int64_t begin = a->offset[d] > b->offset[d] ? a->offset[d] : b->offset[d];
        const int64_t end = a_end < b_end ? a_end : b_end;

        if (begin >= end)
            return 0;
        out->offset[d] = begin;
        out->extent[d] = end - begin;
    }
    return 1;
}

int pldi_box_within(const struct pldi_box *inner, const struct pldi_box *outer)
{
    for (int d = 0; d < inner->ndim; d++)
        if (inner->offset[d] < outer->offset[d] ||
            inner->offset[d] + inner->extent[d] > outer->offset[d] + outer->extent[d])
            return 0;
    return 1;
}

static int row_dimension(const struct pldi_box *box)
{
    int d = 0;

    while (d < box->ndim - 1 && box->extent[d] == 1)
        d++;
    return d;
}

int64_t pldi_box_rows(const struct pldi_box *box)
{
    return box->extent[row_dimension(box)];
}

struct pldi_box pldi_box_cut(const struct pldi_box *box, int64_t begin, int64_t end)
{
    const int d = row_dimension(box);
    struct pldi_box out = *box;

    out.offset[d] += begin;
    out.extent[d] = end - begin;
    return out;
}

/* Position of the first element of `region` in `box`, and the step of each dimension. */
static int64_t place(const struct pldi_box *region, const struct pldi_box *box, int64_t *step)
{
    int64_t at = 0;
    int64_t stride = 1;

    for (int d = box->ndim - 1; d >= 0; d--) {
        step[d] = stride;
        at += (region->offset[d] - box->offset[d]) * stride;
        stride *= box->extent[d];
    }
    return at;
}

struct pldi_runs pldi_runs_begin(const struct pldi_box *region, const struct pldi_box *from,
                                 const struct pldi_box *to)
{
    struct pldi_runs w = {.count = 1};
    int d = region->ndim - 1;

    w.from = place(region, from, w.from_step);
    w.to = place(region, to, w.to_step);
    memcpy(w.extent, region->extent, sizeof(w.extent));
    /* A run goes on into the next outer dimension as long as it fills both boxes. */
    w.count = region->extent[d];
    while (d > 0 && region->extent[d] == from->extent[d] && region->extent[d] == to->extent[d])
        w.count *= region->extent[--d];
    w.outer = d;
    return w;
}

int pldi_runs_next(struct pldi_runs *w)
{
    if (!w->started) {
        w->started = 1;
        return 1;
    }
    for (int d = w->outer - 1; d >= 0; d--) {
        w->from += w->from_step[d];
        w->to += w->to_step[d];
        if (++w->at[d] < w->extent[d])
            return 1;
        w->from -= w->extent[d] * w->from_step[d];
        w->to -= w->extent[d] * w->to_step[d];
        w->at[d] = 0;
    }
    return 0;
}

void pldi_box_copy(const struct pldi_box *region, const struct pldi_box *from, const void *source,
                   const struct pldi_box *to, void *target, size_t element)
{
    struct pldi_runs w = pldi_runs_begin(region, from, to);

    while (pldi_runs_next(&w))
        memcpy((char *)target + (size_t)w.to * element,
               (const char *)source + (size_t)w.from * element, (size_t)w.count * element);
}
