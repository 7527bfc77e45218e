#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""The same training on a GPU, which stand-ins take the place of: its losses, checkpoints, waits.

Kernels are emulated from their sources, streams run late and in unfriendly orders, device memory
cannot be touched by the host.
"""
import os
import pathlib

import job

STEPS, BATCH, SEQ = 40, 4, 40
model = job.model_file(preset="mini")
data = job.tokens_file("tokens.bin", job.text_tokens())
COMMON = ["--llmc-model", model, "--llmc-data", data, "--batch", BATCH, "--seq", SEQ, "--lr", 1e-3,
          "--decay", "constant", "--weight-decay", 0.1]
CUDA = ["--device", "cuda"]
BF16 = 5e-3


def apart(steps, other, key="loss"):
    return max(abs(a[key] - b[key]) for a, b in zip(steps, other))


def losses():
    cpu = job.train(1, *COMMON, "--steps", STEPS)
    job.ok(len(cpu) == STEPS and cpu[-1]["loss"] < cpu[0]["loss"] - 1,
           f"on the processor the loss falls from {cpu[0]['loss']:.3f} to {cpu[-1]['loss']:.3f}")
    # In f32 sums are made in another order; in bf16 an activation keeps 8 bits, and a loss moves by
    # a thousandth.
    # Capability 8.0: GELU by kernels of its own.
    for what, count, bound, env in [
            (["--dtype", "f32", "--microbatches", 2], STEPS, 1e-4, {}),
            (["--dtype", "bf16"], STEPS, BF16, {}),
            (["--dtype", "bf16", "--microbatches", 2], 5, BF16, {"FAKE_CUDA_CAPABILITY": "80"})]:
        steps = job.train(1, *COMMON, "--steps", count, *CUDA, *what, env=env)
        text = " ".join(map(str, what)) + "".join(f" {k}={v}" for k, v in env.items())
        if job.ok(len(steps) == count, f"{text}: {len(steps)} of {count} steps"):
            far = apart(steps, cpu)
            job.ok(far <= bound,
                   f"{text}: losses within {bound:.0e} of the processor's ({far:.1e})")
    return cpu


def layouts(cpu):
    few = 5
    for dp, pp, dtype, bound in [(2, 2, "f32", 1e-4), (2, 2, "bf16", BF16), (1, 3, "f32", 1e-4)]:
        steps = job.train(dp * pp, *COMMON, "--steps", few, *CUDA, "--dtype", dtype,
                          "--microbatches", 2, "--mesh", f"dp={dp},pp={pp}",
                          env={"FAKE_CUDA_DEVICES": "4"})
        what = f"dp={dp} x pp={pp}, {dtype}"
        if job.ok(len(steps) == few, f"{what}: {len(steps)} of {few} steps"):
            far = apart(steps, cpu)
            job.ok(far <= bound, f"{what}: losses within {bound:.0e} ({far:.1e})")


def same_bits():
    """What the streams' order decides must not be seen: a missing event would be."""
    orders = [{"FAKE_CUDA_SEED": str(seed), "FAKE_CUDA_DELAY": "100"} for seed in range(1, 5)]
    orders[0]["FAKE_CUDA_GUARD"] = "1"
    runs = [job.train(1, *COMMON, "--steps", 2, *CUDA, "--dtype", "bf16", "--microbatches", 2,
                      env=order) for order in orders]
    job.ok(all(run and apart(run, runs[0]) == 0 and apart(run, runs[0], "grad_norm") == 0
               for run in runs), "four orders of the streams, the same bits")


def scaled(cpu):
    """Powers of two round nothing, whether the processor or a kernel reads them."""
    plain = job.train(1, *COMMON, "--steps", 3, *CUDA, "--dtype", "bf16")
    bf16 = [*CUDA, "--dtype", "bf16"]
    for what, base, where in [("1024", cpu, []), ("dynamic", plain, bf16)]:
        steps = job.train(1, *COMMON, "--steps", 3, *where, "--loss-scale", what)
        job.ok(len(steps) == 3 and apart(steps, base) == 0 and apart(steps, base, "grad_norm") == 0
               and steps[-1]["loss_scale"] == float(65536 if what == "dynamic" else 1024),
               f"--loss-scale {what}: the losses and norms of the run without")
    refuses("no scale", '--loss-scale is "0"', ["--loss-scale", "0"])


def checkpoints(cpu):
    """There and back; the last part of each run is compared with the run on the processor."""
    for dtype, bound in ("f32", 1e-4), ("bf16", BF16):
        folder = job.folder / f"run-{dtype}"
        parts = []
        for until, where in (4, []), (6, [*CUDA, "--dtype", dtype]), (8, []):
            parts = job.train(1, *COMMON, "--steps", until, "--ckpt", folder, *where)
        numbers = [line["step"] for line in parts]
        far = apart(parts, cpu) if len(parts) == 8 else 1e9
        job.ok(numbers == list(range(1, 9)) and far <= bound,
               f"processor, GPU in {dtype}, processor: one run ({far:.1e})")


def counts(steps):
    path = job.folder / f"counts-{steps}"
    lt = job.folder / f"lt-{steps}"
    job.train(1, *COMMON, "--steps", steps, *CUDA, "--dtype", "bf16", "--microbatches", 2,
              env={"FAKE_CUDA_COUNTS": str(path), "FAKE_CUBLASLT_COUNTS": str(lt)})
    lines = path.read_text().split("\n") + lt.read_text().split("\n")
    return {line.split()[0]: int(line.split()[1]) for line in lines if line}


def waits():
    few, many = counts(1), counts(3)
    more = {name: many[name] - few.get(name, 0) for name in many if many[name] != few.get(name, 0)}
    for name in ("cuStreamSynchronize", "cuCtxSynchronize", "cuMemAlloc_v2", "cuMemHostAlloc",
                 "choose"):
        job.ok(more.get(name, 0) == 0, f"no {name} in a step")
    waited = more.get("cuEventSynchronize", 0) / 2
    # The tokens of the step before, the loss, the report of the optimizer.
    job.ok(0 < waited <= 3, f"{waited:g} waits for events in a step")
    job.ok(more.get("cuLaunchKernel", 0) > 0 and more.get("multiply", 0) > 0,
           f"in a step {more.get('cuLaunchKernel', 0) / 2:g} launches and "
           f"{more.get('multiply', 0) / 2:g} products")
    job.ok(many["live"] == 0, "cuBLASLt's objects were given back")


def samples():
    for ranks, mesh in (1, "dp=0"), (2, "pp=2"):
        texts = []
        for where in [], CUDA:
            code, out, err = job.finish(job.start(ranks, *COMMON, "--steps", 1, "--mesh", mesh,
                                                  "--sample", 6, *where))
            texts.append(out.split("sample of 6 tokens:")[-1] if code == 0 else err)
        job.ok(texts[0] == texts[1], f"{mesh}: the same sample: {texts[0].strip()}")


def fakes_without(*names):
    """A folder of the stand-ins in which some cannot be loaded."""
    folder = job.folder / ("without-" + "-".join(names))
    folder.mkdir(exist_ok=True)
    fakes = next(path for path in map(pathlib.Path, os.environ["LD_LIBRARY_PATH"].split(":"))
                 if (path / "libcuda.so.1").exists())
    for name in "libcuda.so.1", "libnccl.so.2", "libcublasLt.so.13":
        (folder / name).symlink_to(fakes / name)
    for name in names:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text("")
    return {"LD_LIBRARY_PATH": str(folder)}


def refuses(what, sentence, arguments, env=None, program=job.gpt, ranks=1):
    code, out, err = job.finish(job.start(ranks, *COMMON, "--steps", 1, *arguments, env=env,
                                          program=program))
    said = [line for line in err.splitlines() if line.startswith("gpt: ")]
    if not job.ok(code == 1 and len(said) == 1 and sentence in said[0],
                  f"{what}: {said[0] if said else 'says nothing'}"):
        job.note(f"status {code}\n{out}{err}")


def refusals():
    nothing = fakes_without("libcuda.so.1")
    refuses("no driver", "no NVIDIA driver", CUDA, nothing, ranks=2)
    refuses("no cuBLASLt", "need cuBLASLt", CUDA,
            fakes_without("libcublasLt.so.13", "libcublasLt.so.12"), ranks=2)
    # polder's own kernels come first.
    refuses("no device code", "has no device code", CUDA, {"FAKE_CUDA_FAULT": "module:2"},
            program=job.sys.argv[6])
    refuses("kernels of another GPU", "loading kernels", CUDA, {"FAKE_CUDA_FAULT": "module:2"})
    # In the second step.
    refuses("a GPU that is lost", "CUDA_ERROR_ILLEGAL_ADDRESS", [*CUDA, "--steps", 3],
            {"FAKE_CUDA_FAULT": "launch:200"})
    refuses("bf16 on the processor", "--dtype bf16 needs --device cuda", ["--dtype", "bf16"])
    refuses("bf16 where there is no GPU", "--dtype bf16 needs a GPU",
            ["--device", "auto", "--dtype", "bf16"], nothing)
    refuses("another device", 'there are cpu, cuda and auto', ["--device", "tpu"])
    refuses("another dtype", "there are f32 and bf16", ["--dtype", "f8"])
    refuses("times of a GPU", "--times is for --device cpu", [*CUDA, "--times"])
    refuses("a GPU too small", "no memory for the activations", [*CUDA, "--batch", 800],
            {"FAKE_CUDA_MEMORY": "48M"})
    odd = job.model_file("odd.bin", "odd")
    refuses("heads of 20", "multiple of 8", [*CUDA, "--llmc-model", odd])
    code, out, err = job.finish(job.start(2, *COMMON, "--steps", 1, "--device", "auto",
                                          env=nothing))
    job.ok(code == 0 and out.count("device: the processor, for") == 1 and err == "",
           "auto without a driver trains on the processor and says why, once")


first = losses()
layouts(first)
same_bits()
scaled(first)
checkpoints(first)
waits()
samples()
refusals()
job.done()
