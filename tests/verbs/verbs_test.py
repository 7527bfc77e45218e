#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""polder over InfiniBand verbs: UCX on soft-RoCE, in one emulated machine or in two.

verbs_test.py one|pair FOLDER TEXT host_tsc verbs_coll [gpt]

That the network device carried the data is read off its counters: at least as many
packets as the bytes need that ranks cannot have got otherwise.  The control, in the same
boot, is the same program over Open MPI's ob1: the counters stand still.
"""
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import machine

LIMIT_S, JOB_LIMIT_S = 900, 200  # for a machine that shares its processors with many
PAYLOAD = 4096  # the most bytes of a message that one packet carries
FILES = ["guest.sh", "rsh"]
UCX = ["--mca", "pml", "ucx", "--mca", "btl", "^vader,tcp,openib"]
# The check: UCX before 1.19 drops every RoCE packet with an IPv4 address on devices
# other than Mellanox's.
VERBS = {"UCX_NET_DEVICES": "rxe0:1", "UCX_UD_VERBS_ETH_DGID_CHECK": "n", "UCX_LOG_LEVEL": "info"}
TRAINING = "--model tiny --mesh dp=2,pp=2 --batch 4 --microbatches 2 --seq 8 " \
           "--decay constant".split()
STEPS, ALL_STEPS = 3, 4  # of a training; of that which is interrupted, and of the host's
CHECKPOINTS = "/run/checkpoints"

count = failed = 0


def ok(condition, text, why=""):
    global count, failed
    count += 1
    failed += not condition
    print(f"{'' if condition else 'not '}ok {count} - {text}")
    for line in [] if condition else why.splitlines():
        print(f"#   {line}")
    sys.stdout.flush()


def tail(path, lines=25):
    text = path.read_text(errors="replace") if path.exists() else "(no output)"
    return "\n".join(text.splitlines()[-lines:])


def wide_registers():
    flags = re.search(r"^flags\s*:(.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return flags is not None and {"avx2", "fma", "f16c"} <= set(flags[1].split())


def same_arithmetic():
    """Variables by which the processors of host and machine compute alike."""
    wide = wide_registers()
    return {"OPENBLAS_CORETYPE": "Haswell" if wide else "Nehalem", "OPENBLAS_NUM_THREADS": "1",
            "POLDER_ISA": "avx2" if wide else "scalar"}


def mpirun(ranks, where, wire, variables, program):
    command = ["mpirun", "--bind-to", "none", "-np", str(ranks)]
    if where == "pair":
        command += "--host vma:2,vmb:2 --mca plm_rsh_agent /polder/rsh " \
                   "--mca plm_rsh_no_tree_spawn 1 --mca oob_tcp_if_include eth0".split()
    else:
        command += ["--oversubscribe"]
    if wire == "ob1":
        tcp = "--mca btl_tcp_if_include eth0".split() if where == "pair" else []
        command += ["--mca", "pml", "ob1", "--mca", "btl", "^openib"] + tcp
    else:
        command += UCX
        variables = {**variables, **VERBS, "UCX_TLS": f"{wire}_v,self"}
    for name, value in variables.items():
        command += ["-x", f"{name}={value}"]
    return command + program


class Job:
    """Something run in the machine, and what must be true of it."""

    def __init__(self, where, wire, ranks, what, program, shm=True, nodes=0):
        self.wire, self.what, self.shm = wire, what, shm
        self.name = f"{what}-{ranks}-{wire}"
        self.text = f"{what}, {ranks} ranks, {wire}" + (", nodes" if shm else "")
        variables = {} if shm else {"POLDER_SHM": "0"}
        if nodes:
            variables["POLDER_FAKE_NODES"] = str(nodes)
        if what != "collectives":
            variables.update(same_arithmetic())
            program = program + ["--metrics", f"/polder/{self.name}.jsonl"]
        self.command = mpirun(ranks, where, wire, variables, program)

    def line(self):
        return f"job {self.name} {JOB_LIMIT_S} {shlex.join(self.command)}\n"

    def read(self, folder):
        """Exit status and packets, and what it said."""
        output = folder / f"{self.name}.out"
        facts = folder / f"{self.name}.facts"
        self.numbers = [int(n) for n in facts.read_text().split()] if facts.exists() else []
        self.said = output.read_text(errors="replace") if output.exists() else ""
        self.steps = read_steps(folder / f"{self.name}.jsonl")
        stuck = folder / f"{self.name}.stuck"
        self.why = "\n".join([f"status and packets: {self.numbers or 'it never ended'}",
                              stuck.read_text() if stuck.exists() else "",
                              *self.said.splitlines()[-60 if stuck.exists() else -25:]])

    def check(self, folder, host):
        self.read(folder)
        ok(self.numbers[:1] == [0], f"{self.text}: runs to its end", self.why)
        if self.numbers[:1] == [0]:
            needed = self.check_collectives() if self.what == "collectives" \
                else self.check_training(host)
            self.check_packets(self.numbers[1:], needed)

    def check_collectives(self):
        found = re.search(r"calls (\d+) received (\d+) crossing (\d+) wrong (\d+)", self.said)
        ok(found is not None and int(found[1]) > 1000 and found[4] == "0",
           f"{self.text}: every element of {found[1] if found else 'no'} results is right",
           self.why)
        return int(found[3 if self.shm else 2]) if found else 0

    def check_training(self, host):
        first = min(self.steps, default=0)
        steps = range(first, (STEPS if self.what == "training" else ALL_STEPS) + 1)
        before = re.search(r"resumed after step (\d+)", self.said)
        ok(first == (int(before[1]) if before else 0) + 1 and
           (before is None) == (self.what == "training") and
           self.steps == {step: host.get(step) for step in steps},
           f"{self.text}: loss and gradient norm of steps {first} to {steps[-1]} are those of "
           "shared memory on the host, to the last digit", f"host {host}\nhere {self.steps}")
        found = re.search(r"([\d.]+) million parameters", self.said)
        # Both data-parallel ranks of a stage receive the other's gradients, each step.
        return int(2 * len(steps) * 4 * (float(found[1]) - 0.05) * 1e6)

    def check_packets(self, packets, needed):
        sent, received = packets[0::2], packets[1::2]
        if self.wire == "ob1":
            ok(len(packets) > 0 and set(packets) == {0},
               f"{self.text}: no packet went through the device", str(packets))
            return
        used = set(re.findall(r"\b\w+_verbs(?=/rxe0:1)", self.said))
        ok(f"{self.wire}_verbs" in used, f"{self.text}: UCX names {self.wire}_verbs on rxe0",
           f"{sorted(used)}")
        ok(min(packets, default=0) > 0 and
           min(sum(sent), sum(received)) * PAYLOAD >= needed > 0,
           f"{self.text}: {sum(received)} packets carried the {needed / 1e6:.1f} MB",
           f"sent {sent} received {received}, which is less than {needed} bytes")


class Interrupted(Job):
    """A training whose network fails after the first checkpoint: it must end, with an error."""

    def line(self):
        return f"cut_after {CHECKPOINTS}/step-00000001 &\ncutter=$!\n{super().line()}mend\n"

    def check(self, folder, host):
        self.read(folder)
        ended = self.numbers[:1] not in ([], [0], [124], [137])
        ok(ended and 0 < len(self.steps) < ALL_STEPS,
           f"{self.text}: when the network fails, after step {len(self.steps)}, the job ends with "
           f"status {self.numbers[:1]}", self.why)


def read_steps(path):
    """Loss and gradient norm by step, as they are written."""
    if not path.exists():
        return {}
    records = [json.loads(line, parse_float=str) for line in path.read_text().splitlines()]
    return {r["step"]: (r["loss"], r["grad_norm"]) for r in records if "loss" in r}


def train_on_host(gpt, folder):
    metrics = folder / "host.jsonl"
    more = ["--steps", str(ALL_STEPS), "--metrics", str(metrics)]
    command = mpirun(4, "one", "ob1", same_arithmetic(), gpt + more)
    if os.geteuid() == 0:
        command.insert(1, "--allow-run-as-root")
    run = subprocess.run(command, capture_output=True, text=True, timeout=120,
                         preexec_fn=machine.die_with_parent(signal.SIGTERM))
    steps = read_steps(metrics)
    ok(run.returncode == 0 and len(steps) == ALL_STEPS, "training, 4 ranks, on the host",
       run.stdout[-1000:] + run.stderr[-1000:])
    return steps


def jobs(where, coll, gpt):
    """What is run; of two machines, each has two of the four ranks."""
    some = coll + ["4"]  # of the sizes
    if where == "one":
        list_ = [Job(where, "rc", 4, "collectives", coll, nodes=2),
                 Job(where, "ud", 4, "collectives", some, shm=False)]
    else:
        list_ = [Job(where, "rc", 4, "collectives", coll)]
    if where == "one" or not gpt:
        list_.append(Job(where, "ob1", 4, "collectives", some, shm=where != "one"))
    if gpt:
        wires = ("rc", "ud") if where == "one" else ("rc", "ob1")
        list_ += [Job(where, wire, 4, "training", gpt + ["--steps", str(STEPS)], shm=False)
                  for wire in wires]
    if gpt and where == "one":
        saving = gpt + ["--steps", str(ALL_STEPS), "--save-every", "1", "--ckpt", CHECKPOINTS]
        list_ += [Interrupted(where, "rc", 4, "interrupted", saving, shm=False),
                  Job(where, "rc", 4, "resumed", saving, shm=False)]
    return list_


def run_machines(images, folder, where):
    """Until all have ended; a machine that fails takes the other with it."""
    machines = machine.boot(images, folder, 1 if where == "one" else 2)
    end = time.monotonic() + LIMIT_S
    try:
        while any(m.poll() is None for m in machines):
            if time.monotonic() > end or any(m.poll() for m in machines):
                break
            time.sleep(0.1)
        codes = [m.poll() for m in machines]
        ok(set(codes) == {0}, f"machines started and ended: {len(machines)}",
           "\n".join([f"exit statuses {codes}"] + [tail(c) for c in folder.glob("console.*")]))
    finally:
        for m in machines:
            m.kill()
            m.wait()


def main():
    where, paths = sys.argv[1], [pathlib.Path(a).resolve() for a in sys.argv[2:]]
    folder, text, host_tsc, coll = paths[:4]
    gpt = [str(paths[4]), "--text", str(text)] + TRAINING if len(paths) > 4 else []
    begin = time.monotonic()
    try:
        images = machine.kernel(folder / "kernel", host_tsc)
    except machine.Absent as absent:
        print(f"1..0 # SKIP {absent}")
        return
    share = folder / where
    shutil.rmtree(share, ignore_errors=True)
    share.mkdir()
    for name in FILES:
        shutil.copy(machine.HERE / name, share)
    host = train_on_host(gpt, share) if gpt else {}
    list_ = jobs(where, [str(coll)], gpt)
    (share / "jobs.sh").write_text("".join(job.line() for job in list_))
    run_machines(images, share, where)
    for job in list_:
        job.check(share, host)
    print(f"1..{count}\n# {time.monotonic() - begin:.0f} s")
    sys.exit(failed != 0)


main()
