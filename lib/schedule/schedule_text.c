/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The text form.  Reading is lenient where torch.distributed.pipelining is:
 * lines may end in CR LF, which Python's csv writer does, and an empty cell is
 * a step in which a rank idles, which carries nothing that a table of ordered
 * lists needs.  Anything else that is not an action is refused by name.
 */

#include "schedule/schedule.h"

#include <ctype.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"

/* A piece of the text, and where it stands. */
struct cell {
    const char *begin;
    const char *end;
    int line;
    int column; /* which action of the line, from 1 */
};

/* What has been read so far. */
struct reader {
    pld_action *actions;
    size_t *start; /* as in a schedule */
    size_t count;
    int ranks;
    int stages;
    int microbatches;
};

static void trim(struct cell *c)
{
    while (c->begin < c->end && isspace((unsigned char)c->begin[0]))
        c->begin++;
    while (c->begin < c->end && isspace((unsigned char)c->end[-1]))
        c->end--;
}

__attribute__((cold)) static int refuse(const struct cell *c, const char *why)
{
    char shown[33];
    size_t n = 0;

    for (const char *p = c->begin; p < c->end && n < sizeof(shown) - 1; p++)
        shown[n++] = (char)(isprint((unsigned char)*p) ? *p : '?');
    shown[n] = '\0';
    return pldi_fail(PLD_ERR_ARG, "line %d, action %d (\"%s\"): %s", c->line, c->column, shown,
                     why);
}

/* Digits at *p up to a limit; -1: none there, -2: too large. */
static int read_number(const char **p, const char *end, int limit)
{
    int value = -1;

    while (*p < end && isdigit((unsigned char)**p)) {
        value = (value < 0 ? 0 : value) * 10 + (**p - '0');
        if (value >= limit)
            return -2;
        ++*p;
    }
    return value;
}

static int read_kind(const char **p, const char *end, pld_action_kind *out)
{
    const char *begin = *p;

    while (*p < end && !isdigit((unsigned char)**p))
        ++*p;
    for (int kind = 0; kind < PLDI_ACTION_KINDS; kind++) {
        const char *name = pldi_action_info((pld_action_kind)kind)->name;

        if (strlen(name) == (size_t)(*p - begin) && memcmp(begin, name, strlen(name)) == 0) {
            *out = (pld_action_kind)kind;
            return 1;
        }
    }
    return 0;
}

static int read_action(const struct cell *c, pld_action *out)
{
    const char *p = c->begin;
    pld_action a = {.kind = PLD_ACTION_F};

    a.stage = read_number(&p, c->end, PLDI_MAX_STAGES);
    if (a.stage == -1)
        return refuse(c, "an action begins with the number of its stage, as in 2F0");
    if (a.stage < 0)
        return refuse(c, "stages are 0 to 4095");
    if (!read_kind(&p, c->end, &a.kind))
        return refuse(c, "after the stage comes F, B, SEND_F, RECV_F, SEND_B or RECV_B");
    a.microbatch = read_number(&p, c->end, PLDI_MAX_MICROBATCHES);
    if (a.microbatch == -1)
        return refuse(c, "an action ends with the number of its microbatch, as in 2F0");
    if (a.microbatch < 0)
        return refuse(c, "microbatches are 0 to 1048575");
    if (p < c->end)
        return refuse(c, "there is more after the microbatch; actions are separated by commas");
    *out = a;
    return PLD_OK;
}

static int read_cell(struct reader *r, struct cell *c)
{
    pld_action a;

    trim(c);
    if (c->begin == c->end)
        return PLD_OK;
    PLDI_TRY(read_action(c, &a));
    r->actions[r->count++] = a;
    r->stages = a.stage >= r->stages ? a.stage + 1 : r->stages;
    r->microbatches = a.microbatch >= r->microbatches ? a.microbatch + 1 : r->microbatches;
    return PLD_OK;
}

static int read_line(struct reader *r, struct cell line)
{
    const char *comma;

    trim(&line);
    if (line.begin == line.end || line.begin[0] == '#')
        return PLD_OK;
    if (r->ranks == PLDI_MAX_STAGES)
        return pldi_fail(PLD_ERR_ARG, "line %d: more than %d ranks", line.line, PLDI_MAX_STAGES);
    r->start[r->ranks] = r->count;
    for (const char *p = line.begin; p <= line.end; p = comma + 1) {
        struct cell c = {p, line.end, line.line, ++line.column};

        comma = memchr(p, ',', (size_t)(line.end - p));
        if (comma != NULL)
            c.end = comma;
        PLDI_TRY(read_cell(r, &c));
        if (comma == NULL)
            break;
    }
    if (r->count == r->start[r->ranks])
        return pldi_fail(PLD_ERR_ARG, "line %d: rank %d has no action", line.line, r->ranks);
    r->start[++r->ranks] = r->count;
    return PLD_OK;
}

static int read_lines(struct reader *r, const char *text)
{
    const char *end;
    int line = 0;

    for (const char *p = text; *p != '\0'; p = *end == '\0' ? end : end + 1) {
        end = p + strcspn(p, "\n");
        PLDI_TRY(read_line(r, (struct cell){p, end, ++line, 0}));
    }
    if (r->ranks == 0)
        return pldi_fail(PLD_ERR_ARG, "the text of a schedule has no action in %d lines", line);
    return PLD_OK;
}

static int to_schedule(const struct reader *r, pld_schedule **out)
{
    pld_schedule *s;

    PLDI_TRY(pldi_schedule_new(r->ranks, r->stages, r->microbatches, r->count, &s));
    memcpy(s->start, r->start, ((size_t)r->ranks + 1) * sizeof(*s->start));
    memcpy(s->actions, r->actions, r->count * sizeof(*s->actions));
    pldi_schedule_seal(s);
    *out = s;
    return PLD_OK;
}

int pldi_schedule_read(const char *text, pld_schedule **out)
{
    struct reader r = {0};
    size_t cells = 1;
    int rc = PLD_ERR_NOMEM;

    for (const char *p = text; *p != '\0'; p++)
        cells += *p == ',' || *p == '\n';
    r.actions = pldi_alloc(cells, sizeof(*r.actions), "the actions of a schedule");
    r.start = pldi_alloc((size_t)PLDI_MAX_STAGES + 1, sizeof(*r.start), "the lists of a schedule");
    if (r.actions != NULL && r.start != NULL)
        rc = read_lines(&r, text);
    if (rc == PLD_OK)
        rc = to_schedule(&r, out);
    pldi_free(r.actions);
    pldi_free(r.start);
    return rc;
}

int pld_schedule_parse(const char *text, pld_schedule **out)
{
    pld_schedule *s;
    int rc;

    PLDI_CHECK_ARG(text != NULL && out != NULL);
    PLDI_TRY(pldi_schedule_read(text, &s));
    rc = pld_schedule_validate(s);
    if (rc < 0) {
        pld_schedule_destroy(&s);
        return rc;
    }
    *out = s;
    return PLD_OK;
}

/* Text that is counted whole and kept as far as it fits. */
struct writer {
    char *out;
    size_t bytes;
    size_t length;
};

static void put(struct writer *w, const char *text)
{
    for (; *text != '\0'; text++, w->length++) {
        if (w->length + 1 < w->bytes)
            w->out[w->length] = *text;
    }
}

size_t pld_schedule_format(const pld_schedule *schedule, char *out, size_t bytes)
{
    struct writer w = {out, bytes, 0};
    char text[PLDI_ACTION_TEXT];

    for (int rank = 0; rank < schedule->ranks; rank++) {
        for (size_t i = schedule->start[rank]; i < schedule->start[rank + 1]; i++) {
            put(&w, i > schedule->start[rank] ? "," : "");
            put(&w, pldi_action_text(&schedule->actions[i], text));
        }
        put(&w, "\n");
    }
    if (bytes > 0)
        out[w.length < bytes ? w.length : bytes - 1] = '\0';
    return w.length;
}
