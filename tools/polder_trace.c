/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* polder trace: read the rings of a job, and say where its ranks part and who is late. */

#include "polder_trace.h"
#include "polder.h"

#include <polder/error.h>

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
    "usage: polder trace [--json] [--chrome FILE] PATH...\n"
    "\n"
    "Read what ranks recorded in the folder POLDER_TRACE_DIR, while the job runs or\n"
    "after any end of it.  PATH is the folder, or some of its files rank-*.trace.\n"
    "Shown are each rank's last call, the first operation in which ranks part (another\n"
    "call, or none), and who came last to operations, how often, and by how much.\n"
    "\n"
    "Options:\n"
    "  --json           print one JSON object, with all records, instead of text\n"
    "  --chrome FILE    also write the operations for chrome://tracing or Perfetto\n"
    "  --help           print this text\n"
    "\n"
    "Exit status: 0 the ranks agree, 1 they part, or something cannot be read,\n"
    "2 wrong usage.\n";

struct request {
    char **paths; /* [count] */
    size_t count;
    const char *chrome;
    int json, help;
};

static int parse_option(char ***argv, struct request *out)
{
    const char *option = **argv;

    if (strcmp(option, "--json") == 0)
        out->json = 1;
    else if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0)
        out->help = 1;
    else if (strncmp(option, "--chrome=", 9) == 0)
        out->chrome = option + 9;
    else if (strcmp(option, "--chrome") == 0 && (*argv)[1] != NULL)
        out->chrome = *++*argv;
    else if (strcmp(option, "--chrome") == 0)
        return complain(STATUS_USAGE, "--chrome needs the name of a file to write");
    else
        return complain(STATUS_USAGE, "unknown option \"%s\"; \"polder help trace\" lists them",
                        option);
    return STATUS_OK;
}

static int parse(char **argv, struct request *out)
{
    int options = 1, status = STATUS_OK;

    for (; *argv != NULL && status == STATUS_OK; argv++) {
        if (options && strcmp(*argv, "--") == 0)
            options = 0;
        else if (options && argv[0][0] == '-' && argv[0][1] != '\0')
            status = parse_option(&argv, out);
        else
            out->paths[out->count++] = *argv;
    }
    if (status == STATUS_OK && out->count == 0 && !out->help)
        status = complain(STATUS_USAGE, "trace needs a folder of traces, or traces");
    return status;
}

static void free_ring(struct ring *ring)
{
    pld_trace_destroy(&ring->trace);
    free(ring->records);
    free(ring->path);
}

static int64_t shift(int64_t time, int64_t offset)
{
    return time == 0 ? 0 : (int64_t)((uint64_t)time + (uint64_t)offset);
}

static int read_records(struct ring *ring)
{
    const int64_t offset = ring->info.clock_offset;

    ring->count = pld_trace_count(ring->trace);
    ring->records = calloc(ring->count + 1, sizeof(*ring->records));
    if (ring->records == NULL)
        return complain(STATUS_BAD, "no memory for %s", ring->path);
    for (size_t i = 0; i < ring->count; i++) {
        pld_trace_record *r = &ring->records[i];

        (void)pld_trace_get(ring->trace, i, r);
        r->called = shift(r->called, offset);
        r->started = shift(r->started, offset);
        r->ended = shift(r->ended, offset);
    }
    return STATUS_OK;
}

static int add_file(struct job *job, const char *path)
{
    struct ring *more = realloc(job->rings, (job->count + 1) * sizeof(*more));
    struct ring *ring;

    if (more == NULL)
        return complain(STATUS_BAD, "no memory for %s", path);
    job->rings = more;
    ring = &job->rings[job->count];
    memset(ring, 0, sizeof(*ring));
    if (pld_trace_open(path, &ring->trace) < 0)
        return complain(STATUS_BAD, "%s", pld_last_error());
    job->count++;
    ring->path = strdup(path);
    if (ring->path == NULL)
        return complain(STATUS_BAD, "no memory for %s", path);
    pld_trace_get_info(ring->trace, &ring->info);
    return read_records(ring);
}

static int is_trace(const char *name)
{
    const size_t length = strlen(name);

    return strncmp(name, "rank-", 5) == 0 && length > 6 && strcmp(name + length - 6, ".trace") == 0;
}

static int add_folder(struct job *job, const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;
    const size_t before = job->count;
    int status = STATUS_OK;
    char file[4096];

    if (dir == NULL)
        return complain(STATUS_BAD, "cannot read the folder %s: %s", path, strerror(errno));
    while (status == STATUS_OK && (entry = readdir(dir)) != NULL) {
        if (!is_trace(entry->d_name))
            continue;
        if (snprintf(file, sizeof(file), "%s/%s", path, entry->d_name) >= (int)sizeof(file))
            status = complain(STATUS_BAD, "the name %s/%s is too long", path, entry->d_name);
        else
            status = add_file(job, file);
    }
    closedir(dir);
    if (status == STATUS_OK && job->count == before)
        status = complain(STATUS_BAD, "no rank-*.trace in %s", path);
    return status;
}

static int by_rank(const void *a, const void *b)
{
    const struct ring *x = a;
    const struct ring *y = b;

    return (x->info.rank > y->info.rank) - (x->info.rank < y->info.rank);
}

static int check_job(const struct job *job)
{
    for (size_t i = 1; i < job->count; i++) {
        if (job->rings[i].info.job != job->rings[0].info.job)
            return complain(STATUS_BAD, "%s and %s are of different jobs", job->rings[0].path,
                            job->rings[i].path);
        if (job->rings[i].info.rank == job->rings[i - 1].info.rank)
            return complain(STATUS_BAD, "%s and %s are both of rank %d", job->rings[i - 1].path,
                            job->rings[i].path, job->rings[i].info.rank);
    }
    return STATUS_OK;
}

static int load(const struct request *request, struct job *job)
{
    struct stat st;
    int status = STATUS_OK;

    for (size_t i = 0; i < request->count && status == STATUS_OK; i++) {
        const char *path = request->paths[i];

        status = stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? add_folder(job, path)
                                                             : add_file(job, path);
    }
    if (status == STATUS_OK) {
        qsort(job->rings, job->count, sizeof(*job->rings), by_rank);
        status = check_job(job);
    }
    if (status == STATUS_OK && !trace_analyse(job))
        status = complain(STATUS_BAD, "no memory to compare %zu traces", job->count);
    return status;
}

static int show(const struct request *request, const struct job *job)
{
    int status = job->divergence.found ? STATUS_BAD : STATUS_OK;

    if (request->json && !trace_print_json(job))
        status = complain(STATUS_BAD, "no memory to print traces as JSON");
    if (!request->json)
        trace_print_text(job);
    if (request->chrome != NULL && !trace_write_chrome(job, request->chrome))
        status = complain(STATUS_BAD, "cannot write %s: %s", request->chrome, strerror(errno));
    return status;
}

static int run(char **argv)
{
    struct request request = {0};
    struct job job = {0};
    size_t arguments = 0;
    int status;

    while (argv[arguments] != NULL)
        arguments++;
    request.paths = calloc(arguments + 1, sizeof(*request.paths));
    if (request.paths == NULL)
        return complain(STATUS_BAD, "no memory");
    status = parse(argv, &request);
    if (status == STATUS_OK && request.help)
        fputs(help, stdout);
    else if (status == STATUS_OK)
        status = load(&request, &job);
    if (status == STATUS_OK && !request.help)
        status = show(&request, &job);
    for (size_t i = 0; i < job.count; i++)
        free_ring(&job.rings[i]);
    free(job.rings);
    free(job.divergence.parts);
    free(job.stragglers);
    free(request.paths);
    return status;
}

const struct command command_trace = {
    .name = "trace",
    .summary = "read what the ranks of a job recorded, and say where they part",
    .help = help,
    .run = run,
};
