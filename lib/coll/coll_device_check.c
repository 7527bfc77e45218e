/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * NCCL does not look whether ranks do the same, and an opening by the host before each
 * operation would cost what NCCL saves.  So each rank hashes what it does, and every so
 * many operations a small host operation, for which nobody waits, compares the hashes.
 * It costs no launch, and finds a disagreement soon after.  POLDER_CHECK=sync opens each.
 */

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_hash.h"
#include "base/base_mem.h"
#include "coll/coll_call.h"
#include "coll/coll_device.h"
#include "coll/coll_health.h"

static const char NAME[] = "agreement on device operations";

struct pldi_gpu_check {
    struct pldi_gpu_check *next;
    pld_request *op;
    int64_t said[2]; /* the chain and its complement; of all ranks the largest */
};

int pldi_gpu_apart(const pld_group *group, const char *text)
{
    return pldi_fail(PLD_ERR_MISMATCH,
                     "ranks of %s were in different operations on device memory%s%s",
                     pldi_health_group_text(group->health), text[0] != '\0' ? ": " : "", text);
}

/* 1: not yet; 0, or the verdict. */
static int judge(struct pldi_gpu_check *c, const pld_group *group)
{
    char text[PLDI_TEXT_BYTES];

    if (c->op->code < 0)
        return pldi_fail(c->op->code, "%s", c->op->text);
    if (c->said[0] == ~c->said[1])
        return PLD_OK;
    pldi_health_differ(group->health, text, sizeof(text));
    return pldi_gpu_apart(group, text);
}

/* The oldest, if it is over, or is to be waited for: it is the caller's.  Requests are waited for
 * by other threads than post. */
static struct pldi_gpu_check *take_oldest(struct pldi_gpu_group *g, int wait)
{
    struct pldi_gpu_check *c;

    (void)pthread_mutex_lock(&g->gpu->lock);
    c = g->checks;
    if (c != NULL && !wait && !pldi_engine_over(c->op))
        c = NULL;
    if (c != NULL)
        g->checks = c->next;
    (void)pthread_mutex_unlock(&g->gpu->lock);
    return c;
}

int pldi_gpu_judge(struct pldi_gpu_group *g, int wait)
{
    struct pldi_gpu_check *c;
    int rc = PLD_OK;

    while ((c = take_oldest(g, wait)) != NULL) {
        pldi_engine_wait(g->group->engine, c->op);
        if (rc == PLD_OK)
            rc = judge(c, g->group);
        pldi_free(c->op);
        pldi_free(c);
    }
    return rc < 0 ? pldi_gpu_fail(g, rc) : PLD_OK;
}

static void append(struct pldi_gpu_group *g, struct pldi_gpu_check *c)
{
    struct pldi_gpu_check **list = &g->checks;

    (void)pthread_mutex_lock(&g->gpu->lock);
    while (*list != NULL)
        list = &(*list)->next;
    *list = c;
    (void)pthread_mutex_unlock(&g->gpu->lock);
}

static void post(struct pldi_gpu_group *g)
{
    struct pldi_gpu_check *c = pldi_alloc(1, sizeof(*c), "an agreement");
    pld_request *op = pldi_alloc(1, sizeof(*op), "an agreement");

    if (c == NULL || op == NULL) { /* the others will find out */
        pldi_free(c);
        pldi_free(op);
        return;
    }
    c->said[0] = (int64_t)g->chain;
    c->said[1] = ~c->said[0];
    pldi_call_start(op, g->group, PLDI_ALLREDUCE, c->said, c->said, 2, PLD_I64);
    op->op = PLD_MAX;
    op->print.op = PLD_MAX;
    op->print.scale = 1;
    op->name = NAME;
    pldi_op_number(op, g->group->sequence++);
    if (pldi_coll_record(op) < 0) { /* the job is over, and the next call says so */
        pldi_free(c);
        pldi_free(op);
        return;
    }
    c->op = op;
    pldi_engine_post(g->group->engine, op, 1);
    /* Without a comm thread somebody must move the earlier ones on. */
    (void)pldi_engine_test(g->group->engine, op);
    append(g, c);
}

void pldi_gpu_count(struct pldi_gpu_group *g, const pld_request *op)
{
    if (g->group->size == 1 || op->kind == PLDI_SEND || op->kind == PLDI_RECV)
        return;
    g->chain = pldi_hash64_chain(g->chain, &op->print, sizeof(op->print));
    g->launched++;
    if (g->launched % PLDI_GPU_CHECK_EVERY == 0)
        post(g);
}

/* An operation on host memory that moves nothing, with what this one says of itself. */
int pldi_gpu_announce(struct pldi_gpu_group *g, const pld_request *op)
{
    const int message = op->kind == PLDI_SEND || op->kind == PLDI_RECV;
    pld_request word;

    if (!g->group->check || g->group->size == 1)
        return PLD_OK;
    pldi_call_start(&word, g->group, message ? op->kind : PLDI_BARRIER, NULL, NULL, 0, op->dtype);
    word.peer = op->peer;
    word.tag = pldi_gpu_tag(g->group, op->tag);
    word.print = op->print;
    word.hash = op->hash;
    word.name = op->name;
    word.ticket = op->ticket;
    word.counts = op->counts;
    word.n_counts = op->n_counts;
    pldi_engine_post(g->group->engine, &word, 0);
    pldi_engine_wait(g->group->engine, &word);
    return word.code < 0 ? pldi_fail(word.code, "%s", word.text) : PLD_OK;
}
