/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "device/device.h"

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9U;
    x = (x ^ x >> 27) * 0x94d049bb133111ebU;
    return x ^ x >> 31;
}

uint64_t pldi_device_hash(const void *data, size_t bytes)
{
    const unsigned char *at = data;
    uint64_t sum = mix(bytes);
    uint64_t number = 0;

    for (size_t left = bytes; left > 0;) {
        const size_t n = left < sizeof(uint64_t) ? left : sizeof(uint64_t);
        uint64_t word = 0;

        memcpy(&word, at, n);
        number += 0x9e3779b97f4a7c15U;
        sum += mix(word + number);
        at += n;
        left -= n;
    }
    return sum;
}
