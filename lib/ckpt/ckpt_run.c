/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The run directory: which saves are there, which is newest, what to remove.
 *
 * Saves are ordered by the time in their manifests, which grows from save to save,
 * not by step: after a return to an earlier step the save made last is the newest.
 *
 * Whoever saves holds the run's lock file shared; remains are removed by whoever
 * gets it exclusively, so nobody removes what another job is writing.  Where files
 * cannot be locked remains stay.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_impl.h"

static const char step_prefix[] = "step-";

void pldi_ckpt_step_name(int64_t step, char out[32])
{
    (void)snprintf(out, 32, "%s%08lld", step_prefix, (long long)step);
}

void pldi_ckpt_uuid_text(const unsigned char uuid[CKPT_UUID_BYTES], char out[33])
{
    for (int i = 0; i < CKPT_UUID_BYTES; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", uuid[i]);
}

/* The step that a name stands for; -1: it is none of ours. */
static int64_t step_of(const char *name)
{
    char again[32];
    int64_t step;

    if (strncmp(name, step_prefix, strlen(step_prefix)) != 0 || name[5] < '0' || name[5] > '9')
        return -1;
    step = strtoll(name + strlen(step_prefix), NULL, 10);
    pldi_ckpt_step_name(step, again);
    return strcmp(name, again) == 0 ? step : -1;
}

void pldi_ckpt_list_free(struct ckpt_found *found, size_t count)
{
    for (size_t i = 0; found != NULL && i < count; i++)
        pldi_free(found[i].path);
    pldi_free(found);
}

static int by_step(const void *left, const void *right)
{
    const struct ckpt_found *a = left;
    const struct ckpt_found *b = right;

    return a->step < b->step ? -1 : a->step > b->step;
}

static int by_time(const void *left, const void *right)
{
    const struct ckpt_found *a = left;
    const struct ckpt_found *b = right;

    if (a->time != b->time)
        return a->time > b->time ? -1 : 1;
    return -by_step(left, right);
}

void pldi_ckpt_list_by_time(struct ckpt_found *found, size_t count)
{
    if (count > 0)
        qsort(found, count, sizeof(*found), by_time);
}

/* From the manifest's header alone.  A time that cannot be read now is not that of no save. */
static int read_time(struct ckpt_found *f)
{
    char *name = pldi_ckpt_path(f->path, CKPT_MANIFEST);
    unsigned char header[CKPT_HEADER_BYTES];
    struct ckpt_manifest m = {.time = INT64_MIN};
    int64_t got = -1;
    int fd;

    f->time = INT64_MIN;
    if (name == NULL)
        return PLD_ERR_NOMEM;
    fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0)
        got = pldi_ckpt_read_at(fd, header, sizeof(header), 0);
    f->unread = got < 0 && !pldi_ckpt_is_absent(errno) ? errno : 0;
    if (fd >= 0)
        (void)close(fd);
    if (got == (int64_t)sizeof(header) && pldi_ckpt_manifest_header(header, &m) == PLD_OK)
        f->time = m.time;
    pldi_free(name);
    return PLD_OK;
}

struct list {
    struct ckpt_found *found;
    size_t count, capacity;
};

static int append(struct list *list, const char *directory, const char *name, int64_t step)
{
    struct ckpt_found *f;

    if (list->count == list->capacity) {
        const size_t wanted = list->capacity == 0 ? 16 : 2 * list->capacity;
        struct ckpt_found *grown = pldi_alloc(wanted, sizeof(*grown), "a list of saves");

        if (grown == NULL)
            return PLD_ERR_NOMEM;
        if (list->count > 0)
            memcpy(grown, list->found, list->count * sizeof(*grown));
        pldi_free(list->found);
        list->found = grown;
        list->capacity = wanted;
    }
    f = &list->found[list->count];
    f->path = pldi_ckpt_path(directory, name);
    if (f->path == NULL)
        return PLD_ERR_NOMEM;
    f->step = step;
    list->count++;
    return read_time(f);
}

int pldi_ckpt_list(const char *directory, struct ckpt_found **out, size_t *count)
{
    DIR *dir = opendir(directory);
    struct list list = {0};
    struct dirent *entry;
    int rc = PLD_OK;

    if (dir == NULL && (errno == ENOENT || errno == ENOTDIR))
        return pldi_fail(PLD_ERR_NOTFOUND, "there is no directory '%s'", directory);
    if (dir == NULL)
        return pldi_ckpt_io_fail("open directory", directory);
    while (rc == PLD_OK && (errno = 0, entry = readdir(dir)) != NULL) {
        const int64_t step = step_of(entry->d_name);

        if (step >= 0)
            rc = append(&list, directory, entry->d_name, step);
    }
    if (rc == PLD_OK && errno != 0)
        rc = pldi_ckpt_io_fail("read directory", directory);
    (void)closedir(dir);
    if (rc < 0) {
        pldi_ckpt_list_free(list.found, list.count);
        return rc;
    }
    if (list.count > 0)
        qsort(list.found, list.count, sizeof(*list.found), by_step);
    *out = list.found;
    *count = list.count;
    return PLD_OK;
}

int pldi_ckpt_read_manifest(const char *path, struct ckpt_manifest *out)
{
    char *name = pldi_ckpt_path(path, CKPT_MANIFEST);
    void *data = NULL;
    size_t bytes = 0;
    int rc = name == NULL ? PLD_ERR_NOMEM : pldi_ckpt_read_file(name, &data, &bytes);

    if (rc == PLD_OK)
        rc = pldi_ckpt_manifest_decode(name, data, bytes, out);
    pldi_free(name);
    return rc;
}

int pldi_ckpt_check_shards(const char *path, const struct ckpt_manifest *m)
{
    for (uint32_t i = 0; i < m->shard_count; i++) {
        const struct ckpt_shard *s = &m->shards[i];
        char *name = pldi_ckpt_path(path, s->name);
        int64_t bytes;
        int rc = PLD_OK;

        if (name == NULL)
            return PLD_ERR_NOMEM;
        bytes = pldi_ckpt_file_bytes(name);
        if (bytes < 0)
            rc = pldi_fail(pldi_ckpt_is_absent(errno) ? PLD_ERR_CORRUPT : PLD_ERR_IO,
                           "cannot find shard '%s': %s", name, strerror(errno));
        else if ((uint64_t)bytes != s->bytes)
            rc = pldi_fail(PLD_ERR_CORRUPT, "shard '%s' has %lld bytes, not %llu", name,
                           (long long)bytes, (unsigned long long)s->bytes);
        pldi_free(name);
        PLDI_TRY(rc);
    }
    return PLD_OK;
}

int pldi_ckpt_check(const char *path)
{
    struct ckpt_manifest m = {0};
    int rc = pldi_ckpt_read_manifest(path, &m);

    if (rc == PLD_OK)
        rc = pldi_ckpt_check_shards(path, &m);
    pldi_ckpt_manifest_free(&m);
    return rc;
}

/* Nothing is known of a save that cannot be read, so not that it is no save. */
static int tells_nothing(int code)
{
    return code == PLD_ERR_NOMEM || code == PLD_ERR_IO;
}

static int choose_newest(const struct ckpt_found *found, size_t count, char **out)
{
    int rc = PLD_ERR_NOTFOUND;

    for (size_t i = 0; i < count; i++)
        if (found[i].unread != 0)
            return pldi_fail(PLD_ERR_IO, "cannot tell whether '%s' is the newest save: %s",
                             found[i].path, strerror(found[i].unread));
    for (size_t i = 0; i < count && rc < 0; i++) {
        rc = pldi_ckpt_check(found[i].path);
        if (tells_nothing(rc))
            return rc;
        if (rc == PLD_OK)
            *out = pldi_strdup(found[i].path);
    }
    return rc == PLD_OK && *out == NULL ? PLD_ERR_NOMEM : PLD_OK;
}

/* The newest complete save; *out NULL: there is none.  An older one does not do for one that
 * cannot be read now: who resumes would lose what came after it. */
static int newest(const char *directory, char **out)
{
    struct ckpt_found *found = NULL;
    size_t count = 0;
    int rc;

    *out = NULL;
    PLDI_TRY(pldi_ckpt_list(directory, &found, &count));
    pldi_ckpt_list_by_time(found, count);
    rc = choose_newest(found, count, out);
    pldi_ckpt_list_free(found, count);
    return rc;
}

static int has_manifest(const char *path)
{
    char *name = pldi_ckpt_path(path, CKPT_MANIFEST);
    const int found = name != NULL && access(name, F_OK) == 0;

    pldi_free(name);
    return found;
}

static int names_save(const char *path)
{
    const char *slash = strrchr(path, '/');

    return step_of(slash == NULL ? path : slash + 1) >= 0;
}

int pldi_ckpt_resolve(const pld_ckpt *c, const char *which, char **out_path)
{
    struct stat about;

    if (strcmp(which, "latest") == 0)
        return newest(c->directory, out_path);
    if (stat(which, &about) != 0 || !S_ISDIR(about.st_mode))
        return pldi_fail(PLD_ERR_NOTFOUND, "there is no checkpoint '%s'", which);
    if (has_manifest(which)) {
        *out_path = pldi_strdup(which);
        return *out_path == NULL ? PLD_ERR_NOMEM : PLD_OK;
    }
    if (names_save(which))
        return pldi_fail(PLD_ERR_CORRUPT, "checkpoint '%s' has no %s", which, CKPT_MANIFEST);
    PLDI_TRY(newest(which, out_path));
    if (*out_path == NULL)
        return pldi_fail(PLD_ERR_NOTFOUND, "'%s' is no checkpoint and holds no complete one",
                         which);
    return PLD_OK;
}

/* A signal while another job cleans up is no reason to save without the lock. */
static int take_lock(int fd, int exclusive)
{
    int rc;

    do {
        rc = flock(fd, exclusive ? LOCK_EX | LOCK_NB : LOCK_SH);
    } while (rc != 0 && errno == EINTR);
    return rc;
}

int pldi_ckpt_lock(const char *directory, int exclusive)
{
    char *name = pldi_ckpt_path(directory, CKPT_LOCK);
    int fd = name == NULL ? -1 : open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);

    pldi_free(name);
    if (fd >= 0 && take_lock(fd, exclusive) != 0) {
        (void)close(fd);
        fd = -1;
    }
    return fd;
}

void pldi_ckpt_discard(const char *directory, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *trash = pldi_format("%s/%s%s-%d", directory, CKPT_TRASH, slash == NULL ? path : slash + 1,
                              (int)getpid());

    if (trash == NULL)
        return;
    pldi_ckpt_remove_tree(trash);
    if (rename(path, trash) == 0 && pldi_ckpt_point("trash") == 0)
        pldi_ckpt_remove_tree(trash);
    pldi_free(trash);
}

/* Where a hidden directory belongs if it is a complete save, *out; CORRUPT and the like if not. */
static int place_of(const char *directory, const char *path, char **out)
{
    struct ckpt_manifest m = {0};
    char step[32];
    int rc = pldi_ckpt_read_manifest(path, &m);

    if (rc == PLD_OK)
        rc = pldi_ckpt_check_shards(path, &m);
    if (rc == PLD_OK) {
        pldi_ckpt_step_name(m.step, step);
        *out = pldi_ckpt_path(directory, step);
        rc = *out == NULL ? PLD_ERR_NOMEM : PLD_OK;
    }
    pldi_ckpt_manifest_free(&m);
    return rc;
}

/*
 * Something hidden that a save left.  One that was complete and flushed but not yet
 * renamed takes its place now; so does an old one that was moved out of the way of a
 * replacement that never came.  What cannot be read now may be such a one: it stays.
 */
static void clean_one(const char *directory, const char *name)
{
    char *path = pldi_ckpt_path(directory, name);
    char *final = NULL;
    int rc = PLD_ERR_NOTFOUND;

    if (path == NULL)
        return;
    if (strncmp(name, CKPT_TRASH, strlen(CKPT_TRASH)) != 0)
        rc = place_of(directory, path, &final);
    if (rc == PLD_OK && access(final, F_OK) != 0)
        (void)rename(path, final);
    else if (!tells_nothing(rc))
        pldi_ckpt_remove_tree(path);
    pldi_free(final);
    pldi_free(path);
}

static void clean_all(const char *directory, const char *prefix)
{
    DIR *dir = opendir(directory);
    struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
            clean_one(directory, entry->d_name);
    if (dir != NULL)
        (void)closedir(dir);
}

void pldi_ckpt_clean(const char *directory)
{
    const int lock = pldi_ckpt_lock(directory, 1);

    if (lock < 0)
        return;
    clean_all(directory, CKPT_PART);
    clean_all(directory, CKPT_OLD);
    clean_all(directory, CKPT_TRASH);
    (void)pldi_ckpt_sync(directory);
    (void)close(lock);
}

/* What cannot be read is not counted, and not removed either unless it is known to be older. */
void pldi_ckpt_retain(const char *directory, int keep)
{
    struct ckpt_found *found = NULL;
    size_t count = 0;
    int good = 0;

    if (keep <= 0 || pldi_ckpt_list(directory, &found, &count) < 0)
        return;
    pldi_ckpt_list_by_time(found, count);
    for (size_t i = 0; i < count && found[i].time != INT64_MIN; i++) {
        if (good >= keep)
            pldi_ckpt_discard(directory, found[i].path);
        else
            good += pldi_ckpt_check(found[i].path) == PLD_OK;
    }
    pldi_ckpt_list_free(found, count);
}
