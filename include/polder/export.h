/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/export.h
 * What every other header needs: visibility, C++ linkage, option structs.
 */
#ifndef POLDER_EXPORT_H
#define POLDER_EXPORT_H

/* The library is built with hidden visibility: a function is exported if and
 * only if its declaration in include/polder carries PLD_API. */
#define PLD_API __attribute__((visibility("default")))

#ifdef __cplusplus
#define PLD_BEGIN_DECLS extern "C" {
#define PLD_END_DECLS }
#else
#define PLD_BEGIN_DECLS
#define PLD_END_DECLS
#endif

/**
 * First initialiser of every option struct:
 *
 *     &(pld_optim_opts){PLD_OPTS(pld_optim_opts), .clip = 1.0}
 *
 * All fields left out are zero, and zero always means "the default".  New
 * fields are only ever added at the end; a library older than its caller
 * refuses fields that it does not know unless they are zero.
 */
#define PLD_OPTS(type) .struct_size = sizeof(type)

/** Most dimensions a tensor may have. */
#define PLD_MAX_DIMS 8

/** Longest name of a tensor or a state entry, in bytes with the final NUL. */
#define PLD_MAX_NAME 128

#endif /* POLDER_EXPORT_H */
