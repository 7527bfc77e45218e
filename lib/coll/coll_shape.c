/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "coll/coll_shape.h"

#include <string.h>

#include "coll/coll_sum.h"
#include "device/device_kernels.h"

enum { SLICE_ALIGN = 64 /* elements */ };

/* What each operation is; nothing else in lib/coll tells them apart but what is special. */
const struct pldi_shape pldi_shapes[PLDI_KINDS] = {
    [PLDI_BARRIER] = {.name = "barrier"},
    [PLDI_AGREE] = {.name = "agree"},
    [PLDI_ALLREDUCE] = {.name = "allreduce", .cut = {PLDI_EVEN, PLDI_EVEN}, .reduces = 1},
    [PLDI_REDUCE] = {.name = "reduce", .cut = {PLDI_EVEN, PLDI_EVEN}, .reduces = 1, .to_root = 1},
    [PLDI_REDUCE_SCATTER] = {.name = "reduce_scatter",
                             .cut = {PLDI_BLOCKS, PLDI_WHOLE},
                             .reduces = 1},
    [PLDI_REDUCE_SCATTER_V] = {.name = "reduce_scatter_v",
                               .cut = {PLDI_BLOCKS, PLDI_WHOLE},
                               .reduces = 1,
                               .by_rank = 1},
    [PLDI_ALLGATHER] = {.name = "allgather", .cut = {PLDI_WHOLE, PLDI_BLOCKS}},
    [PLDI_ALLGATHER_V] = {.name = "allgather_v", .cut = {PLDI_WHOLE, PLDI_BLOCKS}, .by_rank = 1},
    [PLDI_BROADCAST] = {.name = "broadcast", .cut = {PLDI_WHOLE, PLDI_WHOLE}, .from_root = 1},
    [PLDI_ALLTOALL] = {.name = "alltoall", .cut = {PLDI_BLOCKS, PLDI_BLOCKS}},
    [PLDI_ALLTOALL_V] = {.name = "alltoall_v", .cut = {PLDI_BLOCKS, PLDI_BLOCKS}, .by_rank = 1},
    [PLDI_GATHER] = {.name = "gather", .cut = {PLDI_WHOLE, PLDI_BLOCKS}, .to_root = 1},
    [PLDI_GATHER_V] = {.name = "gather_v",
                       .cut = {PLDI_WHOLE, PLDI_BLOCKS},
                       .to_root = 1,
                       .by_rank = 1},
    [PLDI_SCATTER] = {.name = "scatter", .cut = {PLDI_BLOCKS, PLDI_WHOLE}, .from_root = 1},
    [PLDI_SCATTER_V] = {.name = "scatter_v",
                        .cut = {PLDI_BLOCKS, PLDI_WHOLE},
                        .from_root = 1,
                        .by_rank = 1},
    [PLDI_SEND] = {.name = "send"},
    [PLDI_RECV] = {.name = "recv"},
    /* Its parts move the data. */
    [PLDI_LEAVES] = {.name = "allreduce_leaves", .cut = {PLDI_EVEN, PLDI_EVEN}, .reduces = 1},
    [PLDI_CONNECT] = {.name = "connect"},
};

const char *pldi_kind_name(unsigned kind)
{
    return kind < PLDI_KINDS ? pldi_shapes[kind].name : "?";
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t pldi_even_start(const pld_request *op, int r)
{
    const size_t p = (size_t)op->group->size;
    size_t each, aligned;

    if (r == 0)
        return 0;
    each = op->count / p + (op->count % p != 0);
    aligned = (each + SLICE_ALIGN - 1) / SLICE_ALIGN * SLICE_ALIGN;
    return min_size((size_t)r * aligned, op->count) * pld_dtype_bytes(op->dtype);
}

static size_t block_bytes(const pld_request *op, enum pldi_side side, int r)
{
    const size_t *starts = op->starts[side];

    return starts == NULL ? pldi_vector(op) : starts[r + 1] - starts[r];
}

size_t pldi_slice(const pld_request *op, int r)
{
    if (pldi_shapes[op->kind].cut[PLDI_SENT] == PLDI_EVEN)
        return pldi_even_start(op, r + 1) - pldi_even_start(op, r);
    return block_bytes(op, PLDI_SENT, r);
}

size_t pldi_slice_most(const pld_request *op)
{
    size_t most = 0;

    if (op->starts[PLDI_SENT] == NULL)
        return pldi_slice(op, 0);
    for (int r = 0; r < op->group->size; r++)
        most = pldi_slice(op, r) > most ? pldi_slice(op, r) : most;
    return most;
}

int pldi_gives(const pld_request *op, int rank)
{
    return pldi_shapes[op->kind].cut[PLDI_SENT] != PLDI_NOTHING &&
           (!pldi_shapes[op->kind].from_root || rank == op->root);
}

int pldi_takes(const pld_request *op, int rank)
{
    return pldi_shapes[op->kind].cut[PLDI_RECEIVED] != PLDI_NOTHING &&
           (!pldi_shapes[op->kind].to_root || rank == op->root);
}

size_t pldi_flow(const pld_request *op, int s, int d)
{
    const struct pldi_shape *shape = &pldi_shapes[op->kind];

    if (!pldi_gives(op, s) || !pldi_takes(op, d))
        return 0;
    if (shape->reduces)
        return shape->cut[PLDI_RECEIVED] == PLDI_EVEN || s == d ? pldi_slice(op, s) : 0;
    if (shape->cut[PLDI_SENT] == PLDI_BLOCKS &&
        (shape->cut[PLDI_RECEIVED] != PLDI_BLOCKS || s == op->group->rank))
        return block_bytes(op, PLDI_SENT, d);
    if (shape->cut[PLDI_RECEIVED] == PLDI_BLOCKS)
        return block_bytes(op, PLDI_RECEIVED, s);
    return pldi_vector(op);
}

size_t pldi_extent(const pld_request *op, enum pldi_side side)
{
    const struct pldi_shape *shape = &pldi_shapes[op->kind];
    const int rank = op->group->rank;
    const size_t p = (size_t)op->group->size;

    if (!(side == PLDI_SENT ? pldi_gives(op, rank) : pldi_takes(op, rank)))
        return 0;
    if (shape->cut[side] == PLDI_BLOCKS)
        return op->starts[side] != NULL ? op->starts[side][p] : p * pldi_vector(op);
    /* One block for all, where the other side has one of its own for each rank. */
    if (op->starts[!side] != NULL)
        return block_bytes(op, !side, rank);
    return pldi_vector(op);
}

unsigned char *pldi_base(const pld_request *op, enum pldi_side side, size_t item)
{
    if (op->items != NULL)
        return op->items[item].base[side];
    return side == PLDI_SENT ? (unsigned char *)(uintptr_t)op->send : op->recv;
}

/* The last item that begins at or before that byte. */
static size_t find_item(const pld_request *op, size_t at)
{
    size_t low = 0;
    size_t high = op->n_items;

    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;

        if (op->items[middle].start <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

struct pldi_spot pldi_locate(const pld_request *op, enum pldi_side side, int block, size_t offset)
{
    const enum pldi_cut cut = pldi_shapes[op->kind].cut[side];
    const size_t at = offset + (cut == PLDI_EVEN ? pldi_even_start(op, block) : 0);
    const struct pldi_item *item;
    struct pldi_spot spot = {0, at, SIZE_MAX};
    size_t start = 0;

    if (op->items == NULL) {
        if (cut == PLDI_BLOCKS)
            start = op->starts[side] != NULL ? op->starts[side][block]
                                             : (size_t)block * pldi_vector(op);
        spot.offset += start;
        return spot;
    }
    spot.item = find_item(op, at);
    item = &op->items[spot.item];
    spot.offset = at - item->start + (cut == PLDI_BLOCKS ? (size_t)block * item->bytes : 0);
    spot.run = item->bytes - (at - item->start);
    return spot;
}

unsigned char *pldi_piece(const pld_request *op, enum pldi_side side, int block, size_t offset,
                          size_t bytes)
{
    const struct pldi_spot spot = pldi_locate(op, side, block, offset);

    return spot.run < bytes ? NULL : pldi_base(op, side, spot.item) + spot.offset;
}

void pldi_pack(const pld_request *op, int block, size_t offset, size_t bytes, void *to)
{
    unsigned char *out = to;

    while (bytes > 0) {
        const struct pldi_spot spot = pldi_locate(op, PLDI_SENT, block, offset);
        const size_t n = min_size(spot.run, bytes);

        memcpy(out, pldi_base(op, PLDI_SENT, spot.item) + spot.offset, n);
        out += n;
        offset += n;
        bytes -= n;
    }
}

void pldi_unpack(const pld_request *op, int block, size_t offset, size_t bytes, const void *from)
{
    const unsigned char *in = from;

    while (bytes > 0) {
        const struct pldi_spot spot = pldi_locate(op, PLDI_RECEIVED, block, offset);
        const size_t n = min_size(spot.run, bytes);

        memmove(pldi_base(op, PLDI_RECEIVED, spot.item) + spot.offset, in, n);
        in += n;
        offset += n;
        bytes -= n;
    }
}

pld_op pldi_kernel_op(const pld_request *op)
{
    return op->op == PLD_AVG ? PLD_SUM : op->op;
}

struct pldi_sum pldi_sum_of(const pld_request *op)
{
    return (struct pldi_sum){.kernels = op->group->kernels,
                             .dtype = op->dtype,
                             .op = op->op,
                             .scale = op->scale,
                             .tree = op->tree,
                             .wide = op->wide};
}

void pldi_reduce_to(const pld_request *op, int block, size_t offset, size_t bytes,
                    const void **sources, int n)
{
    const struct pldi_sum sum = pldi_sum_of(op);

    while (bytes > 0) {
        const struct pldi_spot spot = pldi_locate(op, PLDI_RECEIVED, block, offset);
        const size_t run = min_size(spot.run, bytes);
        void *target = pldi_sum_place(op, pldi_base(op, PLDI_RECEIVED, spot.item), spot.offset);

        pldi_sum_to(&sum, &target, 1, sources, n, run / pld_dtype_bytes(op->dtype), 0);
        for (int s = 0; s < n; s++)
            sources[s] = (const unsigned char *)sources[s] + run;
        offset += run;
        bytes -= run;
    }
}

unsigned char *pldi_sum_place(const pld_request *op, unsigned char *base, size_t offset)
{
    const pld_dtype dtype = op->wide ? pldi_sum_dtype(op->dtype) : op->dtype;

    return base + offset / pld_dtype_bytes(op->dtype) * pld_dtype_bytes(dtype);
}
