#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Write steps.txt: AdamW and SGD in 60 decimal digits, as the papers have them.

AdamW: Loshchilov & Hutter, "Decoupled weight decay regularization", algorithm 2, with the
learning rate as the schedule multiplier times alpha = 1.  SGD: b = momentum*b + g.
Gradients come from gradient(), which tests/inproc/test_optim.c must repeat: all are exact
in bf16.  A line: the step's norm and factor, then the values of all elements after it.
"""
import pathlib
from decimal import Decimal as D, getcontext

getcontext().prec = 60
ELEMENTS, STEPS = 11, 6
CASES = {
    "adamw": dict(),
    "adamw_decay": dict(decay="0.1"),
    "adamw_betas": dict(beta1="0.8", beta2="0.95", eps="1e-3", decay="0.01"),
    "adamw_beta1_zero": dict(beta1="0"),
    "adamw_clip": dict(decay="0.1", clip="1.5"),
    "sgd": dict(),
    "sgd_momentum": dict(momentum="0.9"),
    "sgd_decay_clip": dict(momentum="0.5", decay="0.125", clip="2"),
}


def gradient(step, i):
    return D((step * 7 + i * 5) % 13 - 6) / 8


def first_value(i):
    return D(i * 3 % 7 - 3) / 4


def rate(step):
    return D(step + 1) / 64


def adamw(theta, m, v, g, t, lr, o):
    beta1, beta2 = D(o.get("beta1", "0.9")), D(o.get("beta2", "0.999"))
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1 ** t), v / (1 - beta2 ** t)
    eps, decay = D(o.get("eps", "1e-8")), D(o.get("decay", "0"))
    theta -= lr * (m_hat / (v_hat.sqrt() + eps) + decay * theta)
    return theta, m, v


def sgd(theta, b, unused, g, t, lr, o):
    b = D(o.get("momentum", "0")) * b + g
    return theta - lr * b - lr * D(o.get("decay", "0")) * theta, b, unused


def run(name, o):
    rule = adamw if name.startswith("adamw") else sgd
    state = [(first_value(i), D(0), D(0)) for i in range(ELEMENTS)]
    for step in range(STEPS):
        g = [gradient(step, i) for i in range(ELEMENTS)]
        norm = sum(x * x for x in g).sqrt()
        factor = min(D(1), D(o["clip"]) / (norm + D("1e-6"))) if "clip" in o else D(1)
        state = [rule(*s, x * factor, step + 1, rate(step), o) for s, x in zip(state, g)]
        yield " ".join(f"{x:.25e}" for x in [norm, factor] + [s[0] for s in state])


lines = []
for name, o in CASES.items():
    lines += [name] + list(run(name, o))
pathlib.Path(__file__).with_name("steps.txt").write_text("\n".join(lines) + "\n")
