#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""--cuda-graphs on: the same bits as without, by fewer calls.  On the stand-ins of test_gpu.py.

A graph of the stand-in keeps the arguments that it was recorded with, as a real one does, and each
step has other tokens: one that is forgotten gives other losses.
"""
import re

import job

STEPS, BATCH, SEQ = 22, 4, 8
model = job.model_file(preset="mini")
data = job.tokens_file("tokens.bin", job.text_tokens())
COMMON = ["--llmc-model", model, "--llmc-data", data, "--batch", BATCH, "--seq", SEQ, "--lr", 1e-3,
          "--device", "cuda"]
ON = ["--cuda-graphs", "on"]
LAYERS = 2


def run(ranks, steps, *arguments, env=None):
    """Metrics, and the calls of the driver by rank."""
    counts = job.folder / "counts"
    counts.mkdir()
    metrics = job.train(ranks, *COMMON, "--steps", steps, *arguments,
                        env={"FAKE_CUDA_DEVICES": "4", "FAKE_CUDA_COUNTS": f"{counts}/%p",
                             **(env or {})})
    files = [path.read_text() for path in counts.iterdir()]
    job.shutil.rmtree(counts)
    return metrics, [{name: int(calls) for name, calls in map(str.split, text.splitlines())}
                     for text in files if "cuLaunchKernel 0\n" not in text]


def same(a, b):
    return len(a) == STEPS and all((x["loss"], x["grad_norm"]) == (y["loss"], y["grad_norm"])
                                   for x, y in zip(a, b, strict=True))


def layouts():
    """Other orders of the streams, too."""
    for dp, pp, dtype, parts in [(2, 1, "f32", 2), (1, 2, "bf16", 4), (2, 2, "bf16", 2)]:
        layout = ["--dtype", dtype, "--microbatches", parts, "--mesh", f"dp={dp},pp={pp}"]
        off, _ = run(dp * pp, STEPS, *layout, env={"FAKE_CUDA_SEED": "2"})
        on, calls = run(dp * pp, STEPS, *layout, *ON, env={"FAKE_CUDA_SEED": "3"})
        job.ok(same(off, on), f"dp={dp} x pp={pp}, {dtype}, {parts} microbatches: "
                              f"{len(on)} steps have the same losses and norms")
        # In the second step each graph is recorded, or used again for another microbatch.
        made = [c["cuStreamBeginCapture_v2"] for c in calls]
        used = [c["cuGraphLaunch"] / (STEPS - 1) for c in calls]
        job.ok(len(calls) == dp * pp and all(0 < m <= u for m, u in zip(made, used, strict=True)),
               f"{', '.join(f'{u:g}' for u in used)} launches of graphs in a step, "
               f"{', '.join(map(str, made))} recorded in all steps")


def other_shapes():
    """GELU in kernels of its own, and a sample afterwards, whose shape no graph has."""
    outs = []
    for graphs in [], ON:
        metrics = job.folder / "metrics.jsonl"
        code, out, err = job.finish(job.start(
            1, *COMMON, "--steps", 4, "--dtype", "bf16", "--sample", 8, "--metrics", metrics,
            *graphs, env={"FAKE_CUDA_CAPABILITY": "80"}))
        losses = [line["loss"] for line in job.read(metrics)]
        outs.append((code, out.split("sample of")[-1], losses))
        if code != 0:
            job.note(err)
    job.ok(outs[0] == outs[1] and outs[0][0] == 0,
           f"capability 8.0, and a sample: the same ({outs[1][1].splitlines()[-1]})")


def a_step(*arguments):
    """Calls of one step: those of 5 steps less those of 2, which have the warm-up."""
    (few,), (many,) = (run(1, steps, *arguments)[1] for steps in (2, 5))
    return {name: (many[name] - few[name]) / 3 for name in many}


def counts():
    parts = 2
    what = ["--dtype", "bf16", "--microbatches", parts]
    off, on = a_step(*what), a_step(*what, *ON)
    graphs = 2 * parts - 1 + LAYERS
    job.ok(off["cuGraphLaunch"] == 0 and on["cuGraphLaunch"] == graphs,
           f"a step is {on['cuGraphLaunch']:g} graphs: a forward for each microbatch, a backward "
           "for each but the last, and one for each layer of that")
    # Rounding of the parameters, and the optimizer.
    job.ok(on["cuLaunchKernel"] <= 6 and off["cuLaunchKernel"] > 60,
           f"kernels that are launched by themselves: {on['cuLaunchKernel']:g} instead of "
           f"{off['cuLaunchKernel']:g}")
    for name in ("cuMemcpyAsync", "cuMemsetD8Async", "cuEventRecord", "cuEventSynchronize",
                 "cuStreamSynchronize", "cuMemAlloc_v2"):
        job.ok(on[name] <= off[name],
               f"{name}: {on[name]:g} in a step, {off[name]:g} without graphs")
    job.ok(on["cuStreamBeginCapture_v2"] == on["cuGraphInstantiateWithFlags"] == 0,
           "after the second step nothing is recorded")


def refuses(what, sentence, *arguments, env=None):
    code, out, err = job.finish(job.start(1, "--llmc-model", model, "--llmc-data", data,
                                          "--batch", 4, "--seq", SEQ, "--steps", 3, *arguments,
                                          env=env))
    said = [line for line in err.splitlines() if line.startswith("gpt: ")]
    if not job.ok(code == 1 and len(said) == 1 and re.search(sentence, said[0]),
                  f"{what}: {said[0] if said else 'says nothing'}"):
        job.note(f"status {code}\n{out}{err}")


def refusals():
    cuda = ["--device", "cuda"]
    refuses("a graph too many", "recording a graph: CUDA_ERROR_OUT_OF_MEMORY", *cuda, *ON,
            env={"FAKE_CUDA_FAULT": "instantiate:2"})
    refuses("a GPU that is lost in a graph", "CUDA_ERROR_ILLEGAL_ADDRESS", *cuda, *ON,
            env={"FAKE_CUDA_FAULT": "launch:80"})
    refuses("another word", "there are off and on", *cuda, "--cuda-graphs", "auto")
    refuses("on the processor", "needs --device cuda", *ON)


layouts()
other_shapes()
counts()
refusals()
job.done()
