/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An operation is cut into segments, and each goes through three parts:
 *
 *   first    inside the node: of a sum, each of `lanes` ranks gets its part of what
 *            the node has; of a broadcast, its part of what the root has
 *   leg      between nodes: the ranks with equal index in their nodes, on that part
 *   second   inside the node: the parts are put together
 *
 * All ranks of a node are in the same order inside it: first(0) first(1) second(0)
 * first(2) second(1) ...  So while one segment is between nodes the next is being
 * summed inside, and two slots suffice.
 *
 * Sums of f16 and bf16 stay f32 until the last one is formed.
 *
 * Without nodes the first part is a copy, every rank is a lane of its own, and the
 * leg is the operation.
 */

#include "coll/coll_route.h"

#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll_nodes.h"
#include "coll/coll_shape.h"
#include "device/device_kernels.h"

enum { BLOCK_ALIGN = 16 /* elements */, WIDEST = 2 /* sums per result */, PAD = 64 };

static const size_t PART_MOST = 2 << 20;

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

int pldi_route_carries(const pld_request *op)
{
    return op->choice.algorithm != PLDI_FLAT && op->choice.algorithm != PLDI_TREE;
}

static int by_nodes(const pld_request *op)
{
    return op->choice.algorithm == PLDI_NODES;
}

/* The nodes of the operation, of which this rank's is `mine`; and how many carry. */
static int n_nodes(const pld_request *op)
{
    return by_nodes(op) ? op->group->nodes->n : op->group->size;
}

static int n_lanes(const pld_request *op)
{
    return by_nodes(op) ? op->group->nodes->lanes : 1;
}

static int node_of(const pld_request *op, int rank)
{
    return by_nodes(op) ? op->group->nodes->node_of[rank] : rank;
}

static int lane_of(const pld_request *op, int rank)
{
    return by_nodes(op) ? op->group->nodes->index[rank] : 0;
}

static int rank_at(const pld_request *op, int node, int lane)
{
    const struct pldi_nodes *n = op->group->nodes;

    return by_nodes(op) ? n->by_node[n->starts[node] + lane] : node;
}

/* The group inside the node; NULL if this rank is alone in it. */
static pld_group *inside(const pld_request *op)
{
    pld_group *local = by_nodes(op) ? op->group->nodes->local : NULL;

    return local != NULL && local->size > 1 ? local : NULL;
}

/* Blocks by rank, as of reduce_scatter and allgather; else one vector. */
static int has_blocks(const pld_request *op)
{
    const enum pldi_cut *cut = pldi_shape(op->kind)->cut;

    return cut[PLDI_SENT] == PLDI_BLOCKS || cut[PLDI_RECEIVED] == PLDI_BLOCKS;
}

static int reduces(const pld_request *op)
{
    return pldi_shape(op->kind)->reduces;
}

static enum pldi_goal goal_of(const pld_request *op)
{
    if (op->kind == PLDI_BROADCAST)
        return PLDI_GOAL_SPREAD;
    if (!reduces(op))
        return PLDI_GOAL_GATHER;
    if (has_blocks(op))
        return PLDI_GOAL_SCATTER;
    return op->kind == PLDI_REDUCE ? PLDI_GOAL_ROOT : PLDI_GOAL_ALL;
}

static struct pldi_members members_of(const pld_request *op)
{
    return (struct pldi_members){.goal = goal_of(op),
                                 .algorithm =
                                     by_nodes(op) ? op->choice.across : op->choice.algorithm,
                                 .n = n_nodes(op),
                                 .me = node_of(op, op->group->rank),
                                 .root = node_of(op, op->root)};
}

static size_t block_bytes(const pld_request *op, int rank)
{
    return reduces(op) ? pldi_slice(op, rank) : pldi_flow(op, rank, op->group->rank);
}

static size_t longest(const pld_request *op)
{
    size_t most = 0;

    if (!has_blocks(op))
        return pldi_vector(op);
    for (int r = 0; r < op->group->size; r++)
        most = block_bytes(op, r) > most ? block_bytes(op, r) : most;
    return most;
}

/* --- memory --- */

void pldi_route_destroy(struct pldi_route **route)
{
    struct pldi_route *r = *route;

    if (r == NULL)
        return;
    for (int i = 0; i < PLDI_SLOTS; i++) {
        pldi_free(r->slots[i].cuts);
        pldi_free(r->slots[i].starts);
        pldi_free(r->slots[i].sends);
        pldi_free(r->slots[i].recvs);
        pldi_free(r->slots[i].wants);
    }
    pldi_free(r->everybody);
    pldi_free(r->sources);
    pldi_free(r->memory);
    pldi_free(r);
    *route = NULL;
}

static struct pldi_route *make(const pld_group *g)
{
    struct pldi_route *r = pldi_alloc(1, sizeof(*r), "a route");
    const size_t n = (size_t)g->size;
    int whole = r != NULL;

    for (int i = 0; whole && i < PLDI_SLOTS; i++) {
        struct pldi_slot *s = &r->slots[i];

        s->cuts = pldi_alloc(n + 1, sizeof(s->cuts[0]), "a route");
        s->starts = pldi_alloc(n + 1, sizeof(s->starts[0]), "a route");
        s->sends = pldi_alloc(n, sizeof(s->sends[0]), "a route");
        s->recvs = pldi_alloc(n, sizeof(s->recvs[0]), "a route");
        s->wants = pldi_alloc(n, sizeof(s->wants[0]), "a route");
        whole = s->cuts != NULL && s->starts != NULL && s->sends != NULL && s->recvs != NULL &&
                s->wants != NULL;
    }
    if (whole) {
        r->everybody = pldi_alloc(n, sizeof(r->everybody[0]), "a route");
        r->sources = pldi_alloc(n, sizeof(r->sources[0]), "a route");
        whole = r->everybody != NULL && r->sources != NULL;
    }
    for (int i = 0; whole && i < g->size; i++)
        r->everybody[i] = i;
    if (!whole && r != NULL)
        pldi_route_destroy(&r);
    return r;
}

static size_t padded(size_t bytes)
{
    return (bytes + PAD - 1) / PAD * PAD;
}

/* The most bytes of one rank's part of a segment. */
static size_t part_most(const pld_request *op)
{
    const size_t n = (size_t)n_nodes(op);
    const size_t wanted = op->choice.chunk * n;
    const size_t aligned = n * BLOCK_ALIGN * pld_dtype_bytes(op->dtype);
    const size_t most = min_size(wanted, PART_MOST);

    return most / aligned * aligned + (most < aligned) * aligned;
}

/* What the slots need, and where it is. */
static size_t lay_out(const pld_request *op, struct pldi_route *r)
{
    const struct pldi_members m = members_of(op);
    const size_t part = part_most(op) + (size_t)n_nodes(op) * BLOCK_ALIGN * sizeof(double);
    const size_t whole = padded(part * (size_t)n_lanes(op));
    const size_t acc = reduces(op) ? padded(WIDEST * part) : 0;
    const size_t temp = padded(WIDEST * pldi_leg_temp(&m, part, part / (size_t)m.n + PAD) + PAD);
    const size_t out = padded(part);
    const size_t each = acc + temp + out + whole;

    for (int i = 0; i < PLDI_SLOTS && r->memory != NULL; i++) {
        struct pldi_slot *s = &r->slots[i];

        s->acc = r->memory + (size_t)i * each;
        s->temp = s->acc + acc;
        s->out = s->temp + temp;
        s->scratch = s->out + out;
    }
    return PLDI_SLOTS * each;
}

int pldi_route_plan(pld_request *op)
{
    pld_group *g = op->group;
    const size_t lanes = (size_t)n_lanes(op);
    const size_t bytes = pld_dtype_bytes(op->dtype);
    struct pldi_route *r;
    size_t need;

    if (g->route == NULL)
        g->route = make(g);
    r = g->route;
    if (r == NULL)
        return PLD_ERR_NOMEM;
    r->segment_bytes = part_most(op) * lanes;
    if (has_blocks(op))
        r->segment_bytes = part_most(op) / (size_t)n_nodes(op) / bytes * bytes;
    r->segments = longest(op) / r->segment_bytes + (longest(op) % r->segment_bytes != 0);
    r->first = r->second = 0;
    r->busy = 0;
    r->sum = (struct pldi_sum){.kernels = g->kernels,
                               .dtype = op->dtype,
                               .op = op->op,
                               .scale = op->scale,
                               .tree = op->tree};
    need = lay_out(op, r);
    if (need <= r->memory_bytes)
        return PLD_OK;
    pldi_free(r->memory);
    r->memory_bytes = 0;
    r->memory = pldi_alloc(1, need, "scratch of a route");
    if (r->memory == NULL)
        return PLD_ERR_NOMEM;
    r->memory_bytes = need;
    (void)lay_out(op, r);
    return PLD_OK;
}

static void cancel_all(pld_group *g, struct pldi_xfer *xfers)
{
    for (int i = 0; i < g->size; i++) {
        if (xfers[i].active)
            g->transport->ops->cancel(g->transport, &xfers[i]);
    }
}

void pldi_route_cancel(pld_group *group)
{
    struct pldi_route *r = group->route;

    for (int i = 0; r != NULL && i < PLDI_SLOTS; i++) {
        cancel_all(group, r->slots[i].sends);
        cancel_all(group, r->slots[i].recvs);
    }
}

/* --- where a segment is --- */

/* The part of a rank's block that is in the segment. */
static size_t in_segment(const pld_request *op, const struct pldi_slot *s, int rank)
{
    const size_t all = block_bytes(op, rank);

    return min_size(all - min_size(all, s->from), op->group->route->segment_bytes);
}

/* Vectors: lanes get equal parts, and so do the blocks of a lane. */
static void cut_vector(const pld_request *op, struct pldi_slot *s)
{
    const struct pldi_members m = members_of(op);
    const size_t unit = pld_dtype_bytes(op->dtype);
    const size_t lanes = (size_t)n_lanes(op);
    const size_t blocks = (size_t)pldi_rounds_blocks(&m);
    const size_t lane = (size_t)lane_of(op, op->group->rank);
    const size_t all = s->bytes / unit;
    const size_t each = (all + lanes * BLOCK_ALIGN - 1) / (lanes * BLOCK_ALIGN) * BLOCK_ALIGN;
    size_t mine, block;

    for (size_t i = 0; i <= lanes; i++)
        s->cuts[i] = min_size(i * each, all) * unit;
    if (lane >= lanes)
        return;
    mine = (s->cuts[lane + 1] - s->cuts[lane]) / unit;
    block = (mine + blocks * BLOCK_ALIGN - 1) / (blocks * BLOCK_ALIGN) * BLOCK_ALIGN;
    for (size_t i = 0; i <= blocks; i++)
        s->starts[i] = min_size(i * block, mine);
}

/* Blocks: lane by lane, and in it node by node. */
static void cut_blocks(const pld_request *op, struct pldi_slot *s)
{
    const size_t unit = pld_dtype_bytes(op->dtype);
    const int nodes = n_nodes(op);
    const int lane = lane_of(op, op->group->rank);

    s->bytes = 0;
    for (int j = 0; j < n_lanes(op); j++) {
        s->cuts[j] = s->bytes;
        for (int i = 0; i < nodes; i++) {
            if (j == lane)
                s->starts[i] = (s->bytes - s->cuts[j]) / unit;
            s->bytes += in_segment(op, s, rank_at(op, i, j));
        }
        if (j == lane)
            s->starts[nodes] = (s->bytes - s->cuts[j]) / unit;
    }
    s->cuts[n_lanes(op)] = s->bytes;
}

static void start_segment(const pld_request *op, struct pldi_slot *s, size_t segment)
{
    const struct pldi_route *r = op->group->route;

    s->from = segment * r->segment_bytes;
    if (has_blocks(op)) {
        cut_blocks(op, s);
        s->vector = s->scratch;
        return;
    }
    s->bytes = min_size(pldi_vector(op) - s->from, r->segment_bytes);
    cut_vector(op, s);
    s->vector = NULL;
    if (pldi_takes(op, op->group->rank))
        s->vector = pldi_piece(op, PLDI_RECEIVED, 0, s->from, s->bytes);
    if (s->vector == NULL)
        s->vector = s->scratch;
}

/* What this rank gives to a segment, in one piece. */
static const unsigned char *given(const pld_request *op, const struct pldi_slot *s)
{
    unsigned char *at = s->scratch;
    const unsigned char *piece;

    if (!has_blocks(op)) {
        piece = pldi_piece(op, PLDI_SENT, 0, s->from, s->bytes);
        if (piece == NULL)
            pldi_pack(op, 0, s->from, s->bytes, at);
        return piece != NULL ? piece : at;
    }
    for (int j = 0; j < n_lanes(op); j++) {
        for (int i = 0; i < n_nodes(op); i++) {
            const int rank = rank_at(op, i, j);
            const size_t bytes = in_segment(op, s, rank);

            pldi_pack(op, rank, s->from, bytes, at);
            at += bytes;
        }
    }
    return s->scratch;
}

/* Put what is in scratch where the caller has it. */
static void deliver(const pld_request *op, const struct pldi_slot *s)
{
    const unsigned char *at = s->scratch;

    if (!has_blocks(op)) {
        if (s->vector == s->scratch && pldi_takes(op, op->group->rank))
            pldi_unpack(op, 0, s->from, s->bytes, at);
        return;
    }
    for (int j = 0; j < n_lanes(op); j++) {
        for (int i = 0; i < n_nodes(op); i++) {
            const int rank = rank_at(op, i, j);
            const size_t bytes = in_segment(op, s, rank);

            pldi_unpack(op, rank, s->from, bytes, at);
            at += bytes;
        }
    }
}

/* --- inside the node --- */

static void start_local(const pld_request *op, struct pldi_slot *s, enum pldi_kind kind,
                        const void *send, void *recv)
{
    pld_group *g = inside(op);
    pld_request *local = &op->group->route->local;
    const enum pldi_side side =
        pldi_shape(kind)->cut[PLDI_SENT] == PLDI_BLOCKS ? PLDI_SENT : PLDI_RECEIVED;

    memset(local, 0, offsetof(pld_request, text));
    for (int i = n_lanes(op) + 1; i <= g->size; i++)
        s->cuts[i] = s->cuts[n_lanes(op)];
    local->group = g;
    local->whole = op;
    local->kind = kind;
    local->send = send;
    local->recv = recv;
    local->dtype = op->dtype;
    local->op = op->op;
    local->scale = 1;
    local->vector = s->bytes;
    local->count = s->bytes / pld_dtype_bytes(op->dtype);
    local->starts[side] = s->cuts;
    local->tree = op->tree;
    local->wide = kind == PLDI_REDUCE_SCATTER_V;
    local->root = lane_of(op, op->root);
    local->print.kind = (uint32_t)kind;
    local->print.dtype = (uint32_t)op->dtype;
    local->print.count = local->count;
    pldi_op_number(local, g->sequence++);
    local->name = op->name;
}

static int is_root_node(const pld_request *op)
{
    return node_of(op, op->group->rank) == node_of(op, op->root);
}

/* 1: an operation inside the node was started, 0: none is needed. */
static int start_first(const pld_request *op, struct pldi_slot *s)
{
    const struct pldi_route *r = op->group->route;
    const size_t mine =
        s->cuts[min_size((size_t)lane_of(op, op->group->rank), (size_t)n_lanes(op))];

    if (op->kind == PLDI_BROADCAST) {
        if (op->group->rank == op->root && s->vector == s->scratch)
            (void)given(op, s);
        if (inside(op) == NULL || !is_root_node(op))
            return 0;
        start_local(op, s, PLDI_SCATTER_V, s->vector, s->vector + mine);
        return 1;
    }
    if (!reduces(op)) {
        const int me = op->group->rank;

        pldi_pack(op, 0, s->from, in_segment(op, s, me),
                  s->scratch + mine + s->starts[node_of(op, me)] * pld_dtype_bytes(op->dtype));
        return 0;
    }
    if (inside(op) == NULL) {
        pldi_sum_load(&r->sum, s->acc, given(op, s), s->bytes / pld_dtype_bytes(op->dtype));
        return 0;
    }
    start_local(op, s, PLDI_REDUCE_SCATTER_V, given(op, s), s->acc);
    return 1;
}

static void start_leg(const pld_request *op, struct pldi_slot *s)
{
    struct pldi_route *r = op->group->route;
    const int lane = lane_of(op, op->group->rank);
    struct pldi_leg *leg = &s->leg;

    s->crossing = lane < n_lanes(op);
    if (!s->crossing)
        return;
    leg->members = members_of(op);
    leg->ranks = by_nodes(op) ? op->group->nodes->carriers : r->everybody;
    leg->sum = &r->sum;
    leg->starts = s->starts;
    leg->acc = s->acc;
    leg->temp = s->temp;
    leg->out = goal_of(op) == PLDI_GOAL_SCATTER ? s->out : s->vector + s->cuts[lane];
    leg->sends = s->sends;
    leg->recvs = s->recvs;
    leg->wants = s->wants;
    leg->sources = r->sources;
    leg->tag = PLDI_TAG_LEG + (int)(s - r->slots);
    pldi_leg_start(leg);
}

static int start_second(const pld_request *op, struct pldi_slot *s)
{
    const int lane = lane_of(op, op->group->rank);
    unsigned char *mine = s->vector + s->cuts[min_size((size_t)lane, (size_t)n_lanes(op))];

    if (goal_of(op) == PLDI_GOAL_SCATTER) {
        const int node = node_of(op, op->group->rank);

        pldi_unpack(op, op->group->rank, s->from, in_segment(op, s, op->group->rank),
                    s->out + s->starts[node] * pld_dtype_bytes(op->dtype));
        return 0;
    }
    if (inside(op) == NULL || (op->kind == PLDI_REDUCE && !is_root_node(op)))
        return 0;
    start_local(op, s, op->kind == PLDI_REDUCE ? PLDI_GATHER_V : PLDI_ALLGATHER_V, mine, s->vector);
    return 1;
}

static void end_second(const pld_request *op, const struct pldi_slot *s)
{
    if (goal_of(op) != PLDI_GOAL_SCATTER)
        deliver(op, s);
}

/* --- the order of it all --- */

static struct pldi_slot *slot_of(struct pldi_route *r, size_t segment)
{
    return &r->slots[segment % PLDI_SLOTS];
}

static void end_local(const pld_request *op, struct pldi_route *r, int which)
{
    r->busy = 0;
    if (which == 1) {
        start_leg(op, slot_of(r, r->first++));
        return;
    }
    end_second(op, slot_of(r, r->second++));
}

/* Start what comes next inside the node: 1, or 0 if it must wait. */
static int start_next(const pld_request *op, struct pldi_route *r)
{
    struct pldi_slot *s;

    if (r->first < r->segments && r->first - r->second < PLDI_SLOTS) {
        s = slot_of(r, r->first);
        start_segment(op, s, r->first);
        r->busy = 1;
        if (!start_first(op, s))
            end_local(op, r, 1);
        return 1;
    }
    s = slot_of(r, r->second);
    if (r->second == r->segments || s->crossing)
        return 0;
    r->busy = 2;
    if (!start_second(op, s))
        end_local(op, r, 2);
    return 1;
}

/* One thing inside the node: 1 if it moved. */
static int step_inside(const pld_request *op, struct pldi_route *r, int *moved)
{
    int stirred = 0;
    int rc;

    if (r->busy == 0)
        return start_next(op, r);
    rc = pldi_op_step(&r->local, &stirred);
    *moved |= stirred;
    if (rc == 1)
        end_local(op, r, r->busy);
    return rc;
}

static int step_legs(const pld_request *op, struct pldi_route *r, int *moved)
{
    for (int i = 0; i < PLDI_SLOTS; i++) {
        struct pldi_slot *s = &r->slots[i];
        int rc = 0;

        if (s->crossing)
            rc = pldi_leg_step(&s->leg, op->group, moved);
        PLDI_TRY(rc);
        if (rc == 1)
            s->crossing = 0;
    }
    return 0;
}

int pldi_route_step(pld_request *op, int *moved)
{
    struct pldi_route *r = op->group->route;
    int rc;

    if (op->state != PLDI_MOVING)
        r->slots[0].crossing = r->slots[1].crossing = 0;
    op->state = PLDI_MOVING;
    do {
        PLDI_TRY(step_legs(op, r, moved));
        rc = step_inside(op, r, moved);
        PLDI_TRY(rc);
        *moved |= rc;
    } while (rc == 1);
    return r->second == r->segments;
}
