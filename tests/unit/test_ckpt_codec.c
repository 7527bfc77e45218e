/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Shuffle and frames; blocks tile their boxes. */

#include "ckpt/ckpt_codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "ckpt/ckpt_manifest.h"
#include "tap.h"

enum { COUNT = 1 << 16, BYTES = COUNT * 8 };

static unsigned char data[BYTES], planes[BYTES], back[BYTES];

/* Bell-shaped numbers near 0, as weights are. */
static void fill_weights(void)
{
    uint32_t r = 7;

    for (int i = 0; i < BYTES / 4; i++) {
        float x = 0;

        for (int k = 0; k < 4; k++) {
            r = r * 1664525u + 1013904223u;
            x += (float)(r >> 8) / (1 << 24) - 0.5f;
        }
        x *= 0.02f;
        memcpy(data + 4 * i, &x, 4);
    }
}

static void fill_noise(void)
{
    uint64_t r = 99;

    for (int i = 0; i < BYTES; i++) {
        r = r * UINT64_C(6364136223846793005) + 1442695040888963407u;
        data[i] = (unsigned char)(r >> 56);
    }
}

static void test_shuffle(void)
{
    static const size_t elements[] = {1, 2, 4, 8};

    fill_noise();
    for (size_t k = 0; k < 4; k++) {
        const size_t e = elements[k];
        size_t right = 0;

        pldi_ckpt_shuffle(data, 1001, e, planes);
        for (size_t i = 0; i < 1001; i++)
            for (size_t b = 0; b < e; b++)
                right += planes[b * 1001 + i] == data[i * e + b];
        pldi_ckpt_unshuffle(planes, 1001, e, back);
        ok(right == 1001 * e && memcmp(back, data, 1001 * e) == 0,
           "elements of %zu bytes are shuffled and come back", e);
    }
}

static void test_frames(void)
{
    struct ckpt_coder *coder = pldi_ckpt_coder_new(BYTES);
    unsigned char *frame = malloc(pldi_ckpt_coder_bound(BYTES));
    int refused = 0, tries = 0;
    size_t stored = 0;

    fill_weights();
    ok(coder != NULL && frame != NULL, "a coder");
    ok(pldi_ckpt_compress(coder, data, BYTES, BYTES, 4, frame, &stored) == CKPT_SHUFFLED_ZSTD,
       "weights are compressed");
    printf("# f32 weights: %d bytes to %zu, %.3f\n", BYTES, stored, (double)BYTES / (double)stored);
    ok(stored < BYTES / 100 * 90, "and by more than a tenth");
    ok(ZSTD_getFrameContentSize(frame, stored) == BYTES &&
           ZSTD_findFrameCompressedSize(frame, stored) == stored,
       "one frame that tells its size");
    ok(pldi_ckpt_expand(coder, frame, stored, BYTES, 4, back) == 0 &&
           memcmp(back, data, BYTES) == 0,
       "and comes back");
    for (size_t at = 0; at < stored; at += stored / 61, tries++) {
        frame[at] ^= 4;
        refused += pldi_ckpt_expand(coder, frame, stored, BYTES, 4, back) < 0;
        frame[at] ^= 4;
    }
    ok(refused == tries, "%d of %d damaged frames are refused", refused, tries);
    ok(pldi_ckpt_expand(coder, frame, stored - 1, BYTES, 4, back) < 0 &&
           pldi_ckpt_expand(coder, frame, stored, BYTES - 4, 4, back) < 0 &&
           pldi_ckpt_expand(coder, frame, stored, BYTES + 4, 4, back) < 0,
       "so are other sizes");
    fill_noise();
    ok(pldi_ckpt_compress(coder, data, BYTES, BYTES, 4, frame, &stored) == CKPT_PLAIN &&
           stored == BYTES && memcmp(frame, data, BYTES) == 0,
       "noise is stored as it is");
    ok(pldi_ckpt_compress(coder, data, 1000, 4000, 4, frame, &stored) == CKPT_SHUFFLED_ZSTD &&
           pldi_ckpt_expand(coder, frame, stored, 4000, 4, back) == 0 &&
           memcmp(back, data, 1000) == 0 && back[1000] == 0 && back[3999] == 0,
       "a short block is padded with zeros");
    free(frame);
    pldi_ckpt_coder_free(coder);
}

/* Blocks of a box follow each other without gap, and block_of() finds them. */
static int tiles(struct ckpt_box b, size_t element)
{
    int64_t at = 0;

    pldi_ckpt_block_plan(&b, element);
    if (pldi_ckpt_block_full(&b) * (int64_t)element > 4 << 20)
        return 0;
    for (uint64_t i = 0; i < b.blocks; i++) {
        const struct ckpt_range r = pldi_ckpt_block_range(&b, i);

        if (r.begin != at || r.count < 1 || r.count > pldi_ckpt_block_full(&b) ||
            pldi_ckpt_block_of(&b, r.begin) != i ||
            pldi_ckpt_block_of(&b, r.begin + r.count - 1) != i)
            return 0;
        at += r.count;
    }
    return at == pldi_box_count(&b.box);
}

static void test_blocks(void)
{
    static const int64_t shapes[][3] = {{1, 1, 1},         {1000000, 1, 1}, {1, 1, 3000001},
                                        {3, 700001, 1},    {700, 3, 1000},  {5, 1, 400000},
                                        {262144, 4, 1},    {262145, 1, 1},  {2, 2, 262145},
                                        {40000, 100, 100}, {123, 457, 789}};
    int good = 0;
    const int count = (int)(sizeof(shapes) / sizeof(shapes[0]));

    for (int i = 0; i < count; i++) {
        struct ckpt_box b = {.box = {.ndim = 3}};

        memcpy(b.box.extent, shapes[i], sizeof(shapes[i]));
        good += tiles(b, 4) && tiles(b, 2) && tiles(b, 8);
    }
    ok(good == count, "%d of %d boxes are tiled by their blocks", good, count);
}

int main(void)
{
    test_shuffle();
    test_frames();
    test_blocks();
    return tap_done();
}
