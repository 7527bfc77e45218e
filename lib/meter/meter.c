/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Every record goes to the system as one write() of one line: nothing is kept
 * in the process that a SIGKILL could take along, and readers that follow the file
 * see whole lines.  A line that the disk has no room for is taken back, so that
 * the file stays a sequence of whole lines.
 */

#include <polder/meter.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_clock.h"
#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "meter/meter.h"

/* What a caller built against 0.1 passes.  Stays 32 when the struct grows. */
enum { OPTS_SIZE_0_1 = 32 };
_Static_assert(sizeof(pld_meter_opts) == OPTS_SIZE_0_1, "padding, or ABI");
_Static_assert(sizeof(pld_metric) == 32, "padding, or ABI");

struct pld_meter {
    char *path; /* NULL: no records */
    int fd;
    int progress_fd; /* -1: no progress */
    int on_terminal;
    int line_open; /* the cursor stands in a progress line */
    int started;   /* pld_meter_progress() was called */
    double min_interval;
    double first_s; /* of the first call; last_s: when a line was last shown */
    double last_s;
    int64_t first_done;
};

/* A pipe that another process made non-blocking gets this long to drain. */
enum { DRAIN_MS = 1000 };

/* Wait until fd takes more; 0 if that is worth trying again. */
static int can_retry(int fd, int reason)
{
    struct pollfd wait = {.fd = fd, .events = POLLOUT};

    return reason == EINTR || (reason == EAGAIN && poll(&wait, 1, DRAIN_MS) > 0);
}

/* Write all; returns how much of it was written, and the errno that ended it. */
static size_t write_all(int fd, const char *text, size_t bytes, int *reason)
{
    size_t written = 0;

    while (written < bytes) {
        const ssize_t n = write(fd, text + written, bytes - written);

        *reason = errno;
        if (n >= 0)
            written += (size_t)n;
        else if (!can_retry(fd, *reason))
            break;
    }
    return written;
}

/*
 * The columns of the terminal behind fd; 0 if there is none.  A pseudo-terminal
 * without a size is no terminal: Open MPI gives every rank one, and copies the size of
 * its own terminal only if its output really goes there and not into a file.
 */
static int terminal_columns(int fd)
{
    const char *term = getenv("TERM");
    struct winsize size = {0};

    if (!isatty(fd) || term == NULL || strcmp(term, "dumb") == 0 ||
        ioctl(fd, TIOCGWINSZ, &size) != 0)
        return 0;
    return size.ws_col;
}

/* A line that a crash left half-written is ended, so that the next record stands alone. */
static int end_last_line(const pld_meter *meter)
{
    const off_t size = lseek(meter->fd, 0, SEEK_END);
    const int reader = size > 0 ? open(meter->path, O_RDONLY | O_CLOEXEC) : -1;
    char last = '\n';
    int reason = 0;

    if (reader >= 0) {
        if (pread(reader, &last, 1, size - 1) != 1)
            last = '\n';
        (void)close(reader);
    }
    if (last != '\n' && write_all(meter->fd, "\n", 1, &reason) != 1)
        return pldi_fail(PLD_ERR_IO, "cannot write '%s': %s", meter->path, strerror(reason));
    return PLD_OK;
}

static int open_file(pld_meter *meter, const pld_meter_opts *o)
{
    /* Non-blocking, else a named pipe that nobody reads would hold us here for ever. */
    const int flags = O_WRONLY | O_NONBLOCK | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY;
    struct stat about;

    meter->path = pldi_strdup(o->path);
    if (meter->path == NULL)
        return PLD_ERR_NOMEM;
    meter->fd = open(o->path, o->append ? flags : flags | O_TRUNC, 0666);
    if (meter->fd < 0 || fstat(meter->fd, &about) != 0)
        return pldi_fail(PLD_ERR_IO, "cannot open '%s' for metrics: %s", o->path, strerror(errno));
    return S_ISREG(about.st_mode) ? end_last_line(meter) : PLD_OK;
}

static int fill(pld_meter *meter, const pld_meter_opts *o)
{
    meter->fd = -1;
    meter->progress_fd = o->progress_fd - 1;
    if (meter->progress_fd >= 0 && fcntl(meter->progress_fd, F_GETFL) == -1)
        return pldi_fail(PLD_ERR_ARG, "progress_fd is %d, but file descriptor %d is not open",
                         o->progress_fd, meter->progress_fd);
    meter->on_terminal = meter->progress_fd >= 0 && terminal_columns(meter->progress_fd) > 0;
    meter->min_interval = o->min_interval > 0 ? o->min_interval : meter->on_terminal ? 0.1 : 5;
    return o->path == NULL ? PLD_OK : open_file(meter, o);
}

int pld_meter_open(const pld_meter_opts *opts, pld_meter **out)
{
    pld_meter_opts o = {sizeof(o), NULL, 0, 0, 0};
    pld_meter *meter;
    int rc;

    PLDI_CHECK_ARG(out != NULL);
    if (opts != NULL)
        PLDI_TRY(pldi_opts_copy(&o, sizeof(o), opts, OPTS_SIZE_0_1));
    if (!(o.min_interval >= 0) || isinf(o.min_interval))
        return pldi_fail(PLD_ERR_ARG, "min_interval is %g, need 0 or more seconds", o.min_interval);
    if (o.progress_fd < 0 || (o.append != 0 && o.append != 1))
        return pldi_fail(PLD_ERR_ARG, "progress_fd is %d, append %d; need >= 0, and 0 or 1",
                         o.progress_fd, o.append);
    meter = pldi_alloc(1, sizeof(*meter), "a meter");
    if (meter == NULL)
        return PLD_ERR_NOMEM;
    rc = fill(meter, &o);
    if (rc < 0) {
        pld_meter_close(&meter);
        return rc;
    }
    *out = meter;
    return PLD_OK;
}

int pld_meter_log(pld_meter *meter, const pld_metric *metrics, size_t count)
{
    char *line = NULL;
    size_t bytes, written;
    int reason = 0;

    PLDI_CHECK_ARG(meter != NULL && (metrics != NULL || count == 0));
    PLDI_TRY(pldi_meter_json(metrics, count, &line));
    bytes = strlen(line);
    written = meter->fd < 0 ? bytes : write_all(meter->fd, line, bytes, &reason);
    pldi_free(line);
    if (written == bytes)
        return PLD_OK;
    if (written > 0) {
        const off_t end = lseek(meter->fd, 0, SEEK_END);

        if (end >= (off_t)written)
            (void)!ftruncate(meter->fd, end - (off_t)written);
    }
    return pldi_fail(PLD_ERR_IO, "cannot write metrics to '%s': %s", meter->path, strerror(reason));
}

/* Show the line now; the time left follows from the pace since the first call. */
static int show(pld_meter *meter, int64_t done, int64_t total, const char *text, double now)
{
    const int columns = meter->on_terminal ? terminal_columns(meter->progress_fd) : 0;
    const int64_t made = done - meter->first_done;
    struct pldi_progress progress = {done, total, now - meter->first_s, -1, text};
    char *line;
    size_t bytes, written;
    int reason = 0;

    if (made > 0)
        progress.left_s = progress.elapsed_s / (double)made * (double)(total - done);
    line = pldi_progress_line(&progress, columns);
    if (line == NULL)
        return PLD_ERR_NOMEM;
    bytes = strlen(line);
    written = write_all(meter->progress_fd, line, bytes, &reason);
    pldi_free(line);
    if (written != bytes)
        return pldi_fail(PLD_ERR_IO, "cannot write progress to file descriptor %d: %s",
                         meter->progress_fd, strerror(reason));
    meter->line_open = columns > 0;
    meter->last_s = now;
    return PLD_OK;
}

int pld_meter_progress(pld_meter *meter, int64_t done, int64_t total, const char *text)
{
    double now;

    PLDI_CHECK_ARG(meter != NULL);
    if (total < 1 || done < 0 || done > total)
        return pldi_fail(PLD_ERR_ARG, "progress %lld of %lld: need 0 <= done <= total, total >= 1",
                         (long long)done, (long long)total);
    if (meter->progress_fd < 0)
        return PLD_OK;
    now = pldi_now();
    if (meter->started && done < total && now - meter->last_s < meter->min_interval)
        return PLD_OK;
    if (!meter->started) {
        meter->started = 1;
        meter->first_s = now;
        meter->first_done = done;
    }
    return show(meter, done, total, text == NULL ? "" : text, now);
}

void pld_meter_close(pld_meter **meter)
{
    int reason;

    if (meter == NULL || *meter == NULL)
        return;
    if ((*meter)->line_open)
        (void)write_all((*meter)->progress_fd, "\n", 1, &reason);
    if ((*meter)->fd >= 0)
        (void)close((*meter)->fd);
    pldi_free((*meter)->path);
    pldi_free(*meter);
    *meter = NULL;
}

double pld_clock(void)
{
    return pldi_now();
}
