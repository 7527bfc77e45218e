/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file params_table.h  The list of tensors in the form in which ranks compare it. */
#ifndef PLDI_PARAMS_TABLE_H
#define PLDI_PARAMS_TABLE_H

#include "params/params_impl.h"

/** One tensor; no padding, unused bytes zero: equal tensors are equal bytes. */
struct param_record {
    char name[PLD_MAX_NAME];
    int64_t shape[PLD_MAX_DIMS];
    int64_t offset[PLD_MAX_DIMS];
    int64_t extent[PLD_MAX_DIMS];
    int32_t dtype;
    int32_t ndim;
    int32_t decay;
    int32_t shared;
    int32_t outside;
    int32_t reserved;
};

/** The tables of all ranks of a group, one after the other. */
struct param_tables {
    struct param_record *records; /* [ranks][stride] */
    int64_t *counts;              /* [ranks] */
    size_t stride;
    int ranks;
};

/** This rank's table, [params->count]; NULL: no memory. */
struct param_record *pldi_params_table(const pld_params *params);

/** A tensor in words: 'fc.weight' f32 [4,8], box [2,8] at [0,0], decay. */
void pldi_params_words(const struct param_record *record, char *out, size_t bytes);

/**
 * Find out whether all ranks along `axis` have the same table; where not, the
 * ranks that differ from coordinate 0 fail with a sentence that names both.
 * Boxes are not compared along tp.  Collective over the axis.
 */
int pldi_params_compare(const pld_params *params, const struct param_record *mine, pld_axis axis);

/** Everybody's table.  Collective over the axis; also NOMEM, the same on all its ranks. */
int pldi_params_gather(const pld_params *params, const struct param_record *mine, pld_axis axis,
                       struct param_tables *out);
void pldi_params_tables_free(struct param_tables *tables);

static inline const struct param_record *pldi_params_at(const struct param_tables *tables, int rank,
                                                        size_t index)
{
    return &tables->records[(size_t)rank * tables->stride + index];
}

#endif /* PLDI_PARAMS_TABLE_H */
