/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reading goes through pread(), not mmap(): a file that somebody shortens during
 * a run then is an error with a name, not a SIGBUS, and the page cache makes both
 * equally fast.  A corpus may have more files than a process may have open, so the
 * files read last stay open and the others are opened again; a size that has changed
 * since gives away that the file has, too.
 */

#include "data/data.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"

enum {
    LLMC_HEADER_BYTES = 1024,
    LLMC_MAGIC_U16 = 20240520,
    LLMC_VERSION_U16 = 1,
    LLMC_MAGIC_U32 = 20240801,
    LLMC_VERSION_U32 = 7,
    PRINT_BYTES = 4096,
    MAX_OPEN = 64
};

/* An open file; `users` threads are reading it. */
struct slot {
    size_t file;
    uint64_t last_used;
    int users;
    int fd; /* -1: free */
};

struct pldi_data_reader {
    pthread_mutex_t lock;
    const struct pldi_data_file *files;
    uint64_t clock;
    struct slot slots[MAX_OPEN];
};

static uint32_t load_u32(const unsigned char *b)
{
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* Bytes read from `offset` on, fewer than asked for only at the end of the file; -1: errno. */
static ssize_t read_at(int fd, void *out, size_t bytes, int64_t offset)
{
    size_t got = 0;

    while (got < bytes) {
        const ssize_t n = pread(fd, (char *)out + got, bytes - got, (off_t)offset + (off_t)got);

        if (n == 0)
            break;
        if (n < 0 && errno != EINTR)
            return -1;
        got += n < 0 ? 0 : (size_t)n;
    }
    return (ssize_t)got;
}

/* Open without waiting (a file may have become a pipe) and see how large it is now. */
static int open_file(const char *name, int *out_fd, int64_t *out_bytes)
{
    const int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat about;

    if (fd < 0)
        return pldi_fail(PLD_ERR_IO, "cannot open '%s': %s", name, strerror(errno));
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) {
        (void)close(fd);
        return pldi_fail(PLD_ERR_IO, "'%s' is no regular file any more", name);
    }
    *out_fd = fd;
    *out_bytes = about.st_size;
    return PLD_OK;
}

static int check_llmc(struct pldi_data_file *f, const unsigned char *head, size_t bytes)
{
    uint32_t magic, version;
    int64_t expected;

    if (bytes < LLMC_HEADER_BYTES)
        return pldi_fail(PLD_ERR_CORRUPT,
                         "'%s' has %lld bytes, less than the %d bytes of an llm.c header", f->name,
                         (long long)f->bytes, LLMC_HEADER_BYTES);
    magic = load_u32(head);
    version = load_u32(head + 4);
    if (magic != LLMC_MAGIC_U16 && magic != LLMC_MAGIC_U32)
        return pldi_fail(PLD_ERR_CORRUPT,
                         "'%s' is no llm.c token file: it begins with %u, not with %d or %d",
                         f->name, magic, LLMC_MAGIC_U16, LLMC_MAGIC_U32);
    f->width = magic == LLMC_MAGIC_U16 ? 2 : 4;
    if (version != (f->width == 2 ? LLMC_VERSION_U16 : LLMC_VERSION_U32))
        return pldi_fail(PLD_ERR_CORRUPT, "'%s' is an llm.c token file of version %u, not %d",
                         f->name, version, f->width == 2 ? LLMC_VERSION_U16 : LLMC_VERSION_U32);
    f->header_bytes = LLMC_HEADER_BYTES;
    f->tokens = load_u32(head + 8);
    expected = f->header_bytes + f->tokens * f->width;
    if (f->bytes != expected)
        return pldi_fail(PLD_ERR_CORRUPT,
                         "'%s' has %lld bytes, but its header says %lld tokens: %lld bytes",
                         f->name, (long long)f->bytes, (long long)f->tokens, (long long)expected);
    return PLD_OK;
}

static int check_head(struct pldi_data_file *f, const char *short_name, pld_data_format format,
                      int fd)
{
    unsigned char head[PRINT_BYTES];
    const ssize_t got = read_at(fd, head, sizeof(head), 0);

    if (got < 0)
        return pldi_fail(PLD_ERR_IO, "cannot read '%s': %s", f->name, strerror(errno));
    f->print = pldi_hash64_chain(pldi_hash64(short_name, strlen(short_name)), head, (size_t)got);
    if (format == PLD_DATA_LLMC)
        return check_llmc(f, head, (size_t)got);
    f->width = 1;
    f->header_bytes = 0;
    f->tokens = f->bytes;
    return PLD_OK;
}

int pldi_data_check_file(struct pldi_data_file *file, const char *short_name,
                         pld_data_format format)
{
    int fd = -1, rc;

    PLDI_TRY(open_file(file->name, &fd, &file->bytes));
    rc = check_head(file, short_name, format, fd);
    (void)close(fd);
    return rc;
}

int pldi_data_reader_create(const struct pldi_data_file *files, struct pldi_data_reader **out)
{
    struct pldi_data_reader *reader = pldi_alloc(1, sizeof(*reader), "open files");

    if (reader == NULL)
        return PLD_ERR_NOMEM;
    if (pthread_mutex_init(&reader->lock, NULL) != 0) {
        pldi_free(reader);
        return pldi_fail(PLD_ERR_NOMEM, "no memory for a lock");
    }
    reader->files = files;
    for (int i = 0; i < MAX_OPEN; i++)
        reader->slots[i].fd = -1;
    *out = reader;
    return PLD_OK;
}

void pldi_data_reader_destroy(struct pldi_data_reader **reader)
{
    if (*reader == NULL)
        return;
    for (int i = 0; i < MAX_OPEN; i++) {
        if ((*reader)->slots[i].fd >= 0)
            (void)close((*reader)->slots[i].fd);
    }
    (void)pthread_mutex_destroy(&(*reader)->lock);
    pldi_free(*reader);
    *reader = NULL;
}

static int reopen(const struct pldi_data_file *f, int *out_fd)
{
    int64_t bytes = 0;
    int fd = -1;

    PLDI_TRY(open_file(f->name, &fd, &bytes));
    if (bytes != f->bytes) {
        (void)close(fd);
        return pldi_fail(PLD_ERR_CORRUPT, "'%s' has %lld bytes now, %lld when it was opened",
                         f->name, (long long)bytes, (long long)f->bytes);
    }
    *out_fd = fd;
    return PLD_OK;
}

/* The slot that holds the file, else the idle one whose use is longest ago; NULL: all in use. */
static struct slot *find_slot(struct pldi_data_reader *reader, size_t file)
{
    struct slot *best = NULL;

    for (int i = 0; i < MAX_OPEN; i++) {
        struct slot *s = &reader->slots[i];

        if (s->fd >= 0 && s->file == file)
            return s;
        if (s->users == 0 && (best == NULL || s->last_used < best->last_used))
            best = s;
    }
    return best;
}

/* An open file and the slot it is in; no slot (NULL) if every one is being read by a thread. */
static int acquire(struct pldi_data_reader *reader, size_t file, struct slot **slot, int *fd)
{
    struct slot *s;
    int rc = PLD_OK;

    (void)pthread_mutex_lock(&reader->lock);
    s = find_slot(reader, file);
    if (s != NULL && (s->fd < 0 || s->file != file)) {
        if (s->fd >= 0)
            (void)close(s->fd);
        s->fd = -1;
        s->file = file;
        rc = reopen(&reader->files[file], &s->fd);
    }
    if (rc == 0 && s != NULL) {
        s->users++;
        s->last_used = ++reader->clock;
        *fd = s->fd;
    }
    (void)pthread_mutex_unlock(&reader->lock);
    *slot = s;
    return s == NULL ? reopen(&reader->files[file], fd) : rc;
}

static void release(struct pldi_data_reader *reader, struct slot *slot, int fd)
{
    if (slot == NULL) {
        (void)close(fd);
        return;
    }
    (void)pthread_mutex_lock(&reader->lock);
    slot->users--;
    (void)pthread_mutex_unlock(&reader->lock);
}

/* Widen `count` tokens of `width` bytes, which lie at the end of `out`, in place from the front. */
static int widen(int32_t *out, int64_t count, int width)
{
    const unsigned char *raw = (const unsigned char *)out + (4 - width) * count;
    uint32_t all = 0;

    for (int64_t i = 0; i < count; i++, raw += width) {
        const uint32_t token = width == 1   ? raw[0]
                               : width == 2 ? (uint32_t)(raw[0] | raw[1] << 8)
                                            : load_u32(raw);

        all |= token;
        memcpy(&out[i], &token, sizeof(token));
    }
    return all <= INT32_MAX;
}

int pldi_data_read(struct pldi_data_reader *reader, size_t index, int64_t first, int64_t count,
                   int32_t *out)
{
    const struct pldi_data_file *f = &reader->files[index];
    const size_t bytes = (size_t)count * (size_t)f->width;
    struct slot *slot = NULL;
    int fd = -1, reason;
    ssize_t got;

    PLDI_TRY(acquire(reader, index, &slot, &fd));
    got = read_at(fd, (char *)out + (4 - f->width) * count, bytes,
                  f->header_bytes + first * f->width);
    reason = errno;
    release(reader, slot, fd);
    if (got < 0)
        return pldi_fail(PLD_ERR_IO, "cannot read '%s': %s", f->name, strerror(reason));
    if ((size_t)got != bytes)
        return pldi_fail(PLD_ERR_CORRUPT, "'%s' has become shorter than the %lld bytes it had",
                         f->name, (long long)f->bytes);
    if (!widen(out, count, f->width))
        return pldi_fail(PLD_ERR_CORRUPT, "'%s' has a token of 2^31 or more after token %lld",
                         f->name, (long long)first);
    return PLD_OK;
}
