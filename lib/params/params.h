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

/** A tensor that belongs to a parameter: same box, own dtype, saved with it. */
struct pldi_slot {
    char name[32]; /**< e.g. "exp_avg" */
    void *value;   /**< [count of the parameter]; owned by whoever added it */
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

/** Attach a slot to parameter `id`; slots keep the order of adding.  NOMEM, ARG (name taken). */
int pldi_params_add_slot(pld_params *params, int id, const char *name, pld_dtype dtype,
                         void *value);
/** Detach all slots / states whose memory the caller is about to free, by address range owner. */
void pldi_params_remove_slots(pld_params *params, const char *name);
int pldi_params_slots(const pld_params *params, int id);
const struct pldi_slot *pldi_params_slot(const pld_params *params, int id, int index);

int pldi_params_add_state(pld_params *params, const char *key, void *value, size_t bytes);
void pldi_params_remove_state(pld_params *params, const char *key);
int pldi_params_states(const pld_params *params);
const struct pldi_param_state *pldi_params_state(const pld_params *params, int index);

/**
 * For shared tensors: the group of the pipeline stages that hold parameter `id`
 * (this rank's dp coordinate), ordered by stage; NULL if the tensor is held by
 * this stage alone.  Made by commit, owned by the params.
 */
pld_group *pldi_params_holders(const pld_params *params, int id);

/** Whoever reduces gradients says how to wait for it; NULL takes it back. */
void pldi_params_set_reducer(pld_params *params, int (*finish)(void *), void *context);

/** Wait until all gradients are reduced: calls the reducer if there is one. */
int pldi_params_finish_gradients(pld_params *params);

#endif /* PLDI_PARAMS_H */
