/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What goes wrong: other models, damaged files, steps that fail, processes that are
 * killed at each step of a save in turn.
 */

#include <polder/inspect.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "ckpt/ckpt_impl.h"
#include "inproc/ckpt_model.h"
#include "slow.h"
#include "tap.h"

/* Steps of a save, in order; "aside" only where names cannot be exchanged. */
static const char *const points[] = {"begin", "layout",   "data",   "flush",  "index",
                                     "json",  "manifest", "sync",   "rename", "exchange",
                                     "aside", "placed",   "latest", "retain", "trash"};
enum { POINTS = sizeof(points) / sizeof(points[0]), RENAME = 8 /* points[RENAME] is "rename" */ };

/* What the hook does: at this point, the given error, or the end. */
static struct {
    const char *point;
    int error;               /* 0: kill the process */
    void (*meanwhile)(void); /* call this instead */
    int no_exchange;
    int after; /* passes to let by */
    atomic_int passes;
} fault;

int pldi_ckpt_test_point(const char *point)
{
    if (fault.no_exchange && strcmp(point, "exchange") == 0)
        return EINVAL;
    if (fault.point == NULL || strcmp(point, fault.point) != 0 ||
        atomic_fetch_add(&fault.passes, 1) < fault.after)
        return 0;
    if (fault.meanwhile != NULL)
        fault.meanwhile();
    else if (fault.error == 0)
        (void)kill(getpid(), SIGKILL);
    return fault.error;
}

static void set_fault(const char *point, int error, int after)
{
    fault.point = point;
    fault.error = error;
    fault.after = after;
    atomic_store(&fault.passes, 0);
}

struct call {
    const char *mesh;
    int ranks;
    const char *directory;
    const struct model_change *how;
    pld_ckpt_codec codec;
    int keep, async; /* async: tensors change once the save has returned; then it is waited for */
    int64_t step;    /* -1: load */
    const char *which;
    uint64_t salt;
    int code; /* 1: any error, the same on all */
    const char *words;
    int64_t got_step;
    int got_code;
    char text[1024];
};

static int do_call(pld_runtime *rt, void *context)
{
    struct call *c = context;
    const pld_ckpt_opts opts = {PLD_OPTS(pld_ckpt_opts), .codec = c->codec, .keep = c->keep,
                                .async = c->async};
    int64_t step = -7;
    int64_t codes[2];
    struct model m;
    int rc;

    CHECK(rt, model_open(rt, c->mesh, c->directory, &opts, c->how == NULL ? &model_same : c->how,
                         &m) == 0);
    model_set(&m, c->salt);
    rc = c->step >= 0 ? pld_ckpt_save(m.ckpt, c->step) : pld_ckpt_load(m.ckpt, c->which, &step);
    if (rc == 0 && c->async && c->step >= 0) {
        CHECK(rt, pldi_params_before_change(m.params) == 0);
        model_set(&m, c->salt + 1000);
        rc = pld_ckpt_wait(m.ckpt);
    }
    codes[0] = rc;
    codes[1] = -rc;
    if (pld_runtime_rank(rt) == 0) {
        c->got_step = step;
        c->got_code = rc;
        (void)snprintf(c->text, sizeof(c->text), "%s", rc < 0 ? pld_last_error() : "");
    }
    CHECK(rt, c->code == 1 ? rc < 0 : rc == c->code);
    CHECK(rt, c->words == NULL || strstr(pld_last_error(), c->words) != NULL);
    CHECK(rt, pld_allreduce(pld_runtime_world(rt), codes, codes, 2, PLD_I64, PLD_MAX, NULL) == 0);
    CHECK(rt, codes[0] == -codes[1]);
    model_close(&m);
    return 0;
}

static int run(struct call *c)
{
    return inproc_run(c->ranks, do_call, c);
}

static struct call call_of(const char *directory, int64_t step)
{
    return (struct call){
        .mesh = "dp=2,pp=2", .ranks = 4, .directory = directory, .step = step, .salt = 3};
}

static void test_mismatch(void)
{
    static const struct {
        const char *what;
        struct model_change how;
        int code;
        const char *words;
    } cases[] = {
        {"a tensor more", {.extra = "new"}, PLD_ERR_MISMATCH, "no tensor 'new'"},
        {"a tensor less", {.absent = "h.3.w"}, PLD_ERR_MISMATCH, "'h.3.w'"},
        {"a row more",
         {.longer = "h.1.w"},
         PLD_ERR_MISMATCH,
         "dimension 0 of tensor 'h.1.w' is 67"},
        {"another dtype", {.other = "wte"}, PLD_ERR_MISMATCH, "'wte' is f32"},
        {"a slot less", {.no_momentum = 1}, PLD_ERR_MISMATCH, "(exp_avg)"},
        {"a state less", {.no_state = 1}, PLD_ERR_MISMATCH, "'position'"},
        {"a shorter state", {.short_state = 1}, PLD_ERR_MISMATCH, "'position' has 32 bytes"},
        {"no optimizer at all: the weights alone", {.no_slots = 1}, 0, NULL},
    };
    char directory[256];
    struct call c;

    (void)in_model_dir("mismatch", directory);
    c = call_of(directory, 1);
    ok(run(&c) == 0, "saved");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i += 1 + SLOW) {
        c = call_of(directory, -1);
        c.which = "latest";
        c.how = &cases[i].how;
        c.code = cases[i].code;
        c.words = cases[i].words;
        ok(run(&c) == 0, "%s: %s", cases[i].what, c.text);
    }
    (void)in_model_dir("weights", directory);
    c = call_of(directory, 1);
    c.how = &cases[7].how;
    ok(run(&c) == 0, "weights alone are saved");
    c = call_of(directory, -1);
    c.which = "latest";
    c.code = PLD_ERR_MISMATCH;
    ok(run(&c) == 0, "and do not pass for a save with optimizer state: %s", c.text);
}

/* Not the same on all ranks. */
static int do_differ(pld_runtime *rt, void *context)
{
    const int odd = pld_runtime_rank(rt) == 1;
    struct model m;

    CHECK(rt, model_open(rt, "dp=3", context, NULL, &model_same, &m) == 0);
    model_set(&m, 1);
    CHECK(rt, pld_ckpt_save(m.ckpt, odd ? 7 : 8) == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), "steps") != NULL);
    m.position[2] += odd;
    CHECK(rt, pld_ckpt_save(m.ckpt, 8) == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), "'position'") != NULL);
    m.position[2] -= odd;
    if (odd)
        pldi_params_remove_slots(m.params, "exp_avg");
    CHECK(rt, pld_ckpt_save(m.ckpt, 8) == PLD_ERR_MISMATCH);
    CHECK(rt, strstr(pld_last_error(), "dp replicas") != NULL);
    CHECK(rt, pld_ckpt_save(m.ckpt, -1) == PLD_ERR_ARG);
    CHECK(rt, pld_ckpt_load(m.ckpt, "/no/such/place", NULL) == PLD_ERR_NOTFOUND);
    CHECK(rt, pld_ckpt_load(m.ckpt, odd ? NULL : "latest", NULL) == PLD_ERR_ARG);
    CHECK(rt, pld_ckpt_add_state(m.ckpt, "position", &m, 4) == PLD_ERR_ARG);
    CHECK(rt, pld_ckpt_add_state(m.ckpt, "none", &m, 0) == PLD_ERR_ARG);
    CHECK(rt, pld_ckpt_add_params(m.ckpt, m.params) == PLD_ERR_STATE);
    model_close(&m);
    return 0;
}

/* Boxes that leave a hole, and such that overlap. */
static int do_boxes(pld_runtime *rt, void *context)
{
    pld_param o = {PLD_OPTS(pld_param), .name = "w", .ndim = 1, .shape = {10}, .extent = {4}};
    const char *const words[2] = {"8 of its 10", "overlap"};

    for (int i = 0; i < 2; i++) {
        pld_params *params = NULL;
        pld_mesh *mesh = NULL;
        pld_ckpt *ckpt = NULL;

        CHECK(rt, pld_mesh_create(rt, "tp=2", &mesh) == 0);
        CHECK(rt, pld_params_create(mesh, &params) == 0);
        o.extent[0] = i == 0 ? 4 : 6;
        o.offset[0] = pld_mesh_coord(mesh, PLD_AXIS_TP) * 4;
        CHECK(rt, pld_params_add(params, &o, NULL) == 0 && pld_params_commit(params) == 0);
        CHECK(rt, pld_ckpt_open(mesh, context, NULL, &ckpt) == 0);
        CHECK(rt, pld_ckpt_add_params(ckpt, params) == 0);
        CHECK(rt, pld_ckpt_save(ckpt, 3) == PLD_ERR_MISMATCH);
        CHECK(rt, strstr(pld_last_error(), words[i]) != NULL);
        pld_ckpt_destroy(&ckpt);
        pld_params_destroy(&params);
        pld_mesh_destroy(&mesh);
    }
    return 0;
}

static int entries_in(const char *directory, const char *prefix)
{
    DIR *dir = opendir(directory);
    struct dirent *e;
    int count = 0;

    while (dir != NULL && (e = readdir(dir)) != NULL)
        count += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
    if (dir != NULL)
        (void)closedir(dir);
    return count;
}

static void test_refused(void)
{
    char directory[256];

    (void)in_model_dir("refused", directory);
    ok(inproc_run(3, do_differ, directory) == 0, "ranks that differ are told so");
    ok(inproc_run(2, do_boxes, directory) == 0, "boxes must tile their tensor");
    ok(entries_in(directory, "step-") == 0 && entries_in(directory, ".part-") == 0,
       "and nothing is left of it");
}

/* Change the file: cut off at a place, or flip a bit there.  Places in 1/1000 of its size. */
static int damage(const char *path, int place, int cut)
{
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat about;
    off_t at;
    unsigned char b;
    int good;

    if (fd < 0 || fstat(fd, &about) != 0)
        return 0;
    at = about.st_size * place / 1000;
    good = cut ? ftruncate(fd, at) == 0
               : pread(fd, &b, 1, at) == 1 && (b ^= 1, pwrite(fd, &b, 1, at) == 1);
    (void)close(fd);
    return good;
}

static int find_shard(const char *checkpoint, char out[600])
{
    DIR *dir = opendir(checkpoint);
    struct dirent *e;
    int found = 0;

    while (dir != NULL && !found && (e = readdir(dir)) != NULL)
        if (strncmp(e->d_name, "s-", 2) == 0) {
            (void)snprintf(out, 600, "%s/%s", checkpoint, e->d_name);
            found = 1;
        }
    if (dir != NULL)
        (void)closedir(dir);
    return found;
}

/* Flip a bit in the first block of the first tensor. */
static int damage_tensor(const char *checkpoint)
{
    struct ckpt_manifest m = {0};
    char file[600];
    unsigned char b;
    int fd, good;
    off_t at;

    if (pldi_ckpt_read_manifest(checkpoint, &m) != 0)
        return 0;
    (void)snprintf(file, sizeof(file), "%s/%s", checkpoint, m.shards[m.boxes[0].shard].name);
    at = (off_t)(m.blocks[0].offset + m.blocks[0].bytes / 2);
    fd = open(file, O_RDWR | O_CLOEXEC);
    good = fd >= 0 && pread(fd, &b, 1, at) == 1 && (b ^= 1, pwrite(fd, &b, 1, at) == 1);
    if (fd >= 0)
        (void)close(fd);
    pldi_ckpt_manifest_free(&m);
    return good;
}

static int verify(const char *checkpoint)
{
    pld_snapshot *s = NULL;
    int rc = pld_snapshot_open(checkpoint, &s);

    if (rc == 0)
        rc = pld_snapshot_verify(s);
    pld_snapshot_close(&s);
    return rc;
}

/* Newer one damaged: named as such, and passed over by "latest" where that can be seen. */
static void test_damage(pld_ckpt_codec codec)
{
    static const struct {
        const char *what, *file;
        int place, cut, seen;
    } cases[] = {
        {"a bit in a tensor", "a tensor", 0, 0, 0},
        {"a short shard", NULL, 900, 1, 1},
        {"a lost shard", NULL, -1, 0, 1},
        {"a bit in the manifest", "manifest.pldm", 300, 0, 1},
        {"a short manifest", "manifest.pldm", 990, 1, 1},
        {"no manifest", "manifest.pldm", -1, 0, 1},
    };
    char directory[256], path[300], file[600];
    struct call c;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i += 1 + SLOW) {
        (void)snprintf(directory, sizeof(directory), "%s/damage-%d-%zu", model_dir, codec, i);
        (void)snprintf(path, sizeof(path), "%s/step-00000002", directory);
        for (int step = 1; step <= 2; step++) {
            c = call_of(directory, step);
            c.mesh = "pp=2";
            c.ranks = 2;
            c.codec = codec;
            ok(run(&c) == 0, "step %d saved", step);
        }
        if (cases[i].file == NULL)
            (void)find_shard(path, file);
        else
            (void)snprintf(file, sizeof(file), "%s/%s", path, cases[i].file);
        if (i == 0)
            ok(damage_tensor(path), "damaged");
        else if (cases[i].place < 0)
            ok(unlink(file) == 0, "lost");
        else
            ok(damage(file, cases[i].place, cases[i].cut), "damaged");
        c = call_of(directory, -1);
        c.which = path;
        c.code = PLD_ERR_CORRUPT;
        ok(run(&c) == 0, "%s: %s", cases[i].what, c.text);
        ok(verify(path) < 0, "verify finds it: %s", pld_last_error());
        c = call_of(directory, -1);
        c.which = "latest";
        c.code = cases[i].seen ? 0 : PLD_ERR_CORRUPT;
        ok(run(&c) == 0 && (!cases[i].seen || c.got_step == 1), "latest: %s",
           cases[i].seen ? "the one before" : c.text);
        model_remove(directory);
    }
}

/* Bits all over a shard and the other files: verify finds every one. */
static void test_verify(pld_ckpt_codec codec)
{
    static const char *const names[] = {NULL, "index.h5", "manifest.json", "manifest.pldm"};
    char directory[256], path[300], file[600];
    struct call c;

    (void)snprintf(directory, sizeof(directory), "%s/verify-%d", model_dir, codec);
    (void)snprintf(path, sizeof(path), "%s/step-00000001", directory);
    c = call_of(directory, 1);
    c.codec = codec;
    ok(run(&c) == 0 && verify(path) == 0, "saved and verified");
    for (int n = 0; n < 4; n++) {
        int found = 0, tries = 0;

        if (names[n] == NULL)
            (void)find_shard(path, file);
        else
            (void)snprintf(file, sizeof(file), "%s/%s", path, names[n]);
        for (int place = 0; place < 1000; place += SLOW ? 401 : 125, tries++) {
            found += damage(file, place, 0) && verify(path) == PLD_ERR_CORRUPT;
            (void)damage(file, place, 0);
        }
        ok(found == tries, "%s: %d of %d flipped bits found", names[n] ? names[n] : "shard", found,
           tries);
    }
    ok(verify(path) == 0, "and none when all are back");
}

/* Nobody writes to the pipe: who would read it would wait for ever. */
static void test_pipe(void)
{
    char directory[256], file[300];
    struct call c;

    (void)in_model_dir("pipe", directory);
    c = call_of(directory, 1);
    ok(run(&c) == 0, "saved");
    (void)snprintf(file, sizeof(file), "%s/step-00000001/index.h5", directory);
    ok(unlink(file) == 0 && mkfifo(file, 0666) == 0, "a pipe in the place of a file");
    (void)snprintf(file, sizeof(file), "%s/step-00000001", directory);
    ok(verify(file) < 0, "is no file: %s", pld_last_error());
}

/* Every step fails in turn: one code, no remains, and what was there stays. */
static void test_errors(pld_ckpt_codec codec)
{
    char directory[256];
    struct call c;

    (void)snprintf(directory, sizeof(directory), "%s/errors-%d", model_dir, codec);
    c = call_of(directory, 1);
    c.codec = codec;
    ok(run(&c) == 0, "saved");
    for (int p = SLOW * (int)codec; p < POINTS; p += 1 + 3 * SLOW) {
        const int harmless = strcmp(points[p], "retain") == 0 || strcmp(points[p], "trash") == 0;

        c.mesh = p % 4 > 0 ? "dp=2" : "dp=2,pp=2";
        c.ranks = p % 4 > 0 ? 2 : 4;
        c.step = 1;
        c.which = NULL;
        c.code = harmless ? 0 : PLD_ERR_IO;
        c.async = p % 2;
        fault.no_exchange = strcmp(points[p], "aside") == 0;
        set_fault(points[p], ENOSPC, 0);
        ok(run(&c) == 0 && (harmless || strstr(c.text, strerror(ENOSPC)) != NULL), "%s: %s",
           points[p], c.text);
        set_fault(NULL, 0, 0);
        fault.no_exchange = 0;
        c.step = -1;
        c.code = 0;
        c.which = "latest";
        ok(run(&c) == 0 && c.got_step == 1, "a save is there all the same");
        ok(entries_in(directory, ".part-") == 0 && entries_in(directory, ".old-") == 0, "alone");
    }
}

/* Which of two salts is it that loads? */
struct which {
    const char *directory;
    uint64_t salts[2];
    int64_t step; /* that was loaded */
    int found;    /* index of the salt; -1: neither, or a mixture */
};

static int do_which(pld_runtime *rt, void *context)
{
    struct which *w = context;
    struct model m;

    w->found = -1;
    CHECK(rt, model_open(rt, "dp=1", w->directory, NULL, &model_same, &m) == 0);
    CHECK(rt, pld_ckpt_load(m.ckpt, "latest", &w->step) == 0);
    for (int i = 0; i < 2 && w->step > 0; i++)
        if (model_wrong(&m, w->salts[i]) == 0)
            w->found = i;
    model_close(&m);
    return 0;
}

/* In a process of its own: save `salt` as `step` and be killed on the way. */
static int killed(const char *directory, const char *point, int after, int no_exchange,
                  int64_t step, uint64_t salt, pld_ckpt_codec codec)
{
    const pid_t child = fork();
    int status = 0;

    if (child == 0) {
        struct call c = call_of(directory, step);

        c.async = step == 1;
        fault.no_exchange = no_exchange;
        set_fault(point, 0, after);
        c.mesh = "dp=2";
        c.ranks = 2;
        c.salt = salt;
        c.codec = codec;
        c.keep = 1;
        _exit(run(&c) == 0 ? 0 : 1);
    }
    (void)waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/*
 * step 1 is acknowledged with salt 21.  A save with salt 22, of another step or the
 * same, is killed.  Then one of the two must load, whole.
 */
static void kill_at(const char *point, int after, int same_step, int no_exchange,
                    pld_ckpt_codec codec)
{
    struct which w = {.salts = {21, 22}};
    char directory[256];
    struct call c;
    int died, good;

    w.directory = in_model_dir("kill", directory);
    model_remove(directory);
    c = call_of(directory, 1);
    c.mesh = "dp=1";
    c.ranks = 1;
    c.salt = 21;
    ok(run(&c) == 0, "saved");
    died = killed(directory, point, after, no_exchange, same_step ? 1 : 2, 22, codec);
    good = inproc_run(1, do_which, &w) == 0 && w.found >= (died ? 0 : 1);
    ok(good, "%s at %s+%d: salt %d of step %d loads", died ? "killed" : "passed", point, after,
       21 + w.found, (int)w.step);
    ok(entries_in(directory, ".part-") + entries_in(directory, ".old-") +
               entries_in(directory, ".trash-") ==
           0,
       "no remains");
}

/* Up to the rename it does not matter what lies where the save will go. */
static void test_kill(void)
{
    for (int p = 0; p < POINTS; p += 1 + 2 * SLOW) {
        if (p < RENAME) {
            kill_at(points[p], 0, p / 2 % 2, 0, p % 2 ? PLD_CKPT_RAW : PLD_CKPT_ZSTD);
            continue;
        }
        kill_at(points[p], 0, 0, 0, PLD_CKPT_RAW);
        kill_at(points[p], 0, 1, 0, PLD_CKPT_RAW);
        kill_at(points[p], 0, 1, 1, PLD_CKPT_RAW);
    }
    if (SLOW)
        return;
    for (int after = 1; after < 5; after++) /* shards, index, JSON, manifest */
        kill_at("flush", after, after % 2, 0, PLD_CKPT_RAW);
    for (int after = 1; after < 12; after += 5) {
        kill_at("data", after, 0, 0, PLD_CKPT_RAW);
        kill_at("data", after, 1, 0, PLD_CKPT_ZSTD);
    }
}

static int do_open(pld_runtime *rt, void *context)
{
    struct model m;

    CHECK(rt, model_open(rt, "dp=2", context, NULL, &model_same, &m) == 0);
    model_close(&m);
    return 0;
}

/* While somebody saves, remains are nobody's to remove. */
static void test_lock(void)
{
    char directory[256], path[300];
    int fd;

    (void)in_model_dir("lock", directory);
    ok(inproc_run(2, do_open, directory) == 0, "a run directory");
    (void)snprintf(path, sizeof(path), "%s/.lock", directory);
    fd = open(path, O_RDWR | O_CLOEXEC);
    ok(fd >= 0 && flock(fd, LOCK_SH) == 0, "somebody saves");
    (void)snprintf(path, sizeof(path), "%s/.part-step-00000002-12345678", directory);
    ok(mkdir(path, 0777) == 0, "and has made a directory");
    ok(inproc_run(2, do_open, directory) == 0 && access(path, F_OK) == 0,
       "whoever opens the run leaves it alone");
    (void)close(fd);
    ok(inproc_run(2, do_open, directory) == 0 && access(path, F_OK) != 0,
       "and removes it when that job is gone");
}

/* Another job, while this one has written the text LATEST under a name that is not yet LATEST. */
static struct {
    struct call call;
    int code;
} other;

static void save_meanwhile(void)
{
    set_fault(NULL, 0, 0);
    other.code = run(&other.call);
}

/* Two jobs save to one directory. */
static void test_two_jobs(void)
{
    char directory[256];
    struct call c;

    (void)in_model_dir("two", directory);
    c = other.call = call_of(directory, 1);
    c.mesh = other.call.mesh = "dp=1";
    c.ranks = other.call.ranks = 1;
    other.call.step = 2;
    other.code = -1;
    fault.meanwhile = save_meanwhile;
    set_fault("flush", 0, 4); /* after those of shard, index, JSON and manifest */
    ok(run(&c) == 0, "a save beside that of another job: %s", c.text);
    fault.meanwhile = NULL;
    ok(other.code == 0, "which is there as well: %s", other.call.text);
    ok(entries_in(directory, "step-") == 2 && entries_in(directory, ".part-") == 0, "and no more");
}

/* No directory where one must be, and none that can be made (root writes anywhere else). */
static int do_nowhere(pld_runtime *rt, void *context)
{
    struct model m;

    (void)context;
    CHECK(rt, model_open(rt, "dp=2", "/proc/polder/run", NULL, &model_same, &m) != 0);
    CHECK(rt, strstr(pld_last_error(), "/proc/polder") != NULL);
    model_close(&m);
    CHECK(rt, model_open(rt, "dp=2", "/dev/null/run", NULL, &model_same, &m) != 0);
    CHECK(rt, strstr(pld_last_error(), strerror(ENOTDIR)) != NULL);
    model_close(&m);
    return 0;
}

/* A save on a full disk in a process that ends; libhdf5 has its last word on exit. */
static int fill_disk(const char *directory, pld_ckpt_codec codec)
{
    const pid_t child = fork();
    int status = -1;

    if (child == 0) {
        struct call c = call_of(directory, 1);
        char path[256];
        const int fd = open(in_model_dir("stderr", path), O_WRONLY | O_CREAT | O_TRUNC, 0666);

        c.codec = codec;
        c.code = PLD_ERR_IO;
        c.words = strerror(ENOSPC);
        if (fd < 0 || dup2(fd, 2) < 0)
            _exit(2);
        status = run(&c);
        printf("# %s\n", c.text);
        exit(status == 0 ? 0 : 1);
    }
    (void)waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* A full disk, for real: a file system of a few MB, if this process may mount one. */
static void test_full_disk(pld_ckpt_codec codec)
{
    static const char *const sizes[] = {"size=800k", "size=200k", "size=100k", "size=20k"};
    char directory[256], path[256];
    struct stat about;

    (void)in_model_dir("small", directory);
    for (int i = codec == PLD_CKPT_ZSTD; i < 4; i += 1 + SLOW) {
        if (mkdir(directory, 0777) != 0 || mount("none", directory, "tmpfs", 0, sizes[i]) != 0) {
            ok(1, "full disk # SKIP cannot mount a tmpfs");
            return;
        }
        fflush(stdout);
        ok(fill_disk(directory, codec), "a full disk, %s", sizes[i]);
        ok(stat(in_model_dir("stderr", path), &about) == 0 && about.st_size == 0,
           "nothing is printed");
        ok(entries_in(directory, "step-") == 0 && entries_in(directory, ".part-") == 0,
           "no remains");
        ok(umount(directory) == 0 && rmdir(directory) == 0, "nor open files");
    }
}

int main(void)
{
    if (!make_model_dir())
        return 1;
    model_rows[0] = SLOW ? 101 : 501;
    model_rows[1] = 67;
    test_mismatch();
    test_refused();
    for (int codec = 0; codec < 2; codec++) {
        if (codec == PLD_CKPT_RAW || !SLOW)
            test_damage((pld_ckpt_codec)codec);
        if (codec == PLD_CKPT_ZSTD || !SLOW)
            test_verify((pld_ckpt_codec)codec);
        test_errors((pld_ckpt_codec)codec);
        test_full_disk((pld_ckpt_codec)codec);
    }
    test_pipe();
    test_kill();
    test_lock();
    test_two_jobs();
    ok(pldi_ckpt_sync("/proc") == 0, "a directory that cannot be flushed needs no flush");
    ok(pldi_ckpt_sync("/proc/version") == PLD_ERR_IO, "a file is no directory");
    ok(inproc_run(2, do_nowhere, NULL) == 0, "directories that cannot be");
    model_remove(model_dir);
    return tap_done();
}
