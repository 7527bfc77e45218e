#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""The same weights and tokens on every layout: the same losses, and those of the reference."""
import json
import subprocess
import sys

import job

STEPS, BATCH, SEQ = 40, 8, 64
HYPER = ["--beta1", 0.9, "--beta2", 0.95, "--eps", 1e-8, "--weight-decay", 0.1]
LAYOUTS = [(1, 1), (2, 1), (1, 2), (2, 2), (1, 4)]

reference = job.sys.argv[5]
model = job.model_file()
data = job.tokens_file("tokens.bin", job.text_tokens())


def compare(clip, lr, layouts):
    common = ["--batch", BATCH, "--seq", SEQ, "--steps", STEPS, "--clip", clip, "--lr", lr, *HYPER]
    run = subprocess.run([sys.executable, reference, "--model", model, "--data", data,
                          *map(str, common)], capture_output=True, text=True, timeout=240)
    if run.returncode != 0:
        job.ok(False, f"the reference fails: {run.stderr}")
        return
    truth = [json.loads(line) for line in run.stdout.splitlines()]
    first = None
    for dp, pp in layouts:
        what = f"clip {clip}, dp={dp} x pp={pp}"
        steps = job.train(dp * pp, "--llmc-model", model, "--llmc-data", data, "--decay",
                          "constant", "--mesh", f"dp={dp},pp={pp}", *common)
        if not job.ok(len(steps) == STEPS, f"{what}: {len(steps)} of {STEPS} steps"):
            continue
        first = first or steps
        if steps is not first:
            apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(steps, first))
            job.ok(apart <= 1e-5, f"{what}: within 1e-5 of one rank ({apart:.1e})")
        apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(steps, truth))
        job.ok(apart <= 1e-4, f"{what}: within 1e-4 of the reference ({apart:.1e})")
        apart = max(abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(steps, truth))
        job.ok(apart <= 1e-3, f"{what}: gradient norms as well ({apart:.1e})")
    job.ok(truth[-1]["loss"] < truth[0]["loss"] - 0.5, "and the loss falls: "
           f"{truth[0]['loss']:.3f} to {truth[-1]['loss']:.3f}")


compare(1.0, 1e-3, LAYOUTS)
# Without clipping a rate of 1e-3 is unstable: any rounding grows to where nothing can be compared.
compare(0, 3e-4, LAYOUTS[1:2])
job.done()
