/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Before any data move, every rank says what it is about to do, and whether it
 * can.  All get the same verdict, and only then go on; so a program whose ranks
 * diverge is told so instead of hanging or of adding up the wrong things.
 *
 * Up to PLDI_DIRECT_RANKS ranks, each sends its opening to each, and what is
 * small travels with it: one message time for the whole operation.  Beyond, a
 * digest (coll_digest.h) travels in log2(size) rounds.  Where nodes have several
 * ranks, these meet in the memory of the node, and what was said of ranks is true
 * of nodes (coll_hall.h).
 *
 * The shape of this exchange depends on the group alone, its size and where its
 * ranks are, for what the ranks are about to do is not known to be the same.
 *
 * Counts by rank or item follow an opening, so that the sentence can name the one
 * that differs.  Those of alltoall_v differ by rank: few ranks see all of them;
 * many, once they know to be in the same operation, each tell each, and agree on
 * what they found in a second round.
 */

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "coll/coll_digest.h"
#include "coll/coll_hall.h"
#include "coll/coll_shape.h"

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
    if (a->opening->print.kind == PLDI_LEAVES && b->opening->print.kind == PLDI_LEAVES &&
        a->opening->print.counts != b->opening->print.counts) {
        (void)snprintf(text, bytes, "; of %llu leaves on rank %d, of %llu on rank %d",
                       (unsigned long long)a->opening->print.counts, a->opening->rank,
                       (unsigned long long)b->opening->print.counts, b->opening->rank);
        return;
    }
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
    if (group->nodes != NULL && group->nodes->hall != NULL)
        return pldi_hall_data(group, rank);
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

static int has_hall(const pld_group *group)
{
    return group->nodes != NULL && group->nodes->hall != NULL;
}

static int judge_digest(const pld_group *group)
{
    const struct pldi_digest *d =
        has_hall(group) ? pldi_hall_digest(group) : (const void *)group->work.out;
    const struct pldi_word low = {&d->low, d->counts[0], NULL};
    const struct pldi_word high = {&d->high, d->counts[1], NULL};

    if (memcmp(&d->low.print, &d->high.print, sizeof(d->low.print)) != 0)
        return mismatch(pldi_health_group_text(group->health), &low, &high);
    if (d->bad.rank != INT32_MAX)
        return failed(&d->bad, d->text);
    return 1;
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
            PLDI_TRY(pldi_send_part(g, &g->work.ours[peer], sizeof(uint64_t), peer, PLDI_TAG_OPEN,
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
    const struct pldi_opening o = pldi_open_make(op);
    const struct pldi_word word = {&o, op->counts, op->text};

    op->group->work.phase = phase;
    if (has_hall(op->group))
        return pldi_hall_begin(op);
    pldi_digest_put((void *)op->group->work.out, &word);
    return pldi_digest_post(op->group);
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
        rc = pldi_work_test(op->group, op->group->size, moved);
        if (rc <= 0)
            return rc;
        compare_pairs(op);
        PLDI_TRY(begin_digest(op, SECOND));
    }
    rc = has_hall(op->group) ? pldi_hall_meet(op, moved) : pldi_digest_step(op->group, moved);
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
    pld_group *g = op->group;
    int rc;

    if (op->state == PLDI_NEW) {
        PLDI_TRY(has_hall(g) ? pldi_hall_begin(op) : post_direct(op));
        op->state = PLDI_OPENING;
        *moved = 1;
    }
    rc = has_hall(g) ? pldi_hall_meet(op, moved) : pldi_work_test(g, g->size, moved);
    if (rc <= 0)
        return rc;
    op->state = PLDI_OPENED;
    return has_hall(g) ? pldi_open_judge(g, pldi_hall_words(g)) : judge_direct(op);
}

int pldi_open_step(pld_request *op, int *moved)
{
    return op->group->small_bytes == 0 ? step_many(op, moved) : step_direct(op, moved);
}
