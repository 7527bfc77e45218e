#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Losses, every gradient and the logits of the stages against the double-precision reference,
and that one's gradients against finite differences."""
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import reference

probe = sys.argv[1]
count = failed = 0


def ok(condition, text):
    global count, failed
    count += 1
    failed += not condition
    print(f"{'' if condition else 'not '}ok {count} - {text}", flush=True)


def model(random, **sizes):
    """Values that leave nothing out: biases are not 0, norms are not 1, padding is 0."""
    config = {"max_seq": 24, "vocab": 40, "layers": 4, "heads": 2, "channels": 32,
              "padded_vocab": 48} | sizes
    values = {}
    for name, shape in reference.tensor_shapes(config).items():
        centre = 1.0 if name in ("ln1w", "ln2w", "lnfw") else 0.0
        deviation = {"wte": 0.6, "wpe": 0.6, "qkvw": 0.25}.get(name, 0.15)
        values[name] = (centre + deviation * random.standard_normal(shape)).astype(np.float32)
    values["wte"][config["vocab"]:] = 0
    return config, {name: v.astype(np.float64) for name, v in values.items()}


def check_reference():
    random = np.random.default_rng(5)
    config, values = model(random, layers=2, channels=12, max_seq=7, vocab=11, padded_vocab=11)
    tokens = random.integers(0, config["vocab"], (2, 2, 5))
    for name, tape, differences in reference.check(config, values, *tokens):
        ok(abs(tape - differences) <= 1e-8 + 1e-7 * abs(differences),
           f"reference, {name}: derivative {tape:.9g}, by differences {differences:.9g}")


def run(folder, path, config, tokens, targets, stages, live, scale):
    """Losses by microbatch, gradients by tensor, logits: from the probe."""
    microbatches, batch, seq = tokens.shape
    np.concatenate([tokens.ravel(), targets.ravel()]).astype(np.int32).tofile(folder / "tokens")
    arguments = [path, folder / "tokens", folder / "out", stages, batch, seq, microbatches, live,
                 scale]
    printed = subprocess.run([probe, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                             check=True, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}).stdout
    got = np.fromfile(folder / "out", np.float32).astype(np.float64)
    grads = {}
    for name, shape in reference.tensor_shapes(config).items():
        size = int(np.prod(shape))
        grads[name], got = got[:size].reshape(shape), got[size:]
    return np.array([float(line) for line in printed.split()]), grads, got


def relative(got, wanted):
    """Distance as a share of the length, by layer where there are layers."""
    if wanted.ndim == 1:
        got, wanted = got[None], wanted[None]
    worst = 0.0
    for g, w in zip(got.reshape(len(got), -1), wanted.reshape(len(wanted), -1)):
        length = np.linalg.norm(w)
        worst = max(worst, np.linalg.norm(g - w) / length if length > 0 else np.linalg.norm(g))
    return worst


def compare(folder, what, sizes, microbatches, batch, seq, runs, scale):
    random = np.random.default_rng(len(what))
    config, values = model(random, **sizes)
    path = folder / "model.bin"
    reference.write_model(path, config, values)
    tokens, targets = random.integers(0, config["vocab"], (2, microbatches, batch, seq))
    wanted = [reference.gradients(config, values, *pair, scale) for pair in zip(tokens, targets)]
    losses = np.array([loss for loss, _ in wanted])
    total = {name: sum(grads[name] for _, grads in wanted) for name in values}
    tensors = {name: reference.Var(value) for name, value in values.items()}
    logits = reference.logits(config, tensors, tokens[0, :1]).value[0, -1]
    for stages, live in runs:
        got, grads, last = run(folder, path, config, tokens, targets, stages, live, scale)
        title = f"{what}, {stages} stages, {live} live"
        ok(got.shape == losses.shape and np.all(np.abs(got - losses) <= 1e-6 * losses),
           f"{title}: losses {got.tolist()}, wanted {losses.tolist()}")
        errors = {name: relative(grads[name], total[name]) for name in total}
        worst = max(errors, key=errors.get)
        ok(errors[worst] <= 1e-5, f"{title}: gradients to {errors[worst]:.1e} ({worst})")
        ok(not grads["wte"][config["vocab"]:].any(), f"{title}: padding has no gradient")
        ok(relative(last, logits) <= 1e-5, f"{title}: logits to {relative(last, logits):.1e}")


check_reference()
with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    compare(folder, "one token", {}, 1, 1, 1, [(1, 1)], 1.0)
    compare(folder, "microbatches", {}, 3, 2, 17, [(1, 1), (1, 3), (2, 2), (5, 3)], 0.0125)
    compare(folder, "whole sequences", {}, 2, 3, 24, [(1, 2), (4, 1)], 1 / 144)
    compare(folder, "odd sizes", {"channels": 21, "heads": 3, "vocab": 37, "padded_vocab": 37},
            1, 2, 13, [(1, 1), (3, 1)], -2.0)
    # More queries than one strip, more logits than one block, more rows than the head takes.
    compare(folder, "several blocks", {"max_seq": 150, "vocab": 2100, "padded_vocab": 2112,
                                       "layers": 1}, 1, 4, 150, [(1, 1), (2, 1)], 0.01)
print(f"1..{count}")
sys.exit(failed > 0)
