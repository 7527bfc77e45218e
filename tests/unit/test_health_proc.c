/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* States of real processes, as /proc has them. */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "health/health_impl.h"
#include "tap.h"

enum { TRIES = 500 };

/* Until the state is the wanted one: a child takes a moment to get there. */
static void expect(pid_t pid, const char *wanted, int stopped, const char *what)
{
    char text[72] = "";
    int is_stopped = -1;

    for (int i = 0; i < TRIES; i++) {
        pldi_proc_state(pid, i % 2 ? (int)pid : 0, text, sizeof(text), &is_stopped);
        if (strncmp(text, wanted, strlen(wanted)) == 0 && is_stopped == stopped)
            break;
        (void)usleep(10000);
    }
    ok(strncmp(text, wanted, strlen(wanted)) == 0 && is_stopped == stopped, "%s: %s", what, text);
}

static void in_child(int reads, int from)
{
    char byte;

    if (reads)
        (void)!read(from, &byte, 1);
    while (!reads)
        __asm__ volatile("" ::: "memory");
    _exit(0);
}

int main(void)
{
    int ends[2];
    pid_t reader, looper;

    if (pipe(ends) != 0)
        return 1;
    reader = fork();
    if (reader == 0)
        in_child(1, ends[0]);
    looper = fork();
    if (looper == 0)
        in_child(0, 0);
    expect(reader, "sleeping in read()", 0, "who reads");
    expect(looper, "running", 0, "who computes");
    (void)kill(looper, SIGSTOP);
    expect(looper, "stopped by a signal (state T)", 1, "who is stopped");
    (void)kill(looper, SIGCONT);
    expect(looper, "running", 0, "and goes on");
    (void)kill(looper, SIGKILL);
    expect(looper, "ended (state Z)", 0, "who was killed, and not waited for");
    (void)waitpid(looper, NULL, 0);
    expect(looper, "ended", 0, "who is no more");
    (void)kill(reader, SIGKILL);
    (void)waitpid(reader, NULL, 0);
    return tap_done();
}
