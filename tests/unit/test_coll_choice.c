/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>

#include <string.h>

#include "base/base_mem.h"
#include "coll/coll.h"
#include "coll/coll_choice.h"
#include "coll/coll_nodes.h"
#include "tap.h"

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
    ok(chooses(facts(PLDI_ALLREDUCE, 8192, 16, 8), NULL, PLDI_DOUBLING), "8 KiB: doubling");
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
    test_tuning();
    test_errors();
    test_layout();
    return tap_done();
}
