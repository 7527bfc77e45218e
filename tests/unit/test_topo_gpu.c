/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Which GPU falls to which rank, and what is near it on a machine that is recorded. */

#include <stdlib.h>
#include <string.h>

#include "tap.h"
#include "topo/topo_gpu.h"

enum { MOST = 8 };

/* A node: what is near the GPUs, and where the ranks are; 8 processors. */
struct node {
    struct pldi_gpu_place gpus[MOST];
    unsigned char cpus[MOST][PLDI_TOPO_CPUS / 8];
    struct pldi_gpu_rank ranks[MOST];
};

static void set_gpu(struct node *n, int g, unsigned cpus, const char *nic, enum pldi_near near)
{
    n->gpus[g] =
        (struct pldi_gpu_place){.id = (uint32_t)g, .cpus = {(unsigned char)cpus}, .near = near};
    (void)snprintf(n->gpus[g].nic, sizeof(n->gpus[g].nic), "%s", nic);
}

static void set_rank(struct node *n, int r, unsigned cpus, unsigned visible)
{
    n->cpus[r][0] = (unsigned char)cpus;
    n->ranks[r] = (struct pldi_gpu_rank){.cpus = n->cpus[r], .visible = visible};
}

/* The GPUs of the ranks in turn: "0 1 2". */
static void deals(struct node *n, int n_gpus, int n_ranks, const char *want, const char *what)
{
    char got[64] = "";

    pldi_topo_deal(n->gpus, n_gpus, n->ranks, n_ranks);
    for (int r = 0; r < n_ranks; r++)
        (void)snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%d", r > 0 ? " " : "",
                       n->ranks[r].gpu);
    ok(strcmp(got, want) == 0, "%s: %s, want %s", what, got, want);
}

static void test_deal(void)
{
    struct node n = {0};

    for (int g = 0; g < 4; g++)
        set_gpu(&n, g, 0, "", PLDI_FAR);
    for (int r = 0; r < 6; r++)
        set_rank(&n, r, 0xff, 15);
    deals(&n, 4, 6, "0 1 2 3 0 1", "nothing is known: in turn");
    for (int g = 0; g < 4; g++)
        set_gpu(&n, g, g < 2 ? 0x0f : 0xf0, "", PLDI_FAR);
    set_rank(&n, 0, 0xf0, 15);
    set_rank(&n, 1, 0x0f, 15);
    set_rank(&n, 2, 0xf0, 15);
    set_rank(&n, 3, 0xf0, 15);
    deals(&n, 4, 4, "2 0 3 1", "by processors, but none shares while one is free");
    for (int g = 0; g < 4; g++)
        set_gpu(&n, g, 0xff, g < 2 ? "mlx5_0" : "mlx5_1",
                g % 2 ? PLDI_NEAR_SWITCH : PLDI_NEAR_NUMA);
    for (int r = 0; r < 4; r++)
        set_rank(&n, r, 0xff, 15);
    deals(&n, 4, 4, "1 3 0 2", "near a port first, and at another one than the rank before");
    for (int g = 0; g < 4; g++)
        set_gpu(&n, g, g == 0 ? 0x01 : 0xfe, "mlx5_0", g == 0 ? PLDI_FAR : PLDI_NEAR_SWITCH);
    set_rank(&n, 0, 0x01, 15);
    deals(&n, 4, 1, "0", "processors count more than ports");
}

static void test_visible(void)
{
    struct node n = {0};

    for (int g = 0; g < 4; g++)
        set_gpu(&n, g, 0xff, "", PLDI_FAR);
    set_rank(&n, 0, 0xff, 3);
    set_rank(&n, 1, 0xff, 1);
    deals(&n, 4, 2, "1 0", "a rank moves on for one that sees less");
    set_rank(&n, 0, 0xff, 7);
    set_rank(&n, 1, 0xff, 3);
    set_rank(&n, 2, 0xff, 1);
    deals(&n, 4, 3, "2 1 0", "two ranks move on");
    set_rank(&n, 0, 0xff, 4);
    set_rank(&n, 1, 0xff, 4);
    set_rank(&n, 2, 0xff, 0);
    set_rank(&n, 3, 0xff, 12);
    deals(&n, 4, 4, "2 2 -1 3", "two ranks share what is all they see; one sees none");
    for (int r = 0; r < 6; r++)
        set_rank(&n, r, 0xff, r < 3 ? 3 : 1);
    deals(&n, 2, 6, "1 1 1 0 0 0", "three on each, though half of them see one alone");
}

/*
 * tests/device/machine.xml: two NUMA nodes of two processors.  Node 0: GPU 1b with a port that is
 * down, 2b with mlx5_0, each at a switch of one host bridge.  Node 1: 3b, 4b and mlx5_2 at one
 * switch, mlx5_3 beside it.  (A comment in the file is more than hwloc reads without libxml2.)
 */
static void looks(const char *pci, unsigned cpus, const char *nic, enum pldi_near near)
{
    struct pldi_gpu_place p = {.id = pldi_topo_pci_pack(pci)};
    char text[PLDI_TOPO_PCI];

    pldi_topo_pci_look(&p);
    pldi_topo_pci_text(p.id, text);
    ok(p.cpus[0] == cpus && strcmp(p.nic, nic) == 0 && p.near == near && strcmp(text, pci) == 0,
       "%s: processors %#x, want %#x; port '%s', want '%s', at %s, want %s", text,
       (unsigned)p.cpus[0], cpus, p.nic, nic, pldi_topo_near_name(p.near),
       pldi_topo_near_name(near));
}

static void test_look(void)
{
    looks("0000:1b:00.0", 3, "mlx5_0", PLDI_NEAR_BRIDGE); /* its own switch's port is down */
    looks("0000:2b:00.0", 3, "mlx5_0", PLDI_NEAR_SWITCH);
    looks("0000:3b:00.0", 12, "mlx5_2", PLDI_NEAR_SWITCH);
    looks("0000:4b:00.0", 12, "mlx5_2", PLDI_NEAR_SWITCH);
    looks("000a:ff:1f.7", 0, "", PLDI_FAR);
}

int main(int argc, char **argv)
{
    char machine[4096];

    (void)snprintf(machine, sizeof(machine), "%s/../device/machine.xml", argc > 1 ? argv[1] : ".");
    (void)setenv("HWLOC_XMLFILE", machine, 1);
    test_deal();
    test_visible();
    test_look();
    return tap_done();
}
