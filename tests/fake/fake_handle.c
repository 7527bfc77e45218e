/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <stdint.h>
#include <stdlib.h>

#include "fake_cuda_impl.h"

enum { BUCKETS = 1024 };

static struct fake_handle *buckets[BUCKETS];
static unsigned long live[FAKE_EXEC + 1];

static struct fake_handle **bucket(const void *object)
{
    return &buckets[((uintptr_t)object >> 4) % BUCKETS];
}

void *fake_alloc(size_t count, size_t bytes)
{
    void *memory = calloc(count, bytes);

    if (memory == NULL)
        fake_die("out of host memory");
    return memory;
}

void *fake_handle_new(enum fake_kind kind, size_t bytes)
{
    struct fake_handle *h = fake_alloc(1, bytes);
    struct fake_handle **b = bucket(h);

    h->kind = kind;
    h->next = *b;
    *b = h;
    live[kind]++;
    return h;
}

void fake_handle_drop(void *object)
{
    struct fake_handle *h = object;
    struct fake_handle **at = bucket(h);

    while (*at != h)
        at = &(*at)->next;
    *at = h->next;
    live[h->kind]--;
}

bool fake_handle_valid(const void *object, enum fake_kind kind)
{
    for (const struct fake_handle *h = *bucket(object); h != NULL; h = h->next)
        if (h == object)
            return h->kind == kind;
    return false;
}

unsigned long fake_handle_count(enum fake_kind kind)
{
    return live[kind];
}
