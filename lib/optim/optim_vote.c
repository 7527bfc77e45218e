/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A step makes one small all-reduce over the mesh.  It carries the square of the norm,
 * to which every tensor of the model contributes once, and the votes: a rank that
 * failed, or has met a number that is not finite, or is about to take another step than
 * the rest, is heard by all, and all do the same.
 */

#include "optim/optim_impl.h"

#include <math.h>
#include <string.h>

#include "base/base_err.h"

/*
 * Elements [*begin, *end) of the model's tensors on this rank whose squares it adds up.
 * Replicas whose gradients a reducer has made equal share the work; without one every
 * rank looks at all it has, and the first replica's sum counts.
 */
static void norm_share(const pld_optim *o, size_t total, size_t *begin, size_t *end)
{
    const pld_mesh *mesh = pldi_params_mesh(o->params);
    const size_t size = (size_t)pld_mesh_size(mesh, PLD_AXIS_DP);
    const size_t coord = (size_t)pld_mesh_coord(mesh, PLD_AXIS_DP);
    const size_t piece = pldi_params_padded((total + size - 1) / size);

    *begin = 0;
    *end = total;
    if (pldi_params_reducer(o->params) == NULL)
        return;
    *begin = coord * piece < total ? coord * piece : total;
    *end = total - *begin < piece ? total : *begin + piece;
}

size_t pldi_optim_ranges(pld_optim *o)
{
    const int n = pld_params_count(o->params);
    size_t ranges = 0;
    size_t total = 0;
    size_t at = 0;
    size_t begin;
    size_t end;
    pld_param_info info;

    for (int i = 0; i < n; i++)
        if (pldi_params_counted(o->params, i) && pld_params_info(o->params, i, &info) == PLD_OK)
            total += info.count;
    norm_share(o, total, &begin, &end);
    for (int i = 0; i < n; i++) {
        size_t from;
        size_t to;

        if (!pldi_params_counted(o->params, i) || pld_params_info(o->params, i, &info) < 0)
            continue;
        from = at > begin ? 0 : begin - at;
        to = end < at ? 0 : end - at;
        to = to < info.count ? to : info.count;
        at += info.count;
        if (from < to)
            o->ranges[ranges++] =
                (struct pldi_range){(const char *)info.grad + from * pld_dtype_bytes(info.dtype),
                                    to - from, info.dtype};
    }
    return ranges;
}

int pldi_optim_speaks(const pld_optim *o)
{
    const pld_mesh *mesh = pldi_params_mesh(o->params);

    return (pldi_params_reducer(o->params) != NULL || pld_mesh_coord(mesh, PLD_AXIS_DP) == 0) &&
           pld_mesh_coord(mesh, PLD_AXIS_CP) == 0 && pld_mesh_coord(mesh, PLD_AXIS_EP) == 0;
}

/* Equal numbers have equal bits: -0 becomes 0. */
static void set_plan(struct optim_vote *v, double lr, int64_t step)
{
    const double plain = lr + 0.0;
    uint64_t words[OPTIM_PIECES / OPTIM_LR_PIECES] = {0, (uint64_t)step};

    memcpy(&words[0], &plain, sizeof(words[0]));
    for (int i = 0; i < OPTIM_PIECES; i++) {
        const uint64_t word =
            words[i / OPTIM_LR_PIECES] >> (i % OPTIM_LR_PIECES * OPTIM_PIECE_BITS);
        const double piece = (double)(word & ((1U << OPTIM_PIECE_BITS) - 1));

        v->plan[i] = piece;
        v->plan_square[i] = piece * piece;
    }
}

/* All ranks' pieces are equal if and only if their variance is 0.  Every rank sees it. */
static int same_pieces(const struct optim_vote *v, int begin, int end, int ranks)
{
    for (int i = begin; i < end; i++) {
        const uint64_t sum = (uint64_t)v->plan[i];
        const uint64_t mean = sum / (uint64_t)ranks;

        if (mean * (uint64_t)ranks != sum ||
            mean * mean * (uint64_t)ranks != (uint64_t)v->plan_square[i])
            return 0;
    }
    return 1;
}

static int check_plan(const struct optim_plan *plan, const struct optim_vote *v, int ranks)
{
    if (!same_pieces(v, OPTIM_LR_PIECES, OPTIM_PIECES, ranks))
        return pldi_fail(PLD_ERR_MISMATCH,
                         "ranks take different steps: this one has made %lld so far",
                         (long long)plan->step);
    if (!same_pieces(v, 0, OPTIM_LR_PIECES, ranks))
        return pldi_fail(PLD_ERR_MISMATCH, "ranks pass different learning rates: this one %.17g",
                         plan->lr);
    return PLD_OK;
}

int pldi_optim_vote(const pld_optim *o, const struct optim_plan *plan, double square,
                    struct optim_vote *out)
{
    pld_group *world = pld_mesh_world(pldi_params_mesh(o->params));
    struct optim_vote v = {.failed = plan->code < 0};

    set_plan(&v, plan->lr, plan->step);
    v.infinite = !isfinite(square);
    v.square = pldi_optim_speaks(o) ? square : 0;
    PLDI_TRY(pld_allreduce(world, &v, &v, sizeof(v) / sizeof(double), PLD_F64, PLD_SUM, NULL));
    if (v.failed > 0)
        return pld_agree(world, plan->code);
    *out = v;
    return check_plan(plan, &v, pld_group_size(world));
}
