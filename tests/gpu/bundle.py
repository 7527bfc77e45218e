#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Pack what the GPU suite needs into one file, for nodes without toolchain and network.

usage: bundle.py OUT.tar.gz RUN TEXT PROGRAM-OR-LIBRARY...

Unpacked anywhere it is a folder with `run`, bin/, lib/ and share/text.txt (what is in the
folder TEXT, to train on): the programs, every library that
they need but those of the C library and of NVIDIA, and the MPI that they were built with.
Libraries find each other by their place relative to each other; the C library must be at
least as new as that of the machine that packed.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

LIMIT = 64 << 20
# What belongs to the system: the C library must be the kernel's and loader's own.
SYSTEM = re.compile(r"(ld-linux.*|lib(c|m|dl|rt|pthread|util|resolv|anl|nsl))\.so.*")
NVIDIA = re.compile(r"lib(cuda|nccl|cublas|cublasLt|nvidia.*)\.so.*")
# Parts of Open MPI for one node or several with TCP; the rest wants libraries of certain networks.
UNNEEDED = re.compile(r"mca_(atomic|mtl|scoll|spml|sshmem|memheap|vprotocol|crs|sstore|fbtl|fcoll|"
                      r"fs|io|sharedfp|topo|osc|snapc|compress)_.*|libompi_dbg.*|"
                      r"mca_(btl_(ofi|openib|usnic)|common_ofi|pml_(cm|monitoring|ucx)|"
                      r"coll_(monitoring|hcoll))\..*")


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def needed(path):
    """The libraries of a program, all levels of them."""
    for line in output("ldd", path).splitlines():
        found = re.match(r"\s*(\S+) => (\S+) \(", line)
        if found is None and "not found" in line:
            name = line.split()[0]
            if not NVIDIA.fullmatch(name):
                sys.exit(f"bundle: {path} needs {name}, which is not here")
        elif found and not SYSTEM.fullmatch(found[1]) and not NVIDIA.fullmatch(found[1]):
            yield found[1], found[2]


def place(source, target, rpath):
    """A copy that looks for its libraries from its own place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    shutil.copy(os.path.realpath(source), target)
    target.chmod(0o755)
    subprocess.run(["strip", "--strip-debug", target], check=True)
    subprocess.run(["patchelf", "--force-rpath", "--set-rpath", rpath, target], check=True)


def place_with_libraries(source, target, root, rpath):
    for name, path in needed(source):
        place(path, root / "lib" / name, "$ORIGIN")
    place(source, target, rpath)


def mpi_paths():
    found = {}
    for line in output("ompi_info", "--parsable", "--path", "all").splitlines():
        parts = line.split(":")
        if len(parts) == 3 and parts[0] == "path":
            found[parts[1]] = pathlib.Path(parts[2])
    return found


def pack_mpi(root):
    """Open MPI finds its parts by variables that `run` sets."""
    paths = mpi_paths()
    for name in ("mpirun", "orted"):  # a program without mpirun starts the second by itself
        place_with_libraries(shutil.which(name), root / "bin" / name, root, "$ORIGIN/../lib")
    for part in sorted(paths["pkglibdir"].glob("*.so")):
        if not UNNEEDED.match(part.name):
            place_with_libraries(part, root / "lib/openmpi" / part.name, root, "$ORIGIN/..")
    for part in sorted(pathlib.Path("/").glob(str(paths["pkglibdir"].parents[2])[1:] +
                                              "/pmix*/lib/pmix/*.so")):
        place_with_libraries(part, root / "lib/pmix" / part.name, root, "$ORIGIN/..")
    shutil.copytree(paths["pkgdatadir"], root / "share/openmpi",
                    ignore=shutil.ignore_patterns("*wrapper*", "*shmem*", "amca*"))


def anonymous(member):
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def main():
    out, run, text, programs = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
    if shutil.which("patchelf") is None:
        sys.exit("bundle: patchelf is not installed (package patchelf)")
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        root = pathlib.Path(temporary) / "polder-gpu"
        root.mkdir()
        shutil.copy(run, root / "run")
        for program in programs:
            name = pathlib.Path(program).name
            if ".so" in name:
                place_with_libraries(program, root / "lib" / name, root, "$ORIGIN")
            else:
                place_with_libraries(program, root / "bin" / name, root, "$ORIGIN/../lib")
        pack_mpi(root)
        pages = sorted(pathlib.Path(text).glob("*.md"))
        (root / "share/text.txt").write_text("".join(page.read_text() for page in pages))
        with tarfile.open(out, "w:gz", compresslevel=6) as tar:
            tar.add(root, root.name, filter=anonymous)
    size = out.stat().st_size
    print(f"{out}: {size / 2**20:.1f} MiB")
    if size > LIMIT:
        sys.exit(f"bundle: {size / 2**20:.1f} MiB are more than {LIMIT >> 20}")


if __name__ == "__main__":
    main()
