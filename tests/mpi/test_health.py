#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs in which a rank goes wrong: who is told what, and that nothing stays behind.

test_health.py MPIRUN PROGRAM SOURCE LATE GONE POLDER PART
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tap import done, equal, ok, skip

mpirun, program, source, late, gone, polder, part = sys.argv[1:]
OTHERS = {"late": late, "gone": gone}  # they have the fault as how
LINES = {m[1]: number for number, text in enumerate(open(source), 1)
         if (m := re.search(r"/\* line: (\w+) \*/", text))}
LAUNCH = [mpirun, "--oversubscribe", "--bind-to", "none", "--enable-recovery"]
if os.geteuid() == 0:
    LAUNCH.append("--allow-run-as-root")
DEADLINE = 3  # of those that nothing else ends; no others may meet one on a machine with other work
HANGS = ("loop", "stop", "read", "lonely")
LIMIT = 60  # for a whole run, on a machine with other work


def site(name):
    return f"{pathlib.Path(source).name}:{LINES[name]}"


def left_behind(mark):
    """Shared memory with a name, and processes that were started with the mark."""
    # Folders there are those of other tests, which may run at the same time.
    shm = {e.name for e in os.scandir("/dev/shm") if "polder" in e.name and not e.is_dir()}
    processes = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in open(f"/proc/{pid}/environ", "rb").read():
                processes.add(pid)
        except OSError:
            pass
    return shm, processes


def comment(text):
    print("# " + text.replace("\n", "\n# "), flush=True)


class Job:
    """One run: what its ranks said."""
    runs = 0

    def __init__(self, fault, ranks, how="block", **environment):
        command = [OTHERS[fault], how] if fault in OTHERS else [program, fault, how]
        self.name = f"{fault}, {ranks} ranks, {how} {environment or ''}"
        environment = {"POLDER_TIMEOUT": str(DEADLINE if fault in HANGS else 30), **environment}
        Job.runs += 1
        mark = f"{os.getpid()}-{Job.runs}"
        environment["HEALTH_TEST"] = mark
        before = left_behind(mark)
        start = time.monotonic()
        try:
            run = subprocess.run(LAUNCH + ["-np", str(ranks)] + command, timeout=LIMIT,
                                 capture_output=True, text=True, errors="replace",
                                 env={**os.environ, **environment})
            self.text = run.stdout
            ok(True, f"{self.name}: the job ends")
        except subprocess.TimeoutExpired as slow:
            said = [(s or b"").decode(errors="replace") for s in (slow.stdout, slow.stderr)]
            self.text = said[0]
            ok(False, f"{self.name}: the job ends")
            comment("\n".join(said))
        self.seconds = time.monotonic() - start
        self.errors = {int(rank): (code, text) for rank, code, text in
                       re.findall(r"^rank (\d+): (\w+): (.*?)\nEND", self.text, re.M | re.S)}
        self.again = dict(re.findall(r"^again (\d+): (\w+)", self.text, re.M))
        self.gave_up = sorted(map(int, re.findall(r"^give-up (\d+)", self.text, re.M)))
        self.reports = re.findall(r"^REPORT (.*?)\nEND", self.text, re.M | re.S)
        for _ in range(100):
            if not left_behind(mark)[1]:
                break
            time.sleep(0.05)
        after = left_behind(mark)
        ok(after[0] <= before[0] and not after[1], f"{self.name}: nothing is left behind")

    def says(self, condition, what):
        if not ok(condition, f"{self.name}: {what}"):
            comment(self.text)


def codes(job):
    return {rank: code for rank, (code, _) in job.errors.items()}


def closed(job):
    return dict(re.findall(r"^closed (\d+): (\w+)", job.text, re.M))


def mismatches():
    """Refused on every rank, before data move, with both places."""
    wanted = {
        "count": ("f32[100] sum", "reduce", "f32[101] sum", "reduce"),
        "dtype": ("f32[100] sum", "reduce", "i32[100] sum", "dtype"),
        "op": ("f32[100] sum", "reduce", "f32[100] max", "op"),
        "order": ("allreduce #", "reduce", "barrier #", "order"),
        "root": ("rank 0 at", "root", "rank {last} at", "root"),
    }
    for number, (fault, (left, left_site, right, right_site)) in enumerate(wanted.items()):
        for shm in "1", "0":
            ranks = 2 + (number + int(shm)) % 3
            last = ranks - 1
            job = Job(fault, ranks, "request" if number % 2 else "block", POLDER_SHM=shm)
            job.says(codes(job) == dict.fromkeys(range(ranks), "PLD_ERR_MISMATCH"),
                     "all ranks get PLD_ERR_MISMATCH")
            text = job.errors.get(0, ("", ""))[1]
            job.says(all(t == text for _, t in job.errors.values()), "with one sentence")
            found = re.search(r"rank (\d+): (.*?); rank (\d+): (.*)", text)
            low, high = (found[2], found[4]) if found else ("", "")
            job.says(found and int(found[3]) == last, "the rank is named")
            job.says(left in low and site(left_site) in low, "what the others do, and where")
            job.says(right.format(last=last) in high and site(right_site) in high,
                     "what it does, and where")
            job.says(set(job.again.values()) == {"PLD_OK"}, "the group goes on")
            job.says(not job.reports and not job.gave_up, "no deadline has passed")
    job = Job("message-dtype", 3, POLDER_CHECK="sync")
    job.says({rank: code for rank, code in codes(job).items() if rank < 2} ==
             {0: "PLD_ERR_MISMATCH", 1: "PLD_ERR_MISMATCH"}, "both ends are told")
    job.says(all(site("send") in t and site("recv") in t for _, t in job.errors.values()),
             "with both places")


def check_report(job, culprit, state, waiting):
    others = [r for r in codes(job) if r != culprit]
    job.says(len(job.reports) == 1, f"one report, not {len(job.reports)}")
    report = job.reports[0] if job.reports else ""
    line = next((x for x in report.splitlines() if x.startswith(f"  rank {culprit} ")), "")
    job.says(state in line and re.search(r"host \S+, process \d+", line),
             f"rank {culprit} is named, with host, process and '{state}'")
    job.says(site("reduce") + " (warm up)" in line, "and its last call")
    waiters = next((x for x in report.splitlines() if "wait" in x and waiting in x), "")
    job.says(site("reduce") + " (bucket 9)" in waiters and "f32[100] sum" in waiters,
             "who waits where")
    job.says(all(codes(job).get(r) == "PLD_ERR_TIMEOUT" and site("reduce") in job.errors[r][1]
                 for r in others), "those who waited get PLD_ERR_TIMEOUT, and the report")


def hangs(environments):
    for number, environment in enumerate(environments):
        ranks = int(environment.pop("RANKS"))
        last = ranks - 1
        waiting = f"ranks 0-{last - 1}" if last > 1 else "rank 0 waits"
        for fault, state, how in (("loop", "never came: running", "block"),
                                  ("stop", "stopped by a signal (state T)", "request")):
            job = Job(fault, ranks, how, **environment)
            check_report(job, last, state, waiting)
            job.says(job.gave_up == list(range(ranks)), "each rank is told once")
            job.says(codes(job).get(last) == "PLD_ERR_TIMEOUT",
                     "the culprit gets the error at its next call")
            job.says(set(job.again.values()) == {"PLD_ERR_TIMEOUT"}, "and all later calls")
        job = Job("read", ranks, POLDER_ON_TIMEOUT="abort", **environment)
        job.says(len(job.reports) == 1 and "sleeping in read()" in job.reports[0],
                 "reading is told from computing")
        job.says(not job.errors and "closed" not in job.text, "with abort nobody returns")
        job = Job("kill", ranks, **environment)
        job.says(codes(job) == dict.fromkeys(range(last), "PLD_ERR_PEER"),
                 "all others get PLD_ERR_PEER")
        job.says(all(re.search(rf"rank {last} \(.*process \d+\) ended", t)
                     for _, t in job.errors.values()), "with its rank and process")
        job.says(any(site("reduce") + " (warm up)" in t for _, t in job.errors.values()),
                 "and its last call")
        job.says(not job.reports, "no deadline has passed")


def nodes():
    """Whoever is stopped, another rank of its node answers; a node without one is named."""
    job = Job("stop", 4, POLDER_FAKE_NODES="2", HEALTH_CULPRIT="0")
    check_report(job, 0, "stopped by a signal (state T)", "ranks 1-3")
    job.says(set(codes(job).values()) == {"PLD_ERR_TIMEOUT"} and len(job.errors) == 4,
             "all get the error")
    job = Job("stop", 3, POLDER_FAKE_NODES="3")
    job.says(len(job.reports) == 1 and re.search(r"rank 2 .* cannot be asked", job.reports[0]),
             "who is alone on a node, and stopped, cannot be asked")
    # Nobody could tell the stopped rank: it finds out by its own deadline.
    job.says(codes(job).get(0) == codes(job).get(1) == "PLD_ERR_TIMEOUT", "the others go on")


def shorts():
    for shm in "1", "0":
        job = Job("short", 3, POLDER_SHM=shm)
        job.says(codes(job) == {0: "PLD_ERR_PEER", 1: "PLD_ERR_PEER"}, "the others are told")
        job.says(all("rank 2 (" in t and "left the job" in t and site("reduce") in t
                     for _, t in job.errors.values()), "that it left, and where they wait")
        job = Job("lonely", 2, POLDER_SHM=shm)
        job.says(codes(job) == {1: "PLD_ERR_TIMEOUT"}, "a message that nobody sends")
        job.says(job.reports and site("recv") in job.reports[0] and
                 re.search(r"rank 0 .* left the job", job.reports[0]), "is reported")
    for shm in "1", "0":
        # Those of its own node are told, and close; the others only know the deadline.
        job = Job("short", 4, "quiet", POLDER_SHM=shm, POLDER_FAKE_NODES="2",
                  POLDER_TIMEOUT=str(DEADLINE), HEALTH_CULPRIT="0")
        job.says(codes(job) == {1: "PLD_ERR_PEER", 2: "PLD_ERR_TIMEOUT", 3: "PLD_ERR_TIMEOUT"},
                 "its node is told that it left, the other at the deadline")
        job.says(closed(job) == dict.fromkeys("0123", "PLD_ERR_PEER"),
                 "and nobody goes to MPI_Finalize")
    job = Job("slow", 3, POLDER_TIMEOUT="30")
    job.says(not job.errors and not job.reports and job.text.count("closed") == 3,
             "who is slow is let alone")
    job = Job("slow", 3, POLDER_TIMEOUT="0")
    job.says(not job.errors and job.text.count("closed") == 3, "without a deadline, too")
    job = Job("slow", 2, POLDER_TIMEOUT="soon")
    job.says('POLDER_TIMEOUT is "soon"' in job.text, "a deadline that is none is refused")


def lates():
    """Watchdogs that have not looked yet: nobody waits in MPI_Finalize for a rank that is dead."""
    for ranks, how, environment in ((3, "block", {}), (3, "block", {"POLDER_SHM": "0"}),
                                    (4, "block", {"POLDER_FAKE_NODES": "2"}),
                                    (2, "elsewhere", {"POLDER_FAKE_NODES": "2"}),
                                    (4, "elsewhere", {"POLDER_FAKE_NODES": "2"})):
        job = Job("late", ranks, how, **environment)
        job.says(codes(job) == dict.fromkeys(range(ranks - 1), "PLD_ERR_PEER"),
                 "all others get PLD_ERR_PEER")
        job.says(closed(job) == {str(r): "PLD_ERR_PEER" for r in range(ranks - 1)},
                 "and leave without MPI_Finalize")


def goners():
    """Ranks that die where the others wait for them outside of operations, or hear of it late."""
    for ranks, environment in ((3, {}), (3, {"POLDER_SHM": "0"}), (4, {"POLDER_FAKE_NODES": "2"})):
        last = ranks - 1
        others = range(last)
        job = Job("gone", ranks, "split", **environment)
        job.says(codes(job) == dict.fromkeys(others, "PLD_ERR_PEER"), "all others are told")
        job.says(all(re.search(rf"rank {last} \(.*process \d+\) ended", t)
                     for _, t in job.errors.values()), "of whom")
        again = re.findall(r"^again \d+: PLD_ERR_PEER: barrier on a group.*?\nEND", job.text,
                           re.M | re.S)
        job.says(len(again) == last and all(f"rank {last} (" in t for t in again),
                 "and again at the next call")
    job = Job("gone", 3, "open", POLDER_TIMEOUT=str(DEADLINE))
    job.says(codes(job) == {0: "PLD_ERR_TIMEOUT", 1: "PLD_ERR_TIMEOUT"} and
             all(f"not all ranks came within {DEADLINE}.0 s" in t for _, t in job.errors.values()),
             "who opens waits until the deadline")
    job = Job("gone", 3, "opening", POLDER_TIMEOUT=str(DEADLINE))
    job.says(codes(job) == {0: "PLD_ERR_TIMEOUT", 1: "PLD_ERR_TIMEOUT"} and
             all("nothing came from rank 2" in t for _, t in job.errors.values()),
             "also for who comes, and does not go on")
    for shm in "1", "0":
        job = Job("gone", 2, "message", POLDER_SHM=shm)
        job.says(codes(job)[0] == "PLD_ERR_PEER" and "rank 1 (" in job.errors[0][1],
                 "a message of a rank that left, and ended")
    job = Job("gone", 3, "together", POLDER_COMM_THREAD="0")
    job.says(codes(job) == {0: "PLD_ERR_PEER", 1: "PLD_ERR_PEER"} and
             all("rank 2 (" in t for _, t in job.errors.values()),
             "who was lost is named, not who gave up for it")


def trace(*arguments):
    run = subprocess.run([polder, "trace", *arguments], capture_output=True, text=True,
                         errors="replace")
    return run.returncode, run.stdout, run.stderr


def trace_json(*arguments):
    """Status and object; what is none is an exception with what the program said."""
    status, text, error = trace("--json", *arguments)
    try:
        return status, json.loads(text)
    except ValueError:
        raise ValueError(f"status {status}, no JSON: {error.strip()}: {text[:200]}") from None


def trace_of_dead(top, folder):
    Job("kill", 3, POLDER_TRACE_DIR=folder)
    equal(sorted(os.listdir(folder)), [f"rank-0000{r}.trace" for r in range(3)],
          "a file for each rank")
    status, text, error = trace(folder)
    comment(text + error)
    equal(status, 1, "ranks part")
    ok(re.search(r"-> rank 2 did not come; its last call was allreduce f32\[100\] sum .*" +
                 re.escape(site("reduce")) + r" \(warm up\)", text),
       "the last call of the dead rank")
    ok(re.search(r" rank 0 did allreduce .*" + re.escape(site("reduce")) + r" \(bucket 9\)",
                 text), "what the others did")
    chrome = os.path.join(top, "chrome.json")
    _, found = trace_json("--chrome", chrome, folder)
    equal([r["did"] for r in found["divergence"]["ranks"]], ["same", "same", "absent"], "JSON")
    calls = [e for e in found["ranks"][2]["entries"] if e["name"] == "warm up"]
    equal([(e["kind"], e["dtype"], e["count"], e["op"], e["state"], e["code"]) for e in calls],
          [("allreduce", "f32", 100, "sum", "completed", 0)] * 3, "its calls")
    ok(all(e["time_called_ns"] <= e["time_started_ns"] <= e["time_ended_ns"] for e in calls),
       "in order of time")
    equal(sum(s["last"] for s in found["stragglers"]), found["compared"], "somebody was last")
    events = [e for e in json.load(open(chrome))["traceEvents"] if e["ph"] == "X"]
    equal(len(events), sum(len(r["entries"]) for r in found["ranks"]), "Chrome's events")


def trace_of_slow(top, folder):
    """A second job in the same folder replaces the files.  Pretended nodes have clocks."""
    Job("slow", 4, POLDER_TRACE_DIR=folder, POLDER_FAKE_NODES="2", POLDER_TIMEOUT="30")
    status, found = trace_json(folder)
    equal((status, found["divergence"], found["size"]), (0, None, 4), "no divergence")
    called = {r["rank"]: e["time_called_ns"] for r in found["ranks"] for e in r["entries"]
              if e["name"] == "bucket 9"}
    *_, before, last = sorted(called.values())
    slowest = max(called, key=called.get)
    late_by = 1e-9 * (last - before)
    s = next(s for s in found["stragglers"] if s["rank"] == slowest)
    # On a machine with other work it may have been even later to another operation.
    ok(s["worst_seconds"] > late_by + 1e-6 or (abs(s["worst_seconds"] - late_by) < 2e-6 and
                                               s["worst_call"]["name"] == "bucket 9"),
       f"rank {slowest} is a straggler, by {late_by} s: {s}")
    slow = found["ranks"][3]["entries"]
    ended = max(e["time_ended_ns"] for e in slow if e["name"] == "warm up")
    ok(called[3] - ended > 1.99e9, f"rank 3 slept: {1e-9 * (called[3] - ended)} s")
    order = [s["seconds"] for s in found["stragglers"]]
    equal(order, sorted(order, reverse=True), "the worst comes first")
    offsets = [r["clock_offset_ns"] for r in found["ranks"]]
    ok(offsets[:2] == [0, 0] and all(0 < abs(o) <= 5e8 for o in offsets[2:]),
       f"clocks of one machine are compared as such: {offsets}")


def trace_of_uneven(top, folder):
    Job("uneven", 3, POLDER_TRACE_DIR=folder)
    status, found = trace_json(folder)
    counts = [e["count"] for r in found["ranks"] for e in r["entries"] if e["kind"] == "alltoall_v"]
    equal((status, found["divergence"], counts), (0, None, [0, 3, 6]),
          "counts that are each rank's own are no divergence")
    equal([r["entries"][-1]["kind"] for r in found["ranks"]], ["reduce_scatter_v"] * 3,
          "names are not cut")


def trace_of_report(top, folder):
    Job("loop", 2, POLDER_TRACE_DIR=folder)
    report = open(os.path.join(folder, "report.txt")).read()
    ok("rank 1 " in report and "never came" in report and f"traces: {folder}" in report,
       "the report is with the traces")


def trace_of_old(top, folder):
    Job("old", 2, POLDER_TRACE_DIR=folder, POLDER_TIMEOUT="30")
    status, found = trace_json(folder)
    ok(status == 1 and [r["did"] for r in found["divergence"]["ranks"]] in
       (["same", "earlier"], ["earlier", "same"]) and
       all(r["call"]["kind"] == "barrier" for r in found["divergence"]["ranks"]),
       "ranks that parted before all that is recorded")
    equal(len(found["ranks"][0]["entries"]), 4096, "of which there is a ring full")


def trace_of_broken(top, folder):
    broken = os.path.join(top, "broken.trace")
    data = open(os.path.join(folder, "rank-00000.trace"), "rb").read()
    for content, sentence in ((data[:9000], "too short"), (bytes(len(data)), "no trace"),
                              (data[:4104] + b"\x09" + data[4105:], "version 9")):
        open(broken, "wb").write(content)
        status, _, error = trace(broken)
        ok(status == 1 and sentence in error, f"a file is refused: {error.strip()}")
    equal(trace(os.path.join(top, "none"))[0], 1, "no such file")
    equal(trace()[0], 2, "nothing to read")


def traces():
    with tempfile.TemporaryDirectory() as top:
        folder = os.path.join(top, "traces")
        for check in (trace_of_dead, trace_of_slow, trace_of_uneven, trace_of_report,
                      trace_of_old, trace_of_broken):
            try:
                check(top, folder)
            except Exception as error:  # what was not printed or written, and where it was missed
                ok(False, f"{check.__name__}: {type(error).__name__}: {error}")
                comment(traceback.format_exc())


if "Open MPI" not in subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout:
    skip("faults", "the job must outlive a rank, which takes Open MPI's --enable-recovery")
elif part == "mismatch":
    mismatches()
elif part == "hang":
    hangs([{"RANKS": "2"}])
elif part == "hang_messages":
    hangs([{"RANKS": "3", "POLDER_SHM": "0"}])
elif part == "hang_nodes":
    hangs([{"RANKS": "4", "POLDER_FAKE_NODES": "2"}])
elif part == "late":
    lates()
elif part == "gone":
    goners()
elif part == "nodes":
    nodes()
elif part == "short":
    shorts()
else:
    traces()
done()
