/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file ckpt_file.h
 * Files and directories of a run.  Errors are PLD_ERR_IO with the path and the
 * reason unless said otherwise.
 */
#ifndef PLDI_CKPT_FILE_H
#define PLDI_CKPT_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "ckpt/ckpt_manifest.h"

#define CKPT_MANIFEST "manifest.pldm"
#define CKPT_JSON "manifest.json"
#define CKPT_INDEX "index.h5"
#define CKPT_LATEST "LATEST"
#define CKPT_LOCK ".lock"
#define CKPT_PART ".part-"
#define CKPT_OLD ".old-"
#define CKPT_TRASH ".trash-"

/**
 * Where tests come in: a test program that defines this function gets to know
 * every step of a save, may end the process there, or returns an errno for the
 * step to fail with.  In the library it is absent.
 */
__attribute__((weak, visibility("hidden"))) int pldi_ckpt_test_point(const char *point);

/** 0, or -1 with errno set: the step that begins here is to fail. */
int pldi_ckpt_point(const char *point);

/** pldi_fail(PLD_ERR_IO) with the current errno: "cannot <verb> '<path>': <reason>". */
int pldi_ckpt_io_fail(const char *verb, const char *path);

/** Does this errno say that there is no such file, and not only that it cannot be had now? */
int pldi_ckpt_is_absent(int reason);

/** "directory/name"; NULL: no memory, sentence set. */
char *pldi_ckpt_path(const char *directory, const char *name);

/** Make a directory unless it is there; its parent must be. */
int pldi_ckpt_make_directory(const char *path);

/** Write all, or -1 with errno. */
int pldi_ckpt_write_at(int fd, const void *data, size_t bytes, uint64_t offset);

/** Bytes read, fewer than asked for only at the end of the file; -1 with errno. */
int64_t pldi_ckpt_read_at(int fd, void *out, size_t bytes, uint64_t offset);

/** Flush a file or directory to the device. */
int pldi_ckpt_sync(const char *path);

/** Make a file of these bytes and flush it. */
int pldi_ckpt_write_file(const char *path, const void *data, size_t bytes);

/** Read a whole file; free with pldi_free().  Also NOTFOUND, CORRUPT (no file), NOMEM. */
int pldi_ckpt_read_file(const char *path, void **out, size_t *bytes);

/** Size and XXH3-128 of a whole file.  Also NOMEM. */
int pldi_ckpt_hash_file(const char *path, uint64_t *bytes, unsigned char hash[CKPT_HASH_BYTES]);

/**
 * XXH3-128 of what no block covers, ascending, and the file's size.
 * @param which  the shard's number in the manifest
 */
int pldi_ckpt_hash_rest(const char *path, const struct ckpt_manifest *m, uint32_t which,
                        uint64_t *bytes, unsigned char hash[CKPT_HASH_BYTES]);

/** A file in memory, for `path`; -1: there is none, sentence set. */
int pldi_ckpt_memory(const char *path);

/** Make a file that must not be there, open for writing; -1: sentence set. */
int pldi_ckpt_create(const char *path);

/**
 * Copy what no block covers from one file to the other, which gets the size of the
 * first, and hash it as above.  `m` NULL: all of it.
 */
int pldi_ckpt_copy_rest(int from, int to, const char *path, const struct ckpt_manifest *m,
                        uint64_t *bytes, unsigned char hash[CKPT_HASH_BYTES]);

/** Flush and close; after an error, `code`, only close.  Returns code, or IO. */
int pldi_ckpt_finish(int fd, const char *path, int code);

/** Rename, and give the reason if that fails. */
int pldi_ckpt_rename(const char *from, const char *to);

/** Remove a directory and all in it, as far as possible. */
void pldi_ckpt_remove_tree(const char *path);

/** Size of a regular file; -1 and errno. */
int64_t pldi_ckpt_file_bytes(const char *path);

#endif /* PLDI_CKPT_FILE_H */
