/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A rank that is killed while all of them operate; test_shm_kill.py runs it.
 * Arguments: elements of an operation; 1: buffers from pld_mem_alloc().  Each survivor
 * says on a line of its own what it got, and how long it was in that call.
 */

#include <polder/polder.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Descriptors of shared memory that this process has open. */
static int shared_descriptors(void)
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

/* Before MPI is there: a child that kills this process, from outside, a little later. */
static void be_killed(void)
{
    const struct timespec later = {2, 0};

    if (fork() != 0)
        return;
    (void)fclose(stdout);
    (void)nanosleep(&later, NULL);
    (void)kill(getppid(), SIGKILL);
    _exit(0);
}

int main(int argc, char **argv)
{
    const size_t count = argc > 1 ? (size_t)atoll(argv[1]) : 1;
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    pld_runtime *rt = NULL;
    void *buffer = NULL;
    double start = 0;
    int rc, again;

    if (rank != NULL && atoi(rank) == 1)
        be_killed();
    if (pld_runtime_open(NULL, &rt) < 0)
        return 1;
    if (argc > 2 && atoi(argv[2]) != 0)
        (void)pld_mem_alloc(rt, count * sizeof(float), &buffer);
    else
        buffer = calloc(count, sizeof(float));
    do {
        start = now();
        rc = pld_allreduce(pld_runtime_world(rt), buffer, buffer, count, PLD_F32, PLD_SUM, NULL);
    } while (rc == 0);
    start = now() - start;
    (void)printf("survivor %s seconds %.3f descriptors %d: %s\n", pld_error_name(rc), start,
                 shared_descriptors(), pld_last_error());
    again = pld_barrier(pld_runtime_world(rt), NULL);
    (void)printf("again %s\n", pld_error_name(again));
    (void)fflush(stdout);
    _exit(0); /* MPI would wait for the dead in MPI_Finalize. */
}
