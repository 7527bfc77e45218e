/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "ckpt/ckpt_manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_bytes.h"

static const unsigned char magic[8] = {'P', 'L', 'D', 'M', '\r', '\n', 0x1A, '\n'};

/* Bytes that one of each takes at least, so that no count can ask for more than is there. */
enum { LEAST_SHARD = 38, LEAST_TENSOR = 30, LEAST_BOX = 40, LEAST_BLOCK = 28, LEAST_ENTRY = 22 };
enum { LEAST_FILE = 29 };

int pldi_ckpt_manifest_alloc(struct ckpt_manifest *m)
{
    m->shards = pldi_alloc(m->shard_count, sizeof(*m->shards), "shards of a checkpoint");
    m->tensors = pldi_alloc(m->tensor_count, sizeof(*m->tensors), "tensors of a checkpoint");
    m->boxes = pldi_alloc(m->box_count, sizeof(*m->boxes), "boxes of a checkpoint");
    m->blocks = pldi_alloc(m->block_count, sizeof(*m->blocks), "blocks of a checkpoint");
    m->files = pldi_alloc(m->file_count, sizeof(*m->files), "files of a checkpoint");
    m->entries = pldi_alloc(m->entry_count, sizeof(*m->entries), "entries of a checkpoint");
    if (m->shards == NULL || m->tensors == NULL || m->boxes == NULL || m->blocks == NULL ||
        m->files == NULL || m->entries == NULL)
        return PLD_ERR_NOMEM;
    return PLD_OK;
}

void pldi_ckpt_manifest_free(struct ckpt_manifest *m)
{
    pldi_free(m->shards);
    pldi_free(m->tensors);
    pldi_free(m->boxes);
    pldi_free(m->blocks);
    pldi_free(m->files);
    pldi_free(m->entries);
    pldi_free(m->buffer);
    *m = (struct ckpt_manifest){0};
}

int pldi_ckpt_tensor_order(const char *name_a, const char *slot_a, const char *name_b,
                           const char *slot_b)
{
    const int names = strcmp(name_a, name_b);

    return names != 0 ? names : strcmp(slot_a, slot_b);
}

const char *pldi_ckpt_tensor_words(const char *name, const char *slot, char *out, size_t bytes)
{
    (void)snprintf(out, bytes, slot[0] == '\0' ? "'%s'" : "'%s' (%s)", name, slot);
    return out;
}

const struct ckpt_tensor *pldi_ckpt_manifest_find(const struct ckpt_manifest *m, const char *name,
                                                  const char *slot)
{
    uint32_t low = 0;
    uint32_t high = m->tensor_count;

    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const struct ckpt_tensor *t = &m->tensors[middle];
        const int order = pldi_ckpt_tensor_order(name, slot, t->name, t->slot);

        if (order == 0)
            return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static void put_box(struct ckpt_out *out, const struct ckpt_manifest *m, const struct ckpt_box *b)
{
    pldi_ckpt_put32(out, b->shard);
    for (int d = 0; d < b->box.ndim; d++)
        pldi_ckpt_put64(out, (uint64_t)b->box.offset[d]);
    for (int d = 0; d < b->box.ndim; d++)
        pldi_ckpt_put64(out, (uint64_t)b->box.extent[d]);
    pldi_ckpt_put32(out, (uint32_t)b->dim);
    pldi_ckpt_put64(out, (uint64_t)b->rows);
    pldi_ckpt_put64(out, b->blocks);
    for (uint64_t i = 0; i < b->blocks; i++) {
        const struct ckpt_block *block = &m->blocks[b->first_block + i];

        pldi_ckpt_put64(out, block->offset);
        pldi_ckpt_put64(out, block->bytes);
        pldi_ckpt_put64(out, block->hash);
        pldi_ckpt_put32(out, block->form);
    }
}

static void put_tensors(struct ckpt_out *out, const struct ckpt_manifest *m)
{
    for (uint32_t t = 0; t < m->tensor_count; t++) {
        const struct ckpt_tensor *tensor = &m->tensors[t];

        pldi_ckpt_put_text(out, tensor->name);
        pldi_ckpt_put_text(out, tensor->slot);
        pldi_ckpt_put32(out, (uint32_t)tensor->dtype);
        pldi_ckpt_put32(out, (uint32_t)tensor->ndim);
        for (int d = 0; d < tensor->ndim; d++)
            pldi_ckpt_put64(out, (uint64_t)tensor->shape[d]);
        pldi_ckpt_put32(out, tensor->boxes);
        for (uint32_t b = 0; b < tensor->boxes; b++)
            put_box(out, m, &m->boxes[tensor->first_box + b]);
    }
}

static void put_entries(struct ckpt_out *out, const struct ckpt_manifest *m)
{
    for (uint32_t i = 0; i < m->entry_count; i++) {
        const struct ckpt_entry *e = &m->entries[i];
        uint64_t bits;

        memcpy(&bits, &e->number, sizeof(bits));
        pldi_ckpt_put32(out, (uint32_t)e->kind);
        pldi_ckpt_put_text(out, e->key);
        pldi_ckpt_put64(out, bits);
        pldi_ckpt_put_blob(out, e->value, e->bytes);
    }
}

static void put_body(struct ckpt_out *out, const struct ckpt_manifest *m)
{
    pldi_ckpt_put32(out, m->codec);
    pldi_ckpt_put32(out, m->ranks);
    pldi_ckpt_put_text(out, m->writer);
    pldi_ckpt_put_text(out, m->mesh);
    pldi_ckpt_put32(out, m->shard_count);
    pldi_ckpt_put32(out, m->tensor_count);
    pldi_ckpt_put32(out, m->file_count);
    pldi_ckpt_put32(out, m->entry_count);
    pldi_ckpt_put64(out, m->box_count);
    pldi_ckpt_put64(out, m->block_count);
    for (uint32_t s = 0; s < m->shard_count; s++) {
        pldi_ckpt_put_text(out, m->shards[s].name);
        pldi_ckpt_put_text(out, m->shards[s].host);
        pldi_ckpt_put32(out, (uint32_t)m->shards[s].rank);
        pldi_ckpt_put64(out, m->shards[s].bytes);
        pldi_ckpt_put(out, m->shards[s].rest, CKPT_HASH_BYTES);
    }
    put_tensors(out, m);
    for (uint32_t f = 0; f < m->file_count; f++) {
        pldi_ckpt_put_text(out, m->files[f].name);
        pldi_ckpt_put64(out, m->files[f].bytes);
        pldi_ckpt_put(out, m->files[f].hash, CKPT_HASH_BYTES);
    }
    put_entries(out, m);
}

static void put_header(struct ckpt_out *out, const struct ckpt_manifest *m, uint64_t total)
{
    pldi_ckpt_put(out, magic, sizeof(magic));
    pldi_ckpt_put32(out, CKPT_FORMAT);
    pldi_ckpt_put32(out, 0);
    pldi_ckpt_put64(out, total);
    pldi_ckpt_put64(out, (uint64_t)m->step);
    pldi_ckpt_put64(out, (uint64_t)m->time);
    pldi_ckpt_put(out, m->uuid, CKPT_UUID_BYTES);
    if (!out->failed)
        pldi_ckpt_put64(out, pldi_hash64(out->data, out->bytes));
}

static int hash128(const void *data, size_t bytes, unsigned char out[CKPT_HASH_BYTES])
{
    struct pldi_hash128 *state = pldi_hash128_new();

    if (state == NULL)
        return PLD_ERR_NOMEM;
    pldi_hash128_add(state, data, bytes);
    pldi_hash128_digest(state, out);
    pldi_hash128_free(state);
    return PLD_OK;
}

int pldi_ckpt_manifest_encode(const struct ckpt_manifest *m, unsigned char **out, size_t *bytes)
{
    unsigned char hash[CKPT_HASH_BYTES];
    struct ckpt_out header = {0};
    struct ckpt_out all = {0};
    int rc = PLD_OK;

    put_header(&all, m, 0);
    put_body(&all, m);
    put_header(&header, m, all.bytes + CKPT_HASH_BYTES);
    if (all.failed || header.failed)
        rc = PLD_ERR_NOMEM;
    if (rc == PLD_OK) {
        memcpy(all.data, header.data, CKPT_HEADER_BYTES);
        rc = hash128(all.data, all.bytes, hash);
        pldi_ckpt_put(&all, hash, sizeof(hash));
    }
    pldi_free(header.data);
    if (rc < 0 || all.failed) {
        pldi_free(all.data);
        return PLD_ERR_NOMEM;
    }
    *out = all.data;
    *bytes = all.bytes;
    return PLD_OK;
}

/* What decoding has come to; `wrong` says what cannot be. */
struct reader {
    struct ckpt_in in;
    struct ckpt_manifest *m;
    uint64_t boxes, blocks; /* so far */
    const char *wrong;
};

static int wrong(struct reader *r, const char *what)
{
    if (r->wrong == NULL)
        r->wrong = what;
    return 0;
}

/* A name of a file in the checkpoint's own directory. */
static int is_plain_name(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static int get_counts(struct reader *r)
{
    struct ckpt_manifest *m = r->m;
    uint64_t left;

    m->codec = pldi_ckpt_get32(&r->in);
    m->ranks = pldi_ckpt_get32(&r->in);
    m->writer = pldi_ckpt_get_text(&r->in);
    m->mesh = pldi_ckpt_get_text(&r->in);
    m->shard_count = pldi_ckpt_get32(&r->in);
    m->tensor_count = pldi_ckpt_get32(&r->in);
    m->file_count = pldi_ckpt_get32(&r->in);
    m->entry_count = pldi_ckpt_get32(&r->in);
    m->box_count = pldi_ckpt_get64(&r->in);
    m->block_count = pldi_ckpt_get64(&r->in);
    left = (uint64_t)(r->in.end - r->in.at);
    if (r->in.bad || m->codec > 1 || m->ranks > INT32_MAX)
        return wrong(r, "its codec or number of ranks is none");
    if (m->shard_count > left / LEAST_SHARD || m->tensor_count > left / LEAST_TENSOR ||
        m->file_count > left / LEAST_FILE || m->entry_count > left / LEAST_ENTRY ||
        m->box_count > left / LEAST_BOX || m->block_count > left / LEAST_BLOCK)
        return wrong(r, "its counts are larger than the file");
    return 1;
}

static int get_hash(struct reader *r, unsigned char out[CKPT_HASH_BYTES])
{
    const void *hash = pldi_ckpt_get(&r->in, CKPT_HASH_BYTES);

    if (hash == NULL)
        return wrong(r, "it is cut off");
    memcpy(out, hash, CKPT_HASH_BYTES);
    return 1;
}

static int get_shard(struct reader *r, struct ckpt_shard *s)
{
    s->name = pldi_ckpt_get_text(&r->in);
    s->host = pldi_ckpt_get_text(&r->in);
    s->rank = (int32_t)pldi_ckpt_get32(&r->in);
    s->bytes = pldi_ckpt_get64(&r->in);
    if (!get_hash(r, s->rest))
        return 0;
    if (r->in.bad || !is_plain_name(s->name) || s->bytes > INT64_MAX || s->rank < 0)
        return wrong(r, "a shard's name, size or rank cannot be");
    return 1;
}

static int get_block(struct reader *r, const struct ckpt_box *b, uint64_t index, size_t element)
{
    const struct ckpt_range range = pldi_ckpt_block_range(b, index);
    struct ckpt_block *block = &r->m->blocks[b->first_block + index];
    const uint64_t end = r->m->shards[b->shard].bytes;
    const uint64_t full = (uint64_t)pldi_ckpt_block_full(b) * element;

    block->offset = pldi_ckpt_get64(&r->in);
    block->bytes = pldi_ckpt_get64(&r->in);
    block->hash = pldi_ckpt_get64(&r->in);
    block->form = pldi_ckpt_get32(&r->in);
    if (r->in.bad || block->offset > end || block->bytes > end - block->offset)
        return wrong(r, "a block leaves its shard");
    /* A plain block in a compressed shard is a whole chunk, padded at the end of a line. */
    if (block->form == CKPT_PLAIN)
        return block->bytes == (r->m->codec == 0 ? (uint64_t)range.count * element : full) ||
               wrong(r, "a block has another size than its elements");
    if (block->form != CKPT_SHUFFLED_ZSTD || r->m->codec == 0 || block->bytes > full + full / 128)
        return wrong(r, "a block's form cannot be");
    return 1;
}

static int get_extents(struct reader *r, const struct ckpt_tensor *t, struct ckpt_box *b)
{
    b->box.ndim = t->ndim;
    for (int d = 0; d < t->ndim; d++)
        b->box.offset[d] = (int64_t)pldi_ckpt_get64(&r->in);
    for (int d = 0; d < t->ndim; d++)
        b->box.extent[d] = (int64_t)pldi_ckpt_get64(&r->in);
    for (int d = 0; d < t->ndim; d++)
        if (b->box.offset[d] < 0 || b->box.extent[d] < 1 || b->box.extent[d] > t->shape[d] ||
            b->box.offset[d] > t->shape[d] - b->box.extent[d])
            return wrong(r, "a box leaves its tensor");
    return 1;
}

/* As many blocks as the cut makes of the box; no overflow, for the box lies in its tensor. */
static uint64_t blocks_of(const struct ckpt_box *b)
{
    uint64_t n = (uint64_t)((b->box.extent[b->dim] - 1) / b->rows + 1);

    for (int d = 0; d < b->dim; d++)
        n *= (uint64_t)b->box.extent[d];
    return n;
}

static int get_box(struct reader *r, const struct ckpt_tensor *t, uint32_t tensor)
{
    struct ckpt_box *b;
    uint32_t dim;

    if (r->boxes == r->m->box_count)
        return wrong(r, "it has more boxes than it says");
    b = &r->m->boxes[r->boxes++];
    b->tensor = tensor;
    b->shard = pldi_ckpt_get32(&r->in);
    if (!get_extents(r, t, b))
        return 0;
    dim = pldi_ckpt_get32(&r->in);
    b->rows = (int64_t)pldi_ckpt_get64(&r->in);
    b->blocks = pldi_ckpt_get64(&r->in);
    b->first_block = r->blocks;
    if (r->in.bad || b->shard >= r->m->shard_count || dim >= (uint32_t)t->ndim || b->rows < 1 ||
        b->rows > b->box.extent[dim])
        return wrong(r, "a box's shard or cut cannot be");
    b->dim = (int)dim;
    if (b->blocks != blocks_of(b) || b->blocks > r->m->block_count - r->blocks)
        return wrong(r, "a box has another number of blocks than its cut makes");
    r->blocks += b->blocks;
    for (uint64_t i = 0; i < b->blocks; i++)
        if (!get_block(r, b, i, pld_dtype_bytes(t->dtype)))
            return 0;
    return 1;
}

static int get_shape(struct reader *r, struct ckpt_tensor *t)
{
    const uint32_t dtype = pldi_ckpt_get32(&r->in);
    const uint32_t ndim = pldi_ckpt_get32(&r->in);
    int64_t bytes = (int64_t)pld_dtype_bytes((pld_dtype)dtype);

    if (r->in.bad || bytes == 0 || ndim < 1 || ndim > PLD_MAX_DIMS)
        return wrong(r, "a tensor's dtype or number of dimensions cannot be");
    t->dtype = (pld_dtype)dtype;
    t->ndim = (int)ndim;
    for (int d = 0; d < t->ndim; d++) {
        t->shape[d] = (int64_t)pldi_ckpt_get64(&r->in);
        if (t->shape[d] < 1 || __builtin_mul_overflow(bytes, t->shape[d], &bytes))
            return wrong(r, "a tensor's shape cannot be");
    }
    return 1;
}

static int get_tensor(struct reader *r, uint32_t index)
{
    struct ckpt_tensor *t = &r->m->tensors[index];

    t->name = pldi_ckpt_get_text(&r->in);
    t->slot = pldi_ckpt_get_text(&r->in);
    if (!get_shape(r, t))
        return 0;
    t->boxes = pldi_ckpt_get32(&r->in);
    t->first_box = r->boxes;
    if (index > 0 && pldi_ckpt_tensor_order(t[-1].name, t[-1].slot, t->name, t->slot) >= 0)
        return wrong(r, "its tensors are not in order");
    if (r->in.bad || t->boxes > r->m->box_count - r->boxes)
        return wrong(r, "it has more boxes than it says");
    for (uint32_t b = 0; b < t->boxes; b++)
        if (!get_box(r, t, index))
            return 0;
    return 1;
}

static int get_file(struct reader *r, struct ckpt_file *f)
{
    f->name = pldi_ckpt_get_text(&r->in);
    f->bytes = pldi_ckpt_get64(&r->in);
    if (r->in.bad || !is_plain_name(f->name) || f->bytes > INT64_MAX)
        return wrong(r, "a file's name or size cannot be");
    return get_hash(r, f->hash);
}

static int get_entry(struct reader *r, struct ckpt_entry *e)
{
    const uint32_t kind = pldi_ckpt_get32(&r->in);
    uint64_t bits;

    e->key = pldi_ckpt_get_text(&r->in);
    bits = pldi_ckpt_get64(&r->in);
    memcpy(&e->number, &bits, sizeof(bits));
    e->value = pldi_ckpt_get_blob(&r->in, &e->bytes);
    e->kind = (int)kind;
    if (r->in.bad || (kind != CKPT_STATE && kind != CKPT_PARAMS_STATE && kind != CKPT_NUMBER &&
                      kind != CKPT_TEXT))
        return wrong(r, "an entry's kind or text cannot be");
    return 1;
}

static void get_body(struct reader *r)
{
    struct ckpt_manifest *m = r->m;
    int good = 1;

    for (uint32_t i = 0; good && i < m->shard_count; i++)
        good = get_shard(r, &m->shards[i]);
    for (uint32_t i = 0; good && i < m->tensor_count; i++)
        good = get_tensor(r, i);
    for (uint32_t i = 0; good && i < m->file_count; i++)
        good = get_file(r, &m->files[i]);
    for (uint32_t i = 0; good && i < m->entry_count; i++)
        good = get_entry(r, &m->entries[i]);
    if (good && (r->boxes != m->box_count || r->blocks != m->block_count))
        good = wrong(r, "it has fewer boxes or blocks than it says");
    if (good && r->in.at != r->in.end)
        (void)wrong(r, "it goes on behind its end");
}

int pldi_ckpt_manifest_header(const void *bytes, struct ckpt_manifest *out)
{
    struct ckpt_in in = {.at = bytes, .end = (const unsigned char *)bytes + CKPT_HEADER_BYTES};
    uint64_t hash;

    if (memcmp(pldi_ckpt_get(&in, sizeof(magic)), magic, sizeof(magic)) != 0)
        return PLD_ERR_CORRUPT;
    out->version = pldi_ckpt_get32(&in);
    (void)pldi_ckpt_get(&in, 12);
    out->step = (int64_t)pldi_ckpt_get64(&in);
    out->time = (int64_t)pldi_ckpt_get64(&in);
    memcpy(out->uuid, pldi_ckpt_get(&in, CKPT_UUID_BYTES), CKPT_UUID_BYTES);
    hash = pldi_ckpt_get64(&in);
    return hash == pldi_hash64(bytes, CKPT_HEADER_BYTES - 8) ? PLD_OK : PLD_ERR_CORRUPT;
}

/* Everything about the bytes as bytes: magic, version, length, hashes. */
static int check_bytes(const char *path, const unsigned char *data, size_t bytes,
                       struct ckpt_manifest *m)
{
    unsigned char hash[CKPT_HASH_BYTES];
    struct ckpt_in length;

    if (bytes < CKPT_HEADER_BYTES + CKPT_HASH_BYTES)
        return pldi_fail(PLD_ERR_CORRUPT, "'%s' has %zu bytes, less than a manifest", path, bytes);
    if (pldi_ckpt_manifest_header(data, m) < 0)
        return pldi_fail(PLD_ERR_CORRUPT, "'%s' does not begin as a manifest does", path);
    if (m->version != CKPT_FORMAT)
        return pldi_fail(m->version > CKPT_FORMAT ? PLD_ERR_UNSUPPORTED : PLD_ERR_CORRUPT,
                         "'%s' is of format %u, this polder reads up to %d", path, m->version,
                         CKPT_FORMAT);
    length = (struct ckpt_in){.at = data + 16, .end = data + 24};
    if (m->step < 0)
        return pldi_fail(PLD_ERR_CORRUPT, "'%s' is of step %lld", path, (long long)m->step);
    if (pldi_ckpt_get64(&length) != bytes)
        return pldi_fail(PLD_ERR_CORRUPT, "'%s' has %zu bytes, not as many as it says", path,
                         bytes);
    PLDI_TRY(hash128(data, bytes - CKPT_HASH_BYTES, hash));
    if (memcmp(hash, data + bytes - CKPT_HASH_BYTES, CKPT_HASH_BYTES) != 0)
        return pldi_fail(PLD_ERR_CORRUPT, "'%s' was altered: its hash does not match", path);
    return PLD_OK;
}

int pldi_ckpt_manifest_decode(const char *path, void *buffer, size_t bytes,
                              struct ckpt_manifest *out)
{
    const unsigned char *data = buffer;
    struct ckpt_manifest m = {.buffer = buffer};
    struct reader r = {.m = &m};
    int rc = check_bytes(path, data, bytes, &m);

    if (rc == PLD_OK) {
        r.in =
            (struct ckpt_in){.at = data + CKPT_HEADER_BYTES, .end = data + bytes - CKPT_HASH_BYTES};
        if (get_counts(&r))
            rc = pldi_ckpt_manifest_alloc(&m);
        if (rc == PLD_OK && r.wrong == NULL)
            get_body(&r);
        if (r.wrong != NULL)
            rc = pldi_fail(PLD_ERR_CORRUPT, "'%s' is no manifest: %s", path, r.wrong);
    }
    if (rc < 0)
        pldi_ckpt_manifest_free(&m);
    else
        *out = m;
    return rc;
}
