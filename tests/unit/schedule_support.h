/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file schedule_support.h  Schedules as text that tests take apart, and a second opinion on them.
 */
#ifndef SCHEDULE_SUPPORT_H
#define SCHEDULE_SUPPORT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <polder/error.h>
#include <polder/schedule.h>

enum { MAX_RANKS = 8, MAX_LENGTH = 512, MAX_TEXT = 1 << 16 };

/** Lists of action texts. */
struct lists {
    int ranks;
    int length[MAX_RANKS];
    char action[MAX_RANKS][MAX_LENGTH][24];
};

static inline pld_schedule *generate(pld_schedule_kind kind, int ranks, int microbatches)
{
    pld_schedule *s = NULL;

    if (pld_schedule_create(&(pld_schedule_opts){PLD_OPTS(pld_schedule_opts), .kind = kind,
                                                 .ranks = ranks, .microbatches = microbatches},
                            &s) != 0)
        printf("# %s\n", pld_last_error());
    return s;
}

/** The schedule's text in new memory. */
static inline char *text_of(const pld_schedule *s)
{
    const size_t length = pld_schedule_format(s, NULL, 0);
    char *text = malloc(length + 1);

    if (text == NULL || pld_schedule_format(s, text, length + 1) != length)
        abort();
    return text;
}

/** A file below argv[1] in new memory, NULL if it cannot be read. */
static inline char *golden(const char *folder, const char *name)
{
    char path[1024];
    char *text = calloc(1, MAX_TEXT);
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    f = fopen(path, "rb");
    if (f == NULL || text == NULL)
        abort();
    (void)fread(text, 1, MAX_TEXT - 1, f);
    (void)fclose(f);
    return text;
}

static inline void split(const char *text, struct lists *out)
{
    memset(out, 0, sizeof(*out));
    for (const char *p = text; *p != '\0';) {
        const size_t n = strcspn(p, ",\n");
        const int rank = out->ranks;

        memcpy(out->action[rank][out->length[rank]++], p, n);
        out->ranks += p[n] == '\n';
        p += n + 1;
    }
}

/** Into a static buffer. */
static inline const char *join(const struct lists *lists)
{
    static char text[MAX_TEXT];
    char *end = text;

    for (int rank = 0; rank < lists->ranks; rank++) {
        for (int i = 0; i < lists->length[rank]; i++) {
            if (i > 0)
                *end++ = ',';
            end = stpcpy(end, lists->action[rank][i]);
        }
        *end++ = '\n';
    }
    *end = '\0';
    return text;
}

/**
 * Second opinion on lists with messages: execute them the way the most stubborn transport
 * would.  A send and its receive happen together or not at all, nothing is buffered, and a
 * computation fails if its data are not there.  1: all lists came to their end.
 */
static inline int runs_unbuffered(const struct lists *lists, int stages, const int *rank_of)
{
    enum { S = 32, M = 32, F = 0, B = 1 };
    static char done[2][S][M], here[2][S][M]; /* computed; input has arrived */
    int next[MAX_RANKS] = {0};
    int moved = 1;

    memset(done, 0, sizeof(done));
    memset(here, 0, sizeof(here));
    while (moved) {
        moved = 0;
        for (int r = 0; r < lists->ranks; r++) {
            char kind[16], want[40];
            int s, m, k, from, peer;

            if (next[r] == lists->length[r])
                continue;
            if (sscanf(lists->action[r][next[r]], "%d%15[A-Z_]%d", &s, kind, &m) != 3)
                return 0;
            k = kind[strlen(kind) - 1] == 'B';
            from = s + (k == F ? -1 : 1);
            if (strlen(kind) == 1) {
                if (from >= 0 && from < stages &&
                    !(rank_of[from] == r ? done[k][from][m] : here[k][s][m]))
                    return 0;
                if (k == B && !done[F][s][m])
                    return 0;
                done[k][s][m] = 1;
                next[r]++;
                moved = 1;
            } else if (kind[0] == 'S') { /* receivers are moved by their senders */
                if (!done[k][s][m])
                    return 0;
                peer = s + (k == F ? 1 : -1);
                (void)snprintf(want, sizeof(want), "%dRECV_%c%d", peer, k == F ? 'F' : 'B', m);
                peer = rank_of[peer];
                if (next[peer] == lists->length[peer] ||
                    strcmp(lists->action[peer][next[peer]], want) != 0)
                    continue;
                here[k][s + (k == F ? 1 : -1)][m] = 1;
                next[r]++;
                next[peer]++;
                moved = 1;
            }
        }
    }
    for (int r = 0; r < lists->ranks; r++) {
        if (next[r] != lists->length[r])
            return 0;
    }
    return 1;
}

/** The same for lists of F and B alone: data are there as soon as they are computed. */
static inline int runs_without_messages(const struct lists *lists, int stages)
{
    enum { S = 32, M = 32 };
    static char done[2][S][M];
    int next[MAX_RANKS] = {0};
    int moved = 1, left = 0;

    memset(done, 0, sizeof(done));
    while (moved) {
        moved = 0;
        for (int r = 0; r < lists->ranks; r++) {
            char kind;
            int s, m, k, from;

            if (next[r] == lists->length[r])
                continue;
            if (sscanf(lists->action[r][next[r]], "%d%c%d", &s, &kind, &m) != 3)
                return 0;
            k = kind == 'B';
            from = s + (k ? 1 : -1);
            if ((from >= 0 && from < stages && !done[k][from][m]) || (k && !done[0][s][m]))
                continue;
            done[k][s][m] = 1;
            next[r]++;
            moved = 1;
        }
    }
    for (int r = 0; r < lists->ranks; r++)
        left += lists->length[r] - next[r];
    return left == 0;
}

/** Whether the text is refused with a sentence that begins with `begin` and contains `part`. */
static inline int refused(const char *text, const char *begin, const char *part)
{
    pld_schedule *s = NULL;
    const int rc = pld_schedule_parse(text, &s);
    const int yes = rc == PLD_ERR_ARG && s == NULL &&
                    strncmp(pld_last_error(), begin, strlen(begin)) == 0 &&
                    strstr(pld_last_error(), part) != NULL;

    if (!yes)
        printf("# %d: %s\n", rc, rc < 0 ? pld_last_error() : "accepted");
    pld_schedule_destroy(&s);
    return yes;
}

static inline int accepted(const char *text)
{
    pld_schedule *s = NULL;
    const int rc = pld_schedule_parse(text, &s);

    if (rc < 0)
        printf("# %s\n", pld_last_error());
    pld_schedule_destroy(&s);
    return rc == 0;
}

/** A small generator of numbers, the same everywhere. */
static inline unsigned roll(unsigned *state, unsigned below)
{
    *state = *state * 1664525u + 1013904223u;
    return (unsigned)(((unsigned long long)(*state) * below) >> 32);
}

#endif /* SCHEDULE_SUPPORT_H */
