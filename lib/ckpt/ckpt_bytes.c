/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "ckpt/ckpt_bytes.h"

#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"

enum { FIRST_CAPACITY = 4096 };

static int grow(struct ckpt_out *out, size_t bytes)
{
    size_t capacity = out->capacity == 0 ? FIRST_CAPACITY : out->capacity;
    unsigned char *data;

    if (out->failed)
        return 0;
    while (capacity - out->bytes < bytes)
        capacity *= 2;
    if (capacity == out->capacity)
        return 1;
    data = pldi_alloc(capacity, 1, "a manifest");
    if (data == NULL) {
        out->failed = 1;
        return 0;
    }
    if (out->bytes > 0)
        memcpy(data, out->data, out->bytes);
    pldi_free(out->data);
    out->data = data;
    out->capacity = capacity;
    return 1;
}

void pldi_ckpt_put(struct ckpt_out *out, const void *data, size_t bytes)
{
    if (bytes == 0 || !grow(out, bytes))
        return;
    memcpy(out->data + out->bytes, data, bytes);
    out->bytes += bytes;
}

void pldi_ckpt_put32(struct ckpt_out *out, uint32_t value)
{
    unsigned char b[4];

    for (int i = 0; i < 4; i++)
        b[i] = (unsigned char)(value >> 8 * i);
    pldi_ckpt_put(out, b, sizeof(b));
}

void pldi_ckpt_put64(struct ckpt_out *out, uint64_t value)
{
    pldi_ckpt_put32(out, (uint32_t)value);
    pldi_ckpt_put32(out, (uint32_t)(value >> 32));
}

void pldi_ckpt_put_blob(struct ckpt_out *out, const void *data, uint32_t bytes)
{
    pldi_ckpt_put32(out, bytes);
    pldi_ckpt_put(out, data, bytes);
    pldi_ckpt_put(out, "", 1);
}

void pldi_ckpt_put_text(struct ckpt_out *out, const char *text)
{
    pldi_ckpt_put_blob(out, text, (uint32_t)strlen(text));
}

const void *pldi_ckpt_get(struct ckpt_in *in, size_t bytes)
{
    const void *at = in->at;

    if (in->bad || (size_t)(in->end - in->at) < bytes) {
        in->bad = 1;
        return NULL;
    }
    in->at += bytes;
    return at;
}

uint32_t pldi_ckpt_get32(struct ckpt_in *in)
{
    const unsigned char *b = pldi_ckpt_get(in, 4);

    if (b == NULL)
        return 0;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

uint64_t pldi_ckpt_get64(struct ckpt_in *in)
{
    const uint64_t low = pldi_ckpt_get32(in);

    return low | (uint64_t)pldi_ckpt_get32(in) << 32;
}

const void *pldi_ckpt_get_blob(struct ckpt_in *in, uint32_t *bytes)
{
    const uint32_t length = pldi_ckpt_get32(in);
    const unsigned char *data = pldi_ckpt_get(in, (size_t)length + 1);

    if (data == NULL || data[length] != 0) {
        in->bad = 1;
        return NULL;
    }
    *bytes = length;
    return data;
}

const char *pldi_ckpt_get_text(struct ckpt_in *in)
{
    uint32_t bytes = 0;
    const char *text = pldi_ckpt_get_blob(in, &bytes);

    if (text != NULL && strlen(text) != bytes) {
        in->bad = 1;
        return NULL;
    }
    return text;
}
