/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The manifest's parser gets every damage that one byte can do, and, hashes made
 * right again, every lie that one byte can tell: it says CORRUPT or gives a manifest
 * all of whose tables may be walked.
 */

#include "ckpt/ckpt_manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_hash.h"
#include "base/base_mem.h"
#include "polder/error.h"
#include "tap.h"

static struct ckpt_shard shards[2] = {{"s-0.h5", "node1", 5000, 0, {1}},
                                      {"s-1.h5", "node2", 6000, 3, {2}}};
static struct ckpt_tensor tensors[3] = {{"a", "", PLD_F32, 2, {6, 5}, 0, 2},
                                        {"a", "exp_avg", PLD_F32, 2, {6, 5}, 2, 1},
                                        {"b", "", PLD_BF16, 1, {7}, 3, 1}};
static struct ckpt_box boxes[4] = {
    {{{0, 0}, {4, 5}, 2}, 0, 0, 0, 3, 0, 2},
    {{{4, 0}, {2, 5}, 2}, 0, 1, 0, 2, 2, 1},
    {{{0, 0}, {6, 5}, 2}, 1, 1, 0, 6, 3, 1},
    {{{0}, {7}, 1}, 2, 0, 0, 7, 4, 1},
};
static struct ckpt_block blocks[5] = {{100, 60, 11, CKPT_PLAIN},
                                      {160, 20, 12, CKPT_PLAIN},
                                      {200, 40, 13, CKPT_PLAIN},
                                      {300, 120, 14, CKPT_PLAIN},
                                      {400, 14, 15, CKPT_PLAIN}};
static struct ckpt_file files[1] = {{"index.h5", 77, {3}}};
static struct ckpt_entry entries[3] = {{"position", CKPT_STATE, 0, "\1\2\0\4", 4},
                                       {"loss", CKPT_NUMBER, 2.5, NULL, 0},
                                       {"model", CKPT_TEXT, 0, "toy", 3}};

static const struct ckpt_manifest example = {.step = 12,
                                             .time = 1700000000123456789,
                                             .uuid = {7, 8, 9},
                                             .ranks = 4,
                                             .writer = "0.1.0",
                                             .mesh = "dp=4",
                                             .shards = shards,
                                             .tensors = tensors,
                                             .boxes = boxes,
                                             .blocks = blocks,
                                             .files = files,
                                             .entries = entries,
                                             .shard_count = 2,
                                             .tensor_count = 3,
                                             .file_count = 1,
                                             .entry_count = 3,
                                             .box_count = 4,
                                             .block_count = 5};

/* Decode a copy; what is found is encoded again and compared, if wanted. */
static int decode(const unsigned char *bytes, size_t count, struct ckpt_manifest *out)
{
    unsigned char *copy = pldi_alloc(1, count == 0 ? 1 : count, "a test");

    memcpy(copy, bytes, count);
    return pldi_ckpt_manifest_decode("m", copy, count, out);
}

static int same_bytes(const struct ckpt_manifest *m, const unsigned char *bytes, size_t count)
{
    unsigned char *again = NULL;
    size_t n = 0;
    const int same =
        pldi_ckpt_manifest_encode(m, &again, &n) == 0 && n == count && memcmp(again, bytes, n) == 0;

    pldi_free(again);
    return same;
}

/* Touch everything that readers of a manifest touch. */
static uint64_t walk(const struct ckpt_manifest *m)
{
    uint64_t sum = strlen(m->writer) + strlen(m->mesh);

    for (uint32_t i = 0; i < m->shard_count; i++)
        sum += strlen(m->shards[i].name) + strlen(m->shards[i].host);
    for (uint32_t i = 0; i < m->tensor_count; i++) {
        const struct ckpt_tensor *t = &m->tensors[i];

        sum += strlen(t->name) + strlen(t->slot) + (uint64_t)t->shape[t->ndim - 1];
        for (uint32_t b = 0; b < t->boxes; b++) {
            const struct ckpt_box *box = &m->boxes[t->first_box + b];

            sum += m->shards[box->shard].bytes + m->tensors[box->tensor].first_box;
            for (uint64_t k = 0; k < box->blocks; k++)
                sum += m->blocks[box->first_block + k].hash +
                       (uint64_t)pldi_ckpt_block_range(box, k).count;
        }
    }
    for (uint32_t i = 0; i < m->file_count; i++)
        sum += strlen(m->files[i].name);
    for (uint32_t i = 0; i < m->entry_count; i++)
        sum += strlen(m->entries[i].key) +
               ((const unsigned char *)m->entries[i].value)[m->entries[i].bytes];
    return sum;
}

static void test_round(const unsigned char *bytes, size_t count)
{
    struct ckpt_manifest m = {0}, header = {0};

    ok(decode(bytes, count, &m) == 0, "decodes: %s", pld_last_error());
    ok(same_bytes(&m, bytes, count), "and encodes to the same %zu bytes", count);
    ok(m.step == 12 && m.time == 1700000000123456789 && m.uuid[2] == 9 && m.ranks == 4 &&
           strcmp(m.mesh, "dp=4") == 0 && m.boxes[1].box.offset[0] == 4 &&
           m.blocks[4].offset == 400 && m.entries[1].number == 2.5,
       "fields come back");
    ok(pldi_ckpt_manifest_find(&m, "a", "exp_avg") == &m.tensors[1] &&
           pldi_ckpt_manifest_find(&m, "b", "") == &m.tensors[2] &&
           pldi_ckpt_manifest_find(&m, "b", "exp_avg") == NULL,
       "tensors are found");
    ok(pldi_ckpt_manifest_header(bytes, &header) == 0 && header.step == 12 &&
           header.time == m.time && memcmp(header.uuid, m.uuid, 16) == 0,
       "the header tells step, time and uuid");
    pldi_ckpt_manifest_free(&m);
}

static void test_damage(unsigned char *bytes, size_t count)
{
    struct ckpt_manifest m = {0};
    size_t found = 0;

    for (size_t i = 0; i < count; i++)
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] = (unsigned char)(bytes[i] ^ 1 << bit);
            found += decode(bytes, count, &m) == PLD_ERR_CORRUPT;
            bytes[i] = (unsigned char)(bytes[i] ^ 1 << bit);
        }
    ok(found == 8 * count, "%zu of %zu flipped bits are found", found, 8 * count);
    found = 0;
    for (size_t n = 0; n < count; n++)
        found += decode(bytes, n, &m) == PLD_ERR_CORRUPT;
    ok(found == count, "%zu of %zu cuts are found", found, count);
}

/* Make all three checks on bytes right again: length, header hash, hash. */
static void make_right(unsigned char *bytes, size_t count)
{
    struct pldi_hash128 *state = pldi_hash128_new();
    uint64_t hash;

    for (int i = 0; i < 8; i++)
        bytes[16 + i] = (unsigned char)((uint64_t)count >> 8 * i);
    hash = pldi_hash64(bytes, 56);
    for (int i = 0; i < 8; i++)
        bytes[56 + i] = (unsigned char)(hash >> 8 * i);
    pldi_hash128_add(state, bytes, count - 16);
    pldi_hash128_digest(state, bytes + count - 16);
    pldi_hash128_free(state);
}

/* `keep` receives how many passed. */
static int judge(const unsigned char *bytes, size_t count, size_t *kept, uint64_t *sum)
{
    struct ckpt_manifest m = {0};
    const int rc = decode(bytes, count, &m);

    if (rc == 0) {
        *kept += 1;
        *sum += walk(&m);
        pldi_ckpt_manifest_free(&m);
    }
    return rc == 0 || rc == PLD_ERR_CORRUPT || rc == PLD_ERR_NOMEM || rc == PLD_ERR_UNSUPPORTED;
}

static void test_lies(const unsigned char *bytes, size_t count)
{
    static const unsigned char values[] = {0x00, 0x01, 0x7F, 0x80, 0xFF};
    unsigned char *copy = malloc(count);
    size_t kept = 0, good = 0, tries = 0;
    uint64_t sum = 0;

    for (size_t i = 0; i < count - 16; i++)
        for (size_t v = 0; v < sizeof(values); v++, tries++) {
            memcpy(copy, bytes, count);
            copy[i] = values[v];
            make_right(copy, count);
            good += (size_t)judge(copy, count, &kept, &sum);
        }
    ok(good == tries, "%zu of %zu lies are told from sense (%zu make some, %llu)", good, tries,
       kept, (unsigned long long)sum % 10);
    good = 0;
    for (size_t n = 80; n < count; n++) {
        memcpy(copy, bytes, n);
        make_right(copy, n);
        good += (size_t)judge(copy, n, &kept, &sum);
    }
    ok(good == count - 80, "so are %zu of %zu ends", good, count - 80);
    free(copy);
}

/* A later version of the format is told from damage. */
static void test_newer(const unsigned char *bytes, size_t count)
{
    unsigned char *copy = malloc(count);
    struct ckpt_manifest m = {0};

    memcpy(copy, bytes, count);
    copy[8] = 2;
    make_right(copy, count);
    ok(decode(copy, count, &m) == PLD_ERR_UNSUPPORTED, "format 2: %s", pld_last_error());
    free(copy);
}

int main(void)
{
    unsigned char *bytes = NULL;
    size_t count = 0;

    if (!ok(pldi_ckpt_manifest_encode(&example, &bytes, &count) == 0, "encodes"))
        return tap_done();
    test_round(bytes, count);
    test_damage(bytes, count);
    test_lies(bytes, count);
    test_newer(bytes, count);
    pldi_free(bytes);
    return tap_done();
}
