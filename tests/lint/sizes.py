#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Fail if a function, file, line or nesting is longer than the house allows."""
import pathlib
import re
import sys

MAX_FUNCTION, MAX_FILE, MAX_WIDTH, MAX_NESTING = 60, 700, 100, 3


def strip(text):
    """Blank out comments, strings and characters, keeping lines and columns."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    return re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)


def functions(lines):
    """(first line, last line, deepest nesting) of each function: BSD style, brace in column 0."""
    start = None
    for number, line in enumerate(lines, 1):
        if line.rstrip() == "{" and start is None:
            start, depth, deepest = number, 0, 0
        if start is None:
            continue
        for char in line:
            depth += (char == "{") - (char == "}")
            deepest = max(deepest, depth)
        if depth == 0:
            yield start, number, deepest - 1
            start = None


def check(path):
    text = path.read_text()
    if "SPDX-License-Identifier: Apache-2.0" not in text[:300]:
        yield f"{path}:1: no SPDX licence line"
    lines = text.splitlines()
    if len(lines) > MAX_FILE:
        yield f"{path}: {len(lines)} lines, {MAX_FILE} allowed"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_WIDTH:
            yield f"{path}:{number}: {len(line)} columns, {MAX_WIDTH} allowed"
    if path.suffix not in (".c", ".h"):
        return
    for first, last, nesting in functions(strip(text).splitlines()):
        if last - first + 1 > MAX_FUNCTION:
            yield f"{path}:{first}: function of {last - first + 1} lines, {MAX_FUNCTION} allowed"
        if nesting > MAX_NESTING:
            yield f"{path}:{first}: nesting {nesting}, {MAX_NESTING} allowed"


root = pathlib.Path(sys.argv[1])
bad = []
for folder in ("lib", "include", "tools", "examples", "tests"):
    for path in sorted((root / folder).rglob("*")):
        if path.suffix in (".c", ".h", ".py", ".sh"):
            bad += check(path)
print("\n".join(bad) or "sizes ok")
sys.exit(bool(bad))
