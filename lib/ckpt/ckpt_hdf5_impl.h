/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file ckpt_hdf5_impl.h  What the ckpt_hdf5 files share. */
#ifndef PLDI_CKPT_HDF5_IMPL_H
#define PLDI_CKPT_HDF5_IMPL_H

#include <hdf5.h>

#include "ckpt/ckpt_file.h"
#include "ckpt/ckpt_hdf5.h"

enum { CKPT_H5_ZSTD = 32015, CKPT_H5_PATH = 3 * PLD_MAX_NAME + 64 };

/** What to give back to the host program. */
struct ckpt_h5_guard {
    H5E_auto2_t print;
    void *context;
    int saved;
};

void pldi_ckpt_h5_enter(struct ckpt_h5_guard *guard);
void pldi_ckpt_h5_leave(const struct ckpt_h5_guard *guard);

/** PLD_ERR_IO: "cannot <verb> '<path>': <reason>", the reason from libhdf5's error stack. */
int pldi_ckpt_h5_fail(const char *verb, const char *path);

/** Create a file in memory for up to `sets` data sets; negative: error, no sentence. */
hid_t pldi_ckpt_h5_create(int memory, uint64_t sets);

/** Let files that `access` opens lie in `memory`.  The driver, to be unregistered; negative:
 *  error. */
hid_t pldi_ckpt_h5_driver(hid_t access, int memory);

/** Close, also after an error.  Returns code, or IO. */
int pldi_ckpt_h5_close(hid_t file, const char *path, int code);

/** The type of a tensor's elements in files; close it. */
hid_t pldi_ckpt_h5_type(pld_dtype dtype);

/** Where a tensor is found: "/tensors/<name>" or "/slots/<slot>/<name>". */
const char *pldi_ckpt_h5_name(const char *name, const char *slot, char out[CKPT_H5_PATH]);
const char *pldi_ckpt_h5_entry_name(const struct ckpt_entry *e, char out[CKPT_H5_PATH]);

/** Create a data set with the groups above it; negative: error. */
hid_t pldi_ckpt_h5_set(hid_t file, const char *name, hid_t type, hid_t space, hid_t creation);

/** Attributes; `values` int64_t.  Negative: error. */
int pldi_ckpt_h5_text(hid_t object, const char *name, const char *text);
int pldi_ckpt_h5_numbers(hid_t object, const char *name, const int64_t *values, int count);
int pldi_ckpt_h5_number(hid_t object, const char *name, double value);
int pldi_ckpt_h5_uuid(hid_t file, const struct ckpt_manifest *m);

/** Make filter 32015 known to this libhdf5 unless it is.  Negative: error. */
int pldi_ckpt_h5_filter(void);

#endif /* PLDI_CKPT_HDF5_IMPL_H */
