/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Text for people: sizes, padding, colours.  What comes from files is printed with care: a name may
 * hold control sequences, and must not be able to rewrite the screen. */

#include "polder.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *format_size(uint64_t bytes, char text[SIZE_TEXT])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes / 1024;
    size_t unit = 0;

    if (bytes < 1024) {
        snprintf(text, SIZE_TEXT, "%" PRIu64 " B", bytes);
        return text;
    }
    /* 1023.95 would be shown as 1024.0. */
    for (; value >= 1023.95 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
        value /= 1024;
    snprintf(text, SIZE_TEXT, "%.1f %s", value, units[unit]);
    return text;
}

/* 0xC2 followed by 0x80..0x9F is a control character, too: of 8 bits, in UTF-8. */
static int is_control(const unsigned char *c)
{
    return *c < 0x20 || *c == 0x7F || (c[0] == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0);
}

void print_clean(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        const int control = is_control(c);

        putchar(control ? '?' : *c);
        c += control && *c == 0xC2;
    }
}

int text_columns(const char *text)
{
    int columns = 0;

    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        columns += (*c & 0xC0) != 0x80;
        c += *c == 0xC2 && is_control(c);
    }
    return columns;
}

void print_padded(const char *text, int columns)
{
    const int missing = columns - text_columns(text);

    print_clean(text);
    printf("%*s", missing > 0 ? missing : 0, "");
}

static int colours(void)
{
    static int known = -1;
    const char *term = getenv("TERM"), *no = getenv("NO_COLOR");

    if (known < 0)
        known = isatty(STDOUT_FILENO) && term != NULL && strcmp(term, "dumb") != 0 &&
                (no == NULL || no[0] == '\0');
    return known;
}

void set_style(enum style style)
{
    static const char *const codes[] = {"\033[0m", "\033[1m", "\033[32m", "\033[1;31m"};

    if (colours())
        fputs(codes[style], stdout);
}
