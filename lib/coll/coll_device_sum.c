/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sums that keep polder's promise where NCCL's do not: f16 and bf16 added in f32 and
 * rounded once, any type by the canonical tree, max and min in which a NaN stays.
 *
 * Each rank gets its slice of every contribution, adds them up with polder's kernel, and
 * passes the result on: as many bytes as a ring moves.  All in chunks that the group's
 * scratch holds:
 *
 *     [size][slice]  of what came from the others
 *     [levels][slice]  of sums on the way, where one kernel does not do it all
 */

#include "base/base_err.h"
#include "coll/coll_device.h"
#include "coll/coll_shape.h"
#include "coll/coll_sum.h"

enum {
    ALIGN = 64,        /* elements */
    ONE_KERNEL = 64,   /* sources that a kernel adds up at once */
    RAGGED = 256 << 10 /* bytes of a chunk whose slices need not be equal */
};

/* A stretch of the vector: slice r begins at `from` + r * `each`, up to `end`. */
struct chunk {
    size_t from, end, each; /* bytes; of blocks: from and end in each of them */
    int blocks;             /* 1: slices are blocks, not parts of a vector */
    size_t room;            /* bytes between slices in the scratch */
    unsigned char *sums;
    size_t sum_room;
};

/* How one run of elements is added up. */
struct adder {
    struct pldi_put *put;
    const void **sources; /* [size] */
    size_t count, source_step;
    unsigned char *sums;
    size_t room;
};

static int is_half(pld_dtype dtype)
{
    return dtype == PLD_F16 || dtype == PLD_BF16;
}

static int levels_of(const pld_request *op)
{
    int levels = 1;

    if (!op->tree && op->group->size <= ONE_KERNEL)
        return 0;
    if (!op->tree)
        return 2;
    while (1 << (levels - 1) < op->group->size)
        levels++;
    return levels;
}

/* ---- Adding ---- */

static int reduce(const struct adder *a, void *to, const void *const *from, int n, pld_dtype dtype,
                  double scale)
{
    pld_device *device = a->put->g->gpu->device;

    return device->ops->reduce(device, &to, 1, from, n, a->count, dtype, pldi_kernel_op(a->put->op),
                               scale, a->put->stream);
}

/* A contribution in the type of sums: as it is, or at that level. */
static int load(const struct adder *a, int source, int level, const void **out)
{
    const pld_request *op = a->put->op;
    pld_device *device = a->put->g->gpu->device;
    unsigned char *to = a->sums + (size_t)level * a->room;

    *out = a->sources[source];
    if (!is_half(op->dtype))
        return PLD_OK;
    *out = to;
    return device->ops->cast(device, to, PLD_F32, a->sources[source], op->dtype, a->count,
                             a->put->stream);
}

static int join(const struct adder *a, const void *left, const void *right, int level,
                const void **out)
{
    const void *both[2] = {left, right};
    unsigned char *to = a->sums + (size_t)level * a->room;

    *out = to;
    return reduce(a, to, both, 2, pldi_sum_dtype(a->put->op->dtype), 1);
}

/* The canonical tree over n contributions: the largest power of two of them, and the rest. */
static int add_tree(const struct adder *a, int first, int n, int level, const void **out)
{
    const void *left = NULL;
    const void *right = NULL;
    int k = 1;

    if (n == 1)
        return load(a, first, level, out);
    while (2 * k < n)
        k *= 2;
    PLDI_TRY(add_tree(a, first, k, level, &left));
    PLDI_TRY(add_tree(a, first + k, n - k, level + 1, &right));
    return join(a, left, right, level, out);
}

static int add_in_order(const struct adder *a, const void **out)
{
    PLDI_TRY(load(a, 0, 0, out));
    for (int r = 1; r < a->put->op->group->size; r++) {
        const void *next = NULL;

        PLDI_TRY(load(a, r, 1, &next));
        PLDI_TRY(join(a, *out, next, 0, out));
    }
    return PLD_OK;
}

static int add(const struct adder *a, void *target)
{
    const pld_request *op = a->put->op;
    pld_device *device = a->put->g->gpu->device;
    const int p = op->group->size;
    const void *sum = NULL;
    void *scaled = a->sums;

    if (!op->tree && p <= ONE_KERNEL)
        return reduce(a, target, a->sources, p, op->dtype, op->scale);
    PLDI_TRY(op->tree ? add_tree(a, 0, p, 0, &sum) : add_in_order(a, &sum));
    if (!is_half(op->dtype))
        return reduce(a, target, &sum, 1, op->dtype, op->scale);
    if (op->scale != 1)
        PLDI_TRY(reduce(a, scaled, &sum, 1, PLD_F32, op->scale));
    return device->ops->cast(device, target, op->dtype, op->scale != 1 ? scaled : sum, PLD_F32,
                             a->count, a->put->stream);
}

/* ---- Moving ---- */

static size_t slice_begin(const pld_request *op, const struct chunk *c, int r)
{
    const size_t at = c->from + (size_t)r * c->each;

    (void)op;
    if (c->blocks)
        return c->from;
    return at < c->end ? at : c->end;
}

static size_t slice_bytes(const pld_request *op, const struct chunk *c, int r)
{
    const size_t begin = slice_begin(op, c, r);
    size_t end = c->end;

    if (!c->blocks)
        return slice_begin(op, c, r + 1) - begin;
    end = pldi_slice(op, r) < end ? pldi_slice(op, r) : end;
    return end > begin ? end - begin : 0;
}

/* Slice r of the vector, or the stretch of block r. */
static int block_of(const struct chunk *c, int r)
{
    return c->blocks ? r : 0;
}

static unsigned char *came_from(const struct pldi_put *put, const struct chunk *c, int r)
{
    return (unsigned char *)put->g->scratch + (size_t)r * c->room;
}

static int deal_out(struct pldi_put *put, const struct chunk *c)
{
    const pld_request *op = put->op;
    const int me = op->group->rank;

    PLDI_TRY(pldi_put_begin(put));
    for (int r = 0; r < op->group->size; r++) {
        if (r == me)
            continue;
        pldi_put_runs(put, PLDI_COMM_SEND, r, PLDI_SENT, block_of(c, r), slice_begin(op, c, r),
                      slice_bytes(op, c, r), NULL);
        pldi_put_runs(put, PLDI_COMM_RECV, r, PLDI_SENT, block_of(c, me), slice_begin(op, c, me),
                      slice_bytes(op, c, me), came_from(put, c, r));
    }
    return pldi_put_end(put);
}

/* Whoever does not take the result himself has it in the scratch, where his own part would be. */
static int add_up(struct pldi_put *put, const struct chunk *c)
{
    const pld_request *op = put->op;
    const int me = op->group->rank;
    const int takes = pldi_takes(op, me);
    size_t left = slice_bytes(op, c, me);
    size_t offset = slice_begin(op, c, me);
    size_t done = 0;
    struct adder a = {.put = put, .sources = put->g->sources, .sums = c->sums, .room = c->sum_room};

    while (left > 0) {
        const struct pldi_spot from = pldi_locate(op, PLDI_SENT, block_of(c, me), offset);
        const size_t run = from.run < left ? from.run : left;
        struct pldi_spot to;
        void *target = came_from(put, c, me) + done;

        for (int r = 0; r < op->group->size; r++)
            a.sources[r] = came_from(put, c, r) + done;
        a.sources[me] = pldi_base(op, PLDI_SENT, from.item) + from.offset;
        if (takes) {
            to = pldi_locate(op, PLDI_RECEIVED, block_of(c, me), offset);
            target = pldi_base(op, PLDI_RECEIVED, to.item) + to.offset;
        }
        a.count = run / pld_dtype_bytes(op->dtype);
        PLDI_TRY(add(&a, target));
        offset += run;
        done += run;
        left -= run;
    }
    return PLD_OK;
}

/* Slices of equal length that lie in one piece. */
static int share_evenly(struct pldi_put *put, const struct chunk *c, int *done)
{
    const pld_request *op = put->op;
    unsigned char *all = pldi_piece(op, PLDI_RECEIVED, 0, c->from, c->end - c->from);
    const size_t mine = (size_t)op->group->rank * c->each;
    struct pldi_comm_call call = {.kind = PLDI_COMM_ALLGATHER, .dtype = op->dtype, .scale = 1};

    *done = 0;
    if (op->kind != PLDI_ALLREDUCE || all == NULL ||
        c->each * (size_t)op->group->size != c->end - c->from)
        return PLD_OK;
    *done = 1;
    call.send = all + mine;
    call.recv = all;
    call.count = c->each / pld_dtype_bytes(op->dtype);
    PLDI_TRY(pldi_put_begin(put));
    pldi_put_call(put, &call);
    return pldi_put_end(put);
}

static int share(struct pldi_put *put, const struct chunk *c)
{
    const pld_request *op = put->op;
    const int me = op->group->rank;
    unsigned char *mine = pldi_takes(op, me) ? NULL : came_from(put, c, me);
    int done = 0;

    PLDI_TRY(share_evenly(put, c, &done));
    if (done)
        return PLD_OK;
    PLDI_TRY(pldi_put_begin(put));
    for (int r = 0; r < op->group->size; r++) {
        if (r != me && pldi_takes(op, r))
            pldi_put_runs(put, PLDI_COMM_SEND, r, PLDI_RECEIVED, 0, slice_begin(op, c, me),
                          slice_bytes(op, c, me), mine);
        if (r != me && pldi_takes(op, me))
            pldi_put_runs(put, PLDI_COMM_RECV, r, PLDI_RECEIVED, 0, slice_begin(op, c, r),
                          slice_bytes(op, c, r), NULL);
    }
    return pldi_put_end(put);
}

/* ---- Chunks ---- */

/* Elements of a slice that the scratch has room for, on all ranks alike. */
static size_t slice_most(const pld_request *op)
{
    const size_t each = (size_t)op->group->size * pld_dtype_bytes(op->dtype) +
                        (size_t)levels_of(op) * pld_dtype_bytes(pldi_sum_dtype(op->dtype));

    return op->group->on_gpu->scratch_bytes / each / ALIGN * ALIGN;
}

/* The next stretch of a vector; of a large one with equal slices, and what is left over. */
static void cut_vector(const pld_request *op, struct chunk *c, size_t from)
{
    const size_t p = (size_t)op->group->size;
    const size_t element = pld_dtype_bytes(op->dtype);
    const size_t most = slice_most(op);
    size_t n = (op->vector - from) / element;
    size_t each;

    if (n > most * p)
        n = most * p;
    if (n * element >= RAGGED && n >= ALIGN * p)
        n = n / (ALIGN * p) * (ALIGN * p);
    each = (n + p - 1) / p;
    if (each * p != n)
        each = (each + ALIGN - 1) / ALIGN * ALIGN;
    c->from = from;
    c->end = from + n * element;
    c->each = each * element;
}

int pldi_put_sums(struct pldi_put *put)
{
    const pld_request *op = put->op;
    const size_t element = pld_dtype_bytes(op->dtype);
    const size_t most = slice_most(op) * element;
    struct chunk c = {.room = most,
                      .blocks = pldi_shape(op->kind)->cut[PLDI_SENT] == PLDI_BLOCKS,
                      .sum_room = slice_most(op) * pld_dtype_bytes(pldi_sum_dtype(op->dtype))};
    const size_t all = c.blocks ? pldi_slice_most(op) : op->vector;

    c.sums = (unsigned char *)put->g->scratch + (size_t)op->group->size * most;
    while (c.end < all) {
        if (c.blocks)
            c.from = c.end, c.end = all - c.from < most ? all : c.from + most;
        else
            cut_vector(op, &c, c.end);
        PLDI_TRY(deal_out(put, &c));
        PLDI_TRY(add_up(put, &c));
        if (!c.blocks)
            PLDI_TRY(share(put, &c));
    }
    return PLD_OK;
}
