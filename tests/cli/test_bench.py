#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""polder bench: its table and its JSON agree with each other and with arithmetic; bad options.

test_bench.py MPIRUN POLDER
"""
import json
import os
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tap import done, equal, mpirun, ok, run

launcher = sys.argv[1]
tool = os.path.abspath(sys.argv[2])
BUS = {  # nccl-tests, doc/PERFORMANCE.md
    "allreduce": lambda n: 2 * (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "allgather": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1,
    "reduce": lambda n: 1,
    "alltoall": lambda n: (n - 1) / n,
    "gather": lambda n: (n - 1) / n,
    "scatter": lambda n: (n - 1) / n,
    "reduce_scatter_v": lambda n: (n - 1) / n,
    "allgather_v": lambda n: (n - 1) / n,
    "alltoall_v": lambda n: (n - 1) / n,
    "gather_v": lambda n: (n - 1) / n,
    "scatter_v": lambda n: (n - 1) / n,
    "allreduce_list": lambda n: 2 * (n - 1) / n,
    "reduce_scatter_list": lambda n: (n - 1) / n,
    "allgather_list": lambda n: (n - 1) / n,
    "broadcast_list": lambda n: 1,
    "sendrecv": lambda n: 1,
    "barrier": lambda n: 0,
}
BYTES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "u32": 4, "i8": 1, "u8": 1,
         "none": 0}


def bench(ranks, *options):
    """Exit status, lines of the table, JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "out.json")
        got = mpirun(launcher, ranks, tool, "bench", *options, "-J", path)
        if got.returncode != 0:
            print("#", got.stderr.replace("\n", "\n# "))
        text = path.read_text() if path.exists() else "{}"
    rows = [line.split() for line in got.stdout.splitlines() if not line.startswith("#") and line]
    return got, rows, json.loads(text)


def near(a, b, slack=1e-6):
    return abs(a - b) <= slack * max(abs(a), abs(b))


def check_numbers(name, ranks, data, versus):
    results = data["results"]
    ok(data["ranks"] == ranks and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", data["date"]) and
       data["machine"]["processors"] > 0 and data["version"], f"{name}: machine, date, version")
    ok(results and all(r["wrong"] == 0 for r in results), f"{name}: nothing wrong")
    for r in results:
        speed = r["size"] / (r["time_us"] * 1e-6) * 1e-9
        good = (near(r["algbw"], speed) and near(r["busbw"], speed * BUS[r["op"]](ranks)) and
                r["time_p10_us"] <= r["time_us"] <= r["time_p90_us"] and r["time_us"] > 0)
        whole = ("allreduce", "broadcast", "reduce", "sendrecv", "barrier")
        parts = 1 if r["op"].removesuffix("_list") in whole else ranks
        good &= r["size"] == r["count"] * BYTES[r["dtype"]] * parts
        if versus:
            good &= near(r["ratio"], r["mpi_time_us"] / r["time_us"]) and r["mpi_wrong"] == 0
        else:
            good &= "ratio" not in r and "mpi_time_us" not in r
        if not good:
            ok(False, f"{name}: {r}")
    ok(True, f"{name}: times, bandwidths and counts fit, {len(results)} results")


def check_table(name, rows, data):
    """Every number of the JSON is in the table, at nccl-tests' place."""
    pairs = [(row, place) for row in rows for place in (0, 1) if row[5 + 4 * place] != "N/A"]
    ok(len(pairs) == len(data["results"]), f"{name}: as many results in the table")
    for (row, place), r in zip(pairs, data["results"]):
        time, speed, bus, wrong = row[5 + 4 * place:9 + 4 * place]
        good = row[:5] == [str(r["size"]), str(r["count"]), r["dtype"], r["redop"], str(r["root"])]
        good &= r["in_place"] == bool(place) and int(wrong) == r["wrong"]
        # Short times are printed with two digits behind the point, long ones with none.
        good &= abs(float(time) - r["time_us"]) <= 0.0051 + 5.1e-4 * r["time_us"]
        good &= abs(float(speed) - r["algbw"]) <= 0.0051
        good &= abs(float(bus) - r["busbw"]) <= 0.0051
        if not good:
            ok(False, f"{name}: {row} is {r}")


def operations():
    for name in BUS:
        rows, data = bench(2, name, "-e", "64K", "-f", "32", "-d", "f32,bfloat16", "-n", "3",
                           "-w", "1", "--vs", "mpi", "--memory", "both")[1:]
        check_numbers(name, 2, data, True)
        check_table(name, rows, data)
        ok({r["memory"] for r in data["results"]} == {"polder", "ordinary"} and
           data["cold"] is False, f"{name}: both memories, hot")
    data = bench(2, "allgather", "-b", "64K", "-e", "64K", "-n", "3", "--cold")[2]
    check_numbers("cold", 2, data, False)
    ok(data["cold"] is True, "--cold is told")


def every_type():
    for ranks in (2, 3):
        data = bench(ranks, "allreduce", "-b", "12001", "-e", "12001", "-d", "all", "-o", "all",
                     "-n", "1", "-w", "0", "--vs", "mpi")[2]
        check_numbers(f"all types, {ranks} ranks", ranks, data, True)
        kinds = {(r["dtype"], r["redop"]) for r in data["results"]}
        equal(len(kinds), 4 * 5 + 5 * 4, "every operator on every type that takes it")


def shapes():
    data = bench(4, "reduce_scatter", "-b", "1", "-e", "4K", "-n", "2")[2]
    check_numbers("4 ranks", 4, data, False)
    sizes = [r["size"] for r in data["results"] if not r["in_place"]]
    equal(sizes, [4 * 4 << i for i in range(9)], "too small a size is one element for each rank")
    data = bench(3, "broadcast", "-r", "all", "-b", "100", "-e", "300", "-i", "100", "-d", "u8",
                 "-n", "1", "-z", "0")[2]
    equal([(r["root"], r["size"]) for r in data["results"]],
          [(root, size) for root in range(3) for size in (100, 200, 300)], "all roots, -i")
    data = bench(1, "allreduce", "-e", "1K", "-n", "1")[2]
    check_numbers("1 rank", 1, data, False)


def osu():
    got = bench(2, "allgather", "-b", "8", "-e", "8", "-n", "2", "--osu")[0]
    equal([re.sub(r"\d+\.\d\d", "T", line).split() for line in got.stdout.splitlines() if line],
          ["# OSU-style polder Allgather Latency Test, polder memory, hot buffers".split(),
           ["#", "Datatype:", "f32."],
           "# Size Avg Latency(us) Min Latency(us) Max Latency(us) Iterations".split(),
           ["4", "T", "T", "T", "2"]], "--osu has the OSU benchmarks' columns and sizes")


def overlap():
    for name in ("allreduce", "sendrecv"):
        got, rows, data = bench(2, name, "-b", "64K", "-e", "256K", "-f", "4", "-n", "5",
                                "--overlap")
        check_numbers(f"{name} --overlap", 2, data, False)
        lines = [line.split() for line in got.stdout.splitlines() if line]
        equal(lines[2], "# Size Overall(us) Compute(us) Pure Comm.(us) Overlap(%)".split(),
              f"{name}: --overlap has the OSU benchmarks' columns")
        results = [r for r in data["results"] if not r["in_place"]]
        ok(len(rows) == len(results) == 2 and all(
            int(row[0]) == r["size"] and all(abs(float(x) - r[k]) <= 0.0051 for x, k in zip(
                row[1:], ("overall_us", "compute_us", "pure_us", "overlap_percent")))
            for row, r in zip(rows, results)), f"{name}: the JSON says the same: {rows}")
        ok(all(near(r["overlap_percent"], min(100, max(
            0, 100 - 100 * (r["overall_us"] - r["compute_us"]) / r["pure_us"])), 1e-4)
            for r in results), f"{name}: the overlap follows from the times")
        ok(any(computes(name) for _ in range(3)), f"{name}: the computation is part of the whole")


def computes(name):
    """Each is a median of its own, which other work on the machine may have disturbed."""
    data = bench(2, name, "-b", "64K", "-e", "256K", "-f", "4", "-n", "5", "--overlap")[2]
    return all(r["overall_us"] >= 0.5 * r["compute_us"] > 0
               for r in data["results"] if not r["in_place"])


def tune():
    """What is measured becomes rules, which are then followed."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "rules")
        nodes = {**os.environ, "POLDER_FAKE_NODES": "2"}
        got = mpirun(launcher, 4, tool, "bench", "reduce", "-b", "64K", "-e", "256K", "-f", "4",
                     "-n", "1", "--tune", path, env=nodes)
        lines = [x.split() for x in path.read_text().splitlines() if not x.startswith("#")]
        ok(got.returncode == 0 and lines and all(
            x[:4] == ["reduce", "f32", "2", "2"] and x[6] == "->" and
            x[7] in ("flat", "ring", "halving", "nodes") for x in lines), f"--tune wrote {lines}")
        equal([lines[0][4], lines[-1][5]] if lines else [], ["65536", "262144"],
              "from the first size to the last")
        path.write_text("reduce * * * 64K * -> halving 32K # by hand\n")
        got = mpirun(launcher, 4, tool, "bench", "reduce", "-b", "32K", "-e", "64K", "-n", "1",
                     "--explain", env={**nodes, "POLDER_TUNE": str(path)})
        equal([x for x in got.stdout.splitlines() if "bytes: " in x],
              ["# 32768 bytes: nodes: shared memory inside, flat between 2 nodes, 2 ranks of each, "
               "chunks of 131072 bytes",
               "# 65536 bytes: halving, 4 ranks, chunks of 32768 bytes"], "--explain says so")
        path.write_text("\nreduce * * * 64K * -> halfing 32K\n")
        got = mpirun(launcher, 2, tool, "bench", "reduce", env={**nodes, "POLDER_TUNE": str(path)})
        ok(got.returncode == 1 and f'{path}:2: "halfing" is no algorithm' in got.stderr,
           "a wrong file is named, with the line")


def usage():
    known = ", ".join(BUS)
    types = ("f32, f64, f16, bf16, i64, i32, u32, i8, u8 (or float, double, half, bfloat16, int64, "
             "int32, uint32, int8, uint8) and all")
    more = '"polder help bench" lists the options'
    for arguments, sentence in (
            ("", f"which operation? there are {known}"),
            ("allreduc", f"there is no operation 'allreduc'; there are {known}"),
            ("barrier more", "one operation at a time: 'more' is too much"),
            ("allreduce -b 8x", "-b 8x: a size is a number of bytes, as 8, 64K or 1.5M"),
            ("allreduce -b -1", "-b -1: a size is a number of bytes, as 8, 64K or 1.5M"),
            ("allreduce -b 2 -e 1", "-b 2 -e 1: the first size is larger than the last"),
            ("allreduce -f 1", "-f 1: sizes must grow, by a factor of 2 or more"),
            ("allreduce -n x", "-n x: a number from 1 is wanted"),
            ("allreduce -n 0", "-n 0: a number from 1 is wanted"),
            ("allreduce --overlap --vs mpi",
             "--overlap --vs mpi: only polder's calls are overlapped, as they are"),
            ("allgather_list --tune x", "--tune x: there is nothing to choose for allgather_list"),
            ("allreduce -d f31", f"-d f31: there is no 'f31'; there are {types}"),
            ("allreduce -o xor",
             "-o xor: there is no 'xor'; there are sum, avg, max, min, prod and all"),
            ("allreduce -o avg -d i8",
             "-o avg takes f32, f64, f16 and bf16; -d names none of them"),
            ("allreduce --vs nccl", "--vs nccl: only mpi can be compared with"),
            ("allreduce --memory gpu", "--memory gpu: there are polder, ordinary and both"),
            ("barrier --tune x", "--tune x: there is nothing to choose for barrier"),
            ("allreduce -b", "-b wants a value"),
            ("allreduce -Q", f"there is no option -Q; {more}"),
            ("allreduce --qs", f"there is no option --qs; {more}")):
        got = run(tool, "bench", *arguments.split())
        equal((got.returncode, got.stdout, got.stderr), (2, "", f"polder: bench: {sentence}\n"),
              f"polder bench {arguments}")
    for arguments, status, sentence in (
            (["-d", "f31"], 2, f"-d f31: there is no 'f31'; there are {types}"),
            (["-r", "2"], 2, "-r 2: there are ranks 0 to 1"),
            (["-J", "/nowhere/x"], 1, 'cannot write "/nowhere/x": No such file or directory')):
        got = mpirun(launcher, 2, tool, "bench", "broadcast", *arguments)
        said = [line for line in got.stderr.splitlines() if line.startswith("polder")]
        equal((got.returncode, said), (status, [f"polder: bench: {sentence}"]),
              f"2 ranks say it once, and end: {' '.join(arguments)}")
    got = mpirun(launcher, 1, tool, "bench", "allreduce", ":", "-np", 1, tool, "bench", "barrier")
    ok("polder: bench: the ranks were given different options\n" in got.stderr and
       got.returncode == 2, "different options on two ranks")


usage()
operations()
every_type()
shapes()
osu()
overlap()
tune()
done()
