/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What /proc says about a thread.  The number of the system call that it sits in is
 * in `syscall`, for those who may trace it; else the kernel's function is in `wchan`.
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "health/health_impl.h"

static const struct {
    long number;
    const char *name;
} calls[] = {
#ifdef SYS_poll
    {SYS_poll, "poll"},
#endif
#ifdef SYS_select
    {SYS_select, "select"},
#endif
#ifdef SYS_epoll_wait
    {SYS_epoll_wait, "epoll_wait"},
#endif
#ifdef SYS_open
    {SYS_open, "open"},
#endif
#ifdef SYS_pause
    {SYS_pause, "pause"},
#endif
#ifdef SYS_newfstatat
    {SYS_newfstatat, "stat"},
#endif
    {SYS_read, "read"},
    {SYS_write, "write"},
    {SYS_pread64, "pread"},
    {SYS_pwrite64, "pwrite"},
    {SYS_readv, "readv"},
    {SYS_writev, "writev"},
    {SYS_openat, "openat"},
    {SYS_close, "close"},
    {SYS_fsync, "fsync"},
    {SYS_fdatasync, "fdatasync"},
    {SYS_flock, "flock"},
    {SYS_fcntl, "fcntl"},
    {SYS_ppoll, "ppoll"},
    {SYS_pselect6, "pselect"},
    {SYS_epoll_pwait, "epoll_pwait"},
    {SYS_futex, "futex"},
    {SYS_nanosleep, "nanosleep"},
    {SYS_clock_nanosleep, "clock_nanosleep"},
    {SYS_recvfrom, "recvfrom"},
    {SYS_recvmsg, "recvmsg"},
    {SYS_sendto, "sendto"},
    {SYS_sendmsg, "sendmsg"},
    {SYS_connect, "connect"},
    {SYS_accept4, "accept"},
    {SYS_wait4, "wait"},
    {SYS_waitid, "waitid"},
};

/* A small file of a thread, without its final newline; "" if it cannot be read. */
static void slurp(int64_t pid, int thread, const char *name, char *text, size_t bytes)
{
    char path[96];
    ssize_t n = -1;
    int fd;

    if (thread > 0)
        (void)snprintf(path, sizeof(path), "/proc/%lld/task/%d/%s", (long long)pid, thread, name);
    else
        (void)snprintf(path, sizeof(path), "/proc/%lld/%s", (long long)pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        n = read(fd, text, bytes - 1);
        (void)close(fd);
    }
    text[n > 0 ? n : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
}

static void where(int64_t pid, int thread, char *out, size_t bytes)
{
    char text[128];
    char *end;
    long number;

    out[0] = '\0';
    slurp(pid, thread, "syscall", text, sizeof(text));
    number = strtol(text, &end, 10);
    for (size_t i = 0; end != text && i < sizeof(calls) / sizeof(calls[0]); i++) {
        if (calls[i].number == number)
            (void)snprintf(out, bytes, " in %s()", calls[i].name);
    }
    if (out[0] != '\0')
        return;
    slurp(pid, thread, "wchan", text, sizeof(text));
    if (text[0] != '\0' && strcmp(text, "0") != 0)
        (void)snprintf(out, bytes, " in %.24s", text);
}

void pldi_proc_state(int64_t pid, int thread, char *text, int bytes, int *stopped)
{
    char stat[512], in[48];
    const char *state;

    *stopped = 0;
    slurp(pid, thread, "stat", stat, sizeof(stat));
    state = strrchr(stat, ')'); /* behind the name, which may hold anything */
    if (state == NULL || state[1] == '\0') {
        (void)snprintf(text, (size_t)bytes, "ended");
        return;
    }
    where(pid, thread, in, sizeof(in));
    *stopped = state[2] == 'T' || state[2] == 't';
    switch (state[2]) {
    case 'R':
        (void)snprintf(text, (size_t)bytes, "running");
        break;
    case 'T':
        (void)snprintf(text, (size_t)bytes, "stopped by a signal (state T)");
        break;
    case 't':
        (void)snprintf(text, (size_t)bytes, "stopped by a debugger (state t)");
        break;
    case 'D':
        (void)snprintf(text, (size_t)bytes, "waiting for a device%s (state D)", in);
        break;
    case 'Z':
    case 'X':
        (void)snprintf(text, (size_t)bytes, "ended (state %c)", state[2]);
        break;
    default:
        (void)snprintf(text, (size_t)bytes, "sleeping%s", in);
        break;
    }
}
