/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/version.h>

const char *pld_version(void)
{
    return PLD_VERSION;
}
