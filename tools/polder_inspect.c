/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* polder inspect: is it a run or a checkpoint, what is in it, is it whole. */

#include "polder_inspect.h"
#include "polder.h"

#include <polder/error.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: polder inspect [--json] [--verify] PATH\n"
    "\n"
    "Look into checkpoints, without loading them.  PATH is a run directory, whose\n"
    "checkpoints are listed, or one checkpoint (RUN/step-00000012), whose tensors,\n"
    "shards, state, numbers and texts are shown.\n"
    "\n"
    "Options:\n"
    "  --json           print one JSON object instead of text\n"
    "  --verify         read every file whole and compare it with its hashes\n"
    "  --help           print this text\n"
    "\n"
    "Exit status: 0 all is well, 1 damaged or not readable, 2 wrong usage.\n";

struct request {
    const char *path;
    int json, verify, help;
};

static int parse_option(const char *option, struct request *out)
{
    if (strcmp(option, "--json") == 0)
        out->json = 1;
    else if (strcmp(option, "--verify") == 0)
        out->verify = 1;
    else if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0)
        out->help = 1;
    else
        return complain(STATUS_USAGE,
                        "unknown option \"%s\"; \"polder help inspect\" lists the options", option);
    return STATUS_OK;
}

static int parse(char **argv, struct request *out)
{
    int options = 1, status = STATUS_OK;

    for (; *argv != NULL && status == STATUS_OK; argv++) {
        if (options && strcmp(*argv, "--") == 0)
            options = 0;
        else if (options && argv[0][0] == '-' && argv[0][1] != '\0')
            status = parse_option(*argv, out);
        else if (out->path == NULL)
            out->path = *argv;
        else
            status =
                complain(STATUS_USAGE, "inspect takes one path, and \"%s\" is one too many", *argv);
    }
    if (status == STATUS_OK && out->path == NULL && !out->help)
        status = complain(STATUS_USAGE, "inspect needs a run directory or a checkpoint to look at");
    return status;
}

/* By its name, so that a checkpoint without a manifest is reported as one; or by its contents,
 * so that it may be copied or linked under another name. */
static int is_checkpoint(const char *path)
{
    char real[PATH_MAX], manifest[PATH_MAX];
    const char *name;

    if (realpath(path, real) == NULL)
        return 0;
    name = strrchr(real, '/');
    if (strncmp(name, "/step-", strlen("/step-")) == 0)
        return 1;
    return snprintf(manifest, sizeof(manifest), "%s/manifest.pldm", real) < PATH_MAX &&
           access(manifest, F_OK) == 0;
}

static void blame(struct verdict *out, const char *sentence)
{
    out->complete = 0;
    out->verified = 0;
    snprintf(out->problem, sizeof(out->problem), "%s", sentence);
}

static void verify(const pld_snapshot *snapshot, struct verdict *out)
{
    if (pld_snapshot_verify(snapshot) < 0)
        blame(out, pld_last_error());
    else
        out->verified = 1;
}

static void judge_snapshot(const pld_snapshot *snapshot, const struct request *request,
                           struct verdict *out)
{
    *out = (struct verdict){.complete = 1};
    for (size_t i = 0; i < pld_snapshot_shards(snapshot); i++) {
        const pld_snapshot_shard *shard = pld_snapshot_shard_at(snapshot, i);

        if (!shard->present && out->complete) {
            char sentence[sizeof(out->problem)];

            snprintf(sentence, sizeof(sentence), "shard %s is missing or is not %llu bytes long",
                     shard->name, (unsigned long long)shard->bytes);
            blame(out, sentence);
        }
    }
    if (out->complete && request->verify)
        verify(snapshot, out);
}

static void judge_entry(const pld_run_entry *entry, const struct request *request,
                        struct verdict *out)
{
    pld_snapshot *snapshot = NULL;

    *out = (struct verdict){.complete = entry->complete};
    snprintf(out->problem, sizeof(out->problem), "%s", entry->complete ? "" : entry->problem);
    if (!entry->complete || !request->verify)
        return;
    if (pld_snapshot_open(entry->path, &snapshot) < 0) {
        blame(out, pld_last_error());
        return;
    }
    verify(snapshot, out);
    pld_snapshot_close(&snapshot);
}

static int inspect_run(const pld_run *run, const struct request *request)
{
    const size_t count = pld_run_count(run);
    struct verdict *verdicts = calloc(count + 1, sizeof(*verdicts));
    int status = STATUS_OK;

    if (verdicts == NULL)
        return complain(STATUS_BAD, "no memory for %zu checkpoints", count);
    for (size_t i = 0; i < count; i++) {
        judge_entry(pld_run_at(run, i), request, &verdicts[i]);
        if (!verdicts[i].complete)
            status = STATUS_BAD;
    }
    if (!request->json)
        inspect_run_text(request->path, run, verdicts);
    else if (inspect_run_json(run, verdicts, request->verify) != STATUS_OK)
        status = STATUS_BAD;
    free(verdicts);
    return status;
}

static int inspect_snapshot(const pld_snapshot *snapshot, const struct request *request)
{
    struct verdict verdict;
    int status = STATUS_OK;

    judge_snapshot(snapshot, request, &verdict);
    if (!request->json)
        inspect_snapshot_text(snapshot, &verdict);
    else
        status = inspect_snapshot_json(snapshot, &verdict, request->verify);
    return verdict.complete ? status : STATUS_BAD;
}

static int inspect(char **argv)
{
    struct request request = {0};
    pld_snapshot *snapshot = NULL;
    pld_run *run = NULL;
    int status = parse(argv, &request);

    if (status != STATUS_OK)
        return status;
    if (request.help) {
        fputs(help, stdout);
        return STATUS_OK;
    }
    if (is_checkpoint(request.path)) {
        if (pld_snapshot_open(request.path, &snapshot) < 0)
            return complain(STATUS_BAD, "%s", pld_last_error());
        status = inspect_snapshot(snapshot, &request);
        pld_snapshot_close(&snapshot);
        return status;
    }
    if (pld_run_open(request.path, &run) < 0)
        return complain(STATUS_BAD, "%s", pld_last_error());
    status = inspect_run(run, &request);
    pld_run_close(&run);
    return status;
}

const struct command command_inspect = {"inspect", "look into checkpoints", help, inspect};
