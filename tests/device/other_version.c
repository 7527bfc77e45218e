/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* A plugin of another version. */

#include "device/device.h"

PLD_API const struct pldi_plugin *pldi_plugin_cuda(void);

const struct pldi_plugin *pldi_plugin_cuda(void)
{
    static const struct pldi_plugin plugin = {PLDI_PLUGIN_ABI, "0.0.0", NULL, NULL};

    return &plugin;
}
