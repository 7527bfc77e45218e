#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""launch.py MPIRUN RANKS PROGRAM ARGS...: start a program with mpirun, whichever that is."""
import os
import subprocess
import sys

mpirun, ranks, *program = sys.argv[1:]
command = [mpirun]
version = subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout
if "Open MPI" in version or "Open RTE" in version:
    command += ["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
os.execv(mpirun, command + ["-np", ranks] + program)
