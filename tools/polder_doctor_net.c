/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * InfiniBand and RoCE ports, GPUDirect, and the settings of MPI, UCX and NCCL that decide
 * whether they are used.  Settings are advised, never made.
 */

#include "polder_doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEVICES = 64, PORTS = 16 };

static const char conf[] = "/etc/openmpi/openmpi-mca-params.conf";
static const char use_ucx[] = "mpirun --mca pml ucx --mca osc ucx, or export OMPI_MCA_pml=ucx "
                              "OMPI_MCA_osc=ucx before srun";

struct port {
    char device[DOCTOR_NAME], number[DOCTOR_NAME];
    char state[32], layer[32], rate[64];
};

static int list_ports(struct port *out, int most)
{
    char devices[DEVICES][DOCTOR_NAME];
    char ports[PORTS][DOCTOR_NAME];
    char folder[DOCTOR_TEXT];
    const int n = doctor_list("/sys/class/infiniband", devices, DEVICES);
    int found = 0;

    for (int d = 0; d < n; d++) {
        int m;

        (void)snprintf(folder, sizeof(folder), "/sys/class/infiniband/%.63s/ports", devices[d]);
        m = doctor_list(folder, ports, PORTS);
        for (int p = 0; p < m && found < most; p++) {
            struct port *port = &out[found++];
            char state[32];
            const char *word;

            (void)snprintf(port->device, sizeof(port->device), "%.63s", devices[d]);
            (void)snprintf(port->number, sizeof(port->number), "%.63s", ports[p]);
            (void)doctor_read(state, sizeof(state), "%s/%s/state", folder, ports[p]);
            word = strchr(state, ' ');
            (void)snprintf(port->state, sizeof(port->state), "%s", word ? word + 1 : state);
            (void)doctor_read(port->layer, sizeof(port->layer), "%s/%s/link_layer", folder,
                              ports[p]);
            (void)doctor_read(port->rate, sizeof(port->rate), "%s/%s/rate", folder, ports[p]);
        }
    }
    return found;
}

static int is_up(const struct port *port)
{
    return strcmp(port->state, "ACTIVE") == 0;
}

int doctor_active_ports(void)
{
    static struct port ports[DEVICES];
    const int n = list_ports(ports, DEVICES);
    int up = 0;

    for (int i = 0; i < n; i++)
        up += is_up(&ports[i]);
    return up;
}

static void check_port(const struct port *port, int others_up, struct doctor_report *report)
{
    const char *kind = strcmp(port->layer, "Ethernet") == 0 ? "RoCE" : port->layer;
    char fix[DOCTOR_TEXT];

    (void)snprintf(fix, sizeof(fix),
                   "ibstat %.63s; cable, switch port, driver; meanwhile "
                   "UCX_NET_DEVICES names the ports that are up",
                   port->device);
    if (is_up(port))
        doctor_find(report, DOCTOR_OK, "network", "", "Port %s:%s is up (%s, %s).", port->device,
                    port->number, kind, port->rate);
    else if (strcmp(port->state, "INIT") == 0)
        doctor_find(report, DOCTOR_ERROR, "network",
                    "start opensm on one host, or ask who runs the "
                    "fabric",
                    "Port %s:%s waits for a subnet manager (state INIT).", port->device,
                    port->number);
    else
        doctor_find(report, others_up > 0 ? DOCTOR_NOTE : DOCTOR_WARN, "network", fix,
                    "Port %s:%s is not up (%s, state %s).", port->device, port->number, kind,
                    port->state);
}

/* Debian's Open MPI ships a file that keeps it from UCX. */
static void check_ucx(const struct doctor_live *live, int up, struct doctor_report *report)
{
    char line[128];
    const char *wanted = doctor_env("OMPI_MCA_pml");
    const int by_file = doctor_read_key(conf, "pml", line, sizeof(line)) == 0 &&
                        strcmp(line, "^ucx") == 0 && wanted == NULL;

    if (strcmp(live->pml, "ucx") == 0)
        doctor_find(report, DOCTOR_OK, "ucx", "", "Open MPI sends with UCX.");
    else if (live->pml[0] == '\0')
        return;
    else if (by_file)
        doctor_find(report, up > 0 ? DOCTOR_ERROR : DOCTOR_NOTE, "ucx", use_ucx,
                    "%s says 'pml = ^ucx', so Open MPI does not use UCX%s.", conf,
                    up > 0 ? " and messages between hosts go over TCP"
                           : "; without InfiniBand nothing is lost");
    else if (up > 0)
        doctor_find(report, DOCTOR_WARN, "ucx", use_ucx,
                    "Open MPI sends with %s although a port is up%s%s.", live->pml,
                    live->pml_wanted[0] != '\0' ? "; pml was asked to be " : "", live->pml_wanted);
}

static int has_peermem(void)
{
    static const char *const files[] = {"/sys/module/nvidia_peermem/version",
                                        "/sys/kernel/mm/memory_peers/nv_mem/version",
                                        "/sys/kernel/mm/memory_peers/nv_mem_nc/version"};
    char text[64];

    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        if (doctor_read(text, sizeof(text), "%s", files[i]) == 0)
            return 1;
    }
    return 0;
}

static void check_gpudirect(int up, struct doctor_report *report)
{
    const int gpus = doctor_count_gpus();
    char driver[128];
    const int has_driver = doctor_read(driver, sizeof(driver), "/proc/driver/nvidia/version") == 0;

    if (gpus == 0)
        return;
    if (!has_driver)
        doctor_find(report, DOCTOR_WARN, "gpu", "modprobe nvidia; dmesg says why it fails",
                    "%d NVIDIA GPUs are on the bus, but their driver is not loaded.", gpus);
    if (up > 0 && has_peermem())
        doctor_find(report, DOCTOR_OK, "gpudirect", "",
                    "GPU memory can be sent directly (nvidia_peermem).");
    else if (up > 0 && has_driver)
        doctor_find(report, DOCTOR_WARN, "gpudirect",
                    "modprobe nvidia_peermem, or dma-buf: Linux 5.12, open driver modules",
                    "nvidia_peermem is not loaded: without dma-buf, GPU memory is copied through "
                    "the host before it is sent.");
}

/* Whether a list like "mlx5_0:1,mlx5_1" names a port that is up. */
static int names_port_up(const char *list, const struct port *ports, int n)
{
    for (int i = 0; i < n; i++) {
        const char *at = strstr(list, ports[i].device);
        const char after = at == NULL ? 'x' : at[strlen(ports[i].device)];

        if (is_up(&ports[i]) && (after == '\0' || after == ':' || after == ','))
            return 1;
    }
    return 0;
}

/* "mlx5_1" without '=' means mlx5_10 to NCCL, too. */
static void check_hca(const char *list, const struct port *ports, int n,
                      struct doctor_report *report)
{
    const size_t length = strcspn(list, ":,");
    int met = 0;

    if (list[0] == '=' || list[0] == '^')
        return;
    for (int i = 0; i < n; i++)
        met += strncmp(ports[i].device, list, length) == 0 && strlen(ports[i].device) > length;
    if (met > 0)
        doctor_find(report, DOCTOR_WARN, "nccl", "put '=' in front of the list: exact names",
                    "NCCL_IB_HCA=%.60s is a prefix that %d other devices have, too.", list, met);
}

static void check_settings(const struct port *ports, int n, int up, struct doctor_report *report)
{
    const char *devices = doctor_env("UCX_NET_DEVICES");
    const char *tls = doctor_env("UCX_TLS");
    const char *hca = doctor_env("NCCL_IB_HCA");
    int ethernet = 0;

    for (int i = 0; i < n; i++)
        ethernet += is_up(&ports[i]) && strcmp(ports[i].layer, "Ethernet") == 0;
    if (devices != NULL && up > 0 && strcmp(devices, "all") != 0 &&
        !names_port_up(devices, ports, n))
        doctor_find(report, DOCTOR_WARN, "ucx", "unset UCX_NET_DEVICES, or name a port that is up",
                    "UCX_NET_DEVICES=%.60s names no InfiniBand port that is up.", devices);
    if (tls != NULL && doctor_count_gpus() > 0 && tls[0] != '^' && strcmp(tls, "all") != 0 &&
        strstr(tls, "cuda") == NULL)
        doctor_find(report, DOCTOR_WARN, "ucx", "add cuda to the list in UCX_TLS",
                    "UCX_TLS=%.60s leaves out cuda: UCX takes GPU memory for the host's.", tls);
    if (hca != NULL)
        check_hca(hca, ports, n, report);
    if (ethernet > 0 && doctor_count_gpus() > 0 && doctor_env("NCCL_IB_GID_INDEX") == NULL)
        doctor_find(report, DOCTOR_NOTE, "nccl",
                    "export NCCL_IB_GID_INDEX=3, if NCCL fails to "
                    "connect",
                    "%d ports are RoCE, where NCCL before 2.21 takes a GID that is "
                    "often not the routable one.",
                    ethernet);
}

void doctor_check_network(const struct doctor_live *live, struct doctor_report *report)
{
    static struct port ports[DEVICES];
    const int n = list_ports(ports, DEVICES);
    const int up = doctor_active_ports();

    if (n == 0)
        doctor_find(report, DOCTOR_NOTE, "network", "",
                    "There is no InfiniBand or RoCE device: hosts are connected by TCP alone.");
    for (int i = 0; i < n; i++)
        check_port(&ports[i], up, report);
    check_ucx(live, up, report);
    check_gpudirect(up, report);
    check_settings(ports, n, up, report);
}
