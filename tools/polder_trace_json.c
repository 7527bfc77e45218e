/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* polder trace --json and --chrome.  Members are only ever added. */

#include "polder.h"
#include "polder_trace.h"

#include <jansson.h>

#include <stdio.h>
#include <string.h>

static int failed;

static void put(json_t *object, const char *key, json_t *value)
{
    failed |= json_object_set_new(object, key, value) != 0;
}

/* What is no UTF-8 comes from names of files: its foreign bytes become '?'. */
static void put_text(json_t *object, const char *key, const char *text)
{
    char copy[128];

    snprintf(copy, sizeof(copy), "%s", text);
    if (json_object_set_new(object, key, json_string(copy)) == 0)
        return;
    for (char *c = copy; *c != '\0'; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    put(object, key, json_string(copy));
}

static void put_number(json_t *object, const char *key, int64_t number)
{
    put(object, key, json_integer(number));
}

static void put_time(json_t *object, const char *key, int64_t time)
{
    put(object, key, time == 0 ? json_null() : json_integer(time));
}

static json_t *record_json(const pld_trace_record *r)
{
    json_t *o = json_object();

    put_number(o, "record_id", (int64_t)r->number);
    put_text(o, "group", r->group_name);
    put_text(o, "kind", r->kind);
    if (r->peer < 0) {
        put_number(o, "collective_seq_id", (int64_t)r->sequence);
    } else {
        put_number(o, "peer", r->peer);
        put_number(o, "tag", r->tag);
    }
    if (r->root >= 0)
        put_number(o, "root", r->root);
    if (r->dtype[0] != '\0') {
        put_text(o, "dtype", r->dtype);
        put_number(o, "count", (int64_t)r->count);
    }
    if (r->reduce[0] != '\0')
        put_text(o, "op", r->reduce);
    put_text(o, "site", r->site);
    put_text(o, "name", r->name);
    put_text(o, "state", r->ended != 0 ? "completed" : r->started != 0 ? "started" : "scheduled");
    put_number(o, "code", r->code);
    put_time(o, "time_called_ns", r->called);
    put_time(o, "time_started_ns", r->started);
    put_time(o, "time_ended_ns", r->ended);
    return o;
}

static json_t *ring_json(const struct ring *ring)
{
    json_t *o = json_object();
    json_t *entries = json_array();

    put_number(o, "rank", ring->info.rank);
    put_text(o, "host", ring->info.host);
    put_number(o, "pid", ring->info.pid);
    put_number(o, "recorded", (int64_t)ring->info.recorded);
    put_number(o, "clock_offset_ns", ring->info.clock_offset);
    put_time(o, "time_left_ns", ring->info.left);
    for (size_t i = 0; i < ring->count; i++)
        failed |= json_array_append_new(entries, record_json(&ring->records[i])) != 0;
    put(o, "entries", entries);
    return o;
}

static json_t *divergence_json(const struct job *job)
{
    static const char *const kinds[] = {"", "same", "other", "absent", "not ended", "earlier"};
    const struct divergence *d = &job->divergence;
    json_t *o, *ranks;

    if (!d->found)
        return json_null();
    o = json_object();
    ranks = json_array();
    put_text(o, "group", d->group_name);
    put_number(o, "collective_seq_id", (int64_t)d->sequence);
    for (size_t r = 0; r < job->count; r++) {
        json_t *part;

        if (d->parts[r].kind == PART_NONE)
            continue;
        part = json_object();
        put_number(part, "rank", job->rings[r].info.rank);
        put_text(part, "did", kinds[d->parts[r].kind]);
        put(part, d->parts[r].kind == PART_ABSENT ? "last" : "call",
            record_json(d->parts[r].record));
        failed |= json_array_append_new(ranks, part) != 0;
    }
    put(o, "ranks", ranks);
    return o;
}

static json_t *stragglers_json(const struct job *job)
{
    json_t *list = json_array();

    for (size_t i = 0; i < job->count; i++) {
        const struct straggler *s = &job->stragglers[i];
        json_t *o = json_object();

        put_number(o, "rank", job->rings[s->rank_index].info.rank);
        put_number(o, "last", (int64_t)s->last);
        put(o, "seconds", json_real(s->seconds));
        put(o, "worst_seconds", json_real(s->worst));
        put(o, "worst_call", s->worst_at != NULL ? record_json(s->worst_at) : json_null());
        failed |= json_array_append_new(list, o) != 0;
    }
    return list;
}

int trace_print_json(const struct job *job)
{
    json_t *o = json_object();
    json_t *ranks = json_array();

    for (size_t r = 0; r < job->count; r++)
        failed |= json_array_append_new(ranks, ring_json(&job->rings[r])) != 0;
    put_number(o, "size", job->rings[0].info.size);
    put(o, "ranks", ranks);
    put(o, "divergence", divergence_json(job));
    put_number(o, "compared", (int64_t)job->compared);
    put(o, "stragglers", stragglers_json(job));
    if (!failed)
        failed = json_dumpf(o, stdout, JSON_INDENT(1)) != 0;
    putchar('\n');
    json_decref(o);
    return !failed;
}

/* Microseconds since the first call of all, for readers that count in doubles. */
static double micro(int64_t time, int64_t first)
{
    return 1e-3 * (double)(time - first);
}

static json_t *event(const struct ring *ring, const pld_trace_record *r, int64_t first, int64_t end)
{
    json_t *o = json_object();
    char what[96];

    trace_describe(r, what, sizeof(what));
    put_text(o, "name", what);
    put_text(o, "cat", r->group_name);
    put_text(o, "ph", "X");
    put(o, "ts", json_real(micro(r->called, first)));
    put(o, "dur", json_real(micro(r->ended != 0 ? r->ended : end, r->called)));
    put_number(o, "pid", ring->info.rank);
    put_number(o, "tid", r->thread);
    put(o, "args", record_json(r));
    return o;
}

static json_t *name_event(const struct ring *ring)
{
    json_t *o = json_object();
    json_t *args = json_object();
    char name[128];

    snprintf(name, sizeof(name), "rank %d (%s)", ring->info.rank, ring->info.host);
    put_text(args, "name", name);
    put_text(o, "name", "process_name");
    put_text(o, "ph", "M");
    put_number(o, "pid", ring->info.rank);
    put(o, "args", args);
    return o;
}

static void find_span(const struct job *job, int64_t *first, int64_t *end)
{
    *first = INT64_MAX;
    *end = 0;
    for (size_t r = 0; r < job->count; r++) {
        for (size_t i = 0; i < job->rings[r].count; i++) {
            const pld_trace_record *record = &job->rings[r].records[i];

            *first = record->called < *first ? record->called : *first;
            *end = record->called > *end ? record->called : *end;
            *end = record->ended > *end ? record->ended : *end;
        }
    }
}

int trace_write_chrome(const struct job *job, const char *path)
{
    json_t *o = json_object();
    json_t *events = json_array();
    int64_t first, end;

    find_span(job, &first, &end);
    for (size_t r = 0; r < job->count; r++) {
        const struct ring *ring = &job->rings[r];

        failed |= json_array_append_new(events, name_event(ring)) != 0;
        for (size_t i = 0; i < ring->count; i++)
            failed |=
                json_array_append_new(events, event(ring, &ring->records[i], first, end)) != 0;
    }
    put(o, "traceEvents", events);
    if (!failed)
        failed = json_dump_file(o, path, JSON_COMPACT) != 0;
    json_decref(o);
    return !failed;
}
