/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Calls of the system that fail, or are interrupted, one after the other; and calls of the
 * library's made while a save is under way.  The linker puts functions of this file between the
 * library and the system (--wrap).
 */

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "ckpt/ckpt_impl.h"
#include "inproc/ckpt_model.h"
#include "slow.h"
#include "tap.h"

void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_flock(int fd, int operation);
int __wrap_flock(int fd, int operation);
int __real_pldi_ckpt_snapshot_take(struct ckpt_snapshot *snapshot, struct ckpt_share *share);
int __wrap_pldi_ckpt_snapshot_take(struct ckpt_snapshot *snapshot, struct ckpt_share *share);

/* Of this thread: the call in so many that finds no memory; 0: none. */
static _Thread_local long refuse_memory;

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    if (refuse_memory > 0 && --refuse_memory == 0)
        return NULL;
    return __real_aligned_alloc(align, bytes);
}

/* Of files whose path has `in` in it: the open in so many that fails with `error`.  (open64()
 * is what open() is called where offsets have 64 bits.) */
static struct {
    const char *in;
    atomic_int nth;
    int error;
} refuse_open;

int __wrap_open64(const char *path, int flags, ...)
{
    unsigned mode;
    va_list ap;

    va_start(ap, flags);
    mode = (flags & O_CREAT) != 0 ? va_arg(ap, unsigned) : 0;
    va_end(ap);
    if (refuse_open.in != NULL && strstr(path, refuse_open.in) != NULL &&
        atomic_fetch_sub(&refuse_open.nth, 1) == 1) {
        errno = refuse_open.error;
        return -1;
    }
    return __real_open64(path, flags, mode);
}

/* What happens to flushes, and what is seen of those of directories. */
static struct {
    int interrupt; /* every other one */
    int fail;      /* the next of a directory, with EIO */
    atomic_int calls, directories;
} flushes;

int __wrap_fsync(int fd)
{
    struct stat about;

    if (flushes.interrupt && atomic_fetch_add(&flushes.calls, 1) % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    if (fstat(fd, &about) == 0 && S_ISDIR(about.st_mode)) {
        (void)atomic_fetch_add(&flushes.directories, 1);
        if (flushes.fail-- == 1) {
            errno = EIO;
            return -1;
        }
    }
    return __real_fsync(fd);
}

static atomic_int interrupt_flock; /* so many times */

int __wrap_flock(int fd, int operation)
{
    if (atomic_fetch_sub(&interrupt_flock, 1) > 0) {
        errno = EINTR;
        return -1;
    }
    return __real_flock(fd, operation);
}

static int slow_copy;

int __wrap_pldi_ckpt_snapshot_take(struct ckpt_snapshot *snapshot, struct ckpt_share *share)
{
    const struct timespec time = {0, 50000000};

    if (slow_copy)
        (void)nanosleep(&time, NULL);
    return __real_pldi_ckpt_snapshot_take(snapshot, share);
}

static struct {
    int no_exchange;
    int fail_renamed; /* the flush after names have changed */
    int aside;        /* flushes of directories before the old save was moved aside */
    int trash;        /* and before it was removed */
    char run[256];
    atomic_int locked; /* when the data were written */
} seen;

int pldi_ckpt_test_point(const char *point)
{
    int fd;

    if (strcmp(point, "aside") == 0)
        seen.aside = atomic_load(&flushes.directories);
    if (strcmp(point, "trash") == 0)
        seen.trash = atomic_load(&flushes.directories);
    if (strcmp(point, "rename") == 0)
        flushes.fail = seen.fail_renamed;
    if (strcmp(point, "layout") == 0 && seen.run[0] != '\0') {
        fd = open(seen.run, O_RDWR | O_CLOEXEC);
        atomic_store(&seen.locked,
                     fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK);
        (void)close(fd);
    }
    return seen.no_exchange && strcmp(point, "exchange") == 0 ? EINVAL : 0;
}

/* The code, if it is that of all ranks; else 1. */
static int same_code(pld_runtime *rt, int rc)
{
    int64_t codes[2] = {rc, -rc};

    if (pld_allreduce(pld_runtime_world(rt), codes, codes, 2, PLD_I64, PLD_MAX, NULL) != 0)
        return 1;
    return codes[0] == -codes[1] ? rc : 1;
}

struct scene {
    const char *directory;
    pld_ckpt_codec codec;
    int async;
};

/* Each piece of memory is refused in turn to one rank: both fail alike, and can save again. */
static int do_save(pld_runtime *rt, void *context)
{
    const struct scene *c = context;
    const pld_ckpt_opts opts = {PLD_OPTS(pld_ckpt_opts), .codec = c->codec, .async = c->async};
    const int me = pld_runtime_rank(rt);
    int64_t step = -1;
    struct model m;

    CHECK(rt, model_open(rt, "dp=2", c->directory, &opts, &model_same, &m) == 0);
    model_set(&m, 5);
    for (int rank = 0; rank < 2; rank++) {
        int32_t refused = 1;

        for (long n = 1; refused; n += 1 + 6 * SLOW) {
            int rc;

            refuse_memory = me == rank ? n : 0;
            rc = pld_ckpt_save(m.ckpt, 1);
            if (rc == 0)
                rc = pld_ckpt_wait(m.ckpt);
            refused = refuse_memory == 0;
            refuse_memory = 0;
            rc = same_code(rt, rc);
            CHECK(rt, rc == 0 || rc == PLD_ERR_NOMEM);
            CHECK(rt, pld_broadcast(pld_runtime_world(rt), &refused, 1, PLD_I32, rank, NULL) == 0);
        }
        CHECK(rt, pld_ckpt_save(m.ckpt, 1) == 0 && pld_ckpt_wait(m.ckpt) == 0);
        CHECK(rt, pld_ckpt_load(m.ckpt, "latest", &step) == 0 && step == 1);
    }
    model_close(&m);
    return 0;
}

static void test_save(void)
{
    char directory[256];
    struct scene c = {.directory = in_model_dir("save", directory)};

    for (int i = 0; i < 4; i += 1 + 2 * SLOW) {
        c.codec = i % 2 ? PLD_CKPT_ZSTD : PLD_CKPT_RAW;
        c.async = i / 2;
        ok(inproc_run(2, do_save, &c) == 0, "a rank finds no memory for a save: codec %d, async %d",
           (int)c.codec, c.async);
    }
}

/* The newest save, or an error: nobody goes on from an older one unawares. */
static int do_latest(pld_runtime *rt, void *context)
{
    int64_t step = -1;
    struct model m;
    int found = 0;

    CHECK(rt, model_open(rt, "dp=2", context, NULL, &model_same, &m) == 0);
    for (int i = 1; i <= 2; i++) {
        model_set(&m, (uint64_t)i);
        CHECK(rt, pld_ckpt_save(m.ckpt, i) == 0);
    }
    for (long n = 1; n < 100; n += 1 + 6 * SLOW) {
        int rc;

        refuse_memory = pld_runtime_rank(rt) == 0 ? n : 0;
        rc = same_code(rt, pld_ckpt_load(m.ckpt, "latest", &step));
        refuse_memory = 0;
        CHECK(rt, rc == PLD_ERR_NOMEM || (rc == 0 && step == 2));
    }
    for (int n = 1; !found; n++) {
        int rc;

        CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
        atomic_store(&refuse_open.nth, n);
        CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
        rc = same_code(rt, pld_ckpt_load(m.ckpt, "latest", &step));
        found = atomic_load(&refuse_open.nth) > 0;
        CHECK(rt, n > 1 || !found);
        CHECK(rt, found ? rc == 0 && step == 2 : rc == PLD_ERR_IO);
        CHECK(rt, found || strstr(pld_last_error(), strerror(EMFILE)) != NULL);
    }
    CHECK(rt, model_wrong(&m, 2) == 0);
    model_close(&m);
    return 0;
}

/* The run directory is removed under a job that saves to it. */
static int do_gone(pld_runtime *rt, void *context)
{
    struct model m;

    CHECK(rt, model_open(rt, "dp=2", context, NULL, &model_same, &m) == 0);
    if (pld_runtime_rank(rt) == 0)
        model_remove(context);
    CHECK(rt, same_code(rt, pld_ckpt_save(m.ckpt, 1)) == PLD_ERR_IO);
    CHECK(rt, strstr(pld_last_error(), strerror(ENOENT)) != NULL);
    model_close(&m);
    return 0;
}

static int do_open(pld_runtime *rt, void *context)
{
    struct model m;
    const int rc = model_open(rt, "dp=1", context, NULL, &model_same, &m);

    model_close(&m);
    return rc;
}

/* The only save, which a killed job had moved aside, while its manifest cannot be read. */
static void test_aside(void)
{
    char directory[256], path[300], hidden[300];
    struct scene c = {.directory = in_model_dir("aside", directory)};

    refuse_open.in = "step-00000002/manifest";
    refuse_open.error = EMFILE;
    ok(inproc_run(2, do_latest, directory) == 0, "the newest save, or an error");
    (void)snprintf(path, sizeof(path), "%s/step-00000002", c.directory);
    (void)snprintf(hidden, sizeof(hidden), "%s/.old-step-00000002-12345678", c.directory);
    refuse_open.in = hidden;
    for (int error = 0; error < 2; error++) {
        ok(rename(path, hidden) == 0, "a save that was moved aside");
        atomic_store(&refuse_open.nth, error);
        refuse_open.error = EIO;
        (void)inproc_run(1, do_open, directory);
        ok(access(error ? hidden : path, F_OK) == 0,
           error ? "stays if it cannot be read" : "is put back");
    }
    refuse_open.in = NULL;
    ok(inproc_run(1, do_open, directory) == 0 && access(path, F_OK) == 0, "until it can");
    ok(inproc_run(2, do_gone, directory) == 0, "a directory that is gone cannot be saved to");
}

/* Save as step 1. */
static int do_again(pld_runtime *rt, void *context)
{
    const struct scene *c = context;
    struct model m;
    int rc;

    CHECK(rt, model_open(rt, "dp=2", c->directory, NULL, &model_same, &m) == 0);
    model_set(&m, 1);
    CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
    rc = same_code(rt, pld_ckpt_save(m.ckpt, 1));
    model_close(&m);
    return rc;
}

/* A handler without SA_RESTART runs now and then. */
static void test_signals(void)
{
    char directory[256];
    struct scene c = {.directory = in_model_dir("signals", directory)};

    ok(inproc_run(2, do_again, &c) == 0, "a save");
    flushes.interrupt = 1;
    ok(inproc_run(2, do_again, &c) == 0, "a signal during a flush: %s", pld_last_error());
    flushes.interrupt = 0;
    (void)snprintf(seen.run, sizeof(seen.run), "%s/.lock", c.directory);
    atomic_store(&interrupt_flock, 2); /* that of open, and that of save */
    ok(inproc_run(2, do_again, &c) == 0 && atomic_load(&seen.locked),
       "and one while the lock is waited for");
    seen.run[0] = '\0';
}

/* The old save is removed when the new one's name has been flushed, not before. */
static void test_order(int no_exchange)
{
    char directory[256];
    struct scene c = {.directory = in_model_dir(no_exchange ? "aside-order" : "order", directory)};

    ok(inproc_run(2, do_again, &c) == 0, "a save");
    seen.no_exchange = no_exchange;
    seen.aside = seen.trash = 0;
    ok(inproc_run(2, do_again, &c) == 0, "is replaced");
    ok(!no_exchange || seen.trash > seen.aside, "and removed after a flush");
    seen.fail_renamed = 1;
    seen.trash = 0;
    ok(inproc_run(2, do_again, &c) == PLD_ERR_IO, "a flush that fails is told");
    ok(seen.trash == 0, "and nothing is removed");
    seen.fail_renamed = seen.no_exchange = 0;
}

/* A tensor and an optimizer that has made a step. */
struct trained {
    pld_mesh *mesh;
    pld_params *params;
    pld_optim *optim;
    pld_ckpt *ckpts[2];
};

static int trained_open(pld_runtime *rt, struct trained *t, const char *directory)
{
    const pld_param w = {PLD_OPTS(pld_param), .name = "w", .ndim = 1, .shape = {1000}};
    const pld_ckpt_opts opts = {PLD_OPTS(pld_ckpt_opts), .async = 1};

    *t = (struct trained){0};
    CHECK(rt, pld_mesh_create(rt, "dp=2", &t->mesh) == 0);
    CHECK(rt, pld_params_create(t->mesh, &t->params) == 0);
    CHECK(rt, pld_params_add(t->params, &w, NULL) == 0 && pld_params_commit(t->params) == 0);
    CHECK(rt, pld_optim_create(t->params, NULL, &t->optim) == 0);
    for (int i = 0; i < 1000; i++)
        ((float *)pld_params_grad(t->params, 0))[i] = 2;
    CHECK(rt, pld_optim_step(t->optim, 0.5, NULL) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(rt, pld_ckpt_open(t->mesh, directory, &opts, &t->ckpts[i]) == 0 &&
                      pld_ckpt_add_params(t->ckpts[i], t->params) == 0);
    return 0;
}

static void trained_close(struct trained *t)
{
    for (int i = 0; i < 2; i++)
        pld_ckpt_destroy(&t->ckpts[i]);
    pld_optim_destroy(&t->optim);
    pld_params_destroy(&t->params);
    pld_mesh_destroy(&t->mesh);
}

/* The optimizer goes while its state is saved, and is there again from what was saved. */
static int do_destroy(pld_runtime *rt, void *context)
{
    struct trained t;
    float first, value;

    CHECK(rt, trained_open(rt, &t, context) == 0);
    value = *(float *)pld_params_value(t.params, 0);
    first = *(float *)pldi_params_slot(t.params, 0, 0)->value;
    CHECK(rt, pld_ckpt_save(t.ckpts[0], 1) == 0);
    pld_optim_destroy(&t.optim);
    CHECK(rt, pld_ckpt_wait(t.ckpts[0]) == 0);
    CHECK(rt, pld_optim_create(t.params, NULL, &t.optim) == 0);
    *(float *)pld_params_value(t.params, 0) = 0;
    CHECK(rt, pld_ckpt_load(t.ckpts[0], "latest", NULL) == 0);
    CHECK(rt, *(float *)pld_params_value(t.params, 0) == value && value != 0);
    CHECK(rt, *(float *)pldi_params_slot(t.params, 0, 0)->value == first && first != 0);
    CHECK(rt, pld_optim_steps(t.optim) == 1);
    trained_close(&t);
    return 0;
}

/* What one pld_ckpt is copying another one loads over. */
static int do_load_over(pld_runtime *rt, void *context)
{
    struct trained t;
    char path[300];
    float *value;

    CHECK(rt, trained_open(rt, &t, context) == 0);
    value = pld_params_value(t.params, 0);
    for (int step = 5; step < 7; step++) {
        value[0] = value[999] = (float)step;
        CHECK(rt, pld_ckpt_save(t.ckpts[step - 5], step) == 0);
        CHECK(rt, step == 6 || pld_ckpt_wait(t.ckpts[0]) == 0);
    }
    (void)snprintf(path, sizeof(path), "%s/step-00000005", (const char *)context);
    CHECK(rt, pld_ckpt_load(t.ckpts[0], path, NULL) == 0 && value[0] == 5 && value[999] == 5);
    CHECK(rt, pld_ckpt_wait(t.ckpts[1]) == 0);
    CHECK(rt, pld_ckpt_load(t.ckpts[1], "latest", NULL) == 0 && value[0] == 6 && value[999] == 6);
    trained_close(&t);
    return 0;
}

int main(void)
{
    char directory[256];

    if (!make_model_dir())
        return 1;
    model_rows[0] = 41;
    model_rows[1] = 13;
    test_save();
    test_aside();
    test_signals();
    test_order(0);
    test_order(1);
    slow_copy = 1;
    ok(inproc_run(2, do_destroy, (void *)(uintptr_t)in_model_dir("destroy", directory)) == 0,
       "an optimizer is destroyed while its state is copied");
    ok(inproc_run(2, do_load_over, (void *)(uintptr_t)in_model_dir("over", directory)) == 0,
       "a load waits until what it loads over has been copied");
    model_remove(model_dir);
    return tap_done();
}
