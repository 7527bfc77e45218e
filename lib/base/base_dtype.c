/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/dtype.h>

size_t pld_dtype_bytes(pld_dtype dtype)
{
#define CASE(constant, value, name, bytes)                                                         \
    case constant:                                                                                 \
        return bytes;
    switch (dtype) {
        PLD_DTYPE_MAP(CASE)
    }
#undef CASE
    return 0;
}

const char *pld_dtype_name(pld_dtype dtype)
{
#define CASE(constant, value, name, bytes)                                                         \
    case constant:                                                                                 \
        return name;
    switch (dtype) {
        PLD_DTYPE_MAP(CASE)
    }
#undef CASE
    return "?";
}
