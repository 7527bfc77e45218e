/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Libraries: MPI, HDF5 and its zstd filter, BLAS; and how the job was started. */

#include "polder_doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_mpi(const struct doctor_live *live, struct doctor_report *report)
{
    const int few = strcmp(live->threads, "single") == 0 || strcmp(live->threads, "funneled") == 0;

    if (live->mpi[0] == '\0')
        doctor_find(report, DOCTOR_NOTE, "mpi", "build polder where mpicc is",
                    "This polder was built without MPI: it runs one rank.");
    else if (few)
        doctor_find(report, DOCTOR_WARN, "mpi", "an MPI built with threads",
                    "%s gives thread level %s: communication goes on inside calls of polder alone.",
                    live->mpi, live->threads);
    else
        doctor_find(report, DOCTOR_OK, "mpi", "", "%s, thread level %s%s%s.", live->mpi,
                    live->threads, live->pml[0] != '\0' ? ", pml " : "", live->pml);
}

static void check_hdf5(const struct doctor_live *live, struct doctor_report *report)
{
    int major = 0;
    int minor = 0;

    if (live->hdf5[0] == '\0')
        return;
    if (sscanf(live->hdf5, "%d.%d", &major, &minor) == 2 && major == 1 && minor < 10)
        doctor_find(report, DOCTOR_ERROR, "hdf5", "HDF5 1.10 or newer",
                    "HDF5 is %s; polder needs 1.10.", live->hdf5);
    else if (live->hdf5_threadsafe == 0)
        doctor_find(report, DOCTOR_NOTE, "hdf5", "HDF5 configured with --enable-threadsafe",
                    "HDF5 %s is not thread safe: only the caller's thread calls it.", live->hdf5);
    else
        doctor_find(report, DOCTOR_OK, "hdf5", "", "HDF5 %s, thread safe.", live->hdf5);
}

/* Whether a folder has a plugin for filter 32015. */
static int has_plugin(const char *folder)
{
    char names[256][DOCTOR_NAME];
    const int n = doctor_list(folder, names, 256);

    for (int i = 0; i < n; i++) {
        if (strcasestr(names[i], "zstd") != NULL)
            return 1;
    }
    return 0;
}

/* polder reads its own files without; other programs do not. */
static void check_plugin(struct doctor_report *report)
{
    static const char *const usual[] = {
        "/usr/local/hdf5/lib/plugin", "/usr/lib/x86_64-linux-gnu/hdf5/plugins",
        "/usr/lib/x86_64-linux-gnu/hdf5/serial/plugins", "/usr/lib64/hdf5/plugin"};
    const char *path = doctor_env("HDF5_PLUGIN_PATH");
    char list[1024] = "";
    char *rest = NULL;

    (void)snprintf(list, sizeof(list), "%s", path != NULL ? path : "");
    for (char *folder = strtok_r(list, ":", &rest); folder != NULL;
         folder = strtok_r(NULL, ":", &rest)) {
        if (has_plugin(folder)) {
            doctor_find(report, DOCTOR_OK, "zstd filter", "", "h5dump and h5py find it in %.120s.",
                        folder);
            return;
        }
    }
    for (size_t i = 0; path == NULL && i < sizeof(usual) / sizeof(*usual); i++) {
        if (has_plugin(usual[i])) {
            doctor_find(report, DOCTOR_OK, "zstd filter", "", "A plugin is in %s.", usual[i]);
            return;
        }
    }
    doctor_find(report, DOCTOR_NOTE, "zstd filter",
                "export HDF5_PLUGIN_PATH=DIRECTORY with libH5Zzstd.so; in Python import hdf5plugin",
                "h5dump and h5py find no zstd filter (32015): compressed checkpoints are for "
                "polder alone.");
}

/* An OpenBLAS older than the processor takes kernels of an older one. */
static void check_blas(const struct doctor_live *live, struct doctor_report *report)
{
    static const char *const wide[] = {"SkylakeX", "Cooperlake", "SapphireRapids", "Zen4"};
    static const char *const narrow[] = {"Haswell", "Zen", "Excavator"};
    char flags[8192];
    int has512;
    int has256;
    int rank = 0; /* of the kernels: 2 wide, 1 narrow */

    if (live->blas[0] == '\0' ||
        doctor_read_key("/proc/cpuinfo", "flags", flags, sizeof(flags)) < 0)
        return;
    has512 = strstr(flags, " avx512f") != NULL && strstr(flags, " avx512bw") != NULL;
    has256 = strstr(flags, " avx2") != NULL;
    for (size_t i = 0; i < sizeof(wide) / sizeof(*wide); i++)
        rank = strcmp(live->blas, wide[i]) == 0 ? 2 : rank;
    for (size_t i = 0; i < sizeof(narrow) / sizeof(*narrow); i++)
        rank = strcmp(live->blas, narrow[i]) == 0 ? 1 : rank;
    if (has512 && rank < 2)
        doctor_find(report, DOCTOR_WARN, "blas", "export OPENBLAS_CORETYPE=SkylakeX",
                    "OpenBLAS %s does not know this processor: it takes its kernels for %s, and "
                    "not those with AVX-512.",
                    live->blas_version, live->blas);
    else if (has256 && rank < 1)
        doctor_find(report, DOCTOR_WARN, "blas", "export OPENBLAS_CORETYPE=Haswell",
                    "OpenBLAS %s does not know this processor: it takes its kernels for %s, and "
                    "not those with AVX2.",
                    live->blas_version, live->blas);
    else
        doctor_find(report, DOCTOR_OK, "blas", "", "OpenBLAS %s with kernels for %s.",
                    live->blas_version, live->blas);
}

void doctor_check_software(const struct doctor_live *live, struct doctor_report *report)
{
    check_mpi(live, report);
    check_hdf5(live, report);
    check_plugin(report);
    check_blas(live, report);
}

static int number(const char *name)
{
    const char *value = doctor_env(name);

    return value == NULL ? 0 : atoi(value);
}

/* Started several times, but each rank alone: the launcher and the MPI do not know each other. */
void doctor_check_launch(const struct doctor_live *live, int ranks, struct doctor_report *report)
{
    const int by_mpirun = number("OMPI_COMM_WORLD_SIZE");
    const int by_other = number("PMI_SIZE");
    const int tasks = number("SLURM_NTASKS");
    const int is_step = doctor_env("SLURM_STEP_ID") != NULL;

    if (ranks > 1)
        return;
    if (by_mpirun > 1 || by_other > 1)
        doctor_find(report, DOCTOR_ERROR, "launch", "mpirun of the MPI that polder was built with",
                    "The launcher started %d processes, but each is alone: its MPI is not %s.",
                    by_mpirun > 1 ? by_mpirun : by_other,
                    live->mpi[0] != '\0' ? live->mpi : "the one used");
    else if (tasks > 1 && is_step && by_mpirun == 0)
        doctor_find(report, DOCTOR_ERROR, "launch", "srun --mpi=pmix ('srun --mpi=list' tells)",
                    "srun started %d processes, but each is alone: %s was not told about them.",
                    tasks, live->mpi[0] != '\0' ? live->mpi : "polder");
    else if (doctor_env("SLURM_JOB_ID") != NULL && tasks > 1 && by_mpirun == 0)
        doctor_find(report, DOCTOR_WARN, "launch", "mpirun polder doctor, or srun --mpi=pmix",
                    "This allocation has %d tasks, but polder runs as one, without mpirun.", tasks);
}
