/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file health_ring.h
 * Layout of a recorder's memory, and of its file behind the segment's own page.
 *
 * Words are atomic because others read them at any time; each record is valid
 * when its first word is its number.  Names of kinds, types and operators are in the
 * head, so that a reader depends on no table of this library's version.
 *
 * Times are stamps (base_ticks.h); the head says how they become ns of CLOCK_MONOTONIC, anew
 * a few times in a second while the process lives.
 */
#ifndef PLDI_HEALTH_RING_H
#define PLDI_HEALTH_RING_H

#include <polder/trace.h>

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base_door.h"
#include "base/base_ticks.h"

enum {
    PLDI_RING_VERSION = 3,
    PLDI_RING_SKIP = 4096, /**< bytes in front of it in a file */
    PLDI_RING_RECORDS = 4096,
    PLDI_RING_SITES = 1024,
    PLDI_RING_GROUPS = 256,
    PLDI_RING_KINDS = 32,
    PLDI_RING_WORDS = 16,
    PLDI_RING_HEARD = 64,
    PLDI_RING_REPORT = 32768 /**< bytes of text */
};

/** Flags of a record. */
enum { PLDI_REC_DATA = 1, PLDI_REC_REDUCES = 2, PLDI_REC_ROOT = 4, PLDI_REC_MESSAGE = 8 };

struct pldi_ring_head {
    char magic[8]; /**< "PLDTRACE" */
    uint32_t version, record_bytes, records, sites, groups;
    int32_t rank, size;
    int64_t pid;
    char host[72];
    char kinds[PLDI_RING_KINDS][24];
    char dtypes[16][8];
    char ops[8][8];
    _Atomic uint64_t job, clock_offset, wall_offset;
    _Atomic uint64_t next;    /**< records so far */
    _Atomic uint64_t sited;   /**< sites so far */
    _Atomic uint64_t grouped; /**< groups so far */
    _Atomic uint64_t left;
    _Atomic uint64_t scales; /**< so far; the last one holds, and is in scale[scales % 2] */
    struct {
        _Atomic uint64_t zero, rate, base;
    } scale[2];
    _Alignas(64) struct pldi_door door; /**< of the rank's sleep, while the job runs */
    /* Between the ranks of a node, while the job runs: */
    _Atomic uint64_t claim; /**< rank + 1 that reports; of the node's first rank */
    _Atomic uint64_t alarm; /**< rank + 1 in whose ring the report is; 0: all is well */
    _Atomic uint64_t heard; /**< ranks of other nodes of which this one was told */
    _Atomic uint64_t ended[PLDI_RING_HEARD];
};

struct pldi_ring_group {
    _Atomic uint64_t id, size;
    _Atomic uint64_t called, ended; /**< collective operations */
    _Atomic uint64_t ended_at;      /**< a stamp */
    _Atomic uint64_t name[3];
};

struct pldi_ring_record {
    /* number, called, started, ended, sequence, count, chain, what, peer, end, name[6] */
    _Atomic uint64_t word[PLDI_RING_WORDS];
};

struct pldi_ring_site {
    _Atomic uint64_t word[8];
};

struct pldi_ring {
    union {
        struct pldi_ring_head head;
        unsigned char page[4096];
    } u;
    struct pldi_ring_group groups[PLDI_RING_GROUPS];
    struct pldi_ring_site sites[PLDI_RING_SITES];
    _Atomic uint64_t report[PLDI_RING_REPORT / 8];
    struct pldi_ring_record records[PLDI_RING_RECORDS];
};
_Static_assert(sizeof(struct pldi_ring_head) <= 4096, "the head has a page");
_Static_assert(sizeof(struct pldi_ring_group) == 64, "part of the file format");
_Static_assert(sizeof(struct pldi_ring_record) == 128, "part of the file format");

/** Text in atomic words; cut where it does not fit, always with a final NUL. */
void pldi_ring_put_text(_Atomic uint64_t *words, size_t n, const char *text);
void pldi_ring_get_text(const _Atomic uint64_t *words, size_t n, char *text);

/** Say how stamps become times from here on; and do it, 0 for none. */
void pldi_ring_set_scale(struct pldi_ring *ring, const struct pldi_ticks_scale *scale);
int64_t pldi_ring_time(const struct pldi_ring *ring, uint64_t stamp);

/** What a slot holds: 1, or 0 if it is empty or being written. */
int pldi_ring_read(const struct pldi_ring *ring, size_t slot, pld_trace_record *out);

/** The record of that number, if it is still there. */
int pldi_ring_find(const struct pldi_ring *ring, uint64_t number, pld_trace_record *out);

/** The oldest operation under way; 0: there is none. */
int pldi_ring_oldest(const struct pldi_ring *ring, pld_trace_record *out);

/** The newest record; 0: there is none. */
int pldi_ring_newest(const struct pldi_ring *ring, pld_trace_record *out);

/** The group's entry, or NULL. */
const struct pldi_ring_group *pldi_ring_group_of(const struct pldi_ring *ring, uint64_t id);

/** "allreduce #17 f32[100] sum of dp at train.c:231 (bucket 3)" */
void pldi_ring_describe(const pld_trace_record *r, char *text, size_t bytes);

#endif /* PLDI_HEALTH_RING_H */
