/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Before any data move, every rank says what it is about to do, and whether it
 * can.  All get the same verdict, and only then go on; so a program whose ranks
 * diverge is told so instead of hanging or of adding up the wrong things.
 *
 * Up to PLDI_DIRECT_RANKS ranks, each sends its opening to each, and what is
 * small travels with it: one message time for the whole operation.  Beyond, the
 * smallest and the largest print, and the lowest rank with an error code, travel
 * in log2(size) rounds of dissemination: all three are found right no matter how
 * often a rank's word is counted.
 *
 * The shape of this exchange depends on the group's size alone, for what the
 * ranks are about to do is not known to be the same.
 *
 * Counts by rank or item follow an opening, so that the sentence can name the one
 * that differs.  Those of alltoall_v differ by rank: few ranks see all of them;
 * many, once they know to be in the same operation, each tell each, and agree on
 * what they found in a second round.
 */

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "coll/coll.h"
#include "coll/coll_shape.h"

enum { HEAD_BYTES = offsetof(struct pldi_digest, text) };

/* Of many ranks: what the digest that travels is for. */
enum { FIRST, PAIRS, SECOND };

const char *pldi_reduce_name(unsigned op)
{
    static const char *const names[] = {"sum", "avg", "max", "min", "prod"};

    return op < sizeof(names) / sizeof(names[0]) ? names[op] : "?";
}

/* "rank 2: allreduce #17 f32[100] sum at train.c:231 (bucket 3)" */
static void describe(const struct pldi_opening *o, char *text, size_t bytes)
{
    const struct pldi_print *p = &o->print;
    const struct pldi_shape *shape = pldi_shape((enum pldi_kind)p->kind);
    char data[64] = "";
    char how[64] = "";
    char root[32] = "";

    if (p->kind == PLDI_ALLTOALL_V)
        (void)snprintf(data, sizeof(data), " %s", pld_dtype_name((pld_dtype)p->dtype));
    else if (shape->cut[PLDI_RECEIVED] != PLDI_NOTHING)
        (void)snprintf(data, sizeof(data), " %s[%llu]", pld_dtype_name((pld_dtype)p->dtype),
                       (unsigned long long)p->count);
    if (shape->reduces && p->scale != 1)
        (void)snprintf(how, sizeof(how), " %s, scale %g", pldi_reduce_name(p->op), p->scale);
    else if (shape->reduces)
        (void)snprintf(how, sizeof(how), " %s", pldi_reduce_name(p->op));
    if (shape->from_root || shape->to_root)
        (void)snprintf(root, sizeof(root), " %s rank %d", shape->from_root ? "from" : "to",
                       p->root);
    (void)snprintf(text, bytes, "rank %d: %s #%llu%s%s%s at %.*s%s%.*s%s", o->rank,
                   pldi_kind_name(p->kind), (unsigned long long)p->sequence, data, how, root,
                   PLDI_SITE_BYTES, o->site, o->tag[0] != '\0' ? " (" : "", PLDI_TAG_BYTES, o->tag,
                   o->tag[0] != '\0' ? ")" : "");
}

/* The first of the counts that differ, if it is among those that travelled. */
static void describe_counts(const struct pldi_word *a, const struct pldi_word *b, char *text,
                            size_t bytes)
{
    const uint32_t n =
        a->opening->n_counts < b->opening->n_counts ? a->opening->n_counts : b->opening->n_counts;

    text[0] = '\0';
    if (a->opening->print.kind != b->opening->print.kind ||
        a->opening->print.counts == b->opening->print.counts)
        return;
    for (uint32_t i = 0; i < n; i++) {
        if (a->counts[i] == b->counts[i])
            continue;
        (void)snprintf(text, bytes, "; count %u is %llu on rank %d, %llu on rank %d", i,
                       (unsigned long long)a->counts[i], a->opening->rank,
                       (unsigned long long)b->counts[i], b->opening->rank);
        return;
    }
    if (a->opening->n_counts != b->opening->n_counts)
        (void)snprintf(text, bytes, "; rank %d has %u counts, rank %d has %u", a->opening->rank,
                       a->opening->n_counts, b->opening->rank, b->opening->n_counts);
    else
        (void)snprintf(text, bytes, "; their counts differ behind the first %u", n);
}

static int mismatch(const char *group, const struct pldi_word *a, const struct pldi_word *b)
{
    const struct pldi_word *low = a->opening->rank < b->opening->rank ? a : b;
    const struct pldi_word *high = low == a ? b : a;
    char left[320], right[320], counts[128];

    describe(low->opening, left, sizeof(left));
    describe(high->opening, right, sizeof(right));
    describe_counts(low, high, counts, sizeof(counts));
    return pldi_fail(PLD_ERR_MISMATCH,
                     "ranks of %s (%d ranks) are in different operations: %s; %s%s", group,
                     a->opening->size, left, right, counts);
}

static int mismatch_pair(int s, uint64_t sent, int d, uint64_t expected)
{
    return pldi_fail(PLD_ERR_MISMATCH,
                     "ranks disagree on alltoall_v: rank %d sends %llu elements to rank %d, which "
                     "expects %llu",
                     s, (unsigned long long)sent, d, (unsigned long long)expected);
}

/* The sentence may have come from another agreement, and name its rank already. */
static int failed(const struct pldi_opening *bad, const char *text)
{
    const int n = (int)bad->bytes;
    const size_t digits =
        n > 5 && strncmp(text, "rank ", 5) == 0 ? strspn(text + 5, "0123456789") : 0;

    if (digits > 0 && digits + 5 < bad->bytes && text[5 + digits] == ':')
        return pldi_fail(bad->code, "%.*s", n, text);
    return pldi_fail(bad->code, "rank %d: %.*s", bad->rank, n, text);
}

struct pldi_opening pldi_open_make(const pld_request *op)
{
    struct pldi_opening o = {
        .print = op->print, .rank = op->group->rank, .size = op->group->size, .code = op->code};

    if (op->name != NULL)
        (void)snprintf(o.tag, sizeof(o.tag), "%s", op->name);
    pldi_health_site(op->group->health, op->ticket, o.site);
    if (op->code < 0)
        o.bytes = (uint32_t)strnlen(op->text, PLDI_TEXT_BYTES - 1);
    o.n_counts = (uint32_t)(op->n_counts < PLDI_COUNTS ? op->n_counts : PLDI_COUNTS);
    return o;
}

/* Write the opening for one peer, with its counts and its data or the sentence; the bytes. */
static size_t write_slot(const pld_request *op, int peer, unsigned char *slot)
{
    struct pldi_opening o = pldi_open_make(op);
    unsigned char *at = slot + sizeof(o);

    if (op->code >= 0)
        o.bytes = (uint32_t)pldi_small_bytes(op, op->group->rank, peer);
    memcpy(slot, &o, sizeof(o));
    if (o.n_counts > 0)
        memcpy(at, op->counts, o.n_counts * sizeof(op->counts[0]));
    at += o.n_counts * sizeof(op->counts[0]);
    if (op->code < 0)
        memcpy(at, op->text, o.bytes);
    else if (o.bytes > 0)
        pldi_small_put(op, peer, at);
    return (size_t)(at - slot) + o.bytes;
}

static int post_direct(pld_request *op)
{
    pld_group *g = op->group;
    struct pldi_transport *t = g->transport;

    for (int peer = 0; peer < g->size; peer++) {
        unsigned char *in = g->work.in + (size_t)peer * PLDI_SLOT_BYTES;

        if (peer == g->rank)
            continue;
        PLDI_TRY(t->ops->irecv(t, in, PLDI_SLOT_BYTES, peer, PLDI_TAG_OPEN, &g->work.recvs[peer]));
    }
    for (int peer = 0; peer < g->size; peer++) {
        unsigned char *out = g->work.out + (size_t)peer * PLDI_SLOT_BYTES;
        size_t bytes;

        if (peer == g->rank)
            continue;
        bytes = write_slot(op, peer, out);
        PLDI_TRY(pldi_send_part(g, out, bytes, peer, PLDI_TAG_OPEN, &g->work.sends[peer]));
    }
    return PLD_OK;
}

static struct pldi_word word_of(const pld_group *g, int rank)
{
    const unsigned char *slot = g->work.in + (size_t)rank * PLDI_SLOT_BYTES;
    struct pldi_word w = {.opening = (const void *)slot};

    w.counts = (const void *)(slot + sizeof(*w.opening));
    w.text = (const void *)(w.counts + w.opening->n_counts);
    return w;
}

const unsigned char *pldi_open_data(const pld_group *group, int rank)
{
    return (const void *)word_of(group, rank).text;
}

/* What each rank of alltoall_v sends is what the others expect of it. */
static int judge_pairs(const struct pldi_word *all, int size)
{
    for (int s = 0; s < size; s++) {
        for (int d = 0; d < size; d++) {
            const uint64_t sent = all[s].counts[d];
            const uint64_t expected = all[d].counts[size + s];

            if (sent != expected)
                return mismatch_pair(s, sent, d, expected);
        }
    }
    return 1;
}

int pldi_open_judge(const pld_group *group, const struct pldi_word *all)
{
    const int size = group->size;

    for (int r = 1; r < size; r++) {
        if (memcmp(&all[r].opening->print, &all[0].opening->print, sizeof(struct pldi_print)) != 0)
            return mismatch(pldi_health_group_text(group->health), &all[0], &all[r]);
    }
    for (int r = 0; r < size; r++) {
        if (all[r].opening->code < 0)
            return failed(all[r].opening, all[r].text);
    }
    return all[0].opening->print.kind == PLDI_ALLTOALL_V ? judge_pairs(all, size) : 1;
}

static int judge_direct(pld_request *op)
{
    const pld_group *g = op->group;
    struct pldi_word all[PLDI_DIRECT_RANKS];

    (void)write_slot(op, g->rank, g->work.in + (size_t)g->rank * PLDI_SLOT_BYTES);
    for (int r = 0; r < g->size; r++)
        all[r] = word_of(g, r);
    return pldi_open_judge(g, all);
}

/* The rounds of many ranks: work.out holds this rank's digest, work.in the one coming. */
static int post_round(pld_request *op)
{
    pld_group *g = op->group;
    struct pldi_transport *t = g->transport;
    struct pldi_digest *d = (void *)g->work.out;
    const int step = 1 << g->work.round;
    const int to = (int)(((long long)g->rank + step) % g->size);
    const int from = (int)(((long long)g->rank - step + g->size) % g->size);
    const size_t text = d->bad.rank == INT32_MAX ? 0 : d->bad.bytes;
    const size_t bytes = d->low.n_counts + d->high.n_counts > 0 ? sizeof(*d) : HEAD_BYTES + text;

    PLDI_TRY(t->ops->irecv(t, g->work.in, sizeof(*d), from, PLDI_TAG_OPEN, &g->work.recvs[0]));
    return pldi_send_part(g, d, bytes, to, PLDI_TAG_OPEN, &g->work.sends[0]);
}

static int before(const struct pldi_opening *a, const struct pldi_opening *b)
{
    const int order = memcmp(&a->print, &b->print, sizeof(a->print));

    return order < 0 || (order == 0 && a->rank < b->rank);
}

static void merge(struct pldi_digest *mine, const struct pldi_digest *theirs)
{
    const int order = memcmp(&theirs->high.print, &mine->high.print, sizeof(mine->high.print));

    if (before(&theirs->low, &mine->low)) {
        mine->low = theirs->low;
        memcpy(mine->counts[0], theirs->counts[0], mine->low.n_counts * sizeof(uint64_t));
    }
    if (order > 0 || (order == 0 && theirs->high.rank < mine->high.rank)) {
        mine->high = theirs->high;
        memcpy(mine->counts[1], theirs->counts[1], mine->high.n_counts * sizeof(uint64_t));
    }
    if (theirs->bad.rank < mine->bad.rank) {
        mine->bad = theirs->bad;
        memcpy(mine->text, theirs->text, theirs->bad.bytes);
    }
}

static int judge_digest(const pld_group *group)
{
    const struct pldi_digest *d = (const void *)group->work.out;
    const struct pldi_word low = {&d->low, d->counts[0], NULL};
    const struct pldi_word high = {&d->high, d->counts[1], NULL};

    if (memcmp(&d->low.print, &d->high.print, sizeof(d->low.print)) != 0)
        return mismatch(pldi_health_group_text(group->health), &low, &high);
    if (d->bad.rank != INT32_MAX)
        return failed(&d->bad, d->text);
    return 1;
}

static void start_digest(const pld_request *op)
{
    struct pldi_digest *d = (void *)op->group->work.out;

    op->group->work.round = 0;
    d->low = d->high = d->bad = pldi_open_make(op);
    if (op->kind == PLDI_ALLTOALL_V) /* every rank has others */
        d->low.n_counts = d->high.n_counts = 0;
    for (int i = 0; i < 2 && d->low.n_counts > 0; i++)
        memcpy(d->counts[i], op->counts, d->low.n_counts * sizeof(uint64_t));
    if (op->code < 0)
        memcpy(d->text, op->text, d->bad.bytes);
    else
        d->bad.rank = INT32_MAX;
}

static int test_work(pld_request *op, int n, int *moved)
{
    pld_group *g = op->group;
    const int received = pldi_xfers_test(g, g->work.recvs, NULL, n, moved);
    int sent;

    PLDI_TRY(received);
    sent = pldi_xfers_test(g, g->work.sends, NULL, n, moved);
    PLDI_TRY(sent);
    return received && sent;
}

static int step_digest(pld_request *op, int *moved)
{
    struct pldi_work *work = &op->group->work;
    int rc;

    for (;;) {
        rc = test_work(op, 1, moved);
        if (rc <= 0)
            return rc;
        merge((void *)work->out, (const void *)work->in);
        work->round++;
        if (1LL << work->round >= op->group->size)
            return 1;
        PLDI_TRY(post_round(op));
    }
}

static int post_pairs(pld_request *op)
{
    pld_group *g = op->group;
    struct pldi_transport *t = g->transport;

    for (int peer = 0; peer < g->size; peer++) {
        g->work.ours[peer] = g->work.theirs[peer] = op->counts[peer];
        if (peer == g->rank)
            continue;
        PLDI_TRY(t->ops->irecv(t, &g->work.theirs[peer], sizeof(uint64_t), peer, PLDI_TAG_OPEN,
                               &g->work.recvs[peer]));
    }
    for (int peer = 0; peer < g->size; peer++) {
        if (peer != g->rank)
            PLDI_TRY(t->ops->isend(t, &g->work.ours[peer], sizeof(uint64_t), peer, PLDI_TAG_OPEN,
                                   &g->work.sends[peer]));
    }
    return PLD_OK;
}

static void compare_pairs(pld_request *op)
{
    const pld_group *g = op->group;

    for (int s = 0; s < g->size && op->code == 0; s++) {
        const uint64_t expected = op->counts[g->size + s];

        if (g->work.theirs[s] == expected)
            continue;
        op->code = mismatch_pair(s, g->work.theirs[s], g->rank, expected);
        (void)snprintf(op->text, sizeof(op->text), "%s", pld_last_error());
    }
}

static int begin_digest(pld_request *op, int phase)
{
    op->group->work.phase = phase;
    start_digest(op);
    return post_round(op);
}

static int step_many(pld_request *op, int *moved)
{
    struct pldi_work *work = &op->group->work;
    int rc;

    if (op->state == PLDI_NEW) {
        PLDI_TRY(begin_digest(op, FIRST));
        op->state = PLDI_OPENING;
        *moved = 1;
    }
    if (work->phase == PAIRS) {
        rc = test_work(op, op->group->size, moved);
        if (rc <= 0)
            return rc;
        compare_pairs(op);
        PLDI_TRY(begin_digest(op, SECOND));
    }
    rc = step_digest(op, moved);
    if (rc <= 0)
        return rc;
    rc = judge_digest(op->group);
    if (rc == 1 && work->phase == FIRST && op->kind == PLDI_ALLTOALL_V) {
        work->phase = PAIRS;
        return post_pairs(op);
    }
    op->state = PLDI_OPENED;
    return rc;
}

static int step_direct(pld_request *op, int *moved)
{
    int rc;

    if (op->state == PLDI_NEW) {
        PLDI_TRY(post_direct(op));
        op->state = PLDI_OPENING;
        *moved = 1;
    }
    rc = test_work(op, op->group->size, moved);
    if (rc <= 0)
        return rc;
    op->state = PLDI_OPENED;
    return judge_direct(op);
}

int pldi_open_step(pld_request *op, int *moved)
{
    return op->group->size > PLDI_DIRECT_RANKS ? step_many(op, moved) : step_direct(op, moved);
}
