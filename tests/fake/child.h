/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file child.h
 * A case in a process of its own: with its own environment, that may crash or hang.
 *
 * The fakes read their environment once, and a test of deadlocks must outlive them.
 */
#ifndef CHILD_H
#define CHILD_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tap.h"

enum { CHILD_CRASHED = 100, CHILD_ABORTED = 101, CHILD_HUNG = -1 };

#ifdef __SANITIZE_THREAD__
/* It sleeps for a second at the end of each process otherwise. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "atexit_sleep_ms=0";
}
#endif

/** In a case: leave with the line where something does not hold. */
#define HOLDS(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "# %s:%d: not so: %s\n", __FILE__, __LINE__, #condition);              \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static inline void child_signal(int number)
{
    _exit(number == SIGABRT ? CHILD_ABORTED : CHILD_CRASHED);
}

/* "A=1 B=2" */
static inline void child_setenv(const char *list)
{
    char *copy = strdup(list), *rest = copy, *word;

    while ((word = strtok_r(rest, " ", &rest)) != NULL) {
        char *value = strchr(word, '=');

        *value = '\0';
        setenv(word, value + 1, 1);
    }
    free(copy);
}

static inline pid_t child_start(int (*run)(void *), void *argument, const char *environment)
{
    const pid_t pid = fork();

    if (pid != 0)
        return pid;
    signal(SIGSEGV, child_signal);
    signal(SIGBUS, child_signal);
    signal(SIGABRT, child_signal);
    child_setenv(environment);
    exit(run(argument));
}

/** Exit code; CHILD_CRASHED, CHILD_ABORTED; CHILD_HUNG: it was killed after that time. */
static inline int child_end(pid_t pid, double seconds)
{
    const struct timespec nap = {0, 2000000};
    struct timespec begin, now;
    int status;

    clock_gettime(CLOCK_MONOTONIC, &begin);
    while (waitpid(pid, &status, WNOHANG) == 0) {
        nanosleep(&nap, NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((double)(now.tv_sec - begin.tv_sec) + 1e-9 * (double)(now.tv_nsec - begin.tv_nsec) <
            seconds)
            continue;
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        return CHILD_HUNG;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static inline int child_run(int (*run)(void *), void *argument, const char *environment,
                            double seconds)
{
    fflush(stdout);
    return child_end(child_start(run, argument, environment), seconds);
}

/** One test point: the case ends with that code. */
static inline void child_case(const char *name, int (*run)(void *), const char *environment,
                              int wanted)
{
    const int code = child_run(run, NULL, environment, 60);

    ok(code == wanted, "%s%s%s%s: %d, want %d", name, environment[0] != '\0' ? " (" : "",
       environment, environment[0] != '\0' ? ")" : "", code, wanted);
}

#endif /* CHILD_H */
