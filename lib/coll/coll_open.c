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
 */

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "coll/coll.h"

enum { SLOT_BYTES = sizeof(struct pldi_opening) + PLDI_SMALL_BYTES };
enum { HEAD_BYTES = sizeof(struct pldi_digest) - PLDI_TEXT_BYTES };

static const char *op_name(uint32_t op)
{
    static const char *const names[] = {"sum", "avg", "max", "min", "prod"};

    return op < sizeof(names) / sizeof(names[0]) ? names[op] : "?";
}

const char *pldi_kind_name(unsigned kind)
{
    static const char *const names[] = {"barrier",   "agree",     "allreduce", "reduce_scatter",
                                        "allgather", "broadcast", "send",      "recv"};

    return kind < sizeof(names) / sizeof(names[0]) ? names[kind] : "?";
}

/* "rank 2: allreduce #17 f32[100] sum (bucket 3)" */
static void describe(const struct pldi_opening *o, char *text, size_t bytes)
{
    const struct pldi_print *p = &o->print;
    const int has_data = p->kind != PLDI_BARRIER && p->kind != PLDI_AGREE;
    const int reduces = p->kind == PLDI_ALLREDUCE || p->kind == PLDI_REDUCE_SCATTER;
    char data[64] = "";
    char how[64] = "";

    if (has_data)
        (void)snprintf(data, sizeof(data), " %s[%llu]", pld_dtype_name((pld_dtype)p->dtype),
                       (unsigned long long)p->count);
    if (reduces && p->scale != 1)
        (void)snprintf(how, sizeof(how), " %s, scale %g", op_name(p->op), p->scale);
    else if (reduces)
        (void)snprintf(how, sizeof(how), " %s", op_name(p->op));
    else if (p->kind == PLDI_BROADCAST)
        (void)snprintf(how, sizeof(how), " from rank %d", p->root);
    (void)snprintf(text, bytes, "rank %d: %s #%llu%s%s%s%.*s%s", o->rank, pldi_kind_name(p->kind),
                   (unsigned long long)p->sequence, data, how, o->tag[0] != '\0' ? " (" : "",
                   PLDI_TAG_BYTES, o->tag, o->tag[0] != '\0' ? ")" : "");
}

static int mismatch(const struct pldi_opening *a, const struct pldi_opening *b)
{
    char left[256], right[256];

    describe(a->rank < b->rank ? a : b, left, sizeof(left));
    describe(a->rank < b->rank ? b : a, right, sizeof(right));
    return pldi_fail(PLD_ERR_MISMATCH, "ranks of a group of %d are in different operations: %s; %s",
                     a->size, left, right);
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
    if (op->code < 0)
        o.bytes = (uint32_t)strnlen(op->text, PLDI_TEXT_BYTES - 1);
    return o;
}

/* Write the opening for one peer, with its data or the sentence; return the bytes. */
static size_t write_slot(const pld_request *op, int peer, unsigned char *slot)
{
    struct pldi_opening o = pldi_open_make(op);
    const void *data = op->text;

    if (op->code >= 0) {
        const size_t small = pldi_small_bytes(op);

        data = pldi_small_source(op, peer);
        o.bytes = data == NULL || small == SIZE_MAX ? 0 : (uint32_t)small;
    }
    memcpy(slot, &o, sizeof(o));
    if (o.bytes > 0)
        memcpy(slot + sizeof(o), data, o.bytes);
    return sizeof(o) + o.bytes;
}

static int post_direct(pld_request *op)
{
    pld_group *g = op->group;
    struct pldi_transport *t = g->transport;

    for (int peer = 0; peer < g->size; peer++) {
        unsigned char *in = g->work.in + (size_t)peer * SLOT_BYTES;

        if (peer == g->rank)
            continue;
        PLDI_TRY(t->ops->irecv(t, in, SLOT_BYTES, peer, PLDI_TAG_OPEN, &g->work.recvs[peer]));
    }
    for (int peer = 0; peer < g->size; peer++) {
        unsigned char *out = g->work.out + (size_t)peer * SLOT_BYTES;
        size_t bytes;

        if (peer == g->rank)
            continue;
        bytes = write_slot(op, peer, out);
        PLDI_TRY(t->ops->isend(t, out, bytes, peer, PLDI_TAG_OPEN, &g->work.sends[peer]));
    }
    return PLD_OK;
}

static const struct pldi_opening *opening_of(const pld_group *g, int rank)
{
    return (const void *)(g->work.in + (size_t)rank * SLOT_BYTES);
}

int pldi_open_judge(const struct pldi_opening *const *all, int size)
{
    for (int r = 1; r < size; r++) {
        if (memcmp(&all[r]->print, &all[0]->print, sizeof(all[r]->print)) != 0)
            return mismatch(all[0], all[r]);
    }
    for (int r = 0; r < size; r++) {
        if (all[r]->code < 0)
            return failed(all[r], (const char *)(all[r] + 1));
    }
    return 1;
}

static int judge_direct(pld_request *op)
{
    const pld_group *g = op->group;
    const struct pldi_opening *all[PLDI_DIRECT_RANKS];
    unsigned char *own = g->work.in + (size_t)g->rank * SLOT_BYTES;
    const struct pldi_opening o = pldi_open_make(op);

    memcpy(own, &o, sizeof(o));
    memcpy(own + sizeof(o), op->text, o.bytes);
    for (int r = 0; r < g->size; r++)
        all[r] = opening_of(g, r);
    return pldi_open_judge(all, g->size);
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
    const size_t bytes = HEAD_BYTES + (d->bad.rank == INT32_MAX ? 0 : d->bad.bytes);

    PLDI_TRY(t->ops->irecv(t, g->work.in, sizeof(*d), from, PLDI_TAG_OPEN, &g->work.recvs[0]));
    return t->ops->isend(t, d, bytes, to, PLDI_TAG_OPEN, &g->work.sends[0]);
}

static int before(const struct pldi_opening *a, const struct pldi_opening *b)
{
    const int order = memcmp(&a->print, &b->print, sizeof(a->print));

    return order < 0 || (order == 0 && a->rank < b->rank);
}

static void merge(struct pldi_digest *mine, const struct pldi_digest *theirs)
{
    const int order = memcmp(&theirs->high.print, &mine->high.print, sizeof(mine->high.print));

    if (before(&theirs->low, &mine->low))
        mine->low = theirs->low;
    if (order > 0 || (order == 0 && theirs->high.rank < mine->high.rank))
        mine->high = theirs->high;
    if (theirs->bad.rank < mine->bad.rank) {
        mine->bad = theirs->bad;
        memcpy(mine->text, theirs->text, theirs->bad.bytes);
    }
}

static int judge_digest(const struct pldi_digest *d)
{
    if (memcmp(&d->low.print, &d->high.print, sizeof(d->low.print)) != 0)
        return mismatch(&d->low, &d->high);
    if (d->bad.rank != INT32_MAX)
        return failed(&d->bad, d->text);
    return 1;
}

static void start_digest(const pld_request *op)
{
    struct pldi_digest *d = (void *)op->group->work.out;

    op->group->work.round = 0;
    d->low = d->high = d->bad = pldi_open_make(op);
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

    if (op->state == PLDI_NEW) {
        start_digest(op);
        PLDI_TRY(post_round(op));
        op->state = PLDI_OPENING;
        *moved = 1;
    }
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

static int step_direct(pld_request *op, int *moved)
{
    if (op->state == PLDI_NEW) {
        PLDI_TRY(post_direct(op));
        op->state = PLDI_OPENING;
        *moved = 1;
    }
    return test_work(op, op->group->size, moved);
}

int pldi_open_step(pld_request *op, int *moved)
{
    int rc = op->group->size > PLDI_DIRECT_RANKS ? step_digest(op, moved) : step_direct(op, moved);

    if (rc <= 0)
        return rc;
    op->state = PLDI_OPENED;
    return op->group->size > PLDI_DIRECT_RANKS ? judge_digest((const void *)op->group->work.out)
                                               : judge_direct(op);
}
