/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One rank's shard.  Raw: libhdf5 lays the file out, then the data go straight from
 * the tensors to their places.  Compressed: threads compress block after block into
 * a ring of buffers, and the calling thread, the only one that enters libhdf5, takes
 * them out in order, has each given a place and writes it there.  Either way what
 * libhdf5 has made around the data is copied last.
 */

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_codec.h"
#include "ckpt/ckpt_hdf5.h"
#include "ckpt/ckpt_impl.h"

/* Bytes after which the device is asked to begin writing, beside the copying. */
enum { EARLY_BYTES = 32 << 20 };

static const void *block_data(const struct ckpt_share *s, const struct ckpt_box *b, uint64_t index,
                              size_t *bytes)
{
    const size_t element = pld_dtype_bytes(s->part.tensors[b->tensor].dtype);
    const struct ckpt_range range = pldi_ckpt_block_range(b, index);

    *bytes = (size_t)range.count * element;
    return (const char *)s->data[b - s->part.boxes] + (size_t)range.begin * element;
}

static int write_box(struct ckpt_share *s, const struct ckpt_box *b, int fd, const char *path)
{
    uint64_t waiting = 0;

    for (uint64_t i = 0; i < b->blocks; i++) {
        struct ckpt_block *block = &s->part.blocks[b->first_block + i];
        size_t bytes;
        const void *data = block_data(s, b, i, &bytes);

        block->hash = pldi_hash64(data, bytes);
        if (pldi_ckpt_point("data") != 0 || pldi_ckpt_write_at(fd, data, bytes, block->offset) != 0)
            return pldi_ckpt_io_fail("write", path);
        waiting += bytes;
        if (waiting >= EARLY_BYTES || i + 1 == b->blocks) {
            (void)sync_file_range(fd, (off64_t)(block->offset + bytes - waiting), (off64_t)waiting,
                                  SYNC_FILE_RANGE_WRITE);
            waiting = 0;
        }
    }
    return PLD_OK;
}

static int write_raw(struct ckpt_share *s, int memory, int fd, const char *path)
{
    PLDI_TRY(pldi_ckpt_h5_layout(memory, path, &s->part));
    for (uint64_t b = 0; b < s->part.box_count; b++)
        PLDI_TRY(write_box(s, &s->part.boxes[b], fd, path));
    return PLD_OK;
}

struct slot {
    void *bytes;
    int ready;
};

/* The ring.  Job n is block n of the part; it uses slot n % slots. */
struct press {
    struct ckpt_share *share;
    struct ckpt_h5 *h5;
    const char *path;
    int memory, fd;
    size_t full; /* bytes of the largest block */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct slot *slots;
    uint64_t slot_count;
    uint64_t next;    /* job to be taken */
    uint64_t written; /* jobs */
    int stop;
};

static const struct ckpt_box *box_of_block(const struct ckpt_manifest *m, uint64_t block)
{
    uint64_t low = 0;
    uint64_t high = m->box_count;

    while (high - low > 1) {
        const uint64_t middle = low + (high - low) / 2;

        if (m->boxes[middle].first_block <= block)
            low = middle;
        else
            high = middle;
    }
    return &m->boxes[low];
}

static void compress(struct press *p, struct ckpt_coder *coder, uint64_t job)
{
    const struct ckpt_manifest *m = &p->share->part;
    const struct ckpt_box *b = box_of_block(m, job);
    const size_t element = pld_dtype_bytes(m->tensors[b->tensor].dtype);
    struct ckpt_block *block = &m->blocks[job];
    struct slot *slot = &p->slots[job % p->slot_count];
    size_t bytes, stored;
    const void *data = block_data(p->share, b, job - b->first_block, &bytes);

    block->form =
        (uint32_t)pldi_ckpt_compress(coder, data, bytes, (size_t)pldi_ckpt_block_full(b) * element,
                                     element, slot->bytes, &stored);
    block->bytes = stored;
    block->hash = pldi_hash64(slot->bytes, stored);
    (void)pthread_mutex_lock(&p->lock);
    slot->ready = 1;
    (void)pthread_cond_broadcast(&p->changed);
    (void)pthread_mutex_unlock(&p->lock);
}

/* Take the next job; 0: there will be none. */
static int take(struct press *p, uint64_t *job)
{
    int found;

    (void)pthread_mutex_lock(&p->lock);
    while (!p->stop && p->next < p->share->part.block_count &&
           p->next == p->written + p->slot_count)
        (void)pthread_cond_wait(&p->changed, &p->lock);
    found = !p->stop && p->next < p->share->part.block_count;
    if (found)
        *job = p->next++;
    (void)pthread_mutex_unlock(&p->lock);
    return found;
}

/* Wait until a job is done, or take it if nobody has. */
static int wait_or_take(struct press *p, uint64_t job)
{
    int mine;

    (void)pthread_mutex_lock(&p->lock);
    mine = p->next == job;
    p->next += (uint64_t)mine;
    while (!mine && !p->slots[job % p->slot_count].ready)
        (void)pthread_cond_wait(&p->changed, &p->lock);
    (void)pthread_mutex_unlock(&p->lock);
    return mine;
}

static void finish(struct press *p, uint64_t job, int stop)
{
    (void)pthread_mutex_lock(&p->lock);
    p->slots[job % p->slot_count].ready = 0;
    p->written = job + 1;
    p->stop |= stop;
    (void)pthread_cond_broadcast(&p->changed);
    (void)pthread_mutex_unlock(&p->lock);
}

static int write_chunk(struct press *p, uint64_t job)
{
    const struct ckpt_box *b = box_of_block(&p->share->part, job);
    const struct ckpt_block *block = &p->share->part.blocks[job];
    const void *bytes = p->slots[job % p->slot_count].bytes;

    PLDI_TRY(pldi_ckpt_h5_chunk(p->h5, b, job - b->first_block, bytes));
    if (pldi_ckpt_point("data") != 0 ||
        pldi_ckpt_write_at(p->fd, bytes, block->bytes, block->offset) != 0)
        return pldi_ckpt_io_fail("write", p->path);
    (void)sync_file_range(p->fd, (off64_t)block->offset, (off64_t)block->bytes,
                          SYNC_FILE_RANGE_WRITE);
    return PLD_OK;
}

static int write_chunks(struct press *p, struct ckpt_coder *coder)
{
    int rc = PLD_OK;

    for (uint64_t job = 0; rc == PLD_OK && job < p->share->part.block_count; job++) {
        if (wait_or_take(p, job))
            compress(p, coder, job);
        rc = write_chunk(p, job);
        finish(p, job, rc < 0);
    }
    return rc;
}

/* A thread that has no memory leaves its jobs to the others; the first one must have some. */
static int press_work(void *context, int thread)
{
    struct press *p = context;
    struct ckpt_coder *coder = pldi_ckpt_coder_new(p->full);
    int rc = PLD_OK;
    uint64_t job;

    if (thread == 0) {
        rc = coder == NULL ? PLD_ERR_NOMEM : write_chunks(p, coder);
        if (coder == NULL)
            finish(p, 0, 1);
    } else {
        while (coder != NULL && take(p, &job))
            compress(p, coder, job);
    }
    pldi_ckpt_coder_free(coder);
    return rc;
}

static int press_alloc(struct press *p, int threads)
{
    const struct ckpt_manifest *m = &p->share->part;

    for (uint64_t b = 0; b < m->box_count; b++) {
        const size_t full = (size_t)pldi_ckpt_block_full(&m->boxes[b]) *
                            pld_dtype_bytes(m->tensors[m->boxes[b].tensor].dtype);

        p->full = full > p->full ? full : p->full;
    }
    p->slot_count = 2 * (uint64_t)threads;
    p->slots = pldi_alloc(p->slot_count, sizeof(*p->slots), "a ring of blocks");
    for (uint64_t i = 0; p->slots != NULL && i < p->slot_count; i++) {
        p->slots[i].bytes = pldi_alloc(pldi_ckpt_coder_bound(p->full), 1, "a compressed block");
        if (p->slots[i].bytes == NULL)
            return PLD_ERR_NOMEM;
    }
    return p->slots == NULL ? PLD_ERR_NOMEM : PLD_OK;
}

static int press_run(struct press *p, int threads)
{
    int rc = press_alloc(p, threads);

    if (rc == PLD_OK)
        rc = pldi_ckpt_h5_begin(p->memory, p->path, &p->share->part, &p->h5);
    if (rc == PLD_OK) {
        rc = pldi_ckpt_parallel(threads, press_work, p);
        rc = pldi_ckpt_h5_end(&p->h5, rc);
    }
    for (uint64_t i = 0; p->slots != NULL && i < p->slot_count; i++)
        pldi_free(p->slots[i].bytes);
    pldi_free(p->slots);
    return rc;
}

static int write_compressed(const pld_ckpt *c, struct ckpt_share *s, int memory, int fd,
                            const char *path)
{
    struct press p = {.share = s, .path = path, .memory = memory, .fd = fd};
    int rc;

    if (pthread_mutex_init(&p.lock, NULL) != 0)
        return pldi_fail(PLD_ERR_NOMEM, "no memory for a lock");
    if (pthread_cond_init(&p.changed, NULL) == 0) {
        /* The calling thread mostly waits for the others or the file. */
        rc = press_run(&p, c->threads + 1);
        (void)pthread_cond_destroy(&p.changed);
    } else {
        rc = pldi_fail(PLD_ERR_NOMEM, "no memory for a condition");
    }
    (void)pthread_mutex_destroy(&p.lock);
    return rc;
}

static int fill(const pld_ckpt *c, struct ckpt_share *s, int memory, int fd, const char *path)
{
    struct ckpt_shard *shard = s->part.shards;

    if (c->opts.codec == PLD_CKPT_ZSTD)
        PLDI_TRY(write_compressed(c, s, memory, fd, path));
    else
        PLDI_TRY(write_raw(s, memory, fd, path));
    return pldi_ckpt_copy_rest(memory, fd, path, &s->part, &shard->bytes, shard->rest);
}

int pldi_ckpt_write_shard(const pld_ckpt *c, struct ckpt_share *share, const char *path)
{
    const int memory = pldi_ckpt_memory(path);
    int rc = PLD_ERR_IO;
    int fd = -1;

    if (memory >= 0 && pldi_ckpt_point("layout") != 0)
        rc = pldi_ckpt_io_fail("create", path);
    else if (memory >= 0)
        fd = pldi_ckpt_create(path);
    if (fd >= 0)
        rc = pldi_ckpt_finish(fd, path, fill(c, share, memory, fd, path));
    if (memory >= 0)
        (void)close(memory);
    return rc;
}
