/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file ckpt_bytes.h
 * Little-endian numbers, texts and blobs to and from bytes.  Errors stick: a
 * sequence of calls is checked once, at its end.
 */
#ifndef PLDI_CKPT_BYTES_H
#define PLDI_CKPT_BYTES_H

#include <stddef.h>
#include <stdint.h>

/** Growing; free `data` with pldi_free(). */
struct ckpt_out {
    unsigned char *data;
    size_t bytes, capacity;
    int failed; /* no memory, sentence set */
};

void pldi_ckpt_put(struct ckpt_out *out, const void *data, size_t bytes);
void pldi_ckpt_put32(struct ckpt_out *out, uint32_t value);
void pldi_ckpt_put64(struct ckpt_out *out, uint64_t value);
/** Length (u32), bytes, NUL. */
void pldi_ckpt_put_blob(struct ckpt_out *out, const void *data, uint32_t bytes);
void pldi_ckpt_put_text(struct ckpt_out *out, const char *text);

/** What is left to read; `bad` once something was not there. */
struct ckpt_in {
    const unsigned char *at, *end;
    int bad;
};

/** NULL and bad if fewer than `bytes` are left. */
const void *pldi_ckpt_get(struct ckpt_in *in, size_t bytes);
uint32_t pldi_ckpt_get32(struct ckpt_in *in);
uint64_t pldi_ckpt_get64(struct ckpt_in *in);
/** Points into the input; NULL and bad if cut off or without its NUL. */
const void *pldi_ckpt_get_blob(struct ckpt_in *in, uint32_t *bytes);
/** As a blob without any other NUL. */
const char *pldi_ckpt_get_text(struct ckpt_in *in);

#endif /* PLDI_CKPT_BYTES_H */
