/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A message is announced by a letter to its receiver.  What is short is in the
 * letter.  Else, once a receive has asked for it, it is copied once, by the receiver
 * if the sender's buffer is in the shared heap, by the sender if the receiver's is;
 * or else it passes through slots, where both work at the same time.
 *
 * Letters are read as soon as a rank looks, and kept by the reader if nobody waits
 * for them yet: the box never stays full, so that a message cannot be in the way of
 * one with another tag.  For the same reason nothing is written while one is read:
 * what is to be answered is noted in the operation, whose next step does so.
 *
 * Messages are announced in the order of the calls, even if the box was full for the
 * first and not for the second: each has a ticket.  Receives take them in order, too.
 */

#include "coll/coll_shm_mail.h"

#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_nodes.h"
#include "coll/coll_shape.h"

/* What an operation does next. */
enum phase {
    ANNOUNCE,   /* sender: write the letter when it is its turn */
    WAIT,       /* sender: for a reply; receiver: for a letter */
    ASK,        /* receiver: say how it wants the message */
    WAIT_PUSH,  /* receiver: until it is there */
    PULL,       /* receiver: copy from the sender's heap */
    PUSH,       /* sender: copy to the receiver's heap */
    STREAM_IN,  /* receiver: empty slots */
    STREAM_OUT, /* sender: fill slots */
    TELL,       /* say that it was copied */
    FINISHED
};

/* A message that nobody has asked for yet. */
struct early {
    struct early *next;
    struct pldi_letter letter;
};

struct pldi_peer {
    struct pldi_box *out, *in;
    pld_request *sends, *recvs; /* not finished, oldest first */
    struct early *early;        /* oldest first */
    uint64_t tickets, turn;
    const pld_request *stream; /* the receive that has the slots */
};

size_t pldi_mail_bytes(int size)
{
    return size > PLDI_MAIL_RANKS ? 0 : (size_t)size * (size_t)size * sizeof(struct pldi_box);
}

struct pldi_peer *pldi_mail_create(const struct pldi_team *team, unsigned char *boxes)
{
    const size_t n = (size_t)team->size;
    struct pldi_peer *peers = pldi_alloc(n, sizeof(*peers), "mail");
    struct pldi_box *all = (void *)boxes;

    for (size_t r = 0; r < n && peers != NULL; r++) {
        peers[r].out = &all[(size_t)team->rank * n + r];
        peers[r].in = &all[r * n + (size_t)team->rank];
    }
    return peers;
}

void pldi_mail_destroy(struct pldi_peer **peers, int size)
{
    for (int r = 0; *peers != NULL && r < size; r++) {
        while ((*peers)[r].early != NULL) {
            struct early *next = (*peers)[r].early->next;

            pldi_free((*peers)[r].early);
            (*peers)[r].early = next;
        }
    }
    pldi_free(*peers);
    *peers = NULL;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static const struct pldi_team *team_of(const pld_request *op)
{
    return pldi_team_group(op->group)->team;
}

/* The number of the peer in the team. */
static int place_of(const pld_request *op)
{
    return op->group->team != NULL ? op->peer : op->group->nodes->index[op->peer];
}

static struct pldi_peer *peer_of(const pld_request *op)
{
    return &team_of(op)->peers[place_of(op)];
}

int pldi_mail_carries(const pld_request *op)
{
    const struct pldi_nodes *n = op->group->nodes;
    const pld_group *meets = pldi_team_group(op->group);

    if (meets == NULL || meets->team == NULL || meets->team->peers == NULL)
        return 0;
    return meets == op->group || n->node_of[op->peer] == n->node_of[op->group->rank];
}

static size_t bytes_of(const pld_request *op)
{
    return op->count * pld_dtype_bytes(op->dtype);
}

static uint64_t value(const struct pldi_counter *c)
{
    return atomic_load_explicit(&c->n, memory_order_acquire);
}

/* By its only writer. */
static void advance(struct pldi_counter *c)
{
    atomic_store_explicit(&c->n, atomic_load_explicit(&c->n, memory_order_relaxed) + 1,
                          memory_order_release);
}

/* The offset of a buffer in this rank's heap. */
static uint64_t find_ref(const pld_request *op, const void *buffer)
{
    const struct pldi_team *team = team_of(op);

    if (!team->direct || team->node->heap == NULL)
        return UINT64_MAX;
    return pldi_heap_offset(team->node->heap, buffer, bytes_of(op));
}

/* 1: written, 0: the box is full. */
static int write_letter(const pld_request *op, enum pldi_letter_kind kind, uint64_t ref)
{
    struct pldi_box *out = peer_of(op)->out;
    const uint64_t n = value(&out->written);
    struct pldi_letter *l = &out->letters[n % PLDI_MAIL_LETTERS];

    if (n - value(&out->read) == PLDI_MAIL_LETTERS)
        return 0;
    l->kind = kind;
    l->tag = op->tag;
    l->id = op->mail.id;
    l->bytes = bytes_of(op);
    l->ref = ref;
    if (kind == PLDI_LETTER_MESSAGE && l->bytes > 0 && l->bytes <= PLDI_MAIL_INLINE)
        memcpy(l->data, op->send, l->bytes);
    advance(&out->written);
    return 1;
}

/* The receive has its message. */
static void accept(pld_request *op, const struct pldi_letter *l)
{
    op->mail.id = l->id;
    op->mail.ref = l->ref;
    op->mail.bytes = l->bytes;
    op->mail.phase = ASK;
    if (l->bytes <= PLDI_MAIL_INLINE)
        op->mail.phase = FINISHED;
    else if (l->bytes != bytes_of(op))
        op->mail.phase = TELL; /* and then it fails */
    else if (l->ref != UINT64_MAX)
        op->mail.phase = PULL;
    if (l->bytes == bytes_of(op) && l->bytes <= PLDI_MAIL_INLINE && l->bytes > 0)
        memcpy(op->recv, l->data, l->bytes);
}

static int keep(struct pldi_peer *peer, const struct pldi_letter *l)
{
    struct early *e = pldi_alloc(1, sizeof(*e), "a message that came early");
    struct early **list = &peer->early;

    if (e == NULL)
        return PLD_ERR_NOMEM;
    while (*list != NULL)
        list = &(*list)->next;
    e->letter = *l;
    *list = e;
    return PLD_OK;
}

static int deliver(struct pldi_peer *peer, const struct pldi_letter *l)
{
    for (pld_request *op = peer->recvs; op != NULL; op = op->mail.next) {
        if (op->tag == l->tag && op->mail.phase == WAIT) {
            accept(op, l);
            return PLD_OK;
        }
    }
    return keep(peer, l);
}

/* What the operation that a letter answers does next; it may have failed, and be gone. */
static void answer(pld_request *list, const struct pldi_letter *l, enum phase before,
                   enum phase next)
{
    for (pld_request *op = list; op != NULL; op = op->mail.next) {
        if (op->mail.phase != (int)before || op->mail.id != l->id)
            continue;
        op->mail.ref = l->ref;
        op->mail.phase = (int)next;
        return;
    }
}

static int read_letters(struct pldi_peer *peer, int *moved)
{
    struct pldi_box *in = peer->in;

    while (value(&in->read) != value(&in->written)) {
        const struct pldi_letter *l = &in->letters[value(&in->read) % PLDI_MAIL_LETTERS];

        switch ((enum pldi_letter_kind)l->kind) {
        case PLDI_LETTER_MESSAGE:
            PLDI_TRY(deliver(peer, l));
            break;
        case PLDI_LETTER_PUSH:
            answer(peer->sends, l, WAIT, PUSH);
            break;
        case PLDI_LETTER_STREAM:
            answer(peer->sends, l, WAIT, STREAM_OUT);
            break;
        case PLDI_LETTER_TAKEN:
            answer(peer->sends, l, WAIT, FINISHED);
            break;
        case PLDI_LETTER_PUSHED:
            answer(peer->recvs, l, WAIT_PUSH, FINISHED);
            break;
        }
        advance(&in->read);
        *moved = 1;
    }
    return PLD_OK;
}

static void enlist(pld_request *op)
{
    struct pldi_peer *peer = peer_of(op);
    pld_request **list = op->kind == PLDI_SEND ? &peer->sends : &peer->recvs;
    struct early **early = &peer->early;

    while (*list != NULL)
        list = &(*list)->mail.next;
    *list = op;
    op->state = PLDI_MOVING;
    if (op->kind == PLDI_SEND) {
        op->mail.id = peer->tickets++;
        op->mail.phase = ANNOUNCE;
        return;
    }
    op->mail.phase = WAIT;
    while (*early != NULL && (*early)->letter.tag != op->tag)
        early = &(*early)->next;
    if (*early != NULL) {
        struct early *found = *early;

        *early = found->next;
        accept(op, &found->letter);
        pldi_free(found);
    }
}

static void delist(pld_request *op)
{
    struct pldi_peer *peer = peer_of(op);
    pld_request **list = op->kind == PLDI_SEND ? &peer->sends : &peer->recvs;

    while (*list != NULL && *list != op)
        list = &(*list)->mail.next;
    if (*list != NULL)
        *list = op->mail.next;
    if (peer->stream == op)
        peer->stream = NULL;
}

static void announce(pld_request *op)
{
    struct pldi_peer *peer = peer_of(op);

    if (peer->turn != op->mail.id || !write_letter(op, PLDI_LETTER_MESSAGE, find_ref(op, op->send)))
        return;
    peer->turn++;
    op->mail.phase = bytes_of(op) <= PLDI_MAIL_INLINE ? FINISHED : WAIT;
}

static void ask(pld_request *op)
{
    struct pldi_peer *peer = peer_of(op);
    const uint64_t ref = find_ref(op, op->recv);

    if (ref != UINT64_MAX && write_letter(op, PLDI_LETTER_PUSH, ref))
        op->mail.phase = WAIT_PUSH;
    if (ref != UINT64_MAX || peer->stream != NULL || !write_letter(op, PLDI_LETTER_STREAM, 0))
        return;
    peer->stream = op;
    op->mail.phase = STREAM_IN;
}

/* Between the own buffer and the other's heap. */
static void copy_piece(pld_request *op)
{
    const struct pldi_team *team = team_of(op);
    const size_t n = min_size(bytes_of(op) - op->mail.moved, PLDI_MAIL_PIECE);
    unsigned char *theirs = pldi_team_heap(team, place_of(op), op->mail.ref + op->mail.moved);
    const int stream = bytes_of(op) > team->node->cache_bytes / 4;

    if (op->kind == PLDI_SEND)
        team->node->kernels->copy(theirs, (const unsigned char *)op->send + op->mail.moved, n,
                                  stream);
    else
        team->node->kernels->copy((unsigned char *)op->recv + op->mail.moved, theirs, n, stream);
    op->mail.moved += n;
    if (op->mail.moved == bytes_of(op))
        op->mail.phase = TELL;
}

static void fill_slots(pld_request *op)
{
    struct pldi_box *out = peer_of(op)->out;

    while (op->mail.moved < bytes_of(op) &&
           value(&out->filled) - value(&out->emptied) < PLDI_MAIL_SLOTS) {
        const size_t n = min_size(bytes_of(op) - op->mail.moved, PLDI_MAIL_SLOT);

        memcpy(out->slots[value(&out->filled) % PLDI_MAIL_SLOTS],
               (const unsigned char *)op->send + op->mail.moved, n);
        op->mail.moved += n;
        advance(&out->filled);
    }
    if (op->mail.moved == bytes_of(op))
        op->mail.phase = FINISHED;
}

static void empty_slots(pld_request *op)
{
    struct pldi_box *in = peer_of(op)->in;

    while (op->mail.moved < bytes_of(op) && value(&in->filled) != value(&in->emptied)) {
        const size_t n = min_size(bytes_of(op) - op->mail.moved, PLDI_MAIL_SLOT);

        memcpy((unsigned char *)op->recv + op->mail.moved,
               in->slots[value(&in->emptied) % PLDI_MAIL_SLOTS], n);
        op->mail.moved += n;
        advance(&in->emptied);
    }
    if (op->mail.moved == bytes_of(op))
        op->mail.phase = FINISHED;
}

static void act(pld_request *op)
{
    switch ((enum phase)op->mail.phase) {
    case ANNOUNCE:
        announce(op);
        break;
    case ASK:
        ask(op);
        break;
    case PULL:
    case PUSH:
        copy_piece(op);
        break;
    case STREAM_IN:
        empty_slots(op);
        break;
    case STREAM_OUT:
        fill_slots(op);
        break;
    case TELL:
        if (write_letter(op, op->kind == PLDI_SEND ? PLDI_LETTER_PUSHED : PLDI_LETTER_TAKEN, 0))
            op->mail.phase = FINISHED;
        break;
    case WAIT:
    case WAIT_PUSH:
    case FINISHED:
        break;
    }
}

/* 1: finished, 0: not yet. */
static int move_on(pld_request *op, int *moved)
{
    const int phase = op->mail.phase;
    const size_t before = op->mail.moved;

    PLDI_TRY(read_letters(peer_of(op), moved));
    act(op);
    *moved |= op->mail.phase != phase || op->mail.moved != before;
    if (op->mail.phase != FINISHED)
        return 0;
    if (op->kind == PLDI_RECV && op->mail.bytes != bytes_of(op))
        return pldi_fail(
            PLD_ERR_MISMATCH, "rank %d sent %zu bytes with tag %d, %zu (%s[%zu]) expected",
            op->peer, op->mail.bytes, op->tag, bytes_of(op), pld_dtype_name(op->dtype), op->count);
    return 1;
}

/* What the other did before it left counts: its end is found out first. */
static int wait_for(pld_request *op, int *moved)
{
    int rc;

    if (pldi_team_lost(op, place_of(op)) == PLD_OK)
        return 0;
    rc = move_on(op, moved);
    if (rc != 0 || *moved)
        return rc;
    return pldi_team_look(op, place_of(op));
}

void pldi_mail_cancel(pld_request *op)
{
    delist(op);
}

int pldi_mail_step(pld_request *op, int *moved)
{
    int some = 0;
    int rc;

    if (op->group->broken != 0) {
        delist(op);
        return pldi_fail(op->group->broken, "%s on a group whose communication failed before",
                         pldi_kind_name(op->kind));
    }
    if (op->state == PLDI_NEW) {
        enlist(op);
        some = 1;
    }
    rc = move_on(op, &some);
    if (rc == 0 && !some)
        rc = wait_for(op, &some);
    *moved |= some;
    if (rc != 0)
        delist(op);
    return rc;
}
