/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file params.h
 * What dp, optim and ckpt share about the tensors: arenas, optimizer state, and
 * the hook by which the optimizer waits for whoever reduces the gradients.
 */
#ifndef PLDI_PARAMS_H
#define PLDI_PARAMS_H

#include <polder/params.h>

/** Alignment of a tensor's start within its arena, in elements. */
enum { PLDI_PARAM_ALIGN = 64 };

/** The dtypes a tensor may have are 0 .. PLDI_PARAM_DTYPES-1. */
enum { PLDI_PARAM_DTYPES = 4 };

/** The offset of a tensor that lies in the caller's memory. */
#define PLDI_OUTSIDE SIZE_MAX

/** Where polder keeps the tensors of one dtype. */
struct pldi_arena {
    void *value;  /**< [count], zero in the gaps between tensors */
    void *grad;   /**< as value */
    size_t count; /**< elements, gaps included; a multiple of PLDI_PARAM_ALIGN */
};

/** Bytes of a slot's name, NUL included. */
enum { PLDI_SLOT_NAME = 32 };

/** A tensor that belongs to a parameter: same box, own dtype, saved with it. */
struct pldi_slot {
    char name[PLDI_SLOT_NAME]; /**< e.g. "exp_avg" */
    void *value;               /**< [count of the parameter]; owned by whoever added it */
    pld_dtype dtype;
};

/** A few bytes that are the same on all ranks and saved with the params. */
struct pldi_param_state {
    char key[PLD_MAX_NAME]; /**< e.g. "optim/step" */
    void *value;
    size_t bytes;
};

pld_mesh *pldi_params_mesh(const pld_params *params);
int pldi_params_committed(const pld_params *params);

/** `count` rounded up to where the next tensor may start. */
size_t pldi_params_padded(size_t count);

/** The GPU that has the tensors, or NULL; the stream in which they are worked with. */
pld_device *pldi_params_device(const pld_params *params);
pld_stream pldi_params_stream(const pld_params *params);

/** Zeroed memory for tensors where those of the params are; of the host, such as operations
 *  reach directly.  NOMEM, DEVMEM, DEVICE; the sentence names `what`. */
int pldi_params_alloc(const pld_params *params, size_t count, size_t bytes, const char *what,
                      void **out);
/** The same, of what is reduced between ranks, and registered for that. */
int pldi_params_alloc_arena(const pld_params *params, size_t count, size_t bytes, const char *what,
                            void **out);
/** NULL is fine. */
void pldi_params_free(const pld_params *params, void *memory);

/** memcpy() and memset(0) there, in order. */
int pldi_params_copy(const pld_params *params, void *dst, const void *src, size_t bytes);
int pldi_params_zero(const pld_params *params, void *memory, size_t bytes);

/** PLD_ERR_STATE if their stream is recorded into a graph; asks no event. */
int pldi_params_check_stream(const pld_params *params, const char *call);

/** What is put into `later` from now on begins after what is in `earlier` now. */
int pldi_params_order(const pld_params *params, pld_stream earlier, pld_stream later);

/** The arena of a dtype (count 0: none); after commit. */
const struct pldi_arena *pldi_params_arena(const pld_params *params, pld_dtype dtype);

/** First element of tensor `id` in its dtype's arena, or PLDI_OUTSIDE; after commit. */
size_t pldi_params_offset(const pld_params *params, int id);

/** 1: of all ranks with the same dp, cp and ep coordinates that hold this box of
 *  the tensor, this one is the first, so that what is summed over a model counts once. */
int pldi_params_counted(const pld_params *params, int id);

/** Attach a slot to parameter `id`; slots keep the order of adding.  NOMEM, ARG (name taken). */
int pldi_params_add_slot(pld_params *params, int id, const char *name, pld_dtype dtype,
                         void *value);
/** Detach the slots of this name from all parameters; whoever added them does so before it
 *  frees their memory. */
void pldi_params_remove_slots(pld_params *params, const char *name);
int pldi_params_slots(const pld_params *params, int id);
/** Valid until slots are added or removed; NULL: no such index. */
const struct pldi_slot *pldi_params_slot(const pld_params *params, int id, int index);

/** States keep the order of adding.  NOMEM, ARG (key taken or too long). */
int pldi_params_add_state(pld_params *params, const char *key, void *value, size_t bytes);
void pldi_params_remove_state(pld_params *params, const char *key);
int pldi_params_states(const pld_params *params);
/** Valid until states are added or removed; NULL: no such index. */
const struct pldi_param_state *pldi_params_state(const pld_params *params, int index);

/** Whoever still reads values and slots, and must be waited for before they change. */
struct pldi_params_guard {
    int (*wait)(void *context); /**< the host, or makes the params' stream wait */
    void *context;
    struct pldi_params_guard *next; /**< the params' */
};

void pldi_params_add_guard(pld_params *params, struct pldi_params_guard *guard);
void pldi_params_remove_guard(pld_params *params, struct pldi_params_guard *guard);
/** Called before values or slots are changed. */
int pldi_params_before_change(const pld_params *params);

/**
 * A state of which the device has the original: pull() waits for it and brings it to where the
 * state is, push() takes there what was put into the state.  NULL takes it back.
 */
void pldi_params_set_mirror(pld_params *params, int (*pull)(void *), int (*push)(void *),
                            void *context);
/** Before states are read, and after they were written. */
int pldi_params_pull(pld_params *params);
int pldi_params_push(pld_params *params);

/**
 * For shared tensors: the group of the pipeline stages that hold parameter `id`
 * (this rank's dp coordinate), ordered by stage; NULL if the tensor is held by
 * this stage alone.  Made by commit, owned by the params.
 */
pld_group *pldi_params_holders(const pld_params *params, int id);

/** How many of this rank's tensors have holders, and their numbers in an order that is the
 *  same on all stages: collective operations over holders follow it. */
int pldi_params_shared(const pld_params *params);
int pldi_params_shared_id(const pld_params *params, int index);

/**
 * Are the options of a collective constructor the same everywhere?  Collective over
 * the mesh.  `code` is this rank's verdict so far, passed on as by pld_agree().
 * PLD_ERR_MISMATCH names `what` if the hashes differ.
 */
int pldi_params_same(const pld_params *params, int code, uint64_t hash, const char *what);

/**
 * Whoever reduces gradients says how to wait for it; NULL takes it back.  `finish`
 * is collective over the mesh in what it communicates, but its verdict is this
 * rank's own: the caller makes it everybody's.
 */
void pldi_params_set_reducer(pld_params *params, int (*finish)(void *), void *context);

/** How often pld_params_zero_grad() was called: gradients reduced before are not those of now. */
int64_t pldi_params_zeroed(const pld_params *params);

/** NULL: no reducer. */
void *pldi_params_reducer(const pld_params *params);

/** Wait until all gradients are reduced: calls the reducer if there is one. */
int pldi_params_finish_gradients(pld_params *params);

#endif /* PLDI_PARAMS_H */
