/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Saved on one layout, loaded on another; states; replaced saves; retention; what is newest. */

#include <polder/inspect.h>

#include <errno.h>
#include <hdf5.h>
#include <sys/stat.h>

#include "inproc/ckpt_model.h"
#include "tap.h"

struct layout {
    const char *mesh;
    int ranks;
};

static const struct layout layouts[] = {
    {"dp=1", 1},      {"dp=3", 3},      {"pp=2", 2},           {"tp=2", 2},
    {"dp=2,pp=3", 6}, {"dp=2,tp=3", 6}, {"dp=2,pp=2,tp=2", 8},
};
enum { LAYOUTS = sizeof(layouts) / sizeof(layouts[0]) };

/* One call of save or load, on all ranks. */
struct call {
    const char *mesh;
    const char *directory;
    const struct model_change *how;
    pld_ckpt_opts opts;
    int64_t step; /* -1: load */
    const char *which;
    uint64_t salt;
    int64_t expected; /* step that load gives */
    int code;
    const char *words;
};

static int do_call(pld_runtime *rt, void *context)
{
    const struct call *c = context;
    int64_t step = -7;
    struct model m;

    CHECK(rt, model_open(rt, c->mesh, c->directory, &c->opts, c->how, &m) == 0);
    if (c->step >= 0) {
        model_set(&m, c->salt);
        CHECK(rt, pld_ckpt_set_number(m.ckpt, "loss", 1.25) == 0);
        CHECK(rt, pld_ckpt_set_text(m.ckpt, "model", "toy") == 0);
        CHECK(rt, pld_ckpt_save(m.ckpt, c->step) == c->code);
        CHECK(rt, c->code < 0 || model_wrong(&m, c->salt) == 0);
    } else {
        CHECK(rt, pld_ckpt_load(m.ckpt, c->which, &step) == c->code);
        CHECK(rt, step == (c->code < 0 ? -7 : c->expected));
        CHECK(rt, c->code < 0 || c->expected < 0 || model_wrong(&m, c->salt) == 0);
    }
    if (c->words != NULL)
        CHECK(rt, strstr(pld_last_error(), c->words) != NULL);
    model_close(&m);
    return 0;
}

static int save(const struct layout *l, const char *directory, pld_ckpt_opts opts, int64_t step,
                uint64_t salt)
{
    struct call c = {.mesh = l->mesh,
                     .directory = directory,
                     .how = &model_same,
                     .opts = opts,
                     .step = step,
                     .salt = salt};

    c.opts.struct_size = sizeof(c.opts);
    return inproc_run(l->ranks, do_call, &c);
}

static int load(const struct layout *l, const char *directory, const char *which, int64_t expected,
                uint64_t salt)
{
    struct call c = {.mesh = l->mesh,
                     .directory = directory,
                     .how = &model_same,
                     .opts = {PLD_OPTS(pld_ckpt_opts)},
                     .step = -1,
                     .which = which,
                     .salt = salt,
                     .expected = expected};

    return inproc_run(l->ranks, do_call, &c);
}

static void test_layouts(pld_ckpt_codec codec)
{
    for (size_t a = 0; a < LAYOUTS; a++) {
        char directory[256], path[300];
        int good = 0;

        (void)in_model_dir(codec == PLD_CKPT_ZSTD ? "zstd" : "raw", directory);
        if (!ok(save(&layouts[a], directory, (pld_ckpt_opts){.codec = codec}, (int64_t)a, a) == 0,
                "saved on %s", layouts[a].mesh))
            continue;
        (void)snprintf(path, sizeof(path), "%s/step-%08zu", directory, a);
        for (size_t b = 0; b < LAYOUTS; b++)
            good += load(&layouts[b], directory, b % 2 ? "latest" : path, (int64_t)a, a) == 0;
        ok(good == LAYOUTS, "%s saved on %s loads on %d of %d layouts",
           codec == PLD_CKPT_ZSTD ? "zstd" : "raw", layouts[a].mesh, good, LAYOUTS);
    }
}

/* Bytes are divided among the replicas, no byte twice. */
static void test_balance(void)
{
    char directory[256], path[300];
    uint64_t stored = 0, bytes = 0, least = UINT64_MAX, most = 0;
    pld_snapshot *s = NULL;
    int boxes = 0;

    (void)in_model_dir("raw", directory);
    (void)snprintf(path, sizeof(path), "%s/step-%08d", directory, 1);
    ok(pld_snapshot_open(path, &s) == 0, "a save on dp=3 opens");
    for (size_t i = 0; i < pld_snapshot_tensors(s); i++) {
        stored += pld_snapshot_tensor_at(s, i)->stored_bytes;
        bytes += pld_snapshot_tensor_at(s, i)->bytes;
        boxes = pld_snapshot_tensor_at(s, i)->boxes > boxes ? pld_snapshot_tensor_at(s, i)->boxes
                                                            : boxes;
    }
    for (size_t i = 0; i < pld_snapshot_shards(s); i++) {
        const uint64_t b = pld_snapshot_shard_at(s, i)->bytes;

        least = b < least ? b : least;
        most = b > most ? b : most;
    }
    ok(pld_snapshot_shards(s) == 3, "three replicas write three shards");
    ok(stored == bytes, "every byte is stored once: %llu of %llu", (unsigned long long)stored,
       (unsigned long long)bytes);
    ok(most - least < most / 8, "shards have %llu to %llu bytes", (unsigned long long)least,
       (unsigned long long)most);
    ok(boxes == 2, "a tensor on a cut is in two boxes");
    pld_snapshot_close(&s);
}

static const pld_snapshot_entry *find_entry(const pld_snapshot *s, const char *key)
{
    for (size_t i = 0; i < pld_snapshot_entries(s); i++)
        if (strcmp(pld_snapshot_entry_at(s, i)->key, key) == 0)
            return pld_snapshot_entry_at(s, i);
    return NULL;
}

static void test_inspect(pld_ckpt_codec codec)
{
    const char *name = codec == PLD_CKPT_ZSTD ? "zstd" : "raw";
    char directory[256], path[300];
    pld_snapshot_info info = {0};
    const pld_snapshot_entry *e;
    pld_snapshot *s = NULL;
    int present = 0;

    (void)in_model_dir(name, directory);
    (void)snprintf(path, sizeof(path), "%s/step-%08d", directory, 6);
    if (!ok(pld_snapshot_open(path, &s) == 0, "%s: opens: %s", name, pld_last_error()))
        return;
    pld_snapshot_info_get(s, &info);
    ok(info.step == 6 && info.ranks == 8 && info.format == 1 && strcmp(info.codec, name) == 0 &&
           strcmp(info.mesh, "dp=2,pp=2,tp=2") == 0 && strlen(info.uuid) == 32 &&
           strcmp(info.version, PLD_VERSION) == 0 && info.time > 1600000000,
       "%s: %s ranks %d format %d polder %s", name, info.mesh, info.ranks, info.format,
       info.version);
    ok(pld_snapshot_tensors(s) == 3 * 13, "%s: 13 tensors with two slots", name);
    e = find_entry(s, "loss");
    ok(e != NULL && e->kind == 'n' && e->number == 1.25, "%s: number", name);
    e = find_entry(s, "model");
    ok(e != NULL && e->kind == 't' && strcmp(e->text, "toy") == 0, "%s: text", name);
    e = find_entry(s, "position");
    ok(e != NULL && e->kind == 's' && e->bytes == 32, "%s: state", name);
    e = find_entry(s, "optim/step");
    ok(e != NULL && e->kind == 's' && e->bytes == 8, "%s: the params' state", name);
    for (size_t i = 0; i < pld_snapshot_shards(s); i++)
        present += pld_snapshot_shard_at(s, i)->present;
    ok(present == (int)pld_snapshot_shards(s) && present == 8, "%s: %d shards", name, present);
    ok(pld_snapshot_verify(s) == 0, "%s: verifies: %s", name, pld_last_error());
    ok(pld_snapshot_tensor_at(s, 1000) == NULL, "%s: no tensor beyond the count", name);
    pld_snapshot_close(&s);
    pld_snapshot_close(&s);
}

static int has(const char *directory, const char *name)
{
    char path[600];

    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    return access(path, F_OK) == 0;
}

static void test_retention(void)
{
    static const int64_t steps[] = {10, 20, 30, 15, 16};
    char directory[256];
    pld_run *run = NULL;

    (void)in_model_dir("kept", directory);
    for (size_t i = 0; i < 5; i++)
        ok(save(&layouts[1], directory, (pld_ckpt_opts){.keep = 2}, steps[i], i) == 0,
           "step %d saved, two are kept", (int)steps[i]);
    ok(pld_run_open(directory, &run) == 0 && pld_run_count(run) == 2, "two are left");
    ok(pld_run_at(run, 0)->step == 15 && pld_run_at(run, 1)->step == 16,
       "the two saved last, whatever their steps");
    ok(pld_run_at(run, 0)->complete && pld_run_at(run, 0)->problem[0] == '\0' &&
           pld_run_at(run, 0)->bytes > 1000000,
       "a complete one says so");
    pld_run_close(&run);
    ok(load(&layouts[3], directory, "latest", 16, 4) == 0, "latest is the one saved last");
    ok(load(&layouts[3], directory, directory, 16, 4) == 0, "so is the path of the directory");
}

static void test_replace(void)
{
    char directory[256];

    (void)in_model_dir("replaced", directory);
    for (int i = 0; i < 3; i++)
        ok(save(&layouts[i], directory, (pld_ckpt_opts){0}, 5, (uint64_t)i) == 0 &&
               load(&layouts[2], directory, "latest", 5, (uint64_t)i) == 0,
           "save %d of one step takes the place of the one before", i);
    ok(has(directory, "LATEST") && has(directory, "step-00000005/manifest.json") &&
           has(directory, "step-00000005/index.h5"),
       "all the files are there");
}

static void test_nothing_there(void)
{
    char directory[256], path[300];
    pld_snapshot *s = NULL;
    pld_run *run = NULL;

    (void)in_model_dir("a/b/none", directory);
    ok(load(&layouts[1], directory, "latest", -1, 0) == 0, "an empty directory gives step -1");
    (void)snprintf(path, sizeof(path), "%s/step-00000001", directory);
    ok(pld_run_open(directory, &run) == 0 && pld_run_count(run) == 0, "an empty run");
    pld_run_close(&run);
    ok(pld_run_open(path, &run) == PLD_ERR_NOTFOUND, "no run: %s", pld_last_error());
    ok(pld_snapshot_open(path, &s) == PLD_ERR_NOTFOUND, "no checkpoint: %s", pld_last_error());
}

/* A checkpoint of nothing but counters. */
static int do_states(pld_runtime *rt, void *context)
{
    char directory[256];
    pld_mesh *mesh = NULL;
    pld_ckpt *ckpt = NULL;
    int64_t counter = 41, step = -1;

    (void)context;
    (void)in_model_dir("states", directory);
    CHECK(rt, pld_mesh_create(rt, "dp=3", &mesh) == 0);
    CHECK(rt, pld_ckpt_open(mesh, directory, NULL, &ckpt) == 0);
    CHECK(rt, pld_ckpt_add_state(ckpt, "counter", &counter, sizeof(counter)) == 0);
    CHECK(rt, pld_ckpt_set_number(ckpt, "loss", 2) == 0);
    CHECK(rt, pld_ckpt_set_text(ckpt, "loss", "two") == PLD_ERR_ARG);
    CHECK(rt, pld_ckpt_set_text(ckpt, "counter", "a text, not the state") == 0);
    CHECK(rt, pld_ckpt_set_number(ckpt, "counter", 41) == PLD_ERR_ARG);
    CHECK(rt, pld_ckpt_save(ckpt, 3) == 0);
    counter = 0;
    CHECK(rt, pld_ckpt_load(ckpt, "latest", &step) == 0);
    CHECK(rt, step == 3 && counter == 41);
    pld_ckpt_destroy(&ckpt);
    pld_mesh_destroy(&mesh);
    return 0;
}

static herr_t own_printer(hid_t stack, void *context)
{
    (void)stack;
    *(int *)context += 1;
    return 0;
}

/* A program that uses HDF5 itself finds it as it was. */
static void test_hdf5_state(void)
{
    H5E_auto2_t printer = NULL;
    void *context = NULL;
    char directory[256];
    int printed = 0;

    (void)in_model_dir("hdf5", directory);
    ok(H5Eset_auto2(H5E_DEFAULT, own_printer, &printed) >= 0, "a program has its own printer");
    for (int codec = 0; codec < 2; codec++)
        ok(save(&layouts[1], directory, (pld_ckpt_opts){.codec = (pld_ckpt_codec)codec}, codec,
                1) == 0,
           "saved");
    ok(H5Eget_auto2(H5E_DEFAULT, &printer, &context) >= 0 && printer == own_printer &&
           context == &printed && printed == 0,
       "it has it still, and saw nothing");
    ok(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0, "no file or object is open");
}

int main(void)
{
    if (!make_model_dir())
        return 1;
    test_layouts(PLD_CKPT_RAW);
    test_layouts(PLD_CKPT_ZSTD);
    test_balance();
    test_inspect(PLD_CKPT_RAW);
    test_inspect(PLD_CKPT_ZSTD);
    test_retention();
    test_replace();
    test_nothing_there();
    test_hdf5_state();
    ok(inproc_run(3, do_states, NULL) == 0, "states without params");
    model_remove(model_dir);
    return tap_done();
}
