/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* What the libraries of this process say of themselves, or said when a machine was recorded. */

#include "polder_doctor.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void take(const char *name, char *out, size_t room)
{
    const char *value = doctor_recorded_fact(name);

    (void)snprintf(out, room, "%s", value != NULL ? value : "");
}

static void find_recorded(struct doctor_live *live)
{
    const char *safe = doctor_recorded_fact("hdf5.threadsafe");

    take("host", live->host, sizeof(live->host));
    take("mpi", live->mpi, sizeof(live->mpi));
    take("threads", live->threads, sizeof(live->threads));
    take("pml", live->pml, sizeof(live->pml));
    take("pml.wanted", live->pml_wanted, sizeof(live->pml_wanted));
    take("hdf5", live->hdf5, sizeof(live->hdf5));
    take("blas", live->blas, sizeof(live->blas));
    take("blas.version", live->blas_version, sizeof(live->blas_version));
    live->hdf5_threadsafe = safe == NULL ? -1 : atoi(safe);
}

/* A function by its name; the two kinds of pointer have no cast between them in C. */
#define FIND(function, library, name)                                                              \
    do {                                                                                           \
        void *found = dlsym(library, name);                                                        \
                                                                                                   \
        memcpy(&(function), &found, sizeof(function));                                             \
    } while (0)

/* polder is linked with HDF5, its tools are not. */
static void find_hdf5(struct doctor_live *live)
{
    int (*version)(unsigned *, unsigned *, unsigned *);
    int (*threadsafe)(_Bool *);
    unsigned v[3];
    _Bool safe = 0;

    FIND(version, RTLD_DEFAULT, "H5get_libversion");
    FIND(threadsafe, RTLD_DEFAULT, "H5is_library_threadsafe");
    if (version != NULL && version(&v[0], &v[1], &v[2]) >= 0)
        (void)snprintf(live->hdf5, sizeof(live->hdf5), "%u.%u.%u", v[0] % 1000, v[1] % 1000,
                       v[2] % 1000);
    live->hdf5_threadsafe = threadsafe != NULL && threadsafe(&safe) >= 0 ? safe : -1;
}

/* The OpenBLAS that a program on this machine would get. */
static void find_blas(struct doctor_live *live)
{
    void *library = dlopen("libopenblas.so.0", RTLD_LAZY | RTLD_LOCAL);
    char *(*core)(void);
    char *(*config)(void);

    if (library == NULL)
        return;
    FIND(core, library, "openblas_get_corename");
    FIND(config, library, "openblas_get_config");
    if (core != NULL)
        (void)snprintf(live->blas, sizeof(live->blas), "%.31s", core());
    if (config != NULL && strncmp(config(), "OpenBLAS ", 9) == 0)
        (void)snprintf(live->blas_version, sizeof(live->blas_version), "%.*s",
                       (int)strcspn(config() + 9, " "), config() + 9);
    /* Its threads are running: it stays. */
}

void doctor_live_find(struct doctor_live *live)
{
    memset(live, 0, sizeof(*live));
    if (doctor_recorded()) {
        find_recorded(live);
        return;
    }
    (void)gethostname(live->host, sizeof(live->host) - 1);
    doctor_mpi_find(live);
    find_hdf5(live);
    find_blas(live);
}
