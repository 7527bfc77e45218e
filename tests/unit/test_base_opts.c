/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <polder/error.h>

#include <string.h>

#include "base/base_opts.h"
#include "tap.h"

struct old {
    size_t struct_size;
    int a, b;
};

struct new
{
    size_t struct_size;
    int a, b, c, d;
};

int main(void)
{
    struct new ours;
    struct old from_old = {sizeof(from_old), 1, 2};
    struct {
        struct new n;
        int e, f;
    } future = {{sizeof(future), 1, 2, 3, 4}, 0, 0};

    memset(&ours, 0xff, sizeof(ours));
    ok(pldi_opts_copy(&ours, sizeof(ours), &from_old, sizeof(from_old)) == 0 && ours.b == 2 &&
           ours.c == 0 && ours.d == 0,
       "an older caller gets defaults for what it does not know");
    ok(pldi_opts_copy(&ours, sizeof(ours), &future, sizeof(from_old)) == 0 && ours.d == 4,
       "a newer caller is fine as long as its new fields are zero");
    future.f = 1;
    ok(pldi_opts_copy(&ours, sizeof(ours), &future, sizeof(from_old)) == PLD_ERR_UNSUPPORTED,
       "and refused otherwise");
    from_old.struct_size = 0;
    ok(pldi_opts_copy(&ours, sizeof(ours), &from_old, sizeof(from_old)) == PLD_ERR_ARG,
       "struct_size unset: %s", pld_last_error());
    return tap_done();
}
