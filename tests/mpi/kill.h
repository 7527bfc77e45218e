/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file kill.h  What the programs that test_shm_kill.py runs have in common. */
#ifndef KILL_H
#define KILL_H

#include <polder/polder.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Descriptors of shared memory that this process has open. */
static inline int shared_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    const struct dirent *entry;
    char target[256];
    int n = 0;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        const ssize_t length = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

        target[length > 0 ? length : 0] = '\0';
        n += strstr(target, "memfd:polder") != NULL;
    }
    if (dir != NULL)
        (void)closedir(dir);
    return n;
}

/**
 * Before MPI is there: a child of rank 1 is to kill it from outside, a little after it called
 * kill_soon(): whoever is killed while MPI begins leaves the others there for ever.
 * @return what to hand to kill_soon()
 */
static inline int kill_rank_1(void)
{
    const struct timespec later = {1, 0};
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    const pid_t parent = getpid();
    int ends[2];
    char go;

    if (rank == NULL || atoi(rank) != 1 || pipe(ends) != 0)
        return -1;
    if (fork() != 0) {
        (void)close(ends[0]);
        return ends[1];
    }
    (void)fclose(stdout);
    (void)close(ends[1]);
    if (read(ends[0], &go, 1) == 1) {
        (void)nanosleep(&later, NULL);
        (void)kill(parent, SIGKILL);
    }
    _exit(0);
}

static inline void kill_soon(int end)
{
    if (end >= 0 && write(end, "", 1) != 1)
        _exit(1);
}

/** Say what the last call gave, and how long it took; a later one must fail, too. */
_Noreturn static inline void survive(pld_runtime *rt, int rc, double seconds)
{
    (void)printf("survivor %s seconds %.3f descriptors %d: %s\n", pld_error_name(rc), seconds,
                 shared_descriptors(), pld_last_error());
    (void)printf("again %s\n", pld_error_name(pld_barrier(pld_runtime_world(rt), NULL)));
    (void)fflush(stdout);
    _exit(0); /* MPI would wait for the dead in MPI_Finalize. */
}

#endif /* KILL_H */
