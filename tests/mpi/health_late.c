/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The last rank is killed while the watchdogs of all others are held up, as on a busy machine;
 * test_health.py runs it.  Who waits for that rank finds out by himself, and must not wait for it
 * a second time when the runtime is closed.  With the argument "elsewhere" rank 0 does not wait in
 * an operation of polder, but is told by other means, as by NCCL, that one has failed.
 */

#include <polder/polder.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base_err.h"
#include "coll/coll.h"

static atomic_int held;

/* Longer than it takes a rank that sees the end of another to leave. */
static void hold_up(void *context)
{
    (void)context;
    if (atomic_exchange(&held, 1) == 0)
        (void)sleep(2);
}

static void wait_until_held(void)
{
    const struct timespec nap = {0, 1000000};

    while (!atomic_load(&held))
        (void)nanosleep(&nap, NULL);
}

static void await_end(int64_t pid)
{
    const struct timespec nap = {0, 1000000};

    while (kill((pid_t)pid, 0) == 0)
        (void)nanosleep(&nap, NULL);
}

static int be_told(const pld_group *g, int64_t pid)
{
    const uint64_t ticket = pldi_health_ticket(g->health);
    const struct pldi_health_call call = {.count = 1, .sequence = 1000};

    pldi_health_called(g->health, ticket, &call);
    await_end(pid);
    pldi_health_ended(g->health, ticket, PLD_ERR_PEER);
    return pldi_fail(PLD_ERR_PEER, "a rank of another node has failed");
}

static int run(pld_group *g, const char *how)
{
    const int last = pld_group_size(g) - 1;
    int64_t pid = getpid();
    float x = 1;

    pldi_health_set_watch(pldi_health_group_owner(g->health), hold_up, NULL, NULL);
    wait_until_held();
    PLDI_TRY(pld_broadcast(g, &pid, 1, PLD_I64, last, NULL));
    PLDI_TRY(pld_barrier(g, NULL));
    if (pld_group_rank(g) == last)
        (void)raise(SIGKILL);
    if (pld_group_rank(g) == 0 && strcmp(how, "elsewhere") == 0)
        return be_told(g, pid);
    return pld_allreduce(g, &x, &x, 1, PLD_F32, PLD_SUM, NULL);
}

int main(int argc, char **argv)
{
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts)};
    pld_runtime *rt = NULL;
    int rank, rc;

    if (pld_runtime_open(&opts, &rt) < 0) {
        (void)printf("open: %s\n", pld_last_error());
        return 2;
    }
    rank = pld_runtime_rank(rt);
    rc = run(pld_runtime_world(rt), argc > 1 ? argv[1] : "");
    (void)printf("rank %d: %s: %s\nEND\n", rank, pld_error_name(rc), pld_last_error());
    rc = pld_runtime_close(&rt);
    (void)printf("closed %d: %s\n", rank, pld_error_name(rc));
    (void)fflush(stdout);
    _exit(rc < 0);
}
