/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The last rank is killed where the others are in no operation of polder, or where one of them
 * tells of it before it is looked after; test_health.py runs it.  MPI is the program's, so that
 * ranks can die before they open the runtime, and its functions are stood in for, so that they
 * can die inside them.  Argument: where.
 */

#include <polder/polder.h>

#include <mpi.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 1 << 20, SPLITS = 20 };

static int rank, last;
static const char *where;
static int armed;
static float buffer[COUNT];

static void die_in(const char *place)
{
    if (armed && rank == last && strcmp(where, place) == 0)
        (void)raise(SIGKILL);
}

int MPI_Comm_split(MPI_Comm comm, int color, int key, MPI_Comm *out)
{
    die_in("split");
    return PMPI_Comm_split(comm, color, key, out);
}

int MPI_Comm_idup(MPI_Comm comm, MPI_Comm *out, MPI_Request *request)
{
    die_in("split");
    return PMPI_Comm_idup(comm, out, request);
}

int MPI_Isend(const void *buf, int count, MPI_Datatype type, int dest, int tag, MPI_Comm comm,
              MPI_Request *request)
{
    die_in("opening");
    return PMPI_Isend(buf, count, type, dest, tag, comm, request);
}

static void await_end(int64_t pid)
{
    const struct timespec nap = {0, 1000000};

    while (kill((pid_t)pid, 0) == 0)
        (void)nanosleep(&nap, NULL);
}

/*
 * All are in a reduction, which none of them moves on.  Rank 0 is told of the end of the last
 * rank, and ends itself; only then the others look.
 */
static int leave_one_by_one(pld_group *g)
{
    pld_request *request = NULL;
    pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .request = &request};
    int64_t pid = getpid();

    int rc = pld_broadcast(g, &pid, 1, PLD_I64, 0, NULL);

    if (rc == 0)
        rc = pld_barrier(g, NULL);
    if (rc == 0)
        rc = pld_allreduce(g, buffer, buffer, COUNT, PLD_F32, PLD_SUM, &opts);
    (void)sleep(1);
    if (rank == last)
        (void)raise(SIGKILL);
    if (rank > 0)
        await_end(pid);
    return rc < 0 ? rc : pld_request_wait(&request);
}

static int run(pld_group *g)
{
    int rc = 0;

    if (strcmp(where, "together") == 0)
        return leave_one_by_one(g);
    if (strcmp(where, "message") == 0)
        return rank == last ? 0 : pld_recv(g, buffer, 1, PLD_F32, last, 0, NULL);
    armed = 1;
    for (int i = 0; i < SPLITS && rc == 0; i++) { /* not each of them needs MPI */
        pld_group *part = NULL;

        rc = pld_group_split(g, 0, 0, &part);
        pld_group_destroy(&part);
    }
    return rc;
}

static void say(int rc)
{
    (void)printf("rank %d: %s: %s\nEND\n", rank, pld_error_name(rc), pld_last_error());
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    pld_runtime *rt = NULL;
    int level, size, rc;

    where = argc > 1 ? argv[1] : "";
    (void)setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    (void)MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &size);
    last = size - 1;
    armed = strcmp(where, "split") != 0;
    die_in("open");
    rc = pld_runtime_open(NULL, &rt);
    if (rc < 0) {
        say(rc);
        _exit(1);
    }
    rc = run(pld_runtime_world(rt));
    say(rc);
    if (rc < 0)
        (void)printf("again %d: %s", rank,
                     pld_error_name(pld_barrier(pld_runtime_world(rt), NULL)));
    (void)printf(": %s\nEND\n", pld_last_error());
    (void)printf("closed %d: %s\n", rank, pld_error_name(pld_runtime_close(&rt)));
    (void)fflush(stdout);
    _exit(rc < 0);
}
