/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include <polder/inspect.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_impl.h"
#include "ckpt/ckpt_read.h"

struct pld_run {
    pld_run_entry *entries;
    struct ckpt_found *found; /* the paths */
    char **problems;
    size_t count;
};

struct pld_snapshot {
    char *path;
    char uuid[33];
    struct ckpt_manifest m;
    uint64_t bytes;
    pld_snapshot_tensor *tensors;
    pld_snapshot_shard *shards;
    pld_snapshot_entry *entries;
};

/* Of all files in a directory. */
static uint64_t directory_bytes(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    uint64_t sum = 0;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char *name = pldi_ckpt_path(path, entry->d_name);
        const int64_t bytes = name == NULL ? -1 : pldi_ckpt_file_bytes(name);

        sum += bytes < 0 ? 0 : (uint64_t)bytes;
        pldi_free(name);
    }
    if (dir != NULL)
        (void)closedir(dir);
    return sum;
}

static int look_at(pld_run *run, size_t i)
{
    pld_run_entry *e = &run->entries[i];
    const int rc = pldi_ckpt_check(run->found[i].path);

    if (rc == PLD_ERR_NOMEM)
        return rc;
    *e = (pld_run_entry){.step = run->found[i].step,
                         .path = run->found[i].path,
                         .complete = rc == PLD_OK,
                         .bytes = directory_bytes(run->found[i].path),
                         .problem = ""};
    if (rc == PLD_OK)
        return PLD_OK;
    run->problems[i] = pldi_strdup(pld_last_error());
    if (run->problems[i] == NULL)
        return PLD_ERR_NOMEM;
    e->problem = run->problems[i];
    return PLD_OK;
}

static int run_open(const char *directory, pld_run *run)
{
    PLDI_TRY(pldi_ckpt_list(directory, &run->found, &run->count));
    run->entries = pldi_alloc(run->count, sizeof(*run->entries), "a list of saves");
    run->problems = pldi_alloc(run->count, sizeof(*run->problems), "a list of saves");
    if (run->entries == NULL || run->problems == NULL)
        return PLD_ERR_NOMEM;
    for (size_t i = 0; i < run->count; i++)
        PLDI_TRY(look_at(run, i));
    return PLD_OK;
}

int pld_run_open(const char *directory, pld_run **out)
{
    pld_run *run;
    int rc;

    PLDI_CHECK_ARG(directory != NULL && out != NULL);
    run = pldi_alloc(1, sizeof(*run), "a list of saves");
    if (run == NULL)
        return PLD_ERR_NOMEM;
    rc = run_open(directory, run);
    if (rc < 0)
        pld_run_close(&run);
    else
        *out = run;
    return rc;
}

size_t pld_run_count(const pld_run *run)
{
    return run->count;
}

const pld_run_entry *pld_run_at(const pld_run *run, size_t index)
{
    return index < run->count ? &run->entries[index] : NULL;
}

void pld_run_close(pld_run **run)
{
    if (run == NULL || *run == NULL)
        return;
    for (size_t i = 0; (*run)->problems != NULL && i < (*run)->count; i++)
        pldi_free((*run)->problems[i]);
    pldi_free((*run)->problems);
    pldi_free((*run)->entries);
    pldi_ckpt_list_free((*run)->found, (*run)->count);
    pldi_free(*run);
    *run = NULL;
}

static void describe_tensors(pld_snapshot *s)
{
    for (uint32_t i = 0; i < s->m.tensor_count; i++) {
        const struct ckpt_tensor *t = &s->m.tensors[i];
        pld_snapshot_tensor *o = &s->tensors[i];

        *o = (pld_snapshot_tensor){.name = t->name,
                                   .slot = t->slot,
                                   .dtype = t->dtype,
                                   .ndim = t->ndim,
                                   .boxes = (int)t->boxes,
                                   .bytes = pld_dtype_bytes(t->dtype)};
        memcpy(o->shape, t->shape, sizeof(o->shape));
        for (int d = 0; d < t->ndim; d++)
            o->bytes *= (uint64_t)t->shape[d];
        for (uint32_t b = 0; b < t->boxes; b++) {
            const struct ckpt_box *box = &s->m.boxes[t->first_box + b];

            for (uint64_t k = 0; k < box->blocks; k++)
                o->stored_bytes += s->m.blocks[box->first_block + k].bytes;
        }
    }
}

static int describe_shards(pld_snapshot *s)
{
    for (uint32_t i = 0; i < s->m.shard_count; i++) {
        const struct ckpt_shard *shard = &s->m.shards[i];
        char *path = pldi_ckpt_path(s->path, shard->name);
        int64_t bytes;

        if (path == NULL)
            return PLD_ERR_NOMEM;
        bytes = pldi_ckpt_file_bytes(path);
        pldi_free(path);
        s->shards[i] =
            (pld_snapshot_shard){.name = shard->name,
                                 .host = shard->host,
                                 .bytes = shard->bytes,
                                 .rank = shard->rank,
                                 .present = bytes >= 0 && (uint64_t)bytes == shard->bytes};
    }
    return PLD_OK;
}

static void describe_entries(pld_snapshot *s)
{
    for (uint32_t i = 0; i < s->m.entry_count; i++) {
        const struct ckpt_entry *e = &s->m.entries[i];
        const int state = e->kind == CKPT_STATE || e->kind == CKPT_PARAMS_STATE;

        s->entries[i] = (pld_snapshot_entry){.key = e->key,
                                             .text = e->kind == CKPT_TEXT ? e->value : "",
                                             .number = e->kind == CKPT_NUMBER ? e->number : 0,
                                             .bytes = state ? e->bytes : 0,
                                             .kind = state ? CKPT_STATE : e->kind};
    }
}

static int snapshot_open(const char *path, pld_snapshot *s)
{
    s->path = pldi_strdup(path);
    if (s->path == NULL)
        return PLD_ERR_NOMEM;
    PLDI_TRY(pldi_ckpt_read_manifest(path, &s->m));
    s->tensors = pldi_alloc(s->m.tensor_count, sizeof(*s->tensors), "tensors");
    s->shards = pldi_alloc(s->m.shard_count, sizeof(*s->shards), "shards");
    s->entries = pldi_alloc(s->m.entry_count, sizeof(*s->entries), "entries");
    if (s->tensors == NULL || s->shards == NULL || s->entries == NULL)
        return PLD_ERR_NOMEM;
    describe_tensors(s);
    PLDI_TRY(describe_shards(s));
    describe_entries(s);
    s->bytes = directory_bytes(path);
    pldi_ckpt_uuid_text(s->m.uuid, s->uuid);
    return PLD_OK;
}

int pld_snapshot_open(const char *path, pld_snapshot **out)
{
    pld_snapshot *s;
    int rc;

    PLDI_CHECK_ARG(path != NULL && out != NULL);
    s = pldi_alloc(1, sizeof(*s), "a checkpoint's description");
    if (s == NULL)
        return PLD_ERR_NOMEM;
    rc = snapshot_open(path, s);
    if (rc < 0)
        pld_snapshot_close(&s);
    else
        *out = s;
    return rc;
}

void pld_snapshot_info_get(const pld_snapshot *snapshot, pld_snapshot_info *out)
{
    const struct ckpt_manifest *m = &snapshot->m;

    *out = (pld_snapshot_info){.step = m->step,
                               .time = m->time / 1000000000,
                               .path = snapshot->path,
                               .uuid = snapshot->uuid,
                               .mesh = m->mesh,
                               .version = m->writer,
                               .codec = m->codec == PLD_CKPT_ZSTD ? "zstd" : "raw",
                               .bytes = snapshot->bytes,
                               .ranks = (int)m->ranks,
                               .format = (int)m->version};
}

size_t pld_snapshot_tensors(const pld_snapshot *snapshot)
{
    return snapshot->m.tensor_count;
}

size_t pld_snapshot_shards(const pld_snapshot *snapshot)
{
    return snapshot->m.shard_count;
}

size_t pld_snapshot_entries(const pld_snapshot *snapshot)
{
    return snapshot->m.entry_count;
}

const pld_snapshot_tensor *pld_snapshot_tensor_at(const pld_snapshot *s, size_t index)
{
    return index < s->m.tensor_count ? &s->tensors[index] : NULL;
}

const pld_snapshot_shard *pld_snapshot_shard_at(const pld_snapshot *s, size_t index)
{
    return index < s->m.shard_count ? &s->shards[index] : NULL;
}

const pld_snapshot_entry *pld_snapshot_entry_at(const pld_snapshot *s, size_t index)
{
    return index < s->m.entry_count ? &s->entries[index] : NULL;
}

/* What lies between the blocks: HDF5's own structures and padding. */
static int verify_rest(const pld_snapshot *s, uint32_t which)
{
    unsigned char hash[CKPT_HASH_BYTES];
    char *path = pldi_ckpt_path(s->path, s->m.shards[which].name);
    uint64_t bytes = 0;
    int rc = PLD_ERR_NOMEM;

    if (path != NULL)
        rc = pldi_ckpt_hash_rest(path, &s->m, which, &bytes, hash);
    if (rc == PLD_OK && memcmp(hash, s->m.shards[which].rest, sizeof(hash)) != 0)
        rc = pldi_fail(PLD_ERR_CORRUPT, "shard '%s' was altered outside of its tensors", path);
    pldi_free(path);
    return rc;
}

static int verify_file(const pld_snapshot *s, const struct ckpt_file *f)
{
    unsigned char hash[CKPT_HASH_BYTES];
    char *path = pldi_ckpt_path(s->path, f->name);
    uint64_t bytes = 0;
    int rc = PLD_OK;

    if (path == NULL)
        return PLD_ERR_NOMEM;
    if (pldi_ckpt_file_bytes(path) < 0 && errno == ENOENT)
        rc = pldi_fail(PLD_ERR_CORRUPT, "'%s' is missing", path);
    if (rc == PLD_OK)
        rc = pldi_ckpt_hash_file(path, &bytes, hash);
    if (rc == PLD_OK && (bytes != f->bytes || memcmp(hash, f->hash, sizeof(hash)) != 0))
        rc = pldi_fail(PLD_ERR_CORRUPT, "'%s' was altered", path);
    pldi_free(path);
    return rc;
}

int pld_snapshot_verify(const pld_snapshot *snapshot)
{
    const struct ckpt_manifest *m;

    PLDI_CHECK_ARG(snapshot != NULL);
    m = &snapshot->m;
    PLDI_TRY(pldi_ckpt_check_shards(snapshot->path, m));
    PLDI_TRY(pldi_ckpt_verify_blocks(m, snapshot->path));
    for (uint32_t i = 0; i < m->shard_count; i++)
        PLDI_TRY(verify_rest(snapshot, i));
    for (uint32_t i = 0; i < m->file_count; i++)
        PLDI_TRY(verify_file(snapshot, &m->files[i]));
    return PLD_OK;
}

void pld_snapshot_close(pld_snapshot **snapshot)
{
    pld_snapshot *s;

    if (snapshot == NULL || *snapshot == NULL)
        return;
    s = *snapshot;
    pldi_ckpt_manifest_free(&s->m);
    pldi_free(s->tensors);
    pldi_free(s->shards);
    pldi_free(s->entries);
    pldi_free(s->path);
    pldi_free(s);
    *snapshot = NULL;
}
