/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/dtype.h
 * Element types.  Local, never fails, any thread.
 */
#ifndef POLDER_DTYPE_H
#define POLDER_DTYPE_H

#include <stddef.h>

#include <polder/export.h>

PLD_BEGIN_DECLS

/** The one list: X(constant, value, name, bytes per element). */
#define PLD_DTYPE_MAP(X)                                                                           \
    X(PLD_F32, 0, "f32", 4)                                                                        \
    X(PLD_F64, 1, "f64", 8)                                                                        \
    X(PLD_F16, 2, "f16", 2)                                                                        \
    X(PLD_BF16, 3, "bf16", 2)                                                                      \
    X(PLD_I64, 4, "i64", 8)                                                                        \
    X(PLD_I32, 5, "i32", 4)                                                                        \
    X(PLD_U32, 6, "u32", 4)                                                                        \
    X(PLD_I8, 7, "i8", 1)                                                                          \
    X(PLD_U8, 8, "u8", 1)

/** Element type; values are part of the ABI and of the checkpoint format. */
typedef enum {
#define PLD_DTYPE_ENUM(constant, value, name, bytes) constant = value,
    PLD_DTYPE_MAP(PLD_DTYPE_ENUM)
#undef PLD_DTYPE_ENUM
} pld_dtype;

/** Bytes of one element; 0 for a value that is no dtype. */
PLD_API size_t pld_dtype_bytes(pld_dtype dtype);

/** "f32", "bf16", ...; "?" for a value that is no dtype. */
PLD_API const char *pld_dtype_name(pld_dtype dtype);

PLD_END_DECLS

#endif /* POLDER_DTYPE_H */
