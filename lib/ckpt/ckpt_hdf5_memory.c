/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A file driver for libhdf5 whose file is a descriptor that it is given: a memfd,
 * in which what nobody writes takes no room.  (By its name in /proc it could not be
 * opened: libhdf5 insists on a real path.)  What is written by it is what the
 * default driver would write.
 */

#include <stdlib.h>
#include <unistd.h>

#include "ckpt/ckpt_hdf5_impl.h"

#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

struct memory_file {
    H5FD_t pub; /* libhdf5's */
    int fd;
    haddr_t eoa, eof;
};

static H5FD_t *open_file(const char *name, unsigned flags, hid_t access, haddr_t most)
{
    const int *fd = H5Pget_driver_info(access);
    struct memory_file *f = fd == NULL ? NULL : calloc(1, sizeof(*f));

    (void)name;
    (void)flags;
    (void)most;
    if (f == NULL)
        return NULL;
    f->fd = *fd;
    return &f->pub;
}

static herr_t close_file(H5FD_t *file)
{
    free(file);
    return 0;
}

static herr_t query(const H5FD_t *file, unsigned long *flags)
{
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t get_eoa(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const struct memory_file *)file)->eoa;
}

static herr_t set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t at)
{
    (void)type;
    ((struct memory_file *)file)->eoa = at;
    return 0;
}

static haddr_t get_eof(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const struct memory_file *)file)->eof;
}

/* Behind the end there are zeros. */
static herr_t read_file(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t bytes,
                        void *out)
{
    const int64_t got = pldi_ckpt_read_at(((struct memory_file *)file)->fd, out, bytes, at);

    (void)type;
    (void)transfer;
    for (size_t i = got < 0 ? bytes : (size_t)got; i < bytes; i++)
        ((unsigned char *)out)[i] = 0;
    return got < 0 ? -1 : 0;
}

static herr_t write_file(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t bytes,
                         const void *data)
{
    struct memory_file *f = (struct memory_file *)file;

    (void)type;
    (void)transfer;
    if (pldi_ckpt_write_at(f->fd, data, bytes, at) != 0)
        return -1;
    f->eof = at + bytes > f->eof ? at + bytes : f->eof;
    return 0;
}

static herr_t truncate_file(H5FD_t *file, hid_t transfer, hbool_t closing)
{
    struct memory_file *f = (struct memory_file *)file;

    (void)transfer;
    (void)closing;
    if (f->eof != f->eoa && ftruncate(f->fd, (off_t)f->eoa) != 0)
        return -1;
    f->eof = f->eoa;
    return 0;
}

static const H5FD_class_t driver = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)511, /* of the range for use without registration */
#endif
    .name = "polder_memory",
    .maxaddr = INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(int),
    .open = open_file,
    .close = close_file,
    .query = query,
    .get_eoa = get_eoa,
    .set_eoa = set_eoa,
    .get_eof = get_eof,
    .read = read_file,
    .write = write_file,
    .truncate = truncate_file,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

/* Registered for one file at a time: then there is nothing to remember, or to leave behind. */
hid_t pldi_ckpt_h5_driver(hid_t access, int memory)
{
    const hid_t id = H5FDregister(&driver);

    if (id >= 0 && H5Pset_driver(access, id, &memory) < 0) {
        (void)H5FDunregister(id);
        return -1;
    }
    return id;
}
