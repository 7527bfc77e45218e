#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Bad input: one sentence that names the thing, a non-zero status, no hang, nothing lost."""
import concurrent.futures
import os
import pathlib
import re
import signal
import subprocess
import time

import job

TEXT = pathlib.Path(job.source) / "LICENSE"
SHORT = ["--model", "tiny", "--batch", 4, "--seq", 16, "--steps", 2]
TEXTED = ["--text", TEXT, *SHORT]


def refused(what, ended, sentence):
    code, out, err = ended
    said = [line for line in err.splitlines() if line.startswith("gpt: ")]
    good = job.ok(code not in (0, None), f"{what}: status {code}")
    good &= job.ok(len(said) == 1 and re.search(sentence, said[0]) is not None,
                   f"{what}: {said[0] if said else 'says nothing'}")
    good &= job.ok("Traceback" not in err and "Segmentation" not in err and "signal" not in err,
                   f"{what}: no crash")
    if not good:
        job.note(out + err)


def refuses(what, ranks, arguments, sentence, launch=()):
    refused(what, job.finish(job.start(ranks, *arguments, launch=launch), 60), sentence)


def all_refuse(cases):
    """Cases that touch nothing, some at a time: most of a job's time its launcher sleeps."""
    def run(case):
        return job.finish(job.start(case[1], *case[2]), 60)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for case, ended in zip(cases, pool.map(run, cases)):
            refused(case[0], ended, case[3])


def options():
    all_refuse([
        ("unknown option", 2, ["--tex", TEXT], r'"--tex"'),
        ("option without value", 2, ["--text"], r"--text needs a value"),
        ("no number", 2, [*TEXTED, "--lr", "fast"], r'--lr is "fast"'),
        ("negative count", 2, [*TEXTED, "--steps", -1], r'--steps is "-1"'),
        ("no data", 2, SHORT, r"--text or --llmc-data"),
        ("unknown model", 2, ["--text", TEXT, "--model", "huge"], r'"huge"'),
        ("unknown schedule", 2, [*TEXTED, "--schedule", "2f2b"], r'"?2f2b"?'),
        ("mesh of another size", 4, [*TEXTED, "--mesh", "dp=3"], r"dp=3|3.*4"),
        ("unknown axis", 2, [*TEXTED, "--mesh", "xx=2"], r"xx"),
        ("axis of others", 2, [*TEXTED, "--mesh", "tp=2"], r'"tp=2"'),
        ("more stages than layers", 6, [*TEXTED, "--mesh", "pp=6"], r"4 layers"),
        ("odd batch", 2, [*TEXTED, "--batch", 3], r"--batch 3"),
        ("odd microbatches", 2, [*TEXTED, "--microbatches", 3], r"--microbatches 3"),
        ("too long a sequence", 2, [*TEXTED, "--seq", 100000], r"--seq is 100000"),
    ])
    code, out, _ = job.finish(job.start(2, "--help"))
    job.ok(code == 0 and out.count("usage: gpt") == 1, "--help is printed once, status 0")


def data():
    model = job.model_file()
    tokens = job.text_tokens()
    short = job.tokens_file("short.bin", tokens, declared=10 * len(tokens))
    magic = job.tokens_file("magic.bin", tokens, magic=1)
    large = job.tokens_file("large.bin", [60000] * 4000)
    good = job.tokens_file("good.bin", tokens)
    half = job.folder / "half.bin"
    half.write_bytes(model.read_bytes()[:100000])
    all_refuse([
        ("no text", 2, ["--text", "/nonexistent/text", *SHORT], r"/nonexistent/text"),
        ("empty folder", 2, ["--text", job.folder / "void", *SHORT], r"void"),
        ("no token file", 2, ["--llmc-data", job.folder / "no*.bin", *SHORT], r"no\*\.bin"),
        ("truncated tokens", 2, ["--llmc-data", short, *SHORT], r"short\.bin"),
        ("no token file at all", 2, ["--llmc-data", magic, *SHORT], r"magic\.bin"),
        ("token outside the vocabulary, dp=2", 2,
         ["--llmc-data", large, *SHORT, "--mesh", "dp=2"], r"60000"),
        ("token outside the vocabulary, pp=2", 2,
         ["--llmc-data", large, *SHORT, "--mesh", "pp=2"], r"60000"),
        ("no model file", 2, ["--llmc-data", short, "--llmc-model", job.folder / "nil"], r"nil"),
        ("truncated model", 2, ["--llmc-data", good, "--llmc-model", half], r"half\.bin"),
    ])


def saves():
    run = job.folder / "run"
    job.train(2, *TEXTED, "--ckpt", run)
    refuses("checkpoint of another model", 2,
            ["--text", TEXT, "--model", "small", "--seq", 16, "--ckpt", run],
            r"step-00000002.*tensor|tensor.*step-00000002")
    refuses("no such checkpoint", 2, [*TEXTED, "--ckpt", run, "--resume", run / "step-00000077"],
            r"step-00000077")
    (job.folder / "file").write_text("no folder")
    refuses("a file in the way", 2, [*TEXTED, "--ckpt", job.folder / "file"], r"file")
    shard = next((run / "step-00000002").glob("s-*.h5"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:len(whole) // 2])
    refuses("truncated shard", 2, [*TEXTED, "--ckpt", run, "--resume", run / "step-00000002"],
            re.escape(shard.name))
    middle = len(whole) // 2
    shard.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:])
    refuses("altered shard", 2, [*TEXTED, "--ckpt", run, "--resume", run / "step-00000002"],
            re.escape(shard.name))
    shard.write_bytes(whole)
    manifest = run / "step-00000002" / "manifest.pldm"
    kept = manifest.read_bytes()
    manifest.write_bytes(kept[:50])
    refuses("truncated manifest", 2, [*TEXTED, "--ckpt", run, "--resume", run / "step-00000002"],
            r"manifest\.pldm")
    manifest.write_bytes(kept)


def no_permission():
    """As another user, for root may write anywhere."""
    if os.geteuid() != 0:
        job.note("not root: the test for a folder of another user is left out")
        return
    locked = job.folder / "locked"
    locked.mkdir(mode=0o700)
    job.folder.chmod(0o755)
    probe = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "test", "-x", job.gpt])
    if probe.returncode != 0:
        job.note("the program cannot be reached by another user: left out")
        return
    refuses("no permission", 2, [*TEXTED, "--ckpt", locked / "run"], r"locked",
            launch=["setpriv", "--reuid=65534", "--clear-groups", "env", f"HOME={job.folder}"])


def full_disk():
    small = job.folder / "small-disk"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", small],
                      capture_output=True).returncode != 0:
        job.note("no file system can be mounted here: the test for a full disk is left out")
        return
    try:
        # A save of the model takes 11 MB: the third does not fit.
        refuses("full disk", 2, [*TEXTED, "--steps", 8, "--save-every", 2, "--ckpt", small / "run"],
                r"[Nn]o space left")
        code, out, err = job.finish(job.start(2, *TEXTED, "--steps", 4, "--ckpt", small / "run"))
        job.ok(code == 0 and "step 4 of 4 is reached" in out,
               "full disk: what was saved before is there")
        if code != 0:
            job.note(out + err)
    finally:
        subprocess.run(["umount", small], check=False)


def ranks_of(launcher, limit=60):
    """Process numbers by rank, once the job trains."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                parent = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == launcher.pid:
                    env = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
                    found[int(re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", env)[1])] = int(pid)
            except (OSError, TypeError):
                pass
        if len(found) == 4 and METRICS.exists() and METRICS.stat().st_size > 0:
            return found
        time.sleep(0.1)
    return {}


def one_goes_wrong(what, how, environment):
    """What the other ranks say when a signal meets rank 1."""
    METRICS.unlink(missing_ok=True)
    launched = job.start(4, *TEXTED, "--steps", 10**6, "--mesh", "dp=2,pp=2", "--metrics", METRICS,
                         launch=["env", *environment])
    pids = ranks_of(launched)
    job.ok(len(pids) == 4, f"{what}: the job trains")
    if pids:
        os.kill(pids[1], how)
    code, out, err = job.finish(launched, 60)
    job.ok(code is not None, f"{what}: the job ends, status {code}")
    if pids and os.path.exists(f"/proc/{pids[1]}"):
        os.kill(pids[1], signal.SIGKILL)
    return err, pids.get(1)


def ranks():
    # The launcher would else end the others before they can speak.
    err, pid = one_goes_wrong("a rank is killed", signal.SIGKILL,
                              ["POLDER_TIMEOUT=60", "OMPI_MCA_orte_enable_recovery=1"])
    said = sorted(re.findall(r"^gpt: rank ([023]) of 4 stops: .*rank 1 .*$", err, re.M))
    named = re.findall(rf"process {pid}\) ended", err)
    job.ok(said == ["0", "2", "3"] and len(named) == 3,
           f"a rank is killed: ranks {said} name it") or job.note(err)
    err, pid = one_goes_wrong("a rank stands still", signal.SIGSTOP, ["POLDER_TIMEOUT=3"])
    said = re.findall(r"^gpt: (.*?)(?=^gpt: |^---|\Z)", err, re.M | re.S)
    job.ok(len(said) == 1 and "rank 1 (host" in said[0] and
           f"process {pid}) is stopped by a signal" in said[0],
           "a rank stands still: one report, whole") or job.note(err)


def short_on_one_rank(mesh):
    """Each rank has a disk of its own, and one of them loses data in the middle of a run."""
    METRICS.unlink(missing_ok=True)
    arguments = [os.path.abspath(job.gpt), "--text", "text", *SHORT, "--steps", 10**6,
                 "--mesh", mesh, "--metrics", METRICS]
    command = list(job.LAUNCH)
    for rank in range(2):
        disk = job.folder / f"disk-{rank}"
        disk.mkdir(exist_ok=True)
        (disk / "text").write_bytes(TEXT.read_bytes())
        command += [*([":"] if rank else []), "-np", "1", "-wdir", str(disk), *map(str, arguments)]
    launched = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=dict(job.ENV, POLDER_TIMEOUT="60"), start_new_session=True)
    end = time.monotonic() + 60
    while launched.poll() is None and time.monotonic() < end and not (
            METRICS.exists() and METRICS.stat().st_size > 0):
        time.sleep(0.1)
    os.truncate(disk / "text", 100)
    code, _, err = job.finish(launched, 60)
    said = re.findall(r"^gpt: (.*)$", err, re.M)
    job.ok(code == 1 and len(said) == 1 and "'text' has become shorter" in said[0],
           f"data lost on one rank, {mesh}: status {code}, {said}") or job.note(err)


def full_output():
    with open("/dev/full", "w") as full:
        for what, arguments in (("help", ["--help"]),
                                ("sample", [*TEXTED, "--steps", 0, "--sample", 5])):
            run = subprocess.run([job.gpt, *map(str, arguments)], stdout=full, text=True,
                                 stderr=subprocess.PIPE, env=job.ENV, timeout=60)
            job.ok(run.returncode == 1 and run.stderr.count("standard output") == 1,
                   f"{what} to a full disk: {run.stderr.strip()}")


METRICS = job.folder / "faults.jsonl"
(job.folder / "void").mkdir()
options()
data()
saves()
no_permission()
full_disk()
refuses("metrics where nothing can be written", 2, [*TEXTED, "--metrics", "/nonexistent/m.jsonl"],
        r"/nonexistent/m\.jsonl")
ranks()
for layout in ("pp=2", "dp=2"):
    short_on_one_rank(layout)
full_output()
job.done()
