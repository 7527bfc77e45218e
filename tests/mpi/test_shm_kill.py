#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Kill a rank in the middle of operations: all others hear of it, and nothing stays behind."""
import os
import re
import subprocess
import sys
import time

mpirun, shm_kill, pipe_kill, two_levels = sys.argv[1:]
launch = [mpirun, "--oversubscribe", "--bind-to", "none", "--enable-recovery"]
if os.geteuid() == 0:
    launch.append("--allow-run-as-root")
if "Open MPI" not in subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout:
    print("1..0 # SKIP the job must outlive a rank, which takes Open MPI's --enable-recovery")
    sys.exit(0)


def shared_files():
    """Segments; folders there are those of other tests."""
    return {e.name for e in os.scandir("/dev/shm") if "polder" in e.name and e.is_file()}


def running(program):
    """Its processes, other than zombies."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/exe") == os.path.realpath(program):
                found.append(pid)
        except OSError:
            pass
    return found


count = failed = 0


def ok(condition, text):
    global count, failed
    count += 1
    failed += not condition
    print(f"{'' if condition else 'not '}ok {count} - {text}", flush=True)


for program, ranks, elements, shared, numas in (
        (shm_kill, 2, 10, 0, 0), (shm_kill, 4, 10, 0, 0), (shm_kill, 4, 1 << 20, 0, 0),
        (shm_kill, 4, 1 << 20, 1, 0), (shm_kill, 5, 1 << 20, 1, 2),
        (pipe_kill, 4, 10, 1, 0), (pipe_kill, 3, 1 << 20, 1, 0)):
    what = (f"{'pipeline, ' if program == pipe_kill else ''}{ranks} ranks, {elements} elements, "
            f"{'polder' if shared else 'ordinary'} memory"
            f"{f', {numas} NUMA nodes' if numas else ''}")
    levels = {"POLDER_FAKE_NUMA": str(numas), "POLDER_TUNE": two_levels} if numas else {}
    before = shared_files()
    run = subprocess.run(launch + ["-np", str(ranks), program, str(elements), str(shared)],
                         capture_output=True, text=True, timeout=60, env=os.environ | levels)
    lines = re.findall(r"survivor (\w+) seconds ([\d.]+) descriptors (\d+): (.*)", run.stdout)
    ok(len(lines) == ranks - 1, f"{what}: {len(lines)} survivors")
    ok(all(code == "PLD_ERR_PEER" for code, *_ in lines), f"{what}: all get PLD_ERR_PEER")
    slowest = max((float(seconds) for _, seconds, *_ in lines), default=99)
    ok(slowest < 5, f"{what}: within seconds")
    print(f"# the slowest after {slowest:.3f} s")
    ok(any("rank 1 " in text for *_, text in lines), f"{what}: rank 1 is named")
    ok(run.stdout.count("again PLD_ERR_PEER") == ranks - 1, f"{what}: and stay told")
    ok(all(n == "0" for *_, n, _ in lines), f"{what}: no descriptor is kept")
    ok(shared_files() == before, f"{what}: nothing in /dev/shm")
    for _ in range(50):
        if not running(program):
            break
        time.sleep(0.1)
    ok(not running(program), f"{what}: no process is left")
print(f"1..{count}")
sys.exit(failed != 0)
