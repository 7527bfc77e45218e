/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>

#include <string.h>

#include "base/base_err.h"
#include "tap.h"

static int try_it(int code)
{
    PLDI_TRY(code);
    return 5;
}

static int checked(const void *p)
{
    PLDI_CHECK_ARG(p != NULL);
    return 0;
}

int main(void)
{
#define POINT(name, value, text)                                                                   \
    ok(strcmp(pld_error_name(value), #name) == 0 && name == (value), "%s is %d", #name, value);    \
    ok(strcmp(pld_error_text(value), text) == 0, "text of %s", #name);
    PLD_ERROR_MAP(POINT)
    ok(strcmp(pld_error_name(0), "PLD_OK") == 0, "name of 0");
    ok(strcmp(pld_error_name(-999), "PLD_ERR_?") == 0, "name of an unknown code");
    ok(strcmp(pld_last_error(), "") == 0, "no failure yet");
    ok(pldi_fail(PLD_ERR_IO, "file %d", 7) == PLD_ERR_IO, "fail returns its code");
    ok(strcmp(pld_last_error(), "file 7") == 0, "and keeps the sentence");
    ok(try_it(PLD_ERR_IO) == PLD_ERR_IO && try_it(0) == 5, "TRY leaves on errors alone");
    ok(checked(NULL) == PLD_ERR_ARG && strstr(pld_last_error(), "checked: need p") != NULL,
       "CHECK_ARG names function and condition: %s", pld_last_error());
    return tap_done();
}
