/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Casts, the hash and the byte shuffle of the GPU's kernels, emulated: against the host's
 * conversions and hash, bit for bit, and against plain loops.
 */

#include "cuda_support.h"

enum { TYPES = 4, HALVES = 1 << 16 };

static const size_t counts[] = {0, 1, 3, 8, 63, 64, 65, 1000, 4096, 100003};
enum { COUNTS = sizeof(counts) / sizeof(counts[0]) };
static const pld_dtype types[TYPES] = {PLD_F32, PLD_F64, PLD_F16, PLD_BF16};

/* ---- Casts ---- */

static int casts(pld_dtype to, pld_dtype from, size_t count, size_t shift)
{
    const size_t bytes = pld_dtype_bytes(to);
    struct array src = array_new(count, from, shift);
    struct array dst = array_new(count, to, shift * 2 % 7);
    int good;

    array_fill(&src, from, 1);
    good = pldi_cuda_cast(gpu, dst.at, to, src.at, from, count, NULL) == PLD_OK;
    for (size_t i = 0; i < count && good; i++) {
        const double x = get_number(src.at + i * pld_dtype_bytes(from), from);
        char wanted[8];

        put_number(wanted, to, x);
        /* f64 to a half is rounded once, which put_number() does not do: see below. */
        if (from != PLD_F64 || bytes > 2)
            good = same_elements(dst.at + i * bytes, wanted, 1, to);
    }
    return array_free(&src) & array_free(&dst) & good;
}

static void test_casts(void)
{
    for (int k = 0; k < TYPES * TYPES; k++) {
        const pld_dtype to = types[k / TYPES];
        const pld_dtype from = types[k % TYPES];
        int good = 1;

        for (size_t c = 0; c < COUNTS; c++) {
            for (size_t shift = 0; shift < 4; shift++)
                good &= casts(to, from, counts[c], shift);
        }
        ok(good, "%s to %s", pld_dtype_name(from), pld_dtype_name(to));
    }
}

/* Every half, through f32 and f64 and back. */
static int comes_back(pld_dtype half, pld_dtype wide)
{
    static uint16_t halves[HALVES], back[HALVES];
    static double between[HALVES];

    for (int i = 0; i < HALVES; i++)
        halves[i] = (uint16_t)i;
    (void)pldi_cuda_cast(gpu, between, wide, halves, half, HALVES, NULL);
    (void)pldi_cuda_cast(gpu, back, half, between, wide, HALVES, NULL);
    return same_elements(halves, back, HALVES, half);
}

static double half_number(uint16_t bits, pld_dtype half)
{
    const uint16_t padded[4] = {bits};

    return get_number(padded, half);
}

/*
 * f64 next to the middle of two neighbouring halves: nearer to one of them by less than f32
 * can tell, so that to round twice would go wrong.
 */
static int rounds_once(pld_dtype half)
{
    static double in[4 * HALVES];
    static uint16_t got[4 * HALVES];
    const uint16_t infinite = half == PLD_F16 ? 0x7c00 : 0x7f80;
    int wrong = 0;

    for (uint16_t low = 0; low + 1 < infinite; low++) {
        const double a = half_number(low, half);
        const double middle = a + (half_number((uint16_t)(low + 1), half) - a) / 2;

        in[4 * low] = nextafter(middle, a);
        in[4 * low + 1] = middle;
        in[4 * low + 2] = nextafter(middle, INFINITY);
        in[4 * low + 3] = -in[4 * low];
    }
    (void)pldi_cuda_cast(gpu, got, half, in, PLD_F64, 4 * ((size_t)infinite - 1), NULL);
    for (uint16_t low = 0; low + 1 < infinite; low++)
        wrong += got[4 * low] != low || got[4 * low + 1] != low + (low & 1) ||
                 got[4 * low + 2] != low + 1 || got[4 * low + 3] != (low | 0x8000);
    return wrong == 0;
}

static void test_halves(void)
{
    static const double ends[] = {1e300, -1e300, 65519.999999999, 65520, (double)NAN};
    static const uint16_t wanted[] = {0x7c00, 0xfc00, 0x7bff, 0x7c00};
    uint16_t got[5];

    for (int h = 2; h < TYPES; h++) {
        ok(comes_back(types[h], PLD_F32) && comes_back(types[h], PLD_F64),
           "%s: each of all values comes back", pld_dtype_name(types[h]));
        ok(rounds_once(types[h]), "f64 to %s: rounded once, between any two neighbours",
           pld_dtype_name(types[h]));
    }
    (void)pldi_cuda_cast(gpu, got, PLD_F16, ends, PLD_F64, 5, NULL);
    ok(memcmp(got, wanted, sizeof(wanted)) == 0 && (got[4] & 0x7fff) > 0x7c00,
       "f64 to f16 at the ends: %04x %04x %04x %04x %04x", got[0], got[1], got[2], got[3], got[4]);
    ok(pldi_cuda_cast(gpu, got, PLD_F16, ends, PLD_I32, 1, NULL) == PLD_ERR_ARG &&
           strstr(refusal, "i32") != NULL,
       "no such cast: %s", refusal);
}

/* ---- Hash ---- */

static void test_hash(void)
{
    static unsigned char data[100003 + 16];
    int wrong = 0;
    uint64_t first = 0;

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)next_random();
    for (size_t c = 0; c < COUNTS; c++) {
        for (size_t shift = 0; shift < 17; shift++) {
            const size_t bytes = counts[c] < 100003 ? counts[c] + shift % 5 : counts[c];
            uint64_t hash = 77;

            (void)pldi_cuda_hash(gpu, data + shift % 16, bytes, &hash, NULL);
            wrong += hash != pldi_device_hash(data + shift % 16, bytes);
        }
    }
    ok(wrong == 0, "hash: %d differ from the host's", wrong);
    (void)pldi_cuda_hash(gpu, data, 1000, &first, NULL);
    for (size_t i = 0; i < 1000; i++) {
        uint64_t hash;

        data[i] ^= (unsigned char)(1U << i % 8);
        (void)pldi_cuda_hash(gpu, data, 1000, &hash, NULL);
        wrong += hash == first;
        data[i] ^= (unsigned char)(1U << i % 8);
    }
    ok(wrong == 0, "hash: %d of 1000 changed bits unseen", wrong);
    ok(pldi_device_hash("\0", 1) != pldi_device_hash("\0", 0), "hash: a zero at the end counts");
}

/* ---- Shuffle ---- */

static int shuffles(size_t count, size_t width, size_t shift)
{
    struct array src = array_new(count * width, PLD_U8, shift);
    struct array dst = array_new(count * width, PLD_U8, shift * 3 % 16);
    struct array back = array_new(count * width, PLD_U8, shift);
    int good = 1;

    array_fill(&src, PLD_U8, 0);
    good &= pldi_cuda_shuffle(gpu, dst.at, src.at, count, width, NULL) == PLD_OK;
    for (size_t i = 0; i < count && good; i++) {
        for (size_t b = 0; b < width; b++)
            good &= dst.at[b * count + i] == src.at[i * width + b];
    }
    good &= pldi_cuda_unshuffle(gpu, back.at, dst.at, count, width, NULL) == PLD_OK;
    good &= memcmp(src.at, back.at, src.bytes) == 0;
    return array_free(&src) & array_free(&dst) & array_free(&back) & good;
}

static void test_shuffle(void)
{
    static const size_t widths[] = {1, 2, 3, 4, 8, 16};

    for (int w = 0; w < 6; w++) {
        int good = 1;

        for (size_t c = 0; c < COUNTS; c++)
            for (size_t shift = 0; shift < 9; shift += shift < 2 ? 1 : 3)
                good &= shuffles(counts[c] < 100003 || widths[w] < 9 ? counts[c] : 777, widths[w],
                                 shift);
        ok(good, "shuffle of %zu bytes, and back", widths[w]);
    }
}

int main(void)
{
    test_casts();
    test_halves();
    test_hash();
    test_shuffle();
    return tap_done();
}
