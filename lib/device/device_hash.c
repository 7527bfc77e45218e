/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "device/device.h"

/* Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

uint64_t pldi_device_hash(const void *data, size_t bytes)
{
    const unsigned char *at = data;
    uint64_t sum = mix(bytes);
    uint64_t i = 0;

    for (size_t done = 0; done < bytes; done += 8) {
        const size_t n = bytes - done < 8 ? bytes - done : 8;
        uint64_t word = 0;

        memcpy(&word, at + done, n);
        sum += mix(word + ++i * 0x9e3779b97f4a7c15U);
    }
    return sum;
}
