/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file health.h
 * Whether a job goes on, and if not, who is at fault.  One per runtime.
 *
 * - Every operation is recorded (health_ring.h), with its caller's place.
 * - A watchdog thread per process looks after the node's other processes and the
 *   age of its own operations.  The first that passes the deadline reports for all:
 *   ranks of its node it reads from memory, whatever state they are in; other nodes
 *   are asked over TCP, where any rank's watchdog answers.
 * - Then an alarm is set on every rank, and what is under way or comes later fails
 *   with PLD_ERR_TIMEOUT.
 *
 * lib/coll calls it: it makes the exchanges that opening takes, tells of operations,
 * and asks pldi_health_check() where an operation has nothing to do.
 */
#ifndef PLDI_HEALTH_H
#define PLDI_HEALTH_H

#include <stddef.h>
#include <stdint.h>

#include "base/base_door.h"
#include "health/health_site.h"
#include "topo/topo.h"

struct pldi_health;
struct pldi_health_group;

enum { PLDI_SITE_BYTES = 64 };

struct pldi_health_opts {
    double timeout; /**< seconds; 0: none */
    int kill;       /**< 1: end this process after a report */
    const char *trace_dir;
    void (*report)(const char *text, void *context);
    void (*give_up)(int code, void *context);
    void *context;
    const char *(*kind_name)(unsigned kind); /**< "?": there is none */
    const char *(*op_name)(unsigned op);
};

/** What ranks exchange when opening, as plain bytes. */
struct pldi_health_card {
    uint64_t job;
    unsigned char place[48];   /**< struct pldi_shm_place */
    char node[PLDI_TOPO_HOST]; /**< equal on ranks that may share memory */
    char host[72];
    int64_t pid;
    /* Of the second exchange: */
    uint16_t port;
    uint16_t addresses;
    struct {
        uint16_t family;
        unsigned char bytes[16];
    } address[4];
};

/** An operation, as it is called. */
struct pldi_health_call {
    unsigned kind, dtype, op, flags;
    int peer; /**< or the root */
    int tag;
    uint64_t count, sequence;
    uint64_t print; /**< hash of what must be equal on all ranks */
    uint64_t stamp; /**< when, pldi_ticks() */
    const char *name;
};

/** The deadline of this rank's operations, also of those under way, from here on. */
void pldi_health_set_timeout(struct pldi_health *health, double seconds);

/** Local.  The ring, and the card of this rank. */
int pldi_health_create(int rank, int size, const struct pldi_health_opts *opts,
                       struct pldi_health **out, struct pldi_health_card *card);

/** Local.  Map the rings of the node's ranks: 1 if all could be had. */
int pldi_health_meet(struct pldi_health *h, const struct pldi_health_card *cards);

/**
 * Local.  met: [size], what pldi_health_meet() gave on each rank.  Where not all of a
 * node's ranks met, each is a node of its own.  Fills in addresses of the card.
 */
int pldi_health_listen(struct pldi_health *h, const unsigned char *met,
                       struct pldi_health_card *card);

/** Local.  Begin to watch; cards: [size], of the second exchange. */
int pldi_health_start(struct pldi_health *h, const struct pldi_health_card *cards);

/** Local.  Compare clocks with rank 0's node; after all have started. */
void pldi_health_set_clock(struct pldi_health *h);

/** Local.  From here on this rank is known to have left; it still answers for its node. */
void pldi_health_leave(struct pldi_health *h);
void pldi_health_destroy(struct pldi_health **h);

/**
 * Groups.  parent NULL: all ranks.
 * @param number  of this one among the parent's; with color, the same on all members
 * @param members [size], ranks of the parent; copied
 */
int pldi_health_group_create(struct pldi_health *h, const struct pldi_health_group *parent,
                             uint64_t number, int color, const int *members, int size,
                             struct pldi_health_group **out);
void pldi_health_group_destroy(struct pldi_health_group **group);
/** Before its first operation. */
void pldi_health_group_name(struct pldi_health_group *group, const char *name);
struct pldi_health *pldi_health_group_owner(const struct pldi_health_group *group);
/** Where a rank of it sleeps; NULL: it is on another node. */
struct pldi_door *pldi_health_group_door(const struct pldi_health_group *group, int rank);
const char *pldi_health_group_text(const struct pldi_health_group *group);

/** A place for a call in the record.  group NULL: 0, as all functions take. */
uint64_t pldi_health_ticket(const struct pldi_health_group *group);
/** Record it there; soon, for until then it is not known. */
void pldi_health_called(struct pldi_health_group *group, uint64_t ticket,
                        const struct pldi_health_call *call);
void pldi_health_started(const struct pldi_health_group *group, uint64_t ticket);
void pldi_health_ended(const struct pldi_health_group *group, uint64_t ticket, int code);

/** Where the call with that ticket was made. */
void pldi_health_site(const struct pldi_health_group *group, uint64_t ticket,
                      char text[PLDI_SITE_BYTES]);

/** PLD_ERR_TIMEOUT if the job was given up (the hook has then been called), else 0. */
int pldi_health_alarm(struct pldi_health *h);
int pldi_health_group_alarm(const struct pldi_health_group *group);

/**
 * 1 if any rank of this node has the alarm; this one has it then, too.  For errors that may
 * come of another rank's having given up.
 */
int pldi_health_node_alarm(const struct pldi_health_group *group);

/**
 * Whether an operation under way has a future: 0, PLD_ERR_TIMEOUT, or PLD_ERR_PEER if a
 * rank that it needs has ended or left before it came to it.
 * @param peer  the rank of the group that a message is from or to, or -1: all
 */
int pldi_health_check(const struct pldi_health_group *group, uint64_t ticket, uint64_t sequence,
                      int peer);

/** As pldi_health_check(), but 0 where the job was given up, and no hook is called. */
int pldi_health_look(const struct pldi_health_group *group, uint64_t ticket, uint64_t sequence,
                     int peer);
/** 1: the job was given up.  Calls no hook. */
int pldi_health_is_over(const struct pldi_health_group *group);

/**
 * Let the watchdog look after what goes on elsewhere, as in streams of a GPU.  tick: called a
 * few times a second by its thread; it must not wait.  alarm: once, when the job is given up,
 * by whatever thread finds that out, before the program's own hook.  NULL: no more; neither is
 * being called when this returns.
 */
void pldi_health_set_watch(struct pldi_health *h, void (*tick)(void *context),
                           void (*alarm)(void *context), void *context);

/**
 * The first collective operation of the group that ranks do not have in common, as far as the
 * recorders at hand know: "rank 0: ...; rank 2: ..."; "" if they know of none.
 */
void pldi_health_differ(const struct pldi_health_group *group, char *text, size_t bytes);

/**
 * 1: the job was given up, or a rank has ended without leaving; the transport must not wait for it.
 * Local; what is not known of other nodes is asked there if an operation failed for a peer.
 */
int pldi_health_is_lost(struct pldi_health *h);

/** ", its last call: ..." of a rank of the group, "" if not known. */
void pldi_health_last(const struct pldi_health_group *group, int rank, char *text, int bytes);

/** The report, or "". */
const char *pldi_health_report(struct pldi_health *h);

#endif /* PLDI_HEALTH_H */
