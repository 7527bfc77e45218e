/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "base/base_mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"

void *pldi_alloc(size_t count, size_t bytes, const char *what)
{
    size_t total;
    void *memory;

    if (__builtin_mul_overflow(count, bytes, &total) || total > SIZE_MAX - PLDI_ALIGN) {
        (void)pldi_fail(PLD_ERR_NOMEM, "%zu x %zu bytes for %s are more than can be addressed",
                        count, bytes, what);
        return NULL;
    }
    total = total == 0 ? PLDI_ALIGN : (total + PLDI_ALIGN - 1) / PLDI_ALIGN * PLDI_ALIGN;
    memory = aligned_alloc(PLDI_ALIGN, total);
    if (memory == NULL) {
        (void)pldi_fail(PLD_ERR_NOMEM, "no memory for %zu bytes of %s", total, what);
        return NULL;
    }
    return memset(memory, 0, total);
}

void pldi_clear(void *memory, size_t bytes)
{
    memset(memory, 0, bytes);
}

void pldi_free(void *memory)
{
    free(memory);
}

char *pldi_strdup(const char *text)
{
    const size_t bytes = strlen(text) + 1;
    char *copy = pldi_alloc(bytes, 1, "a string");

    return copy == NULL ? NULL : memcpy(copy, text, bytes);
}

char *pldi_format(const char *fmt, ...)
{
    va_list ap;
    char *text;
    int length;

    va_start(ap, fmt);
    length = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    text = pldi_alloc((size_t)length + 1, 1, "a string");
    if (text == NULL)
        return NULL;
    va_start(ap, fmt);
    (void)vsnprintf(text, (size_t)length + 1, fmt, ap);
    va_end(ap);
    return text;
}
