/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Copies past the caches; included by device_kernels_isa.c alone.
 *
 * An ordinary store first reads the line that it writes into.  A result larger
 * than the caches pays for that with a third of the memory traffic, and pushes out
 * what others could still use; a non-temporal store does neither.  It needs
 * aligned addresses, and a fence before anybody is told of the data.
 */

#include <stdint.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>

enum { STREAM_LINE = 64 };

static void stream_line(unsigned char *dst, const unsigned char *src)
{
#ifdef __AVX512F__
    _mm512_stream_si512((void *)dst, _mm512_loadu_si512((const void *)src));
#elif defined(__AVX2__)
    _mm256_stream_si256((void *)dst, _mm256_loadu_si256((const void *)src));
    _mm256_stream_si256((void *)(dst + 32), _mm256_loadu_si256((const void *)(src + 32)));
#else
    for (int i = 0; i < STREAM_LINE; i += 16)
        _mm_stream_si128((void *)(dst + i), _mm_loadu_si128((const void *)(src + i)));
#endif
}

static void stream_copy(unsigned char *dst, const unsigned char *src, size_t bytes)
{
    const size_t ahead = (STREAM_LINE - (uintptr_t)dst % STREAM_LINE) % STREAM_LINE;
    const size_t head = ahead < bytes ? ahead : bytes;
    size_t i = head;

    memcpy(dst, src, head);
    for (; i + STREAM_LINE <= bytes; i += STREAM_LINE)
        stream_line(dst + i, src + i);
    memcpy(dst + i, src + i, bytes - i);
}

static void stream_fence(void)
{
    _mm_sfence();
}

static void fetch_ahead(const unsigned char *src, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += STREAM_LINE)
        _mm_prefetch((const void *)(src + i), _MM_HINT_T0);
}
#else
static void stream_copy(unsigned char *dst, const unsigned char *src, size_t bytes)
{
    memcpy(dst, src, bytes);
}

static void stream_fence(void)
{
}

static void fetch_ahead(const unsigned char *src, size_t bytes)
{
    (void)src;
    (void)bytes;
}
#endif

static void copy(void *dst, const void *src, size_t bytes, int stream)
{
    if (!stream) {
        memcpy(dst, src, bytes);
        return;
    }
    stream_copy(dst, src, bytes);
    stream_fence();
}
