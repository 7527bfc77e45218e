/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Known answers of Random123 (kat_vectors, philox4x32 10), and moments of the derived numbers. */

#include <polder/random.h>

#include <math.h>
#include <string.h>

#include "tap.h"

enum { COUNT = 1 << 18 };

static void test_known_answers(void)
{
    static const uint32_t kat[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
         0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1}};

    for (int i = 0; i < 3; i++) {
        uint32_t out[4];

        pld_philox4x32(kat[i], kat[i] + 4, out);
        ok(memcmp(out, kat[i] + 6, sizeof(out)) == 0, "known answer %d", i);
    }
}

static void test_pieces(void)
{
    static float whole[1000], piece[1000];
    int same = 1;

    pld_random_normal(7, 3, 100, 1000, whole);
    for (size_t i = 0; i < 1000; i += 7)
        pld_random_normal(7, 3, 100 + i, i + 7 > 1000 ? 1000 - i : 7, piece + i);
    same &= memcmp(whole, piece, sizeof(whole)) == 0;
    pld_random_uniform(7, 3, 101, 1000, whole);
    for (size_t i = 0; i < 1000; i += 3)
        pld_random_uniform(7, 3, 101 + i, i + 3 > 1000 ? 1000 - i : 3, piece + i);
    same &= memcmp(whole, piece, sizeof(whole)) == 0;
    ok(same, "any cut of a sequence gives the same numbers");
}

static void test_moments(void)
{
    static float x[COUNT];
    double mean = 0, square = 0, fourth = 0;

    pld_random_normal(1, pld_random_stream("wte"), 0, COUNT, x);
    for (int i = 0; i < COUNT; i++) {
        mean += x[i] / (double)COUNT;
        square += (double)x[i] * x[i] / COUNT;
        fourth += (double)x[i] * x[i] * x[i] * x[i] / COUNT;
    }
    ok(fabs(mean) < 0.01 && fabs(square - 1) < 0.01 && fabs(fourth - 3) < 0.1,
       "normal: mean %g, variance %g, fourth moment %g", mean, square, fourth);
    pld_random_uniform(1, 2, 0, COUNT, x);
    mean = square = 0;
    for (int i = 0; i < COUNT; i++) {
        mean += x[i] / (double)COUNT;
        square += (double)x[i] * x[i] / COUNT;
    }
    ok(fabs(mean - 0.5) < 0.005 && fabs(square - 1.0 / 3) < 0.005, "uniform: %g, %g", mean, square);
}

int main(void)
{
    test_known_answers();
    test_pieces();
    test_moments();
    ok(pld_random_u64(1, 2, 3) != pld_random_u64(1, 2, 4), "neighbours differ");
    ok(pld_random_u64(1, 2, 3) != pld_random_u64(1, 3, 3), "streams differ");
    ok(pld_random_u64(1, 2, 3) != pld_random_u64(2, 2, 3), "seeds differ");
    return tap_done();
}
