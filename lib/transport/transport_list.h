/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* No guard: included once per use.  X(name) for each backend of this build. */
#ifdef PLDI_WITH_MPI
X(mpi)
#endif
X(self)
X(inproc)
