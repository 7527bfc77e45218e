/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file runtime_device.h  Which GPU a rank gets, if it gets one. */
#ifndef PLDI_RUNTIME_DEVICE_H
#define PLDI_RUNTIME_DEVICE_H

#include <polder/coll.h>
#include <polder/device.h>

#include "topo/topo.h"

enum { PLDI_NOTE_BYTES = 1024 };

/**
 * Open the GPU of this rank; see `device` of pld_runtime_opts.  Collective over world.
 * @param wanted  that option; NULL: the environment says
 * @param places  [size of world]
 * @param out     receives the GPU, or NULL: the host
 * @param note    [PLDI_NOTE_BYTES], receives why "auto" took the host, or ""
 */
int pldi_runtime_device_open(pld_group *world, const char *wanted, const struct pldi_place *places,
                             const struct pldi_node *node, pld_device **out, char *note);

#endif /* PLDI_RUNTIME_DEVICE_H */
