/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file ckpt_read.h  Reading parts of stored tensors, every byte checked that is used. */
#ifndef PLDI_CKPT_READ_H
#define PLDI_CKPT_READ_H

#include "ckpt/ckpt_manifest.h"

/** Where a stored box and a wanted one meet. */
struct ckpt_want {
    const struct ckpt_box *from;
    struct pldi_box region, to;
    void *value; /* of the box `to` */
};

/** Growing; free with pldi_ckpt_wants_free(). */
struct ckpt_wants {
    struct ckpt_want *wants;
    size_t count, capacity;
};

/** Want a box of a tensor.  NOMEM, CORRUPT (the stored boxes do not cover it). */
int pldi_ckpt_want(struct ckpt_wants *w, const struct ckpt_manifest *m, const struct ckpt_tensor *t,
                   const struct pldi_box *box, void *value);
void pldi_ckpt_wants_free(struct ckpt_wants *w);

/** Read all.  CORRUPT (shard and tensor named), IO, NOMEM. */
int pldi_ckpt_read_wants(struct ckpt_wants *w, const struct ckpt_manifest *m, const char *path,
                         int threads);

/** Read and check every block of every shard, and keep nothing.  As above. */
int pldi_ckpt_verify_blocks(const struct ckpt_manifest *m, const char *path);

#endif /* PLDI_CKPT_READ_H */
