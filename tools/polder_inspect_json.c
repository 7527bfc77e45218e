/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* polder inspect --json.  Members are only ever added. */

#include "polder.h"
#include "polder_inspect.h"

#include <jansson.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* jansson reports a failed allocation as NULL or -1 and goes on; here it is remembered. */
static int failed;

static void append(json_t *list, json_t *value)
{
    failed |= json_array_append_new(list, value) != 0;
}

/* JSON text is UTF-8.  A file name need not be; its foreign bytes become '?'. */
static json_t *text_of(const char *text)
{
    json_t *value = json_string(text);
    char *copy;

    if (value != NULL)
        return value;
    copy = strdup(text);
    if (copy == NULL)
        return NULL;
    for (char *c = copy; *c != '\0'; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    value = json_string(copy);
    free(copy);
    return value;
}

/* JSON knows no NaN and no infinity. */
static json_t *number_of(double number)
{
    json_t *value = json_real(number);

    return value != NULL ? value : json_null();
}

static void put(json_t *object, const char *key, json_t *value)
{
    json_t *clean = text_of(key);

    failed |= clean == NULL || json_object_set_new(object, json_string_value(clean), value) != 0;
    json_decref(clean);
}

static json_t *shape_of(const pld_snapshot_tensor *tensor)
{
    json_t *shape = json_array();

    for (int i = 0; i < tensor->ndim; i++)
        append(shape, json_integer(tensor->shape[i]));
    return shape;
}

static json_t *tensors_of(const pld_snapshot *snapshot)
{
    json_t *list = json_array();

    for (size_t i = 0; i < pld_snapshot_tensors(snapshot); i++) {
        const pld_snapshot_tensor *t = pld_snapshot_tensor_at(snapshot, i);

        append(list, json_pack("{so so ss so sI sI si}", "name", text_of(t->name), "slot",
                               text_of(t->slot), "dtype", pld_dtype_name(t->dtype), "shape",
                               shape_of(t), "bytes", (json_int_t)t->bytes, "stored_bytes",
                               (json_int_t)t->stored_bytes, "boxes", t->boxes));
    }
    return list;
}

static json_t *shards_of(const pld_snapshot *snapshot)
{
    json_t *list = json_array();

    for (size_t i = 0; i < pld_snapshot_shards(snapshot); i++) {
        const pld_snapshot_shard *s = pld_snapshot_shard_at(snapshot, i);

        append(list,
               json_pack("{so si so sI sb}", "name", text_of(s->name), "rank", s->rank, "host",
                         text_of(s->host), "bytes", (json_int_t)s->bytes, "present", s->present));
    }
    return list;
}

static void add_entries(json_t *object, const pld_snapshot *snapshot)
{
    json_t *state = json_array(), *numbers = json_object(), *texts = json_object();

    for (size_t i = 0; i < pld_snapshot_entries(snapshot); i++) {
        const pld_snapshot_entry *e = pld_snapshot_entry_at(snapshot, i);

        if (e->kind == 's')
            append(state,
                   json_pack("{so sI}", "key", text_of(e->key), "bytes", (json_int_t)e->bytes));
        else if (e->kind == 'n')
            put(numbers, e->key, number_of(e->number));
        else
            put(texts, e->key, text_of(e->text));
    }
    put(object, "state", state);
    put(object, "numbers", numbers);
    put(object, "texts", texts);
}

static void add_verdict(json_t *object, const struct verdict *verdict, int verify)
{
    put(object, "complete", json_boolean(verdict->complete));
    if (verify)
        put(object, "verified", json_boolean(verdict->verified));
    put(object, "problem", text_of(verdict->problem));
}

static int print(json_t *object)
{
    if (failed || object == NULL) {
        json_decref(object);
        return complain(STATUS_BAD, "no memory for the JSON text");
    }
    /* A failed write stays in the stream, where main() finds it. */
    (void)json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
    return STATUS_OK;
}

int inspect_run_json(const pld_run *run, const struct verdict *verdicts, int verify)
{
    json_t *list = json_array();

    for (size_t i = 0; i < pld_run_count(run); i++) {
        const pld_run_entry *entry = pld_run_at(run, i);
        json_t *object = json_pack("{sI so sI}", "step", (json_int_t)entry->step, "path",
                                   text_of(entry->path), "bytes", (json_int_t)entry->bytes);

        add_verdict(object, &verdicts[i], verify);
        append(list, object);
    }
    return print(json_pack("{so}", "checkpoints", list));
}

int inspect_snapshot_json(const pld_snapshot *snapshot, const struct verdict *verdict, int verify)
{
    pld_snapshot_info info;
    json_t *object;

    pld_snapshot_info_get(snapshot, &info);
    object = json_pack("{sI so ss ss sI ss ss si sI si}", "step", (json_int_t)info.step, "path",
                       text_of(info.path), "uuid", info.uuid, "mesh", info.mesh, "time",
                       (json_int_t)info.time, "version", info.version, "codec", info.codec, "ranks",
                       info.ranks, "bytes", (json_int_t)info.bytes, "format", info.format);
    add_verdict(object, verdict, verify);
    put(object, "tensors", tensors_of(snapshot));
    put(object, "shards", shards_of(snapshot));
    add_entries(object, snapshot);
    return print(object);
}
