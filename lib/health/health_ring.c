/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "health/health_ring.h"

#include <stdio.h>
#include <string.h>

static uint64_t get(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

void pldi_ring_put_text(_Atomic uint64_t *words, size_t n, const char *text)
{
    const size_t length = strnlen(text, n * 8 - 1);

    for (size_t i = 0; i < n; i++) {
        const size_t at = i * 8;
        uint64_t word = 0;

        if (at < length)
            memcpy(&word, text + at, length - at < 8 ? length - at : 8);
        atomic_store_explicit(&words[i], word, memory_order_release);
        if (at + 8 > length) /* with the NUL: what follows is never read */
            return;
    }
}

void pldi_ring_get_text(const _Atomic uint64_t *words, size_t n, char *text)
{
    for (size_t i = 0; i < n; i++) {
        const uint64_t word = get(&words[i]);

        memcpy(text + i * 8, &word, 8);
    }
    text[n * 8 - 1] = '\0';
}

void pldi_ring_set_scale(struct pldi_ring *ring, const struct pldi_ticks_scale *scale)
{
    struct pldi_ring_head *head = &ring->u.head;
    const uint64_t n = get(&head->scales) + 1;

    atomic_store_explicit(&head->scale[n % 2].zero, scale->zero, memory_order_release);
    atomic_store_explicit(&head->scale[n % 2].rate, scale->rate, memory_order_release);
    atomic_store_explicit(&head->scale[n % 2].base, (uint64_t)scale->base, memory_order_release);
    atomic_store_explicit(&head->scales, n, memory_order_release);
}

int64_t pldi_ring_time(const struct pldi_ring *ring, uint64_t stamp)
{
    const struct pldi_ring_head *head = &ring->u.head;
    struct pldi_ticks_scale scale;
    uint64_t n;

    if (stamp == 0)
        return 0;
    /* The one that is read is overwritten by the next but one. */
    do {
        n = get(&head->scales);
        scale.zero = get(&head->scale[n % 2].zero);
        scale.rate = get(&head->scale[n % 2].rate);
        scale.base = (int64_t)get(&head->scale[n % 2].base);
    } while (get(&head->scales) != n);
    return pldi_ticks_ns(&scale, stamp);
}

static void get_name(const char *name, size_t bytes, char *out)
{
    memcpy(out, name, bytes);
    out[bytes - 1] = '\0';
}

static void decode_what(const struct pldi_ring *ring, uint64_t what, pld_trace_record *out)
{
    const struct pldi_ring_head *head = &ring->u.head;
    const struct pldi_ring_group *group = &ring->groups[what >> 32 & (PLDI_RING_GROUPS - 1)];
    const unsigned flags = what >> 24 & 0xff;

    get_name(head->kinds[what & (PLDI_RING_KINDS - 1)], sizeof(out->kind), out->kind);
    out->dtype[0] = out->reduce[0] = '\0';
    if (flags & PLDI_REC_DATA)
        get_name(head->dtypes[what >> 8 & 15], sizeof(out->dtype), out->dtype);
    if (flags & PLDI_REC_REDUCES)
        get_name(head->ops[what >> 16 & 7], sizeof(out->reduce), out->reduce);
    if (!(flags & PLDI_REC_ROOT))
        out->root = -1;
    if (!(flags & PLDI_REC_MESSAGE))
        out->peer = -1;
    out->group = get(&group->id);
    out->group_size = (int)get(&group->size);
    pldi_ring_get_text(group->name, 3, out->group_name);
    pldi_ring_get_text(ring->sites[what >> 48 & (PLDI_RING_SITES - 1)].word, 8, out->site);
}

int pldi_ring_read(const struct pldi_ring *ring, size_t slot, pld_trace_record *out)
{
    const _Atomic uint64_t *w = ring->records[slot].word;
    const uint64_t number = get(&w[0]);

    if (number == 0)
        return 0;
    out->number = number;
    out->called = pldi_ring_time(ring, get(&w[1]));
    out->started = pldi_ring_time(ring, get(&w[2]));
    out->ended = pldi_ring_time(ring, get(&w[3]));
    out->sequence = get(&w[4]);
    out->count = get(&w[5]);
    out->chain = get(&w[6]);
    out->peer = out->root = (int)(uint32_t)get(&w[8]);
    out->tag = (int)(get(&w[8]) >> 32);
    out->thread = (int)(uint32_t)get(&w[9]);
    out->code = (int)(int32_t)(get(&w[9]) >> 32);
    decode_what(ring, get(&w[7]), out);
    pldi_ring_get_text(&w[10], 6, out->name);
    return get(&w[0]) == number;
}

int pldi_ring_find(const struct pldi_ring *ring, uint64_t number, pld_trace_record *out)
{
    return number > 0 && pldi_ring_read(ring, (number - 1) % PLDI_RING_RECORDS, out) &&
           out->number == number;
}

static uint64_t used(const struct pldi_ring *ring)
{
    const uint64_t next = get(&ring->u.head.next);

    return next < PLDI_RING_RECORDS ? next : PLDI_RING_RECORDS;
}

int pldi_ring_oldest(const struct pldi_ring *ring, pld_trace_record *out)
{
    const uint64_t n = used(ring);
    uint64_t oldest = 0;

    for (uint64_t i = 0; i < n; i++) {
        const _Atomic uint64_t *w = ring->records[i].word;
        const uint64_t number = get(&w[0]);

        if (number != 0 && get(&w[3]) == 0 && (oldest == 0 || number < oldest))
            oldest = number;
    }
    return pldi_ring_find(ring, oldest, out) && out->ended == 0;
}

int pldi_ring_newest(const struct pldi_ring *ring, pld_trace_record *out)
{
    const uint64_t next = get(&ring->u.head.next);

    /* The very last may be half written. */
    for (uint64_t n = next; n > 0 && n + 8 > next; n--) {
        if (pldi_ring_find(ring, n, out))
            return 1;
    }
    return 0;
}

const struct pldi_ring_group *pldi_ring_group_of(const struct pldi_ring *ring, uint64_t id)
{
    const uint64_t n = get(&ring->u.head.grouped);

    for (uint64_t i = 0; i < n && i < PLDI_RING_GROUPS; i++) {
        if (get(&ring->groups[i].id) == id)
            return &ring->groups[i];
    }
    return NULL;
}

void pldi_ring_describe(const pld_trace_record *r, char *text, size_t bytes)
{
    char number[32] = "";
    char data[48] = "";
    char other[64] = "";

    if (r->peer < 0)
        (void)snprintf(number, sizeof(number), " #%llu", (unsigned long long)r->sequence);
    else
        (void)snprintf(other, sizeof(other), " %s rank %d tag %d",
                       strcmp(r->kind, "send") == 0 ? "to" : "from", r->peer, r->tag);
    if (r->root >= 0)
        (void)snprintf(other, sizeof(other), " root %d", r->root);
    if (r->dtype[0] != '\0')
        (void)snprintf(data, sizeof(data), " %s[%llu]%s%s", r->dtype, (unsigned long long)r->count,
                       r->reduce[0] != '\0' ? " " : "", r->reduce);
    (void)snprintf(text, bytes, "%s%s%s%s of %s at %s%s%s%s", r->kind, number, data, other,
                   r->group_name, r->site, r->name[0] != '\0' ? " (" : "", r->name,
                   r->name[0] != '\0' ? ")" : "");
}
