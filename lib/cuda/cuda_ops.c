/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* How polder's own kernels are launched. */

#include <polder/dtype.h>
#include <polder/error.h>

#include <string.h>

#include "cuda/cuda_device.h"

enum { VECTOR = 16, BLOCKS_PER_MULTIPROCESSOR = 8, MAX_PLACES = 80 };

const char *const pldi_cuda_kernel_names[PLDI_CUDA_KERNELS] = {
#define PLDI_CUDA_X(name) "pldi_cuda_kernel_" #name,
    PLDI_CUDA_ALL_KERNELS
#undef PLDI_CUDA_X
};

#define refuse(device, ...) pldi_cuda_of(device)->host->fail(PLD_ERR_ARG, __VA_ARGS__)

/* Arrays that a kernel walks over together. */
struct places {
    struct {
        uintptr_t at;
        size_t bytes; /* of an element */
    } array[MAX_PLACES];
    int n;
};

/* NULL: none. */
static void add_place(struct places *p, const void *at, pld_dtype dtype)
{
    if (at == NULL)
        return;
    p->array[p->n].at = (uintptr_t)at;
    p->array[p->n++].bytes = pld_dtype_bytes(dtype);
}

static int all_aligned(const struct places *p, uint64_t element)
{
    for (int i = 0; i < p->n; i++)
        if ((p->array[i].at + element * p->array[i].bytes) % VECTOR != 0)
            return 0;
    return 1;
}

/* `step`: elements that a kernel takes at once.  Without a common alignment, all one by one. */
static struct pldi_cuda_span span_of(const struct places *p, uint64_t count, uint64_t step)
{
    struct pldi_cuda_span span = {.count = count};

    for (uint64_t head = 0; head < step && head + step <= count; head++) {
        if (!all_aligned(p, head))
            continue;
        span.head = head;
        span.vectors = (count - head) / step;
        break;
    }
    return span;
}

/* Blocks for so many things of which a thread does one at a time: at most what runs at once. */
static unsigned blocks_for(const pld_device *device, uint64_t things)
{
    const uint64_t most = (uint64_t)pldi_cuda_multiprocessors(device) * BLOCKS_PER_MULTIPROCESSOR;
    const uint64_t wanted = (things + PLDI_CUDA_BLOCK - 1) / PLDI_CUDA_BLOCK;

    return (unsigned)(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

static unsigned blocks_for_span(const pld_device *device, const struct pldi_cuda_span *span,
                                uint64_t step)
{
    const uint64_t singles = span->count - span->vectors * step;

    return blocks_for(device, singles > span->vectors ? singles : span->vectors);
}

static int launch(pld_device *device, enum pldi_cuda_kernel kernel, unsigned grid, unsigned block,
                  pld_stream stream, void *argument)
{
    return pldi_cuda_launch(device, kernel, grid, block, 0, stream, &argument);
}

/* The kernel that reduces a dtype. */
static enum pldi_cuda_kernel reduce_kernel(pld_dtype dtype)
{
#define CASE(name, constant)                                                                       \
    case constant:                                                                                 \
        return PLDI_CUDA_reduce_##name;
    switch (dtype) {
        PLDI_CUDA_REDUCED(CASE)
    }
#undef CASE
    return PLDI_CUDA_KERNELS;
}

static int reduce_once(pld_device *device, struct pldi_cuda_reduce *args, uint64_t count,
                       pld_dtype dtype, pld_stream stream)
{
    const uint64_t step = VECTOR / pld_dtype_bytes(dtype);
    struct places places = {.n = 0};

    for (int s = 0; s < args->n_srcs; s++)
        add_place(&places, args->srcs[s], dtype);
    for (int d = 0; d < args->n_dsts; d++)
        add_place(&places, args->dsts[d], dtype);
    args->span = span_of(&places, count, step);
    return launch(device, reduce_kernel(dtype), blocks_for_span(device, &args->span, step),
                  PLDI_CUDA_BLOCK, stream, args);
}

/* A reduction, and how far it has come. */
struct reduction {
    void *const *dsts;
    const void *const *srcs;
    int n_dsts, n_srcs;
    pld_dtype dtype;
    pld_op op;
    double scale;
};

static const void *offset_in(const void *at, uint64_t elements, pld_dtype dtype)
{
    return (const char *)at + elements * pld_dtype_bytes(dtype);
}

/* Targets beyond those that one launch has room for are copies of the first. */
static int copy_to_rest(pld_device *device, const struct reduction *r, uint64_t count,
                        pld_stream stream)
{
    for (int d = PLDI_CUDA_TARGETS; d < r->n_dsts; d += PLDI_CUDA_TARGETS) {
        const int left = r->n_dsts - d;
        struct pldi_cuda_reduce args = {.op = PLD_SUM, .scale = 1, .n_srcs = 1};
        int rc;

        args.srcs[0] = r->dsts[0];
        args.n_dsts = left < PLDI_CUDA_TARGETS ? left : PLDI_CUDA_TARGETS;
        memcpy(args.dsts, r->dsts + d, (size_t)args.n_dsts * sizeof(args.dsts[0]));
        rc = reduce_once(device, &args, count, r->dtype, stream);
        if (rc < 0)
            return rc;
    }
    return PLD_OK;
}

/* Elements [start, start + count): as many launches as the sources need. */
static int reduce_part(pld_device *device, const struct reduction *r, uint64_t start,
                       uint64_t count, void *sum, pld_stream stream)
{
    for (int s = 0; s < r->n_srcs; s += PLDI_CUDA_SOURCES) {
        const int left = r->n_srcs - s;
        struct pldi_cuda_reduce args = {.op = (int)r->op, .scale = r->scale, .sum = sum};
        int rc;

        args.goes_on = s > 0;
        args.begins = left > PLDI_CUDA_SOURCES;
        args.n_srcs = left < PLDI_CUDA_SOURCES ? left : PLDI_CUDA_SOURCES;
        args.n_dsts = r->n_dsts < PLDI_CUDA_TARGETS ? r->n_dsts : PLDI_CUDA_TARGETS;
        for (int i = 0; i < args.n_srcs; i++)
            args.srcs[i] = offset_in(r->srcs[s + i], start, r->dtype);
        for (int d = 0; d < args.n_dsts; d++)
            args.dsts[d] = (void *)(uintptr_t)offset_in(r->dsts[d], start, r->dtype);
        rc = reduce_once(device, &args, count, r->dtype, stream);
        if (rc < 0)
            return rc;
    }
    return PLD_OK;
}

/* The sum so far is kept for a part at a time, small enough to stay in the cache. */
static int reduce_many(pld_device *device, const struct reduction *r, uint64_t count,
                       pld_stream stream)
{
    const size_t bytes = pld_dtype_bytes(r->dtype);
    const uint64_t part = PLDI_CUDA_SUM_BYTES / (bytes == 2 ? sizeof(float) : bytes);
    double *partials = pldi_cuda_scratch(device);

    for (uint64_t start = 0; start < count; start += part) {
        const uint64_t n = count - start < part ? count - start : part;
        const int rc = reduce_part(device, r, start, n, partials + PLDI_CUDA_PARTIALS, stream);

        if (rc < 0)
            return rc;
    }
    return PLD_OK;
}

int pldi_cuda_reduce(pld_device *device, void *const *dsts, int n_dsts, const void *const *srcs,
                     int n_srcs, size_t count, pld_dtype dtype, pld_op op, double scale,
                     pld_stream stream)
{
    struct reduction r = {dsts, srcs, n_dsts, n_srcs, dtype, op, scale};
    int rc;

    if (pld_dtype_bytes(dtype) == 0)
        return refuse(device, "dtype %d is none", (int)dtype);
    if (count == 0 || n_dsts == 0)
        return PLD_OK;
    if (n_srcs == 1 && scale == 1 && pld_dtype_bytes(dtype) == 2) { /* a copy of all bits */
        r.dtype = PLD_U8;
        count *= 2;
    }
    if (n_srcs > PLDI_CUDA_SOURCES)
        rc = reduce_many(device, &r, count, stream);
    else
        rc = reduce_part(device, &r, 0, count, NULL, stream);
    return rc < 0 ? rc : copy_to_rest(device, &r, count, stream);
}

/* Slices of all ranges, of that many elements. */
static uint64_t slices_of(const struct pldi_range *ranges, size_t n, uint64_t slice)
{
    uint64_t slices = 0;

    for (size_t r = 0; r < n; r++)
        slices += (ranges[r].count + slice - 1) / slice;
    return slices;
}

static int is_floating(pld_dtype dtype)
{
    return dtype == PLD_F32 || dtype == PLD_F64 || dtype == PLD_F16 || dtype == PLD_BF16;
}

/* One launch: up to PLDI_CUDA_RANGES of the ranges that are not empty; *done: how many were
 * gone through, *slices: how many partials there are so far. */
static int square_some(pld_device *device, const struct pldi_range *ranges, size_t n,
                       uint64_t slice, size_t *done, uint64_t *slices, pld_stream stream)
{
    double *partials = pldi_cuda_scratch(device);
    struct pldi_cuda_squares args = {.partials = partials + *slices, .slice = slice};
    unsigned blocks = 0;

    for (; *done < n && args.n < PLDI_CUDA_RANGES; ++*done) {
        const struct pldi_range *r = &ranges[*done];

        if (r->count == 0)
            continue;
        args.ranges[args.n].data = r->data;
        args.ranges[args.n].count = r->count;
        args.ranges[args.n].dtype = (int32_t)r->dtype;
        args.ranges[args.n++].first_block = blocks;
        blocks += (unsigned)((r->count + slice - 1) / slice);
    }
    *slices += blocks;
    if (blocks == 0)
        return PLD_OK;
    return launch(device, PLDI_CUDA_square_slices, blocks, PLDI_CUDA_BLOCK, stream, &args);
}

/* As many ranges as there are partials for; each has at least one slice. */
static int square_batch(pld_device *device, const struct pldi_range *ranges, size_t n, int goes_on,
                        struct pldi_step_vote *vote, pld_stream stream)
{
    struct pldi_cuda_total total = {.vote = vote, .goes_on = goes_on};
    uint64_t slice = PLDI_CUDA_SLICE;
    size_t done = 0;

    while (slices_of(ranges, n, slice) > PLDI_CUDA_PARTIALS)
        slice *= 2;
    while (done < n) {
        const int rc = square_some(device, ranges, n, slice, &done, &total.n, stream);

        if (rc < 0)
            return rc;
    }
    total.partials = pldi_cuda_scratch(device);
    return launch(device, PLDI_CUDA_square_total, 1, PLDI_CUDA_TOTAL_BLOCK, stream, &total);
}

int pldi_cuda_sum_squares(pld_device *device, const struct pldi_range *ranges, size_t n,
                          struct pldi_step_vote *vote, pld_stream stream)
{
    size_t done = 0;

    for (size_t r = 0; r < n; r++)
        if (!is_floating(ranges[r].dtype))
            return refuse(device, "range %zu is of %s, which has no norm", r,
                          pld_dtype_name(ranges[r].dtype));
    do {
        const size_t left = n - done;
        const size_t batch = left < PLDI_CUDA_PARTIALS ? left : PLDI_CUDA_PARTIALS;
        const int rc = square_batch(device, ranges + done, batch, done > 0, vote, stream);

        if (rc < 0)
            return rc;
        done += batch;
    } while (done < n);
    return PLD_OK;
}

int pldi_cuda_step_decide(pld_device *device, const struct pldi_step_vote *vote,
                          const struct pldi_step_rule *rule, struct pldi_step_control *control,
                          pld_stream stream)
{
    struct pldi_cuda_decide args = {vote, control, *rule};

    return launch(device, PLDI_CUDA_step_decide, 1, 1, stream, &args);
}

static enum pldi_cuda_kernel sweep_kernel(const struct pldi_device_sweep *s)
{
#define CASE(value, grad, value_dtype, gradient_dtype)                                             \
    if (s->dtype == (value_dtype) && s->grad_dtype == (gradient_dtype))                            \
        return s->adamw ? PLDI_CUDA_adamw_##value##_##grad : PLDI_CUDA_sgd_##value##_##grad;
    PLDI_CUDA_SWEPT(CASE)
#undef CASE
    return PLDI_CUDA_KERNELS;
}

int pldi_cuda_sweep(pld_device *device, const struct pldi_device_sweep *sweep,
                    const struct pldi_step_control *control, pld_stream stream)
{
    struct pldi_cuda_sweep args = {.sweep = *sweep, .control = control};
    const enum pldi_cuda_kernel kernel = sweep_kernel(sweep);
    const size_t bytes = pld_dtype_bytes(sweep->dtype);
    const size_t grad_bytes = pld_dtype_bytes(sweep->grad_dtype);
    const uint64_t step = VECTOR / (bytes < grad_bytes ? bytes : grad_bytes);
    const pld_dtype state = sweep->dtype == PLD_F64 ? PLD_F64 : PLD_F32;
    struct places places = {.n = 0};

    if (kernel == PLDI_CUDA_KERNELS)
        return refuse(device, "no optimizer kernel for values of %s and gradients of %s",
                      pld_dtype_name(sweep->dtype), pld_dtype_name(sweep->grad_dtype));
    if (sweep->count == 0)
        return PLD_OK;
    add_place(&places, sweep->value, sweep->dtype);
    add_place(&places, sweep->grad, sweep->grad_dtype);
    add_place(&places, sweep->master, state);
    add_place(&places, sweep->first, state);
    add_place(&places, sweep->second, state);
    args.span = span_of(&places, sweep->count, step);
    return launch(device, kernel, blocks_for_span(device, &args.span, step), PLDI_CUDA_BLOCK,
                  stream, &args);
}

static enum pldi_cuda_kernel cast_kernel(pld_dtype to, pld_dtype from)
{
#define CASE(to_name, from_name, to_dtype, from_dtype)                                             \
    if (to == (to_dtype) && from == (from_dtype))                                                  \
        return PLDI_CUDA_cast_##to_name##_##from_name;
    PLDI_CUDA_CASTS(CASE)
#undef CASE
    return PLDI_CUDA_KERNELS;
}

int pldi_cuda_cast(pld_device *device, void *dst, pld_dtype to, const void *src, pld_dtype from,
                   size_t count, pld_stream stream)
{
    const size_t to_bytes = pld_dtype_bytes(to);
    const size_t from_bytes = pld_dtype_bytes(from);
    const enum pldi_cuda_kernel kernel = cast_kernel(to, from);
    struct pldi_cuda_cast args = {.dst = dst, .src = src};
    struct places places = {.n = 0};
    uint64_t step;

    if (to == from && is_floating(to))
        return pldi_cuda_reduce(device, &dst, 1, &src, 1, count, to, PLD_SUM, 1, stream);
    if (kernel == PLDI_CUDA_KERNELS)
        return refuse(device, "no kernel casts %s to %s", pld_dtype_name(from), pld_dtype_name(to));
    if (count == 0)
        return PLD_OK;
    step = VECTOR / (to_bytes < from_bytes ? to_bytes : from_bytes);
    add_place(&places, dst, to);
    add_place(&places, src, from);
    args.span = span_of(&places, count, step);
    return launch(device, kernel, blocks_for_span(device, &args.span, step), PLDI_CUDA_BLOCK,
                  stream, &args);
}

int pldi_cuda_hash(pld_device *device, const void *data, size_t bytes, uint64_t *out,
                   pld_stream stream)
{
    struct pldi_cuda_hash args = {data, bytes, out};
    const int rc = launch(device, PLDI_CUDA_hash_begin, 1, 1, stream, &args);

    if (rc < 0 || bytes == 0)
        return rc;
    return launch(device, PLDI_CUDA_hash_words, blocks_for(device, bytes / VECTOR), PLDI_CUDA_BLOCK,
                  stream, &args);
}

/* Words need `elements` aligned to 16 bytes, and all planes to 8. */
static int move_bytes(pld_device *device, enum pldi_cuda_kernel kernel, const void *elements,
                      const void *planes, const struct pldi_cuda_shuffle *wanted, pld_stream stream)
{
    struct pldi_cuda_shuffle args = *wanted;
    const int known = args.width == 2 || args.width == 4 || args.width == 8;

    if (args.count == 0 || args.width == 0)
        return PLD_OK;
    if (known && args.count % 8 == 0 && (uintptr_t)elements % VECTOR == 0 &&
        (uintptr_t)planes % 8 == 0)
        args.eights = args.count / 8;
    return launch(device, kernel, blocks_for(device, args.eights > 0 ? args.eights : args.count),
                  PLDI_CUDA_BLOCK, stream, &args);
}

int pldi_cuda_shuffle(pld_device *device, void *dst, const void *src, size_t count, size_t width,
                      pld_stream stream)
{
    const struct pldi_cuda_shuffle args = {dst, src, count, width, 0};

    return move_bytes(device, PLDI_CUDA_shuffle, src, dst, &args, stream);
}

int pldi_cuda_unshuffle(pld_device *device, void *dst, const void *src, size_t count, size_t width,
                        pld_stream stream)
{
    const struct pldi_cuda_shuffle args = {dst, src, count, width, 0};

    return move_bytes(device, PLDI_CUDA_unshuffle, dst, src, &args, stream);
}
