/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>

#include <stdio.h>
#include <string.h>

#include "base/base_mem.h"
#include "coll/coll.h"
#include "coll/coll_choice.h"
#include "coll/coll_nodes.h"
#include "coll/coll_shm_levels.h"
#include "tap.h"
#include "topo/topo.h"

static struct pldi_facts facts(int kind, uint64_t bytes, int nodes, int ppn)
{
    return (struct pldi_facts){.kind = kind,
                               .dtype = PLD_BF16,
                               .bytes = bytes,
                               .ranks = nodes * ppn,
                               .nodes = nodes,
                               .ppn = ppn,
                               .regular = 1};
}

static int chooses(struct pldi_facts f, const struct pldi_tuning *t, enum pldi_algorithm a)
{
    return pldi_choose(&f, t).algorithm == a;
}

static void test_defaults(void)
{
    struct pldi_facts f = facts(PLDI_ALLREDUCE, 1 << 26, 16, 8);
    struct pldi_choice c = pldi_choose(&f, NULL);

    ok(c.algorithm == PLDI_NODES && c.across == PLDI_RING, "64 MiB on 16 x 8: nodes, a ring");
    f.bytes = 1 << 20;
    c = pldi_choose(&f, NULL);
    ok(c.algorithm == PLDI_NODES && c.across == PLDI_HALVING, "1 MiB: nodes, halving");
    f.bytes = 8192;
    c = pldi_choose(&f, NULL);
    ok(c.algorithm == PLDI_NODES && c.across == PLDI_DOUBLING, "8 KiB: nodes, doubling");
    ok(chooses(facts(PLDI_ALLREDUCE, 1 << 26, 4, 1), NULL, PLDI_FLAT), "4 ranks: flat");
    ok(chooses(facts(PLDI_ALLREDUCE, 8192, 2, 4), NULL, PLDI_FLAT), "8 ranks, 8 KiB: flat");
    ok(chooses(facts(PLDI_ALLTOALL, 1 << 26, 16, 8), NULL, PLDI_FLAT), "alltoall: flat");
    f = facts(PLDI_REDUCE_SCATTER, 1 << 26, 4, 4);
    f.regular = 0;
    ok(chooses(f, NULL, PLDI_FLAT), "reduce_scatter over uneven nodes: without nodes");
    f = facts(PLDI_ALLREDUCE, 1 << 26, 12, 1);
    f.tree = 1;
    ok(chooses(f, NULL, PLDI_FLAT), "12 ranks, reproducible: flat, no ring");
    f.ranks = f.nodes = 16;
    ok(chooses(f, NULL, PLDI_HALVING), "16 ranks, reproducible: halving is the tree");
}

static void test_shared(void)
{
    struct pldi_facts f = facts(PLDI_ALLREDUCE, 1 << 26, 1, 16);
    struct pldi_tuning *t = NULL;

    f.shared = 1;
    f.numas = 1;
    ok(chooses(f, NULL, PLDI_FLAT), "one group of ranks that share memory: flat");
    f.numas = 2;
    ok(chooses(f, NULL, PLDI_NUMA), "two groups: numa");
    f.crowded = 1;
    ok(chooses(f, NULL, PLDI_FLAT), "more ranks than processors: flat");
    f.crowded = 0;
    f.bytes = 65536;
    ok(chooses(f, NULL, PLDI_FLAT), "64 KiB: flat");
    f.bytes = 1 << 26;
    f.tree = 1;
    ok(chooses(f, NULL, PLDI_FLAT), "reproducible, groups are no subtrees: flat");
    f.near_aligned = 1;
    ok(chooses(f, NULL, PLDI_NUMA), "they are: numa");
    f.kind = PLDI_ALLTOALL;
    ok(chooses(f, NULL, PLDI_FLAT), "alltoall: flat");
    f.kind = PLDI_BROADCAST;
    ok(chooses(f, NULL, PLDI_NUMA), "broadcast: numa");
    if (!ok(pldi_tuning_parse(
                "t",
                "* * 1 9+ 0 1M -> numa 64K\n* * * * 0 * -> ring 64K\n* * 1 * 0 * -> flat 64K\n",
                &t) == 0,
            "rules"))
        return;
    ok(chooses(f, t, PLDI_FLAT), "a rule takes it back, and a ring is none in shared memory");
    f.bytes = 20000;
    ok(chooses(f, t, PLDI_NUMA), "another one wants it sooner");
    pldi_free(t);
    f.shared = 0;
    f.nodes = 16;
    f.ppn = 1;
    ok(!pldi_choice_fits(&f, PLDI_NUMA), "without shared memory there is none");
}

static void test_groups(void)
{
    static const int one[20] = {0};
    static const int two[12] = {1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0};
    static const int most[9] = {0, 0, 0, 0, 0, 0, 0, 0, 1};
    int homes[20];

    ok(pldi_levels_cut(one, 8, homes) == 1, "8 ranks of a NUMA node are one group");
    ok(pldi_levels_cut(one, 20, homes) == 3 && homes[5] == 0 && homes[6] == 6 && homes[12] == 6 &&
           homes[13] == 13,
       "20 ranks are three, of 6, 7 and 7");
    ok(pldi_levels_cut(two, 12, homes) == 2 && homes[0] == 0 && homes[4] == 0 && homes[3] == 2 &&
           homes[11] == 2,
       "two NUMA nodes, with ranks in turn");
    ok(pldi_levels_cut(most, 9, homes) == 2 && homes[3] == 0 && homes[4] == 4 && homes[8] == 4,
       "8 ranks here and 1 there are cut in halves");
}

static void test_places(void)
{
    struct pldi_place places[5];
    int homes[5], numas[5];

    memset(places, 0, sizeof(places));
    for (int r = 0; r < 5; r++) {
        (void)snprintf(places[r].host, sizeof(places[r].host), r < 4 ? "a" : "b");
        places[r].numa = r % 2;
    }
    pldi_topo_homes(places, 5, homes);
    pldi_topo_numas(places, homes, 5, numas);
    ok(numas[0] == 0 && numas[3] == 1 && numas[4] == 0, "NUMA nodes as they are");
    places[0].fake_numas = 2;
    pldi_topo_numas(places, homes, 5, numas);
    ok(numas[1] == 0 && numas[2] == 1 && numas[4] == 0, "pretended ones, of one node alone");
}

static void test_machine(void)
{
    struct pldi_machine m = {-1, 0};

    pldi_topo_look(&m);
    ok(m.numa >= 0, "this thread is on NUMA node %d, with %zu bytes of cache", m.numa,
       m.cache_bytes);
}

static void test_tuning(void)
{
    struct pldi_tuning *t = NULL;
    const int rc = pldi_tuning_parse("t",
                                     "# measured\n\n"
                                     "allreduce bf16 * 1 0 1M -> doubling 64K # small\n"
                                     "reduce_scatter * 2-4 2+ 64K * -> flat 1M\n",
                                     &t);

    ok(rc == 0 && t->n == 2, "a tuning file of two rules: %s", rc < 0 ? pld_last_error() : "read");
    if (rc < 0)
        return;
    ok(chooses(facts(PLDI_ALLREDUCE, 1 << 20, 12, 1), t, PLDI_DOUBLING), "max is included");
    ok(!chooses(facts(PLDI_ALLREDUCE, (1 << 20) + 1, 12, 1), t, PLDI_DOUBLING), "beyond it is not");
    ok(chooses(facts(PLDI_REDUCE_SCATTER, 1 << 20, 4, 4), t, PLDI_FLAT), "4 nodes are in 2-4");
    ok(chooses(facts(PLDI_REDUCE_SCATTER, 1 << 20, 5, 4), t, PLDI_NODES), "5 are not");
    pldi_free(t);
}

static void test_errors(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"allreduce bf16 * 1 0 1M doubling 64K", "t:1: need"},
        {"\nallreduse bf16 * 1 0 1M -> doubling 64K", "t:2: \"allreduse\" is no operation"},
        {"allreduce bf61 * 1 0 1M -> doubling 64K", "\"bf61\" is no dtype"},
        {"allreduce * 4-2 1 0 1M -> doubling 64K", "\"4-2\" is no number of nodes"},
        {"allreduce * 0 1 0 1M -> doubling 64K", "\"0\" is no number of nodes"},
        {"allreduce * * 1x 0 1M -> doubling 64K", "\"1x\" is no number"},
        {"allreduce * * * 0 1Q -> doubling 64K", "\"1Q\" is no number of bytes"},
        {"allreduce * * * 2K 1K -> doubling 64K", "max 1K is less than min 2K"},
        {"allreduce * * * 0 * -> rings 64K", "\"rings\" is no algorithm"},
        {"allreduce * * * 0 * -> ring 12", "chunk is 12, need"},
        {"allreduce * * * 0 * -> ring 64K more", "t:1: need"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct pldi_tuning *t = NULL;

        ok(pldi_tuning_parse("t", cases[i].text, &t) == PLD_ERR_ARG &&
               strstr(pld_last_error(), cases[i].says) != NULL,
           "refused: %s", pld_last_error());
    }
}

static void test_layout(void)
{
    static const int homes[] = {0, 1, 0, 1, 4, 0};
    static const int runs[] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8};
    struct pldi_nodes *n = pldi_nodes_make(homes, 6, 2);
    struct pldi_nodes *aligned = pldi_nodes_make(runs, 10, 0);

    if (!ok(n != NULL && aligned != NULL, "node maps"))
        return;
    ok(n->n == 3 && n->lanes == 1 && !n->regular && !n->aligned, "3 nodes, one of one rank");
    ok(n->node_of[3] == 1 && n->index[5] == 2 && n->by_node[1] == 2, "ranks 0 2 5, 1 3, and 4");
    ok(aligned->aligned && !aligned->regular && aligned->lanes == 2,
       "0-3 4-7 8-9 are subtrees, with 2 lanes");
    pldi_nodes_detach(&n);
    pldi_nodes_detach(&aligned);
}

int main(void)
{
    test_defaults();
    test_shared();
    test_groups();
    test_places();
    test_machine();
    test_tuning();
    test_errors();
    test_layout();
    return tap_done();
}
