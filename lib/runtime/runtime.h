/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file runtime.h  Joining a job over a transport that no name stands for. */
#ifndef PLDI_RUNTIME_H
#define PLDI_RUNTIME_H

#include <polder/runtime.h>

struct pldi_transport_ops;
struct pldi_transport_args;

/** As pld_runtime_open(), but any number may be open in a process; opts may be NULL. */
int pldi_runtime_open(const struct pldi_transport_ops *ops, const struct pldi_transport_args *args,
                      const pld_runtime_opts *opts, pld_runtime **out);

#endif /* PLDI_RUNTIME_H */
