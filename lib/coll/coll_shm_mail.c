/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A message is announced by a letter to its receiver.  What is short is in the
 * letter, or in the bulk beside the letters.  Else, once there is a receive for it, it is
 * copied once: by the receiver if the sender's buffer is in the shared heap, by the
 * sender if the receiver's is, by the receiver through the kernel if that lets it read
 * the sender's memory; or else it passes through slots, where both work at the same time.
 *
 * Room in the bulk is given in the order of letters, and is free when they have been read.
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

#include <pthread.h>
#include <string.h>
#include <sys/uio.h>

#include "base/base_cpu.h"
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
    READ,       /* receiver: copy from the sender's memory */
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
    unsigned char bulk[];
};

struct pldi_peer {
    struct pldi_box *out, *in;
    pld_request *sends, *recvs; /* not finished, oldest first */
    struct early *early;        /* oldest first */
    uint64_t tickets, turn;
    uint64_t written, taken;                 /* letters, to and from it */
    uint64_t seen_read;                      /* of those to it, when last looked */
    uint64_t used;                           /* bytes of the own bulk, ever */
    uint64_t used_by[2 * PLDI_MAIL_LETTERS]; /* as it was after a letter */
    int readable;                            /* its memory, by the kernel */
    const pld_request *stream;               /* the receive that has the slots */
};

/* So few of them fit into the bulk whatever they bring. */
enum { LINE = 64, FEW_LETTERS = PLDI_MAIL_BULK / PLDI_MAIL_EAGER - 2 };

/* Of this process, for others to read; no other process has the same. */
static uint64_t probed;

static void set_number(void)
{
    probed = pldi_shm_random() | 1;
}

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

struct pldi_mail_probe pldi_mail_probe(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, set_number);
    return (struct pldi_mail_probe){(uint64_t)(uintptr_t)&probed, probed};
}

void pldi_mail_try(struct pldi_team *team, int rank, const struct pldi_mail_probe *probe)
{
    const int64_t pid = team->node->ranks[team->world[rank]].pid;
    uint64_t number = 0;
    const struct iovec to = {&number, sizeof(number)};
    const struct iovec from = {(void *)(uintptr_t)probe->at, sizeof(number)};

    team->peers[rank].readable =
        team->node->direct &&
        process_vm_readv((pid_t)pid, &to, 1, &from, 1, 0) == (ssize_t)sizeof(number) &&
        number == probe->number;
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

static struct pldi_door *door_of(const pld_request *op)
{
    return team_of(op)->doors[place_of(op)];
}

static size_t bytes_of(const pld_request *op)
{
    return op->count * pld_dtype_bytes(op->dtype);
}

static uint64_t value(const struct pldi_counter *c)
{
    return atomic_load_explicit(&c->n, memory_order_acquire);
}

/* Letters that the other side has read, looked up where `most` or more seem to be unread. */
static uint64_t letters_read(struct pldi_peer *peer, uint64_t most)
{
    if (peer->written - peer->seen_read >= most)
        peer->seen_read = value(&peer->out->read);
    return peer->seen_read;
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

static int is_eager(uint64_t bytes)
{
    return bytes > PLDI_MAIL_INLINE && bytes <= PLDI_MAIL_EAGER;
}

/* Room in the bulk, in one piece and in whole lines: 1, with *used what will be; or 0. */
static int find_room(struct pldi_peer *peer, uint64_t bytes, uint64_t *at, uint64_t *used)
{
    const uint64_t read = letters_read(peer, FEW_LETTERS);
    const uint64_t freed = read == 0 ? 0 : peer->used_by[(read - 1) % (2 * PLDI_MAIL_LETTERS)];
    const uint64_t whole = (bytes + LINE - 1) / LINE * LINE;

    *used = peer->used;
    if (*used % PLDI_MAIL_BULK + whole > PLDI_MAIL_BULK)
        *used += PLDI_MAIL_BULK - *used % PLDI_MAIL_BULK;
    *at = *used % PLDI_MAIL_BULK;
    *used += whole;
    return *used - freed <= PLDI_MAIL_BULK;
}

/* What goes along with a letter that announces a message; *at: where. 1, or 0: there is no room. */
static int enclose(const pld_request *op, struct pldi_letter *l, uint64_t *at)
{
    struct pldi_peer *peer = peer_of(op);
    const size_t bytes = bytes_of(op);
    uint64_t used;

    *at = (uint64_t)(uintptr_t)op->send;
    if (bytes > 0 && bytes <= PLDI_MAIL_INLINE)
        memcpy(l->data, op->send, bytes);
    if (!is_eager(bytes))
        return 1;
    if (!find_room(peer, bytes, at, &used))
        return 0;
    memcpy(peer->out->bulk + *at, op->send, bytes);
    peer->used = used;
    return 1;
}

/* 1: written, 0: the box is full. */
static int write_letter(const pld_request *op, enum pldi_letter_kind kind, uint64_t ref)
{
    struct pldi_peer *peer = peer_of(op);
    struct pldi_box *out = peer->out;
    const uint64_t n = peer->written;
    struct pldi_letter *l = &out->letters[n % PLDI_MAIL_LETTERS];
    const struct pldi_letter *next = &out->letters[(n + 1) % PLDI_MAIL_LETTERS];
    uint64_t at = 0;

    if (n - letters_read(peer, PLDI_MAIL_LETTERS) >= PLDI_MAIL_LETTERS)
        return 0;
    /* The line that the other side looks at comes last, and at once: it goes to and fro. */
    if (kind == PLDI_LETTER_MESSAGE && !enclose(op, l, &at))
        return 0;
    l->kind = kind;
    l->tag = op->tag;
    l->id = op->mail.id;
    l->bytes = bytes_of(op);
    l->ref = ref;
    l->at = at;
    peer->used_by[n % (2 * PLDI_MAIL_LETTERS)] = peer->used;
    peer->written = n + 1;
    atomic_store_explicit(&l->seq, n + 1, memory_order_release);
    pldi_door_ring(door_of(op));
    pldi_fetch_to_write(next);
    pldi_fetch_to_write(&next->data[LINE]);
    return 1;
}

/* How a receive gets a message that has not come along with its letter. */
static enum phase way_of(const pld_request *op, const struct pldi_letter *l)
{
    const struct pldi_peer *peer = peer_of(op);

    if (l->bytes != bytes_of(op))
        return TELL; /* and then it fails */
    if (l->ref != UINT64_MAX)
        return PULL;
    return peer->readable && find_ref(op, op->recv) == UINT64_MAX ? READ : ASK;
}

/* The receive has its message; bulk: of it, if it is there. */
static void accept(pld_request *op, const struct pldi_letter *l, const unsigned char *bulk)
{
    const int came = l->bytes <= PLDI_MAIL_INLINE || is_eager(l->bytes);

    op->mail.id = l->id;
    op->mail.ref = l->ref;
    op->mail.at = l->at;
    op->mail.bytes = l->bytes;
    op->mail.phase = came ? FINISHED : (int)way_of(op, l);
    if (came && l->bytes == bytes_of(op) && l->bytes > 0)
        memcpy(op->recv, is_eager(l->bytes) ? bulk : l->data, l->bytes);
}

static int keep(struct pldi_peer *peer, const struct pldi_letter *l, const unsigned char *bulk)
{
    const size_t more = is_eager(l->bytes) ? l->bytes : 0;
    struct early *e = pldi_alloc(1, sizeof(*e) + more, "a message that came early");
    struct early **list = &peer->early;

    if (e == NULL)
        return PLD_ERR_NOMEM;
    while (*list != NULL)
        list = &(*list)->next;
    memcpy(&e->letter, l, sizeof(e->letter));
    if (more > 0)
        memcpy(e->bulk, bulk, more);
    *list = e;
    return PLD_OK;
}

static int deliver(struct pldi_peer *peer, const struct pldi_letter *l)
{
    const unsigned char *bulk = is_eager(l->bytes) ? peer->in->bulk + l->at : NULL;

    for (pld_request *op = peer->recvs; op != NULL; op = op->mail.next) {
        if (op->tag == l->tag && op->mail.phase == WAIT) {
            accept(op, l, bulk);
            return PLD_OK;
        }
    }
    return keep(peer, l, bulk);
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

    for (;;) {
        const struct pldi_letter *l = &in->letters[peer->taken % PLDI_MAIL_LETTERS];

        if (atomic_load_explicit(&l->seq, memory_order_acquire) != peer->taken + 1)
            return PLD_OK;
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
        peer->taken++;
        atomic_store_explicit(&in->read.n, peer->taken, memory_order_release);
        *moved = 1;
    }
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
    if (op->group->team != NULL) /* who waits for a group of several nodes does not sleep */
        pldi_team_find_doors(op->group);
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
        accept(op, &found->letter, found->bulk);
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
    if (op->state == PLDI_NEW || op->kind != PLDI_SEND || op->mail.phase != ANNOUNCE)
        return;
    /* Its turn is that of the next. */
    peer->tickets--;
    for (pld_request *next = *list; next != NULL; next = next->mail.next)
        next->mail.id--;
}

static void announce(pld_request *op)
{
    struct pldi_peer *peer = peer_of(op);

    if (peer->turn != op->mail.id || !write_letter(op, PLDI_LETTER_MESSAGE, find_ref(op, op->send)))
        return;
    peer->turn++;
    op->mail.phase = bytes_of(op) <= PLDI_MAIL_EAGER ? FINISHED : WAIT;
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

/* A piece of the sender's memory; where that is refused, it is to come through the slots. */
static void read_piece(pld_request *op)
{
    const struct pldi_team *team = team_of(op);
    const size_t n = min_size(bytes_of(op) - op->mail.moved, PLDI_MAIL_PIECE);
    const struct iovec to = {(unsigned char *)op->recv + op->mail.moved, n};
    const struct iovec from = {(void *)(uintptr_t)(op->mail.at + op->mail.moved), n};
    const ssize_t got = process_vm_readv((pid_t)team->node->ranks[team->world[place_of(op)]].pid,
                                         &to, 1, &from, 1, 0);

    if (got <= 0) {
        peer_of(op)->readable = 0;
        op->mail.moved = 0;
        op->mail.phase = ASK;
        return;
    }
    op->mail.moved += (size_t)got;
    if (op->mail.moved == bytes_of(op))
        op->mail.phase = TELL;
}

/* Some at a time: what comes the other way is not to wait for all of it. */
static void fill_slots(pld_request *op)
{
    struct pldi_box *out = peer_of(op)->out;

    for (int i = 0; i < PLDI_MAIL_SLOTS / 2 && op->mail.moved < bytes_of(op) &&
                    value(&out->filled) - value(&out->emptied) < PLDI_MAIL_SLOTS;
         i++) {
        const size_t n = min_size(bytes_of(op) - op->mail.moved, PLDI_MAIL_SLOT);

        memcpy(out->slots[value(&out->filled) % PLDI_MAIL_SLOTS],
               (const unsigned char *)op->send + op->mail.moved, n);
        op->mail.moved += n;
        advance(&out->filled);
        pldi_door_ring(door_of(op));
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
        pldi_door_ring(door_of(op));
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
    case READ:
        read_piece(op);
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

/* The other side does not know of it, so that it may fail for what is this rank's alone. */
static int is_unknown(const pld_request *op)
{
    return op->mail.phase == (op->kind == PLDI_SEND ? ANNOUNCE : WAIT);
}

/* 1: finished, 0: not yet. */
static int move_on(pld_request *op, int *moved)
{
    const int phase = op->mail.phase;
    const size_t before = op->mail.moved;
    int came = 0;
    const int rc = read_letters(peer_of(op), &came);

    if (rc < 0 && is_unknown(op))
        return rc;
    if (came)
        pldi_door_ring(door_of(op)); /* it may have waited for room */
    *moved |= came;
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
        return pldi_group_failed(op);
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
