/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Several threads of each rank at once.  In each of some groups one thread posts messages and
 * another one waits for them; a further one has a group for sums, posted and waited for, and for
 * messages that it waits for.  Messages of one tag must arrive in the order of their calls, and
 * operations of a group run in it, whoever moves them on.  Each handle is one thread's at a time.
 */

#include <polder/polder.h>

#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>

#include "coll/coll_mem.h"
#include "coll/coll_shm_mail.h"
#include "inproc/inproc.h"
#include "tap.h"

enum { LANES = 2, DEPTH = 16, TAGS = 3, MOST = PLDI_MAIL_SLOT + 1000, SUMS = 3 };

static const size_t sizes[] = {8,  PLDI_MAIL_INLINE, 8,    PLDI_MAIL_INLINE + 1, 8, MOST, 24,
                               16, PLDI_MAIL_EAGER,  8000, PLDI_MAIL_EAGER + 8,  8};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

/* A thread that posts hands its requests, two for each message, to one that waits. */
struct lane {
    pld_runtime *rt;
    pld_group *group;
    uint64_t messages;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t posted, taken; /* of messages */
    int failed;             /* one of the two: the other ends, too */
    pld_request *sends[DEPTH], *recvs[DEPTH];
    uint64_t out[DEPTH][MOST / 8 + 1], in[DEPTH][MOST / 8 + 1];
};

static uint64_t word(int rank, uint64_t message, size_t i)
{
    return ((uint64_t)rank << 48) + (message << 16) + i;
}

/* 1, once fewer than DEPTH are under way, or one is; 0: the other thread failed. */
static int may_go_on(struct lane *l, int waits)
{
    int failed;

    (void)pthread_mutex_lock(&l->lock);
    while (!l->failed && (waits ? l->posted == l->taken : l->posted - l->taken == DEPTH))
        (void)pthread_cond_wait(&l->changed, &l->lock);
    failed = l->failed;
    (void)pthread_mutex_unlock(&l->lock);
    return !failed;
}

static void count(struct lane *l, uint64_t *what)
{
    (void)pthread_mutex_lock(&l->lock);
    ++*what;
    (void)pthread_cond_signal(&l->changed);
    (void)pthread_mutex_unlock(&l->lock);
}

static int post_one(struct lane *l, uint64_t m)
{
    const int rank = pld_group_rank(l->group);
    const int size = pld_group_size(l->group);
    const size_t n = sizes[m % SIZES] / 8;
    const int tag = (int)(m % TAGS);
    pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &l->sends[m % DEPTH]};

    for (size_t i = 0; i < n; i++)
        l->out[m % DEPTH][i] = word(rank, m, i);
    CHECK(l->rt,
          pld_send(l->group, l->out[m % DEPTH], n, PLD_I64, (rank + 1) % size, tag, &o) == 0);
    o.request = &l->recvs[m % DEPTH];
    CHECK(l->rt,
          pld_recv(l->group, l->in[m % DEPTH], n, PLD_I64, (rank + size - 1) % size, tag, &o) == 0);
    return 0;
}

static int test_until_done(pld_request **request)
{
    int done = 0;
    int rc = 0;

    while (rc == 0 && !done) {
        rc = pld_request_test(request, &done);
        if (!done)
            (void)sched_yield();
    }
    return rc;
}

static int wait_one(struct lane *l, uint64_t m)
{
    const int size = pld_group_size(l->group);
    const int from = (pld_group_rank(l->group) + size - 1) % size;
    pld_request **recv = &l->recvs[m % DEPTH];

    CHECK(l->rt, (m % 2 ? pld_request_wait(recv) : test_until_done(recv)) == 0);
    for (size_t i = 0; i < sizes[m % SIZES] / 8; i++)
        CHECK(l->rt, l->in[m % DEPTH][i] == word(from, m, i));
    CHECK(l->rt, pld_request_wait(&l->sends[m % DEPTH]) == 0);
    return 0;
}

static void *run_lane(struct lane *l, int waits)
{
    int failed = 0;

    for (uint64_t m = 0; m < l->messages && !failed; m++) {
        if (!may_go_on(l, waits))
            break;
        failed = (waits ? wait_one(l, m) : post_one(l, m)) != 0;
        if (!failed)
            count(l, waits ? &l->taken : &l->posted);
    }
    if (failed) {
        (void)pthread_mutex_lock(&l->lock);
        l->failed = 1;
        (void)pthread_cond_signal(&l->changed);
        (void)pthread_mutex_unlock(&l->lock);
    }
    return NULL;
}

static void *post_all(void *lane)
{
    return run_lane(lane, 0);
}

static void *wait_all(void *lane)
{
    return run_lane(lane, 1);
}

/* Two sums that are under way, of different lengths, a third that must come after them, and a
 * message behind which one more waits. */
static int sum_and_send(pld_runtime *rt, pld_group *group, int64_t round)
{
    const int rank = pld_group_rank(group);
    const int size = pld_group_size(group);
    const int64_t all = (int64_t)size * (size - 1) / 2;
    const size_t counts[SUMS] = {1, round % 8 ? 3 : 3000, 2};
    int64_t v[SUMS][3000];
    int64_t out[2] = {round, -round};
    int64_t in[2] = {0, 0};
    pld_request *r[SUMS] = {NULL};

    for (int s = 0; s < SUMS; s++) {
        const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = s < SUMS - 1 ? &r[s] : NULL};

        for (size_t i = 0; i < counts[s]; i++)
            v[s][i] = rank + SUMS * round + s;
        CHECK(rt, pld_allreduce(group, v[s], v[s], counts[s], PLD_I64, PLD_SUM, &o) == 0);
    }
    for (int s = SUMS - 1; s >= 0; s--) {
        CHECK(rt, pld_request_wait(&r[s]) == 0);
        CHECK(rt, v[s][0] == all + size * (SUMS * round + s));
        CHECK(rt, v[s][counts[s] - 1] == v[s][0]);
    }
    for (int i = 0; i < 2; i++) {
        const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &r[i]};

        CHECK(rt, pld_send(group, &out[i], 1, PLD_I64, (rank + 1) % size, 0, &o) == 0);
    }
    for (int i = 0; i < 2; i++)
        CHECK(rt, pld_recv(group, &in[i], 1, PLD_I64, (rank + size - 1) % size, 0, NULL) == 0);
    CHECK(rt, in[0] == round && in[1] == -round);
    CHECK(rt, pld_request_wait_all(2, r) == 0);
    return 0;
}

/* What a run is: messages of each lane, and rounds of sums. */
struct job {
    uint64_t messages;
    int64_t rounds;
};

static int at_once(pld_runtime *rt, void *context)
{
    const struct job *job = context;
    struct lane *lanes = calloc(LANES, sizeof(*lanes));
    pthread_t threads[2 * LANES];
    pld_group *group = NULL;
    int failed = 0;

    for (int i = 0; i < LANES; i++) {
        struct lane *l = &lanes[i];

        l->rt = rt;
        l->messages = job->messages;
        CHECK(rt, pld_group_split(pld_runtime_world(rt), 0, 0, &l->group) == 0);
        (void)pthread_mutex_init(&l->lock, NULL);
        (void)pthread_cond_init(&l->changed, NULL);
    }
    CHECK(rt, pld_group_split(pld_runtime_world(rt), 0, 0, &group) == 0);
    for (int i = 0; i < 2 * LANES; i++)
        CHECK(rt,
              pthread_create(&threads[i], NULL, i % 2 ? wait_all : post_all, &lanes[i / 2]) == 0);
    for (int64_t round = 0; round < job->rounds && !failed; round++)
        failed = sum_and_send(rt, group, round) != 0;
    for (int i = 0; i < 2 * LANES; i++)
        (void)pthread_join(threads[i], NULL);
    for (int i = 0; i < LANES; i++) {
        failed |= lanes[i].failed;
        pld_group_destroy(&lanes[i].group);
    }
    pld_group_destroy(&group);
    free(lanes);
    return failed ? -1 : 0;
}

/* ---- Who looks without the lock ---- */

enum { ROW = 200, ROWS = 300 };

/* A thread that tries to have the engine to itself while a row of operations ends. */
struct looker {
    struct pldi_engine *engine;
    _Atomic int state; /* 0: rest, 1: look, 2: end; and what it has seen of that */
    _Atomic int seen;
    int wrong; /* it was given the engine although there were operations */
};

static void *look(void *looker)
{
    struct looker *l = looker;
    int state;

    while ((state = atomic_load(&l->state)) != 2) {
        atomic_store(&l->seen, state);
        if (state == 0)
            (void)sched_yield();
        if (state == 0 || !pldi_engine_try_enter(l->engine))
            continue;
        l->wrong += pldi_engine_active(l->engine) > 0;
        pldi_engine_leave_quickly(l->engine);
    }
    return NULL;
}

static void set_state(struct looker *l, int state)
{
    atomic_store(&l->state, state);
    while (state < 2 && atomic_load(&l->seen) != state)
        (void)sched_yield();
}

/* Each of the row takes the place of the one before: at no time is there none. */
static int in_a_row(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    struct looker looker = {.engine = world->engine};
    pld_request *r[ROW];
    int64_t v[ROW] = {0};
    pthread_t thread;

    (void)context;
    CHECK(rt, pthread_create(&thread, NULL, look, &looker) == 0);
    for (int n = 0; n < ROWS; n++) {
        pldi_engine_enter(world->engine); /* none of them can begin */
        for (int i = 0; i < ROW; i++) {
            const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &r[i]};

            CHECK(rt, pld_allreduce(world, &v[i], &v[i], 1, PLD_I64, PLD_SUM, &o) == 0);
        }
        set_state(&looker, 1);
        pldi_engine_leave(world->engine);
        CHECK(rt, pld_request_wait_all(ROW, r) == 0);
        set_state(&looker, 0);
    }
    set_state(&looker, 2);
    (void)pthread_join(thread, NULL);
    CHECK(rt, looker.wrong == 0);
    return 0;
}

/* ---- Who has the engine to itself ---- */

/* A thread that waits, and one that posts something meanwhile. */
struct couple {
    pld_group *groups[2];
    sem_t wants, posted;
    int idled; /* times, since then, with the engine to itself */
};

static _Thread_local struct couple *waiting;

void __real_pldi_engine_idle(const struct pldi_engine *engine, int *tries);
void __wrap_pldi_engine_idle(const struct pldi_engine *engine, int *tries);

void __wrap_pldi_engine_idle(const struct pldi_engine *engine, int *tries)
{
    if (waiting != NULL && waiting->idled++ == 0) {
        (void)sem_post(&waiting->wants);
        (void)sem_wait(&waiting->posted);
    }
    __real_pldi_engine_idle(engine, tries);
}

static void *post_meanwhile(void *couple)
{
    struct couple *c = couple;
    pld_request *r = NULL;
    const pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = &r};
    int rc;

    (void)sem_wait(&c->wants);
    rc = pld_send(c->groups[1], NULL, 0, PLD_U8, 1, 0, &o);
    (void)sem_post(&c->posted);
    return rc != 0 || pld_request_wait(&r) != 0 ? couple : NULL;
}

/* What it waits for comes after what the other thread sends. */
static int meanwhile(pld_runtime *rt, void *context)
{
    struct couple c = {.idled = 0};
    pthread_t thread;
    void *failed = NULL;

    (void)context;
    for (int i = 0; i < 2; i++)
        CHECK(rt, pld_group_split(pld_runtime_world(rt), 0, 0, &c.groups[i]) == 0);
    if (pld_runtime_rank(rt) == 1) {
        CHECK(rt, pld_recv(c.groups[1], NULL, 0, PLD_U8, 0, 0, NULL) == 0);
        CHECK(rt, pld_send(c.groups[0], NULL, 0, PLD_U8, 0, 0, NULL) == 0);
    } else {
        (void)sem_init(&c.wants, 0, 0);
        (void)sem_init(&c.posted, 0, 0);
        CHECK(rt, pthread_create(&thread, NULL, post_meanwhile, &c) == 0);
        waiting = &c;
        CHECK(rt, pld_recv(c.groups[0], NULL, 0, PLD_U8, 1, 0, NULL) == 0);
        waiting = NULL;
        (void)pthread_join(thread, &failed);
        CHECK(rt, failed == NULL && c.idled == 1);
    }
    for (int i = 0; i < 2; i++)
        pld_group_destroy(&c.groups[i]);
    return 0;
}

/* ---- Shared memory ---- */

enum { BLOCKS = 8, TURNS = 400 };

/* Blocks of the heap that are given and taken by two threads, as by the program and by the comm
 * thread, which has pinned buffers made: none of them is given to both. */
static void *take_and_give(void *runtime)
{
    const pld_group *world = pld_runtime_world(runtime);
    uint64_t *blocks[BLOCKS] = {NULL};
    const uint64_t mine = (uint64_t)(uintptr_t)&blocks;
    void *failed = NULL;

    for (size_t i = 0; i < TURNS * (size_t)BLOCKS; i++) {
        uint64_t **block = &blocks[i * 5 % BLOCKS];

        if (*block != NULL && (*block)[0] != mine + i * 5 % BLOCKS)
            failed = runtime;
        pldi_mem_free(world, *block);
        *block = pldi_mem_alloc(world, 1 + i % 3, 4096, "a block");
        if (*block == NULL)
            return runtime;
        (*block)[0] = mine + i * 5 % BLOCKS;
    }
    for (int i = 0; i < BLOCKS; i++)
        pldi_mem_free(world, blocks[i]);
    return failed;
}

static int memory(pld_runtime *rt, void *context)
{
    pthread_t thread;
    void *theirs = NULL;
    void *ours;

    (void)context;
    CHECK(rt, pthread_create(&thread, NULL, take_and_give, rt) == 0);
    ours = take_and_give(rt);
    (void)pthread_join(thread, &theirs);
    CHECK(rt, ours == NULL && theirs == NULL);
    return 0;
}

/* ---- All of it ---- */

/* With a setting of the environment, and with a comm thread and without one. */
static void test(const char *name, const char *value, int ranks, struct job job)
{
    if (name != NULL)
        (void)setenv(name, value, 1);
    for (int alone = 0; alone < 2; alone++) {
        (void)setenv("POLDER_COMM_THREAD", alone ? "0" : "1", 1);
        ok(inproc_run(ranks, at_once, &job) == 0, "%d ranks, %s%s%s, %s comm thread", ranks,
           name != NULL ? name : "plain", name != NULL ? "=" : "", name != NULL ? value : "",
           alone ? "no" : "a");
    }
    if (name != NULL)
        (void)unsetenv(name);
}

int main(void)
{
    const struct job job = {200, 120};

    ok(inproc_run(2, meanwhile, NULL) == 0, "who waits lets another thread's message go first");
    ok(inproc_run(2, memory, NULL) == 0, "a block of shared memory is one thread's");
    ok(inproc_run(1, in_a_row, NULL) == 0, "operations that follow each other leave no gap");

    test(NULL, NULL, 2, job);
    test(NULL, NULL, 3, job);
    test("POLDER_SHM", "copy", 2, job);
    test("POLDER_FAKE_NODES", "2", 4, job);
    test("POLDER_SHM", "0", 2, job);
    test("POLDER_CHECK", "sync", 2, job);
    (void)setenv("POLDER_SHM", "0", 1);
    test("POLDER_CHECK", "sync", 2, job);
    return tap_done();
}
