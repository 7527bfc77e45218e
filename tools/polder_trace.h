/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file polder_trace.h  What the files of `polder trace` share. */
#ifndef TOOLS_POLDER_TRACE_H
#define TOOLS_POLDER_TRACE_H

#include <polder/trace.h>

/** One rank's ring; times of its records are on rank 0's clock. */
struct ring {
    char *path;
    pld_trace *trace;
    pld_trace_info info;
    pld_trace_record *records; /* [count], by number */
    size_t count;
};

/** Where ranks part for the first time. */
struct divergence {
    int found;
    int64_t called; /* by the first that came */
    uint64_t group, sequence;
    char group_name[24];
    /** By ring: what it did there. */
    struct part {
        enum part_kind {
            PART_NONE,
            PART_SAME,
            PART_OTHER,
            PART_ABSENT,
            PART_UNENDED,
            PART_EARLIER /* the same, but its chain says that it parted before */
        } kind;
        const pld_trace_record *record; /* or its last one of the group; may be NULL */
    } * parts;
};

/** How often a rank came last, and for how long the others waited for it alone. */
struct straggler {
    size_t rank_index;
    uint64_t last;
    double seconds, worst;            /* behind the next to last */
    const pld_trace_record *worst_at; /* NULL: never */
};

struct job {
    struct ring *rings; /* [count], by rank */
    size_t count;
    uint64_t compared; /* collective operations that all rings of a group still have */
    struct divergence divergence;
    struct straggler *stragglers; /* [count], by seconds */
};

/** Fill in what the rings tell together.  0 without memory. */
int trace_analyse(struct job *job);

/** 0 without memory, or if it cannot be written. */
int trace_print_json(const struct job *job);
int trace_write_chrome(const struct job *job, const char *path);
void trace_print_text(const struct job *job);

/** "allreduce f32[100] sum root 0": what must be equal on all ranks. */
void trace_describe(const pld_trace_record *record, char *text, size_t bytes);

#endif /* TOOLS_POLDER_TRACE_H */
