/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "ckpt/ckpt_file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"

enum { READ_BYTES = 1 << 20, OPEN_DIRECTORIES = 8 };

int pldi_ckpt_point(const char *point)
{
    if (pldi_ckpt_test_point == NULL)
        return 0;
    errno = pldi_ckpt_test_point(point);
    return errno == 0 ? 0 : -1;
}

int pldi_ckpt_io_fail(const char *verb, const char *path)
{
    return pldi_fail(PLD_ERR_IO, "cannot %s '%s': %s", verb, path, strerror(errno));
}

int pldi_ckpt_is_absent(int reason)
{
    return reason == ENOENT || reason == ENOTDIR || reason == EISDIR;
}

char *pldi_ckpt_path(const char *directory, const char *name)
{
    return pldi_format("%s/%s", directory, name);
}

int pldi_ckpt_make_directory(const char *path)
{
    struct stat about;

    if (mkdir(path, 0777) == 0)
        return PLD_OK;
    if (errno == EEXIST) {
        if (stat(path, &about) == 0 && S_ISDIR(about.st_mode))
            return PLD_OK;
        errno = ENOTDIR;
    }
    return pldi_ckpt_io_fail("create directory", path);
}

int pldi_ckpt_write_at(int fd, const void *data, size_t bytes, uint64_t offset)
{
    size_t done = 0;

    while (done < bytes) {
        const ssize_t n =
            pwrite(fd, (const char *)data + done, bytes - done, (off_t)(offset + done));

        if (n < 0 && errno != EINTR)
            return -1;
        done += n < 0 ? 0 : (size_t)n;
    }
    return 0;
}

int64_t pldi_ckpt_read_at(int fd, void *out, size_t bytes, uint64_t offset)
{
    size_t got = 0;

    while (got < bytes) {
        const ssize_t n = pread(fd, (char *)out + got, bytes - got, (off_t)(offset + got));

        if (n == 0)
            break;
        if (n < 0 && errno != EINTR)
            return -1;
        got += n < 0 ? 0 : (size_t)n;
    }
    return (int64_t)got;
}

/*
 * On a failed flush the kernel forgets the pages: trying again would only look well.
 * A signal is no failure: nothing is forgotten, and what was flushed stays so.
 */
static int flush(int fd)
{
    int rc;

    do {
        rc = fsync(fd);
    } while (rc != 0 && errno == EINTR);
    return rc;
}

/* Linux has closed the file whatever the signal. */
static int close_flushed(int fd)
{
    return close(fd) != 0 && errno != EINTR ? -1 : 0;
}

/* File systems that have nothing to flush for a directory (FUSE, 9p, CIFS) say EINVAL. */
int pldi_ckpt_sync(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || (flush(fd) != 0 && errno != EINVAL) ? -1 : 0;
    const int reason = errno;

    if (fd >= 0 && close_flushed(fd) != 0 && rc == 0)
        return pldi_ckpt_io_fail("close", path);
    errno = reason;
    return rc < 0 ? pldi_ckpt_io_fail("flush", path) : PLD_OK;
}

int pldi_ckpt_memory(const char *path)
{
    const int fd = memfd_create("polder", MFD_CLOEXEC);

    if (fd < 0)
        (void)pldi_fail(PLD_ERR_IO, "no file in memory to prepare '%s' in: %s", path,
                        strerror(errno));
    return fd;
}

int pldi_ckpt_create(const char *path)
{
    const int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

    if (fd < 0)
        (void)pldi_ckpt_io_fail("create", path);
    return fd;
}

int pldi_ckpt_finish(int fd, const char *path, int code)
{
    if (code == PLD_OK && (pldi_ckpt_point("flush") != 0 || flush(fd) != 0))
        code = pldi_ckpt_io_fail("flush", path);
    if (close_flushed(fd) != 0 && code == PLD_OK)
        code = pldi_ckpt_io_fail("close", path);
    return code;
}

int pldi_ckpt_write_file(const char *path, const void *data, size_t bytes)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int rc = PLD_OK;

    if (fd < 0)
        return pldi_ckpt_io_fail("create", path);
    if (pldi_ckpt_write_at(fd, data, bytes, 0) != 0)
        rc = pldi_ckpt_io_fail("write", path);
    return pldi_ckpt_finish(fd, path, rc);
}

int64_t pldi_ckpt_file_bytes(const char *path)
{
    struct stat about;

    if (stat(path, &about) != 0)
        return -1;
    if (!S_ISREG(about.st_mode)) {
        errno = EISDIR;
        return -1;
    }
    return (int64_t)about.st_size;
}

static int read_open_file(int fd, const char *path, void **out, size_t *bytes)
{
    struct stat about;
    void *data;
    int64_t got;

    if (fstat(fd, &about) != 0)
        return pldi_ckpt_io_fail("look at", path);
    if (!S_ISREG(about.st_mode))
        return pldi_fail(PLD_ERR_CORRUPT, "'%s' is no regular file", path);
    data = pldi_alloc((size_t)about.st_size, 1, "a file");
    if (data == NULL)
        return PLD_ERR_NOMEM;
    got = pldi_ckpt_read_at(fd, data, (size_t)about.st_size, 0);
    if (got < 0) {
        const int rc = pldi_ckpt_io_fail("read", path);

        pldi_free(data);
        return rc;
    }
    *out = data;
    *bytes = (size_t)got;
    return PLD_OK;
}

int pldi_ckpt_read_file(const char *path, void **out, size_t *bytes)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int rc;

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return pldi_fail(PLD_ERR_NOTFOUND, "there is no '%s'", path);
    if (fd < 0)
        return pldi_ckpt_io_fail("open", path);
    rc = read_open_file(fd, path, out, bytes);
    (void)close(fd);
    return rc;
}

/* A walk over parts of a file, which are hashed and, if `to` is one, copied there. */
struct walk {
    int from, to; /* descriptors; to -1: none */
    struct pldi_hash128 *state;
    void *buffer;
};

/* The bytes begin .. end-1, or up to the end of the file. */
static int walk_range(struct walk *w, uint64_t begin, uint64_t end)
{
    while (begin < end) {
        const size_t want = end - begin < READ_BYTES ? (size_t)(end - begin) : READ_BYTES;
        const int64_t got = pldi_ckpt_read_at(w->from, w->buffer, want, begin);

        if (got < 0)
            return -1;
        if (got == 0)
            break;
        pldi_hash128_add(w->state, w->buffer, (size_t)got);
        if (w->to >= 0 && pldi_ckpt_write_at(w->to, w->buffer, (size_t)got, begin) != 0)
            return -1;
        begin += (uint64_t)got;
    }
    return 0;
}

/* A part of a shard that is a block. */
struct span {
    uint64_t begin, end;
};

static int by_begin(const void *left, const void *right)
{
    const struct span *a = left;
    const struct span *b = right;

    return a->begin < b->begin ? -1 : a->begin > b->begin;
}

/* The blocks of shard number `which`, ascending; in a manifest of one shard, all of them. */
static struct span *list_spans(const struct ckpt_manifest *m, uint32_t which, size_t *count)
{
    struct span *spans = pldi_alloc(m->block_count, sizeof(*spans), "a shard's blocks");
    size_t n = 0;

    for (uint64_t b = 0; spans != NULL && b < m->box_count; b++) {
        const struct ckpt_box *box = &m->boxes[b];

        for (uint64_t i = 0; box->shard == which && i < box->blocks; i++) {
            const struct ckpt_block *block = &m->blocks[box->first_block + i];

            spans[n++] = (struct span){block->offset, block->offset + block->bytes};
        }
    }
    if (n > 0)
        qsort(spans, n, sizeof(*spans), by_begin);
    *count = n;
    return spans;
}

static int walk_outside(struct walk *w, const struct span *spans, size_t count)
{
    uint64_t at = 0;

    for (size_t i = 0; i < count; i++) {
        if (walk_range(w, at, spans[i].begin) < 0)
            return -1;
        at = at > spans[i].end ? at : spans[i].end;
    }
    return walk_range(w, at, INT64_MAX);
}

/* All outside the blocks of shard `which`; m NULL: all. */
static int walk_file(struct walk *w, const struct ckpt_manifest *m, uint32_t which,
                     unsigned char hash[CKPT_HASH_BYTES])
{
    struct span *spans = NULL;
    size_t count = 0;
    int rc = PLD_ERR_NOMEM;

    if (m != NULL)
        spans = list_spans(m, which, &count);
    w->state = pldi_hash128_new();
    w->buffer = pldi_alloc(READ_BYTES, 1, "a piece of a file");
    if (w->state != NULL && w->buffer != NULL && (m == NULL || spans != NULL))
        rc = walk_outside(w, spans, count) < 0 ? PLD_ERR_IO : PLD_OK;
    if (rc == PLD_OK)
        pldi_hash128_digest(w->state, hash);
    pldi_hash128_free(w->state);
    pldi_free(w->buffer);
    pldi_free(spans);
    return rc;
}

int pldi_ckpt_copy_rest(int from, int to, const char *path, const struct ckpt_manifest *m,
                        uint64_t *bytes, unsigned char hash[CKPT_HASH_BYTES])
{
    struct walk w = {.from = from, .to = to};
    struct stat about;

    if (fstat(from, &about) != 0 || ftruncate(to, about.st_size) != 0)
        return pldi_ckpt_io_fail("write", path);
    *bytes = (uint64_t)about.st_size;
    switch (walk_file(&w, m, 0, hash)) {
    case PLD_OK:
        return PLD_OK;
    case PLD_ERR_NOMEM:
        return PLD_ERR_NOMEM;
    default:
        return pldi_ckpt_io_fail("write", path);
    }
}

int pldi_ckpt_hash_rest(const char *path, const struct ckpt_manifest *m, uint32_t which,
                        uint64_t *bytes, unsigned char hash[CKPT_HASH_BYTES])
{
    struct walk w = {.from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), .to = -1};
    struct stat about;
    int rc = PLD_OK;

    if (w.from < 0)
        return pldi_ckpt_io_fail("open", path);
    if (fstat(w.from, &about) != 0)
        rc = pldi_ckpt_io_fail("look at", path);
    else if (!S_ISREG(about.st_mode))
        rc = pldi_fail(PLD_ERR_CORRUPT, "'%s' is no regular file", path);
    else if ((rc = walk_file(&w, m, which, hash)) == PLD_ERR_IO)
        rc = pldi_ckpt_io_fail("read", path);
    if (rc == PLD_OK)
        *bytes = (uint64_t)about.st_size;
    (void)close(w.from);
    return rc;
}

int pldi_ckpt_hash_file(const char *path, uint64_t *bytes, unsigned char hash[CKPT_HASH_BYTES])
{
    return pldi_ckpt_hash_rest(path, NULL, 0, bytes, hash);
}

int pldi_ckpt_rename(const char *from, const char *to)
{
    if (rename(from, to) != 0)
        return pldi_fail(PLD_ERR_IO, "cannot rename '%s' to '%s': %s", from, to, strerror(errno));
    return PLD_OK;
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about;
    (void)kind;
    (void)where;
    (void)remove(path);
    return 0;
}

void pldi_ckpt_remove_tree(const char *path)
{
    (void)nftw(path, remove_one, OPEN_DIRECTORIES, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}
