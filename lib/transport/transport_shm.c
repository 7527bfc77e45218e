/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A segment is a memfd with a page in front that holds a random number: whoever
 * maps it checks that it found what it was told of, and not a file of some other
 * process that happens to have the same number.
 *
 * Ranks that are threads use the segment at the owner's address (so that race
 * detectors see one memory, not two), and count in that page who still does.
 */

#include "transport/transport_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base_err.h"

enum { HEAD_BYTES = 4096, HUGE_BYTES = 2 << 20 };

struct head {
    uint64_t nonce;
    _Atomic uint64_t users; /* in the process that made it */
};

static struct head *head_of(const struct pldi_shm *shm)
{
    return (void *)(shm->data - HEAD_BYTES);
}

static uint64_t pid_namespace(void)
{
    struct stat st;

    return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

uint64_t pldi_shm_random(void)
{
    uint64_t word = 0;

    if (getrandom(&word, sizeof(word), 0) != (ssize_t)sizeof(word))
        word = (uint64_t)getpid();
    return word | 1;
}

static int map_fd(int fd, size_t bytes, const char *what, struct pldi_shm *out)
{
    void *base =
        mmap(NULL, HEAD_BYTES + bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

    if (base == MAP_FAILED)
        return pldi_fail(PLD_ERR_NOMEM, "no %zu bytes of address space for %s: %s", bytes, what,
                         strerror(errno));
    if (bytes >= HUGE_BYTES) /* Advice alone: what the system does not know it ignores. */
        (void)madvise(base, HEAD_BYTES + bytes, MADV_HUGEPAGE);
    *out = (struct pldi_shm){(unsigned char *)base + HEAD_BYTES, bytes, -1, 0};
    return PLD_OK;
}

/* rc: of giving the descriptor its size. */
static int create_on(int fd, int rc, size_t bytes, const char *what, struct pldi_shm *out)
{
    struct pldi_shm shm = {0};

    if (rc == PLD_OK)
        rc = map_fd(fd, bytes, what, &shm);
    if (rc < 0) {
        (void)close(fd);
        return rc;
    }
    shm.fd = fd;
    shm.counted = 1;
    head_of(&shm)->nonce = pldi_shm_random();
    atomic_store(&head_of(&shm)->users, 1);
    *out = shm;
    return PLD_OK;
}

int pldi_shm_create(size_t bytes, const char *what, struct pldi_shm *out)
{
    const int fd = memfd_create("polder", MFD_CLOEXEC);
    int rc = PLD_OK;

    if (fd < 0)
        return pldi_fail(PLD_ERR_NOMEM, "no shared memory for %s: %s", what, strerror(errno));
    if (bytes > INT64_MAX - HEAD_BYTES || ftruncate(fd, (off_t)(HEAD_BYTES + bytes)) != 0)
        rc = pldi_fail(PLD_ERR_NOMEM, "no %zu bytes of shared memory for %s", bytes, what);
    return create_on(fd, rc, bytes, what, out);
}

int pldi_shm_create_file(const char *path, size_t bytes, struct pldi_shm *out)
{
    int rc = PLD_OK;
    int fd, error;

    /* A process of an earlier job may still have a file of that name mapped. */
    (void)unlink(path);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return pldi_fail(PLD_ERR_IO, "cannot make %s: %s", path, strerror(errno));
    error = posix_fallocate(fd, 0, (off_t)(HEAD_BYTES + bytes));
    if (error != 0)
        rc = pldi_fail(PLD_ERR_IO, "no room for %s: %s", path, strerror(error));
    return create_on(fd, rc, bytes, path, out);
}

void pldi_shm_describe(const struct pldi_shm *shm, struct pldi_shm_place *out)
{
    *out = (struct pldi_shm_place){.pid = getpid(), .ns = pid_namespace(), .fd = -1};
    if (shm->data == NULL)
        return;
    out->nonce = head_of(shm)->nonce;
    out->address = (uint64_t)(uintptr_t)shm->data;
    out->bytes = shm->bytes;
    out->fd = shm->fd;
}

static int map_other(const struct pldi_shm_place *place, struct pldi_shm *out)
{
    struct pldi_shm shm = {0};
    struct stat st;
    char path[64];
    int fd, rc;

    (void)snprintf(path, sizeof(path), "/proc/%lld/fd/%lld", (long long)place->pid,
                   (long long)place->fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return pldi_fail(PLD_ERR_UNSUPPORTED, "no access to %s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || (uint64_t)st.st_size != HEAD_BYTES + place->bytes)
        rc = pldi_fail(PLD_ERR_UNSUPPORTED, "%s is not the segment of the other rank", path);
    else
        rc = map_fd(fd, (size_t)place->bytes, path, &shm);
    (void)close(fd);
    if (rc == PLD_OK && head_of(&shm)->nonce != place->nonce) {
        pldi_shm_unmap(&shm);
        rc = pldi_fail(PLD_ERR_UNSUPPORTED, "%s is not the segment of the other rank", path);
    }
    if (rc == PLD_OK)
        *out = shm;
    return rc;
}

int pldi_shm_map(const struct pldi_shm_place *place, struct pldi_shm *out)
{
    if (place->nonce == 0)
        return pldi_fail(PLD_ERR_UNSUPPORTED, "the other rank has no shared memory");
    if (place->ns != pid_namespace())
        return pldi_fail(PLD_ERR_UNSUPPORTED, "the other rank is in another PID namespace");
    if (place->pid != getpid())
        return map_other(place, out);
    *out = (struct pldi_shm){.data = (void *)(uintptr_t)place->address, .fd = -1, .counted = 1};
    out->bytes = (size_t)place->bytes;
    (void)atomic_fetch_add(&head_of(out)->users, 1);
    return PLD_OK;
}

void pldi_shm_seal(struct pldi_shm *shm)
{
    if (shm->data != NULL && shm->fd >= 0)
        (void)close(shm->fd);
    shm->fd = -1;
}

void pldi_shm_unmap(struct pldi_shm *shm)
{
    if (shm->data == NULL)
        return;
    pldi_shm_seal(shm);
    if (!shm->counted || atomic_fetch_sub(&head_of(shm)->users, 1) == 1)
        (void)munmap(head_of(shm), HEAD_BYTES + shm->bytes);
    *shm = (struct pldi_shm){.fd = -1};
}

void pldi_shm_discard(const struct pldi_shm *shm, size_t offset, size_t bytes)
{
    if (madvise(shm->data + offset, bytes, MADV_REMOVE) != 0)
        memset(shm->data + offset, 0, bytes);
}

int pldi_shm_watch(int64_t pid)
{
#ifdef SYS_pidfd_open
    return (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
#else
    (void)pid;
    return -1;
#endif
}

void pldi_shm_unwatch(int watch)
{
    if (watch >= 0)
        (void)close(watch);
}

int pldi_shm_ended(int64_t pid, int watch)
{
    struct pollfd p = {.fd = watch, .events = POLLIN};

    if (watch >= 0)
        return poll(&p, 1, 0) == 1;
    return kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}
