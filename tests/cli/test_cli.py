#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""The command `polder`: exact texts, JSON, and every kind of damage.

test_cli.py MPIRUN POLDER ODD     (ODD writes the checkpoints, see odd.c)
"""
import contextlib
import json
import os
import pathlib
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tap import done, equal, mpirun, ok, run, skip

launcher = sys.argv[1]
tool, odd = (os.path.abspath(path) for path in sys.argv[2:])
UUID = re.compile(r"[0-9a-f]{32}")


def polder(*arguments, **options):
    return run(tool, *arguments, **options)


def answers(text, arguments, status, out, err):
    got = polder(*arguments)
    equal((got.returncode, got.stdout, got.stderr), (status, out, err), text)


HELP = """\
usage: polder COMMAND [OPTION]... [ARGUMENT]...

Commands:
  inspect          look into checkpoints
  trace            read what the ranks of a job recorded, and say where they part
  bench            measure collective operations, and compare them
  doctor           find out what keeps a machine or a job back
  help COMMAND     explain a command

Options:
  --help           print this text
  --version        print the version

Exit status: 0 all is well, 1 damaged or not readable, 2 wrong usage.
"""
HELP_INSPECT = """\
usage: polder inspect [--json] [--verify] PATH

Look into checkpoints, without loading them.  PATH is a run directory, whose
checkpoints are listed, or one checkpoint (RUN/step-00000012), whose tensors,
shards, state, numbers and texts are shown.

Options:
  --json           print one JSON object instead of text
  --verify         read every file whole and compare it with its hashes
  --help           print this text

Exit status: 0 all is well, 1 damaged or not readable, 2 wrong usage.
"""


def usage():
    for arguments in (["--help"], ["-h"], ["help"]):
        answers(f"polder {arguments[0]}", arguments, 0, HELP, "")
    for arguments in (["help", "inspect"], ["inspect", "--help"], ["inspect", "x", "-h"]):
        answers("polder " + " ".join(arguments), arguments, 0, HELP_INSPECT, "")
    ok(re.fullmatch(r"polder \d+\.\d+\.\d+\n", polder("--version").stdout), "polder --version")
    lists, options = '"polder --help" lists the commands', '"polder help inspect" lists the options'
    for arguments, sentence in (
            ([], f"no command given; {lists}"),
            (["inspct"], f'unknown command "inspct"; {lists}'),
            (["--jsn"], 'unknown option "--jsn"; "polder --help" lists the options'),
            (["help", "me"], f'unknown command "me"; {lists}'),
            (["help", "inspect", "it"], 'help explains one command, and "it" is one too many'),
            (["inspect"], "inspect needs a run directory or a checkpoint to look at"),
            (["inspect", "a", "b"], 'inspect takes one path, and "b" is one too many'),
            (["inspect", "--jsn", "a"], f'unknown option "--jsn"; {options}'),
            (["inspect", "--json=1", "a"], f'unknown option "--json=1"; {options}')):
        answers("polder " + " ".join(arguments), arguments, 2, "", f"polder: {sentence}\n")


def one_sentence(text, got, *names):
    """Nothing but one line on stderr, status 1, and it has the names in it."""
    ok(got.returncode == 1 and got.stdout == "" and got.stderr.startswith("polder: ") and
       got.stderr.count("\n") == 1 and all(str(n) in got.stderr for n in names),
       f"{text}: {got.stderr.strip()!r}")


def nothing_there(work):
    empty, file = work / "empty", work / "file"
    empty.mkdir()
    file.write_text("no directory")
    answers("an empty directory", ["inspect", empty], 0, f"{empty}: no checkpoints\n", "")
    got = polder("inspect", "--json", empty)
    equal((got.returncode, json.loads(got.stdout)), (0, {"checkpoints": []}), "the same as JSON")
    for path in (work / "none", work / "step-00000001", file, file / "below"):
        one_sentence(f"inspect {path.name}", polder("inspect", path), path)
        one_sentence(f"inspect --json {path.name}", polder("inspect", "--json", path), path)
    (work / "-dash").mkdir()
    got = run(tool, "inspect", "--", "-dash", cwd=work)
    equal(got.stdout, "-dash: no checkpoints\n", "-- ends the options")


def masked(text, folder):
    """What differs from run to run and from machine to machine, made equal."""
    text = UUID.sub("UUID", text).replace(str(folder), "RUN")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "TIME", text)
    text = re.sub(r"polder \d+\.\d+\.\d+,", "polder VERSION,", text)
    text = re.sub(r"^(size +)[\d.]+ \w+", r"\1SIZE", text, flags=re.M)
    text = re.sub(r"^(shards +size)  host .*", r"\1  host  file", text, flags=re.M)
    text = re.sub(r"^( +\d)  +[\d.]+ \w+  \S+ +(s-UUID)", r"\1  SIZE  HOST  \2", text, flags=re.M)
    return re.sub(r"^( +\d+)  +[\d.]+ \w+  (\w+  step)", r"\1  SIZE  \2", text, flags=re.M)


RUN_TEXT = """\
RUN: 2 checkpoints

        step        size  state     name
           3  SIZE  complete  step-00000003
          12  SIZE  complete  step-00000012
"""
SNAPSHOT_TEXT = """\
checkpoint  RUN/step-00000012
state       complete
step        12
saved       TIME
mesh        pp=2, 2 ranks
size        SIZE in 2 shards
written by  polder VERSION, format 1, codec raw
uuid        UUID

numbers and texts
  loss   2.25
  größe  line?break ?[31mred é

state
  rng         3 bytes
  optim/step  8 bytes

shards        size  host  file
     0  SIZE  HOST  s-UUID-00000.h5
     1  SIZE  HOST  s-UUID-00001.h5

tensors                  dtype  shape          stored  slots
  a.name.that.is.so.long.that.no.table.of.eighty.columns.has.room.for.it
                         f64    7                56 B  exp_avg exp_avg_sq
  brain                  bf16   64              128 B  exp_avg exp_avg_sq master
  cube                   f32    3 x 5 x 7       420 B  exp_avg exp_avg_sq
  embedding              f32    1000 x 64   250.0 KiB  exp_avg exp_avg_sq
  half                   f16    64              128 B  exp_avg exp_avg_sq master

on disk
  values             5 tensors   250.7 KiB for 250.7 KiB of data
  exp_avg            5 tensors   251.0 KiB for 251.0 KiB of data
  exp_avg_sq         5 tensors   251.0 KiB for 251.0 KiB of data
  master             2 tensors       512 B for 512 B of data
"""


def texts(work):
    run_path, last = work / "raw", work / "raw/step-00000012"
    got = polder("inspect", run_path)
    equal((got.returncode, got.stderr), (0, ""), "inspect RUN succeeds")
    equal(masked(got.stdout, run_path), RUN_TEXT, "inspect RUN prints what it should")
    got = polder("inspect", last)
    equal((got.returncode, got.stderr), (0, ""), "inspect CHECKPOINT succeeds")
    equal(masked(got.stdout, run_path), SNAPSHOT_TEXT, "inspect CHECKPOINT prints what it should")
    long = [t for t in got.stdout.splitlines() if len(t) > 80 and not t.startswith("checkpoint ")]
    equal(long, [], "within 80 columns")
    for options in (["--verify"], ["--verify", "--"]):
        got = polder("inspect", *options, run_path)
        equal(masked(got.stdout, run_path), RUN_TEXT.replace("complete", "verified"),
              f"inspect {options[0]} RUN")
    ok("state       verified\n" in polder("inspect", last, "--verify").stdout, "options may follow")
    got = polder("inspect", "raw/step-00000012/../../raw/step-00000012/", cwd=work)
    equal(got.stdout.splitlines()[1:], polder("inspect", last).stdout.splitlines()[1:],
          "any form of the path")
    shutil.copytree(last, work / "best")
    ok("step        12\n" in polder("inspect", work / "best").stdout, "under another name")
    equal(polder("inspect", work / "zstd").returncode, 0, "a compressed run")
    got = polder("inspect", "--verify", work / "zstd/step-00000003").stdout
    ok("codec zstd" in got and "state       verified" in got, "a compressed checkpoint")


def json_of(*arguments):
    return json.loads(polder("inspect", "--json", *arguments).stdout)


def files_bytes(folder):
    return sum(f.stat().st_size for f in folder.iterdir())


TENSORS = {"embedding": ("f32", [1000, 64]), "brain": ("bf16", [64]), "half": ("f16", [64]),
           "cube": ("f32", [3, 5, 7]),
           "a.name.that.is.so.long.that.no.table.of.eighty.columns.has.room.for.it": ("f64", [7])}
WIDTH = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2}


def json_run(work):
    got = json_of(work / "raw")
    equal(list(got), ["checkpoints"], "JSON of a run: its member")
    equal([set(c) for c in got["checkpoints"]],
          2 * [{"step", "path", "complete", "bytes", "problem"}], "and theirs")
    for c, step in zip(got["checkpoints"], (3, 12)):
        path = work / f"raw/step-{step:08}"
        equal((c["step"], c["complete"], c["problem"], c["bytes"], c["path"]),
              (step, True, "", files_bytes(path), str(path)), f"JSON of step {step}")
    got = json_of("--verify", work / "raw")
    equal([c["verified"] for c in got["checkpoints"]], [True, True], "JSON says verified")


def json_tensors(tensors, compressed):
    values = {t["name"]: t for t in tensors if t["slot"] == ""}
    equal({n: (t["dtype"], t["shape"]) for n, t in values.items()}, TENSORS, "JSON: the tensors")
    for t in tensors:
        count = 1
        for size in t["shape"]:
            count *= size
        equal(t["bytes"], count * WIDTH[t["dtype"]], f"JSON: bytes of {t['name']} {t['slot']}")
        ok(t["boxes"] == 1, f"JSON: {t['name']} {t['slot']} is in one piece")
    ok(all(t["stored_bytes"] == t["bytes"] for t in tensors) != compressed,
       f"JSON: stored bytes are {'less' if compressed else 'the same'}")
    equal({t["name"] for t in tensors if t["slot"] == "exp_avg"}, set(TENSORS), "JSON: the slots")
    equal({t["name"] for t in tensors if t["slot"] == "master"}, {"half", "brain"}, "JSON: masters")


def json_snapshot(work, codec):
    path = work / codec / "step-00000012"
    got = json_of(path)
    equal(set(got), {"step", "path", "uuid", "mesh", "time", "version", "codec", "ranks", "bytes",
                     "format", "complete", "problem", "tensors", "shards", "state", "numbers",
                     "texts"}, f"JSON of a {codec} checkpoint: members")
    equal([got[k] for k in ("step", "path", "mesh", "codec", "ranks", "format", "complete")],
          [12, str(path), "pp=2", codec, 2, 1, True], "JSON: what they say")
    ok(UUID.fullmatch(got["uuid"]) and abs(got["time"] - time.time()) < 600, "JSON: uuid and time")
    equal(got["version"], polder("--version").stdout.split()[1], "JSON: version")
    equal(got["bytes"], files_bytes(path), "JSON: bytes of all files")
    equal({s["name"]: s["bytes"] for s in got["shards"]},
          {f.name: f.stat().st_size for f in path.glob("s-*.h5")}, "JSON: shards")
    equal([(s["rank"], s["present"]) for s in got["shards"]], [(0, True), (1, True)], "their ranks")
    ok(all(got["uuid"] in s["name"] for s in got["shards"]), "JSON: shards are called by the uuid")
    ok({"key": "rng", "bytes": 3} in got["state"], "JSON: state")
    equal((got["numbers"]["loss"], got["texts"]["größe"]), (2.25, "line\nbreak \033[31mred é"),
          "JSON: numbers and texts")
    json_tensors(got["tensors"], codec == "zstd")


@contextlib.contextmanager
def damaged(work, codec="raw"):
    """A copy of a run; yields its folder, its newest checkpoint and that one's manifest."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        copy = pathlib.Path(folder, "run")
        shutil.copytree(work / codec, copy)
        last = copy / "step-00000012"
        yield copy, last, last / "manifest.pldm"


def reported(text, copy, name, *options):
    """The run lists the other checkpoint as whole and this one as damaged, naming the file."""
    got = polder("inspect", *options, copy)
    flat = " ".join(got.stdout.split())
    ok(got.returncode == 1 and got.stderr == "" and got.stdout.count("damaged ") == 1 and
       name in flat.split("damaged", 1)[1], f"{text}: the run says so: {flat[-160:]!r}")
    data = polder("inspect", "--json", *options, copy)
    bad = [c for c in json.loads(data.stdout)["checkpoints"] if not c["complete"]]
    ok(data.returncode == 1 and [c["step"] for c in bad] == [12] and name in bad[0]["problem"],
       f"{text}: and so does its JSON")


def bad_manifest(work):
    with damaged(work) as (copy, last, manifest):
        whole = manifest.read_bytes()
        for length in (0, 1, 63, 64, 65, len(whole) // 2, len(whole) - 1):
            manifest.write_bytes(whole[:length])
            one_sentence(f"manifest of {length} bytes", polder("inspect", last), manifest.name)
        reported("short manifest", copy, manifest.name)
        for at in range(0, len(whole), max(1, len(whole) // 60)):
            changed = bytearray(whole)
            changed[at] ^= 0x10
            manifest.write_bytes(changed)
            got = polder("inspect", last)
            if got.returncode != 1 or got.stdout or not got.stderr.startswith("polder: "):
                ok(False, f"manifest with byte {at} changed: {got.returncode} {got.stderr!r}")
        ok(True, "a changed manifest, wherever the byte is")
        manifest.unlink()
        one_sentence("no manifest", polder("inspect", last), last)
        reported("no manifest", copy, manifest.name)


def bad_shard(work):
    with damaged(work) as (copy, last, _):
        shard = sorted(last.glob("s-*.h5"))[1]
        whole = shard.read_bytes()
        for text, action in (("shard too short", lambda: shard.write_bytes(whole[:-1])),
                             ("empty shard", lambda: shard.write_bytes(b"")),
                             ("shard too long", lambda: shard.write_bytes(whole + b"x")),
                             ("no shard", shard.unlink)):
            action()
            reported(text, copy, shard.name)
            got = polder("inspect", last)
            flat = " ".join(got.stdout.split())
            ok(got.returncode == 1 and "state damaged" in flat and shard.name + " damaged" in flat,
               f"{text}: the checkpoint says so")
            data = json.loads(polder("inspect", "--json", last).stdout)
            equal((data["complete"], [s["present"] for s in data["shards"]]),
                  (False, [True, False]), f"{text}: and its JSON")


def flipped(work, codec):
    """A changed byte is found by --verify alone, in data and metadata."""
    with damaged(work, codec) as (copy, last, _):
        shard = sorted(last.glob("s-*.h5"))[0]
        whole = shard.read_bytes()
        missed = []
        for at in range(0, len(whole), max(1, len(whole) // 40)):
            changed = bytearray(whole)
            changed[at] ^= 1
            shard.write_bytes(changed)
            got = polder("inspect", "--verify", last)
            flat = " ".join(got.stdout.split())
            if got.returncode != 1 or "state damaged" not in flat or shard.name not in flat:
                missed.append(at)
        equal(missed, [], f"--verify finds a flipped bit anywhere in a {codec} shard")
        equal(polder("inspect", last).returncode, 0, "without --verify it is not looked for")
        reported("flipped bit", copy, shard.name, "--verify")


def forbidden(work):
    """No permission, as somebody whom permissions concern."""
    shutil.copy(tool, work)
    library = re.search(r"=> (\S*libpolder\S*)", run("ldd", tool).stdout)[1]
    shutil.copy(library, work / pathlib.Path(library).name)
    someone = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
    environment = {**os.environ, "LD_LIBRARY_PATH": str(work)}
    work.chmod(0o755)
    with damaged(work) as (copy, last, _):
        copy.parent.chmod(0o755)
        for path, sentence in ((last, last), (copy, copy)):
            path.chmod(0)
            got = run(work / "polder", "inspect", path, env=environment, **someone)
            one_sentence(f"no permission for {path.name}", got, sentence, "ermission")
            path.chmod(0o755)
        shard = sorted(last.glob("s-*.h5"))[0]
        shard.chmod(0)
        got = run(work / "polder", "inspect", "--verify", last, env=environment, **someone)
        ok(got.returncode == 1 and shard.name in got.stdout and "ermission" in got.stdout,
           "no permission for a shard")


def output(work):
    with open("/dev/full", "w", encoding="utf-8") as full:
        got = subprocess.run([tool, "inspect", work / "raw"], stdout=full, text=True,
                             stderr=subprocess.PIPE, timeout=60, check=False)
    equal((got.returncode, got.stderr),
          (1, "polder: cannot write the output: No space left on device\n"), "a full disk is told")
    ok("\033[" not in polder("inspect", work / "raw").stdout, "colours: a pipe: none")
    try:
        os.close(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        skip("colours on a terminal", f"this machine has no terminals: {error}")
        return
    for text, want, extra in (("a terminal", True, {}), ("NO_COLOR", False, {"NO_COLOR": "1"}),
                              ("a dumb terminal", False, {"TERM": "dumb"})):
        variables = {"TERM": "xterm", "NO_COLOR": "", **extra}
        shown = terminal(tool, "inspect", work / "raw", **variables)
        ok("step-00000012" in shown and ("\033[" in shown) == want, f"colours: {text}: {want}")


def terminal(*command, **variables):
    """What the command writes to a terminal."""
    leader, follower = pty.openpty()
    subprocess.run([str(c) for c in command], stdout=follower, env={**os.environ, **variables},
                   timeout=60, check=False)
    os.close(follower)
    text = b""
    with contextlib.suppress(OSError), os.fdopen(leader, "rb", buffering=0) as reader:
        while chunk := reader.read(4096):
            text += chunk
    return text.decode()


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        usage()
        nothing_there(work)
        for codec in ("raw", "zstd"):
            got = mpirun(launcher, 2, odd, work / codec, codec)
            if not ok(got.returncode == 0, f"checkpoints are written with {codec}"):
                print("# " + got.stderr.replace("\n", "\n# "))
                done()
            json_snapshot(work, codec)
            flipped(work, codec)
        texts(work)
        json_run(work)
        bad_manifest(work)
        bad_shard(work)
        forbidden(work)
        output(work)
    done()


main()
