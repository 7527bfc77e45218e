#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Device memory of processes, over the fakes: the ways it goes, and what a killed rank leaves."""
import os
import re
import subprocess
import sys

mpirun, program = sys.argv[1:]
launch = [mpirun, "--oversubscribe", "--bind-to", "none", "--enable-recovery"]
if os.geteuid() == 0:
    launch.append("--allow-run-as-root")
if "Open MPI" not in subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout:
    print("1..0 # SKIP the job must outlive a rank, which takes Open MPI's --enable-recovery")
    sys.exit(0)
count = failed = 0


def ok(condition, text, run):
    global count, failed
    count += 1
    failed += not condition
    print(f"{'' if condition else 'not '}ok {count} - {text}", flush=True)
    if not condition:
        print(re.sub("^", "# ", run.stdout[-3000:] + run.stderr[-3000:], flags=re.M))


def job(ranks, *args, **env):
    return subprocess.run(launch + ["-np", str(ranks), program, *args], capture_output=True,
                          text=True, timeout=60, env={**os.environ, **env})


# What NCCL needs where ranks share a GPU, by its version, and where they do not.
for what, note, env in (
        ("NCCL", "", {}),
        ("pinned memory", "POLDER_DEVICE_PATH is staged", {"POLDER_DEVICE_PATH": "staged"}),
        ("pinned memory, messages", "POLDER_DEVICE_PATH is staged",
         {"POLDER_DEVICE_PATH": "staged", "POLDER_SHM": "0"}),
        # Each of which deals out the GPU anew.
        ("pinned memory, between pretended nodes", "shares its GPU", {"POLDER_FAKE_NODES": "3"}),
        ("NCCL, between pretended nodes", "",
         {"POLDER_FAKE_NODES": "3", "POLDER_SHARED_GPU": "nccl"}),
        ("a shared GPU", "shares its GPU", {"FAKE_CUDA_DEVICES": "1"}),
        ("a shared GPU, NCCL by host names", "",
         {"FAKE_CUDA_DEVICES": "1", "POLDER_SHARED_GPU": "nccl"}),
        ("a shared GPU, NCCL 2.30", "",
         {"FAKE_CUDA_DEVICES": "1", "POLDER_SHARED_GPU": "nccl", "FAKE_NCCL_VERSION": "23003"})):
    run = job(3, "end", "1", **env)
    notes = re.findall(r'right, by "(.*)"', run.stdout)
    ok(run.returncode == 0 and len(notes) == 3 and all(note in n and bool(note) == bool(n)
                                                      for n in notes), f"{what}: {notes[:1]}", run)
for path in ("nccl", "staged"):
    for request in "10":
        run = job(3, "kill", request, POLDER_DEVICE_PATH=path)
        lines = re.findall(r"survivor (\w+) seconds ([\d.]+) descriptors \d+: (.*)", run.stdout)
        ok(len(lines) == 2 and all(code == "PLD_ERR_PEER" and float(seconds) < 10
                                   for code, seconds, _ in lines)
           and run.stdout.count("again PLD_ERR_PEER") == 2,
           f"{path}, {'request' if request == '1' else 'stream'}: a killed rank is PLD_ERR_PEER: "
           f"{lines[:1]}", run)
print(f"1..{count}")
sys.exit(failed != 0)
