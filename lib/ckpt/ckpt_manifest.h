/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file ckpt_manifest.h
 * What a checkpoint consists of, in memory and as bytes.  The bytes are described
 * in doc/checkpoint-format.md.  A rank's report to the one that commits has the
 * same form, with one shard.
 */
#ifndef PLDI_CKPT_MANIFEST_H
#define PLDI_CKPT_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include <polder/dtype.h>

#include "shard/shard.h"

enum {
    CKPT_FORMAT = 1,
    CKPT_HEADER_BYTES = 64, /* of every version: enough to order saves without the rest */
    CKPT_UUID_BYTES = 16,
    CKPT_HASH_BYTES = 16
};

/** How the bytes of a block are stored. */
enum { CKPT_PLAIN = 0, CKPT_SHUFFLED_ZSTD = 1 };

enum { CKPT_STATE = 's', CKPT_PARAMS_STATE = 'p', CKPT_NUMBER = 'n', CKPT_TEXT = 't' };

struct ckpt_shard {
    const char *name, *host;
    uint64_t bytes;
    int32_t rank;
    unsigned char rest[CKPT_HASH_BYTES]; /* XXH3-128 of all bytes outside blocks, ascending */
};

struct ckpt_tensor {
    const char *name, *slot;
    pld_dtype dtype;
    int ndim;
    int64_t shape[PLD_MAX_DIMS];
    uint64_t first_box;
    uint32_t boxes;
};

/**
 * A stored part of a tensor.  Its elements, in row-major order, are cut into
 * blocks: `rows` slices of dimension `dim` each (the last of a line fewer), full
 * in the dimensions behind it and one element in those before.
 */
struct ckpt_box {
    struct pldi_box box;
    uint32_t tensor, shard;
    int dim;
    int64_t rows;
    uint64_t first_block, blocks;
};

struct ckpt_block {
    uint64_t offset; /* in the shard */
    uint64_t bytes;  /* as stored */
    uint64_t hash;   /* XXH3-64 of these */
    uint32_t form;   /* CKPT_PLAIN or CKPT_SHUFFLED_ZSTD */
};

/** A file beside the shards. */
struct ckpt_file {
    const char *name;
    uint64_t bytes;
    unsigned char hash[CKPT_HASH_BYTES]; /* XXH3-128 */
};

struct ckpt_entry {
    const char *key;
    int kind;
    double number;
    const void *value; /* text: ends with a NUL, which is not counted */
    uint32_t bytes;
};

struct ckpt_manifest {
    int64_t step;
    int64_t time; /* ns since 1970; later saves of a run directory have greater ones */
    unsigned char uuid[CKPT_UUID_BYTES];
    uint32_t version; /* of the format */
    uint32_t codec;   /* pld_ckpt_codec */
    uint32_t ranks;
    const char *writer; /* version of polder */
    const char *mesh;
    struct ckpt_shard *shards;
    struct ckpt_tensor *tensors; /* by name, then slot, once complete */
    struct ckpt_box *boxes;      /* by tensor */
    struct ckpt_block *blocks;   /* by box */
    struct ckpt_file *files;
    struct ckpt_entry *entries;
    uint32_t shard_count, tensor_count, file_count, entry_count;
    uint64_t box_count, block_count;
    void *buffer; /* decoded: strings and values lie in here */
};

/** Room for so many of everything, all zero.  NOMEM. */
int pldi_ckpt_manifest_alloc(struct ckpt_manifest *m);
void pldi_ckpt_manifest_free(struct ckpt_manifest *m);

/** The bytes of a manifest; free with pldi_free().  NOMEM. */
int pldi_ckpt_manifest_encode(const struct ckpt_manifest *m, unsigned char **out, size_t *bytes);

/**
 * Read a manifest from bytes that may be anything.  `buffer` becomes the
 * manifest's, also on failure.  CORRUPT, UNSUPPORTED (newer format), NOMEM; the
 * sentence names `path`.
 */
int pldi_ckpt_manifest_decode(const char *path, void *buffer, size_t bytes,
                              struct ckpt_manifest *out);

/** The first CKPT_HEADER_BYTES alone: step, time, uuid and version of *out are set.
 *  0, or CORRUPT; no sentence. */
int pldi_ckpt_manifest_header(const void *bytes, struct ckpt_manifest *out);

/** By name and slot; NULL: there is none. */
const struct ckpt_tensor *pldi_ckpt_manifest_find(const struct ckpt_manifest *m, const char *name,
                                                  const char *slot);

/** Order of tensors in a manifest. */
int pldi_ckpt_tensor_order(const char *name_a, const char *slot_a, const char *name_b,
                           const char *slot_b);

/** Where block number `index` of a box lies among the box's elements. */
struct ckpt_range {
    int64_t begin, count; /* elements */
};
struct ckpt_range pldi_ckpt_block_range(const struct ckpt_box *b, uint64_t index);

/** The number of the block that holds an element, and elements in a full block. */
uint64_t pldi_ckpt_block_of(const struct ckpt_box *b, int64_t element);
int64_t pldi_ckpt_block_full(const struct ckpt_box *b);

/** Cut a box into blocks: sets dim, rows and blocks. */
void pldi_ckpt_block_plan(struct ckpt_box *b, size_t element);

/** "'name'" or "'name' (slot)" for sentences. */
const char *pldi_ckpt_tensor_words(const char *name, const char *slot, char *out, size_t bytes);

#endif /* PLDI_CKPT_MANIFEST_H */
