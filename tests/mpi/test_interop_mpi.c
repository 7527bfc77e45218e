/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Whose MPI is it?  Argument "theirs": the program starts MPI, hands over communicators
 * that are parts of MPI_COMM_WORLD, and goes on with them; "ours": polder starts and ends
 * MPI; "early": the program ends MPI before the runtime is closed.
 */

#include <polder/interop_mpi.h>
#include <stdlib.h>
#include <string.h>

#include "mpi_tap.h"

static int errors_seen;

static void count_error(MPI_Comm *comm, int *code, ...)
{
    (void)comm, (void)code;
    errors_seen++;
}

static int is_finalized(void)
{
    int flag = 0;

    (void)MPI_Finalized(&flag);
    return flag;
}

/* Messages of the program's own, between polder's, with a tag that polder uses, too. */
static int exchange(MPI_Comm comm, int rank, int size, int value)
{
    int got = -1;

    NEED(MPI_Sendrecv(&value, 1, MPI_INT, (rank + 1) % size, 0, &got, 1, MPI_INT,
                      (rank + size - 1) % size, 0, comm, MPI_STATUS_IGNORE) == 0);
    NEED(got == value - rank + (rank + size - 1) % size);
    return 0;
}

/* A receive of the program's is open while polder communicates. */
static int use(pld_runtime *rt, MPI_Comm comm)
{
    MPI_Request open = MPI_REQUEST_NULL;
    int rank, size, theirs;
    int sum = 0;
    int mine, token = -1;

    (void)MPI_Comm_rank(comm, &rank);
    (void)MPI_Comm_size(comm, &size);
    NEED(pld_runtime_rank(rt) == rank && pld_runtime_size(rt) == size);
    NEED(MPI_Irecv(&token, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, comm, &open) == 0);
    for (int i = 0; i < 20; i++) {
        mine = (rank + 1) * (i + 1);
        (void)MPI_Allreduce(&mine, &theirs, 1, MPI_INT, MPI_SUM, comm);
        NEED(pld_allreduce(pld_runtime_world(rt), &mine, &sum, 1, PLD_I32, PLD_SUM, NULL) == 0);
        NEED(sum == theirs);
    }
    NEED(MPI_Send(&rank, 1, MPI_INT, rank, 7, comm) == 0);
    NEED(MPI_Wait(&open, MPI_STATUS_IGNORE) == 0 && token == rank);
    return exchange(comm, rank, size, 100 + rank);
}

/* Join the ranks of a communicator, leave, and see that it is as it was. */
static int join(MPI_Comm comm)
{
    pld_runtime *second = NULL;
    pld_runtime *rt = NULL;
    MPI_Errhandler handler, now;
    MPI_Comm mesh_comm = comm;
    pld_mesh *mesh = NULL;
    int rank, size;

    (void)MPI_Comm_rank(comm, &rank);
    (void)MPI_Comm_size(comm, &size);
    (void)MPI_Comm_create_errhandler(count_error, &handler);
    (void)MPI_Comm_set_errhandler(comm, handler);
    NEED(pld_runtime_open_mpi(mesh_comm, &rt) == 0);
    NEED(pld_runtime_open_mpi(comm, &second) == PLD_ERR_STATE && second == NULL);
    NEED(use(rt, comm) == 0);
    NEED(pld_mesh_create(rt, "dp=0", &mesh) == 0 && pld_mesh_size(mesh, PLD_AXIS_DP) == size);
    pld_mesh_destroy(&mesh);
    NEED(pld_runtime_close(&rt) == 0 && rt == NULL && !is_finalized());
    (void)MPI_Comm_get_errhandler(comm, &now);
    NEED(now == handler && errors_seen == 0);
    (void)MPI_Errhandler_free(&now);
    NEED(MPI_Send(NULL, 0, MPI_INT, size + 1, 0, comm) != 0 && errors_seen == 1);
    errors_seen = 0;
    (void)MPI_Errhandler_free(&handler);
    return exchange(comm, rank, size, rank);
}

/* Ranks for which color is not negative join, by key; the others do something else. */
static void test_part(int color, int key, const char *what)
{
    MPI_Comm comm;
    int bad = 0;

    (void)MPI_Comm_split(MPI_COMM_WORLD, color < 0 ? MPI_UNDEFINED : color, key, &comm);
    if (comm != MPI_COMM_NULL) {
        bad = join(comm);
        (void)MPI_Comm_free(&comm);
    }
    all_ok(bad, "%s", what);
}

static int refused(int rank, int size)
{
    pld_runtime *rt = NULL;
    MPI_Comm half, inter;

    NEED(pld_runtime_open_mpi(MPI_COMM_NULL, &rt) == PLD_ERR_ARG && rt == NULL);
    NEED(strstr(pld_last_error(), "MPI_COMM_NULL") != NULL);
    if (size == 1)
        return 0;
    (void)MPI_Comm_split(MPI_COMM_WORLD, rank == 0, rank, &half);
    (void)MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, rank == 0 ? 1 : 0, 4, &inter);
    NEED(pld_runtime_open_mpi(inter, &rt) == PLD_ERR_UNSUPPORTED && rt == NULL);
    (void)MPI_Comm_free(&inter);
    (void)MPI_Comm_free(&half);
    return 0;
}

static int theirs(int argc, char **argv)
{
    int rank, size, rc;

    (void)MPI_Init(&argc, &argv);
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &size);
    test_part(rank == 0 && size > 1 ? -1 : 0, -rank, "all but the first, in reverse");
    test_part(rank % 2 == 1 ? 0 : size > 1 ? -1 : 0, rank, "the odd ones");
    test_part(rank % 2, rank, "two runtimes of one job, odd and even");
    test_part(0, rank, "all, after that");
    all_ok(refused(rank, size), "communicators that cannot be joined");
    rc = all_done(rank);
    return MPI_Finalize() == 0 ? rc : 1;
}

static int ours(void)
{
    pld_runtime *rt = NULL;
    int flag = 0;
    int level = -1;
    int bad = 0;
    int rank, sum;

    (void)MPI_Initialized(&flag);
    bad += flag;
    bad += pld_runtime_open(NULL, &rt) != 0;
    (void)MPI_Initialized(&flag);
    (void)MPI_Query_thread(&level);
    bad += !flag || level < MPI_THREAD_SERIALIZED;
    rank = pld_runtime_rank(rt);
    bad += pld_runtime_close(&rt) != 0 || rt != NULL;
    sum = is_finalized();
    bad += !sum;
    bad += pld_runtime_open(NULL, &rt) != PLD_ERR_STATE || rt != NULL;
    if (rank == 0)
        (void)printf("%sok 1 - polder starts MPI, and ends it once\n1..1\n", bad ? "not " : "");
    return bad != 0;
}

static int early(int argc, char **argv)
{
    pld_runtime *rt = NULL;
    int rank;
    int bad = 0;

    (void)MPI_Init(&argc, &argv);
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    bad += pld_runtime_open_mpi(MPI_COMM_WORLD, &rt) != 0;
    bad += pld_barrier(pld_runtime_world(rt), NULL) != 0;
    (void)MPI_Finalize();
    bad += pld_runtime_close(&rt) != PLD_ERR_STATE || rt != NULL;
    if (rank == 0)
        (void)printf("%sok 1 - a runtime closes after MPI_Finalize\n1..1\n", bad ? "not " : "");
    return bad != 0;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "theirs";

    (void)alarm(WATCHDOG_S);
    if (strcmp(mode, "ours") == 0)
        return ours();
    return strcmp(mode, "early") == 0 ? early(argc, argv) : theirs(argc, argv);
}
