/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sums over the canonical tree (coll_sum.h) of numbered leaves, whoever has them.
 *
 * Every rank learns who has which leaf, and so where the largest subtrees lie that
 * are all one rank's.  Those are formed there, unrounded; then each rank gets its
 * slice of all of them, finishes the tree, and hands the result to all.  Where the
 * leaves are cut among the ranks makes no difference to the tree.
 *
 * It is a row of operations of the group, which stand in its queue as one.  The first
 * says what the whole is, so that ranks which do something else are told so; each
 * says whether this rank has the memory for what follows it.
 *
 * Of leaves in device memory the same is done with copies in pinned memory, segment by
 * segment.  Where NCCL carries, hosts only find out who has which leaf, and
 * coll_device_leaves.c puts the rest into a stream.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll.h"
#include "coll/coll_call.h"
#include "coll/coll_device.h"
#include "coll/coll_health.h"
#include "coll/coll_leaves.h"
#include "coll/coll_staged.h"
#include "coll/coll_sum.h"

/* What a rank says before it says how many leaves it has. */
#define ON_DEVICE (UINT64_C(1) << 62)

enum { ALIGN = 16 /* elements */, MAX_LEAVES = 1 << 26, MAX_LEVEL = 32 };

enum { STAGED_CHUNKS = 4 /* bytes of the leaves of a segment, in pinned buffers */ };
static const size_t WORK = 8 << 20; /* bytes of the subtrees of a segment, of one rank */

static int order(const void *a, const void *b)
{
    const pld_leaf *x = a;
    const pld_leaf *y = b;

    return x->leaf < y->leaf ? -1 : x->leaf > y->leaf;
}

static void release(struct pldi_leaves *l)
{
    pldi_free(l->now.memory);
    pldi_free(l->given);
    pldi_free(l->counts);
    pldi_free(l->own);
    pldi_free(l->numbers);
    pldi_free(l->owners);
    pldi_free(l->parts);
    pldi_free(l->held);
    pldi_free(l->starts);
    pldi_free(l->out);
    pldi_free(l->in);
    pldi_free(l->slice);
    pldi_free((void *)l->sources);
    pldi_free(l->levels);
    pldi_free(l);
}

/* Where the first rank has its leaves all others have theirs. */
static int check_places(struct pldi_leaves *l)
{
    const uint64_t first = l->given[0] & ON_DEVICE;

    for (int r = 0; r < l->group->size; r++) {
        const uint64_t there = l->given[r] & ON_DEVICE;

        if (there != first)
            return pldi_fail(PLD_ERR_MISMATCH,
                             "allreduce_leaves: rank 0 has its leaves in %s memory, rank %d in "
                             "%s memory",
                             first ? "device" : "host", r, there ? "device" : "host");
    }
    for (int r = 0; r < l->group->size; r++)
        l->given[r] &= ~ON_DEVICE;
    return PLD_OK;
}

/* Who has which leaf: each is somebody's, and nobody else's. */
static int find_owners(struct pldi_leaves *l)
{
    size_t at = 0;

    for (uint64_t i = 0; i < l->total; i++)
        l->owners[i] = -1;
    for (int r = 0; r < l->group->size; r++) {
        for (uint64_t i = 0; i < l->given[r]; i++) {
            const uint64_t leaf = l->numbers[at++];

            if (leaf >= l->total)
                return pldi_fail(PLD_ERR_MISMATCH,
                                 "allreduce_leaves: rank %d gives leaf %llu of %llu", r,
                                 (unsigned long long)leaf, (unsigned long long)l->total);
            if (l->owners[leaf] >= 0)
                return pldi_fail(PLD_ERR_MISMATCH,
                                 "allreduce_leaves: leaf %llu is given by rank %d and by rank %d",
                                 (unsigned long long)leaf, l->owners[leaf], r);
            l->owners[leaf] = r;
        }
    }
    for (uint64_t i = 0; i < l->total; i++) {
        if (l->owners[i] < 0)
            return pldi_fail(PLD_ERR_MISMATCH, "allreduce_leaves: no rank gives leaf %llu of %llu",
                             (unsigned long long)i, (unsigned long long)l->total);
    }
    return PLD_OK;
}

static int one_owner(const struct pldi_leaves *l, uint64_t first, uint64_t end)
{
    for (uint64_t i = first + 1; i < end; i++) {
        if (l->owners[i] != l->owners[first])
            return 0;
    }
    return 1;
}

/* From the left, the largest aligned subtree that is all of one rank. */
static void find_parts(struct pldi_leaves *l)
{
    uint64_t at = 0;

    l->n_parts = 0;
    while (at < l->total) {
        uint64_t end = at + 1;
        int level = 0;

        while (level < MAX_LEVEL && at % (2ULL << level) == 0 && end < l->total) {
            const uint64_t next = at + (2ULL << level) < l->total ? at + (2ULL << level) : l->total;

            if (!one_owner(l, at, next))
                break;
            end = next;
            level++;
        }
        l->parts[l->n_parts] = (struct pldi_subtree){at, end - at, l->owners[at], level};
        l->levels[l->n_parts++] = (unsigned char)level;
        l->held[l->owners[at]]++;
        at = end;
    }
}

/*
 * The next part.  Where code says that there is no memory for it, or what comes after, it
 * tells the others.  What is to be equal on all ranks is so of the whole, and no more is said.
 */
static void start(pld_request *op, enum pldi_leaves_part part, const struct pldi_call *call,
                  int code)
{
    struct pldi_leaves *l = op->leaves;
    pld_request *now = &l->now;

    l->part = part;
    pldi_free(now->memory);
    if (code == PLD_OK)
        code = pldi_call_fill(call, 1, now);
    if (code < 0) {
        pldi_call_start(now, call->group, call->kind, NULL, NULL, 0, call->dtype);
        now->code = code;
        (void)snprintf(now->text, sizeof(now->text), "%s", pld_last_error());
    }
    now->whole = op;
    now->name = op->name;
    now->ticket = op->ticket;
    now->print = op->print;
    now->hash = op->hash;
}

static int reserve_numbers(struct pldi_leaves *l)
{
    uint64_t all = 0;

    for (int r = 0; r < l->group->size; r++) {
        l->counts[r] = l->given[r];
        all += l->given[r];
    }
    l->own = pldi_alloc(l->n, sizeof(l->own[0]), "leaf numbers");
    l->numbers = pldi_alloc(all, sizeof(l->numbers[0]), "leaf numbers");
    l->owners = pldi_alloc(l->total, sizeof(l->owners[0]), "leaf numbers");
    l->parts = pldi_alloc(l->total, sizeof(l->parts[0]), "leaf numbers");
    l->levels = pldi_alloc(l->total, 1, "leaf numbers");
    l->sources = pldi_alloc(l->total, sizeof(l->sources[0]), "leaf numbers");
    for (size_t i = 0; l->own != NULL && i < l->n; i++)
        l->own[i] = l->mine[i].leaf;
    return l->own == NULL || l->numbers == NULL || l->owners == NULL || l->parts == NULL ||
                   l->levels == NULL || l->sources == NULL
               ? PLD_ERR_NOMEM
               : PLD_OK;
}

static void start_numbers(pld_request *op)
{
    struct pldi_leaves *l = op->leaves;
    const int code = reserve_numbers(l);
    const struct pldi_call call = {.name = "pld_allreduce_leaves",
                                   .kind = PLDI_ALLGATHER_V,
                                   .group = l->group,
                                   .send = l->own,
                                   .recv = l->numbers,
                                   .counts = l->counts,
                                   .dtype = PLD_I64};

    start(op, NUMBERS, &call, code);
}

/* Pinned memory for the leaves and the result of a segment. */
static int reserve_pinned(struct pldi_leaves *l)
{
    const size_t row = l->segment * pld_dtype_bytes(l->sum.dtype);
    struct pldi_stage *stage;

    if (l->staged == NULL)
        return PLD_OK;
    stage = &l->staged->stages[0];
    stage->pins[0] = pldi_pin_take(l->staged->gpu, l->n * row + 1);
    stage->pins[1] = pldi_pin_take(l->staged->gpu, row);
    if (stage->pins[0] == NULL || stage->pins[1] == NULL)
        return PLD_ERR_NOMEM;
    l->pinned = stage->pins[0]->memory;
    l->results = stage->pins[1]->memory;
    return PLD_OK;
}

/* Elements of a slice such that no rank has more than WORK bytes of subtrees; or of leaves, where
 * they are copied. */
static size_t slice_for(const struct pldi_leaves *l)
{
    const size_t p = (size_t)l->group->size;
    const size_t element = pld_dtype_bytes(l->sum.dtype);
    const size_t work = l->staged == NULL ? WORK : STAGED_CHUNKS * l->staged->gpu->chunk;
    size_t most = l->unit;
    size_t slice;

    for (size_t r = 0; r < p; r++) {
        most = l->held[r] * l->unit > most ? l->held[r] * l->unit : most;
        if (l->staged != NULL && l->given[r] * element > most)
            most = l->given[r] * element;
    }
    slice = work / most / p / ALIGN * ALIGN;
    return slice < ALIGN ? ALIGN : slice;
}

static int reserve(struct pldi_leaves *l)
{
    const size_t p = (size_t)l->group->size;
    const size_t mine = l->held[l->group->rank];
    const size_t slice = slice_for(l);

    l->segment = slice * p;
    PLDI_TRY(reserve_pinned(l));
    l->starts = pldi_alloc(p + 1, sizeof(l->starts[0]), "leaves");
    l->out = pldi_alloc(mine * l->segment + 1, l->unit, "leaves");
    l->in = pldi_alloc(l->n_parts * slice + 1, l->unit, "leaves");
    l->slice = pldi_alloc(slice, l->unit, "leaves");
    return l->starts == NULL || l->out == NULL || l->in == NULL || l->slice == NULL ? PLD_ERR_NOMEM
                                                                                    : PLD_OK;
}

/* ---- Copies of leaves in device memory ---- */

static int start_read(const pld_request *op)
{
    const struct pldi_leaves *l = op->leaves;
    const size_t element = pld_dtype_bytes(l->sum.dtype);
    const size_t left = op->count - l->from;
    const size_t n = left < l->segment ? left : l->segment;
    struct pldi_staged *s = l->staged;
    pld_device *device = s->gpu->device;

    if (s->waits)
        PLDI_TRY(device->ops->stream_after(device, s->gpu->in, s->start));
    s->waits = 0;
    s->read++;
    for (size_t k = 0; k < l->n; k++)
        PLDI_TRY(device->ops->copy(device, l->pinned + k * l->segment * element,
                                   (const unsigned char *)l->mine[k].data + l->from * element,
                                   n * element, s->gpu->in));
    return device->ops->event_record(device, s->stages[0].read, s->gpu->in);
}

/* What is written is the caller's from the call on: the copy begins after what was read. */
static int start_write(const pld_request *op)
{
    const struct pldi_leaves *l = op->leaves;
    const size_t element = pld_dtype_bytes(l->sum.dtype);
    const size_t left = op->count - l->from;
    const size_t n = left < l->segment ? left : l->segment;
    const struct pldi_staged *s = l->staged;
    pld_device *device = s->gpu->device;

    PLDI_TRY(device->ops->copy(device, (unsigned char *)op->recv + l->from * element, l->results,
                               n * element, s->gpu->out));
    return device->ops->event_record(device, s->stages[0].written, s->gpu->out);
}

/* 1: the copies are over, or failed: *code. */
static int copies_are_over(const struct pldi_leaves *l, int *code)
{
    struct pldi_staged *s = l->staged;
    pld_event event = l->part == READ ? s->stages[0].read : s->stages[0].written;
    int done = 0;

    *code = s->gpu->device->ops->event_test(s->gpu->device, event, &done);
    if (done && l->part == WRITE)
        s->written = s->read;
    return done || *code < 0;
}

/* The beginning of a leaf of this rank, in the segment. */
static const unsigned char *leaf_data(const struct pldi_leaves *l, size_t k, size_t from)
{
    const size_t element = pld_dtype_bytes(l->sum.dtype);

    if (l->staged != NULL)
        return l->pinned + k * l->segment * element;
    return (const unsigned char *)l->mine[k].data + from * element;
}

/* ---- Segments ---- */

/* This rank's subtrees of a segment, for each rank its slice of all of them. */
static void form_parts(const struct pldi_leaves *l, size_t from)
{
    struct pldi_sum sum = l->sum;
    const size_t element = pld_dtype_bytes(sum.dtype);
    unsigned char *to = l->out;

    sum.wide = 1;
    for (int d = 0; d < l->group->size; d++) {
        const size_t n = l->starts[d + 1] - l->starts[d];
        size_t leaf = 0;

        for (size_t i = 0; i < l->n_parts; i++) {
            void *target = to;

            if (l->parts[i].rank != l->group->rank)
                continue;
            for (uint64_t k = 0; k < l->parts[i].n; k++)
                l->sources[k] = leaf_data(l, leaf++, from) + l->starts[d] * element;
            pldi_sum_to(&sum, &target, 1, l->sources, (int)l->parts[i].n, n, 0);
            to += n * l->unit;
        }
    }
}

/* The tree above the subtrees, of this rank's slice. */
static void finish_tree(const struct pldi_leaves *l)
{
    struct pldi_sum sum = l->sum;
    const int me = l->group->rank;
    const size_t n = l->starts[me + 1] - l->starts[me];
    const unsigned char *at = l->in;
    void *target = l->in;

    for (int r = 0; r < l->group->size; r++) {
        for (size_t i = 0; i < l->n_parts; i++) {
            if (l->parts[i].rank != r)
                continue;
            l->sources[i] = at;
            at += n * l->unit;
        }
    }
    sum.dtype = pldi_sum_dtype(sum.dtype);
    sum.wide = 1;
    sum.levels = l->levels;
    pldi_sum_to(&sum, &target, 1, l->sources, (int)l->n_parts, n, 0);
    pldi_sum_finish(&l->sum, l->slice, l->in, n);
}

/* How many elements of the vector each rank finishes. */
static void cut_segment(struct pldi_leaves *l, size_t n)
{
    const size_t p = (size_t)l->group->size;
    const size_t me = (size_t)l->group->rank;
    const size_t each = (n + p * ALIGN - 1) / (p * ALIGN) * ALIGN;

    for (size_t r = 0; r <= p; r++)
        l->starts[r] = r * each < n ? r * each : n;
    for (size_t r = 0; r < p; r++) {
        l->counts[r] = l->held[me] * (l->starts[r + 1] - l->starts[r]);
        l->counts[p + r] = l->held[r] * (l->starts[me + 1] - l->starts[me]);
    }
}

/* code: of reserve(), if this is the first segment. */
static void start_segment(pld_request *op, int code)
{
    struct pldi_leaves *l = op->leaves;
    const size_t left = op->count - l->from;
    const struct pldi_call call = {.name = "pld_allreduce_leaves",
                                   .kind = PLDI_ALLTOALL_V,
                                   .group = l->group,
                                   .send = l->out,
                                   .recv = l->in,
                                   .counts = l->counts,
                                   .recv_counts = l->counts + l->group->size,
                                   .dtype = pldi_sum_dtype(l->sum.dtype)};

    if (code == PLD_OK) {
        cut_segment(l, left < l->segment ? left : l->segment);
        form_parts(l, l->from);
    }
    start(op, SUBTREES, &call, code);
}

static void start_result(pld_request *op)
{
    struct pldi_leaves *l = op->leaves;
    const struct pldi_call call = {.name = "pld_allreduce_leaves",
                                   .kind = PLDI_ALLGATHER_V,
                                   .group = l->group,
                                   .send = l->slice,
                                   .recv = l->staged != NULL
                                               ? l->results
                                               : (unsigned char *)op->recv +
                                                     l->from * pld_dtype_bytes(l->sum.dtype),
                                   .counts = l->counts,
                                   .dtype = l->sum.dtype};

    finish_tree(l);
    for (int r = 0; r < l->group->size; r++)
        l->counts[r] = l->starts[r + 1] - l->starts[r];
    start(op, RESULT, &call, PLD_OK);
}

/* 1: there is none. */
static int next_segment(pld_request *op, int code)
{
    struct pldi_leaves *l = op->leaves;

    if (l->from >= op->count && code == PLD_OK)
        return 1;
    if (l->staged != NULL && code == PLD_OK) {
        l->part = READ;
        code = start_read(op);
        if (code == PLD_OK)
            return 0;
    }
    start_segment(op, code);
    return 0;
}

/* All have the result, and no rank can tell the others any more. */
static int lost(pld_request *op, int code)
{
    char text[PLDI_TEXT_BYTES];

    (void)snprintf(text, sizeof(text), "%s", pld_last_error());
    (void)pldi_op_give_up(op, code);
    return pldi_fail(code, "%s", text);
}

static int write_or_next(pld_request *op)
{
    struct pldi_leaves *l = op->leaves;
    int code;

    if (l->staged == NULL) {
        l->from += l->segment;
        return next_segment(op, PLD_OK);
    }
    l->part = WRITE;
    code = start_write(op);
    return code < 0 ? lost(op, code) : 0;
}

/* A part is over, an operation on all ranks; code: of copies.  1: it was the last. */
static int go_on(pld_request *op, int code)
{
    struct pldi_leaves *l = op->leaves;

    switch (l->part) {
    case NUMBERS_OF:
        PLDI_TRY(check_places(l));
        start_numbers(op);
        return 0;
    case NUMBERS:
        PLDI_TRY(find_owners(l));
        find_parts(l);
        return op->place == PLDI_LEAVES_DEVICE ? 1 : next_segment(op, reserve(l));
    case READ:
        start_segment(op, code);
        return 0;
    case SUBTREES:
        start_result(op);
        return 0;
    case RESULT:
        return write_or_next(op);
    case WRITE:
        if (code < 0)
            return lost(op, code);
        l->from += l->segment;
        break;
    }
    return next_segment(op, PLD_OK);
}

const pld_leaf *pldi_leaves_of(const pld_request *op)
{
    return op->n_items > 0 ? (const void *)(op->counts + 1) : NULL;
}

/* Without memory for this no part can be made: the operation itself tells the others. */
static int begin(pld_request *op)
{
    const size_t p = (size_t)op->group->size;
    struct pldi_leaves *l = pldi_alloc(1, sizeof(*l), "leaves");
    struct pldi_call call = {.name = "pld_allreduce_leaves",
                             .kind = PLDI_ALLGATHER,
                             .group = op->group,
                             .count = 1,
                             .dtype = PLD_I64};

    if (l == NULL)
        return PLD_ERR_NOMEM;
    op->leaves = l;
    l->group = op->group;
    l->total = op->counts[0];
    l->mine = pldi_leaves_of(op);
    l->n = op->n_items;
    l->staged = op->place == PLDI_LEAVES_STAGED ? op->staged : NULL;
    l->sum = (struct pldi_sum){.kernels = l->group->kernels,
                               .dtype = op->dtype,
                               .op = op->op,
                               .scale = op->scale,
                               .tree = 1};
    l->unit = pld_dtype_bytes(pldi_sum_dtype(op->dtype));
    l->given = pldi_alloc(p, sizeof(l->given[0]), "leaves");
    l->counts = pldi_alloc(2 * p, sizeof(l->counts[0]), "leaves");
    l->held = pldi_alloc(p, sizeof(l->held[0]), "leaves");
    if (l->given == NULL || l->counts == NULL || l->held == NULL) {
        pldi_leaves_end(op);
        return PLD_ERR_NOMEM;
    }
    l->given[l->group->rank] = l->n | (op->place != PLDI_LEAVES_HOST ? ON_DEVICE : 0);
    call.send = &l->given[l->group->rank];
    call.recv = l->given;
    start(op, NUMBERS_OF, &call, PLD_OK);
    return PLD_OK;
}

void pldi_leaves_end(pld_request *op)
{
    if (op->leaves != NULL)
        release(op->leaves);
    op->leaves = NULL;
}

static int step_part(struct pldi_leaves *l, int *moved, int *code)
{
    if (l->part == READ || l->part == WRITE)
        return copies_are_over(l, code);
    return pldi_op_part(&l->now, moved);
}

int pldi_leaves_step(pld_request *op, int *moved)
{
    int code = PLD_OK;
    int rc;

    if (op->leaves == NULL && op->state == PLDI_NEW && op->code == 0) {
        op->code = begin(op);
        if (op->code < 0)
            (void)snprintf(op->text, sizeof(op->text), "%s", pld_last_error());
    }
    if (op->leaves == NULL)
        return pldi_op_part(op, moved);
    if (op->state == PLDI_NEW)
        op->state = PLDI_OPENING;
    for (;;) {
        rc = step_part(op->leaves, moved, &code);
        if (rc <= 0)
            break;
        *moved = 1;
        op->state = PLDI_MOVING;
        rc = go_on(op, code);
        if (rc != 0)
            break;
    }
    if (rc < 0 || (rc == 1 && op->place != PLDI_LEAVES_DEVICE))
        pldi_leaves_end(op);
    return rc;
}

int pldi_leaves_meet(pld_request *op)
{
    pld_request word;

    memcpy(&word, op, offsetof(pld_request, text));
    word.place = PLDI_LEAVES_DEVICE;
    word.text[0] = '\0';
    if (op->code < 0)
        memcpy(word.text, op->text, sizeof(word.text));
    pldi_op_number(&word, op->group->sequence++);
    PLDI_TRY(pldi_coll_record(&word));
    pldi_engine_post(op->group->engine, &word, 0);
    pldi_engine_wait(op->group->engine, &word);
    if (word.code < 0)
        return pldi_fail(word.code, "%s", word.text);
    op->leaves = word.leaves;
    return PLD_OK;
}

static int check(const pld_request *op, const pld_leaf *leaves, size_t n, uint64_t total)
{
    if (total < 1 || total > MAX_LEAVES)
        return pldi_fail(PLD_ERR_ARG, "pld_allreduce_leaves: %llu leaves, need 1..%d",
                         (unsigned long long)total, MAX_LEAVES);
    if (n > total || (leaves == NULL && n > 0))
        return pldi_fail(PLD_ERR_ARG, "pld_allreduce_leaves: leaves is %s, with %zu of %llu leaves",
                         leaves == NULL ? "NULL" : "given", n, (unsigned long long)total);
    for (size_t i = 0; i < n; i++)
        PLDI_TRY(pldi_call_check_buffer("pld_allreduce_leaves", "data", leaves[i].data, op->count,
                                        op->dtype));
    return pldi_call_check_buffer("pld_allreduce_leaves", "recv", op->recv, op->count, op->dtype);
}

int pldi_leaves_fill(pld_request *op, const pld_leaf *leaves, size_t n, uint64_t total,
                     pld_op reduce, double scale)
{
    uint64_t *memory;
    pld_leaf *mine;

    PLDI_TRY(check(op, leaves, n, total));
    PLDI_TRY(pldi_call_check_op("pld_allreduce_leaves", op->dtype, reduce, scale, &scale));
    op->op = reduce;
    op->scale = reduce == PLD_AVG ? scale / (double)total : scale;
    op->print.op = (uint32_t)reduce;
    op->print.scale = scale;
    op->print.counts = total;
    memory = pldi_alloc(1, sizeof(*memory) + n * sizeof(*mine), "leaves");
    if (memory == NULL) {
        op->code = PLD_ERR_NOMEM;
        (void)snprintf(op->text, sizeof(op->text), "%s", pld_last_error());
        return PLD_OK;
    }
    memory[0] = total;
    mine = (pld_leaf *)(memory + 1);
    if (n > 0) {
        memcpy(mine, leaves, n * sizeof(*mine));
        qsort(mine, n, sizeof(*mine), order);
    }
    op->memory = memory;
    op->counts = memory;
    op->n_counts = 1;
    op->n_items = n;
    return PLD_OK;
}
