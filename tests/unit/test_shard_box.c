/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Boxes against brute force: every element of a small tensor is looked at. */

#include "shard/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tap.h"

enum { TRIES = 4000, MOST = 6 * 6 * 6 * 6 };

static uint32_t random_state = 1;

static int64_t below(int64_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (int64_t)(random_state >> 8) % n;
}

static struct pldi_box random_box(const int64_t *shape, int ndim)
{
    struct pldi_box b = {.ndim = ndim};

    for (int d = 0; d < ndim; d++) {
        b.offset[d] = below(shape[d]);
        b.extent[d] = 1 + below(shape[d] - b.offset[d]);
    }
    return b;
}

/* Coordinates of element number `at` of a tensor. */
static void coords_of(const int64_t *shape, int ndim, int64_t at, int64_t *out)
{
    for (int d = ndim - 1; d >= 0; d--) {
        out[d] = at % shape[d];
        at /= shape[d];
    }
}

/* Position in the box of an element of the tensor; -1: it is not in it. */
static int64_t position(const struct pldi_box *b, const int64_t *coords)
{
    int64_t at = 0;

    for (int d = 0; d < b->ndim; d++) {
        if (coords[d] < b->offset[d] || coords[d] >= b->offset[d] + b->extent[d])
            return -1;
        at = at * b->extent[d] + coords[d] - b->offset[d];
    }
    return at;
}

static int64_t product(const int64_t *shape, int ndim)
{
    int64_t n = 1;

    for (int d = 0; d < ndim; d++)
        n *= shape[d];
    return n;
}

/* Copy what two boxes share, and compare with copying it element by element. */
static int try_copy(const int64_t *shape, int ndim)
{
    static uint16_t from[MOST], to[MOST], expected[MOST];
    const struct pldi_box a = random_box(shape, ndim);
    const struct pldi_box b = random_box(shape, ndim);
    struct pldi_box common;
    int64_t coords[PLD_MAX_DIMS];
    int64_t shared = 0;
    int meet;

    for (int i = 0; i < MOST; i++) {
        from[i] = (uint16_t)(i + 1);
        to[i] = expected[i] = 0;
    }
    for (int64_t i = 0; i < product(shape, ndim); i++) {
        coords_of(shape, ndim, i, coords);
        if (position(&a, coords) < 0 || position(&b, coords) < 0)
            continue;
        expected[position(&b, coords)] = from[position(&a, coords)];
        shared++;
    }
    meet = pldi_box_intersect(&a, &b, &common);
    if (meet != (shared > 0) || (meet && pldi_box_count(&common) != shared))
        return 0;
    if (meet && !(pldi_box_within(&common, &a) && pldi_box_within(&common, &b)))
        return 0;
    if (meet)
        pldi_box_copy(&common, &a, from, &b, to, sizeof(from[0]));
    return memcmp(to, expected, sizeof(to)) == 0;
}

/* Rows are dense ranges, and a box is all of its rows. */
static int try_cut(const int64_t *shape, int ndim)
{
    const struct pldi_box a = random_box(shape, ndim);
    const int64_t rows = pldi_box_rows(&a);
    const int64_t per_row = pldi_box_count(&a) / rows;
    const int64_t begin = below(rows);
    const int64_t end = begin + 1 + below(rows - begin);
    const struct pldi_box cut = pldi_box_cut(&a, begin, end);
    int64_t coords[PLD_MAX_DIMS];

    if (per_row * rows != pldi_box_count(&a) || pldi_box_count(&cut) != (end - begin) * per_row ||
        !pldi_box_within(&cut, &a))
        return 0;
    for (int64_t i = 0; i < product(shape, ndim); i++) {
        int64_t in_a, in_cut;

        coords_of(shape, ndim, i, coords);
        in_a = position(&a, coords);
        in_cut = position(&cut, coords);
        if (in_cut >= 0 && in_a != begin * per_row + in_cut)
            return 0;
    }
    return 1;
}

static void test_random(void)
{
    int copied = 0;
    int cut = 0;

    for (int i = 0; i < TRIES; i++) {
        const int ndim = 1 + (int)below(4);
        int64_t shape[PLD_MAX_DIMS];

        for (int d = 0; d < ndim; d++)
            shape[d] = 1 + below(6);
        copied += try_copy(shape, ndim);
        cut += try_cut(shape, ndim);
    }
    ok(copied == TRIES, "%d of %d random pairs of boxes copy as by hand", copied, TRIES);
    ok(cut == TRIES, "%d of %d random cuts are dense ranges", cut, TRIES);
}

/* The fewest runs: as long as both boxes are full, a run goes on. */
static void test_runs(void)
{
    const struct pldi_box all = {.extent = {4, 5, 6}, .ndim = 3};
    const struct pldi_box rows = {.offset = {1, 0, 0}, .extent = {2, 5, 6}, .ndim = 3};
    const struct pldi_box columns = {.offset = {0, 0, 2}, .extent = {4, 5, 3}, .ndim = 3};
    struct pldi_runs w = pldi_runs_begin(&rows, &all, &rows);
    int runs = 0;

    ok(w.count == 60 && w.from == 30 && w.to == 0, "whole rows are one run");
    ok(pldi_runs_next(&w) && !pldi_runs_next(&w), "and no other");
    w = pldi_runs_begin(&columns, &all, &columns);
    while (pldi_runs_next(&w))
        runs++;
    ok(runs == 20, "columns are a run per line: %d", runs);
}

int main(void)
{
    test_random();
    test_runs();
    return tap_done();
}
