/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The device: one thread that works off the streams.
 *
 * Which stream goes on is for the policy to say among those that can; a pause before work
 * begins lets the host run ahead, so that the policy has something to choose from.  Work that
 * was tried and waits for other work has no say in it: it is tried again, in turn, when there is
 * nothing else, for on a device it would not keep other streams from what it waits for.
 */

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake_cuda_impl.h"

enum policy { RANDOM, NEWEST, OLDEST, LATEST, N_POLICIES };
static const char *const policies[] = {"random", "newest", "oldest", "latest"};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t host_wakes, device_wakes;

static struct CUstream_st *streams; /* newest first */
static unsigned long n_streams, seq, tries;
static unsigned waiting; /* host threads */
static bool started;
static enum policy policy;
static unsigned long random_state;
static double longest_pause, paused_until;

void fake_lock(void)
{
    pthread_mutex_lock(&lock);
}

void fake_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

double fake_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 0 .. n-1 */
static unsigned long draw(unsigned long n)
{
    random_state = random_state * 6364136223846793005UL + 1442695040888963407UL;
    return (random_state >> 33) % n;
}

/* ---- Which stream goes on ---- */

/* The default stream waits for what blocking streams were given before, and they for it. */
static bool implicitly_held(const struct CUstream_st *s)
{
    for (const struct CUstream_st *o = streams; o != NULL && s->blocking; o = o->next) {
        const bool related = o->ctx == s->ctx && o->blocking && o->legacy != s->legacy;

        if (related && o->first != NULL && o->first->seq < s->first->seq)
            return true;
    }
    return false;
}

/* Whether its first entry can be tried; else *soon: when, if time alone holds it up. */
static bool ready(const struct CUstream_st *s, double now, double *soon)
{
    if (s->first == NULL || implicitly_held(s))
        return false;
    if (s->first->wait != NULL && !s->first->wait->done && s->ctx->error == 0)
        return false;
    if (s->not_before > now) {
        *soon = s->not_before < *soon ? s->not_before : *soon;
        return false;
    }
    return true;
}

/* Whether the policy likes it more than the best so far, of n that nothing else tells apart. */
static bool preferred(const struct CUstream_st *s, const struct CUstream_st *best, unsigned long n)
{
    switch (policy) {
    case NEWEST:
        return s->number > best->number;
    case OLDEST:
        return s->number < best->number;
    case LATEST:
        return s->first->seq > best->first->seq;
    case RANDOM:
    case N_POLICIES:
        break;
    }
    return draw(n) == 0;
}

static struct CUstream_st *choose(double *soon)
{
    const double now = fake_now();
    struct CUstream_st *best = NULL;
    unsigned long n = 0;

    for (struct CUstream_st *s = streams; s != NULL; s = s->next) {
        if (!ready(s, now, soon))
            continue;
        if (best == NULL || s->tried < best->tried) {
            best = s;
            n = 1;
        } else if (s->tried == best->tried && preferred(s, best, ++n)) {
            best = s;
        }
    }
    return best;
}

/* ---- One entry ---- */

static void unlink_stream(struct CUstream_st *s)
{
    struct CUstream_st **at = &streams;

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    free(s);
}

static void finish_first(struct CUstream_st *s)
{
    struct fake_op *op = s->first;

    s->first = op->next;
    if (s->first == NULL)
        s->last = NULL;
    s->done++;
    s->backoff = s->not_before = 0;
    s->tried = 0;
    fake_work_put(op->work);
    fake_mark_put(op->record);
    fake_mark_put(op->wait);
    free(op);
    pthread_cond_broadcast(&host_wakes);
    if (s->destroyed && s->first == NULL)
        unlink_stream(s);
}

/* Not yet: try again after a while that grows if nothing moves at all. */
static void put_off(struct CUstream_st *s, bool moved)
{
    const double shortest = 10e-6, longest = 320e-6;

    s->backoff = moved || s->backoff == 0 ? shortest : 2 * s->backoff;
    if (s->backoff > longest)
        s->backoff = longest;
    s->not_before = moved ? 0 : fake_now() + s->backoff;
    s->tried = moved ? 0 : ++tries;
}

/* 1: the entry is over. */
static int run_work(struct CUstream_st *s)
{
    struct fake_op *op = s->first;
    struct fake_work *work = op->work;
    int r;

    if (work->slow_us > 0 && !op->paused) {
        op->paused = true;
        s->not_before = fake_now() + 1e-6 * (double)work->slow_us;
        return 0;
    }
    if (work->error != 0) {
        s->ctx->error = work->error;
        return 1;
    }
    fake_unlock();
    fake_guard_open();
    r = work->step(work->context);
    fake_guard_close();
    fake_lock();
    if (r < 0)
        s->ctx->error = -r;
    else if (r != 1)
        put_off(s, r == 2);
    return r != 0 && r != 2;
}

/* A lost device does nothing more; what waits for it goes on, and is told. */
static void run_first(struct CUstream_st *s)
{
    struct fake_op *op = s->first;

    if (op->record != NULL) {
        op->record->done = true;
        op->record->when = fake_now();
    }
    if (op->work == NULL || s->ctx->error != 0 || run_work(s))
        finish_first(s);
}

static void sleep_until(double when)
{
    struct timespec t;

    if (when >= 1e300) {
        pthread_cond_wait(&device_wakes, &lock);
        return;
    }
    t.tv_sec = (time_t)when;
    t.tv_nsec = (long)((when - (double)t.tv_sec) * 1e9);
    pthread_cond_timedwait(&device_wakes, &lock, &t);
}

/* Now and then a pause, in which the host gets ahead; none while it waits for us. */
static bool pausing(void)
{
    if (waiting > 0)
        paused_until = 0;
    else if (longest_pause > 0 && paused_until == 0 && draw(8) == 0)
        paused_until = fake_now() + longest_pause * (double)(1 + draw(100)) / 100;
    return paused_until > fake_now();
}

static void *device(void *unused)
{
    (void)unused;
    fake_lock();
    for (;;) {
        double soon = 1e300;
        struct CUstream_st *s;

        if (pausing()) {
            sleep_until(paused_until);
            continue;
        }
        paused_until = 0;
        s = choose(&soon);
        if (s != NULL)
            run_first(s);
        else
            sleep_until(soon);
    }
    return NULL;
}

static void read_environment(void)
{
    const char *name = getenv("FAKE_CUDA_POLICY");
    const unsigned long seed =
        (unsigned long)(fake_env_number("FAKE_CUDA_SEED", 1) + fake_process_rank());

    random_state = seed * 0x9e3779b97f4a7c15UL + 1;
    longest_pause = 1e-6 * (double)fake_env_number("FAKE_CUDA_DELAY", 200);
    policy = (enum policy)(seed % N_POLICIES);
    if (name == NULL || name[0] == '\0')
        return;
    for (policy = RANDOM; policy < N_POLICIES; policy++)
        if (strcmp(policies[policy], name) == 0)
            return;
    fake_die("FAKE_CUDA_POLICY=%s: there are random, newest, oldest, latest", name);
}

static void start(void)
{
    pthread_condattr_t monotonic;
    pthread_t thread;

    read_environment();
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&host_wakes, &monotonic);
    pthread_cond_init(&device_wakes, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&thread, NULL, device, NULL) != 0)
        fake_die("cannot start the device's thread");
    pthread_detach(thread);
    started = true;
}

/* ---- What the rest of the driver uses ---- */

struct fake_mark *fake_mark_new(void)
{
    struct fake_mark *mark = fake_alloc(1, sizeof(*mark));

    mark->refs = 1;
    return mark;
}

void fake_mark_put(struct fake_mark *mark)
{
    if (mark != NULL && --mark->refs == 0)
        free(mark);
}

struct fake_work *fake_work_new(int (*step)(void *), void *context, void (*release)(void *))
{
    struct fake_work *work = fake_alloc(1, sizeof(*work));

    *work = (struct fake_work){.refs = 1, .step = step, .context = context, .release = release};
    return work;
}

void fake_work_put(struct fake_work *work)
{
    if (work == NULL || --work->refs > 0)
        return;
    if (work->release != NULL)
        work->release(work->context);
    free(work);
}

struct CUstream_st *fake_stream_new(struct CUctx_st *ctx, bool blocking)
{
    struct CUstream_st *s = fake_handle_new(FAKE_STREAM, sizeof(*s));

    if (!started)
        start();
    s->ctx = ctx;
    s->blocking = blocking;
    s->number = ++n_streams;
    s->next = streams;
    streams = s;
    return s;
}

void fake_stream_drop(struct CUstream_st *stream)
{
    fake_handle_drop(stream);
    stream->destroyed = true;
    if (stream->first == NULL)
        unlink_stream(stream);
}

struct CUstream_st *fake_stream_of(struct CUctx_st *ctx, pldi_cu_stream handle)
{
    const pldi_cu_stream legacy = (pldi_cu_stream)1; /* CU_STREAM_LEGACY */

    if (handle == NULL || handle == legacy)
        return ctx->legacy;
    return fake_handle_valid(handle, FAKE_STREAM) ? handle : NULL;
}

/* The first work after idleness: give the host time to put more beside it. */
static bool all_idle(void)
{
    for (const struct CUstream_st *s = streams; s != NULL; s = s->next)
        if (s->first != NULL)
            return false;
    return true;
}

void fake_push(struct CUstream_st *stream, struct fake_op entry)
{
    struct fake_op *op = fake_alloc(1, sizeof(*op));

    if (longest_pause > 0 && all_idle())
        paused_until = fake_now() + longest_pause * (double)(1 + draw(100)) / 100;
    *op = entry;
    op->next = NULL;
    op->seq = ++seq;
    if (stream->last != NULL)
        stream->last->next = op;
    else
        stream->first = op;
    stream->last = op;
    stream->queued++;
    pthread_cond_signal(&device_wakes);
}

static void wait_once(void)
{
    waiting++;
    pthread_cond_signal(&device_wakes);
    pthread_cond_wait(&host_wakes, &lock);
    waiting--;
}

void fake_wait_stream(const struct CUstream_st *stream, unsigned long entries)
{
    while (stream->done < entries)
        wait_once();
}

void fake_wait_mark(const struct CUctx_st *ctx, const struct fake_mark *mark)
{
    while (!mark->done && ctx->error == 0)
        wait_once();
}

/* With work that was there when the clock stood at `until`. */
static bool busy(const struct CUctx_st *ctx, unsigned long until)
{
    for (const struct CUstream_st *s = streams; s != NULL; s = s->next)
        if (s->ctx == ctx && s->first != NULL && s->first->seq <= until)
            return true;
    return false;
}

void fake_wait_device(const struct CUctx_st *ctx)
{
    const unsigned long until = seq;

    while (busy(ctx, until))
        wait_once();
}

int fake_submit(struct CUctx_st *ctx, pldi_cu_stream stream, struct fake_work *work)
{
    struct CUstream_st *s = fake_stream_of(ctx, stream);
    int rc = PLDI_CU_SUCCESS;

    if (s == NULL)
        rc = PLDI_CU_INVALID_HANDLE;
    else if (s->legacy)
        rc = fake_capture_implicit(s->ctx);
    if (rc == PLDI_CU_SUCCESS && s->capture != NULL)
        return fake_capture_work(s, work);
    if (rc == PLDI_CU_SUCCESS)
        fake_push(s, (struct fake_op){.work = work});
    else
        fake_work_put(work);
    return rc;
}
