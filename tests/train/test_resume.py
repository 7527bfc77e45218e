#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Interrupted and resumed is the same as uninterrupted, on the same layout and on others."""
import pathlib
import shutil
import time

import job

TEXT = pathlib.Path(job.source) / "LICENSE"
RUN = job.folder / "run"
COMMON = ["--text", TEXT, "--model", "tiny", "--batch", 8, "--seq", 32, "--lr", 1e-3,
          "--save-every", 5]


def lines(metrics):
    """The loss of each step as it is printed, digit by digit."""
    text = pathlib.Path(metrics).read_text().splitlines()
    return {line.split('"step":')[1].split(",")[0].strip(): line.split('"loss":')[1].split(",")[0]
            for line in text}


def killed_in_the_middle(mesh, ranks, metrics, steps):
    """Train, and pull the plug once the second save is complete; True if it was in the middle."""
    shutil.rmtree(RUN, ignore_errors=True)
    running = job.start(ranks, *COMMON, "--steps", steps, "--mesh", mesh, "--ckpt", RUN,
                        "--metrics", metrics)
    until = time.monotonic() + 100
    while not (RUN / "step-00000010").exists() and running.poll() is None:
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    job.kill(running)
    running.communicate()
    last = max(map(int, lines(metrics)), default=0)
    return 10 <= last < steps


def same_layout():
    steps = 150
    whole = job.folder / "whole.jsonl"
    parts = job.folder / "parts.jsonl"
    job.train(4, *COMMON, "--steps", steps, "--mesh", "dp=2,pp=2", metrics=whole)
    job.ok(killed_in_the_middle("dp=2,pp=2", 4, parts, steps), "a run is killed after two saves")
    code, out, err = job.finish(job.start(4, *COMMON, "--steps", steps, "--mesh", "dp=2,pp=2",
                                          "--ckpt", RUN, "--metrics", parts))
    job.ok(code == 0 and "resumed after step" in out, "and resumed by the same command")
    if code != 0:
        job.note(out + err)
    apart = [s for s, loss in lines(whole).items() if lines(parts).get(s) != loss]
    job.ok(len(lines(whole)) == steps and not apart,
           f"every loss is that of the uninterrupted run, to the last digit (apart: {apart[:5]})")


def other_layout(ranks, mesh, codec):
    """From 10 steps on dp=2 x pp=2 to 20 on another layout."""
    constant = [*COMMON, "--decay", "constant", "--codec", codec]
    shutil.rmtree(RUN, ignore_errors=True)
    whole = job.losses(job.train(4, *constant, "--steps", 20, "--mesh", "dp=2,pp=2"))
    job.train(4, *constant, "--steps", 10, "--mesh", "dp=2,pp=2", "--ckpt", RUN)
    rest = job.losses(job.train(ranks, *constant, "--steps", 20, "--mesh", mesh, "--ckpt", RUN))
    job.ok(sorted(rest) == list(range(1, 21)), f"{codec}, {mesh}: goes on after step 10")
    apart = max((abs(whole[s] - loss) for s, loss in rest.items()), default=1)
    job.ok(apart < 1e-5, f"{codec}, {mesh}: the losses are within 1e-5 ({apart:.1e})")


def by_path():
    """An older save by its path, into another run."""
    code, out, _ = job.finish(job.start(2, *COMMON, "--decay", "constant", "--steps", 12, "--mesh",
                                        "dp=2", "--ckpt", job.folder / "fork", "--resume",
                                        RUN / "step-00000005"))
    job.ok(code == 0 and "resumed after step 5" in out, "a save is resumed by its path")
    job.ok((job.folder / "fork" / "step-00000012").exists(), "and the run saves in its own place")


def nothing_left():
    code, out, _ = job.finish(job.start(2, *COMMON, "--decay", "constant", "--steps", 20, "--mesh",
                                        "dp=2", "--ckpt", RUN, "--sample", 5))
    job.ok(code == 0 and "nothing to train" in out and "sample of 5 tokens" in out,
           "a finished run says so, and can be sampled")


same_layout()
other_layout(4, "pp=4", "raw")
other_layout(1, "dp=1", "zstd")
other_layout(2, "pp=2", "zstd")
by_path()
nothing_left()
job.done()
