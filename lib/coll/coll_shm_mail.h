/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_shm_mail.h
 * Messages between two ranks of a team.
 */
#ifndef PLDI_COLL_SHM_MAIL_H
#define PLDI_COLL_SHM_MAIL_H

#include <stdatomic.h>

#include "coll/coll_shm.h"

enum {
    PLDI_MAIL_RANKS = 64,      /**< in larger teams the transport carries messages */
    PLDI_MAIL_LETTERS = 32,    /**< under way from one rank to another */
    PLDI_MAIL_INLINE = 208,    /**< bytes of a message that are in the letter */
    PLDI_MAIL_EAGER = 8 << 10, /**< bytes of a message that goes along with the letter */
    PLDI_MAIL_BULK = 64 << 10, /**< room for those under way */
    PLDI_MAIL_SLOT = 64 << 10, /**< bytes of a message that passes through slots */
    PLDI_MAIL_SLOTS = 8,
    PLDI_MAIL_PIECE = 256 << 10 /**< bytes that are copied in one step */
};

enum pldi_letter_kind {
    PLDI_LETTER_MESSAGE, /**< to the receiver: here it is, or where it is, or that there is one */
    PLDI_LETTER_PUSH,    /**< to the sender: put it there */
    PLDI_LETTER_STREAM,  /**< to the sender: send it through the slots */
    PLDI_LETTER_TAKEN,   /**< to the sender: the buffer is yours again */
    PLDI_LETTER_PUSHED   /**< to the receiver: it is there */
};

struct pldi_letter {
    _Atomic uint64_t seq; /**< letters so far, when it is complete */
    uint32_t kind;
    int32_t tag;
    uint64_t id;    /**< of the message, given by its sender */
    uint64_t bytes; /**< of the message */
    uint64_t ref;   /**< of the buffer in the writer's heap; UINT64_MAX: not there */
    uint64_t at;    /**< its address; or of data in the bulk */
    unsigned char data[PLDI_MAIL_INLINE];
};
_Static_assert(sizeof(struct pldi_letter) == 256, "whole lines");

/** A counter with a line of its own; one side writes it. */
struct pldi_counter {
    _Atomic uint64_t n;
    unsigned char gap[128 - 8];
};

/** From one rank to another. */
struct pldi_box {
    struct pldi_counter read;            /**< letters */
    struct pldi_counter filled, emptied; /**< slots */
    struct pldi_letter letters[PLDI_MAIL_LETTERS];
    unsigned char bulk[PLDI_MAIL_BULK];
    unsigned char slots[PLDI_MAIL_SLOTS][PLDI_MAIL_SLOT];
};

/** Bytes for the boxes of a team, 0 if it is too large to have any. */
size_t pldi_mail_bytes(int size);

/** What a rank keeps for each peer; NULL without memory. */
struct pldi_peer *pldi_mail_create(const struct pldi_team *team, unsigned char *boxes);

/** A number at an address of this process, by which others find out whether they can read it. */
struct pldi_mail_probe {
    uint64_t at, number;
};
struct pldi_mail_probe pldi_mail_probe(void);

/** Find out whether this rank can read the memory of another one, which waits meanwhile. */
void pldi_mail_try(struct pldi_team *team, int rank, const struct pldi_mail_probe *probe);
void pldi_mail_destroy(struct pldi_peer **peers, int size);

/** Whether a message goes this way: where its ranks are decides, so both know. */
int pldi_mail_carries(const pld_request *op);

/** As pldi_op_step() for pld_send() and pld_recv() that do. */
int pldi_mail_step(pld_request *op, int *moved);

/** Give it up between two steps. */
void pldi_mail_cancel(pld_request *op);

#endif /* PLDI_COLL_SHM_MAIL_H */
