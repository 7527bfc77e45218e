/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Files of the system, or of a recorded one. */

#include "polder_doctor.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LIVE_BYTES = 8192 };

static struct {
    char root[DOCTOR_TEXT]; /* "": the real machine */
    char live[LIVE_BYTES];  /* lines "name=value", ended by zeros */
    size_t live_bytes;
} source;

static int read_live(void)
{
    char path[DOCTOR_TEXT];
    FILE *file = fopen(doctor_path(path, "/live"), "re");

    if (file == NULL)
        return -1;
    source.live_bytes = fread(source.live, 1, sizeof(source.live) - 1, file);
    (void)fclose(file);
    for (size_t i = 0; i < source.live_bytes; i++)
        source.live[i] = source.live[i] == '\n' ? '\0' : source.live[i];
    return 0;
}

int doctor_source_open(int rank)
{
    const char *root = getenv("POLDER_DOCTOR_ROOT");
    struct stat found;

    memset(&source, 0, sizeof(source));
    if (root == NULL || root[0] == '\0')
        return 0;
    (void)snprintf(source.root, sizeof(source.root), "%s/rank%d", root, rank);
    if (stat(source.root, &found) < 0)
        (void)snprintf(source.root, sizeof(source.root), "%s", root);
    return read_live();
}

int doctor_recorded(void)
{
    return source.root[0] != '\0';
}

const char *doctor_path(char *out, const char *format, ...)
{
    const size_t length = strlen(source.root);
    va_list args;

    memcpy(out, source.root, length);
    va_start(args, format);
    (void)vsnprintf(out + length, DOCTOR_TEXT - length, format, args);
    va_end(args);
    return out;
}

int doctor_read(char *out, size_t room, const char *format, ...)
{
    const size_t length = strlen(source.root);
    char path[DOCTOR_TEXT];
    FILE *file;
    va_list args;

    memcpy(path, source.root, length);
    va_start(args, format);
    (void)vsnprintf(path + length, sizeof(path) - length, format, args);
    va_end(args);
    out[0] = '\0';
    file = fopen(path, "re");
    if (file == NULL)
        return -1;
    if (fgets(out, (int)room, file) == NULL)
        out[0] = '\0';
    (void)fclose(file);
    out[strcspn(out, "\n")] = '\0';
    return 0;
}

int doctor_read_key(const char *name, const char *key, char *out, size_t room)
{
    char path[DOCTOR_TEXT];
    char line[1024];
    FILE *file = fopen(doctor_path(path, "%s", name), "re");
    int found = 0;

    out[0] = '\0';
    while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
        const char *value = line + strlen(key);

        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        value += strspn(value, " \t:=");
        (void)snprintf(out, room, "%.*s", (int)strcspn(value, "\n"), value);
        found = 1;
    }
    if (file != NULL)
        (void)fclose(file);
    return found ? 0 : -1;
}

const char *doctor_recorded_fact(const char *name)
{
    const size_t length = strlen(name);

    for (size_t at = 0; at < source.live_bytes; at += strlen(source.live + at) + 1) {
        if (strncmp(source.live + at, name, length) == 0 && source.live[at + length] == '=')
            return source.live + at + length + 1;
    }
    return NULL;
}

const char *doctor_env(const char *name)
{
    char key[DOCTOR_NAME];

    if (!doctor_recorded())
        return getenv(name);
    (void)snprintf(key, sizeof(key), "env.%s", name);
    return doctor_recorded_fact(key);
}

static int compare_names(const void *a, const void *b)
{
    return strverscmp(a, b);
}

int doctor_list(const char *folder, char names[][DOCTOR_NAME], int most)
{
    char path[DOCTOR_TEXT];
    DIR *dir = opendir(doctor_path(path, "%s", folder));
    const struct dirent *entry;
    int n = 0;

    while (dir != NULL && n < most && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.')
            (void)snprintf(names[n++], DOCTOR_NAME, "%.*s", DOCTOR_NAME - 1, entry->d_name);
    }
    if (dir != NULL)
        (void)closedir(dir);
    qsort(names, (size_t)n, DOCTOR_NAME, compare_names);
    return n;
}
