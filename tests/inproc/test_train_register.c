/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Arenas that communicators know: registered when both are there, deregistered once and before
 * they are freed, on all ranks or on none, and the same bits come of it.
 */

#include "coll/coll_mem.h"
#include "device_support.h"
#include "tap.h"
#include "train.h"

static unsigned long of_nccl(const char *function, const char *what)
{
    unsigned long (*ask)(const char *);
    void *f = device_fake("libnccl.so.2", function);

    memcpy(&ask, &f, sizeof(ask));
    return ask(what);
}

static unsigned long calls(const char *symbol)
{
    return of_nccl("fake_nccl_calls", symbol);
}

static unsigned long memory(const char *what)
{
    return of_nccl("fake_nccl_memory", what);
}

/* One run: what is registered when all is made, and after a step; what rank 0's dp group says. */
struct seen {
    struct train t;
    const char *nccl; /* faults of when arenas are registered */
    int reproducible; /* from the first step on */
    unsigned long made, stepped, allocated, calls_at_end;
    char says[1024];
};

static void look(struct train_rank *r, struct seen *s, unsigned long *count)
{
    (void)pld_barrier(pld_runtime_world(r->rt), NULL);
    if (pld_runtime_rank(r->rt) == 0)
        *count = memory("registered");
    if (pld_runtime_rank(r->rt) == 0)
        s->allocated = memory("allocated");
    (void)pld_barrier(pld_runtime_world(r->rt), NULL);
}

static int train(pld_runtime *rt, void *context)
{
    struct seen *s = context;
    const int me = pld_runtime_rank(rt);
    struct train_rank r;
    pld_dp *second = NULL;

    device_rank(me);
    CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
    if (me == 0)
        device_faults("", s->nccl != NULL ? s->nccl : "");
    CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
    CHECK(rt, train_begin(rt, &s->t, &r) == 0);
    /* One that is refused leaves the arenas to the one that is there. */
    CHECK(rt, pld_dp_create(r.params, NULL, &second) == PLD_ERR_STATE);
    look(&r, s, &s->made);
    if (s->reproducible)
        CHECK(rt, pld_group_set_reproducible(pld_mesh_group(r.mesh, PLD_AXIS_DP), 1) == 0);
    for (int step = 0; step < 3; step++)
        CHECK(rt, train_step(&r, step) == 0);
    CHECK(rt, pld_device_copy(r.gpu, r.by, r.by, 0, r.stream) == 0);
    CHECK(rt, train_results(&r) == 0);
    look(&r, s, &s->stepped);
    if (me == 0)
        CHECK(rt, pld_coll_explain(pld_mesh_group(r.mesh, PLD_AXIS_DP), "allreduce", 1 << 20,
                                   PLD_F32, s->says, sizeof(s->says)) == 0);
    train_close(&r);
    return 0;
}

static int run(struct seen *s)
{
    int rc;

    s->t.on_device = 1;
    rc = device_run(s->t.ranks, NULL, 20, train, s);
    device_faults("", "");
    return rc;
}

static struct seen *make(struct train t)
{
    struct seen *s = calloc(1, sizeof(*s));

    s->t = t;
    return s;
}

static int same_values(const struct seen *a, const struct seen *b)
{
    return memcmp(a->t.value, b->t.value, sizeof(a->t.value)) == 0;
}

/* All that was registered was deregistered, in time and by hand. */
static void all_back(const char *when)
{
    ok(memory("registered") == 0 && memory("dropped") == 0 && memory("stale") == 0 &&
           memory("allocated") == 0 && device_live("device bytes") == 0 && device_live_comms() == 0,
       "%s: nothing is left: %lu registered, %lu dropped, %lu freed before, %lu and %lu bytes",
       when, memory("registered"), memory("dropped"), memory("stale"), memory("allocated"),
       device_live("device bytes"));
}

static const struct train two = {
    .mesh = "dp=2", .ranks = 2, .microbatches = 2, .own_stream = 1, .side = 1};
static const struct train outside = {
    .mesh = "dp=2", .ranks = 2, .microbatches = 2, .own_stream = 1, .outside = 1};
static const struct train four = {
    .mesh = "dp=2,pp=2", .ranks = 4, .microbatches = 4, .own_stream = 1};

/* expected: buffers of all ranks together */
static void compare(const struct train *how, const char *what, unsigned long expected)
{
    struct seen *with = make(*how), *without = make(*how);
    const unsigned long before[2] = {calls("ncclCommRegister"), calls("ncclCommDeregister")};
    unsigned long n[2];
    int rc;

    rc = run(with);
    ok(rc == 0 && with->made == expected && with->stepped == expected,
       "%s: %lu buffers are registered, %lu later, want %lu", what, with->made, with->stepped,
       expected);
    ok(strstr(with->says, "bytes of arenas registered") != NULL && with->allocated > 0,
       "%s: of NCCL's own memory; explain: %s", what, with->says);
    n[0] = calls("ncclCommRegister") - before[0];
    n[1] = calls("ncclCommDeregister") - before[1];
    ok(n[0] == expected && n[1] == expected, "%s: %lu registrations, %lu ends", what, n[0], n[1]);
    all_back(what);
    (void)setenv("POLDER_NCCL_REGISTER", "0", 1);
    ok(run(without) == 0 && without->made == 0 && without->stepped == 0 &&
           without->allocated == 0 && calls("ncclCommRegister") - before[0] == expected,
       "%s: none with POLDER_NCCL_REGISTER=0", what);
    (void)unsetenv("POLDER_NCCL_REGISTER");
    ok(same_values(with, without), "%s: the same bits", what);
    free(with);
    free(without);
}

/* Memory that there is before the communicator. */
static int late(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    pld_device *device = pld_runtime_device(rt);
    unsigned long *seen = context;
    struct pldi_region regions[2] = {{.bytes = 1 << 16}, {.bytes = 1 << 16}};

    for (int i = 0; i < 2; i++)
        CHECK(rt, device->ops->alloc_arena(device, 1 << 16, &regions[i].memory) == 0);
    /* Not as many on all ranks. */
    CHECK(rt, pldi_group_register(world, regions, pld_runtime_rank(rt) == 0 ? 2 : 1) == 0);
    CHECK(rt, pld_barrier(world, NULL) == 0);
    if (pld_runtime_rank(rt) == 0)
        seen[0] = memory("registered");
    CHECK(rt, pld_group_connect(world) == 0);
    if (pld_runtime_rank(rt) == 0)
        seen[1] = memory("registered");
    CHECK(rt, pld_barrier(world, NULL) == 0);
    for (int i = 0; i < 2; i++) {
        pldi_group_unregister(world, regions[i].memory);
        device->ops->free(device, regions[i].memory);
    }
    return 0;
}

static void test_late(void)
{
    unsigned long seen[2] = {0};
    const int rc = device_run(3, NULL, 20, late, seen);

    ok(rc == 0 && seen[0] == 0 && seen[1] == 4,
       "a communicator that comes later gets to know the memory then: %lu, then %lu", seen[0],
       seen[1]);
    all_back("late");
}

static void test_refused(void)
{
    struct seen *s = make(outside);
    int rc;

    s->nccl = "register:2@1";
    rc = run(s);
    ok(rc == 0 && s->made == 0 && s->stepped == 0,
       "what one rank cannot register no rank keeps, and training goes on");
    ok(strstr(s->says, "not registered (rank 1: NCCL 2.") != NULL, "explain: %s", s->says);
    all_back("refused");
    free(s);
}

static void test_reproducible(void)
{
    struct seen *s = make(two);
    int rc;

    s->reproducible = 1;
    rc = run(s);
    ok(rc == 0 && s->made == 2 && s->stepped == 0,
       "sums through other memory end a group's registrations: %lu, then %lu", s->made, s->stepped);
    all_back("reproducible");
    free(s);
}

/* A communicator that fails takes its registrations along: nobody asks for their end. */
static int lose(pld_runtime *rt, void *context)
{
    struct seen *s = context;
    struct train_rank r;
    int rc = 0;

    device_rank(pld_runtime_rank(rt));
    CHECK(rt, train_begin(rt, &s->t, &r) == 0);
    look(&r, s, &s->made);
    if (pld_runtime_rank(rt) == 0)
        device_faults("", "async:3:3@1"); /* of dp: the world has made fewer */
    CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == 0);
    for (int step = 0; step < 50 && rc == 0; step++) {
        rc = train_step(&r, step);
        CHECK(rt, pld_stream_wait(r.gpu, r.stream) == 0); /* hosts may be far ahead */
    }
    s->t.code[pld_runtime_rank(rt)] = rc;
    train_close(&r);
    return 0;
}

static void test_lost(void)
{
    const unsigned long before = calls("ncclCommDeregister");
    const unsigned long dropped = memory("dropped");
    struct seen *s = make(two);
    int rc;

    s->t.on_device = 1;
    rc = device_run(2, NULL, 20, lose, s);
    ok(rc == 0 && s->made == 2 && s->t.code[0] < 0 && s->t.code[1] < 0,
       "a communicator fails that knows arenas: %d, %lu, %s, %s", rc, s->made,
       pld_error_name(s->t.code[0]), pld_error_name(s->t.code[1]));
    device_faults("", "");
    ok(calls("ncclCommDeregister") == before && memory("dropped") - dropped == 2 &&
           memory("registered") == 0 && memory("allocated") == 0 && device_live_comms() == 0,
       "nothing is deregistered after an abort: %lu; %lu went along, %lu and %lu bytes are left",
       calls("ncclCommDeregister") - before, memory("dropped") - dropped, memory("registered"),
       memory("allocated"));
    free(s);
}

/* Where NCCL has no memory the driver is asked. */
static int arena(pld_runtime *rt, void *context)
{
    pld_device *device = pld_runtime_device(rt);
    void *one = NULL, *two_of = NULL;

    (void)context;
    CHECK(rt, device->ops->alloc_arena(device, 1 << 20, &one) == 0);
    CHECK(rt, memory("allocated") == 1 << 20);
    device_faults("alloc:1", "");
    CHECK(rt, device->ops->alloc_arena(device, 1 << 20, &two_of) == 0);
    CHECK(rt, memory("allocated") == 1 << 20);
    device_faults("", "");
    device->ops->free(device, one);
    CHECK(rt, memory("allocated") == 0);
    device->ops->free(device, two_of);
    return 0;
}

int main(int argc, char **argv)
{
    const int bare = device_bare(argc, argv);

    if (bare != 0) {
        struct seen *s = make(four);

        ok(bare > 0, "the library has no ncclCommRegister");
        ok(run(s) == 0 && s->made == 0 && s->allocated == 0, "NCCL that cannot register");
        all_back("without ncclCommRegister");
        free(s);
        return tap_done();
    }
    compare(&two, "dp=2", 2);
    /* The caller's tensor goes through scratch of dp's. */
    compare(&outside, "dp=2, the caller's memory", 4);
    /* And each stage has a buffer for each direction. */
    compare(&four, "dp=2,pp=2", 4 + 8);
    test_late();
    test_refused();
    test_reproducible();
    ok(device_run(1, NULL, 20, arena, NULL) == 0, "arenas of NCCL, or else of the driver");
    test_lost();
    return tap_done();
}
