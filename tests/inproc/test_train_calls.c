/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a step on a GPU asks of the driver: nothing that waits for the device or may do so.
 * And what becomes of a job in which memory or the device fails: all ranks get one code, and
 * nobody hangs.  On the stand-ins alone: they count, and fail when they are told to.
 */

#include <sys/wait.h>
#include <unistd.h>

#include "inproc/train.h"
#include "tap.h"

/* Of the driver. */
static unsigned long (*calls_of)(const char *);
static unsigned long (*live)(const char *);

static const char *const waiting[] = {"cuStreamSynchronize",
                                      "cuEventSynchronize",
                                      "cuCtxSynchronize",
                                      "cuMemAlloc_v2",
                                      "cuMemFree_v2",
                                      "cuMemHostAlloc",
                                      "cuMemFreeHost",
                                      "cuEventDestroy_v2",
                                      "cuStreamDestroy_v2",
                                      "cuMemHostRegister_v2",
                                      "cuStreamCreateWithPriority"};
enum { WAITING = sizeof(waiting) / sizeof(waiting[0]), WARM = 3, COUNTED = 4 };

static int count(struct train_rank *r, unsigned long *out)
{
    TRAIN_TRY(pld_barrier(pld_runtime_world(r->rt), NULL));
    for (int i = 0; i < WAITING; i++)
        out[i] = calls_of(waiting[i]);
    return pld_barrier(pld_runtime_world(r->rt), NULL);
}

static int steady(pld_runtime *rt, void *context)
{
    struct train *t = context;
    unsigned long before[WAITING], after[WAITING];
    struct train_rank r;

    CHECK(rt, train_begin(rt, t, &r) == 0);
    for (int step = 0; step < WARM; step++)
        CHECK(rt, train_step(&r, step) == 0);
    CHECK(rt, count(&r, before) == 0);
    for (int step = 0; step < COUNTED; step++)
        CHECK(rt, train_step(&r, step) == 0);
    CHECK(rt, count(&r, after) == 0);
    for (int i = 0; i < WAITING; i++)
        if (after[i] != before[i]) {
            printf("# %d steps of %d ranks: %lu calls of %s\n", (int)COUNTED, t->ranks,
                   after[i] - before[i], waiting[i]);
            return -1;
        }
    CHECK(rt, pld_optim_steps(r.optim) == WARM + COUNTED);
    train_close(&r);
    return 0;
}

/* Sets up and makes a few steps; what came of it is in t->code and t->text. */
static int whatever(pld_runtime *rt, void *context)
{
    struct train *t = context;
    const int me = pld_runtime_rank(rt);
    struct train_rank r;
    int rc = train_begin(rt, t, &r);

    for (int step = 0; step < 3 && rc == 0; step++)
        rc = train_step(&r, step);
    /* Steps only put work into streams: what failed there is known when it was waited for. */
    if (rc == 0 && pld_optim_steps(r.optim) >= 0)
        rc = train_step(&r, 3);
    t->code[me] = rc;
    (void)snprintf(t->text[me], sizeof(t->text[me]), "%s", rc < 0 ? pld_last_error() : "");
    train_close(&r);
    return 0;
}

static int run(int (*body)(pld_runtime *, void *), struct train *t)
{
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .timeout = 8, .device = "cuda"};

    t->on_device = 1;
    return inproc_run_with(t->ranks, body, t, &opts);
}

static void test_steady(void)
{
    static struct train two = {
        .mesh = "dp=2", .ranks = 2, .microbatches = 2, .own_stream = 1, .side = 1};
    static struct train four = {
        .mesh = "dp=2,pp=2", .ranks = 4, .microbatches = 4, .own_stream = 1};
    static struct train scaled = {.mesh = "dp=2",
                                  .ranks = 2,
                                  .microbatches = 2,
                                  .own_stream = 1,
                                  .scaling = PLD_SCALING_DYNAMIC,
                                  .blind = 1};

    ok(run(steady, &two) == 0, "dp=2: steps neither wait nor allocate");
    ok(run(steady, &four) == 0, "dp=2 x pp=2: steps neither wait nor allocate");
    ok(run(steady, &scaled) == 0, "dp=2, scaled: steps neither wait nor allocate");
}

/* In a process of its own, for a device that is lost stays so.  Status: see below. */
enum { CAME_THROUGH, FAILED, DIFFERED };

static int in_child(const char *fault, const struct train *how, int code)
{
    struct train *t = calloc(1, sizeof(*t));
    int status = CAME_THROUGH;
    int rc;

    (void)alarm(30);
    if (t == NULL || setenv("FAKE_CUDA_FAULT", fault, 1) != 0)
        return DIFFERED;
    *t = *how;
    rc = run(whatever, t);
    for (int r = 0; r < t->ranks; r++) {
        status = t->code[r] < 0 && status == CAME_THROUGH ? FAILED : status;
        if ((t->code[r] < 0) != (t->code[0] < 0) || t->code[r] == PLD_ERR_TIMEOUT ||
            (t->code[r] < 0 && code != PLD_ERR_DEVICE && t->code[r] != code))
            status = DIFFERED;
    }
    if (rc < 0 && status == CAME_THROUGH) /* not even opened */
        status = rc == code ? FAILED : DIFFERED;
    for (int r = 0; r < t->ranks && status == DIFFERED; r++)
        printf("# %s: rank %d: %s %s\n", fault, r, pld_error_name(t->code[r]), t->text[r]);
    (void)fflush(stdout);
    return status;
}

/* Fault n of a kind, for n = 1, 2, ... until a run does not come to it, or long enough. */
static void test_each(const char *kind, int most, const struct train *how, int code)
{
    int failures = 0;
    int bad = 0;
    int status = FAILED << 8;

    for (int n = 1; n <= most && WIFEXITED(status) && WEXITSTATUS(status) != CAME_THROUGH; n++) {
        char fault[64];
        pid_t child;

        (void)snprintf(fault, sizeof(fault), "%s:%d", kind, n);
        (void)fflush(stdout);
        child = fork();
        if (child == 0)
            _exit(in_child(fault, how, code));
        bad += child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) ||
               WEXITSTATUS(status) == DIFFERED;
        failures += WIFEXITED(status) && WEXITSTATUS(status) == FAILED;
        if (!WIFEXITED(status))
            printf("# %s: ended by signal %d\n", fault, WTERMSIG(status));
    }
    ok(bad == 0 && failures > 1, "%s on %s: %s fails in %d places in turn, all ranks end",
       pld_error_name(code), how->mesh, kind, failures);
}

int main(void)
{
    static const struct train two = {
        .mesh = "dp=2", .ranks = 2, .microbatches = 2, .own_stream = 1};
    static const struct train pipe = {
        .mesh = "pp=2", .ranks = 2, .microbatches = 3, .own_stream = 1};
    static struct train first = {.mesh = "dp=1", .ranks = 1, .microbatches = 1};

    (void)setenv("FAKE_CUDA_DEVICES", "4", 0);
    /* Memory that NCCL has not is asked of the driver: one failure ends nothing there. */
    (void)setenv("POLDER_NCCL_REGISTER", "0", 1);
    test_each("alloc", 60, &two, PLD_ERR_DEVMEM);
    test_each("alloc", 60, &pipe, PLD_ERR_DEVMEM);
    test_each("pinned", 60, &two, PLD_ERR_NOMEM);
    test_each("event", 12, &two, PLD_ERR_DEVMEM);
    test_each("record", 8, &pipe, PLD_ERR_DEVICE); /* the first messages, of pld_pipe_create() */
    /* A rank whose device is lost says so; what that ends is PLD_ERR_PEER for others. */
    test_each("launch", 6, &two, PLD_ERR_DEVICE);
    test_each("launch", 6, &pipe, PLD_ERR_DEVICE);
    (void)unsetenv("POLDER_NCCL_REGISTER");
    ok(run(whatever, &first) == 0 && first.code[0] == 0, "the driver is loaded");
    if (!ok(train_fake("fake_cuda_calls", &calls_of) && train_fake("fake_cuda_live", &live),
            "it is the stand-in"))
        return tap_done();
    test_steady();
    ok(live("device bytes") == 0 && live("pinned bytes") == 0 && live("streams") == 0 &&
           live("events") == 0,
       "everything was given back: %lu, %lu bytes, %lu streams, %lu events", live("device bytes"),
       live("pinned bytes"), live("streams"), live("events"));
    return tap_done();
}
