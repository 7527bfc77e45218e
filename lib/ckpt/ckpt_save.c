/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A save is a sequence of phases, each ended by an agreement of all ranks, so that
 * all leave it together with one code:
 *
 *   1. every rank divides its tensors; all compare what must be equal;
 *   2. rank 0 makes the hidden directory and tells uuid and time;
 *   3. every rank writes and flushes its shard;
 *   4. rank 0 receives the reports, commits, and tells how it went.
 *
 * The third one has no word for the others: an asynchronous save leaves it to a thread, and
 * the fourth to the next call.
 */

#include <pthread.h>
#include <stdatomic.h>

#include <stdio.h>
#include <string.h>

#include <polder/version.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_impl.h"
#include "health/health_site.h"

enum { TAG_REPORT = 1 };

enum { TEXT_BYTES = 1024 };

struct ckpt_save {
    pld_ckpt *c;
    int64_t step;
    int rank, ranks;
    struct ckpt_share share;
    struct ckpt_entry *entries;
    uint32_t states, entry_count;
    struct ckpt_commit commit; /* rank 0's */
    char shard[64];            /* file name */

    pthread_t thread;
    int threaded;
    atomic_int written; /* the third phase is over, here */
    int code;           /* with which */
    char text[TEXT_BYTES];
};

/* What rank 0 tells the others. */
struct opening {
    int64_t time;
    unsigned char uuid[CKPT_UUID_BYTES];
};

/* The number of the first pair (x, ~x) that differs between the group's ranks, or -1. */
static int first_difference(pld_group *group, int64_t *pairs, size_t count, int *out)
{
    PLDI_TRY(pld_allreduce(group, pairs, pairs, 2 * count, PLD_I64, PLD_MAX, NULL));
    *out = -1;
    for (size_t i = count; i-- > 0;)
        if (pairs[2 * i] != ~pairs[2 * i + 1])
            *out = (int)i;
    return PLD_OK;
}

static void set_pair(int64_t *pairs, size_t index, uint64_t value)
{
    pairs[2 * index] = (int64_t)value;
    pairs[2 * index + 1] = (int64_t)~value;
}

static uint64_t keys_print(const struct ckpt_save *s)
{
    uint64_t print = s->states;

    for (uint32_t i = 0; i < s->states; i++) {
        print = pldi_hash64_chain(print, s->entries[i].key, strlen(s->entries[i].key) + 1);
        print = pldi_hash64_chain(print, &s->entries[i].bytes, sizeof(s->entries[i].bytes));
    }
    return print;
}

static int compare_calls(const struct ckpt_save *s)
{
    static const char *const what[] = {"steps", "codecs", "states"};
    int64_t pairs[6];
    int differs;

    set_pair(pairs, 0, (uint64_t)s->step);
    set_pair(pairs, 1, (uint64_t)s->c->opts.codec);
    set_pair(pairs, 2, keys_print(s));
    PLDI_TRY(first_difference(s->c->world, pairs, 3, &differs));
    if (differs >= 0)
        return pldi_fail(PLD_ERR_MISMATCH, "ranks save different %s", what[differs]);
    return PLD_OK;
}

/* Rank 0's are saved, and given to all at the next load. */
static int compare_states(const struct ckpt_save *s)
{
    int64_t *pairs = pldi_alloc(s->states, 2 * sizeof(*pairs), "hashes of states");
    int differs = -1;
    int rc = pld_agree(s->c->world, pairs == NULL ? PLD_ERR_NOMEM : PLD_OK);

    for (uint32_t i = 0; rc == PLD_OK && i < s->states; i++)
        set_pair(pairs, i, pldi_hash64(s->entries[i].value, s->entries[i].bytes));
    if (rc == PLD_OK)
        rc = first_difference(s->c->world, pairs, s->states, &differs);
    if (rc == PLD_OK && differs >= 0)
        rc = pldi_fail(PLD_ERR_MISMATCH, "state '%s' is not the same on all ranks",
                       s->entries[differs].key);
    pldi_free(pairs);
    return rc;
}

/* Ranks that divide tensors among them must hold the same ones, with the same slots. */
static int compare_replicas(const struct ckpt_save *s)
{
    static const pld_axis axes[] = {PLD_AXIS_DP, PLD_AXIS_CP, PLD_AXIS_EP};
    int verdict = PLD_OK;
    int64_t pair[2];
    int differs;

    for (size_t i = 0; i < sizeof(axes) / sizeof(axes[0]); i++) {
        set_pair(pair, 0, s->share.print);
        PLDI_TRY(first_difference(pld_mesh_group(s->c->mesh, axes[i]), pair, 1, &differs));
        if (differs >= 0 && verdict == PLD_OK)
            verdict = pldi_fail(PLD_ERR_MISMATCH,
                                "%s replicas hold different tensors or optimizer states",
                                pld_axis_name(axes[i]));
    }
    return verdict;
}

/* A share is copied first if the caller goes on meanwhile, or if files cannot be written from it.
 */
static int needs_copy(const struct ckpt_save *s)
{
    return s->c->params != NULL && (s->c->opts.async || pldi_params_device(s->c->params) != NULL);
}

static int prepare(struct ckpt_save *s)
{
    if (s->step < 0)
        return pldi_fail(PLD_ERR_ARG, "pld_ckpt_save: step is %lld, need 0 or more",
                         (long long)s->step);
    if (s->c->params != NULL) {
        PLDI_TRY(pldi_params_check_stream(s->c->params, "pld_ckpt_save"));
        PLDI_TRY(pldi_params_pull(s->c->params));
    }
    PLDI_TRY(pldi_ckpt_share(s->c, &s->share));
    PLDI_TRY(pldi_ckpt_entries_copy(s->c, &s->entries, &s->states, &s->entry_count));
    if (!needs_copy(s))
        return PLD_OK;
    PLDI_TRY(pldi_ckpt_snapshot_open(s->c));
    return pldi_ckpt_snapshot_reserve(s->c->snapshot, &s->share);
}

static int plan(struct ckpt_save *s)
{
    pld_group *world = s->c->world;

    PLDI_TRY(pld_agree(world, prepare(s)));
    PLDI_TRY(compare_calls(s));
    PLDI_TRY(compare_states(s));
    return pld_agree(world, compare_replicas(s));
}

static int begin(struct ckpt_save *s)
{
    struct ckpt_manifest *part = &s->share.part;
    struct opening opening = {0};
    int rc = PLD_OK;

    if (s->rank == 0)
        rc = pldi_ckpt_commit_begin(s->c, s->step, part, &s->commit);
    PLDI_TRY(pld_agree(s->c->world, rc));
    opening.time = part->time;
    memcpy(opening.uuid, part->uuid, sizeof(opening.uuid));
    PLDI_TRY(pld_broadcast(s->c->world, &opening, sizeof(opening), PLD_U8, 0, NULL));
    part->time = opening.time;
    memcpy(part->uuid, opening.uuid, sizeof(opening.uuid));
    part->step = s->step;
    part->codec = (uint32_t)s->c->opts.codec;
    part->ranks = (uint32_t)s->ranks;
    part->writer = PLD_VERSION;
    part->mesh = "";
    return PLD_OK;
}

static int write_shard(struct ckpt_save *s)
{
    struct ckpt_manifest *part = &s->share.part;
    char uuid[33], step[32];
    char *path;
    int rc;

    if (part->shard_count == 0)
        return PLD_OK;
    pldi_ckpt_uuid_text(part->uuid, uuid);
    pldi_ckpt_step_name(s->step, step);
    (void)snprintf(s->shard, sizeof(s->shard), "s-%s-%05d.h5", uuid, s->rank);
    part->shards[0].name = s->shard;
    part->shards[0].host = s->c->host;
    part->shards[0].rank = s->rank;
    path = pldi_format("%s/%s%s-%.8s/%s", s->c->directory, CKPT_PART, step, uuid, s->shard);
    if (path == NULL)
        return PLD_ERR_NOMEM;
    rc = pldi_ckpt_write_shard(s->c, &s->share, path);
    pldi_free(path);
    return rc;
}

/* "dp=2,pp=2": the axes that are longer than 1. */
static const char *mesh_text(const pld_mesh *mesh, char out[128])
{
    size_t at = 0;

    out[0] = '\0';
    for (int i = PLD_AXES - 1; i >= 0; i--) {
        const int axis = i == PLD_AXIS_PP ? PLD_AXIS_DP : i == PLD_AXIS_DP ? PLD_AXIS_PP : i;
        const int size = pld_mesh_size(mesh, (pld_axis)axis);

        if (size > 1)
            at += (size_t)snprintf(out + at, 128 - at, "%s%s=%d", at > 0 ? "," : "",
                                   pld_axis_name((pld_axis)axis), size);
    }
    return out[0] == '\0' ? "dp=1" : out;
}

static int commit(struct ckpt_save *s, struct ckpt_manifest *reports)
{
    const struct ckpt_manifest *part = &s->share.part;
    struct ckpt_manifest m = *part;
    char mesh[128];
    int rc;

    m.shards = NULL;
    m.tensors = NULL;
    m.boxes = NULL;
    m.blocks = NULL;
    m.entries = NULL;
    m.files = NULL;
    m.shard_count = m.tensor_count = 0;
    m.box_count = m.block_count = 0;
    m.file_count = 2;
    m.entry_count = s->entry_count;
    m.mesh = mesh_text(s->c->mesh, mesh);
    rc = pldi_ckpt_merge(reports, s->ranks, &m);
    m.file_count = 0;
    if (rc == PLD_OK && s->entry_count > 0)
        memcpy(m.entries, s->entries, s->entry_count * sizeof(*m.entries));
    if (rc == PLD_OK)
        rc = pldi_ckpt_commit(&s->commit, &m);
    pldi_ckpt_manifest_free(&m);
    return rc;
}

/* Memory for everybody's report, before anybody sends one; the first is rank 0's own. */
static int expect(const struct ckpt_save *s, const int64_t *sizes, unsigned char **data)
{
    for (int r = 1; r < s->ranks; r++) {
        data[r] = pldi_alloc((size_t)sizes[r], 1, "a rank's report");
        if (data[r] == NULL)
            return PLD_ERR_NOMEM;
    }
    return PLD_OK;
}

/* Every message is received, whatever became of those before. */
static int transfer(const struct ckpt_save *s, const int64_t *sizes, unsigned char **data)
{
    int verdict = PLD_OK;

    if (s->rank > 0)
        return pld_send(s->c->world, data[0], (size_t)sizes[s->rank], PLD_U8, 0, TAG_REPORT, NULL);
    for (int r = 1; r < s->ranks; r++) {
        const int rc =
            pld_recv(s->c->world, data[r], (size_t)sizes[r], PLD_U8, r, TAG_REPORT, NULL);

        verdict = verdict < 0 ? verdict : rc;
    }
    return verdict;
}

static int decode_and_commit(struct ckpt_save *s, const int64_t *sizes, unsigned char **data)
{
    struct ckpt_manifest *reports =
        pldi_alloc((size_t)s->ranks, sizeof(*reports), "the ranks' reports");
    int rc = reports == NULL ? PLD_ERR_NOMEM : PLD_OK;

    for (int r = 0; rc == PLD_OK && r < s->ranks; r++) {
        rc = pldi_ckpt_manifest_decode("a rank's report", data[r], (size_t)sizes[r], &reports[r]);
        data[r] = NULL; /* the report's now */
    }
    if (rc == PLD_OK)
        rc = commit(s, reports);
    for (int r = 0; reports != NULL && r < s->ranks; r++)
        pldi_ckpt_manifest_free(&reports[r]);
    pldi_free(reports);
    return rc;
}

/* data: [ranks] on rank 0, where data[0] is its own report; else this rank's report alone. */
static int collect(struct ckpt_save *s, int64_t *sizes, unsigned char **data)
{
    pld_group *world = s->c->world;
    size_t bytes = 0;
    int rc = pldi_ckpt_manifest_encode(&s->share.part, &data[0], &bytes);

    sizes[s->rank] = (int64_t)bytes;
    PLDI_TRY(pld_agree(world, rc));
    PLDI_TRY(pld_allgather(world, &sizes[s->rank], sizes, 1, PLD_I64, NULL));
    PLDI_TRY(pld_agree(world, s->rank == 0 ? expect(s, sizes, data) : PLD_OK));
    PLDI_TRY(pld_agree(world, transfer(s, sizes, data)));
    return pld_agree(world, s->rank == 0 ? decode_and_commit(s, sizes, data) : PLD_OK);
}

static int report(struct ckpt_save *s)
{
    int64_t *sizes = pldi_alloc((size_t)s->ranks, sizeof(*sizes), "sizes of reports");
    unsigned char **data = pldi_alloc((size_t)s->ranks, sizeof(*data), "the ranks' reports");
    int rc = pld_agree(s->c->world, sizes == NULL || data == NULL ? PLD_ERR_NOMEM : PLD_OK);

    if (rc == PLD_OK)
        rc = collect(s, sizes, data);
    for (int r = 0; data != NULL && r < s->ranks; r++)
        pldi_free(data[r]);
    pldi_free(data);
    pldi_free(sizes);
    return rc;
}

/* The third phase, on whichever thread. */
static void *write_all(void *context)
{
    struct ckpt_save *s = context;
    int rc = PLD_OK;

    if (needs_copy(s))
        rc = pldi_ckpt_snapshot_take(s->c->snapshot, &s->share);
    if (rc == PLD_OK)
        rc = write_shard(s);
    s->code = rc;
    if (rc < 0)
        (void)snprintf(s->text, sizeof(s->text), "%s", pld_last_error());
    atomic_store(&s->written, 1);
    return NULL;
}

static void start_writing(struct ckpt_save *s)
{
    if (s->c->opts.async)
        s->threaded = pthread_create(&s->thread, NULL, write_all, s) == 0;
    if (!s->threaded)
        (void)write_all(s);
}

static void join_thread(struct ckpt_save *s)
{
    if (s->threaded)
        (void)pthread_join(s->thread, NULL);
    s->threaded = 0;
}

static void save_free(struct ckpt_save *s)
{
    if (s == NULL)
        return;
    pldi_ckpt_commit_end(&s->commit);
    if (s->c->snapshot != NULL)
        pldi_ckpt_snapshot_release(s->c->snapshot);
    pldi_ckpt_share_free(&s->share);
    pldi_free(s->entries);
    pldi_free(s);
}

int pldi_ckpt_complete(pld_ckpt *c)
{
    struct ckpt_save *s = c->running;
    int rc;

    if (s == NULL)
        return PLD_OK;
    join_thread(s);
    c->running = NULL;
    if (s->code < 0)
        (void)pldi_fail(s->code, "%s", s->text);
    rc = pld_agree(c->world, s->code);
    if (rc == PLD_OK)
        rc = report(s);
    save_free(s);
    return rc;
}

void pldi_ckpt_abandon(pld_ckpt *c)
{
    if (c->running == NULL)
        return;
    join_thread(c->running);
    save_free(c->running);
    c->running = NULL;
}

static int save_new(pld_ckpt *c, int64_t step, struct ckpt_save **out)
{
    struct ckpt_save *s = pldi_alloc(1, sizeof(*s), "a save");

    *out = s;
    if (s != NULL) {
        s->c = c;
        s->step = step;
        s->commit.lock = -1;
        s->rank = pld_group_rank(c->world);
        s->ranks = pld_group_size(c->world);
    }
    /* Whole by now: where another rank has no memory, this one's is freed. */
    PLDI_TRY(pld_agree(c->world, s == NULL ? PLD_ERR_NOMEM : PLD_OK));
    PLDI_TRY(plan(s));
    return begin(s);
}

int pld_ckpt_save(pld_ckpt *ckpt, int64_t step)
{
    PLDI_ENTER();
    struct ckpt_save *s = NULL;
    int rc;

    PLDI_CHECK_ARG(ckpt != NULL);
    PLDI_TRY(pldi_ckpt_complete(ckpt));
    rc = save_new(ckpt, step, &s);
    if (rc < 0) {
        save_free(s);
        return rc;
    }
    ckpt->running = s;
    start_writing(s);
    return ckpt->opts.async ? PLD_OK : pldi_ckpt_complete(ckpt);
}

int pld_ckpt_wait(pld_ckpt *ckpt)
{
    PLDI_ENTER();
    PLDI_CHECK_ARG(ckpt != NULL);
    return pldi_ckpt_complete(ckpt);
}

int pld_ckpt_test(pld_ckpt *ckpt, int *done)
{
    PLDI_ENTER();
    int32_t written;

    PLDI_CHECK_ARG(ckpt != NULL && done != NULL);
    written = ckpt->running == NULL || atomic_load(&ckpt->running->written);
    PLDI_TRY(pld_allreduce(ckpt->world, &written, &written, 1, PLD_I32, PLD_MIN, NULL));
    *done = written;
    return written ? pldi_ckpt_complete(ckpt) : PLD_OK;
}
