/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file cuda_emulate.h
 * Device code as host code: a .cu is compiled by an ordinary C++17 compiler and its kernels
 * run, thread by thread, without a GPU.
 *
 * One .cpp includes this, then the .cu, then lists its kernels:
 *
 *     #include "cuda_emulate.h"
 *     #include "my.cu"
 *     const struct fake_kernel fake_kernels[] = {FAKE_KERNEL(my_kernel), FAKE_KERNELS_END};
 *
 * Blocks run one after the other, in an order that changes from launch to launch
 * (FAKE_CUDA_SEED=n chooses the first), and so do the threads of a block.  A thread runs
 * until it must wait: at __syncthreads(), or in a warp's collective function until those that
 * its mask names have come.  A kernel that never waits is a loop over plain calls.
 *
 * What is wrong with a kernel and shows:
 * - threads that wait for each other for ever, say because a collective is in a branch that
 *   not all of its mask take, end the program with a sentence (or see fake_kernels_complain);
 *   a thread that has ended is not waited for, as on a device since sm_70;
 * - shared memory begins as NaN in every block, and what a shuffle reads from a lane that does
 *   not take part is NaN;
 * - dynamic shared memory ends where the launch said, under AddressSanitizer;
 * - vectors that are not aligned, under UndefinedBehaviorSanitizer.
 *
 * What does not: races between two waits, but for those that a change of order brings up.
 *
 * Rules for the .cu: functions are static; shared arrays are declared in kernels or in plain
 * static functions; dynamic shared memory by DYNAMIC_SHARED(type, name), which the .cu itself
 * defines as `extern __shared__ type name[]` where it is not defined yet.
 */
#ifndef CUDA_EMULATE_H
#define CUDA_EMULATE_H

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <sys/mman.h>
#include <tuple>
#include <utility>

#include "cuda_emulate_fiber.h"
#include "fake_kernels.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static __attribute__((section("fake_shared")))
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(fake::dynamic_shared)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};

/* Of the thread that runs.  One launch at a time: plain variables. */
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

extern "C" {
/** Called with the sentence instead of ending the program; the launch is given up. */
extern __attribute__((visibility("default"))) void (*fake_kernels_complain)(const char *sentence);
extern char __start_fake_shared[] __attribute__((visibility("hidden")));
extern char __stop_fake_shared[] __attribute__((visibility("hidden")));
}
void (*fake_kernels_complain)(const char *sentence) = nullptr;

FAKE_BEGIN
enum { MAX_THREADS = 1024, MAX_SHARED = 227 << 10, WARP = 32, SLOT = 16, POISON = 0xff };

/* So that there is one such section in any case. */
static __attribute__((section("fake_shared"), used)) char shared_begins[16];
alignas(1024) static unsigned char dynamic_shared[MAX_SHARED];

enum wait { NOT_STARTED, RUNNING, AT_BARRIER, IN_WARP, DONE };

struct lane;

/* What the lanes of a group do together once all are there: reads `in`s, writes `out`s. */
typedef void (*together)(lane *const lanes[WARP], unsigned group);

struct lane {
    wait state;
    fiber *on; /* once it has had to wait */
    uint3 index;
    /* While it waits in a warp: */
    together what;
    unsigned mask;
    int source; /* lane, of a shuffle */
    unsigned char in[SLOT], out[SLOT];
    int predicate, votes; /* at a barrier */
};

/* Bit per lane. */
struct warp_state {
    unsigned waiting, live;
};

/* The launch under way. */
static lane lanes[MAX_THREADS];
static warp_state warps[MAX_THREADS / WARP];
static int order[MAX_THREADS];
static int ready[MAX_THREADS];
static int n_lanes, n_started, n_ready, n_done;
static lane *self;
static fiber *here;
static fiber *idle[MAX_THREADS + 1];
static int n_idle;
static fiber home;
static const char *kernel_name;
static void (*call)(const void *arguments);
static const void *call_arguments;
static uint64_t random_state;
static pthread_mutex_t one_launch = PTHREAD_MUTEX_INITIALIZER;

static inline unsigned below(unsigned n)
{
    random_state = random_state * 6364136223846793005U + 1442695040888963407U;
    return (unsigned)((random_state >> 33) % n);
}

/* Fisher and Yates. */
template <class T> static void mix_up(T *items, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        items[i] = (T)i;
    for (unsigned i = n; i > 1; i--)
        std::swap(items[i - 1], items[below(i)]);
}

static void become(lane *l)
{
    self = l;
    threadIdx = l->index;
}

static void go(fiber *to)
{
    fiber *from = here;

    here = to;
    fiber_switch(from, to);
}

/* Who runs while this one does not; what is new or wrong is for home to see to. */
static fiber *next_fiber(void)
{
    if (n_ready > 0)
        return lanes[ready[--n_ready]].on;
    if (n_started < n_lanes && n_idle > 0)
        return idle[--n_idle];
    return &home;
}

/* Wait: others run, until somebody makes this thread ready. */
static void suspend(wait why)
{
    lane *me = self;

    me->state = why;
    me->on = here;
    go(next_fiber());
    become(me);
}

static lane *first_of_warp(const lane *l)
{
    return lanes + (l - lanes) / WARP * WARP;
}

static warp_state &warp_of(const lane *l)
{
    return warps[(l - lanes) / WARP];
}

static unsigned bit_of(const lane *l)
{
    return 1U << (l - lanes) % WARP;
}

static void wake(lane *l)
{
    if (l->state == IN_WARP)
        warp_of(l).waiting &= ~bit_of(l);
    l->state = RUNNING;
    ready[n_ready++] = (int)(l - lanes);
}

/* Lanes of `mask` that have not ended, if all of them have come to the same function. */
static unsigned complete_group(const lane *warp, together what, unsigned mask)
{
    const unsigned group = mask & warp_of(warp).live;

    if ((warp_of(warp).waiting & group) != group)
        return 0;
    for (int k = 0; k < WARP; k++)
        if (group >> k & 1 && (warp[k].what != what || warp[k].mask != mask))
            return 0;
    return group;
}

static void act(lane *warp, together what, unsigned group)
{
    lane *members[WARP];

    for (int k = 0; k < WARP; k++)
        members[k] = group >> k & 1 ? warp + k : nullptr;
    what(members, group);
}

static void complain(const char *sentence)
{
    if (fake_kernels_complain != nullptr) {
        fake_kernels_complain(sentence);
        return;
    }
    fprintf(stderr, "%s\n", sentence);
    abort();
}

static void complain_of_mask(unsigned mask)
{
    char text[128];

    snprintf(text, sizeof(text), "kernel %s: thread %d calls a warp's function with mask %#x",
             kernel_name, (int)(self - lanes), mask);
    complain(text);
}

/* In a collective function: come, and stay until all have. */
static void meet(unsigned mask, together what)
{
    lane *me = self;
    lane *warp = first_of_warp(me);
    unsigned group;

    if ((mask & bit_of(me)) == 0)
        complain_of_mask(mask);
    me->what = what;
    me->mask = mask | bit_of(me);
    warp_of(me).waiting |= bit_of(me);
    group = complete_group(warp, what, me->mask);
    if (group == 0) {
        suspend(IN_WARP);
        return;
    }
    act(warp, what, group);
    warp_of(me).waiting &= ~bit_of(me);
    for (int k = 0; k < WARP; k++)
        if (group >> k & 1 && warp + k != me)
            wake(warp + k);
}

/* The end of a thread may be what the others of its warp wait for. */
static void leave(lane *gone)
{
    lane *warp = first_of_warp(gone);

    gone->state = DONE;
    n_done++;
    warp_of(gone).live &= ~bit_of(gone);
    if (warp_of(gone).waiting == 0)
        return;
    for (int k = 0; k < WARP; k++) {
        const lane *l = warp + k;
        const unsigned group = l->state == IN_WARP ? complete_group(warp, l->what, l->mask) : 0;

        if (group == 0)
            continue;
        act(warp, l->what, group);
        for (int other = 0; other < WARP; other++)
            if (group >> other & 1)
                wake(warp + other);
    }
}

/* What a fiber does: one thread after the other, and another fiber takes over when one waits. */
static void work_off(void *)
{
    for (;;) {
        while (n_started < n_lanes && n_ready == 0) {
            lane *l = lanes + order[n_started++];

            l->state = RUNNING;
            become(l);
            call(call_arguments);
            leave(self);
        }
        if (n_ready > 0) {
            fiber *other = lanes[ready[--n_ready]].on;

            idle[n_idle++] = here;
            go(other);
        } else {
            idle[n_idle++] = here;
            go(&home);
        }
    }
}

static void complain_of_waiting(void)
{
    char text[256];
    int at_barrier = 0;
    int in_warp = 0;
    int first = -1;

    for (int i = n_lanes - 1; i >= 0; i--) {
        at_barrier += lanes[i].state == AT_BARRIER;
        in_warp += lanes[i].state == IN_WARP;
        first = lanes[i].state == IN_WARP ? i : first;
    }
    snprintf(text, sizeof(text),
             "kernel %s, block %u: %d threads wait at a barrier and %d in warps for others that "
             "do not come, the first of them is %d with mask %#x",
             kernel_name, blockIdx.x, at_barrier, in_warp, first,
             first < 0 ? 0 : lanes[first].mask);
    complain(text);
}

/* All that are left are at the barrier: on with them. */
static bool open_barrier(void)
{
    int votes = 0;

    for (int i = 0; i < n_lanes; i++) {
        if (lanes[i].state == DONE)
            continue;
        if (lanes[i].state != AT_BARRIER)
            return false;
        votes += lanes[i].predicate != 0;
    }
    for (int i = 0; i < n_lanes; i++) {
        if (lanes[order[i]].state != AT_BARRIER)
            continue;
        lanes[order[i]].votes = votes;
        wake(lanes + order[i]);
    }
    return true;
}

static fiber *fresh_fiber(void)
{
    if (n_idle > 0)
        return idle[--n_idle];
    return fiber_new(work_off, nullptr);
}

/* Fibers of threads that will never run on are not used again. */
static bool give_up(void)
{
    complain_of_waiting();
    for (int i = 0; i < n_lanes; i++)
        if (lanes[i].state != DONE && lanes[i].on != nullptr)
            fiber_free(lanes[i].on);
    return false;
}

/* False: it hangs. */
static bool run_block(void)
{
    n_started = n_ready = n_done = 0;
    for (int i = 0; i < n_lanes; i++) {
        const unsigned n = (unsigned)i;

        if (i % WARP == 0)
            warp_of(lanes + i) = warp_state();
        warp_of(lanes + i).live |= bit_of(lanes + i);
        lanes[i].state = NOT_STARTED;
        lanes[i].on = nullptr;
        lanes[i].index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
    }
    mix_up(order, (unsigned)n_lanes);
    memset(__start_fake_shared, POISON, (size_t)(__stop_fake_shared - __start_fake_shared));
    while (n_done < n_lanes) {
        if (n_ready > 0)
            go(lanes[ready[--n_ready]].on);
        else if (n_started < n_lanes)
            go(fresh_fiber());
        else if (!open_barrier())
            return give_up();
    }
    return true;
}

static void begin_seed(void)
{
    static int begun;
    const char *seed = getenv("FAKE_CUDA_SEED");

    if (!begun)
        random_state = seed == nullptr ? 1 : strtoull(seed, nullptr, 10);
    begun = 1;
}

static void run_grid(unsigned shared_bytes)
{
    const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
    unsigned *turn = static_cast<unsigned *>(malloc(blocks * sizeof(*turn)));

    begin_seed();
    mix_up(turn, blocks);
    here = &home;
    for (unsigned b = 0; b < blocks; b++) {
        blockIdx = {turn[b] % gridDim.x, turn[b] / gridDim.x % gridDim.y,
                    turn[b] / gridDim.x / gridDim.y};
        memset(dynamic_shared, POISON, shared_bytes);
        if (!run_block())
            break;
    }
    free(turn);
}

static void launch(const char *name, const unsigned grid[3], const unsigned block[3],
                   unsigned shared_bytes, void (*function)(const void *), const void *arguments)
{
    pthread_mutex_lock(&one_launch);
    kernel_name = name;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    n_lanes = (int)(block[0] * block[1] * block[2]);
    call = function;
    call_arguments = arguments;
    fiber_here(&home);
    fiber_close(dynamic_shared + shared_bytes, MAX_SHARED - shared_bytes);
    run_grid(shared_bytes);
    fiber_open(dynamic_shared, MAX_SHARED);
    pthread_mutex_unlock(&one_launch);
}

template <auto F> struct entry;

template <class... A, void (*F)(A...)> struct entry<F> {
    static constexpr size_t n = sizeof...(A);
    static constexpr size_t bytes[n + 1] = {sizeof(A)..., 0};

    static const char *name()
    {
        const fake_kernel *k = fake_kernels;

        while (k->name != nullptr && k->run != run)
            k++;
        return k->name;
    }
    static void thread(const void *arguments)
    {
        std::apply(F, *static_cast<const std::tuple<A...> *>(arguments));
    }

    template <size_t... I>
    static std::tuple<A...> values(void **arguments, std::index_sequence<I...>)
    {
        (void)arguments;
        return std::tuple<A...>(*static_cast<A *>(arguments[I])...);
    }

    static void run(const unsigned grid[3], const unsigned block[3], unsigned shared_bytes,
                    void **arguments)
    {
        const std::tuple<A...> copy = values(arguments, std::index_sequence_for<A...>());

        launch(name(), grid, block, shared_bytes, thread, &copy);
    }

    static constexpr fake_kernel make(const char *text)
    {
        return {text, run, n, bytes};
    }
};
FAKE_END

/* ---- What waits ---- */

static inline void __syncthreads()
{
    fake::suspend(fake::AT_BARRIER);
}

static inline int __syncthreads_count(int predicate)
{
    fake::self->predicate = predicate;
    fake::suspend(fake::AT_BARRIER);
    return fake::self->votes;
}

static inline int __syncthreads_or(int predicate)
{
    return __syncthreads_count(predicate) > 0;
}

static inline int __syncthreads_and(int predicate)
{
    return __syncthreads_count(!predicate) == 0;
}

FAKE_BEGIN
static void nothing(lane *const *, unsigned)
{
}

static void exchange(lane *const members[WARP], unsigned group)
{
    for (int k = 0; k < WARP; k++) {
        if (members[k] == nullptr)
            continue;
        if (group >> members[k]->source & 1)
            memcpy(members[k]->out, members[members[k]->source]->in, SLOT);
        else
            memset(members[k]->out, POISON, SLOT);
    }
}

static void vote(lane *const members[WARP], unsigned group)
{
    unsigned ballot = 0;

    for (int k = 0; k < WARP; k++)
        if (members[k] != nullptr && members[k]->in[0])
            ballot |= 1U << k;
    for (int k = 0; k < WARP; k++) {
        if (members[k] == nullptr)
            continue;
        memcpy(members[k]->out, &ballot, sizeof(ballot));
        memcpy(members[k]->out + sizeof(ballot), &group, sizeof(group));
    }
}

static inline int lane_number()
{
    return (int)((self - lanes) % WARP);
}

template <class T> static T shuffle(unsigned mask, T value, int source)
{
    static_assert(sizeof(T) <= SLOT, "too large for a shuffle");
    T out;

    self->source = source;
    memcpy(self->in, &value, sizeof(value));
    meet(mask, exchange);
    memcpy(&out, self->out, sizeof(out));
    return out;
}

struct ballot {
    unsigned yes, all;
};

static ballot take_vote(unsigned mask, int predicate)
{
    ballot b;

    self->in[0] = predicate != 0;
    meet(mask, vote);
    memcpy(&b, self->out, sizeof(b));
    return b;
}
FAKE_END

static inline void __syncwarp(unsigned mask = 0xffffffffU)
{
    fake::meet(mask, fake::nothing);
}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = fake::WARP)
{
    const int lane = fake::lane_number();

    return fake::shuffle(mask, value, lane / width * width + (source & (width - 1)));
}

template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = fake::WARP)
{
    const int lane = fake::lane_number();
    const int source = lane ^ bits;

    return fake::shuffle(mask, value, source / width > lane / width ? lane : source);
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = fake::WARP)
{
    const int lane = fake::lane_number();
    const int source = lane + (int)by;

    return fake::shuffle(mask, value, source / width != lane / width ? lane : source);
}

template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = fake::WARP)
{
    const int lane = fake::lane_number();
    const int source = lane - (int)by;

    return fake::shuffle(mask, value, source < lane / width * width ? lane : source);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    return fake::take_vote(mask, predicate).yes;
}

static inline int __any_sync(unsigned mask, int predicate)
{
    return fake::take_vote(mask, predicate).yes != 0;
}

static inline int __all_sync(unsigned mask, int predicate)
{
    const fake::ballot b = fake::take_vote(mask, predicate);

    return b.yes == b.all;
}

#define FAKE_KERNEL(function) fake::entry<function>::make(#function)
#define FAKE_KERNELS_END                                                                           \
    {                                                                                              \
        NULL, NULL, 0, NULL                                                                        \
    }

#include "cuda_emulate_types.h"

#endif /* CUDA_EMULATE_H */
