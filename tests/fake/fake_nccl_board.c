/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Where the ranks of a communicator meet: a file that all of them map. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "fake_nccl_impl.h"

void fake_board_name(char path[FAKE_MAX_PATH])
{
    const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : getenv("TMPDIR");
    unsigned long number = 0;

    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        fake_die("getrandom failed");
    snprintf(path, FAKE_MAX_PATH, "%.60s/fake-nccl-%lx", folder == NULL ? "/tmp" : folder, number);
}

static size_t bytes_of(int size)
{
    return sizeof(struct fake_board) + sizeof(struct fake_channel) * (size_t)(size * size);
}

/* New pages are zeros, which is how a board begins; it does not matter who comes first. */
struct fake_board *fake_board_open(const char *path, int size)
{
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *map = MAP_FAILED;

    if (fd < 0)
        return NULL;
    if (ftruncate(fd, (off_t)bytes_of(size)) == 0)
        map = mmap(NULL, bytes_of(size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return map == MAP_FAILED ? NULL : map;
}

void fake_board_close(struct fake_board *board, int size)
{
    if (board != NULL)
        munmap(board, bytes_of(size));
}

struct fake_channel *fake_board_channel(struct fake_board *board, int from, int to)
{
    return &board->channels[from * atomic_load(&board->size) + to];
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t fake_channel_write(struct fake_channel *channel, const void *data, size_t bytes)
{
    const unsigned long head = atomic_load(&channel->head);
    const size_t n = least(bytes, FAKE_RING - (head - atomic_load(&channel->tail)));
    const size_t at = head % FAKE_RING, first = least(n, FAKE_RING - at);

    if (n == 0)
        return 0;
    memcpy(channel->data + at, data, first);
    memcpy(channel->data, (const unsigned char *)data + first, n - first);
    atomic_store(&channel->head, head + n);
    return n;
}

size_t fake_channel_read(struct fake_channel *channel, void *data, size_t bytes)
{
    const unsigned long tail = atomic_load(&channel->tail);
    const size_t n = least(bytes, atomic_load(&channel->head) - tail);
    const size_t at = tail % FAKE_RING, first = least(n, FAKE_RING - at);

    if (n == 0)
        return 0;
    memcpy(data, channel->data + at, first);
    memcpy((unsigned char *)data + first, channel->data, n - first);
    atomic_store(&channel->tail, tail + n);
    return n;
}
