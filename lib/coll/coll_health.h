/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file coll_health.h
 * Where operations meet lib/health.  Groups made before it was opened, while the
 * runtime is, are not recorded.
 */
#ifndef PLDI_COLL_HEALTH_H
#define PLDI_COLL_HEALTH_H

#include "coll/coll.h"
#include "health/health.h"

/** Begin to record and to watch; collective over `world`, whose record it becomes. */
int pldi_coll_open_health(pld_group *world, const struct pldi_health_opts *opts,
                          struct pldi_health **out);

/** The record of a new part of `parent`; members: ranks of it. */
int pldi_coll_part_health(pld_group *parent, pld_group *part, int color, const int *members);

/** Before anything else: an error if the job was given up. */
int pldi_coll_may(const pld_request *op);

/** Record the call, made at that stamp. */
void pldi_coll_called(pld_request *op, uint64_t stamp);

/** All of it for a call that is not in a hurry: may it begin?  Then it is recorded, as of now. */
int pldi_coll_record(pld_request *op);

/** After a step with result rc: what the step's result is for the engine. */
int pldi_coll_stepped(pld_request *op, int rc, int moved);

#endif /* PLDI_COLL_HEALTH_H */
