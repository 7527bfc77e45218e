#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""Other people's programs read checkpoints: h5dump and h5py find every bit of them.

test_ckpt_readers.py PROGRAM PLUGIN: PROGRAM writes them (ckpt_files.c), PLUGIN is the zstd filter.
"""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

SIZES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2}


def find_h5py():
    """Go on with an interpreter that has h5py, if there is one; else without."""
    try:
        import h5py
        return h5py
    except ImportError:
        pass
    other = "/usr/bin/python3"
    if os.path.exists(other) and os.path.realpath(other) != os.path.realpath(sys.executable) and \
            subprocess.run([other, "-c", "import h5py"], capture_output=True).returncode == 0:
        os.execv(other, [other] + sys.argv)
    return None


count = failed = 0


def ok(condition, text):
    global count, failed
    count += 1
    failed += not condition
    print(f"{'' if condition else 'not '}ok {count} - {text}", flush=True)


def link(name):
    if name == ".":
        return "~3"
    return name.replace("~", "~0").replace("/", "~1").replace("%", "~2")


def text(attribute):
    """Texts are of fixed length; h5py gives bytes for those."""
    return attribute.decode() if isinstance(attribute, bytes) else attribute


class Tensor:
    def __init__(self, root, line):
        number, self.dtype, rows, columns, slot, self.name = line.split(" ", 5)
        self.shape = (int(rows), int(columns))
        self.path = (f"/tensors/{link(self.name)}" if slot == "-"
                     else f"/slots/{slot}/{link(self.name)}")
        with open(f"{root}/{number}.bin", "rb") as f:
            self.bytes = f.read()


def raw_bytes(dataset, size):
    """The elements as they are stored: h5py would convert bf16."""
    import numpy
    from h5py import h5s
    out = numpy.zeros(dataset.shape, f"V{size}")
    dataset.id.read(h5s.ALL, h5s.ALL, out, mtype=dataset.id.get_type())
    return out


def check_h5py(h5py, step, tensors, what):
    import numpy
    by_path = {t.path: t for t in tensors}
    with h5py.File(f"{step}/index.h5", "r") as f:
        right = sum(raw_bytes(f[t.path], SIZES[t.dtype]).tobytes() == t.bytes and
                    text(f[t.path].attrs["dtype"]) == t.dtype for t in tensors)
        ok(right == len(tensors), f"{what}: h5py finds {right} of {len(tensors)} in the index")
        meta = f["meta"].attrs
        ok(meta["loss"] == 1.25 and text(meta["model"]) == "toy", f"{what}: number and text")
        ok(f["state/position"][:].tobytes() == numpy.arange(50, 54, dtype="<i8").tobytes() and
           f["params_state/optim~1step"][:].tobytes() == (5).to_bytes(8, "little"),
           f"{what}: states")
        ok(f.attrs["step"][0] == 7 and text(f.attrs["mesh"]) == "dp=2,pp=2,tp=2",
           f"{what}: attributes")
        bf16 = f["/tensors/h.0.ln"][:]
        ok(bf16.dtype == numpy.float32 and 1 <= bf16.min() and bf16.max() < 2,
           f"{what}: bf16 as numbers")
    right = total = 0
    for shard in glob.glob(f"{step}/s-*.h5"):
        with h5py.File(shard, "r") as f:
            sets = []
            f.visititems(lambda name, o: sets.append("/" + name) if hasattr(o, "shape") else None)
            for name in sets:
                t = by_path[name]
                whole = numpy.frombuffer(t.bytes, f"V{SIZES[t.dtype]}").reshape(t.shape)
                (r, c), (m, n) = f[name].attrs["offset"], f[name].shape
                mine = raw_bytes(f[name], SIZES[t.dtype])
                total += 1
                right += (mine.tobytes() == whole[r:r + m, c:c + n].tobytes() and
                          tuple(f[name].attrs["global_shape"]) == t.shape)
    ok(total > 39 and right == total, f"{what}: h5py finds {right} of {total} boxes in shards")


def check_h5dump(h5dump, step, tensors, what, out):
    right = 0
    for t in tensors:
        run = subprocess.run([h5dump, "-d", t.path, "-b", "FILE", "-o", out, f"{step}/index.h5"],
                             capture_output=True)
        with open(out, "rb") as f:
            right += run.returncode == 0 and f.read() == t.bytes
    ok(right == len(tensors), f"{what}: h5dump finds {right} of {len(tensors)} in the index")


def check_json(step):
    with open(f"{step}/manifest.json") as f:
        m = json.load(f)
    ok(m["step"] == 7 and m["mesh"] == "dp=2,pp=2,tp=2" and m["numbers"] == {"loss": 1.25} and
       len(m["tensors"]) == 39 and len(m["shards"]) == len(glob.glob(f"{step}/s-*.h5")),
       "manifest.json tells what is there")


def main(root):
    h5py, h5dump = find_h5py(), shutil.which("h5dump")
    lines = subprocess.run([sys.argv[1], root], check=True, capture_output=True, text=True,
                           timeout=100).stdout.splitlines()
    tensors = [Tensor(root, line) for line in lines]
    ok(len(tensors) == 39, f"{len(tensors)} tensors and slots")
    for codec in ("raw", "zstd"):
        step = f"{root}/{codec}/step-00000007"
        check_json(step)
        if h5py is None:
            ok(True, f"{codec}: h5py # SKIP no python3 with h5py")
        else:
            check_h5py(h5py, step, tensors, codec)
        if h5dump is None:
            ok(True, f"{codec}: h5dump # SKIP not installed")
        else:
            check_h5dump(h5dump, step, tensors[::5] if codec == "raw" else tensors[::7], codec,
                         f"{root}/out.bin")
    print(f"1..{count}")


os.environ["HDF5_PLUGIN_PATH"] = os.path.dirname(os.path.realpath(sys.argv[2]))
find_h5py()
with tempfile.TemporaryDirectory() as where:
    main(where)
sys.exit(failed != 0)
