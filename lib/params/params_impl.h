/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file params_impl.h  The inside of pld_params, for lib/params alone. */
#ifndef PLDI_PARAMS_IMPL_H
#define PLDI_PARAMS_IMPL_H

#include "params/params.h"

struct param_entry {
    pld_param_info info; /* info.name is ours */
    uint64_t name_hash;
    size_t offset; /* in the arena of its dtype, in elements; PLDI_OUTSIDE */
    struct pldi_slot *slots;
    int slot_count;
    int slot_capacity;
    pld_group *holders; /* one of pld_params.groups */
    int outside;        /* in the caller's memory */
    int counted;
    int same_on_tp; /* all tensor-parallel ranks hold the same box */
};

struct pld_params {
    pld_mesh *mesh;
    struct param_entry *entries;
    int count;
    int capacity;
    int committed;
    struct pldi_arena arenas[PLDI_PARAM_DTYPES];

    /* One group per set of stages that share tensors; NULL where this stage is not in it. */
    pld_group **groups;
    int group_count;
    int *shared_ids; /* this rank's tensors with holders, by name */
    int shared_count;

    struct pldi_param_state *states;
    int state_count;
    int state_capacity;

    int (*finish)(void *);
    void *finish_context;
    int64_t zeroed; /* calls of pld_params_zero_grad() */
    struct pldi_params_guard *guards;
    int (*pull)(void *);
    int (*push)(void *);
    void *mirror_context;

    pld_device *device; /* NULL: the host */
    pld_stream stream;  /* the caller's, for values and gradients */
    pld_event event;    /* for pldi_device_order() */
};

/** Room for one more element of `bytes` in *array.  PLD_ERR_NOMEM. */
int pldi_params_reserve(void **array, int count, int *capacity, size_t bytes, const char *what);

#endif /* PLDI_PARAMS_IMPL_H */
