/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How a progress line looks.  The line is composed whole, then stripped of
 * everything that could move a cursor and cut to the terminal's width, so that it
 * never wraps; only then the two control sequences of our own go around it.
 */

#include "meter/meter.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/base_mem.h"

enum { TIME_BYTES = 32, BAR_MOST = 30, BAR_LEAST = 8 };

/* 75 -> "1:15", 7384 -> "2:03:04", 200000 -> "2d 07h" */
static void format_time(double seconds, char out[TIME_BYTES])
{
    enum { MINUTE = 60, HOUR = 3600, DAY = 86400, YEARS = 1000 };
    const double most = 365.0 * DAY * YEARS;
    int64_t s;

    if (!(seconds >= 0 && seconds < most)) {
        (void)snprintf(out, TIME_BYTES, "-:--");
        return;
    }
    s = (int64_t)(seconds + 0.5);
    if (s < HOUR)
        (void)snprintf(out, TIME_BYTES, "%d:%02d", (int)(s / MINUTE), (int)(s % MINUTE));
    else if (s < DAY)
        (void)snprintf(out, TIME_BYTES, "%d:%02d:%02d", (int)(s / HOUR), (int)(s % HOUR / MINUTE),
                       (int)(s % MINUTE));
    else
        (void)snprintf(out, TIME_BYTES, "%" PRId64 "d %02dh", s / DAY, (int)(s % DAY / HOUR));
}

static double share_of(const struct pldi_progress *p)
{
    return (double)p->done / (double)p->total;
}

/* 100 only when all is done. */
static int percent_of(const struct pldi_progress *p)
{
    const int percent = (int)(share_of(p) * 100);

    return percent >= 100 && p->done < p->total ? 99 : percent;
}

/* "[=====>    ] " of `cells` cells between the brackets; nothing if there are none. */
static void draw_bar(const struct pldi_progress *p, int cells, char out[BAR_MOST + 4])
{
    const int full = (int)(share_of(p) * cells);

    out[0] = '\0';
    if (cells == 0)
        return;
    memset(out + 1, ' ', (size_t)cells);
    memset(out + 1, '=', (size_t)full);
    if (full < cells)
        out[1 + full] = '>';
    out[0] = '[';
    memcpy(out + 1 + cells, "] ", sizeof("] "));
}

/* Columns that a character may take at most; control characters, also those of 8 bits, are 0. */
static int columns_of(uint32_t code)
{
    enum { FIRST_PRINTABLE = 0x20, DELETE = 0x7F, LAST_C1 = 0x9F, FIRST_WIDE = 0x1100 };

    if (code < FIRST_PRINTABLE || (code >= DELETE && code <= LAST_C1))
        return 0;
    return code < FIRST_WIDE ? 1 : 2;
}

/* Copy what fits into `columns`, control characters as spaces and broken UTF-8 as '?'. */
static char *copy_cut(char *out, const char *text, int columns)
{
    while (*text != '\0') {
        uint32_t code = 0;
        size_t length = pldi_utf8_next(text, &code);
        const char *from = text;
        int width = 1;

        if (length == 0) {
            from = "?";
            length = 1;
        } else if (columns_of(code) == 0) {
            from = " ";
        } else {
            width = columns_of(code);
        }
        columns -= width;
        if (columns < 0)
            break;
        memcpy(out, from, from == text ? length : 1);
        out += from == text ? length : 1;
        text += length;
    }
    *out = '\0';
    return out;
}

char *pldi_progress_line(const struct pldi_progress *p, int columns)
{
    /* The last column stays free: writing there makes some terminals wrap. */
    const int room = columns > 1 ? columns - 1 : 1;
    const int cells = columns / 4 < BAR_LEAST ? 0 : columns / 4 > BAR_MOST ? BAR_MOST : columns / 4;
    char bar[BAR_MOST + 4], spent[TIME_BYTES];
    const int finished = p->done == p->total;
    char *whole, *line, *end;
    size_t bytes;

    draw_bar(p, cells, bar);
    format_time(finished ? p->elapsed_s : p->left_s, spent);
    whole =
        pldi_format("%3d%% %s%" PRId64 "/%" PRId64 "  %s%s%s%s", percent_of(p), bar, p->done,
                    p->total, finished ? "in " : "", spent, finished ? "  " : " left  ", p->text);
    if (whole == NULL)
        return NULL;
    bytes = strlen(whole) + sizeof("\r\033[K\n");
    line = pldi_alloc(bytes, 1, "a progress line");
    if (line != NULL && columns > 0) {
        line[0] = '\r';
        end = copy_cut(line + 1, whole, room);
        memcpy(end, "\033[K", sizeof("\033[K"));
    } else if (line != NULL) {
        end = copy_cut(line, whole, INT32_MAX);
        while (end > line && end[-1] == ' ')
            end--;
        memcpy(end, "\n", sizeof("\n"));
    }
    pldi_free(whole);
    return line;
}
