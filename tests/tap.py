# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""TAP for tests in Python, and how they start ranks."""
import os
import subprocess
import sys

_count = _failed = 0


def ok(condition, text):
    """One check; what it should have been goes into `text`."""
    global _count, _failed
    _count += 1
    _failed += not condition
    print(f"{'' if condition else 'not '}ok {_count} - {text}", flush=True)
    return bool(condition)


def equal(got, want, text):
    if not ok(got == want, text):
        for line in f"got  {got!r}\nwant {want!r}".splitlines():
            print("#", line)


def skip(text, reason):
    global _count
    _count += 1
    print(f"ok {_count} - {text} # SKIP {reason}", flush=True)


def done():
    print(f"1..{_count}")
    sys.exit(_failed != 0)


def run(*command, timeout=60, **options):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True,
                          timeout=timeout, stdin=subprocess.DEVNULL, **options)


def mpirun(launcher, ranks, *command, **options):
    """Run `command` on `ranks` ranks, more than there are cores if need be."""
    flags = []
    if "Open MPI" in run(launcher, "--version").stdout:
        flags = ["--oversubscribe", "--bind-to", "none"]
        if os.geteuid() == 0:
            flags.append("--allow-run-as-root")
    return run(launcher, *flags, "-np", ranks, *command, **options)
