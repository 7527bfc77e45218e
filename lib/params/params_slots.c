/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What others attach to the tensors: optimizer state, and hooks. */

#include "params/params_impl.h"

#include <string.h>

#include "base/base_err.h"

int pldi_params_add_slot(pld_params *params, int id, const char *name, pld_dtype dtype, void *value)
{
    struct param_entry *entry = &params->entries[id];
    struct pldi_slot slot = {.value = value, .dtype = dtype};

    if (strlen(name) >= sizeof(slot.name))
        return pldi_fail(PLD_ERR_ARG, "slot name '%s' is too long", name);
    memcpy(slot.name, name, strlen(name));
    for (int i = 0; i < entry->slot_count; i++)
        if (strcmp(entry->slots[i].name, name) == 0)
            return pldi_fail(PLD_ERR_ARG, "tensor '%s' has a slot '%s' already", entry->info.name,
                             name);
    PLDI_TRY(pldi_params_reserve((void **)&entry->slots, entry->slot_count, &entry->slot_capacity,
                                 sizeof(slot), "the slots of a tensor"));
    entry->slots[entry->slot_count++] = slot;
    return PLD_OK;
}

static void remove_slot(struct param_entry *entry, const char *name)
{
    int kept = 0;

    for (int i = 0; i < entry->slot_count; i++)
        if (strcmp(entry->slots[i].name, name) != 0)
            entry->slots[kept++] = entry->slots[i];
    entry->slot_count = kept;
}

void pldi_params_remove_slots(pld_params *params, const char *name)
{
    for (int i = 0; i < params->count; i++)
        remove_slot(&params->entries[i], name);
}

int pldi_params_slots(const pld_params *params, int id)
{
    return params->entries[id].slot_count;
}

const struct pldi_slot *pldi_params_slot(const pld_params *params, int id, int index)
{
    const struct param_entry *entry = &params->entries[id];

    return index < 0 || index >= entry->slot_count ? NULL : &entry->slots[index];
}

static int find_state(const pld_params *params, const char *key)
{
    for (int i = 0; i < params->state_count; i++)
        if (strcmp(params->states[i].key, key) == 0)
            return i;
    return -1;
}

int pldi_params_add_state(pld_params *params, const char *key, void *value, size_t bytes)
{
    struct pldi_param_state state = {.value = value, .bytes = bytes};

    if (strlen(key) >= sizeof(state.key))
        return pldi_fail(PLD_ERR_ARG, "state key '%s' is too long", key);
    memcpy(state.key, key, strlen(key));
    if (find_state(params, key) >= 0)
        return pldi_fail(PLD_ERR_ARG, "the params have a state '%s' already", key);
    PLDI_TRY(pldi_params_reserve((void **)&params->states, params->state_count,
                                 &params->state_capacity, sizeof(state), "the params' states"));
    params->states[params->state_count++] = state;
    return PLD_OK;
}

void pldi_params_remove_state(pld_params *params, const char *key)
{
    const int found = find_state(params, key);

    if (found < 0)
        return;
    params->state_count--;
    for (int i = found; i < params->state_count; i++)
        params->states[i] = params->states[i + 1];
}

int pldi_params_states(const pld_params *params)
{
    return params->state_count;
}

const struct pldi_param_state *pldi_params_state(const pld_params *params, int index)
{
    return index < 0 || index >= params->state_count ? NULL : &params->states[index];
}

void pldi_params_add_guard(pld_params *params, struct pldi_params_guard *guard)
{
    guard->next = params->guards;
    params->guards = guard;
}

void pldi_params_remove_guard(pld_params *params, struct pldi_params_guard *guard)
{
    struct pldi_params_guard **at = &params->guards;

    while (*at != NULL && *at != guard)
        at = &(*at)->next;
    if (*at != NULL)
        *at = guard->next;
}

int pldi_params_before_change(const pld_params *params)
{
    int rc = PLD_OK;

    for (const struct pldi_params_guard *g = params->guards; g != NULL && rc == PLD_OK; g = g->next)
        rc = g->wait(g->context);
    return rc;
}

void pldi_params_set_mirror(pld_params *params, int (*pull)(void *), int (*push)(void *),
                            void *context)
{
    params->pull = pull;
    params->push = push;
    params->mirror_context = context;
}

int pldi_params_pull(pld_params *params)
{
    return params->pull == NULL ? PLD_OK : params->pull(params->mirror_context);
}

int pldi_params_push(pld_params *params)
{
    return params->push == NULL ? PLD_OK : params->push(params->mirror_context);
}

void pldi_params_set_reducer(pld_params *params, int (*finish)(void *), void *context)
{
    params->finish = finish;
    params->finish_context = context;
}

int64_t pldi_params_zeroed(const pld_params *params)
{
    return params->zeroed;
}

void *pldi_params_reducer(const pld_params *params)
{
    return params->finish == NULL ? NULL : params->finish_context;
}

int pldi_params_finish_gradients(pld_params *params)
{
    return params->finish == NULL ? PLD_OK : params->finish(params->finish_context);
}
