/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file polder/polder.h  All of polder that needs no other library's headers. */
#ifndef POLDER_POLDER_H
#define POLDER_POLDER_H

#include <polder/ckpt.h>
#include <polder/coll.h>
#include <polder/data.h>
#include <polder/device.h>
#include <polder/dp.h>
#include <polder/dtype.h>
#include <polder/error.h>
#include <polder/export.h>
#include <polder/inspect.h>
#include <polder/mem.h>
#include <polder/mesh.h>
#include <polder/meter.h>
#include <polder/optim.h>
#include <polder/params.h>
#include <polder/pipe.h>
#include <polder/random.h>
#include <polder/runtime.h>
#include <polder/schedule.h>
#include <polder/site.h>
#include <polder/trace.h>
#include <polder/version.h>

#endif /* POLDER_POLDER_H */
