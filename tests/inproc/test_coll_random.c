/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Random programs: the same operations on all ranks, of several groups at once, waited for or
 * not, in any memory, while ranks are delayed at random places, also in the middle of the
 * library's steps.  Results are compared with sums formed here, element by element.
 *
 * A seed says ranks, nodes, ways and program.  POLDER_TEST_SEED=first[,how many] tries others.
 */

#include <polder/polder.h>

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "coll/coll_nodes.h"
#include "coll_random.h"
#include "inproc/inproc.h"
#include "tap.h"

enum { FIXED_SEEDS = SLOW ? 5 : 30, LIVE = 8, GUARD = 64 };
enum { SHARED_ONE = 3 /* of four buffers, so many are in shared memory */ };

/* A program. */
struct job {
    uint64_t seed;
    int ranks, steps;
    const char *rules;
    int shrink; /* slots, so that little data are many pieces */
    int spins, near, streams;
    int reproducible;
};

/* An operation under way, or over but not looked at. */
struct live {
    struct plan plan;
    struct part parts[RANDOM_ITEMS];
    size_t counts[INPROC_MAX_RANKS], counts_in[INPROC_MAX_RANKS];
    size_t number;
    pld_request *requests[2 * RANDOM_ITEMS];
    int used;
};

struct rank {
    pld_runtime *rt;
    const struct job *job;
    uint64_t own; /* random */
    pld_group *groups[RANDOM_GROUPS];
    pld_mesh *mesh;
    struct live live[LIVE];
    struct member in; /* the group of the operation at hand */
};

/* --- delays: some steps of some ranks --- */

static _Atomic unsigned delay_one_in; /* 0: none */
static _Thread_local int is_slow;     /* one rank is */

static void delay(void)
{
    static _Thread_local uint64_t state;
    const unsigned one_in = atomic_load_explicit(&delay_one_in, memory_order_relaxed);
    struct timespec nap = {0, 0};

    if (state == 0)
        state = (uint64_t)(uintptr_t)&state;
    if (one_in == 0 || below(&state, one_in) != 0)
        return;
    nap.tv_nsec = (long)below(&state, is_slow ? 2000000 : 200000);
    if (below(&state, 2) != 0)
        (void)sched_yield();
    else
        (void)nanosleep(&nap, NULL);
}

int __real_pldi_op_step(pld_request *op, int *moved);
int __wrap_pldi_op_step(pld_request *op, int *moved);
size_t __real_pldi_heap_offset(const struct pldi_heap *heap, const void *memory, size_t bytes);
size_t __wrap_pldi_heap_offset(const struct pldi_heap *heap, const void *memory, size_t bytes);

int __wrap_pldi_op_step(pld_request *op, int *moved)
{
    delay();
    return __real_pldi_op_step(op, moved);
}

/* While a rank arrives. */
size_t __wrap_pldi_heap_offset(const struct pldi_heap *heap, const void *memory, size_t bytes)
{
    delay();
    return __real_pldi_heap_offset(heap, memory, bytes);
}

/* While it moves data. */
static void slow_copy(void *dst, const void *src, size_t bytes, int stream)
{
    delay();
    pldi_kernels()->copy(dst, src, bytes, stream);
    delay();
}

static void slow_reduce_to(void *const *dsts, int n_dsts, const void *const *srcs, int n_srcs,
                           size_t count, pld_dtype dtype, pld_op op, double scale, int n_stream)
{
    delay();
    pldi_kernels()->reduce_to(dsts, n_dsts, srcs, n_srcs, count, dtype, op, scale, n_stream);
    delay();
}

static struct pldi_kernels slow_kernels;

/* --- memory --- */

static int get_memory(struct rank *r, struct part *part, int side, size_t align)
{
    const size_t bytes = part->bytes[side];
    const size_t skip = below(&r->own, GUARD / align) * align;
    void *memory = NULL;

    part->shared[side] = below(&r->own, 4) < SHARED_ONE;
    if (part->shared[side])
        CHECK(r->rt, pld_mem_alloc(r->rt, bytes + (size_t)3 * GUARD, &memory) == 0);
    else
        memory = malloc(bytes + (size_t)3 * GUARD);
    memset(memory, 0x5a, bytes + (size_t)3 * GUARD);
    part->memory[side] = memory;
    part->at[side] = part->memory[side] + GUARD + skip;
    return 0;
}

static int is_whole(const struct part *part, int side)
{
    const char *first = part->memory[side];
    const char *end = part->at[side] + part->bytes[side];

    for (const char *c = first; first != NULL && c < first + part->bytes[side] + (size_t)3 * GUARD;
         c++) {
        if ((c < part->at[side] || c >= end) && *c != 0x5a)
            return 0;
    }
    return 1;
}

static void free_memory(const struct rank *r, struct part *part)
{
    for (int side = 0; side < 2; side++) {
        if (part->shared[side])
            pld_mem_free(r->rt, part->memory[side]);
        else
            free(part->memory[side]);
        part->memory[side] = NULL;
        part->shared[side] = 0;
    }
}

/* In place, the smaller side is in the larger one, in the way that coll.h says. */
static int place(struct rank *r, const struct plan *p, struct part *part)
{
    const size_t align = pld_dtype_bytes(p->dtype);
    const int may = part->bytes[0] > 0 && part->bytes[1] > 0 && p->act != ALLTOALL_V &&
                    p->act != LEAVES && p->act != DIFFER && p->act != MESSAGE;
    const int large = part->bytes[0] >= part->bytes[1] && acts[p->act].received != ALL ? 0 : 1;
    size_t offset = 0;

    part->in_place = p->act == BROADCAST || (may && below(&r->own, 2) == 0);
    if (!part->in_place) {
        for (int side = 0; side < 2; side++)
            CHECK(r->rt, get_memory(r, part, side, align) == 0);
        return 0;
    }
    if (acts[p->act].sent != acts[p->act].received)
        offset = before(p, part, r->in.me, r->in.me) * align;
    CHECK(r->rt, get_memory(r, part, large, align) == 0);
    part->at[!large] = part->at[large] + offset;
    return 0;
}

/* --- operations --- */

/* Of this rank: its parts, their memory and what is in it. */
static int prepare(struct rank *r, struct live *l)
{
    const struct plan *p = &l->plan;
    const size_t bytes = pld_dtype_bytes(p->dtype);
    const size_t n = p->n_items == 0 ? 1 : p->n_items;

    memset(l->parts, 0, sizeof(l->parts));
    for (size_t i = 0; i < n; i++) {
        struct part *part = &l->parts[i];
        uint64_t state = p->salt + i;

        part->salt = p->salt + i * 77777;
        part->count = n == 1 ? p->count : below(&state, p->count / n * 2 + 1);
        for (int side = 0; side < 2; side++)
            part->bytes[side] = elements(&r->in, p, part, side) * bytes;
        if (p->act == DIFFER)
            part->bytes[0] = part->bytes[1] = (part->count + 1) * bytes;
        CHECK(r->rt, place(r, p, part) == 0);
        fill(&r->in, p, part);
        for (size_t e = 0; p->act == DIFFER && e <= part->count; e++)
            pattern_store(p->dtype, part->at[1] + e * bytes, 3);
    }
    for (int s = 0; s < r->in.size; s++) {
        l->counts[s] =
            p->act == ALLTOALL_V ? block(p, l->parts, r->in.me, s) : block(p, l->parts, s, 0);
        l->counts_in[s] = block(p, l->parts, s, r->in.me);
    }
    return 0;
}

static int call_list(pld_group *g, const struct live *l, const pld_coll_opts *o)
{
    const struct plan *p = &l->plan;
    const size_t n = p->n_items;
    pld_coll_item items[RANDOM_ITEMS];

    for (size_t i = 0; i < n; i++)
        items[i] = (pld_coll_item){l->parts[i].at[0], l->parts[i].at[1], l->parts[i].count};
    if (p->act == ALLREDUCE)
        return pld_allreduce_list(g, items, n, p->dtype, p->op, o);
    if (p->act == REDUCE_SCATTER)
        return pld_reduce_scatter_list(g, items, n, p->dtype, p->op, o);
    if (p->act == ALLGATHER)
        return pld_allgather_list(g, items, n, p->dtype, o);
    return pld_broadcast_list(g, items, n, p->dtype, p->root, o);
}

/* The others add up. */
static int call_odd(pld_group *g, const struct live *l, const pld_coll_opts *o)
{
    static const size_t none[INPROC_MAX_RANKS];
    const struct plan *p = &l->plan;
    const struct part *a = l->parts;
    const pld_leaf leaf = {a->at[0], 0};
    const pld_coll_opts plain = {PLD_OPTS(pld_coll_opts), .request = o->request};

    switch (p->salt / 8 % 6) {
    case 0:
        return pld_barrier(g, &plain);
    case 1:
        return pld_alltoall_v(g, NULL, none, NULL, none, p->dtype, &plain);
    case 2:
        return pld_allreduce_leaves(g, &leaf, 1, 1, a->at[1], a->count, p->dtype, PLD_MAX, &plain);
    case 3:
        return pld_broadcast(g, a->at[1], a->count, p->dtype, 0, &plain);
    case 4:
        return pld_allreduce(g, a->at[0], a->at[1], a->count == 0 ? 1 : a->count / 2, p->dtype,
                             p->op, o);
    default:
        return pld_allreduce(g, a->at[0], a->at[1], a->count + 1, p->dtype, p->op, o);
    }
}

static int call_sum(const struct rank *r, pld_group *g, const struct live *l,
                    const pld_coll_opts *o)
{
    const struct plan *p = &l->plan;
    const struct part *a = l->parts;
    const size_t n = a->count;
    const pld_leaf leaves[] = {
        {a->at[0], (uint64_t)r->in.me},
        {a->at[0] + n * pld_dtype_bytes(p->dtype), (uint64_t)(r->in.me + r->in.size)}};

    switch ((int)p->act) {
    case ALLREDUCE:
        return pld_allreduce(g, a->at[0], a->at[1], n, p->dtype, p->op, o);
    case DIFFER:
        return r->in.me == p->root ? call_odd(g, l, o)
                                   : pld_allreduce(g, a->at[0], a->at[1], n, p->dtype, p->op, o);
    case LEAVES:
        return pld_allreduce_leaves(g, leaves, 2, 2 * (uint64_t)r->in.size, a->at[1], n, p->dtype,
                                    p->op, o);
    case REDUCE:
        return pld_reduce(g, a->at[0], a->at[1], n, p->dtype, p->op, p->root, o);
    case REDUCE_SCATTER:
        return pld_reduce_scatter(g, a->at[0], a->at[1], n, p->dtype, p->op, o);
    default:
        return pld_reduce_scatter_v(g, a->at[0], a->at[1], l->counts, p->dtype, p->op, o);
    }
}

static int call_other(pld_group *g, const struct live *l, const pld_coll_opts *o)
{
    const struct plan *p = &l->plan;
    const char *send = l->parts[0].at[0];
    char *recv = l->parts[0].at[1];
    const size_t n = l->parts[0].count;

    switch ((int)p->act) {
    case ALLGATHER:
        return pld_allgather(g, send, recv, n, p->dtype, o);
    case ALLGATHER_V:
        return pld_allgather_v(g, send, recv, l->counts, p->dtype, o);
    case BROADCAST:
        return pld_broadcast(g, recv, n, p->dtype, p->root, o);
    case ALLTOALL:
        return pld_alltoall(g, send, recv, n, p->dtype, o);
    case ALLTOALL_V:
        return pld_alltoall_v(g, send, l->counts, recv, l->counts_in, p->dtype, o);
    case GATHER:
        return pld_gather(g, send, recv, n, p->dtype, p->root, o);
    case GATHER_V:
        return pld_gather_v(g, send, recv, l->counts, p->dtype, p->root, o);
    case SCATTER:
        return pld_scatter(g, send, recv, n, p->dtype, p->root, o);
    case SCATTER_V:
        return pld_scatter_v(g, send, recv, l->counts, p->dtype, p->root, o);
    case BARRIER:
        return pld_barrier(g, o);
    default:
        return 0;
    }
}

/* Both of them with requests, in either order; or the receive alone. */
static int call_message(struct rank *r, pld_group *g, struct live *l, size_t item)
{
    const struct plan *p = &l->plan;
    const struct part *a = &l->parts[item];
    const int to = (r->in.me + p->shift) % r->in.size;
    const int from = (r->in.me - p->shift + r->in.size) % r->in.size;
    const pld_coll_opts in = {PLD_OPTS(pld_coll_opts), .request = &l->requests[2 * item]};
    const pld_coll_opts out = {PLD_OPTS(pld_coll_opts), .request = &l->requests[2 * item + 1]};
    const int first = !p->waits && below(&r->own, 2) == 0;
    int rc = 0;

    if (first)
        rc = pld_send(g, a->at[0], a->count, p->dtype, to, p->tag, &out);
    if (rc == 0)
        rc = pld_recv(g, a->at[1], a->count, p->dtype, from, p->tag, &in);
    if (rc == 0 && !first)
        rc = pld_send(g, a->at[0], a->count, p->dtype, to, p->tag, p->waits ? NULL : &out);
    return rc;
}

static int call_messages(struct rank *r, pld_group *g, struct live *l)
{
    const size_t n = l->plan.n_items == 0 ? 1 : l->plan.n_items;
    int rc = 0;

    for (size_t i = 0; i < n && rc == 0; i++)
        rc = call_message(r, g, l, i);
    return rc;
}

static int call(struct rank *r, pld_group *g, struct live *l)
{
    const struct plan *p = &l->plan;
    pld_coll_opts o = {PLD_OPTS(pld_coll_opts), .request = p->waits ? NULL : &l->requests[0]};
    const int code = p->salt % 2 != 0 && r->in.me == p->root ? PLD_ERR_IO : 0;

    o.scale = p->op == PLD_AVG ? p->scale * r->in.size : p->scale;
    if (p->act == MESSAGE)
        return call_messages(r, g, l);
    if (p->act == AGREE)
        return pld_agree(g, code) == (p->salt % 2 != 0 ? PLD_ERR_IO : 0) ? 0 : -1;
    if (!acts[p->act].reduces)
        o.scale = 0;
    if (p->n_items > 0)
        return call_list(g, l, &o);
    return acts[p->act].reduces ? call_sum(r, g, l, &o) : call_other(g, l, &o);
}

/* --- a rank --- */

static int fail(const struct rank *r, const struct live *l, const char *what)
{
    const struct plan *p = &l->plan;

    printf("# seed %llu: rank %d of %d: operation %zu of group %d (%d of %d): %s%s %s[%zu], op %d, "
           "root %d, %s, %s%s: %s\n",
           (unsigned long long)r->job->seed, pld_runtime_rank(r->rt), r->job->ranks, l->number,
           p->group, r->in.me, r->in.size, acts[p->act].name, p->n_items > 0 ? "_list" : "",
           pld_dtype_name(p->dtype), l->parts[0].count, (int)p->op, p->root,
           p->waits ? "waits" : "request", l->parts[0].in_place ? "in place, " : "",
           l->parts[0].shared[0] || l->parts[0].shared[1] ? "shared" : "ordinary", what);
    return -1;
}

static void enter(struct rank *r, const struct live *l)
{
    r->in.me = pld_group_rank(r->groups[l->plan.group]);
    r->in.size = pld_group_size(r->groups[l->plan.group]);
}

/* What is sent is as it was, and nothing was written beside the buffers. */
static int is_untouched(const struct rank *r, const struct plan *p, struct part *part)
{
    struct part again = *part;
    int same = 1;

    if (!is_whole(part, 0) || !is_whole(part, 1))
        return 0;
    if (part->in_place || part->bytes[0] == 0)
        return 1;
    again.at[0] = malloc(part->bytes[0]);
    fill(&r->in, p, &again);
    same = memcmp(again.at[0], part->at[0], part->bytes[0]) == 0;
    free(again.at[0]);
    return same;
}

/* It is over, with that code. */
static int conclude(struct rank *r, struct live *l, int rc)
{
    const size_t n = l->plan.n_items == 0 ? 1 : l->plan.n_items;

    enter(r, l);
    l->used = 0;
    if (rc != (l->plan.act == DIFFER ? PLD_ERR_MISMATCH : 0))
        return fail(r, l, rc < 0 ? pld_last_error() : "it should not have succeeded");
    for (size_t i = 0; i < n; i++) {
        if (compare(&r->in, &l->plan, &l->parts[i]) != 0)
            return fail(r, l, "wrong result");
        if (!is_untouched(r, &l->plan, &l->parts[i]))
            return fail(r, l, "memory beside the result was written");
        free_memory(r, &l->parts[i]);
    }
    return 0;
}

static int finish(struct rank *r, struct live *l)
{
    return conclude(r, l, pld_request_wait_all((size_t)2 * RANDOM_ITEMS, l->requests));
}

static int finish_all(struct rank *r)
{
    for (size_t i = 0, first = below(&r->own, LIVE); i < LIVE; i++) {
        struct live *l = &r->live[(first + i) % LIVE];

        if (l->used)
            CHECK(r->rt, finish(r, l) == 0);
    }
    return 0;
}

/* A place for one more operation; now and then others are waited for, or looked at. */
static struct live *make_room(struct rank *r)
{
    struct live *l = &r->live[below(&r->own, LIVE)];
    int done = 0;

    if (l->used && l->requests[0] != NULL && l->requests[1] == NULL && below(&r->own, 2) == 0) {
        const int rc = pld_request_test(&l->requests[0], &done);

        if (done)
            return conclude(r, l, rc) == 0 ? l : NULL;
        for (int i = 0; i < LIVE; i++) {
            if (!r->live[i].used)
                return &r->live[i];
        }
    }
    return !l->used || finish(r, l) == 0 ? l : NULL;
}

static int do_one(struct rank *r, uint64_t *program, size_t number)
{
    struct plan plan = draw_plan(program, r->job->ranks);
    struct live *l;
    int rc;

    if (number % 8 < 4) /* in one group, for they follow each other there */
        plan.group = (int)(number / 8 % RANDOM_GROUPS);
    if (r->groups[plan.group] == NULL)
        return 0;
    l = make_room(r);
    if (l == NULL)
        return -1;
    *l = (struct live){.plan = plan, .number = number, .used = 1};
    enter(r, l);
    l->plan.root %= r->in.size;
    l->plan.shift %= r->in.size;
    if (r->in.size == 1 && plan.act == DIFFER)
        l->plan.act = ALLREDUCE;
    if (acts[plan.act].reduces && plan.dtype <= PLD_BF16 && plan.act != LEAVES &&
        (plan.op == PLD_AVG || plan.salt % 4 == 0))
        l->plan.scale = 0.5;
    CHECK(r->rt, prepare(r, l) == 0);
    delay();
    rc = call(r, r->groups[plan.group], l);
    if (plan.act == MESSAGE && rc == 0)
        return plan.waits ? finish(r, l) : 0;
    if (rc != 0 || plan.waits || plan.act == AGREE)
        return conclude(r, l, rc);
    return 0;
}

/* Little data are many pieces, and delays are in the middle of what moves them. */
static void set_team(const struct job *job, pld_group *g)
{
    g->kernels = &slow_kernels;
    if (job->shrink)
        g->chunk_bytes = PLDI_SMALL_BYTES + PLDI_TEAM_PIECE_MIN;
    if (job->shrink && g->team != NULL)
        g->team->slot_bytes = (size_t)g->size * PLDI_TEAM_PIECE_MIN;
}

/* Nothing is under way: all ranks change what they agree on. */
static int set_up(const struct rank *r, pld_group *g)
{
    pld_group *local;

    if (g == NULL)
        return 0;
    CHECK(r->rt, pld_barrier(g, NULL) == 0);
    g->node->kernels = &slow_kernels;
    g->node->crowded = !r->job->near;
    if (r->job->streams)
        g->node->cache_bytes = PLDI_TEAM_SMALL;
    set_team(r->job, g);
    CHECK(r->rt, pld_group_set_reproducible(g, r->job->reproducible) == 0);
    if (r->job->rules != NULL)
        CHECK(r->rt, pld_group_set_tuning(g, r->job->rules) == 0);
    local = g->nodes != NULL ? g->nodes->local : NULL;
    if (local != NULL) {
        set_team(r->job, local);
        local->tuning = g->tuning; /* two levels inside a node, too */
    }
    return 0;
}

static int make_groups(struct rank *r, uint64_t *program)
{
    pld_group *world = pld_runtime_world(r->rt);
    const int rank = pld_runtime_rank(r->rt);
    uint64_t color = 0;

    r->groups[0] = world;
    CHECK(r->rt, pld_group_split(world, rank % 2, -rank, &r->groups[1]) == 0);
    for (int i = 0; i <= rank; i++)
        color = below(program, 4);
    for (int i = rank + 1; i < r->job->ranks; i++)
        (void)draw(program);
    CHECK(r->rt, pld_group_split(world, (int)color - 1, rank, &r->groups[2]) == 0);
    CHECK(r->rt,
          pld_mesh_create(r->rt, r->job->ranks % 2 == 0 ? "tp=2,dp=0" : "dp=0", &r->mesh) == 0);
    r->groups[3] = pld_mesh_group(r->mesh, PLD_AXIS_TP);
    r->groups[4] = pld_mesh_group(r->mesh, PLD_AXIS_DP);
    for (int g = 0; g < RANDOM_GROUPS; g++)
        CHECK(r->rt, set_up(r, r->groups[g]) == 0);
    return 0;
}

static void drop_groups(struct rank *r)
{
    pld_group_destroy(&r->groups[1]);
    pld_group_destroy(&r->groups[2]);
    pld_mesh_destroy(&r->mesh);
}

static int body(pld_runtime *rt, void *context)
{
    const struct job *job = context;
    struct rank *r = calloc(1, sizeof(*r));
    uint64_t program = job->seed;

    r->rt = rt;
    r->job = job;
    is_slow = pld_runtime_rank(rt) == (int)(job->seed % (uint64_t)job->ranks);
    r->own = job->seed * 1000 + (uint64_t)pld_runtime_rank(rt);
    if (job->spins)
        pldi_engine_set_cores(pld_runtime_world(rt)->engine, 2 * job->ranks, job->ranks);
    CHECK(rt, make_groups(r, &program) == 0);
    for (int step = 0; step < job->steps; step++) {
        CHECK(rt, do_one(r, &program, (size_t)step) == 0);
        if (below(&program, 40) != 0)
            continue;
        CHECK(rt, finish_all(r) == 0);
        drop_groups(r);
        CHECK(rt, make_groups(r, &program) == 0);
    }
    CHECK(rt, finish_all(r) == 0);
    drop_groups(r);
    free(r);
    return 0;
}

/* --- seeds --- */

static void set(const char *name, const char *value)
{
    if (value == NULL)
        (void)unsetenv(name);
    else
        (void)setenv(name, value, 1);
}

static int run(uint64_t seed)
{
    static const int ranks[] = {2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 12, 13, 16, 24, 64};
    static const char *const shm[] = {NULL, NULL, NULL,   NULL,   NULL,
                                      NULL, NULL, "copy", "copy", "0"};
    static const char *const some[] = {NULL, NULL, NULL, "2", "3"};
    static const char *const rules[] = {"* * 1 * 0 * -> numa 64K",
                                        "* * 1 * 0 * -> numa 1K",
                                        NULL,
                                        "* * * 2+ 0 * -> nodes 1K\n* * 2+ 1 0 * -> ring 1K",
                                        "* * * 2+ 0 * -> nodes 16K\n* * 2+ 1 0 * -> halving 1K",
                                        "* * 2+ * 0 * -> flat 1K"};
    enum { NUMA_RULES = 3 };
    static const unsigned delays[] = {0, 10, 100, 1000};
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .timeout = 100};
    uint64_t state = seed + 12345;
    struct job job = {.seed = seed};
    const char *nodes = some[below(&state, 5)];
    const char *numas = some[below(&state, 5)];
    const char *memory = shm[below(&state, 10)];
    const char *check = below(&state, 8) == 0 ? "sync" : NULL;
    const char *thread = below(&state, 4) == 0 ? "0" : NULL;

    job.ranks = ranks[below(&state, sizeof(ranks) / sizeof(ranks[0]) - SLOW)];
    job.rules = rules[below(&state, numas != NULL ? NUMA_RULES : sizeof(rules) / sizeof(rules[0]))];
    job.shrink = below(&state, 3) != 0;
    job.near = below(&state, 2) == 0;
    job.streams = below(&state, 2) == 0;
    job.spins = below(&state, 4) == 0 && job.ranks <= 4;
    job.reproducible = below(&state, 4) == 0;
    job.steps = (SLOW ? 200 : 400) / job.ranks + 10;
    atomic_store(&delay_one_in, delays[below(&state, 4)]);
    set("POLDER_FAKE_NODES", nodes);
    set("POLDER_FAKE_NUMA", numas);
    set("POLDER_SHM", memory);
    set("POLDER_COMM_THREAD", thread);
    set("POLDER_CHECK", check);
    return ok(inproc_run_with(job.ranks, body, &job, &opts) == 0,
              "seed %llu: %d ranks, nodes %s, NUMA nodes %s, shm %s, rules \"%.23s\"",
              (unsigned long long)seed, job.ranks, nodes == NULL ? "1" : nodes,
              numas == NULL ? "1" : numas, memory == NULL ? "1" : memory,
              job.rules == NULL ? "" : job.rules);
}

int main(void)
{
    const char *wanted = getenv("POLDER_TEST_SEED");
    uint64_t first = 1;
    uint64_t n = FIXED_SEEDS;

    if (wanted != NULL) {
        char *end;

        first = strtoull(wanted, &end, 10);
        n = *end == ',' ? strtoull(end + 1, NULL, 10) : 1;
    }
    slow_kernels = *pldi_kernels();
    slow_kernels.copy = slow_copy;
    slow_kernels.reduce_to = slow_reduce_to;
    for (uint64_t seed = first; seed < first + n; seed++)
        (void)run(seed);
    return tap_done();
}
