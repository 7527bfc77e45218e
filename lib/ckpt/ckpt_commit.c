/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What rank 0 does alone.  The order is all: nothing is renamed before every byte
 * of it has been flushed, nothing is removed before what replaces it is in place
 * and flushed.  pldi_ckpt_point() marks the steps between which a process may die.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_hdf5.h"
#include "ckpt/ckpt_impl.h"

/* Later than any save that is there, whatever the clocks say. */
static int choose_time(const char *directory, int64_t *time)
{
    struct ckpt_found *found = NULL;
    struct timespec now;
    size_t count = 0;
    const int rc = pldi_ckpt_list(directory, &found, &count);

    /* A directory that is gone is told of where the save's own is made. */
    if (rc < 0 && rc != PLD_ERR_NOTFOUND)
        return rc;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    *time = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    for (size_t i = 0; i < count; i++)
        if (found[i].time >= *time)
            *time = found[i].time + 1;
    pldi_ckpt_list_free(found, count);
    return PLD_OK;
}

int pldi_ckpt_commit_begin(const pld_ckpt *c, int64_t step, struct ckpt_manifest *out,
                           struct ckpt_commit *commit)
{
    char name[32], uuid[33];

    commit->c = c;
    commit->step = step;
    if (getrandom(out->uuid, CKPT_UUID_BYTES, 0) != CKPT_UUID_BYTES)
        return pldi_fail(PLD_ERR_IO, "no random number for a checkpoint: %s", strerror(errno));
    pldi_ckpt_uuid_text(out->uuid, uuid);
    pldi_ckpt_step_name(step, name);
    commit->final = pldi_ckpt_path(c->directory, name);
    commit->part = pldi_format("%s/%s%s-%.8s", c->directory, CKPT_PART, name, uuid);
    if (commit->final == NULL || commit->part == NULL)
        return PLD_ERR_NOMEM;
    /* Without a lock the save goes on: then nobody removes remains either. */
    commit->lock = pldi_ckpt_lock(c->directory, 0);
    PLDI_TRY(choose_time(c->directory, &out->time));
    if (pldi_ckpt_point("begin") != 0)
        return pldi_ckpt_io_fail("create directory", commit->part);
    PLDI_TRY(pldi_ckpt_make_directory(commit->part));
    commit->made = 1;
    return PLD_OK;
}

/* A file of the save that is no shard: name it in the manifest with size and hash. */
static int add_file(struct ckpt_manifest *m, const char *path, const char *name)
{
    struct ckpt_file *f = &m->files[m->file_count];

    f->name = name;
    PLDI_TRY(pldi_ckpt_hash_file(path, &f->bytes, f->hash));
    m->file_count++;
    return PLD_OK;
}

static int write_index(struct ckpt_manifest *m, const char *path)
{
    struct ckpt_file *f = &m->files[m->file_count];
    const int memory = pldi_ckpt_memory(path);
    int rc = memory < 0 ? PLD_ERR_IO : PLD_OK;
    int fd;

    if (rc == PLD_OK && pldi_ckpt_point("index") != 0)
        rc = pldi_ckpt_io_fail("write", path);
    if (rc == PLD_OK)
        rc = pldi_ckpt_h5_index(memory, path, m);
    if (rc == PLD_OK) {
        fd = pldi_ckpt_create(path);
        rc = fd < 0 ? PLD_ERR_IO : pldi_ckpt_copy_rest(memory, fd, path, NULL, &f->bytes, f->hash);
        if (fd >= 0)
            rc = pldi_ckpt_finish(fd, path, rc);
    }
    if (memory >= 0)
        (void)close(memory);
    f->name = CKPT_INDEX;
    m->file_count += rc == PLD_OK;
    return rc;
}

static int write_json(struct ckpt_manifest *m, const char *path)
{
    char *text;
    int rc;

    if (pldi_ckpt_point("json") != 0)
        return pldi_ckpt_io_fail("write", path);
    text = pldi_ckpt_json(m);
    if (text == NULL)
        return PLD_ERR_NOMEM;
    rc = pldi_ckpt_write_file(path, text, strlen(text));
    pldi_free(text);
    return rc < 0 ? rc : add_file(m, path, CKPT_JSON);
}

static int write_manifest(struct ckpt_manifest *m, const char *path)
{
    unsigned char *data = NULL;
    size_t bytes = 0;
    int rc;

    if (pldi_ckpt_point("manifest") != 0)
        return pldi_ckpt_io_fail("write", path);
    PLDI_TRY(pldi_ckpt_manifest_encode(m, &data, &bytes));
    rc = pldi_ckpt_write_file(path, data, bytes);
    pldi_free(data);
    return rc;
}

static int write_in(const char *directory, const char *name, struct ckpt_manifest *m,
                    int (*write)(struct ckpt_manifest *m, const char *path))
{
    char *path = pldi_ckpt_path(directory, name);
    const int rc = path == NULL ? PLD_ERR_NOMEM : write(m, path);

    pldi_free(path);
    return rc;
}

/* Two names for the two saves at every instant. */
static int exchange(const char *part, const char *final)
{
    if (pldi_ckpt_point("exchange") != 0)
        return -1;
    return renameat2(AT_FDCWD, part, AT_FDCWD, final, RENAME_EXCHANGE);
}

/*
 * For file systems that cannot exchange: between the two renames the old save has a
 * hidden name, but both are complete, and pld_ckpt_open() puts the new one in place.
 */
static int move_aside(const struct ckpt_commit *commit, char **left)
{
    const char *directory = commit->c->directory;
    char *old = pldi_format("%s/%s%s", directory, CKPT_OLD,
                            commit->part + strlen(directory) + 1 + strlen(CKPT_PART));
    int rc = old == NULL ? PLD_ERR_NOMEM : pldi_ckpt_rename(commit->final, old);

    if (rc == PLD_OK) {
        rc = pldi_ckpt_point("aside") != 0 ? pldi_ckpt_io_fail("rename", commit->part)
                                           : pldi_ckpt_rename(commit->part, commit->final);
        if (rc < 0)
            (void)rename(old, commit->final);
    }
    if (rc < 0)
        pldi_free(old);
    else
        *left = old;
    return rc;
}

/* *left: under which name the old save is then. */
static int replace(const struct ckpt_commit *commit, char **left)
{
    if (exchange(commit->part, commit->final) == 0) {
        *left = commit->part;
        return PLD_OK;
    }
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP && errno != ENOTTY)
        return pldi_fail(PLD_ERR_IO, "cannot exchange '%s' and '%s': %s", commit->part,
                         commit->final, strerror(errno));
    return move_aside(commit, left);
}

static int rename_part(const struct ckpt_commit *commit, char **left)
{
    if (pldi_ckpt_point("rename") != 0)
        return pldi_ckpt_io_fail("rename", commit->part);
    if (rename(commit->part, commit->final) == 0)
        return PLD_OK;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return pldi_fail(PLD_ERR_IO, "cannot rename '%s' to '%s': %s", commit->part, commit->final,
                         strerror(errno));
    return replace(commit, left);
}

/* One flush for all names; the old save stays until it was a good one. */
static int put_in_place(struct ckpt_commit *commit)
{
    const char *directory = commit->c->directory;
    char *left = NULL;
    int rc;

    PLDI_TRY(rename_part(commit, &left));
    commit->placed = 1;
    rc = pldi_ckpt_point("placed") != 0 ? pldi_ckpt_io_fail("flush", directory)
                                        : pldi_ckpt_sync(directory);
    if (rc == PLD_OK && left != NULL)
        pldi_ckpt_discard(directory, left);
    if (left != commit->part)
        pldi_free(left);
    return rc;
}

/* Another job may be doing the same: the hidden name is this save's own, as is that of `part`. */
static int write_latest(const struct ckpt_commit *commit)
{
    char *fresh = pldi_format("%s-%s", commit->part, CKPT_LATEST);
    char *name = pldi_ckpt_path(commit->c->directory, CKPT_LATEST);
    char step[32], text[40];
    int rc = fresh == NULL || name == NULL ? PLD_ERR_NOMEM : PLD_OK;

    pldi_ckpt_step_name(commit->step, step);
    (void)snprintf(text, sizeof(text), "%s\n", step);
    if (rc == PLD_OK && pldi_ckpt_point("latest") != 0)
        rc = pldi_ckpt_io_fail("write", fresh);
    if (rc == PLD_OK)
        rc = pldi_ckpt_write_file(fresh, text, strlen(text));
    if (rc == PLD_OK)
        rc = pldi_ckpt_rename(fresh, name);
    if (rc == PLD_OK)
        rc = pldi_ckpt_sync(commit->c->directory);
    pldi_free(fresh);
    pldi_free(name);
    return rc;
}

int pldi_ckpt_commit(struct ckpt_commit *commit, struct ckpt_manifest *m)
{
    PLDI_TRY(pldi_ckpt_check_shards(commit->part, m));
    PLDI_TRY(write_in(commit->part, CKPT_INDEX, m, write_index));
    PLDI_TRY(write_in(commit->part, CKPT_JSON, m, write_json));
    PLDI_TRY(write_in(commit->part, CKPT_MANIFEST, m, write_manifest));
    if (pldi_ckpt_point("sync") != 0)
        return pldi_ckpt_io_fail("flush", commit->part);
    PLDI_TRY(pldi_ckpt_sync(commit->part));
    PLDI_TRY(put_in_place(commit));
    PLDI_TRY(write_latest(commit));
    if (pldi_ckpt_point("retain") != 0)
        return PLD_OK;
    pldi_ckpt_retain(commit->c->directory, commit->c->opts.keep);
    return PLD_OK;
}

void pldi_ckpt_commit_end(struct ckpt_commit *commit)
{
    if (commit->made && !commit->placed)
        pldi_ckpt_remove_tree(commit->part);
    if (commit->lock >= 0)
        (void)close(commit->lock);
    pldi_free(commit->part);
    pldi_free(commit->final);
    *commit = (struct ckpt_commit){.lock = -1};
}
