# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Running the training program under mpirun, and TAP."""
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

mpirun, gpt, make_model, source = sys.argv[1:5]
folder = pathlib.Path(tempfile.mkdtemp(prefix="polder-train-"))
LAUNCH = [mpirun, "--oversubscribe", "--bind-to", "none"]
if os.geteuid() == 0:
    LAUNCH.append("--allow-run-as-root")
# Every rank has one core of two at most: threads would only get in each other's way.
ENV = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

count = failed = 0


def ok(condition, text):
    global count, failed
    count += 1
    failed += not condition
    print(f"{'' if condition else 'not '}ok {count} - {text}", flush=True)
    return condition


def note(text):
    for line in str(text).splitlines():
        print(f"# {line}", flush=True)


def done():
    print(f"1..{count}")
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(failed != 0)


def start(ranks, *arguments, launch=(), env=None, program=gpt, **keywords):
    command = [*launch, *LAUNCH, "-np", str(ranks), program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=dict(ENV, **(env or {})), start_new_session=True, **keywords)


def finish(job, limit=120):
    """(exit status, stdout, stderr); a job over the limit is killed, and its status is None."""
    try:
        out, err = job.communicate(timeout=limit)
        return job.returncode, out, err
    except subprocess.TimeoutExpired:
        kill(job)
        out, err = job.communicate()
        return None, out, err


def kill(job):
    """SIGKILL to the launcher and all ranks, which have process groups of their own."""
    subprocess.run(["pkill", "-KILL", "-s", str(job.pid)], check=False)
    try:
        os.kill(job.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def train(ranks, *arguments, metrics=None, limit=120, env=None):
    """Train, and give the metrics as a list of objects."""
    metrics = metrics or folder / "metrics.jsonl"
    code, out, err = finish(start(ranks, *arguments, "--metrics", metrics, env=env), limit)
    if code != 0:
        note(f"{ranks} ranks, {arguments}: status {code}\n{out}{err}")
        return []
    return read(metrics)


def read(metrics):
    return [json.loads(line) for line in pathlib.Path(metrics).read_text().splitlines()]


def losses(steps):
    """The loss of each step, as it was logged last."""
    return {line["step"]: line["loss"] for line in steps}


def tokens_file(name, tokens, magic=20240520, version=1, declared=None, width="H"):
    """A token file of llm.c."""
    path = folder / name
    header = [magic, version, len(tokens) if declared is None else declared] + [0] * 253
    path.write_bytes(struct.pack("<256i", *header) + struct.pack(f"<{len(tokens)}{width}", *tokens))
    return path


def text_tokens():
    """Bytes of the licence: text that is always there."""
    return (pathlib.Path(source) / "LICENSE").read_bytes()


def model_file(name="model.bin", preset="tiny", seed=42):
    path = folder / name
    subprocess.run([make_model, path, preset, str(seed)], check=True)
    return path
