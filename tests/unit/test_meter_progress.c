/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The meter writes into a pseudo-terminal or a pipe, and a small terminal here
 * obeys what arrives: characters move the cursor, "\r" takes it home, "\033[K" clears
 * to the edge.  What it does not know, or a wrap, is counted as strange.
 */

#include <polder/meter.h>

#include <fcntl.h>
#include <pty.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <polder/error.h>

#include "base/base_mem.h"
#include "meter/meter.h"
#include "tap.h"

enum { MOST = 4096, COLUMNS = 512 };

#define TEXT "loss 2.5 \xe2\x82\xac"

struct screen {
    char cell[8][COLUMNS][5]; /* one UTF-8 character each */
    char text[COLUMNS * 5];   /* the line of the cursor, filled by look() */
    int line;
    int column;
    int strange;
};

/* Read all that is there. */
static size_t drain(int fd, char out[MOST])
{
    size_t used = 0;
    ssize_t n;

    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    while (used + 1 < MOST && (n = read(fd, out + used, MOST - 1 - used)) > 0)
        used += (size_t)n;
    out[used] = '\0';
    return used;
}

static size_t put(struct screen *s, const char *c, int columns)
{
    size_t length = 1;

    while (((unsigned char)c[length] & 0xC0) == 0x80)
        length++;
    memset(s->cell[s->line][s->column], 0, 5);
    memcpy(s->cell[s->line][s->column], c, length < 4 ? length : 4);
    s->column++;
    s->strange += s->column >= columns;
    return length;
}

static void obey(struct screen *s, const char *c, int columns)
{
    while (*c != '\0') {
        size_t length = 1;

        if (strncmp(c, "\033[K", 3) == 0) {
            memset(s->cell[s->line][s->column], 0, (size_t)(COLUMNS - s->column) * 5);
            length = 3;
        } else if (*c == '\r') {
            s->column = 0;
        } else if (*c == '\n') {
            s->line++;
            s->column = 0;
        } else if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            s->strange++;
        } else {
            length = put(s, c, columns);
        }
        c += length;
    }
}

static const char *look(struct screen *s)
{
    char *end = s->text;

    for (int i = 0; i < COLUMNS; i++)
        end = stpcpy(end, s->cell[s->line][i]);
    return s->text;
}

static pld_meter *open_on(int fd, double interval)
{
    const pld_meter_opts opts = {PLD_OPTS(pld_meter_opts), .progress_fd = fd + 1,
                                 .min_interval = interval};
    pld_meter *meter = NULL;

    if (pld_meter_open(&opts, &meter) != 0)
        ok(0, "open: %s", pld_last_error());
    return meter;
}

static void check_terminal(int columns)
{
    struct winsize size = {.ws_row = 24, .ws_col = (unsigned short)columns};
    static struct screen screen;
    static char seen[MOST];
    int master, slave;
    pld_meter *meter;

    memset(&screen, 0, sizeof(screen));
    if (openpty(&master, &slave, NULL, NULL, &size) != 0) {
        ok(0, "no pseudo-terminal");
        return;
    }
    meter = open_on(slave, 1e-9);
    for (int64_t done = 0; done <= 5; done++)
        ok(pld_meter_progress(meter, done, 5, done == 0 ? "a longer text, and more of it" : TEXT) ==
               0,
           "%d of 5", (int)done);
    (void)drain(master, seen);
    obey(&screen, seen, columns);
    ok(screen.line == 0, "%d columns: all on one line, still open", columns);
    ok(screen.strange == 0, "no wrap, no other control character: '%s'", look(&screen));
    ok(strstr(screen.text, "of it") == NULL, "nothing of the longer first line is left");
    if (columns >= 70)
        ok(strstr(screen.text, "100% [====") && strstr(screen.text, "5/5  in 0:00") &&
               strstr(screen.text, TEXT),
           "bar, count, time and text are there");
    ok(strncmp(screen.text, "100% ", (size_t)(columns < 6 ? columns - 1 : 5)) == 0,
       "it begins with the percentage");
    pld_meter_close(&meter);
    (void)drain(master, seen);
    ok(strcmp(seen, "\r\n") == 0, "close ends the line and does nothing else");
    (void)close(master);
    (void)close(slave);
}

/* The width is asked for at every redraw; what moves the cursor is taken out. */
static void check_resize_and_controls(void)
{
    struct winsize size = {.ws_row = 24, .ws_col = 120};
    static struct screen screen;
    static char seen[MOST];
    int master, slave;
    pld_meter *meter;

    if (openpty(&master, &slave, NULL, NULL, &size) != 0)
        return;
    meter = open_on(slave, 1e-9);
    (void)pld_meter_progress(meter, 0, 4,
                             "a\nb\rc\033[31md\xc2\x9b"
                             "2Je\xff");
    (void)drain(master, seen);
    obey(&screen, seen, 120);
    ok(screen.strange == 0 && screen.line == 0 && strstr(look(&screen), "a b c [31md 2Je?"),
       "control characters become spaces: '%s'", screen.text);
    size.ws_col = 30;
    (void)ioctl(master, TIOCSWINSZ, &size);
    (void)pld_meter_progress(meter, 1, 4, "\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2\xe5\xad\x97");
    (void)drain(master, seen);
    memset(&screen, 0, sizeof(screen));
    obey(&screen, seen, 30);
    ok(screen.strange == 0, "made narrower to 30 columns: '%s'", look(&screen));
    pld_meter_close(&meter);
    (void)close(master);
    (void)close(slave);
}

/* What arrives in a pipe, or on a pseudo-terminal that is none. */
static void check_plain(const char *what, int out, int in)
{
    static char seen[MOST];
    pld_meter *meter = open_on(out, 1e-9);
    int newlines = 0;

    for (int64_t done = 2; done <= 4; done++)
        (void)pld_meter_progress(meter, done, 4, "x\033[1my");
    pld_meter_close(&meter);
    (void)drain(in, seen);
    for (const char *c = seen; *c != '\0'; c++)
        newlines += *c == '\n';
    ok(newlines == 3 && strchr(seen, '\033') == NULL, "%s: three plain lines: %.*s", what,
       (int)strcspn(seen, "\r\n"), seen);
    ok(strstr(seen, " 50% 2/4  -:-- left  x [1my") == seen && strstr(seen, "100% 4/4  in 0:00"),
       "%s: with count and time", what);
}

static void check_no_terminal(void)
{
    struct winsize none = {0}, size = {.ws_row = 24, .ws_col = 80};
    int ends[2], master, slave;

    if (pipe(ends) != 0 || openpty(&master, &slave, NULL, NULL, &none) != 0)
        return;
    check_plain("pipe", ends[1], ends[0]);
    check_plain("terminal without a size", slave, master);
    (void)ioctl(master, TIOCSWINSZ, &size);
    (void)setenv("TERM", "dumb", 1);
    check_plain("TERM=dumb", slave, master);
    (void)unsetenv("TERM");
    check_plain("no TERM", slave, master);
    (void)setenv("TERM", "xterm", 1);
    (void)close(ends[0]);
    (void)close(ends[1]);
    (void)close(master);
    (void)close(slave);
}

static void check_rate(void)
{
    static char seen[MOST];
    int ends[2], lines = 0;
    pld_meter *meter;

    if (pipe(ends) != 0)
        return;
    meter = open_on(ends[1], 3600);
    for (int64_t done = 0; done <= 1000; done++)
        (void)pld_meter_progress(meter, done, 1000, NULL);
    pld_meter_close(&meter);
    (void)drain(ends[0], seen);
    for (const char *c = seen; *c != '\0'; c++)
        lines += *c == '\n';
    ok(lines == 2 && strstr(seen, "  0% 0/1000") == seen && strstr(seen, "\n100% 1000/1000"),
       "of 1001 calls within the interval, the first and the last are shown: %.*s",
       (int)strcspn(seen, "\n"), seen);
    (void)close(ends[0]);
    meter = open_on(ends[1], 1e-9);
    (void)close(ends[1]);
    ok(pld_meter_progress(meter, 0, 1, "") == PLD_ERR_IO, "closed meanwhile: %s", pld_last_error());
    pld_meter_close(&meter);
}

static void check_line(int64_t done, int64_t total, double left_s, const char *expected)
{
    const struct pldi_progress progress = {done, total, 65, left_s, "t"};
    char *line = pldi_progress_line(&progress, 0);

    ok(line != NULL && strcmp(line, expected) == 0, "%.*s", (int)strcspn(line, "\n"), line);
    pldi_free(line);
}

static void check_times(void)
{
    check_line(1, 3, 0.6, " 33% 1/3  0:01 left  t\n");
    check_line(1, 3, 3599.4, " 33% 1/3  59:59 left  t\n");
    check_line(1, 3, 3600, " 33% 1/3  1:00:00 left  t\n");
    check_line(1, 3, 86399, " 33% 1/3  23:59:59 left  t\n");
    check_line(1, 3, 200000, " 33% 1/3  2d 07h left  t\n");
    check_line(1, 3, 1e300, " 33% 1/3  -:-- left  t\n");
    check_line(999999, 1000000, 0, " 99% 999999/1000000  0:00 left  t\n");
    check_line(INT64_MAX - 1, INT64_MAX, 0,
               " 99% 9223372036854775806/9223372036854775807  0:00 left  t\n");
    check_line(3, 3, 0, "100% 3/3  in 1:05  t\n");
}

int main(void)
{
    static const int widths[] = {200, 100, 70, 40, 31, 12, 2};

    (void)setenv("TERM", "xterm", 1);
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++)
        check_terminal(widths[i]);
    check_resize_and_controls();
    check_no_terminal();
    check_rate();
    check_times();
    return tap_done();
}
