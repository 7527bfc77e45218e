/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file coll_host.h  Groups of the library's own, for host memory. */
#ifndef PLDI_COLL_HOST_H
#define PLDI_COLL_HOST_H

#include <polder/coll.h>

/** As pld_group_split(), but no communicator of NCCL is made with the group. */
int pldi_group_split_host(pld_group *parent, int color, int key, pld_group **out);

#endif /* PLDI_COLL_HOST_H */
