/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "driver.h"

#include <limits.h>
#include <stdio.h>

int gpt_from_polder(int code)
{
    return code < 0 ? gpt_fail(code, "%s", pld_last_error()) : code;
}

int gpt_agree(pld_group *world, int code)
{
    struct {
        int code;
        char sentence[508];
    } verdict = {code, ""};
    int first = code < 0 ? pld_group_rank(world) : INT_MAX;
    int rc = pld_allreduce(world, &first, &first, 1, PLD_I32, PLD_MIN, NULL);

    if (rc < 0 && code < 0)
        return code; /* the cause, of which the failing exchange is a consequence */
    if (rc < 0 || first == INT_MAX)
        return gpt_from_polder(rc);
    snprintf(verdict.sentence, sizeof(verdict.sentence), "%s", gpt_last_error());
    rc = pld_broadcast(world, &verdict, sizeof(verdict), PLD_U8, first, NULL);
    if (rc < 0)
        return gpt_from_polder(rc);
    return gpt_fail(verdict.code, "%s", verdict.sentence);
}
