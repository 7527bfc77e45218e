/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Which MPI this is, and how it sends. */

#include "polder_doctor.h"

#include <polder/interop_mpi.h>

#include <stdio.h>
#include <string.h>

enum { VALUE_BYTES = 4096 };

static const char *level_name(int level)
{
    return level == MPI_THREAD_MULTIPLE     ? "multiple"
           : level == MPI_THREAD_SERIALIZED ? "serialized"
           : level == MPI_THREAD_FUNNELED   ? "funneled"
                                            : "single";
}

/* Text of a control variable, "" if there is none. */
static void read_variable(const char *name, char *out, size_t room)
{
    char value[VALUE_BYTES] = "";
    MPI_T_cvar_handle handle;
    int index;
    int count = 0;

    out[0] = '\0';
    if (MPI_T_cvar_get_index(name, &index) != MPI_SUCCESS ||
        MPI_T_cvar_handle_alloc(index, NULL, &handle, &count) != MPI_SUCCESS)
        return;
    if (count <= VALUE_BYTES && MPI_T_cvar_read(handle, value) == MPI_SUCCESS)
        (void)snprintf(out, room, "%.*s", (int)room - 1, value);
    (void)MPI_T_cvar_handle_free(&handle);
}

/* Open MPI keeps the variables of the one component that it chose. */
static void find_pml(struct doctor_live *live)
{
    static const char *const pmls[] = {"ucx", "ob1", "cm"};
    char name[32];
    int index;

    for (size_t i = 0; i < sizeof(pmls) / sizeof(*pmls); i++) {
        (void)snprintf(name, sizeof(name), "pml_%s_priority", pmls[i]);
        if (MPI_T_cvar_get_index(name, &index) == MPI_SUCCESS)
            (void)snprintf(live->pml, sizeof(live->pml), "%s", pmls[i]);
    }
    read_variable("pml", live->pml_wanted, sizeof(live->pml_wanted));
}

void doctor_mpi_find(struct doctor_live *live)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    int level;
    int on = 0;

    (void)MPI_Get_library_version(version, &length);
    (void)snprintf(live->mpi, sizeof(live->mpi), "%.*s", (int)strcspn(version, ",\n"), version);
    if (MPI_Initialized(&on) != MPI_SUCCESS || !on)
        return;
    if (MPI_Query_thread(&level) == MPI_SUCCESS)
        (void)snprintf(live->threads, sizeof(live->threads), "%s", level_name(level));
    if (strncmp(live->mpi, "Open MPI", 8) == 0 &&
        MPI_T_init_thread(MPI_THREAD_SINGLE, &level) == MPI_SUCCESS) {
        find_pml(live);
        (void)MPI_T_finalize();
    }
}
