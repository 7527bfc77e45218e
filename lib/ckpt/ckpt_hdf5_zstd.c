/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * HDF5 filter 32015, zstd.  Part of the library, which registers it in order to
 * create data sets that name it, and, compiled with PLDI_H5_PLUGIN, a plugin by
 * which h5dump, h5py and all others read compressed shards.  Unlike the filters in
 * circulation it refuses damaged frames.
 *
 * The plugin calls nothing in libhdf5, so that one file serves every build of it:
 * buffers change hands as malloc()'s, which is what libhdf5 uses.
 */

#include <H5PLextern.h>
#include <hdf5.h>
#include <stdlib.h>
#include <zstd.h>

enum { ZSTD_FILTER = 32015, USUAL_LEVEL = 3 };

static size_t replace(void *data, size_t bytes, size_t capacity, size_t *buf_size, void **buf)
{
    free(*buf);
    *buf = data;
    *buf_size = capacity;
    return bytes;
}

static size_t expand(size_t bytes, size_t *buf_size, void **buf)
{
    const unsigned long long full = ZSTD_getFrameContentSize(*buf, bytes);
    void *data;

    if (full == ZSTD_CONTENTSIZE_UNKNOWN || full == ZSTD_CONTENTSIZE_ERROR || full == 0 ||
        full > SIZE_MAX / 2)
        return 0;
    data = malloc((size_t)full);
    if (data == NULL)
        return 0;
    if (ZSTD_decompress(data, (size_t)full, *buf, bytes) != full) {
        free(data);
        return 0;
    }
    return replace(data, (size_t)full, (size_t)full, buf_size, buf);
}

static size_t shrink(int level, size_t bytes, size_t *buf_size, void **buf)
{
    const size_t capacity = ZSTD_compressBound(bytes);
    void *data = malloc(capacity);
    size_t n;

    if (data == NULL)
        return 0;
    n = ZSTD_compress(data, capacity, *buf, bytes, level);
    if (ZSTD_isError(n)) {
        free(data);
        return 0;
    }
    return replace(data, n, capacity, buf_size, buf);
}

static size_t filter(unsigned flags, size_t count, const unsigned values[], size_t bytes,
                     size_t *buf_size, void **buf)
{
    if (flags & H5Z_FLAG_REVERSE)
        return expand(bytes, buf_size, buf);
    return shrink(count > 0 ? (int)values[0] : USUAL_LEVEL, bytes, buf_size, buf);
}

static const H5Z_class2_t filter_class = {
    .version = H5Z_CLASS_T_VERS,
    .id = ZSTD_FILTER,
    .encoder_present = 1,
    .decoder_present = 1,
    .name = "zstd",
    .filter = filter,
};

#ifdef PLDI_H5_PLUGIN

H5PL_type_t H5PLget_plugin_type(void)
{
    return H5PL_TYPE_FILTER;
}

const void *H5PLget_plugin_info(void)
{
    return &filter_class;
}

#else

#include "ckpt/ckpt_hdf5_impl.h"

int pldi_ckpt_h5_filter(void)
{
    /* The host program's own, or one found by libhdf5, does as well. */
    if (H5Zfilter_avail(ZSTD_FILTER) > 0)
        return 0;
    return H5Zregister(&filter_class) < 0 ? -1 : 0;
}

#endif
