/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file health_impl.h  What the files of lib/health share. */
#ifndef PLDI_HEALTH_IMPL_H
#define PLDI_HEALTH_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "health/health.h"
#include "health/health_ring.h"
#include "transport/transport_shm.h"

/** Why a rank will not come. */
enum pldi_gone { PLDI_HERE = 0, PLDI_ENDED, PLDI_LEFT };

struct pldi_other {
    const struct pldi_ring *ring; /**< of ranks of this node; NULL: elsewhere */
    struct pldi_shm shm;
    int watch;
    int node; /**< lowest rank of its node */
    struct pldi_health_card card;
    _Atomic int gone;        /**< enum pldi_gone */
    _Atomic int64_t gone_at; /**< ns when this was found out */
    _Atomic int64_t over_at; /**< ns when the process of one that left was found to have ended */
};

struct pldi_site_key {
    _Atomic uint64_t key;
    _Atomic uint64_t id;
};

struct pldi_health {
    struct pldi_health_opts opts;
    char *trace_dir;
    _Atomic int64_t timeout, tick; /* ns */
    struct pldi_ticks_gauge gauge;
    int rank, size;
    struct pldi_shm shm;
    struct pldi_ring *ring;
    struct pldi_other *peers; /* [size] */
    int nodes;

    pthread_mutex_t lock; /* of groups, and of new sites */
    struct pldi_health_group *groups;
    struct pldi_site_key sites[2 * PLDI_RING_SITES];

    pthread_t thread;
    int running;
    int wake; /* descriptor */
    int listener;
    _Atomic int stop;
    _Atomic int trouble;        /* some rank is gone */
    _Atomic int failed;         /* an operation, for a rank that was gone or gave up */
    _Atomic int64_t awake_from; /* ns; this process was stopped before */
    int64_t lost_claim_at;
    uint64_t heard; /* entries of `ended` in the ring's head */

    pthread_mutex_t hook;     /* recursive */
    int gave_up;              /* under it */
    pthread_mutex_t watching; /* of `watch`, while its tick is called; recursive */
    struct {
        void (*tick)(void *context);
        void (*alarm)(void *context);
        void *context;
    } watch;
    char report[PLDI_RING_REPORT];
    _Atomic int has_report;
};

struct pldi_health_group {
    struct pldi_health *health;
    uint64_t id, chain;
    uint32_t index;
    int size;
    int *members; /* [size], ranks of the job */
    struct pldi_ring_group *entry;
    char name[24];
    struct pldi_health_group *next;
};

/** What is known of a rank at the time of a report. */
struct pldi_stand {
    int32_t rank, known;
    int32_t gone;
    int32_t busy; /**< `record` is under way; else it is the last */
    int64_t pid;
    int64_t age; /**< ns since it was called, or ended if it is not busy */
    char host[72];
    char state[72]; /**< "running", "sleeping in read()"; "" unknown */
    int32_t stopped;
    int32_t has_record;
    pld_trace_record record;
};

/** ns, CLOCK_MONOTONIC. */
int64_t pldi_health_now(void);

/** Put into the ring how its stamps become times, as far as is known by now. */
void pldi_health_tell_scale(struct pldi_health *h);

/** State of a thread of a process in words; *stopped: by a signal or a debugger. */
void pldi_proc_state(int64_t pid, int thread, char *text, int bytes, int *stopped);

/** Of a rank whose ring is mapped here. */
void pldi_stand_of(const struct pldi_health *h, int rank, struct pldi_stand *out);
/** Of all ranks; those that could not be asked have known = 0. */
void pldi_stand_all(struct pldi_health *h, struct pldi_stand *all);

/** Make the report of an operation whose deadline has passed. */
void pldi_report_write(struct pldi_health *h, const pld_trace_record *late,
                       const struct pldi_stand *all, char *text, size_t bytes);
/** Claim, report, tell all. */
void pldi_report_incident(struct pldi_health *h, const pld_trace_record *late);
/** Set the alarm of all ranks of this node; the text is in the ring of this rank. */
void pldi_report_alarm(struct pldi_health *h, const char *text);
/** Of this node: 1 if `rank` may report. */
int pldi_report_claim(struct pldi_health *h, int rank);

/** Another node says that a rank ended: tell all ranks of this one. */
void pldi_watch_heard(struct pldi_health *h, int rank);
void *pldi_watch_thread(void *health);
/** By a thread that is about to leave: 1 if a rank of this node has ended, which other nodes are
 *  then told, or one of theirs that this one was told of. */
int pldi_watch_ended(struct pldi_health *h);

/** Requests between nodes. */
enum pldi_ask_type {
    PLDI_ASK_TIME,
    PLDI_ASK_CLAIM,
    PLDI_ASK_STANDS,
    PLDI_ASK_ALARM,
    PLDI_ASK_GONE
};

struct pldi_ask {
    int rank; /**< who is asked */
    enum pldi_ask_type type;
    int arg;
    const void *out;
    size_t out_bytes;
    void *in; /**< [in_room] */
    size_t in_room;
    int result; /**< 1: answered, with in_bytes and value */
    size_t in_bytes;
    int64_t value;
    /* Of health_net.c: */
    int fd, address, state;
    size_t moved;
    struct pldi_ask_head {
        uint64_t job;
        uint32_t type, bytes;
        int32_t from, arg;
        int64_t value;
    } head;
};

int pldi_net_listen(struct pldi_health *h, struct pldi_health_card *card);
/** Ask all at once, serving others meanwhile; for at most so long. */
void pldi_net_ask(struct pldi_health *h, struct pldi_ask *asks, int n, int64_t ns);
/** Serve what comes within so long, or until woken. */
void pldi_net_serve(struct pldi_health *h, int64_t ns);
/** Ask one rank of every other node, the next one where one does not answer. */
void pldi_net_ask_nodes(struct pldi_health *h, struct pldi_ask *asks, int n,
                        void (*each)(struct pldi_health *h, const struct pldi_ask *ask, void *to),
                        void *to);

#endif /* PLDI_HEALTH_IMPL_H */
