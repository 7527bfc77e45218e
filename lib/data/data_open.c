/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Opening is each rank's own affair; whether all see the same is found out here, by
 * comparison with what rank 0 has.  Its list is sent only when all have opened
 * theirs, and the verdict of each rank is made everybody's.
 */

#include <polder/data.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "data/data.h"

/* What must be equal besides the files; no padding: it is compared as it is sent. */
struct head {
    uint64_t seed;
    int64_t length, batch, format, order, count;
};

/* A file as ranks compare it. */
struct card {
    int64_t bytes;
    uint64_t print;
};

static struct head head_of(const pld_data *d)
{
    return (struct head){.seed = d->opts.seed,
                         .length = d->opts.length,
                         .batch = d->opts.batch,
                         .format = (int64_t)d->opts.format,
                         .order = (int64_t)d->opts.order,
                         .count = (int64_t)d->count};
}

static int differs(const char *what, long long mine, long long first)
{
    return pldi_fail(PLD_ERR_MISMATCH, "the data have %s %lld here, %lld on rank 0", what, mine,
                     first);
}

static int compare_heads(const struct head *mine, const struct head *first)
{
    if (mine->seed != first->seed)
        return differs("seed", (long long)mine->seed, (long long)first->seed);
    if (mine->length != first->length)
        return differs("length", mine->length, first->length);
    if (mine->batch != first->batch)
        return differs("batch", mine->batch, first->batch);
    if (mine->format != first->format)
        return differs("format", mine->format, first->format);
    if (mine->order != first->order)
        return differs("order", mine->order, first->order);
    if (mine->count != first->count)
        return pldi_fail(PLD_ERR_MISMATCH, "the data are %lld files here, %lld on rank 0",
                         (long long)mine->count, (long long)first->count);
    return PLD_OK;
}

static int compare_files(const pld_data *d, const struct card *first)
{
    for (size_t i = 0; i < d->count; i++) {
        const struct pldi_data_file *f = &d->files[i];

        if (f->bytes != first[i].bytes)
            return pldi_fail(PLD_ERR_MISMATCH, "%s has %lld bytes here, %lld on rank 0", f->name,
                             (long long)f->bytes, (long long)first[i].bytes);
        if (f->print != first[i].print)
            return pldi_fail(PLD_ERR_MISMATCH,
                             "%s differs in name or in its first bytes from file %zu of rank 0",
                             f->name, i);
    }
    return PLD_OK;
}

static int compare(pld_group *group, const pld_data *d, struct card *cards)
{
    const struct head mine = head_of(d);
    struct head first = mine;

    PLDI_TRY(pld_broadcast(group, &first, sizeof(first), PLD_U8, 0, NULL));
    PLDI_TRY(pld_agree(group, compare_heads(&mine, &first)));
    for (size_t i = 0; i < d->count; i++)
        cards[i] = (struct card){d->files[i].bytes, d->files[i].print};
    PLDI_TRY(pld_broadcast(group, cards, d->count * sizeof(*cards), PLD_U8, 0, NULL));
    return pld_agree(group, compare_files(d, cards));
}

int pld_data_open(pld_group *group, const pld_data_opts *opts, pld_data **out)
{
    struct card *cards = NULL;
    pld_data *d = NULL;
    int rc;

    PLDI_CHECK_ARG(group != NULL);
    rc = out == NULL ? pldi_fail(PLD_ERR_ARG, "%s: out is NULL", __func__)
                     : pldi_data_create(opts, &d);
    if (rc == PLD_OK) {
        cards = pldi_alloc(d->count, sizeof(*cards), "the list of data files");
        rc = cards == NULL ? PLD_ERR_NOMEM : PLD_OK;
    }
    rc = pld_agree(group, rc);
    if (rc == PLD_OK)
        rc = compare(group, d, cards);
    pldi_free(cards);
    if (rc < 0) {
        pld_data_close(&d);
        return rc;
    }
    *out = d;
    return PLD_OK;
}
