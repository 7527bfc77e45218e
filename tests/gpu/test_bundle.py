#!/usr/bin/env python3
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle is made, stays under its limit, and runs from anywhere without what built it.

test_bundle.py FAKES BUNDLE.py BUNDLE-ARGUMENTS...: the last ones but OUT
"""
import os
import pathlib
import sys
import tarfile
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tap import done, equal, ok, run

fakes, bundle, *arguments = sys.argv[1:]


def look(root):
    """Nothing comes from where it was built, nor from the machine but for the C library."""
    for path in [*root.glob("bin/*"), *root.glob("lib/*.so*"), *root.glob("lib/*/*.so")]:
        for line in run("ldd", path).stdout.splitlines():
            place = line.split(" => ")[-1].split(" (")[0].strip()
            if "not found" in line or (place.startswith("/") and str(root) not in place
                                       and "ld-linux" not in place
                                       and not place.split("/")[-1].startswith(
                                           ("libc.", "libm.", "libdl.", "librt.", "libpthread.",
                                            "libutil.", "libresolv.", "libanl."))):
                yield f"{path.name}: {line.strip()}"


with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder, "polder-gpu.tar.gz")
    got = run(sys.executable, bundle, out, *arguments, timeout=300)
    if not ok(got.returncode == 0, f"made: {got.stdout.strip()}{got.stderr.strip()[-200:]}"):
        done()
    place = pathlib.Path(folder, "some where")
    with tarfile.open(out) as tar:
        tar.extractall(place)
    root = place / "polder-gpu"
    equal(list(look(root)), [], "every library is found beside it")
    environment = {"PATH": "/usr/bin:/bin", "HOME": folder, "LD_LIBRARY_PATH": fakes,
                   "FAKE_CUDA_KERNELS": fakes + "/libfake-polder-kernels.so",
                   "STEPS": "test_device bench_broadcast_2", "POLDER_GPU_SIZES": "-b 1K -e 1K",
                   "CUDA_VISIBLE_DEVICES": "0"}
    got = run(root / "run", place / "results", env=environment, timeout=120)
    ok(got.returncode == 0 and got.stdout.endswith("\n2 passed, 0 failed, 0 skipped\n"),
       f"two steps of the suite on the stand-ins: {got.stdout.strip().splitlines()[-1:]}")
    if got.returncode != 0:
        for log in sorted(place.glob("results/*.log")):
            print("#", log.name, log.read_text()[-400:].replace("\n", "\n# "))
    text = (place / "results/results.json").read_text()
    ok(text.count('"result": "passed"') == 2, "and in JSON")
    alone = {"PATH": f"{root}/bin:/usr/bin:/bin", "HOME": folder, "OPAL_PREFIX": str(root),
             "PMIX_INSTALL_PREFIX": str(root),
             "OMPI_MCA_mca_base_component_path": f"{root}/lib/openmpi",
             "PMIX_MCA_mca_base_component_path": f"{root}/lib/pmix", "OMPI_MCA_plm_rsh_agent": ""}
    got = run(root / "bin/polder", "bench", "barrier", "-n", "1", env=alone, timeout=60)
    ok(got.returncode == 0, f"a program starts without mpirun: {got.stderr.strip()[-200:]}")
done()
