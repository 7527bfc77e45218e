/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What a launcher tells its processes. */

#include "polder_launch.h"
#include "polder.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int launched_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID"};

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        const char *value = getenv(names[i]);

        if (value != NULL)
            return atoi(value);
    }
    return 0;
}

int complain_once(int status, const char *format, ...)
{
    char text[1024];
    va_list args;

    if (launched_rank() != 0)
        return status;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return complain(status, "%s", text);
}

int join_job(const char *device, pld_runtime **out)
{
    pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .device = device};

#ifndef POLDER_TOOL_MPI
    if (getenv("POLDER_TRANSPORT") == NULL)
        opts.transport = "self";
#endif
    return pld_runtime_open(&opts, out);
}
