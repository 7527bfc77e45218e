/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_shm.h
 * Collective operations of groups whose ranks are all on one node.
 *
 * struct pldi_node_shm is what a rank knows of the others of its node, one per
 * runtime; struct pldi_team is what a group needs, and stands in for the messages
 * of coll_open.c and coll_lane.c.
 */
#ifndef PLDI_COLL_SHM_H
#define PLDI_COLL_SHM_H

#include <stdatomic.h>

#include "coll/coll.h"
#include "coll/coll_shape.h"
#include "device/device_kernels.h"
#include "transport/transport_shm.h"

enum {
    PLDI_TEAM_INLINE = 40,            /**< bytes beside the arrival flag */
    PLDI_TEAM_SMALL = 4 << 10,        /**< bytes that arrive together with a rank */
    PLDI_TEAM_SLOT = 512 << 10,       /**< bytes of a vector that are under way in a slot */
    PLDI_TEAM_SLOTS = 3,              /**< slots in turn: one filled, one reduced, one emptied */
    PLDI_TEAM_PIECE_MIN = 4 << 10,    /**< of one rank in a slot */
    PLDI_TEAM_PIECE_DIRECT = 1 << 20, /**< bytes per step where there are no slots */
    PLDI_TEAM_ITEMS = 512             /**< of a list whose buffers are used directly */
};

/** Another rank of the runtime. */
struct pldi_neighbour {
    int here; /**< on this node, and its memory can be had */
    int watch;
    int64_t pid;
    struct pldi_shm heap; /**< none: it has none, or it could not be mapped */
};

/** What the runtime has found out about the machine. */
struct pldi_node_facts {
    const int *numas;   /**< [size], the NUMA node of each rank */
    size_t cache_bytes; /**< of the last level; 0: not known */
    int crowded;        /**< the node's ranks outnumber its processors */
};

struct pldi_node_shm {
    const struct pldi_kernels *kernels;
    struct pldi_heap *heap;       /**< NULL: none */
    struct pldi_neighbour *ranks; /**< [ranks of the runtime] */
    int *homes;                   /**< [ranks of the runtime], the lowest rank of its node */
    int *numas;                   /**< [ranks of the runtime], in `homes` */
    struct pldi_tuning *tuning;   /**< for all groups; NULL: the defaults */
    int size, rank;
    int enabled;        /**< 0: POLDER_SHM=0 */
    int direct;         /**< 0: POLDER_SHM=copy */
    int crowded;        /**< ranks outnumber processors: never spin */
    size_t cache_bytes; /**< of the last level */
};

/** Where a rank's buffers are in its heap, by side; SIZE_MAX: not there. */
struct pldi_refs {
    size_t at[2];
};

/** A rank has come to operation `seq` - 1. */
struct pldi_arrival {
    _Atomic uint64_t seq;
    uint64_t print; /**< hash of the fingerprint; 0: read the record, as where they differ */
    union {
        unsigned char data[PLDI_TEAM_INLINE];
        struct pldi_refs refs;
    } u;
    uint32_t direct; /**< bit per side: it is in the heap, or this rank has none */
    uint32_t stores; /**< the way slots are filled, if this is the rank that says it */
    unsigned char gap[128 - 64];
};
_Static_assert(sizeof(struct pldi_arrival) == 128, "a line, and the one prefetched with it");

/** All ranks of a group (coll_shm_levels.h) have come; written by the first of them. */
struct pldi_meeting {
    _Atomic uint64_t seq;
    uint64_t print;  /**< that all have said; 0: they differ, or it is 0 */
    uint32_t direct; /**< the bits that all have */
    unsigned char gap[128 - 20];
};
_Static_assert(sizeof(struct pldi_meeting) == 128, "as above");

/** Chunks of all operations so far that a rank has put in, reduced, taken out; and those
 *  that it has carried from other groups and back, where there are two levels. */
enum pldi_stage { PLDI_IN, PLDI_MID, PLDI_OUT, PLDI_ACROSS, PLDI_BACK, PLDI_STAGES };
struct pldi_progress {
    _Atomic uint64_t done[PLDI_STAGES]; /**< by stage */
    _Atomic uint64_t said;              /**< operations up to the last whose record it wrote */
    _Atomic int broken;                 /**< the code with which it gave up */
    unsigned char gap[128 - 52];
};
_Static_assert(sizeof(struct pldi_progress) == 128, "as above");

/** What one rank writes, and all read.  Everything twice or more, used in turn. */
struct pldi_seat {
    struct pldi_arrival arrivals[2];
    struct pldi_meeting meetings[2];
    struct pldi_progress progress;
    struct {
        struct pldi_opening opening;
        char text[PLDI_TEXT_BYTES];
    } records[2];
    unsigned char small[2][PLDI_TEAM_SMALL] __attribute__((aligned(128)));
};

/** What else there is to say of an operation with counts or a list; in two sets, too. */
struct pldi_notes {
    struct pldi_refs refs[PLDI_TEAM_ITEMS]; /**< by item */
    uint64_t counts[];                      /**< all of alltoall_v, else PLDI_COUNTS at most */
};

struct pldi_stores;

struct pldi_team {
    struct pldi_node_shm *node;
    struct pldi_shm shm;
    size_t seat_bytes, slot_bytes, notes_bytes;
    int rank, size;
    int direct;
    int *world;               /**< [size], ranks of the runtime */
    struct pldi_refs *refs;   /**< [size], of the operation under way; of lists: 0 or SIZE_MAX */
    struct pldi_word *words;  /**< [size] */
    size_t *offsets;          /**< [size], of alltoall_v: of this rank's block in what each sends */
    const void **sources;     /**< [size] */
    void **targets;           /**< [size + 1] */
    struct pldi_door **doors; /**< [size], of the other ranks; NULL: not known */
    int has_doors;
    struct pldi_peer *peers;    /**< [size], for messages; NULL: the transport carries them */
    uint64_t begun;             /**< operations */
    uint64_t chunks_before;     /**< of all earlier operations */
    int seen;                   /**< ranks below this one have arrived */
    int reads_all;              /**< data of all ranks come with them */
    int telling;                /**< all have arrived, and what they say must be read */
    struct pldi_levels *levels; /**< NULL: its ranks are few, and near */
    struct pldi_stores *stores; /**< what this rank has measured */

    /* Of a large operation. */
    size_t piece, chunks;
    size_t done[PLDI_STAGES];     /**< chunks, by stage */
    int stages;                   /**< that there are: up to PLDI_OUT, or all, in two levels */
    int takes_in, takes_out;      /**< whether the stages exist */
    int send_direct, recv_direct; /**< whether peers' buffers are read, or written */
    int stream;                   /**< own results go past the caches */
    int stream_peers;             /**< others' results do */
    int stream_slots;             /**< what is put into slots does */
    uint64_t planned;             /**< stamp */
};

/**
 * Meet the other ranks of the runtime; collective over `world`.
 * @param homes    [size], the lowest rank of each rank's node
 */
int pldi_node_open(pld_group *world, const int *homes, const struct pldi_node_facts *facts);
void pldi_node_close(struct pldi_node_shm **node);

/**
 * Give the group a team if all its ranks are on one node.  Collective over it; that
 * it gets none is no error.  parent: where the node is known from, may be the group.
 */
int pldi_team_attach(pld_group *group, struct pldi_node_shm *node);
void pldi_team_detach(struct pldi_team **team);

/** As pldi_op_step() for a collective operation of a group with a team. */
int pldi_team_step(pld_request *op, int *moved);

/** Arrive, if that takes no more than to say so; and look for the others for a while. */
void pldi_team_hasten(pld_request *op);
void pldi_team_spin(const pld_request *op);

/** There is news for all other ranks, or for one. */
void pldi_team_ring(const struct pldi_team *team);
void pldi_team_find_doors(pld_group *group);

/** Tell the others that this rank gives up. */
void pldi_team_break(struct pldi_team *team, int code);

/** The part of a large operation after all have arrived. */
void pldi_team_plan(pld_request *op);
int pldi_team_move(pld_request *op, int *moved);

/** Whether a rank has done so many chunks of the operation. */
int pldi_team_at(const struct pldi_team *team, int rank, enum pldi_stage stage, uint64_t chunks);

struct pldi_seat *pldi_team_seat(const struct pldi_team *team, int rank);

/** Of the operation under way. */
struct pldi_notes *pldi_team_notes(const struct pldi_team *team, int rank);

/** Called where a message has not come: PLD_ERR_PEER if that rank of the team ended or gave
 *  up.  Looks now and then. */
int pldi_team_lost(pld_request *op, int rank);

/** Called where a step found nothing to do: an error if it never will. */
int pldi_team_waits(pld_request *op);

/** The group whose team is where this rank meets others of its node; it may have none.
 *  NULL: it meets nobody. */
const pld_group *pldi_team_group(const pld_group *group);

/** Whether it is time to look after the others again; and whether one of the team, by its
 *  number there, has left or given up. */
int pldi_team_should_look(pld_request *op);
int pldi_team_look(const pld_request *op, int rank);
/** Whether it has given up, which it may have done because others were lost. */
int pldi_team_gave_up(const struct pldi_team *team, int rank);

/** A stage is done for so many chunks. */
void pldi_team_publish(struct pldi_team *team, enum pldi_stage stage, size_t chunks);

/** Whether results go past the caches. */
void pldi_team_choose_stores(pld_request *op);

/** A rank's slot for what it sends, or for results. */
unsigned char *pldi_team_slot(const struct pldi_team *team, int rank, size_t chunk, int result);

void pldi_team_copy(const struct pldi_team *team, void *to, const void *from, size_t bytes,
                    int stream);

/** A part of a block of this rank, to where others find it; or from there. */
void pldi_team_put(const pld_request *op, int block, size_t offset, size_t bytes,
                   unsigned char *to);
void pldi_team_take(const pld_request *op, int block, size_t offset, size_t bytes,
                    const unsigned char *from);

/** The same place of the same item, in the buffer of another rank. */
unsigned char *pldi_team_at_peer(const pld_request *op, int rank, enum pldi_side side,
                                 struct pldi_spot spot);

/** Bytes of a rank's heap from that offset on, as this rank has them mapped. */
unsigned char *pldi_team_heap(const struct pldi_team *team, int rank, size_t offset);

#endif /* PLDI_COLL_SHM_H */
