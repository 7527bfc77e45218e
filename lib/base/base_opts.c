/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "base/base_opts.h"

#include <string.h>

#include "base/base_err.h"

int pldi_opts_copy(void *ours, size_t our_size, const void *theirs, size_t min_size)
{
    const unsigned char *bytes = theirs;
    size_t their_size;

    memcpy(&their_size, theirs, sizeof(their_size));
    if (their_size < min_size)
        return pldi_fail(PLD_ERR_ARG, "struct_size is %zu, need at least %zu", their_size,
                         min_size);
    for (size_t i = our_size; i < their_size; i++) {
        if (bytes[i] != 0)
            return pldi_fail(PLD_ERR_UNSUPPORTED, "option at byte %zu is newer than this library",
                             i);
    }
    memset(ours, 0, our_size);
    memcpy(ours, theirs, their_size < our_size ? their_size : our_size);
    return PLD_OK;
}
