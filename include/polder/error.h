/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/error.h
 * Error codes and the text that goes with them.
 *
 * Every polder function that can fail returns an int: 0 for success, one of
 * the negative codes below otherwise.  Codes are part of the ABI: a code is
 * never renumbered and never reused.
 */
#ifndef POLDER_ERROR_H
#define POLDER_ERROR_H

#include <polder/export.h>

PLD_BEGIN_DECLS

/** The one list: C names, Fortran constants, texts and tests come from it. */
#define PLD_ERROR_MAP(X)                                                                           \
    X(PLD_ERR_ARG, -1, "invalid argument")                                                         \
    X(PLD_ERR_STATE, -2, "call not allowed in this state")                                         \
    X(PLD_ERR_NOMEM, -3, "out of host memory")                                                     \
    X(PLD_ERR_DEVMEM, -4, "out of device memory")                                                  \
    X(PLD_ERR_UNSUPPORTED, -5, "not supported by this backend or build")                           \
    X(PLD_ERR_IO, -6, "file system error")                                                         \
    X(PLD_ERR_CORRUPT, -7, "stored data failed verification")                                      \
    X(PLD_ERR_TIMEOUT, -8, "deadline passed")                                                      \
    X(PLD_ERR_PEER, -9, "another rank failed or left")                                             \
    X(PLD_ERR_TRANSPORT, -10, "MPI, NCCL or shared-memory error")                                  \
    X(PLD_ERR_INTERNAL, -11, "defect in polder; please report")                                    \
    X(PLD_ERR_MISMATCH, -12, "ranks or files disagree with each other")                            \
    X(PLD_ERR_NOTFOUND, -13, "no such file, checkpoint or name")                                   \
    X(PLD_ERR_DEVICE, -14, "CUDA error")

enum {
    PLD_OK = 0,
#define PLD_ERROR_ENUM(name, value, text) name = value,
    PLD_ERROR_MAP(PLD_ERROR_ENUM)
#undef PLD_ERROR_ENUM
};

/** Name of a code, e.g. "PLD_ERR_TIMEOUT"; "PLD_ERR_?" if unknown. */
PLD_API const char *pld_error_name(int code);

/** Fixed text of a code, e.g. "deadline passed"; never NULL. */
PLD_API const char *pld_error_text(int code);

/**
 * What went wrong in this thread's most recent failing call: one sentence
 * with the values involved.  "" if none failed.  Valid until this thread's next
 * failing call; owned by polder.
 */
PLD_API const char *pld_last_error(void);

PLD_END_DECLS

#endif /* POLDER_ERROR_H */
