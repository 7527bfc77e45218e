/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <jansson.h>
#include <stdlib.h>
#include <time.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "ckpt/ckpt_impl.h"

/* A text that is no UTF-8 has no place in JSON; its key stays. */
static json_t *text_or_null(const char *text)
{
    json_t *value = json_string(text);

    return value == NULL ? json_null() : value;
}

static json_t *numbers(const int64_t *values, int count)
{
    json_t *array = json_array();

    for (int i = 0; i < count; i++)
        (void)json_array_append_new(array, json_integer(values[i]));
    return array;
}

static json_t *box_json(const struct ckpt_manifest *m, const struct ckpt_box *b)
{
    json_t *o = json_object();
    uint64_t stored = 0;

    for (uint64_t i = 0; i < b->blocks; i++)
        stored += m->blocks[b->first_block + i].bytes;
    (void)json_object_set_new(o, "shard", text_or_null(m->shards[b->shard].name));
    (void)json_object_set_new(o, "offset", numbers(b->box.offset, b->box.ndim));
    (void)json_object_set_new(o, "extent", numbers(b->box.extent, b->box.ndim));
    (void)json_object_set_new(o, "stored_bytes", json_integer((json_int_t)stored));
    return o;
}

static json_t *tensors_json(const struct ckpt_manifest *m)
{
    json_t *array = json_array();

    for (uint32_t i = 0; i < m->tensor_count; i++) {
        const struct ckpt_tensor *t = &m->tensors[i];
        json_t *boxes = json_array();
        json_t *o = json_object();

        for (uint32_t b = 0; b < t->boxes; b++)
            (void)json_array_append_new(boxes, box_json(m, &m->boxes[t->first_box + b]));
        (void)json_object_set_new(o, "name", text_or_null(t->name));
        (void)json_object_set_new(o, "slot", text_or_null(t->slot));
        (void)json_object_set_new(o, "dtype", json_string(pld_dtype_name(t->dtype)));
        (void)json_object_set_new(o, "shape", numbers(t->shape, t->ndim));
        (void)json_object_set_new(o, "boxes", boxes);
        (void)json_array_append_new(array, o);
    }
    return array;
}

static json_t *shards_json(const struct ckpt_manifest *m)
{
    json_t *array = json_array();

    for (uint32_t i = 0; i < m->shard_count; i++) {
        const struct ckpt_shard *s = &m->shards[i];
        json_t *o = json_object();

        (void)json_object_set_new(o, "name", text_or_null(s->name));
        (void)json_object_set_new(o, "rank", json_integer(s->rank));
        (void)json_object_set_new(o, "host", text_or_null(s->host));
        (void)json_object_set_new(o, "bytes", json_integer((json_int_t)s->bytes));
        (void)json_array_append_new(array, o);
    }
    return array;
}

/* Numbers and texts with their values, states with their sizes.  JSON has no NaN. */
static json_t *entries_json(const struct ckpt_manifest *m, int kind)
{
    json_t *o = json_object();

    for (uint32_t i = 0; i < m->entry_count; i++) {
        const struct ckpt_entry *e = &m->entries[i];
        json_t *value;

        if (e->kind != kind)
            continue;
        if (kind == CKPT_TEXT)
            value = text_or_null(e->value);
        else if (kind == CKPT_NUMBER)
            value = json_real(e->number);
        else
            value = json_integer((json_int_t)e->bytes);
        (void)json_object_set_new(o, e->key, value == NULL ? json_null() : value);
    }
    return o;
}

static json_t *time_json(int64_t ns)
{
    const time_t seconds = (time_t)(ns / 1000000000);
    struct tm utc;
    char text[32];

    if (gmtime_r(&seconds, &utc) == NULL || strftime(text, sizeof(text), "%FT%TZ", &utc) == 0)
        return json_null();
    return json_string(text);
}

static json_t *save_json(const struct ckpt_manifest *m)
{
    json_t *o = json_object();
    char uuid[33];

    pldi_ckpt_uuid_text(m->uuid, uuid);
    (void)json_object_set_new(o, "format", json_integer(CKPT_FORMAT));
    (void)json_object_set_new(o, "polder", text_or_null(m->writer));
    (void)json_object_set_new(o, "step", json_integer(m->step));
    (void)json_object_set_new(o, "time", time_json(m->time));
    (void)json_object_set_new(o, "time_ns", json_integer(m->time));
    (void)json_object_set_new(o, "uuid", json_string(uuid));
    (void)json_object_set_new(o, "mesh", text_or_null(m->mesh));
    (void)json_object_set_new(o, "ranks", json_integer(m->ranks));
    (void)json_object_set_new(o, "codec", json_string(m->codec == PLD_CKPT_ZSTD ? "zstd" : "raw"));
    (void)json_object_set_new(o, "numbers", entries_json(m, CKPT_NUMBER));
    (void)json_object_set_new(o, "texts", entries_json(m, CKPT_TEXT));
    (void)json_object_set_new(o, "state_bytes", entries_json(m, CKPT_STATE));
    (void)json_object_set_new(o, "params_state_bytes", entries_json(m, CKPT_PARAMS_STATE));
    (void)json_object_set_new(o, "shards", shards_json(m));
    (void)json_object_set_new(o, "tensors", tensors_json(m));
    return o;
}

/* jansson takes NULL for a value that there was no memory for, and the dump then lacks it;
 * a dump that is NULL is told, a value that is missing harms nobody: polder reads the manifest. */
char *pldi_ckpt_json(const struct ckpt_manifest *m)
{
    json_t *o = save_json(m);
    char *text = o == NULL ? NULL : json_dumps(o, JSON_INDENT(1));
    char *copy = NULL;

    if (text != NULL)
        copy = pldi_format("%s\n", text);
    else
        (void)pldi_fail(PLD_ERR_NOMEM, "no memory for the text of %s", CKPT_JSON);
    free(text);
    json_decref(o);
    return copy;
}
