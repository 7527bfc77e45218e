/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_random.h
 * Random operations: what they are, the same on all ranks, what each rank has for them, and what
 * must come of them, element by element.
 */
#ifndef COLL_RANDOM_H
#define COLL_RANDOM_H

#include <polder/polder.h>

#include "coll/coll_shm.h"
#include "coll/coll_shm_mail.h"
#include "coll_pattern.h"
#include "inproc/inproc.h"

enum { RANDOM_GROUPS = 5, RANDOM_ITEMS = 6 };

/* --- random numbers: of the program, the same on all ranks, and of a rank --- */

static inline uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static inline size_t below(uint64_t *state, size_t n)
{
    return (size_t)(draw(state) % n);
}

/* --- what a program does --- */

enum shape { NONE, WHOLE, OWN, ALL }; /* of a buffer: the vector, the own block, all blocks */

enum act {
    ALLREDUCE,
    REDUCE,
    REDUCE_SCATTER,
    REDUCE_SCATTER_V,
    ALLGATHER,
    ALLGATHER_V,
    BROADCAST,
    ALLTOALL,
    ALLTOALL_V,
    GATHER,
    GATHER_V,
    SCATTER,
    SCATTER_V,
    LEAVES,
    BARRIER,
    AGREE,
    DIFFER,
    MESSAGE,
    ACTS
};

static const struct {
    const char *name;
    enum shape sent, received;
    int reduces, from_root, to_root, by_rank, lists;
} acts[ACTS] = {
    [ALLREDUCE] = {.name = "allreduce", .sent = WHOLE, .received = WHOLE, .reduces = 1, .lists = 1},
    [REDUCE] = {.name = "reduce", .sent = WHOLE, .received = WHOLE, .reduces = 1, .to_root = 1},
    [REDUCE_SCATTER] =
        {.name = "reduce_scatter", .sent = ALL, .received = OWN, .reduces = 1, .lists = 1},
    [REDUCE_SCATTER_V] =
        {.name = "reduce_scatter_v", .sent = ALL, .received = OWN, .reduces = 1, .by_rank = 1},
    [ALLGATHER] = {.name = "allgather", .sent = OWN, .received = ALL, .lists = 1},
    [ALLGATHER_V] = {.name = "allgather_v", .sent = OWN, .received = ALL, .by_rank = 1},
    [BROADCAST] =
        {.name = "broadcast", .sent = WHOLE, .received = WHOLE, .from_root = 1, .lists = 1},
    [ALLTOALL] = {.name = "alltoall", .sent = ALL, .received = ALL},
    [ALLTOALL_V] = {.name = "alltoall_v", .sent = ALL, .received = ALL, .by_rank = 1},
    [GATHER] = {.name = "gather", .sent = OWN, .received = ALL, .to_root = 1},
    [GATHER_V] = {.name = "gather_v", .sent = OWN, .received = ALL, .to_root = 1, .by_rank = 1},
    [SCATTER] = {.name = "scatter", .sent = ALL, .received = OWN, .from_root = 1},
    [SCATTER_V] = {.name = "scatter_v", .sent = ALL, .received = OWN, .from_root = 1, .by_rank = 1},
    [LEAVES] = {.name = "allreduce_leaves", .sent = WHOLE, .received = WHOLE, .reduces = 1},
    [BARRIER] = {.name = "barrier", .sent = NONE, .received = NONE},
    [AGREE] = {.name = "agree", .sent = NONE, .received = NONE},
    [DIFFER] = {.name = "allreduce that differs", .sent = WHOLE, .received = WHOLE, .reduces = 1},
    [MESSAGE] = {.name = "message", .sent = WHOLE, .received = WHOLE, .lists = 1},
};

/* An operation, as all ranks of its group know it. */
struct plan {
    enum act act;
    pld_dtype dtype;
    pld_op op;
    double scale;
    size_t count, n_items; /* 0: no list */
    int group, root, waits, shift, tag;
    uint64_t salt;
};

/* Where one item of an operation is; not every operation needs both. */
struct part {
    size_t count;
    uint64_t salt;
    size_t bytes[2];
    char *memory[2]; /* with a guard on both sides */
    char *at[2];
    int shared[2];
    int in_place;
};

/* A rank in a group. */
struct member {
    int me, size;
};

/* --- data --- */

/* What a rank has at that place of its vector.  Such that all results are exact in all types. */
static inline int value(const struct plan *p, uint64_t salt, int rank, size_t i)
{
    const uint64_t h = (i + salt) * 0x9e3779b97f4a7c15U + (uint64_t)rank * 0xd1b54a32d192ed03U;

    if (p->op == PLD_PROD)
        return rank < 12 && (h >> 40) % 5 == 0 ? 2 : 1;
    return (int)((h >> 40) % 5);
}

static inline int reduced(const struct plan *p, uint64_t salt, int ranks, size_t i)
{
    int acc = value(p, salt, 0, i);

    for (int r = 1; r < ranks; r++) {
        const int v = value(p, salt, r, i);

        if (p->op == PLD_MAX)
            acc = v > acc ? v : acc;
        else if (p->op == PLD_MIN)
            acc = v < acc ? v : acc;
        else
            acc = p->op == PLD_PROD ? acc * v : acc + v;
    }
    return acc;
}

/* Of the block of s for d; where counts do not differ, it is the same for all. */
static inline size_t block(const struct plan *p, const struct part *part, int s, int d)
{
    uint64_t state = p->salt + (uint64_t)s * 1000003;

    if (!acts[p->act].by_rank)
        return part->count;
    if (p->act == ALLTOALL_V)
        state += (uint64_t)d * 7919;
    if (below(&state, 3) == 0)
        return 0;
    return below(&state, 8) == 0 ? 2 * part->count : below(&state, part->count + 1);
}

/* Elements before that block in what rank s sends. */
static inline size_t before(const struct plan *p, const struct part *part, int s, int d)
{
    size_t n = 0;

    for (int r = 0; r < d; r++)
        n += p->act == ALLTOALL_V ? block(p, part, s, r) : block(p, part, r, 0);
    return n;
}

static inline size_t elements(const struct member *r, const struct plan *p, const struct part *part,
                              int side)
{
    const enum shape shape = side == 0 ? acts[p->act].sent : acts[p->act].received;
    size_t n = 0;

    if ((side == 0 && acts[p->act].from_root && r->me != p->root) ||
        (side == 1 && acts[p->act].to_root && r->me != p->root) || shape == NONE)
        return p->act == BROADCAST && side == 0 ? part->count : 0;
    if (shape == WHOLE)
        return p->act == LEAVES && side == 0 ? 2 * part->count : part->count;
    if (shape == OWN)
        return block(p, part, r->me, 0);
    if (p->act != ALLTOALL_V || side == 0)
        return before(p, part, r->me, r->size);
    for (int s = 0; s < r->size; s++)
        n += block(p, part, s, r->me);
    return n;
}

static inline void fill(const struct member *r, const struct plan *p, const struct part *part)
{
    const size_t bytes = pld_dtype_bytes(p->dtype);
    const size_t n = part->bytes[0] / bytes;

    if (p->act == BROADCAST && r->me != p->root)
        return;
    for (size_t i = 0; i < n; i++) {
        const int second = p->act == LEAVES && i >= part->count;
        const int rank = second ? r->me + r->size : r->me;

        pattern_store(p->dtype, part->at[0] + i * bytes,
                      value(p, part->salt, rank, second ? i - part->count : i));
    }
}

/* Element i of the block that came from s. */
static inline double expected(const struct member *r, const struct plan *p, const struct part *part,
                              int s, size_t i)
{
    if (p->act == LEAVES)
        return reduced(p, part->salt, 2 * r->size, i);
    if (p->act == DIFFER)
        return 3;
    if (p->act == MESSAGE)
        s = (r->me - p->shift + r->size) % r->size;
    if (acts[p->act].received == OWN)
        i += before(p, part, p->root, r->me);
    if (p->act == ALLTOALL || p->act == ALLTOALL_V)
        i += before(p, part, s, r->me);
    if (acts[p->act].reduces)
        return reduced(p, part->salt, r->size, i) * p->scale;
    return value(p, part->salt, acts[p->act].from_root ? p->root : s, i);
}

static inline int compare(const struct member *r, const struct plan *p, const struct part *part)
{
    const size_t bytes = pld_dtype_bytes(p->dtype);
    const int blocks = acts[p->act].received == ALL ? r->size : 1;
    const char *at = part->at[1];
    char want[8];

    if (part->bytes[1] == 0)
        return 0;
    for (int s = 0; s < blocks; s++) {
        const size_t n = blocks == 1 ? part->bytes[1] / bytes : block(p, part, s, r->me);

        for (size_t i = 0; i < n; i++, at += bytes) {
            pattern_store(p->dtype, want, expected(r, p, part, s, i));
            if (memcmp(want, at, bytes) == 0)
                continue;
            printf("# element %zu of %zu, block %d, is wrong\n", i, n, s);
            return -1;
        }
    }
    return 0;
}

static inline size_t draw_count(uint64_t *program, int ranks, size_t bytes)
{
    static const size_t edges[] = {PLDI_TEAM_INLINE, PLDI_TEAM_SMALL,  PLDI_TEAM_PIECE_MIN,
                                   PLDI_SMALL_BYTES, PLDI_MAIL_INLINE, PLDI_MAIL_EAGER,
                                   64 << 10,         128 << 10,        256};
    enum { EDGES = sizeof(edges) / sizeof(edges[0]) };
    size_t n = edges[below(program, EDGES)];

    switch (below(program, 8)) {
    case 0:
        return below(program, 4);
    case 1:
        return below(program, 200);
    case 2:
        return below(program, 20000) / bytes;
    case 3:
        n = n / (size_t)ranks;
        break;
    case 4:
        n = n * (1 + below(program, 4));
        break;
    default:
        break;
    }
    n = (n < (256 << 10) ? n : (256 << 10)) / bytes;
    return n + below(program, 5) - (n < 2 ? 0 : 2);
}

static inline struct plan draw_plan(uint64_t *program, int ranks)
{
    struct plan p = {.act = (enum act)below(program, ACTS), .scale = 1, .salt = draw(program)};

    switch (below(program, 8)) {
    case 0:
    case 1:
        p.act = ALLREDUCE;
        break;
    case 2:
        p.act = MESSAGE;
        break;
    default:
        break;
    }
    p.group = (int)below(program, RANDOM_GROUPS);
    p.dtype = (pld_dtype)below(program, 9);
    p.op = (pld_op)(PLD_SUM + (int)below(program, 5));
    p.waits = below(program, 2) == 0;
    p.root = (int)below(program, 1000);
    p.shift = (int)below(program, 1000);
    p.tag = (int)below(program, 2);
    if (p.act == LEAVES || (p.op == PLD_AVG && p.dtype > PLD_BF16))
        p.op = PLD_SUM;
    if (p.act == LEAVES)
        p.dtype = PLD_F32;
    p.count = draw_count(program, ranks, pld_dtype_bytes(p.dtype));
    if (acts[p.act].sent == ALL || acts[p.act].received == ALL)
        p.count = p.count > 64 ? p.count * 2 / (size_t)ranks : p.count;
    if (acts[p.act].lists && (p.act == MESSAGE || below(program, 4) == 0))
        p.n_items = 1 + below(program, RANDOM_ITEMS);
    return p;
}

#endif /* COLL_RANDOM_H */
