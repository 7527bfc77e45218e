/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file ckpt_codec.h  Byte shuffle and zstd frames, as HDF5 filters 2 and 32015 read them. */
#ifndef PLDI_CKPT_CODEC_H
#define PLDI_CKPT_CODEC_H

#include <stddef.h>
#include <stdint.h>

/** Working memory of one thread. */
struct ckpt_coder;

/** For blocks of up to `bytes`; NULL: no memory, sentence set. */
struct ckpt_coder *pldi_ckpt_coder_new(size_t bytes);
void pldi_ckpt_coder_free(struct ckpt_coder *coder);

/** Bytes that a compressed block of `bytes` may need. */
size_t pldi_ckpt_coder_bound(size_t bytes);

/**
 * Compress a block: `bytes` of `data`, followed by zeros up to `full` bytes.
 *
 * @param out     [pldi_ckpt_coder_bound(full)]
 * @param stored  receives the bytes used
 * @return CKPT_SHUFFLED_ZSTD, or CKPT_PLAIN if that saves too little: then *out is the padded
 *         block itself
 */
int pldi_ckpt_compress(struct ckpt_coder *coder, const void *data, size_t bytes, size_t full,
                       size_t element, void *out, size_t *stored);

/**
 * The reverse; `stored` may be anything.
 * @param out  [full]
 * @return 0, or PLD_ERR_CORRUPT: no frame of exactly `full` bytes; no sentence
 */
int pldi_ckpt_expand(struct ckpt_coder *coder, const void *data, size_t stored, size_t full,
                     size_t element, void *out);

/** Byte b of element i goes to b*count + i, and back.  Not in place. */
void pldi_ckpt_shuffle(const void *data, size_t count, size_t element, void *out);
void pldi_ckpt_unshuffle(const void *data, size_t count, size_t element, void *out);

#endif /* PLDI_CKPT_CODEC_H */
