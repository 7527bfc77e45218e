/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Where ranks are: processors, NUMA nodes, the GPU that falls to each, and the nearest port. */

#include "polder_doctor.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 128, MAX_PATH = 512 };

/* A device on the PCI bus. */
struct device {
    char name[DOCTOR_NAME]; /* PCI address of a GPU, name of a port's device */
    char path[MAX_PATH];    /* in the tree of buses */
    int numa;
};

int doctor_cpus_parse(const char *list, unsigned char mask[DOCTOR_CPUS / 8])
{
    int n = 0;

    memset(mask, 0, DOCTOR_CPUS / 8);
    while (*list >= '0' && *list <= '9') {
        char *end;
        const long first = strtol(list, &end, 10);
        const long last = *end == '-' ? strtol(end + 1, &end, 10) : first;

        for (long cpu = first; cpu <= last && cpu < DOCTOR_CPUS; cpu++, n++)
            mask[cpu / 8] |= (unsigned char)(1U << cpu % 8);
        list = *end == ',' ? end + 1 : end;
    }
    return n;
}

static int meet(const unsigned char *a, const unsigned char *b)
{
    for (int i = 0; i < DOCTOR_CPUS / 8; i++) {
        if (a[i] & b[i])
            return 1;
    }
    return 0;
}

static void find_numa(struct doctor_place *place)
{
    char nodes[MOST][DOCTOR_NAME];
    char cpus[DOCTOR_TEXT];
    unsigned char mask[DOCTOR_CPUS / 8];
    const int n = doctor_list("/sys/devices/system/node", nodes, MOST);
    size_t length = 0;
    int met = 0;

    for (int i = 0; i < n; i++) {
        const int node = atoi(nodes[i] + 4);

        if (strncmp(nodes[i], "node", 4) != 0 || length >= sizeof(place->numa_list))
            continue;
        (void)doctor_read(cpus, sizeof(cpus), "/sys/devices/system/node/%s/cpulist", nodes[i]);
        (void)doctor_cpus_parse(cpus, mask);
        if (!meet(mask, place->mask))
            continue;
        length += (size_t)snprintf(place->numa_list + length, sizeof(place->numa_list) - length,
                                   "%s%d", met > 0 ? "," : "", node);
        place->numa = met++ == 0 ? node : -1;
    }
}

/* Resolve the place of a device in the tree of buses, and its NUMA node. */
static void locate(struct device *device, const char *folder)
{
    char path[DOCTOR_TEXT];
    char resolved[PATH_MAX] = "";
    char numa[16];

    (void)snprintf(device->path, sizeof(device->path), "%s",
                   realpath(doctor_path(path, "%s", folder), resolved) != NULL ? resolved : "");
    device->numa = doctor_read(numa, sizeof(numa), "%s/numa_node", folder) == 0 ? atoi(numa) : -1;
}

/* By address, in which numbers are hexadecimal and of fixed length. */
static int compare_devices(const void *a, const void *b)
{
    return strcmp(((const struct device *)a)->name, ((const struct device *)b)->name);
}

static int list_gpus(struct device *out, int most)
{
    static char names[4 * MOST][DOCTOR_NAME];
    const int n = doctor_list("/sys/bus/pci/devices", names, 4 * MOST);
    char vendor[16];
    char class[16];
    char folder[DOCTOR_TEXT];
    int gpus = 0;

    for (int i = 0; i < n && gpus < most; i++) {
        (void)snprintf(folder, sizeof(folder), "/sys/bus/pci/devices/%.63s", names[i]);
        (void)doctor_read(vendor, sizeof(vendor), "%s/vendor", folder);
        (void)doctor_read(class, sizeof(class), "%s/class", folder);
        /* NVIDIA's, a display controller; the same cards' sound and switches are not. */
        if (strcmp(vendor, "0x10de") != 0 || strncmp(class, "0x03", 4) != 0)
            continue;
        (void)snprintf(out[gpus].name, sizeof(out->name), "%.63s", names[i]);
        locate(&out[gpus++], folder);
    }
    qsort(out, (size_t)gpus, sizeof(*out), compare_devices);
    return gpus;
}

int doctor_count_gpus(void)
{
    struct device gpus[MOST];

    return list_gpus(gpus, MOST);
}

/* State of the best port of a device. */
static void port_state(const char *nic, char *out, size_t room)
{
    char folder[DOCTOR_TEXT];
    char ports[16][DOCTOR_NAME];
    char state[32];
    int n;

    (void)snprintf(folder, sizeof(folder), "/sys/class/infiniband/%s/ports", nic);
    n = doctor_list(folder, ports, 16);
    out[0] = '\0';
    for (int i = 0; i < n; i++) {
        const char *word;

        (void)doctor_read(state, sizeof(state), "%s/%s/state", folder, ports[i]);
        word = strchr(state, ' ');
        if (word != NULL && (out[0] == '\0' || strcmp(word + 1, "ACTIVE") == 0))
            (void)snprintf(out, room, "%s", word + 1);
    }
}

static int list_nics(struct device *out, int most)
{
    char names[MOST][DOCTOR_NAME];
    const int n = doctor_list("/sys/class/infiniband", names, most < MOST ? most : MOST);
    char folder[DOCTOR_TEXT];

    for (int i = 0; i < n; i++) {
        (void)snprintf(out[i].name, sizeof(out->name), "%.63s", names[i]);
        (void)snprintf(folder, sizeof(folder), "/sys/class/infiniband/%.63s/device", names[i]);
        locate(&out[i], folder);
    }
    return n;
}

/* Folders that two paths have in common. */
static int common(const char *a, const char *b)
{
    int n = 0;

    for (; *a != '\0' && *a == *b; a++, b++)
        n += *a == '/';
    return n;
}

/* The GPU that the rank gets if all of a host take theirs in turn, among those it may see. */
static int choose_gpu(const struct doctor_place *place, int gpus)
{
    const char *visible = doctor_env("CUDA_VISIBLE_DEVICES");
    int seen[MOST];
    int n = 0;

    if (visible == NULL)
        return gpus > 0 ? place->local_rank % gpus : -1;
    while (n < MOST && *visible >= '0' && *visible <= '9') {
        char *end;

        seen[n++] = (int)strtol(visible, &end, 10);
        visible = *end == ',' ? end + 1 : end;
    }
    if (n == 0 || seen[place->local_rank % n] >= gpus)
        return -1;
    return seen[place->local_rank % n];
}

static int nearness(const struct device *nic, const struct device *gpu, int numa)
{
    char state[16];
    int n = gpu != NULL ? 4 * common(nic->path, gpu->path) : 0;

    port_state(nic->name, state, sizeof(state));
    n += nic->numa >= 0 && nic->numa == (gpu != NULL ? gpu->numa : numa) ? 2 : 0;
    return strcmp(state, "ACTIVE") == 0 ? n + 1000 : n;
}

static void find_devices(struct doctor_place *place)
{
    static struct device gpus[MOST];
    static struct device nics[MOST];
    const int gpu = choose_gpu(place, list_gpus(gpus, MOST));
    const int n = list_nics(nics, MOST);
    int best = -1;

    if (gpu >= 0) {
        (void)snprintf(place->gpu, sizeof(place->gpu), "%.15s", gpus[gpu].name);
        place->gpu_numa = gpus[gpu].numa;
    }
    for (int i = 0; i < n; i++) {
        const struct device *mine = gpu >= 0 ? &gpus[gpu] : NULL;

        if (best < 0 ||
            nearness(&nics[i], mine, place->numa) > nearness(&nics[best], mine, place->numa))
            best = i;
    }
    if (best < 0)
        return;
    (void)snprintf(place->nic, sizeof(place->nic), "%.23s", nics[best].name);
    port_state(nics[best].name, place->nic_state, sizeof(place->nic_state));
    place->nic_numa = nics[best].numa;
}

void doctor_place_find(struct doctor_place *place)
{
    char cpus[DOCTOR_TEXT];

    place->numa = place->gpu_numa = place->nic_numa = -1;
    (void)doctor_read_key("/proc/self/status", "Cpus_allowed_list", cpus, sizeof(cpus));
    place->cpus = doctor_cpus_parse(cpus, place->mask);
    if (strlen(cpus) < sizeof(place->cpu_list))
        (void)snprintf(place->cpu_list, sizeof(place->cpu_list), "%.*s", DOCTOR_NAME - 1, cpus);
    else
        (void)snprintf(place->cpu_list, sizeof(place->cpu_list), "%d processors", place->cpus);
    find_numa(place);
    find_devices(place);
}

/* Ranks of the host of rank `first`, and the processors that they have together. */
static int count_host(const struct doctor_place *p, int size, int first, int *cpus)
{
    unsigned char all[DOCTOR_CPUS / 8] = {0};
    int ranks = 0;

    *cpus = 0;
    for (int r = 0; r < size; r++) {
        if (strcmp(p[r].host, p[first].host) != 0)
            continue;
        ranks++;
        for (int i = 0; i < DOCTOR_CPUS / 8; i++)
            all[i] |= p[r].mask[i];
    }
    for (int i = 0; i < DOCTOR_CPUS; i++)
        *cpus += all[i / 8] >> i % 8 & 1;
    return ranks;
}

static int is_first_of_host(const struct doctor_place *p, int rank)
{
    for (int r = 0; r < rank; r++) {
        if (strcmp(p[r].host, p[rank].host) == 0)
            return 0;
    }
    return 1;
}

static void check_processors(const struct doctor_place *p, int size, int first,
                             struct doctor_report *report)
{
    int cpus;
    const int ranks = count_host(p, size, first, &cpus);

    if (cpus < ranks)
        doctor_find(report, DOCTOR_WARN, "cores",
                    "start fewer ranks, or give them all processors: mpirun --bind-to none",
                    "%d ranks share %d processors on %s: they take turns, and waiting costs time.",
                    ranks, cpus, p[first].host);
    else if (cpus < 2 * ranks)
        doctor_find(report, DOCTOR_NOTE, "cores",
                    "mpirun --map-by slot:pe=2, or srun --cpus-per-task=2",
                    "%d ranks have %d processors on %s: the comm thread has no core of its own, so "
                    "communication overlaps little with computing.",
                    ranks, cpus, p[first].host);
    else
        doctor_find(report, DOCTOR_OK, "cores", "", "%d rank%s %d processors on %s.", ranks,
                    ranks == 1 ? " has" : "s have", cpus, p[first].host);
}

static void check_gpu(const struct doctor_place *p, int size, int rank,
                      struct doctor_report *report)
{
    char fix[DOCTOR_TEXT];

    if (p[rank].gpu[0] == '\0')
        return;
    for (int r = rank + 1; r < size; r++) {
        if (strcmp(p[r].host, p[rank].host) != 0 || strcmp(p[r].gpu, p[rank].gpu) != 0)
            continue;
        doctor_find(report, DOCTOR_WARN, "gpu", "one rank for each GPU: mpirun --map-by ppr:N:node",
                    "Ranks %d and %d share the GPU %s on %s.", rank, r, p[r].gpu, p[r].host);
        break;
    }
    (void)snprintf(fix, sizeof(fix), "numactl --cpunodebind=%d --membind=%d for that rank",
                   p[rank].gpu_numa, p[rank].gpu_numa);
    if (p[rank].gpu_numa >= 0 && p[rank].numa >= 0 && p[rank].gpu_numa != p[rank].numa)
        doctor_find(report, DOCTOR_WARN, "numa", fix,
                    "Rank %d runs on NUMA node %d of %s, its GPU %s is at node %d.", rank,
                    p[rank].numa, p[rank].host, p[rank].gpu, p[rank].gpu_numa);
    if (p[rank].gpu_numa >= 0 && p[rank].nic_numa >= 0 && p[rank].gpu_numa != p[rank].nic_numa)
        doctor_find(
            report, DOCTOR_WARN, "numa", "take the GPUs at the port's node: CUDA_VISIBLE_DEVICES",
            "The port nearest to rank %d's GPU %s (node %d) that is up, %s, is at node %d "
            "of %s.",
            rank, p[rank].gpu, p[rank].gpu_numa, p[rank].nic, p[rank].nic_numa, p[rank].host);
}

/* The port nearest to each rank of a host, and what makes the rank use it: said, never set. */
static void check_ports(const struct doctor_place *p, int size, int first,
                        struct doctor_report *report)
{
    char list[DOCTOR_TEXT / 2] = "";
    char fix[DOCTOR_TEXT];
    size_t length = 0;
    int differ = 0;

    for (int r = first; r < size && length < sizeof(list); r++) {
        if (strcmp(p[r].host, p[first].host) != 0 || p[r].nic[0] == '\0')
            continue;
        differ |= strcmp(p[r].nic, p[first].nic) != 0;
        length += (size_t)snprintf(list + length, sizeof(list) - length, "%srank %d %s",
                                   length > 0 ? ", " : "", r, p[r].nic);
    }
    if (length == 0)
        return;
    (void)snprintf(fix, sizeof(fix),
                   "UCX_NET_DEVICES=%s:1 for rank %d, and so on; NCCL looks for the nearest by "
                   "itself, NCCL_IB_HCA==%s:1 makes it take that",
                   p[first].nic, first, p[first].nic);
    doctor_find(report, DOCTOR_OK, "ports", differ ? fix : "", "Nearest ports on %s: %s%s.",
                p[first].host, list, length < sizeof(list) ? "" : " ...");
}

void doctor_place_job(const struct doctor_place *p, int size, struct doctor_report *report)
{
    for (int r = 0; r < size; r++) {
        if (is_first_of_host(p, r)) {
            check_processors(p, size, r, report);
            check_ports(p, size, r, report);
        }
        check_gpu(p, size, r, report);
        if (strcmp(p[r].version, p[0].version) != 0)
            doctor_find(report, DOCTOR_ERROR, "version", "the same LD_LIBRARY_PATH on all hosts",
                        "Rank %d on %s has polder %s, rank 0 has %s.", r, p[r].host, p[r].version,
                        p[0].version);
        if (strcmp(p[r].mpi, p[0].mpi) != 0)
            doctor_find(report, DOCTOR_ERROR, "version", "the same LD_LIBRARY_PATH on all hosts",
                        "Rank %d on %s has %s, rank 0 has %s.", r, p[r].host, p[r].mpi, p[0].mpi);
    }
}
