/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * From what the caller names to a list of files.  Names are sorted as bytes, not
 * by the locale, so that all ranks and machines agree on the order.  Links to
 * directories below a directory are not followed, so no loop of links can be met.
 */

#include "data/data.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base_err.h"
#include "base/base_mem.h"

void pldi_data_free_names(struct pldi_name_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        pldi_free(list->names[i]);
    pldi_free(list->names);
    pldi_free(list->given_bytes);
    memset(list, 0, sizeof(*list));
}

static int grow(struct pldi_name_list *list)
{
    const size_t room = list->room == 0 ? 16 : list->room * 2;
    char **names = pldi_alloc(room, sizeof(*names), "file names");
    size_t *given = pldi_alloc(room, sizeof(*given), "file names");

    if (names == NULL || given == NULL) {
        pldi_free(names);
        pldi_free(given);
        return PLD_ERR_NOMEM;
    }
    if (list->count > 0) {
        memcpy(names, list->names, list->count * sizeof(*names));
        memcpy(given, list->given_bytes, list->count * sizeof(*given));
    }
    pldi_free(list->names);
    pldi_free(list->given_bytes);
    list->names = names;
    list->given_bytes = given;
    list->room = room;
    return PLD_OK;
}

/* Takes over `name`, which may be NULL: no memory. */
static int append(struct pldi_name_list *list, char *name, size_t given_bytes)
{
    int rc = name == NULL ? PLD_ERR_NOMEM : PLD_OK;

    if (rc == 0 && list->count == list->room)
        rc = grow(list);
    if (rc < 0) {
        pldi_free(name);
        return rc;
    }
    list->names[list->count] = name;
    list->given_bytes[list->count++] = given_bytes;
    return PLD_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int fail_errno(const char *what, const char *name)
{
    const int missing = errno == ENOENT || errno == ENOTDIR;

    return pldi_fail(missing ? PLD_ERR_NOTFOUND : PLD_ERR_IO, "cannot %s '%s': %s", what, name,
                     strerror(errno));
}

/* Put one entry of a directory where it belongs; what is neither file nor directory is not data. */
static int sort_entry(struct pldi_name_list *files, struct pldi_name_list *dirs, char *name,
                      size_t given_bytes)
{
    struct stat about;
    int rc = PLD_OK, is_link;

    if (name == NULL)
        return PLD_ERR_NOMEM;
    if (lstat(name, &about) != 0)
        rc = fail_errno("look at", name);
    is_link = rc == 0 && S_ISLNK(about.st_mode);
    if (is_link && stat(name, &about) != 0)
        rc = fail_errno("follow the link", name);
    if (rc == 0 && S_ISREG(about.st_mode))
        return append(files, name, given_bytes);
    if (rc == 0 && S_ISDIR(about.st_mode) && !is_link)
        return append(dirs, name, given_bytes);
    pldi_free(name);
    return rc;
}

static int list_directory(struct pldi_name_list *files, struct pldi_name_list *dirs,
                          const char *path, size_t given_bytes)
{
    const size_t length = strlen(path);
    const char *slash = length > 0 && path[length - 1] == '/' ? "" : "/";
    DIR *dir = opendir(path);
    int rc = PLD_OK;

    if (dir == NULL)
        return fail_errno("open the directory", path);
    while (rc == 0) {
        struct dirent *entry;

        errno = 0;
        entry = readdir(dir);
        if (entry == NULL && errno != 0)
            rc = fail_errno("read the directory", path);
        if (entry == NULL)
            break;
        if (entry->d_name[0] != '.')
            rc = sort_entry(files, dirs, pldi_format("%s%s%s", path, slash, entry->d_name),
                            given_bytes);
    }
    (void)closedir(dir);
    return rc;
}

/* All files below `path`, sorted by their whole names. */
static int walk(struct pldi_name_list *list, const char *path)
{
    const size_t first = list->count;
    struct pldi_name_list dirs = {0};
    int rc = append(&dirs, pldi_strdup(path), 0);

    for (size_t i = 0; rc == 0 && i < dirs.count; i++)
        rc = list_directory(list, &dirs, dirs.names[i], strlen(path));
    pldi_data_free_names(&dirs);
    if (rc < 0)
        return rc;
    if (list->count == first)
        return pldi_fail(PLD_ERR_NOTFOUND, "there is no file in directory '%s'", path);
    qsort(list->names + first, list->count - first, sizeof(list->names[0]), compare_names);
    return PLD_OK;
}

/* A path that exists.  The name of a single file below what was given is its last part. */
static int add_existing(struct pldi_name_list *list, const char *path, const struct stat *about)
{
    const char *slash = strrchr(path, '/');

    if (S_ISDIR(about->st_mode))
        return walk(list, path);
    if (!S_ISREG(about->st_mode))
        return pldi_fail(PLD_ERR_ARG, "'%s' is neither a file nor a directory", path);
    return append(list, pldi_strdup(path), slash == NULL ? 0 : (size_t)(slash - path));
}

/* A directory of the pattern that is not there has no matches; one that is closed to us may. */
static int is_fatal(const char *path, int error)
{
    (void)path;
    return error != ENOENT && error != ENOTDIR;
}

static int add_matches(struct pldi_name_list *list, const char *pattern, glob_t *found)
{
    const int status = glob(pattern, GLOB_NOSORT, is_fatal, found);
    int rc = PLD_OK;

    if (status == GLOB_NOMATCH)
        return pldi_fail(PLD_ERR_NOTFOUND, "no file matches '%s'", pattern);
    if (status == GLOB_NOSPACE)
        return pldi_fail(PLD_ERR_NOMEM, "no memory for the files that match '%s'", pattern);
    if (status != 0)
        return pldi_fail(PLD_ERR_IO, "cannot read a directory that '%s' goes through: %s", pattern,
                         strerror(errno));
    qsort(found->gl_pathv, found->gl_pathc, sizeof(found->gl_pathv[0]), compare_names);
    for (size_t i = 0; rc == 0 && i < found->gl_pathc; i++) {
        struct stat about;

        rc = stat(found->gl_pathv[i], &about) != 0 ? fail_errno("look at", found->gl_pathv[i])
                                                   : add_existing(list, found->gl_pathv[i], &about);
    }
    return rc;
}

int pldi_data_expand(struct pldi_name_list *list, const char *path)
{
    struct stat about;
    glob_t found = {0};
    int rc;

    if (stat(path, &about) == 0)
        return add_existing(list, path, &about);
    if (errno != ENOENT || strpbrk(path, "*?[") == NULL)
        return fail_errno("open", path);
    rc = add_matches(list, path, &found);
    globfree(&found);
    return rc;
}
