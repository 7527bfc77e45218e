/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Recording is on the path of every call: one clock, one hash, a line and a half of
 * stores.  A slot whose operation is still under way is passed over, so that a report
 * finds it however many others have come since.
 */

#include "health/health.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/base_cpu.h"
#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "health/health_impl.h"
#include "topo/topo.h"

enum { PROBES = 16, SKIPS = 64 };

static const int64_t SECOND = 1000000000;

_Static_assert(sizeof(struct pldi_shm_place) <= sizeof(((struct pldi_health_card *)0)->place),
               "the card has room");

static void store(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

int64_t pldi_health_now(void)
{
    return pldi_clock_ns();
}

void pldi_health_tell_scale(struct pldi_health *h)
{
    const struct pldi_ticks_scale scale = pldi_ticks_measure(&h->gauge);

    pldi_ring_set_scale(h->ring, &scale);
}

static int thread_number(void)
{
    static _Thread_local __attribute__((tls_model("initial-exec"))) int number;

    if (number == 0)
        number = (int)syscall(SYS_gettid);
    return number;
}

/* ---- Opening and closing ---- */

/* What an earlier, larger job left in the folder, and its report. */
static void clear_folder(const struct pldi_health *h)
{
    char path[4200];
    int rank = h->size;

    (void)snprintf(path, sizeof(path), "%s/report.txt", h->trace_dir);
    (void)unlink(path);
    do
        (void)snprintf(path, sizeof(path), "%s/rank-%05d.trace", h->trace_dir, rank++);
    while (unlink(path) == 0);
}

static int make_ring(struct pldi_health *h)
{
    const size_t bytes = sizeof(struct pldi_ring);
    char path[4200];

    if (h->trace_dir == NULL)
        return pldi_shm_create(bytes, "the recorder", &h->shm);
    if (mkdir(h->trace_dir, 0777) != 0 && errno != EEXIST)
        return pldi_fail(PLD_ERR_IO, "cannot make the folder %s for traces: %s", h->trace_dir,
                         strerror(errno));
    if (h->rank == 0)
        clear_folder(h);
    (void)snprintf(path, sizeof(path), "%s/rank-%05d.trace", h->trace_dir, h->rank);
    return pldi_shm_create_file(path, bytes, &h->shm);
}

static void fill_head(const struct pldi_health *h, const char *host)
{
    struct pldi_ring_head *head = &h->ring->u.head;
    struct timespec wall;

    head->version = PLDI_RING_VERSION;
    head->record_bytes = sizeof(struct pldi_ring_record);
    head->records = PLDI_RING_RECORDS;
    head->sites = PLDI_RING_SITES;
    head->groups = PLDI_RING_GROUPS;
    head->rank = h->rank;
    head->size = h->size;
    head->pid = getpid();
    (void)snprintf(head->host, sizeof(head->host), "%s", host);
    for (unsigned i = 0; i < PLDI_RING_KINDS; i++)
        (void)snprintf(head->kinds[i], sizeof(head->kinds[i]), "%.23s", h->opts.kind_name(i));
    for (int i = 0; i < 16; i++) {
        const char *name = pld_dtype_name((pld_dtype)i);

        (void)snprintf(head->dtypes[i], sizeof(head->dtypes[i]), "%.7s", name != NULL ? name : "?");
    }
    for (unsigned i = 0; i < 8; i++)
        (void)snprintf(head->ops[i], sizeof(head->ops[i]), "%.7s", h->opts.op_name(i));
    (void)clock_gettime(CLOCK_REALTIME, &wall);
    store(&head->wall_offset,
          (uint64_t)((int64_t)wall.tv_sec * SECOND + wall.tv_nsec - pldi_health_now()));
    memcpy(head->magic, "PLDTRACE", sizeof(head->magic));
}

static int make_peers(struct pldi_health *h)
{
    h->peers = pldi_alloc((size_t)h->size, sizeof(h->peers[0]), "the recorder");
    if (h->peers == NULL)
        return PLD_ERR_NOMEM;
    for (int r = 0; r < h->size; r++) {
        h->peers[r].watch = -1;
        h->peers[r].shm.fd = -1;
    }
    return PLD_OK;
}

static void fill_card(const struct pldi_health *h, struct pldi_health_card *card)
{
    struct pldi_shm_place place;
    struct pldi_place here;

    memset(card, 0, sizeof(*card));
    pldi_topo_here(h->rank, h->size, &here);
    (void)snprintf(card->node, sizeof(card->node), "%s", here.host);
    (void)gethostname(card->host, sizeof(card->host) - 1);
    card->pid = getpid();
    card->job = pldi_shm_random();
    if (h->shm.data != NULL) {
        pldi_shm_describe(&h->shm, &place);
        memcpy(card->place, &place, sizeof(place));
    }
}

static void init_locks(struct pldi_health *h)
{
    pthread_mutexattr_t recursive;

    (void)pthread_mutex_init(&h->lock, NULL);
    (void)pthread_mutexattr_init(&recursive);
    (void)pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    (void)pthread_mutex_init(&h->hook, &recursive);
    (void)pthread_mutex_init(&h->watching, &recursive);
    (void)pthread_mutexattr_destroy(&recursive);
}

void pldi_health_set_timeout(struct pldi_health *h, double seconds)
{
    const int64_t timeout = (int64_t)(seconds * 1e9);

    atomic_store(&h->tick, timeout > 0 && timeout / 8 < SECOND / 5 ? timeout / 8 : SECOND / 5);
    atomic_store(&h->timeout, timeout);
}

int pldi_health_create(int rank, int size, const struct pldi_health_opts *opts,
                       struct pldi_health **out, struct pldi_health_card *card)
{
    struct pldi_health *h = pldi_alloc(1, sizeof(*h), "the recorder");
    int rc;

    if (h == NULL)
        return PLD_ERR_NOMEM;
    init_locks(h);
    pldi_ticks_choose(NULL);
    h->opts = *opts;
    pldi_health_set_timeout(h, opts->timeout);
    h->rank = rank;
    h->size = size;
    h->shm.fd = h->listener = -1;
    h->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (opts->trace_dir != NULL)
        h->trace_dir = pldi_strdup(opts->trace_dir);
    rc = opts->trace_dir != NULL && h->trace_dir == NULL ? PLD_ERR_NOMEM : make_peers(h);
    if (rc == PLD_OK)
        rc = make_ring(h);
    fill_card(h, card);
    if (rc < 0) {
        pldi_health_destroy(&h);
        return rc;
    }
    h->ring = (void *)h->shm.data;
    fill_head(h, card->host);
    pldi_health_tell_scale(h);
    *out = h;
    return PLD_OK;
}

int pldi_health_meet(struct pldi_health *h, const struct pldi_health_card *cards)
{
    int all = 1;

    store(&h->ring->u.head.job, cards[0].job);
    for (int r = 0; r < h->size; r++) {
        struct pldi_other *p = &h->peers[r];
        struct pldi_shm_place place;

        p->card = cards[r];
        p->node = r;
        if (r == h->rank) {
            p->ring = h->ring;
            continue;
        }
        if (strcmp(cards[r].node, cards[h->rank].node) != 0)
            continue;
        memcpy(&place, cards[r].place, sizeof(place));
        if (pldi_shm_map(&place, &p->shm) == PLD_OK)
            p->ring = (void *)p->shm.data;
        if (p->ring != NULL && cards[r].pid != getpid())
            p->watch = pldi_shm_watch(cards[r].pid);
        all &= p->ring != NULL;
    }
    return all;
}

static int whole_node(const struct pldi_health *h, const unsigned char *met, int rank)
{
    for (int r = 0; r < h->size; r++) {
        if (strcmp(h->peers[r].card.node, h->peers[rank].card.node) == 0 && !met[r])
            return 0;
    }
    return 1;
}

int pldi_health_listen(struct pldi_health *h, const unsigned char *met,
                       struct pldi_health_card *card)
{
    pldi_shm_seal(&h->shm);
    for (int r = 0; r < h->size; r++) {
        struct pldi_other *p = &h->peers[r];

        for (int first = 0; first < r && p->node == r && whole_node(h, met, r); first++) {
            if (strcmp(h->peers[first].card.node, p->card.node) == 0)
                p->node = first;
        }
        h->nodes += p->node == r;
    }
    for (int r = 0; r < h->size; r++) {
        if (h->peers[r].node != h->peers[h->rank].node) {
            h->peers[r].ring = NULL;
            pldi_shm_unmap(&h->peers[r].shm);
        }
    }
    return h->nodes > 1 ? pldi_net_listen(h, card) : PLD_OK;
}

int pldi_health_start(struct pldi_health *h, const struct pldi_health_card *cards)
{
    sigset_t all, old;
    int rc;

    for (int r = 0; r < h->size; r++)
        h->peers[r].card = cards[r];
    if (h->size == 1)
        return PLD_OK;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the program's threads */
    rc = pthread_create(&h->thread, NULL, pldi_watch_thread, h);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return pldi_fail(PLD_ERR_NOMEM, "no thread to watch over the job: %s", strerror(rc));
    h->running = 1;
    return PLD_OK;
}

/* The answer that was on its way for the shortest time is the best. */
void pldi_health_set_clock(struct pldi_health *h)
{
    struct pldi_ask ask = {.rank = 0, .type = PLDI_ASK_TIME};
    int64_t best = INT64_MAX;

    if (h->nodes < 2 || h->peers[h->rank].node == 0 || h->peers[h->rank].node != h->rank)
        return;
    for (int i = 0; i < 8; i++) {
        const int64_t before = pldi_health_now();
        int64_t took;

        pldi_net_ask(h, &ask, 1, SECOND);
        took = pldi_health_now() - before;
        if (!ask.result)
            return;
        if (took >= best)
            continue;
        best = took;
        for (int r = 0; r < h->size; r++) {
            struct pldi_ring *ring = (void *)h->peers[r].shm.data;

            ring = r == h->rank ? h->ring : ring;
            if (ring != NULL)
                store(&ring->u.head.clock_offset, (uint64_t)(ask.value - before - took / 2));
        }
    }
}

void pldi_health_leave(struct pldi_health *h)
{
    if (h->ring == NULL)
        return;
    if (!h->running) /* else that thread does */
        pldi_health_tell_scale(h);
    store(&h->ring->u.head.left, (uint64_t)pldi_health_now());
}

static void stop_thread(struct pldi_health *h)
{
    if (!h->running)
        return;
    h->running = 0;
    atomic_store(&h->stop, 1);
    (void)eventfd_write(h->wake, 1);
    (void)pthread_join(h->thread, NULL);
}

void pldi_health_destroy(struct pldi_health **health)
{
    struct pldi_health *h = *health;

    if (h == NULL)
        return;
    stop_thread(h);
    for (int r = 0; h->peers != NULL && r < h->size; r++) {
        pldi_shm_unwatch(h->peers[r].watch);
        pldi_shm_unmap(&h->peers[r].shm);
    }
    if (h->listener >= 0)
        (void)close(h->listener);
    if (h->wake >= 0)
        (void)close(h->wake);
    pldi_shm_unmap(&h->shm);
    (void)pthread_mutex_destroy(&h->lock);
    (void)pthread_mutex_destroy(&h->hook);
    (void)pthread_mutex_destroy(&h->watching);
    pldi_free(h->peers);
    pldi_free(h->trace_dir);
    pldi_free(h);
    *health = NULL;
}

/* ---- Groups ---- */

static void enter_group(struct pldi_health *h, struct pldi_health_group *g)
{
    struct pldi_ring_head *head = &h->ring->u.head;

    (void)pthread_mutex_lock(&h->lock);
    g->index = (uint32_t)head->grouped;
    if (g->index >= PLDI_RING_GROUPS) /* the last entry is for all that come late */
        g->index = PLDI_RING_GROUPS - 1;
    g->entry = &h->ring->groups[g->index];
    store(&g->entry->id, g->id);
    store(&g->entry->size, (uint64_t)g->size);
    store(&g->entry->called, 0);
    store(&g->entry->ended, 0);
    store(&head->grouped, g->index + 1);
    g->next = h->groups;
    h->groups = g;
    (void)pthread_mutex_unlock(&h->lock);
}

int pldi_health_group_create(struct pldi_health *h, const struct pldi_health_group *parent,
                             uint64_t number, int color, const int *members, int size,
                             struct pldi_health_group **out)
{
    const uint64_t place[3] = {parent != NULL ? parent->id : 0, number, (uint64_t)(uint32_t)color};
    struct pldi_health_group *g = pldi_alloc(1, sizeof(*g), "a group");

    if (g == NULL)
        return PLD_ERR_NOMEM;
    g->members = pldi_alloc((size_t)size, sizeof(g->members[0]), "a group");
    if (g->members == NULL) {
        pldi_free(g);
        return PLD_ERR_NOMEM;
    }
    for (int r = 0; r < size; r++)
        g->members[r] = parent == NULL ? r : parent->members[members[r]];
    g->health = h;
    g->id = pldi_hash64(place, sizeof(place));
    g->size = size;
    enter_group(h, g);
    pldi_health_group_name(g, parent == NULL ? "world" : "a group");
    *out = g;
    return PLD_OK;
}

void pldi_health_group_destroy(struct pldi_health_group **group)
{
    struct pldi_health_group *g = *group;
    struct pldi_health_group **list;

    if (g == NULL)
        return;
    (void)pthread_mutex_lock(&g->health->lock);
    for (list = &g->health->groups; *list != g; list = &(*list)->next)
        ;
    *list = g->next;
    (void)pthread_mutex_unlock(&g->health->lock);
    pldi_free(g->members);
    pldi_free(g);
    *group = NULL;
}

void pldi_health_group_name(struct pldi_health_group *group, const char *name)
{
    if (group == NULL)
        return;
    (void)snprintf(group->name, sizeof(group->name), "%s", name);
    pldi_ring_put_text(group->entry->name, 3, name);
}

const char *pldi_health_group_text(const struct pldi_health_group *group)
{
    return group != NULL ? group->name : "a group";
}

struct pldi_health *pldi_health_group_owner(const struct pldi_health_group *group)
{
    return group->health;
}

struct pldi_door *pldi_health_group_door(const struct pldi_health_group *group, int rank)
{
    struct pldi_health *h = group->health;
    const int there = group->members[rank];
    struct pldi_ring *ring = there == h->rank ? h->ring : (void *)h->peers[there].shm.data;

    return ring != NULL ? &ring->u.head.door : NULL;
}

/* ---- Recording ---- */

static uint64_t key_of(const struct pldi_site *site)
{
    if (site->file == NULL)
        return (uint64_t)(uintptr_t)site->address << 16 | 0xffff;
    return ((uint64_t)(uintptr_t)site->file << 16) + (uint64_t)(unsigned)site->line + 1;
}

/* With the lock held: a number for a new site; the last one is for all that come late. */
static uint64_t add_site(struct pldi_health *h, const struct pldi_site *site, uint64_t key,
                         size_t first)
{
    struct pldi_ring_head *head = &h->ring->u.head;
    const uint64_t id = head->sited < PLDI_RING_SITES ? head->sited : PLDI_RING_SITES - 1;
    char text[PLDI_SITE_BYTES];

    for (size_t i = first; i < first + PROBES; i++) {
        struct pldi_site_key *slot = &h->sites[i % (2 * PLDI_RING_SITES)];

        if (atomic_load(&slot->key) == key)
            return atomic_load(&slot->id);
        if (atomic_load(&slot->key) != 0)
            continue;
        pldi_site_text(site, text, sizeof(text));
        pldi_ring_put_text(h->ring->sites[id].word, 8,
                           id < PLDI_RING_SITES - 1 ? text : "one of too many places");
        store(&head->sited, id + 1);
        atomic_store(&slot->id, id);
        atomic_store_explicit(&slot->key, key, memory_order_release);
        return id;
    }
    return PLDI_RING_SITES - 1;
}

static uint64_t site_number(struct pldi_health *h)
{
    const struct pldi_site site = pldi_site_now();
    const uint64_t key = key_of(&site);
    const size_t first = (size_t)(key * 0x9e3779b97f4a7c15u >> 40) % (2 * PLDI_RING_SITES);
    uint64_t id;

    for (size_t i = first; i < first + PROBES; i++) {
        const struct pldi_site_key *slot = &h->sites[i % (2 * PLDI_RING_SITES)];
        const uint64_t there = atomic_load_explicit(&slot->key, memory_order_acquire);

        if (there == key)
            return atomic_load_explicit(&slot->id, memory_order_relaxed);
        if (there == 0)
            break;
    }
    (void)pthread_mutex_lock(&h->lock);
    id = add_site(h, &site, key, first);
    (void)pthread_mutex_unlock(&h->lock);
    return id;
}

static _Atomic uint64_t *take_slot(struct pldi_ring *ring, uint64_t *number)
{
    _Atomic uint64_t *w = NULL;

    for (int i = 0; i < SKIPS; i++) {
        *number = atomic_fetch_add_explicit(&ring->u.head.next, 1, memory_order_relaxed) + 1;
        w = ring->records[(*number - 1) % PLDI_RING_RECORDS].word;
        if (w[0] == 0 || w[3] != 0)
            break;
    }
    return w;
}

uint64_t pldi_health_ticket(const struct pldi_health_group *g)
{
    uint64_t number;
    _Atomic uint64_t *w;

    if (g == NULL)
        return 0;
    w = take_slot(g->health->ring, &number);
    store(&w[0], 0);
    store(&w[3], 0);
    return number;
}

void pldi_health_called(struct pldi_health_group *g, uint64_t number,
                        const struct pldi_health_call *c)
{
    uint64_t site;
    _Atomic uint64_t *w;

    if (g == NULL)
        return;
    site = site_number(g->health);
    w = g->health->ring->records[(number - 1) % PLDI_RING_RECORDS].word;
    store(&w[1], c->stamp);
    store(&w[2], 0);
    store(&w[4], c->sequence);
    store(&w[5], c->count);
    store(&w[7], (c->kind & 31) | (uint64_t)(c->dtype & 15) << 8 | (uint64_t)(c->op & 7) << 16 |
                     (uint64_t)c->flags << 24 | (uint64_t)g->index << 32 | site << 48);
    store(&w[8], (uint32_t)c->peer | (uint64_t)(uint32_t)c->tag << 32);
    store(&w[9], (uint32_t)thread_number());
    if (c->name != NULL)
        pldi_ring_put_text(&w[10], 6, c->name);
    else
        store(&w[10], 0);
    if (!(c->flags & PLDI_REC_MESSAGE)) {
        g->chain = (g->chain ^ c->print) * 0x9e3779b97f4a7c15u + 1;
        store(&g->entry->called, c->sequence + 1);
    }
    store(&w[6], g->chain);
    store(&w[0], number);
    /* The lines of the next one are fetched while this one waits. */
    w = g->health->ring->records[number % PLDI_RING_RECORDS].word;
    pldi_fetch_to_write(&w[0]);
    pldi_fetch_to_write(&w[8]);
}

static _Atomic uint64_t *slot_of(const struct pldi_health_group *g, uint64_t ticket)
{
    _Atomic uint64_t *w;

    if (g == NULL || ticket == 0)
        return NULL;
    w = g->health->ring->records[(ticket - 1) % PLDI_RING_RECORDS].word;
    return w[0] == ticket ? w : NULL;
}

void pldi_health_site(const struct pldi_health_group *g, uint64_t ticket,
                      char text[PLDI_SITE_BYTES])
{
    const _Atomic uint64_t *w = slot_of(g, ticket);
    const struct pldi_site site = pldi_site_now();

    if (w != NULL)
        pldi_ring_get_text(g->health->ring->sites[w[7] >> 48 & (PLDI_RING_SITES - 1)].word,
                           PLDI_SITE_BYTES / 8, text);
    else
        pldi_site_text(&site, text, PLDI_SITE_BYTES);
}

void pldi_health_started(const struct pldi_health_group *g, uint64_t ticket)
{
    _Atomic uint64_t *w = slot_of(g, ticket);

    if (w != NULL && w[2] == 0)
        store(&w[2], pldi_ticks());
}

void pldi_health_ended(const struct pldi_health_group *g, uint64_t ticket, int code)
{
    _Atomic uint64_t *w = slot_of(g, ticket);
    uint64_t now;

    if (w == NULL)
        return;
    if (code == PLD_ERR_PEER)
        atomic_store(&g->health->failed, 1);
    now = pldi_ticks();
    if (w[2] == 0 && code >= 0)
        store(&w[2], now);
    if (code < 0)
        store(&w[9], (uint32_t)w[9] | (uint64_t)(uint32_t)code << 32);
    if (!((w[7] >> 24) & PLDI_REC_MESSAGE)) {
        store(&g->entry->ended_at, now);
        store(&g->entry->ended, w[4] + 1);
    }
    store(&w[3], now);
}
