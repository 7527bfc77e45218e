/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The recorder and the deadline, with ranks as threads: what is recorded and where it
 * is said to be, what a report says, and that nobody is accused wrongly.
 */

#include "inproc.h"
#include "tap.h"

#include <polder/trace.h>

#include <dirent.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RING = 4096, COUNT = 10, SLACK_NS = 1000000 };

static char folder[64];

/* What hooks saw. */
struct seen {
    char report[4096];
    int64_t before, after; /* ns, around the first call of rank 1 */
    _Atomic int reports, gave_up;
    int ranks, line, other_line;
};

static void on_report(const char *text, void *context)
{
    struct seen *seen = context;

    (void)snprintf(seen->report, sizeof(seen->report), "%s", text);
    seen->reports++;
}

static void on_give_up(int code, void *context)
{
    struct seen *seen = context;

    seen->gave_up += code == PLD_ERR_TIMEOUT;
}

static int has(const char *text, const char *part)
{
    if (strstr(text, part) != NULL)
        return 1;
    printf("# no \"%s\" in: %s\n", part, text);
    return 0;
}

static int at(const char *text, int line)
{
    char place[64];

    (void)snprintf(place, sizeof(place), "test_health.c:%d", line);
    return has(text, place);
}

static pld_trace *open_trace(int rank)
{
    pld_trace *trace = NULL;
    char path[128];

    (void)snprintf(path, sizeof(path), "%s/rank-%05d.trace", folder, rank);
    if (pld_trace_open(path, &trace) != 0)
        printf("# %s\n", pld_last_error());
    return trace;
}

/* The newest record of that kind; its kind is "" if there is none. */
static pld_trace_record newest(const pld_trace *trace, const char *kind)
{
    pld_trace_record record, found = {.kind = ""};

    for (size_t i = 0; trace != NULL && i < pld_trace_count(trace); i++) {
        if (pld_trace_get(trace, i, &record) == 0 && strcmp(record.kind, kind) == 0)
            found = record;
    }
    return found;
}

/* ---- Records ---- */

static int64_t clock_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int body_records(pld_runtime *rt, void *context)
{
    const pld_coll_opts tagged = {PLD_OPTS(pld_coll_opts), .tag = "bucket 3"};
    int (*call)(pld_group *, const pld_coll_opts *) = pld_barrier;
    pld_group *world = pld_runtime_world(rt);
    struct seen *seen = context;
    pld_mesh *mesh = NULL;
    float x[COUNT] = {0};

    if (pld_group_rank(world) == 1)
        seen->before = clock_ns();
    if (pld_group_rank(world) == 0)
        seen->line = __LINE__ + 1;
    CHECK(rt, pld_allreduce(world, x, x, COUNT, PLD_F32, PLD_MAX, &tagged) == 0);
    if (pld_group_rank(world) == 1)
        seen->after = clock_ns();
    CHECK(rt, pld_broadcast(world, x, COUNT, PLD_F32, 1, NULL) == 0);
    if (pld_group_rank(world) == 0)
        CHECK(rt, pld_send(world, x, COUNT, PLD_F32, 1, 5, NULL) == 0);
    if (pld_group_rank(world) == 1)
        CHECK(rt, pld_recv(world, x, COUNT, PLD_F32, 0, 5, NULL) == 0);
    CHECK(rt, call(world, NULL) == 0);
    if (pld_group_rank(world) == 0)
        seen->other_line = __LINE__ + 1;
    CHECK(rt, pld_mesh_create(rt, "dp=2", &mesh) == 0);
    CHECK(rt, pld_allgather(pld_mesh_group(mesh, PLD_AXIS_DP), x, x, 0, PLD_F32, NULL) == 0);
    pld_mesh_destroy(&mesh);
    return 0;
}

static void test_records(void)
{
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .trace_dir = folder};
    struct seen seen = {0};
    pld_trace_record r;
    pld_trace_info info;
    pld_trace *trace;

    ok(inproc_run_with(2, body_records, &seen, &opts) == 0, "two ranks record");
    trace = open_trace(1);
    ok(trace != NULL, "the file of rank 1");
    if (trace == NULL)
        return;
    pld_trace_get_info(trace, &info);
    ok(info.rank == 1 && info.size == 2 && info.pid == getpid() && info.left > 0, "its head");
    r = newest(trace, "allreduce");
    /* The mesh agrees on its sizes by reductions that come later. */
    for (size_t i = 0; i < pld_trace_count(trace); i++) {
        if (pld_trace_get(trace, i, &r) == 0 && strcmp(r.name, "bucket 3") == 0)
            break;
    }
    ok(strcmp(r.dtype, "f32") == 0 && strcmp(r.reduce, "max") == 0 && r.count == COUNT &&
           strcmp(r.group_name, "world") == 0 && r.group_size == 2 && r.code == 0,
       "what an allreduce was: %s[%d] %s of %s", r.dtype, (int)r.count, r.reduce, r.group_name);
    ok(at(r.site, seen.line), "and where: %s", r.site);
    ok(r.called > 0 && r.called <= r.started && r.started <= r.ended, "and when");
    ok(r.called > seen.before - SLACK_NS && r.ended < seen.after + SLACK_NS,
       "by the clock: %+lld and %+lld ns", (long long)(r.called - seen.before),
       (long long)(r.ended - seen.after));
    r = newest(trace, "broadcast");
    ok(r.root == 1 && r.peer == -1, "a root");
    r = newest(trace, "recv");
    ok(r.peer == 0 && r.tag == 5 && r.root == -1, "a message's other end, and its tag");
    r = newest(trace, "barrier");
    ok(has(r.site, "+0x"), "a call through a pointer has an address: %s", r.site);
    r = newest(trace, "agree");
    ok(at(r.site, seen.other_line), "what the library calls is the caller's: %s", r.site);
    r = newest(trace, "allgather");
    ok(strcmp(r.group_name, "dp") == 0, "an axis has its name: %s", r.group_name);
    pld_trace_destroy(&trace);
}

/* A receive stays under way while the ring goes round. */
static int body_wrap(pld_runtime *rt, void *context)
{
    pld_request *request = NULL;
    const pld_coll_opts later = {PLD_OPTS(pld_coll_opts), .request = &request};
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_group_rank(world);
    float x[COUNT] = {0};

    (void)context;
    if (rank == 0)
        CHECK(rt, pld_recv(world, x, COUNT, PLD_F32, 1, 6, &later) == 0);
    for (int i = 0; i < RING + 100; i++)
        CHECK(rt, pld_barrier(world, NULL) == 0);
    if (rank == 1)
        CHECK(rt, pld_send(world, x, COUNT, PLD_F32, 0, 6, NULL) == 0);
    CHECK(rt, pld_request_wait(&request) == 0);
    return 0;
}

static void test_wrap(void)
{
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .trace_dir = folder};
    pld_trace_record r = {0};
    pld_trace_info info;
    pld_trace *trace;

    ok(inproc_run_with(2, body_wrap, NULL, &opts) == 0, "more operations than the ring has room");
    trace = open_trace(0);
    if (trace == NULL)
        return;
    pld_trace_get_info(trace, &info);
    ok(pld_trace_count(trace) == RING && info.recorded > RING + 100, "%zu of %d are kept",
       pld_trace_count(trace), (int)info.recorded);
    (void)pld_trace_get(trace, 0, &r);
    ok(strcmp(r.kind, "recv") == 0 && r.ended > 0, "the oldest is the one that was under way: %s",
       r.kind);
    ok(pld_trace_get(trace, RING, &r) == PLD_ERR_ARG, "there are no more");
    pld_trace_destroy(&trace);
}

/* ---- Deadlines ---- */

/* The last rank comes too late. */
static int body_late(pld_runtime *rt, void *context)
{
    const pld_coll_opts tagged = {PLD_OPTS(pld_coll_opts), .tag = "late"};
    pld_group *world = pld_runtime_world(rt);
    struct seen *seen = context;
    float x[COUNT] = {0};
    int rc;

    CHECK(rt, pld_barrier(world, NULL) == 0);
    CHECK(rt, pld_runtime_set_timeout(rt, 1) == 0);
    if (pld_group_rank(world) == seen->ranks - 1) {
        while (seen->reports == 0)
            (void)usleep(10000);
        (void)usleep(300000);
    }
    rc = pld_allreduce(world, x, x, COUNT, PLD_F32, PLD_SUM, &tagged);
    CHECK(rt, rc == PLD_ERR_TIMEOUT);
    CHECK(rt, has(pld_last_error(), "no end of allreduce"));
    CHECK(rt, strncmp(pld_runtime_report(rt), pld_last_error(), 900) == 0);
    CHECK(rt, pld_barrier(world, NULL) == PLD_ERR_TIMEOUT);
    return 0;
}

static void test_late(int ranks)
{
    struct seen seen = {.ranks = ranks};
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .timeout = 60, .report = on_report,
                                   .give_up = on_give_up, .context = &seen};
    char name[64], waiting[64];

    (void)snprintf(name, sizeof(name), "rank %d (host ", ranks - 1);
    (void)snprintf(waiting, sizeof(waiting), ranks == 2 ? "rank 0 waits in" : "%d ranks wait in",
                   ranks - 1);
    ok(inproc_run_with(ranks, body_late, &seen, &opts) == 0, "%d ranks: all get the error", ranks);
    ok(seen.reports == 1, "%d report", seen.reports);
    ok(seen.gave_up == ranks, "%d ranks were told to give up", seen.gave_up);
    ok(has(seen.report, waiting) && has(seen.report, "f32[10] sum of world") &&
           has(seen.report, "(late)"),
       "who waits");
    ok(has(seen.report, name) && has(seen.report, "never came: ") &&
           has(seen.report, "last call: barrier"),
       "who never came");
}

/* Rank 0 waits for a message, rank 1 in a barrier of two: who is elsewhere is said to be. */
static int body_elsewhere(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    struct seen *seen = context;
    float x[COUNT] = {0};
    int rc;

    if (pld_group_rank(world) == 0) {
        seen->line = __LINE__ + 1;
        rc = pld_recv(world, x, COUNT, PLD_F32, 1, 9, NULL);
    } else {
        seen->other_line = __LINE__ + 1;
        rc = pld_barrier(world, NULL);
    }
    CHECK(rt, rc == PLD_ERR_TIMEOUT);
    return 0;
}

static void test_elsewhere(void)
{
    struct seen seen = {.ranks = 2};
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .timeout = 2, .report = on_report,
                                   .context = &seen};

    ok(inproc_run_with(2, body_elsewhere, &seen, &opts) == 0, "ranks in different calls");
    ok(has(seen.report, "rank 0 waits in recv f32[10] from rank 1 tag 9") &&
           at(seen.report, seen.line) && has(seen.report, "rank 1 waits in barrier") &&
           at(seen.report, seen.other_line),
       "the report has both, and where");
}

/* Leaves the program time to go on between a report and the alarm. */
static void on_report_slowly(const char *text, void *context)
{
    (void)usleep(50000);
    on_report(text, context);
}

/* A report is made while groups come and go. */
static int body_churn(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_group_rank(world);
    pld_request *request = NULL;
    const pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .request = &request};
    float x[COUNT] = {0};
    int rc;

    (void)context;
    if (rank == 0)
        CHECK(rt, pld_recv(world, x, COUNT, PLD_F32, 1, 9, &opts) == 0);
    CHECK(rt, pld_runtime_set_timeout(rt, 1) == 0); /* counts for what is under way */
    do {
        pld_group *group = NULL;

        rc = pld_group_split(world, rank, 0, &group); /* of one rank each */
        pld_group_destroy(&group);
        (void)usleep(100);
    } while (rc == 0);
    CHECK(rt, rc == PLD_ERR_TIMEOUT);
    CHECK(rt, rank != 0 || pld_request_wait(&request) == PLD_ERR_TIMEOUT);
    return 0;
}

/* Rank 0 of a group, which is rank 1 of the job, leaves. */
static int body_renumbered(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_group_rank(world);
    pld_group *group = NULL;
    float x[COUNT] = {0};

    (void)context;
    CHECK(rt, pld_group_split(world, rank > 0, rank, &group) == 0);
    if (rank == 2) {
        CHECK(rt, pld_recv(group, x, COUNT, PLD_F32, 0, 9, NULL) == PLD_ERR_PEER);
        CHECK(rt, has(pld_last_error(), "rank 1 of the job"));
    }
    pld_group_destroy(&group);
    return 0;
}

static void test_groups(void)
{
    struct seen seen = {.ranks = 2};
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .timeout = 60,
                                   .report = on_report_slowly, .context = &seen};

    ok(inproc_run_with(2, body_churn, &seen, &opts) == 0 && seen.reports == 1,
       "a report while groups come and go");
    ok(inproc_run(3, body_renumbered, NULL) == 0, "a rank is named as it is known in the job");
}

static int body_no_time(pld_runtime *rt, void *context)
{
    (void)context;
    CHECK(rt, pld_runtime_set_timeout(rt, 1e300) == PLD_ERR_ARG);
    CHECK(rt, has(pld_last_error(), "timeout is 1e+300"));
    CHECK(rt, pld_runtime_set_timeout(rt, NAN) == PLD_ERR_ARG);
    CHECK(rt, pld_runtime_set_timeout(NULL, 1) == PLD_ERR_ARG);
    (void)setenv("POLDER_TIMEOUT", "soon", 1);
    CHECK(rt, pld_runtime_set_timeout(rt, 0) == PLD_ERR_ARG);
    (void)unsetenv("POLDER_TIMEOUT");
    CHECK(rt, pld_runtime_set_timeout(rt, 0) == 0);
    return 0;
}

static int body_slow(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    float x[COUNT] = {0};

    (void)context;
    CHECK(rt, pld_runtime_set_timeout(rt, 0.3) == 0);
    CHECK(rt, pld_runtime_set_timeout(rt, -1) == 0);
    for (int i = 0; i < 3; i++) {
        if (pld_group_rank(world) == i % 2)
            (void)usleep(700000);
        CHECK(rt, pld_allreduce(world, x, x, COUNT, PLD_F32, PLD_SUM, NULL) == 0);
    }
    CHECK(rt, strcmp(pld_runtime_report(rt), "") == 0);
    return 0;
}

static void test_slow(void)
{
    struct seen seen = {0};
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .timeout = 60, .report = on_report,
                                   .give_up = on_give_up, .context = &seen};

    ok(inproc_run_with(3, body_slow, &seen, &opts) == 0 && seen.reports + seen.gave_up == 0,
       "slow ranks are let alone where there is no deadline any more");
    ok(inproc_run(1, body_no_time, NULL) == 0, "what is no time is refused");
}

/* ---- Mismatches ---- */

static int body_mismatch(pld_runtime *rt, void *context)
{
    const int ranks = ((struct seen *)context)->ranks;
    pld_group *world = pld_runtime_world(rt);
    int line, other_line, rc;
    float x[COUNT] = {0};
    char name[32];

    line = __LINE__ + 4;
    other_line = __LINE__ + 5;
    (void)snprintf(name, sizeof(name), "rank %d: allreduce", ranks - 1);
    if (pld_group_rank(world) < ranks - 1)
        rc = pld_allreduce(world, x, x, COUNT, PLD_F32, PLD_SUM, NULL);
    else
        rc = pld_allreduce(world, x, x, COUNT - 1, PLD_F32, PLD_SUM, NULL);
    CHECK(rt, rc == PLD_ERR_MISMATCH);
    CHECK(rt, has(pld_last_error(), "ranks of world") && has(pld_last_error(), name));
    CHECK(rt, at(pld_last_error(), line) && at(pld_last_error(), other_line));
    CHECK(rt, pld_barrier(world, NULL) == 0);
    return 0;
}

static void test_mismatch(int ranks)
{
    struct seen seen = {.ranks = ranks};

    ok(inproc_run(ranks, body_mismatch, &seen) == 0, "one of %d ranks differs: both places", ranks);
}

/* ---- Messages that are announced ---- */

static int body_announced(pld_runtime *rt, void *context)
{
    enum { MESSAGES = 6 };
    pld_request *requests[MESSAGES] = {NULL};
    pld_coll_opts opts = {PLD_OPTS(pld_coll_opts)};
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_group_rank(world);
    int32_t x[MESSAGES];
    int rc;

    (void)context;
    for (int i = 0; i < MESSAGES; i++) {
        x[i] = rank == 0 ? i + 1 : 0;
        opts.request = &requests[i];
        rc = rank == 0 ? pld_send(world, &x[i], 1, PLD_I32, 1, 3, &opts)
                       : pld_recv(world, &x[i], 1, PLD_I32, 0, 3, &opts);
        CHECK(rt, rc == 0);
    }
    CHECK(rt, pld_request_wait_all(MESSAGES, requests) == 0);
    for (int i = 0; i < MESSAGES; i++)
        CHECK(rt, x[i] == i + 1);
    rc = rank == 0 ? pld_send(world, x, 2, PLD_I32, 1, 3, NULL)
                   : pld_recv(world, x, 2, PLD_F32, 0, 3, NULL);
    CHECK(rt, rc == PLD_ERR_MISMATCH);
    CHECK(rt, has(pld_last_error(), "rank 0: send i32[2] at ") &&
                  has(pld_last_error(), "rank 1: recv f32[2] at "));
    rc = rank == 0 ? pld_send(world, x, 1, PLD_I32, 1, 3, NULL)
                   : pld_recv(world, x, 1, PLD_I32, 0, 3, NULL);
    CHECK(rt, rc == 0);
    return 0;
}

static void test_announced(void)
{
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .check = 1};

    ok(inproc_run_with(2, body_announced, NULL, &opts) == 0,
       "announced messages keep their order, and both ends are told of a difference");
}

/* Nobody writes to it. */
static void test_pipe(void)
{
    pld_trace *trace = NULL;
    char path[128];

    (void)snprintf(path, sizeof(path), "%s/pipe", folder);
    ok(mkfifo(path, 0666) == 0 && pld_trace_open(path, &trace) < 0 && trace == NULL,
       "a pipe is no trace, and is not waited for: %s", pld_last_error());
}

static void remove_folder(void)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.')
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    if (dir != NULL)
        (void)closedir(dir);
    (void)rmdir(folder);
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");

    (void)snprintf(folder, sizeof(folder), "%.40s/polder-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(folder) == NULL)
        return 1;
    test_records();
    test_wrap();
    for (int ranks = 2; ranks <= 4; ranks++)
        test_mismatch(ranks);
    test_announced();
    test_slow();
    test_late(2);
    test_late(4);
    test_elsewhere();
    test_groups();
    test_pipe();
    remove_folder();
    return tap_done();
}
