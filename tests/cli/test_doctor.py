#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""polder doctor: what it says of recorded machines, exactly; and that it ends well on this one.

test_doctor.py MPIRUN POLDER [--accept]

doctor/NAME.tree is a machine: lines "PATH" and, indented, what is in the file; "PATH -> TARGET" is
a link.  Folders rank0, rank1, ... in it are one rank's machine each, and as many ranks look.
doctor/NAME.txt is what must be printed, the exit status in the last line.  --accept writes it.
"""
import json
import os
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tap import done, equal, mpirun, ok, run

launcher = sys.argv[1]
tool = os.path.abspath(sys.argv[2])
accept = "--accept" in sys.argv
here = pathlib.Path(__file__).parent / "doctor"


def plant(tree, root):
    path = None
    for line in tree.read_text().splitlines():
        if line.startswith("  "):
            with path.open("a") as file:
                file.write(line[2:] + "\n")
        elif line and not line.startswith("#"):
            name, _, target = line.partition(" -> ")
            path = pathlib.Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if target:
                path.symlink_to(target)
            else:
                path.touch()


def clean(got):
    """Output without colours and without what mpirun adds."""
    text = re.sub("\033\\[[0-9;]*m", "", got.stdout).replace("\r", "")
    text = text[:re.search(r"errors: .*\n|\Z", text).end()]
    version = run(tool, "--version").stdout.strip()
    return text.replace(version, "polder VERSION") + f"exit status {got.returncode}\n"


def recorded(tree):
    with tempfile.TemporaryDirectory() as root:
        plant(tree, root)
        ranks = max(1, len(list(pathlib.Path(root).glob("rank*"))))
        environment = {**os.environ, "POLDER_DOCTOR_ROOT": root}
        start = (tool,) if ranks == 1 else (launcher, ranks, tool)
        begin = run if ranks == 1 else mpirun
        got = begin(*start, "doctor", env=environment)
        as_json = begin(*start, "doctor", "--json", env=environment)
    golden = tree.with_suffix(".txt")
    if accept:
        golden.write_text(clean(got))
    equal(clean(got).splitlines(), golden.read_text().splitlines(), f"{tree.stem}")
    data = json.loads(as_json.stdout[:as_json.stdout.rindex("\n}") + 3])
    equal((as_json.returncode, data["status"]), (got.returncode, got.returncode),
          f"{tree.stem}: the status is in the JSON, too")
    lines = [f"{f['severity']:5} {f['check']}: {f['text']}" +
             (f" [{f['hosts']}]" if f["hosts"] else "") for f in data["findings"]]
    printed = re.findall("^(?:ok|note|warn|error) .*", clean(got), re.M)
    ok(lines == printed and printed,
       f"{tree.stem}: the JSON has the same findings in the same order")


def this_machine():
    with tempfile.TemporaryDirectory() as folder:
        got = run(tool, "doctor", "--dir", folder)
        ok(got.returncode in (0, 1, 2) and f"{folder} (" in got.stdout, "this machine")
        equal(os.listdir(folder), [], "nothing is left in --dir")
    got = run(tool, "doctor", "--dir", "/proc/nowhere")
    ok(got.returncode == 2 and "error directory: Cannot create a file in /proc/nowhere: "
       "No such file or directory." in got.stdout, "a directory that is not there")
    got = mpirun(launcher, 2 * os.cpu_count(), tool, "doctor")
    ok("they take turns" in got.stdout and got.returncode in (1, 2), "more ranks than processors")


def usage():
    for arguments, sentence in (
            (["--dr"], 'there is no option --dr; "polder help doctor" lists the options'),
            (["--dir"], "--dir wants a directory")):
        got = run(tool, "doctor", *arguments)
        equal((got.returncode, got.stdout, got.stderr), (2, "", f"polder: doctor: {sentence}\n"),
              sentence)
    got = run(tool, "doctor", env={**os.environ, "POLDER_DOCTOR_ROOT": "/nowhere"})
    equal((got.returncode, got.stdout), (2, ""), "a recording that is not there")


trees = sorted(here.glob("*.tree"))
ok(len(trees) >= 4, "there are recorded machines")
for one in trees:
    recorded(one)
this_machine()
usage()
done()
