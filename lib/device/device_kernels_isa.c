/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Compiled once per instruction set with PLDI_ISA set to its name; the loops are
 * plain C that the compiler vectorises.
 */

#include "device/device_kernels.h"

#include "device/device_optim.inl.h"
#include "device/device_stream.inl.h"

#include "device/device_reduce.inl.h"

#define JOIN(a, b) a##b
#define TABLE(isa) JOIN(pldi_kernels_, isa)
#define TEXT(x) #x
#define NAME(isa) TEXT(isa)

extern const struct pldi_kernels TABLE(PLDI_ISA);
const struct pldi_kernels TABLE(PLDI_ISA) = {
    .name = NAME(PLDI_ISA),
    .reduce = reduce,
    .reduce_to = reduce_to,
    .copy = copy,
    .sum_squares = sum_squares,
    .adamw = adamw,
    .sgd = sgd,
    .widen = widen,
    .narrow = narrow,
};
