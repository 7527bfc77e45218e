/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sums over numbered leaves by NCCL and kernels.  The hosts know who has which leaf, and so
 * where the largest subtrees of one rank lie (coll_leaves.c).  Segment by segment each rank
 * forms its own, gets its slice of all of them, and adds those up with the stack of coll_sum.c,
 * in the same order; then all share the slices.  In the group's scratch:
 *
 *     [held][segment]   own subtrees of a batch, unless the caller's memory has them
 *     [batch][slice]    of what came from the others
 *     [2][depth][slice] the stacks: of a subtree, and of all of them
 *
 * A batch is as many subtrees as one group of NCCL's calls takes, and the scratch.
 */

#include "base/base_err.h"
#include "coll/coll_device.h"
#include "coll/coll_leaves.h"
#include "coll/coll_shape.h"

enum {
    ALIGN = 64,         /* elements */
    DEPTH = 34,         /* of the deepest stack */
    CALLS = 1024,       /* of a group; NCCL takes 2048 */
    LEAST_SLICE = 4096, /* elements below which a batch is made shorter */
    SUBTREE = 0,        /* stacks */
    ALL = 1
};

/* A binary counter of sums, each in its slot or still where it came from. */
struct stack {
    unsigned char *first; /* slot 0 */
    unsigned char *slots; /* the others, from slot 1 */
    const void *sums[DEPTH];
    int levels[DEPTH];
    int n;
    size_t count; /* elements of each */
};

struct work {
    struct pldi_put *put;
    const struct pldi_leaves *l;
    pld_device *device;
    pld_op op;
    pld_dtype wide; /* of sums */
    size_t slice;   /* elements */
    size_t batch;   /* subtrees */
    size_t depth;
    size_t from, n, each;             /* elements of the segment: first, number, of a slice */
    unsigned char *own, *in, *stacks; /* the scratch's parts */
};

static int is_half(pld_dtype dtype)
{
    return dtype == PLD_F16 || dtype == PLD_BF16;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- Stacks ---- */

static unsigned char *slot(const struct work *w, const struct stack *s, int i)
{
    return i == 0 ? s->first : s->slots + (size_t)(i - 1) * w->slice * w->l->unit;
}

/* The two on top become one. */
static int join(const struct work *w, struct stack *s)
{
    const int i = s->n - 2;
    void *to = slot(w, s, i);

    PLDI_TRY(w->device->ops->reduce(w->device, &to, 1, &s->sums[i], 2, s->count, w->wide, w->op, 1,
                                    w->put->stream));
    s->sums[i] = to;
    s->n--;
    return PLD_OK;
}

/* from: of the type of sums, or of leaves. */
static int push(const struct work *w, struct stack *s, const void *from, pld_dtype dtype, int level)
{
    void *to = slot(w, s, s->n);

    s->sums[s->n] = from;
    if (dtype != w->wide) {
        PLDI_TRY(
            w->device->ops->cast(w->device, to, w->wide, from, dtype, s->count, w->put->stream));
        s->sums[s->n] = to;
    }
    s->levels[s->n++] = level;
    while (s->n > 1 && s->levels[s->n - 1] == s->levels[s->n - 2]) {
        PLDI_TRY(join(w, s));
        s->levels[s->n - 1]++;
    }
    return PLD_OK;
}

static int fold(const struct work *w, struct stack *s)
{
    while (s->n > 1)
        PLDI_TRY(join(w, s));
    return PLD_OK;
}

/* What lies where the next batch will be goes into its slot. */
static int settle(const struct work *w, struct stack *s)
{
    for (int i = 0; i < s->n; i++) {
        void *to = slot(w, s, i);

        if (s->sums[i] != to)
            PLDI_TRY(w->device->ops->copy(w->device, to, s->sums[i], s->count * w->l->unit,
                                          w->put->stream));
        s->sums[i] = to;
    }
    return PLD_OK;
}

static struct stack stack_at(const struct work *w, int which, unsigned char *first)
{
    unsigned char *slots = w->stacks + (size_t)which * w->depth * w->slice * w->l->unit;

    return (struct stack){.first = first != NULL ? first : slots,
                          .slots = slots + w->slice * w->l->unit};
}

/* ---- A batch ---- */

static size_t begin_of(const struct work *w, int r)
{
    return smaller((size_t)r * w->each, w->n);
}

static size_t length_of(const struct work *w, int r)
{
    return begin_of(w, r + 1) - begin_of(w, r);
}

/* A subtree of this rank whose leaves are mine[at ...], over the segment. */
static int form(const struct work *w, const struct pldi_subtree *t, size_t at, unsigned char *row)
{
    const pld_dtype dtype = w->put->op->dtype;
    const size_t element = pld_dtype_bytes(dtype);

    for (size_t done = 0; done < w->n; done += w->slice) {
        struct stack s = stack_at(w, SUBTREE, row + done * w->l->unit);

        s.count = smaller(w->slice, w->n - done);
        for (uint64_t k = 0; k < t->n; k++)
            PLDI_TRY(push(
                w, &s, (const unsigned char *)w->l->mine[at + k].data + (w->from + done) * element,
                dtype, 0));
        PLDI_TRY(fold(w, &s));
    }
    return PLD_OK;
}

/* l->sources[i]: where this rank's subtrees of the batch are.  *leaf: of those before, after. */
static int form_all(const struct work *w, size_t first, size_t end, size_t *leaf)
{
    const pld_request *op = w->put->op;
    unsigned char *row = w->own;

    for (size_t i = first; i < end; i++) {
        const struct pldi_subtree *t = &w->l->parts[i];

        if (t->rank != op->group->rank)
            continue;
        w->l->sources[i] = row;
        if (t->n == 1 && !is_half(op->dtype))
            w->l->sources[i] = (const unsigned char *)w->l->mine[*leaf].data +
                               w->from * pld_dtype_bytes(op->dtype);
        else
            PLDI_TRY(form(w, t, *leaf, row));
        *leaf += t->n;
        row += (size_t)op->group->size * w->slice * w->l->unit;
    }
    return PLD_OK;
}

static unsigned char *came(const struct work *w, size_t i)
{
    return w->in + i * w->slice * w->l->unit;
}

static void message(const struct work *w, enum pldi_comm_kind kind, int peer, const void *at,
                    size_t count)
{
    const struct pldi_comm_call call = {.kind = kind,
                                        .send = at,
                                        .recv = (void *)(uintptr_t)at,
                                        .count = count,
                                        .dtype = w->wide,
                                        .scale = 1,
                                        .peer = peer};

    if (count > 0)
        pldi_put_call(w->put, &call);
}

/* Between two ranks subtrees travel in their order, on both sides. */
static int exchange(const struct work *w, size_t first, size_t end)
{
    const int me = w->put->op->group->rank;
    const int p = w->put->op->group->size;

    if (p == 1)
        return PLD_OK;
    PLDI_TRY(pldi_put_begin(w->put));
    for (size_t i = first; i < end; i++) {
        const int owner = w->l->parts[i].rank;

        if (owner != me)
            message(w, PLDI_COMM_RECV, owner, came(w, i - first), length_of(w, me));
        for (int r = 0; owner == me && r < p; r++)
            if (r != me)
                message(w, PLDI_COMM_SEND, r,
                        (const unsigned char *)w->l->sources[i] + begin_of(w, r) * w->l->unit,
                        length_of(w, r));
    }
    return pldi_put_end(w->put);
}

static int add_batch(const struct work *w, struct stack *s, size_t first, size_t end)
{
    const int me = w->put->op->group->rank;

    for (size_t i = first; i < end && s->count > 0; i++) {
        const void *from = came(w, i - first);

        if (w->l->parts[i].rank == me)
            from = (const unsigned char *)w->l->sources[i] + begin_of(w, me) * w->l->unit;
        PLDI_TRY(push(w, s, from, w->wide, w->l->levels[i]));
    }
    return end < w->l->n_parts ? settle(w, s) : PLD_OK;
}

/* ---- A segment ---- */

/* The sum of this rank's slice, scaled and rounded once. */
static int finish(const struct work *w, struct stack *s)
{
    const pld_request *op = w->put->op;
    const size_t at = w->from + begin_of(w, op->group->rank);
    void *target = (unsigned char *)op->recv + at * pld_dtype_bytes(op->dtype);
    void *scaled = s->first;

    if (s->count == 0)
        return PLD_OK;
    PLDI_TRY(fold(w, s));
    if (!is_half(op->dtype))
        return w->device->ops->reduce(w->device, &target, 1, s->sums, 1, s->count, op->dtype, w->op,
                                      op->scale, w->put->stream);
    if (op->scale != 1) {
        PLDI_TRY(w->device->ops->reduce(w->device, &scaled, 1, s->sums, 1, s->count, w->wide, w->op,
                                        op->scale, w->put->stream));
        s->sums[0] = scaled;
    }
    return w->device->ops->cast(w->device, target, op->dtype, s->sums[0], w->wide, s->count,
                                w->put->stream);
}

static int share(const struct work *w)
{
    const pld_request *op = w->put->op;
    const int me = op->group->rank;
    const int p = op->group->size;
    const size_t element = pld_dtype_bytes(op->dtype);
    unsigned char *all = (unsigned char *)op->recv + w->from * element;
    struct pldi_comm_call call = {.kind = PLDI_COMM_ALLGATHER,
                                  .send = all + begin_of(w, me) * element,
                                  .recv = all,
                                  .count = w->each,
                                  .dtype = op->dtype,
                                  .scale = 1};

    if (p == 1)
        return PLD_OK;
    PLDI_TRY(pldi_put_begin(w->put));
    if (w->each * (size_t)p == w->n) {
        pldi_put_call(w->put, &call);
        return pldi_put_end(w->put);
    }
    for (int r = 0; r < p; r++) {
        if (r == me)
            continue;
        call.peer = r;
        call.kind = PLDI_COMM_SEND;
        call.count = length_of(w, me);
        if (call.count > 0)
            pldi_put_call(w->put, &call);
        call.kind = PLDI_COMM_RECV;
        call.count = length_of(w, r);
        call.recv = all + begin_of(w, r) * element;
        if (call.count > 0)
            pldi_put_call(w->put, &call);
    }
    return pldi_put_end(w->put);
}

static int segment(struct work *w)
{
    const size_t p = (size_t)w->put->op->group->size;
    struct stack s = stack_at(w, ALL, NULL);
    size_t leaf = 0;

    w->each = (w->n + p - 1) / p;
    if (w->each * p != w->n)
        w->each = smaller((w->each + ALIGN - 1) / ALIGN * ALIGN, w->slice);
    s.count = length_of(w, w->put->op->group->rank);
    for (size_t i = 0; i < w->l->n_parts; i += w->batch) {
        const size_t end = smaller(i + w->batch, w->l->n_parts);

        PLDI_TRY(form_all(w, i, end, &leaf));
        PLDI_TRY(exchange(w, i, end));
        PLDI_TRY(add_batch(w, &s, i, end));
    }
    PLDI_TRY(finish(w, &s));
    return share(w);
}

/* ---- Plan: from what all ranks know, so that it is the same on all ---- */

/* The most subtrees that a rank has in a batch. */
static size_t most_held(const struct work *w, size_t batch)
{
    const size_t p = (size_t)w->put->op->group->size;
    size_t *held = w->l->counts;
    size_t most = 1;

    for (size_t i = 0; i < w->l->n_parts; i++) {
        for (size_t r = 0; i % batch == 0 && r < p; r++)
            held[r] = 0;
        held[w->l->parts[i].rank]++;
        most = held[w->l->parts[i].rank] > most ? held[w->l->parts[i].rank] : most;
    }
    return most;
}

static size_t slice_for(const struct work *w, size_t batch)
{
    const size_t p = (size_t)w->put->op->group->size;
    const size_t rows = most_held(w, batch) * p + batch + 2 * w->depth;
    const size_t slice = w->put->g->scratch_bytes / w->l->unit / rows;

    return slice < ALIGN ? slice : slice / ALIGN * ALIGN;
}

static void plan(struct work *w)
{
    const pld_request *op = w->put->op;
    const size_t p = (size_t)op->group->size;
    const size_t row = w->l->unit;

    w->depth = 2;
    for (uint64_t n = w->l->total; n > 1; n /= 2)
        w->depth++;
    w->batch = smaller(w->l->n_parts, CALLS / p > 1 ? CALLS / p : 1);
    while (w->batch > 1 && slice_for(w, w->batch) < smaller(LEAST_SLICE, op->count / p + 1))
        w->batch = (w->batch + 1) / 2;
    w->slice = slice_for(w, w->batch);
    w->own = w->put->g->scratch;
    w->in = w->own + most_held(w, w->batch) * p * w->slice * row;
    w->stacks = w->in + w->batch * w->slice * row;
}

int pldi_put_leaves(struct pldi_put *put)
{
    const pld_request *op = put->op;
    struct work w = {.put = put,
                     .l = op->leaves,
                     .device = put->g->gpu->device,
                     .op = pldi_kernel_op(op),
                     .wide = pldi_sum_dtype(op->dtype)};

    plan(&w);
    if (w.slice == 0)
        return pldi_fail(PLD_ERR_DEVMEM,
                         "pld_allreduce_leaves: %zu bytes of scratch are too few for %d ranks; "
                         "POLDER_DEVICE_SCRATCH sets them",
                         put->g->scratch_bytes, op->group->size);
    for (; w.from < op->count; w.from += w.n) {
        w.n = smaller(op->count - w.from, w.slice * (size_t)op->group->size);
        PLDI_TRY(segment(&w));
    }
    return PLD_OK;
}
