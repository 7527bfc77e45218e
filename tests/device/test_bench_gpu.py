#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""polder bench --device: every operation on device memory, by NCCL and staged, every element right.

test_bench_gpu.py MPIRUN POLDER FAKES PLUGIN KERNELS
"""
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tap import done, mpirun, ok, run

launcher, tool, fakes, plugin, kernels = sys.argv[1:6]
BASE = {**os.environ, "LD_LIBRARY_PATH": fakes, "POLDER_CUDA_PLUGIN": plugin,
        "FAKE_CUDA_KERNELS": kernels, "FAKE_CUDA_DELAY": "0"}
SIZES = ["-b", "1K", "-e", "32K", "-f", "32", "-n", "2", "-w", "1"]


def measured(op, more, environment, says):
    got = mpirun(launcher, 2, tool, "bench", op, "--device", "cuda", *SIZES, *more,
                 env={**BASE, **environment})
    rows = re.findall(r"^ +\d+ .*", got.stdout, re.M)
    if not ok(got.returncode == 0 and "# Out of bounds values : 0 OK" in got.stdout and rows
              and says in got.stdout and "# device memory" in got.stdout,
              f"{op}, {says}: {len(rows)} rows, no wrong element"):
        print("#", (got.stdout + got.stderr)[-600:].replace("\n", "\n# "))


for op in ("allreduce", "reduce_scatter_v", "allgather", "alltoall"):
    types = ["-d", "f32,bf16"] if op == "allreduce" else []
    measured(op, ["--explain", *types], {}, "device memory: NCCL")
measured("sendrecv", [], {}, "NCCL 22809, 1 ranks on it")
measured("allreduce", ["--explain", "-d", "bf16"], {"CUDA_VISIBLE_DEVICES": "0"}, "staged")
measured("sendrecv", ["-z", "0"], {"CUDA_VISIBLE_DEVICES": "0"}, "2 ranks on it")

ABSENT = {**BASE, "POLDER_TRANSPORT": "self", "FAKE_CUDA_FAULT": "init:100"}
got = run(tool, "bench", "allreduce", "--device", "auto", *SIZES, env=ABSENT)
ok(got.returncode == 0 and "# the host's memory: rank 0: cuInit() says 100" in got.stdout,
   "auto without a GPU: the host's memory, and why")
got = run(tool, "bench", "allreduce", "--device", "cuda", *SIZES, env=ABSENT)
ok(got.returncode == 1 and "cuInit() says 100" in got.stderr, got.stderr.strip())
got = run(tool, "bench", "allreduce", "--device", "gpu")
ok(got.returncode == 2 and "there are cpu, cuda" in got.stderr, got.stderr.strip())
done()
