/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Memory of a host: limits, shared memory, large pages; and a directory for checkpoints. */

#include "polder.h"
#include "polder_doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static const unsigned long long GIB = 1ULL << 30;

static unsigned long long total_memory(void)
{
    char text[64];

    return doctor_read_key("/proc/meminfo", "MemTotal", text, sizeof(text)) < 0
               ? 0
               : strtoull(text, NULL, 10) * 1024;
}

/* Soft limit in bytes; 0: none, or unknown. */
static unsigned long long limit(const char *name)
{
    char text[128];

    if (doctor_read_key("/proc/self/limits", name, text, sizeof(text)) < 0)
        return 0;
    return strncmp(text, "unlimited", 9) == 0 ? 0 : strtoull(text, NULL, 10);
}

static void check_limits(struct doctor_report *report)
{
    const unsigned long long locked = limit("Max locked memory");
    const unsigned long long space = limit("Max address space");
    const int has_ports = doctor_active_ports() > 0;
    char text[SIZE_TEXT];

    if (locked == 0)
        doctor_find(report, DOCTOR_OK, "memlock", "", "Locked memory is not limited.");
    else
        doctor_find(report, has_ports ? DOCTOR_ERROR : DOCTOR_NOTE, "memlock",
                    "'* - memlock unlimited' in /etc/security/limits.d/polder.conf; "
                    "LimitMEMLOCK=infinity for slurmd",
                    "Locked memory is limited to %s%s.", format_size(locked, text),
                    has_ports ? ": InfiniBand cannot register buffers"
                              : ", which matters to InfiniBand alone");
    if (space > 0)
        doctor_find(report, DOCTOR_WARN, "address space", "ulimit -v unlimited",
                    "Address space is limited to %s: the memory that ranks of a node share is "
                    "mapped as large as the machine's.",
                    format_size(space, text));
}

/* Size of /dev/shm as its mount says, 0 if it does not, -1 if there is none. */
static long long shm_size(void)
{
    char path[DOCTOR_TEXT];
    char line[1024];
    FILE *file = fopen(doctor_path(path, "/proc/mounts"), "re");
    long long size = -1;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        const char *option = strstr(line, "size=");
        char *end;

        if (strstr(line, " /dev/shm ") == NULL)
            continue;
        size = option == NULL ? 0 : strtoll(option + 5, &end, 10);
        if (option != NULL && (*end == 'k' || *end == 'm' || *end == 'g'))
            size <<= *end == 'k' ? 10 : *end == 'm' ? 20 : 30;
    }
    if (file != NULL)
        (void)fclose(file);
    return size;
}

static void check_shm(struct doctor_report *report)
{
    const long long size = shm_size();
    char text[SIZE_TEXT];

    if (size < 0)
        doctor_find(report, DOCTOR_WARN, "shm", "mount -t tmpfs tmpfs /dev/shm",
                    "/dev/shm is not mounted: MPI's shared memory goes to a disk.");
    else if (size > 0 && (unsigned long long)size < GIB)
        doctor_find(report, DOCTOR_WARN, "shm", "docker run --shm-size=8g, or --ipc=host",
                    "/dev/shm has %s: enough for polder, which does not use it, but not for MPI, "
                    "NCCL and data loaders.",
                    format_size((unsigned long long)size, text));
    else
        doctor_find(report, DOCTOR_OK, "shm", "", "/dev/shm has %s.",
                    size == 0 ? "half of the memory" : format_size((unsigned long long)size, text));
}

/* memory.max of the control group; 0: none. */
static unsigned long long group_limit(void)
{
    char group[DOCTOR_TEXT];
    char text[64];

    if (doctor_read_key("/proc/self/cgroup", "0::", group, sizeof(group)) < 0)
        return 0;
    if (doctor_read(text, sizeof(text), "/sys/fs/cgroup%s/memory.max", group) < 0 &&
        doctor_read(text, sizeof(text), "/sys/fs/cgroup/memory.max") < 0)
        return 0;
    return strcmp(text, "max") == 0 ? 0 : strtoull(text, NULL, 10);
}

static void check_amount(struct doctor_report *report)
{
    const unsigned long long all = total_memory();
    const unsigned long long allowed = group_limit();
    char text[SIZE_TEXT];
    char more[SIZE_TEXT];
    char overcommit[16];

    if (allowed > 0 && allowed < all)
        doctor_find(report, DOCTOR_NOTE, "memory", "sbatch --mem=0 for all of it",
                    "This job may use %s of the host's %s; beyond that it is killed.",
                    format_size(allowed, text), format_size(all, more));
    else
        doctor_find(report, DOCTOR_OK, "memory", "", "The host has %s.", format_size(all, text));
    if (doctor_read(overcommit, sizeof(overcommit), "/proc/sys/vm/overcommit_memory") == 0 &&
        strcmp(overcommit, "2") == 0)
        doctor_find(report, DOCTOR_NOTE, "memory", "sysctl vm.overcommit_memory=0",
                    "The kernel grants no more memory than it has (overcommit_memory is 2), which "
                    "large sparse mappings run into.");
}

/* The word in brackets, as in "always [madvise] never". */
static void chosen(char *text)
{
    char *open = strchr(text, '[');
    char *close = strchr(text, ']');

    if (open == NULL || close == NULL || close < open) {
        text[0] = '\0';
        return;
    }
    *close = '\0';
    memmove(text, open + 1, strlen(open + 1) + 1);
}

static void check_pages(struct doctor_report *report)
{
    char ordinary[128];
    char shared[128];

    (void)doctor_read(ordinary, sizeof(ordinary), "/sys/kernel/mm/transparent_hugepage/enabled");
    (void)doctor_read(shared, sizeof(shared), "/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    chosen(ordinary);
    chosen(shared);
    if (strcmp(ordinary, "never") == 0)
        doctor_find(report, DOCTOR_NOTE, "pages",
                    "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
                    "Large pages are switched off, which costs some speed in large buffers.");
    if (strcmp(shared, "never") == 0 || strcmp(shared, "deny") == 0)
        doctor_find(report, DOCTOR_NOTE, "pages",
                    "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
                    "Shared memory gets no large pages (shmem_enabled is %s), which costs speed in "
                    "collectives of many MiB.",
                    shared);
    else if (strcmp(ordinary, "never") != 0 && ordinary[0] != '\0')
        doctor_find(report, DOCTOR_OK, "pages", "", "Large pages: %s, in shared memory %s.",
                    ordinary, shared[0] != '\0' ? shared : "unknown");
}

void doctor_check_memory(struct doctor_report *report)
{
    check_limits(report);
    check_shm(report);
    check_amount(report);
    check_pages(report);
}

static const char *file_system(long type)
{
    static const struct {
        unsigned long type;
        const char *name;
    } known[] = {{0x0bd00bd0, "Lustre"},    {0x47504653, "GPFS"},   {0x6969, "NFS"},
                 {0x19830326, "BeeGFS"},    {0x01021994, "tmpfs"},  {0x858458f6, "ramfs"},
                 {0xef53, "ext"},           {0x58465342, "XFS"},    {0x9123683e, "Btrfs"},
                 {0x794c7630, "overlayfs"}, {0x2fc12fc1, "ZFS"},    {0xaad7aaea, "PanFS"},
                 {0x00c36400, "Ceph"},      {0x65735546, "a FUSE"}, {0x517b, "SMB"},
                 {0xff534d42, "SMB"}};

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        if (known[i].type == (unsigned long)type)
            return known[i].name;
    }
    return "an unknown";
}

/* Write, flush, rename, flush the folder: what the commit of a checkpoint rests on.  NULL if all
 * works, else what does not. */
static const char *try_commit(const char *from, const char *to, const char *folder)
{
    static const char text[] = "polder doctor\n";
    const char *failed = NULL;
    int fd = open(from, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return "create a file";
    if (write(fd, text, sizeof(text) - 1) != (ssize_t)sizeof(text) - 1)
        failed = "write";
    else if (fsync(fd) < 0)
        failed = "flush a file";
    if (close(fd) < 0 && failed == NULL)
        failed = "close a file";
    if (failed == NULL && rename(from, to) < 0)
        failed = "rename a file";
    if (failed != NULL)
        return failed;
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        failed = "flush the directory";
    if (fd >= 0)
        (void)close(fd);
    return failed;
}

void doctor_check_directory(const char *path, int rank, struct doctor_report *report)
{
    char from[DOCTOR_TEXT + 64];
    char to[DOCTOR_TEXT + 64];
    struct statfs fs;
    const char *failed;
    const char *name;

    (void)snprintf(from, sizeof(from), "%.255s/.polder-doctor-%d-%d", path, rank, (int)getpid());
    (void)snprintf(to, sizeof(to), "%.255s/.polder-doctor-%d-%d.done", path, rank, (int)getpid());
    failed = try_commit(from, to, path);
    if (failed != NULL)
        doctor_find(report, DOCTOR_ERROR, "directory", "another directory for checkpoints",
                    "Cannot %s in %.120s: %s.", failed, path, strerror(errno));
    (void)unlink(from);
    (void)unlink(to);
    if (failed != NULL || statfs(path, &fs) < 0)
        return;
    name = file_system((long)fs.f_type);
    if (strcmp(name, "tmpfs") == 0 || strcmp(name, "ramfs") == 0)
        doctor_find(report, DOCTOR_WARN, "directory", "a directory on a disk for checkpoints",
                    "%.120s is in memory (%s): it does not outlive the host.", path, name);
    else
        doctor_find(report, DOCTOR_OK, "directory", "",
                    "%.120s (%s file system) writes, flushes and renames.", path, name);
}
