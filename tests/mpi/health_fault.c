/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A job in which the last rank (or HEALTH_CULPRIT) does something wrong after a few right
 * operations; test_health.py runs it.  Arguments: the fault, and how ranks wait (block, request,
 * message; quiet: as block, and they end as if all were well, of which mpirun tells nobody).  Every
 * rank that gets an error says so on a line of its own, and every report is printed once.  The
 * lines that the test looks for are found by their names.
 */

#include <polder/polder.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 100, WARM_UP = 3 };

static pld_runtime *rt;
static int rank; /* also while the runtime closes */
static volatile sig_atomic_t given_up;
static float buffer[8 * COUNT];

static void report(const char *text, void *context)
{
    (void)context;
    (void)printf("REPORT %s\nEND\n", text);
    (void)fflush(stdout);
}

static void give_up(int code, void *context)
{
    (void)context;
    given_up = 1;
    (void)printf("give-up %d %s\n", rank, pld_error_name(code));
    (void)fflush(stdout);
}

/* The same in two ways. */
static int reduce(pld_group *g, const char *how, size_t count, const char *tag)
{
    pld_coll_opts opts = {PLD_OPTS(pld_coll_opts), .tag = tag};
    pld_request *request = NULL;
    int rc;

    if (strcmp(how, "request") == 0)
        opts.request = &request;
    rc = pld_allreduce(g, buffer, buffer, count, PLD_F32, PLD_SUM, &opts); /* line: reduce */
    return rc == 0 && opts.request != NULL ? pld_request_wait(&request) : rc;
}

static int send_or_receive(pld_group *g, size_t count, pld_dtype dtype)
{
    if (pld_group_rank(g) == 0)
        return pld_send(g, buffer, count, PLD_F32, 1, 7, NULL); /* line: send */
    if (pld_group_rank(g) == 1)
        return pld_recv(g, buffer, count, dtype, 0, 7, NULL); /* line: recv */
    return 0;
}

/* From outside, for a stopped process cannot continue itself. */
static void be_stopped(unsigned seconds)
{
    const pid_t child = fork();

    if (child == 0) {
        (void)kill(getppid(), SIGSTOP);
        (void)sleep(seconds);
        (void)kill(getppid(), SIGCONT);
        _exit(0);
    }
    (void)waitpid(child, NULL, 0);
}

static void read_for_ever(void)
{
    int ends[2];
    char byte;

    if (pipe(ends) == 0)
        (void)!read(ends[0], &byte, 1);
}

/* But for the hook, which tells of it that nobody waits any more. */
static void loop_for_ever(void)
{
    while (!given_up)
        ;
}

/* What the last rank does instead of a reduction of COUNT elements. */
static int misbehave(pld_group *g, const char *fault, const char *how)
{
    if (strcmp(fault, "count") == 0)
        return reduce(g, how, COUNT + 1, "bucket 9");
    if (strcmp(fault, "dtype") == 0)
        return pld_allreduce(g, buffer, buffer, COUNT, PLD_I32, PLD_SUM, NULL); /* line: dtype */
    if (strcmp(fault, "op") == 0)
        return pld_allreduce(g, buffer, buffer, COUNT, PLD_F32, PLD_MAX, NULL); /* line: op */
    if (strcmp(fault, "order") == 0)
        return pld_barrier(g, NULL); /* line: order */
    if (strcmp(fault, "kill") == 0)
        (void)raise(SIGKILL);
    if (strcmp(fault, "loop") == 0)
        loop_for_ever();
    if (strcmp(fault, "read") == 0)
        read_for_ever();
    if (strcmp(fault, "stop") == 0)
        be_stopped(6);
    if (strcmp(fault, "slow") == 0)
        (void)sleep(2);
    return reduce(g, how, COUNT, "bucket 9");
}

static int broadcast(pld_group *g, int root)
{
    return pld_broadcast(g, buffer, COUNT, PLD_F32, root, NULL); /* line: root */
}

/* A refused operation, and then so many right ones that nothing is left of it in the ring. */
static int part_long_ago(pld_group *g, int last, const char *how)
{
    int rc = reduce(g, how, last ? COUNT + 1 : COUNT, "long ago");

    for (int i = 0; rc == PLD_ERR_MISMATCH && i < 4200; i++) {
        if (pld_barrier(g, NULL) != 0)
            return -1;
    }
    return rc == PLD_ERR_MISMATCH ? 0 : -1;
}

/* As many elements to each as the sender's number says: nothing in which ranks part. */
static int send_unevenly(pld_group *g)
{
    static float received[8 * COUNT];
    size_t sent[8], expected[8];
    int rc;

    for (int r = 0; r < pld_group_size(g); r++) {
        sent[r] = (size_t)pld_group_rank(g);
        expected[r] = (size_t)r;
    }
    rc = pld_alltoall_v(g, buffer, sent, received, expected, PLD_F32, NULL);
    if (rc < 0)
        return rc;
    return pld_reduce_scatter_v(g, buffer, received, expected, PLD_F32, PLD_SUM, NULL);
}

static int run(const char *fault, const char *how)
{
    pld_group *g = pld_runtime_world(rt);
    const char *culprit = getenv("HEALTH_CULPRIT");
    const int last = pld_group_rank(g) == (culprit != NULL ? atoi(culprit) : pld_group_size(g) - 1);
    int rc = 0;

    for (int i = 0; rc == 0 && i < WARM_UP; i++)
        rc = reduce(g, how, COUNT, "warm up");
    if (rc < 0)
        return rc;
    if (strcmp(fault, "uneven") == 0)
        return send_unevenly(g);
    if (strcmp(fault, "old") == 0)
        return part_long_ago(g, last, how);
    if (strcmp(fault, "root") == 0)
        return broadcast(g, last ? pld_group_size(g) - 1 : 0);
    if (strcmp(fault, "message") == 0)
        return send_or_receive(g, COUNT, PLD_F32);
    if (strcmp(fault, "message-dtype") == 0)
        return send_or_receive(g, COUNT, PLD_I32);
    if (strcmp(fault, "lonely") == 0)
        return pld_group_rank(g) == 0 ? 0 : send_or_receive(g, COUNT, PLD_F32);
    if (strcmp(fault, "short") == 0 && last)
        return 0;
    return last ? misbehave(g, fault, how) : reduce(g, how, COUNT, "bucket 9");
}

int main(int argc, char **argv)
{
    const char *how = argc > 2 ? argv[2] : "block";
    pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .report = report, .give_up = give_up};
    int rc, closed;

    /* mpirun gives a terminal, on which ranks' lines would mix: each says what it says at once. */
    (void)setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    if (pld_runtime_open(&opts, &rt) < 0) {
        (void)printf("open: %s\n", pld_last_error());
        return 2;
    }
    rank = pld_runtime_rank(rt);
    rc = run(argc > 1 ? argv[1] : "", how);
    if (rc < 0) {
        (void)printf("rank %d: %s: %s\nEND\n", pld_runtime_rank(rt), pld_error_name(rc),
                     pld_last_error());
        rc = pld_barrier(pld_runtime_world(rt), NULL);
        (void)printf("again %d: %s\n", pld_runtime_rank(rt), pld_error_name(rc));
        (void)fflush(stdout);
    }
    closed = pld_runtime_close(&rt);
    (void)printf("closed %d: %s\n", rank, pld_error_name(closed));
    (void)fflush(stdout);
    _exit(rc < 0 && strcmp(how, "quiet") != 0);
}
