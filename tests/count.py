#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Add up the results of several meson test logs; a phase that did not build is a failure.

count.py BROKEN-PHASES SKIPPED-PHASES LOG...   (the first two are space-separated names)
"""
import json
import pathlib
import sys

broken, skipped_phases = sys.argv[1].split(), sys.argv[2].split()
passed, failed, skipped = 0, len(broken), len(skipped_phases)
for phase in broken:
    print(f"failed: {phase}: does not build")
for phase in skipped_phases:
    print(f"skipped: {phase}: its compiler is not installed")
for log in sys.argv[3:]:
    phase = pathlib.Path(log).parts[-3].removeprefix("build-test-")
    for line in pathlib.Path(log).read_text().splitlines():
        test = json.loads(line)
        if test["result"] in ("OK", "EXPECTEDFAIL"):
            passed += 1
        elif test["result"] == "SKIP":
            skipped += 1
            said = (test.get("stdout") or "").strip().splitlines() or ["no reason given"]
            print(f"skipped: {phase}: {test['name']}: {said[-1]}")
        else:
            failed += 1
            print(f"failed: {phase}: {test['name']}: {test['result']}")
if passed == 0:
    failed += 1
    print("failed: no test passed")
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(failed != 0)
