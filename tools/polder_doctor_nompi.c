/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* In place of polder_doctor_mpi.c where there is no MPI. */

#include "polder_doctor.h"

void doctor_mpi_find(struct doctor_live *live)
{
    live->mpi[0] = '\0';
}
