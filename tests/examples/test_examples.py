#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Run the course of examples on 1, 2 and 4 ranks and read what they print.

test_examples.py MPIRUN BUILD-FOLDER SOURCE-FOLDER
"""
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tap import done, equal, mpirun, ok, run

launcher, build, source = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
RANKS = (1, 2, 4)


def lines(name, ranks, *arguments):
    """Lines of a run that must succeed; what the launcher has to say of the machine is let pass."""
    got = mpirun(launcher, ranks, build / name, *arguments)
    if not ok(got.returncode == 0 and name not in got.stderr, f"{name} succeeds on {ranks} ranks"):
        print("# " + (got.stdout + got.stderr).replace("\n", "\n# "))
    return got.stdout.splitlines()


def losses(text):
    """(step, loss as text) of the lines that report one."""
    return [m.groups() for m in (re.fullmatch(r"step +(\d+): [a-z ]+ ([-\d.e]+)", t) for t in text)
            if m]


def allreduce():
    for ranks in RANKS:
        equal(lines("01_allreduce", ranks),
              [f"{ranks} ranks: the sum of their numbers is {sum(range(1, ranks + 1))}",
               "1048576 averages arrived while this rank added up pi^2/6 = 1.6449",
               f"rank {ranks - 1} failed, and all ranks know: PLD_ERR_NOTFOUND"],
              f"01 prints what it should on {ranks} ranks")


def data_parallel():
    seen = {}
    for ranks in RANKS:
        seen[ranks] = [(int(s), float(x)) for s, x in losses(lines("02_data_parallel", ranks))]
        equal([s for s, _ in seen[ranks]], [0, 100, 200, 300, 400], f"02 reports on {ranks} ranks")
        ok(seen[ranks][-1][1] < seen[ranks][0][1] / 50, f"02: the error falls on {ranks} ranks")
    for ranks in RANKS[1:]:
        # The same samples are averaged, in another order: a little may differ, not much.
        ok(all(abs(a - b) < 0.02 * a for (_, a), (_, b) in zip(seen[1], seen[ranks])),
           f"02: {ranks} ranks learn what one learns")


def pipeline():
    seen = {}
    for ranks in RANKS:
        text = lines("03_pipeline", ranks)
        seen[ranks] = losses(text)
        plan = text[:ranks]
        ok(all(sorted(plan[r].split(",")) == sorted(f"{r}{k}{m}" for k in "FB" for m in range(8))
               for r in range(ranks)), f"03: the schedule of {ranks} ranks has all actions")
        ok(float(seen[ranks][0][1]) > 0.2 and float(seen[ranks][-1][1]) < 0.01,
           f"03: the loss falls on {ranks} ranks")
    for ranks in RANKS[1:]:
        equal(seen[ranks], seen[1], f"03: the same digits on {ranks} ranks as on one")


def checkpoint():
    with tempfile.TemporaryDirectory() as folder:
        for ranks in (*RANKS, 3, 1):  # again and again into the same run
            equal(lines("04_checkpoint", ranks, folder + "/run"),
                  ["saved as pp=0, loaded as dp=0: the same bits at step 20"],
                  f"04 prints what it should on {ranks} ranks")
        blocked = pathlib.Path(folder, "file")
        blocked.write_text("in the way")
        got = mpirun(launcher, 2, build / "04_checkpoint", blocked)
        ok(got.returncode != 0, "04 fails where no run directory can be")
        ok(re.search(r"04_checkpoint\.c:\d+: PLD_ERR_\w+: .*" + str(blocked), got.stderr),
           "04 names line, code and directory")


def refusals():
    """What they cannot do they say, and the launcher reports it."""
    for name, why in (("02_data_parallel", "the number of ranks must divide 32"),
                      ("03_pipeline", "4 layers make 1, 2 or 4 stages")):
        got = mpirun(launcher, 3, build / name)
        ok(got.returncode != 0 and why in got.stderr, f"{name} refuses 3 ranks")


def alone():
    got = run(build / "01_allreduce")
    ok(got.returncode == 0 and got.stdout.startswith("1 ranks: "), "01 runs without a launcher")


def readable():
    readme = (source / "README.md").read_text()
    programs = sorted(source.glob("[0-9][0-9]_*.c"))
    equal([p.stem for p in programs],
          ["01_allreduce", "02_data_parallel", "03_pipeline", "04_checkpoint"],
          "all programs of the course are tested here")
    for program in programs:
        ok(len(program.read_text().splitlines()) < 120, f"{program.name}: less than 120 lines")
        ok(program.stem in readme, f"{program.name}: in the README")


allreduce()
data_parallel()
pipeline()
checkpoint()
refusals()
alone()
readable()
done()
