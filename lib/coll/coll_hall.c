/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Each rank has a seat in its node's hall, and puts a packet there for each node: its
 * opening, and what it sends with it to that node's ranks.  The first rank of a node
 * leads: when all have come it sends each other node their packets in one message,
 * receives theirs into the hall, and tells that they are there.  All ranks then read
 * all packets, as if each had come to them, and come to the same verdict and the same
 * sums as without nodes.  Many nodes, or many ranks, exchange a digest instead.
 *
 * Two sets in turn suffice.  A rank that comes to meeting n has ended n-1, so all of
 * its node have come to n-1, so all have ended n-2, the leader's messages included.
 */

#include "coll/coll_hall.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_digest.h"
#include "coll/coll_shape.h"
#include "coll/coll_shm.h"

enum {
    LINE = 128,
    ALIGN = 16, /* of packets, and of data in them */
    LEADER = 0
};

enum phase { GATHERING, CROSSING };

struct packet {
    uint64_t bytes;  /* of it all */
    uint32_t n_lens; /* lengths that follow its counts: one for all ranks, or of each */
    uint32_t none;
    struct pldi_opening opening;
};
_Static_assert(sizeof(struct packet) % ALIGN == 0, "what follows is aligned");

/* A counter with a line of its own, of meetings; one rank writes it. */
struct mark {
    _Atomic uint64_t n;
    unsigned char gap[LINE - 8];
};

/* What a rank has at the beginning of its seat. */
struct head {
    struct mark come;
    _Atomic int code; /* with which it gave up, and why */
    char text[PLDI_TEXT_BYTES - 4];
};
_Static_assert(sizeof(struct head) % LINE == 0, "whole lines");

struct pldi_hall {
    struct pldi_shm shm;
    struct pldi_nodes *nodes;
    int node, index, ranks; /* this rank's, where it is there, and how many are */
    int direct;             /* packets cross; else a digest */
    size_t small;           /* bytes that a packet has for one rank */
    size_t out_bytes;       /* of all packets of a rank */
    size_t seat_bytes;
    size_t *in_at;                 /* [n+1], where each node's packets begin */
    unsigned char *bundles;        /* of the leader: packets that go out */
    size_t *bundle_at;             /* [n+1] */
    struct pldi_word *words;       /* [size] */
    const struct packet **packets; /* [size] */
    uint64_t begun;
    int seen; /* ranks of the node below this one have come */
    enum phase phase;
};

static size_t padded(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* --- where things are: seat by seat, then what comes from other nodes --- */

static unsigned char *seat(const struct pldi_hall *h, int index)
{
    return h->shm.data + (size_t)index * h->seat_bytes;
}

static struct head *head_of(const struct pldi_hall *h, int index)
{
    return (void *)seat(h, index);
}

static int set_of(const struct pldi_hall *h)
{
    return (int)(h->begun % 2);
}

/* Of the set in use: [n], where a rank's packets begin, and those packets. */
static uint64_t *places(const struct pldi_hall *h, int index)
{
    return (void *)(seat(h, index) + sizeof(struct head) +
                    (size_t)set_of(h) * padded((size_t)h->nodes->n * sizeof(uint64_t), LINE));
}

static unsigned char *packets(const struct pldi_hall *h, int index)
{
    return seat(h, index + 1) - (size_t)(2 - set_of(h)) * h->out_bytes;
}

static struct mark *told(const struct pldi_hall *h)
{
    return (void *)seat(h, h->ranks);
}

static unsigned char *arrivals(const struct pldi_hall *h, int node)
{
    return (unsigned char *)told(h) + sizeof(struct mark) +
           (size_t)set_of(h) * h->in_at[h->nodes->n] + h->in_at[node];
}

static struct packet *packet_for(const struct pldi_hall *h, int index, int node)
{
    return (void *)(packets(h, index) + places(h, index)[node]);
}

/* --- making it --- */

void pldi_hall_detach(struct pldi_hall **hall)
{
    struct pldi_hall *h = *hall;

    if (h == NULL)
        return;
    pldi_shm_unmap(&h->shm);
    pldi_free(h->in_at);
    pldi_free(h->bundles);
    pldi_free(h->bundle_at);
    pldi_free(h->words);
    pldi_free((void *)h->packets);
    pldi_free(h);
    *hall = NULL;
}

/* The most that one rank says to `ranks` of a node. */
static size_t packet_most(const struct pldi_hall *h, int ranks)
{
    const size_t head = sizeof(struct packet) + PLDI_COUNTS * sizeof(uint64_t) + PLDI_TEXT_BYTES;
    const size_t each = sizeof(uint32_t) + padded(h->small, ALIGN);

    return padded(head + (h->direct ? (size_t)ranks * each : 0), ALIGN) + ALIGN;
}

static size_t lay_out(struct pldi_hall *h)
{
    const struct pldi_nodes *n = h->nodes;
    size_t all = 0;

    for (int i = 0; i < n->n; i++) {
        const size_t theirs = h->direct && i != h->node ? (size_t)pldi_nodes_ranks(n, i) : 0;
        const size_t to = packet_most(h, pldi_nodes_ranks(n, i));

        h->bundle_at[i + 1] = h->bundle_at[i] + (theirs > 0 ? (size_t)h->ranks * to : 0);
        h->in_at[i + 1] = h->in_at[i] + padded(theirs * packet_most(h, h->ranks), LINE);
        all += to;
    }
    if (!h->direct) /* no data: the same packet is for all */
        all = packet_most(h, 0);
    if (!h->direct)
        h->in_at[n->n] = padded(sizeof(struct pldi_digest), LINE);
    h->out_bytes = padded(all, LINE);
    h->seat_bytes =
        sizeof(struct head) + 2 * padded((size_t)n->n * sizeof(uint64_t), LINE) + 2 * h->out_bytes;
    return (size_t)h->ranks * h->seat_bytes + sizeof(struct mark) + 2 * h->in_at[n->n];
}

static struct pldi_hall *make(const pld_group *g, struct pldi_nodes *n)
{
    struct pldi_hall *h = pldi_alloc(1, sizeof(*h), "the hall of a node");
    const size_t nodes = (size_t)n->n;
    const size_t size = (size_t)g->size;
    size_t bytes;

    if (h == NULL)
        return NULL;
    h->shm.fd = -1;
    h->nodes = n;
    h->node = n->node_of[g->rank];
    h->index = n->index[g->rank];
    h->ranks = pldi_nodes_ranks(n, h->node);
    h->small = pldi_small_most(g->size, n->n);
    h->direct = h->small > 0;
    h->in_at = pldi_alloc(nodes + 1, sizeof(h->in_at[0]), "the hall of a node");
    h->bundle_at = pldi_alloc(nodes + 1, sizeof(h->bundle_at[0]), "the hall of a node");
    h->words = pldi_alloc(size, sizeof(h->words[0]), "the hall of a node");
    h->packets = pldi_alloc(size, sizeof(h->packets[0]), "the hall of a node");
    if (h->in_at == NULL || h->bundle_at == NULL || h->words == NULL || h->packets == NULL) {
        pldi_hall_detach(&h);
        return NULL;
    }
    bytes = lay_out(h);
    if (h->index != LEADER)
        return h;
    h->bundles = pldi_alloc(h->bundle_at[nodes] + 1, 1, "the hall of a node");
    if (h->bundles == NULL || pldi_shm_create(bytes, "the hall of a node", &h->shm) < 0)
        pldi_hall_detach(&h);
    return h;
}

int pldi_hall_attach(pld_group *group, struct pldi_nodes *nodes)
{
    struct pldi_hall *h = make(group, nodes);
    struct pldi_shm_place place = {0};
    int32_t able;
    int rc = PLD_OK;

    if (h != NULL && h->index == LEADER)
        pldi_shm_describe(&h->shm, &place);
    if (nodes->local->size > 1)
        rc = pld_broadcast(nodes->local, &place, sizeof(place), PLD_U8, LEADER, NULL);
    able = h != NULL && rc == PLD_OK && place.nonce != 0 &&
           (h->index == LEADER || pldi_shm_map(&place, &h->shm) == PLD_OK);
    if (rc == PLD_OK && nodes->local->size > 1)
        rc = pld_allreduce(nodes->local, &able, &able, 1, PLD_I32, PLD_MIN, NULL);
    if (!able || rc < 0) {
        pldi_hall_detach(&h);
        return 0;
    }
    pldi_shm_seal(&h->shm);
    nodes->hall = h;
    return 1;
}

/* --- what this rank says --- */

/* What goes to the ranks of a node: the same to all that get it, or to each its own. */
static size_t write_data(const pld_request *op, int node, struct packet *p, size_t at)
{
    const struct pldi_nodes *n = op->group->nodes;
    const int own = pldi_shape(op->kind)->cut[PLDI_SENT] == PLDI_BLOCKS;
    unsigned char *to = (void *)p;
    uint32_t *lens = (void *)(to + at);

    p->n_lens = own ? (uint32_t)pldi_nodes_ranks(n, node) : 1;
    at = padded(at + p->n_lens * sizeof(lens[0]), ALIGN);
    for (int i = n->starts[node]; i < n->starts[node + 1]; i++) {
        const size_t bytes = pldi_small_bytes(op, op->group->rank, n->by_node[i]);

        if (own || bytes > 0)
            lens[own ? i - n->starts[node] : 0] = (uint32_t)bytes;
        if (bytes > 0)
            pldi_small_put(op, n->by_node[i], to + at);
        at += padded(bytes, ALIGN);
        if (!own && bytes > 0)
            break;
    }
    return at;
}

static size_t write_packet(const pld_request *op, const struct pldi_opening *o, int node,
                           int has_data, unsigned char *to)
{
    struct packet *p = (void *)to;
    size_t at = sizeof(*p);

    *p = (struct packet){.opening = *o};
    if (o->n_counts > 0)
        memcpy(to + at, op->counts, o->n_counts * sizeof(op->counts[0]));
    at += o->n_counts * sizeof(op->counts[0]);
    if (op->code < 0) {
        memcpy(to + at, op->text, o->bytes);
        at += o->bytes;
    } else if (has_data) {
        at = write_data(op, node, p, at);
    }
    p->bytes = padded(at, ALIGN);
    return p->bytes;
}

static int gives(const pld_request *op, int node)
{
    const struct pldi_nodes *n = op->group->nodes;

    for (int i = n->starts[node]; op->code >= 0 && i < n->starts[node + 1]; i++) {
        if (pldi_small_bytes(op, op->group->rank, n->by_node[i]) > 0)
            return 1;
    }
    return 0;
}

/* Nodes that get the same find it in the same place. */
static void write_packets(const pld_request *op)
{
    const struct pldi_hall *h = op->group->nodes->hall;
    const int own = pldi_shape(op->kind)->cut[PLDI_SENT] == PLDI_BLOCKS;
    const struct pldi_opening o = pldi_open_make(op);
    uint64_t *place = places(h, h->index);
    uint64_t same[2] = {UINT64_MAX, UINT64_MAX}; /* without data, with */
    size_t at = 0;

    for (int i = 0; i < h->nodes->n; i++) {
        const int data = h->direct && gives(op, i);

        place[i] = same[data];
        if (place[i] != UINT64_MAX)
            continue;
        place[i] = at;
        if (!data || !own)
            same[data] = at;
        at += write_packet(op, &o, i, data, packets(h, h->index) + at);
    }
}

/* --- between nodes --- */

static int leader_of(const struct pldi_hall *h, int node)
{
    return h->nodes->by_node[h->nodes->starts[node]];
}

static int expect_bundles(pld_group *g)
{
    const struct pldi_hall *h = g->nodes->hall;
    struct pldi_transport *t = g->transport;

    for (int i = 0; i < h->nodes->n; i++) {
        const int peer = leader_of(h, i);

        if (i != h->node)
            PLDI_TRY(t->ops->irecv(t, arrivals(h, i), h->in_at[i + 1] - h->in_at[i], peer,
                                   PLDI_TAG_OPEN, &g->work.recvs[peer]));
    }
    return PLD_OK;
}

static int send_bundles(pld_group *g)
{
    const struct pldi_hall *h = g->nodes->hall;

    for (int step = 1; step < h->nodes->n; step++) {
        const int node = (h->node + step) % h->nodes->n;
        const int peer = leader_of(h, node);
        unsigned char *bundle = h->bundles + h->bundle_at[node];
        size_t bytes = 0;

        for (int i = 0; i < h->ranks; i++) {
            const struct packet *p = packet_for(h, i, node);

            memcpy(bundle + bytes, p, p->bytes);
            bytes += p->bytes;
        }
        PLDI_TRY(pldi_send_part(g, bundle, bytes, peer, PLDI_TAG_OPEN, &g->work.sends[peer]));
    }
    return PLD_OK;
}

static struct pldi_word word_of(const struct packet *p)
{
    struct pldi_word w = {.opening = &p->opening, .counts = (const void *)(p + 1)};

    w.text = (const void *)(w.counts + p->opening.n_counts);
    return w;
}

/* What the node comes to, and from there what the others do. */
static int send_digest(pld_group *g)
{
    const struct pldi_hall *h = g->nodes->hall;

    for (int i = 0; i < h->ranks; i++) {
        const struct pldi_word word = word_of(packet_for(h, i, h->node));

        pldi_digest_put((void *)(i == 0 ? g->work.out : g->work.in), &word);
        if (i > 0)
            pldi_digest_merge((void *)g->work.out, (const void *)g->work.in);
    }
    return pldi_digest_post(g);
}

static int cross(pld_group *g, int *moved)
{
    const struct pldi_hall *h = g->nodes->hall;
    int rc;

    if (h->direct)
        return pldi_work_test(g, g->size, moved);
    rc = pldi_digest_step(g, moved);
    if (rc == 1)
        memcpy(arrivals(h, 0), g->work.out, sizeof(struct pldi_digest));
    return rc;
}

/* --- the meeting --- */

static int is_at(const struct pldi_hall *h, struct mark *mark)
{
    return atomic_load_explicit(&mark->n, memory_order_acquire) == h->begun;
}

static void set_mark(const struct pldi_hall *h, struct mark *mark)
{
    atomic_store_explicit(&mark->n, h->begun, memory_order_release);
}

int pldi_hall_begin(pld_request *op)
{
    struct pldi_hall *h = op->group->nodes->hall;

    h->begun++;
    h->seen = 0;
    h->phase = GATHERING;
    write_packets(op);
    set_mark(h, &head_of(h, h->index)->come);
    return h->index == LEADER && h->direct ? expect_bundles(op->group) : PLD_OK;
}

/* What a rank did before it left counts: its end is found out first, its work looked at then. */
static int waits(pld_request *op)
{
    const struct pldi_hall *h = op->group->nodes->hall;
    const struct pldi_team *team = pldi_team_group(op->group)->team;

    if (!pldi_team_should_look(op))
        return 0;
    for (int gave_up = 0; gave_up <= 1; gave_up++) {
        for (int i = 0; i < h->ranks; i++) {
            const int theirs = i != h->index && pldi_team_gave_up(team, i) == gave_up;
            const int rc = theirs ? pldi_team_look(op, i) : PLD_OK;

            if (rc < 0 && (!is_at(h, &head_of(h, i)->come) || (i == LEADER && !is_at(h, told(h)))))
                return rc;
        }
    }
    return 0;
}

static int all_here(struct pldi_hall *h)
{
    while (h->seen < h->ranks && is_at(h, &head_of(h, h->seen)->come))
        h->seen++;
    return h->seen == h->ranks;
}

static int lead(pld_request *op, int *moved)
{
    struct pldi_hall *h = op->group->nodes->hall;
    int rc;

    if (h->phase == GATHERING) {
        if (!all_here(h))
            return waits(op);
        PLDI_TRY(h->direct ? send_bundles(op->group) : send_digest(op->group));
        h->phase = CROSSING;
        *moved = 1;
    }
    rc = cross(op->group, moved);
    if (rc == 1)
        set_mark(h, told(h));
    return rc;
}

int pldi_hall_meet(pld_request *op, int *moved)
{
    const struct pldi_hall *h = op->group->nodes->hall;

    if (h->index == LEADER)
        return lead(op, moved);
    if (!is_at(h, told(h)))
        return waits(op);
    *moved = 1;
    return 1;
}

void pldi_hall_break(struct pldi_hall *hall, int code)
{
    struct head *mine = head_of(hall, hall->index);

    if (atomic_load_explicit(&mine->code, memory_order_relaxed) != 0)
        return;
    (void)snprintf(mine->text, sizeof(mine->text), "%s", pld_last_error());
    atomic_store_explicit(&mine->code, code, memory_order_release);
}

int pldi_hall_broken(const struct pldi_hall *hall, int index)
{
    struct head *theirs = head_of(hall, index);
    const int code = atomic_load_explicit(&theirs->code, memory_order_acquire);

    return code < 0 ? pldi_fail(code, "%s", theirs->text) : PLD_OK;
}

const struct pldi_word *pldi_hall_words(const pld_group *group)
{
    const struct pldi_hall *h = group->nodes->hall;

    for (int node = 0; node < h->nodes->n; node++) {
        const unsigned char *at = arrivals(h, node);

        for (int i = 0; i < pldi_nodes_ranks(h->nodes, node); i++) {
            const int rank = h->nodes->by_node[h->nodes->starts[node] + i];
            const struct packet *p = node == h->node ? packet_for(h, i, node) : (const void *)at;

            h->packets[rank] = p;
            h->words[rank] = word_of(p);
            at += node == h->node ? 0 : p->bytes;
        }
    }
    return h->words;
}

const unsigned char *pldi_hall_data(const pld_group *group, int rank)
{
    const struct pldi_hall *h = group->nodes->hall;
    const struct packet *p = h->packets[rank];
    const unsigned char *base = (const void *)p;
    const size_t head = sizeof(*p) + p->opening.n_counts * sizeof(uint64_t);
    const uint32_t *lens = (const void *)(base + head);
    size_t at = padded(head + p->n_lens * sizeof(lens[0]), ALIGN);

    for (int i = 0; p->n_lens > 1 && i < h->index; i++)
        at += padded(lens[i], ALIGN);
    return base + at;
}

const struct pldi_digest *pldi_hall_digest(const pld_group *group)
{
    return (const void *)arrivals(group->nodes->hall, 0);
}
