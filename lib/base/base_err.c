/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "base/base_err.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[1024];

int pldi_fail(int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(last_error, sizeof(last_error), fmt, ap);
    va_end(ap);
    return code;
}

const char *pld_last_error(void)
{
    return last_error;
}

const char *pld_error_name(int code)
{
#define CASE(name, value, text)                                                                    \
    case name:                                                                                     \
        return #name;
    switch (code) {
        PLD_ERROR_MAP(CASE)
    case PLD_OK:
        return "PLD_OK";
    default:
        return "PLD_ERR_?";
    }
#undef CASE
}

const char *pld_error_text(int code)
{
#define CASE(name, value, text)                                                                    \
    case name:                                                                                     \
        return text;
    switch (code) {
        PLD_ERROR_MAP(CASE)
    case PLD_OK:
        return "success";
    default:
        return "unknown error code";
    }
#undef CASE
}
