#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""The man page renders without a warning and has the options that the help has.

test_man.py POLDER MAN-PAGE
"""
import os
import pathlib
import re
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tap import done, equal, ok, run, skip

tool, page = sys.argv[1:]


def rendered():
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat",
                   "MAN_KEEP_FORMATTING": ""}
    got = run("man", "--warnings", "-l", page, env=environment)
    ok(got.returncode == 0, "man renders the page")
    equal(got.stderr, "", "without a warning")
    equal([line for line in got.stdout.splitlines() if len(line) > 80], [], "in 80 columns")
    return re.sub(".\b", "", got.stdout)


def section(text, name):
    """Lines of the section `name`, down to the next line that is not indented."""
    return re.search(rf"^{name}$\n((?:^(?: .*)?$\n?)*)", text, re.M)[1]


def options(text):
    return set(re.findall(r"--[a-z][a-z-]*", text))


if not shutil.which("man"):
    skip("man page", "man is not installed")
    done()
if "minimized" in run("man", "--version").stdout:
    skip("man page", "Ubuntu's minimized images have a stand-in for man; 'unminimize' brings it")
    done()
text = rendered()
overall = run(tool, "--help").stdout
helped = [run(tool, "help", name).stdout for name in re.findall(r"^  ([a-z]+) {2}", overall, re.M)]
ok(len(helped) >= 3, "commands are found")
equal(options(text), options(overall).union(*map(options, helped)), "options of help and man page")
ok({"--json", "--verify", "--help", "--version"} <= options(text), "the options are found at all")
synopsis = section(text, "SYNOPSIS")
for command in re.findall(r"^  ([a-z]+)", overall, re.M):
    ok(f"polder {command}" in synopsis, f"{command} of the help is in the man page's synopsis")
    ok(re.search(rf"^ +{command}\b", section(text, "DESCRIPTION"), re.M),
       f"{command} of the help is described")
for command in re.findall(r"polder ([a-z]+)", synopsis):
    ok(re.search(rf"^  {command} ", overall, re.M), f"{command} of the man page is in the help")
for status in re.findall(r"\b(\d) ", overall.splitlines()[-1]):
    ok(re.search(rf"^ +{status} ", section(text, "EXIT STATUS"), re.M), f"status {status} is there")
if shutil.which("mandoc"):
    lint = run("mandoc", "-T", "lint", "-W", "warning", page)
    equal(lint.stdout, "", "mandoc has nothing to say")
done()
