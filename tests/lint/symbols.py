#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Fail if the library exports anything but what the public headers declare with PLD_API."""
import pathlib
import re
import subprocess
import sys

library, headers = sys.argv[1], pathlib.Path(sys.argv[2])
nm = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True,
                    text=True).stdout
exported = {line.split()[2].split("@")[0] for line in nm.splitlines()
            if line.split()[1] in "TDBRW"}
declared = set()
for header in headers.glob("*.h*"):
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
    declared |= set(re.findall(r"PLD_API[^;(]*?\b(pld_\w+)\(", text))
for name in sorted(declared - exported):
    print("declared, not exported:", name)
for name in sorted(exported - declared):
    print("exported, not declared:", name)
print(len(exported), "functions exported")
sys.exit(exported != declared)
