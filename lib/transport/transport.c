/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "transport/transport.h"

#include <string.h>

#include "base/base_err.h"

#define X(name) extern const struct pldi_transport_ops pldi_transport_##name;
#include "transport/transport_list.h"
#undef X

int pldi_transport_find(const char *name, const struct pldi_transport_ops **out)
{
#define X(name) &pldi_transport_##name,
    static const struct pldi_transport_ops *const all[] = {
#include "transport/transport_list.h"
    };
#undef X
#define X(name) " " #name
    static const char names[] =
#include "transport/transport_list.h"
        ;
#undef X

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (strcmp(all[i]->name, name) == 0) {
            *out = all[i];
            return PLD_OK;
        }
    }
    return pldi_fail(PLD_ERR_UNSUPPORTED, "no transport \"%s\"; this build has%s", name, names);
}
