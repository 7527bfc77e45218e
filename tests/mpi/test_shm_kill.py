#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Kill a rank in the middle of operations: all others hear of it, and nothing stays behind."""
import os
import re
import subprocess
import sys
import time

mpirun, program = sys.argv[1:]
launch = [mpirun, "--oversubscribe", "--bind-to", "none", "--enable-recovery"]
if os.geteuid() == 0:
    launch.append("--allow-run-as-root")
if "Open MPI" not in subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout:
    print("1..0 # SKIP the job must outlive a rank, which takes Open MPI's --enable-recovery")
    sys.exit(0)


def shared_files():
    return {name for name in os.listdir("/dev/shm") if "polder" in name}


def running():
    """Processes of the program, other than zombies."""
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


for ranks, elements, shared in ((2, 10, 0), (4, 10, 0), (4, 1 << 20, 0), (4, 1 << 20, 1)):
    what = f"{ranks} ranks, {elements} elements, {'polder' if shared else 'ordinary'} memory"
    before = shared_files()
    run = subprocess.run(launch + ["-np", str(ranks), program, str(elements), str(shared)],
                         capture_output=True, text=True, timeout=60)
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
        if not running():
            break
        time.sleep(0.1)
    ok(not running(), f"{what}: no process is left")
print(f"1..{count}")
sys.exit(failed != 0)
