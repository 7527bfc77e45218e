/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What goes wrong with GPUs and NCCL: one code on all ranks, one sentence, no hang, and
 * what all ranks got alike leaves the group usable.
 */

#include "device_support.h"
#include "tap.h"

#include <stdatomic.h>

enum { COUNT = 1000 };

/* What a case wants, and what the ranks got. */
struct job {
    const char *cuda, *nccl; /* faults, from when all have joined */
    int request;             /* wait by request; else in the stream */
    int ops;
    double timeout; /* seconds, from then on */
    _Atomic int codes[DEVICE_RANKS];
    char text[DEVICE_RANKS][1024];
    char note[1024];
    char report[4096];
    int sums_right;
    int fails_after; /* a later operation fails with the same code */
};

struct place {
    pld_device *device;
    pld_stream stream;
    float *host;
    void *data;
    char text[1024]; /* of the last failure */
};

static int open_place(pld_runtime *rt, struct place *p)
{
    p->device = pld_runtime_device(rt);
    CHECK(rt, pld_stream_create(p->device, 0, &p->stream) == 0);
    CHECK(rt, pld_device_alloc(p->device, COUNT * 4, PLD_MEM_PINNED, (void **)&p->host) == 0);
    CHECK(rt, pld_device_alloc(p->device, COUNT * 4, PLD_MEM_DEVICE, &p->data) == 0);
    return 0;
}

static void close_place(struct place *p)
{
    pld_device_free(p->device, p->host);
    pld_device_free(p->device, p->data);
    pld_stream_destroy(p->device, &p->stream);
}

/* One allreduce of ones; 0 and *right, or its code. */
static int reduce(pld_group *g, struct place *p, int request, int *right)
{
    pld_request *r = NULL;
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .stream = p->stream,
                                .request = request ? &r : NULL};
    int rc;

    for (int i = 0; i < COUNT; i++)
        p->host[i] = 1;
    rc = pld_device_copy(p->device, p->data, p->host, COUNT * 4, p->stream);
    if (rc == 0)
        rc = pld_allreduce(g, p->data, p->data, COUNT, PLD_F32, PLD_SUM, &opts);
    if (rc == 0)
        rc = pld_request_wait(&r);
    if (rc == 0)
        rc = pld_device_copy(p->device, p->host, p->data, COUNT * 4, p->stream);
    if (rc < 0) {
        char text[1024];

        (void)snprintf(text, sizeof(text), "%s", pld_last_error());
        (void)pld_stream_wait(p->device, p->stream); /* the host's copy is read by it */
        (void)snprintf(p->text, sizeof(p->text), "%s", text);
        return rc;
    }
    rc = pld_stream_wait(p->device, p->stream);
    *right = p->host[0] == (float)pld_group_size(g) && p->host[COUNT - 1] == p->host[0];
    return rc;
}

/* All ranks set out, and take the time that they take; from here on things go wrong. */
static int begin(pld_runtime *rt, const struct job *job)
{
    device_rank(pld_runtime_rank(rt));
    CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
    if (pld_runtime_rank(rt) == 0)
        device_faults(job->cuda != NULL ? job->cuda : "", job->nccl != NULL ? job->nccl : "");
    CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
    CHECK(rt, pld_runtime_set_timeout(rt, job->timeout) == 0);
    return 0;
}

static int body_ops(pld_runtime *rt, void *context)
{
    const int rank = pld_runtime_rank(rt);
    pld_group *g = pld_runtime_world(rt);
    struct job *job = context;
    struct place p;
    int right = 1;
    int rc = 0;

    CHECK(rt, open_place(rt, &p) == 0);
    CHECK(rt, begin(rt, job) == 0);
    /* What a communicator that is aborted leaves is wrong, and the next call says so. */
    for (int i = 0; i < job->ops && rc == 0; i++)
        rc = reduce(g, &p, job->request, &right);
    job->codes[rank] = rc;
    if (rc < 0)
        (void)snprintf(job->text[rank], sizeof(job->text[rank]), "%s", p.text);
    else
        job->text[rank][0] = '\0';
    if (rank == 0) {
        job->sums_right = right;
        job->fails_after =
            rc < 0 && pld_barrier(g, NULL) < 0 && reduce(g, &p, job->request, &right) == rc;
        (void)snprintf(job->note, sizeof(job->note), "%s", pld_runtime_device_note(rt));
        (void)snprintf(job->report, sizeof(job->report), "%s", pld_runtime_report(rt));
    }
    close_place(&p);
    return 0;
}

static int run(struct job *job, int ranks, const char *path, double timeout)
{
    int rc;

    job->timeout = timeout;
    rc = device_run(ranks, path, 60, body_ops, job);
    device_faults("", "");
    return rc;
}

/* Every rank got one of the codes; b may equal a. */
static int all_are(const struct job *job, int ranks, int a, int b)
{
    int same = 1;

    for (int r = 0; r < ranks; r++) {
        same &= job->codes[r] == a || job->codes[r] == b;
        if (job->codes[r] != a && job->codes[r] != b)
            printf("# rank %d: %s: %s\n", r, pld_error_name(job->codes[r]), job->text[r]);
    }
    return same;
}

static int has(const char *text, const char *part)
{
    if (strstr(text, part) != NULL)
        return 1;
    printf("# no \"%s\" in: %s\n", part, text);
    return 0;
}

/* ---- NCCL ---- */

static void test_progress(void)
{
    struct job job = {.nccl = "progress:5", .request = 1, .ops = 5};

    ok(run(&job, 3, "nccl", 60) == 0 && all_are(&job, 3, 0, 0) && job.sums_right,
       "calls that are in progress for a while are waited for");
    job.request = 0;
    ok(run(&job, 3, "nccl", 60) == 0 && all_are(&job, 3, 0, 0) && job.sums_right,
       "also before anything follows in the caller's stream");
}

static void test_errors(void)
{
    for (int request = 0; request < 2; request++) {
        struct job job = {.nccl = "async:2@1", .request = request, .ops = 100};
        int nccl = 0;

        ok(run(&job, 3, "nccl", 20) == 0 && all_are(&job, 3, PLD_ERR_PEER, PLD_ERR_TRANSPORT) &&
               job.fails_after,
           "an error of NCCL on one rank ends the group on all (%s)",
           request ? "request" : "stream");
        for (int r = 0; r < 3; r++)
            nccl |= strstr(job.text[r], "NCCL 2.") != NULL;
        ok(nccl, "with NCCL's sentence");
        job = (struct job){.nccl = "enqueue:3:3@0", .request = request, .ops = 100};
        ok(run(&job, 3, "nccl", 20) == 0 && all_are(&job, 3, PLD_ERR_PEER, PLD_ERR_TRANSPORT),
           "a call that fails on one rank does");
    }
}

static void test_hang(void)
{
    for (int request = 0; request < 2; request++) {
        struct job job = {.nccl = "hang:2", .request = request, .ops = 5};

        ok(run(&job, 3, "nccl", 1) == 0 && all_are(&job, 3, PLD_ERR_TIMEOUT, PLD_ERR_TIMEOUT) &&
               has(job.report, "allreduce #") && has(job.report, "test_coll_device_faults.c:"),
           "an operation that never ends is reported and aborted (%s)",
           request ? "request" : "stream");
    }
    ok(device_live_comms() == 0, "no communicator is left");
}

static void test_connect(void)
{
    struct job job = {.nccl = "init_hang", .ops = 1};

    ok(run(&job, 3, "nccl", 1) == 0 && all_are(&job, 3, PLD_ERR_TIMEOUT, PLD_ERR_TIMEOUT) &&
           has(job.report, "connect"),
       "a communicator that is never made is reported");
    job = (struct job){.nccl = "init_hang@1", .ops = 1};
    ok(run(&job, 3, "nccl", 1) == 0 && all_are(&job, 3, PLD_ERR_TIMEOUT, PLD_ERR_TIMEOUT),
       "also on one rank");
    job = (struct job){.nccl = "init_error:3@1", .ops = 1};
    ok(run(&job, 3, "nccl", 20) == 0 && all_are(&job, 3, PLD_ERR_TRANSPORT, PLD_ERR_TRANSPORT) &&
           has(job.text[0], "rank 1: NCCL 2."),
       "one that fails on one rank fails on all: %s", job.text[0]);
    job = (struct job){.nccl = "id_error", .ops = 1};
    ok(run(&job, 3, "nccl", 20) == 0 && all_are(&job, 3, PLD_ERR_TRANSPORT, PLD_ERR_TRANSPORT) &&
           has(job.text[2], "rank 0: NCCL 2."),
       "so does an id that rank 0 cannot make");
    job = (struct job){.nccl = "init_error:5@2", .ops = 2};
    ok(run(&job, 3, NULL, 20) == 0 && all_are(&job, 3, 0, 0) && job.sums_right &&
           has(job.note, "NCCL 2."),
       "where NCCL refuses the GPUs, pinned memory carries: %s", job.note);
    ok(run(&job, 3, "nccl", 20) == 0 && all_are(&job, 3, PLD_ERR_UNSUPPORTED, PLD_ERR_UNSUPPORTED),
       "unless NCCL is asked for");
    ok(device_live_comms() == 0, "no communicator is left");
}

static void choose(const char *path, const char *version, const char *shared, const char *note)
{
    struct job job = {.ops = 2, .request = 1};
    int rc;

    (void)setenv("FAKE_NCCL_VERSION", version, 1);
    (void)setenv("POLDER_SHARED_GPU", shared, 1);
    rc = run(&job, 2, path, 20);
    ok(rc == 0 && all_are(&job, 2, 0, 0) && job.sums_right && has(job.note, note) &&
           (note[0] != '\0' || job.note[0] == '\0'),
       "NCCL %s, a shared GPU by \"%s\": %s", version, shared, note[0] != '\0' ? job.note : "NCCL");
}

static void test_choice(void)
{
    struct job job = {.ops = 2};

    choose(NULL, "22809", "", "");
    choose("staged", "22809", "", "POLDER_DEVICE_PATH is staged");
    choose(NULL, "21805", "", "NCCL 2.18 was found, need 2.20");
    (void)setenv("FAKE_NCCL_VERSION", "21805", 1);
    ok(device_run(2, "nccl", 20, body_ops, &job) == PLD_ERR_UNSUPPORTED,
       "NCCL cannot be forced where it is too old");
    ok(device_run(2, "sideways", 20, body_ops, &job) == PLD_ERR_ARG, "nor a way that is none");
}

/* Of a process in which all ranks have one GPU. */
static void test_shared(void)
{
    struct job job = {.ops = 5, .request = 1};

    choose(NULL, "22809", "", "rank 0 shares its GPU with 1 others");
    choose(NULL, "23003", "", "rank 0 shares its GPU with 1 others");
    /* Threads are one host whatever it is called. */
    choose(NULL, "22809", "nccl", "uplicate GPU");
    choose(NULL, "23003", "nccl", "");
    (void)setenv("POLDER_SHARED_GPU", "staged", 1);
    ok(run(&job, 4, NULL, 20) == 0 && all_are(&job, 4, 0, 0) && job.sums_right,
       "four ranks share a GPU");
    ok(device_run(2, "nccl", 20, body_ops, &job) == PLD_ERR_UNSUPPORTED,
       "NCCL cannot be forced on a shared GPU");
}

/* ---- Memory ---- */

struct hunt {
    const char *what;
    int n, ranks;
    int worst, alike, usable;
};

static int body_hunt(pld_runtime *rt, void *context)
{
    pld_group *g = pld_runtime_world(rt);
    struct hunt *hunt = context;
    char fault[64];
    const struct job job = {.cuda = fault, .timeout = 20};
    struct place p;
    int32_t codes[2];
    int right = 0;
    int rc;

    (void)snprintf(fault, sizeof(fault), "%s:%d", hunt->what, hunt->n);
    CHECK(rt, open_place(rt, &p) == 0);
    CHECK(rt, begin(rt, &job) == 0);
    rc = pld_allreduce(g, p.data, p.data, COUNT, PLD_BF16, PLD_SUM,
                       &(pld_coll_opts){PLD_OPTS(pld_coll_opts), .stream = p.stream});
    codes[0] = rc;
    codes[1] = -rc;
    CHECK(rt, pld_allreduce(g, codes, codes, 2, PLD_I32, PLD_MAX, NULL) == 0);
    if (pld_runtime_rank(rt) == 0) {
        device_faults("", "");
        hunt->worst = rc;
        hunt->alike = codes[0] == -codes[1];
    }
    CHECK(rt, pld_barrier(g, NULL) == 0);
    rc = reduce(g, &p, 1, &right);
    if (pld_runtime_rank(rt) == 0)
        hunt->usable = rc == 0 && right;
    CHECK(rt, rc == 0);
    close_place(&p);
    return 0;
}

/* The n-th allocation of a kind fails, for all n until none does. */
static void hunt(const char *path, const char *what, int least)
{
    struct hunt h = {.what = what, .n = 0, .worst = -1};
    int bad = 0;
    int failed = 0;

    while (h.worst != 0 && !bad && h.n < 400) {
        h.n += 1 + h.n / 8; /* each of the first, then some */
        h.worst = h.alike = h.usable = 0;
        bad = device_run(2, path, 20, body_hunt, &h) != 0 || !h.alike || !h.usable ||
              (h.worst != 0 && h.worst != PLD_ERR_DEVMEM && h.worst != PLD_ERR_NOMEM);
        failed += h.worst != 0;
        if (bad)
            printf("# %s: %s:%d: %s, alike %d, usable %d\n", path, what, h.n,
                   pld_error_name(h.worst), h.alike, h.usable);
    }
    device_faults("", "");
    ok(!bad && failed >= least, "%s: no memory for the n-th %s: all ranks are told, and go on (%d)",
       path, what, failed);
}

/* ---- Counts ---- */

static const char *const costly[] = {
    "cuMemAlloc_v2", "cuMemHostAlloc",      "cuMemHostRegister_v2",      "cuMemFree_v2",
    "cuMemFreeHost", "cuStreamSynchronize", "cuEventSynchronize",        "cuCtxSynchronize",
    "cuEventCreate", "cuEventDestroy_v2",   "cuStreamCreateWithPriority"};
enum { COSTLY = sizeof(costly) / sizeof(costly[0]), STEADY = 10 };

static int steady(pld_runtime *rt, struct place *p, int request, pld_dtype dtype)
{
    pld_group *g = pld_runtime_world(rt);
    pld_request *r = NULL;
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .stream = p->stream,
                                .request = request ? &r : NULL};

    for (int i = 0; i < STEADY; i++) {
        CHECK(rt, pld_allreduce(g, p->data, p->data, COUNT / 2, dtype, PLD_SUM, &opts) == 0);
        CHECK(rt, request == 2 ? pld_request_wait(&r) == 0 : pld_request_after(&r, p->stream) == 0);
    }
    /* As a step ends with the wait for its loss. */
    CHECK(rt, pld_allreduce(g, p->data, p->data, 1, dtype, PLD_SUM,
                            &(pld_coll_opts){PLD_OPTS(pld_coll_opts), .stream = p->stream,
                                             .request = &r}) == 0);
    CHECK(rt, pld_request_wait(&r) == 0);
    return 0;
}

static int body_counts(pld_runtime *rt, void *context)
{
    static unsigned long before[COSTLY];
    pld_group *g = pld_runtime_world(rt);
    struct place p;

    (void)context;
    CHECK(rt, open_place(rt, &p) == 0);
    for (int turn = 0; turn < 2; turn++) {
        for (int request = 0; request < 3; request++) {
            CHECK(rt, steady(rt, &p, request, PLD_F32) == 0);
            CHECK(rt, steady(rt, &p, request, PLD_BF16) == 0);
        }
        CHECK(rt, pld_barrier(g, NULL) == 0);
        for (int i = 0; i < COSTLY && pld_runtime_rank(rt) == 0; i++) {
            const unsigned long now = device_calls(costly[i]);

            if (turn == 1 && now != before[i])
                printf("# %lu calls of %s\n", now - before[i], costly[i]);
            CHECK(rt, turn == 0 || now == before[i]);
            before[i] = now;
        }
        CHECK(rt, pld_barrier(g, NULL) == 0);
    }
    CHECK(rt, pld_stream_wait(p.device, p.stream) == 0);
    close_place(&p);
    return 0;
}

/* ---- Agreement ---- */

struct apart {
    int rounds, failed_at[DEVICE_RANKS], line;
    char text[DEVICE_RANKS][1024];
};

/* In round 5 rank 1 wants the product. */
static int body_apart(pld_runtime *rt, void *context)
{
    const int rank = pld_runtime_rank(rt);
    pld_group *g = pld_runtime_world(rt);
    struct apart *apart = context;
    struct place p;

    CHECK(rt, open_place(rt, &p) == 0);
    apart->failed_at[rank] = -1;
    for (int i = 0; i < apart->rounds && apart->failed_at[rank] < 0; i++) {
        const pld_op op = rank == 1 && i == 5 ? PLD_PROD : PLD_SUM;
        pld_request *r = NULL;
        const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .stream = p.stream, .request = &r};
        int rc = pld_allreduce(g, p.data, p.data, 10, PLD_I32, op, &opts);

        if (rc == 0)
            rc = pld_request_wait(&r);
        if (rc < 0) {
            CHECK(rt, rc == PLD_ERR_MISMATCH || rc == PLD_ERR_PEER);
            apart->failed_at[rank] = i;
            (void)snprintf(apart->text[rank], sizeof(apart->text[rank]), "%s", pld_last_error());
        }
    }
    close_place(&p);
    return 0;
}

static void test_agreement(void)
{
    struct apart a = {.rounds = 2000};
    int rc;

    rc = device_run(2, "nccl", 20, body_apart, &a);
    ok(rc == 0 && a.failed_at[0] > 5 && a.failed_at[1] > 5 &&
           has(a.text[0], "i32[10] sum of world at") && has(a.text[0], "; rank 1: allreduce #") &&
           has(a.text[0], "i32[10] prod of world at") &&
           has(a.text[0], "test_coll_device_faults.c:"),
       "ranks that differ are told soon after (round %d): %s", a.failed_at[0], a.text[0]);
    (void)setenv("POLDER_CHECK", "sync", 1);
    a = (struct apart){.rounds = 10};
    rc = device_run(2, "nccl", 20, body_apart, &a);
    ok(rc == 0 && a.failed_at[0] == 5 && a.failed_at[1] == 5 &&
           has(a.text[1], "are in different operations"),
       "with POLDER_CHECK=sync before data move: %s", a.text[1]);
    (void)unsetenv("POLDER_CHECK");
}

static int body_leave(pld_runtime *rt, void *context)
{
    pld_group *g = pld_runtime_world(rt);
    struct job *job = context;
    struct place p;
    int right = 1;
    int rc = 0;

    CHECK(rt, open_place(rt, &p) == 0);
    for (int i = 0; i < (pld_runtime_rank(rt) == 1 ? 2 : 4) && rc == 0; i++)
        rc = reduce(g, &p, job->request, &right);
    job->codes[pld_runtime_rank(rt)] = rc;
    close_place(&p);
    return 0;
}

static void test_leave(const char *path, int request)
{
    struct job job = {.request = request};

    ok(device_run(3, path, 20, body_leave, &job) == 0 && job.codes[1] == 0 &&
           job.codes[0] == PLD_ERR_PEER && job.codes[2] == PLD_ERR_PEER,
       "%s: a rank that leaves is missed, not waited for (%s)", path,
       request ? "request" : "stream");
}

int main(void)
{
    const char *gpus = getenv("FAKE_CUDA_DEVICES");

    if (gpus != NULL && strcmp(gpus, "1") == 0) {
        test_shared();
        return tap_done();
    }
    test_progress();
    test_errors();
    test_hang();
    test_connect();
    hunt("nccl", "alloc", 2);
    hunt("nccl", "event", 20);
    hunt("nccl", "stream", 2);
    hunt("staged", "register", 2);
    hunt("staged", "event", 5);
    hunt("staged", "stream", 2);
    ok(device_run(2, "nccl", 20, body_counts, NULL) == 0,
       "NCCL: operations neither allocate nor synchronise");
    ok(device_run(2, "staged", 20, body_counts, NULL) == 0,
       "pinned memory: operations neither allocate nor synchronise");
    test_agreement();
    for (int request = 0; request < 2; request++) {
        test_leave("nccl", request);
        test_leave("staged", request);
    }
    test_choice();
    return tap_done();
}
