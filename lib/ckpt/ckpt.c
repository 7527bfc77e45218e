/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "ckpt/ckpt_impl.h"
#include "coll/coll_host.h"
#include "health/health_site.h"
#include "params/params.h"

/* What a caller built against 0.1 passes.  Stays when the struct grows. */
enum { OPTS_SIZE_0_1 = 16 };
_Static_assert(offsetof(pld_ckpt_opts, async) == OPTS_SIZE_0_1, "padding, or ABI");
enum { RING_SEGMENTS = 4, RING_BYTES = 32 << 20 };

static int read_opts(pld_mesh *mesh, const char *directory, const pld_ckpt_opts *opts, pld_ckpt *c)
{
    if (directory == NULL || directory[0] == '\0')
        return pldi_fail(PLD_ERR_ARG, "pld_ckpt_open: need the name of a directory");
    c->opts = (pld_ckpt_opts){PLD_OPTS(pld_ckpt_opts)};
    if (opts != NULL)
        PLDI_TRY(pldi_opts_copy(&c->opts, sizeof(c->opts), opts, OPTS_SIZE_0_1));
    if (c->opts.codec != PLD_CKPT_RAW && c->opts.codec != PLD_CKPT_ZSTD)
        return pldi_fail(PLD_ERR_ARG, "pld_ckpt_open: %d is no codec", (int)c->opts.codec);
    if (c->opts.keep < 0)
        return pldi_fail(PLD_ERR_ARG, "pld_ckpt_open: keep is %d, need 0 or more", c->opts.keep);
    if (c->opts.async != 0 && c->opts.async != 1)
        return pldi_fail(PLD_ERR_ARG, "pld_ckpt_open: async is %d, need 0 or 1", c->opts.async);
    if (c->opts.ring_segments < 0 || c->opts.ring_segments > CKPT_MAX_SEGMENTS)
        return pldi_fail(PLD_ERR_ARG, "pld_ckpt_open: ring_segments is %d, need 1..%d, or 0 for %d",
                         c->opts.ring_segments, CKPT_MAX_SEGMENTS, RING_SEGMENTS);
    c->opts.ring_segments += c->opts.ring_segments == 0 ? RING_SEGMENTS : 0;
    c->opts.ring_bytes += c->opts.ring_bytes == 0 ? RING_BYTES : 0;
    c->mesh = mesh;
    c->directory = pldi_strdup(directory);
    return c->directory == NULL ? PLD_ERR_NOMEM : PLD_OK;
}

/* A directory that is new must be known to the one above it before anything relies on it. */
static int make_durable(const char *path)
{
    const char *slash = strrchr(path, '/');
    struct stat about;
    char *parent;
    int rc;

    if (stat(path, &about) == 0 && S_ISDIR(about.st_mode))
        return PLD_OK;
    PLDI_TRY(pldi_ckpt_make_directory(path));
    parent = slash == NULL ? pldi_strdup(".") : pldi_format("%.*s/", (int)(slash - path), path);
    rc = parent == NULL ? PLD_ERR_NOMEM : pldi_ckpt_sync(parent);
    pldi_free(parent);
    return rc;
}

/* The directory and those above it. */
static int make_directories(char *path)
{
    for (char *p = path + 1; *p != '\0'; p++) {
        int rc;

        if (*p != '/')
            continue;
        *p = '\0';
        rc = make_durable(path);
        *p = '/';
        PLDI_TRY(rc);
    }
    return make_durable(path);
}

static int prepare_directory(const char *directory)
{
    char *path = pldi_strdup(directory);
    int rc = path == NULL ? PLD_ERR_NOMEM : make_directories(path);

    pldi_free(path);
    PLDI_TRY(rc);
    if (access(directory, R_OK | W_OK | X_OK) != 0)
        return pldi_ckpt_io_fail("write to directory", directory);
    pldi_ckpt_clean(directory);
    return PLD_OK;
}

static int see_directory(const char *directory)
{
    struct stat about;

    if (stat(directory, &about) != 0)
        return pldi_ckpt_io_fail("see directory", directory);
    return PLD_OK;
}

/* Ranks of this host share its processors. */
static int count_threads(pld_ckpt *c)
{
    const int size = pld_group_size(c->world);
    int64_t *hosts = pldi_alloc((size_t)size, sizeof(*hosts), "the ranks' hosts");
    int64_t mine;
    int here = 0;
    cpu_set_t set;
    int rc;

    (void)gethostname(c->host, sizeof(c->host) - 1);
    mine = (int64_t)pldi_hash64(c->host, strlen(c->host));
    rc = pld_agree(c->world, hosts == NULL ? PLD_ERR_NOMEM : PLD_OK);
    if (rc == PLD_OK)
        rc = pld_allgather(c->world, &mine, hosts, 1, PLD_I64, NULL);
    for (int r = 0; rc == PLD_OK && r < size; r++)
        here += hosts[r] == mine;
    c->threads = 1;
    if (rc == PLD_OK && sched_getaffinity(0, sizeof(set), &set) == 0)
        c->threads = CPU_COUNT(&set) / here;
    c->threads = c->threads < 1 ? 1 : c->threads;
    c->threads = c->threads < CKPT_MAX_THREADS - 1 ? c->threads : CKPT_MAX_THREADS - 1;
    pldi_free(hosts);
    return rc;
}

static int open_on_all(pld_ckpt *c)
{
    pld_group *world = pld_mesh_world(c->mesh);
    int rc = PLD_OK;

    PLDI_TRY(pldi_group_split_host(world, 0, pld_group_rank(world), &c->world));
    PLDI_TRY(count_threads(c));
    if (pld_group_rank(world) == 0)
        rc = prepare_directory(c->directory);
    PLDI_TRY(pld_agree(c->world, rc));
    return pld_agree(c->world, see_directory(c->directory));
}

int pld_ckpt_open(pld_mesh *mesh, const char *directory, const pld_ckpt_opts *opts, pld_ckpt **out)
{
    PLDI_ENTER();
    pld_ckpt *c;
    int rc;

    PLDI_CHECK_ARG(mesh != NULL && out != NULL);
    c = pldi_alloc(1, sizeof(*c), "a checkpoint's handle");
    rc = c == NULL ? PLD_ERR_NOMEM : read_opts(mesh, directory, opts, c);
    rc = pld_agree(pld_mesh_world(mesh), rc);
    if (rc == PLD_OK)
        rc = open_on_all(c);
    if (rc < 0)
        pld_ckpt_destroy(&c);
    else
        *out = c;
    return rc;
}

void pld_ckpt_destroy(pld_ckpt **ckpt)
{
    pld_ckpt *c;

    if (ckpt == NULL || *ckpt == NULL)
        return;
    c = *ckpt;
    pldi_ckpt_abandon(c);
    pldi_ckpt_snapshot_close(c);
    for (int i = 0; i < c->item_count; i++)
        if (c->items[i].kind == CKPT_TEXT)
            pldi_free(c->items[i].value);
    pldi_free(c->items);
    pldi_free(c->directory);
    pld_group_destroy(&c->world);
    pldi_free(c);
    *ckpt = NULL;
}

int pld_ckpt_add_params(pld_ckpt *ckpt, pld_params *params)
{
    PLDI_CHECK_ARG(ckpt != NULL && params != NULL);
    if (ckpt->params != NULL)
        return pldi_fail(PLD_ERR_STATE, "this checkpoint has its params already");
    if (!pldi_params_committed(params))
        return pldi_fail(PLD_ERR_STATE, "the params are not committed");
    if (pldi_params_mesh(params) != ckpt->mesh)
        return pldi_fail(PLD_ERR_ARG, "the params belong to another mesh");
    ckpt->params = params;
    return PLD_OK;
}

static struct ckpt_item *find_item(pld_ckpt *c, const char *key, int kind)
{
    for (int i = 0; i < c->item_count; i++)
        if (c->items[i].kind == kind && strcmp(c->items[i].key, key) == 0)
            return &c->items[i];
    return NULL;
}

static int check_key(const char *key)
{
    if (key[0] == '\0' || strlen(key) >= PLD_MAX_NAME)
        return pldi_fail(PLD_ERR_ARG, "key '%s' has %zu bytes, need 1..%d", key, strlen(key),
                         PLD_MAX_NAME - 1);
    return PLD_OK;
}

/* The item of this key, or a new one. */
static int have_item(pld_ckpt *c, const char *key, int kind, struct ckpt_item **out)
{
    struct ckpt_item *item = find_item(c, key, kind);

    if (item == NULL && c->item_count == c->item_capacity) {
        const int wanted = c->item_capacity == 0 ? 8 : 2 * c->item_capacity;
        struct ckpt_item *grown = pldi_alloc((size_t)wanted, sizeof(*grown), "entries");

        if (grown == NULL)
            return PLD_ERR_NOMEM;
        if (c->item_count > 0)
            memcpy(grown, c->items, (size_t)c->item_count * sizeof(*grown));
        pldi_free(c->items);
        c->items = grown;
        c->item_capacity = wanted;
    }
    if (item == NULL) {
        item = &c->items[c->item_count++];
        *item = (struct ckpt_item){.kind = kind};
        memcpy(item->key, key, strlen(key));
    }
    *out = item;
    return PLD_OK;
}

int pld_ckpt_add_state(pld_ckpt *ckpt, const char *key, void *value, size_t bytes)
{
    struct ckpt_item *item;

    PLDI_CHECK_ARG(ckpt != NULL && key != NULL && value != NULL);
    PLDI_TRY(check_key(key));
    if (bytes < 1 || bytes > CKPT_MAX_STATE)
        return pldi_fail(PLD_ERR_ARG, "state '%s' has %zu bytes, need 1..%d", key, bytes,
                         CKPT_MAX_STATE);
    if (find_item(ckpt, key, CKPT_STATE) != NULL)
        return pldi_fail(PLD_ERR_ARG, "state '%s' is added twice", key);
    PLDI_TRY(have_item(ckpt, key, CKPT_STATE, &item));
    item->value = value;
    item->bytes = bytes;
    return PLD_OK;
}

/* Numbers and texts are one table for people and tools. */
static int check_kind(pld_ckpt *c, const char *key, int other)
{
    if (find_item(c, key, other) != NULL)
        return pldi_fail(PLD_ERR_ARG, "key '%s' is that of a %s already", key,
                         other == CKPT_TEXT ? "text" : "number");
    return PLD_OK;
}

int pld_ckpt_set_number(pld_ckpt *ckpt, const char *key, double value)
{
    struct ckpt_item *item;

    PLDI_CHECK_ARG(ckpt != NULL && key != NULL);
    PLDI_TRY(check_key(key));
    PLDI_TRY(check_kind(ckpt, key, CKPT_TEXT));
    PLDI_TRY(have_item(ckpt, key, CKPT_NUMBER, &item));
    item->number = value;
    return PLD_OK;
}

int pld_ckpt_set_text(pld_ckpt *ckpt, const char *key, const char *value)
{
    struct ckpt_item *item;
    char *copy;

    PLDI_CHECK_ARG(ckpt != NULL && key != NULL && value != NULL);
    PLDI_TRY(check_key(key));
    PLDI_TRY(check_kind(ckpt, key, CKPT_NUMBER));
    if (strlen(value) >= CKPT_MAX_TEXT)
        return pldi_fail(PLD_ERR_ARG, "text '%s' has %zu bytes, at most %d fit", key, strlen(value),
                         CKPT_MAX_TEXT - 1);
    copy = pldi_strdup(value);
    if (copy == NULL)
        return PLD_ERR_NOMEM;
    if (have_item(ckpt, key, CKPT_TEXT, &item) < 0) {
        pldi_free(copy);
        return PLD_ERR_NOMEM;
    }
    pldi_free(item->value);
    item->value = copy;
    item->bytes = strlen(value);
    return PLD_OK;
}

static struct ckpt_entry entry_of(const struct ckpt_item *item)
{
    return (struct ckpt_entry){item->key, item->kind, item->number, item->value,
                               (uint32_t)item->bytes};
}

int pldi_ckpt_entries(const pld_ckpt *c, struct ckpt_entry **out, uint32_t *states, uint32_t *count)
{
    const int extra = c->params == NULL ? 0 : pldi_params_states(c->params);
    struct ckpt_entry *entries =
        pldi_alloc((size_t)c->item_count + (size_t)extra, sizeof(*entries), "entries");
    uint32_t n = 0;

    if (entries == NULL)
        return PLD_ERR_NOMEM;
    for (int i = 0; i < c->item_count; i++)
        if (c->items[i].kind == CKPT_STATE)
            entries[n++] = entry_of(&c->items[i]);
    for (int i = 0; i < extra; i++) {
        const struct pldi_param_state *s = pldi_params_state(c->params, i);

        entries[n++] =
            (struct ckpt_entry){s->key, CKPT_PARAMS_STATE, 0, s->value, (uint32_t)s->bytes};
    }
    *states = n;
    for (int i = 0; i < c->item_count; i++)
        if (c->items[i].kind != CKPT_STATE)
            entries[n++] = entry_of(&c->items[i]);
    *count = n;
    *out = entries;
    return PLD_OK;
}

static size_t padded(size_t bytes)
{
    return (bytes + PLDI_ALIGN - 1) / PLDI_ALIGN * PLDI_ALIGN;
}

/* A terminated copy at *at, which moves on. */
static const void *keep(unsigned char **at, const void *bytes, size_t count)
{
    unsigned char *copy = *at;

    if (count > 0)
        memcpy(copy, bytes, count);
    copy[count] = '\0';
    *at += padded(count + 1);
    return copy;
}

int pldi_ckpt_entries_copy(const pld_ckpt *c, struct ckpt_entry **out, uint32_t *states,
                           uint32_t *count)
{
    struct ckpt_entry *entries = NULL;
    struct ckpt_entry *copies;
    unsigned char *at;
    size_t bytes;

    PLDI_TRY(pldi_ckpt_entries(c, &entries, states, count));
    bytes = padded(*count * sizeof(*entries));
    for (uint32_t i = 0; i < *count; i++)
        bytes += padded(strlen(entries[i].key) + 1) + padded(entries[i].bytes + 1);
    copies = pldi_alloc(bytes, 1, "entries");
    if (copies != NULL && *count > 0)
        memcpy(copies, entries, *count * sizeof(*entries));
    at = copies == NULL ? NULL : (unsigned char *)copies + padded(*count * sizeof(*entries));
    for (uint32_t i = 0; copies != NULL && i < *count; i++) {
        copies[i].key = keep(&at, entries[i].key, strlen(entries[i].key));
        if (entries[i].value != NULL)
            copies[i].value = keep(&at, entries[i].value, entries[i].bytes);
    }
    pldi_free(entries);
    *out = copies;
    return copies == NULL ? PLD_ERR_NOMEM : PLD_OK;
}
