/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "ckpt/ckpt_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_codec.h"
#include "ckpt/ckpt_impl.h"

enum { NOTHING = -1 };

/* One thread's way through the wants: an open shard, and the block that was read last. */
struct reader {
    const struct ckpt_manifest *m;
    const char *path;
    char *shard_path;
    int fd;
    uint32_t shard;
    size_t full; /* bytes of the largest block */
    struct ckpt_coder *coder;
    unsigned char *stored, *plain; /* [full] and what a frame may need */
    int64_t begin, end;            /* elements of the box that are in `plain` */
};

struct job {
    struct ckpt_wants *w;
    const struct ckpt_manifest *m;
    const char *path;
    atomic_size_t next;
    atomic_int stop;
};

int pldi_ckpt_want(struct ckpt_wants *w, const struct ckpt_manifest *m, const struct ckpt_tensor *t,
                   const struct pldi_box *box, void *value)
{
    char words[2 * PLD_MAX_NAME];
    int64_t left = pldi_box_count(box);

    for (uint32_t i = 0; i < t->boxes; i++) {
        struct ckpt_want want = {.from = &m->boxes[t->first_box + i], .to = *box, .value = value};

        if (!pldi_box_intersect(&want.from->box, box, &want.region))
            continue;
        if (w->count == w->capacity) {
            const size_t capacity = w->capacity == 0 ? 64 : 2 * w->capacity;
            struct ckpt_want *grown = pldi_alloc(capacity, sizeof(*grown), "boxes to read");

            if (grown == NULL)
                return PLD_ERR_NOMEM;
            if (w->count > 0)
                memcpy(grown, w->wants, w->count * sizeof(*grown));
            pldi_free(w->wants);
            w->wants = grown;
            w->capacity = capacity;
        }
        w->wants[w->count++] = want;
        left -= pldi_box_count(&want.region);
    }
    if (left != 0)
        return pldi_fail(PLD_ERR_CORRUPT, "the boxes of tensor %s in the manifest do not cover it",
                         pldi_ckpt_tensor_words(t->name, t->slot, words, sizeof(words)));
    return PLD_OK;
}

void pldi_ckpt_wants_free(struct ckpt_wants *w)
{
    pldi_free(w->wants);
    *w = (struct ckpt_wants){0};
}

static int reader_open(struct reader *r, const struct ckpt_manifest *m, const char *path)
{
    *r = (struct reader){.m = m, .path = path, .fd = -1, .begin = NOTHING, .end = NOTHING};
    for (uint64_t b = 0; b < m->box_count; b++) {
        const size_t full = (size_t)pldi_ckpt_block_full(&m->boxes[b]) *
                            pld_dtype_bytes(m->tensors[m->boxes[b].tensor].dtype);

        r->full = full > r->full ? full : r->full;
    }
    r->stored = pldi_alloc(r->full + r->full / 128, 1, "a stored block");
    r->plain = pldi_alloc(r->full, 1, "a block");
    if (r->stored == NULL || r->plain == NULL)
        return PLD_ERR_NOMEM;
    if (m->codec == PLD_CKPT_ZSTD)
        r->coder = pldi_ckpt_coder_new(r->full);
    return m->codec == PLD_CKPT_ZSTD && r->coder == NULL ? PLD_ERR_NOMEM : PLD_OK;
}

static void reader_close(struct reader *r)
{
    if (r->fd >= 0)
        (void)close(r->fd);
    pldi_ckpt_coder_free(r->coder);
    pldi_free(r->shard_path);
    pldi_free(r->stored);
    pldi_free(r->plain);
}

static int open_shard(struct reader *r, uint32_t shard)
{
    if (r->fd >= 0 && r->shard == shard)
        return PLD_OK;
    if (r->fd >= 0)
        (void)close(r->fd);
    r->fd = -1;
    pldi_free(r->shard_path);
    r->shard_path = pldi_ckpt_path(r->path, r->m->shards[shard].name);
    if (r->shard_path == NULL)
        return PLD_ERR_NOMEM;
    r->fd = open(r->shard_path, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0 && errno == ENOENT)
        return pldi_fail(PLD_ERR_CORRUPT, "shard '%s' is missing", r->shard_path);
    if (r->fd < 0)
        return pldi_ckpt_io_fail("open", r->shard_path);
    r->shard = shard;
    return PLD_OK;
}

static int corrupt(const struct reader *r, const struct ckpt_box *b, const char *how)
{
    const struct ckpt_tensor *t = &r->m->tensors[b->tensor];
    char words[2 * PLD_MAX_NAME];

    return pldi_fail(PLD_ERR_CORRUPT, "shard '%s' %s in tensor %s", r->shard_path, how,
                     pldi_ckpt_tensor_words(t->name, t->slot, words, sizeof(words)));
}

/* The bytes of a block as they are in the file, checked. */
static int read_stored(struct reader *r, const struct ckpt_box *b, const struct ckpt_block *block,
                       void *out)
{
    const int64_t got = pldi_ckpt_read_at(r->fd, out, block->bytes, block->offset);

    if (got < 0)
        return pldi_ckpt_io_fail("read", r->shard_path);
    if ((uint64_t)got != block->bytes)
        return corrupt(r, b, "ends");
    if (pldi_hash64(out, block->bytes) != block->hash)
        return corrupt(r, b, "was altered");
    return PLD_OK;
}

/* Elements of a block, in memory of the size of a full one. */
static int read_block(struct reader *r, const struct ckpt_box *b, uint64_t index, void *out)
{
    const struct ckpt_block *block = &r->m->blocks[b->first_block + index];
    const size_t element = pld_dtype_bytes(r->m->tensors[b->tensor].dtype);
    const size_t full = (size_t)pldi_ckpt_block_full(b) * element;

    if (block->form == CKPT_PLAIN)
        return read_stored(r, b, block, out);
    PLDI_TRY(read_stored(r, b, block, r->stored));
    if (pldi_ckpt_expand(r->coder, r->stored, block->bytes, full, element, out) < 0)
        return corrupt(r, b, "holds no zstd frame of the right size");
    return PLD_OK;
}

/* Copy elements from..from+count-1 of a box to `out`, a block at a time. */
static int read_run(struct reader *r, const struct ckpt_box *b, int64_t from, int64_t count,
                    unsigned char *out)
{
    const size_t element = pld_dtype_bytes(r->m->tensors[b->tensor].dtype);

    while (count > 0) {
        const uint64_t index = pldi_ckpt_block_of(b, from);
        const struct ckpt_range range = pldi_ckpt_block_range(b, index);
        const struct ckpt_block *block = &r->m->blocks[b->first_block + index];
        const int64_t inside = range.begin + range.count - from;
        const int64_t n = inside < count ? inside : count;

        /* A whole block that is stored as it is goes where it belongs at once. */
        if (n == range.count && block->bytes == (uint64_t)n * element &&
            block->form == CKPT_PLAIN) {
            PLDI_TRY(read_stored(r, b, block, out));
        } else {
            if (range.begin != r->begin) {
                r->begin = NOTHING;
                PLDI_TRY(read_block(r, b, index, r->plain));
                r->begin = range.begin;
            }
            memcpy(out, r->plain + (size_t)(from - range.begin) * element, (size_t)n * element);
        }
        from += n;
        count -= n;
        out += (size_t)n * element;
    }
    return PLD_OK;
}

static int read_want(struct reader *r, const struct ckpt_want *want)
{
    const size_t element = pld_dtype_bytes(r->m->tensors[want->from->tensor].dtype);
    struct pldi_runs runs = pldi_runs_begin(&want->region, &want->from->box, &want->to);

    PLDI_TRY(open_shard(r, want->from->shard));
    r->begin = NOTHING;
    while (pldi_runs_next(&runs))
        PLDI_TRY(read_run(r, want->from, runs.from, runs.count,
                          (unsigned char *)want->value + (size_t)runs.to * element));
    return PLD_OK;
}

static int read_some(void *context, int thread)
{
    struct job *job = context;
    struct reader r;
    int rc = reader_open(&r, job->m, job->path);
    size_t next;

    (void)thread;
    while (rc == PLD_OK && !atomic_load(&job->stop) &&
           (next = atomic_fetch_add(&job->next, 1)) < job->w->count)
        rc = read_want(&r, &job->w->wants[next]);
    if (rc < 0)
        atomic_store(&job->stop, 1);
    reader_close(&r);
    return rc;
}

static int by_place(const void *left, const void *right)
{
    const struct ckpt_want *a = left;
    const struct ckpt_want *b = right;

    if (a->from->shard != b->from->shard)
        return a->from->shard < b->from->shard ? -1 : 1;
    return (a->from->first_block > b->from->first_block) -
           (a->from->first_block < b->from->first_block);
}

int pldi_ckpt_read_wants(struct ckpt_wants *w, const struct ckpt_manifest *m, const char *path,
                         int threads)
{
    struct job job = {.w = w, .m = m, .path = path};

    if (w->count == 0)
        return PLD_OK;
    qsort(w->wants, w->count, sizeof(*w->wants), by_place);
    threads = (size_t)threads < w->count ? threads : (int)w->count;
    return pldi_ckpt_parallel(threads, read_some, &job);
}

static int verify_box(struct reader *r, const struct ckpt_box *box)
{
    PLDI_TRY(open_shard(r, box->shard));
    for (uint64_t i = 0; i < box->blocks; i++)
        PLDI_TRY(read_block(r, box, i, r->plain));
    return PLD_OK;
}

int pldi_ckpt_verify_blocks(const struct ckpt_manifest *m, const char *path)
{
    struct reader r;
    int rc = reader_open(&r, m, path);

    for (uint32_t shard = 0; rc == PLD_OK && shard < m->shard_count; shard++)
        for (uint64_t b = 0; rc == PLD_OK && b < m->box_count; b++)
            if (m->boxes[b].shard == shard)
                rc = verify_box(&r, &m->boxes[b]);
    reader_close(&r);
    return rc;
}
