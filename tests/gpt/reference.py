#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""GPT-2 and AdamW in double precision, slowly: what the example is compared with.

The model is written as formulas over whole arrays; a tape of elementary operations,
each with its derivative, gives the gradients (--check holds them against finite
differences).  It reads llm.c's model and token files, trains, and prints per step
one JSON line with the mean loss and the norm of its gradient before clipping.
"""
import argparse
import json
import math
import sys

import numpy as np

HEADER = 256
SIZES = ("max_seq", "vocab", "layers", "heads", "channels", "padded_vocab")


# ---- reverse-mode differentiation -------------------------------------------------------

class Var:
    """An array that remembers which operation made it of which others."""

    def __init__(self, value, parents=()):
        self.value = np.asarray(value, dtype=np.float64)
        self.parents = parents  # pairs (Var, function from this gradient to that one's share)
        self.grad = None

    def __add__(self, other):
        other = lift(other)
        return Var(self.value + other.value,
                   ((self, lambda g: unbroadcast(g, self)),
                    (other, lambda g: unbroadcast(g, other))))

    def __mul__(self, other):
        other = lift(other)
        return Var(self.value * other.value,
                   ((self, lambda g: unbroadcast(g * other.value, self)),
                    (other, lambda g: unbroadcast(g * self.value, other))))

    def __sub__(self, other):
        return self + lift(other) * -1.0

    def __matmul__(self, other):
        return Var(self.value @ other.value,
                   ((self, lambda g: unbroadcast(g @ swap(other.value), self)),
                    (other, lambda g: unbroadcast(swap(self.value) @ g, other))))

    def power(self, p):
        return Var(self.value ** p, ((self, lambda g: g * p * self.value ** (p - 1)),))

    def apply(self, f, derivative):
        return Var(f(self.value), ((self, lambda g: g * derivative(self.value)),))

    def sum(self, axis=None):
        def back(g):
            return np.broadcast_to(g if axis is None else np.expand_dims(g, axis), self.value.shape)
        return Var(self.value.sum(axis=axis), ((self, back),))

    def mean(self):
        """Over the last axis, which stays with length 1."""
        n = self.value.shape[-1]
        return self.sum(-1).reshape(*self.value.shape[:-1], 1) * (1.0 / n)

    def reshape(self, *shape):
        return Var(self.value.reshape(shape), ((self, lambda g: g.reshape(self.value.shape)),))

    def swap(self, a, b):
        return Var(np.swapaxes(self.value, a, b), ((self, lambda g: np.swapaxes(g, a, b)),))

    def __getitem__(self, index):
        def back(g):
            out = np.zeros_like(self.value)
            np.add.at(out, index, g)
            return out
        return Var(self.value[index], ((self, back),))

    def backward(self):
        order, seen = [], set()

        def visit(v):
            if id(v) not in seen:
                seen.add(id(v))
                for parent, _ in v.parents:
                    visit(parent)
                order.append(v)
        visit(self)
        for v in order:
            v.grad = np.zeros_like(v.value)
        self.grad = np.ones_like(self.value)
        for v in reversed(order):
            for parent, back in v.parents:
                parent.grad = parent.grad + back(v.grad)


def lift(x):
    return x if isinstance(x, Var) else Var(x)


def swap(a):
    return np.swapaxes(a, -1, -2)


def unbroadcast(g, var):
    """Sum a gradient over the axes along which the operand was repeated."""
    shape = var.value.shape
    g = g.sum(axis=tuple(range(g.ndim - len(shape)))) if g.ndim > len(shape) else g
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=repeated, keepdims=True) if repeated else g


# ---- the model --------------------------------------------------------------------------

def tensor_shapes(config):
    """Tensors in the order of llm.c's files; each array has all layers."""
    c, n = config["channels"], config["layers"]
    return {"wte": (config["padded_vocab"], c), "wpe": (config["max_seq"], c),
            "ln1w": (n, c), "ln1b": (n, c), "qkvw": (n, 3 * c, c), "qkvb": (n, 3 * c),
            "attprojw": (n, c, c), "attprojb": (n, c), "ln2w": (n, c), "ln2b": (n, c),
            "fcw": (n, 4 * c, c), "fcb": (n, 4 * c), "fcprojw": (n, c, 4 * c),
            "fcprojb": (n, c), "lnfw": (c,), "lnfb": (c,)}


DECAYED = ("wte", "wpe", "qkvw", "attprojw", "fcw", "fcprojw")


def layer_norm(x, weight, bias):
    centred = x - x.mean()
    return centred * ((centred * centred).mean() + 1e-5).power(-0.5) * weight + bias


def gelu(x):
    inner = (x + x.power(3) * 0.044715) * math.sqrt(2 / math.pi)
    return x * 0.5 * (inner.apply(np.tanh, lambda v: 1 - np.tanh(v) ** 2) + 1.0)


def exponential(x):
    return x.apply(np.exp, np.exp)


def attention(x, heads):
    """x: [batch][seq][3C], queries, keys and values side by side."""
    batch, seq, width = x.value.shape
    c = width // 3
    split = [x[..., i * c:(i + 1) * c].reshape(batch, seq, heads, c // heads).swap(1, 2)
             for i in range(3)]
    query, key, value = split
    scores = (query @ key.swap(2, 3)) * (1 / math.sqrt(c // heads))
    mask = np.tril(np.ones((seq, seq)))
    weights = exponential(scores - np.max(scores.value, -1, keepdims=True)) * mask
    weights = weights * (weights.mean() * float(seq)).power(-1)
    return (weights @ value).swap(1, 2).reshape(batch, seq, c)


def logits(config, tensors, tokens):
    x = tensors["wte"][tokens] + tensors["wpe"][np.arange(tokens.shape[1])]
    for i in range(config["layers"]):
        def layer(name):
            return tensors[name][i]

        def linear(value, name):
            return value @ layer(name + "w").swap(0, 1) + layer(name + "b")
        h = layer_norm(x, layer("ln1w"), layer("ln1b"))
        x = x + linear(attention(linear(h, "qkv"), config["heads"]), "attproj")
        h = layer_norm(x, layer("ln2w"), layer("ln2b"))
        x = x + linear(gelu(linear(h, "fc")), "fcproj")
    x = layer_norm(x, tensors["lnfw"], tensors["lnfb"])
    return x @ tensors["wte"][:config["vocab"]].swap(0, 1)


def loss_sum(config, tensors, tokens, targets):
    """Sum over all tokens of -log p(target)."""
    z = logits(config, tensors, tokens)
    z = z - np.max(z.value, -1, keepdims=True)
    log_total = exponential(z).sum(-1).apply(np.log, lambda v: 1 / v)
    batch, seq = tokens.shape
    picked = z[np.arange(batch)[:, None], np.arange(seq)[None, :], targets]
    return (log_total - picked).sum()


def gradients(config, values, tokens, targets, scale):
    """Sum of losses, and the gradient of scale times it by tensor."""
    tensors = {name: Var(value) for name, value in values.items()}
    total = loss_sum(config, tensors, tokens, targets)
    (total * scale).backward()
    return float(total.value), {name: t.grad for name, t in tensors.items()}


# ---- files ------------------------------------------------------------------------------

def read_model(path):
    with open(path, "rb") as file:
        header = np.fromfile(file, np.int32, HEADER)
        if header[0] != 20240326 or header[1] != 3:
            sys.exit(f"{path}: not an llm.c f32 model file")
        config = dict(zip(SIZES, (int(v) for v in header[2:8])))
        values = {name: np.fromfile(file, np.float32, math.prod(shape)).reshape(shape)
                  .astype(np.float64) for name, shape in tensor_shapes(config).items()}
        if file.read(1):
            sys.exit(f"{path}: longer than its header says")
    return config, values


def write_model(path, config, values):
    header = np.zeros(HEADER, np.int32)
    header[:2] = 20240326, 3
    header[2:8] = [config[name] for name in SIZES]
    with open(path, "wb") as file:
        header.tofile(file)
        for name in tensor_shapes(config):
            values[name].astype(np.float32).tofile(file)


def read_tokens(path):
    header = np.fromfile(path, np.int32, HEADER)
    kinds = {(20240520, 1): np.uint16, (20240801, 7): np.uint32}
    if tuple(header[:2]) not in kinds:
        sys.exit(f"{path}: not an llm.c token file")
    tokens = np.fromfile(path, kinds[tuple(header[:2])], offset=4 * HEADER)
    return tokens[:header[2]].astype(np.int64)


# ---- training ---------------------------------------------------------------------------

def batches(tokens, batch, seq, steps):
    """Blocks of batch*seq tokens one after the other, targets one further; the first block
    again when there is no whole one left, as llm.c's loader does it."""
    blocks = (len(tokens) - 1) // (batch * seq)
    if blocks < 1:
        sys.exit(f"a step needs {batch * seq + 1} tokens; there are {len(tokens)}")
    for step in range(steps):
        at = step % blocks * batch * seq
        block = tokens[at:at + batch * seq + 1]
        yield block[:-1].reshape(batch, seq), block[1:].reshape(batch, seq)


def adamw(values, grads, moments, step, o):
    for name, value in values.items():
        m, v = moments[name]
        m[:] = o.beta1 * m + (1 - o.beta1) * grads[name]
        v[:] = o.beta2 * v + (1 - o.beta2) * grads[name] ** 2
        update = m / (1 - o.beta1 ** step) / (np.sqrt(v / (1 - o.beta2 ** step)) + o.eps)
        decay = o.weight_decay if name in DECAYED else 0.0
        value -= o.lr * (update + decay * value)


def train(o, out=sys.stdout):
    config, values = read_model(o.model)
    moments = {name: (np.zeros_like(v), np.zeros_like(v)) for name, v in values.items()}
    steps = batches(read_tokens(o.data), o.batch, o.seq, o.steps)
    for step, (tokens, targets) in enumerate(steps, 1):
        total, grads = gradients(config, values, tokens, targets, 1 / tokens.size)
        norm = math.sqrt(sum(float((g * g).sum()) for g in grads.values()))
        factor = min(1.0, o.clip / (norm + 1e-6)) if o.clip > 0 else 1.0
        adamw(values, {name: factor * g for name, g in grads.items()}, moments, step, o)
        print(json.dumps({"step": step, "loss": total / tokens.size, "grad_norm": norm}),
              file=out, flush=True)


def check(config, values, tokens, targets, seed=1):
    """Gradients against central differences, along one random direction per tensor.  Yields
    (tensor, derivative by the tape, by differences)."""
    random = np.random.default_rng(seed)
    _, grads = gradients(config, values, tokens, targets, 1 / tokens.size)

    def loss(name, direction, step):
        moved = {n: Var(v + step * direction if n == name else v) for n, v in values.items()}
        return float(loss_sum(config, moved, tokens, targets).value) / tokens.size
    for name, value in values.items():
        direction = random.standard_normal(value.shape)
        direction /= np.linalg.norm(direction)
        step = 1e-4
        coarse = (loss(name, direction, step) - loss(name, direction, -step)) / (2 * step)
        fine = (loss(name, direction, step / 2) - loss(name, direction, -step / 2)) / step
        yield name, float((grads[name] * direction).sum()), (4 * fine - coarse) / 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True, help="llm.c model file to begin with")
    parser.add_argument("--data", required=True, help="llm.c token file")
    parser.add_argument("--batch", type=int, default=4, help="sequences of a step")
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--beta1", type=float, default=0.9)
    parser.add_argument("--beta2", type=float, default=0.999)
    parser.add_argument("--eps", type=float, default=1e-8)
    parser.add_argument("--weight-decay", type=float, default=0.0, help="of matrices")
    parser.add_argument("--clip", type=float, default=0.0, help="global norm; 0: off")
    parser.add_argument("--check", action="store_true", help="hold the first step's gradients "
                        "against finite differences, and do nothing else")
    o = parser.parse_args()
    if not o.check:
        return train(o)
    config, values = read_model(o.model)
    tokens, targets = next(batches(read_tokens(o.data), o.batch, o.seq, 1))
    for name, tape, differences in check(config, values, tokens, targets):
        print(f"{name:9} {tape:+.9e} {differences:+.9e}")


if __name__ == "__main__":
    main()
