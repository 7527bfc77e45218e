/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Mantissas are noise and exponents are few: once their bytes are apart, entropy
 * coding is all that helps.  So zstd gets no match search (a hugely negative level)
 * and Huffman coding of literals switched on, which those levels leave off.  The
 * result is an ordinary frame and both denser and several times faster than the
 * default level.
 */

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_codec.h"
#include "ckpt/ckpt_manifest.h"

/* A block must shrink by this part of its size, or reading it plain is the better deal. */
enum { LEAST_SAVING = 32 };

struct ckpt_coder {
    ZSTD_CCtx *compress;
    ZSTD_DCtx *expand;
    unsigned char *planes;
    size_t bytes;
};

static void set_huffman_only(ZSTD_CCtx *c)
{
    (void)ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    if (ZSTD_isError(
            ZSTD_CCtx_setParameter(c, ZSTD_c_literalCompressionMode, (int)ZSTD_ps_enable)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, ZSTD_minCLevel())))
        (void)ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, 1);
}

struct ckpt_coder *pldi_ckpt_coder_new(size_t bytes)
{
    struct ckpt_coder *coder = pldi_alloc(1, sizeof(*coder), "a compressor");

    if (coder == NULL)
        return NULL;
    coder->compress = ZSTD_createCCtx();
    coder->expand = ZSTD_createDCtx();
    coder->planes = pldi_alloc(bytes, 1, "a compressor's block");
    coder->bytes = bytes;
    if (coder->compress == NULL || coder->expand == NULL || coder->planes == NULL) {
        pldi_ckpt_coder_free(coder);
        (void)pldi_fail(PLD_ERR_NOMEM, "no memory for a compressor of blocks of %zu bytes", bytes);
        return NULL;
    }
    set_huffman_only(coder->compress);
    return coder;
}

void pldi_ckpt_coder_free(struct ckpt_coder *coder)
{
    if (coder == NULL)
        return;
    (void)ZSTD_freeCCtx(coder->compress);
    (void)ZSTD_freeDCtx(coder->expand);
    pldi_free(coder->planes);
    pldi_free(coder);
}

size_t pldi_ckpt_coder_bound(size_t bytes)
{
    return ZSTD_compressBound(bytes);
}

int pldi_ckpt_compress(struct ckpt_coder *coder, const void *data, size_t bytes, size_t full,
                       size_t element, void *out, size_t *stored)
{
    const void *whole = data;
    size_t n;

    /* `out` is free until the frame is made. */
    if (bytes < full) {
        memcpy(out, data, bytes);
        memset((char *)out + bytes, 0, full - bytes);
        whole = out;
    }
    pldi_ckpt_shuffle(whole, full / element, element, coder->planes);
    n = ZSTD_compress2(coder->compress, out, pldi_ckpt_coder_bound(full), coder->planes, full);
    if (!ZSTD_isError(n) && n <= full - full / LEAST_SAVING) {
        *stored = n;
        return CKPT_SHUFFLED_ZSTD;
    }
    memcpy(out, data, bytes);
    memset((char *)out + bytes, 0, full - bytes);
    *stored = full;
    return CKPT_PLAIN;
}

int pldi_ckpt_expand(struct ckpt_coder *coder, const void *data, size_t stored, size_t full,
                     size_t element, void *out)
{
    if (full > coder->bytes ||
        ZSTD_decompressDCtx(coder->expand, coder->planes, full, data, stored) != full)
        return PLD_ERR_CORRUPT;
    pldi_ckpt_unshuffle(coder->planes, full / element, element, out);
    return PLD_OK;
}

/* Constant strides, so that the compiler turns the loops into vector shuffles. */
#define PLANES(element)                                                                            \
    static void planes_##element(const unsigned char *restrict in, size_t count,                   \
                                 unsigned char *restrict out)                                      \
    {                                                                                              \
        for (size_t b = 0; b < (element); b++)                                                     \
            for (size_t i = 0; i < count; i++)                                                     \
                out[b * count + i] = in[i * (element) + b];                                        \
    }                                                                                              \
    static void elements_##element(const unsigned char *restrict in, size_t count,                 \
                                   unsigned char *restrict out)                                    \
    {                                                                                              \
        for (size_t i = 0; i < count; i++)                                                         \
            for (size_t b = 0; b < (element); b++)                                                 \
                out[i * (element) + b] = in[b * count + i];                                        \
    }

PLANES(2)
PLANES(4)
PLANES(8)

void pldi_ckpt_shuffle(const void *data, size_t count, size_t element, void *out)
{
    if (element == 2)
        planes_2(data, count, out);
    else if (element == 4)
        planes_4(data, count, out);
    else if (element == 8)
        planes_8(data, count, out);
    else
        memcpy(out, data, count * element);
}

void pldi_ckpt_unshuffle(const void *data, size_t count, size_t element, void *out)
{
    if (element == 2)
        elements_2(data, count, out);
    else if (element == 4)
        elements_4(data, count, out);
    else if (element == 8)
        elements_8(data, count, out);
    else
        memcpy(out, data, count * element);
}
