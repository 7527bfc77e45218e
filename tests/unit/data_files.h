/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file data_files.h  Files to read: in a directory of their own, removed at the end. */
#ifndef DATA_FILES_H
#define DATA_FILES_H

#include <ftw.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char data_dir[] = "/tmp/polder-data-XXXXXX";

/** A name in the directory; the last few stay valid. */
static inline const char *in_dir(const char *name)
{
    static char names[8][256];
    static int next;
    char *out = names[next++ % 8];

    (void)snprintf(out, sizeof(names[0]), "%s/%s", data_dir, name);
    return out;
}

/** A file of `bytes` bytes. */
static inline const char *write_bytes(const char *name, const void *bytes, size_t count)
{
    const char *path = in_dir(name);
    FILE *f = fopen(path, "wb");

    if (f == NULL || fwrite(bytes, 1, count, f) != count || fclose(f) != 0)
        abort();
    return path;
}

/** An llm.c file of the tokens first, first+1, ...; width 2 or 4. */
static inline const char *write_tokens(const char *name, int width, uint32_t first, uint32_t count)
{
    const uint32_t header[256] = {width == 2 ? 20240520 : 20240801, width == 2 ? 1 : 7, count};
    unsigned char *bytes = malloc(sizeof(header) + (size_t)count * 4);
    const char *path;

    if (bytes == NULL)
        abort();
    memcpy(bytes, header, sizeof(header));
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t token = first + i;

        memcpy(bytes + sizeof(header) + i * (size_t)width, &token, (size_t)width);
    }
    path = write_bytes(name, bytes, sizeof(header) + (size_t)count * (size_t)width);
    free(bytes);
    return path;
}

static inline int remove_one(const char *path, const struct stat *about, int kind,
                             struct FTW *where)
{
    (void)about;
    (void)kind;
    (void)where;
    return remove(path);
}

static inline int make_data_dir(void)
{
    return mkdtemp(data_dir) != NULL;
}

static inline void remove_data_dir(void)
{
    (void)nftw(data_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif /* DATA_FILES_H */
