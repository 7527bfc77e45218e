#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Fail if a module includes one that it may not see, or a foreign header outside its place."""
import pathlib
import re
import sys

# Module: what it may include besides itself and what those may include.
SEES = {
    "base": [],
    "device": ["base"],
    "cuda": ["device"],
    "topo": ["base"],
    "shard": ["base"],
    "schedule": ["base"],
    "meter": ["base"],
    "transport": ["device", "topo", "meter"],
    "health": ["transport"],
    "coll": ["health"],
    "params": ["coll", "shard"],
    "dp": ["coll", "params"],
    "optim": ["coll", "params"],
    "pipe": ["coll", "schedule"],
    "ckpt": ["coll", "params", "shard"],
    "data": ["coll"],
    "runtime": ["dp", "optim", "pipe", "ckpt", "data"],
}
# Foreign header: the files of lib/ that may name it.
FOREIGN = {
    r"mpi\.h": r"transport/transport_mpi\w*\.[ch]",
    r"hdf5\.h|H5\w+\.h": r"ckpt/ckpt_hdf5\w*\.[ch]",
    r"zstd\.h": r"ckpt/ckpt_codec\.c|ckpt/ckpt_hdf5\w*\.c",
    r"jansson\.h": r"ckpt/ckpt_json\.c|meter/meter\w*\.c",
    r"hwloc\.h|hwloc/\w+\.h": r"topo/topo_(machine|pci)\.c",
    r"xxhash\.h": r"base/base_hash\.c",
}
INCLUDE = re.compile(r'\s*#\s*include\s+(["<])([\w./]+)[">]')


def closure(module):
    seen, waiting = set(), [module]
    while waiting:
        m = waiting.pop()
        if m not in seen:
            seen.add(m)
            waiting += SEES[m]
    return seen


def check_lib(root):
    for path in sorted((root / "lib").glob("*/*.[ch]")):
        module, where = path.parent.name, path.relative_to(root / "lib")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            m = INCLUDE.match(line)
            if not m:
                continue
            quote, header = m.groups()
            if quote == '"':
                other = header.split("/")[0]
                if "/" not in header:
                    yield f"{path}:{number}: write \"module/{header}\""
                elif other not in closure(module):
                    yield f"{path}:{number}: {module} may not include {other}"
            for pattern, allowed in FOREIGN.items():
                if re.fullmatch(pattern, header) and not re.fullmatch(allowed, str(where)):
                    yield f"{path}:{number}: {header} belongs in {allowed}"


def check_users(root):
    """tools/ and examples/ are users: they include what is installed, and their own files."""
    for folder in ("tools", "examples"):
        for path in sorted((root / folder).rglob("*.[ch]")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                m = INCLUDE.match(line)
                if m and m[1] == '"' and not (path.parent / m[2]).exists():
                    yield f"{path}:{number}: {m[2]} is not a file beside it"


def check_public(root):
    for path in sorted((root / "include/polder").glob("*.h*")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            m = INCLUDE.match(line)
            if m and m[2] == "mpi.h" and path.name != "interop_mpi.h":
                yield f"{path}:{number}: foreign header in a public one"


root = pathlib.Path(sys.argv[1])
bad = [*check_lib(root), *check_users(root), *check_public(root)]
print("\n".join(bad) or "layers ok")
sys.exit(bool(bad))
