/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "pipe/pipe_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "schedule/schedule.h"

/* A rank's schedule in few words. */
struct card {
    uint64_t hash;
    int32_t microbatches;
    int32_t actions;
};

/* What a rank believes of its two boundaries. */
struct shapes {
    pld_pipe_tensor input, output;
};

enum { WORDS = 256 };

static const char *words(const pld_pipe_tensor *t, char text[WORDS])
{
    int at;

    if (t->ndim == 0) {
        (void)snprintf(text, WORDS, "nothing");
        return text;
    }
    at = snprintf(text, WORDS, "%s ", pld_dtype_name(t->dtype));
    for (int i = 0; i < t->ndim && at < WORDS; i++)
        at += snprintf(text + at, (size_t)(WORDS - at), "%c%lld", i == 0 ? '[' : ',',
                       (long long)t->shape[i]);
    if (at < WORDS)
        (void)snprintf(text + at, (size_t)(WORDS - at), "]");
    return text;
}

/* 0 also if the product is more than memory can hold. */
size_t pldi_pipe_bytes(const pld_pipe_tensor *tensor)
{
    size_t bytes = tensor->ndim > 0 ? pld_dtype_bytes(tensor->dtype) : 0;

    for (int i = 0; i < tensor->ndim; i++)
        if (__builtin_mul_overflow(bytes, (size_t)tensor->shape[i], &bytes))
            return 0;
    return bytes > PTRDIFF_MAX / 2 ? 0 : bytes;
}

int pldi_pipe_check_tensor(const pld_pipe_tensor *tensor, int stage, int has_neighbour,
                           const char *name, const char *neighbour)
{
    char text[WORDS];

    if (tensor->ndim < 0 || tensor->ndim > PLD_MAX_DIMS)
        return pldi_fail(PLD_ERR_ARG, "stage %d: %s.ndim is %d, need 0..%d", stage, name,
                         tensor->ndim, PLD_MAX_DIMS);
    if ((tensor->ndim > 0) != has_neighbour)
        return pldi_fail(PLD_ERR_ARG, "stage %d has %s %s stage, but its %s is %s", stage,
                         has_neighbour ? "a" : "no", neighbour, name, words(tensor, text));
    if (tensor->ndim > 0 && pld_dtype_bytes(tensor->dtype) == 0)
        return pldi_fail(PLD_ERR_ARG, "stage %d: %s.dtype is %d, which is none", stage, name,
                         (int)tensor->dtype);
    for (int i = 0; i < tensor->ndim; i++)
        if (tensor->shape[i] < 1)
            return pldi_fail(PLD_ERR_ARG, "stage %d: %s is %s, need 1 or more in each dimension",
                             stage, name, words(tensor, text));
    if (tensor->ndim > 0 && pldi_pipe_bytes(tensor) == 0)
        return pldi_fail(PLD_ERR_ARG, "stage %d: %s is %s, more than memory can hold", stage, name,
                         words(tensor, text));
    return PLD_OK;
}

static int compare_cards(const struct card *cards, int ranks)
{
    for (int r = 1; r < ranks; r++)
        if (cards[r].hash != cards[0].hash)
            return pldi_fail(PLD_ERR_MISMATCH,
                             "ranks 0 and %d have different schedules, of %d and %d microbatches "
                             "and %d and %d actions",
                             r, cards[0].microbatches, cards[r].microbatches, cards[0].actions,
                             cards[r].actions);
    return PLD_OK;
}

int pldi_pipe_agree_schedule(pld_group *world, const pld_schedule *schedule)
{
    const int ranks = pld_group_size(world);
    const struct card mine = {pldi_schedule_hash(schedule), schedule->microbatches,
                              (int32_t)schedule->start[schedule->ranks]};
    struct card *cards = pldi_alloc((size_t)ranks, sizeof(*cards), "the ranks' schedules");
    int rc = pld_agree(world, cards == NULL ? PLD_ERR_NOMEM : PLD_OK);

    if (rc == PLD_OK)
        rc = pld_allgather(world, &mine, cards, sizeof(mine), PLD_U8, NULL);
    if (rc == PLD_OK)
        rc = compare_cards(cards, ranks);
    pldi_free(cards);
    return rc;
}

/* The same, element for element; what lies behind ndim does not count. */
static int same_tensor(const pld_pipe_tensor *a, const pld_pipe_tensor *b)
{
    return a->ndim == b->ndim && (a->ndim == 0 || a->dtype == b->dtype) &&
           memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof(a->shape[0])) == 0;
}

static int compare_shapes(const struct shapes *of_rank, const pld_schedule *schedule)
{
    char out[WORDS];
    char in[WORDS];

    for (int s = 0; s + 1 < schedule->stages; s++) {
        const pld_pipe_tensor *from = &of_rank[schedule->rank_of[s]].output;
        const pld_pipe_tensor *to = &of_rank[schedule->rank_of[s + 1]].input;

        if (!same_tensor(from, to))
            return pldi_fail(PLD_ERR_MISMATCH, "stage %d puts out %s, but stage %d takes in %s", s,
                             words(from, out), s + 1, words(to, in));
    }
    return PLD_OK;
}

int pldi_pipe_agree_shapes(pld_group *axis, const pld_schedule *schedule, const pld_pipe_opts *opts)
{
    const int ranks = pld_group_size(axis);
    const struct shapes mine = {opts->input, opts->output};
    struct shapes *all = pldi_alloc((size_t)ranks, sizeof(*all), "the stages' shapes");
    int rc = pld_agree(axis, all == NULL ? PLD_ERR_NOMEM : PLD_OK);

    if (rc == PLD_OK)
        rc = pld_allgather(axis, &mine, all, sizeof(mine), PLD_U8, NULL);
    if (rc == PLD_OK)
        rc = compare_shapes(all, schedule);
    pldi_free(all);
    return rc;
}
