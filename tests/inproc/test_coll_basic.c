/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <stdlib.h>

#include "inproc/inproc.h"
#include "tap.h"

enum { MANY = 300007 };

static int sums(pld_runtime *rt, void *context)
{
    pld_group *world = pld_runtime_world(rt);
    const int rank = pld_runtime_rank(rt);
    const int size = pld_runtime_size(rt);
    int64_t *v = calloc(MANY, sizeof(*v));

    (void)context;
    for (size_t count = 1; count <= MANY; count = count * 7 + 3) {
        for (size_t i = 0; i < count; i++)
            v[i] = (int64_t)i * (rank + 1);
        CHECK(rt, pld_allreduce(world, v, v, count, PLD_I64, PLD_SUM, NULL) == 0);
        for (size_t i = 0; i < count; i++)
            CHECK(rt, v[i] == (int64_t)i * size * (size + 1) / 2);
        if (rank == size - 1)
            memset(v, 0x11, count * sizeof(*v));
        CHECK(rt, pld_broadcast(world, v, count, PLD_I64, size - 1, NULL) == 0);
        CHECK(rt, v[count - 1] == 0x1111111111111111);
    }
    free(v);
    return 0;
}

static int leaves(pld_runtime *rt, void *context)
{
    (void)context;
    if (pld_runtime_rank(rt) == 1)
        return 0;
    CHECK(rt, pld_barrier(pld_runtime_world(rt), NULL) == PLD_ERR_PEER);
    return 0;
}

static int mesh(pld_runtime *rt, void *context)
{
    pld_mesh *m = NULL;
    int value = pld_runtime_rank(rt);

    (void)context;
    CHECK(rt, pld_mesh_create(rt, "dp=0,pp=2", &m) == 0);
    CHECK(rt, pld_mesh_size(m, PLD_AXIS_DP) == pld_runtime_size(rt) / 2);
    CHECK(rt, pld_allreduce(pld_mesh_group(m, PLD_AXIS_PP), &value, &value, 1, PLD_I32, PLD_SUM,
                            NULL) == 0);
    CHECK(rt, value == 2 * pld_mesh_coord(m, PLD_AXIS_DP) + pld_runtime_size(rt) / 2);
    pld_mesh_destroy(&m);
    return 0;
}

int main(void)
{
    for (int ranks = 1; ranks <= 10; ranks += 3)
        ok(inproc_run(ranks, sums, NULL) == 0, "%d ranks sum and broadcast", ranks);
    ok(inproc_run(4, leaves, NULL) == 0, "a rank that left is an error, not a hang");
    ok(inproc_run(4, mesh, NULL) == 0, "groups along the axes of a mesh");
    return tap_done();
}
