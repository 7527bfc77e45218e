#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""No GPU, no driver, a wrong one, no NCCL, no plugin: one clear sentence, and the host goes on.

test_absent.py MPIRUN OPEN_GPU FAKES PLUGIN KERNELS
"""
import os
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tap import done, equal, mpirun, ok, run

launcher, program, fakes, plugin, kernels = sys.argv[1:6]
BASE = {**{k: v for k, v in os.environ.items() if k != "POLDER_DEVICE"},
        "LD_LIBRARY_PATH": fakes, "POLDER_CUDA_PLUGIN": plugin, "FAKE_CUDA_KERNELS": kernels}


ALONE = {"POLDER_TRANSPORT": "self"}  # without MPI's own start, which takes most of the time


def lines(got):
    return sorted(line for line in got.stdout.splitlines() if re.match(r"\d+: ", line))


def refused(why, pattern, **changes):
    """`cuda` fails with the sentence, `auto` takes the host and keeps it as a note."""
    environment = {**BASE, **ALONE, **changes}
    got = run(program, "cuda", env=environment)
    if not ok(got.returncode == 1 and re.search("^0: PLD_ERR_UNSUPPORTED rank 0: " + pattern, got.stdout),
              f"{why}: {got.stdout.strip()}"):
        print("#", got.returncode, got.stderr[-300:])
    got = run(program, "auto", env=environment)
    ok(got.returncode == 0 and re.search("^0: host rank 0: " + pattern, got.stdout), f"{why}: auto goes on")


def found():
    got = run(program, "cuda", env=BASE)
    ok(got.returncode == 0 and re.fullmatch(r"0: 0000:1b:00\.0 sharing 1 nccl 22809\n", got.stdout),
       f"one rank: {got.stdout.strip()}")
    got = run(program, "cuda:2B:0.0", env={**BASE, **ALONE})
    ok("0: 0000:2b:00.0 " in got.stdout, f"a certain one: {got.stdout.strip()}")
    got = run(program, env={**BASE, **ALONE, "POLDER_DEVICE": "cuda"})
    ok("0: 0000:1b:00.0 " in got.stdout, "POLDER_DEVICE")
    got = run(program, "cpu", env={**BASE, **ALONE, "FAKE_CUDA_FAULT": "init:100"})
    equal((got.returncode, got.stdout), (0, "0: host \n"), "cpu does not look")
    got = mpirun(launcher, 2, program, "cuda", env=BASE)
    equal(lines(got), ["0: 0000:1b:00.0 sharing 1 nccl 22809", "1: 0000:2b:00.0 sharing 1 nccl 22809"],
          "two ranks, two GPUs")
    got = mpirun(launcher, 3, program, "cuda", env={**BASE, "CUDA_VISIBLE_DEVICES": "1"})
    equal(lines(got), [f"{r}: 0000:2b:00.0 sharing 3 nccl 22809" for r in range(3)],
          "three ranks that see one GPU")


def one_rank_without():
    environment = {**BASE, "FAKE_CUDA_FAULT": "init:100@1"}
    got = mpirun(launcher, 2, program, "cuda", env=environment)
    ok(got.returncode != 0 and len(lines(got)) == 2
       and all("PLD_ERR_UNSUPPORTED rank 1: cuInit() says 100" in line for line in lines(got)),
       f"one rank has none: both say {lines(got)[:1]}")
    got = mpirun(launcher, 2, program, "auto", env=environment)
    ok(got.returncode == 0 and all(": host rank 1: cuInit() says 100" in line for line in lines(got)),
       "auto: both take the host")
    got = mpirun(launcher, 2, "sh", "-c", f"exec {program} $([ $OMPI_COMM_WORLD_RANK = 0 ] && "
                 "echo cuda || echo cpu)", env=BASE)
    ok(got.returncode != 0 and all("PLD_ERR_MISMATCH ranks ask for different devices" in line
                                   for line in lines(got)), f"different wishes: {lines(got)[:1]}")


def absent():
    with tempfile.TemporaryDirectory() as empty:
        wrong = pathlib.Path(empty, "libwrong.so")
        wrong.write_text("no library")
        refused("no driver", "this node has no NVIDIA driver", LD_LIBRARY_PATH=empty)
        refused("plugin missing", "the CUDA plugin cannot be loaded .*POLDER_CUDA_PLUGIN",
                POLDER_CUDA_PLUGIN=empty + "/libpolder-cuda.so")
        refused("a file that is no library", "the CUDA plugin cannot be loaded",
                POLDER_CUDA_PLUGIN=str(wrong))
    refused("another library", r".* is no plugin of polder: it has no pldi_plugin_cuda",
            POLDER_CUDA_PLUGIN=fakes + "/libcuda.so.1")
    refused("plugin of another version", r".* is of polder 0\.0\.0 \(interface \d+\), this is polder",
            POLDER_CUDA_PLUGIN=str(pathlib.Path(program).parent / "libother-version.so"))
    refused("no GPU", r"cuInit\(\) says 100: there is no NVIDIA GPU", FAKE_CUDA_FAULT="init:100")
    refused("none visible", ".*there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES", CUDA_VISIBLE_DEVICES="")
    refused("driver and module differ", r"cuInit\(\) says 803: kernel module and libcuda",
            FAKE_CUDA_FAULT="init:803")
    refused("an old driver", r"the driver supports CUDA 11\.4, need 12\.0", FAKE_CUDA_DRIVER="11040")
    refused("no code for this GPU", "GPU 0000:1b:00.0 .*loading kernels for compute capability",
            FAKE_CUDA_FAULT="module:1:209")
    got = run(program, "cuda:ff:00.0", env={**BASE, **ALONE})
    ok("PLD_ERR_UNSUPPORTED rank 0: no GPU with PCI id 'ff:00.0' among the 2" in got.stdout, got.stdout.strip())
    got = run(program, "gpu", env={**BASE, **ALONE})
    ok('PLD_ERR_ARG rank 0: device is "gpu", need' in got.stdout, got.stdout.strip())
    got = run(program, "cuda", env={**BASE, **ALONE, "FAKE_CUDA_FAULT": "alloc:1"})
    ok(got.returncode == 1 and "PLD_ERR_DEVMEM rank 0: GPU 0000:1b:00.0" in got.stdout, got.stdout.strip())


def without_nccl():
    got = run(program, "cuda", env={**BASE, **ALONE, "FAKE_NCCL_VERSION": "21805"})
    ok(got.returncode == 0 and "nccl 0" in got.stdout, f"NCCL 2.18: {got.stdout.strip()}")
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "libcuda.so.1").symlink_to(fakes + "/libcuda.so.1")
        pathlib.Path(folder, "libnccl.so.2").write_text("no library, before one of the system")
        got = run(program, "cuda", env={**BASE, **ALONE, "LD_LIBRARY_PATH": folder})
    ok(got.returncode == 0 and "nccl 0" in got.stdout, f"no NCCL: {got.stdout.strip()}")


found()
one_rank_without()
absent()
without_nccl()
done()
