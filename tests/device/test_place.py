#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Which GPU a rank gets: by processors, ports and what it sees, on the machine of machine.xml.

test_place.py MPIRUN OPEN_GPU FAKES PLUGIN KERNELS MACHINE
"""
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tap import done, equal, mpirun, ok

launcher, program, fakes, plugin, kernels, machine = sys.argv[1:7]
BASE = {**{k: v for k, v in os.environ.items() if k != "POLDER_DEVICE"},
        "LD_LIBRARY_PATH": fakes, "POLDER_CUDA_PLUGIN": plugin, "FAKE_CUDA_KERNELS": kernels,
        "FAKE_CUDA_DEVICES": "4"}


def gpus(ranks, before, **changes):
    """GPU and port of each rank; `before` is shell code that knows the rank as $R."""
    # The program alone is to see the machine: MPI would bind to its processors.
    script = (f"R=$OMPI_COMM_WORLD_RANK; {before}; HWLOC_XMLFILE={machine} "
              f"exec {program} cuda")
    got = mpirun(launcher, ranks, "sh", "-c", script, env={**BASE, **changes})
    found = sorted(re.findall(r"^(\d+): 0000:(\w\w):00\.0 sharing (\d+) nccl \d+ port (\w+)$",
                              got.stdout, re.M))
    if len(found) != ranks:
        print("#", got.stdout, got.stderr[-500:])
    return [(gpu, int(sharing), port) for _, gpu, sharing, port in found]


def by_port():
    # All processors of the tests are of node 0, or unknown there.
    got = gpus(4, ":")
    equal(sorted(got), [("1b", 1, "mlx5_0"), ("2b", 1, "mlx5_0"), ("3b", 1, "mlx5_2"),
                        ("4b", 1, "mlx5_2")], "four ranks, four GPUs, and the nearest port of each")
    ok(got[0][0] in ("2b", "3b"), f"the first has one at its switch: {got[0]}")


def by_processor():
    cpus = sorted(c for c in os.sched_getaffinity(0) if c < 2)
    if not cpus:
        ok(True, "no processor of node 0 is here")
        return
    got = gpus(2, f"taskset -p -c {cpus[0]} $$ > /dev/null")
    equal(got, [("2b", 1, "mlx5_0"), ("1b", 1, "mlx5_0")], "ranks of node 0 have its GPUs")


def by_sight():
    got = gpus(2, "export CUDA_VISIBLE_DEVICES=$([ $R = 0 ] && echo 0,1 || echo 1)")
    equal([g[:2] for g in got], [("1b", 1), ("2b", 1)],
          "a rank leaves the better GPU to one that sees no other")
    got = gpus(2, "export CUDA_VISIBLE_DEVICES=$([ $R = 0 ] && echo 3,2 || echo 2,3)")
    equal([g[:2] for g in got], [("3b", 1), ("4b", 1)], "in whatever order they see them")
    got = gpus(3, "export CUDA_VISIBLE_DEVICES=2")
    equal([g[:2] for g in got], 3 * [("3b", 3)], "all see one GPU alone")


by_port()
by_processor()
by_sight()
done()
