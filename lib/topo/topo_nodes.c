/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Ranks are on one node if their hosts have the same name and were booted at the
 * same time: machines made from one image may have one name, and what runs beside
 * each other in containers of different names may not share memory.  The processors of a
 * node are the union of what its ranks may use: a launcher that binds each rank
 * to a core of its own and one that binds none come out the same.
 */

#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "topo/topo.h"

/* Between the name of a machine and the number of a pretended node. */
static const char pretended[] = "#";

/* "name/boot id"; without /proc the name alone. */
static void name_host(char host[PLDI_TOPO_HOST])
{
    char boot[37] = "";
    char name[65] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");

    if (f != NULL) {
        if (fgets(boot, sizeof(boot), f) == NULL)
            boot[0] = '\0';
        (void)fclose(f);
    }
    (void)gethostname(name, sizeof(name) - 1);
    (void)snprintf(host, PLDI_TOPO_HOST, "%s/%s", name, boot);
}

void pldi_topo_here(int rank, int size, struct pldi_place *out)
{
    const char *fake = getenv("POLDER_FAKE_NODES");
    const int nodes = fake != NULL ? atoi(fake) : 0;
    const char *fake_numa = getenv("POLDER_FAKE_NUMA");
    cpu_set_t set;
    size_t at;

    memset(out, 0, sizeof(*out));
    out->fake_numas = fake_numa != NULL ? atoi(fake_numa) : 0;
    name_host(out->host);
    at = strlen(out->host);
    if (nodes > 0 && at < sizeof(out->host))
        (void)snprintf(out->host + at, sizeof(out->host) - at, "%s%lld", pretended,
                       (long long)rank * nodes / size);
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return;
    for (size_t i = 0; i < PLDI_TOPO_CPUS && i < CPU_SETSIZE; i++) {
        if (CPU_ISSET(i, &set))
            out->cpus[i / 8] = (unsigned char)(out->cpus[i / 8] | 1u << i % 8);
    }
}

void pldi_topo_homes(const struct pldi_place *places, int size, int *homes)
{
    for (int r = 0; r < size; r++) {
        homes[r] = 0;
        while (strcmp(places[homes[r]].host, places[r].host) != 0)
            homes[r]++;
    }
}

static int on_one_machine(const char *a, const char *b)
{
    const size_t bytes = strcspn(a, pretended);

    return bytes == strcspn(b, pretended) && memcmp(a, b, bytes) == 0;
}

void pldi_topo_node(const struct pldi_place *places, int rank, int size, struct pldi_node *out)
{
    unsigned char cpus[PLDI_TOPO_CPUS / 8] = {0};

    memset(out, 0, sizeof(*out));
    for (int r = 0; r < size; r++) {
        out->sharing += on_one_machine(places[r].host, places[rank].host);
        if (strcmp(places[r].host, places[rank].host) != 0)
            continue;
        out->local_rank += r < rank;
        out->local_size++;
        for (size_t i = 0; i < sizeof(cpus); i++)
            cpus[i] = (unsigned char)(cpus[i] | places[r].cpus[i]);
    }
    for (size_t i = 0; i < sizeof(cpus); i++)
        out->cpus += __builtin_popcount(cpus[i]);
}

void pldi_topo_numas(const struct pldi_place *places, const int *homes, int size, int *numas)
{
    for (int r = 0; r < size; r++) {
        const int fake = places[homes[r]].fake_numas;
        int64_t near = 0;
        int64_t before = 0;

        numas[r] = places[r].numa;
        if (fake <= 0)
            continue;
        for (int i = 0; i < size; i++) {
            near += homes[i] == homes[r];
            before += homes[i] == homes[r] && i < r;
        }
        numas[r] = (int)(before * fake / near);
    }
}
