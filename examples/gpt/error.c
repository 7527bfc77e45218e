/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "model.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char sentence[512];

const char *gpt_last_error(void)
{
    return sentence;
}

int gpt_fail(int code, const char *fmt, ...)
{
    va_list ap;
    char text[sizeof(sentence)]; /* an argument may be the sentence before */

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    snprintf(sentence, sizeof(sentence), "%s", text);
    return code;
}
